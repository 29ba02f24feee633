"""However a run is stopped, no process of a running job is left on its node.

The job is a family: a shell, a grandchild, one that ignores TERM, and they print. For every way of stopping, every
login and ``:`` the processes left are counted; ``pytest -s`` prints the table. Over SSH there are jobs with a watcher
of their own, and jobs that are not the first on their connections and leave that to its guard. A job that ended by
itself keeps its background children: those are no orphans.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster.sshd import Account, Cluster, NotHere, Site, command_line, parents, send, until
from end_to_end.clstr_process import Process
from faults.mean_nodes import add_node
from faults.mean_servers import Stage

Start = Callable[..., Process]
Table = list[tuple[object, ...]]

JOBS = 2
NUMBER = 86_000


def family(mark: str) -> str:
    """A job of four processes in one group, each with the mark in its command line."""
    return (
        f"sh -c 'sh -c \"sleep {mark}.1; :\" & sleep {mark}.2' & "
        f"sh -c 'trap \"\" TERM HUP INT; echo up; while :; do sleep {mark}.3; done' & "
        f"while :; do sleep {mark}.4; done"
    )


def alive(mark: str) -> dict[int, str]:
    """The processes that have the mark, wherever they are, but for clstr and sshd."""
    found = {pid: command_line(pid) for pid in parents()}
    return {
        pid: line
        for pid, line in found.items()
        if mark in line and "sleep" in line and "clstr" not in line.split()[:3]
    }


def guards(cluster: Cluster) -> int:
    """How many of the cluster's connections have a guard that has said so."""
    ready = 0
    for pid, line in cluster.jobs().items():
        with contextlib.suppress(OSError):  # it has ended
            ready += "clstr-guards" in line and os.readlink(f"/proc/{pid}/fd/1") == "/dev/null"
    return ready


def watchers(mark: str) -> int:
    """How many processes of the jobs wait for their input to end: they have the mark only in their group's."""
    leaders = {os.getsid(pid) for pid in alive(mark)}
    return sum(
        pid not in leaders and "clstr_l" in command_line(pid) and f"sleep {mark}" not in command_line(pid)
        for pid in parents()
        if sid(pid) in leaders
    )


