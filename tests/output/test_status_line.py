"""The status line: its words and its clock over a fake console, its place on a real terminal."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pyte
import pytest

from clstr.model import Attempt, Done, Job, Node, Sink, Slot, Tally
from clstr.output.console import Console, Files
from clstr.output.lines import LONGEST
from clstr.output.merge import Merge
from clstr.output.status import Status, asides, words

ATTEMPT = Attempt(Job(1, b"true"), 1, Slot(Node("n1", "n1"), 1))
TALLY = Tally(556, 110, 0, 270, 176, 176, 176, 0)
WORDS = "110 of 556 jobs complete, 176 of 176 nodes running jobs."


# --- words and clock ---


@dataclass(eq=False)
class Timer:
    when: float
    callback: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """The part of an event loop that the status line uses, under a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        self.timers.append(Timer(max(when, self.now), callback))
        return self.timers[-1]

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        return self.call_at(self.now + delay, callback)

    def call_soon(self, callback: Callable[[], None]) -> Timer:
        return self.call_at(self.now, callback)

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [timer for timer in self.timers if timer.when <= end and not timer.cancelled]:
            first = min(due, key=lambda timer: timer.when)
            self.timers.remove(first)
            self.now = first.when
            first.callback()
        self.now = end


class Screen:
    """A console that remembers what it was told to show."""

    def __init__(self, terminal: bool) -> None:
        self.terminal = terminal
        self.shown: list[str] = []
        self.left = 0

    def status(self, line: str | None) -> None:
        self.shown.append(line or "")

    line = status

    def leave_status(self) -> None:
        self.left += 1


class Run:
    """What the status line asks."""

    def __init__(self) -> None:
        self.now = TALLY
        self.closed = True
        self.read = 556

    def tally(self) -> Tally:
        return self.now

    def seen(self) -> tuple[int, bool]:
        return self.read, self.closed


def shown(terminal: bool, run: Run | None = None) -> tuple[Status, Screen, Clock]:
    run, screen, clock = run or Run(), Screen(terminal), Clock()
    return Status(screen, run.tally, run.seen, clock), screen, clock  # type: ignore[arg-type]


def test_the_line_begins_with_exactly_these_words() -> None:
    assert words(TALLY, 556, closed=True) == WORDS
    assert words(TALLY, 556, closed=False) == WORDS.replace("556", "556+")


def test_elapsed_and_remaining_time_follow_the_words() -> None:
    _, screen, clock = shown(terminal=True)
    clock.advance(0)
    assert re.fullmatch(re.escape(WORDS) + r" \[\d\d:\d\d<[\d:]+\]", screen.shown[0])


def test_what_remains_is_unknown_while_the_stream_is_open() -> None:
    run = Run()
    run.closed = False
    run.read = 560
    _, screen, clock = shown(terminal=True, run=run)
    clock.advance(0)
    assert screen.shown[0].startswith("110 of 560+ jobs complete, 176 of 176 nodes running jobs. [")
    assert screen.shown[0].endswith("<?]")


def test_failed_jobs_and_evicted_nodes_are_added_when_there_are_any() -> None:
    assert asides(TALLY) == ""
    assert asides(replace(TALLY, failed=2, evicted=1)) == "2 failed, 1 node evicted"
    assert asides(replace(TALLY, copying=3, failed=2, held=1)) == "3 copying, 2 failed, 1 held"
    run = Run()
    run.now = replace(TALLY, evicted=3)
    _, screen, clock = shown(terminal=True, run=run)
    clock.advance(0)
    assert screen.shown[0].startswith(WORDS)
    assert screen.shown[0].endswith("], 3 nodes evicted")


def test_a_run_without_jobs_has_a_line_too() -> None:
    run = Run()
    run.now, run.read = Tally(0, 0, 0, 0, 0, 0, 4, 0), 0
    _, screen, clock = shown(terminal=True, run=run)
    clock.advance(0)
    assert screen.shown[0].startswith("0 of 0 jobs complete, 0 of 4 nodes running jobs. [")


def test_the_terminal_line_is_drawn_each_second_for_its_clock() -> None:
    _, screen, clock = shown(terminal=True)
    clock.advance(5.5)
    assert len(screen.shown) == 6


def test_events_draw_the_line_again_at_most_ten_times_a_second() -> None:
    status, screen, clock = shown(terminal=True)
    clock.advance(0)
    for _ in range(1000):
        status.saw(0.0, Done(ATTEMPT.job, ATTEMPT))
        clock.advance(0.001)
    assert 9 <= len(screen.shown) - 1 <= 10


def test_an_event_after_a_silence_is_drawn_at_once() -> None:
    status, screen, clock = shown(terminal=True)
    clock.advance(0.5)
    status.saw(0.0, Done(ATTEMPT.job, ATTEMPT))
    clock.advance(0)
    assert len(screen.shown) == 2


def test_a_new_size_of_the_terminal_draws_the_line_again_at_once() -> None:
    status, screen, clock = shown(terminal=True)
    clock.advance(0.5)
    status.redraw()
    assert len(screen.shown) == 2
    clock.advance(0.9)
    assert len(screen.shown) == 2
    clock.advance(0.2)
    assert len(screen.shown) == 3
    status, screen, _ = shown(terminal=False)
    status.redraw()
    assert screen.shown == []


