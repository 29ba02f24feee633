"""The contract of clstr.transport, proved over every transport and every kind of node.

A scenario is an async function of a Rig: a live node, a transport and a connection. ``on_every_kind`` makes a
test of it for each kind; ``on_all_kinds_at_once`` runs a scenario that has to wait for a grace on all together.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import os
import random
import re
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cluster.sshd import Cluster

from clstr.model import Exited, Flow, Killed, Lost, Node, NotStarted, Outcome, Refused, Stopped
from clstr.transport import (
    MAX_COMMAND,
    CannotConnect,
    Command,
    Connection,
    FetchFailed,
    Input,
    Landing,
    Transport,
    ssh,
)
from clstr.transport.external import ExternalSettings, ExternalTransport, split
from clstr.transport.local import LocalTransport
from clstr.transport.ssh import SshSettings, SshTransport

REMOTE = ["practice", "sshd", "sshd with a guard", "sshd with 2 sessions", "sshd without leash"]
"""Kinds whose connection is something that can be lost."""
KINDS = ["local", *REMOTE, "client", "client with {HOST}"]
LEASHED = [kind for kind in KINDS if "without leash" not in kind]
TELLING = [kind for kind in KINDS if kind != "client"]
"""All but ssh(1), which names no signal and tells the status when the last byte has come, not before."""
FED = [*KINDS, "client without leash"]
"""Kinds that a job's standard input takes ways of its own to."""
TOOL = "/bin/sh -c 'shift; exec /bin/sh -c \"$1\"' tool {HOST}"
"""A client with its own order of words, whose nodes are all this machine."""
PATIENCE = 60.0
"""Seconds after which a scenario has failed; nothing that works comes near."""


@dataclass
class Recorder:
    """A sink that keeps everything, and insists on the order that the protocol promises."""

    hold: bool = False
    out: bytearray = field(default_factory=bytearray)
    err: bytearray = field(default_factory=bytearray)
    flow: Flow | None = None
    over: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def begun(self, flow: Flow) -> None:
        assert self.flow is None, "begun twice"
        self.flow = flow
        if self.hold:
            flow.pause()
        self.changed.set()

    def stdout(self, data: bytes) -> None:
        self._take(self.out, data)

    def stderr(self, data: bytes) -> None:
        self._take(self.err, data)

    def finished(self) -> None:
        assert self.flow, "finished without having begun"
        assert not self.over, "finished twice"
        self.over = True
        self.changed.set()

    def _take(self, stream: bytearray, data: bytes) -> None:
        assert self.flow, "data before begun"
        assert not self.over, "data after finished"
        stream += data
        self.changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until the condition, which only this sink's calls can change, holds."""
        while not condition():
            self.changed.clear()
            await self.changed.wait()


@dataclass
class Rig:
    """A live node and a way to it. Jobs begin in ``start_directory`` and may write into ``place``."""

    kind: str
    transport: Transport
    node: Node
    start_directory: Path
    place: Path
    break_links: Callable[[], None]
    leftovers: Callable[[], object]  # wrappers and jobs that live on the node, where that can be known
    connection: Connection = field(init=False)

    async def run(self, line: str | bytes, **command: object) -> tuple[Outcome, bytes, bytes]:
        """A job's outcome, stdout and stderr."""
        sink = Recorder()
        outcome = await self.start(line, sink, **command)
        assert sink.over
        return outcome, bytes(sink.out), bytes(sink.err)

    async def start(self, line: str | bytes, sink: Recorder, **command: object) -> Outcome:
        channel = await self.connection.channel()
        return await channel.run(as_command(line, **command), sink)


