"""Whose fault is a lost connection: the node's or this machine's?

When all of two or more connections are lost within one keepalive period, this machine is presumed to be at
fault: it slept, or its VPN went down (cli.md, failure rule 2). So before a loss is told to the scheduler, a
connection that is left is asked whether it still answers. One that does settles the matter, in a round trip;
where none is left, or none answers before it is lost too, the outage is ours. It lasts until a connection
is made again, and for 5 minutes at most; dials that fail meanwhile are begun again. The presumption is not made
again before a job has ended by itself, or 5 minutes have passed: jobs that break every connection they run on
(they reboot their nodes) must not go round for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from clstr.model import Node
from clstr.transport import Connection, within

PERIOD = 20.0
"""Seconds within which one cause shows on all connections: a keepalive's 15, and some for its answer."""

PATIENCE = 300.0
"""Seconds that dialing goes on in an outage of ours."""

SETTLING = 10.0
"""Seconds after the first connection of a new beginning in which other dials may still fail for the old cause."""

ASKED = 32
"""Connections asked for a sign of life at a time."""


class Outage:
    """The judge of one run's losses."""

    def __init__(self, connections: Callable[[], Mapping[Node, Connection]], warn: Callable[[str], None]) -> None:
        self._connections = connections  # the lasting ones that are not known to be lost
        self._warn = warn
        self._loop = asyncio.get_running_loop()
        self._losses: dict[Node, float] = {}  # when, loop time, since a connection was seen to be good
        self._patient_until = 0.0
        self._doubt_until = 0.0  # until then a further outage is not presumed to be ours

    def heard_of(self, lost: Node) -> None:
        """A connection is lost. To be told at once: losses of one moment must all be known when one is judged."""
        now = self._loop.time()
        recent = {which: when for which, when in self._losses.items() if now - when < PERIOD}
        self._losses = {lost: now} | recent

    async def is_ours(self, lost: Node) -> bool:
        """Is this machine to blame for the loss? Takes PERIOD at most."""
        self.heard_of(lost)
        if self.going_on:
            return True
        try:
            async with within(PERIOD):
                answered = await self._another_answers(lost)
        except TimeoutError:
            return False  # not all within one period
        if answered:
            self._losses.clear()
            return False
        if len(self._losses) < 2:
            return False
        if not self.going_on:
            if self._loop.time() < self._doubt_until:
                return False
            self._patient_until = self._loop.time() + PATIENCE
            self._warn(
                f"all {len(self._losses)} connections were lost at once: this machine is presumed to be at fault "
                f"(sleep, VPN); dialing goes on for {PATIENCE / 60:g} min"
            )
        return True

    async def _another_answers(self, lost: Node) -> bool:
        """Does another connection answer? If not, all are lost."""
        silent = {lost}  # those that gave no answer are lost, though the news may be a turn of the loop behind
        while others := [pair for pair in self._connections().items() if pair[0] not in silent][:ASKED]:
            if await self._any_answers(others):
                return True
            silent.update(node for node, _ in others)
        return False

    async def _any_answers(self, others: Sequence[tuple[Node, Connection]]) -> bool:
        asked = {asyncio.ensure_future(self._ask(*other)) for other in others}
        try:
            while asked:
                done, asked = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
                if any(task.result() for task in done):
                    return True
        finally:
            for task in asked:
                task.cancel()
        return False

    async def _ask(self, node: Node, connection: Connection) -> bool:
        answers = await connection.answers()
        if not answers:
            self.heard_of(node)
        return answers

    def connected(self) -> None:
        """A connection was made: an outage of ours is over, but for a short while of settling."""
        self._losses.clear()
        if self.going_on:
            self._patient_until = min(self._patient_until, self._loop.time() + SETTLING)
            self._doubt_until = self._loop.time() + PATIENCE

    def survived(self) -> None:
        """A job has ended by itself: connections are good for something."""
        self._doubt_until = 0.0

    @property
    def going_on(self) -> bool:
        """Should a dial that fails be begun again?"""
        return self._loop.time() < self._patient_until
