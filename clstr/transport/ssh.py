"""The SSH transport: one node's connections and the sessions on them, by asyncssh.

A node has one connection, shared by its slots. A connection carries at most ``SESSIONS`` sessions, a waiting
spare and the guard's included (sshd's MaxSessions is 10, but sshd frees a session lazily, and near the limit it
refuses new ones by chance). When a session is refused, opening is tried again shortly, since a session that has just
ended may still count; then a further connection is opened. A connection that carries no session and refuses
one is dropped. Where a connection refuses its very first, the node has no more to give: a job then waits for a
session in use to end, and where there is none, the node is of no use.

A session runs the leash's constant wrapper and gets its job over standard input (see ``leash``); so it can be
opened ahead, while the slot's present job runs, and a slot's turn-around is one round trip. Where there is room beside
such a spare, one session more guards all jobs of the connection (see ``ssh_guard``). Without the leash a session is
opened when its job is there, with the job as its command.

The callback API of asyncssh is used, with bytes: its streams cost more per line, and one byte that is not
UTF-8 would end the whole connection. Data may follow the exit status, so a job is over when its channel is
closed, or after LINGER seconds of silence behind the status.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import asyncssh

from clstr.model import BadInput, Exited, Killed, Lost, Node, NotStarted, Outcome, Refused, Sink, in_words
from clstr.transport import (
    KILL_GRACE,
    LINGER,
    SESSIONS,
    CannotConnect,
    CannotRead,
    Command,
    FetchFailed,
    Input,
    Landing,
    NoChannel,
    PushFailed,
    leash,
)
from clstr.transport.landing import collect
from clstr.transport.patience import Alarm, within
from clstr.transport.ssh_config import HostKeyFlag, Resolver
from clstr.transport.ssh_dial import WINDOW, Client, Dialer, error_in_words
from clstr.transport.ssh_fetch import SftpTree
from clstr.transport.ssh_guard import Guard
from clstr.transport.words import last_line

T = TypeVar("T")

REOPEN_PAUSES = (0.01, 0.03, 0.05)
"""Seconds before a refused session is asked for again."""

PREPARATION = 2.0
"""Seconds that ``prepare`` takes at most: a Match exec that hangs must not hold up the run."""

EARLY_LIMIT = 64 * 1024
"""Bytes that a session may print before it has a job; then it is not read until it has one."""

EARLY_MOST = 1024 * 1024
"""Bytes that a session may print between getting its job and the wrapper's word; more is no start-up file."""

NO_SUBSYSTEM = "sign-of-life@clstr"
"""A subsystem that no node has (RFC 4254, section 6.5)."""

ANSWER = 60.0
"""Seconds that a node may take to open a session, and then for the wrapper's word (its start-up files may be slow)."""


@dataclass(frozen=True, slots=True)
class SshSettings:
    """What the command line says about SSH; the rest is ssh_config's."""

    config_file: str | None = None
    user: str | None = None
    identities: tuple[str, ...] = ()
    host_key: HostKeyFlag | None = None
    connect_timeout: float | None = None  # seconds
    leash: bool = True


class SshTransport:
    """Connects to nodes by SSH."""

    def __init__(self, settings: SshSettings) -> None:
        self._settings = settings
        resolver = Resolver(settings.config_file, settings.user, settings.identities, settings.host_key)
        self._dialer = Dialer(resolver, settings.connect_timeout)

    async def prepare(self, nodes: Sequence[Node]) -> None:
        """Read, before anything is connected, what the run needs. Raises BadInput where that fails for all nodes.

        What is at fault for some nodes only is theirs: their ``connect`` will say so.
        """
        self._dialer.check_identities(self._settings.identities)
        problem: BadInput | None = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PREPARATION):
                for node in nodes:
                    try:
                        await self._dialer.check(node)
                    except BadInput as error:
                        problem = problem or error
                    else:
                        return
        if problem is not None:
            raise problem

    async def connect(self, node: Node) -> SshConnection:
        """Open the node's first connection. Raises CannotConnect, and BadInput for a faulty ssh_config."""
        begun: float | None = asyncio.get_running_loop().time()
        config = await self._dialer.resolve(node)

        async def dial() -> tuple[asyncssh.SSHClientConnection, Client]:
            nonlocal begun
            since, begun = begun, None  # the first link only shares its time with ssh_config
            return await self._dialer.dial(config, since)

        connection = SshConnection(dial, self._settings.leash)
        await connection.open_link()
        return connection

    async def close(self) -> None:
        """Drop bastions, agent and ProxyCommands."""
        await self._dialer.close()


