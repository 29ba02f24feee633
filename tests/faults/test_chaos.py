"""Many jobs on many nodes, while a script kills, stops, partitions and refuses at random.

The seed is printed. CLSTR_CHAOS=full makes it 2,000 jobs on 20 nodes with at least 20 faults of each kind that hit
a running job; CLSTR_CHAOS_SEED repeats one. The jobs keep a journal of their own. What must hold at the end:

- every job is done: no job is lost, and none is reported done that was not;
- the last attempt of every job, the one that was reported done, began once and ran to its end once;
- no process is left on any node;
- the nodes that were left alone were not evicted.

The faults: *kill*, the sshds of a node's connections; *stop*, its sshds for a moment or for longer than keepalive
allows; *partition*, what is open passes nothing any more, or is reset, or passes nothing for a moment; *refuse*, new
connections are refused for a moment, and to few nodes also when their connection has just been killed, which
evicts them.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cluster.sshd import Cluster
from end_to_end.clstr_process import Process
from faults.mean_nodes import add_node, no_process_is_left
from faults.mean_servers import Proxy, Stage

FULL = os.environ.get("CLSTR_CHAOS") == "full"
SEED = int(os.environ.get("CLSTR_CHAOS_SEED", time.time_ns() % 1_000_000))
JOBS, NODES, UNTOUCHED, HITS = (2000, 20, 4, 20) if FULL else (300, 10, 4, 3)
SACRIFICED = 3 if FULL else 1
KINDS = ("kill", "stop", "partition", "refuse")


@dataclass
class Chaos:
    """The script. Nodes are counted from 1; the first ``UNTOUCHED`` are left alone."""

    cluster: Cluster
    proxies: dict[int, Proxy]
    run: Process
    rng: random.Random
    hits: Counter[str] = field(default_factory=Counter)
    misses: Counter[str] = field(default_factory=Counter)
    sacrificed: int = 0
    heals: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    shaky: dict[int, int] = field(default_factory=dict)  # node -> jobs done there when its connection was last lost

    def goes_on(self) -> None:
        while self.run.running and any(self.hits[kind] < HITS for kind in KINDS):
            self.heal()
            state = self.state()
            kind = min(KINDS, key=lambda kind: (self.hits[kind], self.rng.random()))
            ready = [
                node
                for node in self.proxies
                if node in state.running and node not in state.evicted and state.done[node] > self.shaky.get(node, -1)
            ]
            if ready:
                node = self.rng.choice(ready)
                self.strike(kind, node, state)
            time.sleep(self.rng.uniform(0.02, 0.12))
        while self.heals:
            self.heal()
            time.sleep(0.02)

    def heal(self) -> None:
        now = time.monotonic()
        for _, cure in [pair for pair in self.heals if pair[0] <= now]:
            cure()
        self.heals = [pair for pair in self.heals if pair[0] > now]

    def later(self, seconds: float, cure: Callable[[], None]) -> None:
        self.heals.append((time.monotonic() + seconds, cure))

    def strike(self, kind: str, node: int, state: State) -> None:
        jobs = self.jobs_on(node)
        ways = {"kill": self.kill, "stop": self.stop, "partition": self.partition, "refuse": self.refuse}
        ways[kind](node)
        self.shaky[node] = state.done[node] + 2  # two more to be done there, at least, until its next fault
        if jobs:
            self.hits[kind] += 1
        else:
            self.misses[kind] += 1

    def jobs_on(self, node: int) -> bool:
        return any("sleep" in line for line in self.cluster.jobs(node).values())

    def kill(self, node: int) -> None:
        self.cluster.kill_connections(node)

    def stop(self, node: int) -> None:
        self.cluster.freeze(node)
        self.later(self.rng.choice([0.3, 0.8, 1.2, 4.0]), lambda: self.cluster.thaw(node))

    def partition(self, node: int) -> None:
        proxy = self.proxies[node]
        way = self.rng.choice(["mute", "reset", "hiccup"])
        if way == "reset":
            proxy.reset()
        else:
            proxy.mute()
            if way == "hiccup":
                self.later(1.0, proxy.unmute)

    def refuse(self, node: int) -> None:
        proxy = self.proxies[node]
        proxy.refuse()
        self.later(self.rng.uniform(0.3, 1.0), proxy.accept)
        if self.sacrificed < SACRIFICED:
            self.sacrificed += 1
            self.cluster.kill_connections(node)

    def state(self) -> State:
        return State.of(self.run.said())


@dataclass
class State:
    """What clstr has said so far (-v)."""

    running: dict[int, int]
    done: Counter[int]
    evicted: set[int]
    last: dict[int, int]  # job -> its last attempt
    ended: dict[int, list[str]]  # job -> how its attempts ended

    @classmethod
    def of(cls, said: str) -> State:
        state = cls({}, Counter(), set(), {}, {})
        for line in said.splitlines():
            if match := re.match(r"clstr: x(\d+): job (\d+) started(?: \(attempt (\d+)\))?", line):
                state.running[int(match[1])] = int(match[2])
                state.last[int(match[2])] = int(match[3] or 1)
            elif match := re.match(r"clstr: x(\d+): job (\d+) ended: (.*)", line):
                node, job, how = int(match[1]), int(match[2]), match[3]
                if state.running.get(node) == job:
                    del state.running[node]
                state.done[node] += how == "exit 0"
                state.ended.setdefault(job, []).append(how)
            elif match := re.match(r"clstr: x(\d+): evicted", line):
                state.evicted.add(int(match[1]))
        return state


@pytest.mark.timeout(900 if FULL else 240)
def test_chaos_loses_no_job_and_leaves_no_process(
    quick: Callable[..., Cluster], stage: Stage, start: Callable[..., Process], scratch: Path, tmp_path: Path
) -> None:
    print(f"\nCLSTR_CHAOS_SEED={SEED}")
    rng = random.Random(SEED)
    cluster = quick(nodes=NODES)
    proxies = {}
    for node, address in enumerate(cluster.addresses, 1):
        if node <= UNTOUCHED:
            add_node(cluster, f"x{node}", address, cluster.port)
        else:
            proxies[node] = stage.proxy(address, cluster.port)
            add_node(cluster, f"x{node}", address, proxies[node].port)
    journal = scratch / "journal"
    journal.touch()
    journal.chmod(0o666)
    jobs = tmp_path / "jobs.txt"
    jobs.write_text(
        "".join(
            f'echo "start $CLSTR_JOB $CLSTR_ATTEMPT $$" >>{journal}; sleep 0.{rng.randrange(2, 9)}; '
            f'echo "end $CLSTR_JOB $CLSTR_ATTEMPT $$" >>{journal}\n'
            for _ in range(JOBS)
        )
    )
    nodes = tmp_path / "nodes.txt"
    nodes.write_text("".join(f"x{node}\n" for node in range(1, NODES + 1)))
    began = time.monotonic()
    run = start("-v", "-N", nodes, "-J", jobs, "--seed", SEED, cluster=cluster)
    run.says("started", times=NODES)
    chaos = Chaos(cluster, proxies, run, rng)
    chaos.goes_on()
    run.process.wait(600)
    seconds = time.monotonic() - began
    said = run.said()
    state = State.of(said)
    print(f"{JOBS} jobs, {NODES} nodes, {seconds:.0f} s; faults that hit a running job: {dict(chaos.hits)}, "
          f"others: {dict(chaos.misses)}; attempts lost: {said.count('ended: connection lost')}, not started: "
          f"{said.count('ended: not started')}, evicted: {sorted(state.evicted)}")  # fmt: skip
    for line in re.findall(r"clstr: x\d+: evicted: .*", said):
        print(line)

    assert run.process.returncode == 0, said[-3000:]
    assert all(chaos.hits[kind] >= HITS for kind in KINDS), "the jobs ended before the faults did"
    assert state.evicted.isdisjoint(range(1, UNTOUCHED + 1))
    starts, ends = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
    for line in journal.read_text().splitlines():
        what, job, attempt, _ = line.split()
        (starts if what == "start" else ends)[int(job), int(attempt)] += 1
    for job in range(1, JOBS + 1):
        last = job, state.last[job]
        assert state.ended[job][-1] == "exit 0", f"job {job} was not reported done: {state.ended[job]}"
        assert state.ended[job].count("exit 0") == 1, f"job {job} was reported done twice"
        assert starts[last] == 1, f"job {job}: its last attempt began {starts[last]} times"
        assert ends[last] == 1, f"job {job}: its last attempt came to its end {ends[last]} times"
    no_process_is_left(cluster, seconds=30)
