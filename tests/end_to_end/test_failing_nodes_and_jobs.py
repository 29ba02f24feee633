"""What failure means, seen from the command line: jobs go elsewhere, nodes are evicted, the end says why."""

from __future__ import annotations

import re
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster.sshd import Cluster, until
from end_to_end.clstr_process import CLSTR, Process, Result

Run = Callable[..., Result]
Start = Callable[..., Process]


def test_a_job_that_exits_nonzero_goes_to_another_node(clstr: Run, nodes: Cluster) -> None:
    job = '[ "$CLSTR_ATTEMPT" = 2 ] || exit 3; echo "$CLSTR_JOB on attempt $CLSTR_ATTEMPT"'
    result = clstr("-n", "n1", "n2", "--seed", 1, "-j", job, cluster=nodes)
    assert (result.status, result.stdout) == (0, b"1 on attempt 2\n")
    assert re.fullmatch(r"clstr: 1 node evicted: n[12]: exit 3\n", result.stderr)


def test_nodes_that_cannot_be_reached_are_evicted_and_named_with_their_reasons(
    start: Start, cluster: Callable[..., Cluster]
) -> None:
    four = cluster(nodes=4)
    four.stop(1)
    shows_another_key(four, 2)
    offers_a_strangers_key(four, 3)
    run = start("-n", "n[1-4]", "nosuch.invalid", "-J", "-", "-v", cluster=four, stdin=subprocess.PIPE)
    run.give(b"echo done $CLSTR_NODE\n" * 8)
    run.says("evicted", 4)  # else the fourth node might have done it all before
    run.stdin.close()
    result = run.result()
    assert result.status == 0
    assert result.lines == ["done n4"] * 8
    evicted = dict(re.findall(r"^clstr: (\S+): evicted: (.*)", result.stderr, re.M))
    assert sorted(evicted) == ["n1", "n2", "n3", "nosuch.invalid"]
    assert "refused" in evicted["n1"]
    assert "CHANGED" in evicted["n2"]
    assert "SHA256:" in evicted["n2"]
    assert "ermission denied" in evicted["n3"]
    assert "nosuch.invalid" in evicted["nosuch.invalid"] or "not known" in evicted["nosuch.invalid"]
    assert "clstr: 4 nodes evicted: " in result.stderr


def shows_another_key(cluster: Cluster, node: int) -> None:
    """Put a wrong host key on record for the node."""
    entry = f"[{cluster.addresses[node - 1]}]:{cluster.port} "
    other = cluster.site.other_host_key.with_suffix(".pub").read_text()
    lines = cluster.known_hosts.read_text().splitlines(keepends=True)
    cluster.known_hosts.write_text("".join(entry + other if line.startswith(entry) else line for line in lines))


def offers_a_strangers_key(cluster: Cluster, node: int) -> None:
    """Have the client offer this node, and no other, a key that it does not know."""
    identity = f"    IdentityFile {cluster.identity}\n"
    text = cluster.ssh_config.read_text()
    assert identity in text
    cluster.ssh_config.write_text(
        f"{text.replace(identity, '')}"
        f"Host n{node}\n    IdentityFile {cluster.site.stranger_key}\n"
        f"Host * !n{node}\n{identity}"
    )


def test_an_sshd_killed_under_a_job_costs_the_node_and_not_the_job(
    start: Start, cluster: Callable[..., Cluster], scratch: Path
) -> None:
    pair = cluster(nodes=2)
    here = scratch / "here"
    job = f"echo $CLSTR_NODE > {here}.new; mv {here}.new {here}; [ $CLSTR_ATTEMPT = 2 ] || sleep 600; echo ran"
    # The other node has a connection too: where all are lost at once, this machine is presumed to be at fault.
    others = f"until [ -e {scratch}/over ]; do sleep 0.1; done"
    run = start("-v", "-n", "n[1-2]", "-j", job, "-j", others, "-j", "true", cluster=pair)
    until(here.exists, "the job runs")
    node = here.read_text().strip()
    pair.stop(int(node[1:]))
    run.says(f"{node}: connection lost under 1 job: ")
    until(lambda: not pair.jobs(int(node[1:])), "its job has died with the connection")
    run.says(f"{node}: evicted")  # dialed again for the third job, in vain
    (scratch / "over").touch()
    result = run.result()
    assert (result.status, result.stdout) == (0, b"ran\n")
    assert re.search(rf"^clstr: 1 node evicted: {node}: .*refused", result.stderr, re.M)