class SshConnection:
    """The connections to one node."""

    lasting = True

    def __init__(self, dial: Callable[[], Any], with_leash: bool) -> None:
        self._dial = dial
        self._with_leash = with_leash
        self._links: list[_Link] = []
        self._no_more: str | None = None  # why a further connection would carry no session
        self._freed = asyncio.Event()
        self._opening = asyncio.Lock()
        self._closed = False
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def open_link(self) -> _Link:
        """One more connection to the node. Raises CannotConnect."""
        connection, client = await self._dial()
        if self._closed or self.lost.done():
            connection.abort()
            raise CannotConnect("closed while connecting")
        link = _Link(connection, client, self._freed)
        client.on_lost = self._on_lost
        self._links.append(link)
        if connection.is_closed():
            self._on_lost("closed by the node right after authentication")
        return link

    @property
    def _why_gone(self) -> str:
        known = self.lost.done() and not self.lost.cancelled()
        return self.lost.result() if known else "the connection is gone"

    def _on_lost(self, why: str) -> None:
        # One connection's loss is the node's: its other connections run to the same machine.
        if not self.lost.done():
            self.lost.set_result(why)
        self._freed.set()
        for link in self._links:
            link.abort()

    async def channel(self) -> SshChannel:
        """A channel on the first connection with room, or on a further one."""
        return await self._session(lambda link: SshChannel.open(link, self._with_leash))

    async def _session(self, ask: Callable[[_Link], Awaitable[T]]) -> T:
        """A session on the first connection with room, or on a further one. Raises NoChannel."""
        while True:
            if self.lost.done() or self._closed:
                raise NoChannel(self._why_gone)
            self._freed.clear()
            link = next((link for link in self._links if link.has_room), None)
            if link is None:
                if not await self._further():
                    await self._freed.wait()
                continue
            try:
                return await self._open(link, ask)
            except _Refused as refused:
                self._refused(link, str(refused))

    def _refused(self, link: _Link, why: str) -> None:
        """Learn from it. Raises NoChannel where no session can be hoped for."""
        if link.sessions or link.dropped:
            return  # it carries no more than these, or another job has learnt it
        link.drop()
        self._links.remove(link)
        if not link.proved:
            self._no_more = why
            self._must_have_sessions()

    def _must_have_sessions(self) -> None:
        if self._no_more is not None and not any(link.sessions for link in self._links):
            raise NoChannel(self._no_more)

    async def _further(self) -> bool:
        """Open a further connection; False where that fails, but a session in use may become free."""
        async with self._opening:
            if any(link.has_room for link in self._links):
                return True
            if self._no_more is not None:
                self._must_have_sessions()
                return False
            try:
                await self.open_link()
            except CannotConnect as error:
                # Sessions may have ended meanwhile, and another job have cleared the event that says so.
                if any(link.has_room for link in self._links):
                    return True
                if any(link.sessions for link in self._links):
                    return False
                raise NoChannel(f"no session free, and no further connection: {error}") from None
        return True

    async def _open(self, link: _Link, ask: Callable[[_Link], Awaitable[T]]) -> T:
        """Open a session on the link. Raises _Refused when the node will have none more on it now."""
        for pause in (*REOPEN_PAUSES, None):
            try:
                return await ask(link)
            except _Refused as refused:
                if await link.is_gone() and not link.dropped:
                    raise NoChannel(self._why_gone) from None
                if not link.proved or pause is None or link.dropped:
                    link.limit = link.sessions
                    raise refused from None
            await asyncio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def spare(self) -> asyncio.Task[SshChannel] | None:
        """Begin to open a session ahead, if a connection that is there has room for it."""
        if not self._with_leash or self._closed or self.lost.done():
            return None
        link = next((link for link in self._links if link.has_room and link.proved), None)
        if link is None:
            return None
        channel = SshChannel(link, self._with_leash)  # takes its place at once: the next may be asked for in this turn
        spare = asyncio.create_task(self._spare(link, channel))
        spare.add_done_callback(lambda spare: channel.give_up() if spare.cancelled() else None)
        return spare

    async def _spare(self, link: _Link, channel: SshChannel) -> SshChannel:
        try:
            await channel.opened()
        except _Refused as refused:
            link.limit = max(1, link.sessions)  # or every job would ask for one in vain
            raise NoChannel(str(refused)) from None
        if link.sessions < SESSIONS:
            link.guard.open()  # where there is room beside this one, which is worth more
        return channel

    async def push(self, local: Path, remote: str) -> None:
        """Copy by SFTP, over the connection that is open."""
        link = self._links[0]
        try:
            sftp = await link.connection.start_sftp_client()
            try:
                link.proved = True  # a session was opened: one refused while this one ends is tried again
                place = os.fsencode(remote.removeprefix("~/")) or b"."  # sftp starts there, and knows no ``~``
                await sftp.put(os.fsencode(local), place, preserve=True, recurse=True, follow_symlinks=True)
            finally:
                sftp.exit()  # and no waiting for it: a server may ignore that
        except asyncssh.SFTPError as error:
            raise PushFailed(_of_copy(error)) from None
        except OSError as error:
            raise PushFailed(f"{os.fsdecode(error.filename or local)}: {error.strerror or error}") from None
        except asyncssh.Error as error:
            why = error_in_words(error)
            raise PushFailed(why if link.proved else f"no SFTP there: {why} (sshd_config: Subsystem sftp)") from None
        # asyncssh hands on whatever a hostile reply sets off in it.
        except Exception as error:
            raise PushFailed(f"SFTP failed: {error_in_words(error)}") from None

    async def fetch(self, names: Sequence[bytes], directory: bytes | None, landing: Landing) -> None:
        """Copy by SFTP, in a session beside those of the jobs."""
        try:
            async with within(ANSWER):
                link, sftp = await self._session(_open_sftp)
        except TimeoutError:
            raise FetchFailed(f"the node opened no session for SFTP within {ANSWER:g} s", again=True) from None
        except (NoChannel, CannotConnect) as error:
            raise FetchFailed(str(error), again=True) from None
        try:
            await collect(SftpTree(sftp), names, landing, directory=directory)
        except (FetchFailed, OSError):
            raise
        # asyncssh hands on whatever a hostile reply sets off in it.
        except Exception as error:
            raise FetchFailed(f"SFTP failed: {error_in_words(error)}") from None
        finally:
            sftp.exit()  # and no waiting for it: a server may ignore that
            link.release()

    async def answers(self) -> bool:
        """A session refused is a sign of life; so one is asked for that runs nothing, not even start-up files."""
        if not self._links:
            return False
        link = self._links[0]
        link.take()
        try:
            async with within(ANSWER):
                channel, _ = await link.connection.create_session(
                    asyncssh.SSHClientSession[bytes], subsystem=NO_SUBSYSTEM, encoding=None
                )
        except asyncssh.ChannelOpenError:
            return not await link.is_gone()
        except (asyncssh.Error, OSError):
            return False
        finally:
            link.release()
        channel.abort()
        return True

    def close(self) -> None:
        """Drop all connections; running jobs are terminated by their leash."""
        self._closed = True
        self._freed.set()
        self.lost.cancel()
        for link in self._links:
            link.connection.close()


