"""Copies of results under scripted nodes: beside the jobs, few at once, three tries, and nobody blamed."""

from __future__ import annotations

import asyncio
import errno

import pytest
from runner.scripted_transport import Play, play

from clstr.model import (
    LONGEST_RESULT,
    MOST_RESULTS,
    Attempt,
    ConnectionLost,
    CopyFailed,
    Done,
    End,
    Evicted,
    Exited,
    Failed,
    Lost,
    in_words,
)
from clstr.runner import Conditions, copies, descriptors
from clstr.transport import FetchFailed


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "PAUSES", (0.001, 0.001))


class FakePlace:
    fd = -1

    def __init__(self, shelf: Shelf, error: OSError | None) -> None:
        self._shelf = shelf
        self._error = error

    def keep(self) -> None:
        if self._error is not None:
            raise self._error
        self._shelf.kept += 1

    def discard(self) -> None:
        self._shelf.discarded += 1


class Shelf:
    """Results whose names are given: jobs that are not among them name none."""

    limit = 10

    def __init__(self, *names: bytes, jobs: tuple[int, ...] = (1,), error: OSError | None = None) -> None:
        self._names = names or (b"out",)
        self._jobs = jobs
        self._error = error
        self.places = self.kept = self.discarded = 0

    def named(self, attempt: Attempt) -> tuple[bytes, ...]:
        return self._names if attempt.job.id in self._jobs else ()

    def place(self, attempt: Attempt) -> FakePlace:
        self.places += 1
        return FakePlace(self, self._error)


def fates(run: Play) -> list[str]:
    """Of the jobs, in the order in which they were told."""
    return [
        f"{event.job.id} done" if isinstance(event, Done) else f"{event.job.id} failed: {event.why}"
        for event in run.heard
        if isinstance(event, Done | Failed)
    ]


def blamed(run: Play) -> bool:
    return any(isinstance(event, Evicted) for event in run.heard)


def test_the_slot_goes_on_while_results_are_copied_and_the_job_is_done_behind_them() -> None:
    async def scenario() -> None:
        shelf = Shelf(b"a", b"b")
        run = Play({"n1": 1}, ["x", "y"], results=shelf, conditions=Conditions(directory=b"/d"))
        run.begin()
        (await run.channel_of("x")).end(Exited(0))
        (await run.channel_of("y")).end(Exited(0))
        await run.until(lambda: fates(run) and run.transport.fetching)
        assert fates(run) == ["2 done"]
        (fetch,) = run.transport.fetching
        assert (fetch.names, fetch.directory) == ((b"a", b"b"), b"/d")
        fetch.end()
        assert (await run.finish()).end is End.SETTLED
        assert fates(run) == ["2 done", "1 done"]
        assert run.outcomes(1) == [Exited(0, (b"a", b"b"))]
        assert (shelf.places, shelf.kept, shelf.discarded) == (1, 1, 1)

    play(scenario)


def test_a_copy_that_finds_no_descriptor_left_waits_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "PAUSE", 0.001)

    class Short(Shelf):
        def place(self, attempt: Attempt) -> FakePlace:
            if self.places < 5:  # more often than a copy is tried
                self.places += 1
                raise OSError(errno.EMFILE, "Too many open files", "place")
            return super().place(attempt)

    async def scenario() -> None:
        run = Play({"n1": 1}, ["x"], results=Short())
        run.begin()
        (await run.channel_of("x")).end(Exited(0))
        await run.until(lambda: run.transport.fetching)
        run.transport.fetching[0].end()
        await run.finish()
        assert fates(run) == ["1 done"]

    play(scenario)


def test_what_a_failed_attempt_named_is_not_copied() -> None:
    async def scenario() -> None:
        run = Play({"n1": 1, "n2": 1}, ["x"], results=Shelf())
        run.begin()
        (await run.channel_of("x")).end(Exited(1))
        await run.until(lambda: run.outcomes(1))
        assert run.outcomes(1) == [Exited(1)]
        (await run.channel_of("x")).end(Exited(0))
        await run.until(lambda: run.transport.fetching)
        run.transport.fetching[0].end()
        await run.finish()
        assert fates(run) == ["1 done"]

    play(scenario)


def test_a_node_sends_two_at_once() -> None:
    async def scenario() -> None:
        run = Play({"n1": 4}, ["a", "b", "c", "d"], results=Shelf(jobs=(1, 2, 3, 4)))
        run.begin()
        for job in "abcd":
            (await run.channel_of(job)).end(Exited(0))
        await run.until(lambda: run.scheduler.tally().copying == 4)
        for left in (4, 3, 2, 1):
            await run.until(lambda left=left: len(run.transport.fetching) == min(2, left))
            run.transport.fetching[0].end()
        await run.finish()
        assert len(fates(run)) == 4

    play(scenario)


def test_after_three_tries_the_job_has_failed_and_nobody_else_is_to_blame() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        run = Play({"n1": 1}, ["x", "y"], results=shelf)
        run.begin()
        (await run.channel_of("x")).end(Exited(0))
        for times in (1, 2, 3):
            await run.until(lambda times=times: shelf.places == times and run.transport.fetching)
            run.transport.fetching[0].end(FetchFailed("flaky", again=True))
        await run.end_all()
        assert sorted(fates(run)) == [f"1 failed: {in_words(CopyFailed('flaky'))}", "2 done"]
        assert (shelf.kept, shelf.discarded) == (0, 3)
        assert len(run.outcomes(1)) == 1
        assert not blamed(run)

    play(scenario)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (FetchFailed("nothing there"), "nothing there"),
        (OSError(errno.ENOSPC, "No space left", "d/f"), "d/f: No space left"),
    ],
    ids=["the node's", "this machine's"],
)
def test_what_no_other_try_can_mend_is_tried_once(error: Exception, why: str) -> None:
    async def scenario() -> None:
        shelf = Shelf()
        run = Play({"n1": 1}, ["x"], results=shelf)
        run.begin()
        (await run.channel_of("x")).end(Exited(0))
        await run.until(lambda: run.transport.fetching)
        run.transport.fetching[0].end(error)
        await run.finish()
        assert fates(run) == [f"1 failed: results not copied: {why}"]
        assert (shelf.places, shelf.discarded) == (1, 1)

    play(scenario)


