"""The jobs that wait, in lanes: the one place that knows which job may start where, and in which order.

A lane holds jobs that the scheduler need not tell apart: same pin, same need, same tier, same nodes to avoid. Within a
lane the first by rank goes first; across lanes the best head that the node may take goes first. So the cost
of an event grows with the number of lanes, never with jobs, nodes or idle slots.

Ranks (cli.md, failure rules 4 and 5): a requeued job with a budget goes before jobs never tried, those in
input order; a requeued job without a budget goes behind every job that waits untried, in the order in which
they came back. The jobs of a stream that has not paused wait untried too, although nobody has read them.

What a later rule adds here: a job's tokens become part of the lane's signature, its priority part of the rank;
a lane short of tokens is parked by what it lacks; jobs that wait for others stand at a barrier, outside the
lanes, until it opens.
"""

from __future__ import annotations

import enum
import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from clstr.model import Attempt, Job, Node


class Tier(enum.IntEnum):
    """The coarse part of a rank; lower goes first."""

    AGAIN = 0  # requeued, within its budget
    UNTRIED = 1
    BEHIND = 2  # requeued without a budget


class Need(NamedTuple):
    """What a job asks of a node: to be of its class, and, without a budget, not to be on parole."""

    job_class: str | None = None
    budgeted: bool = False


PLAIN = Need()

Rank: TypeAlias = tuple[Tier, int]
Avoided: TypeAlias = frozenset[Node]
NOWHERE: Avoided = frozenset()


@dataclass(slots=True, eq=False)
class Entry:
    """A job that has not ended, and what the scheduler remembers of it."""

    job: Job
    rank: Rank
    attempts: int = 0
    charges: int = 0
    avoided: Avoided = NOWHERE
    last: Attempt | None = None  # that began
    struck: dict[Node, None] = field(default_factory=dict)  # nodes whose streak it has stood in
    done: bool = False

    @property
    def need(self) -> Need:
        return Need(self.job.job_class, self.job.budget is not None)

    def __lt__(self, other: Entry) -> bool:
        return self.rank < other.rank


@dataclass(slots=True, eq=False)
class Lane:
    """Waiting jobs that are alike; ``dials`` counts the connections being opened on their behalf."""

    pin: Node | None
    need: Need
    tier: Tier
    avoided: Avoided
    heap: list[Entry] = field(default_factory=list)
    dials: int = 0

    @property
    def head(self) -> Entry:
        return self.heap[0]

    @property
    def signature(self) -> Signature:
        return self.pin, self.need, self.tier, self.avoided


Signature: TypeAlias = tuple[Node | None, Need, Tier, Avoided]


class Backlog:
    """All lanes."""

    def __init__(self) -> None:
        self._lanes: dict[Signature, Lane] = {}
        self._pinned: dict[Node, list[Lane]] = {}
        self._free: list[Lane] = []  # the lanes without a pin
        self.waiting = 0
        self._plain: dict[Need, int] = {}
        self.paused = False  # the stream of jobs is dry or at its end: tier BEHIND may start

    def push(self, entry: Entry) -> None:
        """The job waits."""
        signature = (entry.job.pin, entry.need, entry.rank[0], entry.avoided)
        lane = self._lanes.get(signature)
        if lane is None:
            lane = self._lanes[signature] = Lane(*signature)
            if lane.pin is None:
                self._free.append(lane)
            else:
                self._pinned.setdefault(lane.pin, []).append(lane)
        heapq.heappush(lane.heap, entry)
        self._count(lane, 1)

    def pop(self, lane: Lane) -> Entry:
        """Take the first job of a lane that has one."""
        entry = heapq.heappop(lane.heap)
        self._count(lane, -1)
        self.drop_if_done(lane)
        return entry

    def drop_if_done(self, lane: Lane) -> None:
        """Forget a lane without jobs and without dials on its behalf."""
        if lane.heap or lane.dials or self._lanes.pop(lane.signature, None) is None:
            return
        if lane.pin is None:
            self._free.remove(lane)
        else:
            self._pinned[lane.pin].remove(lane)
            if not self._pinned[lane.pin]:
                del self._pinned[lane.pin]

    def _count(self, lane: Lane, change: int) -> None:
        self.waiting += change
        if lane.pin is None and lane.tier is not Tier.BEHIND and not lane.avoided:
            self._plain[lane.need] = self._plain.get(lane.need, 0) + change

    def plain(self, need: Need) -> int:
        """How many jobs of this need wait that are not pinned, avoid no node and stand behind no stream."""
        return self._plain.get(need, 0)

    def free_lanes(self) -> list[Lane]:
        """The lanes without a pin whose first job may start now, best head first."""
        lanes = [lane for lane in self._free if lane.heap and self._open(lane)]
        if len(lanes) > 1:
            lanes.sort(key=lambda lane: lane.head.rank)
        return lanes

    def needs(self) -> list[Need]:
        """What the waiting jobs without a pin ask for, each once."""
        return list(dict.fromkeys(lane.need for lane in self._free if lane.heap))

    def first_of(self, need: Need) -> Entry | None:
        """The waiting job of this need that goes first, if any; it may have to stand behind the stream."""
        return min((lane.head for lane in self._free if lane.heap and lane.need == need), default=None)

    def take_all(self, need: Need) -> list[Entry]:
        """Take out all jobs of this need, in order of rank."""
        return self._take(lane for lane in list(self._free) if lane.need == need)

    def pinned_lane(self, node: Node) -> Lane | None:
        """The lane of jobs pinned to the node whose head goes first; none of them waits for a stream."""
        lanes = [lane for lane in self._pinned.get(node, ()) if lane.heap]
        return min(lanes, key=lambda lane: lane.head.rank, default=None)

    def pinned_jobs(self, node: Node) -> list[Entry]:
        """Take out all jobs pinned to the node, in order of rank."""
        return self._take(list(self._pinned.get(node, ())))

    def _take(self, lanes: Iterable[Lane]) -> list[Entry]:
        taken = []
        for lane in lanes:
            while lane.heap:
                taken.append(self.pop(lane))
        return sorted(taken)

    def _open(self, lane: Lane) -> bool:
        return self.paused or lane.tier is not Tier.BEHIND

    def entries(self) -> Iterator[Entry]:
        """Every waiting job, in no promised order."""
        for lane in self._lanes.values():
            yield from lane.heap

    def lanes(self) -> list[Lane]:
        return list(self._lanes.values())
