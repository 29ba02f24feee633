"""``--fold``: at the end, each distinct output once, under the nodes that gave it, as ``clush -b`` does.

    ---------------
    n[01-17,20] (18)
    ---------------
    Linux 6.1

Rules:
- An output is a stream of a job's last attempt, when the job is done or has failed for good. Those that are alike by
  their digest are kept once; a node that printed nothing is not listed.
- stdout is folded on stdout, stderr on stderr. What most nodes gave comes first, then what the first listed gave.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from clstr.model import Job, Node
from clstr.output.console import Console
from clstr.output.group import Keeping, Kept, Queue
from clstr.output.messages import by_name, node_set
from clstr.output.paint import Style, painted, printable
from clstr.output.spool import Spool

_RULE = "-" * 15


@dataclass(slots=True)
class _Output:
    """A distinct output, the nodes that gave it, and the first job that did."""

    spool: Spool
    nodes: set[Node] = field(default_factory=set)
    first: int = sys.maxsize


class Fold(Keeping):
    """See the module."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, digest=True)
        self._outputs: dict[str, dict[bytes, _Output]] = {"stdout": {}, "stderr": {}}

    def settled(self, job: Job, kept: Kept | None) -> None:
        """Keep what is new."""
        if kept is None:
            return
        for name, spool in kept.spools.items():
            output = self._outputs[name].setdefault(spool.digest, _Output(spool))
            output.nodes.add(kept.attempt.slot.node)
            output.first = min(output.first, job.id)
            if output.spool is not spool:
                spool.drop()

    def finish(self) -> None:
        """Print it all."""
        for name, outputs in self._outputs.items():
            for output in sorted(outputs.values(), key=lambda output: (-len(output.nodes), output.first)):
                self._print(self.queues[name], sorted(output.nodes, key=by_name), output.spool)
            outputs.clear()

    def _print(self, queue: Queue, nodes: list[Node], spool: Spool) -> None:
        count = f" ({len(nodes)})" if len(nodes) > 1 else ""
        style = Style.NODE if queue.writer.colours else Style.PLAIN
        heading = self.spool()
        for line in (_RULE, printable(node_set(nodes)) + count, _RULE):
            heading.append(painted(line, style).encode() + b"\n")
        queue.put(heading)
        queue.put(spool)
