"""``--status``: how far the run is, as a tqdm line on stderr.

    110 of 556 jobs complete, 176 of 176 nodes running jobs. [01:12<04:53], 2 failed, 3 nodes evicted

Rules:
- ``556+`` while the job stream is open; what remains is then unknown (``?``).
- On a terminal the line is drawn again when something happened, at most ten times a second, each second for its
  clock, and when the terminal's size has changed. Elsewhere, and where another program of the pipeline prints on
  that terminal, it is a plain line every ten seconds. The last state stays as the last line.
- tqdm counts the time and lays the line out; every byte of it goes through the console.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Never

from clstr.model import Fact, News, Tally
from clstr.output.console import Console

if TYPE_CHECKING:
    from tqdm import tqdm

_SOONEST = 0.1  # seconds between two drawings
_CLOCK = 1.0  # seconds between two drawings when nothing happens
_PLAIN = 10.0  # seconds between two plain lines

_CLOSED = "{desc} [{elapsed}<{remaining}]{postfix}"
_OPEN = "{desc} [{elapsed}<?]{postfix}"


def words(tally: Tally, total: int, closed: bool) -> str:
    """The state of the run, in the words that scripts look for."""
    return (
        f"{tally.done} of {total}{'' if closed else '+'} jobs complete, "
        f"{tally.slots_in_use} of {tally.slots_live} nodes running jobs."
    )


def asides(tally: Tally) -> str:
    """What else is to be told, and most of it went wrong; empty when there is nothing."""
    counts = ((tally.copying, "copying"), (tally.failed, "failed"), (tally.held, "held"))
    parts = [f"{count} {state}" for count, state in counts if count]
    if tally.evicted:
        parts.append(f"{tally.evicted} node{'s' if tally.evicted > 1 else ''} evicted")
    return ", ".join(parts)


class Status:
    """An observer that asks for the run's state whenever it draws. Made and used on the loop's thread.

    ``tally`` gives the scheduler's counters; ``seen`` the number of jobs read, and whether that is all.
    """

    def __init__(
        self,
        console: Console,
        tally: Callable[[], Tally],
        seen: Callable[[], tuple[int, bool]],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._console = console
        self._tally = tally
        self._seen = seen
        self._loop = loop
        self._bar = _bar(_Screen(console.status if console.terminal else console.line))
        self._drawn_at = loop.time()
        self._soon = False
        self._timer = loop.call_soon(self._draw) if console.terminal else loop.call_later(_PLAIN, self._draw)

    def saw(self, when: float, event: Fact | News) -> None:
        """Draw the line again, soon; what happened is in the tally by then."""
        if self._soon or not self._console.terminal:
            return
        self._soon = True
        self._timer.cancel()
        self._timer = self._loop.call_at(self._drawn_at + _SOONEST, self._draw)

    def redraw(self) -> None:
        """The terminal has another size now."""
        if self._console.terminal:
            self._timer.cancel()
            self._draw()

    def close(self) -> None:
        """Leave the last state as the last line."""
        self._timer.cancel()
        self._show()
        self._bar.close()
        self._console.leave_status()

    def _draw(self) -> None:
        self._soon = False
        self._drawn_at = self._loop.time()
        self._show()
        self._timer = self._loop.call_later(_CLOCK if self._console.terminal else _PLAIN, self._draw)

    def _show(self) -> None:
        tally = self._tally()
        seen, closed = self._seen()
        total = max(seen, tally.jobs)
        self._bar.n = tally.done
        self._bar.total = total
        self._bar.bar_format = _CLOSED if closed else _OPEN
        self._bar.set_description_str(words(tally, total, closed), refresh=False)
        self._bar.set_postfix_str(asides(tally), refresh=False)
        self._bar.refresh()


class _Screen:
    """The file that tqdm writes to: each text is a carriage return, the line, and blanks over the last."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show

    def write(self, text: str) -> int:
        if line := text.strip():
            self._show(line)
        return len(text)

    def flush(self) -> None:
        """The console writes by itself."""


def _bar(file: _Screen) -> tqdm[Never]:
    # While it is imported, tqdm takes defaults from TQDM_* in the environment, and breaks on what it cannot read there.
    hidden = {name: os.environ.pop(name) for name in tuple(os.environ) if name.startswith("TQDM_")}
    try:
        from tqdm import tqdm
    finally:
        os.environ.update(hidden)

    tqdm.monitor_interval = 0
    tqdm.set_lock(threading.RLock())  # else it loads multiprocessing, whose semaphore some sandboxes refuse
    # Seconds without a line of tqdm's own accord: when to draw is decided above.
    return tqdm(file=file, bar_format=_OPEN, position=0, delay=1e9)
