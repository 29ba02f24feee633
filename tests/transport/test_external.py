"""What is the external client's own: its command line, its reasons, its spares, and how it is got rid of."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from cluster.sshd import Cluster
from test_contract import PATIENCE, TOOL, Recorder, a_number, as_command, eventually, sleepers

from clstr.model import BadInput, Exited, Killed, Lost, Node, NotStarted
from clstr.transport.external import LOGINS, ExternalConnection, ExternalSettings, ExternalTransport, split

N1 = Node("n1", "n1")


def play(
    command: str, scenario: Callable[[ExternalConnection], Awaitable[None]], node: Node = N1, **settings: object
) -> None:
    """The scenario, on a connection to the node by this client."""

    async def whole() -> None:
        transport = ExternalTransport(ExternalSettings(split(command), **settings))  # type: ignore[arg-type]
        connection = await transport.connect(node)
        try:
            async with asyncio.timeout(PATIENCE):
                await scenario(connection)
        finally:
            connection.close()
            await transport.close()

    asyncio.run(whole())


def shell_tool(script: str) -> str:
    """A client that runs this on this machine, with the host as $1 and JOB as $2."""
    return f"/bin/sh -c '{script}' tool {{HOST}}"


# --- its command line ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "node", "words"),
    [
        ("ssh", Node("n1", "n1"), ["ssh", "n1"]),
        ("ssh -F 'my config'", Node("bob@n1", "n1", "bob"), ["ssh", "-F", "my config", "bob@n1"]),
        ("ssh", Node("n1:22", "n1", None, 22), ["ssh", "-p", "22", "n1"]),
        ("ssh", Node("[::1]:22", "::1", None, 22), ["ssh", "-p", "22", "::1"]),
        ("env X={HOST} sh -c", Node("bob@n1", "n1", "bob"), ["env", "X=bob@n1", "sh", "-c"]),
    ],
)
def test_the_host_goes_behind_the_command_or_where_it_says(command: str, node: Node, words: list[str]) -> None:
    assert split(command).arguments(node) == words


def test_a_port_without_a_place_is_refused() -> None:
    with pytest.raises(BadInput, match=r"n1:22: .* no place for a port \(name the host without it\)"):
        split("env {HOST}").arguments(Node("n1:22", "n1", None, 22))


@pytest.mark.parametrize(
    ("command", "why"),
    [("ssh 'x", "no closing quotation"), (" ", "an empty command"), ("no-such -x", "no program 'no-such'")],
)
def test_a_command_that_cannot_be_run_is_bad_input(command: str, why: str) -> None:
    with pytest.raises(BadInput, match=rf"^--ssh.*{why}.* \(.*\)$"):
        split(command)


def test_the_client_has_a_session_of_its_own_and_never_asks() -> None:
    look = "read -r pid name state parent group session rest </proc/$$/stat"
    tool = shell_tool(f'{look}; echo "$((session == $$)) $SSH_ASKPASS_REQUIRE $1" >&2; exit 1')

    async def scenario(connection: ExternalConnection) -> None:
        outcome = await (await connection.channel()).run(as_command(":"), Recorder())
        assert outcome == NotStarted("sh exited with 1: 1 never n1")

    play(tool, scenario)


# --- a job that does not begin ---------------------------------------------------------------------------------


def test_a_node_that_refuses_is_told_with_the_clients_last_words(two_nodes: Cluster) -> None:
    two_nodes.stop(1)

    async def scenario(connection: ExternalConnection) -> None:
        outcome = await (await connection.channel()).run(as_command(":"), Recorder())
        assert isinstance(outcome, NotStarted)
        assert outcome.why.startswith("ssh exited with 255: ssh: connect to host 127.0.1.1")
        assert outcome.why.endswith("Connection refused")

    play(f"ssh -F {two_nodes.ssh_config}", scenario)


def test_a_client_that_passes_no_input_runs_nothing(two_nodes: Cluster) -> None:
    trace = two_nodes.account.home / f"ran-{a_number()}"

    async def scenario(connection: ExternalConnection) -> None:
        outcome = await (await connection.channel()).run(as_command(f"touch {trace}"), Recorder())
        assert isinstance(outcome, NotStarted)
        assert "no word from the node" in outcome.why

    play(f"ssh -n -F {two_nodes.ssh_config}", scenario)
    assert not trace.exists()


def test_a_client_that_says_nothing_is_given_up_and_gone() -> None:
    number = a_number()

    async def scenario(connection: ExternalConnection) -> None:
        sink = Recorder()
        outcome = await (await connection.channel()).run(as_command(":"), sink)
        assert outcome == NotStarted("sh: no word from the node within 0.3 s: knocking")
        assert sink.flow is None
        await eventually(lambda: not sleepers(number))

    play(shell_tool(f"echo knocking >&2; sleep {number} & wait"), scenario, connect_timeout=0.3)


def test_kill_ends_a_client_that_still_knocks() -> None:
    number = a_number()

    async def scenario(connection: ExternalConnection) -> None:
        channel = await connection.channel()
        running = asyncio.create_task(channel.run(as_command(":"), Recorder()))
        await eventually(lambda: sleepers(number) and channel.armed)
        channel.kill()
        assert isinstance(await running, NotStarted)
        await eventually(lambda: not sleepers(number))

    play(shell_tool(f"sleep {number}"), scenario)


def test_a_spare_that_still_knocks_is_gone_with_the_connection() -> None:
    number = a_number()

    async def scenario(connection: ExternalConnection) -> None:
        spare = connection.spare()
        assert spare
        await spare
        await eventually(lambda: sleepers(number))
        connection.close()
        await eventually(lambda: not sleepers(number))

    play(shell_tool(f"sleep {number}"), scenario)


# --- a job that has begun --------------------------------------------------------------------------------------


def test_what_the_client_says_before_the_job_is_not_lost() -> None:
    async def scenario(connection: ExternalConnection) -> None:
        sink = Recorder()
        assert await (await connection.channel()).run(as_command("echo job"), sink) == Exited(0)
        assert (sink.out, sink.err) == (b"hello\njob\n", b"warning\n")

    play(shell_tool('echo warning >&2; echo hello; exec /bin/sh -c "$2"'), scenario)


def test_255_with_a_word_of_ssh_is_a_lost_connection_and_without_it_the_jobs_status(two_nodes: Cluster) -> None:
    async def scenario(connection: ExternalConnection) -> None:
        sink = Recorder()
        running = asyncio.create_task((await connection.channel()).run(as_command("echo up; sleep 60"), sink))
        await sink.until(lambda: sink.out)
        two_nodes.kill_connections(1)
        outcome = await running
        assert isinstance(outcome, Lost)
        assert outcome.why == "ssh exited with 255: Connection to 127.0.1.1 closed by remote host."
        for job in ("echo sorry >&2; exit 255", "kill -9 $$"):
            assert await (await connection.channel()).run(as_command(job), Recorder()) == Exited(255)

    play(f"ssh -F {two_nodes.ssh_config}", scenario)


def test_a_client_that_is_killed_is_a_lost_connection() -> None:
    # The tool gives the word itself, in two halves as a node does, and dies.
    word = "echo clstr-begun-7d1c5b0f3a94e26d; kill -KILL $$"

    async def scenario(connection: ExternalConnection) -> None:
        sink = Recorder()
        outcome = await (await connection.channel()).run(as_command(":"), sink)
        assert outcome == Lost("sh was killed by SIGKILL")
        assert sink.over

    play(f"/bin/sh -c '{word}'", scenario)


# --- spares ----------------------------------------------------------------------------------------------------


def test_a_spare_logs_in_ahead_of_its_job(tmp_path: Path) -> None:
    async def scenario(connection: ExternalConnection) -> None:
        spare = connection.spare()
        assert spare
        await eventually((tmp_path / "in").exists)
        sink = Recorder()
        assert await (await spare).run(as_command("echo ahead; exit 6"), sink) == Exited(6)
        assert sink.out == b"ahead\n"

    play(shell_tool(f'touch {tmp_path}/in; exec /bin/sh -c "$2"'), scenario)


def test_a_spare_that_died_idle_is_no_more_than_not_started() -> None:
    async def scenario(connection: ExternalConnection) -> None:
        spare = connection.spare()
        assert spare
        channel = await spare
        await eventually(lambda: channel._exited)
        assert await channel.run(as_command(":"), Recorder()) == NotStarted("sh exited with 3: bye")

    play(shell_tool("echo bye >&2; exit 3"), scenario)


def test_spares_that_are_not_used_are_gone_with_the_connection(two_nodes: Cluster) -> None:
    number = a_number()

    async def scenario(connection: ExternalConnection) -> None:
        for _ in range(3):
            spare = connection.spare()
            assert spare
            await spare
        await eventually(two_nodes.jobs)
        assert sleepers(number)
        connection.close()
        await eventually(lambda: not sleepers(number) and not two_nodes.jobs())

    play(f"ssh -F {two_nodes.ssh_config} -o LocalCommand={number}", scenario)


def test_a_master_that_others_share_is_not_held_by_spares(two_nodes: Cluster) -> None:
    """Without ControlPersist the first client stays until the sessions of the others have ended."""
    path = two_nodes.directory / "master"

    async def scenario(connection: ExternalConnection) -> None:
        sink = Recorder()
        running = asyncio.create_task((await connection.channel()).run(as_command("echo up; sleep .5; exit 4"), sink))
        await sink.until(lambda: sink.out)
        spare = connection.spare()
        assert spare
        await spare
        await eventually(lambda: len(two_nodes.jobs()) >= 3)  # the job's shell and watcher, the spare's shell
        assert await running == Exited(4)
        assert connection.spare() is None

    play(f"ssh -F {two_nodes.ssh_config} -o ControlMaster=auto -o ControlPath={path}", scenario)


def test_few_clients_of_a_node_log_in_at_once(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    wait = f"for _ in $(seq 600); do [ -e {gate} ] && break; sleep .05; done"  # and not for ever, should the test fail
    tool = shell_tool(f'echo >{tmp_path}/in-$$; {wait}; exec /bin/sh -c "$2"')

    def waiting() -> int:
        return len(list(tmp_path.glob("in-*")))

    async def scenario(connection: ExternalConnection) -> None:
        async def job() -> None:
            assert await (await connection.channel()).run(as_command(":"), Recorder()) == Exited(0)

        jobs = [asyncio.create_task(job()) for _ in range(2 * LOGINS)]
        await eventually(lambda: waiting() == LOGINS)
        gate.touch()
        await asyncio.gather(*jobs)
        assert waiting() == 2 * LOGINS

    play(tool, scenario)


# --- without the leash -----------------------------------------------------------------------------------------


def test_without_the_leash_the_job_is_the_clients_last_word(two_nodes: Cluster) -> None:
    async def scenario(connection: ExternalConnection) -> None:
        assert connection.spare() is None
        sink = Recorder()
        job = as_command("cat; pwd; exit 3", directory=b"/")
        assert await (await connection.channel()).run(job, sink) == Exited(3)
        assert sink.out == b"/\n"

    play(f"ssh -F {two_nodes.ssh_config}", scenario, leash=False)


def test_a_bare_job_that_looks_like_an_option_is_a_job(two_nodes: Cluster) -> None:
    async def scenario(connection: ExternalConnection) -> None:
        sink = Recorder()
        assert await (await connection.channel()).run(as_command("-V; echo ran"), sink) == Exited(0)
        assert sink.out == b"ran\n"

    play(f"ssh -F {two_nodes.ssh_config}", scenario, leash=False)


def test_without_the_leash_kill_ends_the_client() -> None:
    number = a_number()

    async def scenario(connection: ExternalConnection) -> None:
        channel = await connection.channel()
        running = asyncio.create_task(channel.run(as_command(f"sleep {number} & wait"), Recorder()))
        await eventually(lambda: sleepers(number))
        channel.kill()
        assert await running == Killed("TERM")
        await eventually(lambda: not sleepers(number))

    play(TOOL, scenario, leash=False)


# --- by the command line ---------------------------------------------------------------------------------------


def clstr(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clstr", *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE,
    )


def test_a_run_by_ssh_evicts_the_node_that_refuses(two_nodes: Cluster) -> None:
    two_nodes.stop(2)
    jobs = [word for number in range(6) for word in ("-j", f"echo {number} on $CLSTR_NODE")]
    ended = clstr("-n", "n[1-2]", "--ssh", f"ssh -F {two_nodes.ssh_config}", *jobs)
    assert ended.returncode == 0
    assert sorted(ended.stdout.splitlines()) == [f"{number} on n1" for number in range(6)]
    assert "1 node evicted: n2: ssh exited with 255: ssh: connect to host 127.0.1.2" in ended.stderr


@pytest.mark.parametrize("flag", [("-F", "x"), ("-l", "bob"), ("-i", "key"), ("--host-key", "off")])
def test_flags_that_the_client_cannot_be_told_are_refused(flag: tuple[str, str]) -> None:
    ended = clstr("-n", "n1", "-j", "true", "--ssh", "env", *flag)
    assert ended.returncode == 2
    assert "--ssh does not go with --" in ended.stderr
    assert "(give the client its own options in COMMAND)" in ended.stderr
