"""Each command line of the first clstr's README works unchanged, but for the names of its hosts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster.sshd import Cluster, until
from end_to_end.clstr_process import Process, Result, put_in_path

Shell = Callable[[str], Process]

HELLO = ["Hello again.", "Hello, world.", "What do you want?"]


@pytest.fixture
def bash(shell: Callable[..., Process], nodes: Cluster, tmp_path: Path) -> Shell:
    """A shell in a directory with nodes.txt and jobs.txt, where ``clstr`` reaches the nodes."""
    path = put_in_path(tmp_path, "-F", nodes.ssh_config)
    (tmp_path / "nodes.txt").write_text("n1\nn2\nn3\nn4\n")
    (tmp_path / "jobs.txt").write_text('echo "Hello, world."\necho "Hello again."\necho "What do you want?"\n')
    return lambda line: shell(line, env=path)


def ran_well(process: Process) -> Result:
    result = process.result()
    assert (result.status, result.stderr) == (0, "")
    return result


@pytest.fixture
def experiment_dir(nodes: Cluster) -> Iterator[Path]:
    """~/experiment_dir of the nodes, which share a file system."""
    directory = nodes.account.home / "experiment_dir"
    directory.mkdir()
    directory.chmod(0o777)
    yield directory
    for file in directory.iterdir():
        file.unlink()
    directory.rmdir()


def test_nodes_and_jobs_on_the_command_line(bash: Shell) -> None:
    line = r"""clstr --node n1 --node n2 \
        --job 'echo "Hello, world."'  --job 'echo "Hello again."' \
        --job 'echo "What do you want?"'"""
    assert ran_well(bash(line)).lines == HELLO


def test_jobs_that_write_files(bash: Shell, experiment_dir: Path) -> None:
    line = r"""clstr --node n1 --node n2 \
        --job 'cd ~/experiment_dir; echo "Hello, world." > first'  \
        --job 'cd ~/experiment_dir; echo "Hello again." > second' \
        --job 'cd ~/experiment_dir; echo "What do you want?" > third'"""
    assert ran_well(bash(line)).stdout == b""
    assert sorted(os.listdir(experiment_dir)) == ["first", "second", "third"]


def test_a_job_that_chooses_idle_nodes(bash: Shell) -> None:
    result = bash("""clstr --node-file nodes.txt --job '[ -z "$(users)" ] && echo "running job..."'""").result()
    idle = not os.popen("users").read().strip()
    assert (result.status, result.stdout) == ((0, b"running job...\n") if idle else (1, b""))


def test_jobs_and_nodes_in_files(bash: Shell) -> None:
    assert ran_well(bash("clstr --node-file nodes.txt --job-file jobs.txt")).lines == HELLO


def test_jobs_that_the_shell_makes(bash: Shell) -> None:
    line = """clstr --node-file nodes.txt --job-file <(
      for i in `seq 10`; do echo "echo I am job $i"; done)"""
    assert ran_well(bash(line)).lines == sorted(f"I am job {n}" for n in range(1, 11))


def test_a_job_once_on_each_node(bash: Shell) -> None:
    line = r"""clstr --node-file nodes.txt \
        --on-each-node 'grep -m1 "model name" /proc/cpuinfo || echo unknown' \
      | sort | uniq -c"""
    assert ran_well(bash(line)).stdout.split()[0] == b"4"


def test_the_status_line(bash: Shell) -> None:
    result = bash("clstr --status --node-file nodes.txt --job-file jobs.txt").result()
    assert (result.status, result.lines) == (0, HELLO)
    assert result.stderr.startswith("3 of 3 jobs complete, 0 of 4 nodes running jobs.")


def test_the_list_of_active_nodes(bash: Shell, tmp_path: Path, scratch: Path) -> None:
    (tmp_path / "jobs.txt").write_text(f"until [ -e {scratch}/over ]; do sleep 0.1; done; # experiment 1\n")
    listing = tmp_path / "running_jobs"
    run = bash("clstr --active-nodes $PWD/running_jobs --node-file nodes.txt --job-file jobs.txt")
    until(lambda: listing.exists() and "experiment" in listing.read_text(), "the job is on the list")
    node, job = bash("head running_jobs").result().stdout.decode().split(": ", 1)
    assert node in ("n1", "n2", "n3", "n4")
    assert job.startswith("<'Job' 'until ")
    assert job.endswith("# experiment 1'>\n")
    (scratch / "over").touch()
    ran_well(run)
