"""The words of a run: what ``-v`` tells while it goes on, and what is said at its end.

Rules:
- The last lines say what was not done and why, with the evicted nodes grouped by reason and folded into node
  sets, and what would help.
- A list in a message stops at ten jobs, twenty names of nodes and ten reasons; what is left out is counted.
- A connection lost under jobs is one message, with or without ``-v``.

Texts are handed over as they are: who prints them (``Console.message``) escapes what is not printable.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import assert_never

from clstr.model import (
    Attempt,
    Connected,
    ConnectionLost,
    CopyFailed,
    Done,
    End,
    Ended,
    Evicted,
    Exited,
    Fact,
    Failed,
    Finished,
    Found,
    Held,
    Job,
    Killed,
    Lost,
    News,
    Node,
    NotStarted,
    Outcome,
    Pardoned,
    Paroled,
    Refused,
    Requeued,
    Retired,
    Stalled,
    Started,
    Stopped,
    Tally,
    TimedOut,
    Unreachable,
    in_words,
    name_of,
)
from clstr.output.advice import Advice
from clstr.output.paint import Style

NAMED_JOBS = 10
"""Jobs that a closing message names; it counts the others."""

_NAMED_NODES = 20
_NAMED_REASONS = 10
_LONGEST_COMMAND = 200  # characters
_RETRIES = 3  # what is suggested
_FOLDABLE = re.compile(r"(?!.*[0-9]{19})[A-Za-z0-9_][A-Za-z0-9_.-]*")  # ClusterShell refuses very long numbers
_LAST_NUMBER = re.compile(r"[0-9]+(?=[^0-9]*$)")
_MOST_GROUPS = 128  # ClusterShell folds in several dimensions in quadratic time: 0.03 s here, 4 s at 1,000


# --- names -------------------------------------------------------------------------------------------------


def called(job: Job) -> str:
    """The job in a message: where it was read, its name, and its command, cut where it is very long."""
    command = job.command.decode("utf-8", "surrogateescape")
    if len(command) > _LONGEST_COMMAND:
        command = command[:_LONGEST_COMMAND] + "..."
    return ": ".join(filter(None, (job.origin, job.name, command)))


def fold(nodes: Iterable[Node]) -> str:
    """The nodes as a node set, ``n[01-12]``; beyond twenty names the rest is counted: ``... and 5 more``.

    Texts with a user, a port, IPv6 or other than letters, digits, ``.``, ``-`` and ``_`` stand as they are.
    """
    distinct = sorted(set(nodes), key=by_name)
    names = node_set(distinct)
    if names.count(",") < _NAMED_NODES:
        return names
    return f"{node_set(distinct[:_NAMED_NODES])} and {len(distinct) - _NAMED_NODES} more"


def by_name(node: Node) -> list[tuple[int, str]]:
    """A key to sort by: numbers in names as numbers, n9 before n10."""
    parts = re.split(r"([0-9]+)", name_of(node))
    return [(int(part), part) if part.isdecimal() else (-1, part) for part in parts]


def node_set(nodes: Sequence[Node]) -> str:
    """All of the nodes, sorted already, as a node set."""
    from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet

    texts = [name_of(node) for node in nodes]
    foldable = [text for text in texts if _FOLDABLE.fullmatch(text)]
    if len({_LAST_NUMBER.sub("", text) for text in foldable}) > _MOST_GROUPS:
        return ",".join(texts)
    plain = [text for text in texts if not _FOLDABLE.fullmatch(text)]
    folded = [str(NodeSet.fromlist(foldable, resolver=RESOLVER_NOGROUP))] if foldable else []
    return ",".join(folded + plain)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _by_reason(nodes: dict[Node, str], alike: Callable[[Node, str], str]) -> str:
    """``n[01-12]: exit 127; n[40,41]: connection refused``, most nodes first.

    ``alike`` gives a reason without what is one node's alone; a node that has its reason to itself is told all of it.
    """
    groups: dict[str, list[Node]] = {}
    for node, why in nodes.items():
        groups.setdefault(alike(node, why), []).append(node)
    ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
    shown = ((group, nodes[group[0]] if len({nodes[node] for node in group}) == 1 else why) for why, group in ordered)
    parts = [f"{fold(group)}: {why}" for group, why in [*shown][:_NAMED_REASONS]]
    if rest := sum(len(group) for _, group in ordered[_NAMED_REASONS:]):
        parts.append(f"{_count(rest, 'more node')} for other reasons")
    return "; ".join(parts)


# --- while the run goes on ---------------------------------------------------------------------------------


def running(
    attempts: Sequence[tuple[Attempt, float]], copying: Sequence[tuple[Attempt, float]], now: float
) -> list[str]:
    """What runs now and what is copied, in the order given, each with the time it began; times are Unix seconds."""
    told = [("running", *pair) for pair in attempts] + [("copying its results", *pair) for pair in copying]
    return [
        f"{name_of(attempt.slot.node)}: job {attempt.job.id} {does} for {age(now - since)}: {called(attempt.job)}"
        for does, attempt, since in told
    ] or ["no job is running"]


def age(seconds: float) -> str:
    """``02:05`` or ``1:02:05``."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


