"""What an outcome means: one row for each, for the job and for the node apart.

Budgets, streaks and pins are not here: the core applies them to the pair that ``verdict`` gives.
"""

from __future__ import annotations

import enum
from typing import assert_never

from clstr.model import (
    CopyFailed,
    Exited,
    Found,
    Killed,
    Lost,
    NotStarted,
    Outcome,
    Refused,
    Stalled,
    Stopped,
    TimedOut,
)


class JobFate(enum.Enum):
    """What becomes of the job."""

    DONE = "done"
    COPYING = "done once the results that it named are copied"
    FAILED = "failed, whatever its budget, and nobody is blamed"
    CHARGED = "charged: requeued, or failed when its budget is spent"
    INTERRUPTED = "charged likewise, and kept away from this node while another may take it"
    RETURNED = "back to its place in the queue, uncharged, as if it had not been given out"
    EXCUSED = "back to its place in the queue, uncharged, though it ran"
    UNFINISHED = "never to start again in this run"


class NodeFate(enum.Enum):
    """What the attempt says about its node."""

    CLEARED = "streak cleared, and the connection has proved itself"
    STRUCK = "one failure more in the streak"
    UNTOUCHED = "nothing"
    AWAITED = "its connection is gone: lost(node) or unreachable(node) follows"


def verdict(outcome: Outcome) -> tuple[JobFate, NodeFate]:
    """The job's fate and the node's (cli.md, "What failure means", rules 1 to 3)."""
    match outcome:
        case Exited(0, (_, *_)):
            return JobFate.COPYING, NodeFate.CLEARED
        case Exited(0):
            return JobFate.DONE, NodeFate.CLEARED
        case Exited() | Killed() | TimedOut() | Stalled():
            return JobFate.CHARGED, NodeFate.STRUCK
        case Lost(ours=True):
            return JobFate.EXCUSED, NodeFate.AWAITED
        case Lost():
            return JobFate.INTERRUPTED, NodeFate.AWAITED
        case NotStarted():
            return JobFate.RETURNED, NodeFate.AWAITED
        case Stopped():
            return JobFate.UNFINISHED, NodeFate.UNTOUCHED
        case Found():
            return JobFate.DONE, NodeFate.UNTOUCHED
        case Refused() | CopyFailed():
            return JobFate.FAILED, NodeFate.UNTOUCHED
        case _:
            assert_never(outcome)


def took_its_slot(outcome: Outcome) -> bool:
    """Is the attempt one of the jobs that its slot takes (``--max-node-uses``)? Not if the job never began."""
    return not isinstance(outcome, NotStarted | Found | Refused)
