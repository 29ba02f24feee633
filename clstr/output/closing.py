"""The table at the end of ``-v``: what became of the jobs, who ran them, and which took longest.

- Of the nodes it has the ten busiest, by the time that jobs ran there, and every one that is evicted; of the jobs the
  five whose last attempt took longest. It remembers counters for each node, and nothing else of a job that has ended.
- A node's jobs are the attempts that were successful there, its failures those that were not, for whatever reason.
- Busy is the share of the time of the whole run, from the first event to the last, that its slots ran jobs; slots are
  counted that ran one at all.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from clstr.model import (
    Attempt,
    Connected,
    Ended,
    Evicted,
    Exited,
    Fact,
    Job,
    News,
    Node,
    Outcome,
    Pardoned,
    Paroled,
    Started,
    Tally,
    name_of,
)
from clstr.output.messages import age, called

_BUSIEST = 10
_LONGEST = 5


@dataclass(slots=True)
class _Use:
    """What a node did."""

    done: int = 0
    failures: int = 0
    seconds: float = 0.0
    slots: set[int] = field(default_factory=set)
    evicted: str | None = None


class ClosingTable:
    """The observer."""

    def __init__(self) -> None:
        self._first: float | None = None
        self._last = 0.0
        self._attempts = 0
        self._uses: dict[Node, _Use] = {}
        self._began: dict[int, float] = {}
        self._longest: list[tuple[float, int, Node, Job]] = []  # a heap, the shortest first

    def saw(self, when: float, event: Fact | News) -> None:
        """Count the event."""
        self._first = when if self._first is None else self._first
        self._last = when
        match event:
            case Connected(node):
                self._use(node)
            case Started(attempt):
                self._attempts += 1
                self._began[attempt.job.id] = when
            case Ended(attempt, outcome):
                began = self._began.pop(attempt.job.id, None)
                if began is not None:
                    self._ran(attempt, outcome, max(0.0, when - began))
            case Evicted(node, why):
                self._use(node).evicted = why
            case Pardoned(node) | Paroled(node):
                self._use(node).evicted = None
            case _:
                pass

    def _use(self, node: Node) -> _Use:
        return self._uses.setdefault(node, _Use())

    def _ran(self, attempt: Attempt, outcome: Outcome, seconds: float) -> None:
        use = self._use(attempt.slot.node)
        use.seconds += seconds
        use.slots.add(attempt.slot.number)
        if isinstance(outcome, Exited) and outcome.status == 0:
            use.done += 1
            entry = (seconds, -attempt.job.id, attempt.slot.node, attempt.job)
            if len(self._longest) < _LONGEST:
                heapq.heappush(self._longest, entry)
            elif entry[:2] > self._longest[0][:2]:
                heapq.heapreplace(self._longest, entry)
        else:
            use.failures += 1

    def lines(self, tally: Tally) -> list[str]:
        """The table, line by line."""
        left = tally.jobs - tally.done - tally.failed - tally.held
        states = [f"{tally.done} done", f"{tally.failed} failed", f"{tally.held} held", f"{left} not done"]
        wall = max(0.0, self._last - (self._first or 0.0))
        attempts = f"{self._attempts} attempt{'' if self._attempts == 1 else 's'}"
        total = sum(use.seconds for use in self._uses.values())
        head = f"{tally.jobs} jobs: {', '.join(states)}; {attempts} took {age(total)} in {age(wall)}"
        return [head, *self._nodes(wall), *self._jobs()]

    def _nodes(self, wall: float) -> list[str]:
        busiest = sorted(self._uses.items(), key=lambda pair: -pair[1].seconds)
        shown = [*busiest[:_BUSIEST], *((node, use) for node, use in busiest[_BUSIEST:] if use.evicted is not None)]
        if not shown:
            return []
        width = max(len("node"), *(len(name_of(node)) for node, _ in shown))
        lines = [f"{'node':<{width}}  {'jobs':>7}  {'failures':>8}  {'busy':>4}"]
        for node, use in shown:
            busy = min(1.0, use.seconds / (wall * len(use.slots))) if wall and use.slots else 0.0
            evicted = "" if use.evicted is None else f"  evicted: {use.evicted}"
            lines.append(f"{name_of(node):<{width}}  {use.done:>7}  {use.failures:>8}  {busy:>4.0%}{evicted}")
        if rest := len(busiest) - len(shown):
            lines.append(f"and {rest} more node{'' if rest == 1 else 's'}")
        return lines

    def _jobs(self) -> list[str]:
        longest = sorted(self._longest, key=lambda entry: (-entry[0], -entry[1]))
        return [f"{age(seconds)} on {name_of(node)}: {called(job)}" for seconds, _, node, job in longest]
