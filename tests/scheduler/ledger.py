"""The law of the scheduler told a second time, slowly and without cleverness: lists walked from end to end.

A ledger hears each fact and the events that came of it. What follows from the fact at once (news, Close, Kill)
it works out by itself and compares exactly. What the scheduler may choose (which idle slot, which spare node)
it holds against the rules: cli.md's "What failure means" and rooms.md's law.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

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
    rank: tuple[int, int]
    attempts: int = 0
    charges: int = 0
    last: Attempt | None = None
    avoids: set[Node] = field(default_factory=set)
    struck: list[Node] = field(default_factory=list)  # where it stood in a streak, first time first
    running: bool = False

    @property
    def need(self) -> Need:
        return Need(self.job.job_class, self.job.budget is not None)


class Ledger:
    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.places: dict[Node, Place] = {}
        self.cards: dict[int, Card] = {}
        self.attempts: dict[int, Attempt] = {}  # what runs, longest first
        self.read = 0
        self.done: set[int] = set()
        self.failed = 0
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
        self.first_starts: dict[Need, list[int]] = {}  # free jobs, in the order of their first start
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

    def on_jobs(self, batch: list[Job]) -> Iterable[Event]:
        assert 1 <= len(batch) <= self.wanted
        self.wanted = 0
        self.paused = False
        for job in batch:
            self.read += 1
            self.budgets.add(job.budget)
            self.charges_allowed += 0 if job.budget is None else job.budget + 1
            card = self.cards[job.id] = Card(job, (UNTRIED, job.id))
            yield from self._wait(card)

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
            yield from [Kill(attempt) for attempt in self.attempts.values()]

    def on_ended(self, attempt: Attempt, outcome: Outcome) -> Iterable[Event]:
        node, number = attempt.slot.node, attempt.slot.number
        place, card = self.places[node], self.cards[attempt.job.id]
        del place.running[number], self.attempts[card.job.id]
        card.running = False
        if isinstance(outcome, Lost | NotStarted):
            place.state = "broken"
        self.returned += isinstance(outcome, NotStarted | Stopped) or outcome == Lost("reset", ours=True)
        self.unbounded += attempt.job.pin is not None and attempt.job.budget is None
        yield from self._give_back(attempt, used=not isinstance(outcome, NotStarted))
        match outcome:
            case Exited(0):
                place.shaky = False
                place.done += 1
                if place.evicted is None:
                    self.seen["cleared on parole"] += place.paroled
                    place.streak, place.paroled = [], False
                del self.cards[card.job.id]
                self.done.add(card.job.id)
                yield Done(attempt.job, attempt)
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
            yield self._fail(card, in_words(outcome))
            yield from self._strike_out(card)
            return
        self.requeues += 1
        card.rank = (BEHIND if budget is None else AGAIN, self.requeues)
        if keep_away and card.job.pin is None:
            card.avoids.add(attempt.slot.node)
        yield Requeued(attempt, outcome)
        yield from self._wait(card)

    def _wait(self, card: Card) -> Iterable[Event]:
        place = self.places.get(card.job.pin) if card.job.pin else None
        if place is not None and place.evicted is not None:
            yield self._fail(card, place.evicted)

    def _fail(self, card: Card, why: str) -> Event:
        del self.cards[card.job.id]
        self.failed += 1
        if self.failed == self.limits.max_failed and self.ending is None:
            self.seen["max_failed"] += 1
            many = "s" if self.failed > 1 else ""
            self.ending, self.why = End.DRAINED, f"{self.failed} job{many} failed (--max-failed)"
        return Failed(card.job, card.last, why)

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
                yield self._fail(card, why)

    def _retire(self, slot: Slot) -> Iterable[Event]:
        place = self.places[slot.node]
        del place.live[slot.number]
        place.leaving.discard(slot.number)
        yield Retired(slot)

    def _close_if_over(self, node: Node) -> Iterable[Event]:
        place = self.places[node]
        if not place.usable and not place.running and place.state in ("connected", "dialing"):
            place.state = "spare"
            yield Close(node)

    # --- rule 6, and classes that nobody can serve ---------------------------------------------------------

    def _hear_of_needs(self, events: list[Event]) -> list[Event]:
        """Paroles, and the failures of jobs that no node can serve; in any order, but all that are due."""
        count = 0
        for event in events:
            match event:
                case Paroled(node):
                    self._hear_parole(node)
                case Failed(job, _, why):
                    assert self.ending is None or self.seen["max_failed"]
                    card = self.cards[job.id]
                    assert why == f"no node of class {job.job_class} is left"
                    assert not card.running
                    assert self._is_hopeless(card)
                    assert self._fail(card, why) == event
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
        if card.job.pin is not None or need.job_class is None or self.limits.follow:
            return False
        if self._live(need._replace(budgeted=True)) or self._may_be_paroled(need):
            return False
        return not any(
            place.suspect
            and place.suits(need)
            and any(number in self.cards and self.cards[number].need.budgeted for number in place.streak)
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
                    assert count == self._missing()
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
        assert self._open(card), "a job requeued without a budget passes the jobs of the stream"
        assert self._may_take(node, card), "a job on a node that it is to avoid, or is not pinned to"
        for other in self._waiting():
            passed = self._open(other) and self._may_take(node, other) and other.rank < card.rank
            assert not passed, f"job {card.job.id} passes job {other.job.id}"
        assert not self._first_needs_another(), "an idle slot does not give way to the first job"
        firsts = self.first_starts.setdefault(card.need, [])
        if card.attempts == 0 and card.job.pin is None and card.job.id not in firsts:
            firsts.append(card.job.id)
        card.running = True
        card.attempts += 1
        self.starts += 1
        place.running[attempt.slot.number] = self.attempts[card.job.id] = attempt

    def _first_needs_another(self) -> bool:
        """Can the first free job use no idle slot, but a node that nobody has dialed?"""
        free = [card for card in self._waiting() if card.job.pin is None and self._open(card)]
        if not free or not self.limits.max_nodes or self._dialing():
            return False
        first = min(free, key=lambda card: card.rank)
        mine = [x for node, x in self.places.items() if x.usable and self._may_take(node, first)]
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
        assert self._dialing() < len(waiting), "more dials under way than jobs that wait"
        assert any(self._may_take(node, card) for card in waiting if self._open(card)), "a dial for nobody"
        place.state = "dialing"

    def _hear_end(self, end: End, why: str) -> None:
        assert not self.attempts
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
        for card in self.cards.values():
            takers = [x for node, x in self.places.items() if x.usable and self._may_take(node, card)]
            assert not takers, f"job {card.job.id} could have run"
        stream = self.limits.stream
        assert self.exhausted or not self._live(stream), "the stream could have been read on"
        if self.cards:
            assert (end, why) == (End.BLOCKED, "")
        elif self._live(stream._replace(budgeted=True)):
            assert (end, why) == (End.NO_NODES, "all on parole")
        else:
            assert (end, why) == (End.NO_NODES, f"none of class {stream.job_class}")
        self.seen["no nodes for the stream"] += not self.cards

    def _nothing_left_undone(self) -> None:
        """After every fact: nothing waits that could be done now."""
        places = self.places.values()
        assert self.attempts or (self.ending is None and not (self.exhausted and not self.cards))
        assert self.attempts or self.limits.follow or self._live(Need(None, True)) or not self.places
        if self.ending is not None:
            return
        assert self.wanted or self.exhausted or self._missing() == 0, "a free slot, and no job is wanted"
        if self._room() <= 0:
            return
        for card in self._waiting():
            if not self._open(card):
                continue
            for node, place in self.places.items():
                free = place.state == "connected" and len(place.live) > len(place.running)
                assert not (free and self._may_take(node, card)), f"job {card.job.id} waits beside a free slot"
                idle = not any(place.state == "dialing" for place in places)
                spare = idle and place.state == "spare" and place.usable
                assert not (spare and self._may_take(node, card)), f"job {card.job.id} waits, nobody dials"

    # --- questions -----------------------------------------------------------------------------------------

    def _waiting(self) -> list[Card]:
        return [card for card in self.cards.values() if not card.running]

    def _dialing(self) -> int:
        return sum(place.state == "dialing" for place in self.places.values())

    def _room(self) -> int:
        in_use = self._dialing() + len(self.attempts)
        return self.limits.max_nodes - in_use if self.limits.max_nodes else 1

    def _open(self, card: Card) -> bool:
        """Rule 4: without a budget behind all that waits untried, the unread stream too."""
        if card.rank[0] != BEHIND or card.job.pin is not None:
            return True
        return self.paused

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
        at_hand = [x for x in alike if x.rank[0] != BEHIND and not x.avoids]
        return max(0, room - len(at_hand))