class Losses:
    """Says when a connection is lost: always under jobs, and while idle too when asked to."""

    def __init__(self, say: Callable[[str, Style], None], idle: bool = False) -> None:
        self._say = say
        self._idle = idle
        self._jobs: dict[Node, int] = {}

    def saw(self, when: float, event: Fact | News) -> None:
        """Count a lost attempt, and tell when its connection's loss is known."""
        match event:
            case Ended(attempt, Lost()):
                node = attempt.slot.node
                self._jobs[node] = self._jobs.get(node, 0) + 1
            case ConnectionLost(node, why):
                jobs = self._jobs.pop(node, 0)
                if jobs:
                    self._say(f"{name_of(node)}: connection lost under {_count(jobs, 'job')}: {why}", Style.BAD)
                elif self._idle:
                    self._say(f"{name_of(node)}: connection lost while idle: {why}", Style.BAD)
            case _:
                pass


class Narrator:
    """``-v``: a line for each event. ``Losses`` tells of connections lost."""

    def __init__(self, say: Callable[[str, Style], None]) -> None:
        self._say = say

    def saw(self, when: float, event: Fact | News) -> None:
        """Tell of the event."""
        if line := self._line(event):
            self._say(line, self._style(event))

    def _style(self, event: Fact | News) -> Style:
        match event:
            case Failed() | Held() | Evicted():
                return Style.BAD
            case Requeued():
                return Style.WORSE
            case Pardoned() | Paroled():
                return Style.BETTER
            case _:
                return Style.PLAIN

    def _line(self, event: Fact | News) -> str | None:
        match event:
            case Started(attempt):
                node = attempt.slot.node
                again = f" (attempt {attempt.number})" if attempt.number > 1 else ""
                return f"{name_of(node)}: job {attempt.job.id} started{again}: {called(attempt.job)}"
            case Ended(attempt, outcome):
                return f"{name_of(attempt.slot.node)}: job {attempt.job.id} ended: {in_words(outcome)}"
            case Requeued(attempt, outcome):
                return f"job {attempt.job.id} requeued: {in_words(outcome)} on {name_of(attempt.slot.node)}"
            case Failed(job, _, why):
                return f"job {job.id} failed: {why}"
            case Held(job, why):
                return f"job {job.id} held: {why}"
            case Connected(node):
                return f"{name_of(node)}: connected"
            case Evicted(node, why):
                return f"{name_of(node)}: evicted: {why}"
            case Retired(slot):
                return f"{name_of(slot.node)}: slot {slot.number} retired"
            case Pardoned(node):
                return f"{name_of(node)}: pardoned: the job that failed there has failed for good"
            case Paroled(node):
                return f"{name_of(node)}: paroled: no other node is left for jobs that may be tried again"
            case Done() | Unreachable() | ConnectionLost() | Finished():
                return None  # The line of Ended, Evicted, Losses or the summary says it.
            case _:
                assert_never(event)


