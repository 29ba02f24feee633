"""What records cost, and what a resume costs.

    python tests/bench/cost_of_records.py cost [--jobs N] [--rounds N] [--ssh]
    python tests/bench/cost_of_records.py resume [--lines N]

``cost``: trivial jobs on ``:``, or with --ssh over four loopback nodes, with no record and with all of them in turn.
Each figure is the median of its rounds; both are from one run on one machine, so their ratio is what counts.

``resume``: a joblog of so many lines, read by ``clstr --resume``; beside it the same with a log of one line, the time
of ``wc -l`` over the file, and the peak memory of each.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

CLSTR = (sys.executable, "-m", "clstr")
MEASURED = Path(__file__).parent / "measured.py"
HEADER = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n"


def measured(command: Sequence[str], directory: Path) -> dict[str, float]:
    """Run the command to its end: its wall time and CPU time in seconds, its peak memory in kB."""
    read, write = os.pipe()
    whole = [sys.executable, "-I", "-S", str(MEASURED), str(write), "3600", "notty", *command]
    process = subprocess.Popen(whole, cwd=directory, stdout=subprocess.DEVNULL, pass_fds=[write])
    os.close(write)
    with open(read) as report:
        found: dict[str, float] = json.loads(report.read())
    process.wait()
    if found["status"] != 0:
        raise SystemExit(f"{command}: {found}")
    return found


@contextlib.contextmanager
def nodes(ssh: bool, directory: Path) -> Iterator[list[str]]:
    """The flags that name the nodes."""
    if not ssh:
        yield ["-n", ": slots=4"]
        return
    from cluster.sshd import Cluster, Site

    site = Site()
    try:
        with Cluster(site, directory, 4) as cluster:
            yield ["-F", str(cluster.ssh_config), "-n", "n[1-4]"]
    finally:
        site.close()


def cost(jobs: int, rounds: int, ssh: bool) -> None:
    """Print jobs per second without records and with all, and the ratio."""
    rates: dict[str, list[float]] = {"none": [], "all": []}
    with tempfile.TemporaryDirectory() as name, nodes(ssh, Path(name)) as flags:
        directory = Path(name)
        (directory / "jobs").write_text("".join(f"true {n}\n" for n in range(jobs)))
        for number in range(rounds):
            kept = [f"{flag}={what}{number}" for flag, what in FILES]
            for kind, records in (("none", []), ("all", kept)):
                found = measured([*CLSTR, *flags, "-J", "jobs", *records], directory)
                rates[kind].append(jobs / found["wall"])
    none, everything = (statistics.median(rates[kind]) for kind in ("none", "all"))
    print(f"{jobs} jobs {'over SSH' if ssh else 'on this machine'}, median of {rounds}:")
    print(f"{none:8.0f} jobs/s without records")
    print(f"{everything:8.0f} jobs/s with all of them: {everything / none:.0%}")


FILES = (("--joblog", "log"), ("--run-dir", "dir"), ("--csv", "table"), ("--events", "events"), ("--trace", "trace"))


def resume(lines: int) -> None:
    """Print what it costs to read a log of so many lines."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for log, count in (("long", lines), ("short", 1)):
            with (directory / log).open("w") as file:
                file.write(HEADER)
                for n in range(count):
                    file.write(f"{n}\tnode{n % 100}\t1795778334.250\t    12.345\t0\t1000\t0\t0\t")
                    file.write(f"./simulate --seed {n} --out results/{n}.dat\n")
        size = (directory / "long").stat().st_size
        began = time.monotonic()
        subprocess.run(["wc", "-l", "long"], cwd=directory, stdout=subprocess.DEVNULL, check=True)
        counting = time.monotonic() - began
        job = ["-n", ":", "-j", "./simulate --seed 0 --out results/0.dat", "--resume"]
        long, short = (measured([*CLSTR, *job, "--joblog", log], directory) for log in ("long", "short"))
    print(f"a log of {lines} lines, {size / 1e6:.0f} MB:")
    print(f"{counting:8.3f} s  wc -l")
    print(f"{long['wall'] - short['wall']:8.3f} s  and {(long['peak'] - short['peak']) / 1024:.0f} MB more")
    print(f"          than with a log of one line: {short['wall']:.3f} s and {short['peak'] / 1024:.0f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    of_cost = commands.add_parser("cost")
    of_cost.add_argument("--jobs", type=int, default=2000)
    of_cost.add_argument("--rounds", type=int, default=5)
    of_cost.add_argument("--ssh", action="store_true")
    of_resume = commands.add_parser("resume")
    of_resume.add_argument("--lines", type=int, default=1_000_000)
    chosen = vars(parser.parse_args())
    if chosen.pop("command") == "cost":
        cost(**chosen)
    else:
        resume(**chosen)
