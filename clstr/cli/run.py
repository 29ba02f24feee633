"""A run from its plan to its exit status: the rooms are made, joined and, at the end, asked."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import shlex
import signal
import traceback
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from clstr.cli import open_files
from clstr.cli.ending import Ending, listen
from clstr.cli.plan import Plan
from clstr.cli.transports import Transports
from clstr.model import BadInput, End, Finished, Job, Observer, Tally
from clstr.transport import in_thread

if TYPE_CHECKING:
    from clstr.inputs.follow import Followed
    from clstr.inputs.nodes import Entry
    from clstr.output.advice import Advice
    from clstr.output.console import Console
    from clstr.records.leftovers import JobFile, Leftovers
    from clstr.runner import Runner
    from clstr.scheduler import Limits, Scheduler

UNBOUNDED = 1 << 30

WANTED_AHEAD = 64
"""Jobs that are asked for at a time beyond those that slots lack, so that few slots have to wait for a read."""

READ_AHEAD = 1 << 16
"""Jobs, at most, that were read and not used, of which the end finds out whether they were done before this run."""

REST = 5.0
"""Seconds in which the unread rest of a pipe must come to its end to be written to --unfinished."""


async def run(plan: Plan) -> int:
    """Carry the plan out; gives the exit status. Raises BadInput for what SSH finds wrong before it connects."""
    from clstr.output.console import Console
    from clstr.output.files import divert
    from clstr.output.messages import NAMED_JOBS, Summary
    from clstr.output.modes import mode
    from clstr.output.paint import Style
    from clstr.records.leftovers import Leftovers
    from clstr.runner import Conditions, Preparation, Runner
    from clstr.scheduler import Scheduler

    flags, loop = plan.flags, asyncio.get_running_loop()
    too_few_files = open_files.fit(plan, open_files.raised())
    transports = Transports(flags, plan.client)
    await transports.prepare(plan.slots)
    _collect_from_here_on()
    end = Ending()
    console = end.console = Console(plan.files, loop, end.stdout_closed, end.output_failed, flags.color)
    if too_few_files is not None:
        console.message(too_few_files)
    output = mode(console, tag=flags.tag, group=flags.group, keep_order=flags.keep_order, fold=flags.fold)
    scheduler, records = Scheduler(_limits(plan)), plan.records
    try:
        records.begin(console.message, lambda: _queue_and_busy(plan, scheduler))
    except BadInput:
        console.close()
        await transports.close()
        raise
    summary, leftovers = Summary(_advice(plan)), Leftovers(jobs=flags.unfinished is not None)
    with contextlib.ExitStack() as views:
        observers, table = _observers(plan, console, scheduler, views)
        runner = end.runner = Runner(
            scheduler,
            plan.source,
            transports.of,
            lambda attempt: records.sink(attempt, divert(attempt, output.sink(attempt), console)),
            Conditions(
                directory=None if flags.chdir is None else os.fsencode(flags.chdir),
                timeout=flags.timeout,
                stall_timeout=flags.stall_timeout,
                max_connecting=flags.max_connecting,
                ahead=flags.on_each_node is None,
            ),
            Preparation(
                plan.steps, plan.listing, console.remark if flags.verbose else lambda text: None, console.message
            ),
            [summary, leftovers, *observers, *records.views],
            console.message,
            gate=records.gate,
            door=records.door,
            records=[*records.records, output],
            results=records.results,
        )
        for line in plan.work.warnings:
            console.message(line)
        listen(loop, runner, console, end)
        loop.set_exception_handler(lambda _, context: _hear_of(context, runner, console))
        if plan.followed is not None:
            task = loop.create_task(_follow(plan, plan.followed, runner, console))
            task.add_done_callback(lambda task: None if task.cancelled() else _fail(runner, task.exception()))
            views.callback(task.cancel)
        finished = await _run_to_the_end(runner, plan, console)
        await transports.close()
        await output.drain()
    if runner.bad_input is not None:
        console.message(str(runner.bad_input), Style.BAD)
    ahead, done_before = runner.unheard, runner.unheard_done  # read, and never handed out
    with contextlib.suppress(BadInput):  # what stands behind them was told of, or nobody came that far
        rest = plan.source.at_hand(READ_AHEAD)
        to_do = _to_do(plan, rest)
        ahead += to_do
        done_before += len(rest) - len(to_do)
    tally = scheduler.tally()
    tally = replace(tally, jobs=tally.jobs + len(ahead) + done_before, done=tally.done + done_before)
    all_read = finished.end is End.SETTLED or plan.source.seen == (tally.jobs, True)
    for line in table(tally):
        console.line(line)
    if not end.is_quiet:
        left = [*islice(scheduler.unfinished(), NAMED_JOBS), *ahead][:NAMED_JOBS]
        not_done_count = tally.jobs - tally.done - tally.failed - tally.held
        for line in summary.closing(finished, tally, left, not_done_count, not all_read):
            console.message(line, Style.BAD)
    not_done = [*leftovers.failed, *scheduler.unfinished(), *ahead]
    written = await _write_leftovers(plan, not_done, leftovers, console)
    written = records.finish(console.message) and not runner.record_lost and written
    plan.source.close()
    await console.drain()
    console.close()
    done = finished.end is not End.STUCK and all_read and tally.done == tally.jobs
    return end.status(written and done, runner.bad_input is not None, bool(console.errors))


def _collect_from_here_on() -> None:
    """Garbage is collected in a run, but not in its start, which ``clstr.__main__`` has begun without.

    What is imported and planned stays to the end: no collection need look at it, the last one of Python included.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def _queue_and_busy(plan: Plan, scheduler: Scheduler) -> tuple[int, int]:
    """The jobs that wait, those that were only read included, and the slots that run one."""
    tally = scheduler.tally()
    return plan.source.seen[0] - tally.jobs + tally.waiting, tally.running


