"""The status line and the jobs' output as they look on terminals: tmux, script, a pipe, narrow and wide ones."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pyte
import pytest
from cluster.sshd import until
from end_to_end.clstr_process import CLSTR, Process, Result
from end_to_end.tmux import Tmux

Run = Callable[..., Result]
Start = Callable[..., Process]

CLSTR_LINE = " ".join(CLSTR)

WORK = r"""
letter=$1 gate=$2
print() {
    for i in $(seq $1 $2); do
        printf '%s%s ' "$letter" "$i"; printf 'in parts\n'
        printf '%s\t%s\n' "$letter" "$i"
        printf '\033[3%smcoloured %s\033[m\n' "$((i % 8))" "$letter"
        printf '%0299d%s\n' "$i" "$letter"
        for j in 1 2 3 4 5 6; do printf '%s' 中文中文中文中文中文; done; echo "$letter"
        sleep 0.02
    done
}
print 1 5
until [ -e "$gate" ]; do sleep 0.05; done
print 6 10
"""


def work_of(letter: str, rounds: range) -> list[str]:
    """What the job prints, as a screen has it."""
    return [
        line
        for i in rounds
        for line in (
            f"{letter}{i} in parts",
            f"{letter}\t{i}".expandtabs(),
            f"coloured {letter}",
            f"{i:0299}{letter}",
            f"{'中文' * 30}{letter}",
        )
    ]


@pytest.fixture
def tmux(tmp_path: Path, needs: Callable[[str], None]) -> Iterator[Callable[..., Tmux]]:
    """A factory: ``tmux(line, columns=80)`` runs a shell line in a window."""
    needs("tmux")
    windows: list[Tmux] = []

    def start(line: str, **size: int) -> Tmux:
        windows.append(Tmux(tmp_path, line, **size))
        return windows[-1]

    yield start
    for window in windows:
        window.close()


@pytest.fixture
def jobs(tmp_path: Path) -> str:
    """Two jobs that print much, and go on in the middle once ``gate`` is there."""
    work = tmp_path / "work.sh"
    work.write_text(WORK)
    return " ".join(f"-j {shlex.quote(f'bash {work} {letter} {tmp_path}/gate')}" for letter in "XY")


def of(letter: str, lines: list[str]) -> list[str]:
    """The lines of the job."""
    return [line for line in lines if letter in line]


FIRST_HALF = [work_of(letter, range(1, 6)) for letter in "XY"]
ALL = [work_of(letter, range(1, 11)) for letter in "XY"]
RUNNING = "0 of 2 jobs complete, 2 of 2 nodes running jobs. ["
OVER = "2 of 2 jobs complete, 0 of 2 nodes running jobs. ["


def shows(window: Tmux, output: list[list[str]], status: str) -> bool:
    """Is it the jobs' output that stands there, whole, below it this status line, and nothing else?"""
    *above, last = window.lines()
    jobs = [of(letter, above) for letter in "XY"]
    return jobs == output and len(above) == sum(map(len, output)) and last.startswith(status.rstrip())


@pytest.mark.parametrize("columns", [20, 80, 200])
def test_output_flows_above_the_status_line_at_any_width(
    tmux: Callable[..., Tmux], tmp_path: Path, jobs: str, columns: int
) -> None:
    window = tmux(f"{CLSTR_LINE} -s -n ': slots=2' {jobs}", columns=columns)
    until(lambda: shows(window, FIRST_HALF, RUNNING[: columns - 1]), "the first half is there", 60)
    (tmp_path / "gate").touch()
    assert window.ended() == 0
    until(lambda: shows(window, ALL, OVER[: columns - 1]), "all is there", 20)
    assert len(window.lines()[-1]) < columns


