"""Too few file descriptors: dials and jobs wait, nodes and jobs are not blamed."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Callable

from runner.scripted_transport import Jobs, Quiet

from clstr.inputs.listing import Listing
from clstr.model import Attempt, BadInput, Door, End, Finished, Node, Sink, Slot
from clstr.runner import Conditions, Preparation, Runner, Steps
from clstr.scheduler import Limits, Scheduler
from clstr.transport import CannotConnect
from clstr.transport.local import LocalConnection, LocalTransport


class Needy(LocalTransport):
    """Needs a descriptor to connect, and says so each time that it gets none."""

    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    async def connect(self, node: Node) -> LocalConnection:
        try:
            os.close(os.dup(0))
        except OSError as error:
            raise self.error(str(error)) from None
        return await super().connect(node)


class NeedyDoor:
    """Needs a descriptor for each attempt."""

    def enter(self, attempt: Attempt) -> None:
        os.close(os.dup(0))


def run_with_few(
    transport: LocalTransport,
    sink_of: Callable[[object], Sink] = lambda attempt: Quiet(),
    door: Door | None = None,
) -> list[str]:
    """One job runs, from where no descriptor is left until clstr has said so; gives what it said."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    said: list[str] = []

    def warn(text: str) -> None:
        said.append(text)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    async def scenario() -> Finished:
        runner = Runner(
            scheduler := Scheduler(Limits()),
            Jobs(["true"]),
            lambda node: transport,
            sink_of,
            Conditions(),
            Preparation(Steps(), Listing([]), lambda text: None, lambda text: None),
            warn=warn,
            door=door,
        )
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, limits[1]))
        finished = await runner.run([Slot(Node(":", ":"), 1)])
        tally = scheduler.tally()
        assert (tally.done, tally.failed, tally.evicted) == (1, 0, 0)
        return finished

    try:
        assert asyncio.run(scenario()) == Finished(End.SETTLED)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    return said


def test_a_dial_that_finds_none_waits() -> None:
    for error in (CannotConnect, BadInput, OSError):
        (line,) = run_with_few(Needy(error))
        assert line.startswith("too many open files (soft limit ")
        assert "hard limit " in line
        assert "--max-nodes" in line


def test_a_job_that_finds_none_waits() -> None:
    (line,) = run_with_few(LocalTransport())
    assert line.startswith("too many open files (soft limit ")


def test_a_sink_that_finds_none_waits() -> None:
    def sink_of(attempt: object) -> Sink:
        os.close(os.dup(0))
        return Quiet()

    assert len(run_with_few(LocalTransport(), sink_of)) == 1


def test_a_door_that_finds_none_waits() -> None:
    assert len(run_with_few(LocalTransport(), door=NeedyDoor())) == 1
