"""What the scheduler knows of each node, and the pools of nodes that a kind of job may use.

There is one pool for each need that was ever met, and a usable node stands in every pool whose need it serves.
So what an event costs grows with the number of needs, never with nodes: nobody ever looks for an idle node of
one class among those of others. A job that must stand behind the stream has a pool too: the nodes that serve its
need and not the stream's.
"""

from __future__ import annotations

import enum
import heapq
from collections import OrderedDict
from dataclasses import dataclass, field

from clstr.model import Node
from clstr.scheduler.backlog import Avoided, Entry, Lane, Need

ANY = Need(None, True)
"""The need of a job that may run on every usable node, one on parole too."""


class Phase(enum.Enum):
    """How far the connection to a node is."""

    SPARE = "not connected"
    DIALING = "being connected"
    CONNECTED = "connected"
    BROKEN = "connection gone, its loss not yet told"
    GONE = "evicted, or all its slots retired, and closed"


@dataclass(slots=True, eq=False)
class NodeState:
    """What the scheduler knows of a node."""

    node: Node
    phase: Phase = Phase.SPARE
    live: dict[int, int] = field(default_factory=dict)  # slot number -> jobs it has taken
    idle: list[int] = field(default_factory=list)  # heap of numbers; filled while connected
    running: dict[int, Entry] = field(default_factory=dict)
    copies: int = 0  # jobs of which it still gives results
    leaving: dict[int, None] = field(default_factory=dict)  # running slots that retire at their job's end
    streak: list[Entry] = field(default_factory=list)
    shaky: bool = False  # lost since a job was done
    evicted_for: str | None = None
    banned: dict[int, int] = field(default_factory=dict)  # evicted by a streak: its slots as ``live`` had them
    paroled: bool = False
    dialed_for: Lane | None = None
    pools: list[Pool] = field(default_factory=list)  # that it stands in, as long as it is usable

    @property
    def evicted(self) -> bool:
        return self.evicted_for is not None

    @property
    def usable(self) -> bool:
        return not self.evicted and bool(self.live)

    @property
    def at_work(self) -> bool:
        """Does it run a job, or give results?"""
        return bool(self.running or self.copies)


@dataclass(slots=True, eq=False)
class Pool:
    """The usable nodes that serve one need, and not ``beside`` if that is given."""

    need: Need
    beside: Need | None = None
    nodes: int = 0
    slots: int = 0
    busy: int = 0  # of these
    # OrderedDict, because these lose their first member all the time: a plain dict walks over the holes.
    spare: OrderedDict[Node, None] = field(default_factory=OrderedDict)  # not connected; next to dial first
    idle: OrderedDict[Node, None] = field(default_factory=OrderedDict)  # connected, with idle slots, longest first

    def serves(self, state: NodeState) -> bool:
        """May a job of this need run on the node, if it is usable?"""
        return _serves(self.need, state) and (self.beside is None or not _serves(self.beside, state))


