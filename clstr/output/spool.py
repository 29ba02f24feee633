"""Output that is kept until its time comes: in memory while it is small, on disk when it is not.

Theory of operation. All spools of a run share one temporary file without a name (so that a crash leaves nothing)
and one descriptor (so that ten thousand finished jobs need no more than one). It is made of blocks, which are
used again when what stood in them has been printed.

Rules:
- A spool keeps up to LIMIT bytes in memory; past that its whole blocks go to disk.
- All spools together keep up to TOGETHER bytes in memory; past that each one that grows goes to disk, down to what
  a page of the file system holds. So many small outputs that wait for their turn stay bounded too.
- After an error of the file a spool keeps LIMIT bytes and is ``cut``: what comes behind them is lost, and who
  prints it says so.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

LIMIT = 1 << 20
"""Bytes that a spool keeps in memory."""

TOGETHER = 64 << 20
"""Bytes that all spools keep in memory."""

BLOCK = 256 << 10
_PAGE = 4096


class Spill:
    """The temporary file, made when it is needed, in the directory that TMPDIR names.

    ``on_failed`` gets the directory and the error, perhaps more than once.
    """

    def __init__(self, on_failed: Callable[[str, OSError], None]) -> None:
        self._on_failed = on_failed
        self._fd = -1
        self._blocks = 0
        self._free: list[int] = []
        self.failed = False
        """Nothing can be put any more."""
        self.in_memory = 0
        """Bytes of all spools that are not in the file."""

    def put(self, data: bytes) -> int | None:
        """Write up to BLOCK bytes into a block and give its number; None when that failed."""
        if self.failed:
            return None
        block = self._free.pop() if self._free else self._blocks
        try:
            if self._fd < 0:
                self._fd = _nameless_file()
            view = memoryview(data)
            at = block * BLOCK
            while view:
                written = os.pwrite(self._fd, view, at)
                view, at = view[written:], at + written
        except OSError as error:
            self._fail(error)
            return None
        self._blocks = max(self._blocks, block + 1)
        return block

    def get(self, block: int, size: int) -> bytes | None:
        """What stands in the block, which is then free; None when it cannot be read."""
        self.free(block)
        try:
            data = os.pread(self._fd, size, block * BLOCK)
        except OSError as error:
            self._fail(error)
            return None
        return data if len(data) == size else None

    def free(self, block: int) -> None:
        """What stands in the block is needed no more."""
        self._free.append(block)

    def close(self) -> None:
        """Give the space back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _fail(self, error: OSError) -> None:
        import tempfile

        self.failed = True
        self._on_failed(tempfile.gettempdir(), error)


def _nameless_file() -> int:
    import tempfile

    with tempfile.TemporaryFile(buffering=0) as file:
        return os.dup(file.fileno())


class Spool:
    """Bytes in their order. Append, then take; ``drop`` at any time."""

    __slots__ = ("_blocks", "_hash", "_memory", "_spill", "_taken", "cut", "size")

    def __init__(self, spill: Spill, *, digest: bool = False) -> None:
        self._spill = spill
        self._blocks: list[tuple[int, int]] = []  # block, bytes in it
        self._taken = 0  # how many of them
        self._memory = bytearray()
        self._hash = hashlib.blake2b(digest_size=20) if digest else None
        self.size = 0
        """Bytes not taken yet."""
        self.cut = False
        """Whether bytes were lost at the end."""

    def append(self, data: bytes) -> None:
        """Keep the data."""
        if self._hash:
            self._hash.update(data)
        if self.cut:
            return
        self._memory += data
        self.size += len(data)
        self._spill.in_memory += len(data)
        if not self._spill.failed:
            if len(self._memory) > (BLOCK if self._blocks else LIMIT):
                self._write_out(len(self._memory) - len(self._memory) % BLOCK)
            if self._spill.in_memory > TOGETHER and len(self._memory) >= _PAGE:
                self._write_out(len(self._memory))
        if self._spill.failed and len(self._memory) > LIMIT:
            self.cut = True
            self.size -= len(self._memory) - LIMIT
            self._forget(LIMIT, len(self._memory))

    def take(self) -> bytes:
        """The next bytes, which are then forgotten; empty at the end."""
        if self._taken < len(self._blocks):
            block, size = self._blocks[self._taken]
            self._taken += 1
            data = self._spill.get(block, size)
            if data is None:
                self.cut = True
                self.drop()
                return b""
        else:
            data = bytes(self._memory)
            self._forget(0, len(data))
        self.size -= len(data)
        return data

    def drop(self) -> None:
        """Forget all of it."""
        for block, _ in self._blocks[self._taken :]:
            self._spill.free(block)
        self._taken = len(self._blocks)
        self._forget(0, len(self._memory))
        self.size = 0

    @property
    def digest(self) -> bytes:
        """The digest of all that was appended."""
        assert self._hash is not None
        return self._hash.digest()

    def _write_out(self, size: int) -> None:
        written = 0
        while written < size:
            piece = bytes(self._memory[written : min(written + BLOCK, size)])
            block = self._spill.put(piece)
            if block is None:
                break
            self._blocks.append((block, len(piece)))
            written += len(piece)
        self._forget(0, written)

    def _forget(self, start: int, end: int) -> None:
        del self._memory[start:end]
        self._spill.in_memory -= end - start
