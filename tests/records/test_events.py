"""The events: a line of JSON each, into a file that is a record or a FIFO that is a view."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from records.story import BEGIN, attempt, done, failed, job, node, requeued, tell

from clstr.model import (
    BadInput,
    Connected,
    ConnectionLost,
    Done,
    End,
    Evicted,
    Exited,
    Fact,
    Failed,
    Finished,
    Held,
    Killed,
    Lost,
    News,
    Pardoned,
    Paroled,
    Retired,
    Slot,
    TimedOut,
    Unreachable,
)
from clstr.records.events import Events

OVER: list[tuple[float, Fact | News]] = [(BEGIN + 9, Finished(End.SETTLED))]


def never(text: str) -> None:
    raise AssertionError(text)


def written(path: Path, *stories: list[tuple[float, Fact | News]], keep: bool = False) -> list[dict[str, Any]]:
    async def run() -> None:
        events = Events(str(path), keep)
        events.begin(never)
        tell(events, *stories, OVER)
        events.close()

    asyncio.run(run())
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_says_what_happened_to_which_job_where(tmp_path: Path) -> None:
    of = attempt(job(12, "make", name="prep"), 2, on="me@n17:22", slot=3)
    started, ended, failure, _ = written(tmp_path / "ev", failed(of, Exited(3)))
    where = {"job": 12, "attempt": 2, "node": "me@n17:22", "slot": 3}
    words = {"name": "prep", "command": "make", "origin": "jobs.txt:12"}
    assert started == {"time": BEGIN, "event": "Started", **where, **words}
    assert ended == {"time": BEGIN + 1.5, "event": "Ended", **where, "outcome": "Exited", "status": 3}
    assert failure == {"time": BEGIN + 1.5, "event": "Failed", **where, "why": "exit 3"}


def test_every_fact_and_every_piece_of_news_has_its_line(tmp_path: Path) -> None:
    n1, of = node("n1"), attempt(job(1, b"echo \xff\n"))
    others: list[Fact | News] = [
        Connected(n1), Unreachable(n1, "refused"), ConnectionLost(n1, "cut"), Evicted(n1, "exit 1"), Pardoned(n1),
        Paroled(n1), Retired(Slot(n1, 2)), Held(job(3), "hold = True"), Failed(job(4), None, "no node"),
        Done(job(5), None),
    ]  # fmt: skip
    stories = [requeued(of, outcome) for outcome in (Lost("cut", ours=True), Killed("KILL"), TimedOut(2.0))]
    lines = written(tmp_path / "ev", *stories, done(of), [(BEGIN, event) for event in others])
    names = ["Started", "Ended", "Requeued"] * 3 + ["Started", "Ended", "Done"]
    assert [line["event"] for line in lines] == [*names, *(type(event).__name__ for event in others), "Finished"]
    assert lines[0]["command"] == "echo \\xff\n"
    assert next(line for line in lines if line["event"] == "Requeued")["ours"] is True


def test_a_file_is_begun_anew_and_with_resume_goes_on_behind_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "ev"
    assert len(written(path)) == 1
    assert len(written(path)) == 1
    with path.open("a") as file:
        file.write('{"time": 17')
    assert len(written(path, keep=True)) == 2


def test_an_error_is_raised_with_the_next_event_and_names_the_file(tmp_path: Path) -> None:
    async def run() -> None:
        events = Events(str(tmp_path / "ev"))
        events.begin(never)
        tell(events, done(attempt(job(1))))
        os.close(events._to._file.fd)  # type: ignore[union-attr]
        with pytest.raises(OSError, match=r"Bad file descriptor: '.*/ev'"):
            tell(events, OVER)

    asyncio.run(run())


@pytest.mark.parametrize("what", ["directory", "device"])
def test_what_is_neither_file_nor_fifo_is_refused(what: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not a regular file"):
        Events(str(tmp_path) if what == "directory" else os.devnull)


# --- a FIFO ------------------------------------------------------------------------------------------------


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def reader(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK)


def read(fd: int) -> bytes:
    """What is there now; b"" also when nobody writes."""
    data = b""
    try:
        while chunk := os.read(fd, 1 << 16):
            data += chunk
    except BlockingIOError:
        pass
    return data


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the condition is a fact of the FIFO
            await asyncio.sleep(0.01)


def test_a_reader_gets_the_events_as_they_come(fifo: Path) -> None:
    async def run() -> None:
        events, fd = Events(str(fifo)), reader(fifo)
        assert events.is_view
        events.begin(never)
        got = b""

        def more() -> bool:
            nonlocal got
            got += read(fd)
            return got.count(b"\n") == 3

        tell(events, done(attempt(job(1))))
        await until(more)
        tell(events, OVER)
        events.close()
        assert json.loads(read(fd))["event"] == "Finished"
        os.close(fd)

    asyncio.run(run())


def test_a_reader_that_comes_late_gets_what_waited(fifo: Path) -> None:
    async def run() -> None:
        events = Events(str(fifo))
        events.begin(never)
        tell(events, done(attempt(job(1))))
        events._lines.flush()
        fd = reader(fifo)
        tell(events, OVER)
        events.close()
        assert read(fd).count(b"\n") == 4
        os.close(fd)

    asyncio.run(run())


def test_a_run_without_a_reader_goes_on_and_drops_what_is_too_much(
    fifo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clstr.records.events._BACKLOG", 1000)

    async def run() -> None:
        said: list[str] = []
        events = Events(str(fifo))
        events.begin(said.append)
        for number in range(100):
            tell(events, done(attempt(job(number))))
            events._lines.flush()
        fd = reader(fifo)
        tell(events, OVER)
        events.close()
        lines = [json.loads(line) for line in read(fd).splitlines()]
        assert sum(line.get("events", 1) for line in lines) == 301
        assert [line["event"] for line in lines].count("Dropped") >= 1
        assert said == [f"{fifo}: events are dropped (the FIFO has no reader, or a slow one)"]
        os.close(fd)

    asyncio.run(run())


def test_a_slow_reader_gets_everything_and_the_loop_does_not_wait_for_it(fifo: Path) -> None:
    async def run() -> None:
        fd = reader(fifo)
        events = Events(str(fifo))
        events.begin(never)
        long = job(1, "x" * 1000)
        for _ in range(200):  # more than a FIFO holds
            tell(events, done(attempt(long)))
        events._lines.flush()
        got = b""

        def more() -> bool:
            nonlocal got
            got += read(fd)
            return got.count(b"\n") == 600

        await until(more)
        events.close()
        os.close(fd)

    asyncio.run(run())


def test_a_reader_that_leaves_is_done_without_and_the_next_begins_with_a_whole_line(fifo: Path) -> None:
    async def run() -> None:
        fd = reader(fifo)
        events = Events(str(fifo))
        events.begin(never)
        for _ in range(200):
            tell(events, done(attempt(job(1, "x" * 1000))))
        events._lines.flush()
        os.close(fd)  # with half a line taken
        tell(events, done(attempt(job(2))))
        events._lines.flush()
        fd = reader(fifo)
        got = b""

        def more() -> bool:
            nonlocal got
            got += read(fd)
            return b"Finished" in got

        tell(events, OVER)
        await until(more)
        assert all(json.loads(line)["time"] for line in got.splitlines())
        assert 1 < got.count(b"\n") < 604
        events.close()
        os.close(fd)

    asyncio.run(run())