def sid(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


@dataclass
class Scene:
    """A run whose jobs are to be stopped; processes of its jobs have the mark in their command line."""

    run: Process
    cluster: Cluster | None
    login: str
    mark: str

    def all_run(self) -> bool:
        return sum(f"sleep {self.mark}" in line for line in alive(self.mark).values()) >= 4 * JOBS


def interrupt(scene: Scene) -> None:
    scene.run.send(signal.SIGINT)
    assert scene.run.result().status == 130


def interrupt_twice(scene: Scene) -> None:
    scene.run.send(signal.SIGINT)
    until(lambda: pending_is_taken(scene.run.pid), "the first signal was taken")
    scene.run.send(signal.SIGINT)
    assert scene.run.result().status == 130


def pending_is_taken(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    lines = [line.split()[1] for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
    return not any(int(mask, 16) >> (signal.SIGINT - 1) & 1 for mask in lines)


def terminate(scene: Scene) -> None:
    scene.run.send(signal.SIGTERM)
    assert scene.run.result().status == 143


def hang_up(scene: Scene) -> None:
    scene.run.send(signal.SIGHUP)
    assert scene.run.result().status == 129


def kill_clstr(scene: Scene) -> None:
    scene.run.send(signal.SIGKILL)
    scene.run.process.wait()


def close_stdout(scene: Scene) -> None:
    scene.run.stdout.close()
    assert scene.run.process.wait(30) == 141


def wait_for_the_limit(scene: Scene) -> None:
    """--timeout or --stall-timeout ends the jobs; every node is evicted then."""
    assert scene.run.process.wait(30) == 1


def remote(cluster: Cluster | None) -> Cluster:
    assert cluster is not None
    return cluster


def kill_connections(scene: Scene) -> None:
    cluster = remote(scene.cluster)
    for node in (1, 2):
        cluster.kill_connections(node)
    scene.run.send(signal.SIGINT)
    scene.run.process.wait(30)


def kill_sshd_and_all(scene: Scene) -> None:
    cluster = remote(scene.cluster)
    for node in (1, 2):
        cluster.stop(node)
    scene.run.send(signal.SIGINT)
    scene.run.process.wait(30)


def kill_session_processes(scene: Scene) -> None:
    """Each connection's last sshd, the parent of its jobs, and no other."""
    cluster = remote(scene.cluster)
    tree = parents()
    shells = [pid for pid, line in cluster.jobs().items() if pid in tree]
    sessions = {tree[pid] for pid in shells if command_line(tree[pid]).startswith("sshd")}
    assert sessions
    send(sessions, signal.SIGKILL)
    scene.run.send(signal.SIGINT)
    scene.run.process.wait(30)


WAYS: dict[str, tuple[Callable[[Scene], None], tuple[str, ...]]] = {
    "^C": (interrupt, ()),
    "second ^C": (interrupt_twice, ()),
    "SIGTERM": (terminate, ()),
    "SIGHUP": (hang_up, ()),
    "--timeout": (wait_for_the_limit, ("--timeout", "5")),
    "--stall-timeout": (wait_for_the_limit, ("--stall-timeout", "5")),
    "SIGKILL of clstr": (kill_clstr, ()),
    "stdout closed": (close_stdout, ()),
    "connections killed": (kill_connections, ()),
    "sshd's session process killed": (kill_session_processes, ()),
    "sshd killed whole": (kill_sshd_and_all, ()),
}
OF_SSHD = (kill_connections, kill_session_processes, kill_sshd_and_all)


def login(kind: str, site: Site) -> Account:
    return site.root() if kind == "root" else site.account()


def logins(site: Site) -> list[str]:
    """The kinds of nodes that this machine can offer."""
    try:
        site.root()
    except NotHere:
        return ["user", ":"]
    return ["user", "root", ":"]


@pytest.mark.parametrize("way", WAYS)
def test_no_process_of_a_running_job_is_left(
    way: str, site: Site, quick: Callable[..., Cluster], start: Start, scratch: Path, table: Table
) -> None:
    """All kinds of nodes at once, since most ways wait for the grace."""
    stop, flags = WAYS[way]
    scenes, began = [], []
    kinds = [(kind, guarded) for kind in logins(site) for guarded in (False, True) if kind != ":" or not guarded]
    for number, (kind, guarded) in enumerate(kinds):
        if kind == ":" and stop in OF_SSHD:
            continue
        mark = str(NUMBER + os.getpid() % 1000 * 100 + list(WAYS).index(way) * len(kinds) + number)
        cluster = None if kind == ":" else quick(nodes=2, account=login(kind, site))
        nodes = [": slots=2"] if cluster is None else ["n[1-2]"]
        # A writer that never stops is what tells clstr that nobody reads.
        job = f"echo up; yes {mark} & {family(mark)}" if stop is close_stdout else family(mark)
        options = {"stdout": subprocess.PIPE} if stop is close_stdout else {}
        go = scratch / f"go-{number}"
        first = ["-j", f"until [ -e {go} ]; do sleep 0.05; done"] * JOBS if guarded else []
        run = start("-n", *nodes, *first, "-j", job, "-j", job, *flags, cluster=cluster, **options)
        scenes.append(Scene(run, cluster, f"{kind}, guarded" if guarded else kind, mark))
        if guarded:
            until(lambda cluster=cluster: guards(remote(cluster)) == JOBS, "the connections are guarded", 20)
            go.touch()
        until(scenes[-1].all_run, "the jobs run", 20)  # here, since a limit may soon end them
        assert kind == ":" or watchers(mark) == (0 if guarded else JOBS)
        began.append(len(alive(mark)))
    with ThreadPoolExecutor() as threads:
        list(threads.map(stop, scenes))
    try:
        # The grace is over, and more: TERM, 5 s, KILL.
        until(lambda: not any(alive(scene.mark) for scene in scenes), f"no process is left: {way}", 15)
    finally:
        for scene, processes in zip(scenes, began, strict=True):
            left = alive(scene.mark)
            table.append(("orphans", way, scene.login, f"{processes} processes", f"{len(left)} left"))
            send(left, signal.SIGKILL)


def test_a_guard_that_was_killed_has_a_successor_for_the_same_jobs(
    quick: Callable[..., Cluster], start: Start, scratch: Path, table: Table
) -> None:
    mark = str(NUMBER + os.getpid() % 1000 * 100 + 91)
    cluster = quick(nodes=2)
    first = ["-j", f"until [ -e {scratch / 'go'} ]; do sleep 0.05; done"] * JOBS
    run = start("-n", "n[1-2]", *first, "-j", family(mark), "-j", family(mark), cluster=cluster)
    until(lambda: guards(cluster) == JOBS, "the connections are guarded", 20)
    (scratch / "go").touch()
    scene = Scene(run, cluster, "user", mark)
    until(scene.all_run, "the jobs run", 20)
    old = {pid for pid, line in cluster.jobs().items() if "clstr-guards" in line}
    send(old, signal.SIGKILL)
    until(lambda: guards(cluster) == JOBS and not old & cluster.jobs().keys(), "there are new guards", 20)
    assert watchers(mark) == 0
    kill_clstr(scene)
    until(lambda: not alive(mark), "no process is left", 15)
    table.append(("orphans", "guards killed, then clstr", "user", "8 processes", "0 left"))


def login_here(kind: str, site: Site) -> Account:
    if kind not in logins(site):
        pytest.skip("a root login needs tests that run as root")
    return login(kind, site)


def test_a_cut_cable_leaves_none_once_the_node_has_noticed(
    quick: Callable[..., Cluster], stage: Stage, start: Start, table: Table
) -> None:
    mark = str(NUMBER + os.getpid() % 1000 * 100 + 90)
    cluster = quick(nodes=1)
    proxy = stage.proxy(cluster.addresses[0], cluster.port)
    add_node(cluster, "cut", proxy.address, proxy.port)
    run = start("-n", "cut", "-j", family(mark), cluster=cluster)
    until(lambda: len(alive(mark)) >= 4, "the job runs", 20)
    proxy.behave.mute_new = True
    proxy.mute()
    run.send(signal.SIGKILL)
    until(lambda: not alive(mark), "no process is left", 20)
    table.append(("orphans", "cut cable, clstr killed", "user", "4 processes", "0 left"))


@pytest.mark.parametrize("kind", ["user", "root", ":"])
def test_a_drain_kills_nothing(
    kind: str, site: Site, quick: Callable[..., Cluster], start: Start, scratch: Path, table: Table
) -> None:
    cluster = None if kind == ":" else quick(nodes=2, account=login_here(kind, site))
    nodes = [": slots=2"] if cluster is None else ["n[1-2]"]
    job = f"echo up; until [ -e {scratch / 'go'} ]; do sleep 0.05; done; echo whole"
    run = start("-v", "-n", *nodes, "-j", job, "-j", job, "-j", "echo never", cluster=cluster)
    run.prints(b"up\n", JOBS)
    run.send(signal.SIGUSR2)
    until(lambda: pending_is_taken(run.pid), "the signal was taken")
    (scratch / "go").touch()
    result = run.result()
    assert result.status == 1
    assert result.lines == ["up", "up", "whole", "whole"]
    table.append(("orphans", "SIGUSR2 (drain)", kind, "2 jobs", "nothing killed"))


@pytest.mark.parametrize("kind", ["user", "root", ":"])
def test_a_job_that_ended_by_itself_keeps_its_background_children(
    kind: str, site: Site, quick: Callable[..., Cluster], start: Start, table: Table
) -> None:
    mark = str(NUMBER + os.getpid() % 1000 * 100 + 94 + ["user", "root", ":"].index(kind))
    cluster = None if kind == ":" else quick(nodes=1, account=login_here(kind, site))
    node = ":" if cluster is None else "n1"
    run = start("-n", node, "-j", f"sleep {mark} >/dev/null 2>&1 & echo over", cluster=cluster)
    assert (run.result().status, run.printed()) == (0, b"over\n")
    children = alive(mark)
    assert len(children) == 1
    send(children, signal.SIGKILL)
    table.append(("orphans", "the job ended by itself", kind, "1 background child", "1 kept"))
