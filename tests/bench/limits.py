"""How clstr grows: throughput beside the first clstr, many nodes at once, many jobs. Prints what it saw, no claims.

    python tests/bench/limits.py throughput [--first PATH]   300 trivial jobs on 10 loopback nodes
    python tests/bench/limits.py nodes [--count 1000]        connected at once: peak memory beside bare asyncssh
    python tests/bench/limits.py jobs                        10,000 and 1,000,000 job lines, scripted nodes: peak memory

It starts its own sshd on loopback addresses (OpenSSH's server is needed) and stops them. PATH is the ``clstr`` of
another environment, into which clstr 0.1.0 was installed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))

from cluster.sshd import Cluster, site  # noqa: E402

CLSTR = [sys.executable, "-m", "clstr"]


@contextlib.contextmanager
def nodes(count: int, many: bool = False) -> Iterator[tuple[Cluster, Path]]:
    """Real nodes, and a file that lists them."""
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(site())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="clstr-bench-")))
        directory.chmod(0o755)
        cluster = stack.enter_context(Cluster(ours, directory, count, many=many))
        listed = directory / "nodes.txt"
        listed.write_text("".join(f"{node}\n" for node in cluster.nodes))
        yield cluster, listed


def peak(pid: int) -> float:
    """Peak resident memory of a process, MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise ValueError("no VmHWM")


def throughput(first: str | None, rounds: int) -> None:
    """Both in turn, so that the machine's moods fall on both."""
    with nodes(10) as (cluster, listed):
        jobs = cluster.directory / "jobs.txt"
        jobs.write_text("".join(f"echo {n}\n" for n in range(300)))
        ours = [*CLSTR, "-F", str(cluster.ssh_config), "-N", str(listed), "-J", str(jobs)]
        theirs = None
        if first is not None:
            # It pings nodes by name and calls ssh; both are found on PATH.
            tools = cluster.directory / "bin"
            tools.mkdir()
            for name, line in (("ssh", f'exec /usr/bin/ssh -F {cluster.ssh_config} "$@"'), ("ping", "exit 0")):
                (tools / name).write_text(f"#!/bin/sh\n{line}\n")
                (tools / name).chmod(0o755)
            theirs = ["script", "-qec", f"{first} -N {listed} -J {jobs}", "/dev/null"]
        for turn in range(rounds):
            mine = _seconds(ours, {})
            line = f"round {turn + 1}: clstr {300 / mine:.0f} jobs/s ({mine:.2f} s)"
            if theirs is not None:
                other = _seconds(theirs, {"PATH": f"{cluster.directory}/bin:{os.environ['PATH']}"})
                line += f", clstr 0.1.0 {300 / other:.1f} jobs/s ({other:.2f} s): {other / mine:.1f} times"
            print(line, flush=True)


def _seconds(command: list[str], environment: dict[str, str]) -> float:
    start = time.monotonic()
    everything = {**os.environ, **environment}
    result = subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=everything)
    seconds = time.monotonic() - start
    if sorted(map(int, result.stdout.split())) != list(range(300)):
        raise SystemExit(f"{command[0]}: not every job's output came ({len(result.stdout.split())} of 300)")
    return seconds


def many_nodes(count: int) -> None:
    """A command on each node at once; memory is read while all of them run."""
    with nodes(count, many=True) as (cluster, listed):
        active = cluster.directory / "active"
        run = subprocess.Popen(
            [*CLSTR, "-F", str(cluster.ssh_config), "-N", str(listed), "-E", "sleep 600", "-A", str(active)],
            stdout=subprocess.DEVNULL,
        )
        start = time.monotonic()
        while not active.exists() or len(active.read_text().splitlines()) < count:
            if run.poll() is not None or time.monotonic() - start > 300:
                raise SystemExit("clstr did not run on all nodes")
            time.sleep(0.1)
        print(f"clstr: {count} nodes run a job after {time.monotonic() - start:.1f} s, peak {peak(run.pid):.0f} MB")
        run.terminate()
        run.wait()
        bare = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("bare.py")), str(cluster.known_hosts), str(cluster.identity),
             cluster.account.name, str(cluster.port)],
            stdin=listed.open(), stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        start = time.monotonic()
        assert bare.stdout is not None
        said = bare.stdout.readline().strip()
        print(f"bare asyncssh: {said} after {time.monotonic() - start:.1f} s, peak {peak(bare.pid):.0f} MB")
        bare.terminate()
        bare.wait()


def many_jobs() -> None:
    """Every line goes the whole way but for the network: a scripted transport whose jobs end at once."""
    with tempfile.TemporaryDirectory() as directory:
        for count in (10_000, 1_000_000):
            jobs = Path(directory, "jobs")
            with jobs.open("w") as file:
                file.writelines(f"echo this is job number {n}\n" for n in range(count))
            scripted = Path(__file__).with_name("scripted.py")
            start = time.monotonic()
            result = subprocess.run(
                [sys.executable, str(scripted), str(jobs)], stdout=subprocess.PIPE, text=True, check=True
            )
            done, kilobytes = map(int, result.stdout.split())
            print(f"{done} jobs done: peak {kilobytes / 1024:.1f} MB, {time.monotonic() - start:.1f} s")


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("throughput", "nodes", "jobs"))
    parser.add_argument("--first", metavar="PATH")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.what == "throughput":
        throughput(arguments.first, arguments.rounds)
    elif arguments.what == "nodes":
        many_nodes(arguments.count)
    else:
        many_jobs()


if __name__ == "__main__":
    main()
