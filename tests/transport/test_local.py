"""The local transport's own promises; what it shares with the others stands in the contract suite."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import clstr.transport.local
import clstr.transport.process
from clstr.model import Exited, Flow, Killed, Lost, Node, NotStarted, Outcome
from clstr.transport import Command
from clstr.transport.local import LocalConnection, LocalTransport

DEADLINE = 30.0
"""Seconds that a fact may take before a test gives it up."""


class Heard:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.out = b""
        self.err = b""
        self.calls: list[str] = []
        self.flow: Flow | None = None
        self.changed = asyncio.Event()

    def begun(self, flow: Flow) -> None:
        self.flow = flow
        self.calls.append("begun")
        self.changed.set()

    def stdout(self, data: bytes) -> None:
        self.out += data
        self.calls.append("data")
        self.changed.set()

    def stderr(self, data: bytes) -> None:
        self.err += data
        self.calls.append("data")
        self.changed.set()

    def finished(self) -> None:
        self.calls.append("finished")

    async def until(self, fact: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not fact():
                self.changed.clear()
                await self.changed.wait()


def on_this_machine(test: Callable[[LocalConnection], Awaitable[None]]) -> None:
    async def main() -> None:
        transport = LocalTransport()
        connection = await transport.connect(Node(":", ":"))
        async with asyncio.timeout(2 * DEADLINE):
            await test(connection)
        connection.close()
        await transport.close()

    asyncio.run(main())


def run(line: bytes, **more: bytes) -> tuple[Outcome, bytes, bytes]:
    heard: list[tuple[Outcome, bytes, bytes]] = []

    async def test(connection: LocalConnection) -> None:
        sink = Heard()
        outcome = await (await connection.channel()).run(Command(line, **more), sink)  # type: ignore[arg-type]
        assert sink.calls[0] == "begun"
        assert sink.calls.count("begun") == sink.calls.count("finished") == 1
        assert sink.calls[-1] == "finished"
        heard.append((outcome, sink.out, sink.err))

    on_this_machine(test)
    return heard[0]


def living(text: str) -> list[int]:
    """Processes with the text in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (
                text.encode() in (path / "environ").read_bytes()
                and "Z" not in (path / "stat").read_text().split()
            ):
                found.append(int(path.name))
    return found


def until(fact: Callable[[], object], what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not fact():
        assert time.monotonic() < end, f"not within {DEADLINE:g} s: {what}"
        time.sleep(0.01)


def test_a_job_ends_as_its_shell_ends() -> None:
    assert run(b"echo out; echo err >&2; exit 7") == (Exited(7), b"out\n", b"err\n")
    assert run(b"kill -9 $$") == (Killed("KILL"), b"", b"")
    assert run(b"exec true")[0] == Exited(0)


def test_a_job_has_clstrs_directory_and_environment_and_no_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_CLSTR", "kept")
    assert run(b"pwd; echo $OF_CLSTR; cat") == (Exited(0), f"{os.getcwd()}\nkept\n".encode(), b"")
    assert run(b"pwd", directory=b"/usr")[1] == b"/usr\n"
    assert run(b"pwd", directory=b"/nonexistent")[0] == Exited(1)


def test_a_job_is_in_a_session_of_its_own() -> None:
    _, out, _ = run(b"cut -d' ' -f5,6 /proc/$$/stat; echo $$")
    group, session, leader = out.split()
    assert group == session == leader


def test_three_megabytes_arrive_whole() -> None:
    outcome, out, err = run(b"head -c 3000000 /dev/zero; head -c 100000 /dev/zero >&2")
    assert (outcome, len(out), len(err)) == (Exited(0), 3_000_000, 100_000)


def test_a_child_that_keeps_the_output_holds_the_job_no_longer_than_it_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clstr.transport.process, "LINGER", 0.5)
    line = b"(sleep 0.3; echo one; sleep 0.3; echo two; sleep 0.3; echo three; sleep 1000) & echo $!; exit 4"
    outcome, out, _ = run(line)
    child, *words = out.split()
    os.kill(int(child), 0)  # left alone
    os.kill(int(child), signal.SIGKILL)
    assert (outcome, words) == (Exited(4), [b"one", b"two", b"three"])


def test_a_sink_that_takes_nothing_stops_the_job_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clstr.transport.process, "LINGER", 0.2)

    async def test(connection: LocalConnection) -> None:
        sink = Heard()
        running = asyncio.ensure_future((await connection.channel()).run(Command(b"seq 200000"), sink))
        await sink.until(lambda: sink.flow)
        assert sink.flow is not None
        sink.flow.pause()
        sink.flow.pause()
        held = len(sink.out)
        await asyncio.sleep(0.5)  # longer than silence would end it
        assert len(sink.out) == held
        assert not running.done()
        sink.flow.resume()
        sink.flow.resume()
        assert await running == Exited(0)
        assert sink.out == b"".join(b"%d\n" % n for n in range(1, 200001))

    on_this_machine(test)


def test_output_held_back_when_the_job_ended_is_not_taken_for_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clstr.transport.process, "LINGER", 0.2)

    async def test(connection: LocalConnection) -> None:
        class Held(Heard):
            def begun(self, flow: Flow) -> None:
                super().begun(flow)
                flow.pause()

        sink = Held()
        running = asyncio.ensure_future(
            (await connection.channel()).run(Command(b"sleep 0.1; echo late"), sink)
        )
        await sink.until(lambda: sink.flow)
        await asyncio.sleep(0.6)
        assert not running.done()
        assert sink.flow is not None
        sink.flow.resume()
        assert (await running, sink.out) == (Exited(0), b"late\n")

    on_this_machine(test)


