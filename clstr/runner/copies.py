"""Copies of results: what a job named on its standard output comes over its node's connection, while its slot goes on.

A copy is tried three times, where another try can help, into a fresh place each time, which becomes the job's only
when all of it is there. A node sends few at once. A copy that failed is the job's failure: nobody else is blamed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from clstr.model import LONGEST_RESULT, MOST_RESULTS, Attempt, CopyFailed, Exited, name_of
from clstr.runner.descriptors import SHORT_OF_FILES
from clstr.transport import Connection, FetchFailed, Landing, in_thread, shown

AT_ONCE = 2
"""Copies from one node at a time."""

PAUSES = (0.5, 2.0)
"""Seconds before the second and the third try."""


class Place(Protocol):
    """Where one try may write; what it does takes time, and raises OSError."""

    fd: int
    """The directory, empty and open."""

    def keep(self) -> None:
        """What is there is the job's results now, instead of those it had."""

    def discard(self) -> None:
        """Remove it, unless it was kept."""


class Results(Protocol):
    """Where results go, and what knows which there are."""

    limit: int
    """Bytes that may be received for one job."""

    def named(self, attempt: Attempt) -> tuple[bytes, ...]:
        """The results that the attempt named; asked once, when it has ended. MOST_RESULTS + 1 of them, or a name of
        LONGEST_RESULT + 1 bytes, stand for more."""

    def place(self, attempt: Attempt) -> Place:
        """A new place for the attempt's results; takes time. Raises OSError."""


class NoResults:
    """No results are asked for."""

    limit = 0

    def named(self, attempt: Attempt) -> tuple[bytes, ...]:
        return ()

    def place(self, attempt: Attempt) -> Place:
        raise AssertionError("nothing was named, and is copied")


class Copying:
    """A copy under way."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None  # once it has taken its first step
        self.stopped = False
        self.since = time.time()

    def stop(self) -> None:
        self.stopped = True
        if self.task is not None:
            self.task.cancel()


async def copy(
    attempt: Attempt,
    names: Sequence[bytes],
    directory: bytes | None,
    connection: Connection,
    results: Results,
    warn: Callable[[str], None],
) -> Exited | CopyFailed:
    """Copy what the attempt named; cancelled, it leaves nothing. Raises OSError where too many files are open."""
    if len(names) > MOST_RESULTS:
        return CopyFailed(f"more than {MOST_RESULTS:,} were named")
    if any(len(name) > LONGEST_RESULT for name in names):
        return CopyFailed(f"a name of more than {LONGEST_RESULT:,} bytes")
    pauses = iter(PAUSES)
    while True:
        try:
            landing = await _try(attempt, names, directory, connection, results)
        except FetchFailed as error:
            pause = next(pauses, None)
            if not error.again or pause is None or connection.lost.done():
                return CopyFailed(str(error))
            await asyncio.sleep(pause)
        except OSError as error:
            if error.errno in SHORT_OF_FILES:
                raise
            return CopyFailed(f"{error.filename or 'here'}: {error.strerror or error}")
        else:
            if landing.left_out_count:
                paths = ", ".join(map(shown, landing.left_out))
                more = ", ..." if landing.left_out_count > len(landing.left_out) else ""
                warn(
                    f"job {attempt.job.id}: results on {name_of(attempt.slot.node)}: {paths}{more} left out "
                    f"({landing.left_out_count} in all): no file and no directory"
                )
            return Exited(0)


async def _try(
    attempt: Attempt, names: Sequence[bytes], directory: bytes | None, connection: Connection, results: Results
) -> Landing:
    place = await in_thread(results.place, attempt)
    try:
        landing = Landing(place.fd, results.limit)
        await connection.fetch(names, directory, landing)
        await in_thread(place.keep)
        return landing
    finally:
        await in_thread(place.discard)
