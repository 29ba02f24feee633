"""Waiting for what may never come: a time limit, and a thread that nobody waits for.

A process that was stopped (``^Z`` and ``fg``) or whose machine slept finds its timers due before it has read
what came meanwhile. A limit that ran out long ago therefore begins anew: what is pending is read first.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

LATE = 1.0
"""Seconds behind its time after which a timer has slept with the process."""


class Alarm:
    """Calls back once, after so many seconds of which none were slept through."""

    __slots__ = ("_callback", "_loop", "_seconds", "_timer")

    def __init__(self, seconds: float, callback: Callable[[], None]) -> None:
        self._seconds = seconds
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(seconds, self._due)

    def _due(self) -> None:
        if self._loop.time() - self._timer.when() > LATE:
            self._timer = self._loop.call_later(self._seconds, self._due)
        else:
            self._callback()

    def cancel(self) -> None:
        """Never call back."""
        self._timer.cancel()


class within:
    """Like ``asyncio.timeout``: raises TimeoutError after so many seconds, but none that were slept through."""

    __slots__ = ("_alarm", "_limit", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def __aenter__(self) -> None:
        limit = self._limit = asyncio.timeout(None)
        await limit.__aenter__()
        # Not a method: in a circle with the alarm, all that the task has made would be left to the garbage collector.
        self._alarm = Alarm(self._seconds, lambda: limit.reschedule(asyncio.get_running_loop().time()))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._alarm.cancel()
        await self._limit.__aexit__(kind, error, trace)


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
