"""One open file that clstr prints to: its thread, its cursor and, on a terminal, its status line.

Theory of operation. The event loop appends to a list and goes on; a thread takes all that is there at once
and writes it with blocking ``write(2)``. A descriptor is never made non-blocking: a terminal or a pipe is
shared with other programs, which would then fail with EAGAIN. The loop wakes the thread only when it sleeps,
and the thread rests a moment after a small write, so thousands of small lines a second cost a hundred
wake-ups, not thousands; the first line after a silence is written at once, and at the end it rests no more.

Rules:
- More than LIMIT bytes unwritten: senders are held, and released when half of that is left.
- The cursor is a fact of the file, kept here alone: it stands at a line's beginning (``None``) or after the
  unfinished text of an owner. When anybody else writes, a newline comes between. An owner that has ended
  (``ENDED``) will not go on with its line.
- The status line stands below all output. A batch of output is one write: erase, whole lines, draw again.
  The terminal's cursor waits at its beginning: terminals that wrap old lines anew when they get narrower keep the
  cursor at the character that it stood at, so all rows of the line are below it and none of a job's output is.
  While an owner that still runs has an unfinished line there (a part of a line of over 1 MiB), the status
  line is not drawn: the terminal keeps the job's bytes, and the status comes back with the line's end.
  Text that an ended job left unfinished gets its newline as soon as a status line is to stand below it.
- A line is cut to one column less than the terminal has at that moment, so that it never wraps.
- After an error nothing more is written, and what would be is dropped; the error is reported once.
"""

from __future__ import annotations

import asyncio
import os
import select
import stat
import threading
from collections.abc import Callable
from typing import Final, Protocol

LIMIT = 1 << 20
"""Unwritten bytes above which senders are held."""

_PORTION = 256 << 10  # bytes a write call: small enough that senders are released in good time
_SMALL = 64 << 10  # a batch below this is followed by a rest
_REST = 0.01  # seconds; bounds wake-ups to 100 a second and a line's delay to this
_REST_TERMINAL = 0.02  # with a status line, each batch is a redraw too, and eyes are slower than pipes
# The rows below too: those that a narrower terminal has made of one line. Not from the first column: in the first row
# tmux would take that for a clear of the whole screen, and keep the status line in its history.
_ERASE = b"\r \x1b[J\r\x1b[K"

ENDED: Final = object()
"""The owner of a line that nobody goes on with."""


class Sender(Protocol):
    """Somebody who can be told to go on."""

    def released(self) -> None:
        """The writer that held this sender has room again."""


