"""The scheduler: facts in, orders and news out. Nothing else goes in or out.

The law:
- No I/O, no clock, no randomness, no asyncio, no logging, and no iteration over sets: same facts in, same
  orders and news out. Every method that takes a fact gives the list of what follows from it, in order.
- Every Want, Dial, Start and Copy is answered by exactly one fact, or cancelled by Finished (a Dial by Close too):
  Want by ``jobs`` or ``exhausted``, Dial by ``connected`` or ``unreachable``, Start by ``ended``, with
  ``started`` before it when the job really began, Copy by ``copied``. Kill has no answer but the attempt's ``ended``
  or ``copied``. ``exhausted`` may come unasked, as soon as the end is known. ``quiet`` answers nothing: it says that
  the stream has no job at hand just now, so that no job need stand behind it; the Want stays owed.
- After ``ended`` with Lost or NotStarted, ``lost`` or ``unreachable`` follows for the node, behind the ``ended`` and
  ``copied`` of all that was under way there; until then nothing is started there.
- A fact after Finished is ignored. A fact that answers nothing is a bug of the caller and raises.

Theory of operation. A job stands at a barrier until all that it comes after is done, waits in the backlog, runs, is
being copied, or has ended; a slot is spare (its node not connected), idle or running, until its node is evicted or
the slot retires. After each fact ``_settle`` does, in this order: end the run if it is over; start what may start
on idle slots, best job first; dial for what still waits; want jobs for slots that have none. In use is what
connects or runs, and it never exceeds ``max_nodes``; an idle slot is not in use, so room that it leaves goes to the
first job in the queue. Nor is a copy in use: the slot and the tokens of a job are free as soon as it has exited, and
only its node's connection is kept.

Whom a failure is blamed on (rules 3 to 6) is in ``_charge``, ``_strike``, ``_strike_out`` and ``_parole``. Every
parole ends in a success, a charge to a finite budget, a retirement or the node's eviction, so there are no
more of them than charges: no livelock.

When a job fails, or its file says ``hold = True``, all that comes after it is held: that is no failure of its own.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from clstr.model import (
    Attempt,
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
    Held,
    Job,
    Kill,
    Node,
    Outcome,
    Pardoned,
    Paroled,
    Requeued,
    Retired,
    Slot,
    Start,
    Stopped,
    Tally,
    Want,
    in_words,
)
from clstr.scheduler.backlog import PLAIN, Avoided, Backlog, Entry, Lane, Need, Tier
from clstr.scheduler.barriers import Barriers
from clstr.scheduler.batches import check_read, check_submitted
from clstr.scheduler.pools import NodeState, Phase, Pool, Pools
from clstr.scheduler.verdict import JobFate, NodeFate, took_its_slot, verdict


@dataclass(frozen=True, slots=True)
class Limits:
    """The user's bounds; 0 is no limit, but for ``max_connecting`` and ``node_failures``, which are >= 1."""

    max_nodes: int = 0  # slots in use at once
    max_node_uses: int = 0  # jobs that a slot takes before it retires
    max_connecting: int = 64  # dials under way at once
    node_failures: int = 1  # K: the length of a streak that evicts
    max_failed: int = 0  # failed jobs that drain the run
    stream: Need = PLAIN  # what the jobs that come by Want ask of a node, as far as is known before they come
    follow: bool = False  # nodes may join at any time: jobs that no node may take wait
    read_ahead: int = 0  # jobs that are wanted beyond those that slots lack
    tokens: Mapping[str, int] = field(default_factory=dict)  # how many units of each there are


