"""The runner against a transport that does what the test says."""

from __future__ import annotations

import asyncio

import pytest
from runner.scripted_transport import Jobs, Play, Quiet, ScriptedTransport, play

from clstr.model import (
    BadInput,
    ConnectionLost,
    End,
    Exited,
    Fact,
    Job,
    Lost,
    News,
    NotStarted,
    Stalled,
    Stopped,
    TimedOut,
    Unreachable,
)
from clstr.runner import Conditions, attempt, orders, outage
from clstr.scheduler import Limits


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "KILL_GRACE", 0.02)
    monkeypatch.setattr(attempt, "DEAF", 0.02)
    monkeypatch.setattr(orders, "AGAIN", 0.005)


# --- sessions opened ahead -----------------------------------------------------------------------------------


def test_a_slot_takes_its_next_job_on_the_session_opened_ahead() -> None:
    async def scenario() -> None:
        run = Play({"n1": 1}, ["a", "b", "c"])
        run.begin()
        assert (await run.end_all()).end is End.SETTLED
        assert run.transport.to("n1").opened == 1
        assert len(run.transport.to("n1").spares) == 2  # none behind the last job

    play(scenario)


def test_a_dead_spare_is_replaced_by_a_fresh_channel_and_nobody_is_blamed() -> None:
    async def scenario() -> None:
        run = Play({"n1": 1}, ["a", "b"], transport=ScriptedTransport(dead_spares=True))
        run.begin()
        first = await run.channel_of("a")
        await run.until(lambda: run.transport.to("n1").spares)
        first.end(Exited(0))
        await run.until(lambda: any(not channel.ahead and channel.job == "b" for channel in run.transport.running))
        assert (await run.end_all()).end is End.SETTLED
        assert run.transport.to("n1").opened == 2
        assert run.outcomes(2) == [Exited(0)]
        assert run.evictions() == {}

    play(scenario)


def test_where_it_is_not_worth_it_no_session_is_opened_ahead() -> None:
    async def scenario() -> None:
        run = Play({"n1": 1}, ["a", "b"], conditions=Conditions(ahead=False))
        run.begin()
        await run.end_all()
        assert run.transport.to("n1").spares == []

    play(scenario)


# --- jobs that never began -----------------------------------------------------------------------------------


def test_a_node_that_refuses_its_first_session_is_unreachable() -> None:
    async def scenario() -> None:
        run = Play({"bad": 1, "good": 1}, ["a", "b"])
        run.transport.channels_wait = True
        run.begin()
        await run.until(lambda: len(run.transport.connections) == 2)
        run.transport.to("bad").refusal = "no sessions here"
        run.transport.channels_wait = False
        run.transport.change.set()
        assert (await run.end_all()).end is End.SETTLED
        assert run.evictions() == {"bad": "no sessions here"}
        assert [event.why for event in run.heard if isinstance(event, Unreachable)] == ["no sessions here"]

    play(scenario)


def test_on_a_proved_connection_a_refusal_waits_for_its_sibling_and_then_is_a_loss() -> None:
    async def scenario() -> None:
        run = Play({"n1": 2}, ["a", "b", "c"], conditions=Conditions(ahead=False))
        run.begin()
        first, sibling = await run.channel_of("a"), await run.channel_of("b")
        old = run.transport.to("n1")
        old.refusal = "full"
        first.end(Exited(0))
        await run.until(lambda: run.outcomes(3))
        assert run.outcomes(3) == [NotStarted("full")]
        assert not old.closed
        assert not any(isinstance(event, ConnectionLost) for event in run.heard)
        sibling.end(Exited(0))
        await run.until(lambda: run.transport.to("n1") is not old)
        assert old.closed
        assert (await run.end_all()).end is End.SETTLED
        assert run.outcomes(2) == [Exited(0)]
        assert run.outcomes(3) == [NotStarted("full"), Exited(0)]
        assert run.evictions() == {}

    play(scenario)


def test_a_connection_cut_before_its_first_job_began_is_dialed_once_more() -> None:
    async def scenario() -> None:
        run = Play({"n1": 1}, ["a"], transport=ScriptedTransport(begins=False))
        run.begin()
        for times in (1, 2):
            await run.until(lambda times=times: len(run.transport.connections) == times and run.transport.running)
            run.transport.to("n1").break_("reset")
        assert (await run.finish()).end is End.NO_NODES
        assert run.evictions() == {"n1": "connection lost again before a job was done: reset"}
        assert run.outcomes(1) == [NotStarted("reset"), NotStarted("reset")]

    play(scenario)


# --- killing -------------------------------------------------------------------------------------------------


def test_a_kill_before_the_channel_exists_ends_the_attempt() -> None:
    async def scenario() -> None:
        run = Play({"n1": 1}, ["a"], transport=ScriptedTransport(channels_wait=True))
        run.begin()
        await run.until(lambda: run.scheduler.tally().running)
        await asyncio.sleep(0)
        run.runner.stop("enough")
        assert (await run.finish()).end is End.STOPPED
        assert run.outcomes(1) == [Stopped()]

    play(scenario)


