"""Who is to blame, side by side: bad jobs and bad nodes under clstr, GNU parallel and the first clstr.

    python tests/bench/blame.py [--seeds N] [--others N] [--first PATH]

Ten sshds on loopback addresses, of which two fail every job, and a thousand trivial jobs of which five fail wherever
they run, placed first, spread and last. Each line is one tool and one placement, over all its seeds: how many jobs were
done, how many the tool told of as failed, which nodes were evicted at the end, how many attempts were made, and the
share of the good nodes' time that they spent evicted. A job writes down its own attempts and its success, so
"done" is what really happened.
The first clstr finds an ``ssh`` and a ``ping`` of ours first in its PATH.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from cluster.sshd import Cluster, Site

NODES, JOBS, RETRIES = 10, 1000, 3
BAD_NODES = ("n9", "n10")
PLACES: dict[str, list[int]] = {
    "first": [1, 2, 3, 4, 5],
    "spread": [100, 300, 500, 700, 900],
    "last": [996, 997, 998, 999, 1000],
}


@dataclass
class Outcome:
    """What one run came to."""

    done: int
    tried: int
    failed: int
    evicted: tuple[str, ...]
    seconds: float
    lost: float | None = None  # share of the good nodes' time; None: it cannot be seen from outside


@contextmanager
def ledger(cluster: Cluster, poison: list[int]) -> Iterator[tuple[Path, Path]]:
    """A job file, and the directory in which jobs write down what happens to them."""
    directory = Path(tempfile.mkdtemp(prefix="blame-", dir=cluster.site.directory))
    directory.chmod(0o777)
    bad = "|".join(f'*" {cluster.addresses[int(node[1:]) - 1]} "*' for node in BAD_NODES)
    script = directory / "work"
    script.write_text(
        f'echo $1 >> {directory}/tried\ncase "$SSH_CONNECTION" in {bad}) exit 3;; esac\n'
        f'[ $2 = ok ] || exit 4\necho $1 >> {directory}/done\n'
    )
    lines = (f"sh {script} {number} {'poison' if number in poison else 'ok'}" for number in range(1, JOBS + 1))
    (directory / "jobs").write_text("".join(f"{line}\n" for line in lines))
    try:
        yield directory / "jobs", directory
    finally:
        shutil.rmtree(directory)


def counted(directory: Path) -> tuple[int, int]:
    """How many jobs succeeded, and how many attempts there were."""
    texts = [(directory / name).read_text() if (directory / name).exists() else "" for name in ("done", "tried")]
    return len(set(texts[0].split())), len(texts[1].split())


def under_clstr(cluster: Cluster, poison: list[int], seed: int) -> Outcome:
    """``clstr --retries 3``."""
    with ledger(cluster, poison) as (jobs, directory):
        command = [sys.executable, "-m", "clstr", "-v", "-F", cluster.ssh_config, "--seed", str(seed)]
        command += ["-n", f"n[1-{NODES}]", "-J", jobs, "--retries", str(RETRIES), "--evicted", directory / "evicted"]
        begun = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        since: dict[str, float] = {}
        away = 0.0
        closing = []
        for line in process.stderr:
            if event := re.match(r"clstr: (\S+): (evicted|pardoned|paroled):", line):
                node, what = event.groups()
                if what == "evicted":
                    since[node] = time.monotonic()
                elif node in since and node not in BAD_NODES:
                    away += time.monotonic() - since.pop(node)
            elif not re.match(r"clstr: (\S+: (job|connected)|job \d)", line):
                closing.append(line.rstrip())
        process.wait()
        ended = time.monotonic()
        away += sum(ended - begin for node, begin in since.items() if node not in BAD_NODES)
        done, tried = counted(directory)
        lines = (directory / "evicted").read_text().splitlines()
        evicted = tuple(sorted(line for line in lines if not line.startswith("#")))
        failed = sum("exit 4" in line and " on " in line for line in closing)
        share = away / ((NODES - len(BAD_NODES)) * (ended - begun))
        return Outcome(done, tried, failed, evicted, ended - begun, share)


def under_parallel(cluster: Cluster, poison: list[int], seed: int) -> Outcome:
    """``parallel --retries 4``, which counts tries; it has no notion of a bad node."""
    with ledger(cluster, poison) as (jobs, directory):
        sites = ",".join(f"1/{node}" for node in cluster.nodes)
        log = directory / "joblog"
        command = ["parallel", "--will-cite", "-S", sites, "--retries", str(RETRIES + 1), "--joblog", str(log)]
        begun = time.monotonic()
        with jobs.open() as lines:
            subprocess.run(
                command,
                stdin=lines,
                capture_output=True,
                env={**os.environ, "PARALLEL_SSH": f"ssh -F {cluster.ssh_config}", "HOME": str(directory)},
            )
        seconds = time.monotonic() - begun
        done, tried = counted(directory)
        rows = [row.split("\t") for row in log.read_text().splitlines()[1:]]
        ends = {row[0]: row[6] for row in rows}  # the exit status of each job's last try
        return Outcome(done, tried, sum(status != "0" for status in ends.values()), (), seconds)


def under_the_first(first: Path) -> Callable[[Cluster, list[int], int], Outcome]:
    """The first clstr: every node is blamed for whatever fails there. It needs a terminal."""

    def run(cluster: Cluster, poison: list[int], seed: int) -> Outcome:
        with ledger(cluster, poison) as (jobs, directory):
            shims = directory / "bin"
            shims.mkdir()
            ssh = shutil.which("ssh")
            (shims / "ssh").write_text(f'#!/bin/sh\nexec {ssh} -F {cluster.ssh_config} "$@"\n')
            (shims / "ping").write_text("#!/bin/sh\nexit 0\n")
            for shim in shims.iterdir():
                shim.chmod(0o755)
            line = f"{first} -v --node {' '.join(cluster.nodes)} --job-file {jobs}"
            path = f"{shims}{os.pathsep}{os.environ['PATH']}"
            begun = time.monotonic()
            result = subprocess.run(
                ["script", "-qec", line, "/dev/null"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                env={**os.environ, "PATH": path, "PYTHONPATH": ""},  # the package of the same name is not meant
                timeout=600,
            )
            seconds = time.monotonic() - begun
            done, tried = counted(directory)
            # It names no node; a run that left jobs undone had none left to run them on.
            evicted = tuple(cluster.nodes) if "not completed" in result.stdout else ()
            return Outcome(done, tried, 0, evicted, seconds)

    return run


def told(values: Iterable[object]) -> str:
    """Each value, with how many runs had it."""
    return ", ".join(f"{value} ({times}x)" for value, times in Counter(values).items())


def table(name: str, run: Callable[[Cluster, list[int], int], Outcome], cluster: Cluster, seeds: int) -> None:
    for place, poison in PLACES.items():
        outcomes = [run(cluster, poison, seed) for seed in range(1, seeds + 1)]
        lost = [outcome.lost for outcome in outcomes if outcome.lost is not None]
        share = f"{sum(lost) / len(lost):.2%}, at most {max(lost):.2%}" if lost else "not known"
        print(
            f"{name:<22} {place:<7} {seeds:>2} runs | done {told(x.done for x in outcomes)} | "
            f"told failed {told(x.failed for x in outcomes)} | "
            f"evicted {told(','.join(x.evicted) or 'none' for x in outcomes)} | "
            f"attempts {min(x.tried for x in outcomes)}-{max(x.tried for x in outcomes)} | "
            f"good nodes' time lost {share} | "
            f"{sum(x.seconds for x in outcomes) / seeds:.1f} s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Bad jobs and bad nodes under clstr and two others.")
    parser.add_argument("--seeds", type=int, default=20, help="runs of clstr for each placement; 0 leaves it out")
    parser.add_argument("--others", type=int, default=1, help="runs of the others for each placement")
    parser.add_argument("--first", type=Path, help="the first clstr's script")
    flags = parser.parse_args()
    site = Site()
    try:
        with tempfile.TemporaryDirectory() as directory, Cluster(site, Path(directory), NODES) as cluster:
            if flags.seeds:
                table(f"clstr --retries {RETRIES}", under_clstr, cluster, flags.seeds)
            if flags.others and shutil.which("parallel"):
                table(f"parallel --retries {RETRIES + 1}", under_parallel, cluster, flags.others)
            if flags.others and flags.first is not None:
                table("the first clstr", under_the_first(flags.first), cluster, flags.others)
    finally:
        site.close()


if __name__ == "__main__":
    main()
