"""Being stopped: what a signal does to the run, and what is left on the nodes, which is nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster.sshd import Cluster, until
from end_to_end.clstr_process import CLSTR, Process, Result

Run = Callable[..., Result]
Start = Callable[..., Process]

FAMILY = "sleep 601 & sleep 602 & echo up; wait"
"""A job of several processes in one group."""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_the_first_signal_terminates_the_jobs_on_their_nodes(
    start: Start, nodes: Cluster, number: signal.Signals, status: int
) -> None:
    run = start("-n", "n[1-2]", "-j", FAMILY, "-j", FAMILY, "-j", "echo never", cluster=nodes)
    run.prints(b"up\n", 2)
    run.send(number)
    result = run.result()
    assert not [line for line in nodes.jobs().values() if "sleep 60" in line]
    assert (result.status, result.stdout) == (status, b"up\nup\n")
    assert result.stderr == (
        f"clstr: 3 of 3 jobs not done: stopped by {number.name}\n"
        f"clstr: --job: {FAMILY}\nclstr: --job: {FAMILY}\nclstr: --job: echo never\n"
    )


def test_a_job_that_will_not_end_is_killed_and_the_run_leaves(start: Start, nodes: Cluster) -> None:
    run = start("-n", "n1", "-j", "trap '' TERM INT HUP; echo up; while :; do sleep 1; done", cluster=nodes)
    run.prints(b"up\n")
    run.send(signal.SIGINT)
    assert run.result().status == 130
    until(lambda: not nodes.jobs(1), "the job is gone")


def test_jobs_that_wait_for_others_do_not_keep_a_stopped_run_alive(start: Start, tmp_path: Path) -> None:
    keys = ("executable = sleep", "arguments = 600", '+Name = "first"', "queue", '+Name = "second"', '+After = "first"')
    last = ('+Name = "third"', '+After = "second"', "queue")
    (tmp_path / "jobs.sub").write_text("\n".join([*keys, "queue", *last, ""]))
    run = start("-n", ":", "-S", "jobs.sub", "-v")
    run.says("job 1 started")
    run.send(signal.SIGINT)
    result = run.result()
    assert result.status == 130
    assert "clstr: 3 of 3 jobs not done: stopped by SIGINT\n" in result.stderr


def test_the_second_interrupt_leaves_at_once(start: Start, nodes: Cluster) -> None:
    deaf = "trap 'echo told' TERM; trap '' INT HUP; echo up; while :; do sleep 0.1; done"
    run = start("-n", "n1", "-j", deaf, cluster=nodes)
    run.prints(b"up\n")
    run.send(signal.SIGINT)
    run.prints(b"told\n")  # a second signal that comes before Python has heard of the first would be the same one
    run.send(signal.SIGINT)
    result = run.result()
    assert result.status == 130
    assert "not done" not in result.stderr  # no closing words: it did not wait for the job's end
    until(lambda: not nodes.jobs(1), "the leash has ended the job", 20)


def pending(pid: int) -> set[int]:
    """The signals that wait to be delivered to the process."""
    return signals(pid, "ShdPnd")


def caught(pid: int) -> set[int]:
    """The signals that the process has something of its own for."""
    return signals(pid, "SigCgt")


def signals(pid: int, kind: str) -> set[int]:
    """A set of signals of the process, as /proc has it."""
    with open(f"/proc/{pid}/status") as status:
        mask = next(int(line.split()[1], 16) for line in status if line.startswith(kind))
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def test_sigusr1_lists_what_runs_longest_first(start: Start, nodes: Cluster) -> None:
    run = start("-n", "n[1-2]", "-J", "-", cluster=nodes, stdin=subprocess.PIPE)
    run.give(b"echo a; read x; sleep 611\n")
    run.prints(b"a\n")
    run.give(b"echo b; sleep 612\n")
    run.prints(b"b\n")
    run.send(signal.SIGUSR1)
    run.says("sleep 612")
    first, second = [line for line in run.said().splitlines() if "sleep" in line]
    assert "611" in first
    assert re.search(r"n[12]", first)
    assert "612" in second
    run.send(signal.SIGINT)
    assert run.result().status == 130


def test_sigusr1_lists_copies_too(start: Start, cluster: Callable[..., Cluster], scratch: Path) -> None:
    sftp = scratch / "sftp"
    sftp.write_text(f"#!/bin/sh\nuntil [ -e {scratch}/over ]; do sleep 0.1; done\n")
    sftp.chmod(0o755)
    nodes = cluster(nodes=1, extra_config=f"Subsystem sftp {sftp}")
    run = start("-v", "-n", "n1", "--results", "results", "-j", "echo RESULTS: some", cluster=nodes)
    run.says("job 1 ended: exit 0")
    run.send(signal.SIGUSR1)
    run.says("clstr: n1: job 1 copying its results for 0")
    run.send(signal.SIGINT)
    assert run.result().status == 130
    (scratch / "over").touch()


def test_sigusr1_before_the_run_is_answered_and_ends_nothing(start: Start, tmp_path: Path) -> None:
    nodes = tmp_path / "nodes"
    os.mkfifo(nodes)
    run = start("-N", nodes, "-j", "echo ran")
    until(lambda: signal.SIGUSR1 in caught(run.pid), "clstr has begun")
    run.send(signal.SIGUSR1)
    run.says("clstr: no job is running\n")
    nodes.write_text(":\n")
    result = run.result()
    assert (result.status, result.stdout, result.stderr) == (0, b"ran\n", "clstr: no job is running\n")


def test_sigusr1_is_answered_while_a_node_is_made_ready(start: Start, nodes: Cluster, scratch: Path) -> None:
    setup = f"touch {scratch}/begun; until [ -e {scratch}/over ]; do sleep 0.1; done"
    run = start("-n", "n1", "--setup", setup, "-j", "echo ran", cluster=nodes)
    until((scratch / "begun").exists, "the setup has begun", 30)
    run.send(signal.SIGUSR1)
    run.says("clstr: no job is running\n")
    (scratch / "over").touch()
    result = run.result()
    assert (result.status, result.stdout) == (0, b"ran\n")


def test_sigusr2_drains(start: Start, nodes: Cluster, scratch: Path) -> None:
    first = f"echo up; until [ -e {scratch}/over ]; do sleep 0.1; done; echo finished"
    run = start("-n", "n1", "-j", first, "-j", "echo never", cluster=nodes)
    run.prints(b"up\n")
    run.send(signal.SIGUSR2)
    until(lambda: signal.SIGUSR2 not in pending(run.pid), "the signal was taken")
    (scratch / "over").touch()
    result = run.result()
    assert (result.status, result.stdout) == (1, b"up\nfinished\n")
    assert result.stderr == "clstr: 1 of 2 jobs not done: drained by SIGUSR2\nclstr: --job: echo never\n"


def test_it_runs_without_a_terminal_in_a_session_of_its_own(shell: Start, nodes: Cluster) -> None:
    result = shell(f"setsid --wait {' '.join(CLSTR)} -F {nodes.ssh_config} -s -n n1 -j 'tty; echo ran'").result()
    assert result.status == 0
    assert result.stdout == b"not a tty\nran\n"


def test_exit_status_of_success_is_0(clstr: Run, nodes: Cluster) -> None:
    result = clstr("-n", "n1", "-j", "true", cluster=nodes)
    assert (result.status, result.stdout, result.stderr) == (0, b"", "")
