"""``--dry-run=slurm``: whole scripts, run element by element as Slurm would, and by a real Slurm of one machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cluster.slurm import Slurm
from cluster.sshd import NotHere

from clstr.cli.dry.slurm import MOST, ArrayScript
from clstr.cli.flags import parser
from clstr.model import BadInput, Job, Terms


def job(command: str | bytes, **said: Any) -> Job:
    return Job(1, command if isinstance(command, bytes) else command.encode(), "jobs.txt:7", **said)


def written(*jobs: Job, given: tuple[str, ...] = (), tokens: Mapping[str, int] | None = None) -> bytes:
    form = ArrayScript(parser().parse_args(["--dry-run=slurm", *given]), tokens or {})
    body = b"".join(map(form.add, jobs)) + form.end()
    return form.head() + body


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home" / "work").mkdir(parents=True)
    (tmp_path / "submitted").mkdir()
    return tmp_path / "home"


def run(script: bytes, element: int, home: Path, shell: str = "dash") -> tuple[int, bytes]:
    """The element's exit status and what it printed, with what Slurm sets, where sbatch was called."""
    submitted = home.parent / "submitted"
    (submitted / "slurm_script").write_bytes(script)
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "SHELL": "/bin/sh", "LC_ALL": "C.UTF-8"}
    environment |= {
        "SLURM_ARRAY_JOB_ID": "12",
        "SLURM_ARRAY_TASK_ID": str(element),
        "SLURM_ARRAY_TASK_MIN": "1",
        "SLURM_JOB_ID": str(12 + element),
        "SLURM_SUBMIT_DIR": str(submitted),
        "CDPATH": str(home.parent),
    }
    ran = subprocess.run([shell, "slurm_script"], cwd=submitted, env=environment, stdout=subprocess.PIPE, check=False)
    return ran.returncode, ran.stdout


def test_a_whole_script() -> None:
    jobs = [job("./sim 'a b'"), job("echo $HOME\nwait", name="last")]
    claims = Terms(tokens=(("license", 2),))
    jobs = [Job(1, one.command, "a:1", name=one.name, job_class="gpu", terms=claims) for one in jobs]
    script = written(*jobs, given=("--timeout", "90m", "-C", "~/data"), tokens={"license": 5})
    assert script.decode() == """\
#!/bin/sh
#SBATCH --array=1-2%2
#SBATCH --constraint=gpu
#SBATCH --time=0-01:30:00
# a job array for sbatch, by clstr --dry-run=slurm
dir=
case $SLURM_ARRAY_TASK_ID in
1) dir='./data'; set -- './sim '\\''a b'\\''' ;;
2) dir='./data'; set -- 'echo $HOME
wait' ;; # last
*) echo "no element $SLURM_ARRAY_TASK_ID" >&2; exit 2 ;;
esac
unset CDPATH
cd && cd "${dir:-.}" || exit
job=$1; shift
exec env -- "$@" "${SHELL:-/bin/sh}" -c "$job"
"""


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_each_element_is_its_job(shell: str, home: Path) -> None:
    commands = [
        b"echo one",
        b"exit 3",
        b"pwd",
        b"echo '$HOME' \"it's\"; echo \\\necho",
        b"printf '%s|' a 'b  c'",
        b"# a comment only",
        b"-x 2>/dev/null",
        b"esac ;; (",
        b"kill -TERM $$",
    ]
    script = written(*map(job, commands))
    for number, command in enumerate(commands, 1):
        plain = subprocess.run(
            ["/bin/sh", "-c", command], cwd=home, env={"HOME": str(home)}, stdout=subprocess.PIPE, check=False
        )
        assert run(script, number, home, shell) == (plain.returncode, plain.stdout), command
    assert run(script, len(commands) + 1, home, shell) == (2, b"")


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_every_byte_comes_through(shell: str, home: Path) -> None:
    every = bytes(set(range(1, 256)) - {ord("'")})
    script = written(job("true"), job(b"printf %s '" + every + b"'"))
    assert run(script, 2, home, shell) == (0, every)


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_a_job_has_its_directory_files_and_environment(shell: str, home: Path) -> None:
    (home.parent / "submitted" / "the input").write_text("given\n")
    terms = Terms(
        directory=b"work",
        environment=(("A", b"1"), ("B", b"x 'y' \xff")),
        input="the input",
        output="out",
        error="err",
    )
    script = written(job('pwd; cat; echo "$A"; echo "$B"; echo oops >&2; exit 4', terms=terms), job("pwd"))
    assert run(script, 1, home, shell) == (4, b"")
    submitted = home.parent / "submitted"
    assert (submitted / "out").read_bytes() == os.fsencode(home / "work") + b"\ngiven\n1\nx 'y' \xff\n"
    assert (submitted / "err").read_bytes() == b"oops\n"
    assert run(script, 2, home, shell) == (0, os.fsencode(home) + b"\n")


