"""Carries out the scheduler's orders, and tells it the facts.

One loop in one sentence: a fact goes into the scheduler, what comes out is queued, orders are begun and news
told, and what they lead to comes back as a fact. Orders that take time are tasks: one for the read under
way, one for each dial, one for all the attempts that follow each other on a slot. How an order is answered - a
spare session, a time limit, a kill that needs a second blow - is known here only; the scheduler never hears of it.

    Want -> _read      [quiet()] jobs(batch) | exhausted()
    Dial -> _connect   connected(node) | unreachable(node)
    Start -> _work     [started] ended(attempt, outcome), and then, if the connection is gone, lost(node), or
                       unreachable(node) if it never ran a job
    Copy -> _copy      copied(attempt, outcome), before its node's lost
    Kill -> kill       the attempt's ended, or copied
    Close -> _close    nothing
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, assert_never

from clstr.model import (
    Attempt,
    BadInput,
    Close,
    Connected,
    ConnectionLost,
    Copy,
    Dial,
    Done,
    Door,
    Ended,
    Event,
    Evicted,
    Exited,
    Fact,
    Failed,
    Finished,
    Found,
    Gate,
    Held,
    Job,
    Kill,
    Lost,
    News,
    Node,
    NotStarted,
    Observer,
    Outcome,
    Pardoned,
    Paroled,
    Refused,
    Requeued,
    Retired,
    Sink,
    Slot,
    Start,
    Started,
    Stopped,
    Unreachable,
    Want,
)
from clstr.runner.attempt import Conditions, Run
from clstr.runner.copies import AT_ONCE, Copying, NoResults, Results, copy
from clstr.runner.descriptors import SHORT_OF_FILES, Descriptors
from clstr.runner.outage import Outage
from clstr.runner.prepare import Preparation, sent
from clstr.scheduler import Scheduler
from clstr.transport import (
    CannotConnect,
    Command,
    Connection,
    Input,
    NoChannel,
    Transport,
    in_thread,
)

T = TypeVar("T")

PAUSE = 0.25
"""Seconds without a line from the stream of jobs after which requeued jobs no longer stand behind it."""

READ_AT_ONCE = 1024
"""Jobs that are read and asked for at a time where many may be done already."""

AGAIN = 5.0
"""Seconds between dials of a node in an outage of ours."""


class JobSource(Protocol):
    """Where jobs come from."""

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to read ahead."""

    def at_hand(self, count: int) -> list[Job]:
        """Up to ``count`` jobs that are there already. Raises BadInput for what stands in the stream."""

    async def next(self, count: int) -> list[Job]:
        """1 to ``count`` jobs as soon as there is one, or none at the end. Raises BadInput."""

    @property
    def seen(self) -> tuple[int, bool]:
        """How many jobs were read so far, ahead of their use too, and whether these are all."""

    def close(self) -> None:
        """Read no further."""


@dataclass(eq=False)
class _Line:
    """A connected node: its connection, what runs there, and the sessions opened ahead."""

    node: Node
    connection: Connection
    runs: dict[int, Run] = field(default_factory=dict)  # by slot number
    at_work: set[int] = field(default_factory=set)  # the slots with a task of their own
    copies: dict[Attempt, Copying] = field(default_factory=dict)
    turn: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))  # of copies
    spares: list[asyncio.Task[Any]] = field(default_factory=list)  # no more than slots
    proved: bool = False  # a job has begun on it
    broken: str | None = None  # why it must be given up, once nothing runs there
    ours: asyncio.Task[bool] | None = None  # whether its loss is this machine's fault


