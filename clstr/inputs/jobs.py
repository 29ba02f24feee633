"""The streams of jobs: ``-j`` texts and ``-J`` files, and the one job per entry of ``--on-each-node``.

Each text or line is a template, which may stand for many jobs; they are made when they are asked for.

- A file is read by one daemon thread with blocking calls: a FIFO whose writer pauses, a terminal or a dead
  NFS server holds up neither the event loop nor the exit. (The threads of an executor are joined at exit.)
- A file is opened when its turn comes, and once only: opening and closing a FIFO beforehand would break the
  pipe of its writer.
- The thread reads ahead until AHEAD_JOBS jobs or AHEAD_BYTES bytes of them wait, and goes on below the half:
  an endless stream takes constant memory, and the two threads meet once per batch and not once per job.
- Ids follow the order of the input. Commands stay the bytes they are.
- What cannot be used in mid-stream ends the stream: the jobs before it are handed out, then comes BadInput.
"""

from __future__ import annotations

import asyncio
import os
import select
import stat
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import NoReturn

from clstr.inputs import label, reason
from clstr.inputs.templates import Expanded, Templates
from clstr.model import BadInput, Job, Node

AHEAD_JOBS = 4096
"""Jobs that may wait to be handed out before the reading rests."""

AHEAD_BYTES = 1024 * 1024
"""Bytes of commands that may wait to be handed out before the reading rests."""

CHUNK = 64 * 1024
"""Bytes of one read: what a Linux pipe holds."""

BATCH = 256
"""Jobs that the reading thread hands over at once, at most."""


def check_files(files: Sequence[str], stdin_fd: int = 0) -> None:
    """Raise BadInput for a job file that is missing, unreadable, a directory, or stdin for the second time.

    Nothing is opened, so that neither a FIFO nor its writer notices.
    """
    for index, path in enumerate(files):
        name = label(path)
        if path == "-" and "-" in files[:index]:
            raise BadInput("--job-file: stdin is named twice (give '-' once)")
        try:
            mode = os.fstat(stdin_fd).st_mode if path == "-" else os.stat(path).st_mode
        except OSError as error:
            raise BadInput(
                f"{name}: {reason(error)} (give a file with one job a line; a job itself goes with -j)"
            ) from None
        if stat.S_ISDIR(mode) or stat.S_ISSOCK(mode):
            kind = "directory" if stat.S_ISDIR(mode) else "socket"
            raise BadInput(f"{name}: is a {kind} (give a file with one job a line)")
        if path != "-" and not os.access(path, os.R_OK):
            raise BadInput(f"{name}: Permission denied (give a file that you may read)")


