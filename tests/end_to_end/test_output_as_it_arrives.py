"""What comes out: whole lines, bounded memory, closed and full outputs, the status line on a terminal."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster.sshd import Cluster, until
from end_to_end.clstr_process import CLSTR, Process, Result
from end_to_end.terminal import Terminal

Run = Callable[..., Result]
Start = Callable[..., Process]

MEBI = 1 << 20


def command(nodes: Cluster) -> str:
    """clstr for a shell line."""
    return f"{' '.join(CLSTR)} -F {nodes.ssh_config}"


# --- outputs that end --------------------------------------------------------------------------------------


def test_a_closed_stdout_ends_the_run_quietly(shell: Start, nodes: Cluster) -> None:
    line = f"{command(nodes)} -n 'n[1-2]' -J <(yes 'echo line') | head -1; echo ${{PIPESTATUS[0]}}"
    result = shell(line).result()
    assert (result.stdout, result.stderr) == (b"line\n141\n", "")


def test_a_full_stdout_ends_the_run_with_a_message(clstr: Run, nodes: Cluster) -> None:
    with open("/dev/full", "wb") as full:
        result = clstr("-n", "n1", "-j", "echo x", cluster=nodes, stdout=full)
    assert result.status == 1
    assert result.stderr.startswith("clstr: stdout: No space left on device (")


@pytest.mark.parametrize("asked", [["--help"], ["--version"], ["--completion", "bash"]])
def test_what_was_asked_for_and_cannot_be_printed_is_told(clstr: Run, asked: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        result = clstr(*asked, stdout=full)
    assert (result.status, result.stderr) == (1, "clstr: stdout: No space left on device (make room)\n")


def test_closed_standard_descriptors_are_no_place_for_a_record(shell: Start, tmp_path: Path) -> None:
    job = "echo a; echo b >&2"
    result = shell(f"{' '.join(CLSTR)} -n : -j '{job}' --joblog log --events events <&- >&- 2>&-").result()
    assert result.status == 0
    assert (tmp_path / "log").read_text().splitlines()[1].endswith(f"\t{job}")
    assert (tmp_path / "log").read_text().count("\n") == 2
    assert [json.loads(line)["event"] for line in (tmp_path / "events").open()][-1] == "Finished"
    unread = shell(f"{' '.join(CLSTR)} -n : -J - <&-").result()
    assert (unread.status, unread.stderr.partition(" (")[0]) == (2, "clstr: stdin:1: Bad file descriptor")


# --- whole lines -------------------------------------------------------------------------------------------


def long_line(letter: str, size: int) -> str:
    """A job that prints one line of so many bytes, in many writes."""
    return f"head -c {size} /dev/zero | tr '\\0' {letter}; echo"


def test_long_lines_stay_whole_beside_other_jobs(clstr: Run, nodes: Cluster) -> None:
    letters = "abcd"
    jobs = [part for letter in letters for part in ("-j", long_line(letter, 900_000))]
    small = ["-j", "for i in $(seq 500); do echo small; done"] * 2
    result = clstr("-n", "n[1-4] slots=2", *jobs, *small, cluster=nodes)
    lines = result.stdout.split(b"\n")
    assert result.status == 0
    assert lines.count(b"small") == 1000
    for letter in letters.encode():
        assert lines.count(bytes([letter]) * 900_000) == 1
    assert len(lines) == 1005


def test_a_line_of_three_megabytes_alone_stays_whole(clstr: Run, nodes: Cluster) -> None:
    result = clstr("-n", "n1", "-j", long_line("x", 3_000_000), cluster=nodes)
    assert (result.status, result.stdout) == (0, b"x" * 3_000_000 + b"\n")


def test_an_unfinished_line_is_passed_on_and_ended_only_when_others_follow(clstr: Run, nodes: Cluster) -> None:
    result = clstr("-n", "n1", "-j", "printf a", "-j", "printf b", cluster=nodes)
    assert result.stdout == b"a\nb"


def test_stdout_and_stderr_that_are_one_file_never_tear_a_line(shell: Start, nodes: Cluster, tmp_path: Path) -> None:
    both = "for i in $(seq 200); do echo out$CLSTR_JOB; echo err$CLSTR_JOB >&2; done"
    shell(f"{command(nodes)} -v -n 'n[1-4]' -j '{both}' -j '{both}' -j '{both}' > both.txt 2>&1").result()
    lines = (tmp_path / "both.txt").read_text().splitlines()
    for job in "123":
        assert lines.count(f"out{job}") == 200
        assert lines.count(f"err{job}") == 200
    assert all(re.match(r"(out|err)[123]$|clstr: |3 jobs: |n(ode|[1-4])  |\d\d:\d\d on n", line) for line in lines)


def test_output_goes_to_files_and_messages_do_not(clstr: Run, nodes: Cluster, tmp_path: Path) -> None:
    (tmp_path / "out.txt").write_text("something old, and longer than what is new\n")
    job = "echo out; echo err >&2; [ $CLSTR_ATTEMPT = 2 ]"
    result = clstr("-n", "n[1-2]", "-o", "out.txt", "-e", "err.txt", "-j", job, cluster=nodes)
    assert (result.status, result.stdout) == (0, b"")
    assert (tmp_path / "out.txt").read_text() == "out\nout\n"
    assert (tmp_path / "err.txt").read_text() == "err\nerr\n"
    assert result.stderr.startswith("clstr: 1 node evicted: ")
    one = clstr("-n", "n1", "-o", "both.txt", "-e", "both.txt", "-j", "echo a; echo b >&2", cluster=nodes)
    assert (one.status, one.stdout, one.stderr) == (0, b"", "")
    assert sorted((tmp_path / "both.txt").read_text().splitlines()) == ["a", "b"]
    nothing = clstr("-n", "n1", "-o", "-e", "-j", "echo a; echo b >&2", cluster=nodes)
    assert (nothing.status, nothing.stdout, nothing.stderr) == (0, b"", "")


# --- a slow reader -----------------------------------------------------------------------------------------


def test_a_hundred_megabytes_through_a_slow_reader_take_bounded_memory(start: Start, nodes: Cluster) -> None:
    size = 100 * MEBI
    job = f"yes $(printf %099d 7) | head -c {size // 4}"
    run = start("-n", "n[1-4]", *["-j", job] * 4, cluster=nodes, stdout=subprocess.PIPE)
    assert os.read(run.stdout.fileno(), 1) == b"0"
    before = memory(run.pid)
    until(lambda: is_at_rest(run.pid), "clstr reads no more than it can get rid of", 30)
    read, most = 1, before
    while data := os.read(run.stdout.fileno(), 16 * MEBI):
        read += len(data)
        most = memory(run.pid) or most
    assert run.result().status == 0
    assert read >= size
    assert read - size <= 3, "at most a newline between two jobs"
    assert most - before < 32 * MEBI


def memory(pid: int) -> int:
    """The most memory that the process has held so far, in bytes; 0 when it is gone."""
    with open(f"/proc/{pid}/status") as status:
        return next((int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")), 0)


def is_at_rest(pid: int) -> bool:
    """Whether the process takes nothing in for a while."""

    def taken() -> str:
        with open(f"/proc/{pid}/io") as io:
            return io.readline()

    first = taken()
    time.sleep(0.3)
    return taken() == first


# --- the terminal ------------------------------------------------------------------------------------------


def test_the_status_line_stands_below_the_output_on_a_terminal(
    start: Start, nodes: Cluster, scratch: Path, terminal: Terminal
) -> None:
    job = f"echo first; until [ -e {scratch}/over ]; do sleep 0.1; done; echo last"
    run = start(
        "-s", "-n", "n[1-4]", "-j", job, "-j", "echo short",
        cluster=nodes, stdout=terminal.slave, stderr=terminal.slave,
    )  # fmt: skip
    state = "1 of 2 jobs complete, 1 of 4 nodes running jobs."
    until(lambda: terminal.last_line().startswith(state), f"the screen has {state!r}", 20)
    until(lambda: "first" in terminal.lines(), "what the running job has printed is there", 20)
    shown = terminal.lines()
    assert sorted(shown[:-1]) == ["first", "short"]
    assert re.fullmatch(r".*jobs\. \[\d\d:\d\d<(\d\d:\d\d|\?)\]", shown[-1])
    (scratch / "over").touch()
    run.process.wait(30)
    shown = terminal.lines()
    assert run.process.returncode == 0
    assert sorted(shown[:-1]) == ["first", "last", "short"]
    assert shown[-1].startswith("2 of 2 jobs complete, 0 of 4 nodes running jobs. [00:")


def test_the_status_of_a_run_without_terminal_is_a_plain_last_line(clstr: Run, nodes: Cluster) -> None:
    result = clstr("-s", "-n", "n1", "-j", "true", "-j", "true", cluster=nodes)
    assert result.status == 0
    assert re.fullmatch(r"2 of 2 jobs complete, 0 of 1 nodes running jobs\. \[00:0\d<00:00\]\n", result.stderr)


# --- records -----------------------------------------------------------------------------------------------


def test_active_nodes_tells_what_runs_where_and_is_empty_at_the_end(
    start: Start, nodes: Cluster, scratch: Path, tmp_path: Path
) -> None:
    wait = f"until [ -e {scratch}/over ]; do sleep 0.1; done"
    marked = f"{wait}; # it's the other"
    active = tmp_path / "active.txt"
    run = start("-n", "n1", "n2", "-A", active, "-j", wait, "-j", marked, cluster=nodes)
    until(lambda: active.exists() and active.read_text().count("\n") == 2, "both are on the list")
    hosts = sorted(line.split(": ")[0] for line in active.read_text().splitlines())
    texts = sorted(line.split(": ", 1)[1] for line in active.read_text().splitlines())
    assert hosts == ["n1", "n2"]
    assert texts == sorted([f"<'Job' {wait!r}>", f"<'Job' {marked!r}>"])
    assert stat.S_IMODE(active.stat().st_mode) == 0o600
    (scratch / "over").touch()
    assert run.result().status == 0
    assert active.read_text() == ""


def test_verbose_tells_each_event_and_ends_with_tables(clstr: Run, nodes: Cluster) -> None:
    result = clstr("-v", "-n", "n1", "-j", "true", cluster=nodes)
    assert result.stderr.splitlines()[:3] == [
        "clstr: n1: connected",
        "clstr: n1: job 1 started: --job: true",
        "clstr: n1: job 1 ended: exit 0",
    ]
    assert "1 jobs: 1 done, 0 failed, 0 held, 0 not done; 1 attempt took 00:0" in result.stderr
    assert re.search(r"^n1 +1 +0 +\d+%$", result.stderr, re.M)
    assert "asyncssh: " in clstr("-vv", "-n", "n1", "-j", "true", cluster=nodes).stderr
