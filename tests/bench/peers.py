"""clstr beside its peers: time, client CPU and memory of the same work on the same nodes. What it saw, no claims.

    python tests/bench/peers.py [--quick] [--only a,b,...] [--most N] [--rounds N]
                                [--first PROGRAM] [--ansible PROGRAM] [--library PYTHON]

It starts sshd on loopback addresses (OpenSSH's server is needed) and stops it; installs nothing; compares the tools
that it finds. PROGRAM of --first is the ``clstr`` of an environment into which clstr 0.1.0 was installed, PYTHON one
of an environment with parallel-ssh.

    a  jobs: ``echo N``, 300 and 3,000, on 10 nodes    b  nodes: ``hostname`` once on each of 250 and 1,000
    d  output: 4 x 100 MB of lines, and one long line  e  memory: connections, job lines, requeues
    f  start-up                                        g  a link with 50 ms round-trip time
    h  the scheduler alone
    (c, client CPU for each job and connection, stands in the tables of a and b)

Rules:

- Each round runs every tool once, in turn, so that the machine's moods fall on all. The tables have medians.
- CPU is user and system time of all the client's processes; those of the servers are nobody's. Peak memory is that of
  the client's largest process.
- A run counts when all its output came; else its tool is out of that table, with the reason.
- The nodes are this machine: their work competes with the client for its cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from bench.tools import CLSTR, Call, Place, Tool, every_tool  # noqa: E402
from cluster.sshd import Cluster, Site, descendants, kill, until  # noqa: E402
from cluster.sshd import site as a_site  # noqa: E402

LONGEST = 900.0
"""Seconds after which a run has failed."""

ROUND_TRIP = 0.05
JOB = 0.3
MB = 1_000_000


class Failed(Exception):
    """A run that does not count; the text says why."""


@dataclass(frozen=True)
class Cost:
    """What one run took."""

    wall: float  # seconds
    cpu: float  # seconds, of all processes
    peak: float  # MB, of the largest process


# --- running -----------------------------------------------------------------------------------------------


Check = Callable[[int], None]
"""Reads a command's output from a descriptor to its end. Raises Failed when it is not what was asked for."""


def measure(call: Call, check: Check) -> Cost:
    """Run it. Raises Failed."""
    report, told = os.pipe()
    command = [sys.executable, "-I", "-S", HERE / "measured.py", str(told), str(LONGEST)]
    words = [*command, "tty" if call.terminal else "notty", *call.command]
    with tempfile.TemporaryFile() as errors, open(call.stdin or os.devnull) as stdin:
        process = subprocess.Popen(
            words,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **call.env},
            pass_fds=[told],
            start_new_session=True,
        )
        os.close(told)
        try:
            assert process.stdout is not None
            wrong = _checked(check, process.stdout.fileno())
            with open(report) as lines:
                line = lines.readline()
        finally:
            kill(lambda: descendants([process.pid]))
            process.wait()
            process.stdout.close()
        found = json.loads(line) if line else {"status": None}
        if found["status"] is None:
            raise Failed(f"not over after {LONGEST:g} s")
        if wrong or found["status"] != 0:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()[-1:]
            raise Failed("; ".join([*([wrong] if wrong else []), f"exit {found['status']}", *said])[:200])
    return Cost(found["wall"], found["cpu"], found["peak"] / 1000)


def _checked(check: Check, output: int) -> str | None:
    """What is wrong with the output, if anything."""
    try:
        check(output)
    except Failed as failed:
        while os.read(output, 1 << 20):
            pass
        return str(failed)
    return None


def whole(output: int) -> str:
    """All of a short output."""
    with open(output, closefd=False, errors="replace") as file:
        return file.read()


def interleaved(rounds: int, runs: Mapping[str, Callable[[], Cost]]) -> dict[str, list[Cost]]:
    """The costs of each, round by round; what fails once is told of and left out from then on."""
    costs: dict[str, list[Cost]] = {name: [] for name in runs}
    for turn in range(rounds):
        for name in list(costs):
            try:
                costs[name].append(runs[name]())
            except Failed as failed:
                print(f"{name}: out, in round {turn + 1}: {failed}", flush=True)
                del costs[name]
    return costs


