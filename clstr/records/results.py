"""``--results DIR``: the results that jobs name on their standard output, each job's in ``DIR/NAME``.

Rules:

- A line ``RESULTS: PATH`` names one. Of what a job prints, no more is kept here than its names and the beginning of
  the line under way; all of it goes on to where it goes.
- Results land in a directory of this run that nobody else may enter, ``DIR/.clstr-...``, and are renamed when all of
  them are there. What a killed run left of its own is removed by the next run: its lock is free.
- An older ``DIR/NAME`` is replaced when there is something new; what is no directory there is nobody's results, and
  stays.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from clstr.model import LONGEST_RESULT, MOST_RESULTS, Attempt, BadInput, Flow, Job, Sink

PREFIX = b"RESULTS: "

_RUN = ".clstr-"


class Results:
    """The directory of ``--results``, and what the jobs that run have named so far."""

    def __init__(self, path: str, limit: int, name_of: Callable[[Job], str]) -> None:
        """Make the directory, where it is missing. Raises BadInput where it cannot be used."""
        self.limit = limit
        self._path = Path(path)
        self._name_of = name_of
        self._named: dict[Attempt, _Ear] = {}
        self._places = itertools.count(1)  # of threads, too
        try:
            self._path.mkdir(exist_ok=True)
            self._remove_left_over()
            self._own, self._lock = self._make_own()
        except FileExistsError:
            raise BadInput(f"{path}: not a directory (--results needs one, or a name that is free)") from None
        except OSError as error:
            raise BadInput(f"{error.filename or path}: {error.strerror} (--results needs to write there)") from None

    def _remove_left_over(self) -> None:
        """Of runs that were killed."""
        for entry in self._path.glob(f"{_RUN}*"):
            with contextlib.suppress(OSError):
                fd = os.open(entry, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(entry, ignore_errors=True)
                finally:
                    os.close(fd)

    def _make_own(self) -> tuple[Path, int]:
        while True:
            own = Path(tempfile.mkdtemp(prefix=_RUN, dir=self._path))
            fd = os.open(own, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if own.exists():
                return own, fd
            os.close(fd)  # another run took it for a left-over before it was locked

    def sink(self, attempt: Attempt, sink: Sink) -> Sink:
        """The attempt's sink, with an ear for what it names."""
        self._named[attempt] = ear = _Ear(sink)
        return ear

    def named(self, attempt: Attempt) -> tuple[bytes, ...]:
        """What the attempt has named, in order; of more than MOST_RESULTS one more, of a name longer than
        LONGEST_RESULT one byte more. Asked once."""
        ear = self._named.pop(attempt, None)
        return () if ear is None else tuple(ear.names)

    def place(self, attempt: Attempt) -> _Place:
        """A new place for the attempt's results. Raises OSError."""
        return _Place(self._own / str(next(self._places)), self._path / self._name_of(attempt.job))

    def close(self) -> None:
        """Remove what is no job's results; idempotent."""
        shutil.rmtree(self._own, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


class _Place:
    """Where the results of one try land."""

    def __init__(self, path: Path, target: Path) -> None:
        self._path = path
        self._target = target
        path.mkdir()
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)

    def keep(self) -> None:
        """Put it in the place of the results that were there. Raises OSError."""
        old = self._path.with_name(f"{self._path.name}-old")
        with contextlib.suppress(FileNotFoundError):
            mode = os.lstat(self._target).st_mode
            if not stat.S_ISDIR(mode) and not stat.S_ISLNK(mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self._target))
            os.rename(self._target, old)
        os.rename(self._path, self._target)
        with contextlib.suppress(OSError):
            old.unlink() if old.is_symlink() else shutil.rmtree(old)

    def discard(self) -> None:
        """Remove what is still there."""
        os.close(self.fd)
        shutil.rmtree(self._path, ignore_errors=True)


class _Ear:
    """A sink before another that hears names."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._tail = b""  # of the line under way, if it may name a result
        self._deaf = False  # the line under way names none, or has named it
        self.names: list[bytes] = []

    def begun(self, flow: Flow) -> None:
        self._sink.begun(flow)

    def stdout(self, data: bytes) -> None:
        self._sink.stdout(data)
        if self._deaf:
            start = data.find(b"\n") + 1
            if not start:
                return
            data, self._deaf = data[start:], False
        text = self._tail + data
        end = text.rfind(b"\n") + 1
        place = text.find(PREFIX, 0, end)
        while place >= 0:
            if place == 0 or text[place - 1 : place] == b"\n":
                self._hear(text[place : text.index(b"\n", place)])
            place = text.find(PREFIX, place + 1, end)
        self._tail = text[end:]
        if not PREFIX.startswith(self._tail[: len(PREFIX)]):
            self._tail, self._deaf = b"", True
        elif len(self._tail) > len(PREFIX) + LONGEST_RESULT:
            self._hear(self._tail)
            self._tail, self._deaf = b"", True

    def stderr(self, data: bytes) -> None:
        self._sink.stderr(data)

    def finished(self) -> None:
        if self._tail.startswith(PREFIX):
            self._hear(self._tail)
        self._sink.finished()

    def _hear(self, line: bytes) -> None:
        name = line[len(PREFIX) :].removesuffix(b"\r")[: LONGEST_RESULT + 1]
        if name and len(self.names) <= MOST_RESULTS:
            self.names.append(name)
