"""``--unfinished`` and ``--evicted``: what a run leaves for the next one, whatever way it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster.sshd import Cluster, until
from end_to_end.clstr_process import CLSTR, Process, Result

Run = Callable[..., Result]
Start = Callable[..., Process]


def test_a_run_that_does_all_leaves_empty_files(clstr: Run, nodes: Cluster, tmp_path: Path) -> None:
    flags = ["--unfinished", "rest.txt", "--evicted", "bad.txt"]
    assert clstr("-n", "n1", "-j", "true", *flags, cluster=nodes).status == 0
    assert (tmp_path / "rest.txt").read_bytes() == b""
    assert (tmp_path / "bad.txt").read_bytes() == b""


def test_what_is_left_of_a_job_file_takes_its_place_and_the_next_run_does_it(
    clstr: Run, nodes: Cluster, tmp_path: Path
) -> None:
    jobs = tmp_path / "jobs.txt"
    jobs.write_text("".join(f"[ $CLSTR_NODE != n1 ] && echo {number}\n" for number in range(1, 9_001)))
    os.chmod(jobs, 0o640)
    before = jobs.read_bytes()
    flags = ["-J", "jobs.txt", "--unfinished", "jobs.txt"]
    first = clstr("-n", "n1", *flags, "--evicted", "bad.txt", cluster=nodes)
    assert first.status == 1
    assert jobs.read_bytes() == before  # far more than is read ahead
    assert jobs.stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "bad.txt").read_text() == "# exit 1\nn1\n"
    jobs.write_text("".join(jobs.read_text().splitlines(keepends=True)[:20]))
    second = clstr("-n", "n[1-2]", *flags, "--exclude-file", "bad.txt", cluster=nodes)
    assert (second.status, len(second.lines)) == (0, 20)
    assert jobs.read_bytes() == b""


def test_failed_jobs_are_among_the_unfinished_in_input_order(clstr: Run, nodes: Cluster, tmp_path: Path) -> None:
    (tmp_path / "jobs.txt").write_text("exit 1\ntrue\nexit 2\ntrue\nexit 3\n")
    flags = ["-J", "jobs.txt", "--retries", 1, "--unfinished", "rest.txt"]
    assert clstr("-n", "n[1-3]", *flags, cluster=nodes).status == 1
    assert (tmp_path / "rest.txt").read_text() == "exit 1\nexit 2\nexit 3\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGUSR2, 1)])
def test_a_run_that_is_stopped_or_drained_leaves_the_rest_of_a_pipe(
    start: Start, nodes: Cluster, scratch: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    first = f"echo up; until [ -e {scratch}/go ]; do sleep 0.1; done"
    run = start("-n", "n1", "-J", "-", "--unfinished", "rest.txt", cluster=nodes, stdin=subprocess.PIPE)
    run.give(f"{first}\n".encode() + b"second\n" * 6_000)
    run.stdin.close()
    run.prints(b"up\n")
    run.send(number)
    (scratch / "go").touch()
    assert run.result().status == status
    rest = (tmp_path / "rest.txt").read_text().splitlines()
    assert rest == ([first] if status == 130 else []) + ["second"] * 6_000


def test_a_stream_without_end_is_cut_with_a_remark(shell: Start, nodes: Cluster, tmp_path: Path) -> None:
    clstr = f"{' '.join(CLSTR)} -F {nodes.ssh_config}"
    line = f"(echo false; exec sleep 605) | {clstr} -n n1 -J - --unfinished rest.txt"
    run = shell(f"{line} & wait $!")
    run.says("no nodes left")
    result_file = tmp_path / "rest.txt"
    until(result_file.exists, "it is written", 30)
    assert result_file.read_text() == "false\n# the stream of jobs had not ended here: what came later is missing\n"


def test_a_closed_stdout_leaves_them_too(shell: Start, nodes: Cluster, tmp_path: Path) -> None:
    (tmp_path / "jobs.txt").write_text("seq 100000\n" * 50)
    clstr = f"{' '.join(CLSTR)} -F {nodes.ssh_config}"
    run = shell(f"{clstr} -n n1 -J jobs.txt --unfinished rest.txt | head -1; exit ${{PIPESTATUS[0]}}")
    assert run.result().status == 141
    rest = (tmp_path / "rest.txt").read_text().splitlines()
    assert set(rest) == {"seq 100000"}
    assert 0 < len(rest) <= 50


def test_a_bad_stream_leaves_what_was_read_and_says_what_is_missing(clstr: Run, nodes: Cluster, tmp_path: Path) -> None:
    (tmp_path / "jobs.txt").write_bytes(b"exit 1\ntrue\n\0\ntrue\n")
    flags = ["-J", "jobs.txt", "--retries", 0, "--unfinished", "rest.txt"]
    assert clstr("-n", "n1", *flags, cluster=nodes).status == 2
    rest = (tmp_path / "rest.txt").read_text().splitlines()
    assert rest[0] == "exit 1"
    assert rest[-1].startswith("# jobs.txt:3: NUL byte in a job")
    assert rest[-1].endswith("what stood behind it is missing")


def test_null_mode_is_read_back_in_null_mode(clstr: Run, nodes: Cluster, tmp_path: Path) -> None:
    entries = b"exit 3\n# no comment\0 \techo two\nlines\r\0\xff\xfe\0"
    (tmp_path / "jobs.nul").write_bytes(entries)
    flags = ["-0", "-J", "jobs.nul", "--unfinished", "jobs.nul"]
    assert clstr("-n", "n1", *flags, cluster=nodes).status == 1
    assert (tmp_path / "jobs.nul").read_bytes() == entries


def test_jobs_on_each_node_are_comments(clstr: Run, nodes: Cluster, tmp_path: Path) -> None:
    result = clstr("-n", "n[1-2]", "-E", "[ $CLSTR_NODE = n1 ]", "--unfinished", "rest.txt", cluster=nodes)
    assert result.status == 1
    assert (tmp_path / "rest.txt").read_text() == "# n2: [ $CLSTR_NODE = n1 ]\n"


def test_unreachable_nodes_are_left_with_their_reason(
    clstr: Run, cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    two = cluster(nodes=2)
    two.stop(1)
    two.stop(2)
    assert clstr("-n", "n[1-2]", "-j", "true", "--evicted", "bad.txt", cluster=two).status == 1
    head, *names = (tmp_path / "bad.txt").read_text().splitlines()
    assert head.startswith("# ")
    assert "refused" in head
    assert sorted(line for line in names if not line.startswith("#")) == ["n1", "n2"]
    result = clstr("-n", "n[1-2]", "--exclude-file", "bad.txt", "-j", "true", cluster=two)
    assert (result.status, "no nodes are left after --exclude" in result.stderr) == (2, True)


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system of one page, which is full."""
    place = tmp_path / "full"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", place], capture_output=True)
    if made.returncode:
        pytest.skip("a small file system cannot be mounted here")
    (place / "rest.txt").write_text("old\n")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_is_a_message_and_the_old_file_stays(
    clstr: Run, nodes: Cluster, full: Path, tmp_path: Path
) -> None:
    flags = ["--retries", 0, "--unfinished", full / "rest.txt", "--evicted", "bad.txt"]
    result = clstr("-n", "n1", "-j", "exit 1; " + "x" * 10_000, "-j", "true", *flags, cluster=nodes)
    assert result.status == 1
    assert f"{full}/rest.txt: No space left on device" in result.stderr
    assert (full / "rest.txt").read_text() == "old\n"
    assert (tmp_path / "bad.txt").exists()
    assert os.listdir(full) == ["rest.txt"]


def test_a_directory_that_has_gone_is_a_message(start: Start, nodes: Cluster, scratch: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    job = f"echo up; until [ -e {scratch}/go ]; do sleep 0.1; done"
    run = start("-n", "n1", "-j", job, "--unfinished", place / "rest.txt", cluster=nodes)
    run.prints(b"up\n")
    shutil.rmtree(place)
    (scratch / "go").touch()
    result = run.result()
    assert result.status == 1
    assert "rest.txt: No such file or directory" in result.stderr
