"""Files that a run writes and holds: locked, so that a second run is told instead of mixing its lines in.

Two kinds. A ``LogFile`` grows by whole lines. A ``ReplacedFile`` is replaced by rename, so that a reader sees one
moment whole; a rename would leave the lock on the old file, so each new file is locked before it takes the name:
whatever file has that name, the run has locked it, and no second file is needed.

Both are opened before anything is connected, and changed only when the run begins.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from typing import BinaryIO

from clstr.model import BadInput

# File systems without flock: Lustre mounted without it, some NFS. A lock is not worth refusing to run there.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)

_PERIOD = 0.1  # seconds that a line waits for others, at most
_BATCH = 1 << 16  # bytes that are not waited with


class LogFile:
    """A regular file that grows; where it is a symbolic link, the file that it names does.

    One that somebody has removed cannot be written any more: nobody would ever read it.
    """

    def __init__(self, path: str, busy: str) -> None:
        """Open and lock it, and change nothing. ``busy`` says what another run does there. Raises BadInput."""
        self.path = path
        self.fd = _lock(path, os.path.realpath(path), busy, 0o666)
        self._has_links = os.fstat(self.fd).st_nlink > 0  # there are file systems that count none

    def begin(self, keep: int) -> None:
        """Cut it down to so many bytes, and go on from there. Raises OSError."""
        with naming(self.path):
            os.ftruncate(self.fd, keep)

    def whole_lines(self) -> int:
        """How many bytes of it are whole lines: a crash, or a full disk, may have left a part of one behind them."""
        end = os.lseek(self.fd, 0, os.SEEK_END)
        while end:
            start = max(0, end - (1 << 16))
            newline = os.pread(self.fd, end - start, start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
        return 0

    def write(self, data: bytes) -> None:
        """Add the data, whole lines. Raises OSError."""
        with naming(self.path):
            if self._has_links and not os.fstat(self.fd).st_nlink:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            write_all(self.fd, data)

    def close(self) -> None:
        """Let others have it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class ReplacedFile:
    """A regular file, there or not yet; where it is a symbolic link, the file that it names is replaced."""

    def __init__(self, path: str, busy: str, mode: int | None = None) -> None:
        """Lock it, and change nothing. Its mode is ``mode``, or stays what it is. Raises BadInput."""
        self.path = path
        self._file = os.path.realpath(path)
        self._locked = _lock(path, self._file, busy, 0o666 if mode is None else mode)
        self._mode = mode

    @property
    def is_open(self) -> bool:
        """Has it not been closed?"""
        return self._locked >= 0

    def replace(self, write: Callable[[BinaryIO], object]) -> None:
        """Put in its place what ``write`` writes. Raises OSError; the file is then as it was."""
        with naming(self.path):
            self._replace(write)

    def _replace(self, write: Callable[[BinaryIO], object]) -> None:
        name = os.path.join(os.path.dirname(self._file), f".clstr-{os.urandom(8).hex()}")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        mode = stat.S_IMODE(os.fstat(self._locked).st_mode) if self._mode is None else self._mode
        fd = os.open(name, flags, 0o600)
        try:
            os.fchmod(fd, mode)
            _flock(fd)
            with open(fd, "wb", closefd=False) as file:
                write(file)
            os.rename(name, self._file)
        except BaseException:
            os.close(fd)
            with contextlib.suppress(FileNotFoundError):  # its directory may be gone
                os.unlink(name)
            raise
        os.close(self._locked)
        self._locked = fd

    def close(self) -> None:
        """Let others have it."""
        if self._locked >= 0:
            os.close(self._locked)
            self._locked = -1


class Batched:
    """Whole lines on their way to a file, written ten times a second, or as soon as there are many.

    An error of a write that nobody waits for is raised with the next line.
    """

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._lines: list[bytes] = []
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None
        self._error: OSError | None = None

    def add(self, line: bytes) -> None:
        """Have the line written soon. Raises OSError."""
        self._lines.append(line)
        self._size += len(line)
        if self._size > _BATCH or self._error is not None:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_PERIOD, self._due)

    def flush(self) -> None:
        """Write what there is. Raises OSError, then and ever after."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._error is None and self._lines:
            self._due()
        if self._error is not None:
            raise self._error

    def _due(self) -> None:
        self._timer = None
        data = b"".join(self._lines)
        self._lines.clear()
        self._size = 0
        try:
            self._write(data)
        except OSError as error:
            self._error = error


def write_all(fd: int, data: bytes) -> None:
    """Write all of it to a file that does not block. Raises OSError."""
    while (written := os.write(fd, data)) < len(data):
        data = data[written:]


def put(path: str, data: bytes, mode: int = 0o666) -> None:
    """Make or replace the file in one step. Its directory is the caller's own: nobody else makes files there.

    Raises OSError.
    """
    temporary = f"{path}.new"
    with naming(path):
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            write_all(fd, data)
        finally:
            os.close(fd)
        os.rename(temporary, path)


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Have an OSError name the file that the user knows of."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = path, None
        raise


def _lock(path: str, file: str, busy: str, mode: int) -> int:
    """A descriptor of the file that has this name, locked. Raises BadInput."""
    while True:
        try:
            fd = _open(path, file, mode)
        except OSError as error:
            raise BadInput(f"{path}: {error.strerror} (name a file that can be written)") from error
        try:
            _flock(fd)
            if os.path.samestat(os.fstat(fd), os.stat(file)):
                return fd
        except BlockingIOError as error:
            os.close(fd)
            raise BadInput(f"{path}: another run {busy} (name another file)") from error
        except FileNotFoundError:
            pass  # It was replaced, or removed, between open and flock: look again at what is there now.
        os.close(fd)


def _open(path: str, file: str, mode: int) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    # Looked at before it is opened too: to open a device can have effects.
    if os.path.exists(file) and not stat.S_ISREG(os.stat(file).st_mode):
        raise BadInput(f"{path}: not a regular file (name one, or a file that is not there yet)")
    return os.open(file, flags, mode)


def _flock(fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
