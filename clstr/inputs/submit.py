"""Submit files (``-S FILE``): what HTCondor's keys, and our own ``+Name``, ``+Class``, ``+After``, ``+Timeout``, mean.

All files are read whole and before anything is connected, because names, groups and globs reach over all of them. Every
error is a BadInput that begins with ``FILE:LINE``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clstr.inputs import label, parse_seconds, quoted, reason, words
from clstr.inputs.after import Graph, Named, numbered
from clstr.inputs.condor import BLANKS, Queued, decoded, queued
from clstr.inputs.templates import Expanded, Templates
from clstr.model import BadInput, Barrier, Job, Terms

LARGEST_FILE = 256 * 1024 * 1024
"""Bytes of a submit file: a device that never ends is refused before it fills the memory."""

LONGEST_NAME = 200
"""Bytes of +Name, which names files."""

_NAME = re.compile(r"[A-Za-z0-9_@:+=-][A-Za-z0-9_.@:+=-]*")
_TOKEN = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)

_OURS = frozenset({"my.name", "my.class", "my.after", "my.timeout"})

_OTHER_NAMES = {
    "initial_dir": "initialdir",
    "job_iwd": "initialdir",
    "prio": "priority",
    "env": "environment",
    "stdin": "input",
    "stdout": "output",
    "stderr": "error",
}
"""HTCondor's second names of keys that we use."""

_REFUSED = {
    "arguments2": 'write arguments = "..."',
    "environment2": 'write environment = "..."',
    "concurrency_limits_expr": "write concurrency_limits = NAME[:K]",
    "shell": "write executable = /bin/sh and arguments",
}
"""Keys that would change what is run, and that we do not know."""

_IGNORED = frozenset(
    re.findall(
        r"\S+",
        """
    accounting_group accounting_group_user allowed_execute_duration allowed_job_duration append_files
    arc_application arc_resources arc_rte batch_extra_submit_args batch_id batch_name batch_project batch_queue
    batch_runtime buffer_block_size buffer_files buffer_size checkpoint_destination checkpoint_exit_code
    compress_files container_image container_service_names container_target_dir copy_to_spool core_size coresize
    cron_day_of_month cron_day_of_week cron_hour cron_minute cron_month cron_prep_time cron_window cuda_version
    dagman_log deferral_prep_time deferral_time deferral_window disk_usage docker_image docker_network_type
    docker_pull_policy dont_encrypt_input_files dont_encrypt_output_files email_attributes
    encrypt_execute_directory encrypt_input_files encrypt_output_files erase_output_and_error_on_restart
    fetch_files file_remaps get_env getenv gpus_maximum_capability gpus_minimum_capability gpus_minimum_memory
    gpus_minimum_runtime grid_resource hold_kill_sig image_size interactive_args jar_files java_vm_args job_ad
    job_ad_information_attrs job_lease_duration job_machine_attrs job_max_vacate_time jobset keep_claim_idle
    kill_sig kill_sig_timeout leave_in_queue load_profile local_files log log_xml machine_count manifest
    manifest_dir match_list_length materialize_max_idle max_idle max_job_retirement_time max_materialize
    max_transfer_input_mb max_transfer_output_mb mount_under_scratch next_job_start_delay nice_user node_count
    noop_job noop_job_exit_code noop_job_exit_signal notification notify_user on_exit_hold on_exit_hold_reason
    on_exit_hold_subcode on_exit_remove output_destination output_directory owner periodic_hold
    periodic_hold_reason periodic_hold_subcode periodic_release periodic_remove periodic_vacate preferences
    preserve_relative_paths project_name public_input_files rank remove_kill_sig request_cpu request_cpus
    request_disk request_gpu request_gpu_memory request_gpus request_gpus_memory request_memory require_gpus
    requirements retry_request_memory retry_request_memory_increase retry_request_memory_max retry_until
    run_as_owner should_transfer_files skip_filechecks skip_if_dataflow stack_size starter_debug starter_log
    stream_error stream_input stream_output submit_event_notes submit_event_user_notes success_exit_code
    suspend_job_at_exec tool_daemon_args tool_daemon_cmd tool_daemon_error tool_daemon_input tool_daemon_output
    transfer_checkpoint_files transfer_error transfer_executable transfer_input transfer_input_files
    transfer_output transfer_output_files transfer_output_remaps transfer_plugins ulog_execute_attrs universe
    use_oauth_services use_scitokens use_x509userproxy vm_disk vm_memory vm_type want_graceful_removal
    want_io_proxy want_job_networking when_to_transfer_output x509userproxy
        """,
    )
)
"""Keys of HTCondor's that mean nothing here; any other key is a macro."""

