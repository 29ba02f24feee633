"""A recording double for the runner: feeds facts to a scheduler and keeps the account of its orders.

It answers nothing by itself. After every fact it runs ``check()``, and compares what it thinks is owed with
what the scheduler says is owed; an order that makes no sense (a Start on a node without a connection, a
second Want) fails at once. Transcripts read its events as lines, one for each:

    Want 2 | Dial n1 | Start 1.1 n1/1 | Copy 1.1 | Kill 1.1 | Close n1
    Requeued 1.1: exit 1 | Done 1.1 | Done 1 | Failed 1.1: exit 1 | Held 2: after 1 failed
    Evicted n1: exit 1 | Pardoned n1 | Paroled n1 | Retired n1/1 | Finished SETTLED
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, assert_never

from clstr.model import (
    Attempt,
    Barrier,
    Close,
    Copy,
    Dial,
    Done,
    Event,
    Evicted,
    Exited,
    Failed,
    Finished,
    Held,
    Job,
    Kill,
    Lost,
    Node,
    NotStarted,
    Outcome,
    Pardoned,
    Paroled,
    Requeued,
    Retired,
    Slot,
    Start,
    Terms,
    Want,
    in_words,
)
from clstr.scheduler import Limits, Scheduler

OK = Exited(0)


def node(name: str, *classes: str) -> Node:
    return Node(name, host=name, classes=classes)


def slot(text: str) -> Slot:
    """``n1/2`` is the second slot of n1, ``n1`` its first; ``n1=gpu,big`` names the node's classes."""
    place, _, classes = text.partition("=")
    name, _, number = place.partition("/")
    return Slot(node(name, *filter(None, classes.split(","))), int(number or 1))


def slots(texts: str) -> list[Slot]:
    return [slot(text) for text in texts.split()]


def job(
    number: int, budget: int | None = None, pin: str | None = None, job_class: str | None = None
) -> Job:
    return Job(number, b"true", budget=budget, pin=None if pin is None else node(pin), job_class=job_class)


def filed(
    number: int,
    after: Barrier | str | None = None,
    tokens: str = "",
    priority: int = 0,
    hold: bool = False,
    budget: int | None = None,
    job_class: str | None = None,
) -> Job:
    """A job of a submit file; ``after="1 2"`` waits for these, ``tokens="gpu disk:2"`` claims one unit and two."""
    barrier = Barrier(after, tuple(map(int, after.split()))) if isinstance(after, str) else after
    claims = (claim.partition(":") for claim in sorted(tokens.split()))
    terms = Terms(priority, barrier, tuple((name, int(units or 1)) for name, _, units in claims), hold)
    return Job(number, b"true", budget=budget, job_class=job_class, terms=terms)


def line(event: Event) -> str:
    """The event, whole, as a line."""
    match event:
        case Want(count):
            return f"Want {count}"
        case Dial(to):
            return f"Dial {to.text}"
        case Start(attempt):
            return f"Start {_name(attempt)} {_place(attempt.slot)}"
        case Copy(attempt, _):
            return f"Copy {_name(attempt)}"
        case Kill(attempt):
            return f"Kill {_name(attempt)}"
        case Close(of):
            return f"Close {of.text}"
        case Requeued(attempt, outcome):
            return f"Requeued {_name(attempt)}: {in_words(outcome)}"
        case Done(done, attempt):
            return f"Done {_name(attempt) if attempt else done.id}"
        case Failed(failed, attempt, why):
            return f"Failed {_name(attempt) if attempt else failed.id}: {why}"
        case Held(held, why):
            return f"Held {held.id}: {why}"
        case Evicted(of, why):
            return f"Evicted {of.text}: {why}"
        case Pardoned(of):
            return f"Pardoned {of.text}"
        case Paroled(of):
            return f"Paroled {of.text}"
        case Retired(which):
            return f"Retired {_place(which)}"
        case Finished(end, why):
            return f"Finished {end.name}" + (f": {why}" if why else "")
        case _:
            assert_never(event)


def _name(attempt: Attempt) -> str:
    return f"{attempt.job.id}.{attempt.number}"


def _place(which: Slot) -> str:
    return f"{which.node.text}/{which.number}"


