"""``--results`` in whole runs, from sshd and from this machine into DIR/NAME; and the terms of a submit file's job."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster.sshd import Cluster
from end_to_end.clstr_process import CLSTR, Process, Result

Run = Callable[..., Result]
Start = Callable[..., Process]


@pytest.fixture
def with_sftp(cluster: Callable[..., Cluster]) -> Iterator[Cluster]:
    nodes = cluster(nodes=2, extra_config="Subsystem sftp internal-sftp")
    yield nodes
    subprocess.run(["rm", "-rf", str(nodes.account.home / "out")], check=True)


def tree(top: Path) -> dict[str, str]:
    return {str(path.relative_to(top)): path.read_text() for path in top.rglob("*") if path.is_file()}


def submit(path: Path, jobs: dict[str, str]) -> Path:
    job = "+Name = \"{}\"\nexecutable = /bin/sh\narguments = \"-c '{}'\"\nqueue\n"
    path.write_text("".join(job.format(name, line) for name, line in jobs.items()))
    return path


def test_results_of_jobs_on_nodes_are_here_when_the_run_is_over(
    clstr: Run, with_sftp: Cluster, tmp_path: Path
) -> None:
    line = "mkdir -p {place}/out/$N; echo $N >{place}/out/$N/value; echo RESULTS: {place}/out/$N"
    jobs = {f"job{n}": line.replace("$N", str(n)).format(place=with_sftp.account.home) for n in range(12)}
    file = submit(tmp_path / "f", jobs)
    result = clstr("-n", "n1 slots=3", "n2 slots=3", "-S", file, "--results", "R", cluster=with_sftp)
    assert result.status == 0, result.stderr
    assert tree(tmp_path / "R") == {f"job{n}/{n}/value": f"{n}\n" for n in range(12)}
    assert len(result.lines) == 12  # the lines reach stdout all the same
    assert sorted(os.listdir(tmp_path / "R")) == sorted(jobs)


def test_relative_results_begin_in_the_jobs_directory(clstr: Run, with_sftp: Cluster, tmp_path: Path) -> None:
    place = with_sftp.account.home / "out"
    job = "echo $CLSTR_JOB >value; echo RESULTS: value"
    flags = ["--setup", f"mkdir -p {place}", "--chdir", place, "--results", "R"]
    result = clstr("-n", "n1", "-j", job, *flags, cluster=with_sftp)
    assert result.status == 0, result.stderr
    ((name, text),) = tree(tmp_path / "R").items()
    assert (name.endswith("/value"), text) == (True, "1\n")


def test_a_job_whose_results_do_not_come_has_failed_and_what_comes_after_it_is_held(
    clstr: Run, with_sftp: Cluster, tmp_path: Path
) -> None:
    file = submit(tmp_path / "f", {"first": "echo RESULTS: none/of/this"})
    second = '+Name = "second"\n+After = "first"\nexecutable = echo\narguments = ran\nqueue\n'
    file.write_text(file.read_text() + second)
    result = clstr("-n", "n1", "-S", file, "--results", "R", cluster=with_sftp)
    assert result.status == 1
    assert "results not copied: 'none/of/this': nothing there has this name or begins with it" in result.stderr
    assert "ran" not in result.stdout.decode()
    assert "evicted" not in result.stderr


def test_a_node_without_sftp_is_not_blamed_for_it(clstr: Run, nodes: Cluster) -> None:
    result = clstr("-n", "n1", "-j", "echo RESULTS: /etc/passwd", "--results", "R", cluster=nodes)
    assert result.status == 1
    assert "results not copied: no SFTP there: " in result.stderr
    assert "evicted" not in result.stderr


def test_more_than_the_limit_is_not_kept(clstr: Run, tmp_path: Path) -> None:
    job = "head -c 2000 /dev/zero >big; echo RESULTS: big"
    result = clstr("-n", ":", "-j", job, "--results", "R", "--results-limit", "1K")
    assert result.status == 1
    assert "results not copied: more than 1,024 bytes (see --results-limit)" in result.stderr
    assert os.listdir(tmp_path / "R") == []


def test_a_file_that_cannot_be_written_here_fails_the_job_with_the_reason(
    shell: Callable[..., Process], with_sftp: Cluster, tmp_path: Path
) -> None:
    place = with_sftp.account.home
    job = f"mkdir -p {place}/out; head -c 300000 /dev/zero >{place}/out/big; echo RESULTS: {place}/out"
    # A limit to the size of files shows as a full disk does, and needs nobody's rights.
    line = f"ulimit -f 100; {shlex.join(map(str, CLSTR))} -F {with_sftp.ssh_config} -n n1 -j '{job}' --results R"
    result = shell(line).result()
    assert result.status == 1
    assert "results not copied: " in result.stderr
    assert "File too large" in result.stderr
    assert os.listdir(tmp_path / "R") == []


def test_the_next_run_replaces_what_the_last_one_left(clstr: Run, tmp_path: Path) -> None:
    run = ("-n", ":", "-j", "rm -rf o; mkdir o; echo >o/$X; echo RESULTS: o", "--results", "R")
    for word in ("first", "second"):
        assert clstr(*run, env=os.environ | {"X": word}).status == 0
        assert [path.rpartition("/")[2] for path in tree(tmp_path / "R")] == [word]


def test_a_stop_ends_a_copy_and_leaves_nothing(start: Start, with_sftp: Cluster, tmp_path: Path) -> None:
    place = with_sftp.account.home
    job = f"mkdir -p {place}/out; truncate -s 900M {place}/out/big; echo RESULTS: {place}/out; echo named"
    run = start("-v", "-n", "n1", "-j", job, "--results", "R", cluster=with_sftp)
    run.prints(b"named\n")
    run.send(2)
    result = run.result()
    assert result.status == 130
    assert os.listdir(tmp_path / "R") == []


def test_what_a_submit_file_says_of_a_job_reaches_it_on_its_node(clstr: Run, nodes: Cluster, tmp_path: Path) -> None:
    data = bytes(range(256)) * 4000
    (tmp_path / "in").write_bytes(data)
    keys = ["executable = /bin/sh", """arguments = "-c 'cat; echo $A $CLSTR_JOB; pwd'" """, "input = in"]
    keys += ["environment = \"A='b  c' CLSTR_JOB=99\"", "remote_initialdir = /usr", "queue"]
    (tmp_path / "f").write_text("\n".join(keys) + "\n")
    result = clstr("-n", "n1", "-S", "f", cluster=nodes)
    assert (result.status, result.stdout) == (0, data + b"b c 1\n/usr\n"), result.stderr


def test_an_environment_that_cannot_be_set_is_refused(clstr: Run, tmp_path: Path) -> None:
    (tmp_path / "f").write_text('executable = true\nenvironment = "A=1"\nqueue\n')
    result = clstr("-n", "n1", "--no-leash", "-S", "f")
    assert (result.status, result.stdout) == (2, b"")
    assert "f:3: environment does not go with --no-leash" in result.stderr


def test_what_cannot_be_used_is_said_before_anything_runs(clstr: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for flags, why in (
        (["--results", "file"], "file: not a directory"),
        (["--results", "none/R"], "none/R: No such file or directory"),
        (["--results", "R", "--ssh", "ssh"], "--ssh does not go with --results"),
        (["--results", "R", "--results-limit", "0"], "--results-limit: '0' is not a size"),
    ):
        result = clstr("-n", "n1", "-j", "echo ran", *flags)
        assert result.status == 2
        assert why in result.stderr
        assert result.stdout == b""
