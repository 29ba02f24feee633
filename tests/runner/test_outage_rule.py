"""The rule on losses, asked directly: which are this machine's fault, and for how long dialing goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from clstr.model import Node
from clstr.runner.outage import ASKED, PATIENCE, PERIOD, SETTLING, Outage

A, B, C = (Node(text, text) for text in "abc")


class Link:
    """A connection that answers, does not, or keeps silent until it is lost."""

    lasting = True

    def __init__(self) -> None:
        self.answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def answers(self) -> bool:
        return await asyncio.shield(self.answer)


class Stand:
    """An Outage, the connections that it knows, and a clock to turn."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        real = loop.time
        self.slept = 0.0
        loop.time = lambda: real() + self.slept  # type: ignore[method-assign]
        self.links: dict[Node, Link] = {node: Link() for node in (A, B, C)}
        self.warned: list[str] = []
        self.outage = Outage(lambda: self.links, self.warned.append)  # type: ignore[arg-type,return-value]

    def lose(self, *nodes: Node) -> None:
        """What the runner does at once when connections break."""
        for node in nodes:
            link = self.links.pop(node)
            if not link.answer.done():
                link.answer.set_result(False)
            self.outage.heard_of(node)

    async def judge(self, *nodes: Node) -> list[bool]:
        return list(await asyncio.gather(*(self.outage.is_ours(node) for node in nodes)))

    async def all_lost(self) -> None:
        self.lose(A, B, C)
        assert await self.judge(A, B, C) == [True] * 3


def on_a_stand(scenario: Callable[[Stand], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(1000):
            await scenario(Stand())

    asyncio.run(bounded())


def test_all_lost_in_one_moment_is_ours_and_said_once() -> None:
    async def scenario(stand: Stand) -> None:
        await stand.all_lost()
        assert stand.outage.going_on
        assert len(stand.warned) == 1
        assert stand.warned[0].startswith("all 3 connections were lost at once: this machine is presumed")

    on_a_stand(scenario)


def test_one_that_answers_clears_this_machine() -> None:
    async def scenario(stand: Stand) -> None:
        stand.lose(A)
        stand.links[C].answer.set_result(True)
        assert await stand.judge(A) == [False]
        assert not stand.outage.going_on

    on_a_stand(scenario)


def test_those_that_are_lost_while_asked_are_counted() -> None:
    async def scenario(stand: Stand) -> None:
        stand.lose(A)
        judged = asyncio.create_task(stand.judge(A))
        await asyncio.sleep(0)
        stand.lose(B, C)
        assert await judged == [True]

    on_a_stand(scenario)


def test_one_that_gave_no_answer_is_lost_before_its_loss_is_told() -> None:
    async def scenario(stand: Stand) -> None:
        for link in (stand.links[B], stand.links[C]):
            link.answer.set_result(False)  # and the runner has yet to hear of it
        stand.lose(A)
        assert await stand.judge(A) == [True]

    on_a_stand(scenario)


def test_when_the_first_that_are_asked_are_lost_the_others_are_asked_too() -> None:
    async def scenario(stand: Stand) -> None:
        more = [Node(text, text) for text in map(str, range(2 * ASKED))]
        stand.links |= {node: Link() for node in more}
        stand.lose(A)
        judged = asyncio.create_task(stand.judge(A))
        for node in [B, C, *more[:-1]]:
            await asyncio.sleep(0)
            stand.lose(node)
        await asyncio.sleep(0)
        stand.links[more[-1]].answer.set_result(True)
        assert await judged == [False]

    on_a_stand(scenario)


def test_many_that_are_lost_while_asked_a_few_at_a_time_are_all() -> None:
    async def scenario(stand: Stand) -> None:
        more = [Node(text, text) for text in map(str, range(2 * ASKED))]
        stand.links |= {node: Link() for node in more}
        for node in [B, C, *more]:
            stand.links[node].answer.set_result(False)
        stand.lose(A)
        assert await stand.judge(A) == [True]

    on_a_stand(scenario)


def test_a_single_connection_is_never_all() -> None:
    async def scenario(stand: Stand) -> None:
        del stand.links[B], stand.links[C]
        for _ in range(3):
            stand.lose(A)
            assert await stand.judge(A) == [False]
            stand.links[A] = Link()

    on_a_stand(scenario)


def test_losses_further_apart_than_the_period_are_separate() -> None:
    async def scenario(stand: Stand) -> None:
        del stand.links[C]
        stand.lose(A)
        stand.slept += PERIOD + 1
        stand.lose(B)
        assert await stand.judge(B) == [False]

    on_a_stand(scenario)


def test_a_loss_judged_the_nodes_own_does_not_count_towards_the_next() -> None:
    async def scenario(stand: Stand) -> None:
        del stand.links[C]
        stand.links[B].answer.set_result(True)
        stand.lose(A)
        assert await stand.judge(A) == [False]
        stand.lose(B)
        assert await stand.judge(B) == [False]

    on_a_stand(scenario)


def test_dialing_goes_on_for_five_minutes_and_no_longer() -> None:
    async def scenario(stand: Stand) -> None:
        await stand.all_lost()
        stand.slept += PATIENCE - 1
        assert stand.outage.going_on
        stand.slept += 2
        assert not stand.outage.going_on

    on_a_stand(scenario)


def test_a_connection_made_ends_it_after_a_short_while() -> None:
    async def scenario(stand: Stand) -> None:
        await stand.all_lost()
        stand.outage.connected()
        assert stand.outage.going_on
        stand.slept += SETTLING + 0.1
        assert not stand.outage.going_on

    on_a_stand(scenario)


def test_a_second_outage_is_believed_only_after_a_job_has_ended_or_five_minutes() -> None:
    async def scenario(stand: Stand) -> None:
        def again() -> None:
            stand.outage.connected()
            stand.slept += SETTLING + 0.1
            stand.links = {node: Link() for node in (A, B, C)}

        await stand.all_lost()
        again()
        stand.lose(A, B, C)
        assert await stand.judge(A, B, C) == [False] * 3
        stand.outage.survived()
        again()
        await stand.all_lost()
        again()
        stand.slept += PATIENCE
        await stand.all_lost()
        assert len(stand.warned) == 3

    on_a_stand(scenario)
