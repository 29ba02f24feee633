"""The command line: flags into a plan, the plan into a run, the end of the run into an exit status.

Everything that can be wrong with the input is found before anything is connected: one line, exit 2. Heavy
libraries are imported when they are used, so that ``--help`` and ``--version`` answer at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clstr.cli.flags import SYNOPSIS, Untold, parser, tell

if TYPE_CHECKING:
    import argparse

FIRST_STEP = "clstr -n ': slots=2' -j 'echo hello' -j 'echo hello again'"
"""A run that succeeds everywhere: on this machine, without SSH."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words:
        return _refuse(*f"usage: {SYNOPSIS}".splitlines(), f"try: {FIRST_STEP}", "see: clstr --help")
    color = "never"  # until it is known what the user wants
    try:
        flags = parser().parse(words)
        color = flags.color
        if flags.completion is not None:
            from clstr.cli.completion import script

            tell(script(parser(), flags.completion))
            return 0
        return _run(flags)
    except Untold as error:
        return _untold(error)
    except Exception as error:
        from clstr.model import BadInput

        if not isinstance(error, BadInput):
            raise
        return _refuse(f"clstr: {error}", color=color)


def _run(flags: argparse.Namespace) -> int:
    import asyncio

    from clstr.cli.plan import make_plan

    plan = make_plan(flags)
    if flags.dry_run is not None:
        from clstr.cli.dry import dry_run

        return asyncio.run(dry_run(plan, _say))
    from clstr.cli.run import run
    from clstr.model import BadInput

    try:
        return asyncio.run(run(plan))
    except BadInput:
        plan.records.close()
        raise


def _untold(error: Untold) -> int:
    from clstr.cli.ending import BROKEN_PIPE, NOT_DONE

    if error.errno == errno.EPIPE:
        return BROKEN_PIPE
    _say(f"clstr: stdout: {error.strerror} (make room)")
    return NOT_DONE


def _refuse(*lines: str, color: str = "never") -> int:
    from clstr.cli.ending import USAGE

    for line in lines:
        _say(line, color)
    return USAGE


def _say(text: str, color: str = "never") -> None:
    from clstr.output.paint import Style, painted, printable, wanted

    line = painted(printable(text), Style.BAD if wanted(color, 2) else Style.PLAIN)
    with contextlib.suppress(OSError):
        os.write(2, (line + "\n").encode("utf-8", "surrogateescape"))
