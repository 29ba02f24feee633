"""``--trace FILE``: the run as a timeline, for Perfetto (ui.perfetto.dev) and chrome://tracing.

The form is the array form of the Trace Event Format: a process for each node, a thread for each slot, a complete event
("X") for each attempt, instants ("i") for evictions and pardons, counters ("C") for the queue and the busy slots.

Rules:
- A line is an event, and each but the first begins with its comma: whole lines and a "]" are an array, so a file that
  was cut anywhere is read as the format has it, with "the ']' at the end optional".
- Times are Unix time in microseconds, as the format wants.
- The colour says how the attempt ended: by ``cname`` in chrome://tracing; in Perfetto, which colours slices by their
  names without numbers, by the name: ``job 12: exit 3``.
- The file is begun anew by each run.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any, assert_never

from clstr.model import (
    Attempt,
    CopyFailed,
    Ended,
    Evicted,
    Exited,
    Fact,
    Finished,
    Found,
    Killed,
    Lost,
    News,
    Node,
    NotStarted,
    Outcome,
    Pardoned,
    Paroled,
    Refused,
    Slot,
    Stalled,
    Started,
    Stopped,
    TimedOut,
    in_words,
    name_of,
)
from clstr.records.files import Batched, LogFile

_COUNTED = 0.05  # seconds between two values of the counters, at least
_LONGEST = 1000  # characters of a command that a slice shows
_RUN = 0  # the "process" of what belongs to no node


class Trace:
    """The record. ``counters`` gives the jobs that wait and those that run, at this moment."""

    def __init__(self, path: str, counters: Callable[[], tuple[int, int]]) -> None:
        """Lock the file and change nothing. Raises BadInput."""
        self._file = LogFile(path, "writes its trace there")
        self._lines = Batched(self._file.write)
        self._counters = counters
        self._counted = (-1, -1)
        self._counted_at = 0.0
        self._began: dict[int, float] = {}
        self._nodes: dict[Node, int] = {}
        self._slots: set[Slot] = set()

    def begin(self, warn: Callable[[str], None]) -> None:
        """Begin the array. Raises OSError."""
        self._file.begin(0)
        self._file.write(b"[\n" + _json("M", _RUN, 0, name="process_name", args={"name": "clstr"}) + b"\n")

    def saw(self, when: float, event: Fact | News) -> None:
        """Draw the event. Raises OSError."""
        match event:
            case Started(attempt):
                self._began[attempt.job.id] = when
            case Ended(attempt, outcome):
                began = self._began.pop(attempt.job.id, None)
                if began is not None:
                    self._draw(attempt, outcome, began, when)
            case Evicted(node, why):
                self._mark(when, node, f"evicted: {why}")
            case Pardoned(node):
                self._mark(when, node, "pardoned")
            case Paroled(node):
                self._mark(when, node, "paroled")
            case Finished():
                self._count(when)
                self._lines.add(b"]\n")
                self._lines.flush()
                return
            case _:
                pass
        if when - self._counted_at >= _COUNTED or when < self._counted_at:
            self._count(when)

    def close(self) -> None:
        """Let others have the file."""
        with contextlib.suppress(OSError):  # it was told of when it was met
            self._lines.flush()
        self._file.close()

    def _draw(self, attempt: Attempt, outcome: Outcome, began: float, ended: float) -> None:
        slot, job = attempt.slot, attempt.job
        how = "done" if isinstance(outcome, Exited) and outcome.status == 0 else in_words(outcome)
        self._add(
            "X",
            self._pid(slot.node),
            self._tid(slot),
            name=f"job {job.id}: {how}",
            cat="attempt",
            ts=_us(began),
            dur=max(0, _us(ended) - _us(began)),
            cname=_colour(outcome),
            args={
                "job": job.id,
                "attempt": attempt.number,
                "command": job.command.decode("utf-8", "backslashreplace")[:_LONGEST],
                "outcome": type(outcome).__name__,
            },
        )

    def _mark(self, when: float, node: Node, name: str) -> None:
        self._add("i", self._pid(node), 0, name=name, cat="node", ts=_us(when), s="p")

    def _count(self, when: float) -> None:
        counted = self._counters()
        if counted == self._counted:
            return
        self._counted, self._counted_at = counted, when
        for name, value in zip(("queue", "busy slots"), counted, strict=True):
            self._add("C", _RUN, 0, name=name, ts=_us(when), args={"jobs": value})

    def _pid(self, node: Node) -> int:
        pid = self._nodes.get(node)
        if pid is None:
            pid = self._nodes[node] = len(self._nodes) + 1
            self._add("M", pid, 0, name="process_name", args={"name": name_of(node)})
        return pid

    def _tid(self, slot: Slot) -> int:
        if slot not in self._slots:
            self._slots.add(slot)
            self._add("M", self._pid(slot.node), slot.number, name="thread_name", args={"name": f"slot {slot.number}"})
        return slot.number

    def _add(self, phase: str, pid: int, tid: int, **more: Any) -> None:
        self._lines.add(b"," + _json(phase, pid, tid, **more) + b"\n")


def _json(phase: str, pid: int, tid: int, **more: Any) -> bytes:
    return json.dumps({"ph": phase, "pid": pid, "tid": tid, **more}).encode()


def _us(seconds: float) -> int:
    return round(seconds * 1e6)


def _colour(outcome: Outcome) -> str:
    """One of the names that chrome://tracing knows (its ``color_scheme``)."""
    match outcome:
        case Exited(0):
            return "good"
        case Exited() | Killed():
            return "terrible"
        case TimedOut() | Stalled():
            return "bad"
        case Lost() | NotStarted():
            return "black"
        case Stopped() | Found() | Refused() | CopyFailed():
            return "grey"
        case _:
            assert_never(outcome)