_TRUE, _FALSE = ("true", "t", "yes", "1"), ("false", "f", "no", "0", "")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the flags say of the jobs of submit files."""

    templates: Templates
    longest: int  # bytes of a command
    budget: int | None = None
    job_class: str | None = None
    tokens: Mapping[str, int] | None = None  # by name in lower case
    only: Sequence[str] = ()


def read_submit_files(
    files: Sequence[str],
    first: int,
    settings: Settings,
    read_stdin: Callable[[], bytes],
    environment: Mapping[str, str],
) -> tuple[list[Job], list[str]]:
    """The jobs of the files, with ids from ``first`` on, and what is to be warned of. Raises BadInput."""
    reading = _Reading(settings)
    for cluster, path in enumerate(files, 1):
        for job in queued(_read(path, read_stdin), path, cluster, environment):
            reading.add(job)
    return reading.jobs(first), reading.warnings()


def parse_tokens(texts: Sequence[str]) -> dict[str, int]:
    """The units of each ``--token NAME=N``, by name in lower case, since HTCondor's limits know no case.

    Raises BadInput.
    """
    tokens: dict[str, int] = {}
    for text in texts:
        name, _, number = text.partition("=")
        shown = f"--token {text if text.isprintable() else ascii(text)}"
        if not _TOKEN.fullmatch(name):
            raise BadInput(f"{shown}: bad name (write NAME=N; letters, digits, '_' and '.' make a NAME)")
        if not re.fullmatch(r"[0-9]{1,9}", number) or int(number) < 1:
            raise BadInput(f"{shown}: bad number of units (write NAME=N, with an N from 1)")
        if name.lower() in tokens:
            raise BadInput(f"{shown}: is given twice (give it once)")
        tokens[name.lower()] = int(number)
    return tokens


class _Reading:
    """The jobs that were read so far; what reaches over several of them comes at the end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._jobs: list[Job] = []  # without ids and barriers
        self._named: list[Named] = []
        self._inputs: list[tuple[int, str, str]] = []  # those that cannot be read: job, where it stands, why
        self._ignored: dict[str, None] = {}
        self._looked_at: Mapping[str, object] = {}
        self._written: dict[str, set[int]] = {}  # which jobs write each file
        self._chosen: set[int] = set()

    def add(self, job: Queued) -> None:
        """The jobs that a queued one is: one for each combination of the matrix keys that it names."""
        if self._looked_at is not job.settings:
            self._looked_at = job.settings
            self._look_at_keys(job)
        read = _Read(_by_first_names(job), self._settings)
        command, name, after, terms = read.command(), read.name(), read.after(), read.terms()
        budget, job_class = read.budget(), read.job_class()
        templates = self._settings.templates
        for expanded in templates.combinations(command, name.encode(), words.in_single_quotes):
            if _size(expanded) > self._settings.longest:
                where = job.origin("executable")
                raise BadInput(f"{where}: job of more than {self._settings.longest:,} bytes (put it into a script)")
            own = templates.named(name.encode(), expanded.matrix).decode() or None
            if own is not None:
                _check_name(own, job.origin("my.name"))
            self._named.append(Named(own, after, job.origin("my.name"), job.origin("my.after")))
            number = len(self._jobs)
            self._note_files(number, terms, read)
            where = job.origin()
            text, parts, matrix = expanded
            self._jobs.append(Job(0, text, where, budget, None, job_class, own, parts, matrix, terms))

    def jobs(self, first: int) -> list[Job]:
        """All jobs, or those that ``--only`` wants, with ids from ``first`` on."""
        graph = Graph(self._named)
        chosen: Sequence[int] = range(len(self._jobs))
        if self._settings.only:
            chosen = graph.with_all_before(self._selected(graph))
        self._chosen = set(chosen)
        self._check_inputs(graph)
        ids = [0] * len(self._jobs)
        for number, index in enumerate(chosen, first):
            ids[index] = number
        made: dict[Barrier, Barrier] = {}
        jobs = []
        for index in chosen:
            job, barrier = self._jobs[index], graph.after[index]
            after = None if barrier is None else numbered(barrier, ids, made)
            jobs.append(replace(job, id=ids[index], terms=replace(job.terms, after=after) if after else job.terms))
        return jobs

    def warnings(self) -> list[str]:
        """What the user should know, a line each."""
        told = []
        if self._ignored:
            told.append(f"submit files: keys that mean nothing here are ignored: {', '.join(sorted(self._ignored))}")
        for path, jobs in self._written.items():
            count = len(jobs & self._chosen)
            if count > 1:
                told.append(f"{label(path)}: {count} jobs write it, one over the other (put $(Process) into its name)")
        return told

    def _look_at_keys(self, job: Queued) -> None:
        texts = {**{key: setting.value for key, setting in job.settings.items()}, **job.own}
        for key, text in texts.items():
            if key in _REFUSED and text:
                raise BadInput(f"{job.origin(key)}: {key} is not known here ({_REFUSED[key]})")
            if key in _IGNORED or (key.startswith("my.") and key not in _OURS):
                self._ignored[f"+{key[3:]}" if key.startswith("my.") else key] = None

    def _note_files(self, number: int, terms: Terms, read: _Read) -> None:
        if terms.input is not None and (why := _unreadable(terms.input)) is not None:
            self._inputs.append((number, read.origin("input"), why))
        for path in {terms.output, terms.error} - {None, os.devnull}:
            assert path is not None
            if terms.input is not None and os.path.abspath(path) == os.path.abspath(terms.input):
                raise BadInput(f"{read.origin('input')}: {label(path)} is both read and written (name another file)")
            self._written.setdefault(os.path.abspath(path), set()).add(number)

    def _selected(self, graph: Graph) -> list[int]:
        selected: list[int] = []
        for pattern in self._settings.only:
            found = graph.match(pattern)
            if not found:
                shown = pattern if pattern.isprintable() else ascii(pattern)
                raise BadInput(f"--only {shown}: no job has that name (name jobs by +Name, a group of them, or a glob)")
            selected += found
        return selected

    def _check_inputs(self, graph: Graph) -> None:
        """An input may be missing where a job before it makes it."""
        missing = [(number, where, why) for number, where, why in self._inputs if number in self._chosen]
        paths = {number: self._jobs[number].terms.input or "" for number, _, _ in missing}
        wanted = {number: os.path.abspath(path) for number, path in paths.items()}
        in_time = graph.that_come_after(wanted, self._written)
        for number, where, why in missing:
            if number not in in_time:
                is_made = wanted[number] in self._written
                cure = "let this job come after the one that makes it" if is_made else "name a file that is there"
                raise BadInput(f"{where}: input {label(paths[number])}: {why} ({cure})")