# --- printing ----------------------------------------------------------------------------------------------


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table in Markdown that can be read as it is."""
    print(f"\n### {title}\n")
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for number, line in enumerate(lines):
        first, *others = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        print(f"| {' | '.join([line[0].ljust(widths[0]), *others])} |")
        if number == 0:
            print(f"|{'-' * (len(first) + 2)}|{'|'.join('-' * (len(cell) + 1) + ':' for cell in others)}|")
    sys.stdout.flush()


def spread(values: Sequence[float], form: str = "{:.2f}") -> str:
    """Median, with the least and the most where there are several."""
    told = form.format(median(values))
    return told if len(values) == 1 else f"{told} ({form.format(min(values))}-{form.format(max(values))})"


def comparison(title: str, costs: Mapping[str, Sequence[Cost]], unit: str, count: float) -> None:
    """Wall time, rate and client CPU of each tool, and what they are in units of clstr's and of the floor's."""
    middle = {
        name: Cost(*(median(getattr(cost, key) for cost in runs) for key in ("wall", "cpu", "peak")))
        for name, runs in costs.items()
        if runs
    }
    ours, floor = middle.get("clstr"), middle.get("bare asyncssh")
    rows = []
    for name, cost in middle.items():
        rows.append(
            [
                name,
                spread([run.wall for run in costs[name]]),
                f"{count / cost.wall:.0f}",
                "" if ours is None else f"{cost.wall / ours.wall:.2f}",
                f"{1000 * cost.cpu / count:.2f}",
                "" if floor is None else f"{cost.cpu / floor.cpu:.2f}",
                f"{cost.peak:.0f}",
            ]
        )
    head = ("tool", "wall s", f"{unit}/s", "x clstr", f"client CPU ms/{unit}", "x bare", "peak MB")
    table(title, head, rows)


# --- the bench ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """What all workloads share."""

    site: Site
    tools: Sequence[Tool]
    rounds: int
    quick: bool
    most: int | None = None

    def counts(self, *sizes: tuple[int, int]) -> list[int]:
        """How many jobs or nodes, in turn."""
        return [count for count in (self.size(*size) for size in sizes) if self.most is None or count <= self.most]

    def size(self, full: int, quick: int) -> int:
        """How much of something."""
        return quick if self.quick else full

    @contextlib.contextmanager
    def place(self, nodes: int, many: bool = False) -> Iterator[Place]:
        """Nodes that are there for the block."""
        with contextlib.ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="clstr-bench-")))
            directory.chmod(0o755)
            cluster = stack.enter_context(Cluster(self.site, directory, nodes, many=many))
            files = directory / "files"
            files.mkdir()
            yield Place(
                files,
                cluster.nodes,
                cluster.addresses,
                cluster.ssh_config,
                cluster.known_hosts,
                cluster.identity,
                cluster.account.name,
                cluster.port,
            )

    def run_jobs(self, place: Place, count: int, line: str = "echo {}") -> dict[str, list[Cost]]:
        """The same jobs by every tool that has a queue. Job N prints N."""
        jobs = place.directory / f"jobs-{count}"
        jobs.write_text("".join(f"{line.format(n)}\n" for n in range(count)))

        def check(output: int) -> None:
            found = whole(output).split()
            if sorted(found) != sorted(str(n) for n in range(count)):
                raise Failed(f"the output of {count} jobs did not come ({len(found)} words did)")

        runs = {
            tool.name: (lambda make=tool.jobs: measure(make(place, jobs), check))
            for tool in self.tools
            if tool.jobs is not None
        }
        return interleaved(self.rounds, runs)

    def run_everywhere(
        self, place: Place, command: str, check: Check, leave_out: Sequence[str] = ()
    ) -> dict[str, list[Cost]]:
        """The same command on every node by every tool."""
        runs = {
            tool.name: (lambda make=tool.everywhere: measure(make(place, command), check))
            for tool in self.tools
            if tool.everywhere is not None and tool.name not in leave_out
        }
        return interleaved(self.rounds, runs)


def jobs(bench: Bench) -> None:
    """a and c: trivial jobs."""
    with bench.place(10) as place:
        for count in bench.counts((300, 20), (3000, 60)):
            costs = bench.run_jobs(place, count)
            comparison(f"a, c: {count} jobs on 10 nodes with one slot each", costs, "job", count)


def nodes(bench: Bench) -> None:
    """b and c: once on every node."""
    for count in bench.counts((250, 5), (1000, 20)):
        with bench.place(count, many=True) as place:

            def check(output: int, count: int = count) -> None:
                found = whole(output).count(socket.gethostname())
                if found != count:
                    raise Failed(f"{found} of {count} nodes printed their name")

            # A process for each node at once is no way to reach a thousand.
            costs = bench.run_everywhere(place, "hostname", check, ["ssh"])
            comparison(f"b, c: hostname once on each of {count} nodes", costs, "node", count)


class Flood:
    """Reads the lines of all nodes, as fast as they come."""

    def __init__(self, lines: Sequence[bytes], count: int) -> None:
        self._lines = lines
        self._count = count
        self.intact = 0

    def __call__(self, output: int) -> None:
        tail, self.intact, came = b"", 0, 0
        while data := os.read(output, 1 << 20):
            end = data.rfind(b"\n") + 1
            block, tail = (tail + data[:end], data[end:]) if end else (b"", tail + data)
            came += block.count(b"\n")
            self.intact += sum(block.count(line) for line in self._lines)
        if came < self._count:
            raise Failed(f"{came} of {self._count} lines came")


def one_line(size: int) -> Check:
    """A reader of a single long line."""

    def check(output: int) -> None:
        came = ends = 0
        while data := os.read(output, 1 << 20):
            came += data.count(b"x")
            ends += data.count(b"\n")
        if (came, ends) != (size, 1):
            raise Failed(f"not one line of {size} bytes: {came} bytes in {ends} lines")

    return check


def output(bench: Bench) -> None:
    """d: much output, to a pipe."""
    size = bench.size(100 * MB, MB // 2)
    with bench.place(4) as place:
        script = place.directory / "lines"
        line = "{:.<79}\n"
        script.write_text('set -- $1 $SSH_CONNECTION\nyes "$(printf %-79s "$4 " | tr " " .)" | head -c $1\n')
        lines = [line.format(address).encode() for address in place.hosts]
        flood = Flood(lines, 4 * (size // 80))
        intact: dict[str, int] = {}
        costs: dict[str, list[Cost]] = {}

        def noted(tool: Tool) -> Cost:
            assert tool.everywhere is not None
            cost = measure(tool.everywhere(place, f"sh {script} {size // 80 * 80}"), flood)
            intact[tool.name] = min(flood.intact, intact.get(tool.name, flood.intact))
            return cost

        runs = {tool.name: (lambda tool=tool: noted(tool)) for tool in bench.tools if tool.everywhere is not None}
        costs = interleaved(bench.rounds, runs)
        comparison(f"d: 4 nodes x {size / MB:g} MB of 80-byte lines, to a pipe", costs, "MB", 4 * size / MB)
        torn = {name: 4 * (size // 80) - whole for name, whole in intact.items()}
        told = ", ".join(f"{name} {count}" for name, count in torn.items() if count > 0)
        print(f"\nLines that did not come whole, in the worst run: {told or 'none, of any'}")
    with bench.place(1) as place:
        command = f"head -c {size} /dev/zero | tr '\\0' x; echo"
        costs = bench.run_everywhere(place, command, one_line(size))
        comparison(f"d: one line of {size / MB:g} MB from one node, to a pipe", costs, "MB", size / MB)


def memory(bench: Bench) -> None:
    """e: what grows, and what does not."""
    rows = []
    count = bench.size(1000, 20)
    with bench.place(count, many=True) as place:
        active = place.directory / "active"
        ours = [*CLSTR, "-F", place.ssh_config, "-N", place.listed, "-E", "sleep 600", "-A", active]
        bare = [sys.executable, HERE / "floor.py", "hold", place.site, "sleep 600"]
        clstr = _peak(ours, lambda out: active.exists() and len(active.read_text().splitlines()) == count)
        floor = _peak(bare, lambda out: out.read_text() == f"{count} connected\n")
        rows.append([f"{count} connections: bare asyncssh", f"{floor:.1f}", ""])
        rows.append([f"{count} connections: clstr", f"{clstr:.1f}", f"{clstr / floor:.2f}"])
    for what, failures, few, many in (
        ("job lines", 0, bench.size(10_000, 1000), bench.size(10_000_000, 3000)),
        ("requeues", 1, bench.size(1000, 100), bench.size(100_000, 1000)),
    ):
        peaks = [_scripted(number, failures) for number in (few, many)]
        rows.append([f"{few:,} {what}: clstr", f"{peaks[0]:.1f}", ""])
        rows.append([f"{many:,} {what}: clstr", f"{peaks[1]:.1f}", f"{peaks[1] / peaks[0]:.2f}"])
    table("e: peak memory", ("", "MB", "x the line above"), rows)


def _peak(command: Sequence[str | Path], ready: Callable[[Path], bool]) -> float:
    """Peak resident memory of a process, MB, when it has come so far; then it is ended."""
    with tempfile.NamedTemporaryFile() as out:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out.file, stderr=subprocess.DEVNULL)
        try:
            until(lambda: process.poll() is not None or ready(Path(out.name)), "it has come so far", 300)
            status = Path(f"/proc/{process.pid}/status").read_text()
            found = re.search(r"VmHWM:\s*(\d+)", status)
            if found is None:
                raise SystemExit(f"{command}: ended too early")
            return int(found[1]) / 1000
        finally:
            process.terminate()
            process.wait()


def _scripted(count: int, failures: int) -> float:
    """Peak memory of clstr's own rooms for so many lines, without a network."""
    with tempfile.NamedTemporaryFile("w") as file:
        file.writelines(f"echo this is job number {n}\n" for n in range(count))
        file.flush()
        command = [sys.executable, HERE / "scripted.py", file.name, str(failures)]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=HERE.parent.parent)
        done, kilobytes = map(int, result.stdout.split())
        if done != count:
            raise SystemExit(f"{done} of {count} jobs done")
        return kilobytes / 1000


