"""What stands beside the runner: gates before jobs, doors before attempts, records that must be able to write."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Collection, Sequence

import pytest
from runner.scripted_transport import Play, play

from clstr.model import (
    Attempt,
    Done,
    End,
    Ended,
    Evicted,
    Exited,
    Fact,
    Failed,
    Found,
    Job,
    News,
    Refused,
    Started,
)
from clstr.runner import orders
from clstr.scheduler import Limits


class Knows:
    """A gate and a door with fixed answers."""

    def __init__(self, done: Collection[int] = (), barred: dict[int, Found | Refused] | None = None) -> None:
        self.asked: list[int] = []
        self._done = done
        self._barred = barred or {}

    def done(self, jobs: Sequence[Job]) -> Collection[int]:
        self.asked += [job.id for job in jobs]
        return [job.id for job in jobs if job.id in self._done]

    def enter(self, attempt: Attempt) -> Found | Refused | None:
        return self._barred.get(attempt.job.id)


def test_a_job_that_the_gate_knows_is_done_and_does_not_run() -> None:
    async def scenario() -> None:
        gate = Knows(done=[1, 3])
        run = Play({"n1": 1}, ["a", "b", "c"], gate=gate)
        run.begin()
        await run.end_all()
        assert gate.asked == [1, 2, 3]
        assert [event.attempt.job.id for event in run.heard if isinstance(event, Started)] == [2]
        assert sorted(event.job.id for event in run.heard if isinstance(event, Done)) == [1, 2, 3]

    play(scenario)


def test_what_the_door_bars_does_not_reach_the_node_and_blames_nobody() -> None:
    async def scenario() -> None:
        run = Play({"n1": 1}, ["a", "b", "c"], door=Knows(barred={1: Found(), 2: Refused("locked by x 1")}))
        run.begin()
        await run.end_all()
        assert [event.attempt.job.id for event in run.heard if isinstance(event, Started)] == [3]
        assert run.outcomes(1) == [Found()]
        assert [(event.job.id, event.why) for event in run.heard if isinstance(event, Failed)] == [(2, "locked by x 1")]
        assert not [event for event in run.heard if isinstance(event, Evicted)]

    play(scenario)


def test_a_sink_that_cannot_be_had_fails_the_job_and_blames_nobody() -> None:
    async def scenario() -> None:
        def no_sink(attempt: Attempt) -> None:
            raise OSError(errno.EACCES, "Permission denied", "/out")

        run = Play({"n1": 1}, ["a"], sink_of=no_sink)
        run.begin()
        await run.end_all()
        assert run.outcomes(1) == [Refused("/out: Permission denied")]
        assert not run.evictions()

    play(scenario)


class FullDisk:
    """A record that can take so many ends of attempts, or of jobs."""

    def __init__(self, room: int, of: type = Ended) -> None:
        self.room = room
        self.of = of

    def saw(self, when: float, event: Fact | News) -> None:
        if isinstance(event, self.of):
            self.room -= 1
            if self.room < 0:
                raise OSError(errno.ENOSPC, "No space left on device", "log")


@pytest.mark.parametrize("read_ahead", [0, 64])
@pytest.mark.parametrize("of", [Ended, Done])
def test_a_record_that_cannot_be_written_drains_the_run(of: type, read_ahead: int) -> None:
    async def scenario() -> None:
        limits = Limits(read_ahead=read_ahead)
        run = Play({"n1": 2}, ["a", "b", "c", "d", "e"], records=[FullDisk(1, of)], limits=limits)
        run.begin()
        (await run.channel_of("a")).end(Exited(0))
        await run.channel_of("c")
        (await run.channel_of("b")).end(Exited(0))  # here the disk is full; c runs, and may end
        finished = await run.end_all()
        assert [event.job.id for event in run.heard if isinstance(event, Done)] == [1, 2, 3]
        assert finished.why == "log cannot be written: No space left on device"
        assert run.warned == ["log cannot be written: No space left on device (no job is started any more)"]
        assert run.runner.record_lost

    play(scenario)


def test_records_hear_of_everything_before_views_do() -> None:
    order: list[str] = []

    class Hears:
        def __init__(self, name: str) -> None:
            self.name = name

        def saw(self, when: float, event: Fact | News) -> None:
            if isinstance(event, Done):
                order.append(self.name)

    async def scenario() -> None:
        run = Play({"n1": 1}, ["a"], observers=[Hears("view")], records=[Hears("first"), Hears("second")])
        run.begin()
        await run.end_all()

    play(scenario)
    assert order == ["first", "second", "view"]


def test_thousands_that_are_done_are_asked_for_many_at_a_time_and_the_others_run_in_order() -> None:
    async def scenario() -> None:
        to_do = [1, 2000, 2001, 2002, 3000]
        gate = Knows(done=set(range(1, 3001)) - set(to_do))
        run = Play({"n1": 2}, [f"job{number}" for number in range(1, 3001)], gate=gate)
        run.begin()
        assert (await run.end_all()).end is End.SETTLED
        assert gate.asked == list(range(1, 3001))
        assert [event.attempt.job.id for event in run.heard if isinstance(event, Started)] == to_do
        assert len({event.job.id for event in run.heard if isinstance(event, Done)}) == 3000

    play(scenario)


class Turns:
    """Counts the turns of the loop while a run goes on."""

    def __init__(self) -> None:
        self.count = 0

    async def go_by(self, run: Play) -> None:
        run.begin()
        assert run._run is not None
        while not run._run.done():
            self.count += 1
            await asyncio.sleep(0)
        await run.finish()


def test_others_have_their_turn_while_a_gate_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "READ_AT_ONCE", 10)

    async def scenario() -> None:
        turns = Turns()

        class Counts(Knows):
            def done(self, jobs: Sequence[Job]) -> Collection[int]:
                seen.append(turns.count)
                return super().done(jobs)

        seen: list[int] = []
        run = Play({"n1": 1}, ["x"] * 200, gate=Counts(done=range(1, 201)))
        await turns.go_by(run)
        assert len(seen) == 20
        assert len(set(seen)) == len(seen)

    play(scenario)


def test_others_have_their_turn_while_a_door_bars_one_job_after_another() -> None:
    async def scenario() -> None:
        turns = Turns()

        class Bars(Knows):
            def enter(self, attempt: Attempt) -> Found | Refused | None:
                seen.append(turns.count)
                return Found()

        seen: list[int] = []
        run = Play({"n1": 1}, ["x"] * 20, door=Bars())
        await turns.go_by(run)
        assert len(set(seen)) == len(seen) == 20

    play(scenario)


def test_jobs_that_were_asked_for_and_not_handed_out_are_unheard() -> None:
    async def scenario() -> None:
        run = Play({"n1": 1}, [f"job{number}" for number in range(1, 11)], gate=Knows(done=[3, 4, 10]))
        run.begin()
        await run.channel_of("job1")
        run.runner.stop("enough")
        await run.finish()
        heard = run.scheduler.tally().jobs
        assert heard + len(run.runner.unheard) + run.runner.unheard_done == 10
        assert [job.id for job in run.runner.unheard] == [n for n in range(heard + 1, 11) if n not in {3, 4, 10}]

    play(scenario)
