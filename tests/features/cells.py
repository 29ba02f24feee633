"""Tries, for each cell of a table, whether a tool does what the row says: a small run against real nodes decides.

    python tests/features/cells.py --first PROGRAM [--rows WORD] [--write]

It starts sshd on loopback addresses (OpenSSH's server is needed) and stops it. Every tool of the table must be there;
PROGRAM is the ``clstr`` of an environment into which clstr 0.1.0 was installed. ``--write`` puts what was
seen into ``table.md`` and the table in the README.

Rules:

- A cell is what was observed: which jobs ran where, what was printed, what was left running. Nobody's word counts.
- Each tool gets its best flags for the row, of those that it documents. One that has none for it runs as it is.
- To tools without a list of jobs the list is given on standard input, as a shell or an interactive prompt takes it.
  Where the first row says that this is no queue, rows about queues are a dash.
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from bench.tools import CLSTR, Call, Place, every_tool, first_call  # noqa: E402
from cluster.sshd import Cluster, descendants, kill, until  # noqa: E402
from cluster.sshd import site as a_site  # noqa: E402

TOOLS = ("clstr", "parallel", "pdsh", "clush", "pssh", "first clstr")
HEADS = {"parallel": "GNU parallel"}
TABLE = Path(__file__).with_name("table.md")
BEGIN, END = "<!-- peers: written by tests/features/cells.py -->", "<!-- /peers -->"

LONGEST = 20.0
"""Seconds for a run; one that takes longer is ended, and what it has done until then counts."""


@dataclass
class Result:
    """How a run ended."""

    status: int | None  # None: it had to be ended
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


@dataclass
class Stage:
    """One tool, the nodes, and a directory of its own for one cell."""

    tool: str
    first: str
    cluster: Cluster
    directory: Path  # jobs may write here
    place: Place
    others: dict[str, str] = field(default_factory=dict)  # of the environment

    # --- how each tool is told what to do

    def jobs(self, lines: Sequence[str], flags: Mapping[str, str] = {}, nodes: Sequence[str] = ()) -> Call:
        """Run each line once."""
        self._jobs.write_text("".join(f"{line}\n" for line in lines))
        names, extra = list(nodes or self.place.nodes), self._flags(flags)
        if self.tool == "clstr":
            return Call([*CLSTR, "-F", self.place.ssh_config, "-n", *names, "-J", self._jobs, *extra])
        if self.tool == "parallel":
            sites = ",".join(name if "/" in name else f"1/{name}" for name in names)
            return Call(["parallel", "--will-cite", "-S", sites, *extra], self.env, stdin=self._jobs)
        if self.tool == "first clstr":
            return first_call(self.first, self.place, "-n", *names, "-J", self._jobs, *extra)
        call = self.everywhere("sh" if self.tool == "pssh" else "", flags, names)
        return Call(call.command, call.env, stdin=self._jobs)

    def everywhere(self, command: str, flags: Mapping[str, str] = {}, nodes: Sequence[str] = ()) -> Call:
        """Run the command once on each node."""
        names, extra, config = list(nodes or self.place.nodes), self._flags(flags), self.place.ssh_config
        words = [command] if command else []
        match self.tool:
            case "clstr":
                return Call([*CLSTR, "-F", config, "-n", *names, "-E", command, *extra])
            case "parallel":
                return Call(["parallel", "--will-cite", "--nonall", "-S", ",".join(names), *extra, command], self.env)
            case "pdsh":
                return Call(["pdsh", "-R", "ssh", "-w", ",".join(names), *extra, *words], self.env)
            case "clush":
                return Call(["clush", "-w", ",".join(names), "-o", f"-F {config}", *extra, *words], self.env)
            case "pssh":
                hosts = [word for name in names for word in ("-H", name)]
                inputs = ["-I"] if command == "sh" else []
                return Call(["parallel-ssh", *hosts, "-x", f"-F {config}", *(extra or ["-P"]), *inputs, command])
            case _:
                return first_call(self.first, self.place, "-n", *names, "-E", command, *extra)

    @property
    def _jobs(self) -> Path:
        return self.place.directory / f"jobs-{self.directory.name}"

    @property
    def env(self) -> dict[str, str]:
        """What GNU parallel and pdsh take from their environment."""
        config = self.place.ssh_config
        own = {"PARALLEL_SSH": str(self.place.ssh), "PDSH_SSH_ARGS_APPEND": f"-F {config}"}
        return own | {"HOME": str(self.place.directory)} | self.others

    def _flags(self, flags: Mapping[str, str]) -> list[str]:
        return flags.get(self.tool, "").replace("DIR", str(self.directory)).split()

    # --- running

    @contextmanager
    def started(self, call: Call, terminal: bool = False) -> Iterator[subprocess.Popen[bytes]]:
        """The tool, in a session of its own; what is left of it in the end is ended."""
        master, slave = pty.openpty() if terminal or call.terminal else (-1, -1)

        def prepare() -> None:
            if slave >= 0:
                import fcntl
                import termios

                fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
            for number in (signal.SIGINT, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)

        out, err = self.directory / "stdout", self.directory / "stderr"
        with open(call.stdin or os.devnull) as stdin, out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                [str(word) for word in call.command],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env={**os.environ, **call.env},
                start_new_session=True,
                preexec_fn=prepare,
            )
        try:
            yield process
        finally:
            kill(lambda: descendants([process.pid]))
            process.wait()
            for end in (master, slave):
                if end >= 0:
                    os.close(end)

    def run(self, call: Call, terminal: bool = False, seconds: float = LONGEST) -> Result:
        """Run it to its end, or for so long."""
        with self.started(call, terminal) as process:
            status: int | None
            try:
                status = process.wait(seconds)
            except subprocess.TimeoutExpired:
                status = None
        texts = ((self.directory / name).read_text(errors="replace") for name in ("stdout", "stderr"))
        return Result(status, *texts)

    # --- what jobs do, and what can be seen of it

    def noted(self, name: str) -> list[str]:
        """The lines that jobs have appended to a file of the directory."""
        path = self.directory / name
        return path.read_text().splitlines() if path.exists() else []

    def bad_on_the_last_node(self, number: int) -> str:
        """A job that notes its number and its node, and fails on the last node."""
        last = self.cluster.addresses[len(self.place.nodes) - 1]
        return (
            f'set -- $SSH_CONNECTION; echo "{number} $3" >> {self.directory}/tried; sleep 0.1; '
            f'[ "$3" = {last} ] && exit 3; echo {number} >> {self.directory}/done'
        )

    def running(self) -> dict[int, str]:
        """What runs on the nodes, but for what a connection of its own needs."""
        return {pid: line for pid, line in self.cluster.jobs().items() if "sleep 77" in line}

    def logins(self) -> int:
        """How often somebody has logged in to the first node."""
        return self.cluster.log(1).count("Accepted publickey")


Trial = Callable[[Stage], bool]
ROWS: list[tuple[str, Trial, bool]] = []


def row(words: str, queue: bool = False) -> Callable[[Trial], Trial]:
    """A row of the table; ``queue``: it is about a queue, which the first row has to find."""

    def add(trial: Trial) -> Trial:
        ROWS.append((words, trial, queue))
        return trial

    return add


# --- the rows ------------------------------------------------------------------------------------------------


@row("a list of jobs, each run once, on whichever node is free")
def has_a_queue(on: Stage) -> bool:
    on.run(on.jobs([f"echo {n} >> {on.directory}/done" for n in range(8)]))
    return sorted(on.noted("done")) == [str(n) for n in range(8)]


@row("several jobs at once on a node")
def has_slots(on: Stage) -> bool:
    meet = (
        f"n=0; : > {on.directory}/met-$$; while [ $n -lt 20 ]; do set -- {on.directory}/met-*; "
        f"[ $# = 2 ] && echo met >> {on.directory}/both && exit 0; sleep 0.1; n=$((n + 1)); done"
    )
    node = {"clstr": ["n1 slots=2"], "parallel": ["2/n1"]}.get(on.tool, ["n1", "n1"])
    queue = on.tool in ("clstr", "parallel", "first clstr")
    on.run(on.jobs([meet, f"true; {meet}"], nodes=node) if queue else on.everywhere(meet, nodes=node))
    return on.noted("both") == ["met", "met"]


@row("node sets: n[1-3]")
def has_node_sets(on: Stage) -> bool:
    on.run(on.everywhere(f"echo x >> {on.directory}/ran", nodes=["n[1-3]"]))
    return len(on.noted("ran")) == 3


@row("groups of nodes by name")
def has_groups(on: Stage) -> bool:
    home = on.place.directory
    (home / ".config" / "clustershell").mkdir(parents=True, exist_ok=True)
    (home / ".config" / "clustershell" / "groups.conf").write_text(
        "[Main]\ndefault: local\nconfdir: $CFGDIR/groups.conf.d\nautodir: $CFGDIR/groups.d\n"
    )
    (home / ".config" / "clustershell" / "groups.d").mkdir(exist_ok=True)
    (home / ".config" / "clustershell" / "groups.d" / "local.cfg").write_text("few: n1,n2\n")
    (home / "genders").write_text("n1 few\nn2 few\n")
    on.others = {"XDG_CONFIG_HOME": str(home / ".config"), "CLUSTERSHELL_CFGDIR": str(home / ".config/clustershell")}
    command = f"echo x >> {on.directory}/ran"
    if on.tool == "pdsh":
        line = ["pdsh", "-R", "ssh", "-F", str(home / "genders"), "-g", "few", command]
        on.run(Call(line, on.env))
    elif on.tool == "parallel":
        # Its groups say on which nodes a job may run.
        call = on.jobs([f"{command}; true@few"] * 2, {"parallel": "--hostgroups"}, ["@few/1/n1", "@other/1/n2"])
        on.run(call)
    else:
        call = on.everywhere(command, nodes=["@few"])
        on.run(Call(call.command, {**call.env, **on.others}, call.stdin, call.terminal))
    return len(on.noted("ran")) == 2


@row("a node on which a job failed gets no more", queue=True)
def evicts(on: Stage) -> bool:
    on.run(on.jobs([on.bad_on_the_last_node(n) for n in range(12)], {"parallel": "--retries 3"}))
    last = on.cluster.addresses[len(on.place.nodes) - 1]
    return sum(line.endswith(f" {last}") for line in on.noted("tried")) == 1


@row("a job that failed is tried again on another node", queue=True)
def requeues(on: Stage) -> bool:
    on.run(on.jobs([on.bad_on_the_last_node(n) for n in range(12)], {"parallel": "--retries 3"}))
    return sorted(map(int, on.noted("done"))) == list(range(12))


@row("... as often as you say, and no more", queue=True)
def has_a_budget(on: Stage) -> bool:
    job = f"echo x >> {on.directory}/tried; false"
    on.run(on.jobs([job], {"clstr": "--retries 1", "parallel": "--retries 2"}))
    return len(on.noted("tried")) == 2


@row("jobs that fail everywhere leave nodes for the others", queue=True)
def survives_bad_jobs(on: Stage) -> bool:
    good = [f"sleep 0.1; echo {n} >> {on.directory}/done" for n in range(12)]
    on.run(on.jobs([*["false"] * 3, *good], {"clstr": "--retries 2", "parallel": "--retries 3"}))
    return sorted(map(int, on.noted("done"))) == list(range(12))


@row("the jobs of a node that cannot be reached go elsewhere", queue=True)
def does_without_a_dead_node(on: Stage) -> bool:
    jobs = [f"echo {n} >> {on.directory}/done" for n in range(8)]
    on.run(on.jobs(jobs, {"parallel": "--retries 4"}, ["127.0.9.9", "n1"]))
    return sorted(on.noted("done")) == [str(n) for n in range(8)]


@row("nodes may join while jobs run", queue=True)
def follows(on: Stage) -> bool:
    listed = on.place.directory / f"nodes-{on.directory.name}"
    listed.write_text("1/n1\n" if on.tool == "parallel" else "n1\n")
    call = on.jobs([f"echo $SSH_CONNECTION >> {on.directory}/ran; sleep 0.3"] * 25)
    words = list(call.command)
    if on.tool == "parallel":
        words[words.index("-S") : words.index("-S") + 2] = ["--slf", str(listed)]
    else:
        words[words.index("-n") : words.index("-n") + 4] = ["-N", str(listed)]
        words += ["--follow"] if on.tool == "clstr" else []
    with on.started(Call(words, call.env, call.stdin, call.terminal)) as process:
        until(lambda: on.noted("ran") or process.poll() is not None, "a job runs", LONGEST)
        with listed.open("a") as file:
            file.write("1/n2\n" if on.tool == "parallel" else "n2\n")
        until(lambda: process.poll() is not None, "it is over", 2 * LONGEST)
    return len({line.split()[2] for line in on.noted("ran")}) == 2


LIMIT = {"clstr": "--timeout 1 --retries 0", "parallel": "--timeout 1", "pdsh": "-u 1", "clush": "-u 1", "pssh": "-t 1"}


@row("a time limit for jobs")
def limits_time(on: Stage) -> bool:
    begun = time.monotonic()
    on.run(on.everywhere("sleep 77", LIMIT, ["n1"]), seconds=10)
    return time.monotonic() - begun < 9


@row("... which ends the job on its node")
def kills_at_the_limit(on: Stage) -> bool:
    on.run(on.everywhere("sleep 77; true", LIMIT, ["n1"]), seconds=10)
    return _gone(on)


def _gone(on: Stage) -> bool:
    """Does what runs on the nodes end by itself within a while?"""
    try:
        until(lambda: not on.running(), "nothing runs", 8)
    except AssertionError:
        kill(lambda: set(on.running()))
        return False
    return True


def _stopped_by(on: Stage, *numbers: signal.Signals) -> bool:
    with on.started(on.everywhere("sleep 77; true", nodes=["n1"])) as process:
        until(lambda: on.running(), "the job runs", LONGEST)
        for number in numbers:
            if process.poll() is None:
                os.killpg(process.pid, number)
                time.sleep(0.2)
        process.wait(10)
    return _gone(on)


@row("^C ends the jobs on their nodes")
def interrupts(on: Stage) -> bool:
    return _stopped_by(on, signal.SIGINT, signal.SIGINT)  # pdsh asks for two


@row("kill -9 of the tool does")
def is_killed(on: Stage) -> bool:
    return _stopped_by(on, signal.SIGKILL)


@row("jobs share a connection to their node", queue=True)
def keeps_its_connection(on: Stage) -> bool:
    before = on.logins()
    on.run(on.jobs([f"echo {n}" for n in range(6)], {"parallel": "-M"}, ["n1"]))
    return on.logins() - before < 6


@row("lines tagged with their node")
def tags(on: Stage) -> bool:
    flags = {"clstr": "--tag", "parallel": "--tag", "pssh": "-P"}
    found = on.run(on.everywhere("echo one; echo two", flags, ["n1"]))
    return len(found.lines) == 2 and all("n1" in line for line in found.lines)


@row("a job's output in one piece")
def groups(on: Stage) -> bool:
    flags = {"clstr": "--group", "clush": "-b", "pssh": "-i"}
    call = on.everywhere("set -- $SSH_CONNECTION; for i in 1 2 3; do echo at $3; sleep 0.3; done", flags, ["n1", "n2"])
    found = _through(on, call, "dshbak")
    at = re.findall(r"at 127\.[\d.]+", found.out)
    return len(at) == 6 and len(set(at[:3])) == len(set(at[3:])) == 1


def _through(on: Stage, call: Call, collector: str) -> Result:
    """pdsh comes with a program that sorts its output."""
    if on.tool != "pdsh":
        return on.run(call)
    return on.run(Call(["sh", "-c", f'"$@" | {collector}', "sh", *map(str, call.command)], call.env))


@row("output in the order of the jobs", queue=True)
def keeps_order(on: Stage) -> bool:
    jobs = [f"sleep 0.{9 - n}; echo {n}" for n in range(6)]
    return on.run(on.jobs(jobs, {"clstr": "--keep-order", "parallel": "-k"})).lines == [str(n) for n in range(6)]


@row("what is alike on many nodes, once")
def folds(on: Stage) -> bool:
    call = on.everywhere("echo alike", {"clstr": "--fold", "clush": "-b"}, ["n1", "n2"])
    found = _through(on, call, "dshbak -c")
    return found.out.count("alike") == 1 and "n" in found.out


@row("lines of 300 kB come whole")
def keeps_lines(on: Stage) -> bool:
    line = 'set -- $SSH_CONNECTION; for i in 1 2 3; do head -c 300000 /dev/zero | tr "\\0" ${3##*.}; echo; done'
    flags = {"parallel": "--line-buffer"}
    found = on.run(on.everywhere(line, flags, ["n1", "n2"])).out
    return all(len(re.findall(rf"(?:^|: ){digit * 300000}$", found, re.M)) == 3 for digit in "12")


@row("each job's output in a file of its own")
def writes_files(on: Stage) -> bool:
    flags = {"clstr": "-d DIR/out", "parallel": "--results DIR/out", "clush": "--outdir DIR/out", "pssh": "-o DIR/out"}
    (on.directory / "out").mkdir()
    if on.tool in ("clstr", "parallel"):
        on.run(on.jobs(["echo only this"], flags, ["n1"]))
    else:
        _through(on, on.everywhere("echo only this", flags, ["n1"]), f"dshbak -d {on.directory}/out")
    return any(path.read_text() == "only this\n" for path in (on.directory / "out").rglob("*") if path.is_file())


@row("a log of all jobs", queue=True)
def logs(on: Stage) -> bool:
    flags = dict.fromkeys(("clstr", "parallel"), "--joblog DIR/log")
    on.run(on.jobs(["echo first", "echo second"], flags))
    return sum("echo first" in line or "echo second" in line for line in on.noted("log")) == 2


@row("a second run does only what was not done", queue=True)
def resumes(on: Stage) -> bool:
    flags = {"clstr": "--retries 0 --joblog DIR/log --resume", "parallel": "--joblog DIR/log --resume-failed"}
    jobs = [f"echo {n} >> {on.directory}/ran; [ {n} != 2 ] || [ -e {on.directory}/again ]" for n in range(4)]
    on.run(on.jobs(jobs, flags))
    (on.directory / "again").touch()
    (on.directory / "ran").unlink(missing_ok=True)
    on.run(on.jobs(jobs, flags))
    return on.noted("ran") == ["2"]


@row("files to the nodes")
def pushes(on: Stage) -> bool:
    source, there = on.place.directory / "a-file", on.cluster.account.home / "a-file"
    source.write_text("x")
    there.unlink(missing_ok=True)
    config = on.place.ssh_config
    others: dict[str, Call] = {
        "parallel": on.jobs(["true"], {"parallel": f"--basefile {source.parent}/./{source.name}"}, ["n1"]),
        "clstr": on.jobs(["true"], {"clstr": f"--push {source}"}, ["n1"]),
        "clush": Call(["clush", "-w", "n1", "-O", f"scp_options=-F {config}", "-c", source, "--dest", there]),
        "pssh": Call(["parallel-scp", "-H", "n1", "-x", f"-F {config}", source, there]),
        "pdsh": Call(["pdcp", "-R", "ssh", "-w", "n1", source, there], on.env),
    }
    on.run(others.get(on.tool) or on.jobs(["true"]))
    found = there.exists()
    there.unlink(missing_ok=True)
    return found


@row("files from the nodes")
def fetches(on: Stage) -> bool:
    there, here = on.cluster.account.home / "made", on.directory / "here"
    there.write_text("x")
    here.mkdir()
    config = on.place.ssh_config
    others: dict[str, Call] = {
        "parallel": _in_directory(here, on.jobs(["true"], {"parallel": "--return made"}, ["n1"])),
        "clstr": on.jobs([f"echo RESULTS: {there}"], {"clstr": "--results DIR/here"}, ["n1"]),
        "clush": Call(["clush", "-w", "n1", "-O", f"scp_options=-F {config}", "--rcopy", there, "--dest", here]),
        "pssh": Call(["parallel-slurp", "-H", "n1", "-x", f"-F {config}", "-L", here, there, "made"]),
        "pdsh": Call(["rpdcp", "-R", "ssh", "-w", "n1", there, here], on.env),
    }
    on.run(others.get(on.tool) or on.jobs(["true"]))
    return any(path.is_file() and path.read_text() == "x" for path in here.rglob("*"))


def _in_directory(directory: Path, call: Call) -> Call:
    return Call(["sh", "-c", 'cd "$0" && exec "$@"', directory, *call.command], call.env, call.stdin)


@row("shows what would run, and runs nothing")
def shows_only(on: Stage) -> bool:
    command = f"echo ran >> {on.directory}/ran"
    flags = {"clstr": "--dry-run", "parallel": "--dry-run", "pdsh": "-q"}
    queue = on.tool in ("clstr", "parallel", "first clstr")
    found = on.run(on.jobs([command], flags, ["n1"]) if queue else on.everywhere(command, flags, ["n1"]))
    return command in found.out and not on.noted("ran")


@row("progress as a count of all")
def shows_progress(on: Stage) -> bool:
    flags = {"clstr": "--status", "parallel": "--bar", "clush": "-b --progress", "first clstr": "--status"}
    script = on.place.directory / "script"
    call = on.everywhere("sleep 1; echo x", flags, ["n1", "n2"])
    if on.tool == "parallel":
        call = on.jobs(["sleep 1; echo x"] * 2, flags, ["n1", "n2"])
        call = Call([*call.command, "-a", str(call.stdin)], call.env)  # the terminal is its standard input
    words = ["script", "-qfec", shlex.join(str(word) for word in call.command), str(script)]
    on.run(Call(words, call.env, call.stdin))
    shown = script.read_text(errors="replace").partition("\n")[2].partition("Script done")[0]
    return re.search(r"\b[0-2]\s*(of|/)\s*2\b|\b\d+%", re.sub(r"\x1b\[\d*m", "", shown)) is not None


@row("exit status tells of a job that failed")
def tells_of_failure(on: Stage) -> bool:
    found = on.run(on.everywhere("exit 3", {"pdsh": "-S", "clush": "-S"}, ["n1"]))
    good = on.run(on.everywhere("exit 0", {"pdsh": "-S", "clush": "-S"}, ["n1"]))
    return good.status == 0 and found.status not in (0, None)


@row("an unknown host key is an error, never a question")
def asks_nothing(on: Stage) -> bool:
    config, empty = on.place.directory / "strange_config", on.place.directory / "empty"
    empty.touch()
    text = on.place.ssh_config.read_text().replace(str(on.place.known_hosts), str(empty))
    config.write_text(text.replace("    StrictHostKeyChecking yes\n", ""))
    strange = Place(
        on.place.directory, on.place.nodes, on.place.hosts, config, empty, on.place.key, on.place.user, on.place.port
    )
    stage = Stage(on.tool, on.first, on.cluster, on.directory, strange)
    found = stage.run(stage.everywhere(f"echo x >> {on.directory}/ran", nodes=["n1"]), terminal=True, seconds=8)
    return found.status is not None and not on.noted("ran") and empty.read_text() == ""


@row("needs no terminal")
def needs_no_terminal(on: Stage) -> bool:
    call = on.everywhere(f"echo x >> {on.directory}/ran", nodes=["n1"])
    found = on.run(Call(call.command, call.env, call.stdin))
    return found.status == 0 and on.noted("ran") == ["x"]


@row("leaves standard input to who comes after (while read ...)")
def leaves_stdin(on: Stage) -> bool:
    rest = on.place.directory / "rest"
    rest.write_text("for others\n")
    call = on.everywhere("true", {"clush": "-n"}, ["n1"])
    words = ["sh", "-c", '"$@" >/dev/null; exec cat', "sh", *map(str, call.command)]
    return on.run(Call(words, call.env, rest, call.terminal)).lines == ["for others"]


# --- the table -----------------------------------------------------------------------------------------------


def versions(first: str) -> dict[str, str]:
    """What is compared. Raises SystemExit where one is missing."""
    found = {tool.name: tool.version() for tool in every_tool(first, "ansible", sys.executable) if tool.name in TOOLS}
    missing = [name for name in TOOLS if found.get(name) is None]
    if missing:
        raise SystemExit(f"not here: {', '.join(missing)}")
    return {name: str(found[name]) for name in TOOLS}


def tried(first: str, wanted: str) -> list[list[str]]:
    """The cells of each row."""
    rows = []
    with a_site() as site, tempfile.TemporaryDirectory(prefix="clstr-peers-") as name:
        base = Path(name)
        base.chmod(0o755)
        sftp = "Subsystem sftp internal-sftp\nMaxStartups 100"
        with Cluster(site, base, 3, extra_config=sftp) as cluster:
            queues: dict[str, bool] = {}
            for number, (words, trial, needs_queue) in enumerate(ROWS):
                if number and wanted not in words:
                    continue
                cells = [words]
                for tool in TOOLS:
                    if needs_queue and not queues[tool]:
                        cells.append("-")
                        continue
                    yes = trial(_stage(tool, first, cluster, base / f"{number}-{TOOLS.index(tool)}"))
                    kill(lambda: set(cluster.jobs()))  # no cell sees what another's tool has left running
                    if number == 0:
                        queues[tool] = yes
                    cells.append("yes" if yes else "no")
                print(" | ".join(cells), flush=True)
                rows.append(cells)
    return rows


def _stage(tool: str, first: str, cluster: Cluster, base: Path) -> Stage:
    directory, files = base / "jobs", base / "files"
    directory.mkdir(parents=True)
    files.mkdir()
    directory.chmod(0o777)
    place = Place(
        files,
        cluster.nodes,
        cluster.addresses,
        cluster.ssh_config,
        cluster.known_hosts,
        cluster.identity,
        cluster.account.name,
        cluster.port,
    )
    return Stage(tool, first, cluster, directory, place)


def table(rows: Sequence[Sequence[str]], told: Mapping[str, str]) -> str:
    """The table as it stands in the README."""
    heads = ["", *(f"{HEADS.get(name, name)} {told[name].removeprefix('v')}" for name in TOOLS)]
    heads[-1] = f"the first clstr, {told['first clstr'].removeprefix('v')}"
    lines = [heads, ["---", *[":-:"] * len(TOOLS)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _in_order(rows: Sequence[list[str]]) -> list[list[str]]:
    """What was tried now, and the rest as it was seen before."""
    lines = [line.strip("| ").split(" | ") for line in TABLE.read_text().splitlines()] if TABLE.exists() else []
    seen = {words: [words, *cells] for words, *cells in [*lines, *rows]}
    return [seen[words] for words, _, _ in ROWS if words in seen]


def write(text: str) -> None:
    """Into table.md and the README."""
    TABLE.write_text(text)
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(f"{BEGIN}\n")
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n{text}{END}{after}")


def main() -> None:
    """Try what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", metavar="PROGRAM", required=True, help="the first clstr")
    parser.add_argument("--rows", metavar="WORD", default="", help="only the rows with this in them, and the first")
    parser.add_argument("--write", action="store_true", help="replace table.md and the README's table")
    flags = parser.parse_args()
    told = versions(flags.first)
    rows = tried(flags.first, flags.rows)
    if flags.write:
        write(table(_in_order(rows), told))


if __name__ == "__main__":
    main()
