"""Which job runs on which slot, and what an outcome means. Pure: facts in, orders and news out.

``core`` holds the law and the state, ``backlog`` alone knows which job may start where, ``barriers`` which must wait
for others, ``pools`` which nodes there are for it; ``verdict`` says what an outcome means for the job and the node.
"""

from clstr.scheduler.backlog import Need
from clstr.scheduler.core import Limits, Scheduler
from clstr.scheduler.verdict import JobFate, NodeFate, verdict

__all__ = ["JobFate", "Limits", "Need", "NodeFate", "Scheduler", "verdict"]