def start(bench: Bench) -> None:
    """f: how soon something happens."""
    with bench.place(1) as place:
        (node,) = place.nodes
        calls: dict[str, Sequence[str | Path]] = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "clstr --version": [*CLSTR, "--version"],
            "clstr --help": [*CLSTR, "--help"],
            "ssh, first byte of a job": ["ssh", "-n", "-F", place.ssh_config, node, "echo x"],
            "clstr, first byte of a job": [*CLSTR, "-F", place.ssh_config, "-n", node, "-j", "echo x"],
        }
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(bench.size(5 * bench.rounds, 2)):
            for name, command in calls.items():
                seconds[name].append(_until_it_speaks(command, at_the_end="first byte" not in name))
        middle = {name: 1000 * median(values) for name, values in seconds.items()}
        rows = []
        for name, values in seconds.items():
            base = "ssh, first byte of a job" if "first byte" in name else "python -c pass"
            beyond = f"{middle[name] - middle[base]:+.0f} ({base.partition(',')[0]})" if name != base else ""
            rows.append([name, spread([1000 * value for value in values], "{:.0f}"), beyond])
        table("f: start-up", ("", "ms", "beyond"), rows)


def _until_it_speaks(command: Sequence[str | Path], at_the_end: bool) -> float:
    """Seconds until the command's first byte of output, or until its end."""
    begun = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.read() if at_the_end else process.stdout.read(1)
        seconds = time.perf_counter() - begun
        if process.wait(60) != 0 or (not at_the_end and not first):
            raise SystemExit(f"{command} failed")
    return seconds


