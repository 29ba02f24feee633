"""How many dials are under way at once, when nodes take their time to be made ready."""

from __future__ import annotations

import asyncio

from runner.scripted_transport import Jobs, Quiet

from clstr.inputs.listing import Listing
from clstr.model import Attempt, Node, Sink, Slot
from clstr.runner import Conditions, Preparation, Runner, Steps
from clstr.scheduler import Limits, Scheduler


class Counting:
    """A transport that counts who is dialing; nobody is let in before ``open`` is set."""

    def __init__(self) -> None:
        self.dialing = 0
        self.most = 0
        self.begun = asyncio.Event()
        self.open = asyncio.Event()

    async def connect(self, node: Node) -> None:
        self.dialing += 1
        self.most = max(self.most, self.dialing)
        self.begun.set()
        await self.open.wait()
        self.dialing -= 1
        raise asyncio.CancelledError

    async def close(self) -> None:
        """Nothing is open."""


def test_the_runner_dials_no_more_at_once_than_it_may_whatever_the_scheduler_orders() -> None:
    async def scenario() -> int:
        transport = Counting()

        def sink_of(attempt: Attempt) -> Sink:
            return Quiet()

        runner = Runner(
            Scheduler(Limits(max_connecting=1 << 30)),
            Jobs(["true"] * 9),
            lambda node: transport,  # type: ignore[arg-type, return-value]
            sink_of,
            Conditions(max_connecting=2),
            Preparation(Steps(), Listing([]), lambda text: None, lambda text: None),
        )
        run = asyncio.ensure_future(runner.run([Slot(Node(f"n{k}", f"n{k}"), 1) for k in range(9)]))
        await transport.begun.wait()
        for _ in range(10):
            await asyncio.sleep(0)
        runner.stop("enough")
        transport.open.set()
        await run
        return transport.most

    assert asyncio.run(scenario()) == 2
