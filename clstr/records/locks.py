"""The locks of jobs in a run directory that several runs share: ``NAME.lock`` holds ``HOST PID START``.

- A lock is made by link(2) of a file that is finished, so there is none that says nothing, and of two that want it one
  gets it, on NFS too.
- It is stale when on this host no such process lives that began then; START is there because numbers of processes come
  again. A stale lock is replaced under a flock of the directory: else two that find it stale could each remove the
  other's new one.
- Whether a process on another host lives cannot be told from here: its lock stands until somebody removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clstr.records.files import put

SHORT_OF_FILES = (errno.EMFILE, errno.ENFILE)
"""Errors that pass when others have closed some: they say nothing of the directory."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock."""

    host: str
    pid: int
    start: str

    @property
    def line(self) -> bytes:
        """What the lock's file says."""
        return f"{self.host} {self.pid} {self.start}\n".encode("utf-8", "surrogateescape")

    def __str__(self) -> str:
        return f"{self.host} {self.pid}"


def this_process() -> Holder:
    """The holder of this run's locks."""
    return Holder("".join(socket.gethostname().split()) or "localhost", os.getpid(), _start_of(os.getpid()) or "?")


class Locks:
    """The locks of this run in one directory.

    What all its locks say stands in one file, in a directory ``.clstr`` beside them, of which a lock is a further link:
    to make a file for each costs ten times as much. So it is with ``status``, the text of ``NAME.status``. What a run
    that crashed has left there the next one removes.
    """

    def __init__(self, directory: str) -> None:
        """Raises OSError."""
        self.me = this_process()
        self._directory = directory
        self._place = os.path.join(directory, ".clstr")
        self._finished = os.path.join(self._place, f"{self.me.host}.{self.me.pid}")
        self.status = f"{self._finished}.status"
        while not self._settle():
            pass
        self._sweep()

    def _settle(self) -> bool:
        """Make what links lead to; False where a run that has just ended took the place away again."""
        try:
            os.makedirs(self._place, exist_ok=True)
            put(self._finished, self.me.line)
            put(self.status, b"%d w\n" % self.me.pid)
        except (FileNotFoundError, FileExistsError):
            if not os.path.isdir(self._directory) or os.path.isfile(self._place):
                raise
            return False
        return True

    def _sweep(self) -> None:
        for name in os.listdir(self._place):
            holder = read(path := os.path.join(self._place, name))
            if isinstance(holder, Holder) and _is_gone(holder, self.me):
                release(path)
                release(f"{path}.status")

    def take(self, path: str) -> tuple[Holder | str | None, Holder | None]:
        """Take the lock: gives who holds it instead, if anybody, and whose stale lock was replaced, if one was.

        Raises OSError.
        """
        if self._link(path):
            return None, None
        with _alone_in(self._directory):
            holder = read(path)
            if isinstance(holder, Holder) and _is_gone(holder, self.me):
                release(path)
                return (None, holder) if self._link(path) else (read(path), None)
        return holder, None

    def _link(self, path: str) -> bool:
        try:
            os.link(self._finished, path)
        except FileExistsError:
            return False
        return True

    def close(self) -> None:
        """No lock is taken any more."""
        with contextlib.suppress(OSError):
            os.unlink(self.status)
            os.unlink(self._finished)
            os.rmdir(self._place)  # where no other run is


def release(path: str) -> None:
    """Give the lock back. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def read(path: str) -> Holder | str:
    """Who holds the lock; words about it where it cannot be read. Raises OSError where too many files are open."""
    try:
        host, pid, start = Path(path).read_bytes().decode("utf-8", "surrogateescape").split()
        return Holder(host, int(pid), start)
    except FileNotFoundError:
        return "a run that has just ended"
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in SHORT_OF_FILES:
            raise
        return f"somebody ({path} is none of clstr's: remove it if nobody is at work)"


@contextlib.contextmanager
def _alone_in(directory: str) -> Iterator[None]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # no locks here: then a run alone is all that is safe
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _is_gone(holder: Holder, me: Holder) -> bool:
    if holder.host != me.host:
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass  # it lives, and is somebody else's
    start = _start_of(holder.pid)
    return start is not None and start != holder.start


def _start_of(pid: int) -> str | None:
    """When the process began, in a word; ``dead`` for one that nobody has waited for, None where that is not known."""
    with contextlib.suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()  # proc(5)
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
        return "dead" if fields[0] in ("Z", "X") else f"{boot}-{fields[19]}"
    with contextlib.suppress(OSError):
        shown = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return "-".join(shown.stdout.split()) or None
    return None