class JobStream:
    """``-j`` commands and then the jobs of ``-J`` files, read as they come.

    ``longest`` is the most bytes that a command may have. ``listed`` jobs, which do not come through here, stand
    between the two: they have the ids between, and are counted as seen. Raises BadInput for a command of ``-j``
    that is empty or longer, and, where there are no files, for a matrix key that no job names; where there are, it
    comes at their end. Every method is called on the thread of the loop.
    """

    def __init__(
        self,
        commands: Sequence[bytes],
        files: Sequence[str],
        *,
        longest: int,
        null: bool = False,
        stdin_fd: int = 0,
        budget: int | None = None,
        job_class: str | None = None,
        templates: Templates | None = None,
        listed: int = 0,
    ) -> None:
        self._templates = templates = templates or Templates()
        for command in commands:
            templates.check(command, "--job", longest)
        if not files:
            templates.check_named()
        self._texts = self._text_jobs(commands)
        self._files = files
        self._longest = longest
        self._null = null
        self._stdin_fd = stdin_fd
        self._budget = budget
        self._class = job_class
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()
        # What follows is shared with the reading thread, and changes under this lock only.
        self._turn = threading.Condition(threading.RLock())
        self._waiting: deque[Job] = deque()
        self._bytes = 0
        self._count = sum(map(templates.count, commands)) + listed
        self._ended = not files
        self._error: BadInput | None = None
        self._starved = False
        self._closed = False

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to read the files; called once."""
        self._loop = loop
        if self._files:
            threading.Thread(target=self._read, name="clstr job files", daemon=True).start()

    def at_hand(self, count: int) -> list[Job]:
        """Up to ``count`` jobs, without waiting; [] when there are none yet, or none any more.

        Raises BadInput behind the last good job.
        """
        if jobs := list(islice(self._texts, count)):
            return jobs
        with self._turn:
            jobs = [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]
            if jobs:
                self._bytes -= sum(map(_size, jobs))
                if self._room():
                    self._turn.notify()
            elif self._error is not None:
                raise self._error
            return jobs

    async def next(self, count: int) -> list[Job]:
        """1 to ``count`` jobs as soon as there is one, without suspending if it is there; [] at the end.

        Raises BadInput behind the last good job. Being cancelled loses no job.
        """
        while True:
            with self._turn:  # no job may come between the look and the verdict that there are none
                jobs = self.at_hand(count)
                if jobs or self._ended or self._closed:
                    return jobs
                self._news.clear()
                self._starved = True
            await self._news.wait()

    @property
    def seen(self) -> tuple[int, bool]:
        """How many jobs there are so far, handed out or not, those listed too; and whether these are all."""
        with self._turn:
            return self._count, self._ended

    @property
    def is_finite(self) -> bool:
        """Is all of it in regular files, whose end is sure to come?"""
        return all(map(self._is_regular, self._files))

    def _is_regular(self, path: str) -> bool:
        try:
            return stat.S_ISREG((os.fstat(self._stdin_fd) if path == "-" else os.stat(path)).st_mode)
        except OSError:
            return False

    def close(self) -> None:
        """Read no further, without waiting for a read under way. Jobs already read can still be had."""
        with self._turn:
            self._closed = True
            self._turn.notify()
        self._news.set()

    def _text_jobs(self, commands: Sequence[bytes]) -> Iterator[Job]:
        all_of_them = chain.from_iterable(map(self._templates.expand, commands))
        for number, expanded in enumerate(all_of_them, 1):
            yield self._job(number, expanded, "--job")

    def _job(self, number: int, job: Expanded, origin: str) -> Job:
        command, parts, matrix = job
        return Job(number, command, origin, self._budget, None, self._class, None, parts, matrix)

    # --- the reading thread --------------------------------------------------------------------------------

    def _read(self) -> None:
        error = None
        try:
            for path in self._files:
                self._read_file(path)
            self._templates.check_named()
        except _Closed:
            return
        except BadInput as bad:
            error = bad
        with self._turn:
            self._error = error
            self._ended = error is None
        self._tell()

    def _read_file(self, path: str) -> None:
        name = label(path)
        parser = Lines(name, self._longest, self._null)
        try:
            fd = self._stdin_fd if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise BadInput(f"{name}: {reason(error)} (nothing of it was read)") from None
        try:
            while chunk := _some(fd):
                self._hand_over(self._expand(parser.feed(chunk)))
            self._hand_over(self._expand(parser.end()))
        except OSError as error:
            where = f"{name}:{parser.line}"
            raise BadInput(f"{where}: {reason(error)} (the jobs before it were read)") from None
        finally:
            if path != "-":
                os.close(fd)

    def _expand(self, entries: Iterator[tuple[bytes, str]]) -> Iterator[tuple[Expanded, str]]:
        for command, origin in entries:
            if b"{" in command:
                self._templates.check(command, origin, self._longest)
            for expanded in self._templates.expand(command):
                yield expanded, origin

    def _hand_over(self, entries: Iterator[tuple[Expanded, str]]) -> None:
        """Put the entries where the loop finds them; an error among them comes behind those before it."""
        with self._turn:
            if self._closed:
                raise _Closed
        batch: list[tuple[Expanded, str]] = []
        try:
            for entry in entries:
                batch.append(entry)
                if len(batch) == BATCH:
                    self._put(batch)
                    batch = []
        finally:
            if batch:
                self._put(batch)

    def _put(self, batch: list[tuple[Expanded, str]]) -> None:
        jobs = [self._job(number, *entry) for number, entry in enumerate(batch, self._count + 1)]
        size = sum(map(_size, jobs))
        with self._turn:
            if len(self._waiting) + len(jobs) > AHEAD_JOBS or self._bytes + size > AHEAD_BYTES:
                self._turn.wait_for(lambda: self._closed or self._room())
            if self._closed:
                raise _Closed
            self._waiting += jobs
            self._bytes += size
            self._count += len(jobs)
        self._tell()

    def _room(self) -> bool:
        return len(self._waiting) <= AHEAD_JOBS // 2 and self._bytes <= AHEAD_BYTES // 2

    def _tell(self) -> None:
        with self._turn:
            starved, self._starved = self._starved, False
        if starved and self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._news.set)


class PinnedJobs:
    """The command once for each of the nodes, in their order, pinned, with a budget of 0 or what ``--retries`` says.

    A template is as many jobs for each node as it stands for. It has the methods of JobStream. Raises BadInput for a
    command that is empty or longer than ``longest``, and for a matrix key that it does not name.
    """

    def __init__(
        self,
        command: bytes,
        nodes: Sequence[Node],
        *,
        longest: int,
        budget: int = 0,
        templates: Templates | None = None,
    ) -> None:
        self._templates = templates or Templates()
        self._templates.check(command, "--on-each-node", longest)
        self._templates.check_named()
        self._budget = budget
        self._command = command
        self._nodes = nodes
        self._jobs = self._all()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Nothing is to be read."""

    def _all(self) -> Iterator[Job]:
        each = ((node, expanded) for node in self._nodes for expanded in self._templates.expand(self._command))
        for number, (node, job) in enumerate(each, 1):
            origin = "--on-each-node"
            yield Job(number, job.command, origin, self._budget, pin=node, parts=job.parts, matrix=job.matrix)

    def at_hand(self, count: int) -> list[Job]:
        """Up to ``count`` jobs; [] when all have been handed out."""
        return list(islice(self._jobs, count))

    async def next(self, count: int) -> list[Job]:
        """As ``at_hand``."""
        return self.at_hand(count)

    @property
    def seen(self) -> tuple[int, bool]:
        """The number of jobs, all known from the start."""
        return len(self._nodes) * self._templates.count(self._command), True

    @property
    def is_finite(self) -> bool:
        """It ends."""
        return True

    def close(self) -> None:
        """Nothing is being read."""


