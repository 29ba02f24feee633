"""Which nodes are used: the NODE grammar over real nodes, limits, login, host keys, the leash."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster.sshd import Cluster, until
from end_to_end.clstr_process import Process, Result

Run = Callable[..., Result]
Start = Callable[..., Process]

NAME = "echo $CLSTR_NODE"


def meeting(scratch: Path, jobs: int) -> str:
    """A job that ends only when so many of it run at once."""
    return f"touch {scratch}/$CLSTR_JOB; until [ $(ls {scratch} | wc -l) -ge {jobs} ]; do sleep 0.1; done; echo met"


def crowd(scratch: Path) -> str:
    """A job that prints how many of it run beside it, itself among them."""
    return f"touch {scratch}/$CLSTR_JOB; sleep 0.2; ls {scratch} | wc -l; rm {scratch}/$CLSTR_JOB"


# --- slots -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["n1\nn1\n", "n1 slots=2\n"])
def test_a_node_listed_twice_or_with_two_slots_runs_two_jobs_at_once(
    clstr: Run, nodes: Cluster, scratch: Path, tmp_path: Path, text: str
) -> None:
    (tmp_path / "nodes.txt").write_text(text)
    result = clstr("-N", "nodes.txt", *["-j", meeting(scratch, 2)] * 2, cluster=nodes)
    assert (result.status, result.lines) == (0, ["met", "met"])


@pytest.mark.parametrize("flag", ["-m", "--fanout"])
def test_at_most_so_many_slots_are_in_use(clstr: Run, nodes: Cluster, scratch: Path, flag: str) -> None:
    result = clstr("-n", "n[1-4] slots=2", flag, 2, *["-j", crowd(scratch)] * 6, cluster=nodes)
    assert result.status == 0
    assert set(result.lines) <= {"1", "2"}
    assert "2" in result.lines


def test_a_slot_is_retired_after_its_share(clstr: Run, nodes: Cluster) -> None:
    result = clstr("-n", "n[1-2]", "-u", 2, *["-j", NAME] * 5, cluster=nodes)
    assert (result.status, result.lines) == (1, ["n1", "n1", "n2", "n2"])
    assert "clstr: 1 of 5 jobs not done: no nodes left (2 retired)\n" in result.stderr
    assert "raise it, or name more nodes" in result.stderr


def test_few_jobs_connect_to_few_nodes(clstr: Run, cluster: Callable[..., Cluster]) -> None:
    four = cluster(nodes=4)
    assert clstr("-n", "n[1-4]", "-j", "true", cluster=four).status == 0
    assert sum("Accepted publickey" in four.log(node) for node in range(1, 5)) == 1


def test_the_same_seed_takes_nodes_in_the_same_order(clstr: Run, nodes: Cluster) -> None:
    def order(seed: int) -> list[str]:
        result = clstr("-n", "n[1-4]", "-m", 1, "-u", 1, "--seed", seed, *["-j", NAME] * 4, cluster=nodes)
        assert result.status == 0
        return result.stdout.decode().split()

    orders = [order(seed) for seed in (1, 1, 2, 3)]
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == ["n1", "n2", "n3", "n4"]
    assert len({tuple(each) for each in orders}) > 1


def test_at_most_so_many_connections_are_begun_at_once(start: Start, mute_server: socket.socket) -> None:
    port = mute_server.getsockname()[1]
    run = start(
        "-F", "/dev/null", "-n", f"127.0.0.1:{port}", *(f"u{k}@127.0.0.1:{port}" for k in range(5)),
        "--max-connecting", 2, "--connect-timeout", "1", *["-j", "true"] * 6,
    )  # fmt: skip
    open_at_once, most, seen = set(), 0, 0
    while run.running:
        ready, _, _ = select.select([mute_server, *open_at_once], [], [], 0.05)
        # Ends first: only what is known to be over may be left out of the count.
        for connection in [peer for peer in ready if peer is not mute_server and not peer.recv(4096)]:
            open_at_once.discard(connection)
            connection.close()
        if mute_server in ready:
            open_at_once.add(mute_server.accept()[0])
            seen += 1
            most = max(most, len(open_at_once))
    assert (seen, most) == (6, 2)
    assert run.result().status == 1
    assert "no answer within 1 s" in run.said()


@pytest.fixture
def mute_server() -> Iterator[socket.socket]:
    """A port that accepts and never speaks."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


# --- which -------------------------------------------------------------------------------------------------


def test_excluded_nodes_are_left_out(clstr: Run, nodes: Cluster, tmp_path: Path) -> None:
    (tmp_path / "out.txt").write_text("n4 # exit 127\n\n# n1\n")
    result = clstr(
        "-n", "n[1-4]", "n3 slots=2", "--exclude", "n[2,9]", "--exclude-file", "out.txt", "-E", NAME, cluster=nodes
    )
    assert (result.status, result.lines) == (0, ["n1", "n3", "n3"])


def test_node_files_and_jobs_may_come_from_stdin(clstr: Run, nodes: Cluster, tmp_path: Path) -> None:
    (tmp_path / "nodes.txt").write_text("n1\nn2\n")
    with (tmp_path / "nodes.txt").open() as file:
        result = clstr("-N", "-", "-E", NAME, cluster=nodes, stdin=file)
    assert (result.status, result.lines) == (0, ["n1", "n2"])


