"""What neither HTCondor's nor Slurm's form can say: each is refused with its reason, before anything is printed."""

from __future__ import annotations

import argparse
import re
from typing import NoReturn

from clstr.model import BadInput, Job, Machine

OURS = re.compile(rb"CLSTR_(NODE|SLOT|JOB|ATTEMPT)\b")
"""What only clstr sets in a job's environment."""


def refuse(job: Job, what: str, cure: str) -> NoReturn:
    """Raise BadInput for the job."""
    raise BadInput(f"{job.origin}: {what} ({cure})")


def check_flags(flags: argparse.Namespace, scheduler: str) -> None:
    """Raise BadInput for what is said of the whole run, and is lost on a scheduler."""
    for given, flag, why in (
        (flags.on_each_node is not None, "--on-each-node", "has no job for each of its nodes"),
        (flags.setup, "--setup", "makes no node ready before its first job"),
        (flags.push, "--push", "copies nothing to a node before its first job"),
        (flags.stall_timeout is not None, "--stall-timeout", "does not look at what a job prints"),
    ):
        if given:
            raise BadInput(f"--dry-run={flags.dry_run}: {scheduler} {why} (drop {flag})")


def check_job(job: Job, scheduler: str) -> None:
    """Raise BadInput for a job that only clstr can run."""
    if job.parts is not None and Machine.MACHINE in job.parts:
        refuse(job, "{MACHINE} is known to clstr only", f"use what {scheduler} tells the job, or hostname")
    if job.parts is not None:
        refuse(job, "the value of a --var would have to be written down", "use the environment of the job")
    if job.terms.after is not None:
        cure = "condor_submit_dag takes a DAG" if scheduler == "HTCondor" else "sbatch takes --dependency"
        refuse(job, f"{scheduler}'s form has no word for +After", f"drop it; {cure}")
    if found := OURS.search(job.command):
        refuse(job, f"{found[0].decode()} is set by clstr only", f"use a variable of {scheduler}'s")
