"""``--dry-run``: what would run is printed; nothing is connected, and nothing but standard output is written to.

- The list is made from a run's own source, batch by batch: it begins before the last line of a job file exists, takes
  constant memory, and ends with 141 when its reader leaves.
- A scheduler's form is printed when it is whole: half of a workload would be taken for all of it. Until then it is
  spooled to a file without a name.
"""

from __future__ import annotations

import asyncio
import errno
import tempfile
from collections.abc import AsyncIterator, Callable, Collection
from typing import TYPE_CHECKING, Protocol

from clstr.cli.ending import BROKEN_PIPE, NOT_DONE, OK
from clstr.model import Held, Job

if TYPE_CHECKING:
    from clstr.cli.plan import Plan

BATCH = 1024
"""Jobs asked for at once."""

PORTION = 256 << 10
"""Bytes of the spool that are copied at once."""


class Form(Protocol):
    """A workload in a scheduler's words. Raises BadInput for what has no words there."""

    def add(self, job: Job) -> bytes:
        """What of the body is settled by the next job of the list."""

    def end(self) -> bytes:
        """The rest of the body. Raises BadInput for an empty list."""

    def head(self) -> bytes:
        """What stands before the body; asked for behind ``end``."""


async def dry_run(plan: Plan, say: Callable[[str], None]) -> int:
    """Print the jobs of the plan; gives the exit status. Raises BadInput."""
    output = _Output()
    for line in plan.work.warnings:
        say(f"clstr: {line}")
    plan.source.start(asyncio.get_running_loop())
    try:
        if plan.flags.dry_run == "jobs":
            await _list(plan, output, say)
        else:
            await _fill(_form(plan), _jobs(plan), output)
        await output.drained()
    except OSError as error:
        if error.errno == errno.EPIPE:
            return BROKEN_PIPE
        say(f"clstr: the list cannot be written: {error.strerror} (make room, here or for temporary files)")
        return NOT_DONE
    finally:
        plan.source.close()
        plan.records.close()
    return OK


async def _list(plan: Plan, output: _Output, say: Callable[[str], None]) -> None:
    from clstr.cli.dry.listing import Listed

    listed = Listed(plan.flags.null)
    try:
        async for batch, done in _jobs(plan):
            states = dict.fromkeys(done, "done")
            if batch is plan.work.submitted:
                states |= _held(plan, done)
            await output.write(b"".join(listed.entry(job, states.get(job.id)) for job in batch))
    finally:
        await output.drained()
    if listed.left_out:
        say(f"clstr: jobs left out that would not run: {listed.left_out} (--null has no comments: see them without it)")


def _held(plan: Plan, done: Collection[int]) -> dict[int, str]:
    """Why jobs of submit files would be held before anything has run, by id: a run's own scheduler knows."""
    from clstr.scheduler import Limits, Scheduler

    news = Scheduler(Limits(tokens=plan.work.tokens)).submitted(plan.work.submitted, done)
    return {event.job.id: f"held: {event.why}" for event in news if isinstance(event, Held)}


def _form(plan: Plan) -> Form:
    if plan.flags.dry_run == "condor":
        from clstr.cli.dry.condor import SubmitFile

        return SubmitFile(plan.flags, plan.work.tokens)
    from clstr.cli.dry.slurm import ArrayScript

    return ArrayScript(plan.flags, plan.work.tokens)


async def _fill(form: Form, jobs: AsyncIterator[tuple[list[Job], Collection[int]]], output: _Output) -> None:
    with tempfile.TemporaryFile() as spool:
        async for batch, done in jobs:
            spool.writelines(form.add(job) for job in batch if job.id not in done)
        spool.write(form.end())
        spool.seek(0)
        await output.write(form.head())
        while portion := spool.read(PORTION):
            await output.write(portion)


async def _jobs(plan: Plan) -> AsyncIterator[tuple[list[Job], Collection[int]]]:
    """All jobs in the order of their ids, and of each batch the ids of those that were done before."""
    gate, submitted = plan.records.gate, plan.work.submitted
    done = gate.done(submitted) if gate is not None else ()  # it is asked in the order in which a run asks it
    given = 0
    while True:
        if submitted and submitted[0].id == given + 1:
            yield submitted, done
            given += len(submitted)
            submitted = []
        batch = await plan.source.next(BATCH)
        if not batch:
            return
        yield batch, gate.done(batch) if gate is not None else ()
        given += len(batch)


class _Output:
    """Standard output. Written by a thread, so that a reader that pauses does not stop the reading of a FIFO's."""

    def __init__(self) -> None:
        from clstr.output.writer import Writer

        self._error: OSError | None = None
        self._writer = Writer(1, asyncio.get_running_loop(), self._fail)

    async def write(self, data: bytes) -> None:
        """Print the data, when there is room for it. Raises OSError for what was printed before, too."""
        if data and self._writer.write(self, data):
            await self._writer.drained()
        await asyncio.sleep(0)  # an error is told on the loop
        self._check()

    async def drained(self) -> None:
        """Wait until all is printed. Raises OSError."""
        await self._writer.drained()
        self._check()

    def _fail(self, error: OSError) -> None:
        self._error = error

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
