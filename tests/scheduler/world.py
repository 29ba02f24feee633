"""A random world around a scheduler: one seed, one history, the same on every machine and in every process.

The world answers each order once, in any order, and lets nodes fail, leave and come back. The recorder keeps
the account and the ledger holds every event against the law.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable

from ledger import Ledger
from recorder import Recorder, node

from clstr.model import (
    Attempt,
    Barrier,
    CopyFailed,
    Exited,
    Finished,
    Found,
    Job,
    Killed,
    Lost,
    Node,
    NotStarted,
    Outcome,
    Refused,
    Slot,
    Stalled,
    Stopped,
    Terms,
    TimedOut,
)
from clstr.scheduler import Limits, Need

LONGEST = 3_000
"""Facts of one history; one that is longer goes round in circles."""


class World:
    """One history. ``seen`` counts what occurred in it, by name."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.seen: Counter[str] = Counter()
        pick = self.random.choice
        self.pinned = self.random.random() < 0.2
        self.budgets: list[int | None] = pick([[None], [None], [0], [1], [2], [3], [None, 0, 2]])
        self.classes: list[str | None] = pick([[None], [None], [None], ["a"], ["b"], ["z"], [None, "a", "b"]])
        self.follows = pick([0.0, 0.0, 0.1])  # how often the list of nodes changes
        self.limits = Limits(
            max_nodes=pick([0, 0, 0, 1, 2, 3]),
            max_node_uses=pick([0, 0, 0, 1, 2, 9]),
            max_connecting=pick([1, 2, 64]),
            node_failures=pick([1, 1, 2, 3]),
            max_failed=pick([0, 0, 0, 1, 3]),
            stream=Need(self.classes[0], None not in self.budgets),
            follow=self.follows > 0 and self._chance(0.5),
            tokens=pick([{}, {"gpu": 1}, {"gpu": 3, "disk": 2}]),
            read_ahead=pick([0, 0, 2, 64]),
        )
        self.recorder = Recorder(self.limits)
        self.ledger = Ledger(self.limits)
        of_class: list[tuple[str, ...]] = [(), ("a",), ("b",), ("a", "b")]
        self.places = [node(f"n{number}", *pick(of_class)) for number in range(1, 1 + self.random.randint(1, 6))]
        self.slots = self.random.randint(1, 3)  # of a node, at most
        self.known = pick([0.0, 0.0, 0.0, 0.2, 0.9])  # how often a job turns out to be done before
        self.total = self.random.randint(0, 20)
        self.filed = self._file() if not self.pinned and self._chance(0.6) else []
        self.unread = [n for n in range(1, 1 + self.total + len(self.filed)) if n not in {x.id for x in self.filed}]
        self.breaks = pick([0.0, 0.05, 0.3])  # how often a job fails, for whatever reason of its own
        self.drops = pick([0.0, 0.03, 0.15])  # how often a connection breaks or a dial fails
        self.results = pick([0.0, 0.0, 0.5, 1.0])  # how often a job has any
        self.locks = pick([0.0, 0.0, 0.1])  # how often a job may not start, or is found done as it does
        self.ends_early = pick([0.0, 0.0, 0.05])
        self.bad_jobs = pick([0, 0, 3, 7])  # each so manieth job always fails
        self.bad_places = self.places[: pick([0, 0, 0, 1, 2])]  # where every job fails

    def play(self) -> None:
        """The whole history, to its end; then some facts that come too late."""
        room = range(1, 1 + self.slots)
        slots = [Slot(place, n) for place in self.places for n in room if n == 1 or self._chance(0.6)]
        self.random.shuffle(slots)
        if self.filed:
            self._feed("submitted", self.filed, [x.id for x in self.filed if self._chance(self.known)])
        self._feed("nodes", slots, [])
        while self.recorder.scheduler.finished is None:
            assert len(self.recorder.facts) < LONGEST, "this history does not end"
            self._next_fact()
        self._settle_accounts()

    def _next_fact(self) -> None:
        if self._chance(self.ends_early):
            self._feed(*self.random.choice([("drain", "told to"), ("stop", "^C"), ("stop", "^C")]))
            return
        if self._chance(self.follows):
            self._edit_the_list()
            return
        if self.recorder.connections and self._chance(self.drops / 3):
            self._lose(self.random.choice(sorted(self.recorder.connections, key=str)))
            return
        if self._chance(0.02):
            self._feed("quiet")
            return
        answers = []
        if self.recorder.wanted:
            answers += [self._answer_want, self._answer_want, self._fall_quiet]
        if self.recorder.dialing:
            answers += [self._answer_dial] * 2
        if self.recorder.running:
            answers += [self._end_a_job] * 3
        if self.recorder.copying:
            answers += [self._end_a_copy]
        if not answers:
            self._wait_for_nodes()
        else:
            self.random.choice(answers)()

    def _wait_for_nodes(self) -> None:
        """Nothing is owed: the run follows the list of nodes, which may change, or the user gives up."""
        assert self.limits.follow, f"nothing to answer: {self.recorder.scheduler.owed()}"
        self.seen["waited for nodes"] += 1
        if self._chance(0.2):
            self._feed("drain", "gave up")
        else:
            self._edit_the_list()

    def _answer_want(self) -> None:
        count = self.random.randint(1, self.recorder.wanted)
        if not self.unread:
            self._feed("exhausted")
            return
        batch, known = [], []
        while self.unread and count:
            batch.append(self._job(self.unread.pop(0)))
            if self._chance(self.known):
                known.append(batch[-1].id)
            else:
                count -= 1
        self._feed("jobs", batch, known)
        if not self.unread and self._chance(0.3):
            self._feed("exhausted")  # unasked: the end of the stream was seen with its last job

    def _job(self, number: int) -> Job:
        pin = self.random.choice([*self.places, node("n9")]) if self.pinned and self._chance(0.9) else None
        job_class = None if pin else self.random.choice(self.classes)
        return Job(number, b"true", "", self.random.choice(self.budgets), pin, job_class)

    def _file(self) -> list[Job]:
        """The jobs of a submit file, somewhere between those of the stream."""
        pick = self.random.choice
        first = 1 + self.random.randint(0, self.total)
        ids = list(range(first, first + self.random.randint(1, 14)))
        budgets = pick([self.budgets, [None], [0, 2], [None, 1]])
        classes = pick([self.classes, [None], [None, "a", "b"]])
        priorities = pick([[0], [0, 0, 1, -1], [-1], [2, 1]])
        edges = pick([0.0, 0.1, 0.3])
        circles, holds, claims = pick([0.0, 0.0, 0.4]), pick([0.0, 0.0, 0.1]), pick([0.0, 0.5])
        turns = self.random.sample(ids, len(ids))  # who may come after whom, so that it is no circle
        shared: list[tuple[int, Barrier]] = []  # each with the turn that its last job has
        jobs: dict[int, Job] = {}
        for turn, number in enumerate(turns):
            before = turns if self._chance(circles) else turns[:turn]
            barrier = Barrier("", tuple(one for one in before if self._chance(edges)))
            known = tuple(one for last, one in shared if last < turn and self._chance(0.3))
            if known:
                barrier = known[0] if self._chance(0.3) else Barrier("", barrier.jobs, known)
            if self._chance(0.3):
                shared.append((turn if barrier.jobs else -1, barrier))
            tokens = [(name, self.random.randint(1, most)) for name, most in sorted(self.limits.tokens.items())]
            terms = Terms(
                priority=pick(priorities),
                after=barrier if barrier.jobs or barrier.barriers or self._chance(0.1) else None,
                tokens=tuple(claim for claim in tokens if self._chance(claims)),
                hold=self._chance(holds),
            )
            jobs[number] = Job(number, b"true", budget=pick(budgets), job_class=pick(classes), terms=terms)
        return [jobs[number] for number in ids]

    def _fall_quiet(self) -> None:
        self._feed("quiet")

    def _answer_dial(self) -> None:
        to = self.random.choice(sorted(self.recorder.dialing, key=str))
        if self._chance(self.drops):
            self._feed("unreachable", to, "refused")
        else:
            self._feed("connected", to, int(self._chance(0.03)))

    def _end_a_job(self) -> None:
        attempt = self.random.choice(list(self.recorder.running.values()))
        if self._chance(0.7):
            self._feed("started", attempt)
        if self.ledger.why == "^C" and self._chance(0.8):
            self._end(attempt, Stopped())
        elif self._chance(self.drops):
            self._lose(attempt.slot.node, attempt)
        elif self._chance(self.locks):
            self._end(attempt, self.random.choice([Found(), Refused("another run holds its lock")]))
        elif self._is_bad(attempt) or self._chance(self.breaks):
            self._end(attempt, self.random.choice([Exited(1), Killed("KILL"), TimedOut(5), Stalled(5)]))
        else:
            self._end(attempt, self._success())

    def _success(self) -> Outcome:
        return Exited(0, (b"out.txt",)) if self._chance(self.results) else Exited(0)

    def _end_a_copy(self) -> None:
        attempt = self.random.choice(list(self.recorder.copying.values()))
        if self.ledger.why == "^C" and self._chance(0.8):
            self._copied(attempt, Stopped())
        elif self._chance(self.drops):
            self._lose(attempt.slot.node)
        elif self._chance(self.breaks):
            self._copied(attempt, CopyFailed("disk full"))
        else:
            self._copied(attempt, Exited(0))

    def _copied(self, attempt: Attempt, outcome: Outcome) -> None:
        self.seen[f"copied {row(outcome)}"] += 1
        self._feed("copied", attempt, outcome)

    def _is_bad(self, attempt: Attempt) -> bool:
        if attempt.job.pin is not None:
            return False  # it would be tried there for ever
        bad_job = self.bad_jobs and attempt.job.id % self.bad_jobs == 1
        return bool(bad_job) or attempt.slot.node in self.bad_places

    def _lose(self, of: Node, first: Attempt | None = None) -> None:
        """The connection breaks; a job or copy may have ended just before, another may never have begun."""
        ours = self._chance(0.3)
        broke = Lost("reset", ours)
        if first is not None:
            self._end(first, self.random.choice([broke, NotStarted("reset")]))
        while under_way := self._under_way(of):
            one = self.random.choice(under_way)
            if one.job.id in self.recorder.copying:
                self.seen["lost under a copy"] += 1
                self._copied(one, Exited(0) if self._chance(0.1) else CopyFailed("reset"))
                continue
            ended = Exited(1) if self._is_bad(one) else self._success()
            how = self.random.choices([broke, NotStarted("reset"), ended, Exited(1)], [4, 3, 1, 1])
            self._end(one, how[0])
        if of in self.recorder.connections:
            if self._chance(0.2):
                self._feed("unreachable", of, "session refused")
            else:
                self._feed("lost", of, "reset", ours)

    def _under_way(self, of: Node) -> list[Attempt]:
        both = (*self.recorder.running.values(), *self.recorder.copying.values())
        return [attempt for attempt in both if attempt.slot.node == of]

    def _end(self, attempt: Attempt, outcome: Outcome) -> None:
        self.seen[row(outcome)] += 1
        self._feed("ended", attempt, outcome)

    def _edit_the_list(self) -> None:
        of = self.ledger.places
        listed = [Slot(name, n) for name, place in of.items() for n in [*place.live, *place.banned]]
        listed = [slot for slot in listed if slot.number not in of[slot.node].leaving]
        left = [slot for slot in listed if self._chance(0.3)]
        if len(self.places) < 9 and self._chance(0.2):
            self.places.append(node(f"n{len(self.places) + 1}", *self.random.choice([(), ("a",), ("b",)])))
        known = [Slot(place, number) for place in self.places for number in range(1, 1 + self.slots)]
        fresh = [slot for slot in known if slot not in listed and self._chance(0.3)]
        # A slot that retired by itself is not listed any more, and may join again.
        self._feed("nodes", fresh, left)

    def _chance(self, share: float) -> bool:
        return self.random.random() < share

    def _feed(self, fact: str, *arguments: object) -> None:
        events = self.recorder.feed(fact, *arguments)
        self.ledger.hear(fact, arguments, events)
        self.seen[fact] += 1
        for event in events:
            self.seen[type(event).__name__] += 1
            if isinstance(event, Finished):
                self.seen[event.end.name] += 1

    def _settle_accounts(self) -> None:
        """The run is over: nothing is owed, every job is accounted for, and nothing more is heard."""
        scheduler = self.recorder.scheduler
        assert scheduler.owed() == []
        assert [job.id for job in scheduler.unfinished()] == sorted(self.ledger.cards)
        tally = scheduler.tally()
        assert (tally.running, tally.copying, tally.slots_in_use) == (0, 0, 0)
        assert tally.jobs == self.ledger.read == tally.done + tally.failed + tally.held + tally.waiting
        assert (tally.done, tally.held) == (len(self.ledger.done), self.ledger.held)
        for firsts in self.ledger.first_starts.values():
            assert firsts == sorted(firsts), "jobs of one kind begin in input order"
        assert tally.failed == self.ledger.failed
        assert tally.evicted == sum(place.evicted is not None for place in self.ledger.places.values())
        self.ledger.hold_against_rule_6()
        self.seen += self.ledger.seen
        for late in [("exhausted",), ("quiet",), ("lost", self.places[0], "late"), ("drain", "late")]:
            assert self.recorder.feed(*late) == []


def row(outcome: Outcome) -> str:
    """The outcome's row in the verdict."""
    match outcome:
        case Exited(0, (_, *_)):
            return "Exited(0, results)"
        case Exited(0):
            return "Exited(0)"
        case Lost(ours=True):
            return "Lost(ours)"
        case _:
            return type(outcome).__name__


def digest(seeds: Iterable[int]) -> str:
    """A fingerprint of all events of these histories."""
    told = hashlib.sha256()
    for seed in seeds:
        world = World(seed)
        world.play()
        told.update(repr(world.recorder.events).encode())
    return told.hexdigest()
