"""A real pseudo-terminal, and what a person would see on it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import termios

import pyte


class Terminal:
    """``slave`` is for the program; what it prints there is drawn on a screen."""

    def __init__(self, lines: int = 12, columns: int = 90) -> None:
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)

    def lines(self) -> list[str]:
        """The screen as it is now, without the empty lines."""
        while select.select([self.master], [], [], 0)[0]:
            try:
                self._stream.feed(os.read(self.master, 65536))
            except OSError:  # nobody has the other end any more
                break
        return [line.rstrip() for line in self._screen.display if line.strip()]

    def last_line(self) -> str:
        """The lowest line that is not empty."""
        return (self.lines() or [""])[-1]

    def close(self) -> None:
        """Hang up."""
        os.close(self.master)
        os.close(self.slave)
