"""What ``--var`` gives reaches the job, and nothing that clstr prints or writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from end_to_end.clstr_process import Result

Run = Callable[..., Result]

SECRET = "hunter2-and-more"

RECORDS = [
    "-v", "-s", "-A", "active", "--unfinished", "rest", "--evicted", "bad", "--joblog", "log", "-d", "run",
    "--csv", "csv", "--events", "events", "--trace", "trace",
]  # fmt: skip


@pytest.mark.parametrize("given", [f"KEY={SECRET}", "KEY"], ids=["on the command line", "in the environment"])
def test_a_value_is_in_nothing_that_clstr_prints_or_writes(clstr: Run, tmp_path: Path, given: str) -> None:
    (tmp_path / "value").write_text(SECRET)
    (tmp_path / "jobs.txt").write_text("test {KEY} = wrong\nfalse {KEY} {I}\ntest {KEY} = $(cat value)\n")
    (tmp_path / "jobs.sub").write_text('executable = test\narguments = "{KEY} = wrong"\n+Name = "named"\nqueue\n')
    jobs = ["-j", "sleep 0.{I}; test {KEY} = $(cat value)", "-J", "jobs.txt", "-S", "jobs.sub", "--matrix", "I=1,2"]
    result = clstr("-n", ": slots=2", *jobs, "--retries", 1, "--var", given, *RECORDS, env={"KEY": SECRET})
    assert result.status == 1
    assert "clstr: 4 of 7 jobs failed\n" in result.stderr  # the others have compared the value with the one in the file
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "value"]
    assert len(files) > 30
    assert [path.name for path in files if SECRET in path.read_text() or SECRET in path.name] == []
    shown = clstr("--dry-run", *jobs, "--var", given, env={"KEY": SECRET})
    assert shown.status == 0
    assert SECRET.encode() not in shown.stdout
