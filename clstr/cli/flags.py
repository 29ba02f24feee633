"""The flags: their names, groups, help texts and the forms of their values."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Sequence
from typing import Any, NoReturn

from clstr import __version__
from clstr.inputs import parse_seconds

SIZES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

SYNOPSIS = """\
clstr [-n NODE...] [-N FILE...] [options] JOBS
  JOBS is any of -j CMD, -J FILE... and -S FILE..., or -E CMD"""

EPILOG = """\
NODE is [USER@]HOST[:PORT] [slots=N|auto] [class=NAME,...]; HOST is a name or an alias from ssh_config, an address, a
node set such as rack[1-4]n[01-32], a @group of ClusterShell's, or ':' for this machine without SSH. DUR is a number of
seconds, or a number with s, m, h or d behind it. '-' as a FILE is standard input.

Exit status: 0 every job was done; 1 some job failed, was held or never ran, or output or a record could not be
written; 2 wrong usage or input; 141 standard output was closed; 129, 130, 143 stopped by SIGHUP, SIGINT, SIGTERM.

Signals: the first ^C terminates what runs and leaves, the second leaves at once; SIGUSR1 lists the running jobs;
SIGUSR2 drains.
"""


ELSEWHERE = {
    "-H": "-n NODE",
    "-P": "-m N",
    "-b": "--fold",
    "-p": "-m N",
    "-t": "--timeout DUR, or --connect-timeout DUR",
    "-w": "-n NODE",
    "--": "-j CMD",
    "--halt": "--max-failed N",
    "--hosts": "-n NODE",
    "--hostfile": "-N FILE",
    "--inventory": "-N FILE",
    "--jobs": "-m N, or slots=N behind a node",
    "--max-procs": "-m N, or slots=N behind a node",
    "--par": "-m N",
    "--slf": "-N FILE",
    "--sshlogin": "-n NODE",
    "--sshloginfile": "-N FILE",
}
"""What the flags of GNU parallel, xargs, pdsh, clush and pssh are called here, where ours have other names."""


class Untold(OSError):
    """What was asked for cannot be printed."""


def tell(text: str) -> None:
    """Print what was asked for on standard output. Raises Untold."""
    try:
        with open(1, "wb", closefd=False) as stdout:
            stdout.write(text.encode())
    except OSError as error:
        raise Untold(*error.args) from error


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and say what was meant."""

    def _print_message(self, message: str, file: object = None) -> None:
        """For --help and --version, as argparse calls it: its own goes on when it fails."""
        tell(message)

    def error(self, message: str) -> NoReturn:
        _refuse(f"{message} (see clstr --help)")

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """The flags in these words. Raises BadInput."""
        known = [flag for flag in self._option_string_actions if flag.startswith("--")]
        for word in words:
            if f"-{word}" in known:  # argparse would take -job for -j ob
                _refuse(f"{word} has one '-' too few (write -{word})")
        flags, strange = self.parse_known_args(words)
        for word in strange:
            if word.startswith("-"):
                _refuse(f"unknown flag {word} ({_meant(word.partition('=')[0], known)})")
        if strange:
            cure = "a job is one word: quote it whole, as in -j 'echo hello'"
            if strange[0] == words[0]:
                cure = "nodes go behind -n, files of them behind -N; jobs behind -j, files behind -J"
            _refuse(f"unexpected word {strange[0]!r} ({cure})")
        return flags


def _refuse(text: str) -> NoReturn:
    from clstr.model import BadInput

    raise BadInput(text)


def _meant(flag: str, known: Sequence[str]) -> str:
    import difflib

    if flag in ELSEWHERE:
        return f"here it is {ELSEWHERE[flag]}; see clstr --help"
    begun = [name for name in known if name.startswith(flag)]
    nearest = begun or difflib.get_close_matches(flag, known, n=1)
    return f"did you mean {nearest[0]}? see clstr --help" if nearest else "see clstr --help"


