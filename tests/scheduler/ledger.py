"""The law of the scheduler told a second time, slowly and without cleverness: lists walked from end to end.

A ledger hears each fact and the events that came of it. What follows from the fact at once (news, Close, Kill)
it works out by itself and compares exactly. What the scheduler may choose (which idle slot, which spare node)
it holds against the rules: cli.md's "What failure means", submit.md and rooms.md's law.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from clstr.model import (
    Attempt,
    Barrier,
    Close,
    Copy,
    CopyFailed,
    Dial,
    Done,
    End,
    Event,
    Evicted,
    Exited,
    Failed,
    Finished,
    Found,
    Held,
    Job,
    Kill,
    Lost,
    Node,
    NotStarted,
    Outcome,
    Pardoned,
    Paroled,
    Refused,
    Requeued,
    Retired,
    Slot,
    Start,
    Stopped,
    Want,
    in_words,
)
from clstr.scheduler import Limits, Need

AGAIN, UNTRIED, BEHIND = range(3)


@dataclass
class Place:
    """A node: what it is, and which of its slots are live, with the jobs that each has taken."""

    node: Node
    state: str = "spare"  # dialing, connected, broken
    live: dict[int, int] = field(default_factory=dict)
    leaving: set[int] = field(default_factory=set)
    running: dict[int, Attempt] = field(default_factory=dict)
    copying: set[int] = field(default_factory=set)  # the ids of jobs whose results it gives
    streak: list[int] = field(default_factory=list)  # the ids of the jobs that failed
    shaky: bool = False
    evicted: str | None = None
    banned: dict[int, int] = field(default_factory=dict)  # what would be live again after a pardon
    turn: int = 0  # when a streak evicted it: the lower, the longer ago
    paroled: bool = False
    done: int = 0  # jobs, ever
    losses: int = 0
    numbers: set[int] = field(default_factory=set)  # of all slots it ever had

    @property
    def usable(self) -> bool:
        return bool(self.live) and self.evicted is None

    @property
    def suspect(self) -> bool:
        """Evicted by a streak, with a slot left that could come back?"""
        return self.evicted is not None and bool(self.banned)

    def suits(self, need: Need) -> bool:
        """Is it of the class that the need names, and not on parole when that asks for a budget?"""
        of_class = need.job_class is None or need.job_class in self.node.classes
        return of_class and (need.budgeted or not self.paroled)


@dataclass
class Card:
    """A job that has not ended."""

    job: Job
    rank: tuple[int, int, int]
    filed: bool = False
    after: set[int] = field(default_factory=set)  # all jobs that it comes after, directly
    attempts: int = 0
    charges: int = 0
    last: Attempt | None = None
    avoids: set[Node] = field(default_factory=set)
    struck: list[Node] = field(default_factory=list)  # where it stood in a streak, first time first
    running: bool = False
    copying: bool = False

    @property
    def need(self) -> Need:
        return Need(self.job.job_class, self.job.budget is not None)


class Ledger:
    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.places: dict[Node, Place] = {}
        self.cards: dict[int, Card] = {}
        self.attempts: dict[int, Attempt] = {}  # what runs, longest first
        self.copies: dict[int, Attempt] = {}  # what is being copied, longest first
        self.filed: set[int] = set()  # the ids of jobs from submit files
        self.next = 1  # the id of the stream's next job
        self.read = 0
        self.done: set[int] = set()
        self.failed = self.held = 0
        self.requeues = 0
        self.evictions = 0
        self.budgets: set[int | None] = set()
        self.charges_allowed = 0  # to the budgets of all jobs read
        self.starts = self.paroles = self.returned = self.unbounded = 0
        self.wanted = 0
        self.paused = self.exhausted = False
        self.ending: End | None = None
        self.why = ""
        self.finished = False
        self.first_starts: dict[tuple[object, ...], list[int]] = {}  # of jobs alike, in the order of their first start
        self.seen: Counter[str] = Counter()  # what has no event of its own, by name

    def hear(self, fact: str, arguments: tuple[Any, ...], events: list[Event]) -> None:
        if self.finished:
            assert events == []
            return
        due = list(getattr(self, f"on_{fact}")(*arguments))
        assert events[: len(due)] == due
        rest = self._hear_of_needs(events[len(due) :])
        self._hear_choices(rest)

    # --- what follows from a fact at once ------------------------------------------------------------------

    def on_nodes(self, joined: Iterable[Slot], left: Iterable[Slot]) -> Iterable[Event]:
        for slot in joined:
            place = self.places.setdefault(slot.node, Place(slot.node))
            place.numbers.add(slot.number)
            if place.suspect:
                place.banned[slot.number] = 0
            if place.evicted is None and slot.number not in place.leaving:
                assert slot.number not in place.live
                place.live[slot.number] = 0
            place.leaving.discard(slot.number)
        for slot in left:
            place = self.places[slot.node]
            place.banned.pop(slot.number, None)
            if slot.number in place.live and slot.number in place.running:
                place.leaving.add(slot.number)
            elif slot.number in place.live:
                yield from self._retire(slot)
                yield from self._close_if_over(slot.node)

    def on_submitted(self, batch: list[Job], done: Collection[int]) -> Iterable[Event]:
        assert not self.places
        self.filed = {job.id for job in batch}
        self._read_to(0)
        for job in batch:
            yield from self._enter(job, done)
        for job in batch:
            if job.terms.hold and job.id in self.cards:
                yield self._hold(self.cards[job.id], "hold = True")
                yield from self._hold_after(job, "held")

    def on_jobs(self, batch: list[Job], done: Collection[int]) -> Iterable[Event]:
        assert batch
        assert sum(job.id not in done for job in batch) <= self.wanted
        self.wanted = 0
        self.paused = False
        self._read_to(batch[-1].id)
        for job in batch:
            yield from self._enter(job, done)
            if job.id in self.cards:
                yield from self._wait(self.cards[job.id])

    def _read_to(self, number: int) -> None:
        self.next = number + 1
        while self.next in self.filed:
            self.next += 1

    def _enter(self, job: Job, done: Collection[int]) -> Iterable[Event]:
        self.read += 1
        if job.id in done:
            self.seen["done before"] += 1
            self.done.add(job.id)
            yield Done(job, None)
            return
        self.budgets.add(job.budget)
        self.charges_allowed += 0 if job.budget is None else job.budget + 1
        after = _named_by(job.terms.after)
        self.cards[job.id] = Card(job, (UNTRIED, -job.terms.priority, job.id), job.id in self.filed, after)

    def on_exhausted(self) -> Iterable[Event]:
        self.wanted = 0
        self.paused = self.exhausted = True
        return []

    def on_quiet(self) -> Iterable[Event]:
        self.paused = self.paused or self.wanted > 0
        return []

    def on_connected(self, node: Node, slots: int = 0) -> Iterable[Event]:
        place = self.places[node]
        place.state = "connected"
        for _ in range(slots):
            place.live[max(place.live) + 1] = 0
            place.numbers.add(max(place.live))
        return []

    def on_unreachable(self, node: Node, why: str) -> Iterable[Event]:
        place = self.places[node]
        place.state = "gone"
        self.seen["unreachable after a streak"] += place.suspect
        place.banned = {}  # rule 1: for good
        return self._evict(node, why)

    def on_started(self, attempt: Attempt) -> Iterable[Event]:
        return []

    def on_lost(self, node: Node, why: str, ours: bool = False) -> Iterable[Event]:
        place = self.places[node]
        assert not place.running
        assert not place.copying
        place.state = "spare"
        place.losses += 1
        if ours:
            return
        if place.usable and place.shaky:
            yield from self._evict(node, f"connection lost again before a job was done: {why}")
        place.shaky = True

    def on_drain(self, why: str) -> Iterable[Event]:
        if self.ending is None:
            self.ending, self.why = End.DRAINED, why
        return []

    def on_stop(self, why: str) -> Iterable[Event]:
        if self.ending is not End.STOPPED:
            self.ending, self.why = End.STOPPED, why
            self.seen["a stop under copies"] += bool(self.copies)
            yield from [Kill(attempt) for attempt in self.attempts.values()]
            yield from [Kill(attempt) for attempt in self.copies.values()]

    def on_ended(self, attempt: Attempt, outcome: Outcome) -> Iterable[Event]:
        node, number = attempt.slot.node, attempt.slot.number
        place, card = self.places[node], self.cards[attempt.job.id]
        del place.running[number], self.attempts[card.job.id]
        card.running = False
        if isinstance(outcome, Lost | NotStarted):
            place.state = "broken"
        self.returned += isinstance(outcome, NotStarted | Stopped) or outcome == Lost("reset", ours=True)
        self.unbounded += attempt.job.pin is not None and attempt.job.budget is None
        yield from self._give_back(attempt, used=not isinstance(outcome, NotStarted | Found | Refused))
        match outcome:
            case Exited(0, results):
                place.shaky = False
                place.done += 1
                if place.evicted is None:
                    self.seen["cleared on parole"] += place.paroled
                    place.streak, place.paroled = [], False
                if not results:
                    yield self._is_done(attempt)
                elif self.ending is End.STOPPED:
                    self.seen["no copy after a stop"] += 1
                    card.last = attempt
                    yield from self._wait(card)
                else:
                    card.copying = True
                    self.copies[card.job.id] = attempt
                    place.copying.add(card.job.id)
                    self.seen["copied on an evicted node"] += place.evicted is not None
                    yield Copy(attempt, results)
            case Found():
                yield self._is_done(attempt)
            case Refused(why):
                card.last = attempt
                self.unbounded += 1
                yield from self._fail(card, why)
            case NotStarted():
                card.attempts -= 1
                yield Requeued(attempt, outcome)
                yield from self._wait(card)
            case Stopped():
                card.last = attempt
                yield from self._wait(card)
            case Lost(ours=True):
                card.last = attempt
                yield Requeued(attempt, outcome)
                yield from self._wait(card)
            case Lost():
                yield from self._charge(card, attempt, outcome, keep_away=True)
            case _:
                yield from self._charge(card, attempt, outcome, keep_away=card.job.budget is not None)
                if card.job.pin is None and card.job.id in self.cards:
                    yield from self._strike(card, node, in_words(outcome))
        yield from self._close_if_over(node)

    def on_copied(self, attempt: Attempt, outcome: Outcome) -> Iterable[Event]:
        place, card = self.places[attempt.slot.node], self.cards[attempt.job.id]
        del self.copies[card.job.id]
        place.copying.remove(card.job.id)
        card.copying = False
        match outcome:
            case Exited(0, ()):
                yield self._is_done(attempt)
            case CopyFailed():
                card.last = attempt
                self.unbounded += 1
                yield from self._fail(card, in_words(outcome))
            case _:
                assert outcome == Stopped()
                self.unbounded += 1
                card.last = attempt
                yield from self._wait(card)
        self.seen["closed behind a copy"] += not place.usable and not place.running
        yield from self._close_if_over(attempt.slot.node)

    def _is_done(self, attempt: Attempt) -> Event:
        behind = [card for card in self.cards.values() if self._barred(card)]
        del self.cards[attempt.job.id]
        self.done.add(attempt.job.id)
        self.seen["barrier opened"] += sum(not self._barred(card) for card in behind)
        return Done(attempt.job, attempt)

    def _give_back(self, attempt: Attempt, used: bool) -> Iterable[Event]:
        node, number = attempt.slot.node, attempt.slot.number
        place = self.places[node]
        if number in place.live:
            place.live[number] += used
            limit = self.limits.max_node_uses
            if number in place.leaving or 0 < limit <= place.live[number]:
                yield from self._retire(attempt.slot)
        elif number in place.banned:
            place.banned[number] += used
            if 0 < self.limits.max_node_uses <= place.banned[number]:
                self.seen["used up while evicted"] += 1
                del place.banned[number]

    def _charge(self, card: Card, attempt: Attempt, outcome: Outcome, keep_away: bool) -> Iterable[Event]:
        card.charges += 1
        card.last = attempt
        budget = card.job.budget
        if budget is not None and card.charges > budget:
            yield from self._fail(card, in_words(outcome))
            yield from self._strike_out(card)
            return
        self.requeues += 1
        card.rank = (BEHIND if budget is None else AGAIN, -card.job.terms.priority, self.requeues)
        if keep_away and card.job.pin is None:
            card.avoids.add(attempt.slot.node)
        yield Requeued(attempt, outcome)
        yield from self._wait(card)

    def _wait(self, card: Card) -> Iterable[Event]:
        place = self.places.get(card.job.pin) if card.job.pin else None
        if place is not None and place.evicted is not None:
            yield from self._fail(card, place.evicted)

    def _fail(self, card: Card, why: str) -> Iterator[Event]:
        del self.cards[card.job.id]
        self.failed += 1
        if self.failed == self.limits.max_failed and self.ending is None:
            self.seen["max_failed"] += 1
            many = "s" if self.failed > 1 else ""
            self.ending, self.why = End.DRAINED, f"{self.failed} job{many} failed (--max-failed)"
        yield Failed(card.job, card.last, why)
        yield from self._hold_after(card.job, "failed")

    def _hold_after(self, job: Job, state: str) -> Iterator[Event]:
        """All that comes after the job, directly or not: found by looking at all there is until nothing is new."""
        gone = {job.id}
        new: list[Card] | None = None
        while new != []:
            others = [card for card in self.cards.values() if card.job.id not in gone and not card.job.terms.hold]
            new = [card for card in others if self._barred(card) and gone & card.after]
            gone.update(card.job.id for card in new)
        gone.discard(job.id)
        self.seen["held afar"] += any(job.id not in self.cards[number].after for number in gone)
        for number in sorted(gone):
            yield self._hold(self.cards[number], f"after job {job.id} {state}")

    def _hold(self, card: Card, why: str) -> Event:
        del self.cards[card.job.id]
        self.held += 1
        return Held(card.job, why)

    def _strike(self, card: Card, node: Node, why: str) -> Iterable[Event]:
        place = self.places[node]
        place.streak.append(card.job.id)
        if node not in card.struck:
            card.struck.append(node)
        failures = len(place.streak)
        if place.evicted is None and (failures >= self.limits.node_failures or place.paroled):
            self.seen["evicted again on parole"] += place.paroled
            banned = {number: uses for number, uses in place.live.items() if number not in place.leaving}
            yield from self._evict(node, f"{failures} failures in a row, last: {why}" if failures > 1 else why)
            self.evictions += 1
            place.banned, place.turn = banned, self.evictions

    def _strike_out(self, card: Card) -> Iterable[Event]:
        """Rule 5: the job was the broken part; it leaves every streak, and nodes come back."""
        for node in card.struck:
            place = self.places[node]
            place.streak = [number for number in place.streak if number != card.job.id]
            if len(place.streak) >= self.limits.node_failures:
                continue
            if place.suspect:
                self.seen["pardoned beside a job"] += bool(place.running)
                self._readmit(place)
                yield Pardoned(node)
            elif place.paroled:
                self.seen["pardoned on parole"] += 1
                place.paroled = False
                if place.usable:
                    yield Pardoned(node)

    def _readmit(self, place: Place) -> None:
        place.evicted = None
        place.live, place.banned = place.banned, {}
        for number in place.running.keys() - place.live.keys():
            place.live[number] = 0
            place.leaving.add(number)
        if place.state == "gone":
            place.state = "spare"

    def _evict(self, node: Node, why: str) -> Iterable[Event]:
        place = self.places[node]
        if place.evicted is not None:
            return
        self.seen["evicted beside a job"] += bool(place.running)
        place.evicted = why
        place.paroled = False
        place.live = {}
        place.leaving.clear()
        yield Evicted(node, why)
        for card in sorted(self._waiting(), key=lambda card: card.rank):
            if card.job.pin == node:
                yield from self._fail(card, why)

    def _retire(self, slot: Slot) -> Iterable[Event]:
        place = self.places[slot.node]
        del place.live[slot.number]
        place.leaving.discard(slot.number)
        yield Retired(slot)

    def _close_if_over(self, node: Node) -> Iterable[Event]:
        place = self.places[node]
        at_work = place.running or place.copying
        if not place.usable and not at_work and place.state in ("connected", "dialing"):
            place.state = "spare"
            yield Close(node)

    # --- rule 6, and classes that nobody can serve ---------------------------------------------------------

    def _hear_of_needs(self, events: list[Event]) -> list[Event]:
        """Paroles, and the failures of jobs that no node can serve; in any order, but all that are due."""
        count = 0
        while count < len(events):
            event = events[count]
            match event:
                case Paroled(node):
                    self._hear_parole(node)
                case Failed(job, _, why):
                    assert self.ending is None or self.seen["max_failed"]
                    card = self.cards[job.id]
                    assert why == f"no node of class {job.job_class} is left"
                    assert not card.running
                    assert self._is_hopeless(card)
                    due = list(self._fail(card, why))
                    assert events[count : count + len(due)] == due
                    count += len(due) - 1
                case _:
                    break
            count += 1
        if self.ending is None:
            for need, _ in self._needy():
                assert not self._may_be_paroled(need), f"nobody is paroled for {need}"
            for card in self._waiting():
                assert not self._is_hopeless(card), f"job {card.job.id} waits for a class that is gone"
        return events[count:]

    def _needy(self) -> list[tuple[Need, Card | None]]:
        """What ready jobs need and no live node has, each with the first such job; the unread stream too."""
        needs: list[tuple[Need, Card | None]] = []
        for card in sorted(self._waiting(), key=lambda card: card.rank):
            if card.job.pin is None and not self._live(card.need) and card.need not in dict(needs):
                needs.append((card.need, card))
        stream = self.limits.stream
        if not self.exhausted and not self._live(stream) and stream not in dict(needs):
            needs.append((stream, None))
        return needs

    def _may_be_paroled(self, need: Need) -> list[Place]:
        return [x for x in self.places.values() if x.suspect and x.suits(need)] if need.budgeted else []

    def _hear_parole(self, node: Node) -> None:
        """Its choice: where the job did not fail; fewest streak jobs done elsewhere; evicted longest ago."""
        assert self.ending is None, "a parole after drain or stop"
        fit = []
        for need, card in self._needy():
            avoids = card.avoids if card else set()
            able = sorted(
                self._may_be_paroled(need),
                key=lambda x: (x.node in avoids, sum(number in self.done for number in x.streak), x.turn),
            )
            fit += able[:1]
        place = self.places[node]
        assert any(place is choice for choice in fit), f"{node.text} is paroled out of turn"
        self.seen["paroled out of several"] += sum(x.suspect for x in self.places.values()) > 1
        place.paroled = True
        self.paroles += 1
        self._readmit(place)

    def _is_hopeless(self, card: Card) -> bool:
        """Is no node of the job's class live, none to be paroled for it, none that could be pardoned?"""
        need = card.need
        if card.job.pin is not None or need.job_class is None or self.limits.follow or not self.places:
            return False
        if self._live(need._replace(budgeted=True)) or self._may_be_paroled(need):
            return False
        return not any(
            place.suspect
            and place.suits(need)
            and any(
                number in self.cards and self.cards[number].need.budgeted and number not in self.copies
                for number in place.streak
            )
            for place in self.places.values()
        )

    def hold_against_rule_6(self) -> None:
        """There was no livelock: the starts and paroles of the run are within what its jobs and nodes allow.

        An attempt with a budget is charged, or its job done, or it is returned uncharged. One without a budget is
        done, lost with its connection, or stands in a streak: between two moments that shorten a node's streak (a
        job done there, a job failed for good) that takes K of them, and what ran on its other slots. A parole
        follows an eviction by a streak, and that a failure on the node, which is charged or one of the latter.
        """
        unbudgeted = 0
        for place in self.places.values():
            width = len(place.numbers)
            unbudgeted += (self.limits.node_failures + width) * (1 + place.done + self.failed)
            unbudgeted += width * place.losses
        uncharged = self.returned + self.unbounded
        assert self.starts <= self.charges_allowed + len(self.done) + unbudgeted + uncharged
        assert self.paroles <= self.charges_allowed + unbudgeted
        if None not in self.budgets:
            assert self.starts <= self.charges_allowed + uncharged
            assert self.paroles <= self.charges_allowed

    def _live(self, need: Need) -> list[Node]:
        return [node for node, place in self.places.items() if place.usable and place.suits(need)]

    # --- what may be chosen --------------------------------------------------------------------------------

    def _hear_choices(self, events: list[Event]) -> None:
        kinds = [(Start, Dial, Want, Finished).index(type(event)) for event in events]
        if self.limits.max_nodes == 0:
            assert kinds == sorted(kinds), "starts before dials before wants"
        for event in events:
            assert not self.finished
            match event:
                case Start(attempt):
                    self._hear_start(attempt)
                case Dial(node):
                    self._hear_dial(node)
                case Want(count):
                    assert self.ending is None
                    assert count == self._missing() + self.limits.read_ahead
                    self.wanted = count
                case Finished(end, why):
                    self._hear_end(end, why)
        if not self.finished:
            self._nothing_left_undone()

    def _hear_start(self, attempt: Attempt) -> None:
        assert self.ending is None, "a start after drain or stop"
        card, node = self.cards[attempt.job.id], attempt.slot.node
        place = self.places[node]
        assert not card.running, "a job starts twice at once"
        assert attempt.job == card.job
        assert attempt.number == card.attempts + 1
        assert card.job.budget is None or card.charges <= card.job.budget
        assert place.state == "connected"
        assert attempt.slot.number in place.live
        assert attempt.slot.number not in place.running
        assert self._room() > 0, "more in use than max_nodes"
        assert not self._barred(card), "a job before what it comes after"
        assert not card.copying, "a job again while its results are copied"
        assert self._has_tokens(card), "a job without its tokens"
        assert self._open(card, node), "a job passes those of the stream"
        assert self._may_take(node, card), "a job on a node that it is to avoid, or is not pinned to"
        for other in self._waiting():
            passed = other.rank < card.rank and self._may_start(other, node)
            assert not passed, f"job {card.job.id} passes job {other.job.id}"
        assert not self._first_needs_another(), "an idle slot does not give way to the first job"
        terms = card.job.terms
        firsts = self.first_starts.setdefault((card.need, card.filed, terms.priority), [])
        if card.attempts == 0 and card.job.id not in firsts and not (card.job.pin or terms.after or terms.tokens):
            firsts.append(card.job.id)
        self.seen["passed one short of tokens"] += any(
            other.rank < card.rank and not self._has_tokens(other) for other in self._waiting()
        )
        self.seen["passed by priority"] += any(
            other.rank > card.rank and other.job.id < card.job.id and other.rank[0] == card.rank[0]
            for other in self._waiting()
        )
        self.seen["beside the stream"] += not self.paused and card.rank > (UNTRIED, 0, self.next)
        card.running = True
        card.attempts += 1
        self.starts += 1
        place.running[attempt.slot.number] = self.attempts[card.job.id] = attempt

    def _first_needs_another(self) -> bool:
        """Can the first free job use no idle slot, but a node that nobody has dialed?"""
        free = [card for card in self._waiting() if card.job.pin is None and self._has_tokens(card)]
        if not free or not self.limits.max_nodes or self._dialing():
            return False
        first = min(free, key=lambda card: card.rank)
        mine = [x for node, x in self.places.items() if x.usable and self._may_start(first, node)]
        idle = any(x.state == "connected" and len(x.live) > len(x.running) for x in mine)
        return not idle and any(x.state == "spare" for x in mine)

    def _hear_dial(self, node: Node) -> None:
        assert self.ending is None, "a dial after drain or stop"
        place = self.places[node]
        assert place.state == "spare"
        assert place.usable
        assert self._dialing() < self.limits.max_connecting
        assert self._room() > 0, "more in use than max_nodes"
        waiting = self._waiting()
        assert self._dialing() < self._startable(waiting), "more dials under way than jobs that could start"
        assert any(self._may_start(card, node) for card in waiting), "a dial for nobody"
        place.state = "dialing"

    def _hear_end(self, end: End, why: str) -> None:
        assert not self.attempts
        assert not self.copies
        settled = self.exhausted and not self.cards
        lame = bool(self.places) and not self._live(Need(None, True)) and not self.limits.follow
        if self.ending is End.STOPPED:
            assert (end, why) == (End.STOPPED, self.why)
        elif settled:
            assert (end, why) == (End.SETTLED, "")
        elif self.ending is End.DRAINED:
            assert (end, why) == (End.DRAINED, self.why)
        elif lame:
            assert (end, why) == (End.NO_NODES, "")
        else:
            self._hear_that_nothing_can_start(end, why)
        self.finished = True

    def _hear_that_nothing_can_start(self, end: End, why: str) -> None:
        assert not self.limits.follow
        assert not self.wanted
        assert not any(place.state in ("dialing", "broken") for place in self.places.values())
        for card in self._waiting():
            takers = [x for node, x in self.places.items() if x.usable and self._may_take(node, card)]
            assert not takers, f"job {card.job.id} could have run"
        stream = self.limits.stream
        assert self.exhausted or not self._live(stream), "the stream could have been read on"
        if self.cards:
            assert (end, why) == (End.BLOCKED, "")
            self.seen["blocked at barriers"] += all(self._barred(card) for card in self.cards.values())
        elif self._live(stream._replace(budgeted=True)):
            assert (end, why) == (End.NO_NODES, "all on parole")
        else:
            assert (end, why) == (End.NO_NODES, f"none of class {stream.job_class}")
        self.seen["no nodes for the stream"] += not self.cards

    def _nothing_left_undone(self) -> None:
        """After every fact: nothing waits that could be done now."""
        places = self.places.values()
        if not self.attempts and not self.copies:
            assert self.ending is None
            assert not self.exhausted or self.cards
            assert self.limits.follow or self._live(Need(None, True)) or not self.places
        if self.ending is not None:
            return
        assert self.wanted or self.exhausted or self._missing() == 0, "a free slot, and no job is wanted"
        if self._room() <= 0:
            return
        for card in self._waiting():
            for node, place in self.places.items():
                free = place.state == "connected" and len(place.live) > len(place.running)
                assert not (free and self._may_start(card, node)), f"job {card.job.id} waits beside a free slot"
                idle = not any(place.state == "dialing" for place in places)
                spare = idle and place.state == "spare" and place.usable
                assert not (spare and self._may_start(card, node)), f"job {card.job.id} waits, nobody dials"

    # --- questions -----------------------------------------------------------------------------------------

    def _waiting(self) -> list[Card]:
        """The jobs that are ready."""
        cards = self.cards.values()
        return [card for card in cards if not (card.running or card.copying or self._barred(card))]

    def _barred(self, card: Card) -> bool:
        return not card.after <= self.done

    def _tokens(self) -> Counter[str]:
        """The units that are free."""
        free = Counter(self.limits.tokens)
        for attempt in self.attempts.values():
            free.subtract(dict(attempt.job.terms.tokens))
        return free

    def _has_tokens(self, card: Card) -> bool:
        claims = card.job.terms.tokens
        free = self._tokens() if claims else Counter[str]()
        return all(free[name] >= units for name, units in claims)

    def _startable(self, cards: list[Card]) -> int:
        """How many jobs could start, if of those alike no more do than there are tokens for."""
        free = self._tokens()
        alike: Counter[tuple[object, ...]] = Counter()
        most: dict[tuple[object, ...], int] = {}
        for card in cards:
            kind = (card.need, frozenset(card.avoids), card.job.terms.tokens, card.rank[0], self._leads(card))
            alike[kind] += 1
            if card.job.terms.tokens:
                most[kind] = min(free[name] // units for name, units in card.job.terms.tokens)
        return sum(min(count, most.get(kind, count)) for kind, count in alike.items())

    def _leads(self, card: Card) -> tuple[bool, bool]:
        priority = card.job.terms.priority
        return priority > 0, card.filed and priority == 0

    def _dialing(self) -> int:
        return sum(place.state == "dialing" for place in self.places.values())

    def _room(self) -> int:
        in_use = self._dialing() + len(self.attempts)
        return self.limits.max_nodes - in_use if self.limits.max_nodes else 1

    def _open(self, card: Card, node: Node) -> bool:
        """May it start there now? A job that ranks behind the unread ones of the stream leaves them their nodes."""
        if card.job.pin is not None or self.paused or card.rank < (UNTRIED, 0, self.next):
            return True
        return not self.places[node].suits(self.limits.stream)

    def _may_start(self, card: Card, node: Node) -> bool:
        return self._has_tokens(card) and self._open(card, node) and self._may_take(node, card)

    def _may_take(self, node: Node, card: Card) -> bool:
        if card.job.pin is not None:
            return card.job.pin == node
        if not self.places[node].suits(card.need):
            return False
        return node not in card.avoids or all(other in card.avoids for other in self._live(card.need))

    def _missing(self) -> int:
        """The slots that could start a job and have none waiting for them."""
        stream = self.limits.stream
        mine = [self.places[node] for node in self._live(stream)]
        room = sum(len(place.live.keys() - place.running.keys()) for place in mine)
        if self.limits.max_nodes:
            room = min(room, self.limits.max_nodes - len(self.attempts))
        alike = [x for x in self._waiting() if x.job.pin is None and x.need == stream]
        at_hand = [x for x in alike if x.rank < (UNTRIED, 0, self.next) and not x.avoids]
        return max(0, room - self._startable(at_hand))


def _named_by(barrier: Barrier | None) -> set[int]:
    """The jobs of the barrier and of those inside it."""
    return set(barrier.jobs).union(*map(_named_by, barrier.barriers)) if barrier else set()
