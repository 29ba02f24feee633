"""One attempt under way: what it runs under, and the clocks that may end it.

A clock that fires late is not believed at once: after ``^Z`` and ``fg``, or on a machine that was suspended,
the news that the job has ended may be waiting to be read. It is given a moment to arrive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clstr.model import Attempt, Flow, Sink, Stalled, Stopped, TimedOut
from clstr.transport import KILL_GRACE, LATE, Channel

DEAF = 2.0
"""Seconds beyond the grace of a kill after which a node that has not obeyed is no longer waited for."""



@dataclass(frozen=True, slots=True)
class Conditions:
    """What every job runs under."""

    directory: bytes | None = None  # where the job names none
    timeout: float | None = None  # seconds from the job's beginning, where the job has no limit of its own
    stall_timeout: float | None = None  # seconds without output
    max_connecting: int = 64  # dials at once, those not counted whose node is connected and being prepared
    ahead: bool = True  # is it worth opening a slot's next session while it runs a job?


class Clock:
    """Calls back once, after some seconds, but not before what is pending has been read."""

    def __init__(self, seconds: float, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(seconds, self._fired)

    def _fired(self) -> None:
        if self._loop.time() - self._timer.when() > LATE:
            self._timer = self._loop.call_later(LATE, self._fired)
        else:
            self._callback()

    def cancel(self) -> None:
        """Never call back."""
        self._timer.cancel()


class Run:
    """An attempt under way. As a sink it stands between the channel and where the output goes."""

    def __init__(self, attempt: Attempt, conditions: Conditions, on_begun: Callable[[Run], None]) -> None:
        self.attempt = attempt
        self.sink: Sink
        """Where its output goes; it has one as soon as nothing bars it from beginning."""
        self.channel: Channel | None = None
        self.task: asyncio.Task[Any] | None = None  # its slot's, once that has come to it
        self.since: float | None = None  # when it has begun (Unix seconds)
        self.verdict: Stopped | TimedOut | Stalled | None = None
        """Why we terminate it, if we do; this is then its outcome, however it ends."""
        self._conditions = conditions
        self._on_begun = on_begun
        self._clocks: dict[str, Clock] = {}
        self._loop = asyncio.get_running_loop()
        self._flow: Flow | None = None
        self._heard = 0.0
        self._held = False

    def kill(self, verdict: Stopped | TimedOut | Stalled) -> None:
        """Terminate it; a node that does not obey is waited for no longer than the grace."""
        if self.verdict is not None:
            return
        self.verdict = verdict
        if self.channel is not None:
            self.channel.kill()
            self._clocks["deaf"] = Clock(KILL_GRACE + DEAF, self._give_up)
        elif self.task is not None:
            self.task.cancel()

    def _give_up(self) -> None:
        # Output that we hold back hides the end of a job that has obeyed; who stopped the run waits for neither.
        if self._held and not isinstance(self.verdict, Stopped):
            self._clocks["deaf"] = Clock(DEAF, self._give_up)
        elif self.channel is not None:
            self.channel.close()

    def over(self) -> None:
        """It has ended: stop the clocks. A kill that comes now only ends the wait for what its end means.

        It lets go of all that knows it: in a circle they would be left to the garbage collector.
        """
        self.channel = self._flow = None
        for clock in self._clocks.values():
            clock.cancel()
        self._clocks.clear()

    # --- the sink of its channel -------------------------------------------------------------------------------

    def begun(self, flow: Flow) -> None:
        self._on_begun(self)
        self._flow = flow
        timeout, stall_timeout = self.attempt.job.terms.timeout, self._conditions.stall_timeout
        timeout = self._conditions.timeout if timeout is None else timeout
        if timeout is not None:
            self._clocks["timeout"] = Clock(timeout, lambda: self.kill(TimedOut(timeout)))
        if stall_timeout is not None:
            self._heard = self._loop.time()
            self._watch(stall_timeout)
        self.sink.begun(self)

    def stdout(self, data: bytes) -> None:
        self._heard = self._loop.time()
        self.sink.stdout(data)

    def stderr(self, data: bytes) -> None:
        self._heard = self._loop.time()
        self.sink.stderr(data)

    def finished(self) -> None:
        self.sink.finished()

    # --- the flow of its sink: while we hold the output back ourselves, silence does not count ---------------------

    def pause(self) -> None:
        self._held = True
        if self._flow is not None:
            self._flow.pause()

    def resume(self) -> None:
        self._held = False
        self._heard = self._loop.time()
        if self._flow is not None:
            self._flow.resume()

    def _watch(self, seconds: float) -> None:
        self._clocks["silence"] = Clock(seconds, self._check_silence)

    def _check_silence(self) -> None:
        limit = self._conditions.stall_timeout
        assert limit is not None
        left = limit if self._held else self._heard + limit - self._loop.time()
        if left > 0:
            self._watch(left)
        else:
            self.kill(Stalled(limit))
