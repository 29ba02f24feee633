"""The benchmark runs, with little of everything: what it prints of clstr is there, and nothing is left running."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from bench.peers import Call, Failed, Flood, measure, one_line, whole
from cluster.sshd import Site, descendants, until

PEERS = Path(__file__).with_name("peers.py")


def test_jobs_and_the_slow_link(site: Site) -> None:
    command = [sys.executable, PEERS, "--quick", "--only", "a,g", "--tools", "clstr,bare asyncssh"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert re.findall(r"^\| (clstr|bare asyncssh) ", result.stdout, re.M) == ["clstr", "bare asyncssh"] * 3
    assert ": out, in round" not in result.stdout


def test_the_scheduler_alone(site: Site) -> None:
    result = subprocess.run(
        [sys.executable, PEERS, "--quick", "--only", "h", "--tools", ""], capture_output=True, text=True, check=True
    )
    assert len(re.findall(r"^\| [\d,]+ jobs on [\d,]+ slots ", result.stdout, re.M)) == 2


# --- measuring ---------------------------------------------------------------------------------------------


def shell(line: str) -> Call:
    return Call(["sh", "-c", line])


def busy(seconds: float) -> str:
    code = f"import time\nwhile time.process_time() < {seconds}: pass"
    return f"{sys.executable} -S -c '{code}'"


def nothing(output: int) -> None:
    assert whole(output) == ""


def test_the_processes_that_outlive_their_parents_count_too(tmp_path: Path) -> None:
    over = tmp_path / "over"
    orphan = f"mkfifo {over}; ( ({busy(0.2)}; : > {over}) >/dev/null 2>&1 & ); read x < {over}; true"
    assert measure(shell(orphan), nothing).cpu >= 0.2


def test_memory_is_that_of_the_largest_process() -> None:
    large = f"{sys.executable} -S -c 'x = bytearray(64000000)'"
    assert 64 < measure(shell(f"true; {large}; true"), nothing).peak < 100


def test_a_run_that_fails_does_not_count() -> None:
    with pytest.raises(Failed, match="exit 3; no such thing"):
        measure(shell("echo no such thing >&2; exit 3"), nothing)


def test_what_a_run_leaves_behind_is_ended() -> None:
    pids: list[str] = []
    measure(shell("sleep 1000 >/dev/null & echo $!"), lambda output: pids.extend(whole(output).split()))
    until(lambda: not descendants(map(int, pids)), "it is gone")


def test_a_program_that_wants_a_terminal_has_one() -> None:
    measure(Call(["sh", "-c", "echo x > /dev/tty"], terminal=True), nothing)


# --- reading floods ----------------------------------------------------------------------------------------

A, B = b"a" * 79 + b"\n", b"b" * 79 + b"\n"


def flood(script: str) -> int:
    flood = Flood([A, B], 4)
    code = f"import sys\nwrite = sys.stdout.buffer.write\nA, B = {A!r}, {B!r}\n{script}"
    measure(Call([sys.executable, "-c", code]), flood)
    return flood.intact


def test_lines_that_are_whole() -> None:
    assert flood("write(A + B); write(A + B)") == 4


def test_lines_that_are_torn() -> None:
    assert flood("write(A + A[:40] + B + A[40:] + B)") < 4


def test_lines_that_are_missing() -> None:
    with pytest.raises(Failed, match="3 of 4 lines came"):
        flood("write(A + B + A)")


def test_one_long_line() -> None:
    measure(shell("echo xxxxxx"), one_line(6))
    with pytest.raises(Failed, match="not one line"):
        measure(shell("echo xxx; echo xxx"), one_line(6))