def slow_link(bench: Bench) -> None:
    """g: round trips for each job."""
    turns = bench.size(10, 3)
    with bench.place(4) as near, _far(near) as place:
        costs = {count: bench.run_jobs(place, count, f"sleep {JOB}; echo {{}}") for count in (4, 4 * turns)}
        rows = []
        for name, runs in costs[4 * turns].items():
            if runs and costs[4].get(name):
                few, many = (median(cost.wall for cost in costs[count][name]) for count in (4, 4 * turns))
                each = (many - few) / (turns - 1)
                rows.append([name, f"{few:.2f}", f"{many:.2f}", f"{(each - JOB) / ROUND_TRIP:.2f}"])
        head = ("tool", "1 job a node, s", f"{turns} jobs a node, s", "round trips a job beyond its own time")
        table(f"g: jobs of {JOB} s on 4 nodes, 50 ms round-trip time", head, rows)


@contextlib.contextmanager
def _far(near: Place) -> Iterator[Place]:
    """The same nodes at the far end of a slow link."""
    directory = near.directory / "far"
    directory.mkdir()
    far = [re.sub(r"^127\.0\.", "127.1.", host) for host in near.hosts]
    pairs = [f"{listen}={target}" for listen, target in zip(far, near.hosts, strict=True)]
    config, known_hosts = directory / "ssh_config", directory / "known_hosts"
    config.write_text(
        re.sub(r"HostName 127\.0\.", "HostName 127.1.", near.ssh_config.read_text()).replace(
            str(near.known_hosts), str(known_hosts)
        )
    )
    known_hosts.write_text(near.known_hosts.read_text().replace("[127.0.", "[127.1."))
    command = [sys.executable, HERE / "slow_link.py", str(ROUND_TRIP / 2), str(near.port), *pairs]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as link:
        try:
            assert link.stdout is not None
            if link.stdout.readline() != "listening\n":
                raise SystemExit("the slow link does not listen")
            yield Place(directory, near.nodes, far, config, known_hosts, near.key, near.user, near.port)
        finally:
            link.terminate()