def test_a_job_that_always_fails_evicts_every_node_and_is_named(clstr: Run, nodes: Cluster, tmp_path: Path) -> None:
    jobs = tmp_path / "jobs.txt"
    jobs.write_text("echo good\nexit 7\necho good too\n")
    result = clstr("-n", "n[1-4]", "-J", jobs, cluster=nodes)
    assert (result.status, result.lines) == (1, ["good", "good too"])
    assert result.stderr.splitlines() == [
        "clstr: 1 of 3 jobs not done: no nodes left (n[1-4]: exit 7)",
        f"clstr: {jobs}:2: exit 7",
        "clstr: one job evicted every node, as a job that always fails does (repair it, or give jobs a budget with "
        f"--retries 3: then it fails alone and its nodes work on): {jobs}:2: exit 7",
    ]


def test_on_each_node_one_bad_node_fails_its_own_job_only(clstr: Run, cluster: Callable[..., Cluster]) -> None:
    three = cluster(nodes=3)
    three.stop(2)
    result = clstr("-n", "n[1-3]", "--on-each-node", "echo $CLSTR_NODE; [ $CLSTR_NODE != n3 ]", cluster=three)
    assert (result.status, result.lines) == (1, ["n1", "n3"])
    head = result.stderr.splitlines()[0]
    assert head.startswith("clstr: 2 of 3 jobs failed: ")
    assert "n3: exit 1" in head
    assert re.search("n2: .*refused", head)


def test_four_hundred_jobs_on_twenty_slots_run_once_each(
    clstr: Run, nodes: Cluster, scratch: Path, tmp_path: Path
) -> None:
    jobs = tmp_path / "jobs.txt"
    jobs.write_text("".join(f"echo {n} >> {scratch}/journal; echo {n}\n" for n in range(400)))
    node_file = tmp_path / "nodes.txt"
    node_file.write_text("# four machines\n\nn[1-3] slots=5\r\nn4 slots=5")
    result = clstr("-N", node_file, "-J", jobs, cluster=nodes)
    once = Counter(str(n) for n in range(400))
    assert (result.status, result.stderr) == (0, "")
    assert Counter(result.lines) == once
    assert Counter((scratch / "journal").read_text().split()) == once


@pytest.mark.parametrize(
    ("flags", "outcome"),
    [
        (["--timeout", "0.5"], "timed out after 0.5 s"),
        (["--stall-timeout", "0.5s"], "printed nothing for 0.5 s"),
    ],
)
def test_a_job_over_its_limit_is_terminated_and_tried_elsewhere(
    clstr: Run, nodes: Cluster, flags: list[str], outcome: str
) -> None:
    job = "[ $CLSTR_ATTEMPT = 2 ] || { sleep 600 & sleep 600; }; echo ran"
    result = clstr("-n", "n[1-2]", *flags, "-j", job, cluster=nodes)
    assert (result.status, result.stdout) == (0, b"ran\n")
    assert re.fullmatch(rf"clstr: 1 node evicted: n[12]: {outcome}\n", result.stderr)


def test_a_run_that_has_no_node_left_reads_an_endless_stream_no_further(shell: Start) -> None:
    result = shell(f"yes false | {' '.join(CLSTR)} -n : -J -").result()
    assert result.status == 1
    assert re.match(r"clstr: \d+ of \d+\+ jobs not done: no nodes left \(this machine: exit 1\)\n", result.stderr)


def test_a_job_killed_by_a_signal_is_reported_so(clstr: Run, nodes: Cluster) -> None:
    result = clstr("-n", "n1", "-j", f"kill -{signal.SIGKILL.value} $$", cluster=nodes)
    assert result.status == 1
    assert result.stderr.startswith("clstr: 1 of 1 jobs not done: no nodes left (n1: killed by SIGKILL)\n")