async def _open_sftp(link: _Link) -> tuple[_Link, asyncssh.SFTPClient]:
    """A client of a session that counts as one of the link's. Raises _Refused, NoChannel and FetchFailed."""
    link.take()
    try:
        sftp = await link.connection.start_sftp_client()
    except asyncssh.ChannelOpenError as error:
        link.release()
        if error.code == asyncssh.OPEN_REQUEST_SESSION_FAILED:
            raise FetchFailed(f"no SFTP there: {error_in_words(error)} (sshd_config: Subsystem sftp)") from None
        raise _Refused(f"the node refuses to open a session: {error_in_words(error)}") from None
    except (asyncssh.Error, OSError) as error:
        link.release()
        raise NoChannel(f"no SFTP there: {error_in_words(error)}") from None
    except BaseException:
        link.release()
        raise
    link.proved = True
    return link, sftp


def _of_copy(error: asyncssh.SFTPError) -> str:
    """Which file it was, where that is known, and why."""
    path = getattr(error, "dstpath", None)
    where = f"{os.fsdecode(path)}: " if isinstance(path, bytes) else ""
    return f"{where}{error_in_words(error)}"


class _Refused(Exception):
    """The node refused a session."""


IGNORE = 2
"""SSH_MSG_IGNORE (RFC 4253, section 12)."""