def test_without_a_terminal_it_is_a_line_every_ten_seconds_and_a_last_one() -> None:
    run = Run()
    status, screen, clock = shown(terminal=False, run=run)
    for _ in range(250):
        status.saw(0.0, Done(ATTEMPT.job, ATTEMPT))
        clock.advance(0.1)
    assert len(screen.shown) == 2
    run.now = replace(TALLY, done=556)
    status.close()
    clock.advance(100)
    assert len(screen.shown) == 3
    assert screen.shown[-1].startswith("556 of 556 jobs complete")


def test_closing_draws_the_last_state_and_leaves_it() -> None:
    run = Run()
    status, screen, clock = shown(terminal=True, run=run)
    clock.advance(0)
    run.now = replace(TALLY, done=556)
    status.close()
    clock.advance(100)
    assert screen.shown[-1].startswith("556 of 556 jobs complete")
    assert (len(screen.shown), screen.left) == (2, 1)


def test_tqdm_starts_no_thread() -> None:
    from tqdm import tqdm

    _, _, clock = shown(terminal=True)
    clock.advance(3)
    assert tqdm.monitor is None


def test_nothing_of_tqdm_s_in_the_environment_changes_the_line_or_breaks_it() -> None:
    """In a process of its own, because tqdm reads the environment when it is imported."""
    program = "from clstr.output.status import _Screen, _bar; _bar(_Screen(print)).refresh()"
    foreign = {"TQDM_DISABLE": "1", "TQDM_BAR_FORMAT": "nonsense", "TQDM_POSITION": "3", "TQDM_NCOLS": "5"}
    environment = os.environ | foreign | {"TQDM_MINITERS": "some", "TQDM_WRITE_BYTES": "1"}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (result.stdout, result.stderr) == ("[00:00<?]\n", "")


# --- on a terminal ---


