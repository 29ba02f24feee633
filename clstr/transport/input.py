"""A local file as the standard input of a job.

It is read in pieces, on a thread, since a file of a network may keep its reader waiting; never more of it is in memory
than the channel takes. How long it is settled when it is opened: what is appended later is not part of it, and a file
that has become shorter is an error.
"""

from __future__ import annotations

import io
import os
import stat

from clstr.transport.patience import in_thread

PIECE = 64 * 1024
"""Bytes that are read at a time."""


class CannotRead(Exception):
    """The input is not there any more; the text says why."""


class Input:
    """An open file. Its pieces can be read again, from the beginning too."""

    def __init__(self, path: str) -> None:
        """Open it; must not be called on the loop's thread. Raises OSError."""
        self.path = path
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # no waiting for the writer of a FIFO
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) and not os.path.samestat(found, os.stat(os.devnull)):
                raise OSError(0, "is not a regular file", path)
        except BaseException:
            os.close(fd)
            raise
        self.size = found.st_size
        self._file = io.FileIO(fd)  # it closes itself when nobody waits for it any more

    async def read(self, offset: int) -> bytes:
        """The next piece, at least one byte; to be asked below ``size`` only. Raises CannotRead."""
        try:
            data = await in_thread(os.pread, self._file.fileno(), min(PIECE, self.size - offset), offset)
        except OSError as error:
            raise CannotRead(f"{self.path}: {error.strerror}") from None
        if not data:
            raise CannotRead(f"{self.path}: has become shorter while it was read")
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()
