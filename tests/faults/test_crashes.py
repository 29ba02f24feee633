"""SIGKILL to clstr at random instants of a run with all records on, and the same command again each time.

2,000 jobs over loopback nodes; 20 kills, or 200 with CLSTR_CRASHES=full. The seed is printed, CLSTR_CRASHES_SEED
repeats one. Each job writes its number into a journal. What must hold:

- after every kill every file is what the next run, or a reader, understands, and ``.done`` stands only beside what a
  job leaves that has succeeded;
- a job that was recorded as done, by the joblog or by ``.done``, never runs again;
- at the end every job is done, and ran to its end.

Half of the kills come when so many jobs more were logged, half a random while after the start, so that start-up is hit
as well.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster.sshd import Cluster, until
from end_to_end.clstr_process import Process
from faults.mean_nodes import no_process_is_left

FULL = os.environ.get("CLSTR_CRASHES") == "full"
SEED = int(os.environ.get("CLSTR_CRASHES_SEED", time.time_ns() % 1_000_000))
JOBS, KILLS = 2000, 200 if FULL else 20
PATIENCE = 400.0
"""Seconds after which a run is believed to hang, however busy the machine is."""

HEADER = b"Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n"
RECORD = re.compile(rb"\d+\tn\d\t\d+\.\d{3}\t *\d+\.\d{3}\t0\t\d+\t(\d+)\t(\d+)\techo (\d+) .*\n")
SUFFIXES = {"run", "out", "err", "status", "lock", "code", "done"}


class Records:
    """The files of the runs, as they are after a kill or at the end."""

    def __init__(self, directory: Path) -> None:
        self.joblog = directory / "log"
        self.run_dir = directory / "dir"
        self.table = directory / "table.csv"
        self.events = directory / "events"
        self.trace = directory / "trace"

    @property
    def flags(self) -> list[str | Path]:
        return [
            "--joblog", self.joblog, "--resume", "-d", self.run_dir, "--csv", self.table,
            "--events", self.events, "--trace", self.trace,
        ]  # fmt: skip

    def logged(self) -> int:
        """How many lines the joblog has, to be asked often."""
        return self.joblog.read_bytes().count(b"\n") - 1 if self.joblog.exists() else 0

    def recorded(self) -> set[int]:
        """The jobs that are recorded as done, once it is checked that every file parses."""
        self._check_events()
        self._check_trace()
        self._check_table()
        return self._check_joblog() | self._check_run_dir()

    def _check_joblog(self) -> set[int]:
        if not self.joblog.exists() or not self.joblog.stat().st_size:
            return set()
        head, *lines = whole_lines(self.joblog)
        assert head == HEADER
        found = [RECORD.fullmatch(line) for line in lines]
        assert None not in found
        done = [int(match[3]) for match in found if match and match[1] == match[2] == b"0"]
        assert len(done) == len(set(done))
        return set(done)

    def _check_run_dir(self) -> set[int]:
        names: dict[str, set[str]] = {}
        for entry in os.scandir(self.run_dir) if self.run_dir.exists() else ():
            name, suffix = entry.name.rsplit(".", 1)
            if suffix not in ("new", "clstr"):  # what had no name yet, and what the locks are made of
                assert suffix in SUFFIXES, entry.name
                names.setdefault(name, set()).add(suffix)
        done = set()
        for name, suffixes in names.items():
            read = {suffix: (self.run_dir / f"{name}.{suffix}").read_text() for suffix in suffixes}
            assert re.fullmatch(r"\S+ \d+ \S+\n", read.get("lock", "x 1 x\n"))
            assert re.fullmatch(r"\d+ w\n", read.get("status", "1 w\n"))
            assert read.get("code", "0\n") == "0\n"
            assert "run" not in read or (read["run"].startswith("#!/bin/sh\n") and read["run"].endswith(' "$@"\n'))
            if "done" in suffixes:
                number = int(read["out"])
                assert {"run", "err", "code"} <= suffixes
                assert name.startswith(f"echo-{number}-")
                done.add(number)
        return done

    def _check_events(self) -> None:
        for line in whole_lines(self.events):
            assert {"time", "event"} <= json.loads(line).keys()

    def _check_trace(self) -> None:
        lines = whole_lines(self.trace)
        if lines and lines[-1] != b"]\n":
            lines.append(b"]")
        assert all("ph" in event for event in json.loads(b"".join(lines) or b"[]"))

    def _check_table(self) -> None:
        if self.table.exists() and self.table.stat().st_size:
            rows = list(csv.DictReader(io.StringIO(self.table.read_text(), newline=""), strict=True))
            assert all(row["Status"] in ("done", "not done", "running") for row in rows)
            assert all(None not in row.values() for row in rows)


def whole_lines(path: Path) -> list[bytes]:
    data = path.read_bytes() if path.exists() else b""
    return data[: data.rfind(b"\n") + 1].splitlines(keepends=True)


@pytest.mark.timeout(7200 if FULL else 600)
def test_a_run_that_is_killed_again_and_again_goes_on_where_it_was(
    cluster: Callable[..., Cluster], start: Callable[..., Process], scratch: Path, tmp_path: Path
) -> None:
    print(f"CLSTR_CRASHES_SEED={SEED}")
    rng = random.Random(SEED)
    nodes, records, journal = cluster(nodes=2), Records(tmp_path), scratch / "journal"
    (tmp_path / "jobs").write_text("".join(f"echo {n} | tee -a {journal}\n" for n in range(1, JOBS + 1)))
    arguments = ["-n", "n[1-2] slots=4", "-J", tmp_path / "jobs", "-o", *records.flags]
    recorded: set[int] = set()
    ran: list[int] = []

    def look() -> None:
        """Check the files, and that nothing ran that was recorded when this run began."""
        no_process_is_left(nodes, seconds=PATIENCE)
        nonlocal ran, recorded
        journalled = [int(line) for line in journal.read_text().split()] if journal.exists() else []
        again = set(journalled[len(ran) :]) & recorded
        assert not again, f"recorded as done, and run again: {again}"
        ran, before = journalled, recorded
        recorded = records.recorded()
        assert before <= recorded
        assert recorded <= set(ran)

    for kill in range(KILLS):
        run = start(*arguments, cluster=nodes)
        if kill % 2:
            goal = records.logged() + rng.randrange((JOBS - len(recorded)) // (KILLS - kill) + 1)
            until(lambda goal=goal, run=run: records.logged() >= goal or not run.running, "jobs are done", PATIENCE)
            time.sleep(rng.uniform(0, 0.02))
        else:
            time.sleep(rng.uniform(0, 0.8))
        assert run.running or len(records.recorded()) == JOBS, run.said()
        run.send(signal.SIGKILL)
        run.process.wait()
        look()
    survived = len(recorded)
    last = start(*arguments, cluster=nodes)
    assert last.process.wait(PATIENCE) == 0, last.said()
    look()
    assert recorded == set(range(1, JOBS + 1))
    assert not [name for name in os.listdir(records.run_dir) if name.endswith((".lock", ".status", ".clstr"))]
    twice = len(ran) - len(set(ran))
    print(f"{KILLS} kills: {survived} of {JOBS} jobs were recorded before the last run; {twice} ran more than once")