@pytest.mark.parametrize("shell", ["dash", "bash"])
@pytest.mark.parametrize("terms", [Terms(directory=b"nowhere"), Terms(input="nothing"), Terms(directory=b"-")])
def test_what_cannot_be_entered_or_opened_fails_the_element(shell: str, terms: Terms, home: Path) -> None:
    status, printed = run(written(job("echo ran", terms=terms)), 1, home, shell)
    assert status != 0
    assert printed == b""


@pytest.mark.parametrize(
    ("seconds", "limit"),
    [(0.2, "0-00:00:01"), (59, "0-00:00:59"), (3600, "0-01:00:00"), (90061, "1-01:01:01")],
)
def test_a_time_limit_is_told_as_slurm_reads_it(seconds: float, limit: str) -> None:
    assert f"#SBATCH --time={limit}\n".encode() in written(job("true", terms=Terms(timeout=seconds)))


def test_an_array_says_what_slurm_must_allow_for_it() -> None:
    few = written(*[job("true")] * 1000)
    assert b"slurm.conf" not in few
    many = written(*[job("true")] * 1001)
    assert b"# slurm.conf must have MaxArraySize=1002 or more\n" in many
    big = written(*[job("x" * 100_000)] * 43)
    (line,) = [line for line in big.splitlines() if b"max_script_size" in line]
    assert int(line.split(b"=")[2].split()[0]) > len(big)


def test_an_array_is_not_longer_than_slurm_can_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST == 4_000_000
    monkeypatch.setattr("clstr.cli.dry.slurm.MOST", 2)
    written(job("true"), job("true"))
    with pytest.raises(BadInput, match=r"^jobs.txt:7: an array has 2 elements at most \(split the list\)$"):
        written(*[job("true")] * 3)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A Slurm of this one machine, which has the feature ``gpu``."""
    try:
        made = Slurm(tmp_path_factory.mktemp("slurm"), features=("gpu",))
    except NotHere as lacking:
        pytest.skip(str(lacking))
    yield made
    made.stop()


def test_a_real_slurm_runs_the_array(slurm: Slurm, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    step = f"echo + >>{journal}; sleep 0.3; echo - >>{journal}"
    terms = Terms(tokens=(("license", 1),))
    lines = [f"{step}; echo job {n} 'it''s' $PWD; exit {n % 2}" for n in range(1, 4)]
    script = tmp_path / "array.sh"
    jobs = [job(line, job_class="gpu", terms=terms) for line in lines]
    script.write_bytes(written(*jobs, given=("--timeout", "10m"), tokens={"license": 1}))
    assert slurm.run(script) == {1: 1, 2: 0, 3: 1}
    for number in range(1, 4):
        (printed,) = tmp_path.glob(f"slurm-*_{number}.out")
        assert printed.read_text() == f"job {number} its {Path.home()}\n"
    assert journal.read_text() == "+\n-\n" * 3  # never two at once


def test_a_real_slurm_knows_the_class_as_a_feature(slurm: Slurm, tmp_path: Path) -> None:
    script = tmp_path / "array.sh"
    script.write_bytes(written(job("true", job_class="tpu")))
    assert "Invalid feature specification" in slurm.refuses(script)
