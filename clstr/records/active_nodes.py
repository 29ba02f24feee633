"""``--active-nodes FILE``: which nodes run which jobs at this moment, for other programs to read.

    n17: <'Job' 'make -C /data part7'>

Rules:
- One line per running job, oldest first; the command as Python's ``repr`` of its text, which is one line.
- FILE is replaced by rename, so a reader sees one moment whole. It is replaced at most ten times a second, is
  exact once nothing has changed for 0.1 s, and is empty at the end of the run. Its mode is 0600.
- FILE is absent or a regular file; where it is a symbolic link, the file that it names is replaced.
- The run holds a flock on FILE. A rename would leave the lock on the old file, so each new file is locked
  before it takes FILE's place: whatever file has that name, the run has locked it; no second file is needed.
- This is a view: when it cannot be written, it is given up with one warning and the run goes on.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import stat
from collections.abc import Callable

from clstr.model import Attempt, BadInput, Ended, Fact, News, Started

_PERIOD = 0.1  # seconds from one replacement to the next

# File systems without flock: Lustre mounted without it, some NFS. A view is not worth refusing to run there.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class ActiveNodes:
    """The observer. It writes in the event loop: a small file, as a rule, in a local directory."""

    def __init__(self, path: str, warn: Callable[[str], None]) -> None:
        """Lock and empty the file, which is to happen before any connection. Raises BadInput."""
        self._path = path
        self._warn = warn
        self._lines: dict[int, str] = {}
        self._written_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._file = os.path.realpath(path)
        self._locked = _lock(path, self._file)
        try:
            self._replace()
        except OSError as error:
            os.close(self._locked)
            raise BadInput(
                f"{path}: {error.strerror} (it is replaced by renaming: its directory must be writable)"
            ) from error

    def saw(self, when: float, event: Fact | News) -> None:
        """Enter a job that has started, and strike it out when it has ended."""
        match event:
            case Started(attempt):
                self._lines[attempt.job.id] = line(attempt)
            case Ended(attempt, _):
                if self._lines.pop(attempt.job.id, None) is None:
                    return
            case _:
                return
        if self._timer is None and self._locked >= 0:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(self._written_at + _PERIOD, self._write, loop)

    def close(self) -> None:
        """Leave the file empty and unlocked."""
        if self._timer is not None:
            self._timer.cancel()
        self._lines.clear()
        if self._locked >= 0:
            self._write(None)
        if self._locked >= 0:
            os.close(self._locked)
            self._locked = -1

    def _write(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._timer = None
        if loop is not None:
            self._written_at = loop.time()
        try:
            self._replace()
        except OSError as error:
            os.close(self._locked)
            self._locked = -1
            self._warn(f"{self._path}: {error.strerror} (no longer written; the run goes on without it)")

    def _replace(self) -> None:
        name = os.path.join(os.path.dirname(self._file), f".clstr-{os.urandom(8).hex()}")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(name, flags, 0o600)
        try:
            _flock(fd)
            with open(fd, "wb", closefd=False) as file:
                file.write("".join(self._lines.values()).encode("utf-8", "backslashreplace"))
            os.rename(name, self._file)
        except OSError:
            os.close(fd)
            os.unlink(name)
            raise
        os.close(self._locked)
        self._locked = fd


def line(attempt: Attempt) -> str:
    """The attempt's line, with its newline; the form is the first clstr's."""
    command = attempt.job.command.decode("utf-8", "surrogateescape")
    return f"{attempt.slot.node.text}: <'Job' {command!r}>\n"


def _lock(path: str, file: str) -> int:
    """A descriptor of the file that has this name, locked. Raises BadInput."""
    while True:
        try:
            fd = _open(path, file)
        except OSError as error:
            raise BadInput(f"{path}: {error.strerror} (name a file that can be written)") from error
        try:
            _flock(fd)
            if os.path.samestat(os.fstat(fd), os.stat(file)):
                return fd
        except BlockingIOError as error:
            os.close(fd)
            raise BadInput(f"{path}: another run keeps its active nodes there (name another file)") from error
        except FileNotFoundError:
            pass  # It was replaced, or removed, between open and flock: look again at what is there now.
        os.close(fd)


def _open(path: str, file: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    # Looked at before it is opened too: to open a device can have effects.
    if os.path.exists(file) and not stat.S_ISREG(os.stat(file).st_mode):
        raise BadInput(f"{path}: not a regular file (name one, or a file that is not there yet)")
    return os.open(file, flags, 0o600)


def _flock(fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
