"""Too few file descriptors is this machine's trouble, never a node's or a job's: what failed for it waits.

The plan keeps below the limit (``cli.open_files``); this is for what it could not foresee: a limit for the whole
system, a ProxyCommand for each connection, files opened by whatever runs in this process.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import resource
from collections.abc import Callable

MARGIN = 16
"""Descriptors without which anything may fail: to start one process takes eight for a moment."""

PAUSE = 0.5
"""Seconds, about, after which what has waited is tried again."""

SHORT_OF_FILES = (errno.EMFILE, errno.ENFILE)


class Descriptors:
    """What of file descriptors is left to this process."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._warned = False

    @property
    def are_short(self) -> bool:
        """Are there so few that a failure just now may have come of it?"""
        try:
            used = len(os.listdir("/dev/fd"))
        except OSError as error:  # to list them takes one
            return error.errno in SHORT_OF_FILES
        return used + MARGIN > resource.getrlimit(resource.RLIMIT_NOFILE)[0]

    async def wait(self) -> None:
        """Give what runs time to close some; says so once."""
        if not self._warned:
            self._warned = True
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            self._warn(
                f"too many open files (soft limit {soft}, hard limit {hard}): what needs more of them waits until "
                "others are closed (use fewer slots at once by --max-nodes, or raise the limit)"
            )
        await asyncio.sleep(PAUSE * random.uniform(0.5, 1.5))
