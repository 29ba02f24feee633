"""Whose fault a dead link is, for real: all connections gone at once, one of several gone, clstr itself asleep."""

from __future__ import annotations

import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster.sshd import Cluster, until
from end_to_end.clstr_process import Process
from faults.mean_nodes import add_node, no_process_is_left
from faults.mean_servers import Proxy, Stage

Start = Callable[..., Process]

IMPATIENT = "import clstr.runner.orders as o; o.AGAIN = 0.3"


def proxied(cluster: Cluster, stage: Stage, nodes: int = 3) -> list[Proxy]:
    """The cluster's nodes behind proxies, as p1, p2, ..."""
    proxies = []
    for node in range(nodes):
        proxies.append(stage.proxy(cluster.addresses[node], cluster.port))
        add_node(cluster, f"p{node + 1}", proxies[-1].address, proxies[-1].port)
    return proxies


@pytest.mark.parametrize("way", ["mute", "reset"])
def test_all_connections_lost_at_once_cost_nobody_anything(
    way: str, quick: Callable[..., Cluster], stage: Stage, start: Start, scratch: Path
) -> None:
    cluster = quick(nodes=3)
    proxies = proxied(cluster, stage)
    go = scratch / "go"
    job = f"echo up; until [ -e {go} ]; do sleep 0.1; done; echo done"
    flags = ["-v", "-n", "p[1-3]", *(["-j", job] * 3), "--connect-timeout", "1"]
    run = start(*flags, cluster=cluster, prelude=IMPATIENT)
    run.prints(b"up\n", 3)
    for proxy in proxies:
        proxy.behave.mute_new = True
    first, *others = proxies
    (first.mute if way == "mute" else first.reset)(*others)
    run.says("this machine is presumed to be at fault")
    run.says("requeued", 3)
    time.sleep(2.5)  # dials fail meanwhile, each after its second
    assert run.running
    go.touch()
    for proxy in proxies:
        proxy.behave.mute_new = False
    result = run.result()
    assert result.status == 0, result.stderr
    assert result.stdout.count(b"done\n") == 3
    assert "evicted" not in result.stderr
    assert result.stderr.count("presumed to be at fault") == 1
    no_process_is_left(cluster)


def test_one_of_three_is_dialed_again_and_evicted_at_its_second_loss(
    quick: Callable[..., Cluster], stage: Stage, start: Start, scratch: Path
) -> None:
    cluster = quick(nodes=3)
    proxies = proxied(cluster, stage)
    go = scratch / "go"
    job = f"echo up; until [ -e {go} ]; do sleep 0.1; done; echo done"
    run = start("-v", "-n", "p[1-3]", *(["-j", job] * 6), cluster=cluster)
    run.prints(b"up\n", 3)
    proxies[0].reset()
    run.says("p1: connection lost under 1 job: ", 1)
    run.says("p1: connected", 2)
    run.prints(b"up\n", 4)
    proxies[0].reset()
    run.says("p1: evicted: connection lost again before a job was done: ")
    go.touch()
    result = run.result()
    assert result.status == 0, result.stderr
    assert not re.search(r"p[23]: (connection lost|evicted)", result.stderr)
    assert "presumed" not in result.stderr
    no_process_is_left(cluster)


def test_after_a_stop_longer_than_every_limit_what_is_pending_counts(
    quick: Callable[..., Cluster], start: Start
) -> None:
    cluster = quick(nodes=2, extra_config="")
    job = "echo up; sleep 2; echo done"
    limits = ["--timeout", "4", "--stall-timeout", "3"]
    run = start("-v", "-n", "n[1-2]", *(["-j", job] * 2), *limits, cluster=cluster)
    run.prints(b"up\n", 2)
    run.send(signal.SIGSTOP)
    # Sessions that wait for a job, and guards, live as long as their connections.
    until(lambda: not any(line.startswith("sleep") for line in cluster.jobs().values()), "the jobs have ended", 20)
    time.sleep(4)  # beyond keepalive's 3 s, --timeout and --stall-timeout
    run.send(signal.SIGCONT)
    result = run.result()
    assert (result.status, result.lines) == (0, ["done", "done", "up", "up"]), result.stderr
    assert not re.search("evicted|timed out|printed nothing|lost", result.stderr)


def test_a_dial_under_way_survives_a_stop(quick: Callable[..., Cluster], start: Start) -> None:
    cluster = quick(nodes=2, extra_config="")
    cluster.freeze(1)
    run = start("-v", "-n", "n1", "-j", "echo up", "--connect-timeout", "3", cluster=cluster)
    until(lambda: dialing(run.pid, cluster.port), "it dials", 20)
    run.send(signal.SIGSTOP)
    cluster.thaw(1)
    time.sleep(4.5)
    run.send(signal.SIGCONT)
    result = run.result()
    assert (result.status, result.stdout) == (0, b"up\n"), result.stderr


def dialing(pid: int, port: int) -> bool:
    """Whether a connection from this machine to the port is open."""
    tail = f":{port:04X}"
    lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return any(line[2].endswith(tail) and line[3] == "01" for line in lines)


# --- sshd's limit on sessions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 2, 5])
def test_eight_slots_need_further_connections_where_sshd_limits_sessions(
    most: int, quick: Callable[..., Cluster], start: Start, tmp_path: Path
) -> None:
    cluster = quick(nodes=2, max_sessions=most)
    jobs = tmp_path / "jobs.txt"
    jobs.write_text("".join(f"echo {k}; sleep 0.{k % 3}\n" for k in range(60)))
    nodes = tmp_path / "nodes.txt"
    nodes.write_text("n1 slots=8\nn2 slots=8\n")
    run = start("-v", "-N", nodes, "-J", jobs, cluster=cluster)
    result = run.result()
    assert result.status == 0, result.stderr
    assert sorted(map(int, result.stdout.split())) == list(range(60))
    assert not re.search("evicted|lost|not started", result.stderr)
    no_process_is_left(cluster)


def test_a_connection_carries_five_sessions_at_most_spares_included(
    quick: Callable[..., Cluster], start: Start, scratch: Path, tmp_path: Path
) -> None:
    cluster = quick(nodes=1)
    go = scratch / "go"
    nodes = tmp_path / "nodes.txt"
    nodes.write_text("n1 slots=8\n")
    job = f"echo up; until [ -e {go} ]; do sleep 0.1; done"
    run = start("-N", nodes, *(["-j", job] * 12), cluster=cluster)
    run.prints(b"up\n", 8)
    until(lambda: cluster.connections(1) == 2, "two connections carry eight jobs")

    def sessions() -> Counter[str]:
        return Counter(re.findall(r"Starting session: .* port (\d+) id", cluster.log(1)))

    until(lambda: sessions().total() >= 8, "eight sessions have begun")
    assert max(sessions().values()) <= 5
    assert "no more sessions" not in cluster.log(1)
    go.touch()  # sshd counts sessions that have ended for a while: what it may refuse now is asked for again
    result = run.result()
    assert (result.status, result.stderr) == (0, "")
