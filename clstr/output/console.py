"""The one owner of stdout, stderr and the terminal.

    channel -> sink -> Lines -> Writer -> fd

Rules:
- Job stdout goes to stdout or to ``--stdout FILE``, and nothing else does. Job stderr goes to stderr or to
  ``--stderr FILE``. Messages and the status line go to the real stderr always.
- Where two of these three are one file (device and inode) or one terminal, they share one ``Writer``: one
  thread, one cursor. Otherwise they are independent: a stdout that nobody reads does not stop the messages.
- A job whose output does not get away is held at its source by its ``Flow``; so memory stays bounded.
- A closed stdout (``EPIPE``) is reported once, to ``on_broken``; a closed stderr is only remembered; any
  other error of a file is one message and one call of ``on_failed``. Output without a place is dropped.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from clstr.model import Attempt, BadInput, Flow, Sink
from clstr.output.lines import Lines
from clstr.output.writer import Writer

_PATIENCE = 16 << 20  # bytes of backlog on stderr above which -v lines are dropped rather than kept


@dataclass(frozen=True, slots=True)
class Files:
    """Descriptors that output goes to."""

    stdout: int
    stderr: int
    messages: int = 2


def open_files(stdout: str | None, stderr: str | None) -> Files:
    """Open what ``--stdout`` and ``--stderr`` name; None is clstr's own. Files are truncated.

    Call it before the event loop is made: opening a FIFO waits for its reader, and a closed standard
    descriptor is filled with the null device first, as ssh does, lest a socket get its number and output.
    Raises BadInput.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    out = 1 if stdout is None else _create(stdout)
    if stderr is None:
        return Files(out, 2)
    if stdout is not None and _same(out, stderr):
        return Files(out, out)
    return Files(out, _create(stderr))


def _create(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOCTTY
    try:
        return os.open(path, flags, 0o666)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror} (name a file that can be written)") from error


