"""The jobs that are ready, in lanes: the one place that knows which job may start where, and in which order.

A lane holds jobs that the scheduler need not tell apart: same pin, same need, same tokens, same standing, same nodes to
avoid. Within a lane the first by rank goes first; across lanes the best head that the node may take goes first. So
the cost of an event grows with the number of lanes, never with jobs, nodes or idle slots.

Ranks (cli.md, failure rules 4 and 5; submit.md, ``priority``): a requeued job with a budget goes before jobs never
tried, those in input order; a requeued job without a budget goes behind every job that waits untried, in the order
in which they came back. Among jobs that these rules rank alike, the higher priority goes first. The jobs of a stream
wait untried too, although nobody has read them: unless the stream has paused, a job that ranks behind the next of
them starts only where no job of the stream may run.

Tokens are taken all or none when a job starts, and given back when its attempt ends. A lane that is short of them is
passed over, and blocks nobody: it is a lane like others again as soon as they are there.
"""

from __future__ import annotations

import enum
import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from clstr.model import Attempt, Job, Node


class Tier(enum.IntEnum):
    """The coarse part of a rank; lower goes first."""

    AGAIN = 0  # requeued, within its budget
    UNTRIED = 1
    BEHIND = 2  # requeued without a budget


class Standing(enum.Enum):
    """What a rank is to the stream. All jobs of one standing rank before its next job, or none does."""

    BEFORE = "before every job that is not read yet"
    FILED = "by its place in the input, from a submit file"
    BEHIND = "behind the whole stream"


class Need(NamedTuple):
    """What a job asks of a node: to be of its class, and, without a budget, not to be on parole."""

    job_class: str | None = None
    budgeted: bool = False


PLAIN = Need()

Rank: TypeAlias = tuple[Tier, int, int]
"""Lower goes first: the tier, the priority with its sign turned, the order of input or of coming back."""

Tokens: TypeAlias = tuple[tuple[str, int], ...]
Avoided: TypeAlias = frozenset[Node]
NOWHERE: Avoided = frozenset()


@dataclass(slots=True, eq=False)
class Entry:
    """A job that has not ended, and what the scheduler remembers of it."""

    job: Job
    rank: Rank
    filed: bool = False  # it came from a submit file, not by the stream
    attempts: int = 0
    charges: int = 0
    avoided: Avoided = NOWHERE
    last: Attempt | None = None  # that began
    struck: dict[Node, None] = field(default_factory=dict)  # nodes whose streak it has stood in
    done: bool = False

    @property
    def need(self) -> Need:
        return Need(self.job.job_class, self.job.budget is not None)

    @property
    def standing(self) -> Standing:
        tier, against, _ = self.rank
        if tier is Tier.AGAIN or (tier is Tier.UNTRIED and against < 0):
            return Standing.BEFORE
        if tier is Tier.BEHIND or against > 0:
            return Standing.BEHIND
        return Standing.FILED if self.filed else Standing.BEFORE

    def __lt__(self, other: Entry) -> bool:
        return self.rank < other.rank


@dataclass(slots=True, eq=False)
class Lane:
    """Waiting jobs that are alike; ``dials`` counts the connections being opened on their behalf."""

    pin: Node | None
    need: Need
    tokens: Tokens
    standing: Standing
    avoided: Avoided
    heap: list[Entry] = field(default_factory=list)
    dials: int = 0

    @property
    def head(self) -> Entry:
        return self.heap[0]

    @property
    def signature(self) -> Signature:
        return self.pin, self.need, self.tokens, self.standing, self.avoided


Signature: TypeAlias = tuple[Node | None, Need, Tokens, Standing, Avoided]


class Backlog:
    """All lanes, and the tokens that are free."""

    def __init__(self, tokens: Mapping[str, int]) -> None:
        self._lanes: dict[Signature, Lane] = {}
        self._pinned: dict[Node, list[Lane]] = {}
        self._free: list[Lane] = []  # the lanes without a pin
        self.waiting = 0
        self.tokens = dict(tokens)
        self.paused = False  # the stream of jobs is dry or at its end: nobody stands behind it
        self.next_read = 1  # the id that the stream's next job will have

    def push(self, entry: Entry) -> None:
        """The job waits."""
        signature = (entry.job.pin, entry.need, entry.job.terms.tokens, entry.standing, entry.avoided)
        lane = self._lanes.get(signature)
        if lane is None:
            lane = self._lanes[signature] = Lane(*signature)
            if lane.pin is None:
                self._free.append(lane)
            else:
                self._pinned.setdefault(lane.pin, []).append(lane)
        heapq.heappush(lane.heap, entry)
        self.waiting += 1

    def pop(self, lane: Lane) -> Entry:
        """Take the first job of a lane that has one."""
        entry = heapq.heappop(lane.heap)
        self.waiting -= 1
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

    # --- tokens --------------------------------------------------------------------------------------------

    def take_tokens(self, entry: Entry) -> None:
        """The job starts."""
        for name, units in entry.job.terms.tokens:
            self.tokens[name] -= units

    def return_tokens(self, entry: Entry) -> None:
        """The job's attempt has ended."""
        for name, units in entry.job.terms.tokens:
            self.tokens[name] += units

    def startable(self, lane: Lane) -> int:
        """How many of the lane's jobs the free tokens are enough for."""
        return min([len(lane.heap), *(self.tokens[name] // units for name, units in lane.tokens)])

    def all_startable(self) -> int:
        """How many jobs wait for no tokens; of lanes that claim the same, each counts by itself."""
        if not self.tokens:
            return self.waiting
        short = (len(lane.heap) - self.startable(lane) for lane in self._free if lane.tokens)
        return self.waiting - sum(short)

    # --- order ---------------------------------------------------------------------------------------------

    def leads(self, lane: Lane) -> bool:
        """Do the lane's jobs go before the next one of the stream?"""
        return lane.head.rank < (Tier.UNTRIED, 0, self.next_read)

    def ready_lanes(self) -> list[Lane]:
        """The lanes without a pin whose first job has its tokens, best head first."""
        lanes = [lane for lane in self._free if lane.heap and self.startable(lane)]
        if len(lanes) > 1:
            lanes.sort(key=lambda lane: lane.head.rank)
        return lanes

    def ahead(self, need: Need) -> int:
        """How many jobs of this need, which avoid no node, may start before the stream's next."""
        lanes = (lane for lane in self._free if lane.need == need and lane.heap and not lane.avoided)
        return sum(self.startable(lane) for lane in lanes if self.leads(lane))

    def needs(self) -> list[Need]:
        """What the waiting jobs without a pin ask for, each once."""
        return list({lane.need: None for lane in self._free if lane.heap})

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

    def entries(self) -> Iterator[Entry]:
        """Every waiting job, in no promised order."""
        for lane in self._lanes.values():
            yield from lane.heap

    def lanes(self) -> list[Lane]:
        return list(self._lanes.values())
