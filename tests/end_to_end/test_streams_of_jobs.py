"""Jobs as they come: FIFOs, standard input, endless streams, NUL, and what is wrong in mid-stream."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from cluster.sshd import Cluster, until
from end_to_end.clstr_process import CLSTR, Process, Result
from end_to_end.terminal import Terminal

Run = Callable[..., Result]
Start = Callable[..., Process]


def test_a_fifo_that_stays_open_holds_up_neither_jobs_nor_status(
    start: Start, nodes: Cluster, scratch: Path, tmp_path: Path, terminal: Terminal
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    run = start("-s", "-n", "n[1-2]", "-J", fifo, cluster=nodes, stderr=terminal.slave)

    def shows(state: str) -> None:
        until(lambda: terminal.last_line().startswith(state), f"the status is {state!r}", 20)

    with fifo.open("wb", buffering=0) as writer:
        writer.write(b"echo first\n")
        run.prints(b"first\n")  # long before the end of the file
        shows("1 of 1+ jobs complete, 0 of 2 nodes running jobs.")
        writer.write(b"until [ -e %s/over ]; do sleep 0.1; done; echo second\n" % os.fsencode(scratch))
        shows("1 of 2+ jobs complete, 1 of 2 nodes running jobs.")
        writer.write(b"echo third")
        writer.write(b"\n")
        run.prints(b"third\n")
        shows("2 of 3+ jobs complete, 1 of 2 nodes running jobs.")
        (scratch / "over").touch()
        run.prints(b"second\n")
        shows("3 of 3+ jobs complete, 0 of 2 nodes running jobs.")
        assert run.running
    assert run.result().status == 0
    shows("3 of 3 jobs complete, 0 of 2 nodes running jobs.")


def test_an_endless_stream_is_stopped_by_an_interrupt(shell: Start, nodes: Cluster) -> None:
    line = f"exec {' '.join(CLSTR)} -F {nodes.ssh_config} -n 'n[1-4]' -J <(yes 'echo on and on')"
    run = shell(line)
    run.prints(b"on and on\n", 20)
    run.send(signal.SIGINT)
    result = run.result()
    assert result.status == 130
    words = result.stderr.splitlines()
    assert re.fullmatch(r"clstr: \d+ of \d+\+ jobs not done: stopped by SIGINT", words[0])
    assert [line.endswith(": echo on and on") for line in words[1:11]] == [True] * 10
    assert re.fullmatch(r"clstr: and \d+ more", words[11])


def test_a_loop_over_lines_loses_none_to_the_clstr_within(shell: Start, nodes: Cluster) -> None:
    line = f'while read -r word; do {" ".join(CLSTR)} -F {nodes.ssh_config} -n n1 -j "cat; echo $word"; done'
    run = shell(line, stdin=subprocess.PIPE)
    run.give(b"one\ntwo\nthree\n")
    run.stdin.close()
    result = run.result()
    assert (result.status, result.stdout, result.stderr) == (0, b"one\ntwo\nthree\n", "")


def test_bytes_that_are_not_utf8_reach_the_job_and_come_back(clstr: Run, nodes: Cluster, tmp_path: Path) -> None:
    jobs = tmp_path / "jobs.txt"
    jobs.write_bytes(b"printf '\xff\xfe %s\\n' \xe9; echo '\xf0\x28' >&2\n")
    result = clstr("-n", "n1", "-J", jobs, "-j", b"echo \xdf", "-e", tmp_path / "errors", cluster=nodes)
    assert result.status == 0
    assert sorted(result.stdout.splitlines()) == [b"\xdf", b"\xff\xfe \xe9"]
    assert (tmp_path / "errors").read_bytes() == b"\xf0\x28\n"


def test_entries_that_end_with_nul_may_hold_newlines(clstr: Run, nodes: Cluster, tmp_path: Path) -> None:
    jobs = tmp_path / "jobs.bin"
    jobs.write_bytes(b"for i in 1 2; do\n  echo a$i\ndone\0\0# no comment here\necho b")
    result = clstr("-n", "n1", "-0", "-J", jobs, cluster=nodes)
    assert (result.status, result.stdout) == (0, b"a1\na2\nb\n")


def test_job_files_skip_blanks_and_comments_and_keep_their_order(clstr: Run, nodes: Cluster, tmp_path: Path) -> None:
    first, second = tmp_path / "1.txt", tmp_path / "2.txt"
    first.write_bytes(b"# a comment\r\necho $CLSTR_JOB a\r\n \t\n")
    second.write_bytes(b"  # another\necho $CLSTR_JOB b")
    result = clstr("-n", "n1", "-J", first, second, "-j", "echo $CLSTR_JOB c", cluster=nodes)
    assert (result.status, result.stdout) == (0, b"1 c\n2 a\n3 b\n")


def test_an_empty_job_file_is_no_error(clstr: Run, nodes: Cluster, tmp_path: Path) -> None:
    jobs = tmp_path / "jobs.txt"
    jobs.write_text("\n# nothing yet\n")
    result = clstr("-n", "n1", "-J", jobs, cluster=nodes)
    assert (result.status, result.stdout, result.stderr) == (0, b"", "clstr: 0 jobs\n")


def test_a_nul_in_mid_stream_lets_what_runs_finish_and_starts_nothing_new(
    start: Start, nodes: Cluster, scratch: Path
) -> None:
    run = start("-n", "n[1-2]", "-J", "-", cluster=nodes, stdin=subprocess.PIPE)
    run.give(b"echo begun; until [ -e %s/over ]; do sleep 0.1; done; echo finished\n" % os.fsencode(scratch))
    run.prints(b"begun\n")
    run.give(b"echo fine\n")
    run.prints(b"fine\n")
    run.give(b"echo no\0good\necho never\n")
    (scratch / "over").touch()
    result = run.result()
    assert (result.status, result.lines) == (2, ["begun", "fine", "finished"])
    assert "clstr: stdin:3: NUL byte in a job (use --null for entries that end with NUL)\n" in result.stderr


def test_a_read_error_is_named_with_its_file_and_line(clstr: Run, nodes: Cluster) -> None:
    result = clstr("-n", "n1", "-j", "echo read before", "-J", "/proc/self/mem", cluster=nodes)
    assert result.status == 2
    assert "clstr: /proc/self/mem:1: Input/output error (the jobs before it were read)\n" in result.stderr
    assert result.stdout in (b"", b"read before\n")
    assert bool(result.stdout) or "echo read before" in result.stderr  # done, or named as not done