# --- at the end --------------------------------------------------------------------------------------------


class Summary:
    """Remembers what the last lines need: a few words for each evicted node, ten failed jobs and ten held ones.

    Of jobs that are still in play, only those with a budget that have failed before.
    """

    def __init__(self, advice: Advice | None = None) -> None:
        self._advice = advice or Advice()
        self._evicted: dict[Node, str] = {}
        self._retired: dict[Node, None] = {}
        self._streaks: dict[Node, Job | None] = {}  # the one job that failed there since a success; None: several
        self._evicted_by: dict[Node, Job | None] = {}
        self._budgeted = False
        self._trials: dict[int, _Trials] = {}
        self._failed: list[str] = []
        self._failed_pinned: dict[Node, str] = {}
        self._held: list[str] = []

    def saw(self, when: float, event: Fact | News) -> None:
        """Remember what the end must tell."""
        self._advice.saw(event)
        match event:
            case Ended(attempt, outcome):
                self._budgeted = self._budgeted or attempt.job.budget is not None
                if attempt.job.pin is None:
                    self._note_failure(attempt, outcome)
            case Evicted(node, why):
                self._evicted[node] = why
                if node in self._streaks:
                    self._evicted_by[node] = self._streaks[node]
            case Pardoned(node) | Paroled(node):
                self._evicted.pop(node, None)
                self._evicted_by.pop(node, None)
                self._streaks.pop(node, None)
            case Retired(slot):
                self._retired[slot.node] = None
            case Failed(job, attempt, why):
                trials = self._trials.pop(job.id, None)
                if job.pin is not None:
                    self._failed_pinned[job.pin] = why
                elif len(self._failed) < NAMED_JOBS:
                    last = why if attempt is None or trials is None else trials.in_words(why)
                    self._failed.append(f"{called(job)} ({last})")
            case Held(job, why):
                if len(self._held) < NAMED_JOBS:
                    self._held.append(f"{called(job)} ({why})")
            case Done(job, attempt):
                self._trials.pop(job.id, None)
                if attempt is not None and attempt.slot.node not in self._evicted:
                    self._streaks.pop(attempt.slot.node, None)
            case Unreachable(node):
                self._streaks.pop(node, None)  # not what evicts it
            case Connected() | Requeued() | Started() | ConnectionLost() | Finished():
                pass
            case _:
                assert_never(event)

    def _note_failure(self, attempt: Attempt, outcome: Outcome) -> None:
        job, node = attempt.job, attempt.slot.node
        if _blames(outcome) and node not in self._evicted:
            self._streaks[node] = job if self._streaks.get(node, job) == job else None
        lost = isinstance(outcome, Lost) and not outcome.ours
        if job.budget is not None and (lost or _blames(outcome)):
            self._trials.setdefault(job.id, _Trials()).add(in_words(outcome), node)

    def closing(
        self,
        finished: Finished,
        tally: Tally,
        not_done: Sequence[Job],
        not_done_count: int,
        open_stream: bool,
    ) -> list[str]:
        """The last lines, in order; none when every job was done and no node was evicted.

        ``not_done`` are the first NAMED_JOBS of the ``not_done_count`` jobs that were read and have not been
        done, failed or held; ``open_stream`` tells that there may be jobs that were not read.
        """
        total = f"{tally.jobs}{'+' if open_stream else ''}"
        if total == "0":
            return ["0 jobs"]
        lines = self._failures(tally.failed, total)
        if tally.held:
            lines += _named(f"{tally.held} of {total} jobs held", self._held, tally.held)
        unsaid = {node: why for node, why in self._evicted.items() if node not in self._failed_pinned}
        if not_done_count or open_stream:
            left = f"{not_done_count} of {total} jobs not done"
            if not not_done_count:
                left = f"{total} jobs, not all read"
            if finished.end is End.NO_NODES:
                unsaid = {}
            names = [f"{job.pin.text}: {called(job)}" if job.pin else called(job) for job in not_done[:NAMED_JOBS]]
            lines += _named(f"{left}: {self._why(finished)}", names, not_done_count)
        if unsaid:
            lines.append(f"{_count(len(unsaid), 'node')} evicted: {self._reasons(unsaid)}")
        if finished.end is End.NO_NODES:
            lines += self._help()
        return lines + self._advice.lines(self._evicted) if lines else lines

    def _reasons(self, nodes: dict[Node, str]) -> str:
        return _by_reason(nodes, self._advice.alike)

    def _failures(self, failed: int, total: str) -> list[str]:
        if not failed:
            return []
        head = f"{failed} of {total} jobs failed"
        if self._failed_pinned:  # All jobs of such a run are pinned, and alike but for their node.
            return [f"{head}: {self._reasons(self._failed_pinned)}"]
        return _named(head, self._failed, failed)

    def _why(self, finished: Finished) -> str:
        why = finished.end.value
        if finished.why:
            why = finished.why if finished.why.startswith(why) else f"{why}: {finished.why}"
        if finished.end is not End.NO_NODES:
            return why
        parts = []
        if retired := len(self._retired.keys() - self._evicted.keys()):
            parts.append(f"{retired} retired")
            if self._evicted:
                parts.append(f"{len(self._evicted)} evicted: {self._reasons(self._evicted)}")
        elif self._evicted:
            parts.append(self._reasons(self._evicted))
        return f"{why} ({', '.join(parts)})" if parts else why

    def _help(self) -> list[str]:
        jobs = set() if self._budgeted else set(self._evicted_by.values())  # who has one needs no such advice
        job = next(iter(jobs), None)
        if len(jobs) == 1 and job is not None:
            nodes = "every node" if len(self._evicted) == len(self._evicted_by) else "every node that ran it"
            return [
                f"one job evicted {nodes}, as a job that always fails does (repair it, or give jobs a budget with "
                f"--retries {_RETRIES}: then it fails alone and its nodes work on): {called(job)}"
            ]
        if jobs:
            return [
                "a job that fails evicts its node: repair what failed, or give jobs a budget with "
                f"--retries {_RETRIES}: then a job that fails wherever it runs is told from a broken node"
            ]
        if self._retired:
            return ["nodes retire after --max-node-uses jobs: raise it, or name more nodes"]
        return []


