"""Jobs that come after others: where they wait until what they come after is done.

A gate is what a Barrier is in a run: it counts what is not done yet, and knows who stands behind it, jobs and
further gates. There is one for each Barrier object, however many jobs share it, so 10,000 jobs after 10,000 others are
20,000 edges. Each edge is walked once, when the job or gate at its end is done, or once more when it never will be;
nothing here recurses, so a chain may be as long as it likes.

Who comes after a job that has failed, or is held, can never start: it is given up at once, and so is what comes after
that, directly or not. Cycles are not looked for: what stands in one waits until the run is blocked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from clstr.model import Barrier
from clstr.scheduler.backlog import Entry


@dataclass(slots=True, eq=False)
class _Gate:
    shut: int  # jobs and gates below it that are not done
    jobs: list[Entry] = field(default_factory=list)
    above: list[_Gate] = field(default_factory=list)


class Barriers:
    """All gates that are shut."""

    def __init__(self) -> None:
        self._shut_by: dict[int, list[_Gate]] = {}  # by the id of a job that is not done
        self.waiting = 0

    def keep_back(self, entries: Iterable[Entry], not_done: Collection[int]) -> list[Entry]:
        """Let the jobs wait for what they come after; gives those that need not."""
        gates: dict[Barrier, _Gate] = {}
        free = []
        for entry in entries:
            barrier = entry.job.terms.after
            gate = None if barrier is None else self._gate(barrier, gates, not_done)
            if gate is None or not gate.shut:
                free.append(entry)
            else:
                gate.jobs.append(entry)
                self.waiting += 1
        return free

    def _gate(self, barrier: Barrier, gates: dict[Barrier, _Gate], not_done: Collection[int]) -> _Gate:
        for one in _from_below(barrier, gates):
            gate = gates[one] = _Gate(0)
            for number in one.jobs:
                if number in not_done:
                    self._shut_by.setdefault(number, []).append(gate)
                    gate.shut += 1
            for below in one.barriers:
                if gates[below].shut:
                    gates[below].above.append(gate)
                    gate.shut += 1
        return gates[barrier]

    def opened_by(self, number: int) -> list[Entry]:
        """The job is done: takes out the jobs that wait for nothing any more, in no promised order."""
        opened: list[Entry] = []
        gates = self._shut_by.pop(number, [])
        while gates:
            gate = gates.pop()
            gate.shut -= 1
            if not gate.shut:
                opened += gate.jobs
                gates += gate.above
        self.waiting -= len(opened)
        return opened

    def given_up_with(self, number: int) -> list[Entry]:
        """The job will never be done: takes out all that come after it, directly or not, in input order."""
        given_up: list[Entry] = []
        gates = self._shut_by.pop(number, [])
        while gates:
            gate = gates.pop()
            gates += gate.above
            for entry in gate.jobs:
                given_up.append(entry)
                gates += self._shut_by.pop(entry.job.id, [])
            # It may still be counted down by what else it waited for; nobody is behind it then.
            gate.jobs, gate.above = [], []
        self.waiting -= len(given_up)
        return sorted(given_up, key=lambda entry: entry.job.id)

    # --- for checks ----------------------------------------------------------------------------------------

    def _gates(self) -> Iterator[_Gate]:
        """Every gate once for each job or gate below that keeps it shut."""
        seen: dict[_Gate, None] = {}
        rest = [gate for gates in self._shut_by.values() for gate in gates]
        while rest:
            gate = rest.pop()
            yield gate
            if gate not in seen:
                seen[gate] = None
                rest += gate.above

    def entries(self) -> Iterator[Entry]:
        """Every job that waits here, in no promised order."""
        for gate in dict.fromkeys(self._gates()):
            yield from gate.jobs

    def check(self, not_done: Collection[int]) -> None:
        """Raise AssertionError unless every gate is shut by as much as it counts. Costs time in all there is."""
        assert all(number in not_done for number in self._shut_by), "a job waits for one that has ended"
        for gate, count in Counter(self._gates()).items():
            assert gate.shut == count or not (gate.jobs or gate.above), "a gate has lost count"


def _from_below(barrier: Barrier, but: dict[Barrier, _Gate]) -> Iterator[Barrier]:
    """The barrier behind all those below it, each once, but for those that are in ``but`` by its turn."""
    rest = [barrier]
    while rest:
        above = [one for one in rest[-1].barriers if one not in but]
        if above:
            rest += above
        elif (one := rest.pop()) not in but:
            yield one