def _fail(runner: Runner, error: BaseException | None) -> None:
    """Something that nobody awaited has broken: the run ends, and says so."""
    if error is not None:
        runner.fail(error)


def _hear_of(context: dict[str, Any], runner: Runner, console: Console) -> None:
    """What asyncio has to say of an exception that nobody caught.

    In a callback of ours it would leave somebody waiting for ever. One of a connection's own costs that connection,
    whose loss is told in the ordinary way; so does a task's that nobody asked for its result any more.
    """
    error = context.get("exception")
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    here = os.path.dirname(os.path.dirname(__file__))
    parts = {os.path.relpath(frame.filename, here).split(os.sep)[0] for frame in frames}
    if "handle" in context and parts & {"cli", "inputs", "output", "records", "runner", "scheduler"}:
        _fail(runner, error)
    else:
        console.remark(f"{context.get('message', 'unexpected')}: {type(error).__name__}: {error}")


async def _run_to_the_end(runner: Runner, plan: Plan, console: Console) -> Finished:
    """What breaks in clstr itself is one line and an ending like any other; the traceback is for ``-vv``."""
    try:
        return await runner.run(plan.slots, plan.work.submitted)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        if plan.flags.verbose > 1:
            for line in traceback.format_exception(error):
                console.remark(line)
        where = f"{os.path.basename(frame.filename)}:{frame.lineno}"
        return Finished(End.STUCK, f"{type(error).__name__}: {error} ({where})")


def _advice(plan: Plan) -> Advice:
    from clstr.output.advice import Advice

    client = plan.client
    if client is None:
        return Advice()
    return Advice(lambda node: shlex.join([*client.arguments(node), "true"]), client.name)


def _limits(plan: Plan) -> Limits:
    from clstr.scheduler import Limits, Need

    flags = plan.flags
    pinned = flags.on_each_node is not None
    # A dial is answered when its node is prepared, and setup may take long: then the runner alone counts connections.
    prepares = bool(plan.steps.setup or plan.steps.pushes)
    return Limits(
        flags.max_nodes,
        flags.max_node_uses,
        UNBOUNDED if prepares else flags.max_connecting,
        flags.node_failures,
        flags.max_failed,
        tokens=plan.work.tokens,
        stream=Need(None if pinned else flags.job_class, pinned or flags.retries is not None),
        follow=flags.follow,
        read_ahead=WANTED_AHEAD,
    )