class Writer:
    """One open file. Every method is called on the loop's thread."""

    def __init__(
        self,
        fd: int,
        loop: asyncio.AbstractEventLoop,
        on_error: Callable[[OSError], None],
        colours: bool = False,
    ) -> None:
        self._fd = fd
        self._loop = loop
        self._on_error = on_error
        self._lock = threading.Lock()
        self._wake = threading.Lock()  # a binary semaphore: held whenever the thread has nothing to wake for
        self._wake.acquire()
        self._thread: threading.Thread | None = None
        self._asleep = False
        self._hurry = threading.Event()  # set when somebody waits for all to be written
        self._closing = False
        self._pending: list[bytes] = []
        self._unwritten = 0
        self._held: dict[Sender, None] = {}
        self._waiters: list[asyncio.Future[None]] = []
        self._cursor: object | None = None
        self._status = b""
        self._redraw = False
        self._drawn = False
        self.discards = is_null(fd)
        """Nothing that is written here arrives anywhere: the null device, or a file that failed."""
        self.colours = colours
        """Whether what clstr itself prints here is to be coloured."""

    @property
    def backlog(self) -> int:
        """Bytes not written yet."""
        return self._unwritten

    def write(self, owner: object, data: bytes) -> bool:
        """Append the owner's data, which is not empty. True asks the sender to ``hold`` itself."""
        with self._lock:
            if self.discards:
                return False
            self._append(owner, data)
            self._rouse()
            return self._unwritten > LIMIT

    def hold(self, sender: Sender) -> bool:
        """True when the sender must wait for its ``released``; False when it may go on, or waits already."""
        with self._lock:
            if self.discards or self._unwritten <= LIMIT // 2 or sender in self._held:
                return False
            self._held[sender] = None
            return True

    def goes_on(self, owner: object) -> bool:
        """Whether what the owner writes next continues a line of its own."""
        return self._cursor is owner

    def ended(self, owner: object) -> None:
        """The owner writes no more."""
        if self._cursor is owner:
            with self._lock:
                self._cursor = ENDED
                if self._status:
                    self._finish_line()
                    self._rouse()

    def status(self, line: str) -> None:
        """Show this line, without controls or a newline, below the output; empty for none. Terminals only."""
        if self.discards:
            return
        with self._lock:
            self._status = line.encode("utf-8", "replace")
            if line and self._cursor is ENDED:
                self._finish_line()
            self._redraw = True
            self._rouse()

    def leave_status(self) -> None:
        """Make the status line, as it stands, the last line of the output."""
        if self.discards or not self._status:
            return
        with self._lock:
            line = self._cut(self._status)
            self._status = b""
            self._append(self, line + b"\n")
            self._rouse()

    def step_off(self) -> None:
        """Write no more, and move the cursor below the status line, unless that would wait; for who leaves at once."""
        with self._lock:
            self._give_up()
        if self._drawn and select.select([], [self._fd], [], 0)[1]:
            os.write(self._fd, b"\n")

    async def drained(self) -> None:
        """Wait until all is written, has failed or was given up; a file's delayed errors are known then."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        with self._lock:
            if self.discards or self._thread is None:
                # An error may have been met but not reported: its callback stands before this one.
                self._loop.call_soon(self._resolve, [waiter])
            else:
                self._waiters.append(waiter)
                self._hurry.set()
                self._rouse()
        await waiter

    def abort(self) -> None:
        """Give up what is not written; ``drained`` waits no more. The thread may hang in its last write."""
        with self._lock:
            self._give_up()
        self._release()

    def close(self) -> None:
        """End the thread once it has written what there is; for those who outlive their console."""
        with self._lock:
            self._closing = True
            self._hurry.set()
            if self._thread is not None:
                self._rouse()

    # --- with the lock held ---

    def _append(self, owner: object, data: bytes) -> None:
        if self._cursor is not None and self._cursor is not owner:
            self._finish_line()
        self._pending.append(data)
        self._unwritten += len(data)
        self._cursor = None if data[-1] == 10 else owner

    def _finish_line(self) -> None:
        self._pending.append(b"\n")
        self._unwritten += 1
        self._cursor = None

    def _rouse(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"clstr-writer-{self._fd}", daemon=True)
            self._thread.start()
        elif self._asleep:
            self._asleep = False
            self._wake.release()

    def _give_up(self) -> None:
        self.discards = True
        self._pending.clear()
        self._unwritten = 0

    def _cut(self, line: bytes) -> bytes:
        try:
            columns = os.get_terminal_size(self._fd).columns or 80
        except OSError:
            columns = 80
        return line[: columns - 1]

    # --- on the loop's thread, by the writing thread's wish ---

    def _release(self) -> None:
        with self._lock:
            held, self._held = self._held, {}
            waiters = self._waiters if self.discards else []
        for sender in held:
            sender.released()
        self._resolve(waiters)

    def _resolve(self, waiters: list[asyncio.Future[None]]) -> None:
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _failed(self, error: OSError) -> None:
        self._on_error(error)
        self._release()

    # --- on the writing thread ---

    def _run(self) -> None:
        try:
            while (batch := self._take()) is not None:
                self._put(*batch)
        except OSError as error:
            with self._lock:
                if not self.discards:
                    self._give_up()
                    self._tell(self._failed, error)

    def _take(self) -> tuple[bytes, int] | None:
        """All that is to be written now, and how much of it counts; None at the end. Waits."""
        while True:
            with self._lock:
                if self._pending or self._redraw:
                    return self._batch()
                waiters, self._waiters = self._waiters, []
                if not waiters:
                    if self._closing or self.discards:
                        return None
                    self._asleep = True
            if waiters:
                self._hurry.clear()
                try:
                    self._settle()
                except OSError:
                    with self._lock:
                        self._waiters += waiters  # They are told after the error is.
                    raise
                self._tell(self._resolve, waiters)
            else:
                self._wake.acquire()

    def _batch(self) -> tuple[bytes, int]:
        body = b"".join(self._pending)
        self._pending.clear()
        self._redraw = False
        erase = _ERASE if self._drawn else b""
        status = self._cut(self._status) + b"\r" if self._status and self._cursor is None else b""
        self._drawn = bool(status)
        return erase + body + status, len(body)

    def _put(self, data: bytes, counted: int) -> None:
        view = memoryview(data)
        while view and not self.discards:
            sent = self._write(view[:_PORTION])
            view = view[sent:]
            if sent < counted:
                counted -= sent
            else:
                sent, counted = counted, 0
            with self._lock:
                self._unwritten = max(0, self._unwritten - sent)
                release = bool(self._held) and self._unwritten <= LIMIT // 2
            if release:
                self._tell(self._release)
        if len(data) < _SMALL:
            self._hurry.wait(_REST_TERMINAL if self._drawn else _REST)

    def _write(self, portion: memoryview) -> int:
        while True:
            try:
                return os.write(self._fd, portion)
            except BlockingIOError:
                # Somebody who shares the terminal or the pipe has made it non-blocking.
                select.select([], [self._fd], [])

    def _settle(self) -> None:
        """Hear of the errors that a network file system or a quota reports at close only."""
        if stat.S_ISREG(os.fstat(self._fd).st_mode):
            os.close(os.dup(self._fd))

    def _tell(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:  # The loop is closed: nobody is left who would care.
            return


def is_null(fd: int) -> bool:
    """Whether the descriptor is the null device."""
    try:
        return os.fstat(fd).st_rdev == os.stat(os.devnull).st_rdev
    except OSError:
        return False
