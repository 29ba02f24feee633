"""``+After`` and ``--only``: names, groups and globs into barriers, and what is selected.

- A word names a job; or a group, which is every job with the word and a dot before the rest of its name (``trec`` is
  ``trec`` and ``trec.*``); or it is a glob, in which ``*`` runs over dots too. A group or a glob does not mean the job
  itself that waits for it.
- One barrier for each group and each glob, shared by all that wait for it: 10,000 jobs after 10,000 others are 20,000
  edges. Nothing here recurses.
- A word that means no job, and jobs that wait for each other, are errors; the circle is shown.
"""

from __future__ import annotations

import fnmatch
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

from clstr.inputs import quoted
from clstr.model import BadInput, Barrier

LONGEST_CIRCLE = 10
"""Names of a circle that its error shows; of a longer one the first and the last."""

AT_ONCE = 2048
"""Things whose makers are looked for at once: a bit of each may stand at every job and barrier."""


@dataclass(frozen=True, slots=True)
class Named:
    """A job as its file has it: its name, if any, and the words that it comes after with their place."""

    name: str | None
    after: tuple[str, ...] = ()
    origin: str = ""  # of +Name
    after_origin: str = ""


class Graph:
    """Who comes after whom, jobs numbered from 0 in the order given. Raises BadInput."""

    def __init__(self, jobs: Sequence[Named]) -> None:
        self._jobs = jobs
        self._by_name = _by_name(jobs)
        self._groups: defaultdict[str, list[int]] = defaultdict(list)
        for name, number in self._by_name.items():
            for at, letter in enumerate(name):
                if letter == ".":
                    self._groups[name[:at]].append(number)
        self._words: dict[str, Barrier] = {}
        self._sets: dict[tuple[str, ...], Barrier] = {}
        self._insiders: dict[Barrier, int] = {}  # barriers of whom a job waits that is in them itself
        self.after = [self._barrier(number, job) for number, job in enumerate(jobs)]
        """What each job waits for."""
        self._from_below = self._without_circles()

    def match(self, pattern: str) -> list[int]:
        """The jobs that a word means."""
        if re.search(r"[*?\[]", pattern):
            matches = re.compile(fnmatch.translate(pattern)).match
            return [number for name, number in self._by_name.items() if matches(name)]
        own = [self._by_name[pattern]] if pattern in self._by_name else []
        return own + self._groups.get(pattern, [])

    def with_all_before(self, numbers: Iterable[int]) -> list[int]:
        """These jobs and all that they come after, in order."""
        seen: set[int | Barrier] = set(numbers)
        rest = list(seen)
        while rest:
            more = [step for step in self._steps(rest.pop()) if step not in seen]
            seen.update(more)
            rest += more
        return sorted(step for step in seen if isinstance(step, int))

    def that_come_after(self, wanted: Mapping[int, str], makers: Mapping[str, Collection[int]]) -> set[int]:
        """Those of the jobs that come, directly or not, after one of the makers of what each of them wants."""
        found: set[int] = set()
        things = list(dict.fromkeys(wanted.values()))
        for at in range(0, len(things), AT_ONCE):
            bits = {thing: 1 << index for index, thing in enumerate(things[at : at + AT_ONCE])}
            made: defaultdict[int | Barrier, int] = defaultdict(int)
            for thing, bit in bits.items():
                for maker in makers.get(thing, ()):
                    made[maker] |= bit
            there: dict[int | Barrier | None, int] = {None: 0}  # what is made at each place or before it
            for place in self._from_below:
                there[place] = reduce(or_, map(there.__getitem__, self._steps(place)), made.get(place, 0))
            found.update(number for number, thing in wanted.items() if there[self.after[number]] & bits.get(thing, 0))
        return found

    # --- barriers ------------------------------------------------------------------------------------------

    def _barrier(self, number: int, job: Named) -> Barrier | None:
        if not job.after:
            return None
        direct: list[int] = []
        shared: list[Barrier] = []
        has_own = True  # is this barrier fit for others with the same words?
        for word in dict.fromkeys(job.after):
            if word == job.name:
                raise BadInput(f"{job.after_origin}: {word} after {word} (break the circle)")
            if word in self._by_name and word not in self._groups:
                direct.append(self._by_name[word])
                continue
            barrier = self._word(word, job)
            if job.name is not None and self._means(word, job.name):
                has_own = False
                barrier = self._without(barrier, number, job)
            shared.append(barrier)
        words = ", ".join(job.after)
        if not has_own:
            return Barrier(words, tuple(direct), tuple(shared))
        key = tuple(dict.fromkeys(job.after))
        if key not in self._sets:
            self._sets[key] = Barrier(words, tuple(direct), tuple(shared))
        return self._sets[key]

    def _word(self, word: str, job: Named) -> Barrier:
        """The barrier that all share who wait for the word."""
        barrier = self._words.get(word)
        if barrier is None:
            members = self.match(word)
            if not members:
                cure = "name a job by its +Name, a group of them, or a glob"
                raise BadInput(f"{job.after_origin}: +After {quoted(word)}: no job has that name ({cure})")
            barrier = self._words[word] = Barrier(word, tuple(members))
        return barrier

    def _means(self, word: str, name: str) -> bool:
        return name.startswith(f"{word}.") or (bool(re.search(r"[*?\[]", word)) and fnmatch.fnmatchcase(name, word))

    def _without(self, barrier: Barrier, number: int, job: Named) -> Barrier:
        """The others of those whom the word means. Two that leave themselves out of one word wait for each other."""
        other = self._insiders.setdefault(barrier, number)
        if other != number:
            names = f"{job.name} after {self._jobs[other].name} after {job.name}"
            raise BadInput(f"{job.after_origin}: {names} (break the circle)")
        members = tuple(member for member in barrier.jobs if member != number)
        if not members:
            raise BadInput(f"{job.after_origin}: +After {quoted(barrier.words)} means no job but this one (drop it)")
        return Barrier(barrier.words, members)

    # --- circles -------------------------------------------------------------------------------------------

    def _steps(self, place: int | Barrier) -> Iterator[int | Barrier]:
        if isinstance(place, Barrier):
            yield from place.jobs
            yield from place.barriers
        elif (barrier := self.after[place]) is not None:
            yield barrier

    def _without_circles(self) -> list[int | Barrier]:
        """Jobs that wait and all that they wait for, each behind what it waits for itself. Raises BadInput."""
        done: dict[int | Barrier, None] = {}
        for start, first in enumerate(self.after):
            if first is None or start in done:
                continue
            path: list[int | Barrier] = [start]
            on_path: set[int | Barrier] = {start}
            ways = [self._steps(start)]
            while ways:
                step = next(ways[-1], None)
                if step is None:
                    ways.pop()
                    done[path[-1]] = None
                    on_path.discard(path.pop())
                elif step in on_path:
                    self._refuse([place for place in path[path.index(step) :] if isinstance(place, int)])
                elif step not in done:
                    path.append(step)
                    on_path.add(step)
                    ways.append(self._steps(step))
        return list(done)

    def _refuse(self, circle: list[int]) -> None:
        names = [self._jobs[number].name or "a job without name" for number in [*circle, circle[0]]]
        if len(names) > LONGEST_CIRCLE:
            names[LONGEST_CIRCLE - 2 : -1] = ["..."]
        raise BadInput(f"{self._jobs[circle[0]].after_origin}: {' after '.join(names)} (break the circle)")


def numbered(barrier: Barrier, ids: Sequence[int], made: dict[Barrier, Barrier]) -> Barrier:
    """The barrier with these ids of the jobs; ``made`` has those that have been numbered, which are shared again."""
    if barrier not in made:
        inner = tuple(numbered(shared, ids, made) for shared in barrier.barriers)  # one level deep, as they are made
        made[barrier] = Barrier(barrier.words, tuple(ids[number] for number in barrier.jobs), inner)
    return made[barrier]


def _by_name(jobs: Sequence[Named]) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for number, job in enumerate(jobs):
        if job.name is None:
            continue
        other = numbers.setdefault(job.name, number)
        if other != number:
            cure = "put $(Process) into +Name, or {KEY} of a matrix"
            raise BadInput(f"{job.origin}: the job at {jobs[other].origin} is {quoted(job.name)} too ({cure})")
    return numbers