def _same(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError:
        return False


def _identity(fd: int) -> Hashable:
    """Equal for descriptors of one file or one terminal, ``/dev/tty`` included where the system can tell."""
    try:
        facts = os.fstat(fd)
        if os.isatty(fd):
            return "tty", _terminal_device(fd, facts.st_rdev)
    except OSError:
        return "fd", fd
    if not facts.st_ino:
        return "fd", fd
    return "file", facts.st_dev, facts.st_ino


def _terminal_device(fd: int, device: int) -> int:
    if sys.platform == "linux":
        import fcntl

        tiocgdev = 0x80045432  # ioctl_tty(2): the device behind /dev/tty
        try:
            return int.from_bytes(fcntl.ioctl(fd, tiocgdev, bytes(4)), sys.byteorder)
        except OSError:
            return device
    return device


class Console:
    """See the module. ``on_broken`` and ``on_failed`` are called on the loop's thread, once a file.

    Both get ``stdout`` or ``stderr``; a file that is both is ``stdout``.
    """

    def __init__(
        self,
        files: Files,
        loop: asyncio.AbstractEventLoop,
        on_broken: Callable[[str], None],
        on_failed: Callable[[str, OSError], None],
    ) -> None:
        self._on_broken = on_broken
        self._on_failed = on_failed
        self._writers: dict[Hashable, Writer] = {}
        self._loop = loop
        self._out = self._writer(files.stdout, "stdout")
        self._err = self._writer(files.stderr, "stderr")
        self._own = self._writer(files.messages, "stderr")
        self._unsaid = 0
        self.terminal = os.isatty(files.messages) and os.environ.get("TERM") != "dumb"
        """Whether the status line can stand on stderr; a dumb terminal cannot erase a line."""
        self.errors: dict[str, OSError] = {}
        """Errors met so far, by ``stdout`` or ``stderr``; a closed reader's too."""

    def _writer(self, fd: int, name: str) -> Writer:
        key = _identity(fd)
        if key not in self._writers:
            self._writers[key] = Writer(fd, self._loop, lambda error: self._lost(key, name, error))
        return self._writers[key]

    def sink(self, attempt: Attempt) -> Sink:
        """Where the attempt's bytes go. Merging asks not whose they are; modes to come will."""
        return _Merged(self._out, self._err)

    def message(self, text: str) -> None:
        """Print ``clstr: text`` on stderr; what would steer a terminal or begin a line is shown escaped."""
        if self._unsaid:
            unsaid, self._unsaid = self._unsaid, 0
            self.message(f"{unsaid} lines of --verbose dropped (stderr was not read)")
        self.line(f"clstr: {text}")

    def remark(self, text: str) -> None:
        """A message that is dropped, and counted, when stderr is too slow for all of them."""
        if self._own.backlog > _PATIENCE:
            self._unsaid += 1
        else:
            self.message(text)

    def line(self, text: str) -> None:
        """Print the text, escaped, as a line on stderr."""
        self._own.write(self, printable(text).encode() + b"\n")

    def status(self, line: str | None) -> None:
        """Show this status line on the terminal, or none. Only where ``terminal`` is true."""
        self._own.status(printable(line or ""))

    def leave_status(self) -> None:
        """The status line stays as it is, as an ordinary line."""
        self._own.leave_status()

    async def drain(self) -> None:
        """Wait until everything is written or known to be lost; ``on_failed`` has then been called."""
        for writer in dict.fromkeys((self._out, self._err, self._own)):
            await writer.drained()

    def abort(self) -> None:
        """Give up what is not written: a ``drain`` under way returns."""
        for writer in self._writers.values():
            if writer.backlog:
                writer.abort()

    def close(self) -> None:
        """End the threads. Descriptors stay open."""
        for writer in self._writers.values():
            writer.close()

    def _lost(self, key: Hashable, name: str, error: OSError) -> None:
        self.errors.setdefault(name, error)
        if error.errno in (errno.EPIPE, errno.ECONNRESET):
            if name == "stdout":
                self._on_broken(name)
            return
        if self._writers[key] is not self._own:
            cure = "output from here on is lost: make room, or name another file"
            self.message(f"{name}: {error.strerror} ({cure})")
        self._on_failed(name, error)


class _Stream:
    """One stream of an attempt on its way to a writer; the owner of its lines there."""

    __slots__ = ("_lines", "_sink", "_writer")

    def __init__(self, writer: Writer, sink: _Merged) -> None:
        self._writer = writer
        self._sink = sink
        self._lines = Lines()

    def feed(self, data: bytes) -> None:
        ready = self._lines.feed(data)
        if ready and self._writer.write(self, ready) and self._writer.hold(self._sink):
            self._sink.held()

    def finish(self) -> None:
        if rest := self._lines.rest():
            self._writer.write(self, rest)
        self._writer.ended(self)


class _Merged:
    """The sink of the default mode. Held as long as any of its writers holds it."""

    __slots__ = ("_err", "_flow", "_holds", "_out", "_streams")

    def __init__(self, out: Writer, err: Writer) -> None:
        self._out = out
        self._err = err
        self._streams: dict[str, _Stream] = {}  # made when there is data: most jobs have no stderr
        self._flow: Flow | None = None
        self._holds = 0

    def begun(self, flow: Flow) -> None:
        self._flow = flow

    def stdout(self, data: bytes) -> None:
        if data and not self._out.discards:
            self._stream("stdout", self._out).feed(data)

    def stderr(self, data: bytes) -> None:
        if data and not self._err.discards:
            self._stream("stderr", self._err).feed(data)

    def finished(self) -> None:
        for stream in self._streams.values():
            stream.finish()
        self._flow = None

    def held(self) -> None:
        self._holds += 1
        if self._flow:
            self._flow.pause()

    def released(self) -> None:
        self._holds -= 1
        if self._flow and not self._holds:
            self._flow.resume()

    def _stream(self, name: str, writer: Writer) -> _Stream:
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = _Stream(writer, self)
        return stream


def printable(text: str) -> str:
    """The text with escapes for what is not plainly seen: controls, newlines, bytes that are not UTF-8."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape's form of a byte
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()
