"""``--run-dir DIR``: what a run knows of each job, in eight files beside each other; the layout is experimaestro's.

    NAME.run     a script that runs this one job again (see ``script``), mode 0700
    NAME.input   a link to the file that is the job's standard input, if it has one
    NAME.out     what its last attempt printed, as it was printed
    NAME.err     and on standard error
    NAME.status  PID w   while it runs: the process of the clstr that runs it
    NAME.lock    HOST PID START   while it runs (see ``locks``)
    NAME.code    the exit status of its last attempt, as a shell has it: 128+N for signal N
    NAME.done    it is done

Rules:
- ``.done`` means done: a job that has it is not run, in no later run either, until somebody removes it. It is looked
  for when the job is read, and again once its lock is held.
- Every file but ``.out`` and ``.err`` appears whole, by rename or by link (``.done`` is a link to ``.code``: each file
  that need not be made saves a tenth of all that a job costs here), and in this order: ``.code``, ``.done``, and
  only then what else is told of the job. So a crash leaves no job recorded as done that is not.
- All but the job's lock may be changed by who holds it only.
- What cannot be written is kept in mind, and raised to the runner with the next event.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
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
    Finished,
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
    Stopped,
    TimedOut,
)
from clstr.records import locks
from clstr.records.files import naming, put, write_all


@dataclass(slots=True)
class _Open:
    """A job whose lock we hold, and its two files while it runs."""

    base: str
    out: int
    err: int


class Looked:
    """The gate of who only looks into a run directory: it makes, locks and removes nothing."""

    def __init__(self, path: str, name_of: Callable[[Job], str]) -> None:
        self._path = path
        self._name_of = name_of

    def done(self, jobs: Sequence[Job]) -> Collection[int]:
        """Those that have ``.done``."""
        return [job.id for job in jobs if os.path.exists(os.path.join(self._path, f"{self._name_of(job)}.done"))]


class RunDir:
    """The gate, the door, the sink and the record."""

    def __init__(
        self,
        path: str,
        name_of: Callable[[Job], str],
        script: Callable[[Attempt], bytes],
        warn: Callable[[str], None],
    ) -> None:
        """Make the directory if it is not there. Raises BadInput."""
        self._path = path
        self._name_of = name_of
        self._script = script
        self._warn = warn
        self._held: dict[int, _Open] = {}
        self._error: OSError | None = None
        try:
            os.makedirs(path, exist_ok=True)
            self._locks = locks.Locks(path)
        except OSError as error:
            raise BadInput(f"{path}: {error.strerror} (--run-dir needs a directory that can be written)") from error

    def done(self, jobs: Sequence[Job]) -> Collection[int]:
        """The gate: those that have ``.done``."""
        return [job.id for job in jobs if self._is_done(self._base(job))]

    def _is_done(self, base: str) -> bool:
        if not os.path.exists(f"{base}.done"):
            return False
        if os.path.exists(f"{base}.lock"):  # a crash came between the two, and nobody will enter here again
            with contextlib.suppress(OSError):
                if self._locks.take(f"{base}.lock")[0] is None:
                    locks.release(f"{base}.lock")
        return True

    def enter(self, attempt: Attempt) -> Found | Refused | None:
        """The door: takes the job's lock, and makes its files ready. Raises OSError where too many files are open."""
        base = self._base(attempt.job)
        try:
            with naming(base):
                return self._enter(attempt, base)
        except OSError as error:
            if error.errno in locks.SHORT_OF_FILES:
                raise
            self._error = error
            return Refused(f"{base}: {error.strerror}")

    def _enter(self, attempt: Attempt, base: str) -> Found | Refused | None:
        holder, gone = self._locks.take(f"{base}.lock")
        if holder is not None:
            return Refused(f"locked by {holder}")
        if gone is not None:
            self._warn(f"{base}.lock: {gone} is gone: its lock is replaced, and the job runs again")
        out = err = -1
        try:
            if os.path.exists(f"{base}.done"):
                locks.release(f"{base}.lock")
                return Found()
            for old in ("code", "status", "input"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{base}.{old}")
            put(f"{base}.run", self._script(attempt), 0o700)
            if attempt.job.terms.input is not None:
                os.symlink(os.path.abspath(attempt.job.terms.input), f"{base}.input")
            out = os.open(f"{base}.out", _CREATE, 0o666)
            err = os.open(f"{base}.err", _CREATE, 0o666)
            os.link(self._locks.status, f"{base}.status")
        except OSError:
            _close(out, err)
            with contextlib.suppress(OSError):
                locks.release(f"{base}.lock")
            raise
        self._held[attempt.job.id] = _Open(base, out, err)
        return None

    def sink(self, attempt: Attempt, sink: Sink) -> Sink:
        """The sink, what comes kept in the job's files too."""
        held = self._held.get(attempt.job.id)
        return sink if held is None else _Keeping(held, sink, self._failed)

    def _failed(self, error: OSError) -> None:
        self._error = error

    def saw(self, when: float, event: Fact | News) -> None:
        """Write what has become of a job that we hold. Raises OSError."""
        match event:
            case Ended(attempt, outcome):
                self._ended(attempt, outcome)
            case Done(job, _):
                if (held := self._held.get(job.id)) is not None and self._error is None:
                    with naming(held.base):
                        os.link(f"{held.base}.code", f"{held.base}.done")
                self._release(job.id)
            case Failed(job):
                self._release(job.id)
            case Finished():
                self._release_all()
            case _:
                pass
        if self._error is not None:
            raise self._error

    def _ended(self, attempt: Attempt, outcome: Outcome) -> None:
        held = self._held.get(attempt.job.id)
        if held is None:
            return
        _close(held.out, held.err)
        held.out = held.err = -1
        code = _code(outcome)
        if code is not None:
            put(f"{held.base}.code", b"%d\n" % code)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{held.base}.status")
        if code != 0:  # else it is done, or will be when its results are here
            self._release(attempt.job.id)

    def _release(self, job: int) -> None:
        held = self._held.pop(job, None)
        if held is not None:
            _close(held.out, held.err)
            locks.release(f"{held.base}.lock")

    def close(self) -> None:
        """Give back every lock that is held, and take no more."""
        self._release_all()
        self._locks.close()

    def _release_all(self) -> None:
        for job in list(self._held):
            with contextlib.suppress(OSError):
                self._release(job)

    def _base(self, job: Job) -> str:
        return os.path.join(self._path, self._name_of(job))


_CREATE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


class _Keeping:
    """A sink before another, which writes what comes into the job's files."""

    __slots__ = ("_failed", "_held", "_sink")

    def __init__(self, held: _Open, sink: Sink, failed: Callable[[OSError], None]) -> None:
        self._held = held
        self._sink = sink
        self._failed = failed

    def begun(self, flow: Flow) -> None:
        self._sink.begun(flow)

    def stdout(self, data: bytes) -> None:
        self._keep(self._held.out, data)
        self._sink.stdout(data)

    def stderr(self, data: bytes) -> None:
        self._keep(self._held.err, data)
        self._sink.stderr(data)

    def finished(self) -> None:
        self._sink.finished()

    def _keep(self, fd: int, data: bytes) -> None:
        try:
            with naming(self._held.base):
                if fd >= 0:
                    write_all(fd, data)
        except OSError as error:
            self._failed(error)


def _close(*descriptors: int) -> None:
    for fd in descriptors:
        if fd >= 0:
            os.close(fd)


def _code(outcome: Outcome) -> int | None:
    """The exit status as a shell has it; None where nobody knows one."""
    match outcome:
        case Exited(status):
            return status
        case Killed(name):
            with contextlib.suppress(KeyError):
                return 128 + signal.Signals[f"SIG{name}"]
            return 255
        case TimedOut() | Stalled():
            return 128 + signal.SIGTERM
        case Lost() | NotStarted() | Stopped() | Found() | Refused() | CopyFailed():
            return None
        case _:
            assert_never(outcome)
