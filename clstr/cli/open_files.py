"""How many files may be open at once, and how many slots fit: found out before anything is connected."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clstr.model import BadInput, Slot
from clstr.transport import SESSIONS

if TYPE_CHECKING:
    from clstr.cli.plan import Plan

RESERVED = 48
"""Descriptors for what is no slot's: the event loop, the agent, name look-ups, the start of a process, files."""

PROCESS = 4
"""Descriptors of a process that runs a job: its leash, stdout, stderr, and the one that tells of its end."""

COPIES = 8
"""Descriptors of the copies that a node sends at once: of each its place, a directory in it, a file and its writer."""


@dataclass(frozen=True, slots=True)
class Limit:
    """The limits of open files as they were found, and what they are now that as many are allowed as can be."""

    soft: int
    hard: int
    now: int

    def __str__(self) -> str:
        return f"soft limit {self.soft}, hard limit {self.hard}"


def raised() -> Limit:
    """Take as many descriptors as the system lets us have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # macOS reports a hard limit that it does not grant
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return Limit(soft, hard, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def fit(plan: Plan, limit: Limit) -> str | None:
    """Lower ``--max-nodes`` to what the limit allows, where need be; gives the warning that says so.

    Raises BadInput where not even one slot fits.
    """
    if limit.now == resource.RLIM_INFINITY:
        return None
    room = limit.now - len(os.listdir("/dev/fd")) - RESERVED
    wanted = min(len(plan.slots), plan.flags.max_nodes or len(plan.slots))
    jobs, complete = plan.source.seen
    if complete:
        wanted = min(wanted, jobs)
    copies = 0 if plan.flags.results is None else COPIES
    fitting = most(costs(plan.slots, plan.client is not None, _files(plan), copies), room)
    if fitting >= wanted:
        return None
    if fitting == 0:
        raise BadInput(f"too few files may be open for any slot ({limit}: raise it, as by ulimit -n 1024)")
    plan.flags.max_nodes = fitting
    return (
        f"too few files may be open for {wanted} slots ({limit}): {fitting} are used at once (raise the hard limit, or "
        f"give --max-nodes {fitting})"
    )


def _files(plan: Plan) -> int:
    """The descriptors of a job's own files while it runs."""
    named = ((terms.input, terms.output, terms.error) for terms in (job.terms for job in plan.work.submitted))
    most_named = max((sum(path is not None for path in paths) for paths in named), default=0)
    return most_named + (0 if plan.flags.run_dir is None else 2)


def costs(slots: Iterable[Slot], with_client: bool, files: int = 0, copies: int = 0) -> list[int]:
    """The descriptors of each slot in use, in listed order: with a client, of the spare that waits beside it too.

    ``files`` are those of a job's files, ``copies`` those of a node's copies.
    """
    found = []
    for slot in slots:
        if slot.node.host == ":":
            cost = PROCESS
        elif with_client:
            cost = 2 * PROCESS
        else:
            cost = 1 if slot.number % SESSIONS == 1 else 0  # a connection is one descriptor
        found.append(cost + files + (copies if slot.number == 1 else 0))
    return found


def most(costs: Iterable[int], room: int) -> int:
    """How many slots may be in use at once, whichever they are."""
    count = 0
    for cost in sorted(costs, reverse=True):
        room -= cost
        if room < 0:
            break
        count += 1
    return count