def test_a_kill_in_the_very_step_that_starts_the_attempt_ends_it() -> None:
    async def scenario() -> None:
        run = Play({"n1": 1}, ["a"], transport=ScriptedTransport(channels_wait=True))
        run.begin()
        start = run.runner._start

        def start_and_stop(attempt: object) -> None:
            start(attempt)  # type: ignore[arg-type]
            run.runner.stop("enough")

        run.runner._start = start_and_stop  # type: ignore[method-assign,assignment]
        assert (await run.finish()).end is End.STOPPED
        assert run.outcomes(1) == [Stopped()]

    play(scenario)


def test_a_kill_while_the_fault_of_a_loss_is_sought_ends_the_run() -> None:
    async def scenario() -> None:
        run = Play({"n1": 1, "n2": 1}, ["a", "b"])
        run.begin()
        a, b = await run.channel_of("a"), await run.channel_of("b")
        a.connection.mute = True
        b.connection.break_()
        await run.until(lambda: b not in run.transport.running)
        run.runner.stop("enough")
        assert (await run.finish()).end is End.STOPPED

    play(scenario)


def test_a_node_deaf_to_a_kill_is_left_after_the_grace() -> None:
    async def scenario() -> None:
        run = Play({"n1": 1}, ["a"])
        run.begin()
        channel = await run.channel_of("a")
        channel.deaf = True
        run.runner.stop("enough")
        assert (await run.finish()).end is End.STOPPED
        assert channel.killed
        assert channel.closed
        assert run.outcomes(1) == [Stopped()]

    play(scenario)


def test_a_job_over_its_time_is_killed_and_goes_elsewhere() -> None:
    async def scenario() -> None:
        run = Play({"n1": 1, "n2": 1}, ["a"], conditions=Conditions(timeout=0.01), limits=Limits(max_nodes=1))
        run.begin()
        await run.until(lambda: len(run.outcomes(1)) == 1)
        assert (await run.end_all()).end in (End.SETTLED, End.NO_NODES)
        assert run.outcomes(1)[0] == TimedOut(0.01)

    play(scenario)


def test_silence_counts_from_the_last_output_and_not_while_we_hold_it_back() -> None:
    async def scenario() -> None:
        run = Play({"n1": 1}, ["a"], conditions=Conditions(stall_timeout=0.05))
        run.begin()
        channel = await run.channel_of("a")
        await run.until(lambda: run.runner.running())
        channel.sink.pause()  # type: ignore[attr-defined]
        for _ in range(30):
            await asyncio.sleep(0.005)
        assert not channel.killed
        channel.sink.resume()  # type: ignore[attr-defined]
        await run.until(lambda: channel.killed)
        assert (await run.finish()).end is End.NO_NODES
        assert run.outcomes(1) == [Stalled(0.05)]

    play(scenario)


# --- whose fault ---------------------------------------------------------------------------------------------


def test_all_of_two_connections_lost_at_once_count_against_nobody() -> None:
    async def scenario() -> None:
        down = False
        transport = ScriptedTransport(refuse=lambda node: "network is unreachable" if down else None)
        run = Play({"n1": 1, "n2": 1}, ["a", "b"], transport=transport, source=Jobs(["a", "b"], budget=0))
        run.begin()
        a, b = await run.channel_of("a"), await run.channel_of("b")
        down = True
        a.connection.break_()
        b.connection.break_()
        await run.until(lambda: len(transport.dialed) > 8)
        assert run.evictions() == {}
        down = False
        assert (await run.end_all()).end is End.SETTLED
        assert run.outcomes(1) == [Lost("cable cut", ours=True), Exited(0)]
        assert run.outcomes(2) == [Lost("cable cut", ours=True), Exited(0)]
        assert len(run.warned) == 1
        assert "this machine is presumed to be at fault" in run.warned[0]

    play(scenario)


def test_a_connection_that_goes_mute_first_is_one_of_those_lost_at_once() -> None:
    async def scenario() -> None:
        run = Play({"n1": 1, "n2": 1, "n3": 1}, ["a", "b", "c"])
        run.begin()
        channels = [await run.channel_of(job) for job in "abc"]
        for channel in channels:
            channel.connection.mute = True
        for channel in channels:
            channel.connection.break_()
            await asyncio.sleep(0.01)
        assert (await run.end_all()).end is End.SETTLED
        assert [run.outcomes(job)[0] for job in (1, 2, 3)] == [Lost("cable cut", ours=True)] * 3

    play(scenario)


def test_one_of_two_connections_lost_is_its_nodes_fault() -> None:
    async def scenario() -> None:
        run = Play({"n1": 1, "n2": 1}, ["a", "b"])
        run.begin()
        a, _ = await run.channel_of("a"), await run.channel_of("b")
        a.connection.break_()
        await run.until(lambda: run.outcomes(1))
        assert run.outcomes(1) == [Lost("cable cut")]
        assert (await run.end_all()).end is End.SETTLED
        assert run.warned == []

    play(scenario)