class Terminal:
    """A pseudo-terminal whose screen and scrollback pyte keeps."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self._master, self.fd = os.openpty()
        termios.tcsetwinsize(self.fd, (rows, columns))
        self.screen = pyte.HistoryScreen(columns, rows, history=100_000, ratio=0.5)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = bytearray()
        self._lock = threading.Lock()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            while data := os.read(self._master, 1 << 16):
                with self._lock:
                    self.raw += data
                    if b"x" * 1000 not in data:  # pyte is slow, and such lines are looked at raw
                        self._stream.feed(data)
        except OSError:  # EIO: the other end is closed
            os.close(self._master)

    def resize(self, columns: int) -> None:
        with self._lock:
            termios.tcsetwinsize(self.fd, (self.screen.lines, columns))
            self.screen.resize(columns=columns)

    def lines(self) -> list[str]:
        """All that was printed, as it stands, without empty lines at the end."""
        with self._lock:
            columns = range(self.screen.columns)
            old = ["".join(line[at].data for at in columns).rstrip() for line in self.screen.history.top]
            return ("\n".join(old + [line.rstrip() for line in self.screen.display])).rstrip("\n").split("\n")

    def close(self) -> None:
        os.close(self.fd)


made: list[Console] = []


@pytest.fixture(autouse=True)
def _threads_end() -> Iterator[None]:
    yield
    while made:
        made.pop().close()


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


def console(terminal: Terminal, stdout: int | None = None) -> Console:
    def unexpected(*what: object) -> None:
        raise AssertionError(what)

    fd = terminal.fd
    files = Files(fd if stdout is None else stdout, fd, fd)
    made.append(Console(files, asyncio.get_running_loop(), unexpected, unexpected))
    return made[-1]


class Open:
    def pause(self) -> None: ...

    def resume(self) -> None: ...


def job(on: Console) -> Sink:
    sink = Merge(on).sink(ATTEMPT)
    sink.begun(Open())
    return sink


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the condition is a fact of another thread
            await asyncio.sleep(0.02)


def test_who_leaves_at_once_leaves_a_line_of_its_own_to_the_prompt(terminal: Terminal) -> None:
    async def run() -> None:
        c = console(terminal)
        c.status("1 of 3 jobs complete")
        await until(lambda: terminal.lines() == ["1 of 3 jobs complete"])
        await c.drain()
        c.step_off()
        os.write(terminal.fd, b"$ ls")
        await until(lambda: "$ ls" in "".join(terminal.lines()))
        assert terminal.lines() == ["1 of 3 jobs complete", "$ ls"]

    asyncio.run(run())


def test_output_and_status_share_a_terminal_without_tearing(terminal: Terminal) -> None:
    lines = [f"line {number} of a job" for number in range(300)]

    async def run() -> None:
        c = console(terminal)
        assert c.terminal
        sink = job(c)
        for number, line in enumerate(lines):
            c.status(f"{number} of 300 jobs complete")
            sink.stdout(line[:7].encode())
            await asyncio.sleep(0)
            sink.stdout(line[7:].encode() + b"\n")
            if number % 50 == 25:
                await until(lambda number=number: terminal.lines()[-1] == f"{number} of 300 jobs complete")
        sink.finished()
        c.status("300 of 300 jobs complete")
        c.leave_status()
        c.message("goodbye")
        await until(lambda: terminal.lines()[-1] == "clstr: goodbye")

    asyncio.run(run())
    assert terminal.lines() == [*lines, "300 of 300 jobs complete", "clstr: goodbye"]


def test_the_status_line_of_a_run_stands_last_and_stays(terminal: Terminal) -> None:
    async def run() -> None:
        c, now = console(terminal), Run()
        status = Status(c, now.tally, now.seen, asyncio.get_running_loop())
        await until(lambda: terminal.lines()[-1].startswith(WORDS))
        job(c).stdout(b"out\n")
        await until(lambda: terminal.lines()[0] == "out" and terminal.lines()[-1].startswith(WORDS))
        now.now = replace(TALLY, done=556)
        status.close()
        c.message("goodbye")
        await until(lambda: terminal.lines()[-1] == "clstr: goodbye")

    asyncio.run(run())
    out, status, _ = terminal.lines()
    assert out == "out"
    assert re.fullmatch(r"556 of 556 jobs complete, 176 of 176 nodes running jobs\. \[00:0\d<00:00\]", status)


def test_on_twenty_columns_the_line_is_cut_and_does_not_wrap() -> None:
    terminal = Terminal(columns=20, rows=10)

    async def run() -> None:
        c = console(terminal)
        for number in range(30):
            c.status(f"{number:2} of 556 jobs complete, 176 of 176 nodes running jobs.")
            job(c).stdout(b"line %d\n" % number)
            await until(lambda number=number: terminal.lines()[-1] == f"{number:2} of 556 jobs comp")
        c.leave_status()
        c.message("end")
        await until(lambda: terminal.lines()[-1] == "clstr: end")

    asyncio.run(run())
    output = [f"line {number}" for number in range(30)]
    assert terminal.lines() == [*output, "29 of 556 jobs comp", "clstr: end"]
    terminal.close()


def test_the_line_follows_the_width_of_the_terminal(terminal: Terminal) -> None:
    async def run() -> None:
        c = console(terminal)
        c.status(WORDS)
        await until(lambda: terminal.lines() == [WORDS])
        terminal.resize(30)
        c.status(WORDS)
        await until(lambda: terminal.lines() == [WORDS[:29].rstrip()])
        terminal.resize(120)
        c.status(WORDS)
        await until(lambda: terminal.lines() == [WORDS])

    asyncio.run(run())


def test_what_an_ended_job_left_unfinished_keeps_its_line(terminal: Terminal) -> None:
    async def run() -> None:
        c = console(terminal)
        before = job(c)
        before.stdout(b"before the status")
        before.finished()
        c.status("status")
        await until(lambda: terminal.lines() == ["before the status", "status"])
        during = job(c)
        during.stdout(b"during")
        during.finished()
        await until(lambda: terminal.lines() == ["before the status", "during", "status"])
        job(c).stdout(b"next\n")
        await until(lambda: terminal.lines() == ["before the status", "during", "next", "status"])

    asyncio.run(run())


def test_the_status_line_keeps_off_a_long_line_that_is_not_finished(terminal: Terminal) -> None:
    async def run() -> None:
        c = console(terminal)
        c.status("status one")
        sink = job(c)
        for parts in (1, 2, 3):
            sink.stdout(b"x" * (LONGEST + 1))
            await until(lambda parts=parts: terminal.raw.count(b"x") == parts * (LONGEST + 1))
            c.status("status two")
        sink.stdout(b"\n")
        await until(lambda: terminal.raw.endswith(b"\nstatus two\r"))
        sink.stdout(b"x" * (LONGEST + 1))
        sink.finished()
        await until(lambda: terminal.raw.count(b"x") == 4 * (LONGEST + 1))
        await until(lambda: terminal.raw.endswith(b"x\r\nstatus two\r"))

    asyncio.run(run())
    assert b"x" * (3 * (LONGEST + 1)) + b"\r\n" in terminal.raw


def test_no_status_is_an_empty_line_that_output_takes(terminal: Terminal) -> None:
    async def run() -> None:
        c = console(terminal)
        c.status("status")
        await until(lambda: terminal.lines() == ["status"])
        c.status(None)
        await until(lambda: terminal.lines() == [""])
        job(c).stdout(b"out\n")
        await until(lambda: terminal.lines() == ["out"])

    asyncio.run(run())


def test_stdout_on_the_terminal_shares_its_cursor_with_another_opening_of_it(terminal: Terminal) -> None:
    again = os.open(os.ttyname(terminal.fd), os.O_WRONLY | os.O_NOCTTY)

    async def run() -> None:
        c = console(terminal, stdout=again)
        c.status("status")
        job(c).stdout(b"out\n")
        await until(lambda: terminal.lines() == ["out", "status"])

    asyncio.run(run())
    os.close(again)


def test_a_dumb_terminal_gets_plain_lines(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")

    async def run() -> None:
        assert not console(terminal).terminal

    asyncio.run(run())
