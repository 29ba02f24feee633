"""``--joblog FILE`` and ``--resume``: GNU parallel's log of jobs, for either program to go on from.

    Seq  Host  Starttime  JobRuntime  Send  Receive  Exitval  Signal  Command

Rules:
- Columns and formats are those of GNU parallel (``print_joblog``): tabs, seconds with three decimals, newlines of a
  command as NUL. Receive counts the bytes of stdout, Send those of a job's ``input``. A job that overran a limit has
  Exitval -1 and Signal 15, one whose connection was lost 255, as ``ssh`` would exit with, one whose results could not
  be copied 1.
- A job gets its line, in one write, when it is done or has failed for good. One that was done before this run, or
  never began, gets none.
- ``--resume`` goes by commands and how often each is recorded as done (Exitval 0, Signal 0), wherever that stands, and
  not by Seq: the list of jobs may be edited and put in another order. Jobs of ``--on-each-node`` are alike but for
  their node, so there the node counts too.
- A last line without its newline is what a crash leaves. It is cut off: completed it might name a shorter command, and
  GNU parallel gives up on a log that has such a line. Other lines that are no records are left alone, and told of.
- Without ``--resume`` a log that is there is begun anew, as GNU parallel does; but a file that is no log is refused.
- Of a log that is read, 16 bytes a line are kept: a hash of 64 bits and a counter. That two of a million commands are
  taken for one has a chance of 1 in 10^7.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import assert_never

from clstr.model import (
    Attempt,
    BadInput,
    CopyFailed,
    Done,
    Ended,
    Exited,
    Fact,
    Failed,
    Flow,
    Found,
    Job,
    Killed,
    Lost,
    News,
    NotStarted,
    Outcome,
    Refused,
    Sink,
    Stalled,
    Started,
    Stopped,
    TimedOut,
)
from clstr.records.files import LogFile

HEADER = b"Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n"

_KNOWN_BY = b"Seq\tHost\tStarttime\t"  # older versions of GNU parallel call the next column Runtime
# Possessive (``++``): a line that is no record is given up at once, and one that is costs half as much.
_RECORD = re.compile(
    rb"^\d++\t([^\t\n]++)\t *+[-\d.]++\t *+[-\d.]++\t[-\d]++\t[-\d]++\t([-\d]++\t[-\d]++)\t([^\n]*+)\n", re.M
)
_CHUNK = 1 << 20
_PARTS = 256
_SENT_BY_TIMEOUT = (-1, int(signal.SIGTERM))


class Recorded:
    """What a log records as done: how often each key, without the keys."""

    def __init__(self) -> None:
        self._hashes = [array("q") for _ in range(_PARTS)]
        self._taken: list[array[int]] = []  # how often it was asked for, where the first of its equals stands

    def add(self, keys: Iterable[bytes]) -> None:
        """Each of them is recorded once more."""
        parts = self._hashes
        for number in map(hash, keys):
            parts[number % _PARTS].append(number)

    def complete(self) -> None:
        """All is added; from now on it can be asked."""
        self._hashes = [array("q", sorted(hashes)) for hashes in self._hashes]
        self._taken = [array("q", bytes(8 * len(hashes))) for hashes in self._hashes]

    def take(self, key: bytes) -> bool:
        """Is it recorded once more than it was asked for?"""
        number = hash(key)
        hashes, taken = self._hashes[number % _PARTS], self._taken[number % _PARTS]
        first = bisect_left(hashes, number)
        if first == len(hashes) or bisect_right(hashes, number) - first <= taken[first]:
            return False
        taken[first] += 1
        return True


class Joblog:
    """The record, and with ``resume`` the gate."""

    def __init__(self, path: str, resume: bool = False, by_node: bool = False) -> None:
        """Lock the file and read it; nothing is changed. Raises BadInput for a file that is no log."""
        self._file = LogFile(path, "keeps its joblog there")
        self._recorded = Recorded()
        self._crlf = False
        self._strange = 0
        self._began: dict[int, float] = {}
        self._ended: dict[int, tuple[float, float, Ended]] = {}
        self._received: dict[int, int] = {}
        try:
            self._check_head()
            self._keep = self._read(by_node) if resume else 0
        except OSError as error:
            raise BadInput(f"{path}: {error.strerror} (name a file that can be read and written)") from error

    def _check_head(self) -> None:
        head = os.pread(self._file.fd, len(HEADER) + 1, 0)
        if not head.startswith(_KNOWN_BY) and not HEADER.startswith(head):  # a crash may have left a part of it
            raise BadInput(
                f"{self._file.path}:1: not a joblog: it begins with {_shown(head)} (name another file, or remove it)"
            )
        self._crlf = head.endswith(b"\r\n")

    def _read(self, by_node: bool) -> int:
        """Count what is recorded as done; gives how many bytes there are of whole lines."""
        keep, fd, place, add = self._file.whole_lines(), self._file.fd, 0, self._recorded.add
        strip = b"\r" if self._crlf else b""
        while place < keep:
            lines = os.pread(fd, min(_CHUNK, keep - place), place)
            end = lines.rfind(b"\n") + 1
            if not end:  # a line longer than that, which is none of ours
                lines, end = b"\n", len(lines)
            records = _RECORD.findall(lines, 0, end)
            done = [(host, command.removesuffix(strip)) for host, status, command in records if status == b"0\t0"]
            add(b"\t".join(both) if by_node else both[1] for both in done)
            self._strange += lines.count(b"\n", 0, end) - len(records)
            place += end
        self._strange -= keep > 0  # the header
        self._recorded.complete()
        return keep

    def done(self, jobs: Sequence[Job]) -> Collection[int]:
        """The gate of ``--resume``."""
        return [job.id for job in jobs if self._recorded.take(self._key(job))]

    def _key(self, job: Job) -> bytes:
        command = job.command.replace(b"\n", b"\0")
        if self._crlf:
            command = command.removesuffix(b"\r")
        return command if job.pin is None else _encoded(job.pin.text) + b"\t" + command

    def begin(self, warn: Callable[[str], None]) -> None:
        """Make the file ready for the lines of this run, and tell of what in it was skipped. Raises OSError."""
        torn = os.fstat(self._file.fd).st_size - self._keep
        self._file.begin(self._keep)
        told = []
        if self._strange:
            number = self._strange
            none = "1 line is no record of a job" if number == 1 else f"{number} lines are no records of jobs"
            told.append(f"{none}: skipped")
        if torn and self._keep:
            told.append("the last line was not finished, and is cut off")
        if told:
            warn(f"{self._file.path}: {'; '.join(told)}")
        if not self._keep:
            self._file.write(HEADER)

    def sink(self, attempt: Attempt, sink: Sink) -> Sink:
        """The sink, its bytes counted."""
        self._received[attempt.job.id] = 0
        return _Counting(attempt.job.id, sink, self._received)

    def saw(self, when: float, event: Fact | News) -> None:
        """Write the line of a job that is settled. Raises OSError."""
        match event:
            case Started(attempt):
                self._began[attempt.job.id] = when
            case Ended(attempt, Found()):
                self._ended.pop(attempt.job.id, None)  # another run did it, and has logged it if it keeps a log
            case Ended(attempt):
                began = self._began.pop(attempt.job.id, None)
                if began is not None:
                    self._ended[attempt.job.id] = (began, when, event)
            case Done(job):
                self._settle(job, (0, 0))
            case Failed(job):
                self._settle(job, None)
            case _:
                pass

    def _settle(self, job: Job, status: tuple[int, int] | None) -> None:
        """Write the line, of the last attempt that began; a later one may have been refused."""
        received = self._received.pop(job.id, 0)
        last = self._ended.pop(job.id, None)
        if last is None:
            return
        began, ended, end = last
        exitval, number = status or _status_of_failure(end.outcome)
        fields = (
            f"{job.id}\t{end.attempt.slot.node.text}\t{began:.3f}\t{max(0.0, ended - began):10.3f}"
            f"\t{_size_of_input(job)}\t{received}\t{exitval}\t{number}\t"
        )
        self._file.write(_encoded(fields) + job.command.replace(b"\n", b"\0") + b"\n")

    def close(self) -> None:
        """Let others have the log."""
        self._file.close()


class _Counting:
    """A sink before another that counts the bytes of stdout."""

    __slots__ = ("_counts", "_job", "_sink")

    def __init__(self, job: int, sink: Sink, counts: dict[int, int]) -> None:
        self._job = job
        self._sink = sink
        self._counts = counts

    def begun(self, flow: Flow) -> None:
        self._sink.begun(flow)

    def stdout(self, data: bytes) -> None:
        self._counts[self._job] += len(data)
        self._sink.stdout(data)

    def stderr(self, data: bytes) -> None:
        self._sink.stderr(data)

    def finished(self) -> None:
        self._sink.finished()


def _status_of_failure(outcome: Outcome) -> tuple[int, int]:
    """Exitval and Signal of the last attempt of a job that has failed."""
    match outcome:
        case Exited(0) | CopyFailed():
            return 1, 0
        case Exited(status):
            return status, 0
        case Killed(name):
            with contextlib.suppress(KeyError):
                return 0, int(signal.Signals[f"SIG{name}"])
            return 255, 0
        case TimedOut() | Stalled():
            return _SENT_BY_TIMEOUT
        case Lost() | NotStarted() | Stopped() | Found() | Refused():
            return 255, 0
        case _:
            assert_never(outcome)


def _size_of_input(job: Job) -> int:
    if job.terms.input is not None:
        with contextlib.suppress(OSError):
            return os.stat(job.terms.input).st_size
    return 0


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _shown(head: bytes) -> str:
    return repr(head.split(b"\n", 1)[0][:40].decode("utf-8", "replace"))