class Recorder:
    """Everything in order: ``facts`` (method, arguments) and ``events``; and what is owed right now."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.scheduler = Scheduler(limits)
        self.facts: list[tuple[str, tuple[Any, ...]]] = []
        self.events: list[Event] = []
        self.wanted = 0
        self.dialing: dict[Node, None] = {}
        self.connections: dict[Node, None] = {}
        self.running: dict[int, Attempt] = {}
        self.copying: dict[int, Attempt] = {}
        self.broken: dict[Node, None] = {}  # an attempt ended Lost or NotStarted, the node's own word is due

    def feed(self, fact: str, *arguments: Any) -> list[Event]:
        """One fact in, its events out; every rule of the account is asserted."""
        self.facts.append((fact, arguments))
        if self.scheduler.finished is None:
            self._answer(fact, arguments)
        events: list[Event] = getattr(self.scheduler, fact)(*arguments)
        self.scheduler.check()
        for event in events:
            self._account(event)
        self.events += events
        if self.scheduler.finished is not None:
            self._write_off()
        assert len(self.scheduler.owed()) == self._owed(), self.scheduler.owed()
        return events

    def _answer(self, fact: str, arguments: tuple[Any, ...]) -> None:
        match fact, arguments:
            case ("jobs", _) | ("exhausted", _):
                self.wanted = 0
            case "connected", (to, *_):
                del self.dialing[to]
                self.connections[to] = None
            case "unreachable", (to, _) if to in self.dialing:
                del self.dialing[to]
            case ("lost" | "unreachable"), (of, *_):
                assert all(x.slot.node != of for x in self.copying.values()), f"{of.text} is lost under copies"
                del self.connections[of]
                self.broken.pop(of, None)
            case "copied", (attempt, _):
                del self.copying[attempt.job.id]
            case "ended", (attempt, outcome):
                del self.running[attempt.job.id]
                if isinstance(outcome, Lost | NotStarted):
                    self.broken[attempt.slot.node] = None

    def _account(self, event: Event) -> None:
        match event:
            case Want(count):
                assert not self.wanted, "a second Want before the answer to the first"
                self.wanted = count
            case Dial(to):
                assert to not in {**self.dialing, **self.connections}, f"{line(event)}: again"
                self.dialing[to] = None
            case Start(attempt):
                assert attempt.slot.node in self.connections, f"{line(event)}: without a connection"
                assert attempt.slot.node not in self.broken, f"{line(event)}: on a broken connection"
                assert attempt.job.id not in self.running, f"{line(event)}: runs already"
                self.running[attempt.job.id] = attempt
            case Copy(attempt, results):
                assert results, f"{line(event)}: of nothing"
                assert attempt.slot.node in self.connections, f"{line(event)}: without a connection"
                assert attempt.job.id not in self.copying, f"{line(event)}: again"
                self.copying[attempt.job.id] = attempt
            case Kill(attempt):
                under_way = {**self.running, **self.copying}
                assert under_way[attempt.job.id] == attempt, f"{line(event)}: not under way"
            case Close(of):
                if of in self.dialing:
                    del self.dialing[of]
                else:
                    del self.connections[of]
                    self.broken.pop(of, None)
                under_way = {**self.running, **self.copying}
                assert all(x.slot.node != of for x in under_way.values()), f"{line(event)}: under jobs"
            case Finished():
                assert not self.running, "finished with jobs running"
                assert not self.copying, "finished with results under way"
            case Requeued() | Done() | Failed() | Held() | Evicted() | Pardoned() | Paroled() | Retired():
                pass
            case _:
                assert_never(event)

    def _owed(self) -> int:
        under_way = len(self.running) + len(self.copying)
        return bool(self.wanted) + len(self.dialing) + under_way + len(self.broken)

    def _write_off(self) -> None:
        # Finished cancels what is under way; the runner drops every connection by itself.
        self.wanted = 0
        self.dialing.clear()
        self.connections.clear()
        self.broken.clear()

    # --- facts in the words of transcripts -----------------------------------------------------------------

    def nodes(self, joined: str = "", left: str = "") -> list[str]:
        return self._lines("nodes", slots(joined), slots(left))

    def submitted(self, *batch: Job, done: Collection[int] = ()) -> list[str]:
        return self._lines("submitted", batch, done)

    def jobs(self, *batch: int | Job, done: Collection[int] = ()) -> list[str]:
        return self._lines("jobs", [job(one) if isinstance(one, int) else one for one in batch], done)

    def exhausted(self) -> list[str]:
        return self._lines("exhausted")

    def quiet(self) -> list[str]:
        return self._lines("quiet")

    def connected(self, name: str, more: int = 0) -> list[str]:
        return self._lines("connected", node(name), more)

    def unreachable(self, name: str, why: str = "refused") -> list[str]:
        return self._lines("unreachable", node(name), why)

    def started(self, number: int) -> list[str]:
        return self._lines("started", self.running[number])

    def ended(self, number: int, outcome: Outcome) -> list[str]:
        return self._lines("ended", self.running[number], outcome)

    def copied(self, number: int, outcome: Outcome = OK) -> list[str]:
        return self._lines("copied", self.copying[number], outcome)

    def lost(self, name: str, why: str = "reset", ours: bool = False) -> list[str]:
        return self._lines("lost", node(name), why, ours)

    def drain(self, why: str = "told to") -> list[str]:
        return self._lines("drain", why)

    def stop(self, why: str = "^C") -> list[str]:
        return self._lines("stop", why)

    def told(self) -> list[str]:
        """All events so far, as lines."""
        return [line(event) for event in self.events]

    def _lines(self, fact: str, *arguments: Any) -> list[str]:
        return [line(event) for event in self.feed(fact, *arguments)]


def recorder(nodes: str, **limits: Any) -> Recorder:
    """A run over these slots, which wants its first jobs."""
    run = Recorder(Limits(**limits))
    run.nodes(nodes)
    return run


def running(nodes: str, *jobs: int | Job, **limits: Any) -> Recorder:
    """The same with these jobs given and every dial answered: all that may run does."""
    run = recorder(nodes, **limits)
    run.jobs(*jobs)
    connect_all(run)
    return run


def connect_all(run: Recorder) -> None:
    while run.dialing:
        run.connected(next(iter(run.dialing)).text)
