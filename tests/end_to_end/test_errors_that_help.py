"""What a newcomer gets wrong, over real nodes: the words that must appear, and how often."""

from __future__ import annotations

import re
import shlex
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster.sshd import Cluster
from end_to_end.clstr_process import CLSTR, Process, Result

Run = Callable[..., Result]


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port at which nobody listens, and nobody else will."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_nodes_that_all_refuse_are_told_of_once(clstr: Run, deaf_port: int) -> None:
    result = clstr("-F", "/dev/null", "-n", *(f"127.0.0.{i}:{deaf_port}" for i in range(1, 6)), "-j", "true")
    assert result.status == 1
    assert result.stderr.count("connection refused") == 1
    assert "none of the 5 nodes could be reached (is sshd running there" in result.stderr
    assert f"try one by hand, with the same options: ssh -p {deaf_port} 127.0.0." in result.stderr


def test_nodes_that_have_no_name_are_told_of_once(clstr: Run) -> None:
    # No name at all, by its empty label: a server of names that does not answer would make it a matter of time.
    result = clstr("-F", "/dev/null", "-n", "no..such-host-[1-4]", "-j", "true")
    assert result.status == 1
    assert result.stderr.count("host name cannot be resolved") == 1
    assert "none of the 4 nodes could be reached (are the names right" in result.stderr


def test_unknown_host_keys_are_one_line_with_what_to_run(clstr: Run, nodes: Cluster, tmp_path: Path) -> None:
    known, config = tmp_path / "known", tmp_path / "config"
    known.touch()
    config.write_text(f"Host *\n  UserKnownHostsFile {known}\n  GlobalKnownHostsFile /dev/null\n")
    hosts = [f"{address}:{nodes.port}" for address in nodes.addresses]
    result = clstr("-F", config, "-n", *hosts, "-j", "true")
    assert result.status == 1
    assert result.stderr.count("unknown host key") == 1
    line = next(line for line in result.stderr.splitlines() if "ssh-keyscan" in line)
    assert "4 host keys are on no record: compare what this prints with the hosts' own, then append it to" in line
    assert f"append it to {known}, or give --host-key accept-new: " in line
    assert f"ssh-keyscan -p {nodes.port} " in line


def test_a_job_that_is_found_nowhere(clstr: Run, nodes: Cluster) -> None:
    result = clstr("-n", "n[1-3]", "-j", "no_such_program", cluster=nodes)
    assert result.status == 1
    assert result.stderr.count('exit 127 means "command not found"') == 1
    assert "jobs run in the login directory, with the PATH of a non-interactive shell" in result.stderr


def test_a_client_that_ends_with_255(clstr: Run, tmp_path: Path) -> None:
    client = tmp_path / "client"
    client.write_text('#!/bin/sh\necho "connect to host $1: no route" >&2\nexit 255\n')
    client.chmod(0o755)
    result = clstr("--ssh", f"{client} -q", "-n", "n1", "n2", "-j", "true")
    assert result.status == 1
    assert result.stderr.count("client exited with 255: connect to host -q: no route") == 1
    assert "none of the 2 nodes could be reached; try one by hand, with the same options: " in result.stderr
    assert re.search(rf"{client} -q n[12] true$", result.stderr.rstrip())


def test_a_job_that_ends_with_255_under_a_client(clstr: Run, tmp_path: Path) -> None:
    client = tmp_path / "client"
    client.write_text('#!/bin/sh\nshift\nexec sh -c "$*"\n')
    client.chmod(0o755)
    result = clstr("--ssh", str(client), "-n", "n1", "-j", "exit 255")
    assert result.status == 1
    assert "exit 255 may be client's own and not the job's" in result.stderr
    assert result.stderr.rstrip().endswith(f"try one by hand: {client} n1 true")


def limited(shell: Callable[..., Process], files: int, *arguments: str) -> Result:
    words = " ".join(shlex.quote(word) for word in (*CLSTR, *arguments))
    return shell(f"ulimit -n {files}; exec {words}").result()


def test_no_more_slots_are_used_than_files_may_be_open(shell: Callable[..., Process], tmp_path: Path) -> None:
    (tmp_path / "jobs.txt").write_text("echo $CLSTR_SLOT\n" * 60)
    result = limited(shell, 100, "-n", ": slots=50", "-J", "jobs.txt")
    assert (result.status, len(result.lines)) == (0, 60)
    (line,) = result.stderr.splitlines()
    assert re.fullmatch(
        r"clstr: too few files may be open for 50 slots \(soft limit 100, hard limit 100\): (\d+) are used at once "
        r"\(raise the hard limit, or give --max-nodes \1\)",
        line,
    )


def test_a_limit_that_suffices_is_not_spoken_of(shell: Callable[..., Process]) -> None:
    for few in (["-m", "3", "-J", "/dev/fd/0"], ["-j", "true"]):  # few slots, or few jobs
        result = limited(shell, 100, "-n", ": slots=50", *few)
        assert "too few files" not in result.stderr
        assert result.status == 0


def test_a_limit_that_suffices_for_nothing_is_bad_input(shell: Callable[..., Process]) -> None:
    result = limited(shell, 30, "-n", ":", "-j", "true")
    assert result.status == 2
    assert result.stderr.startswith("clstr: too few files may be open for any slot (soft limit 30, hard limit 30: ")
    assert result.stderr.count("\n") == 1
