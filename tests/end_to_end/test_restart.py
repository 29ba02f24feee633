"""A run that was killed, and the next one over what it left."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster.sshd import parents, until
from end_to_end.clstr_process import Process, Result

Run = Callable[..., Result]
Start = Callable[..., Process]

JOBS = """\
echo one >>journal
echo two >>journal
echo $$ >pid; echo three begun >>journal; until [ -e go ]; do sleep 0.1; done; echo three >>journal
echo four >>journal
"""


@pytest.mark.parametrize("record", [["-d", "run"], ["--joblog", "log", "--resume"]], ids=["run-dir", "joblog"])
def test_what_ran_when_the_run_was_killed_runs_again_and_what_was_done_does_not(
    start: Start, clstr: Run, tmp_path: Path, record: list[str]
) -> None:
    (tmp_path / "jobs.txt").write_text(JOBS)
    journal, pid = tmp_path / "journal", tmp_path / "pid"
    run = start("-n", ":", "-J", "jobs.txt", *record)
    until(lambda: journal.exists() and "three begun" in journal.read_text(), "the third job runs", 30)
    run.send(signal.SIGKILL)
    run.result()
    until(lambda: int(pid.read_text()) not in parents(), "the leash has ended the job", 30)
    (tmp_path / "go").touch()
    result = clstr("-n", ":", "-J", "jobs.txt", *record)
    assert result.status == 0
    assert journal.read_text().splitlines() == ["one", "two", "three begun", "three begun", "three", "four"]