async def _follow(plan: Plan, followed: Followed[list[Entry]], runner: Runner, console: Console) -> None:
    """Look for changes of the node files once a second."""
    from clstr.output.paint import Style

    while True:
        await asyncio.sleep(1)
        runner.notice_the_end()
        try:
            entries = await in_thread(followed.changed)
            if entries is None:
                continue
            joined, left = plan.listing.replace(entries)
        except BadInput as error:
            console.message(f"{error}; the nodes stay as they were", Style.BAD)
            continue
        if plan.flags.verbose:
            console.remark(f"node files have changed: {len(joined)} slots joined, {len(left)} left")
        plan.order.shuffle(joined)
        runner.list_nodes(joined, left)


async def _write_leftovers(plan: Plan, jobs: list[Job], leftovers: Leftovers, console: Console) -> bool:
    """Write --unfinished and --evicted; False, with a message, where that fails."""
    from clstr.output.paint import Style
    from clstr.records.leftovers import unfinished, write_evicted

    flags, written = plan.flags, True
    try:
        if flags.unfinished is not None:
            with unfinished(flags.unfinished, flags.null) as file:
                file.write(sorted(jobs, key=lambda job: job.id))
                await _copy_rest(plan, file)
            if file.left_out:
                what = f"{file.left_out} of the jobs not done are from submit files and do not stand there"
                console.message(f"{flags.unfinished}: {what} (run these files again)")
    except OSError as error:
        console.message(f"{flags.unfinished}: {error.strerror} (--unfinished was not written)", Style.BAD)
        written = False
    try:
        if flags.evicted is not None:
            write_evicted(flags.evicted, leftovers.evicted)
    except OSError as error:
        console.message(f"{flags.evicted}: {error.strerror} (--evicted was not written)", Style.BAD)
        written = False
    return written


def _to_do(plan: Plan, jobs: list[Job]) -> list[Job]:
    """Those that were not done before this run."""
    done = frozenset() if plan.records.gate is None else frozenset(plan.records.gate.done(jobs))
    return [job for job in jobs if job.id not in done]


async def _copy_rest(plan: Plan, file: JobFile) -> None:
    """What of the stream was not read, as far as it comes to an end."""
    try:
        async with asyncio.timeout(None if plan.source.is_finite else REST):
            while batch := await plan.source.next(4096):
                file.write(_to_do(plan, batch))
                await asyncio.sleep(0)
    except TimeoutError:
        file.remark("the stream of jobs had not ended here: what came later is missing")
    except BadInput as error:
        file.remark(f"{error}; what stood behind it is missing")


def _observers(
    plan: Plan, console: Console, scheduler: Scheduler, views: contextlib.ExitStack
) -> tuple[list[Observer], Callable[[Tally], list[str]]]:
    """Who is told of the run, in order, and what makes the table at its end."""
    from clstr.output.closing import ClosingTable
    from clstr.output.messages import Losses, Narrator
    from clstr.records.active_nodes import ActiveNodes

    flags = plan.flags
    observers: list[Observer] = []
    if flags.active_nodes is not None:
        active = ActiveNodes(flags.active_nodes, console.message)
        views.callback(active.close)
        observers.append(active)
    if flags.status:
        from clstr.output.status import Status

        loop = asyncio.get_running_loop()
        status = Status(console, scheduler.tally, lambda: plan.source.seen, loop)
        loop.add_signal_handler(signal.SIGWINCH, status.redraw)
        views.callback(status.close)
        observers.append(status)
    observers.append(Losses(console.message, idle=bool(flags.verbose)))
    if not flags.verbose:
        return observers, lambda tally: []
    if flags.verbose > 1:
        _log_asyncssh(console, hides=bool(flags.var))
    table = ClosingTable()
    return [*observers, Narrator(console.remark), table], table.lines


def _log_asyncssh(console: Console, hides: bool) -> None:
    """``-vv``: asyncssh's own log, line by line, through the console.

    It shows what is sent (a bare command, under ``--no-leash``), where values of ``--var`` may be: ``hides`` that.
    """
    import logging

    class ToConsole(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            said, command, _ = text.partition("Command: ")
            console.remark(f"asyncssh: {said}{command}(hidden)" if hides and command else f"asyncssh: {text}")

    log = logging.getLogger("asyncssh")
    log.setLevel(logging.INFO)
    log.addHandler(ToConsole())
    log.propagate = False