def scheduler(bench: Bench) -> None:
    """h: decisions without a network."""
    sizes = ((bench.size(10_000, 1000), 100), (bench.size(1_000_000, 5000), bench.size(10_000, 1000)))
    found: dict[tuple[int, int], list[tuple[float, float]]] = {size: [] for size in sizes}
    for _ in range(bench.rounds):
        for size in sizes:
            command = [sys.executable, HERE / "deciding.py", *map(str, size)]
            result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=HERE.parent.parent)
            micros, events = map(float, result.stdout.split())
            found[size].append((micros, events))
    rows, base = [], 0.0
    for (jobs, slots), runs in found.items():
        middle = median(micros for micros, _ in runs)
        base = base or middle
        told = f"{median(events for _, events in runs):.2f}"
        rows.append([f"{jobs:,} jobs on {slots:,} slots", spread([m for m, _ in runs]), f"{middle / base:.2f}", told])
    head = ("1 % of the attempts fail", "CPU microseconds/job", "x the first", "facts, orders and news a job")
    table("h: the scheduler alone", head, rows)


WORKLOADS: dict[str, Callable[[Bench], None]] = {
    "a": jobs, "b": nodes, "d": output, "e": memory, "f": start, "g": slow_link, "h": scheduler,
}  # fmt: skip


def surroundings(tools: Mapping[str, str]) -> None:
    """The machine, and the versions of what is compared."""
    cores = os.cpu_count()
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    load = os.getloadavg()[0]
    print(f"{cores} cores ({model[1] if model else platform.machine()}), load {load:.2f}; {platform.platform()}")
    print(f"Python {platform.python_version()}; " + ", ".join(f"{name} {version}" for name, version in tools.items()))
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="little of everything, once: does it run?")
    parser.add_argument("--only", metavar="LETTERS", default=",".join(WORKLOADS), help="these workloads: a,b")
    parser.add_argument("--most", type=int, metavar="N", help="no more jobs in a, and nodes in b, than N")
    parser.add_argument("--rounds", type=int, help="how often each tool runs (default 3)")
    parser.add_argument("--tools", metavar="NAMES", help="these tools only, by the names in the tables: clstr,pdsh")
    parser.add_argument("--first", metavar="PROGRAM", help="the first clstr")
    parser.add_argument("--ansible", metavar="PROGRAM", default="ansible")
    parser.add_argument("--library", metavar="PYTHON", default=sys.executable, help="a Python that has parallel-ssh")
    flags = parser.parse_args(arguments)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or clstr alone would be compiled again in each run
    chosen = flags.only.replace("c", "a,b").split(",") if "c" in flags.only else flags.only.split(",")
    if unknown := set(chosen) - WORKLOADS.keys():
        parser.error(f"no such workload: {', '.join(sorted(unknown))}")
    wanted = None if flags.tools is None else flags.tools.split(",")
    every = every_tool(flags.first, flags.ansible, flags.library)
    versions = {tool.name: tool.version() for tool in every if wanted is None or tool.name in wanted}
    there = {name: version for name, version in versions.items() if version is not None}
    surroundings(there)
    with a_site() as site:
        tools = [tool for tool in every if tool.name in there]
        bench = Bench(site, tools, flags.rounds or (1 if flags.quick else 3), flags.quick, flags.most)
        for letter in dict.fromkeys(sorted(chosen)):
            WORKLOADS[letter](bench)


if __name__ == "__main__":
    main()
