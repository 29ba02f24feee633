"""The timeline, held against the Trace Event Format (the document of that name, by Google)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from records.story import BEGIN, attempt, done, failed, job, node, requeued, tell

from clstr.model import End, Evicted, Exited, Fact, Finished, Killed, Lost, News, Outcome, Pardoned, TimedOut
from clstr.records.trace import Trace

Story = list[tuple[float, Fact | News]]

OVER: Story = [(BEGIN + 99, Finished(End.SETTLED))]
COLOURS = {"good", "bad", "terrible", "black", "grey"}
"""Of those that the document's chapter on colours names, or tr_color_scheme has."""


def never(text: str) -> None:
    raise AssertionError(text)


def written(path: Path, *stories: Story, counters: Callable[[], tuple[int, int]] = lambda: (0, 0)) -> bytes:
    async def run() -> None:
        trace = Trace(str(path), counters)
        trace.begin(never)
        tell(trace, *stories)
        trace.close()

    asyncio.run(run())
    return path.read_bytes()


def check(events: list[dict[str, Any]]) -> None:
    """What the document says of each kind of event."""
    threads = {(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"}
    processes = {event["pid"] for event in events if event["name"] == "process_name"}
    for event in events:
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert isinstance(event["name"], str)
        assert event["pid"] in processes
        match event["ph"]:
            case "M":
                assert event["name"] in ("process_name", "thread_name")
                assert isinstance(event["args"]["name"], str)
            case "X":
                assert isinstance(event["ts"], int)
                assert isinstance(event["dur"], int)
                assert event["dur"] >= 0
                assert event["cname"] in COLOURS
                assert (event["pid"], event["tid"]) in threads
            case "i":
                assert event["s"] in ("g", "p", "t")
                assert isinstance(event["ts"], int)
            case "C":
                assert isinstance(event["ts"], int)
                assert all(isinstance(value, int) for value in event["args"].values())
            case other:
                raise AssertionError(other)


A_RUN = [
    done(attempt(job(1), on="n1", slot=1)),
    requeued(attempt(job(2, "bad", budget=1), on="n2"), Exited(3)),
    [(BEGIN + 2, Evicted(node("n2"), "exit 3"))],
    failed(attempt(job(2, "bad", budget=1), 2, on="n1", slot=2), Exited(3), began=BEGIN + 3),
    [(BEGIN + 5, Pardoned(node("n2")))],
]


def test_a_finished_trace_is_an_array_of_events_of_the_format(tmp_path: Path) -> None:
    events = json.loads(written(tmp_path / "tr", *A_RUN, OVER))
    check(events)
    slices = [event for event in events if event["ph"] == "X"]
    assert [(event["name"], event["ts"], event["dur"]) for event in slices] == [
        ("job 1: done", int(BEGIN * 1e6), 1_500_000),
        ("job 2: exit 3", int(BEGIN * 1e6), 1_500_000),
        ("job 2: exit 3", int((BEGIN + 3) * 1e6), 1_500_000),
    ]
    assert slices[2]["args"] == {"job": 2, "attempt": 2, "command": "bad", "outcome": "Exited"}
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    marks = [(names[event["pid"]], event["name"]) for event in events if event["ph"] == "i"]
    assert marks == [("n2", "evicted: exit 3"), ("n2", "pardoned")]


def test_a_trace_that_was_cut_anywhere_is_an_array_less_its_end(tmp_path: Path) -> None:
    """Both viewers read that: ``the ']' at the end is optional``."""
    data = written(tmp_path / "tr", *A_RUN, OVER)
    for cut in range(len(data) - len(b"]\n")):
        whole = data[: data.rfind(b"\n", 0, cut) + 1]
        assert whole.count(b"\n") <= 1 or json.loads(whole + b"]")
        check(json.loads(whole + b"]" if whole else b"[]"))


def test_a_run_that_crashed_has_left_what_it_had_written(tmp_path: Path) -> None:
    data = written(tmp_path / "tr", *A_RUN)
    assert not data.endswith(b"]\n")
    check(json.loads(data + b"]"))


@pytest.mark.parametrize(
    ("outcome", "colour", "name"),
    [
        (Exited(0), "good", "job 1: done"),
        (Killed("SEGV"), "terrible", "job 1: killed by SIGSEGV"),
        (TimedOut(2.0), "bad", "job 1: timed out after 2 s"),
        (Lost("cut"), "black", "job 1: connection lost: cut"),
    ],
)
def test_the_colour_and_the_name_say_how_it_ended(outcome: Outcome, colour: str, name: str, tmp_path: Path) -> None:
    events = json.loads(written(tmp_path / "tr", requeued(attempt(job(1)), outcome), OVER))
    assert [(event["cname"], event["name"]) for event in events if event["ph"] == "X"] == [(colour, name)]


def test_the_queue_and_the_busy_slots_are_counted_but_not_with_every_event(tmp_path: Path) -> None:
    values = iter(range(1000, 0, -1))
    stories = [done(attempt(job(n)), began=BEGIN + n / 1000, took=0.0005) for n in range(1, 201)]  # in 0.2 s
    events = json.loads(written(tmp_path / "tr", *stories, OVER, counters=lambda: (next(values), 2)))
    counted = [event for event in events if event["ph"] == "C" and event["name"] == "queue"]
    assert 4 <= len(counted) <= 6
    assert counted[-1]["ts"] == int((BEGIN + 99) * 1e6)
    assert [event["args"] for event in events if event["name"] == "busy slots"] == [{"jobs": 2}] * len(counted)


def test_a_clock_that_was_set_back_makes_no_negative_times(tmp_path: Path) -> None:
    check(json.loads(written(tmp_path / "tr", done(attempt(job(1)), took=-5.0), OVER)))


def test_what_stood_in_the_file_is_gone(tmp_path: Path) -> None:
    (tmp_path / "tr").write_text("x" * 9999)
    check(json.loads(written(tmp_path / "tr", OVER)))
