"""The price of an event must not grow with jobs, nodes or idle slots. Counted in instructions, which no clock sways.

It may grow with the lanes of the backlog: so few connections are lost here, since each makes a lane of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from instructions import Instructions
from recorder import filed, job, slot

from clstr.model import (
    Barrier,
    Close,
    Copy,
    Dial,
    Done,
    End,
    Event,
    Exited,
    Failed,
    Finished,
    Held,
    Job,
    Lost,
    Outcome,
    Paroled,
    Requeued,
    Start,
    Want,
)
from clstr.scheduler import Limits, Need, Scheduler

FEW, MANY = 30, 600
GROWTH = 1.5
OK = Exited(0)
WITH_RESULTS = Exited(0, (b"out.txt",))
HUGE = 100_000


class Shift:
    """Answers all orders at once, first come first served. ``ends`` tells how an attempt ends, by its turn."""

    def __init__(
        self,
        limits: Limits,
        jobs: list[Job],
        ends: Callable[[int], Outcome] = lambda turn: OK,
        filed: list[Job] | None = None,
    ) -> None:
        self.scheduler = Scheduler(limits)
        self.jobs = deque(jobs)
        self.filed = filed or []
        self.ends = ends
        self.attempts = self.facts = self.instructions = self.paroles = 0
        self.orders: deque[Event] = deque()

    def play(self, nodes: int, slots: int = 1, classes: int = 1) -> float:
        """The instructions for one fact on average; each submitted job is one, the listing of the nodes none."""
        if self.filed:
            self._feed("submitted", self.filed)
            self.facts += len(self.filed) - 1
        places = [(f"n{number}", f"c{number % classes}") for number in range(nodes)]
        listed = [slot(f"{name}/{room}={of}") for name, of in places for room in range(1, slots + 1)]
        self.orders.extend(self.scheduler.nodes(listed))
        while self.scheduler.finished is None:
            self._carry_out(self.orders.popleft())
        assert not list(self.scheduler.unfinished())
        assert self.scheduler.finished.end is End.SETTLED
        return self.instructions / self.facts

    def _carry_out(self, event: Event) -> None:
        match event:
            case Want(count):
                batch = [self.jobs.popleft() for _ in range(min(count, len(self.jobs), 10))]
                self._feed("jobs", batch) if batch else self._feed("exhausted")
            case Dial(node):
                self._feed("connected", node)
            case Start(attempt):
                self.attempts += 1
                outcome = self.ends(self.attempts)
                self._feed("ended", attempt, outcome)
                if isinstance(outcome, Lost):
                    self._feed("lost", attempt.slot.node, "reset")
            case Copy(attempt):
                self._feed("copied", attempt, OK)
            case _:
                assert not isinstance(event, Finished) or not self.orders

    def _feed(self, fact: str, *arguments: Any) -> None:
        method = getattr(self.scheduler, fact)
        with Instructions() as instructions:
            events = method(*arguments)
        self.orders.extend(event for event in events if not isinstance(event, Requeued | Close))
        self.paroles += sum(isinstance(event, Paroled) for event in events)
        self.facts += 1
        self.instructions += instructions.count


def every_tenth_fails(turn: int) -> Outcome:
    return Exited(1) if turn % 10 == 0 else OK


def five_are_lost(turn: int) -> Outcome:
    return Lost("reset") if turn % 5 == 0 and turn <= 25 else OK


def plain(nodes: int) -> float:
    return Shift(Limits(), [job(n) for n in range(1, 1 + 3 * nodes)]).play(nodes)


def on_each_node(nodes: int) -> float:
    return Shift(Limits(), [job(n, budget=0, pin=f"n{n % nodes}") for n in range(1, 1 + 2 * nodes)]).play(nodes)


def on_each_node_a_few_at_once(nodes: int) -> float:
    jobs = [job(n, budget=0, pin=f"n{n % nodes}") for n in range(1, 1 + 2 * nodes)]
    return Shift(Limits(max_nodes=5), jobs).play(nodes)


def a_few_at_once(nodes: int) -> float:
    return Shift(Limits(max_nodes=5), [job(n) for n in range(1, 1 + 3 * nodes)]).play(nodes)


def with_failures(nodes: int) -> float:
    return Shift(Limits(node_failures=2), [job(n) for n in range(1, 1 + 3 * nodes)], every_tenth_fails).play(nodes)


def with_retries_a_few_at_once(nodes: int) -> float:
    jobs = [job(n, budget=5) for n in range(1, 1 + 3 * nodes)]
    return Shift(Limits(max_nodes=5, node_failures=2), jobs, every_tenth_fails).play(nodes)


def with_lost_connections(nodes: int) -> float:
    return Shift(Limits(), [job(n) for n in range(1, 1 + 3 * nodes)], five_are_lost).play(nodes)


def slots_that_retire(nodes: int) -> float:
    return Shift(Limits(max_node_uses=2), [job(n) for n in range(1, 2 * nodes)]).play(nodes)


def one_node_of_many_slots(slots: int) -> float:
    return Shift(Limits(), [job(n) for n in range(1, 1 + 3 * slots)]).play(1, slots)


def many_jobs(jobs: int) -> float:
    return Shift(Limits(node_failures=2), [job(n) for n in range(1, 1 + 5 * jobs)], every_tenth_fails).play(20, 2)


def of_five_classes(nodes: int) -> float:
    jobs = [job(n, job_class=f"c{n % 5}") for n in range(1, 1 + 3 * nodes)]
    return Shift(Limits(), jobs).play(nodes, classes=5)


def of_five_classes_a_few_at_once(nodes: int) -> float:
    jobs = [job(n, budget=5, job_class=f"c{n % 5}") for n in range(1, 1 + 3 * nodes)]
    return Shift(Limits(max_nodes=5, node_failures=2), jobs, every_tenth_fails).play(nodes, classes=5)


def a_stream_of_one_class_in_five(nodes: int) -> float:
    jobs = [job(n, budget=1, job_class="c3") for n in range(1, 1 + nodes)]
    return Shift(Limits(stream=Need("c3", True)), jobs).play(nodes, classes=5)


def with_paroles(jobs: int) -> float:
    patient = [job(n, budget=9) for n in range(1, 1 + 2 * jobs)]
    shift = Shift(Limits(stream=Need(None, True)), patient, two_fail_of_three)
    price = shift.play(5)
    assert shift.paroles > jobs
    return price


def of_a_file(filed: list[Job], nodes: int = 5, **limits: Any) -> float:
    return Shift(Limits(**limits), [], filed=filed).play(nodes)


def a_chain(jobs: int) -> float:
    return of_a_file([filed(n, str(n - 1) if n > 1 else None) for n in range(1, 1 + jobs)])


def a_chain_that_is_filed_backwards(jobs: int) -> float:
    return of_a_file([filed(n, str(n + 1) if n < jobs else None) for n in range(1, 1 + jobs)])


def one_before_all(jobs: int) -> float:
    return of_a_file([filed(1), *(filed(n, "1") for n in range(2, 1 + jobs))])


def all_before_one(jobs: int) -> float:
    return of_a_file([*(filed(n) for n in range(1, jobs)), filed(jobs, after_the_first(jobs - 1))])


def many_after_many(jobs: int) -> float:
    return of_a_file(two_stages(jobs))


def many_globs_in_each_other(jobs: int) -> float:
    barrier = Barrier("first", (1,))
    batch = [filed(1)]
    for number in range(2, 1 + jobs):
        batch.append(filed(number, barrier))
        barrier = Barrier(f"up to {number}", (number,), (barrier,))
    return of_a_file(batch)


def many_wait_for_tokens(jobs: int) -> float:
    return of_a_file([filed(n, tokens="gpu") for n in range(1, 1 + jobs)], tokens={"gpu": 2})


def of_many_priorities(jobs: int) -> float:
    return of_a_file([filed(n, priority=n % 97 - 50) for n in range(1, 1 + jobs)])


def a_file_among_streams(jobs: int) -> float:
    before, within = range(1, 1 + jobs), range(1 + jobs, 1 + 2 * jobs)
    behind = range(1 + 2 * jobs, 1 + 3 * jobs)
    batch = [filed(n, priority=n % 3 - 1) for n in within]
    return Shift(Limits(), [job(n) for n in (*before, *behind)], filed=batch).play(5)


def with_results(jobs: int) -> float:
    return Shift(Limits(), [job(n) for n in range(1, 1 + 3 * jobs)], lambda turn: WITH_RESULTS).play(jobs)


def after_the_first(jobs: int) -> Barrier:
    return Barrier("first.*", tuple(range(1, 1 + jobs)))


def two_stages(jobs: int) -> list[Job]:
    """So many jobs, and as many that each come after all of them."""
    glob = after_the_first(jobs)
    return [*(filed(n) for n in range(1, 1 + jobs)), *(filed(n, glob) for n in range(1 + jobs, 1 + 2 * jobs))]


def two_fail_of_three(turn: int) -> Outcome:
    return OK if turn % 3 == 0 else Exited(1)


@pytest.mark.parametrize(
    "history",
    [
        plain,
        on_each_node,
        on_each_node_a_few_at_once,
        a_few_at_once,
        with_failures,
        with_lost_connections,
        with_retries_a_few_at_once,
        slots_that_retire,
        one_node_of_many_slots,
        many_jobs,
        of_five_classes,
        of_five_classes_a_few_at_once,
        a_stream_of_one_class_in_five,
        with_paroles,
        a_chain,
        a_chain_that_is_filed_backwards,
        one_before_all,
        all_before_one,
        many_after_many,
        many_globs_in_each_other,
        many_wait_for_tokens,
        of_many_priorities,
        a_file_among_streams,
        with_results,
    ],
)
def test_the_price_of_an_event_does_not_grow(history: Any) -> None:
    few, many = history(FEW), history(MANY)
    assert many < GROWTH * few, f"{few:.0f} instructions for {FEW}, {many:.0f} for {MANY}"


@pytest.mark.parametrize("shape", ["chain", "backwards", "fan", "stages", "globs"])
def test_the_price_of_a_held_job_does_not_grow(shape: str) -> None:
    few, many = (price_of_a_held_job(shape, jobs) for jobs in (FEW, MANY))
    assert many < GROWTH * few, f"{few:.0f} instructions for {FEW}, {many:.0f} for {MANY}"


def price_of_a_held_job(shape: str, jobs: int) -> float:
    """The first job fails, and all others, ``jobs`` or twice as many, come after it."""
    scheduler = Scheduler()
    scheduler.submitted(behind_one_that_fails(shape, jobs))
    scheduler.nodes([slot("n1")])
    (start,) = (event for event in scheduler.connected(slot("n1").node) if isinstance(event, Start))
    assert start.attempt.job.id == 1
    with Instructions() as instructions:
        events = scheduler.ended(start.attempt, Exited(1))
    held = sum(isinstance(event, Held) for event in events)
    assert held >= jobs
    assert isinstance(events[0], Failed)
    return instructions.count / held


def behind_one_that_fails(shape: str, jobs: int) -> list[Job]:
    first, others = filed(1, budget=0), range(2, 2 + jobs)
    match shape:
        case "chain":
            return [first, *(filed(n, str(n - 1)) for n in others)]
        case "backwards":
            return [first, *(filed(n, str(n + 1 if n < others[-1] else 1)) for n in others)]
        case "fan":
            return [first, *(filed(n, "1") for n in others)]
        case "stages":
            glob = Barrier("second.*", tuple(others))
            return [first, *(filed(n, "1") for n in others), *(filed(n + jobs, glob) for n in others)]
    barriers = [Barrier("first", (1,))]
    for number in others:
        barriers.append(Barrier(f"glob {number}", (), (barriers[-1],)))
    return [first, *(filed(n, barrier) for n, barrier in zip(others, barriers[1:], strict=True))]


@pytest.mark.parametrize("shape", ["chain", "fan", "globs"])
def test_a_hundred_thousand_jobs_behind_one_that_fails_are_held(shape: str) -> None:
    scheduler = Scheduler()
    scheduler.submitted(behind_one_that_fails(shape, HUGE))
    scheduler.nodes([slot("n1")])
    scheduler.exhausted()
    (start,) = (event for event in scheduler.connected(slot("n1").node) if isinstance(event, Start))
    _, *held, finished = scheduler.ended(start.attempt, Exited(1))
    assert [event.job.id for event in held if isinstance(event, Held)] == list(range(2, 2 + HUGE))
    assert finished == Finished(End.SETTLED)


def test_ten_thousand_jobs_after_ten_thousand_others_run() -> None:
    assert in_order_of_end(two_stages(10_000)) == list(range(1, 20_001))


def test_a_chain_of_a_hundred_thousand_jobs_runs() -> None:
    chain = [filed(n, str(n + 1) if n < HUGE else None) for n in range(1, 1 + HUGE)]
    assert in_order_of_end(chain) == list(range(HUGE, 0, -1))


def in_order_of_end(batch: list[Job]) -> list[int]:
    """Run them all on one slot, without counting."""
    scheduler = Scheduler()
    scheduler.submitted(batch)
    scheduler.nodes([slot("n1")])
    scheduler.exhausted()
    events = deque(scheduler.connected(slot("n1").node))
    ended = []
    while not isinstance(event := events.popleft(), Finished):
        match event:
            case Start(attempt):
                events.extend(scheduler.ended(attempt, OK))
            case Done(done):
                ended.append(done.id)
    return ended