def _send_unless_ignored(send: Callable[..., None], kind: int, *parts: bytes, **more: Any) -> None:
    """Send a packet. asyncssh sends a meaningless one before each, as CBC ciphers need (RFC 4251, section 9.3.1): under
    others that only doubles what a short job costs.
    """
    if kind != IGNORE:
        send(kind, *parts, **more)


class _Link:
    """One SSH connection, and how many sessions it carries."""

    def __init__(
        self, connection: asyncssh.SSHClientConnection, client: Client, freed: asyncio.Event
    ) -> None:
        self.connection = connection
        self.sessions = 0
        self.limit = SESSIONS
        self.proved = False  # a session was opened on it
        self.dropped = False  # by us, as of no more use
        self.jammed = False  # more is unsent than the other side takes just now
        self.feeding: set[SshChannel] = set()
        # asyncssh leaves these to do nothing: without them a node that grants a large window and reads nothing would
        # have whole inputs kept here.
        for name, jammed in (("pause_writing", True), ("resume_writing", False)):
            setattr(connection, name, functools.partial(self._set_jammed, jammed))
        if "cbc" not in connection.get_extra_info("send_cipher", "cbc"):
            setattr(connection, "send_packet", functools.partial(_send_unless_ignored, connection.send_packet))  # noqa: B010
        self.guard = Guard(connection)
        self.aborted = False  # because another of the node's connections is lost
        self._client = client
        self._freed = freed

    @property
    def has_room(self) -> bool:
        most = min(self.limit, SESSIONS - self.guard.takes_place)
        return self.sessions < max(most, 1) and not self.connection.is_closed()

    def _set_jammed(self, jammed: bool) -> None:
        self.jammed = jammed
        for channel in self.feeding:
            channel.take_note()

    async def is_gone(self) -> bool:
        """Is that why it refused? While asyncssh closes a connection, that only refuses for a turn of the loop."""
        await asyncio.sleep(0)
        return self.connection.is_closed()

    def abort(self) -> None:
        """Close it with what runs there: it is lost."""
        self.aborted = True
        self.connection.abort()

    def drop(self) -> None:
        """Close it; that is not a loss."""
        self.dropped = True
        self._client.on_lost = None
        self.connection.close()

    def take(self) -> None:
        self.sessions += 1

    def release(self) -> None:
        self.sessions -= 1
        self._freed.set()


