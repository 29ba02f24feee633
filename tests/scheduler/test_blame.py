"""Is the right one blamed? Jobs that always fail and nodes that fail every job, in a world with a clock of its own.

Ten nodes, of which two fail everything, run a thousand jobs, of which five always fail. Time is counted in
job-times: a job takes half a one to one and a half, a connection a twentieth.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from itertools import count

import pytest
from recorder import job, node

from clstr.model import (
    Attempt,
    Close,
    Dial,
    Done,
    End,
    Event,
    Evicted,
    Exited,
    Failed,
    Finished,
    Job,
    Node,
    Pardoned,
    Paroled,
    Slot,
    Start,
    Want,
)
from clstr.scheduler import Limits, Need, Scheduler

JOBS = 1_000
BUDGET = 3
NODES = [node(f"n{number}") for number in range(1, 11)]
BAD_NODES = {node("n4"), node("n9")}
PLACES = {
    "first": [1, 2, 3, 4, 5],
    "spread": [100, 300, 500, 700, 900],
    "last": [996, 997, 998, 999, 1000],
}
SEEDS = range(20)


class Cluster:
    """Nodes that answer orders in time. Its account: what was done, what failed, who was evicted and how long."""

    def __init__(self, bad_jobs: list[int], seed: int, slots: int = 1, node_failures: int = 1) -> None:
        self.random = random.Random(seed)
        self.bad_jobs = frozenset(bad_jobs)
        limits = Limits(stream=Need(None, True), node_failures=node_failures)
        self.scheduler = Scheduler(limits)
        self.slots = [Slot(one, number) for one in NODES for number in range(1, 1 + slots)]
        self.random.shuffle(self.slots)
        self.unread = iter(job(number, budget=BUDGET) for number in range(1, 1 + JOBS))
        self.now = 0.0
        self.agenda: list[tuple[float, int, Node | Attempt]] = []
        self.turns = count()
        self.done: list[int] = []
        self.failed: list[int] = []
        self.evicted: dict[Node, float] = {}  # and since when
        self.lost = 0.0  # node-time of good nodes, while evicted
        self.paroles = 0
        self.end: End | None = None

    def play(self) -> None:
        self._carry_out(self.scheduler.nodes(self.slots))
        while self.end is None:
            self.now, _, what = heapq.heappop(self.agenda)
            if isinstance(what, Node):
                self._carry_out(self.scheduler.connected(what))
            else:
                bad = what.job.id in self.bad_jobs or what.slot.node in BAD_NODES
                self._carry_out(self.scheduler.ended(what, Exited(int(bad))))
        for one in list(self.evicted):
            self._count_out(one)

    @property
    def share_lost(self) -> float:
        return self.lost / (self.now * (len(NODES) - len(BAD_NODES)))

    def _carry_out(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case Want(most):
                    self._carry_out(self._read(most))
                case Dial(to):
                    self._later(0.05, to)
                case Start(attempt):
                    self._later(self.random.uniform(0.5, 1.5), attempt)
                case Close(of):
                    self.agenda = [one for one in self.agenda if one[2] != of]
                    heapq.heapify(self.agenda)
                case Done(_, attempt):
                    self.done.append(attempt.job.id)
                case Failed(failed, _, _):
                    self.failed.append(failed.id)
                case Evicted(of, _):
                    self.evicted[of] = self.now
                case Pardoned(of) | Paroled(of):
                    self.paroles += isinstance(event, Paroled)
                    if of in self.evicted:
                        self._count_out(of)
                        del self.evicted[of]
                case Finished(end, _):
                    self.end = end
                case _:
                    pass

    def _read(self, most: int) -> list[Event]:
        batch = list(take(self.unread, most))
        return self.scheduler.jobs(batch) if batch else self.scheduler.exhausted()

    def _later(self, duration: float, what: Node | Attempt) -> None:
        heapq.heappush(self.agenda, (self.now + duration, next(self.turns), what))

    def _count_out(self, of: Node) -> None:
        if of not in BAD_NODES:
            self.lost += self.now - self.evicted[of]


def take(jobs: Iterator[Job], most: int) -> Iterator[Job]:
    for _, one in zip(range(most), jobs, strict=False):
        yield one


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("place", PLACES)
def test_bad_jobs_fail_and_bad_nodes_are_evicted_and_nobody_else(place: str, seed: int) -> None:
    cluster = Cluster(PLACES[place], seed)
    cluster.play()
    assert cluster.end is End.SETTLED
    assert len(cluster.done) == JOBS - len(PLACES[place])
    assert sorted(cluster.failed) == PLACES[place]
    assert cluster.evicted.keys() == BAD_NODES
    assert cluster.scheduler.tally().evicted == len(BAD_NODES)
