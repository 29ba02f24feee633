"""What HTCondor and Slurm cannot be told is refused, each with its reason."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Any

import pytest

from clstr.cli.dry.condor import SubmitFile
from clstr.cli.dry.slurm import ArrayScript
from clstr.cli.flags import parser
from clstr.model import BadInput, Barrier, Job, Machine, Terms


def flags(*words: str, form: str = "condor") -> argparse.Namespace:
    return parser().parse_args([f"--dry-run={form}", *words])


def job(command: str = "true", origin: str = "w.sub:3", **said: Any) -> Job:
    return Job(1, command.encode(), origin, **said)


def form(scheduler: str, *words: str, tokens: Mapping[str, int] | None = None) -> SubmitFile | ArrayScript:
    given = flags(*words, form=scheduler)
    return SubmitFile(given, tokens or {}) if scheduler == "condor" else ArrayScript(given, tokens or {})


def refused(scheduler: str, *jobs: Job, given: tuple[str, ...] = ()) -> str:
    try:
        made = form(scheduler, *given)
        for one in jobs:
            made.add(one)
        made.end()
    except BadInput as error:
        return str(error)
    pytest.fail("nothing was refused")


MACHINE = job("ping {MACHINE}", parts=(b"ping ", Machine.MACHINE))
SECRET = job("get {KEY}", parts=(b"get abc",))
AFTER = job(terms=Terms(after=Barrier("prep")))


@pytest.mark.parametrize(
    ("scheduler", "said", "words"),
    [
        ("condor", MACHINE, "{MACHINE} is known to clstr only (use what HTCondor tells the job, or hostname)"),
        ("slurm", MACHINE, "{MACHINE} is known to clstr only (use what Slurm tells the job, or hostname)"),
        ("condor", SECRET, "the value of a --var would have to be written down (use the environment of the job)"),
        ("slurm", SECRET, "the value of a --var would have to be written down (use the environment of the job)"),
        ("condor", AFTER, "HTCondor's form has no word for +After (drop it; condor_submit_dag takes a DAG)"),
        ("slurm", AFTER, "Slurm's form has no word for +After (drop it; sbatch takes --dependency)"),
        ("condor", job("a $CLSTR_JOB"), "CLSTR_JOB is set by clstr only (use a variable of HTCondor's)"),
        ("slurm", job("a ${CLSTR_SLOT}"), "CLSTR_SLOT is set by clstr only (use a variable of Slurm's)"),
        (
            "condor",
            job(terms=Terms(timeout=60)),
            "HTCondor fails no job for its time (drop it; allowed_execute_duration puts such a job on hold)",
        ),
        (
            "condor",
            job(terms=Terms(directory=b"~/a")),
            "HTCondor does not know the home directory in '~/a' (write it from / on)",
        ),
        (
            "condor",
            job(terms=Terms(output="a ")),
            "the output 'a ' begins or ends with what HTCondor drops (name another)",
        ),
        (
            "condor",
            job(terms=Terms(input="a\\")),
            "the input 'a\\\\' begins or ends with what HTCondor drops (name another)",
        ),
        ("slurm", job(terms=Terms(hold=True)), "one element of an array cannot be held (leave it out)"),
        (
            "slurm",
            job(terms=Terms(priority=-1)),
            "one element of an array has no priority of its own (drop it; elements start in order)",
        ),
        ("slurm", job(budget=1), "Slurm does not run a job again that has failed (drop --retries or max_retries)"),
        (
            "slurm",
            job(terms=Terms(tokens=(("a", 1), ("b", 1)))),
            "an array can claim one token, as its %N (drop the others, or use Slurm's --licenses)",
        ),
        (
            "slurm",
            job(job_class="a&b"),
            "class 'a&b' cannot be a constraint (use letters, digits, '_', '.' and '-')",
        ),
    ],
)
def test_a_job_is_refused(scheduler: str, said: Job, words: str) -> None:
    assert refused(scheduler, said) == f"w.sub:3: {words}"


@pytest.mark.parametrize(
    ("words", "one", "other"),
    [
        ("an array has one class, and that of w.sub:3 differs", job(job_class="a"), job(origin="w.sub:4")),
        (
            "an array has one time limit, and that of w.sub:3 differs",
            job(terms=Terms(timeout=5)),
            job(origin="w.sub:4"),
        ),
        (
            "an array has one claim of tokens, and that of w.sub:3 differs",
            job(terms=Terms(tokens=(("a", 1),))),
            job(origin="w.sub:4", terms=Terms(tokens=(("a", 2),))),
        ),
    ],
)
def test_jobs_that_an_array_cannot_hold_together(words: str, one: Job, other: Job) -> None:
    assert refused("slurm", one, other) == f"w.sub:4: {words} (make an array of each)"


def test_a_time_limit_of_its_own_may_be_that_of_all() -> None:
    made = form("slurm", "--timeout", "60")
    made.add(job())
    made.add(job(terms=Terms(timeout=60)))


@pytest.mark.parametrize("scheduler", ["condor", "slurm"])
@pytest.mark.parametrize(
    ("given", "why"),
    [
        (("-E", "true"), "has no job for each of its nodes (drop --on-each-node)"),
        (("--setup", "true"), "makes no node ready before its first job (drop --setup)"),
        (("--push", "a"), "copies nothing to a node before its first job (drop --push)"),
        (("--stall-timeout", "5"), "does not look at what a job prints (drop --stall-timeout)"),
    ],
)
def test_a_flag_is_refused(scheduler: str, given: tuple[str, ...], why: str) -> None:
    name = "HTCondor" if scheduler == "condor" else "Slurm"
    assert refused(scheduler, given=given) == f"--dry-run={scheduler}: {name} {why}"


def test_a_time_limit_for_all_is_refused_for_htcondor() -> None:
    cure = "drop it; allowed_execute_duration puts such a job on hold"
    assert refused("condor", given=("--timeout", "5")) == f"--timeout: HTCondor fails no job for its time ({cure})"


@pytest.mark.parametrize("scheduler", ["condor", "slurm"])
def test_a_list_without_jobs_is_refused(scheduler: str) -> None:
    assert re.fullmatch(f"--dry-run={scheduler}: no job is left .* \\(name some\\)", refused(scheduler))
