"""``--dry-run=slurm``: a flat list of jobs as a job array, a script that sbatch(1) takes.

- An element of the array is a job: a ``case`` picks it by its number, and the user's login shell gets it byte for byte,
  in the home directory or that of ``--chdir``, as with clstr.
- What holds for the whole array stands in its head: a class is the constraint, a time limit the time limit, and a token
  that every job claims is the number of elements that may run at once. A job that differs in that is refused.
- Files that a job names are opened where sbatch was called, as clstr opens them where it was.
"""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Mapping

from clstr.cli.dry.refusals import check_flags, check_job, refuse
from clstr.model import BadInput, Job

SCHEDULER = "Slurm"

MOST = 4_000_000
"""Elements of an array, at most: the largest MaxArraySize that slurm.conf(5) allows, less the element 0."""

USUAL = 1000
"""Elements of an array where MaxArraySize is not set."""

USUAL_SIZE = 4 << 20
"""Bytes of a script where max_script_size is not set."""

FEATURE = re.compile(r"[\w.-]+", re.ASCII)
"""A name that a constraint does not take for an expression."""

PICK = b"""\
dir=
case $SLURM_ARRAY_TASK_ID in
"""

RUN = b"""\
*) echo "no element $SLURM_ARRAY_TASK_ID" >&2; exit 2 ;;
esac
unset CDPATH
cd && cd "${dir:-.}" || exit
job=$1; shift
exec env -- "$@" "${SHELL:-/bin/sh}" -c "$job"
"""


class ArrayScript:
    """The script, job by job. Raises BadInput for what an array has no words for."""

    def __init__(self, flags: argparse.Namespace, tokens: Mapping[str, int]) -> None:
        """``tokens``: the units that there are of each."""
        check_flags(flags, SCHEDULER)
        self._tokens = tokens
        self._timeout: float | None = flags.timeout
        self._chdir: bytes | None = None if flags.chdir is None else os.fsencode(flags.chdir)
        self._first: Job | None = None
        self._count = 0
        self._size = 0

    def add(self, job: Job) -> bytes:
        """The job as an element."""
        check_job(job, SCHEDULER)
        self._check(job)
        self._count += 1
        if self._count > MOST:
            refuse(job, f"an array has {MOST:,} elements at most", "split the list")
        element = b"%d) %s ;;%s\n" % (self._count, b"; ".join(self._steps(job)), _remark(job))
        self._size += len(element)
        return element

    def end(self) -> bytes:
        """The rest of the body. Raises BadInput for an empty list."""
        if self._first is None:
            raise BadInput("--dry-run=slurm: no job is left for an array (name some)")
        return RUN

    def head(self) -> bytes:
        """The options of the array, and comments on what it needs."""
        assert self._first is not None
        lines = ["#!/bin/sh", f"#SBATCH --array=1-{self._count}{self._at_once(self._first)}"]
        if self._first.job_class is not None:
            lines.append(f"#SBATCH --constraint={self._first.job_class}")
        if (limit := self._limit(self._first)) is not None:
            lines.append(f"#SBATCH --time={_in_hours(limit)}")
        lines.append("# a job array for sbatch, by clstr --dry-run=slurm")
        if self._count > USUAL:
            lines.append(f"# slurm.conf must have MaxArraySize={self._count + 1} or more")
        if self._size > USUAL_SIZE - len(RUN) - 1000:
            lines.append(f"# slurm.conf must have SchedulerParameters=max_script_size={self._size + 2000} or more")
        return "\n".join(lines).encode() + b"\n" + PICK

    def _check(self, job: Job) -> None:
        """Raise BadInput unless the job can be an element, and goes with those before it."""
        terms = job.terms
        if terms.hold:
            refuse(job, "one element of an array cannot be held", "leave it out")
        if terms.priority:
            refuse(job, "one element of an array has no priority of its own", "drop it; elements start in order")
        if job.budget:
            refuse(job, "Slurm does not run a job again that has failed", "drop --retries or max_retries")
        if len(terms.tokens) > 1:
            refuse(job, "an array can claim one token, as its %N", "drop the others, or use Slurm's --licenses")
        if job.job_class is not None and not FEATURE.fullmatch(job.job_class):
            refuse(job, f"class {job.job_class!r} cannot be a constraint", "use letters, digits, '_', '.' and '-'")
        first = self._first = self._first or job
        for what, one, other in (
            ("class", job.job_class, first.job_class),
            ("time limit", self._limit(job), self._limit(first)),
            ("claim of tokens", terms.tokens, first.terms.tokens),
        ):
            if one != other:
                refuse(job, f"an array has one {what}, and that of {first.origin} differs", "make an array of each")

    def _limit(self, job: Job) -> float | None:
        return self._timeout if job.terms.timeout is None else job.terms.timeout

    def _at_once(self, job: Job) -> str:
        """The ``%N`` of the array's numbers."""
        return "".join(f"%{self._tokens[name] // units}" for name, units in job.terms.tokens)

    def _steps(self, job: Job) -> list[bytes]:
        """What the shell does to make the element ready."""
        terms = job.terms
        files = [
            operator + _quoted(os.fsencode(path))
            for operator, path in ((b"<", terms.input), (b">", terms.output), (b"2>", terms.error))
            if path is not None
        ]
        steps = [b"exec " + b" ".join(files) + b" || exit"] if files else []  # not every shell leaves by itself
        directory = self._chdir if terms.directory is None else terms.directory
        if directory is not None:
            steps.append(b"dir=" + _quoted(_from_home(directory)))
        environment = (b"%s=%s" % (os.fsencode(name), value) for name, value in terms.environment)
        steps.append(b"set -- " + b" ".join(map(_quoted, (job.command, *environment))))
        return steps


def _quoted(text: bytes) -> bytes:
    """The text as one word of the shell's, whatever bytes it has."""
    return b"'" + text.replace(b"'", b"'\\''") + b"'"


def _from_home(directory: bytes) -> bytes:
    """The directory, for a shell that is in the home directory; ``cd -`` would be something else."""
    if directory == b"~" or directory.startswith(b"~/"):
        return b"./" + directory[2:]
    return directory if directory.startswith(b"/") else b"./" + directory


def _remark(job: Job) -> bytes:
    return b"" if job.name is None else b" # " + os.fsencode(" ".join(job.name.split()))


def _in_hours(seconds: float) -> str:
    """The time as ``[DAYS-]HOURS:MINUTES:SECONDS``, rounded up to seconds; Slurm's own clock has minutes."""
    minutes, second = divmod(math.ceil(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days}-{hour:02}:{minute:02}:{second:02}"
