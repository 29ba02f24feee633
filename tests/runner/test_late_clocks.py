"""Timers that fire late: a stopped process, or a machine that slept, is given time to read what is pending.

The loop's clock is turned forward, as SIGSTOP and SIGCONT would do it: timers are found late, nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from clstr.inputs.listing import Listing
from clstr.model import Node
from clstr.runner import Preparation, Push, Steps
from clstr.runner.attempt import Clock
from clstr.transport import LATE, patience
from clstr.transport.patience import within


def with_a_clock_to_turn(scenario: Callable[[Callable[[float], None]], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        loop = asyncio.get_running_loop()
        real, slept = loop.time, [0.0]
        loop.time = lambda: real() + slept[0]  # type: ignore[method-assign]

        def sleep(seconds: float) -> None:
            slept[0] += seconds

        async with asyncio.timeout(1000):
            await scenario(sleep)

    asyncio.run(bounded())


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_a_clock_in_time_calls_back() -> None:
    async def scenario(sleep: Callable[[float], None]) -> None:
        rung = asyncio.Event()
        Clock(0.01, rung.set)
        await rung.wait()

    with_a_clock_to_turn(scenario)


def test_a_clock_that_slept_waits_for_what_is_pending() -> None:
    async def scenario(sleep: Callable[[float], None]) -> None:
        rung = asyncio.Event()
        clock = Clock(10, rung.set)
        sleep(60)
        await turns()
        assert not rung.is_set()
        clock.cancel()
        sleep(LATE + 0.1)
        await turns()
        assert not rung.is_set()

    with_a_clock_to_turn(scenario)


def test_a_clock_that_slept_rings_when_nothing_came() -> None:
    async def scenario(sleep: Callable[[float], None]) -> None:
        rung = asyncio.Event()
        Clock(10, rung.set)
        sleep(60)
        await turns()
        sleep(LATE)
        await turns()
        assert rung.is_set()

    with_a_clock_to_turn(scenario)


def test_a_time_limit_in_time_is_one() -> None:
    async def scenario(sleep: Callable[[float], None]) -> None:
        with pytest.raises(TimeoutError):
            async with within(0.01):
                await asyncio.Event().wait()

    with_a_clock_to_turn(scenario)


def test_a_time_limit_that_was_slept_through_begins_anew() -> None:
    async def scenario(sleep: Callable[[float], None]) -> None:
        done = asyncio.Event()

        async def work() -> str:
            async with within(10):
                await done.wait()
                return "done"

        task = asyncio.create_task(work())
        await turns()
        sleep(60)
        await turns()
        assert not task.done()
        sleep(9.9)
        await turns()
        done.set()
        assert await task == "done"

    with_a_clock_to_turn(scenario)


def test_a_time_limit_that_begins_anew_ends_all_the_same() -> None:
    async def scenario(sleep: Callable[[float], None]) -> None:
        async def work() -> None:
            async with within(10):
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await turns()
        sleep(60)
        await turns()
        sleep(10 + patience.LATE / 2)
        await turns()
        with pytest.raises(TimeoutError):
            await task

    with_a_clock_to_turn(scenario)


def test_a_setup_that_ended_while_clstr_slept_is_not_over_its_time() -> None:
    async def scenario(sleep: Callable[[float], None]) -> None:
        done = asyncio.Event()

        class Slow:
            async def push(self, local: Path, remote: str) -> None:
                await done.wait()

        steps = Steps(pushes=(Push(Path("data"), ""),), timeout=10)
        preparation = Preparation(steps, Listing([]), [].append, [].append)
        task = asyncio.create_task(preparation.prepare(Node("n1", "n1"), Slow()))  # type: ignore[arg-type]
        await turns()
        sleep(60)
        await turns()
        done.set()
        assert await task == 0

    with_a_clock_to_turn(scenario)
