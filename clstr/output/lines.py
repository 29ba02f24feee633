"""The line splitter: a job's bytes, split anywhere, into pieces that end with a line.

Rules:
- Everything up to the last newline of a chunk goes out as one piece; no loop runs over lines, because this is
  the path that every byte of output takes.
- What follows the last newline is kept, and goes out with the rest of its line or at the stream's end.
- A line of more than LONGEST bytes is passed on in parts, so that memory stays bounded. The parts arrive
  whole and in order; they are parted only by what another job prints meanwhile.
"""

from __future__ import annotations

LONGEST = 1 << 20
"""Bytes of an unfinished line that are kept back for its end."""


class Lines:
    """One stream of one attempt."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = bytearray()

    def feed(self, data: bytes) -> bytes:
        """What may be printed now that ``data`` has come; empty when only a part of a line is there."""
        end = data.rfind(b"\n") + 1
        if end == len(data) and not self._tail:
            return data
        tail = self._tail
        if end == 0:
            tail += data
            return self.rest() if len(tail) > LONGEST else b""
        whole = bytes(tail) + data[:end] if tail else data[:end]
        self._tail = bytearray(data[end:])
        return whole

    def rest(self) -> bytes:
        """The unfinished line, which is then forgotten."""
        rest = bytes(self._tail)
        self._tail = bytearray()
        return rest