def as_command(line: str | bytes, **command: object) -> Command:
    return Command(line.encode() if isinstance(line, str) else line, **command)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def live(kind: str, request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    """A connected rig of this kind."""
    async with contextlib.AsyncExitStack() as stack:
        if kind in ("local", "client with {HOST}"):
            transport: Transport = LocalTransport()
            if kind != "local":
                transport = ExternalTransport(ExternalSettings(split(TOOL)))
            place = request.getfixturevalue("tmp_path")
            rig = Rig(kind, transport, Node(":", ":"), Path.cwd(), place, lambda: None, lambda: None)
        elif kind == "practice":
            script = request.getfixturevalue("practice")
            cluster = await stack.enter_async_context(script.practice_cluster(nodes=1))
            machine, node = cluster.nodes[0], Node("n1", "n1")
            home = machine.home
            transport = SshTransport(SshSettings(str(cluster.config)))
            rig = Rig(kind, transport, node, home, home, machine.disconnect, lambda: machine.starting | machine.running)
        else:
            start = request.getfixturevalue("cluster")
            sessions = 2 if "2 sessions" in kind else None
            cluster = start(nodes=1, max_sessions=sessions, extra_config="Subsystem sftp internal-sftp")
            leash = "without leash" not in kind
            if kind.startswith("client"):
                transport = ExternalTransport(ExternalSettings(split(f"ssh -F {cluster.ssh_config}"), leash=leash))
            else:
                transport = SshTransport(SshSettings(str(cluster.ssh_config), leash=leash))
            account, node = cluster.account, Node("n1", "n1")
            links = functools.partial(cluster.kill_connections, 1)
            rig = Rig(kind, transport, node, account.start, account.home, links, lambda: jobs_of(cluster))
        rig.connection = await rig.transport.connect(rig.node)
        if "guard" in kind:
            await post_guard(rig)
        try:
            yield rig
        finally:
            rig.connection.close()
            await rig.transport.close()


def jobs_of(cluster: Cluster) -> dict[int, str]:
    """What lives on its nodes, but for guards, which live as long as their connections."""
    return {pid: line for pid, line in cluster.jobs().items() if "clstr-guards" not in line}


async def post_guard(rig: Rig) -> None:
    """Have a guard on the rig's connection, and nothing else."""
    assert (await rig.run("true"))[0] == Exited(0)
    spare = rig.connection.spare()
    assert spare is not None
    (await spare).close()
    assert isinstance(rig.connection, ssh.SshConnection)
    (link,) = rig.connection._links
    await eventually(lambda: link.guard.number)
    await eventually(lambda: not rig.leftovers())


Scenario = Callable[[Rig], Awaitable[None]]


async def play(scenario: Scenario, kind: str, request: pytest.FixtureRequest) -> None:
    try:
        async with asyncio.timeout(PATIENCE), live(kind, request) as rig:
            await scenario(rig)
    except Exception as error:
        error.add_note(f"on {kind}")
        raise


def on_every_kind(kinds: list[str] = KINDS) -> Callable[[Scenario], Callable[..., None]]:
    def as_test(scenario: Scenario) -> Callable[..., None]:
        @pytest.mark.parametrize("kind", kinds)
        def test(kind: str, request: pytest.FixtureRequest) -> None:
            asyncio.run(play(scenario, kind, request))

        return test

    return as_test


def on_all_kinds_at_once(kinds: list[str] = KINDS) -> Callable[[Scenario], Callable[..., None]]:
    def as_test(scenario: Scenario) -> Callable[..., None]:
        def test(request: pytest.FixtureRequest) -> None:
            request.getfixturevalue("cluster")  # a skip cannot leave a TaskGroup as one

            async def together() -> None:
                async with asyncio.TaskGroup() as group:
                    for kind in kinds:
                        group.create_task(play(scenario, kind, request))

            asyncio.run(together())

        return test

    return as_test


def a_number() -> int:
    """Seconds to sleep that no other process sleeps: how a job's processes are found."""
    return random.randrange(10**8, 10**9)


def sleepers(number: int) -> set[int]:
    """The live processes that sleep so long, or wait to do so."""
    found = set()
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(number).encode() in directory.joinpath("cmdline").read_bytes():
                found.add(int(directory.name))
    return found


async def eventually(condition: Callable[[], object]) -> None:
    """Wait for something outside the process; ``play`` limits it."""
    while not condition():  # noqa: ASYNC110 - nothing here can tell
        await asyncio.sleep(0.02)


# --- how a job ends ------------------------------------------------------------------------------------------


@on_every_kind()
async def test_the_exit_status_is_the_outcome(rig: Rig) -> None:
    for status in (0, 1, 7, 127, 255):
        assert (await rig.run(f"exit {status}"))[0] == Exited(status)


@on_every_kind()
async def test_the_last_command_gives_the_status(rig: Rig) -> None:
    assert (await rig.run("true"))[0] == Exited(0)
    assert (await rig.run("true; false"))[0] == Exited(1)


@on_every_kind(TELLING)
async def test_a_death_by_signal_is_named(rig: Rig) -> None:
    assert (await rig.run("kill -9 $$"))[0] == Killed("KILL")
    assert (await rig.run("kill -TERM $$"))[0] == Killed("TERM")


@on_every_kind()
async def test_a_command_that_does_not_exist_exits_with_127(rig: Rig) -> None:
    outcome, out, err = await rig.run("/no/such/command")
    assert (outcome, out) == (Exited(127), b"")
    assert b"/no/such/command" in err


# --- its bytes -----------------------------------------------------------------------------------------------


@on_every_kind()
async def test_three_megabytes_arrive_whole_on_both_streams(rig: Rig) -> None:
    outcome, out, err = await rig.run("seq 430000 & seq 430000 >&2; wait")
    numbers = "".join(f"{n}\n" for n in range(1, 430001)).encode()
    assert outcome == Exited(0)
    assert out == numbers
    assert err == numbers


@on_every_kind()
async def test_every_byte_passes_unchanged(rig: Rig) -> None:
    assert (await rig.run(f"printf '{''.join(f'{chr(92)}{n:03o}' for n in range(256))}'"))[1] == bytes(range(256))


@on_every_kind()
async def test_a_missing_last_newline_stays_missing(rig: Rig) -> None:
    assert await rig.run("printf 'one\\ntwo'") == (Exited(0), b"one\ntwo", b"")


@on_every_kind()
async def test_stderr_is_apart_from_stdout(rig: Rig) -> None:
    assert await rig.run("echo out; echo err >&2") == (Exited(0), b"out\n", b"err\n")


@on_every_kind()
async def test_standard_input_is_empty(rig: Rig) -> None:
    assert await rig.run("cat; read line || echo end") == (Exited(0), b"end\n", b"")


@on_every_kind()
async def test_a_silent_job_begins_and_finishes(rig: Rig) -> None:
    assert await rig.run(":") == (Exited(0), b"", b"")


# --- what it is given ----------------------------------------------------------------------------------------


@on_every_kind()
async def test_quotes_newlines_and_dollars_reach_the_shell_as_they_are(rig: Rig) -> None:
    line = 'x=\'a "b" \\ $HOME\'\nprintf \'%s\\n\' "$x"  "c\nd" # the end\n\necho "e!"'
    assert await rig.run(line) == (Exited(0), b'a "b" \\ $HOME\nc\nd\ne!\n', b"")


@on_every_kind()
async def test_bytes_that_are_not_utf8_reach_the_shell_as_they_are(rig: Rig) -> None:
    assert await rig.run(b"printf '%s' '\xff\xfe\x80 \xe4'") == (Exited(0), b"\xff\xfe\x80 \xe4", b"")


@on_every_kind()
async def test_the_longest_command_runs(rig: Rig) -> None:
    padding = "x" * (MAX_COMMAND - 200)
    assert await rig.run(f": {padding}; echo ran") == (Exited(0), b"ran\n", b"")


@on_every_kind(LEASHED)
async def test_the_environment_is_set(rig: Rig) -> None:
    settings = (("CLSTR_NODE", "user@n1:22"), ("CLSTR_JOB", "12"), ("CLSTR_ODD", "it's \"$x\" `y` \\"))
    outcome, out, _ = await rig.run('printf "%s\\n" "$CLSTR_NODE" "$CLSTR_JOB" "$CLSTR_ODD"', environment=settings)
    assert outcome == Exited(0)
    assert out.decode().splitlines() == [value for _, value in settings]


@on_every_kind()
async def test_the_directory_is_entered(rig: Rig) -> None:
    directory = rig.place / f"it's place {a_number()}"
    made, _, _ = await rig.run(f'mkdir "{directory}"')
    assert made == Exited(0)
    assert await rig.run("pwd", directory=os.fsencode(directory)) == (Exited(0), f"{directory}\n".encode(), b"")


@on_every_kind()
async def test_a_missing_directory_ends_the_job_with_1_and_runs_nothing(rig: Rig) -> None:
    outcome, out, err = await rig.run("echo ran", directory=b"/no/such/directory")
    assert (outcome, out) == (Exited(1), b"")
    assert b"/no/such/directory" in err


@on_every_kind()
async def test_without_a_directory_a_job_starts_where_the_transport_starts(rig: Rig) -> None:
    assert (await rig.run("pwd"))[1] == f"{rig.start_directory}\n".encode()


# --- ending it -----------------------------------------------------------------------------------------------


@on_every_kind()
async def test_kill_ends_the_whole_process_group(rig: Rig) -> None:
    number, sink = a_number(), Recorder()
    channel = await rig.connection.channel()
    job = f"(sleep {number} & sleep {number}; wait) & sleep {number} | cat & echo up; wait"
    running = asyncio.create_task(channel.run(as_command(job), sink))
    await sink.until(lambda: sink.out == b"up\n")
    await eventually(lambda: len(sleepers(number)) >= 3)
    channel.kill()
    assert await running == Killed("TERM")
    await eventually(lambda: not sleepers(number))


@on_every_kind()
async def test_kill_lets_every_member_of_the_group_tidy_up(rig: Rig) -> None:
    sink = Recorder()
    channel = await rig.connection.channel()
    child = "(trap 'echo tidied; exit' TERM; echo up; while :; do sleep .05; done)"
    running = asyncio.create_task(channel.run(as_command(f"{child} & {child} & wait"), sink))
    await sink.until(lambda: sink.out == b"up\nup\n")
    channel.kill()
    assert await running == Killed("TERM")
    assert sink.out == b"up\nup\ntidied\ntidied\n"


@on_all_kinds_at_once()
async def test_a_group_that_ignores_term_is_killed_after_the_grace(rig: Rig) -> None:
    number, sink = a_number(), Recorder()
    channel = await rig.connection.channel()
    job = f'trap "" TERM HUP INT; sleep {number} & echo up; while :; do sleep {number}; done'
    running = asyncio.create_task(channel.run(as_command(job), sink))
    await sink.until(lambda: sink.out == b"up\n")
    await eventually(lambda: len(sleepers(number)) >= 2)
    channel.kill()
    assert await running == Killed("KILL")
    await eventually(lambda: not sleepers(number))


@on_all_kinds_at_once(LEASHED)  # without it sshd has nobody left to signal once the shell is gone
async def test_children_that_ignore_term_are_killed_when_their_shell_is_gone(rig: Rig) -> None:
    number, sink = a_number(), Recorder()
    channel = await rig.connection.channel()
    job = f'(trap "" TERM; exec >/dev/null 2>&1; sleep {number}) & sleep {number} & echo up; wait'
    running = asyncio.create_task(channel.run(as_command(job), sink))
    await sink.until(lambda: sink.out == b"up\n")
    await eventually(lambda: len(sleepers(number)) >= 2)
    channel.kill()
    assert await running == Killed("TERM")
    await eventually(lambda: not sleepers(number))


@on_every_kind()
async def test_kill_leaves_other_jobs_alone(rig: Rig) -> None:
    number, doomed, other = a_number(), Recorder(), Recorder()
    channel, neighbour = await rig.connection.channel(), await rig.connection.channel()
    running = asyncio.create_task(channel.run(as_command(f"echo up; sleep {number}; :"), doomed))
    go = rig.place / f"go-{number}"
    beside = asyncio.create_task(
        neighbour.run(as_command(f"echo up; while [ ! -e {go} ]; do sleep .05; done; echo end"), other)
    )
    await doomed.until(lambda: doomed.out)
    await other.until(lambda: other.out)
    channel.kill()
    assert await running == Killed("TERM")
    assert (await rig.run(f"touch {go}"))[0] == Exited(0)
    assert await beside == Exited(0)
    assert other.out == b"up\nend\n"


@on_every_kind()
async def test_kill_after_the_end_does_nothing(rig: Rig) -> None:
    channel = await rig.connection.channel()
    assert await channel.run(as_command("exit 3"), Recorder()) == Exited(3)
    channel.kill()
    channel.close()
    assert (await rig.run("exit 4"))[0] == Exited(4)


@on_every_kind()
async def test_what_a_killed_job_says_last_is_heard(rig: Rig) -> None:
    sink = Recorder()
    channel = await rig.connection.channel()
    job = "trap 'echo tidied; exit 9' TERM; echo up; while :; do sleep .05; done"
    running = asyncio.create_task(channel.run(as_command(job), sink))
    await sink.until(lambda: sink.out)
    channel.kill()
    assert await running == Exited(9)
    assert sink.out == b"up\ntidied\n"


@on_every_kind(LEASHED)
async def test_closing_the_channel_ends_run_at_once_and_the_job_too(rig: Rig) -> None:
    number, sink = a_number(), Recorder()
    channel = await rig.connection.channel()
    running = asyncio.create_task(channel.run(as_command(f"echo up; sleep {number} & wait"), sink))
    await sink.until(lambda: sink.out)
    await eventually(lambda: sleepers(number))
    channel.close()
    assert isinstance(await running, Lost | Stopped | Killed)
    assert sink.over
    await eventually(lambda: not sleepers(number))
    assert (await rig.run("echo next"))[1] == b"next\n"


@on_every_kind()
async def test_a_job_that_ended_keeps_its_background_children(rig: Rig) -> None:
    number = a_number()
    outcome, _, _ = await rig.run(f"sleep {number} >/dev/null 2>&1 & echo left")
    assert outcome == Exited(0)
    await rig.run("true")
    (child,) = sleepers(number)
    os.kill(child, signal.SIGKILL)


@on_every_kind()
async def test_what_a_child_prints_soon_after_the_exit_is_heard(rig: Rig) -> None:
    assert await rig.run("(sleep .5; echo late) & echo early; exit 3") == (Exited(3), b"early\nlate\n", b"")


@on_all_kinds_at_once(TELLING)
async def test_a_child_that_holds_stdout_does_not_hold_the_job_for_ever(rig: Rig) -> None:
    number = a_number()
    assert await rig.run(f"sleep {number} & echo over; exit 4") == (Exited(4), b"over\n", b"")
    (child,) = sleepers(number)
    os.kill(child, signal.SIGKILL)


# --- flow control --------------------------------------------------------------------------------------------


def written_by(pid: int) -> int:
    """Bytes that the process has written so far."""
    return int(Path(f"/proc/{pid}/io").read_text().split("wchar: ")[1].split()[0])


@on_every_kind()
async def test_a_paused_job_blocks_and_a_resumed_one_gives_everything(rig: Rig) -> None:
    size, sink = 30_000_000 + random.randrange(10**6), Recorder(hold=True)
    running = asyncio.create_task(rig.start(f"head -c {size} /dev/zero; :", sink))
    await sink.until(lambda: sink.flow)
    await eventually(lambda: any(is_head(pid) for pid in sleepers(size)))
    (head,) = (pid for pid in sleepers(size) if is_head(pid))

    async def stands_still() -> int:
        before = -1
        while before != (before := written_by(head)) or not before:  # noqa: ASYNC110 - nothing here can tell
            await asyncio.sleep(0.3)
        return before

    window = 3_000_000 if rig.kind == "client" else 2_000_000  # ssh(1) takes 2 MiB ahead
    assert await stands_still() < window
    assert len(sink.out) < 2_000_000
    assert (await rig.run("echo meanwhile"))[1] == b"meanwhile\n"
    assert sink.flow
    sink.flow.resume()
    assert await running == Exited(0)
    assert len(sink.out) == size


def is_head(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text() == "head\n"
    except OSError:
        return False


@on_every_kind()
async def test_a_paused_job_that_has_ended_still_gives_everything(rig: Rig) -> None:
    size, sink = 50_000, Recorder(hold=True)
    running = asyncio.create_task(rig.start(f"head -c {size} /dev/zero; touch {rig.place}/written", sink))
    await sink.until(lambda: sink.flow)
    await eventually((rig.place / "written").exists)
    (rig.place / "written").unlink()
    assert sink.flow
    sink.flow.resume()
    assert await running == Exited(0)
    assert len(sink.out) == size


# --- its own standard input ----------------------------------------------------------------------------------


class Held(Input):
    """An input whose second piece does not come before it is asked for twice."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.waits, self.go_on = asyncio.Event(), asyncio.Event()

    async def read(self, offset: int) -> bytes:
        if offset:
            self.waits.set()
            await self.go_on.wait()
        return await super().read(offset)


@contextlib.contextmanager
def holding(data: bytes, kind: type[Input] = Input) -> Iterator[Input]:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        with contextlib.closing(kind(file.name)) as opened:
            yield opened


def append(path: str, data: bytes) -> None:
    with open(path, "ab") as file:
        file.write(data)


def spooled(rig: Rig) -> list[Path]:
    """The files in which inputs are kept, where TMPDIR is the rig's place."""
    return list(rig.place.glob("clstr.*"))


@on_every_kind(FED)
async def test_a_job_reads_its_input_to_its_end(rig: Rig) -> None:
    data = bytes(range(256)) * 1200 + b"no newline"
    with holding(data) as source:
        assert await rig.run("cat; echo end >&2", input=source) == (Exited(0), data, b"end\n")


@on_every_kind(FED)
async def test_an_empty_input_is_none(rig: Rig) -> None:
    with holding(b"") as source:
        assert await rig.run("cat; echo end", input=source) == (Exited(0), b"end\n", b"")


@on_every_kind(FED)
async def test_fifty_megabytes_of_input_arrive_whole(rig: Rig) -> None:
    data = random.randbytes(50_000_000)
    with holding(data) as source:
        outcome, out, _ = await rig.run("sha256sum", input=source)
    assert (outcome, out.split()[0].decode()) == (Exited(0), hashlib.sha256(data).hexdigest())


@on_every_kind(FED)
async def test_a_job_need_not_read_its_input(rig: Rig) -> None:
    with holding(bytes(5_000_000)) as source:
        assert (await rig.run("exec <&-; echo ran", input=source))[:2] == (Exited(0), b"ran\n")
    assert (await rig.run("echo unharmed"))[1] == b"unharmed\n"


@on_every_kind(["sshd without leash"])
async def test_a_job_that_has_begun_may_come_to_its_input_late(rig: Rig) -> None:
    with holding(bytes(5_000_000), Held) as source, pytest.MonkeyPatch.context() as patch:  # more than a window
        running = asyncio.create_task(rig.run("sleep 1; wc -c", input=source))
        await source.waits.wait()
        patch.setattr(ssh, "ANSWER", 0.1)
        source.go_on.set()
        outcome, out, _ = await running
        assert (outcome, int(out)) == (Exited(0), 5_000_000)


@on_every_kind(FED)
async def test_jobs_with_and_without_input_run_beside_each_other(rig: Rig) -> None:
    with holding(b"12345" * 100_000) as source:
        jobs = [rig.run("wc -c", input=source), rig.run("wc -c"), rig.run("wc -c", input=source)]
        assert [int(out) for _, out, _ in await asyncio.gather(*jobs)] == [500_000, 0, 500_000]


@on_every_kind(FED)
async def test_what_is_appended_after_the_beginning_is_not_part_of_the_input(rig: Rig) -> None:
    with holding(b"a" * 100_000, Held) as source:
        running = asyncio.create_task(rig.run("wc -c", input=source))
        await source.waits.wait()
        append(source.path, b"more")
        source.go_on.set()
        outcome, out, _ = await running
        assert (outcome, int(out)) == (Exited(0), 100_000)


@on_every_kind(FED)
async def test_an_input_that_becomes_shorter_is_said_to_and_nothing_is_left(rig: Rig) -> None:
    with holding(b"a" * 200_000, Held) as source:
        sink = Recorder()
        running = asyncio.create_task(rig.start("cat >/dev/null", sink, input=source, environment=tmp(rig)))
        await source.waits.wait()
        os.truncate(source.path, 70_000)
        source.go_on.set()
        assert await running == Refused(f"{source.path}: has become shorter while it was read")
        await eventually(lambda: not spooled(rig) and not rig.leftovers())


def tmp(rig: Rig) -> tuple[tuple[str, str], ...]:
    return (("TMPDIR", str(rig.place)),)


@on_every_kind(LEASHED)
async def test_a_kill_while_the_input_is_on_its_way_runs_nothing_and_leaves_nothing(rig: Rig) -> None:
    with holding(b"a" * 200_000, Held) as source:
        sink, channel = Recorder(), await rig.connection.channel()
        command = as_command("echo ran", input=source, environment=tmp(rig))
        running = asyncio.create_task(channel.run(command, sink))
        await source.waits.wait()
        await eventually(lambda: spooled(rig))
        channel.kill()
        assert isinstance(await running, NotStarted)
        assert not sink.out
        await eventually(lambda: not spooled(rig) and not rig.leftovers())


@on_every_kind([kind for kind in REMOTE if kind in LEASHED])
async def test_a_connection_that_breaks_while_the_input_is_on_its_way_leaves_nothing(rig: Rig) -> None:
    with holding(b"a" * 200_000, Held) as source:
        sink = Recorder()
        running = asyncio.create_task(rig.start("echo ran", sink, input=source, environment=tmp(rig)))
        await source.waits.wait()
        await eventually(lambda: spooled(rig))
        rig.break_links()
        assert isinstance(await running, (Lost, NotStarted))
        await eventually(lambda: not spooled(rig) and not rig.leftovers())


@on_every_kind(FED)
async def test_a_job_with_input_is_killed_like_any_other(rig: Rig) -> None:
    number = a_number()
    with holding(bytes(3_000_000)) as source:
        sink, channel = Recorder(), await rig.connection.channel()
        command = as_command(f"wc -c; sleep {number}", input=source)
        running = asyncio.create_task(channel.run(command, sink))
        await sink.until(lambda: sink.out)
        await eventually(lambda: sleepers(number))
        channel.kill()
        assert await running != Exited(0)
        if "without leash" not in rig.kind:
            await eventually(lambda: not sleepers(number))
        for pid in sleepers(number):
            os.kill(pid, signal.SIGKILL)


# --- results -------------------------------------------------------------------------------------------------

SENDING = ["local", "sshd", "sshd with 2 sessions", "sshd without leash"]


async def fetched(rig: Rig, *names: str | bytes, directory: str | None = None, limit: int = 10**9) -> Copied:
    """What the names bring, in a directory of its own."""
    with tempfile.TemporaryDirectory() as place:
        fd = os.open(place, os.O_RDONLY)
        try:
            landing = Landing(fd, limit)
            where = os.fsencode(str(rig.place) if directory is None else directory)
            await rig.connection.fetch([os.fsencode(name) for name in names], where, landing)
            return Copied(tree(Path(place)), sorted(landing.left_out))
        finally:
            os.close(fd)


@dataclass
class Copied:
    files: dict[str, bytes | None]
    left_out: list[bytes]


def tree(top: Path) -> dict[str, bytes | None]:
    """All that is below, by its path: a file's bytes, None for a directory."""
    found = {}
    for path in top.rglob("*"):
        assert path.is_dir() or path.is_file()
        assert not path.is_symlink()
        found[str(path.relative_to(top))] = None if path.is_dir() else path.read_bytes()
    return found


async def make(rig: Rig, commands: str) -> None:
    """Run the commands in a place of this test's own: the accounts' homes are those of all tests."""
    if not rig.place.name.startswith("results-"):
        rig.place /= f"results-{a_number()}"
        await rig.run(f"mkdir {rig.place}")
    assert await rig.run(f"cd {rig.place} && {commands}") == (Exited(0), b"", b"")


@on_every_kind(SENDING)
async def test_a_file_a_directory_and_what_begins_so_are_copied(rig: Rig) -> None:
    await make(rig, "mkdir -p out/deep/er none; echo a >out/a; echo b >out/deep/er/b; : >out/empty")
    await make(rig, "echo 1 >run.csv; echo 2 >run.log; mkdir run.d; echo 3 >run.d/x; echo no >other")
    got = await fetched(rig, "out/", f"{rig.place}/run")
    assert got.files == {
        "out": None,
        "out/a": b"a\n",
        "out/deep": None,
        "out/deep/er": None,
        "out/deep/er/b": b"b\n",
        "out/empty": b"",
        "run.csv": b"1\n",
        "run.log": b"2\n",
        "run.d": None,
        "run.d/x": b"3\n",
    }
    assert (await fetched(rig, "none", "out/deep/er/b")).files == {"none": None, "b": b"b\n"}


@on_every_kind(SENDING)
async def test_large_files_arrive_whole(rig: Rig) -> None:
    _, out, _ = await rig.run(f"cd {rig.place} && head -c 3000001 /dev/urandom >big && sha256sum <big")
    (content,) = (await fetched(rig, "big")).files.values()
    assert content is not None
    assert hashlib.sha256(content).hexdigest() == out.split()[0].decode()


@on_every_kind(SENDING)
async def test_times_are_kept_and_what_may_be_run_still_may(rig: Rig) -> None:
    await make(rig, "mkdir d; echo >d/run; chmod 755 d/run; echo >d/set; chmod 6400 d/set; touch -t 200102030405 d/* d")
    with tempfile.TemporaryDirectory() as place:
        fd = os.open(place, os.O_RDONLY)
        await rig.connection.fetch([b"d"], os.fsencode(rig.place), Landing(fd, 1000))
        os.close(fd)
        found = {path.name: path.stat() for path in (Path(place) / "d", *(Path(place) / "d").iterdir())}
    assert {int(status.st_mtime) for status in found.values()} == {int(time.mktime((2001, 2, 3, 4, 5, 0, 0, 0, -1)))}
    assert found["run"].st_mode & 0o100
    assert not found["set"].st_mode & 0o7111


@on_every_kind(SENDING)
async def test_links_and_devices_are_left_out_and_an_endless_pipe_is_not_waited_for(rig: Rig) -> None:
    await make(rig, "mkdir d; echo x >d/file; ln -s /etc d/etc; ln -s file d/again; ln -s none d/broken; mkfifo d/pipe")
    got = await fetched(rig, "d")
    assert got.files == {"d": None, "d/file": b"x\n"}
    assert len(got.left_out) == 3  # as many as are named


@on_every_kind(SENDING)
async def test_what_cannot_be_copied_says_so(rig: Rig) -> None:
    await make(rig, "mkdir -p a/x b/x; echo >a/y; echo >b/y; ln -s a link; mkfifo pipe; echo 12345 >long")
    for names, why in (
        (["none"], "'none': nothing there has this name or begins with it"),
        (["a/none"], "'a/none': nothing there"),
        (["none/"], "'none/': nothing there"),
        (["none/x"], "'none/x': nothing there"),
        (["a/y", "b/y"], "have one name"),
        (["a/", "b/x", "a/x"], "have one name"),
        (["link"], "'link': is neither a file nor a directory, and links are not followed"),
        (["pipe"], "'pipe': is neither"),
        (["."], "'.': is no name"),
        (["a/.."], "'a/..': is no name"),
        (["/"], "'/': is no name"),
        (["a\0b"], "is no name"),
        ([b"x" * 5000], "is no name"),
    ):
        with pytest.raises(FetchFailed, match=re.escape(why)):
            await fetched(rig, *names)
    with pytest.raises(FetchFailed, match=r"^more than 5 bytes \(see --results-limit\)$"):
        await fetched(rig, "long", limit=5)
    assert (await fetched(rig, "long", limit=6)).files == {"long": b"12345\n"}
    assert (await fetched(rig, "long", "long")).files == {"long": b"12345\n"}


@on_every_kind(SENDING)
async def test_names_of_any_bytes_but_controls_are_kept(rig: Rig) -> None:
    await make(rig, "mkdir d; echo x >'d/ $HOME \"*? \\'; printf 'd/\\377' | xargs touch")
    got = await fetched(rig, "d")
    assert got.files == {"d": None, 'd/ $HOME "*? \\': b"x\n", os.fsdecode(b"d/\xff"): b""}
    await make(rig, "touch 'd/a\nb'")
    with pytest.raises(FetchFailed, match="d': a name there is none for a file here"):
        await fetched(rig, "d")


@on_every_kind(SENDING)
async def test_relative_names_begin_where_the_job_did(rig: Rig) -> None:
    await make(rig, "mkdir -p in; echo x >in/file")
    assert (await fetched(rig, "file", directory=f"{rig.place}/in")).files == {"file": b"x\n"}
    assert (await fetched(rig, f"{rig.place}/in/file", directory="/")).files == {"file": b"x\n"}


@on_every_kind(SENDING)
async def test_a_copy_beside_jobs_takes_nothing_from_them(rig: Rig) -> None:
    await make(rig, "echo x >file")
    jobs = [rig.run(f"sleep 0.3; echo {n}") for n in range(6)]
    copies = [fetched(rig, "file") for _ in range(3)]
    results = await asyncio.gather(*jobs, *copies)
    assert [out for _, out, _ in results[:6]] == [b"%d\n" % n for n in range(6)]
    assert [copy.files for copy in results[6:]] == [{"file": b"x\n"}] * 3


@on_every_kind([kind for kind in REMOTE if kind in SENDING])
async def test_a_copy_whose_connection_breaks_says_so(rig: Rig) -> None:
    await make(rig, "head -c 50000000 /dev/zero >big")
    with tempfile.TemporaryDirectory() as place:
        fd = os.open(place, os.O_RDONLY)
        copy = asyncio.create_task(rig.connection.fetch([b"big"], os.fsencode(rig.place), Landing(fd, 10**9)))
        await eventually(lambda: any(path.stat().st_size for path in Path(place).iterdir()))
        rig.break_links()
        with pytest.raises(FetchFailed):
            await copy
        os.close(fd)


# --- channels ------------------------------------------------------------------------------------------------


@on_every_kind()
async def test_jobs_run_beside_each_other_on_one_connection(rig: Rig) -> None:
    tag = a_number()

    def line(n: int) -> str:
        meet = f"touch {rig.place}/{tag}-{n}; until [ $(ls {rig.place} | grep -c {tag}) = 7 ]; do sleep .05; done"
        return f"{meet}; echo {n}"

    results = await asyncio.gather(*(rig.run(line(n)) for n in range(7)))
    assert results == [(Exited(0), f"{n}\n".encode(), b"") for n in range(7)]


@on_every_kind()
async def test_many_jobs_run_after_each_other_on_one_connection(rig: Rig) -> None:
    async def worker(w: int) -> None:
        for n in range(15):
            assert await rig.run(f"echo {w} {n}; exit {n}") == (Exited(n), f"{w} {n}\n".encode(), b"")

    await asyncio.gather(*(worker(w) for w in range(4)))


@on_every_kind()
async def test_a_channel_opened_ahead_runs_its_job(rig: Rig) -> None:
    go, sink = rig.place / f"go-{a_number()}", Recorder()
    present = asyncio.create_task(rig.start(f"echo up; while [ ! -e {go} ]; do sleep .05; done", sink))
    await sink.until(lambda: sink.out)
    spare = rig.connection.spare()
    channel = await (spare or rig.connection.channel())
    ahead = Recorder()
    assert await channel.run(as_command(f"touch {go}; echo ahead; exit 6"), ahead) == Exited(6)
    assert ahead.out == b"ahead\n"
    assert await present == Exited(0)


@on_every_kind(REMOTE)
async def test_a_spare_that_is_not_used_leaves_nothing_behind(rig: Rig) -> None:
    assert (await rig.run("true"))[0] == Exited(0)
    spare = rig.connection.spare()
    if spare:
        await spare
    rig.connection.close()
    await eventually(lambda: not rig.leftovers())


@on_every_kind(REMOTE)
async def test_a_cancelled_spare_is_given_back(rig: Rig) -> None:
    assert (await rig.run("true"))[0] == Exited(0)
    for _ in range(12):  # more than a connection has room for
        if spare := rig.connection.spare():
            spare.cancel()
            await asyncio.wait([spare])
    assert (await rig.run("echo room"))[1] == b"room\n"
    await eventually(lambda: not rig.leftovers())


# --- connections ---------------------------------------------------------------------------------------------


@on_every_kind()
async def test_closing_the_connection_ends_run_with_lost(rig: Rig) -> None:
    number, sink = a_number(), Recorder()
    running = asyncio.create_task(rig.start(f"echo up; sleep {number} & wait", sink))
    await sink.until(lambda: sink.out)
    await eventually(lambda: sleepers(number))
    rig.connection.close()
    rig.connection.close()
    assert isinstance(await running, Lost)
    assert sink.over
    assert rig.connection.lost.cancelled()
    if rig.kind in LEASHED:
        await eventually(lambda: not sleepers(number))
    for pid in sleepers(number):
        os.kill(pid, signal.SIGKILL)


@on_every_kind(REMOTE)
async def test_a_broken_connection_is_told_to_the_job_and_to_the_connection(rig: Rig) -> None:
    number, sink = a_number(), Recorder()
    running = asyncio.create_task(rig.start(f"echo up; sleep {number} & wait", sink))
    await sink.until(lambda: sink.out)
    await eventually(lambda: sleepers(number))
    rig.break_links()
    outcome = await running
    assert isinstance(outcome, Lost)
    assert outcome.why
    assert "\n" not in outcome.why
    assert await rig.connection.lost
    assert sink.over
    if rig.kind in LEASHED:
        await eventually(lambda: not sleepers(number))
    for pid in sleepers(number):
        os.kill(pid, signal.SIGKILL)


@on_every_kind(REMOTE)
async def test_an_idle_connection_that_breaks_says_so(rig: Rig) -> None:
    assert (await rig.run("true"))[0] == Exited(0)
    rig.break_links()
    assert await rig.connection.lost


@on_every_kind(REMOTE)
async def test_the_node_can_be_reached_again_after_a_loss(rig: Rig) -> None:
    rig.break_links()
    assert await rig.connection.lost
    rig.connection.close()
    rig.connection = await rig.transport.connect(rig.node)
    assert (await rig.run("echo back"))[1] == b"back\n"


@on_every_kind([kind for kind in LEASHED if kind in REMOTE])
async def test_a_job_given_to_a_channel_whose_connection_broke_is_not_started(rig: Rig) -> None:
    sink = Recorder()
    channel = await rig.connection.channel()
    rig.break_links()
    await rig.connection.lost
    assert isinstance(await channel.run(as_command("echo ran"), sink), NotStarted)
    assert not sink.flow


@on_every_kind(REMOTE)
async def test_a_port_that_refuses_cannot_be_connected_to(rig: Rig) -> None:
    with pytest.raises(CannotConnect, match="refused"):
        await rig.transport.connect(Node("n1:1", "n1", port=1))
    assert (await rig.run("echo unharmed"))[1] == b"unharmed\n"


@on_every_kind(REMOTE)
async def test_a_connection_answers_until_it_is_lost(rig: Rig) -> None:
    assert await rig.connection.answers()
    assert await rig.run("echo unharmed") == (Exited(0), b"unharmed\n", b"")
    rig.break_links()
    await rig.connection.lost
    assert not await rig.connection.answers()
