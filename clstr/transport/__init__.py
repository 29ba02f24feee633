"""How a command runs on a node: the protocol that every transport speaks.

``connect(node)`` gives a connection; ``connection.channel()`` gives a channel, room for one command;
``channel.run(command, sink)`` runs it and gives its outcome. A channel may be opened while other commands run
on the connection, ahead of its use, which hides the round trips of opening it. One contract suite
(``tests/transport/test_contract.py``) runs over every transport.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from clstr.model import Node, Outcome, Sink, UnknownKey
from clstr.transport.input import CannotRead, Input
from clstr.transport.landing import FetchFailed, Landing, shown
from clstr.transport.patience import LATE, in_thread, within

__all__ = [
    "CONNECT_TIMEOUT",
    "KILL_GRACE",
    "LATE",
    "LINGER",
    "MAX_COMMAND",
    "SESSIONS",
    "CannotConnect",
    "CannotRead",
    "Channel",
    "Command",
    "Connection",
    "FetchFailed",
    "Input",
    "Landing",
    "NoChannel",
    "PushFailed",
    "Transport",
    "in_thread",
    "shown",
    "within",
]

CONNECT_TIMEOUT = 10.0
"""Seconds until a node counts as unreachable, where neither the user nor ssh_config says."""

KILL_GRACE = 5.0
"""Seconds between TERM and KILL for a job's process group (failure rule 7)."""

LINGER = 5.0
"""Seconds of silence, after a job's exit status, that end a job whose stdout a child keeps open."""

SESSIONS = 5
"""Sessions on one SSH connection at most; a node with more slots has further connections."""

MAX_COMMAND = 127 * 1024
"""Bytes of one command line: Linux takes at most 128 KiB in one argument (MAX_ARG_STRLEN)."""


class CannotConnect(Exception):
    """The node could not be reached; the text says why, in one line that a person understands.

    ``alike`` says it without what this host alone has, so that nodes which fail for one reason can be told together.
    """

    def __init__(self, why: str, alike: str = "", unknown_key: UnknownKey | None = None) -> None:
        super().__init__(why)
        self.alike = alike or why
        self.unknown_key = unknown_key


class NoChannel(Exception):
    """No further channel can be opened on this connection now; the text says why."""


class PushFailed(Exception):
    """A file could not be copied to the node; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Command:
    """What a channel runs: a shell line for the node's login shell, byte for byte.

    ``environment`` is set for it, and it starts in ``directory`` (None: where the transport starts); failing
    to enter that directory ends the command with exit status 1. Its standard input is ``input``, or empty.
    """

    line: bytes
    environment: tuple[tuple[str, str | bytes], ...] = ()
    directory: bytes | None = None
    input: Input | None = None


class Channel(Protocol):
    """Room for one command on a connection. Used once."""

    async def run(self, command: Command, sink: Sink) -> Outcome:
        """Run the command to its end; the sink gets its bytes.

        Gives Exited, Killed, Lost (the connection broke; a missing exit status is that too), NotStarted, or
        Refused where its input cannot be read.
        Never raises for what a node does.
        """

    def kill(self) -> None:
        """Terminate the command's whole process group: TERM, KILL_GRACE seconds, KILL. ``run`` then ends."""

    def close(self) -> None:
        """Drop the channel; a running command is terminated as by ``kill`` and ``run`` ends at once."""


class Connection(Protocol):
    """A way to one node, shared by its slots."""

    lost: asyncio.Future[str]
    """Resolved with the reason when the connection breaks; cancelled by ``close``."""

    lasting: bool
    """Is there something kept open that can be lost? (A local process or a client per job has no such thing.)"""

    async def answers(self) -> bool:
        """Ask the other side for a sign of life; False when the connection is lost before it comes."""

    async def channel(self) -> Channel:
        """A channel for a command that is to run now. Raises NoChannel or CannotConnect."""

    def spare(self) -> asyncio.Task[Channel] | None:
        """Begin to open a channel ahead of its use, or None where that would need a further connection."""

    async def push(self, local: Path, remote: str) -> None:
        """Copy a file or a directory to the node, modes kept, as ``scp -rp`` does.

        ``remote`` is relative to the login directory; where it is a directory, the copy goes into it under its own
        name, and so does one with an empty ``remote``. Raises PushFailed.
        """

    async def fetch(self, names: Sequence[bytes], directory: bytes | None, landing: Landing) -> None:
        """Copy the results that a job named, which ran in ``directory``, to where they land (``landing.collect``).

        Raises FetchFailed, and OSError for what this machine cannot do.
        """

    def close(self) -> None:
        """Drop the connection without waiting for the other side; idempotent."""


class Transport(Protocol):
    """A kind of connection."""

    async def connect(self, node: Node) -> Connection:
        """Connect to the node. Raises CannotConnect."""

    async def close(self) -> None:
        """Release what the connections shared."""