class _Read:
    """What the keys of a queued job say. Every method raises BadInput."""

    def __init__(self, job: Queued, settings: Settings) -> None:
        self._job = job
        self._settings = settings
        self.origin = job.origin

    def command(self) -> bytes:
        """The shell line, with templates in it, each inside of single quotes."""
        executable = self._job.value("executable")
        if not executable:
            raise self._bad(None, "no executable (write executable = PROGRAM before queue)")
        try:
            given = words.arguments(self._job.value("arguments"))
        except words.BadWords as error:
            raise self._bad("arguments", str(error)) from None
        return words.shell_line([_bytes(word) for word in (executable, *given)])

    def name(self) -> str:
        name = self._string("my.name")
        try:
            name.encode()
        except UnicodeEncodeError:
            raise self._bad("my.name", _bad_name(name)) from None
        return name

    def after(self) -> tuple[str, ...]:
        return tuple(word for word in re.split(f"[{BLANKS},]", self._string("my.after")) if word)

    def job_class(self) -> str | None:
        return self._string("my.class") or self._settings.job_class

    def budget(self) -> int | None:
        text = self._job.value("max_retries")
        if not text:
            return self._settings.budget
        if not re.fullmatch(r"[0-9]{1,9}", text):
            raise self._bad("max_retries", f"bad number {quoted(text)} (write 0 or more)")
        return int(text)

    def terms(self) -> Terms:
        value = self._job.value
        directory = value("remote_initialdir") or value("initialdir")
        return Terms(
            self._priority(),
            None,
            self._tokens(),
            self._hold(),
            self._timeout(),
            _bytes(directory) if directory else None,
            self._environment(),
            self._path("input"),
            self._path("output"),
            self._path("error"),
        )

    def _path(self, key: str) -> str | None:
        return os.fsdecode(_bytes(self._job.value(key))) or None

    def _priority(self) -> int:
        text = self._job.value("priority") or "0"
        if not re.fullmatch(r"[+-]?[0-9]{1,9}", text):
            raise self._bad("priority", f"bad number {quoted(text)} (write a whole number of 9 digits at most)")
        return int(text)

    def _hold(self) -> bool:
        text = self._job.value("hold").lower()
        if text not in (*_TRUE, *_FALSE):
            raise self._bad("hold", f"{quoted(text)} is neither True nor False (write one of them)")
        return text in _TRUE

    def _timeout(self) -> float | None:
        text = self._job.value("my.timeout")
        if not text:
            return None
        seconds = parse_seconds(text if re.fullmatch(r"[0-9.]+", text) else self._string("my.timeout"))
        if seconds is None:
            raise self._bad("my.timeout", f'{quoted(text)} is not a duration (write 90, "90s", "10m", "2h" or "1d")')
        return seconds

    def _environment(self) -> tuple[tuple[str, bytes], ...]:
        try:
            values = words.environment(self._job.value("environment"))
        except words.BadWords as error:
            raise self._bad("environment", str(error)) from None
        return tuple((name, _bytes(value)) for name, value in values.items())

    def _tokens(self) -> tuple[tuple[str, int], ...]:
        claims: dict[str, int] = {}
        declared = self._settings.tokens or {}
        for claim in self._job.value("concurrency_limits").split(","):
            name, colon, number = (part.strip(BLANKS) for part in claim.lower().partition(":"))
            if not name and not colon:
                continue
            where = "concurrency_limits"
            if not re.fullmatch(r"[0-9]{1,9}", number or "1") or int(number or "1") < 1 or (colon and not number):
                raise self._bad(where, f"bad claim {quoted(claim.strip(BLANKS))} (write NAME or NAME:K)")
            if name not in declared:
                raise self._bad(where, f"no token {quoted(name)} is declared (declare it: --token {name}=N)")
            if name in claims:
                raise self._bad(where, f"{quoted(name)} is claimed twice (write {name}:K once)")
            claims[name] = int(number or "1")
            if claims[name] > declared[name]:
                raise self._bad(
                    where, f"{claims[name]} of the token {quoted(name)}, which has {declared[name]} (claim fewer)"
                )
        return tuple(sorted(claims.items()))

    def _string(self, key: str) -> str:
        """The text of a ClassAd string, "" where there is none."""
        text = self._job.value(key)
        if not text:
            return ""
        found = _STRING.fullmatch(text)
        if found is None:
            shown = f"+{key[3:].capitalize()}"
            raise self._bad(key, f'{shown} is not a text in double quotes (write {shown} = "...")')
        return re.sub(r"\\(.)", r"\1", found[1], flags=re.DOTALL)

    def _bad(self, key: str | None, what: str) -> BadInput:
        return BadInput(f"{self._job.origin(key)}: {what}")