def test_this_machine_is_a_node_without_ssh(clstr: Run, tmp_path: Path) -> None:
    job = "echo $CLSTR_NODE $CLSTR_SLOT; pwd; cat"
    result = clstr("-n", ": slots=2", "-E", job, stdin=subprocess.DEVNULL)
    assert (result.status, result.stdout) == (0, f": 1\n{tmp_path}\n".encode())


def test_a_node_may_be_ipv6_with_a_port(clstr: Run, nodes: Cluster) -> None:
    with ipv6_door_to(nodes) as port:
        nodes.known_hosts.write_text(
            nodes.known_hosts.read_text() + f"[::1]:{port} {nodes.site.host_key.with_suffix('.pub').read_text()}"
        )
        result = clstr("-n", f"[::1]:{port}", "-j", "echo $CLSTR_NODE; echo $SSH_CONNECTION", cluster=nodes)
    assert (result.status, result.stderr) == (0, "")
    node, connection = result.stdout.decode().splitlines()
    assert node == f"[::1]:{port}"
    assert connection.startswith("::1 ")


class ipv6_door_to:
    """One IPv6 connection that a node's own sshd serves, as inetd would start it."""

    def __init__(self, cluster: Cluster) -> None:
        self._config = cluster.directory / "sshd_config-1"
        self._sshd = cluster.site.sshd
        try:
            self._server = socket.create_server(("::1", 0), family=socket.AF_INET6)
        except OSError:
            pytest.skip("this machine has no IPv6 loopback address")

    def __enter__(self) -> int:
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        port: int = self._server.getsockname()[1]
        return port

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed before anybody came
            connection = self._server.accept()[0]
            command = [self._sshd, "-i", "-f", str(self._config), "-E", "/dev/null"]
            with connection, subprocess.Popen(command, stdin=connection, stdout=connection) as sshd:
                connection.close()
                sshd.wait(30)

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # wakes the thread, which a mere close does not
        self._server.close()
        self._thread.join()


# --- login -------------------------------------------------------------------------------------------------


def test_user_and_identity_come_before_the_configuration(clstr: Run, nodes: Cluster, tmp_path: Path) -> None:
    config = nodes.ssh_config.read_text()
    config = re.sub(r"User \S+", "User nobody-here", config)
    config = config.replace(f"    IdentityFile {nodes.identity}\n", f"    IdentityFile {nodes.site.stranger_key}\n")
    (tmp_path / "config").write_text(config)
    wrong = clstr("-F", "config", "-n", "n1", "-j", "whoami")
    assert wrong.status == 1
    flags = ("-l", nodes.account.name, "-i", nodes.identity)
    right = clstr("-F", "config", *flags, "-n", "n1", "-j", "whoami")
    assert (right.status, right.stdout.decode()) == (0, f"{nodes.account.name}\n")
    named = clstr("-F", "config", "-i", nodes.identity, "-n", f"{nodes.account.name}@n1", "-j", "whoami")
    assert (named.status, named.stdout.decode()) == (0, f"{nodes.account.name}\n")


def test_an_unknown_host_key_is_refused_unless_the_policy_takes_it(clstr: Run, nodes: Cluster, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    config = nodes.ssh_config.read_text().replace(str(nodes.known_hosts), str(known))
    (tmp_path / "config").write_text(config.replace("StrictHostKeyChecking yes", "StrictHostKeyChecking ask"))
    known.touch()
    run = ("-F", "config", "-n", "n1", "-j", "echo in")
    strict = clstr(*run)
    assert (strict.status, strict.stdout) == (1, b"")
    assert re.search(r"unknown host key of .*ED25519 SHA256:\S+ .*ssh-keyscan -p \d+ ", strict.stderr)
    off = clstr(*run, "--host-key", "off")
    assert (off.status, off.stdout, known.read_text()) == (0, b"in\n", "")
    new = clstr(*run, "--host-key", "accept-new")
    assert (new.status, new.stdout) == (0, b"in\n")
    assert nodes.site.host_key.with_suffix(".pub").read_text().split()[1] in known.read_text()
    assert clstr(*run).status == 0


def test_jobs_run_in_the_directory_that_chdir_names(clstr: Run, nodes: Cluster, scratch: Path) -> None:
    (scratch / "it's here").mkdir()
    result = clstr("-n", "n1", "-C", scratch / "it's here", "-j", "pwd", cluster=nodes)
    assert (result.status, result.stdout.decode()) == (0, f"{scratch}/it's here\n")
    missing = clstr("-n", "n1", "-C", scratch / "nowhere", "-j", "echo ran", cluster=nodes)
    assert (missing.status, missing.stdout) == (1, b"")


def test_without_leash_the_bare_command_runs(clstr: Run, nodes: Cluster) -> None:
    job = 'cat; echo "[$CLSTR_NODE]"; echo \'a "b\'; exit 4'
    with_leash = clstr("-n", "n1", "-E", job, cluster=nodes)
    bare = clstr("--no-leash", "-n", "n1", "-E", job, cluster=nodes)
    assert "[n1]" in with_leash.lines
    assert bare.status == with_leash.status == 1
    assert "clstr: 1 of 1 jobs failed: n1: exit 4\n" in bare.stderr
    assert "[]" in bare.lines
    assert 'a "b' in bare.lines


def test_no_leash_still_stops_jobs_that_time_out(clstr: Run, nodes: Cluster) -> None:
    result = clstr("--no-leash", "--timeout", "0.3", "-n", "n1", "-E", "exec sleep 600", cluster=nodes)
    assert result.status == 1
    assert "timed out after 0.3 s" in result.stderr
    until(lambda: not nodes.jobs(1), "the job is gone")
