"""Every example runs, on the practice cluster, with one command."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
from end_to_end.clstr_process import Process, put_in_path

SVG = "{http://www.w3.org/2000/svg}"
EXAMPLES = Path(__file__).parent.parent / "examples"
NOBODY_IS_HERE = not subprocess.run(["users"], capture_output=True, text=True, check=True).stdout.strip()

CI_REPORT = ["clstr exited with 1; not done:", "echo suite three: FAILED; exit 1"]

PRINTS = {
    "one_liners.sh": ["Hello again.", "Hello, world.", "What do you want?", "done at the second try"],
    "generated_jobs.sh": [*(f"I am job {n}" for n in range(1, 11)), "lines", "several"],
    "inventory.sh": ["6 ", "6 "],
    "watch_a_long_run.sh": [*map(str, range(1, 13)), *(["<'Job' 'sleep 0."] * 3)],
    "timeline.sh": ["evicted: exit 1", "pardoned"],
    "idle_nodes.sh": [f"simulation {n} ran on an idle machine" for n in (1, 2, 3)],
    "sweep.sh": [
        *(f"{model} at {rate}: loss " for rate in ("0.1", "0.01") for model in ("linear", "quadratic", "exotic")),
        "Job ID,Machine,Status,RATE,MODEL",
        *(f",done,{rate},{model}" for rate in ("0.1", "0.01") for model in ("linear", "quadratic", "exotic")),
    ],
    "pipeline.sh": ["# "] * 4 + ["the word green has 5 letters"],
    "resume.sh": ["20 jobs are done", "0 of them were run again though they were on record"],
    "allocation.sh": [*(f"slurm n{n}" for n in (1, 2, 3, 4)), "pbs n5", "pbs n5", "pbs n6"],
    "results.sh": ["run1: 1", "run2: 4", "run3: 9"],
    "gpus.sh": [f"model {model}: GPU " for model in range(1, 13)],
    "in_ci.sh": [": suite one: ok", ": suite two: ok", ": suite three: FAILED", *CI_REPORT],
}
"""What each prints, sorted, or a part of each line of it."""


def test_every_example_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.sh")} == {*PRINTS, "recording.sh"}


@pytest.mark.parametrize("name", PRINTS)
def test_the_example_runs_on_the_practice_cluster(name: str, tmp_path: Path) -> None:
    if name == "idle_nodes.sh" and not NOBODY_IS_HERE:
        pytest.skip("somebody is logged in here, so no machine is idle")
    environment = put_in_path(tmp_path)  # behind the interpreter's own directory, where a clstr may be as well
    command = [sys.executable, EXAMPLES / "practice_cluster.py", "--", EXAMPLES / name]
    example = Process(command, tmp_path, env=environment)
    result = example.result()
    example.stop()
    assert result.status == 0, result.stderr
    lines = sorted(line.strip() for line in result.lines)
    expected = sorted(PRINTS[name])
    assert len(lines) == len(expected)
    for line in lines:
        assert any(part in line for part in expected), line
    if name == "watch_a_long_run.sh":
        assert "12 of 12 jobs complete, 0 of 6 nodes running jobs." in result.stderr


def test_a_recording_shows_the_run_as_a_terminal_does(tmp_path: Path) -> None:
    picture = tmp_path / "recording.svg"
    clstr = ["clstr", "--status", "-F", "{config}", "-N", "{nodes}", "--job", "echo '<drawn>'"]
    record = [sys.executable, EXAMPLES / "record.py", "--columns", "70", "-o", picture, "--", *clstr]
    command = [sys.executable, EXAMPLES / "practice_cluster.py", "--", *record]
    recording = Process(command, tmp_path, env=put_in_path(tmp_path))
    result = recording.result()
    recording.stop()
    assert result.status == 0, result.stderr
    shown = ["".join(row.itertext()).rstrip() for row in ElementTree.parse(picture).iter(f"{SVG}text")]
    assert shown[0].startswith("$ clstr --status -F ")
    assert "<drawn>" in shown
    assert shown[-1].startswith("1 of 1 jobs complete, 0 of 6 nodes running jobs. [00:0")


def test_a_command_of_a_client_that_has_gone_is_not_run(practice: ModuleType, tmp_path: Path) -> None:
    class Gone:
        def get_extra_info(self, name: str) -> None:
            return None

    session = practice.Session(practice.Node("n1", tmp_path))
    session.connection_made(Gone())
    session.exec_requested("touch here")
    asyncio.run(session.start())
    assert (session.process, list(tmp_path.iterdir())) == (None, [])