def test_the_second_loss_before_a_job_was_done_evicts() -> None:
    async def scenario() -> None:
        run = Play({"n1": 1, "n2": 1}, ["a", "b", "c", "d"])
        run.begin()
        await run.channel_of("b")
        lost = None
        for _ in range(2):
            await run.until(lambda lost=lost: run.transport.to("n1") is not lost and run.transport.to("n1").running)
            lost = run.transport.to("n1")
            lost.break_()
        await run.until(run.evictions)
        assert run.evictions() == {"n1": "connection lost again before a job was done: cable cut"}
        assert (await run.end_all()).end is End.SETTLED

    play(scenario)


def test_jobs_that_break_every_connection_do_not_go_round_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage, "SETTLING", 0.05)

    async def scenario() -> None:
        run = Play({"n1": 1, "n2": 1}, ["reboot", "reboot"])
        run.begin()
        while run.runner._over.done() is False:
            if len(run.transport.running) == 2 or (run.evictions() and run.transport.running):
                for channel in run.transport.running:
                    channel.connection.break_()
            await asyncio.sleep(0.001)
        assert (await run.finish()).end is End.NO_NODES
        assert len(run.evictions()) == 2
        assert len(run.warned) == 1

    play(scenario)


def test_an_idle_connection_lost_before_its_first_job_does_not_evict_its_node() -> None:
    async def scenario() -> None:
        run = Play({"n1": 1, "n2": 1}, ["a", "b"], conditions=Conditions(ahead=False))
        run.transport.dials_wait = True
        run.begin()
        await run.until(lambda: len(run.transport.dialed) == 2)
        # Both dials succeed, and one job ends and is followed by the other before the second node is connected.
        run.transport.dials_wait = False
        run.transport.change.set()
        await run.channel_of("a")
        await run.channel_of("b")
        assert (await run.end_all()).end is End.SETTLED
        assert run.evictions() == {}

    play(scenario)


# --- the rest ------------------------------------------------------------------------------------------------


class Faulty:
    """An observer that raises at its first event."""

    def __init__(self) -> None:
        self.heard = 0

    def saw(self, when: float, event: Fact | News) -> None:
        self.heard += 1
        raise ValueError("no space left")


def test_an_observer_that_raises_is_switched_off_once_and_aloud() -> None:
    async def scenario() -> None:
        faulty = Faulty()
        run = Play({"n1": 1}, ["a", "b"], observers=[faulty])
        run.begin()
        assert (await run.end_all()).end is End.SETTLED
        assert faulty.heard == 1
        assert run.warned == ["Faulty switched off: no space left"]

    play(scenario)


def test_bad_input_in_the_stream_drains_the_run() -> None:
    async def scenario() -> None:
        source = Jobs(["a"], then=BadInput("jobs.txt:2: a NUL (drop it)"))
        run = Play({"n1": 2}, [], source=source)
        run.begin()
        await run.channel_of("a")
        source.go_on.set()
        await run.until(lambda: run.runner.bad_input)
        finished = await run.end_all()
        assert finished.end is End.DRAINED
        assert str(run.runner.bad_input) == "jobs.txt:2: a NUL (drop it)"
        assert run.outcomes(1) == [Exited(0)]

    play(scenario)


def test_dials_under_way_are_cancelled_at_the_end() -> None:
    async def scenario() -> None:
        run = Play({"n1": 1, "n2": 1}, ["a", "b"], transport=ScriptedTransport(dials_wait=True))
        run.begin()
        await run.until(lambda: len(run.transport.dialed) == 2)
        run.runner.stop("enough")
        assert (await run.finish()).end is End.STOPPED
        assert sorted(run.transport.cancelled) == ["n1", "n2"]

    play(scenario)


def test_a_bug_in_an_attempt_ends_the_run_with_its_exception() -> None:
    class Bug(Quiet):
        def begun(self, flow: object) -> None:
            raise RuntimeError("a bug")

    async def scenario() -> None:
        run = Play({"n1": 1}, ["a"], sink=Bug())
        run.begin()
        with pytest.raises(RuntimeError, match="a bug"):
            await run.finish()

    play(scenario)


def test_jobs_that_come_in_the_turn_in_which_the_run_ends_are_kept() -> None:
    class Late(Jobs):
        def at_hand(self, count: int) -> list[Job]:
            return super().at_hand(count) if self.go_on.is_set() else []

        async def next(self, count: int) -> list[Job]:
            await self.go_on.wait()
            return self.at_hand(count)

    async def scenario() -> None:
        source = Late(["one", "two"])
        run = Play({"n1": 2}, [], source=source)
        run.begin()
        for _ in range(5):
            await asyncio.sleep(0)
        source.go_on.set()
        run.runner.stop("enough")
        assert (await run.finish()).end is End.STOPPED
        assert [job.id for job in run.runner.unheard] == [1, 2]
        assert list(run.scheduler.unfinished()) == []

    asyncio.run(scenario())