class Pools:
    """All pools, kept in step with the nodes' states."""

    def __init__(self) -> None:
        self._usable: OrderedDict[Node, NodeState] = OrderedDict()
        self.any = Pool(ANY)
        self._pools: dict[tuple[Need, Need | None], Pool] = {(ANY, None): self.any}

    def of(self, need: Need, beside: Need | None = None) -> Pool:
        """The pool for this need, less the nodes that serve another."""
        pool = self._pools.get((need, beside))
        if pool is None:
            pool = self._pools[need, beside] = Pool(need, beside)
            for state in self._usable.values():
                if pool.serves(state):
                    state.pools.append(pool)
                    _add(pool, state, 1)
            for order, ours in ((self.any.spare, pool.spare), (self.any.idle, pool.idle)):
                ours.update((node, None) for node in order if pool.serves(self._usable[node]))
        return pool

    def all(self) -> list[Pool]:
        return list(self._pools.values())

    # --- nodes ---------------------------------------------------------------------------------------------

    def enter(self, state: NodeState) -> None:
        """A node that was not usable is; its connection is as ``state.phase`` says."""
        self._usable[state.node] = state
        state.pools = [pool for pool in self._pools.values() if pool.serves(state)]
        for pool in state.pools:
            _add(pool, state, 1)
        if state.phase in (Phase.SPARE, Phase.GONE):
            self.make_spare(state)
        elif state.phase is Phase.CONNECTED:
            for number in state.live:
                if number not in state.running:
                    self.make_idle(state, number)

    def leave(self, state: NodeState) -> None:
        """A node that was usable is no longer, or is about to serve other needs than it did."""
        del self._usable[state.node]
        self.clear_idle(state)
        for pool in state.pools:
            _add(pool, state, -1)
            pool.spare.pop(state.node, None)
        state.pools = []

    # --- connections ---------------------------------------------------------------------------------------

    def make_spare(self, state: NodeState) -> None:
        """A usable node is not connected."""
        state.phase = Phase.SPARE
        for pool in state.pools:
            pool.spare[state.node] = None

    def take_spare(self, state: NodeState) -> None:
        """A spare node is being connected."""
        state.phase = Phase.DIALING
        for pool in state.pools:
            del pool.spare[state.node]

    # --- slots ---------------------------------------------------------------------------------------------

    def grow(self, state: NodeState, change: int) -> None:
        """A usable node has so many slots more."""
        for pool in state.pools:
            pool.slots += change

    def make_busy(self, state: NodeState, change: int) -> None:
        """So many more slots of a usable node run a job."""
        for pool in state.pools:
            pool.busy += change

    def make_idle(self, state: NodeState, number: int) -> None:
        """A slot of a connected, usable node can take a job."""
        heapq.heappush(state.idle, number)
        if len(state.idle) == 1:
            for pool in state.pools:
                pool.idle[state.node] = None

    def take_idle(self, state: NodeState) -> int:
        """The lowest idle slot of the node takes a job."""
        number = heapq.heappop(state.idle)
        if not state.idle:
            self.clear_idle(state)
        return number

    def drop_idle(self, state: NodeState, number: int) -> None:
        """An idle slot, if it is one, is no more."""
        if number in state.idle:
            state.idle.remove(number)
            heapq.heapify(state.idle)
            if not state.idle:
                self.clear_idle(state)

    def clear_idle(self, state: NodeState) -> None:
        """No slot of the node can take a job."""
        state.idle.clear()
        for pool in state.pools:
            pool.idle.pop(state.node, None)

    # --- choice --------------------------------------------------------------------------------------------

    def first_admitted(self, lane: Lane, among: OrderedDict[Node, None]) -> Node | None:
        """The first of these nodes that the lane's jobs may start on: an avoided one only when all are."""
        # Looks at no more nodes than the lane avoids, and one: the first it does not avoid will do.
        if not lane.avoided:
            return next(iter(among), None)
        for node in among:
            if node not in lane.avoided:
                return node
        return next(iter(among), None) if self._all_avoided(self.of(lane.need), lane.avoided) else None

    def _all_avoided(self, pool: Pool, avoided: Avoided) -> bool:
        # Walks a set, to make a sum: its order cannot show.
        if len(avoided) < pool.nodes:
            return False
        states = (self._usable.get(node) for node in avoided)
        return sum(state is not None and pool.serves(state) for state in states) == pool.nodes

    def admits(self, lane: Lane, state: NodeState) -> bool:
        """May the lane's jobs start on this usable node?"""
        if lane.pin is not None:
            return lane.pin == state.node
        pool = self.of(lane.need)
        return pool.serves(state) and (
            state.node not in lane.avoided or self._all_avoided(pool, lane.avoided)
        )


def _serves(need: Need, state: NodeState) -> bool:
    of_class = need.job_class is None or need.job_class in state.node.classes
    return of_class and (need.budgeted or not state.paroled)


def _add(pool: Pool, state: NodeState, sign: int) -> None:
    pool.nodes += sign
    pool.slots += sign * len(state.live)
    pool.busy += sign * len(state.running)
