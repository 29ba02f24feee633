"""The guard of an SSH connection: one session that watches over the jobs of all the others (see ``leash``).

It is opened beside the jobs, once a node is to run several; until it has said its word, and where it cannot be had (no
``/proc``, a forced command, no room for a session), each job has a watcher of its own. A guard that was killed is
opened anew: it knows the jobs of its connection by what they are, not by what it was told, so the new one guards those
of the old.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import asyncssh

from clstr.transport import leash

_TRIES = 3
"""Sessions for the guard of one connection in a row, but for one more whenever a job is to be terminated."""

_PAUSE = 0.5
"""Seconds before a refused session is asked for again, where a job is to be terminated."""

_LONG = 60.0
"""Seconds after which the end of a guard is not one of a row."""

_HEARD = 64 * 1024
"""Bytes before the guard's word after which there is none: start-up files print less."""


class Guard:
    """What watches over one connection, as far as it can be had."""

    def __init__(self, connection: asyncssh.SSHClientConnection) -> None:
        self._connection = connection
        self._tries = _TRIES
        self._session: _Session | None = None
        self._opening: asyncio.Task[None] | None = None  # kept, lest it be collected
        self._doomed: list[bytes] = []  # whom to terminate, as soon as somebody can

    @property
    def number(self) -> bytes:
        """The number of its process, as ``leash.arm`` wants it; empty while there is none."""
        return b"" if self._session is None else self._session.number

    @property
    def takes_place(self) -> bool:
        """Is one of the connection's sessions its own?"""
        return self._session is not None

    @property
    def may_come(self) -> bool:
        """Is there none, and is it worth asking for one?"""
        return self._session is None and self._tries > 0 and not self._connection.is_closed()

    def open(self) -> None:
        """Begin to open one, if it may come."""
        if self.may_come:
            self._tries -= 1
            self._session = _Session(self._ready, self._ended)
            self._opening = asyncio.create_task(self._open(self._session))

    async def _open(self, session: _Session) -> None:
        try:
            await self._connection.create_session(lambda: session, leash.GUARD, encoding=None)
        # No room: perhaps later. But asyncssh hands on whatever a hostile reply sets off in it.
        except Exception:
            if self._session is not session:  # but the successor of one that had said its word
                return
            self._session = None
            if self._doomed:
                await asyncio.sleep(_PAUSE)
                self.open()

    def terminate(self, leader: bytes) -> None:
        """End the job with this first process."""
        session = self._session
        if session is not None and session.number:
            session.tell(leader)
        else:
            self._doomed.append(leader)
            self._tries = max(self._tries, 1)
            self.open()

    def _ready(self) -> None:
        doomed, self._doomed = self._doomed, []
        for leader in doomed:
            self.terminate(leader)

    def _ended(self) -> None:
        """A guard that had said its word was killed; one that had not cannot do its work there."""
        session, self._session = self._session, None
        if session is None or not session.number:
            self._tries = 0
        elif session.lived() >= _LONG:
            self._tries = _TRIES
        self.open()


class _Session(asyncssh.SSHClientSession[bytes]):
    """A session that runs the guard."""

    def __init__(self, on_word: Callable[[], None], on_end: Callable[[], None]) -> None:
        self.number = b""  # of its process, once it has said its word
        self._on_word = on_word
        self._on_end = on_end
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._heard = b""
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()

    def lived(self) -> float:
        """For how many seconds."""
        return self._loop.time() - self._since

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan

    def data_received(self, data: bytes, datatype: int | None) -> None:
        assert self._channel is not None
        if self.number or datatype is not None:
            return
        self._heard += data
        self.number = leash.guard_in(self._heard)
        if self.number:
            self._heard = b""
            self._on_word()
        elif len(self._heard) > _HEARD:
            self._channel.abort()

    def eof_received(self) -> bool:
        return True  # only its end is its end

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_end()

    def tell(self, leader: bytes) -> None:
        """Have this job terminated."""
        assert self._channel is not None
        with contextlib.suppress(OSError):  # it has ended; the next one will be told
            self._channel.write(leash.terminate(leader))
