"""The one owner of stdout, stderr and the terminal.

How the jobs' output looks is a mode's affair (``modes``); what a mode prints goes to ``out`` and ``err`` here.

Rules:
- Job stdout goes to stdout or to ``--stdout FILE``, and nothing else does. Job stderr goes to stderr or to
  ``--stderr FILE``. Messages and the status line go to the real stderr always.
- Where two of these three are one file (device and inode) or one terminal, they share one ``Writer``: one
  thread, one cursor. Otherwise they are independent: a stdout that nobody reads does not stop the messages.
- A closed stdout (``EPIPE``) is reported once, to ``on_broken``; a closed stderr is only remembered; any
  other error of a file is one message and one call of ``on_failed``. Output without a place is dropped.
- Texts of clstr's own are escaped, then painted where the file takes colours.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import stat
import sys
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from clstr.model import BadInput
from clstr.output.paint import Style, painted, printable, wanted
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

    Call it before the event loop is made: opening a FIFO waits for its reader. Raises BadInput.
    """
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


def _is_pipe(fd: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(fd).st_mode)
    except OSError:
        return False


def _is_shared(terminal: Hashable) -> bool:
    """Does another process of our pipeline have its stdout on the terminal? Linux only; elsewhere nobody knows."""
    processes = {}  # parent and process group of each
    for name in os.listdir("/proc") if os.path.exists("/proc/self/stat") else ():
        if name.isdecimal():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                _, parent, group, *_ = file.read().rpartition(b")")[2].split()
                processes[int(name)] = int(parent), int(group)
    others = {pid for pid, (_, group) in processes.items() if group == os.getpgrp()}
    pid = os.getpid()
    while pid in processes:  # not we, nor the shell that waits for us
        others.discard(pid)
        pid = processes[pid][0]
    for other in others:
        with contextlib.suppress(OSError):
            if ("tty", os.stat(f"/proc/{other}/fd/1").st_rdev) == terminal:
                return True
    return False


class Console:
    """See the module. ``on_broken`` and ``on_failed`` are called on the loop's thread, once a file.

    Both get ``stdout`` or ``stderr``, or the path of another file; a file that is both is ``stdout``.
    ``color`` is auto, always or never.
    """

    def __init__(
        self,
        files: Files,
        loop: asyncio.AbstractEventLoop,
        on_broken: Callable[[str], None],
        on_failed: Callable[[str, OSError], None],
        color: str = "never",
    ) -> None:
        self._on_broken = on_broken
        self._on_failed = on_failed
        self._color = color
        self._writers: dict[Hashable, Writer] = {}
        self._loop = loop
        self.out = self._writer(files.stdout, "stdout")
        self.err = self._writer(files.stderr, "stderr")
        """Where the jobs' output goes; one object when both are one file."""
        self._own = self._writer(files.messages, "stderr")
        self._unsaid = 0
        self._files = files
        self.errors: dict[str, OSError] = {}
        """Errors met so far, by ``stdout``, ``stderr`` or path; a closed reader's too."""

    @functools.cached_property
    def terminal(self) -> bool:
        """Whether the status line can stand on stderr: a dumb terminal cannot erase a line, and what the reader of our
        stdout prints on the same one (``clstr ... | tee log``) would be torn by it."""
        fd = self._files.messages
        if not os.isatty(fd) or os.environ.get("TERM") == "dumb":
            return False
        return not (_is_pipe(self._files.stdout) and _is_shared(_identity(fd)))

    def _writer(self, fd: int, name: str) -> Writer:
        key = _identity(fd)
        if key not in self._writers:
            colours = wanted(self._color, fd)
            self._writers[key] = Writer(fd, self._loop, lambda error: self._lost(key, name, error), colours)
        return self._writers[key]

    def message(self, text: str, style: Style = Style.PLAIN) -> None:
        """Print ``clstr: text`` on stderr; what would steer a terminal or begin a line is shown escaped."""
        if self._unsaid:
            unsaid, self._unsaid = self._unsaid, 0
            self.message(f"{unsaid} lines of --verbose dropped (stderr was not read)")
        self.line(f"clstr: {text}", style)

    def remark(self, text: str, style: Style = Style.PLAIN) -> None:
        """A message that is dropped, and counted, when stderr is too slow for all of them."""
        if self._own.backlog > _PATIENCE:
            self._unsaid += 1
        else:
            self.message(text, style)

    def line(self, text: str, style: Style = Style.PLAIN) -> None:
        """Print the text, escaped, as a line on stderr."""
        shown = painted(printable(text), style if self._own.colours else Style.PLAIN)
        self._own.write(self, shown.encode() + b"\n")

    def status(self, line: str | None) -> None:
        """Show this status line on the terminal, or none. Only where ``terminal`` is true."""
        self._own.status(printable(line or ""))

    def leave_status(self) -> None:
        """The status line stays as it is, as an ordinary line."""
        self._own.leave_status()

    def step_off(self) -> None:
        """Leave the terminal so that what is printed after the process does not begin upon the status line."""
        self._own.step_off()

    async def drain(self) -> None:
        """Wait until everything is written or known to be lost; ``on_failed`` has then been called."""
        for writer in dict.fromkeys((self.out, self.err, self._own)):
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

    def failed(self, name: str, error: OSError, cure: str) -> None:
        """A file that output goes to by another way cannot be written: one message, one ``on_failed``."""
        if name not in self.errors:
            self.errors[name] = error
            self.message(f"{name}: {error.strerror} ({cure})", Style.BAD)
            self._on_failed(name, error)

    def _lost(self, key: Hashable, name: str, error: OSError) -> None:
        self.errors.setdefault(name, error)
        if error.errno in (errno.EPIPE, errno.ECONNRESET):
            if name == "stdout":
                self._on_broken(name)
            return
        if self._writers[key] is not self._own:
            cure = "output from here on is lost: make room, or name another file"
            self.message(f"{name}: {error.strerror} ({cure})", Style.BAD)
        self._on_failed(name, error)