def test_kill_ends_the_whole_group_and_the_sibling_runs_on() -> None:
    async def test(connection: LocalConnection) -> None:
        sinks = Heard(), Heard()
        channels = [await connection.channel() for _ in sinks]
        # The second is started while the first runs: it must not inherit the first one's end of the leash.
        line = b"sh -c 'sleep 1000; :' | cat & echo ready; wait"
        first, second = (
            asyncio.ensure_future(channel.run(Command(line, (("OF_JOB", f"job {n}"),)), sink))
            for n, (channel, sink) in enumerate(zip(channels, sinks, strict=True))
        )
        for sink in sinks:
            await sink.until(lambda sink=sink: sink.out == b"ready\n")
        channels[0].kill()
        assert await first == Killed("TERM")
        until(lambda: not living("OF_JOB=job 0"), "the first job's end")
        assert living("OF_JOB=job 1")
        assert not second.done()
        channels[1].close()
        assert await second == Lost("closed")
        until(lambda: not living("OF_JOB=job 1"), "the second job's end")

    on_this_machine(test)


def test_what_ignores_the_first_signal_is_killed_after_the_grace() -> None:
    async def test(connection: LocalConnection) -> None:
        sink = Heard()
        channel = await connection.channel()
        line = b"trap '' TERM; echo ready; while :; do sleep 1; done"
        running = asyncio.ensure_future(channel.run(Command(line), sink))
        await sink.until(lambda: sink.out)
        channel.kill()
        channel.kill()
        assert await running == Killed("KILL")

    on_this_machine(test)


def test_a_channel_killed_before_its_use_starts_nothing() -> None:
    async def test(connection: LocalConnection) -> None:
        sink = Heard()
        channel = await connection.channel()
        channel.kill()
        assert isinstance(await channel.run(Command(b"echo ran"), sink), NotStarted)
        assert sink.calls == []

    on_this_machine(test)


def test_closing_the_connection_ends_its_jobs_at_once() -> None:
    async def test(connection: LocalConnection) -> None:
        sink = Heard()
        line = b"trap '' TERM; echo ready; while :; do sleep 1; done"
        running = asyncio.ensure_future((await connection.channel()).run(Command(line), sink))
        await sink.until(lambda: sink.out)
        connection.close()
        connection.close()
        assert isinstance(await running, Lost)
        assert connection.lost.cancelled()
        assert sink.calls[-1] == "finished"

    on_this_machine(test)


def test_a_cancelled_run_terminates_its_job() -> None:
    async def test(connection: LocalConnection) -> None:
        sink = Heard()
        command = Command(b"echo ready; sleep 1000; :", (("OF_JOB", "cancelled"),))
        running = asyncio.ensure_future((await connection.channel()).run(command, sink))
        await sink.until(lambda: sink.out)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        until(lambda: not living("OF_JOB=cancelled"), "the job's end")

    on_this_machine(test)


def test_a_machine_that_has_no_room_for_a_process_has_not_started_the_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(connection: LocalConnection) -> None:
        sink = Heard()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        channel = await connection.channel()
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), limits[1]))
        try:
            outcome = await channel.run(Command(b"echo ran"), sink)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert outcome == NotStarted("cannot start a process: Too many open files")
        assert sink.calls == []

    on_this_machine(test)


def test_a_shell_that_does_not_say_the_word_has_not_started_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clstr.transport.local, "WRAPPER", b"echo no room >&2; exit 3")

    async def test(connection: LocalConnection) -> None:
        outcome = await (await connection.channel()).run(Command(b"echo ran"), Heard())
        assert outcome == NotStarted("/bin/sh ended with status 3 no room")

    on_this_machine(test)


def test_it_works_where_the_kernel_has_no_pidfd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    assert run(b"echo out; exit 7") == (Exited(7), b"out\n", b"")


def test_a_long_job_arrives_whole() -> None:
    line = b"echo '" + b"x" * 100_000 + b"'"
    assert run(line) == (Exited(0), b"x" * 100_000 + b"\n", b"")


def test_no_descriptor_is_left_over() -> None:
    async def test(connection: LocalConnection) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            await (await connection.channel()).run(Command(b"echo x"), Heard())
        assert len(os.listdir("/proc/self/fd")) == before

    on_this_machine(test)


CLSTR = """
import asyncio
from clstr.model import Node
from clstr.transport import Command
from clstr.transport.local import LocalTransport

class Sink:
    def begun(self, flow): print("begun", flush=True)
    def stdout(self, data): pass
    def stderr(self, data): pass
    def finished(self): pass

async def main():
    connection = await LocalTransport().connect(Node(":", ":"))
    command = Command(b"sh -c 'sleep 1000; :' | cat", (("OF_JOB", "of a killed clstr"),))
    await asyncio.gather(*[(await connection.channel()).run(command, Sink()) for _ in range(3)])

asyncio.run(main())
"""


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_however_clstr_ends_its_jobs_end(ending: signal.Signals) -> None:
    clstr = subprocess.Popen(
        [sys.executable, "-c", CLSTR],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    )
    assert clstr.stdout is not None
    for _ in range(3):
        assert clstr.stdout.readline() == b"begun\n"
    assert living("OF_JOB=of a killed clstr")
    clstr.send_signal(ending)
    clstr.communicate(timeout=DEADLINE)
    until(lambda: not living("OF_JOB=of a killed clstr"), "the jobs' end")