class SshChannel(asyncssh.SSHClientSession[bytes]):
    """One session: the wrapper waiting for its job, or running it; without leash, the job itself."""

    def __init__(self, link: _Link, with_leash: bool) -> None:
        """Takes its place on the link."""
        link.take()
        self._link = link
        self._with_leash = with_leash
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._sink: Sink | None = None
        self._marker = leash.Marker()
        self._leader = b""  # the first process of a job that the guard watches over
        self._early: list[tuple[bytes, int | None]] = []  # what was printed before the job, and on what
        self._early_size = 0
        self._begun = False
        self._handed_over = False
        self._doomed = False  # to be terminated, also when it begins only now
        self._ending: Outcome | None = None
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[Outcome] = self._loop.create_future()
        self._alarm: Alarm | None = None  # until the job has begun
        self._silence: asyncio.TimerHandle | None = None
        self._heard = 0.0
        self._paused = False
        self._has_input = False
        self._full = False  # asyncssh asks to write no more for now
        self._moved: asyncio.Event | None = None  # there may be room for more of the input; only where there is one

    @classmethod
    async def open(cls, link: _Link, with_leash: bool) -> SshChannel:
        """Open a session ahead of its job; without leash only its place is taken. Raises _Refused."""
        return await cls(link, with_leash).opened()

    async def opened(self) -> SshChannel:
        """Itself, open. Raises _Refused."""
        if self._with_leash:
            await self._request(leash.TEXT)
        return self

    async def _request(self, command: str | bytes) -> None:
        try:
            async with within(ANSWER):
                await self._link.connection.create_session(
                    lambda: self,
                    cast(str, command),  # asyncssh sends bytes as they are
                    encoding=None,
                    window=WINDOW,
                )
        except TimeoutError:
            self.give_up()
            raise NoChannel(f"the node did not open a session within {ANSWER:g} s") from None
        except asyncssh.ChannelOpenError as error:
            self.give_up()
            what = "run a command" if error.code == asyncssh.OPEN_REQUEST_SESSION_FAILED else "open a session"
            raise _Refused(f"the node refuses to {what}: {error_in_words(error)}") from None
        except (asyncssh.Error, OSError) as error:
            self.give_up()
            raise NoChannel(error_in_words(error)) from None
        except BaseException:
            self.give_up()
            raise
        self._link.proved = True

    def give_up(self) -> None:
        """Give the place back, of a session that has not come to be."""
        if not self._over.done():
            self._over.set_result(NotStarted("the session was refused"))
            self._link.release()

    async def run(self, command: Command, sink: Sink) -> Outcome:
        """Run the command; see the protocol."""
        self._sink = sink
        self._has_input = command.input is not None
        if self._with_leash:
            self._hand_over(command)
        else:
            try:
                await self._request(leash.bare(command))
            except (_Refused, NoChannel) as error:
                return NotStarted(str(error))
        try:
            if command.input is not None:
                await self._while_fed(command.input)
            if not self._begun:
                self._alarm = Alarm(ANSWER, self._no_word)
            outcome = await self._over
        finally:
            self._stop_timers()
        if self._begun:
            sink.finished()
        return outcome

    async def _while_fed(self, source: Input) -> None:
        """Until the job's input is written, or the job is over: a read from a file of a network may never end."""
        feeder = asyncio.ensure_future(self._feed(source))
        try:
            either: list[asyncio.Future[Any]] = [feeder, self._over]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if feeder.done():
                feeder.result()
        finally:
            feeder.cancel()

    async def _feed(self, source: Input) -> None:
        """Write the job's input, no faster than it is taken."""
        if self._channel is None:
            return
        self._moved = asyncio.Event()
        self._link.feeding.add(self)
        offset = 0
        try:
            while offset < source.size:
                data = await source.read(offset)
                offset += len(data)
                await self._may_write()
                self._channel.write(data)
            if not self._with_leash:
                self._channel.write_eof()
        except CannotRead as error:
            self.kill()
            self._give_up(Refused(str(error)))
        except TimeoutError:
            self._give_up(NotStarted(f"the node took nothing of the job's input for {ANSWER:g} s"))
        except OSError:
            return  # the job is over, or is being killed: it needs no more
        finally:
            self._link.feeding.discard(self)

    async def _may_write(self) -> None:
        """Wait until there is room. Raises TimeoutError, but for a job that has begun: it reads when it likes."""
        assert self._moved is not None
        while self._full or self._link.jammed:
            self._moved.clear()
            async with contextlib.nullcontext() if self._begun else within(ANSWER):
                await self._moved.wait()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self.take_note()

    def take_note(self) -> None:
        """There may be room for more of the input."""
        if self._moved is not None:
            self._moved.set()

    def _no_word(self) -> None:
        self._give_up(
            NotStarted(f"no word from the wrapper within {ANSWER:g} s (does a start-up file there wait for input?)")
        )

    def _give_up(self, outcome: NotStarted | Refused) -> None:
        """The job will not begin, or not go on."""
        if not self._over.done():
            self._over.set_result(outcome)
            self._link.release()
        self.close()

    def _hand_over(self, command: Command) -> None:
        """Give the waiting session its job, and the sink what the session has printed meanwhile."""
        early, self._early = self._early, []
        held = self._early_size > EARLY_LIMIT
        self._early_size = 0  # counted again below
        channel = self._channel
        if channel is None or self._over.done():
            return
        # From now on a connection that is cut may have begun the job, though its word did not arrive.
        self._handed_over = True
        with contextlib.suppress(OSError):
            channel.write(leash.arm(command, self._link.guard.number))
        for data, datatype in early:
            self.data_received(data, datatype)
        if held:
            channel.resume_reading()

    # --- what asyncssh calls -------------------------------------------------------------------------------

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan

    def session_started(self) -> None:
        if not self._with_leash:
            assert self._channel is not None
            if not self._has_input:
                self._channel.write_eof()
            self._begin()

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._heard = self._loop.time()
        if self._begun:
            self._deliver(data, datatype)
        elif self._sink is None:
            self._keep(data, datatype)
            if self._early_size > EARLY_LIMIT and self._channel is not None:
                self._channel.pause_reading()
        else:
            self._look_for_word(data, datatype)

    def _deliver(self, data: bytes, datatype: int | None) -> None:
        assert self._sink is not None
        if datatype is None:
            self._sink.stdout(data)
        else:
            self._sink.stderr(data)

    def _keep(self, data: bytes, datatype: int | None) -> None:
        """Remember what came before the job: its output if it begins, and the reason if it never does."""
        if data:
            self._early.append((data, datatype))
            self._early_size += len(data)

    def _look_for_word(self, data: bytes, datatype: int | None) -> None:
        """The job begins with the wrapper's word; what start-up files printed before it is its output."""
        before, begun, rest = self._marker.feed(data) if datatype is None else (data, False, b"")
        self._keep(before, datatype)
        if not begun:
            if self._early_size > EARLY_MOST:
                mebibytes = EARLY_MOST >> 20
                self._give_up(
                    NotStarted(f"no word from the wrapper in the first {mebibytes} MiB (a start-up file floods?)")
                )
            return
        self._keep(rest, None)
        self._begin()
        for early in self._early:
            self._deliver(*early)
        self._early = []

    def _begin(self) -> None:
        self._begun = True
        self._leader = self._marker.leader
        self._stop_timers()
        assert self._sink is not None
        self._sink.begun(self)
        if self._doomed:
            self._tell_guard()

    def eof_received(self) -> bool:
        return True  # the leash stays armed until the exit status

    def exit_status_received(self, status: int) -> None:
        self._end(Exited(status & 0xFF))

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        self._end(Killed(last_line(signal)))

    def _end(self, outcome: Outcome) -> None:
        """The job is over; its output may go on while a child holds it, until LINGER seconds of silence."""
        self._ending = outcome
        self._heard = self._loop.time()
        self._silence = self._loop.call_later(LINGER, self._check_silence)

    def _check_silence(self) -> None:
        left = LINGER if self._paused else self._heard + LINGER - self._loop.time()
        if left > 0:
            self._silence = self._loop.call_later(left, self._check_silence)
        elif self._channel is not None:
            self._channel.abort()
            self._finish(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish(exc)

    def _finish(self, exc: Exception | None) -> None:
        self._stop_timers()
        if self._over.done():
            return
        self._over.set_result(self._judge(exc))
        self._link.release()

    def _judge(self, exc: Exception | None) -> Outcome:
        cut = exc is not None or self._link.aborted
        may_have_begun = self._begun or (cut and self._handed_over and self._ending is None)
        if not may_have_begun:
            return NotStarted(self._why_not_begun(exc))
        if self._ending is not None:
            return self._ending
        if exc is not None:
            return Lost(error_in_words(exc))
        return Lost("the connection is gone" if cut else "the session was closed without an exit status")

    def _why_not_begun(self, exc: Exception | None) -> str:
        if exc is not None:
            return error_in_words(exc)
        errors = b"".join(data for data, datatype in self._early if datatype is not None)
        words = last_line(errors) or last_line(b"".join(data for data, _ in self._early))
        ended = f" ({in_words(self._ending)})" if self._ending is not None else ""
        last = f": {words}" if words else ""
        return f"no word from the wrapper, the session ended{ended}{last} (no shell there? try --no-leash)"

    def _stop_timers(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    # --- what the runner and the sink call -----------------------------------------------------------------

    def pause(self) -> None:
        self._paused = True  # silence that we make ourselves is none
        if self._channel is not None:
            self._channel.pause_reading()

    def resume(self) -> None:
        self._paused = False
        if self._channel is not None:
            self._heard = self._loop.time()
            self._channel.resume_reading()

    def kill(self) -> None:
        """By the leash; without it by signal requests, which sshd before 10 ignores for root's sessions."""
        channel = self._channel
        if channel is None or self._over.done():
            return
        if self._with_leash:
            self._doomed = True
            channel.write_eof()
            self._tell_guard()
            return
        channel.send_signal("TERM")
        self._loop.call_later(KILL_GRACE, self._kill_hard)

    def _tell_guard(self) -> None:
        """Have the job terminated, if it runs and the guard watches over it: its own input is no leash then."""
        if self._leader and self._ending is None and not self._over.done():
            self._link.guard.terminate(self._leader)

    def _kill_hard(self) -> None:
        if self._channel is not None and not self._over.done():
            self._channel.send_signal("KILL")

    def close(self) -> None:
        """Drop the session: its leash ends with it."""
        if self._channel is not None:
            self._tell_guard()
            self._channel.abort()
        elif self._over.done():
            return
        self._finish(None)
