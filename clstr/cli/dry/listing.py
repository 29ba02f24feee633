"""``--dry-run``: the jobs as a job file, each behind a comment that says what the line itself cannot.

    # 4 (exp.sub:9) sim.2; class gpu; after prep; priority 5; token license:2
    ./sim 2

- What a job file cannot hold, or what would not run, is a comment too: nothing runs by halves when the list is used.
- With ``--null`` there are no comments, and such jobs are left out.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator

from clstr.model import NO_TERMS, Job, Terms
from clstr.records.leftovers import as_comment, job_line


class Listed:
    """The list, job by job."""

    def __init__(self, null: bool) -> None:
        self._null = null
        self.left_out = 0
        """Jobs that the list could not show."""

    def entry(self, job: Job, state: str | None) -> bytes:
        """The job as it stands in the list; ``state``: that it would not run, because it is done, or held."""
        if state is not None or job.pin is not None:
            if not self._null:
                return _comment(job, state) + as_comment(job.command)
        elif self._null:
            return job.command + b"\0"
        else:
            return _comment(job) + job_line(job.command)
        self.left_out += 1
        return b""


def _comment(job: Job, state: str | None = None) -> bytes:
    head = f"{job.id} ({job.origin})"
    if job.name is not None:
        head += f" {job.name}"
    if state is not None:
        head += f"; {state}"
    return as_comment("; ".join([head, *_facts(job)]).encode("utf-8", "surrogateescape"))


def _facts(job: Job) -> Iterator[str]:
    if job.pin is not None:
        yield f"on {job.pin.text}"
    if job.job_class is not None:
        yield f"class {job.job_class}"
    if job.terms is not NO_TERMS:
        yield from _terms(job.terms)


def _terms(terms: Terms) -> Iterator[str]:
    if terms.after is not None:
        yield f"after {terms.after.words}"
    if terms.priority:
        yield f"priority {terms.priority}"
    for name, units in terms.tokens:
        yield f"token {name}:{units}"
    if terms.timeout is not None:
        yield f"timeout {terms.timeout:g} s"
    if terms.directory is not None:
        yield f"in {os.fsdecode(terms.directory)}"
    if terms.environment:
        words = (shlex.quote(f"{name}={os.fsdecode(value)}") for name, value in terms.environment)
        yield f"environment {' '.join(words)}"
    for stream, path in (("input", terms.input), ("output", terms.output), ("error", terms.error)):
        if path is not None:
            yield f"{stream} {path}"
