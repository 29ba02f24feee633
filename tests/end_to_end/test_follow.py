"""``--follow`` over real sshd: nodes join and drain while jobs run, and a list that cannot be used changes nothing."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster.sshd import Cluster, until
from end_to_end.clstr_process import Process

Start = Callable[..., Process]

CHANGED = "node files have changed: "


@pytest.fixture
def list_nodes(tmp_path: Path) -> Callable[[str], None]:
    """Replace the node file by one with this text, as an editor does."""

    def write(text: str) -> None:
        (tmp_path / "nodes.new").write_text(text)
        (tmp_path / "nodes.new").rename(tmp_path / "nodes.txt")

    return write


def held(scratch: Path) -> str:
    """A job that says where it runs and ends when told to."""
    return f"echo $CLSTR_NODE $CLSTR_JOB; until [ -e {scratch}/go ]; do sleep 0.1; done"


def test_a_node_that_is_added_takes_jobs_and_one_that_is_removed_finishes_its_own(
    start: Start, nodes: Cluster, scratch: Path, list_nodes: Callable[[str], None]
) -> None:
    list_nodes("n1\n")
    run = start("-v", "-N", "nodes.txt", "--follow", *["-j", held(scratch)] * 3, cluster=nodes)
    run.prints(b"n1 1\n")
    list_nodes("n1\nn2\n")
    run.says(f"{CHANGED}1 slots joined, 0 left")
    run.prints(b"n2 2\n")
    list_nodes("n2\n")
    run.says(f"{CHANGED}0 slots joined, 1 left")
    (scratch / "go").touch()
    result = run.result()
    assert (result.status, result.stdout) == (0, b"n1 1\nn2 2\nn2 3\n")
    assert "n1: slot 1 retired" in result.stderr


def test_a_file_rewritten_in_place_is_read_too(
    start: Start, nodes: Cluster, scratch: Path, tmp_path: Path
) -> None:
    (tmp_path / "nodes.txt").write_text("n1\n")
    run = start("-v", "-N", "nodes.txt", "--follow", *["-j", held(scratch)] * 3, cluster=nodes)
    run.prints(b"n1 1\n")
    (tmp_path / "nodes.txt").write_text("n1 slots=2\nn2\n")
    run.prints(b" 2\n")
    run.prints(b" 3\n")
    (scratch / "go").touch()
    result = run.result()
    assert result.status == 0
    assert sorted(line.split()[0] for line in result.lines) == ["n1", "n1", "n2"]


def test_a_list_that_cannot_be_used_is_one_warning_and_the_old_one_stands_until_it_is_mended(
    start: Start, nodes: Cluster, scratch: Path, list_nodes: Callable[[str], None], tmp_path: Path
) -> None:
    list_nodes("n1\n")
    run = start("-v", "-N", "nodes.txt", "--follow", *["-j", held(scratch)] * 2, cluster=nodes)
    run.prints(b"n1 1\n")
    list_nodes("n1\nn2 color=red\n")
    run.says("nodes.txt:2: 'color=red' after 'n2': unknown key")
    run.says("; the nodes stay as they were")
    (tmp_path / "nodes.txt").unlink()
    run.says("nodes.txt: No such file or directory (give a file with one NODE a line; a node itself goes with -n); ")
    list_nodes("n1 class=gpu\n")
    run.says("nodes.txt:1: n1 had no class when it was first listed")
    list_nodes("n1\nn2\n")
    run.prints(b"n2 2\n")
    (scratch / "go").touch()
    result = run.result()
    assert result.status == 0
    assert result.stderr.count("the nodes stay as they were") == 3


def test_an_empty_list_drains_all_and_jobs_wait_until_they_are_stopped(
    start: Start, nodes: Cluster, scratch: Path, list_nodes: Callable[[str], None]
) -> None:
    list_nodes("n1\n")
    run = start("-v", "-N", "nodes.txt", "--follow", *["-j", held(scratch)] * 2, cluster=nodes)
    run.prints(b"n1 1\n")
    list_nodes("# none today\n")
    run.says(f"{CHANGED}0 slots joined, 1 left")
    (scratch / "go").touch()
    run.says("n1: slot 1 retired")
    assert run.running
    run.send(signal.SIGINT)
    result = run.result()
    assert result.status == 130
    assert "1 of 2 jobs not done: stopped by SIGINT" in result.stderr


def test_jobs_wait_for_the_first_node_and_for_one_after_evictions(
    start: Start, nodes: Cluster, list_nodes: Callable[[str], None]
) -> None:
    list_nodes("")
    job = "[ $CLSTR_NODE = n3 ] || exit 5; echo ran"
    run = start("-v", "-N", "nodes.txt", "--follow", "-j", job, cluster=nodes)
    list_nodes("n1\n")
    run.says("n1: evicted: exit 5")
    list_nodes("n1\nn3\n")
    result = run.result()
    assert (result.status, result.stdout) == (0, b"ran\n")


def test_a_stream_that_ends_while_no_node_is_left_ends_the_run(
    start: Start, nodes: Cluster, scratch: Path, list_nodes: Callable[[str], None]
) -> None:
    list_nodes("n1\n")
    run = start("-v", "-N", "nodes.txt", "--follow", "-J", "-", cluster=nodes, stdin=subprocess.PIPE)
    run.give(f"{held(scratch)}\n".encode())
    run.prints(b"n1 1\n")
    list_nodes("")
    run.says(f"{CHANGED}0 slots joined, 1 left")
    (scratch / "go").touch()
    run.says("n1: slot 1 retired")  # nobody wants a job from here on
    run.stdin.close()
    result = run.result()
    assert (result.status, result.stdout) == (0, b"n1 1\n")


def test_nodes_of_flags_stay_and_excluded_ones_stay_out(
    start: Start, nodes: Cluster, scratch: Path, list_nodes: Callable[[str], None]
) -> None:
    list_nodes("n2\n")
    arguments = ["-v", "-n", "n1", "-N", "nodes.txt", "--exclude", "n3", "--follow"]
    run = start(*arguments, *["-j", held(scratch)] * 3, cluster=nodes)
    run.prints(b" 1\n")
    run.prints(b" 2\n")
    list_nodes("n3\nn4\n")
    run.prints(b"n4 3\n")
    (scratch / "go").touch()
    result = run.result()
    assert result.status == 0
    assert result.lines[-1] == "n4 3"
    assert not re.search(r"^n3", result.stdout.decode(), re.M)


def test_slots_that_a_node_has_found_leave_with_it_and_come_back(
    start: Start, cluster: Callable[..., Cluster], scratch: Path, list_nodes: Callable[[str], None]
) -> None:
    (scratch / "nproc").write_text("#!/bin/sh\necho 2\n")
    (scratch / "nproc").chmod(0o755)
    two = cluster(nodes=2, extra_config=f"SetEnv PATH={scratch}:/usr/bin:/bin")
    list_nodes("n1 slots=auto\n")
    run = start("-v", "-N", "nodes.txt", "--follow", *["-j", held(scratch)] * 5, cluster=two)
    run.prints(b"n1 1\n")
    run.prints(b"n1 2\n")
    list_nodes("n2\n")
    run.says(f"{CHANGED}1 slots joined, 2 left")
    run.prints(b"n2 3\n")
    list_nodes("n1 slots=auto\nn2 slots=auto\n")
    run.says(f"{CHANGED}3 slots joined, 0 left")
    run.prints(b"n2 4\n")
    (scratch / "go").touch()
    result = run.result()
    assert result.status == 0
    assert len(result.lines) == 5
    until(lambda: not two.jobs(), "nothing is left")