def test_the_status_line_follows_the_width_and_leaves_nothing_behind(
    tmux: Callable[..., Tmux], tmp_path: Path, jobs: str
) -> None:
    window = tmux(f"{CLSTR_LINE} -s -n ': slots=2' {jobs}", columns=100)
    until(lambda: shows(window, FIRST_HALF, RUNNING), "the first half is there", 60)
    for columns in (40, 20, 60, 200, 80):
        window.resize(columns)
        status = RUNNING[: columns - 1]
        until(lambda status=status: shows(window, FIRST_HALF, status), f"the status has {columns} columns", 30)
    (tmp_path / "gate").touch()
    assert window.ended() == 0
    until(lambda: shows(window, ALL, OVER), "all is there", 20)


def test_under_script_the_status_line_is_drawn_too(
    shell: Start, tmp_path: Path, jobs: str, needs: Callable[[str], None]
) -> None:
    needs("script")
    (tmp_path / "gate").touch()
    line = shlex.quote(f"stty cols 80 rows 24; {CLSTR_LINE} -s -n ': slots=2' {jobs}")
    result = shell(f"script -qec {line} typescript > /dev/null").result()
    assert result.status == 0
    screen = pyte.HistoryScreen(80, 24, history=1000)
    text = (tmp_path / "typescript").read_bytes().split(b"\n", 1)[1].rpartition(b"\nScript done")[0]
    pyte.ByteStream(screen).feed(text)
    rows = ["".join(row[at].data for at in range(80)).rstrip() for row in screen.history.top]
    rows += [row.rstrip() for row in screen.display]
    shown = [row for row in rows if row]
    assert sum("of 2 jobs" in row for row in shown) == 1
    assert shown[-1].startswith("2 of 2 jobs complete, 0 of 2 nodes running jobs. [")
    for letter in "XY":
        assert [row for row in shown if row.endswith("in parts") and row.startswith(letter)] == [
            f"{letter}{i} in parts" for i in range(1, 11)
        ]


def test_through_a_pipe_the_status_is_a_plain_line(tmux: Callable[..., Tmux], tmp_path: Path, jobs: str) -> None:
    (tmp_path / "gate").touch()
    window = tmux(f"{CLSTR_LINE} -s -n ': slots=2' {jobs} 2>&1 | cat -v", columns=200)
    assert window.ended() == 0
    until(lambda: window.lines()[-1].startswith(OVER), "all is there", 20)
    *output, status = window.lines()
    assert re.fullmatch(r"2 of 2 jobs complete, 0 of 2 nodes running jobs\. \[\d\d:\d\d<00:00\]", status)
    assert sum("of 2 jobs" in line for line in output) == 0
    assert [line for line in output if line.startswith("X") and "parts" in line] == [
        f"X{i} in parts" for i in range(1, 11)
    ]


def test_what_the_reader_of_stdout_prints_on_the_terminal_is_not_torn(
    tmux: Callable[..., Tmux], tmp_path: Path, jobs: str
) -> None:
    (tmp_path / "gate").touch()
    window = tmux(f"{CLSTR_LINE} -s -n ': slots=2' {jobs} | tee log", columns=80)
    assert window.ended() == 0

    def is_whole() -> bool:
        """In whatever order the two programs came to print."""
        lines = window.lines()
        status = [line for line in lines if line.startswith(OVER)]
        jobs = [of(letter, lines) for letter in "XY"]
        return jobs == ALL and len(status) == 1 and len(lines) == sum(map(len, ALL)) + 1

    until(is_whole, "all is there", 20)


def test_a_reader_of_stdout_that_prints_elsewhere_leaves_the_status_line_alone(
    tmux: Callable[..., Tmux], tmp_path: Path, jobs: str
) -> None:
    window = tmux(f"{CLSTR_LINE} -s -n ': slots=2' {jobs} | cat > log")
    until(lambda: shows(window, [[], []], RUNNING), "the status line is there while jobs run", 60)
    (tmp_path / "gate").touch()
    assert window.ended() == 0
    until(lambda: shows(window, [[], []], OVER), "the last state is there", 20)
