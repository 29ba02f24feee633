"""Nodes that misbehave, each beside two good ones: what becomes of it, of its job, and of the others.

Every fault ends so: its node is evicted for a reason that a person understands (or goes on, where that is right),
its job is done elsewhere, the good nodes' jobs know nothing of it, and the run's end waits for nobody.
The jobs wait for a file, which the test makes once the fault has shown; so nothing is over before.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster.sshd import Cluster, until
from end_to_end.clstr_process import Process, Result
from faults import mean_servers as mean
from faults.mean_nodes import add_node, no_process_is_left
from faults.mean_servers import Behaviour, MeanServer, MeanSession, Proxy, Stage

from clstr.model import Exited, Flow, Node
from clstr.transport import Command, Connection, PushFailed, ssh

Start = Callable[..., Process]
Table = list[tuple[object, ...]]

IMPATIENT = "import clstr.transport.ssh as s; s.ANSWER = 2.0; s.LINGER = 1.0"
"""Limits that are a minute long are two seconds here."""

SESSIONS = 4  # two slots on each of the two good nodes


@dataclass
class Fair:
    """Two good nodes, one bad one, and a clstr that has a job for each slot and one more."""

    cluster: Cluster
    start: Start
    go: Path
    table: Table
    began: float = 0.0
    shown: float = 0.0
    up: float = 0.0

    def run(self, *flags: str, lost: int = 1) -> Process:
        """``lost``: how many of its first jobs the bad node may take from the others."""
        self.began = time.monotonic()
        job = f"echo up; until [ -e {self.go} ]; do sleep 0.1; done; echo done"
        jobs = [word for _ in range(SESSIONS + lost) for word in ("-j", job)]
        nodes = ["n1 slots=2", "n2 slots=2", "bad"]
        files = self.cluster.directory / "nodes.txt"
        files.write_text("\n".join(nodes) + "\n")
        run = self.start(
            "-v", "-N", files, *jobs, "--connect-timeout", "2", *flags, cluster=self.cluster, prelude=IMPATIENT
        )
        run.prints(b"up\n", SESSIONS)
        self.up = time.monotonic()
        return run

    def end(self, fault: str, run: Process, words: str) -> Result:
        """The fault has shown: let the jobs end."""
        self.shown = time.monotonic()
        self.go.touch()
        result = run.result()
        over = time.monotonic()
        assert result.status == 0, result.stderr
        assert result.stdout.count(b"done\n") >= SESSIONS
        assert "Traceback" not in result.stderr
        for good in ("n1", "n2"):
            assert f"{good}: evicted" not in result.stderr
            assert f"{good}: connection lost" not in result.stderr
        no_process_is_left(self.cluster)
        self.table.append((fault, words, self.up - self.began, self.shown - self.began, over - self.shown))
        return result


@pytest.fixture
def fair(quick: Callable[..., Cluster], start: Start, scratch: Path, table: Table) -> Fair:
    return Fair(quick(nodes=3), start, scratch / "go", table)


def evicted(run: Process) -> str:
    """Wait until the bad node is evicted, and give the reason."""
    run.says("bad: evicted: ")
    match = re.search(r"bad: evicted: (.*)", run.said())
    assert match is not None
    return match[1]


# --- servers that cannot be connected to -----------------------------------------------------------------------

KEX_TIMES_OUT = "no answer within 2 s (key exchange and authentication)"

TALKS = {
    "accepts and never speaks": (mean.says_nothing, "no answer within 2 s"),
    "banner and then silence": (mean.says(mean.BANNER), "no answer within 2 s"),
    "closes at once": (mean.closes_at_once, "closed before authentication|no answer within 2 s"),
    "garbage before the banner": (mean.says(bytes(range(1, 256)) * 4 + b"\n"), "no answer within 2 s|."),
    "garbage instead of a banner": (mean.says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "no answer within 2 s|."),
    "garbage behind the banner": (mean.says(mean.BANNER + bytes(range(256)) * 8), "."),
    "a group of negative modulus": (mean.says(mean.NEGATIVE_MODULUS), "^OverflowError: "),
    "a flood of lines instead of a banner": (mean.floods(b"welcome\r\n" * 1000), "."),
    "a flood without lines": (mean.floods(b"welcome " * 1000), "."),
    "a flood behind the banner": (mean.floods(mean.BANNER + b"\x00\x00\x00\x0c\x0a" + b"\x02" * 11), "."),
}


@pytest.mark.parametrize("fault", TALKS)
def test_a_server_that_cannot_be_talked_to_is_unreachable(fault: str, fair: Fair, stage: Stage) -> None:
    talk, words = TALKS[fault]
    add_node(fair.cluster, "bad", mean.ADDRESS, stage.tcp(talk))
    run = fair.run()
    why = evicted(run)
    assert re.search(words, why)
    fair.end(fault, run, why)


@pytest.mark.parametrize(
    ("fault", "chunks"), [("key exchange that stalls", 2), ("key exchange that stalls half way", 3)]
)
def test_a_key_exchange_that_stalls_costs_the_connect_timeout(
    fault: str, chunks: int, fair: Fair, stage: Stage
) -> None:
    proxy = stage.proxy(fair.cluster.addresses[2], fair.cluster.port, Behaviour(chunks_from_server=chunks))
    add_node(fair.cluster, "bad", proxy.address, proxy.port)
    run = fair.run()
    why = evicted(run)
    assert why == KEX_TIMES_OUT
    fair.end(fault, run, why)


def test_an_authentication_that_stalls_costs_the_connect_timeout(fair: Fair, stage: Stage) -> None:
    add_node(fair.cluster, "bad", mean.ADDRESS, stage.ssh(mean.StallsAuthentication))
    run = fair.run()
    why = evicted(run)
    assert why == KEX_TIMES_OUT
    fair.end("authentication that stalls", run, why)


# --- servers whose sessions are of no use ----------------------------------------------------------------------


def sessions(kind: type[MeanSession]) -> Callable[[int], object]:
    return lambda number: kind()


USELESS = {
    "session open refused": (lambda number: False, "the node refuses to open a session"),
    "session open never answered": (lambda number: mean.never(), "the node did not open a session within 2 s"),
    "exec refused": (sessions(mean.RefusesCommands), "the node refuses to run a command"),
    "no word from the wrapper": (sessions(mean.NeverTakesTheJob), "no word from the wrapper within 2 s"),
    "session ends before the word": (
        sessions(mean.EndsBeforeTheWord),
        r"no word from the wrapper, the session ended \(exit 1\): This account is currently not available.",
    ),
    "a flood before the job": (sessions(mean.FloodsBeforeTheJob), "no word from the wrapper in the first 1 MiB"),
    "a flood before the word": (sessions(mean.FloodsBeforeTheWord), "no word from the wrapper in the first 1 MiB"),
    "a flood on stderr before the word": (
        sessions(mean.FloodsStderrBeforeTheWord), "no word from the wrapper in the first 1 MiB"
    ),
    "a long line on stderr before the word": (
        sessions(mean.EndsWithALongLine), r"no word from the wrapper, the session ended \(exit 1\): .{197}\.\.\. "
    ),
}


@pytest.mark.parametrize("fault", USELESS)
def test_a_node_whose_first_session_is_of_no_use_is_unreachable(fault: str, fair: Fair, stage: Stage) -> None:
    session, words = USELESS[fault]
    counter = mean.Counter()
    add_node(fair.cluster, "bad", mean.ADDRESS, stage.ssh(lambda: MeanServer(session, counter)))
    run = fair.run()
    why = evicted(run)
    assert re.match(words, why), why
    peak = mean.memory_of(run.pid)
    fair.end(fault, run, why)
    assert counter.value <= 2
    assert peak < 120 << 20


def test_a_channel_closed_without_an_exit_status_is_a_lost_connection(fair: Fair, stage: Stage) -> None:
    add_node(fair.cluster, "bad", mean.ADDRESS, stage.ssh(lambda: MeanServer(sessions(mean.ClosesWithoutStatus))))
    run = fair.run("-j", "echo more", "-j", "echo more")
    why = evicted(run)
    assert why == "connection lost again before a job was done: the session was closed without an exit status"
    assert "bad: connection lost under 1 job: the session was closed without an exit status" in run.said()
    fair.end("closes without an exit status", run, why)


def test_a_cut_after_the_job_was_given_is_a_loss_even_without_its_word(fair: Fair, stage: Stage) -> None:
    """Nobody knows whether it began; so the attempt counts, and its number is not given again."""
    add_node(fair.cluster, "bad", mean.ADDRESS, stage.ssh(lambda: MeanServer(sessions(mean.CutsBeforeTheWord))))
    run = fair.run("-j", "echo more", "-j", "echo more")
    why = evicted(run)
    assert why.startswith("connection lost again before a job was done: ")
    assert "ended: not started" not in run.said()
    fair.end("a cut before the word", run, why)


def test_two_exit_statuses_break_the_protocol_and_the_first_counts(
    stage: Stage, quick: Callable[..., Cluster], start: Start, table: Table
) -> None:
    cluster = quick(nodes=1)
    add_node(cluster, "bad", mean.ADDRESS, stage.ssh(lambda: MeanServer(sessions(mean.TwoStatuses))))
    began = time.monotonic()
    result = start("-v", "-n", "bad", "-j", "x", "-j", "y", cluster=cluster).result()
    assert result.status == 0, result.stderr
    assert result.stderr.count("ended: exit 0") == 2
    assert "bad: connection lost while idle: Multiple exit results not allowed" in result.stderr
    table.append(("two exit statuses", "the first counts, dialed again", 0.0, 0.0, time.monotonic() - began))


@pytest.mark.parametrize("kind", [mean.StatusThenData, mean.StatusThenNothing])
def test_data_behind_the_exit_status_is_delivered_and_silence_ends_it(
    kind: type[MeanSession], stage: Stage, quick: Callable[..., Cluster], start: Start, table: Table
) -> None:
    cluster = quick(nodes=1)
    add_node(cluster, "bad", mean.ADDRESS, stage.ssh(lambda: MeanServer(sessions(kind))))
    began = time.monotonic()
    result = start("-n", "bad", "-j", "x", "-j", "y", cluster=cluster, prelude=IMPATIENT).result()
    said = b"early\nlate\n" if kind is mean.StatusThenData else b"kept open\n"
    assert (result.status, result.stdout) == (0, said * 2)
    table.append((kind.__name__, "done, late data delivered", 0.0, 0.0, time.monotonic() - began))


def test_only_the_first_session_refused_is_enough_to_be_unreachable(fair: Fair, stage: Stage) -> None:
    counter = mean.Counter()
    port = stage.ssh(lambda: MeanServer(lambda number: number > 1 and mean.Obeys(), counter))
    add_node(fair.cluster, "bad", mean.ADDRESS, port)
    run = fair.run()
    why = evicted(run)
    assert why.startswith("the node refuses to open a session")
    fair.end("only the first session refused", run, why)


def test_sessions_refused_after_some_on_each_connection_evict_nobody(
    stage: Stage, quick: Callable[..., Cluster], start: Start, table: Table
) -> None:
    cluster = quick(nodes=1)
    served = mean.Counter()

    def session(number: int) -> object:
        return served.next() and mean.Obeys() if number <= 3 else False

    add_node(cluster, "bad", mean.ADDRESS, stage.ssh(lambda: MeanServer(session)))
    began = time.monotonic()
    jobs = [word for k in range(20) for word in ("-j", f"job {k}")]
    result = start("-v", "-n", "bad slots=2", *jobs, cluster=cluster).result()
    assert result.status == 0, result.stderr
    assert "evicted" not in result.stderr
    assert "connection lost" not in result.stderr
    table.append(("refused after 3 on each connection", "20 jobs done", 0.0, 0.0, time.monotonic() - began))


def test_sessions_refused_for_good_after_some_end_in_an_eviction(fair: Fair, stage: Stage) -> None:
    counter = mean.Counter()
    port = stage.ssh(lambda: MeanServer(lambda number: number <= 2 and mean.Obeys(), counter))
    add_node(fair.cluster, "bad", mean.ADDRESS, port)
    run = fair.run(*(["-j", "echo more"] * 6), lost=2)
    why = evicted(run)
    assert "the node refuses to open a session" in why
    fair.end("refused for good after 2", run, why)
    assert counter.value < 40


# --- a link that goes bad under a job ----------------------------------------------------------------------------


def behind_a_proxy(fair: Fair, stage: Stage) -> tuple[Process, Proxy]:
    """A run whose bad node is the third sshd, reached through a proxy; a job runs there."""
    proxy = stage.proxy(fair.cluster.addresses[2], fair.cluster.port)
    add_node(fair.cluster, "bad", proxy.address, proxy.port)
    run = fair.run()
    run.says("bad: job ")
    run.prints(b"up\n", SESSIONS + 1)
    return run, proxy


def test_a_partition_under_a_job_loses_it_and_evicts_when_dialing_again_fails(fair: Fair, stage: Stage) -> None:
    run, proxy = behind_a_proxy(fair, stage)
    proxy.behave.mute_new = True
    proxy.mute()
    run.says("bad: connection lost under 1 job: Server not responding to keepalive")
    run.says("requeued: connection lost")
    # Its job is on another slot's queue; it is dialed again only for a job that it may take.
    fair.end("a partition", run, "connection lost under 1 job: Server not responding to keepalive")


def test_a_connection_that_is_reset_loses_its_job_and_not_its_node(fair: Fair, stage: Stage) -> None:
    run, proxy = behind_a_proxy(fair, stage)
    proxy.reset()
    run.says("bad: connection lost under 1 job: ")
    result = fair.end("a reset", run, "connection lost under 1 job")
    assert "bad: evicted" not in result.stderr


def test_corrupted_bytes_are_a_lost_connection(fair: Fair, stage: Stage) -> None:
    run, proxy = behind_a_proxy(fair, stage)
    proxy.corrupt()
    run.says("bad: connection lost under 1 job: ")
    match = re.search("bad: connection lost under 1 job: bytes were corrupted on the way .*", run.said())
    assert match is not None
    fair.end("corrupted bytes", run, match[0])


def test_an_sshd_that_is_stopped_under_a_job_costs_its_own_job_only(fair: Fair, stage: Stage) -> None:
    add_node(fair.cluster, "bad", fair.cluster.addresses[2], fair.cluster.port)
    run = fair.run("-j", "echo more")
    run.prints(b"up\n", SESSIONS + 1)
    fair.cluster.freeze(3)
    try:
        run.says("bad: connection lost under 1 job: Server not responding to keepalive")
        fair.shown = time.monotonic()
        fair.go.touch()
        result = run.result()
        assert result.status == 0, result.stderr
        fair.table.append(
            ("sshd stopped (SIGSTOP)", "connection lost under 1 job: Server not responding to keepalive",
             fair.up - fair.began, fair.shown - fair.began, time.monotonic() - fair.shown)
        )  # fmt: skip
    finally:
        fair.cluster.thaw(3)
    no_process_is_left(fair.cluster)


# --- output ------------------------------------------------------------------------------------------------------


def test_a_flood_of_output_through_a_slow_reader_is_held_back(
    quick: Callable[..., Cluster], start: Start, tmp_path: Path
) -> None:
    cluster = quick(nodes=3)
    jobs = [word for _ in range(3) for word in ("-j", "head -c 40000000 /dev/zero; echo end >&2")]
    run = start("-n", "n[1-3]", *jobs, cluster=cluster, stdout=subprocess.PIPE)
    taken = run.stdout.read(1).count(b"\0")
    until(lambda: [line[:5] for line in cluster.jobs().values()].count("head ") == 3, "the jobs are held back")
    deadline = time.monotonic() + 8  # longer than keepalive allows for silence
    while time.monotonic() < deadline:
        taken += run.stdout.read(4096).count(b"\0")
        time.sleep(0.1)
    assert mean.memory_of(run.pid) < 120 << 20
    while data := run.stdout.read(1 << 20):
        taken += data.count(b"\0")
    result = run.result()
    assert (result.status, taken) == (0, 120_000_000)
    assert "lost" not in result.stderr


def test_a_job_that_ended_behind_a_slow_reader_loses_no_output(quick: Callable[..., Cluster], start: Start) -> None:
    cluster = quick(nodes=4)
    jobs = [word for _ in range(80) for word in ("-j", "head -c 100000 /dev/zero")]
    prelude = "import clstr.transport.ssh as s; s.LINGER = 0.5"
    run = start("-v", "-n", "n[1-4]", *jobs, cluster=cluster, stdout=subprocess.PIPE, prelude=prelude)
    taken = run.stdout.read(1).count(b"\0")
    deadline = time.monotonic() + 3  # six times the silence that would end a job
    while time.monotonic() < deadline:
        time.sleep(0.05)
    while data := run.stdout.read(1 << 20):
        taken += data.count(b"\0")
    assert (run.result().status, taken) == (0, 80 * 100000)


def test_a_stopped_tree_of_sshds_that_goes_on_in_time_costs_nothing(
    quick: Callable[..., Cluster], start: Start
) -> None:
    cluster = quick(nodes=1)
    run = start("-v", "-n", "n1", "-j", "echo up; sleep 2; echo done", cluster=cluster)
    run.prints(b"up\n")
    cluster.freeze(1)
    time.sleep(1)
    cluster.thaw(1)
    result = run.result()
    assert (result.status, result.stdout) == (0, b"up\ndone\n")
    assert "lost" not in result.stderr


# --- what the transport asks beside jobs -------------------------------------------------------------------------


def at_bad_node(cluster: Cluster, scenario: Callable[[Connection], Awaitable[None]], leash: bool = True) -> None:
    """Play the scenario with a connection to the bad node."""

    async def play() -> None:
        transport = ssh.SshTransport(ssh.SshSettings(str(cluster.ssh_config), leash=leash))
        connection = await transport.connect(Node("bad", "bad"))
        try:
            await scenario(connection)
        finally:
            connection.close()
            await transport.close()

    asyncio.run(play())


def test_an_sftp_reply_that_is_cut_short_fails_the_copy(
    quick: Callable[..., Cluster], stage: Stage, tmp_path: Path
) -> None:
    cluster = quick(nodes=1)
    server = stage.ssh(lambda: MeanServer(sessions(mean.CutsAnSftpReplyShort)))
    add_node(cluster, "bad", mean.ADDRESS, server)
    (tmp_path / "file").write_text("words\n")

    async def scenario(connection: Connection) -> None:
        with pytest.raises(PushFailed, match="SFTP failed: "):
            await connection.push(tmp_path / "file", "copy")

    at_bad_node(cluster, scenario)


class Kept:
    """A sink that keeps what it hears."""

    def __init__(self) -> None:
        self.out = self.err = b""

    def begun(self, flow: Flow) -> None:
        """From now on there is output."""

    def stdout(self, data: bytes) -> None:
        self.out += data

    def stderr(self, data: bytes) -> None:
        self.err += data

    def finished(self) -> None:
        """There is no more."""


def test_all_that_start_up_files_print_is_output(quick: Callable[..., Cluster], stage: Stage) -> None:
    cluster = quick(nodes=1)
    server = stage.ssh(lambda: MeanServer(sessions(mean.PrintsAtStartUp)))
    add_node(cluster, "bad", mean.ADDRESS, server)

    async def scenario(connection: Connection) -> None:
        sink = Kept()
        channel = await connection.channel()
        assert await channel.run(Command(b"x"), sink) == Exited(0)
        assert sink.err == b"e" * 11_000 + b"f" * 11_000
        assert sink.out == b"o" * 5_000 + b"p" * 5_000 + b"job\n"

    at_bad_node(cluster, scenario)


@pytest.mark.parametrize("leash", [True, False])
def test_a_sign_of_life_runs_nothing(leash: bool, quick: Callable[..., Cluster], stage: Stage) -> None:
    cluster = quick(nodes=1)
    server = stage.ssh(lambda: MeanServer(sessions(mean.NotesWhatItIsAskedFor)))
    add_node(cluster, "bad", mean.ADDRESS, server)
    mean.NotesWhatItIsAskedFor.asked.clear()

    async def scenario(connection: Connection) -> None:
        assert await connection.answers()

    at_bad_node(cluster, scenario, leash)
    assert mean.NotesWhatItIsAskedFor.asked == []


class Held:
    """A sink that holds everything back until it is told otherwise."""

    def __init__(self) -> None:
        self.flow: Flow | None = None
        self.size = 0
        self.over = False

    def begun(self, flow: Flow) -> None:
        self.flow = flow
        flow.pause()

    def stdout(self, data: bytes) -> None:
        assert not self.over, "data after the end"
        self.size += len(data)

    stderr = stdout

    def finished(self) -> None:
        self.over = True


def test_silence_that_we_make_ourselves_does_not_end_a_job(
    quick: Callable[..., Cluster], scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "LINGER", 0.1)
    cluster = quick(nodes=1)

    async def scenario() -> None:
        transport = ssh.SshTransport(ssh.SshSettings(str(cluster.ssh_config)))
        connection = await transport.connect(Node("n1", "n1"))
        sink = Held()
        job = Command(f"head -c 50000 /dev/zero; touch {scratch}/over".encode())
        running = asyncio.create_task((await connection.channel()).run(job, sink))
        while not (scratch / "over").exists():  # noqa: ASYNC110 - nothing here can tell
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)  # several times the silence that ends a job
        assert not running.done()
        assert sink.flow is not None
        sink.flow.resume()
        assert await running == Exited(0)
        assert sink.size == 50000
        connection.close()
        await transport.close()

    asyncio.run(scenario())
