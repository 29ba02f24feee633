"""The command line: flags into a plan, the plan into a run, the end of the run into an exit status.

Everything that can be wrong with the input is found before anything is connected: one line, exit 2. Heavy
libraries are imported when they are used, so that ``--help`` and ``--version`` answer at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence

from clstr.cli.ending import USAGE
from clstr.cli.flags import parser
from clstr.cli.plan import make_plan
from clstr.model import BadInput


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit status."""
    try:
        plan = make_plan(parser().parse_args(arguments))
        from clstr.cli.run import run

        return asyncio.run(run(plan))
    except BadInput as error:
        _say(f"clstr: {error}")
        return USAGE


def _say(line: str) -> None:
    from clstr.output.console import printable

    with contextlib.suppress(OSError):
        os.write(2, (printable(line) + "\n").encode("utf-8", "surrogateescape"))
