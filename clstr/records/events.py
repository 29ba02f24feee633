"""``--events FILE``: everything that happens in a run, as lines of JSON, for programs.

    {"time": 1795778334.25, "event": "Started", "job": 12, "attempt": 2, "node": "n17", "slot": 1, ...}

Rules:
- An object a line, for each fact and each piece of news, by the name that it has in ``model``; ``time`` is in Unix
  seconds. Bytes that are not UTF-8 are shown escaped.
- A file is begun anew, but with ``--resume`` it goes on as the joblog does: a last line without its end is cut off.
- A FIFO is a view, not a record: the run neither waits for its reader nor ends with it. What a slow or absent reader
  leaves over waits, up to some MiB, and is then dropped whole lines at a time and counted, in a line ``Dropped``. A
  reader that comes later goes on with a whole line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import stat
import time
from collections.abc import Callable
from typing import Any, assert_never

from clstr.model import (
    Attempt,
    BadInput,
    Connected,
    ConnectionLost,
    CopyFailed,
    Done,
    Ended,
    Evicted,
    Exited,
    Fact,
    Failed,
    Finished,
    Found,
    Held,
    Job,
    Killed,
    Lost,
    News,
    NotStarted,
    Outcome,
    Pardoned,
    Paroled,
    Refused,
    Requeued,
    Retired,
    Slot,
    Stalled,
    Started,
    Stopped,
    TimedOut,
    Unreachable,
)
from clstr.records.files import Batched, LogFile

_BACKLOG = 8 << 20  # bytes that wait for the reader of a FIFO
_AGAIN = 0.1  # seconds until a full FIFO is tried again
_PATIENCE = 1.0  # seconds for a reader to take the rest, at the end


class Events:
    """The observer: a record, or, where FILE is a FIFO, a view."""

    def __init__(self, path: str, keep: bool = False) -> None:
        """Lock the file and change nothing. ``keep``: go on behind what is there. Raises BadInput."""
        self.is_view = _is_fifo(path)
        self._to = _Fifo(path) if self.is_view else _File(path, keep)
        self._lines = Batched(self._to.write)

    def begin(self, warn: Callable[[str], None]) -> None:
        """Make the file ready. Raises OSError."""
        self._to.begin(warn)

    def saw(self, when: float, event: Fact | News) -> None:
        """Add the event's line. Raises OSError."""
        self._lines.add(_line({"time": round(when, 6), "event": type(event).__name__, **_facts(event)}))
        if isinstance(event, Finished):
            self._lines.flush()

    def close(self) -> None:
        """Let others have it."""
        with contextlib.suppress(OSError):  # it was told of when it was met
            self._lines.flush()
        self._to.close()


def _line(facts: dict[str, Any]) -> bytes:
    return json.dumps(facts).encode() + b"\n"


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _facts(event: Fact | News) -> dict[str, Any]:
    match event:
        case Started(attempt):
            job = attempt.job
            named = {} if job.name is None else {"name": job.name}
            return {**_attempt(attempt), **named, "command": _text(job.command), "origin": job.origin}
        case Ended(attempt, outcome) | Requeued(attempt, outcome):
            return {**_attempt(attempt), **_outcome(outcome)}
        case Done(job, attempt):
            return _job(job, attempt)
        case Failed(job, attempt, why):
            return {**_job(job, attempt), "why": why}
        case Held(job, why):
            return {"job": job.id, "why": why}
        case Unreachable(node, why) | Evicted(node, why) | ConnectionLost(node, why):
            return {"node": node.text, "why": why}
        case Connected(node) | Pardoned(node) | Paroled(node):
            return {"node": node.text}
        case Retired(slot):
            return _slot(slot)
        case Finished(end, why):
            return {"end": end.value, "why": why}
        case _:
            assert_never(event)


def _slot(slot: Slot) -> dict[str, Any]:
    return {"node": slot.node.text, "slot": slot.number}


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {"job": attempt.job.id, "attempt": attempt.number, **_slot(attempt.slot)}


def _job(job: Job, attempt: Attempt | None) -> dict[str, Any]:
    return {"job": job.id} if attempt is None else _attempt(attempt)


def _outcome(outcome: Outcome) -> dict[str, Any]:
    name = {"outcome": type(outcome).__name__}
    match outcome:
        case Exited(status, results):
            return {**name, "status": status, **({"results": [_text(path) for path in results]} if results else {})}
        case Killed(signal):
            return {**name, "signal": signal}
        case TimedOut(after) | Stalled(after):
            return {**name, "after": after}
        case Lost(why, ours):
            return {**name, "why": why, "ours": ours}
        case NotStarted(why) | Refused(why) | CopyFailed(why):
            return {**name, "why": why}
        case Stopped() | Found():
            return name
        case _:
            assert_never(outcome)


# --- where the lines go ------------------------------------------------------------------------------------


class _File:
    """A regular file."""

    def __init__(self, path: str, keep: bool) -> None:
        self._file = LogFile(path, "writes its events there")
        self._keep = keep
        self.write = self._file.write

    def begin(self, warn: Callable[[str], None]) -> None:
        self._file.begin(self._file.whole_lines() if self._keep else 0)

    def close(self) -> None:
        self._file.close()


class _Fifo:
    """A FIFO, whose reader may be slow, gone or not there yet."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._waiting = bytearray()
        self._dropped = 0
        self._timer: asyncio.TimerHandle | None = None
        self._warn: Callable[[str], None] = lambda text: None
        if not os.access(path, os.W_OK):
            raise BadInput(f"{path}: Permission denied (name a FIFO that can be written)")

    def begin(self, warn: Callable[[str], None]) -> None:
        self._warn = warn

    def write(self, lines: bytes) -> None:
        if len(self._waiting) + len(lines) > _BACKLOG:
            if not self._dropped:
                self._warn(f"{self._path}: events are dropped (the FIFO has no reader, or a slow one)")
            self._dropped += lines.count(b"\n")
        else:
            self._say_dropped()
            self._waiting += lines
        self._push()

    def _say_dropped(self) -> None:
        if self._dropped:
            self._waiting += _line({"time": round(time.time(), 6), "event": "Dropped", "events": self._dropped})
            self._dropped = 0

    def _push(self) -> None:
        """Write what the reader will take now; come again for the rest."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._write_some()
        if self._waiting and self._fd >= 0:
            self._timer = asyncio.get_running_loop().call_later(_AGAIN, self._push)

    def _write_some(self) -> None:
        try:
            if self._fd < 0:
                self._fd = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            while self._waiting:
                written = os.write(self._fd, self._waiting[: 1 << 16])
                del self._waiting[:written]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._hang_up()
        except OSError:
            pass  # ENXIO: nobody reads it; or it is gone, and nobody will

    def _hang_up(self) -> None:
        # What the reader had not taken was lost with it, perhaps the head of the line that comes next.
        del self._waiting[: self._waiting.find(b"\n") + 1]
        os.close(self._fd)
        self._fd = -1

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._say_dropped()
        self._write_some()
        deadline = time.monotonic() + _PATIENCE
        while self._waiting and self._fd >= 0 and (left := deadline - time.monotonic()) > 0:
            poll = select.poll()
            poll.register(self._fd, select.POLLOUT)
            poll.poll(left * 1000)
            self._write_some()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _is_fifo(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False