class Scheduler:
    """The state of one run. Feed it facts, carry out its orders."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._nodes: dict[Node, NodeState] = {}
        self._pools = Pools()
        self._suspects: dict[Node, NodeState] = {}  # evicted by a streak, longest ago first
        # OrderedDict, because these lose their first member all the time: a plain dict walks over the holes.
        self._pins_idle: OrderedDict[Node, None] = OrderedDict()  # idle nodes with pinned jobs waiting
        self._pins_spare: OrderedDict[Node, None] = OrderedDict()  # spare nodes with pinned jobs waiting
        self._entries: dict[int, Entry] = {}  # every job that has not ended, by id
        self._attempts: dict[int, Attempt] = {}  # what runs, by job id
        self._copies: dict[int, Attempt] = {}  # what is being copied, by job id
        self._barriers = Barriers()
        self._backlog = Backlog(self._limits.tokens)
        self._out: list[Event] = []
        self._jobs = self._done = self._failed = self._held = self._evicted = 0
        self._filed = range(0)  # the ids of the jobs from submit files
        self._dialing = 0
        self._order = 0  # how many requeues so far: the rank of the next
        self._wanted = 0
        self._exhausted = False
        self._draining: str | None = None
        self._stopping: str | None = None
        self._finished: Finished | None = None

    # --- facts ---------------------------------------------------------------------------------------------

    def submitted(self, batch: Sequence[Job], done: Collection[int] = ()) -> list[Event]:
        """The jobs of all submit files, before any node; those with an id in ``done`` are done already.

        Their ids follow each other; the stream's go round them.
        """
        if self._finished is not None:
            return []
        done = frozenset(done)
        if self._nodes or self._jobs:
            raise ValueError("jobs are submitted once, before all else")
        check_submitted(batch, self._limits.tokens)
        if batch:
            self._filed = range(batch[0].id, batch[-1].id + 1)
            self._read_to(0)
        live = [job for job in batch if not self._enter(job, done, filed=True)]
        stay = [self._entries[job.id] for job in live if not job.terms.hold]
        for entry in self._barriers.keep_back(stay, self._entries):
            self._wait(entry)
        for job in live:
            if job.terms.hold:
                self._hold(self._entries[job.id], "hold = True")
                self._hold_after(job, "held")
        return self._settle()

    def nodes(self, joined: Sequence[Slot], left: Sequence[Slot] = ()) -> list[Event]:
        """Slots join, to be taken in this order, and others leave: they retire once their job has ended."""
        if self._finished is not None:
            return []
        self._check_listing(joined, left)
        for slot in joined:
            self._join(slot)
        for slot in left:
            self._leave(slot)
        return self._settle()

    def jobs(self, batch: Sequence[Job], done: Collection[int] = ()) -> list[Event]:
        """1 to n jobs, the answer to Want(n); those with an id in ``done`` are done already, and do not count."""
        if self._finished is not None:
            return []
        done = frozenset(done)
        check_read(batch, done, self._wanted)
        self._wanted = 0
        self._backlog.paused = False
        self._read_to(batch[-1].id)
        for job in batch:
            if not self._enter(job, done):
                self._wait(self._entries[job.id])
        return self._settle()

    def exhausted(self) -> list[Event]:
        """There are no further jobs."""
        self._wanted = 0
        self._exhausted = self._backlog.paused = True
        return self._settle()

    def quiet(self) -> list[Event]:
        """The stream of jobs has none at hand just now; the Want stays owed."""
        if self._wanted:
            self._backlog.paused = True
        return self._settle()

    def connected(self, node: Node, slots: int = 0) -> list[Event]:
        """The dial succeeded: the node's slots can take jobs, and it has ``slots`` more than were listed."""
        if self._finished is not None:
            return []
        state = self._dial_answered(node)
        state.phase = Phase.CONNECTED
        for _ in range(slots):
            state.live[max(state.live, default=0) + 1] = 0
        self._pools.grow(state, slots)
        for number in state.live:
            self._make_idle(state, number)
        return self._settle()

    def unreachable(self, node: Node, why: str) -> list[Event]:
        """The dial failed, or a new connection would run nothing: the node is evicted for good (rule 1)."""
        if self._finished is not None:
            return []
        state = self._known(node)
        if state.phase is Phase.DIALING:
            self._dial_answered(node)
        else:
            self._must_be_connected(state)
        self._disconnect(state)
        self._evict(state, why)
        return self._settle()

    def started(self, attempt: Attempt) -> list[Event]:
        """The attempt's job really began."""
        if self._finished is None and self._attempts.get(attempt.job.id) != attempt:
            raise ValueError(f"{attempt} does not run")
        return []

    def ended(self, attempt: Attempt, outcome: Outcome) -> list[Event]:
        """The attempt is over."""
        if self._finished is not None:
            return []
        if self._attempts.get(attempt.job.id) != attempt:
            raise ValueError(f"{attempt} does not run")
        job_fate, node_fate = verdict(outcome)
        state = self._nodes[attempt.slot.node]
        entry = self._release(state, attempt, node_fate, counts=took_its_slot(outcome))
        self._apply_to_job(entry, job_fate, attempt, outcome)
        self._apply_to_node(state, node_fate, attempt, outcome)
        self._close_if_over(state)
        return self._settle()

    def copied(self, attempt: Attempt, outcome: Outcome) -> list[Event]:
        """The copy is over: Exited(0) when all results are here, CopyFailed, or Stopped."""
        if self._finished is not None:
            return []
        if self._copies.get(attempt.job.id) != attempt:
            raise ValueError(f"the results of {attempt} are not being copied")
        if outcome != Exited(0) and not isinstance(outcome, CopyFailed | Stopped):
            raise ValueError(f"{outcome} is no end of a copy")
        job_fate, _ = verdict(outcome)
        state = self._nodes[attempt.slot.node]
        del self._copies[attempt.job.id]
        state.copies -= 1
        self._apply_to_job(self._entries[attempt.job.id], job_fate, attempt, outcome)
        self._close_if_over(state)
        return self._settle()

    def lost(self, node: Node, why: str, ours: bool = False) -> list[Event]:
        """The node's connection broke; its attempts and copies have been reported as over before (rule 2).

        ``ours``: every connection broke at once, which is presumed to be this machine's fault and counts
        against no node.
        """
        if self._finished is not None:
            return []
        state = self._known(node)
        self._must_be_connected(state)
        self._disconnect(state)
        if state.usable and state.shaky and not ours:
            self._evict(state, f"connection lost again before a job was done: {why}")
        elif state.usable:
            self._make_spare(state)
        state.shaky = state.shaky or not ours  # of an evicted node too: it may be pardoned
        return self._settle()

    def drain(self, why: str) -> list[Event]:
        """Start nothing new; what runs finishes."""
        if self._draining is None:
            self._draining = why
        return self._settle()

    def stop(self, why: str) -> list[Event]:
        """Start nothing new and terminate what runs."""
        if self._finished is None and self._stopping is None:
            self._stopping = why
            self._out.extend(Kill(attempt) for attempt in self._attempts.values())
            self._out.extend(Kill(attempt) for attempt in self._copies.values())
        return self._settle()

    # --- questions -----------------------------------------------------------------------------------------

    def tally(self) -> Tally:
        """The counters of this moment."""
        return Tally(
            jobs=self._jobs,
            done=self._done,
            failed=self._failed,
            waiting=self._backlog.waiting + self._barriers.waiting,
            running=len(self._attempts),
            slots_in_use=0 if self._finished is not None else self._in_use,
            slots_live=self._pools.any.slots,
            evicted=self._evicted,
            held=self._held,
            copying=len(self._copies),
        )

    @property
    def finished(self) -> Finished | None:
        return self._finished

    @property
    def more_to_come(self) -> bool:
        """May a slot that runs a job now be given another? (Worth opening its next session ahead.)"""
        return not self._over and (not self._exhausted or self._backlog.waiting + self._barriers.waiting > 0)

    def owed(self) -> list[str]:
        """The orders without an answer, in words; a run that is not over and owes nothing is stuck."""
        if self._finished is not None:
            return []
        owed = [f"Start({number})" for number in self._attempts]
        owed += [f"Copy({number})" for number in self._copies]
        if self._wanted:
            owed.append(f"Want({self._wanted})")
        for state in self._nodes.values():
            if state.phase in (Phase.DIALING, Phase.BROKEN):
                owed.append(f"{state.phase.value}: {state.node.text}")
        return owed

    def unfinished(self) -> Iterator[Job]:
        """The jobs that were read and have not been done, failed or held, in input order."""
        for number in sorted(self._entries):
            yield self._entries[number].job

    # --- what follows from every fact ----------------------------------------------------------------------

    @property
    def _in_use(self) -> int:
        return self._dialing + len(self._attempts)

    @property
    def _over(self) -> bool:
        """Is the run ending, so that nothing new may start?"""
        return self._stopping is not None or self._draining is not None

    def _settle(self) -> list[Event]:
        if self._finished is None:
            if self._nodes and not self._over:
                self._serve_all_needs()
            if not self._conclude():
                if not self._over:
                    self._start_jobs()
                    self._dial_nodes()
                    self._want_jobs()
                self._conclude_if_blocked()
        out, self._out = self._out, []
        return out

    def _conclude(self) -> bool:
        """End the run if it is over, by the first reason that holds."""
        if self._attempts or self._copies:
            return False
        if self._stopping is not None:
            return self._finish(End.STOPPED, self._stopping)
        if self._exhausted and not self._entries:
            return self._finish(End.SETTLED)
        if self._draining is not None:
            return self._finish(End.DRAINED, self._draining)
        if not self._pools.any.nodes and self._nodes and not self._limits.follow:
            return self._finish(End.NO_NODES)
        return False

    def _conclude_if_blocked(self) -> None:
        if self._finished is not None or not self._nodes:
            return
        if self._attempts or self._copies or self._dialing or self._wanted:
            return
        if self._limits.follow or any(state.phase is Phase.BROKEN for state in self._nodes.values()):
            return
        if not self._entries:
            # The stream goes on, but what is left of the nodes is of no class that its jobs may use, or on parole.
            job_class = self._limits.stream.job_class
            on_parole = self._pools.of(Need(job_class, True)).nodes > 0
            self._finish(End.NO_NODES, "all on parole" if on_parole else f"none of class {job_class}")
            return
        stuck = any(
            state.usable and self._pools.admits(lane, state)
            for lane in self._backlog.lanes()
            for state in self._nodes.values()
        )
        self._finish(End.STUCK if stuck else End.BLOCKED)

    def _finish(self, end: End, why: str = "") -> bool:
        self._finished = Finished(end, why)
        self._out.append(self._finished)
        return True

    def _room(self) -> int:
        """How many more slots may be in use."""
        return self._limits.max_nodes - self._in_use if self._limits.max_nodes else self._pools.any.slots

    def _start_jobs(self) -> None:
        while self._pools.any.idle and self._backlog.waiting and self._room() > 0:
            if self._gave_way():
                continue
            choice = self._best_start()
            if choice is None:
                return
            self._start(*choice)

    def _gave_way(self) -> bool:
        """Within ``max_nodes``, idle slots do not take the room of the first job when that needs another.

        Pinned jobs are left out: each waits for its one node, and finding their first looks at all nodes.
        """
        lane = next(iter(self._backlog.ready_lanes()), None) if self._limits.max_nodes else None
        if lane is None or lane.dials or not self._may_dial():
            return False
        pool = self._open_to(lane)
        if self._pools.first_admitted(lane, pool.idle):
            return False
        node = self._pools.first_admitted(lane, pool.spare)
        if node is not None:
            self._dial(self._nodes[node], lane)
        return node is not None

    def _open_to(self, lane: Lane) -> Pool:
        """The nodes that the first job of a lane without a pin need not leave to the stream."""
        if self._backlog.paused or self._backlog.leads(lane):
            return self._pools.of(lane.need)
        return self._pools.of(lane.need, beside=self._limits.stream)

    def _best_start(self) -> tuple[Lane, Node] | None:
        """The first job in the queue that an idle slot may take, and that slot's node."""
        best: tuple[Lane, Node] | None = None
        for lane in self._backlog.ready_lanes():
            node = self._pools.first_admitted(lane, self._open_to(lane).idle)
            if node is not None:
                best = lane, node
                break
        for node in self._pins_idle:
            pinned = self._backlog.pinned_lane(node)
            if pinned is not None and (best is None or pinned.head.rank < best[0].head.rank):
                best = pinned, node
        return best

    def _start(self, lane: Lane, node: Node) -> None:
        entry = self._backlog.pop(lane)
        self._backlog.take_tokens(entry)
        state = self._nodes[node]
        number = self._pools.take_idle(state)
        self._pools.make_busy(state, 1)
        if not state.idle or self._backlog.pinned_lane(node) is None:
            self._pins_idle.pop(node, None)
        state.running[number] = entry
        entry.attempts += 1
        attempt = Attempt(entry.job, entry.attempts, Slot(node, number))
        self._attempts[entry.job.id] = attempt
        self._out.append(Start(attempt))

    def _dial_nodes(self) -> None:
        if not self._backlog.waiting or not self._pools.any.spare:
            return
        lanes = iter(self._backlog.ready_lanes())
        lane = next(lanes, None)
        while lane is not None and self._may_dial():
            spare = self._open_to(lane).spare
            node = self._pools.first_admitted(lane, spare) if lane.dials < self._backlog.startable(lane) else None
            if node is None:
                lane = next(lanes, None)
            else:
                self._dial(self._nodes[node], lane)
        while self._pins_spare and self._may_dial():
            node = next(iter(self._pins_spare))
            pinned = self._backlog.pinned_lane(node)
            assert pinned is not None, "a node is listed for pinned jobs and has none"
            self._dial(self._nodes[node], pinned)

    def _may_dial(self) -> bool:
        # A lane that has been emptied by other slots may leave dials under way: they serve the next as well.
        most = min(self._limits.max_connecting, self._backlog.all_startable())
        return self._dialing < most and self._room() > 0

    def _dial(self, state: NodeState, lane: Lane) -> None:
        self._pools.take_spare(state)
        self._pins_spare.pop(state.node, None)
        state.dialed_for = lane
        lane.dials += 1
        self._dialing += 1
        self._out.append(Dial(state.node))

    def _want_jobs(self) -> None:
        """Want a job for every slot that could start one and has none waiting for it, and some for the next to be free.

        To ask for one job each time that a slot is free would be two more events a job, and each settles all.
        """
        if self._exhausted or self._wanted:
            return
        pool = self._pools.of(self._limits.stream)
        room = pool.slots - pool.busy
        if self._limits.max_nodes:
            room = min(room, self._limits.max_nodes - len(self._attempts))
        if room <= 0:
            return
        lacking = room - self._backlog.ahead(self._limits.stream)
        if lacking > 0:
            self._wanted = lacking + self._limits.read_ahead
            self._out.append(Want(self._wanted))

    # --- jobs ----------------------------------------------------------------------------------------------

    def _read_to(self, number: int) -> None:
        """The stream has given out its jobs up to this id; those from submit files stand in its numbers."""
        following = number + 1
        self._backlog.next_read = self._filed.stop if following in self._filed else following

    def _enter(self, job: Job, done: Collection[int], filed: bool = False) -> bool:
        """The job is there. Is it done already?"""
        self._jobs += 1
        if job.id in done:
            self._done += 1
            self._out.append(Done(job, None))
            return True
        self._entries[job.id] = Entry(job, (Tier.UNTRIED, -job.terms.priority, job.id), filed)
        return False

    def _wait(self, entry: Entry) -> None:
        """The job waits; one that is pinned to an evicted node fails at once."""
        pin = entry.job.pin
        if pin is None:
            self._backlog.push(entry)
            return
        state = self._nodes.get(pin)
        if state is not None and state.evicted_for is not None:
            self._fail(entry, entry.last, state.evicted_for)
            return
        self._backlog.push(entry)
        if pin in self._pools.any.idle:
            self._pins_idle[pin] = None
        elif pin in self._pools.any.spare:
            self._pins_spare[pin] = None

    def _apply_to_job(self, entry: Entry, fate: JobFate, attempt: Attempt, outcome: Outcome) -> None:
        match fate:
            case JobFate.DONE:
                self._done += 1
                entry.done = True
                del self._entries[entry.job.id]
                self._out.append(Done(entry.job, attempt))
                for opened in self._barriers.opened_by(entry.job.id):
                    self._wait(opened)
            case JobFate.COPYING if self._stopping is not None:
                entry.last = attempt
                self._wait(entry)  # a stop waits for no copy that has not begun
            case JobFate.COPYING:
                assert isinstance(outcome, Exited)
                self._copies[entry.job.id] = attempt
                self._nodes[attempt.slot.node].copies += 1
                self._out.append(Copy(attempt, outcome.results))
            case JobFate.FAILED:
                self._fail(entry, attempt, in_words(outcome))
            case JobFate.CHARGED | JobFate.INTERRUPTED:
                self._charge(entry, attempt, outcome, keep_away=fate is JobFate.INTERRUPTED)
            case JobFate.RETURNED:
                entry.attempts -= 1
                self._out.append(Requeued(attempt, outcome))
                self._wait(entry)
            case JobFate.EXCUSED:
                entry.last = attempt
                self._out.append(Requeued(attempt, outcome))
                self._wait(entry)
            case JobFate.UNFINISHED:
                entry.last = attempt
                self._wait(entry)
            case _:
                assert_never(fate)

    def _charge(self, entry: Entry, attempt: Attempt, outcome: Outcome, keep_away: bool) -> None:
        budget = entry.job.budget
        entry.charges += 1
        entry.last = attempt
        if budget is not None and entry.charges > budget:
            self._fail(entry, attempt, in_words(outcome))
            self._strike_out(entry)
            return
        self._order += 1
        entry.rank = (Tier.BEHIND if budget is None else Tier.AGAIN, -entry.job.terms.priority, self._order)
        if entry.job.pin is None and (keep_away or budget is not None):
            entry.avoided = frozenset({*self._not_gone(entry.avoided), attempt.slot.node})
        self._out.append(Requeued(attempt, outcome))
        self._wait(entry)

    def _not_gone(self, avoided: Avoided) -> list[Node]:
        # Walks a set to make a set of it: the order cannot show. Nodes that may come back are remembered: those
        # whose slots have all retired may join again, those evicted by a streak may be pardoned or paroled.
        states = (self._nodes[node] for node in avoided)
        return [state.node for state in states if not state.evicted or state.node in self._suspects]

    def _fail(self, entry: Entry, attempt: Attempt | None, why: str) -> None:
        self._failed += 1
        del self._entries[entry.job.id]
        self._out.append(Failed(entry.job, attempt, why))
        self._hold_after(entry.job, "failed")
        if self._draining is None and self._failed == self._limits.max_failed:
            self._draining = f"{self._failed} job{'s' if self._failed > 1 else ''} failed (--max-failed)"

    def _hold_after(self, job: Job, state: str) -> None:
        """The job will not be done, so nothing may start that comes after it, directly or not."""
        for entry in self._barriers.given_up_with(job.id):
            self._hold(entry, f"after {job.name or f'job {job.id}'} {state}")

    def _hold(self, entry: Entry, why: str) -> None:
        self._held += 1
        del self._entries[entry.job.id]
        self._out.append(Held(entry.job, why))

    # --- nodes and slots -----------------------------------------------------------------------------------

    def _known(self, node: Node) -> NodeState:
        state = self._nodes.get(node)
        if state is None:
            raise ValueError(f"{node.text} never joined")
        return state

    def _check_listing(self, joined: Sequence[Slot], left: Sequence[Slot]) -> None:
        """Raise before anything has changed."""
        if len(set(joined)) < len(joined) or len(set(left)) < len(left):
            raise ValueError("a slot is listed twice")
        for slot in joined:
            state = self._nodes.get(slot.node)
            if state is not None and slot.number in state.live and slot.number not in state.leaving:
                raise ValueError(f"slot {slot.number} of {slot.node.text} joined twice")
        for slot in left:
            self._known(slot.node)

    def _join(self, slot: Slot) -> None:
        state = self._nodes.setdefault(slot.node, NodeState(slot.node))
        if state.evicted:
            if state.node in self._suspects:
                state.banned[slot.number] = 0
            return  # a node that was rejected stays so, however often it is listed
        if slot.number in state.leaving:
            del state.leaving[slot.number]  # back before its job has ended: it never left
            return
        first = not state.live
        state.live[slot.number] = 0
        if first:
            self._bring_in(state)
            return
        self._pools.grow(state, 1)
        if state.phase is Phase.CONNECTED:
            self._make_idle(state, slot.number)

    def _leave(self, slot: Slot) -> None:
        state = self._nodes[slot.node]
        if slot.number not in state.live:
            self._unban(state, slot.number)
            return  # evicted or retired before
        if slot.number in state.running:
            state.leaving[slot.number] = None
        else:
            self._retire(state, slot.number)
            self._close_if_over(state)

    def _bring_in(self, state: NodeState) -> None:
        """The node is usable from here on."""
        self._pools.enter(state)
        self._list_pins(state)

    def _make_spare(self, state: NodeState) -> None:
        self._pools.make_spare(state)
        self._list_pins(state)

    def _make_idle(self, state: NodeState, number: int) -> None:
        self._pools.make_idle(state, number)
        self._list_pins(state)

    def _list_pins(self, state: NodeState) -> None:
        """Note where jobs that are pinned to the node could be served."""
        if self._backlog.pinned_lane(state.node) is None:
            return
        if state.idle:
            self._pins_idle[state.node] = None
        elif state.phase is Phase.SPARE:
            self._pins_spare[state.node] = None

    def _dial_answered(self, node: Node) -> NodeState:
        state = self._known(node)
        lane = state.dialed_for
        if state.phase is not Phase.DIALING or lane is None:
            raise ValueError(f"{node.text} was not being connected: {state.phase.value}")
        self._dialing -= 1
        lane.dials -= 1
        self._backlog.drop_if_done(lane)
        state.dialed_for = None
        return state

    def _release(self, state: NodeState, attempt: Attempt, fate: NodeFate, counts: bool) -> Entry:
        """Take the attempt off its slot; the slot is idle, or retires, or awaits news of its connection."""
        number = attempt.slot.number
        del self._attempts[attempt.job.id]
        entry = state.running.pop(number)
        self._backlog.return_tokens(entry)
        if fate is NodeFate.AWAITED and state.phase is Phase.CONNECTED:
            state.phase = Phase.BROKEN
            self._clear_idle(state)
        if state.evicted:
            if number in state.banned:
                state.banned[number] += counts
                if self._used_up(state.banned[number]):
                    self._unban(state, number)
            return entry
        self._pools.make_busy(state, -1)
        state.live[number] += counts
        if number in state.leaving or self._used_up(state.live[number]):
            self._retire(state, number)
        elif state.phase is Phase.CONNECTED:
            self._make_idle(state, number)
        return entry

    def _unban(self, state: NodeState, number: int) -> None:
        """The slot of a node that a streak evicted would not come back even if the node did."""
        state.banned.pop(number, None)
        if not state.banned:
            self._suspects.pop(state.node, None)

    def _used_up(self, uses: int) -> bool:
        return 0 < self._limits.max_node_uses <= uses

    def _apply_to_node(self, state: NodeState, fate: NodeFate, attempt: Attempt, outcome: Outcome) -> None:
        match fate:
            case NodeFate.CLEARED:
                state.shaky = False
                if not state.evicted:
                    state.streak.clear()
                    self._release_from_parole(state)
            case NodeFate.STRUCK:
                entry = self._entries.get(attempt.job.id)
                if attempt.job.pin is None and entry is not None:
                    self._strike(state, entry, in_words(outcome))
            case NodeFate.UNTOUCHED | NodeFate.AWAITED:
                pass
            case _:
                assert_never(fate)

    def _strike(self, state: NodeState, entry: Entry, why: str) -> None:
        """Rule 3: a streak of K failures evicts the node; on parole (rule 6), where it kept its streak, one does."""
        state.streak.append(entry)
        entry.struck[state.node] = None
        failures = len(state.streak)
        if failures >= self._limits.node_failures and not state.evicted:
            banned = {number: uses for number, uses in state.live.items() if number not in state.leaving}
            self._evict(state, why if failures == 1 else f"{failures} failures in a row, last: {why}")
            if banned:
                state.banned = banned
                self._suspects[state.node] = state

    def _strike_out(self, entry: Entry) -> None:
        """Rule 5: a job that has failed was the broken part, so nodes evicted or paroled for it work on."""
        for node in entry.struck:
            state = self._nodes[node]
            state.streak = [other for other in state.streak if other is not entry]
            if len(state.streak) < self._limits.node_failures:
                if node in self._suspects:
                    self._readmit(state)
                    self._out.append(Pardoned(node))
                elif state.paroled:
                    self._release_from_parole(state)
                    if state.usable:
                        self._out.append(Pardoned(node))

    def _release_from_parole(self, state: NodeState) -> None:
        """The node takes all jobs again."""
        if state.usable and state.paroled:
            self._pools.leave(state)
            state.paroled = False
            self._bring_in(state)
        state.paroled = False

    def _readmit(self, state: NodeState, paroled: bool = False) -> None:
        """An evicted node gets work again; its slots are as they were."""
        del self._suspects[state.node]
        self._evicted -= 1
        state.evicted_for = None
        state.paroled = paroled
        state.live, state.banned = state.banned, {}
        for number in state.running:
            if number not in state.live:  # it left the list meanwhile
                state.live[number] = 0
                state.leaving[number] = None
        self._bring_in(state)

    def _serve_all_needs(self) -> None:
        """Rule 6, and the end of jobs of a class that no node is left to serve."""
        for need in self._backlog.needs():
            if self._pools.of(need).nodes:
                continue
            first = self._backlog.first_of(need)
            assert first is not None
            if not self._parole(need, first) and not self._may_come_back(need):
                self._fail_class(need)
                if self._over:
                    return
        stream = self._limits.stream
        if not self._exhausted and not self._pools.of(stream).nodes and self._nodes:
            self._parole(stream, None)

    def _parole(self, need: Need, entry: Entry | None) -> bool:
        """When no live node may take a job with a budget, let one evicted by a streak try again.

        One on which the job has not failed, if there is one; among these the one with the fewest streak jobs that
        were done elsewhere since, then the longest evicted.
        """
        pool = self._pools.of(need)
        able = [state for state in self._suspects.values() if pool.serves(state)] if need.budgeted else []
        if not able:
            return False
        fresh = [state for state in able if entry is None or state.node not in entry.avoided]
        chosen = min(fresh or able, key=lambda state: sum(job.done for job in state.streak))
        self._readmit(chosen, paroled=True)
        self._out.append(Paroled(chosen.node))
        return True

    def _may_come_back(self, need: Need) -> bool:
        """Is a node of this class on parole, or could a job that has not ended yet be what it was evicted for?"""
        pool = self._pools.of(Need(need.job_class, True))
        return pool.nodes > 0 or any(
            pool.serves(state) and any(self._may_fail(job) for job in state.streak)
            for state in self._suspects.values()
        )

    def _may_fail(self, entry: Entry) -> bool:
        """Could the job still spend its budget?"""
        number = entry.job.id
        return entry.need.budgeted and number in self._entries and number not in self._copies

    def _fail_class(self, need: Need) -> None:
        """Jobs of a class that no node can serve any more fail at once; those without a class end the run."""
        if need.job_class is None or self._limits.follow:
            return
        for entry in self._backlog.take_all(need):
            self._fail(entry, entry.last, f"no node of class {need.job_class} is left")

    def _evict(self, state: NodeState, why: str) -> None:
        self._suspects.pop(state.node, None)
        state.banned.clear()
        if state.evicted:
            return
        if state.live:
            self._pools.leave(state)
        self._evicted += 1
        state.evicted_for = why
        state.paroled = False
        state.live.clear()
        state.leaving.clear()
        self._forget_pins(state)
        self._out.append(Evicted(state.node, why))
        for entry in self._backlog.pinned_jobs(state.node):
            self._fail(entry, entry.last, why)

    def _forget_pins(self, state: NodeState) -> None:
        self._pins_idle.pop(state.node, None)
        self._pins_spare.pop(state.node, None)

    def _retire(self, state: NodeState, number: int) -> None:
        self._pools.drop_idle(state, number)
        if len(state.live) == 1:
            self._pools.leave(state)
        else:
            self._pools.grow(state, -1)
        del state.live[number]
        state.leaving.pop(number, None)
        if not state.idle:
            self._pins_idle.pop(state.node, None)
        if not state.live:
            self._pins_spare.pop(state.node, None)
        self._out.append(Retired(Slot(state.node, number)))

    def _clear_idle(self, state: NodeState) -> None:
        self._pools.clear_idle(state)
        self._pins_idle.pop(state.node, None)

    def _disconnect(self, state: NodeState) -> None:
        """The connection is gone by itself; nothing needs to be closed."""
        self._clear_idle(state)
        state.phase = Phase.GONE

    def _must_be_connected(self, state: NodeState) -> None:
        if state.at_work or state.phase not in (Phase.CONNECTED, Phase.BROKEN):
            raise ValueError(
                f"{state.node.text}: {state.phase.value}, {len(state.running)} running, {state.copies} being copied"
            )

    def _close_if_over(self, state: NodeState) -> None:
        """Close a node that will take no more work and has none under way."""
        if state.usable or state.at_work:
            return
        match state.phase:
            case Phase.CONNECTED:
                self._disconnect(state)
                self._out.append(Close(state.node))
            case Phase.DIALING:
                self._dial_answered(state.node)
                self._disconnect(state)
                self._out.append(Close(state.node))
            case Phase.SPARE:
                self._disconnect(state)
            case Phase.BROKEN | Phase.GONE:
                pass
            case _:
                assert_never(state.phase)

    # --- what must always hold -----------------------------------------------------------------------------

    def check(self) -> None:
        """Raise AssertionError unless the state is whole. For tests: costs time in all there is."""
        where = [entry.job.id for entry in (*self._backlog.entries(), *self._barriers.entries())]
        assert len(where) == self._backlog.waiting + self._barriers.waiting
        where += [*self._attempts, *self._copies]
        assert sorted(where) == sorted(self._entries), "a live job is nowhere, or in two places"
        assert self._jobs == self._done + self._failed + self._held + len(self._entries), "a job is lost"
        self._barriers.check(self._entries)
        self._check_tokens()
        for pool in self._pools.all():
            self._check_pool(pool)
        taken = [attempt.slot for attempt in self._attempts.values()]
        assert len(set(taken)) == len(taken), "a slot runs two jobs"
        for state in self._nodes.values():
            self._check_node(state)
        states = self._nodes.values()
        assert self._dialing == sum(state.phase is Phase.DIALING for state in states)
        assert self._dialing == sum(lane.dials for lane in self._backlog.lanes())
        assert len(self._attempts) == sum(len(state.running) for state in states)
        copies = Counter(attempt.slot.node for attempt in self._copies.values())
        assert copies == Counter({state.node: state.copies for state in states if state.copies})
        assert self._evicted == sum(state.evicted for state in states)
        assert dict(self._suspects) == {x.node: x for x in states if x.banned}
        assert self._dialing <= self._limits.max_connecting
        assert not self._limits.max_nodes or self._in_use <= self._limits.max_nodes
        if self._finished is None:
            idles = not self._nodes or self._limits.follow
            assert idles or self.owed(), "nothing is owed and the run is not over"
            if not self._over and self._room() > 0:
                assert self._best_start() is None, "a job waits beside a slot that may take it"
        else:
            assert self._finished.end is not End.STUCK
            assert not self._attempts, "the run is over with jobs running"
            assert not self._copies, "the run is over with results under way"

    def _check_tokens(self) -> None:
        claimed: Counter[str] = Counter()
        for state in self._nodes.values():
            for entry in state.running.values():
                claimed.update(dict(entry.job.terms.tokens))
        for name, units in self._limits.tokens.items():
            assert self._backlog.tokens[name] == units - claimed[name] >= 0, f"units of {name} are lost"

    def _check_pool(self, pool: Pool) -> None:
        members = [state for state in self._nodes.values() if state.usable and pool.serves(state)]
        assert pool.nodes == len(members)
        assert pool.slots == sum(len(state.live) for state in members)
        assert pool.busy == sum(len(state.running) for state in members)
        assert set(pool.idle) == {state.node for state in members if state.idle}
        assert set(pool.spare) == {state.node for state in members if state.phase is Phase.SPARE}
        due = pool.need.budgeted and not pool.nodes and pool.beside is None and pool.need in self._backlog.needs()
        if due and self._finished is None and not self._over:
            assert not any(pool.serves(state) for state in self._suspects.values()), "a parole is due"

    def _check_node(self, state: NodeState) -> None:
        node = state.node
        assert state.pools == [pool for pool in self._pools.all() if state.usable and pool.serves(state)]
        assert set(state.idle).isdisjoint(state.running), "a slot both idles and runs"
        assert set(state.idle) <= set(state.live)
        assert set(state.leaving) <= set(state.running)
        assert not state.evicted or not state.live
        assert not state.banned or state.evicted, "a node is evicted by a streak and works"
        assert not state.paroled or state.usable or not state.live
        if node in self._suspects or state.paroled:
            assert len(state.streak) >= self._limits.node_failures, "a pardon is due"
        assert (state.dialed_for is not None) == (state.phase is Phase.DIALING)
        assert len(state.streak) < self._limits.node_failures or state.evicted or state.paroled
        if state.phase is Phase.CONNECTED:
            assert set(state.live) - set(state.running) == set(state.idle), "a slot is nowhere"
            assert state.usable or state.at_work, "a connection without work left was not closed"
        else:
            assert not state.idle
        if state.at_work:
            assert state.phase in (Phase.CONNECTED, Phase.BROKEN)
        pinned = self._backlog.pinned_lane(node)
        assert (node in self._pins_idle) == (pinned is not None and bool(state.idle)) or self._over
        assert (node in self._pins_spare) == (pinned is not None and node in self._pools.any.spare) or self._over
