"""What the outside asks of a run that goes on, by signals and by closing files, and its exit status."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clstr.output.console import Console
    from clstr.runner import Runner

OK, NOT_DONE, USAGE, BROKEN_PIPE = 0, 1, 2, 141
"""Exit statuses (cli.md); a run that a signal stopped exits with 128 and the signal's number."""


PATIENCE = 8.0
"""Seconds after the first signal for the jobs to obey and what they printed to be written; output that nobody reads by
then is given up."""


class Ending:
    """What the outside asks of a run that goes on, and the exit status that follows."""

    def __init__(self) -> None:
        self.runner: Runner | None = None
        self.console: Console | None = None
        self._stopped_by: int | None = None
        self._stdout_closed = False

    def stdout_closed(self, name: str) -> None:
        """Nobody reads the output any more: stop, and say nothing of it."""
        self._stdout_closed = True
        if self.runner is not None:
            self.runner.stop(f"{name} was closed")

    def output_failed(self, name: str, error: OSError) -> None:
        """Output cannot be written: what runs may finish, nothing more is begun."""
        if self.runner is not None:
            self.runner.drain(f"{name} cannot be written: {error.strerror}")

    def stop(self, number: signal.Signals) -> None:
        """The first time: terminate what runs. The second: leave at once; the leash does the rest."""
        if self._stopped_by is not None:
            if self.console is not None:
                with contextlib.suppress(OSError):
                    self.console.step_off()
            os._exit(128 + number)
        self._stopped_by = number
        asyncio.get_running_loop().call_later(PATIENCE, self._give_up_output)
        if self.runner is not None:
            self.runner.stop(f"stopped by {number.name}")

    def _give_up_output(self) -> None:
        if self.console is not None:
            self.console.abort()

    @property
    def is_quiet(self) -> bool:
        """Did the reader of the output leave, as ``head`` does? Then nobody asks what was not done."""
        return self._stdout_closed and self._stopped_by is None

    def status(self, done: bool, bad_input: bool, output_lost: bool) -> int:
        """The exit status: the last of those that apply."""
        if self._stopped_by is not None:
            return 128 + self._stopped_by
        if self._stdout_closed:
            return BROKEN_PIPE
        if bad_input:
            return USAGE
        return OK if done and not output_lost else NOT_DONE


def listen(loop: asyncio.AbstractEventLoop, runner: Runner, console: Console, end: Ending) -> None:
    """Signals, as the contract has them."""

    def list_running() -> None:
        from clstr.output.messages import running

        for line in running(runner.running(), runner.copying(), time.time()):
            console.message(line)

    def on(number: signal.Signals, callback: Callable[..., None], *arguments: object) -> None:
        def tell(number: int, frame: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process is about to end
                loop.call_soon_threadsafe(callback, *arguments)

        # The loop's own handlers end with it, and what they leave behind kills: a signal that comes in the last moment
        # would change the exit status, or show a KeyboardInterrupt.
        signal.signal(number, tell)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup has it ignored
            on(number, end.stop, number)
    on(signal.SIGUSR1, list_running)
    if hasattr(signal, "SIGINFO"):
        on(signal.SIGINFO, list_running)
    on(signal.SIGUSR2, runner.drain, "drained by SIGUSR2")
