"""The local transport: jobs of the node ``:`` run here, by ``/bin/sh`` on the leash that SSH jobs run on.

A job has a session of its own, clstr's directory and environment, and the leash's wrapper around it; ``process``
has the rules.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import stat
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path

from clstr.model import Exited, Killed, Node, NotStarted, Outcome
from clstr.transport import Command, FetchFailed, Landing, PushFailed, in_thread, shown
from clstr.transport.landing import Found, Kind, collect
from clstr.transport.leash import WRAPPER
from clstr.transport.process import ProcessChannel, signal_name

_PIECE = 1024 * 1024
"""Bytes of a result that are read at a time."""

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

    async def fetch(self, names: Sequence[bytes], directory: bytes | None, landing: Landing) -> None:
        """Copy from this machine to this machine."""
        await collect(LocalTree(), names, landing, home=os.fsencode(Path.home()), directory=directory)

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


class LocalTree:
    """The files of this machine. Its methods raise FetchFailed."""

    async def look(self, path: bytes) -> Found | None:
        with _about(path):
            return await in_thread(_look, path)

    async def list(self, path: bytes) -> AsyncGenerator[tuple[bytes, Found], None]:
        with _about(path):
            names = await in_thread(os.listdir, path)
        for name in names:
            found = await self.look(os.path.join(path, name))
            if found is not None:  # else it is gone since
                yield name, found

    async def read(self, path: bytes) -> AsyncGenerator[bytes, None]:
        with _about(path):
            fd = await in_thread(os.open, path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        offset = 0
        try:
            with _about(path):
                # At an offset: a descriptor that is closed under a thread may be a socket's next, which then fails.
                while data := await in_thread(os.pread, fd, _PIECE, offset):
                    offset += len(data)
                    yield data
        finally:
            os.close(fd)


@contextlib.contextmanager
def _about(path: bytes) -> Iterator[None]:
    """An OSError is that of the job's side, not of where its results go."""
    try:
        yield
    except OSError as error:
        raise FetchFailed(f"{shown(path)}: {error.strerror}") from None


def _look(path: bytes) -> Found | None:
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    kind = Kind.DIRECTORY if stat.S_ISDIR(found.st_mode) else Kind.FILE if stat.S_ISREG(found.st_mode) else Kind.OTHER
    return Found(kind, bool(found.st_mode & 0o111), (found.st_atime, found.st_mtime))


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
