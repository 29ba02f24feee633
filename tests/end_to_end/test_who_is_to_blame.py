"""Who is to blame, seen from the command line: budgets, streaks, pardons, classes, and what the end says of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster.sshd import Cluster
from end_to_end.clstr_process import CLSTR, Process, Result

Run = Callable[..., Result]
Start = Callable[..., Process]


def closing(result: Result) -> list[str]:
    return [line.removeprefix("clstr: ") for line in result.stderr.splitlines()]


# --- budgets -----------------------------------------------------------------------------------------------


def test_a_job_that_always_fails_is_named_with_its_nodes_and_evicts_none(clstr: Run, nodes: Cluster) -> None:
    jobs = ["-j", "exit 7", *["-j", "echo ran"] * 8]
    result = clstr("-n", "n[1-4]", "--seed", 1, "--retries", 2, *jobs, cluster=nodes)
    assert (result.status, result.stdout) == (1, b"ran\n" * 8)
    head, named = closing(result)
    assert head == "1 of 9 jobs failed"
    tried = re.fullmatch(r"--job: exit 7 \(exit 7 on (n\d), (n\d), (n\d)\)", named)
    assert tried is not None
    assert len(set(tried.groups())) == 3


def test_a_bad_node_is_evicted_though_jobs_have_budgets(clstr: Run, nodes: Cluster, tmp_path: Path) -> None:
    job = '[ "$CLSTR_NODE" != n3 ] || exit 3; echo ran'
    (tmp_path / "jobs.txt").write_text(f"{job}\n" * 40)
    result = clstr("-n", "n[1-4]", "--retries", 3, "-J", "jobs.txt", "--evicted", "e.txt", cluster=nodes)
    assert (result.status, result.stdout) == (0, b"ran\n" * 40)
    assert closing(result) == ["1 node evicted: n3: exit 3"]
    assert (tmp_path / "e.txt").read_text() == "# exit 3\nn3\n"


def test_one_node_and_a_job_that_works_the_fourth_time(clstr: Run, nodes: Cluster) -> None:
    job = '[ "$CLSTR_ATTEMPT" = 4 ] || exit 5; echo at last'
    result = clstr("-n", "n1", "--retries", 3, "-j", job, cluster=nodes)
    assert (result.status, result.stdout, result.stderr) == (0, b"at last\n", "")


def test_a_job_that_fails_often_on_one_node_says_so_once(clstr: Run, nodes: Cluster) -> None:
    result = clstr("-n", "n1", "--retries", 3, "-j", "exit 5", cluster=nodes)
    assert result.status == 1
    assert closing(result) == ["1 of 1 jobs failed", "--job: exit 5 (exit 5 4 times on n1)"]


def test_pardons_and_paroles_are_told_under_verbose(clstr: Run, nodes: Cluster) -> None:
    result = clstr("-v", "-n", "n1", "--retries", 1, "-j", "exit 5", "-j", "echo ran", cluster=nodes)
    assert (result.status, result.stdout) == (1, b"ran\n")
    told = re.findall(r"^clstr: n1: (evicted|paroled|pardoned)", result.stderr, re.M)
    assert told[:2] == ["evicted", "paroled"]
    assert "evicted:" not in closing(result)[-1]


def test_without_budgets_the_end_names_the_job_and_the_cure(clstr: Run, nodes: Cluster) -> None:
    result = clstr("-n", "n[1-4]", "-j", "exit 7", cluster=nodes)
    assert result.status == 1
    assert closing(result)[0] == "1 of 1 jobs not done: no nodes left (n[1-4]: exit 7)"
    assert "one job evicted every node" in result.stderr
    assert "--retries 3" in result.stderr


def test_a_streak_of_k_failures_evicts(clstr: Run, nodes: Cluster) -> None:
    result = clstr("-v", "-n", "n1", "--node-failures", 3, "-j", "exit 7", cluster=nodes)
    assert result.status == 1
    assert result.stderr.count("job 1 started") == 3
    assert "n1: evicted: 3 failures in a row, last: exit 7" in result.stderr


def test_max_failed_starts_nothing_new(clstr: Run, nodes: Cluster, tmp_path: Path) -> None:
    (tmp_path / "jobs.txt").write_text("exit 1\n" * 20)
    result = clstr("-n", "n1", "--retries", 0, "--max-failed", 2, "-J", "jobs.txt", cluster=nodes)
    assert result.status == 1
    assert closing(result)[:4] == [
        "2 of 20 jobs failed",
        "jobs.txt:1: exit 1 (exit 1 on n1)",
        "jobs.txt:2: exit 1 (exit 1 on n1)",
        "18 of 20 jobs not done: drained: 2 jobs failed (--max-failed)",
    ]


def test_on_each_node_tries_again_on_the_same_node(clstr: Run, nodes: Cluster) -> None:
    job = '[ "$CLSTR_NODE" != n2 ] || [ "$CLSTR_ATTEMPT" = 3 ] || exit 1; echo "$CLSTR_NODE $CLSTR_ATTEMPT"'
    result = clstr("-n", "n[1-3]", "--retries", 2, "-E", job, cluster=nodes)
    assert (result.status, result.lines) == (0, ["n1 1", "n2 3", "n3 1"])


# --- classes -----------------------------------------------------------------------------------------------


def test_jobs_run_only_on_nodes_of_their_class(clstr: Run, nodes: Cluster, tmp_path: Path) -> None:
    (tmp_path / "nodes.txt").write_text("n1\nn2 class=gpu,big\nn3 class=big\nn4 slots=2 class=gpu\n")
    jobs = ["-j", "echo $CLSTR_NODE"] * 12
    result = clstr("-N", "nodes.txt", "--class", "gpu", *jobs, cluster=nodes)
    assert result.status == 0
    assert set(result.lines) <= {"n2", "n4"}


def test_on_each_node_with_a_class_takes_the_entries_of_it(clstr: Run, nodes: Cluster) -> None:
    listed = ["-n", "n1", "n2 class=gpu", "n3 class=gpu"]
    result = clstr(*listed, "--class", "gpu", "-E", "echo $CLSTR_NODE", cluster=nodes)
    assert (result.status, result.lines) == (0, ["n2", "n3"])


def test_jobs_whose_class_is_lost_fail_and_an_endless_stream_of_them_is_read_no_further(
    shell: Start, nodes: Cluster
) -> None:
    line = f"yes 'exit 9' | {' '.join(CLSTR)} -F {nodes.ssh_config} -n n1 'n2 class=gpu' --class gpu -J -"
    result = shell(line).result()
    assert result.status == 1
    assert "no node of class gpu is left" in result.stderr
    assert "n2: exit 9" in result.stderr


# --- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-n", "n1", "--class", "gpu"], "no node is of class gpu (write class=gpu behind the nodes that are)"),
        (["-n", "n1", "--class", ""], "--class: empty name (name a class, or drop it)"),
        (["-n", "n1 class="], "--node: empty class name in 'n1 class=' (write class=NAME or drop it)"),
        (["-n", "n1 color=red"], "unknown key"),
        (["-n", "n1 slots=all"], "bad number of slots"),
        (["-n", "n1 class=a", "n1 class=b"], "the classes of n1 differ"),
        (["-n", "n1", "--retries", "-1"], "--retries"),
        (["-n", "n1", "--retries=-1"], "'-1' is not a number"),
        (["-n", "n1", "--node-failures", "0"], "too small"),
        (["-n", "n1", "--max-failed", "0"], "too small"),
        (["-n", "n1", "--setup-timeout", "m"], "not a duration"),
        (["-n", "n1", "--setup", " "], "--setup: empty command"),
        (["-n", "n1", "--push", "missing"], "--push missing: no such file"),
        (["-n", "n1", "--push", "/dev/zero:zero"], "is no file and no directory"),
        (["-n", "n1", "--follow"], "--follow needs a node file"),
        (["-N", "-", "--follow"], "stdin: is no regular file"),
        (["-n", "n1", "--unfinished", "no/such/dir"], "cannot be written"),
        (["-n", "n1", "--evicted", "."], "not a regular file"),
        (["-n", "n1", "--unfinished", "x", "--evicted", "./x"], "name one file"),
    ],
)
def test_bad_input_is_one_line_before_any_connection(clstr: Run, arguments: list[str], says: str) -> None:
    result = clstr("-v", *arguments, "-j", "true")
    assert (result.status, result.stdout) == (2, b"")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_following_is_refused_on_each_node(clstr: Run, tmp_path: Path) -> None:
    (tmp_path / "nodes.txt").write_text("n1\n")
    result = clstr("-N", "nodes.txt", "--follow", "-E", "true")
    assert (result.status, result.stderr) == (2, "clstr: --on-each-node does not go with --follow (drop one of them)\n")
