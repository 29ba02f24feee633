"""The local transport: jobs of the node ``:`` run here, by ``/bin/sh`` on the leash that SSH jobs run on.

A job has a session of its own, clstr's directory and environment, and the leash's wrapper around it; ``process``
has the rules.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from clstr.model import Exited, Killed, Node, NotStarted, Outcome
from clstr.transport import Command, PushFailed, in_thread
from clstr.transport.leash import WRAPPER
from clstr.transport.process import ProcessChannel, signal_name

SHELL = "/bin/sh"
"""What runs the jobs of this machine."""


class LocalTransport:
    """Runs jobs on this machine."""

    async def connect(self, node: Node) -> LocalConnection:
        """Give a connection, which has no way to fail."""
        return LocalConnection()

    async def close(self) -> None:
        """Connections share nothing."""


class LocalConnection:
    """This machine, as a node. Its ``lost`` is never resolved."""

    lasting = False

    def __init__(self) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._channels: set[ProcessChannel] = set()

    async def channel(self) -> LocalChannel:
        """Give a channel."""
        channel = LocalChannel(self._channels.discard)
        self._channels.add(channel)
        return channel

    async def push(self, local: Path, remote: str) -> None:
        """Copy here; a file that is in its place already stays as it is."""
        await in_thread(_copy, local, remote)

    async def answers(self) -> bool:
        """This machine always does."""
        return True

    def spare(self) -> None:
        """Give none: a process starts faster than a job ends."""

    def close(self) -> None:
        """Drop the running jobs' channels."""
        self.lost.cancel()
        for channel in list(self._channels):
            channel.close()


def _copy(local: Path, remote: str) -> None:
    target = Path(remote or ".").expanduser()
    try:
        if target.is_dir():
            target /= local.name
        if target.exists() and target.samefile(local):
            return
        if local.is_dir():
            if target.resolve().is_relative_to(local.resolve()):
                raise PushFailed(f"{target}: is inside of what is to be copied")
            shutil.copytree(local, target, dirs_exist_ok=True)
        else:
            shutil.copy2(local, target)
    except shutil.Error as error:
        source, _, why = error.args[0][0]
        raise PushFailed(f"{source}: {why}") from None
    except OSError as error:
        raise PushFailed(f"{error.filename or target}: {error.strerror or error}") from None


class LocalChannel(ProcessChannel):
    """One job on this machine."""

    def _start(self, command: Command) -> None:
        self._spawn([SHELL, "-c", WRAPPER])
        self._hand_over(command)

    def _judge(self, status: int) -> Outcome:
        if self._marker is not None:
            said = self._last_words.decode("utf-8", "replace").split()
            return NotStarted(" ".join([f"{SHELL} ended with status {status}", *said]))
        return Exited(status) if status >= 0 else Killed(signal_name(-status))
