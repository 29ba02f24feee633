"""What an attempt has used is free as soon as it has ended: no circle of references leaves it to the garbage collector.

Thousands of attempts a second would have the collector look through them all the time.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from clstr.model import Attempt, Exited, Job, Node, Slot
from clstr.runner import Conditions
from clstr.runner.attempt import Run
from clstr.transport.patience import within


@pytest.fixture(autouse=True)
def _nobody_collects() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class KnowsItsSink:
    """A channel and a sink; as those of transports and modes do, each remembers whom it was told of."""

    def __init__(self) -> None:
        self.known: list[object] = []

    def begun(self, flow: object) -> None: ...
    def stdout(self, data: bytes) -> None: ...
    def stderr(self, data: bytes) -> None: ...
    def finished(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def kill(self) -> None: ...
    def close(self) -> None: ...

    async def run(self, command: object, sink: Run) -> Exited:
        self.known.append(sink)
        sink.begun(self)
        sink.stdout(b"x\n")
        sink.finished()
        return Exited(0)


def test_an_attempt_that_is_over_leaves_no_circle() -> None:
    async def scenario() -> weakref.ref[Run]:
        attempt = Attempt(Job(1, b"true"), 1, Slot(Node("n1", "n1"), 1))
        run = Run(attempt, Conditions(timeout=60, stall_timeout=60), lambda run: None)
        run.sink, run.channel = KnowsItsSink(), KnowsItsSink()
        await run.channel.run(None, run)  # type: ignore[arg-type]
        run.over()
        return weakref.ref(run)

    assert asyncio.run(scenario())() is None


def test_a_time_limit_that_was_kept_leaves_no_circle() -> None:
    class Made:
        pass

    async def work() -> Made:
        async with within(60):
            return Made()

    async def scenario() -> weakref.ref[Made]:
        return weakref.ref(await asyncio.create_task(work()))

    assert asyncio.run(scenario())() is None