def _read(path: str, read_stdin: Callable[[], bytes]) -> str:
    try:
        if path == "-":
            return decoded(read_stdin())
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise BadInput(f"{label(path)}: {reason(error)} (give a submit file)") from None
    if len(data) > LARGEST_FILE:
        raise BadInput(f"{label(path)}: more than {LARGEST_FILE:,} bytes (split it)")
    return decoded(data)


def _by_first_names(job: Queued) -> Queued:
    """The job with the keys that HTCondor has two names for under the one that we know."""
    others = [key for key in _OTHER_NAMES if key in job.settings or key in job.own]
    if not others:
        return job
    settings, own = dict(job.settings), dict(job.own)
    for key in others:
        first = _OTHER_NAMES[key]
        if first not in settings and first not in own:
            if key in own:
                own[first] = own[key]
            else:
                settings[first] = settings[key]
    return replace(job, settings=settings, own=own)


def _check_name(name: str, where: str) -> None:
    if len(name) > LONGEST_NAME:
        raise BadInput(f"{where}: +Name {name[:20]}... is too long to name files (use {LONGEST_NAME} bytes at most)")
    if not _NAME.fullmatch(name):
        raise BadInput(f"{where}: {_bad_name(name)}")


def _bad_name(name: str) -> str:
    return f"+Name {quoted(name)} cannot name files (use letters, digits and _.@:+=- with no dot at the head)"


def _unreadable(path: str) -> str | None:
    """Why the file cannot be read, if it cannot."""
    if not os.path.exists(path):
        return "No such file or directory"
    if Path(path).is_dir():
        return "Is a directory"
    return None if os.access(path, os.R_OK) else "Permission denied"


def _size(job: Expanded) -> int:
    parts = (job.command,) if job.parts is None else job.parts
    return sum(len(part) for part in parts if isinstance(part, bytes))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
