"""Runs a job file through clstr's own rooms on 100 scripted nodes, whose jobs end at once.

    scripted.py JOB_FILE FAILURES

The first FAILURES attempts of each job fail. Prints how many jobs were done, and the peak memory of this process in kB.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from clstr.inputs.jobs import JobStream
from clstr.inputs.listing import Listing
from clstr.model import Attempt, Exited, Flow, Node, Outcome, Sink, Slot
from clstr.runner import Conditions, Preparation, Runner, Steps
from clstr.scheduler import Limits, Need, Scheduler
from clstr.transport import MAX_COMMAND, Command


class Scripted:
    """Transport, connection, channel and sink in one: what it is asked is done at once."""

    lasting = False

    def __init__(self, failures: int) -> None:
        self._failures = failures
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def connect(self, node: Node) -> Scripted:
        return Scripted(self._failures)

    async def channel(self) -> Scripted:
        return self

    async def run(self, command: Command, sink: Sink) -> Outcome:
        await asyncio.sleep(0)
        sink.begun(self)
        sink.stdout(b"line\n")
        sink.finished()
        attempt = dict(command.environment)["CLSTR_ATTEMPT"]
        return Exited(int(int(attempt) <= self._failures))

    def spare(self) -> None:
        """None."""

    def kill(self) -> None:
        """Nothing runs."""

    def close(self) -> None:
        self.lost.cancel()

    def pause(self) -> None:
        """Nothing flows."""

    def resume(self) -> None:
        """Nothing flows."""

    def begun(self, flow: Flow) -> None:
        """A sink that swallows."""

    def stdout(self, data: bytes) -> None:
        """A sink that swallows."""

    stderr = stdout

    def finished(self) -> None:
        """A sink that swallows."""


async def main(path: str, failures: int) -> None:
    """Run the file."""
    swallow = Scripted(failures)

    def sink_of(attempt: Attempt) -> Sink:
        return swallow

    # No node is evicted: every other attempt at least succeeds.
    scheduler = Scheduler(Limits(node_failures=1000, stream=Need(None, True)))
    source = JobStream([], [path], longest=MAX_COMMAND, budget=failures)
    preparation = Preparation(Steps(), Listing([]), lambda text: None, lambda text: None)
    runner = Runner(scheduler, source, lambda node: swallow, sink_of, Conditions(), preparation)
    await runner.run([Slot(Node(f"n{k}", f"n{k}"), 1) for k in range(100)])
    print(scheduler.tally().done)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
    status = Path("/proc/self/status").read_text()
    print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
