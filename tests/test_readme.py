"""The README tells the truth: its commands run, its flags are the command's flags, its quick start is CI's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster.sshd import Cluster, Site, until
from end_to_end.clstr_process import CLSTR, Process, Result, put_in_path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.M | re.S)
COMMANDS = list(dict.fromkeys(line for block in BLOCKS for line in block.splitlines()))

STUDY = "".join(re.findall(r"^```\n(executable = .*?)^```", README, re.M | re.S))
"""The submit file that the commands speak of."""

SET_UP = "python3 -m venv .venv && "
OTHERS_FLAGS = {"--demo", "--quick", "--most", "--rounds", "--tools", "--first", "--ansible", "--library"}
"""Flags in the README that are not clstr's: the practice cluster's and the benchmark's."""


# --- words -------------------------------------------------------------------------------------------------


def flags_of_help() -> set[str]:
    shown = subprocess.run([*CLSTR, "--help"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", shown))


def test_every_flag_is_in_the_readme() -> None:
    missing = {flag for flag in flags_of_help() if not re.search(rf"{flag}(?![\w-])", README)}
    assert missing == set()


def test_every_flag_of_the_readme_is_one_of_the_command() -> None:
    ours = re.sub(r"^\| [^|]*\|", "", README, flags=re.M)  # what tables begin with may be another tool's
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", ours)) - flags_of_help() - OTHERS_FLAGS == set()


def test_every_file_that_the_readme_names_is_there() -> None:
    named = re.findall(r"(?:examples|clstr|tests)/[\w/.]*", README)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


# --- the quick start ---------------------------------------------------------------------------------------


def quick_start() -> list[str]:
    return [line for line in COMMANDS if line.startswith(SET_UP)]


def test_the_quick_start_is_two_commands_that_make_the_environment() -> None:
    assert quick_start() == [
        f"{SET_UP}.venv/bin/pip install -q . && .venv/bin/python examples/practice_cluster.py --demo",
        f"{SET_UP}.venv/bin/pip install -q -e '.[test]' && .venv/bin/pytest -q",
    ]


def test_continuous_integration_runs_the_second_command_of_the_quick_start() -> None:
    assert quick_start()[1] in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_demonstration_shows_eviction_and_requeueing(tmp_path: Path) -> None:
    demo = Process([sys.executable, ROOT / "examples" / "practice_cluster.py", "--demo"], tmp_path)
    result = demo.result()
    demo.stop()
    assert result.status == 0
    assert {f"frame {n}:" for n in range(1, 21)} == {line[: line.index(":") + 1] for line in result.lines}
    assert re.search(r"^clstr: job \d+ requeued: exit 1 on n5$", result.stderr, re.M)
    assert re.search(r"^clstr: n6: evicted: .*refused", result.stderr, re.M)
    assert re.search(r"^clstr: n5: evicted: exit 1$", result.stderr, re.M)


# --- the commands ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nodes(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes, which answer to the names rack[1-4]n[01-32] too."""
    with Cluster(site, tmp_path_factory.mktemp("readme"), 3, extra_config="Subsystem sftp internal-sftp") as cluster:
        cluster.ssh_config.write_text(f"Host rack*\n    HostName 127.0.1.1\n{cluster.ssh_config.read_text()}")
        yield cluster


@pytest.fixture
def run(nodes: Cluster, tmp_path: Path) -> Iterator[Callable[[str], Result]]:
    """Runs a command of the README in a directory with all that it speaks of."""
    (tmp_path / "nodes.txt").write_text("n1\nn2\nn3 class=gpu\n")
    (tmp_path / "training.txt").write_text("echo on $CLSTR_NODE\n")
    (tmp_path / "bad.txt").write_text("# exit 127\nn1\n")
    (tmp_path / "rest.txt").write_text("echo $CLSTR_NODE | tr -d 23\n")
    (tmp_path / "study.sub").write_text(STUDY)
    (tmp_path / "data").mkdir()
    (tmp_path / "tool").write_text('#!/bin/sh\ntest -d "$1"\n')
    (tmp_path / "tool").chmod(0o755)
    (tmp_path / "jobs.txt").write_text("".join(f"echo job {n}\n" for n in range(5)))
    (tmp_path / "one.wav").touch()
    (tmp_path / "the other.wav").touch()
    generator = tmp_path / "generate-work"
    generator.write_text("#!/bin/sh\necho echo generated\n")
    generator.chmod(0o755)
    programs = [nodes.account.home / name for name in ("simulate", "encode", "collect")]
    for program in programs:
        program.write_text('#!/bin/sh\necho "$(basename $0) $*"\n')
        program.chmod(0o755)
    # One node at a time: here they share one home directory, and would push over each other's files.
    environment = put_in_path(tmp_path, "-F", nodes.ssh_config, "--max-nodes", "1")
    environment |= {"SLURM_JOB_NODELIST": "n[1-3]", "PBS_NODEFILE": str(tmp_path / "pbs"), "TOKEN": "t0k3n"}
    (tmp_path / "pbs").write_text("n1\nn1\nn2\nn2\n")
    started: list[Process] = []

    def run(line: str) -> Result:
        started.append(Process(["bash", "-c", line], tmp_path, env=environment))
        return started[-1].result()

    yield run
    for process in started:
        process.stop()
    until(lambda: not nodes.jobs(), "no process of a job is left on the nodes")
    for program in programs:
        program.unlink()


JOBS = [f"job {n}" for n in range(5)]
FILES = "--node-file nodes.txt --job-file jobs.txt"
STUDIED = ["collect ", *(f"simulate --seed {n}" for n in range(4))]
SIMULATE = '[ -z "$(users)" ] && ./simulate'
IDLE = not os.popen("users").read().strip()

PRINTS = {
    "clstr --node-file nodes.txt --job-file jobs.txt": JOBS,
    """clstr --node n1 n2 --job 'echo "Hello, world."' --job 'echo "Hello again."'""": [
        "Hello again.",
        "Hello, world.",
    ],
    "clstr --node 'rack[1-4]n[01-32]' --exclude 'rack2n[07,09]' --job-file jobs.txt": JOBS,
    'clstr --node "$SLURM_JOB_NODELIST" --job-file jobs.txt': JOBS,
    'clstr --node-file "$PBS_NODEFILE" --job-file jobs.txt': JOBS,
    "clstr --node ': slots=4' --job-file jobs.txt": JOBS,
    "clstr --node : --results results --job 'mkdir -p out; echo 42 > out/value; echo RESULTS: out'": ["RESULTS: out"],
    """clstr --node-file nodes.txt --job-file <(for i in $(seq 10); do echo "echo I am job $i"; done)""": sorted(
        f"I am job {n}" for n in range(1, 11)
    ),
    "clstr --node-file nodes.txt --class gpu --job-file training.txt": ["on n3"],
    "clstr --node-file nodes.txt --push data --push tool:unpack --setup './unpack data' --job-file jobs.txt": JOBS,
    "clstr --follow --node-file nodes.txt --job-file jobs.txt": JOBS,
    "clstr --node-file nodes.txt --job-file jobs.txt --unfinished rest.txt --evicted bad.txt": JOBS,
    "clstr --node-file nodes.txt --exclude-file bad.txt --job-file rest.txt": ["n"],
    "./generate-work | clstr --node-file nodes.txt --job-file -": ["generated"],
    r"find . -name '*.wav' -print0 | sed -z 's/^/.\/encode /' | clstr --node-file nodes.txt --null --job-file -": [
        "encode ./one.wav",
        "encode ./the other.wav",
    ],
    """clstr --node-file nodes.txt --on-each-node 'grep "model name" /proc/cpuinfo' | sort | uniq -c""": None,
    f"clstr --node-file nodes.txt --job '{SIMULATE} 1' --job '{SIMULATE} 2'": (
        ["simulate 1", "simulate 2"] if IDLE else None
    ),
    "clstr --dry-run --job-file jobs.txt | head -20": sorted(
        line for n in range(5) for line in (f"# {n + 1} (jobs.txt:{n + 1})", f"echo job {n}")
    ),
    "clstr --dry-run=condor --job-file jobs.txt > jobs.sub": [],
    "clstr --dry-run=slurm --timeout 10m --job-file jobs.txt > array.sh": [],
    f"clstr {FILES} --tag": None,  # who runs what is left to chance
    f"clstr {FILES} --group": JOBS,
    f"clstr {FILES} --keep-order": JOBS,
    "clstr --node-file nodes.txt --on-each-node 'uname -r' --fold": None,
    "clstr --node-file nodes.txt --matrix MODE=fast,exact --matrix SEED=1,2,3 --job './simulate {MODE} {SEED}'": sorted(
        f"simulate {mode} {seed}" for mode in ("fast", "exact") for seed in (1, 2, 3)
    ),
    "clstr --node-file nodes.txt --times 3 --job-file jobs.txt": sorted(JOBS * 3),
    "clstr --node-file nodes.txt --var TOKEN --job './simulate key={TOKEN}'": ["simulate key=t0k3n"],
    "clstr --node-file nodes.txt --submit study.sub --token license=2": STUDIED,
    "clstr --node-file nodes.txt --submit study.sub --token license=2 --only collect": STUDIED,
    f"clstr {FILES} --joblog log.txt --resume": JOBS,
    f"clstr {FILES} --run-dir runs": JOBS,
    f"clstr {FILES} --csv table.csv --events events.jsonl --trace trace.json": JOBS,
    f"clstr --status --active-nodes running.txt {FILES} --stdout results.txt --stderr": [],
}
"""What each command prints, sorted; None where that depends on the machine."""


def bare(line: str) -> str:
    """The command without its comment."""
    return re.sub(r"\s{2,}# .*", "", line)


def test_every_command_of_the_readme_is_run_here() -> None:
    assert {bare(line) for line in COMMANDS} - set(quick_start()) == set(PRINTS)


@pytest.mark.parametrize("line", [line for line in COMMANDS if not line.startswith(SET_UP)])
def test_the_commands_of_the_readme_run_as_they_stand(run: Callable[[str], Result], tmp_path: Path, line: str) -> None:
    expected = PRINTS[bare(line)]
    result = run(line)
    if expected is None:
        return
    assert (result.status, result.lines) == (0, expected)
    if "--stdout results.txt" in line:
        assert sorted((tmp_path / "results.txt").read_text().splitlines()) == JOBS
        assert result.stderr.startswith("5 of 5 jobs complete, ")
        assert (tmp_path / "running.txt").read_text() == ""
    else:
        assert result.stderr == ""