class _HelpText(argparse.HelpFormatter):
    """Fills paragraphs to the width of the terminal, names a value once, and breaks no flag in two at its hyphen."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        return f"{action.metavar}..." if action.nargs == "+" else super()._format_args(action, default_metavar)

    def _split_lines(self, text: str, width: int) -> list[str]:
        import textwrap

        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = (self._split_lines(part, width - len(indent)) for part in text.split("\n\n"))
        return "\n\n".join("\n".join(indent + line for line in lines) for lines in paragraphs)


def parser() -> _Parser:
    """All flags, in groups."""
    parser = _Parser(
        prog="clstr",
        usage=SYNOPSIS,
        description="Run a list of jobs on a pile of machines over SSH. A job that fails is put back in the queue "
        "and its node gets no more work.",
        epilog=EPILOG,
        formatter_class=_HelpText,
        allow_abbrev=False,
        add_help=False,
    )
    _add_nodes(parser.add_argument_group("nodes"))
    _add_jobs(parser.add_argument_group("jobs"))
    _add_failure(parser.add_argument_group("what failure means"))
    _add_output(parser.add_argument_group("output"))
    _add_monitoring(parser.add_argument_group("monitoring"))
    _add_records(parser.add_argument_group("records"))
    other = parser.add_argument_group("other")
    other.add_argument(
        "--dry-run", metavar="FORM", nargs="?", const="jobs", choices=("jobs", "condor", "slurm"),
        help="print what would run and connect to nothing; --dry-run=condor: as a submit file for HTCondor; "
        "--dry-run=slurm: as a job array for sbatch",
    )  # fmt: skip
    other.add_argument(
        "--completion", metavar="SHELL", choices=("bash", "zsh", "fish"),
        help="print the completion script for bash, zsh or fish",
    )  # fmt: skip
    other.add_argument("-h", "--help", action="help", help="show this text")
    other.add_argument(
        "-V", "--version", action="version", version=f"clstr {__version__}", help="show the version"
    )
    # -0 makes argparse take every -1 for a flag; here it is a bad number, and is told so.
    parser._has_negative_number_optionals.clear()
    return parser


def _add_nodes(group: Any) -> None:
    many: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    group.add_argument("-n", "--node", metavar="NODE", help="machines to run jobs on", **many)
    group.add_argument("-N", "--node-file", metavar="FILE", help="files with a NODE a line", **many)
    group.add_argument("--exclude", metavar="NODE", help="leave these nodes out", **many)
    group.add_argument("--exclude-file", metavar="FILE", help="leave out the nodes in these files", **many)
    group.add_argument(
        "-m", "--max-nodes", "--fanout", metavar="N", type=_count, default=0,
        help="use at most N slots at once (default 0: no limit)",
    )  # fmt: skip
    group.add_argument(
        "-u", "--max-node-uses", metavar="N", type=_count, default=0,
        help="retire a slot after N jobs (default 0: never)",
    )  # fmt: skip
    group.add_argument(
        "--max-connecting", metavar="N", type=_positive, default=64,
        help="open at most N connections at a time (default 64)",
    )  # fmt: skip
    group.add_argument(
        "--connect-timeout", metavar="DUR", type=_duration, default=None,
        help="for name, TCP, key exchange and login together (default 10s, or ssh_config's ConnectTimeout); with "
        "--ssh until the job begins",
    )  # fmt: skip
    group.add_argument("-F", "--ssh-config", metavar="FILE", help="instead of ~/.ssh/config and the system's")
    group.add_argument("-l", "--user", metavar="USER", help="log in as USER where NODE names none")
    group.add_argument(
        "-i", "--identity", metavar="FILE", action="append", default=[], help="offer this key first (repeatable)"
    )
    group.add_argument(
        "--host-key", choices=("strict", "accept-new", "off"), metavar="POLICY",
        help="strict: unknown host keys are errors; accept-new: they are recorded; off: no check at all "
        "(default: ssh_config's StrictHostKeyChecking, where 'ask' is strict)",
    )  # fmt: skip
    group.add_argument(
        "--ssh", metavar="COMMAND",
        help="run each job by this client, as COMMAND [-p PORT] [USER@]HOST JOB, or with {HOST} replaced where it "
        "stands in COMMAND; it must pass standard input on and takes its SSH options from COMMAND",
    )  # fmt: skip
    group.add_argument(
        "--no-leash", action="store_true",
        help="send the bare command, as ssh does: for nodes without sh; jobs may then outlive a lost connection",
    )  # fmt: skip
    group.add_argument(
        "--setup", metavar="CMD", action="append", default=[],
        help="run CMD once on each node, before its first job; a failure evicts the node (repeatable, in order)",
    )  # fmt: skip
    group.add_argument(
        "--setup-timeout", metavar="DUR", type=_duration, default=600.0,
        help="for all pushes and setup commands of a node together (default 10m)",
    )  # fmt: skip
    group.add_argument(
        "--push", metavar="LOCAL[:REMOTE]", action="append", default=[],
        help="copy a file or directory to each node by SFTP, before --setup; a failure evicts it (repeatable)",
    )  # fmt: skip
    group.add_argument(
        "--follow", action="store_true", help="read node files again when they change: new nodes join, others drain"
    )
    group.add_argument("--seed", metavar="N", type=int, help="take slots in the same random order every time")


def _add_jobs(group: Any) -> None:
    group.add_argument(
        "-j", "--job", metavar="CMD", action="append", default=[], help="a job: a shell line (repeatable)"
    )
    group.add_argument(
        "-J", "--job-file", metavar="FILE", nargs="+", action="extend", default=[],
        help="files with a job a line, read as they come",
    )  # fmt: skip
    group.add_argument(
        "-0", "--null", action="store_true", help="entries of job files end with NUL, so that a job may hold newlines"
    )
    group.add_argument("-E", "--on-each-node", metavar="CMD", help="run CMD once on every node listed")
    group.add_argument(
        "-S", "--submit", metavar="FILE", nargs="+", action="extend", default=[],
        help="HTCondor submit files: jobs with names, dependencies, tokens, priorities",
    )  # fmt: skip
    group.add_argument(
        "-x", "--times", metavar="N", type=_positive, default=1, help="run each job of -j, -J or -E N times"
    )
    group.add_argument(
        "--matrix", metavar="KEY=V1,V2,...", action="append", default=[],
        help="run every job that names {KEY} once for each value; several keys give all combinations, the first one "
        "slowest (repeatable; '\\,' is a comma in a value)",
    )  # fmt: skip
    group.add_argument(
        "--var", metavar="NAME[=VALUE]", action="append", default=[],
        help="replace {NAME} in jobs by VALUE, or by what the environment has as NAME; clstr shows and writes it "
        "nowhere (repeatable)",
    )  # fmt: skip
    group.add_argument(
        "--token", metavar="NAME=N", action="append", default=[],
        help="a resource of N units, which jobs of submit files claim by concurrency_limits (repeatable)",
    )  # fmt: skip
    group.add_argument(
        "--only", metavar="PATTERN", action="append", default=[],
        help="of the jobs of submit files, run those whose names match, and what these come after (repeatable)",
    )  # fmt: skip
    group.add_argument("--class", metavar="NAME", dest="job_class", help="run these jobs on nodes of this class only")
    group.add_argument("-C", "--chdir", metavar="DIR", help="run jobs in DIR on the node")


def _add_failure(group: Any) -> None:
    group.description = (
        "A job fails when it exits nonzero, dies by a signal or overruns a limit: it goes back in the queue, "
        "behind the jobs not tried, and its node is evicted."
    )
    group.add_argument(
        "--retries", metavar="N", type=_count,
        help="requeue a job at most N times, on other nodes; when its last try fails, the job was the broken part "
        "and its nodes are pardoned (default: requeue without limit)",
    )  # fmt: skip
    group.add_argument(
        "--node-failures", metavar="K", type=_positive, default=1,
        help="evict a node after K failures without a success between them (default 1)",
    )  # fmt: skip
    group.add_argument(
        "--max-failed", metavar="N", type=_positive, default=0,
        help="start nothing new once N jobs have failed for good",
    )  # fmt: skip
    group.add_argument("--timeout", metavar="DUR", type=_duration, help="terminate a job that runs for longer")
    group.add_argument(
        "--stall-timeout", metavar="DUR", type=_duration, help="terminate a job that prints nothing for so long"
    )


def _add_output(group: Any) -> None:
    for flag, name in (("-o", "stdout"), ("-e", "stderr")):
        group.add_argument(
            flag, f"--{name}", metavar="FILE", nargs="?", const=os.devnull,
            help=f"write the jobs' {name} to FILE; to /dev/null when FILE is left out",
        )  # fmt: skip
    group.add_argument("--tag", action="store_true", help="begin each line of output with its node")
    group.add_argument(
        "--group", action="store_true",
        help="print the output of a job whole, when the job is done or has failed for good; of its last attempt only",
    )  # fmt: skip
    group.add_argument(
        "-k", "--keep-order", action="store_true", help="as --group, in the order of the jobs"
    )
    group.add_argument(
        "--fold", action="store_true",
        help="with -E: at the end, print each distinct output once, under the nodes that gave it",
    )  # fmt: skip
    group.add_argument(
        "--color", choices=("auto", "always", "never"), metavar="WHEN", default="auto",
        help="auto, always or never colour what clstr itself prints (default auto: on a terminal without NO_COLOR)",
    )  # fmt: skip


def _add_monitoring(group: Any) -> None:
    group.add_argument("-s", "--status", action="store_true", help="show the state of the run on stderr")
    group.add_argument("-A", "--active-nodes", metavar="FILE", help="keep a list of what runs where in FILE")
    group.add_argument("--unfinished", metavar="FILE", help="write the jobs not done to FILE, ready for the next -J")
    group.add_argument(
        "--evicted", metavar="FILE", help="write the evicted nodes to FILE, ready for the next --exclude-file"
    )
    group.add_argument(
        "-v", "--verbose", action="count", default=0, help="a line for each event; -vv: asyncssh's log too"
    )


def _add_records(group: Any) -> None:
    group.add_argument("--joblog", metavar="FILE", help="append a line for each job that ended, as GNU parallel does")
    group.add_argument(
        "--resume", "--resume-failed", action="store_true", help="skip the jobs that --joblog's file records as done"
    )
    group.add_argument(
        "-d", "--run-dir", metavar="DIR",
        help="keep each job's script, input, output and status in DIR; jobs that DIR has as done are skipped",
    )  # fmt: skip
    group.add_argument(
        "--results", metavar="DIR",
        help="copy what a job names on lines 'RESULTS: PATH' of its stdout from its node into DIR/NAME",
    )  # fmt: skip
    group.add_argument(
        "--results-limit", metavar="SIZE", type=_size, default=1 << 30,
        help="bytes that one job may have copied, with K, M, G or T behind the number (default 1G)",
    )  # fmt: skip
    group.add_argument("--csv", metavar="FILE", help="write a table of all jobs")
    group.add_argument("--events", metavar="FILE", help="write each event as a line of JSON; FILE may be a FIFO")
    group.add_argument("--trace", metavar="FILE", help="write a timeline of slots and jobs for Perfetto")


def _size(text: str) -> int:
    """Bytes from ``1000``, ``64K``, ``10M``, ``1G`` or ``2T``: powers of 1024."""
    digits, unit = (text[:-1], text[-1]) if text[-1:] in SIZES else (text, "")
    with contextlib.suppress(argparse.ArgumentTypeError):
        return _positive(digits) * SIZES.get(unit, 1)
    raise argparse.ArgumentTypeError(f"{text!r} is not a size (write 1000, 64K, 10M, 1G or 2T)")


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number (write 0 or more)")
    return int(text)


def _positive(text: str) -> int:
    if (number := _count(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is too small (write 1 or more)")
    return number


def _duration(text: str) -> float:
    """Seconds from ``90``, ``90s``, ``10m``, ``2h`` or ``1d``."""
    seconds = parse_seconds(text)
    if seconds is not None:
        return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is not a duration (write 90, 90s, 10m, 2h or 1d)")
