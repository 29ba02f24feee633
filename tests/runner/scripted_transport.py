"""A transport whose every answer the test gives: connections and channels wait until they are told what happens.

Rules:
- Nothing happens by itself. A dial waits in ``dials``, a channel in ``opening``, a running command in ``running``;
  the test answers each. ``easy`` answers dials and channels at once, but never ends a command.
- Every answer yields to the loop, as a real one does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from clstr.inputs.listing import Listing
from clstr.model import (
    Attempt,
    BadInput,
    Ended,
    Evicted,
    Exited,
    Fact,
    Finished,
    Flow,
    Job,
    Lost,
    News,
    Node,
    NotStarted,
    Outcome,
    Sink,
    Slot,
)
from clstr.runner import Conditions, Preparation, Runner, Steps
from clstr.scheduler import Limits, Scheduler
from clstr.transport import CannotConnect, Command, FetchFailed, Landing, NoChannel

PATIENCE = 5.0
"""Seconds after which a test has failed."""


class ScriptedChannel:
    """One command. ``begin`` and ``end`` are the node's doing; ``killed`` and ``closed`` are clstr's."""

    def __init__(self, connection: ScriptedConnection, ahead: bool) -> None:
        self.connection = connection
        self.ahead = ahead
        self.command: Command | None = None
        self.killed = self.closed = self.deaf = False
        self._over: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._sink: Sink | None = None
        self.begun = False

    async def run(self, command: Command, sink: Sink) -> Outcome:
        self.command, self._sink = command, sink
        self.connection.running.append(self)
        if self.connection.transport.begins and not self._over.done():
            await asyncio.sleep(0)
            self.begin()
        try:
            outcome = await self._over
        finally:
            self.connection.running.remove(self)
        if self.begun:
            sink.finished()
        return outcome

    @property
    def job(self) -> str:
        assert self.command is not None
        return self.command.line.decode()

    @property
    def sink(self) -> Sink:
        assert self._sink is not None
        return self._sink

    def begin(self) -> None:
        if not self._over.done():
            self.begun = True
            self.sink.begun(NoFlow())

    def end(self, outcome: Outcome) -> None:
        if not self._over.done():
            self._over.set_result(outcome)

    def kill(self) -> None:
        self.killed = True
        if not self.deaf:
            self.end(Exited(143))

    def close(self) -> None:
        self.closed = True
        self.end(Lost("closed"))


class NoFlow:
    def pause(self) -> None: ...

    def resume(self) -> None: ...


@dataclass(eq=False)
class ScriptedFetch:
    """A copy of results, which the test ends."""

    names: tuple[bytes, ...]
    directory: bytes | None
    landing: Landing
    over: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def end(self, error: Exception | None = None) -> None:
        if error is None:
            self.over.set_result(None)
        else:
            self.over.set_exception(error)


class ScriptedConnection:
    """A connection; ``break_`` cuts it."""

    lasting = True

    def __init__(self, transport: ScriptedTransport, node: Node) -> None:
        self.transport = transport
        self.node = node
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.running: list[ScriptedChannel] = []
        self.spares: list[asyncio.Task[ScriptedChannel]] = []
        self.opened = 0
        self.closed = False
        self.refusal: str | None = None  # what further channels are refused with
        self.mute = False  # gives no sign of life, until it is lost
        self.fetching: list[ScriptedFetch] = []

    async def fetch(self, names: Sequence[bytes], directory: bytes | None, landing: Landing) -> None:
        fetch = ScriptedFetch(tuple(names), directory, landing)
        self.fetching.append(fetch)
        try:
            await asyncio.wait([fetch.over, self.lost], return_when=asyncio.FIRST_COMPLETED)
            if not fetch.over.done():
                raise FetchFailed("the connection is gone", again=True)
            await fetch.over
        finally:
            self.fetching.remove(fetch)

    async def answers(self) -> bool:
        if not self.mute:
            await asyncio.sleep(0)
            return not self.lost.done()
        await asyncio.wait([self.lost])
        return False

    async def channel(self) -> ScriptedChannel:
        await asyncio.sleep(0)
        while self.transport.channels_wait:
            await self.transport.change.wait()
        if self.lost.done() or self.refusal is not None:
            raise NoChannel(self.refusal or "the connection is gone")
        self.opened += 1
        return ScriptedChannel(self, ahead=False)

    def spare(self) -> asyncio.Task[ScriptedChannel] | None:
        async def opened() -> ScriptedChannel:
            await asyncio.sleep(0)
            channel = ScriptedChannel(self, ahead=True)
            if self.transport.dead_spares:
                channel.end(NotStarted("the spare died"))
            return channel

        if self.lost.done():
            return None
        self.spares.append(asyncio.ensure_future(opened()))
        return self.spares[-1]

    def break_(self, why: str = "cable cut") -> None:
        """Cut it: what runs is lost, what has not begun is not started."""
        for channel in list(self.running):
            channel.end(Lost(why) if channel.begun else NotStarted(why))
        if not self.lost.done():
            self.lost.set_result(why)

    def close(self) -> None:
        self.closed = True
        self.lost.cancel()
        for channel in list(self.running):
            channel.end(Lost("closed"))


@dataclass
class ScriptedTransport:
    """``refuse`` says why a node cannot be reached, asked at every dial; ``None`` connects."""

    refuse: Callable[[Node], str | None] = lambda node: None
    begins: bool = True  # commands begin by themselves
    dials_wait: bool = False
    channels_wait: bool = False
    dead_spares: bool = False
    connections: list[ScriptedConnection] = field(default_factory=list)
    dialed: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    change: asyncio.Event = field(default_factory=asyncio.Event)

    async def connect(self, node: Node) -> ScriptedConnection:
        self.dialed.append(node.text)
        try:
            await asyncio.sleep(0)
            while self.dials_wait:
                await self.change.wait()
        except asyncio.CancelledError:
            self.cancelled.append(node.text)
            raise
        if (why := self.refuse(node)) is not None:
            raise CannotConnect(why)
        self.connections.append(ScriptedConnection(self, node))
        return self.connections[-1]

    async def close(self) -> None: ...

    def to(self, text: str) -> ScriptedConnection:
        """The node's last connection."""
        return next(connection for connection in reversed(self.connections) if connection.node.text == text)

    @property
    def fetching(self) -> list[ScriptedFetch]:
        """The copies that the test has yet to end."""
        fetching = [fetch for connection in self.connections for fetch in connection.fetching]
        return [fetch for fetch in fetching if not fetch.over.done()]

    @property
    def running(self) -> list[ScriptedChannel]:
        return [channel for connection in self.connections for channel in connection.running]


