"""What a batch of jobs must be before the scheduler takes it in. One that is not is a bug of the caller.

A submit file's jobs may come after each other, claim tokens and be on hold; who reads such files tells the user what is
wrong there, by file and line. A stream's jobs are all alike, so that nobody need look ahead in it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from clstr.model import Barrier, Job


def check_submitted(batch: Sequence[Job], tokens: Mapping[str, int]) -> None:
    """Raises ValueError for ids out of turn, a barrier with an unknown id, more tokens than there are, a pin."""
    first = batch[0].id if batch else 0
    ids = range(first, first + len(batch))
    if [job.id for job in batch] != list(ids):
        raise ValueError("the ids of submitted jobs do not follow each other")
    seen: dict[Barrier, None] = {}
    for job in batch:
        if job.pin is not None:
            raise ValueError(f"job {job.id} is submitted, and pinned")
        if not all(number in ids for number in _named_by(job.terms.after, seen)):
            raise ValueError(f"job {job.id} comes after one that was not submitted")
        if any(not 0 < units <= tokens.get(name, 0) for name, units in job.terms.tokens):
            raise ValueError(f"job {job.id} claims tokens that there are not")


def check_read(batch: Sequence[Job], done: Collection[int], wanted: int) -> None:
    """Raises ValueError for a batch that is no answer to a Want of so many, and for jobs with terms of their own."""
    new = sum(job.id not in done for job in batch)
    if not batch or not wanted or new > wanted:
        raise ValueError(f"{len(batch)} jobs, {new} of them to be done, for a Want of {wanted}")
    for job in batch:
        terms = job.terms
        if terms.after or terms.tokens or terms.hold or terms.priority:
            raise ValueError(f"job {job.id} of the stream has terms of its own")


def _named_by(barrier: Barrier | None, seen: dict[Barrier, None]) -> Iterator[int]:
    """The ids that a barrier names, and those inside it, but for barriers that are in ``seen``, which takes them."""
    rest = [] if barrier is None else [barrier]
    while rest:
        one = rest.pop()
        if one not in seen:
            seen[one] = None
            yield from one.jobs
            rest += one.barriers