def _named(head: str, names: Sequence[str], count: int) -> list[str]:
    """What became of so many jobs, of which the first are named."""
    rest = count - len(names)
    return [head, *names] + ([f"and {rest} more"] if rest > 0 else [])


class _Trials:
    """Where a job has failed, and how."""

    def __init__(self) -> None:
        self._failures: dict[str, dict[Node, int]] = {}  # how often, by outcome and node

    def add(self, outcome: str, node: Node) -> None:
        nodes = self._failures.setdefault(outcome, {})
        nodes[node] = nodes.get(node, 0) + 1

    def in_words(self, why: str) -> str:
        """``exit 3 on m2, m4, 2 times on m1``; ``why`` stands before it where it is another reason."""
        parts = [] if why in self._failures else [why]
        parts += [f"{outcome} {_in_order(nodes)}" for outcome, nodes in self._failures.items()]
        return "; ".join(parts)


def _in_order(nodes: dict[Node, int]) -> str:
    """The nodes as they were tried; many of them as a node set."""
    if len(nodes) > NAMED_JOBS:
        return f"on {fold(nodes)}"
    once = [name_of(node) for node, times in nodes.items() if times == 1]
    often = [f"{times} times on {name_of(node)}" for node, times in nodes.items() if times > 1]
    return ", ".join(([f"on {', '.join(once)}"] if once else []) + often)


def _blames(outcome: Outcome) -> bool:
    """Whether an attempt that ended so speaks against its node (the rule of eviction)."""
    match outcome:
        case Exited(status):
            return status != 0
        case Killed() | TimedOut() | Stalled():
            return True
        case Lost() | NotStarted() | Stopped() | Found() | Refused() | CopyFailed():
            return False
        case _:
            assert_never(outcome)
