"""The price of an event must not grow with jobs, nodes or idle slots. Counted in instructions, which no clock sways.

It may grow with the lanes of the backlog: so few connections are lost here, since each makes a lane of its own.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from recorder import job, slot

from clstr.model import Close, Dial, Event, Exited, Finished, Job, Lost, Outcome, Paroled, Requeued, Start, Want
from clstr.scheduler import Limits, Need, Scheduler

FEW, MANY = 30, 600
GROWTH = 1.5
OK = Exited(0)


class Instructions:
    """Counts the bytecode instructions that run inside its block."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Instructions:
        self._before = sys.gettrace()
        sys.settrace(self._enter_frame)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _enter_frame(self, frame: FrameType, event: str, argument: Any) -> Any:
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._step

    def _step(self, frame: FrameType, event: str, argument: Any) -> Any:
        self.count += event == "opcode"
        return self._step


class Shift:
    """Answers all orders at once, first come first served. ``ends`` tells how an attempt ends, by its turn."""

    def __init__(self, limits: Limits, jobs: list[Job], ends: Callable[[int], Outcome] = lambda turn: OK) -> None:
        self.scheduler = Scheduler(limits)
        self.jobs = deque(jobs)
        self.ends = ends
        self.attempts = self.facts = self.instructions = self.paroles = 0
        self.orders: deque[Event] = deque()

    def play(self, nodes: int, slots: int = 1, classes: int = 1) -> float:
        """The instructions for one fact on average, the listing of the nodes not counted."""
        places = [(f"n{number}", f"c{number % classes}") for number in range(nodes)]
        listed = [slot(f"{name}/{room}={of}") for name, of in places for room in range(1, slots + 1)]
        self.orders.extend(self.scheduler.nodes(listed))
        while self.scheduler.finished is None:
            self._carry_out(self.orders.popleft())
        assert not list(self.scheduler.unfinished())
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
    ],
)
def test_the_price_of_an_event_does_not_grow(history: Any) -> None:
    few, many = history(FEW), history(MANY)
    assert many < GROWTH * few, f"{few:.0f} instructions for {FEW}, {many:.0f} for {MANY}"
