"""What a submit file says of one job reaches its channel: directory, environment, time limit and input."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from runner.scripted_transport import Play, ScriptedChannel, play

from clstr.model import Done, Ended, Evicted, Failed, Job, Machine, Refused, Terms, TimedOut
from clstr.runner import Conditions, attempt


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "KILL_GRACE", 0.02)


def one(**terms: object) -> list[str | Job]:
    return [Job(1, b"x", terms=Terms(**terms))]  # type: ignore[arg-type]


async def channel_of(run: Play) -> ScriptedChannel:
    run.begin()
    return await run.channel_of("x")


def test_a_job_of_its_own_directory_goes_there_and_not_where_the_others_go() -> None:
    async def scenario() -> None:
        for terms, directory in ((one(directory=b"~/d"), b"~/d"), (one(), b"/all")):
            run = Play({"n1": 1}, terms, conditions=Conditions(directory=b"/all"))
            command = (await channel_of(run)).command
            assert command is not None
            assert command.directory == directory
            await run.end_all()

    play(scenario)


def test_the_environment_of_a_job_does_not_hide_clstrs_own() -> None:
    async def scenario() -> None:
        run = Play({"n1": 1}, one(environment=(("A", b""), ("CLSTR_JOB", b"99"))))
        command = (await channel_of(run)).command
        assert command is not None
        assert command.environment[0] == ("A", b"")
        assert dict(command.environment)["CLSTR_JOB"] == "1"
        await run.end_all()

    play(scenario)


def test_a_value_that_no_node_takes_fails_the_job_and_blames_nobody() -> None:
    async def scenario() -> None:
        run = Play({"n1": 1}, [*one(environment=(("A", b"1\n2"),)), "y"])
        run.begin()
        await run.end_all()
        why = "environment: the value of A holds a newline or NUL, which no node takes"
        assert [(event.job.id, event.why) for event in run.heard if isinstance(event, Failed)] == [(1, why)]
        assert not any(isinstance(event, Evicted) for event in run.heard)

    play(scenario)


@pytest.mark.parametrize(("own", "limit"), [(0.01, 1000.0), (0.01, None), (None, 0.01)])
def test_a_jobs_own_time_limit_takes_the_place_of_the_common_one(own: float | None, limit: float | None) -> None:
    async def scenario() -> None:
        run = Play({"n1": 1}, one(timeout=own), conditions=Conditions(timeout=limit))
        run.begin()
        await run.finish()
        assert run.outcomes(1) == [TimedOut(0.01)]

    play(scenario)


def test_what_is_sent_are_the_parts_with_the_node_in_its_place() -> None:
    async def scenario() -> None:
        job = Job(1, b"ping {MACHINE} {SECRET}", parts=(b"ping ", Machine.MACHINE, b" s3cr3t"))
        run = Play({"u@n1:22": 1}, [job])
        run.begin()
        await run.channel_of("ping u@n1:22 s3cr3t")
        await run.end_all()

    play(scenario)


def test_an_input_is_open_while_its_job_runs_and_not_longer(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"12345")

    async def scenario() -> None:
        run = Play({"n1": 1}, one(input=str(tmp_path / "in")))
        command = (await channel_of(run)).command
        assert command is not None
        assert command.input is not None
        assert (command.input.size, await command.input.read(2)) == (5, b"345")
        await run.end_all()
        with pytest.raises(ValueError, match="closed"):
            await command.input.read(0)

    play(scenario)


@pytest.mark.parametrize(
    ("name", "why"),
    [("none", "No such file or directory"), ("", "is not a regular file"), ("fifo", "is not a regular file")],
)
def test_an_input_that_cannot_be_read_fails_its_job_and_blames_nobody(name: str, why: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    path = str(tmp_path / name)

    async def scenario() -> None:
        run = Play({"n1": 1}, [*one(input=path), "y"])
        run.begin()
        await run.end_all()
        ended = [event.outcome for event in run.heard if isinstance(event, Ended)]
        assert ended[0] == Refused(f"{path}: {why}")
        assert [event.job.id for event in run.heard if isinstance(event, Done)] == [2]
        assert not any(isinstance(event, Evicted) for event in run.heard)

    play(scenario)


def test_no_input_at_all_is_the_null_device() -> None:
    async def scenario() -> None:
        run = Play({"n1": 1}, one(input="/dev/null"))
        command = (await channel_of(run)).command
        assert command is not None
        assert command.input is not None
        assert command.input.size == 0
        await run.end_all()

    play(scenario)