class Jobs:
    """A source whose jobs are there from the beginning; ``then`` is raised behind them, after ``go_on``."""

    def __init__(
        self, lines: Sequence[str | Job], then: BadInput | None = None, budget: int | None = None
    ) -> None:
        self._jobs = [
            line if isinstance(line, Job) else Job(number, line.encode(), budget=budget)
            for number, line in enumerate(lines, 1)
        ]
        self._given = 0
        self._then = then
        self.go_on = asyncio.Event()

    def start(self, loop: asyncio.AbstractEventLoop) -> None: ...

    def at_hand(self, count: int) -> list[Job]:
        batch = self._jobs[self._given : self._given + count]
        self._given += len(batch)
        return batch

    async def next(self, count: int) -> list[Job]:
        if self._then is not None:
            await self.go_on.wait()
            raise self._then
        await asyncio.sleep(0)
        return self.at_hand(count)

    @property
    def seen(self) -> tuple[int, bool]:
        return len(self._jobs), self._then is None

    def close(self) -> None: ...


class Quiet:
    """A sink that forgets."""

    def begun(self, flow: Flow) -> None: ...

    def stdout(self, data: bytes) -> None: ...

    def stderr(self, data: bytes) -> None: ...

    def finished(self) -> None: ...


class Play:
    """One run on scripted nodes, and what was heard of it. To be made within a loop."""

    def __init__(
        self,
        nodes: dict[str, int],
        lines: Sequence[str | Job],
        *,
        transport: ScriptedTransport | None = None,
        conditions: Conditions | None = None,
        source: Jobs | None = None,
        observers: Sequence[object] = (),
        limits: Limits | None = None,
        sink: Sink | None = None,
        sink_of: Callable[[Attempt], Sink] | None = None,
        **beside: Any,  # gate, door, records and results
    ) -> None:
        self.transport = transport or ScriptedTransport()
        self.heard: list[Fact | News] = []
        self.warned: list[str] = []
        self.scheduler = Scheduler(limits)
        self.slots = [Slot(Node(text, text), k) for text, count in nodes.items() for k in range(1, count + 1)]
        self.runner = Runner(
            self.scheduler,
            source or Jobs(lines),
            lambda node: self.transport,
            sink_of or (lambda attempt: sink or Quiet()),
            conditions or Conditions(),
            Preparation(Steps(), Listing([]), self.warned.append, self.warned.append),
            [self, *observers],  # type: ignore[list-item]
            self.warned.append,
            **beside,
        )
        self._run: asyncio.Task[Finished] | None = None

    def saw(self, when: float, event: Fact | News) -> None:
        self.heard.append(event)
        self.scheduler.check()

    def begin(self) -> None:
        self._run = asyncio.create_task(self.runner.run(self.slots))

    async def finish(self) -> Finished:
        """Wait for the end; nothing may be left under way."""
        assert self._run is not None
        async with asyncio.timeout(PATIENCE):
            finished = await self._run
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert all(connection.closed or connection.lost.done() for connection in self.transport.connections)
        return finished

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until it holds."""
        assert self._run is not None
        async with asyncio.timeout(PATIENCE):
            while not condition():
                if self._run.done():
                    raise AssertionError(f"over before: {self._run.result()}")
                await asyncio.sleep(0.001)  # a polling loop: the condition may be about anything

    async def channel_of(self, job: str) -> ScriptedChannel:
        """The channel that the job runs on, as soon as it does."""

        def found() -> list[ScriptedChannel]:
            ready = [channel for channel in self.transport.running if channel.begun or not self.transport.begins]
            return [channel for channel in ready if channel.job == job]

        await self.until(found)
        return found()[0]

    async def end_all(self, outcome: Outcome | None = None) -> Finished:
        """Let every job that runs end so, until the run is over."""
        assert self._run is not None
        async with asyncio.timeout(PATIENCE):
            while not self._run.done():
                for channel in self.transport.running:
                    if channel.begun:
                        channel.end(outcome or Exited(0))
                await asyncio.sleep(0)
        return await self.finish()

    def outcomes(self, job: int) -> list[Outcome]:
        return [event.outcome for event in self.heard if isinstance(event, Ended) and event.attempt.job.id == job]

    def evictions(self) -> dict[str, str]:
        return {event.node.text: event.why for event in self.heard if isinstance(event, Evicted)}


def play(scenario: Callable[[], object]) -> None:
    """Run the scenario, a coroutine function, in a loop of its own."""

    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE):
            await scenario()  # type: ignore[misc]

    asyncio.run(bounded())