class Runner:
    """Runs one list of jobs to its end."""

    def __init__(
        self,
        scheduler: Scheduler,
        source: JobSource,
        transport_of: Callable[[Node], Transport],
        sink_of: Callable[[Attempt], Sink],
        conditions: Conditions,
        preparation: Preparation,
        observers: Iterable[Observer] = (),
        warn: Callable[[str], None] = lambda text: None,
        *,
        gate: Gate | None = None,
        door: Door | None = None,
        records: Iterable[Observer] = (),
        results: Results | None = None,
    ) -> None:
        """``observers`` are views: one that fails is done without. ``records`` hear of everything before them, and the
        run goes on only while they can be written: one that raises OSError drains it.
        """
        self._scheduler = scheduler
        self._source = source
        self._transport_of = transport_of
        self._sink_of = sink_of
        self._conditions = conditions
        self._preparation = preparation
        self._observers = list(observers)
        self._warn = warn
        self._gate = gate
        self._door = door
        self._records = list(records)
        self._results = results or NoResults()
        self._queue: deque[Event] = deque()
        self._lines: dict[Node, _Line] = {}
        self._dials: dict[Node, asyncio.Task[None]] = {}
        self._connecting = asyncio.Semaphore(conditions.max_connecting)
        self._descriptors = Descriptors(warn)
        self._outage = Outage(self._lasting, warn)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[Finished] = self._loop.create_future()
        self._quiet_timer: asyncio.TimerHandle | None = None
        self._given = 0  # how many jobs the scheduler got
        self.bad_input: BadInput | None = None
        """What was found wrong in the stream of jobs, if anything."""
        self.record_lost = False
        """Could something of a record not be written?"""
        self._asked: deque[tuple[Job, bool]] = deque()  # read, and were they done before this run?

    async def run(self, slots: Sequence[Slot], submitted: Sequence[Job] = ()) -> Finished:
        """Run until the scheduler says that it is over; the source is left open.

        The ``submitted`` jobs are those of submit files, which the source counts as seen.

        Raises what is a bug of clstr, and nothing else.
        """
        self._source.start(self._loop)
        try:
            if submitted:
                self._given = len(submitted)
                self._take(self._scheduler.submitted(submitted, self._done_before(submitted)))
                self.notice_the_end()
            self._take(self._scheduler.nodes(slots))
            return await self._over
        finally:
            self._cancel_timer()
            spares = [spare for line in self._lines.values() for spare in line.spares]
            for task in self._tasks:
                task.cancel()
            for line in self._lines.values():
                self._hang_up(line)
            await asyncio.gather(*self._tasks, *spares, return_exceptions=True)

    def list_nodes(self, joined: Sequence[Slot], left: Sequence[Slot]) -> None:
        """Slots join and leave while the run goes on (``--follow``)."""
        self._take(self._scheduler.nodes(joined, left))

    def notice_the_end(self) -> None:
        """Tell the scheduler when no more jobs come, also while no node is left for which it would want any."""
        total, complete = self._source.seen
        if complete and self._given == total:
            self._take(self._scheduler.exhausted())

    def drain(self, why: str) -> None:
        """Start nothing new; what runs finishes."""
        self._take(self._scheduler.drain(why))

    def stop(self, why: str) -> None:
        """Start nothing new and terminate what runs."""
        self._take(self._scheduler.stop(why))

    def fail(self, error: BaseException) -> None:
        """End the run with what can only be a bug of clstr: better a failed run than one that waits for ever."""
        if not self._over.done():
            self._over.set_exception(error)

    def running(self) -> list[tuple[Attempt, float]]:
        """What runs now and since when (Unix seconds), longest first."""
        runs = (run for line in self._lines.values() for run in line.runs.values())
        return sorted(((run.attempt, run.since) for run in runs if run.since is not None), key=lambda pair: pair[1])

    def copying(self) -> list[tuple[Attempt, float]]:
        """Whose results are being copied now, or wait for it, and since when, longest first."""
        copies = (pair for line in self._lines.values() for pair in line.copies.items())
        return sorted(((attempt, copy.since) for attempt, copy in copies), key=lambda pair: pair[1])

    # --- orders and news -----------------------------------------------------------------------------------

    def _take(self, events: list[Event]) -> None:
        """Carry out what followed from a fact; facts that come of it meanwhile queue up behind."""
        idle = not self._queue
        self._queue.extend(events)
        while idle and self._queue:
            # The event stays in the queue while it is carried out, so that a fact told meanwhile only adds.
            try:
                self._carry_out(self._queue[0])
            finally:
                self._queue.popleft()

    def _carry_out(self, event: Event) -> None:
        match event:
            case Want(count):
                self._read(count)
            case Dial(node):
                self._dials[node] = self._spawn(self._connect(node))
            case Start(attempt):
                self._start(attempt)
            case Copy(attempt, results):
                self._copy(attempt, results)
            case Kill(attempt):
                self._kill(attempt)
            case Close(node):
                self._close(node)
            case Finished():
                self._tell(event)
                if not self._over.done():
                    self._over.set_result(event)
            case Requeued() | Done() | Failed() | Held() | Evicted() | Pardoned() | Paroled() | Retired():
                self._tell(event)
            case _:
                assert_never(event)

    def _tell(self, event: Fact | News) -> None:
        now = time.time()
        for record in tuple(self._records):
            try:
                record.saw(now, event)
            except OSError as error:
                self._records.remove(record)
                self._lose(error)
        for observer in tuple(self._observers):
            try:
                observer.saw(now, event)
            except Exception as error:
                # A view that fails is switched off, once, aloud; the run goes on.
                self._observers.remove(observer)
                self._warn(f"{type(observer).__name__} switched off: {error or type(error).__name__}")

    def _lose(self, error: OSError) -> None:
        """A record cannot be written: what runs may finish, but no job may come to an end that nobody recorded."""
        self.record_lost = True
        why = f"{error.filename} cannot be written: {error.strerror}"
        self._warn(f"{why} (no job is started any more)")
        self.drain(why)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    # --- jobs come in --------------------------------------------------------------------------------------

    def _read(self, count: int) -> None:
        if self._asked:
            self._jobs(count)
        elif self._gate is None:
            self._read_on(count)
        else:
            self._loop.call_soon(self._read_on, count)  # a million may be done already: others have their turn between

    def _read_on(self, count: int) -> None:
        try:
            batch = self._source.at_hand(self._at_once(count))
        except BadInput as error:
            self._refuse_stream(error)
            return
        if batch:
            self._ask(batch)
            self._jobs(count)
        else:
            self._quiet_timer = self._loop.call_later(PAUSE, self._say_quiet)
            self._spawn(self._wait_for_jobs(count))

    async def _wait_for_jobs(self, count: int) -> None:
        try:
            batch = await self._source.next(self._at_once(count))
        except BadInput as error:
            self._cancel_timer()
            self._refuse_stream(error)
            return
        self._cancel_timer()
        if batch:
            self._ask(batch)
            self._jobs(count)
        else:
            self._take(self._scheduler.exhausted())

    def _at_once(self, count: int) -> int:
        """How many jobs to read: of those that are done already a slot needs as many as there are."""
        return count if self._gate is None else max(count, READ_AT_ONCE)

    def _ask(self, batch: list[Job]) -> None:
        """Find out which of the jobs were done before this run."""
        done = self._done_before(batch)
        self._asked.extend((job, job.id in done) for job in batch)

    def _done_before(self, jobs: Sequence[Job]) -> frozenset[int]:
        """The ids of those that were done before this run."""
        return frozenset() if self._gate is None else frozenset(self._gate.done(jobs))

    def _jobs(self, count: int) -> None:
        """Hand out the next jobs, no more than ``count`` of them to be done."""
        if self._scheduler.finished is not None:
            return
        batch, done = [], []
        while self._asked and (self._asked[0][1] or count):
            job, is_done = self._asked.popleft()
            batch.append(job)
            if is_done:
                done.append(job.id)
            else:
                count -= 1
        self._given += len(batch)
        self._take(self._scheduler.jobs(batch, done))
        self.notice_the_end()

    @property
    def unheard(self) -> list[Job]:
        """Jobs that came when the run was over already; those done before this run are not among them."""
        return [job for job, is_done in self._asked if not is_done]

    @property
    def unheard_done(self) -> int:
        """How many jobs done before this run came when it was over already."""
        return len(self._asked) - len(self.unheard)

    def _say_quiet(self) -> None:
        self._take(self._scheduler.quiet())

    def _cancel_timer(self) -> None:
        if self._quiet_timer is not None:
            self._quiet_timer.cancel()

    def _refuse_stream(self, error: BadInput) -> None:
        self.bad_input = error
        self.drain(str(error))

    # --- connections ---------------------------------------------------------------------------------------

    async def _connect(self, node: Node) -> None:
        try:
            connection = await self._dial(node)
            self._tell(Connected(node))
            slots = await self._prepare(node, connection)
        except (CannotConnect, BadInput) as error:
            self._dials.pop(node, None)
            alike = (error.alike, error.unknown_key) if isinstance(error, CannotConnect) else ()
            self._tell(Unreachable(node, str(error), *alike))
            self._take(self._scheduler.unreachable(node, str(error)))
            return
        self._dials.pop(node, None)
        line = self._lines[node] = _Line(node, connection)
        connection.lost.add_done_callback(lambda lost: self._on_lost(line, lost))
        self._take(self._scheduler.connected(node, slots))

    async def _prepare(self, node: Node, connection: Connection) -> int:
        try:
            return await self._preparation.prepare(node, connection)
        except BaseException:
            connection.close()
            raise

    async def _dial(self, node: Node) -> Connection:
        while True:
            patient = self._outage.going_on  # a dial begun in an outage may fail for it after its end
            try:
                async with self._connecting:
                    connection = await self._transport_of(node).connect(node)
            except (CannotConnect, BadInput, OSError) as error:
                if self._descriptors.are_short:
                    await self._descriptors.wait()
                    continue
                if not isinstance(error, CannotConnect):
                    raise
                if not patient and not self._outage.going_on:
                    raise
                await asyncio.sleep(AGAIN * random.uniform(0.5, 1.5))
            else:
                if connection.lasting:
                    self._outage.connected()
                return connection

    def _on_lost(self, line: _Line, lost: asyncio.Future[str]) -> None:
        if lost.cancelled() or self._over.done():
            return
        self._outage.heard_of(line.node)
        if line.broken is None:
            line.broken = lost.result()
        if not line.runs and not line.copies:
            self._spawn(self._give_up(line))

    async def _is_ours(self, line: _Line) -> bool:
        """Find out, once for all that ran there, whether this machine is at fault for the loss of the line."""
        if line.ours is None:
            line.ours = self._spawn(self._outage.is_ours(line.node))
        return await asyncio.shield(line.ours)

    async def _give_up(self, line: _Line) -> None:
        """Report a broken connection, once everything that was under way on it has ended."""
        was_lost = _was_lost(line)
        ours = was_lost and await self._is_ours(line)
        if line.broken is None or line.runs or line.copies or self._lines.get(line.node) is not line:
            return
        del self._lines[line.node]
        self._hang_up(line)
        if line.proved or was_lost:
            self._tell(ConnectionLost(line.node, line.broken))
            self._take(self._scheduler.lost(line.node, line.broken, ours))
        else:
            self._tell(Unreachable(line.node, line.broken))
            self._take(self._scheduler.unreachable(line.node, line.broken))

    def _lasting(self) -> dict[Node, Connection]:
        """The connections that may tell whether this machine still reaches anything."""
        lines = (line for line in self._lines.values() if line.broken is None and line.connection.lasting)
        return {line.node: line.connection for line in lines}

    def _close(self, node: Node) -> None:
        dial = self._dials.pop(node, None)
        if dial is not None:
            dial.cancel()
        line = self._lines.pop(node, None)
        if line is not None:
            self._hang_up(line)

    def _hang_up(self, line: _Line) -> None:
        for spare in line.spares:
            spare.cancel()
        line.spares.clear()
        line.connection.close()

    # --- attempts ------------------------------------------------------------------------------------------

    def _start(self, attempt: Attempt) -> None:
        line, number = self._lines[attempt.slot.node], attempt.slot.number
        run = line.runs[number] = Run(attempt, self._conditions, lambda run: self._begun(run, line))
        if self.record_lost:
            run.verdict = Stopped()  # ordered with the news that could not be written
        if number not in line.at_work:
            line.at_work.add(number)
            self._spawn(self._work(line, number))

    async def _work(self, line: _Line, number: int) -> None:
        """Run what the slot is given, as long as its next attempt is there when one has ended."""
        while (run := line.runs.get(number)) is not None:
            outcome = await self._attempt(run, line)
            del line.runs[number]
            self._tell(Ended(run.attempt, outcome))
            self._take(self._scheduler.ended(run.attempt, outcome))
        line.at_work.discard(number)
        await self._give_up(line)

    async def _attempt(self, run: Run, line: _Line) -> Outcome:
        # A task that is cancelled before its first step never takes it, and nobody would hear of the attempt's end.
        run.task = asyncio.current_task()
        outcome: Outcome
        try:
            outcome = run.verdict or await self._bar(run) or await self._run_with_input(run, line)
            run.over()
            if run.verdict is None and isinstance(outcome, (Lost, NotStarted)):
                outcome = await self._break(line, outcome)
            elif isinstance(outcome, (Found, Refused)):
                await asyncio.sleep(0)  # it may have waited for nothing: others have their turn before the next
        except asyncio.CancelledError:
            if run.verdict is None:
                raise
        outcome = run.verdict or outcome
        named = self._results.named(run.attempt)
        if isinstance(outcome, Exited):
            self._outage.survived()
            if named and outcome.status == 0:
                return Exited(0, named)
        return outcome

    async def _bar(self, run: Run) -> Found | Refused | None:
        """Why the attempt may not begin on this machine, if so; else it has got its sink."""
        for name, value in run.attempt.job.terms.environment:
            if b"\n" in value or b"\0" in value:
                return Refused(f"environment: the value of {name} holds a newline or NUL, which no node takes")
        entered = self._door is None
        while True:
            try:
                if not entered and self._door is not None and (barred := self._door.enter(run.attempt)) is not None:
                    return barred
                entered = True
                run.sink = self._sink_of(run.attempt)
                return None
            except OSError as error:
                if error.errno not in SHORT_OF_FILES:
                    return Refused(f"{error.filename}: {error.strerror}")
            await self._descriptors.wait()

    async def _run_once_there_is_room(self, run: Run, line: _Line, source: Input | None) -> Outcome:
        """Run the attempt, if need be after others have closed their files."""
        while True:
            outcome = await self._run_on_a_channel(run, line, source)
            ours = isinstance(outcome, NotStarted) and line.broken is None and self._descriptors.are_short
            if run.verdict is not None or not ours:
                return outcome
            await self._descriptors.wait()

    def _kill(self, attempt: Attempt) -> None:
        line = self._lines[attempt.slot.node]
        if (copying := line.copies.get(attempt)) is not None:
            copying.stop()
        else:
            line.runs[attempt.slot.number].kill(Stopped())

    async def _break(self, line: _Line, outcome: Lost | NotStarted) -> Lost | NotStarted:
        """The line is no good any more; of a job that was lost with it, find out whose fault that is."""
        if line.broken is None:
            line.broken = outcome.why
        if isinstance(outcome, NotStarted):
            return outcome
        ours = _was_lost(line) and await self._is_ours(line)
        if line.connection.lasting and not line.copies:
            line.connection.close()  # the other jobs there are as good as lost; clients of their own are not
        return Lost(outcome.why, ours)

    async def _run_with_input(self, run: Run, line: _Line) -> Outcome:
        """Run the attempt, its input open meanwhile if it has one."""
        path = run.attempt.job.terms.input
        if path is None:
            return await self._run_once_there_is_room(run, line, None)
        while True:
            try:
                source = await in_thread(Input, path)
                break
            except OSError as error:
                if error.errno not in SHORT_OF_FILES:
                    return Refused(f"{path}: {error.strerror}")
            await self._descriptors.wait()
        try:
            return await self._run_once_there_is_room(run, line, source)
        finally:
            source.close()

    async def _run_on_a_channel(self, run: Run, line: _Line, source: Input | None) -> Outcome:
        """Run the attempt in a session opened ahead, or in a new one when that turns out to be dead."""
        command = self._command(run.attempt, source)
        while line.spares:
            run.channel, spare = None, line.spares.pop(0)
            try:
                run.channel = await spare
            except NoChannel:
                continue
            outcome = await run.channel.run(command, run)
            if not isinstance(outcome, NotStarted) or run.verdict is not None:
                return outcome
        run.channel = None
        try:
            run.channel = await line.connection.channel()
        except (NoChannel, CannotConnect) as error:
            return NotStarted(str(error))
        return await run.channel.run(command, run)

    def _command(self, attempt: Attempt, source: Input | None) -> Command:
        job, node = attempt.job, attempt.slot.node
        environment: tuple[tuple[str, str | bytes], ...] = (
            *job.terms.environment,
            ("CLSTR_NODE", node.text),
            ("CLSTR_SLOT", str(attempt.slot.number)),
            ("CLSTR_JOB", str(job.id)),
            ("CLSTR_ATTEMPT", str(attempt.number)),
        )
        return Command(sent(job.command, job.parts, node), environment, self._directory(job), source)

    def _directory(self, job: Job) -> bytes | None:
        return self._conditions.directory if job.terms.directory is None else job.terms.directory

    def _begun(self, run: Run, line: _Line) -> None:
        line.proved = True
        run.since = time.time()
        self._tell(Started(run.attempt))
        self._take(self._scheduler.started(run.attempt))
        self._open_ahead(line)

    def _open_ahead(self, line: _Line) -> None:
        """Have the next session of a slot ready when its job ends."""
        worth_it = self._conditions.ahead and line.broken is None and self._scheduler.more_to_come
        if worth_it and len(line.spares) < len(line.runs):
            spare = line.connection.spare()
            if spare is not None:
                spare.add_done_callback(lambda done: done.cancelled() or done.exception())
                line.spares.append(spare)


    # --- copies --------------------------------------------------------------------------------------------

    def _copy(self, attempt: Attempt, results: tuple[bytes, ...]) -> None:
        line = self._lines[attempt.slot.node]
        copying = line.copies[attempt] = Copying()
        self._spawn(self._copying(copying, attempt, results, line))

    async def _copying(self, copying: Copying, attempt: Attempt, results: tuple[bytes, ...], line: _Line) -> None:
        copying.task = asyncio.current_task()
        outcome: Outcome = Stopped()
        try:
            if not copying.stopped:
                async with line.turn:
                    outcome = await self._copy_once_there_is_room(attempt, results, line)
        except asyncio.CancelledError:
            if not copying.stopped:
                raise
        del line.copies[attempt]
        self._take(self._scheduler.copied(attempt, outcome))
        await self._give_up(line)

    async def _copy_once_there_is_room(self, attempt: Attempt, results: tuple[bytes, ...], line: _Line) -> Outcome:
        """Copy, if need be after others have closed their files."""
        directory = self._directory(attempt.job)
        while True:
            try:
                return await copy(attempt, results, directory, line.connection, self._results, self._warn)
            except OSError:
                await self._descriptors.wait()


def _was_lost(line: _Line) -> bool:
    """Did the connection break, rather than that we closed it?"""
    return line.connection.lost.done() and not line.connection.lost.cancelled()