@dataclass(slots=True)
class Lines:
    """Bytes in, split anywhere; (command, origin) out.

    A line ends with LF, less one CR before it; blank lines and those whose first non-blank byte is ``#`` are
    no jobs, and a byte order mark at the head of the file is no part of one. With ``null`` an entry ends with
    NUL, and nothing but empty entries is left out. The last one may lack its end.

    ``line`` is the number of the line, or entry, that is being read. Raises BadInput for a NUL in a line and
    for a command of more than ``longest`` bytes, having given what comes before it.
    """

    name: str
    longest: int
    null: bool
    line: int = 1
    _tail: bytes = field(default=b"", init=False)

    def feed(self, data: bytes) -> Iterator[tuple[bytes, str]]:
        """The entries that end within the data."""
        *whole, self._tail = (self._tail + data).split(b"\0" if self.null else b"\n")
        for raw in whole:
            if command := self._command(raw):
                yield command, f"{self.name}:{self.line}"
            self.line += 1
        if len(self._tail) > self.longest + 1:  # one more for a CR
            self._check_endless()

    def end(self) -> Iterator[tuple[bytes, str]]:
        """The last entry, if it lacks its end."""
        if command := self._command(self._tail):
            yield command, f"{self.name}:{self.line}"

    def _command(self, raw: bytes) -> bytes:
        """The command of an entry, b"" if it is none."""
        command = raw
        if not self.null:
            command = raw.removesuffix(b"\r")
            if self.line == 1:
                command = command.removeprefix(b"\xef\xbb\xbf")
            if command.lstrip()[:1] in (b"", b"#"):
                return b""
            if b"\0" in command:
                self._refuse_nul()
        if len(command) > self.longest:
            raise _too_long(f"{self.name}:{self.line}", self.longest)
        return command

    def _check_endless(self) -> None:
        """A job may not grow for ever; a comment or a blank line may, and is not kept."""
        head = self._tail.lstrip()[:1]
        if not self.null and head in (b"", b"#"):
            self._tail = head
        elif not self.null and b"\0" in self._tail:
            self._refuse_nul()
        else:
            raise _too_long(f"{self.name}:{self.line}", self.longest)

    def _refuse_nul(self) -> NoReturn:
        where = f"{self.name}:{self.line}"
        raise BadInput(f"{where}: NUL byte in a job (use --null for entries that end with NUL)")


class _Closed(Exception):
    """Nobody wants more of the stream."""


def _size(job: Job) -> int:
    """Bytes of what the job brings with it."""
    size = len(job.command)
    return size if job.parts is None else size + sum(len(part) for part in job.parts if isinstance(part, bytes))


def _too_long(where: str, longest: int) -> BadInput:
    return BadInput(f"{where}: job of more than {longest:,} bytes (put it into a script on the nodes)")


def _some(fd: int) -> bytes:
    """The next bytes of the file, b"" at its end.

    Waits for them even where another program has left the terminal or the pipe set not to block.
    """
    while True:
        try:
            return os.read(fd, CHUNK)
        except BlockingIOError:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            poll.poll()