def test_results_that_cannot_be_put_in_their_place_fail_the_job() -> None:
    async def scenario() -> None:
        run = Play({"n1": 1}, ["x"], results=Shelf(error=OSError(errno.EACCES, "Permission denied", "d")))
        run.begin()
        (await run.channel_of("x")).end(Exited(0))
        await run.until(lambda: run.transport.fetching)
        run.transport.fetching[0].end()
        await run.finish()
        assert fates(run) == ["1 failed: results not copied: d: Permission denied"]

    play(scenario)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ([b"x%d" % number for number in range(MOST_RESULTS + 1)], "more than 1,000 were named"),
        ([b"a", b"x" * (LONGEST_RESULT + 1)], "a name of more than 4,096 bytes"),
    ],
)
def test_too_much_named_is_not_begun(names: list[bytes], why: str) -> None:
    async def scenario() -> None:
        shelf = Shelf(*names)
        run = Play({"n1": 1}, ["x"], results=shelf)
        run.begin()
        (await run.channel_of("x")).end(Exited(0))
        await run.finish()
        assert fates(run) == [f"1 failed: results not copied: {why}"]
        assert shelf.places == 0

    play(scenario)


@pytest.mark.parametrize("begun", [True, False])
def test_a_stop_ends_copies_and_leaves_nothing(begun: bool) -> None:
    async def scenario() -> None:
        shelf = Shelf()
        run = Play({"n1": 1}, ["x"], results=shelf)
        run.begin()
        (await run.channel_of("x")).end(Exited(0))
        await run.until(lambda: run.transport.fetching if begun else run.scheduler.tally().copying)
        run.runner.stop("enough")
        assert (await run.finish()).end is End.STOPPED
        assert fates(run) == []
        assert shelf.places == shelf.discarded
        assert shelf.kept == 0

    play(scenario)


def test_a_stop_in_the_very_step_that_begins_a_copy_ends_it() -> None:
    async def scenario() -> None:
        run = Play({"n1": 1}, ["x"], results=Shelf())
        run.begin()
        channel = await run.channel_of("x")

        class Stops:
            def saw(self, when: float, event: object) -> None:
                if run.outcomes(1):
                    asyncio.get_running_loop().call_soon(run.runner.stop, "enough")

        run.runner._observers.append(Stops())
        channel.end(Exited(0))
        assert (await run.finish()).end is End.STOPPED

    play(scenario)


def test_a_connection_that_is_lost_ends_its_copies_first() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        run = Play({"n1": 1}, ["x", "y"], results=shelf)
        run.begin()
        (await run.channel_of("x")).end(Exited(0))
        await run.channel_of("y")
        await run.until(lambda: run.transport.fetching)
        run.transport.to("n1").break_("cable cut")
        await run.until(lambda: any(isinstance(event, ConnectionLost) for event in run.heard))
        kinds = [type(event) for event in run.heard]
        assert kinds.index(Failed) < kinds.index(ConnectionLost)
        assert shelf.places == 1
        assert (await run.end_all()).end is End.SETTLED
        assert fates(run) == ["1 failed: results not copied: the connection is gone", "2 done"]

    play(scenario)


def test_an_idle_connection_that_is_lost_under_a_copy_is_told_of_behind_it() -> None:
    async def scenario() -> None:
        run = Play({"n1": 1}, ["x"], results=Shelf())
        run.begin()
        (await run.channel_of("x")).end(Exited(0))
        await run.until(lambda: run.transport.fetching)
        run.transport.to("n1").break_("cable cut")
        assert (await run.finish()).end is End.SETTLED
        assert fates(run) == ["1 failed: results not copied: the connection is gone"]

    play(scenario)


def test_a_session_that_breaks_off_beside_a_copy_does_not_end_it() -> None:
    async def scenario() -> None:
        run = Play({"n1": 1}, ["x", "y"], results=Shelf())
        run.begin()
        (await run.channel_of("x")).end(Exited(0))
        channel = await run.channel_of("y")
        await run.until(lambda: run.transport.fetching)
        channel.end(Lost("the session was closed without an exit status"))
        await run.until(lambda: run.outcomes(2))
        run.transport.fetching[0].end()
        assert (await run.end_all()).end is End.SETTLED
        assert fates(run) == ["1 done", "2 done"]

    play(scenario)


def test_links_and_devices_that_were_left_out_are_told_of_once() -> None:
    async def scenario() -> None:
        run = Play({"n1": 1}, ["x"], results=Shelf())
        run.begin()
        (await run.channel_of("x")).end(Exited(0))
        await run.until(lambda: run.transport.fetching)
        landing = run.transport.fetching[0].landing
        landing.left_out_count, landing.left_out = 4, [b"out/a", b"out/b"]
        run.transport.fetching[0].end()
        await run.finish()
        assert run.warned == [
            "job 1: results on n1: 'out/a', 'out/b', ... left out (4 in all): no file and no directory",
        ]

    play(scenario)
