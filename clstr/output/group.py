"""``--group`` and ``--keep-order``: the output of a job at once, when the job is done or has failed for good.

Rules:
- What a job prints is kept until its fate is known, then printed whole: its stdout first, then its stderr, as GNU
  parallel does, also where both go to one file.
- Only the last attempt counts: the next one's beginning drops what the one before has printed. A job that is not
  done in the end, and has not failed, prints nothing.
- In order: a job's output waits until each job before it has printed or never will (held, failed without attempt,
  done before this run). At the run's end those that are not done never will, so what waited for them is printed,
  also after ``^C``.
- What is to be printed goes through one queue for each file, no faster than the file takes it. While more than
  LIMIT bytes wait there, jobs that begin to print are held; those that have begun go on into their spools, as in
  GNU parallel. Memory and disk are bounded by what runs at once; with an order, by what waits for its turn too.
- For the null device nothing is kept.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque

from clstr.model import Attempt, Done, Fact, Failed, Flow, Held, Job, News, Sink
from clstr.output.console import Console
from clstr.output.merge import Stream, Throttled, tag_of
from clstr.output.messages import called
from clstr.output.paint import Style
from clstr.output.spool import Spill, Spool
from clstr.output.writer import LIMIT, Sender, Writer


class Queue:
    """Spools on their way to one writer, each printed whole before the next."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self._spools: deque[tuple[Spool, Stream]] = deque()
        self._waits = False  # for the writer
        self._backlog = 0
        self._held: list[Sender] = []
        self._drained: asyncio.Future[None] | None = None

    @property
    def is_behind(self) -> bool:
        """Whether those who begin to print should wait."""
        return self._backlog > LIMIT

    def hold(self, sender: Sender) -> None:
        """The sender waits for its ``released``."""
        self._held.append(sender)

    def put(self, spool: Spool, tag: bytes = b"") -> None:
        """Print the spool behind all that stands here."""
        self._backlog += spool.size
        self._spools.append((spool, Stream(self.writer, self, tag)))
        self._go()

    async def drain(self) -> None:
        """Wait until the writer has all of it."""
        if self._spools:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    def held(self) -> None:
        self._waits = True

    def released(self) -> None:
        self._waits = False
        self._go()

    def _go(self) -> None:
        while self._spools and not self._waits:
            spool, stream = self._spools[0]
            before = spool.size
            if self.writer.discards:
                spool.drop()
            piece = spool.take()
            self._backlog -= before - spool.size
            if piece:
                stream.feed(piece)
            else:
                stream.finish()
                self._spools.popleft()
        if self._held and not self.is_behind:
            held, self._held = self._held, []
            for sender in held:
                sender.released()
        if self._drained is not None and not self._spools and not self._drained.done():
            self._drained.set_result(None)


class Kept(Throttled):
    """The sink of an attempt whose output is kept; spools are made when there is data."""

    __slots__ = ("_keeper", "attempt", "spools")

    def __init__(self, keeper: Keeping, attempt: Attempt) -> None:
        super().__init__()
        self._keeper = keeper
        self.attempt = attempt
        self.spools: dict[str, Spool] = {}

    def begun(self, flow: Flow) -> None:
        super().begun(flow)
        self._keeper.began(self)

    def stdout(self, data: bytes) -> None:
        self._keep("stdout", data)

    def stderr(self, data: bytes) -> None:
        self._keep("stderr", data)

    def drop(self) -> None:
        """Forget what was printed."""
        for spool in self.spools.values():
            spool.drop()

    def _keep(self, name: str, data: bytes) -> None:
        queue = self._keeper.queues[name]
        if not data or queue.writer.discards:
            return
        spool = self.spools.get(name)
        if spool is None:
            spool = self.spools[name] = self._keeper.spool()
            if queue.is_behind:
                queue.hold(self)
                self.held()
        spool.append(data)


class Keeping(ABC):
    """A mode that keeps what a job prints until the job's fate is known."""

    def __init__(self, console: Console, *, digest: bool = False) -> None:
        self._console = console
        self._digest = digest
        self._spill = Spill(self._spill_failed)
        self._kept: dict[int, Kept] = {}  # of jobs whose fate is not known, by id
        out = Queue(console.out)
        self.queues = {"stdout": out, "stderr": out if console.err is console.out else Queue(console.err)}

    @abstractmethod
    def settled(self, job: Job, kept: Kept | None) -> None:
        """The job is done, failed or held, and has printed this in its last attempt."""

    @abstractmethod
    def finish(self) -> None:
        """No more jobs are settled."""

    def sink(self, attempt: Attempt) -> Sink:
        """Where the attempt's bytes go."""
        return Kept(self, attempt)

    def spool(self) -> Spool:
        """A place for a stream of an attempt."""
        return Spool(self._spill, digest=self._digest)

    def began(self, kept: Kept) -> None:
        """The attempt has really begun, so its job's last one is over."""
        before = self._kept.get(kept.attempt.job.id)
        if before is not None:
            before.drop()
        self._kept[kept.attempt.job.id] = kept

    def saw(self, when: float, event: Fact | News) -> None:
        """Learn of the job's fate."""
        match event:
            case Done(job, _) | Failed(job, _, _) | Held(job, _):
                kept = self._kept.pop(job.id, None)
                if kept is not None:
                    self._warn_of_loss(kept)
                self.settled(job, kept)
            case _:
                pass

    async def drain(self) -> None:
        """No more jobs are settled: print what waited for more, and wait until the console has it."""
        self.finish()
        for queue in self.queues.values():
            await queue.drain()
        self._spill.close()

    def _spill_failed(self, directory: str, error: OSError) -> None:
        cure = "held output of more than 1 MiB is cut from here on: make room, or name another directory by TMPDIR"
        self._console.failed(f"temporary file in {directory}", error, cure)

    def _warn_of_loss(self, kept: Kept) -> None:
        for name, spool in kept.spools.items():
            if spool.cut:
                where = f"{called(kept.attempt.job)}: {name}"
                self._console.message(f"{where} cut after {spool.size} bytes, the rest is lost", Style.BAD)


class Group(Keeping):
    """``--group``; with ``order``, ``--keep-order``."""

    def __init__(self, console: Console, *, tag: bool = False, order: bool = False) -> None:
        super().__init__(console)
        self._tag = tag
        self._order = order
        self._next = 1  # the id of the job whose turn it is
        self._waiting: dict[int, Kept | None] = {}  # by id

    def settled(self, job: Job, kept: Kept | None) -> None:
        """Print it, or have it wait for its turn."""
        if not self._order:
            self._print(kept)
            return
        self._waiting[job.id] = kept if kept is not None and kept.spools else None
        while self._next in self._waiting:
            self._print(self._waiting.pop(self._next))
            self._next += 1

    def finish(self) -> None:
        """The jobs between will never print."""
        for _, kept in sorted(self._waiting.items(), key=lambda item: item[0]):
            self._print(kept)
        self._waiting.clear()

    def _print(self, kept: Kept | None) -> None:
        if kept is None:
            return
        for name in ("stdout", "stderr"):
            if name in kept.spools:
                queue = self.queues[name]
                tag = tag_of(kept.attempt.slot.node, queue.writer) if self._tag else b""
                queue.put(kept.spools[name], tag)
