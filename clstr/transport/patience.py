"""Waiting for what may never come: a time limit, and a thread that nobody waits for.

A process that was stopped (``^Z`` and ``fg``) or whose machine slept finds its timers due before it has read
what came meanwhile. A limit that ran out long ago therefore begins anew: what is pending is read first.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

LATE = 1.0
"""Seconds behind its time after which a timer has slept with the process."""


@contextlib.asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Like ``asyncio.timeout``: raises TimeoutError after so many seconds, but none that were slept through."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as limit:

        timer = loop.call_later(seconds, lambda: due())

        def due() -> None:
            nonlocal timer
            if loop.time() - timer.when() > LATE:
                timer = loop.call_later(seconds, due)
            else:
                limit.reschedule(loop.time())

        try:
            yield
        finally:
            timer.cancel()


async def in_thread(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Call what may block, on a thread of its own: threads of a pool are waited for when the program ends."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(result: Callable[[], None]) -> None:
        if not answer.done():
            result()

    def call() -> None:
        try:
            value = function(*arguments, **named)
        except Exception as error:
            problem = error
            tell(lambda: answer.set_exception(problem))
        else:
            tell(lambda: answer.set_result(value))

    def tell(result: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result)

    threading.Thread(target=call, name=f"clstr {getattr(function, '__name__', 'call')}", daemon=True).start()
    return await answer
