"""Servers made to misbehave, and a proxy that does so on demand, for clstr processes to meet.

Rules:
- They run in a loop in a thread of the test's process; ``Stage`` starts and stops them all.
- Each listens on a port of its own at 127.0.1.99 (servers) or before a real node (proxies); nothing listens elsewhere.
- A server that speaks SSH has the host key and takes the user key of the tests' Site.
- asyncssh's server knows nothing of most misbehaviour: what it lacks is said through its channel's inside.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import asyncssh
from asyncssh.packet import Boolean, Byte, MPInt, NameList, String, UInt32
from cluster.sshd import Site

from clstr.transport.leash import MARKER

ADDRESS = "127.0.1.99"
BANNER = b"SSH-2.0-OpenSSH_9.2\r\n"

T = TypeVar("T")
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Stage:
    """The thread's loop, and what listens there. A context manager."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._closers: list[Callable[[], None]] = []

    def __enter__(self) -> Stage:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        for close in self._closers:
            close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it in the loop, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def tcp(self, talk: Talk) -> int:
        """A server of bytes; gives its port."""

        async def start() -> int:
            server = await asyncio.start_server(talk, ADDRESS, 0)
            self._closers.append(server.close)
            return int(server.sockets[0].getsockname()[1])

        return self.do(start())

    def ssh(self, server: Callable[[], asyncssh.SSHServer], **options: Any) -> int:
        """A server of SSH; gives its port."""

        async def start() -> int:
            acceptor = await asyncssh.listen(
                ADDRESS,
                0,
                server_factory=server,
                server_host_keys=[str(self._site.host_key)],
                authorized_client_keys=str(self._site.authorized_keys),
                encoding=None,
                gss_host=None,
                **options,
            )
            self._closers.append(acceptor.close)
            return int(acceptor.get_port())

        return self.do(start())

    def proxy(self, address: str, port: int, behave: Behaviour | None = None) -> Proxy:
        """A proxy before the address, at the same address."""
        proxy = Proxy(address, port, behave or Behaviour(), self)
        self.do(proxy.listen())
        self._closers.append(proxy.close)
        return proxy


# --- bytes -----------------------------------------------------------------------------------------------------


async def says_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


def says(words: bytes) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(words)
        await reader.read()

    return talk


def floods(words: bytes) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while True:
                writer.write(words)
                await writer.drain()

    return talk


def _packet(payload: bytes) -> bytes:
    """A packet from before the keys are exchanged (RFC 4253, section 6)."""
    padding = 4 + -(len(payload) + 9) % 8
    return UInt32(len(payload) + padding + 1) + Byte(padding) + payload + bytes(padding)


def _negative_modulus() -> bytes:
    """A key exchange whose group (RFC 4419) no arithmetic can be done in."""
    names = [
        [b"diffie-hellman-group-exchange-sha256"],
        [b"ssh-ed25519", b"rsa-sha2-256", b"ecdsa-sha2-nistp256"],
        *[[b"aes128-ctr"]] * 2,
        *[[b"hmac-sha2-256"]] * 2,
        *[[b"none"]] * 2,
        *[[]] * 2,
    ]
    offer = Byte(20) + bytes(16) + b"".join(map(NameList, names)) + Boolean(False) + UInt32(0)
    group = Byte(31) + MPInt(-((1 << 2047) + 12345)) + MPInt(2)
    return _packet(offer) + _packet(group)


NEGATIVE_MODULUS = BANNER + _negative_modulus()


async def closes_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


# --- SSH -------------------------------------------------------------------------------------------------------


class MeanServer(asyncssh.SSHServer):
    """A server whose sessions are made by ``session``, which may refuse (None) or wait for ever."""

    def __init__(self, session: Callable[[int], Any], counter: Counter | None = None) -> None:
        self._session = session
        self._counter = counter or Counter()

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn

    def session_requested(self) -> Any:
        return self._session(self._counter.next())


class StallsAuthentication(asyncssh.SSHServer):
    async def begin_auth(self, username: str) -> bool:
        await asyncio.Event().wait()
        return True


class Counter:
    """Numbers from 1."""

    def __init__(self) -> None:
        self.value = 0

    def next(self) -> int:
        self.value += 1
        return self.value


async def never() -> Any:
    """A session that is neither opened nor refused."""
    await asyncio.Event().wait()


class MeanSession(asyncssh.SSHServerSession[bytes]):
    """A session that takes the wrapper and, once it has its job, does what a subclass says."""

    accepts = True

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self.channel = chan
        self._heard = b""
        self._doing: asyncio.Task[None] | None = None

    def exec_requested(self, command: str) -> bool:
        return self.accepts

    def session_started(self) -> None:
        self.started()

    def data_received(self, data: bytes, datatype: object) -> None:
        self._heard += data
        if self._heard.endswith(b"\n.\n") and self._doing is None:
            self._doing = asyncio.ensure_future(self.job())

    def eof_received(self) -> bool:
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if self._doing is not None:
            self._doing.cancel()

    def started(self) -> None:
        """The wrapper has begun."""

    async def job(self) -> None:
        """The job has come."""

    def status(self, status: int) -> None:
        """The exit status, alone: asyncssh's own ``exit`` closes the channel behind it."""
        self.channel._send_request(b"exit-status", UInt32(status))

    async def flood(self, words: bytes, datatype: int | None = None) -> None:
        while True:
            if self.channel.get_write_buffer_size() < 1 << 20:
                self.channel.write(words, datatype)
            await asyncio.sleep(0)


class RefusesCommands(MeanSession):
    accepts = False


class NeverTakesTheJob(MeanSession):
    """Runs something that is not the wrapper, and waits."""


class ClosesWithoutStatus(MeanSession):
    async def job(self) -> None:
        self.channel.write(MARKER + b"half\n")
        self.channel.close()


class CutsBeforeTheWord(MeanSession):
    async def job(self) -> None:
        self.channel.get_connection().abort()


class StatusThenData(MeanSession):
    async def job(self) -> None:
        self.channel.write(MARKER + b"early\n")
        self.status(0)
        await asyncio.sleep(0.3)
        self.channel.write(b"late\n")
        self.channel.close()


class StatusThenNothing(MeanSession):
    async def job(self) -> None:
        self.channel.write(MARKER + b"kept open\n")
        self.status(0)


class TwoStatuses(MeanSession):
    async def job(self) -> None:
        self.channel.write(MARKER)
        self.status(0)
        self.status(1)


class EndsWithALongLine(MeanSession):
    def started(self) -> None:
        self.channel.write_stderr(b"no\n" + b"shell " * 150_000)
        self.channel.exit(1)


class CutsAnSftpReplyShort(MeanSession):
    """Speaks SFTP as far as its version; its next answer has a file's attributes with their end missing."""

    def subsystem_requested(self, subsystem: str) -> bool:
        return subsystem == "sftp"

    def data_received(self, data: bytes, datatype: object) -> None:
        if data[4] == 1:  # FXP_INIT
            self.channel.write(String(Byte(2) + UInt32(3)))
        else:
            self.channel.write(String(Byte(105) + data[5:9] + b"\xff\xff"))
            self.channel.exit(0)


class PrintsAtStartUp(MeanSession):
    """Has start-up files that print, some of it before the job has come."""

    def started(self) -> None:
        self.channel.write_stderr(b"e" * 11_000)
        self.channel.write(b"o" * 5_000)

    async def job(self) -> None:
        self.channel.write_stderr(b"f" * 11_000)
        self.channel.write(b"p" * 5_000 + MARKER + b"job\n")
        self.channel.exit(0)


class NotesWhatItIsAskedFor(MeanSession):
    """Takes what is asked of it, but for a subsystem."""

    asked: list[str] = []  # noqa: RUF012 - one for all, emptied by the test

    def exec_requested(self, command: str) -> bool:
        self.asked.append(command)
        return True

    def shell_requested(self) -> bool:
        self.asked.append("shell")
        return True


class FloodsBeforeTheWord(MeanSession):
    async def job(self) -> None:
        await self.flood(b"welcome " * 1000)


class FloodsStderrBeforeTheWord(MeanSession):
    async def job(self) -> None:
        await self.flood(b"welcome " * 1000, asyncssh.EXTENDED_DATA_STDERR)


class FloodsBeforeTheJob(MeanSession):
    def started(self) -> None:
        self._doing = asyncio.ensure_future(self.flood(b"welcome " * 1000))


class EndsBeforeTheWord(MeanSession):
    def started(self) -> None:
        self.channel.write_stderr(b"This account is currently not available.\n")
        self.channel.exit(1)


class Obeys(MeanSession):
    """A session that does its job, whatever it is."""

    async def job(self) -> None:
        self.channel.write(MARKER)
        await asyncio.sleep(0.05)
        self.channel.exit(0)


# --- a proxy -----------------------------------------------------------------------------------------------------


class Behaviour:
    """What becomes of the bytes, and of new connections. Changed by the test while clstr runs."""

    def __init__(self, chunks_from_server: int | None = None) -> None:
        self.mute_new = False
        self.chunks_from_server = chunks_from_server  # after so many the connection is mute
        self.seed = 1


class _Flow:
    """A connection through the proxy."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.open = asyncio.Event()
        self.open.set()
        self.corrupt = False
        self.abandoned = False

    def reset(self) -> None:
        for writer in (self.client, self.server):
            sock = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class Proxy:
    """Passes bytes on, until it is told otherwise. Methods are called from the test's thread."""

    def __init__(self, address: str, port: int, behave: Behaviour, stage: Stage) -> None:
        self.address = address
        self.port = 0
        self.behave = behave
        self._target = port
        self._stage = stage
        self._flows: set[_Flow] = set()
        self._server: asyncio.Server | None = None
        self._random = random.Random(behave.seed)

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._pass, self.address, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for flow in list(self._flows):
            flow.reset()

    # --- what the test says

    def mute(self, *others: Proxy) -> None:
        """Connections that are open pass nothing any more, those of the others in the same moment; nobody is told."""
        self._now(lambda: [flow.open.clear() for proxy in (self, *others) for flow in proxy._flows])

    def unmute(self) -> None:
        """What was held back is passed on."""
        self._now(lambda: [flow.open.set() for flow in self._flows])

    def reset(self, *others: Proxy) -> None:
        """Connections that are open are reset, those of the others in the same moment: none answers after another."""
        self._now(lambda: [flow.reset() for proxy in (self, *others) for flow in list(proxy._flows)])

    def corrupt(self) -> None:
        """One bit of the next bytes from the server, in each connection, is turned."""

        def turn() -> None:
            for flow in self._flows:
                flow.corrupt = True

        self._now(turn)

    def refuse(self) -> None:
        """New connections are refused."""

        async def stop() -> None:
            if self._server is not None:
                self._server.close()
                self._server = None

        self._stage.do(stop())

    def accept(self) -> None:
        """New connections are accepted again."""

        async def start() -> None:
            if self._server is None:
                await self.listen()

        self._stage.do(start())

    @property
    def flows(self) -> int:
        return len(self._flows)

    def _now(self, work: Callable[[], object]) -> None:
        async def within() -> None:
            work()

        self._stage.do(within())

    # --- bytes

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server = await asyncio.open_connection(self.address, self._target)
        except OSError:
            writer.transport.abort()
            return
        flow = _Flow(writer, server)
        if self.behave.mute_new:
            flow.open.clear()
        self._flows.add(flow)
        try:
            with contextlib.suppress(asyncio.CancelledError):  # streams log the cancelling of their tasks
                await asyncio.gather(
                    self._copy(flow, reader, server, from_server=False),
                    self._copy(flow, server_reader, writer, from_server=True),
                )
        finally:
            self._flows.discard(flow)
            for end in (writer, server):
                end.transport.abort()

    async def _copy(
        self, flow: _Flow, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, from_server: bool
    ) -> None:
        chunks = 0
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while data := await reader.read(65536):
                await flow.open.wait()
                chunks += 1
                if from_server:
                    if self.behave.chunks_from_server is not None and chunks > self.behave.chunks_from_server:
                        await asyncio.Event().wait()
                    if flow.corrupt:
                        flow.corrupt = False
                        data = self._turned(data)
                writer.write(data)
                await writer.drain()
        await flow.open.wait()
        with contextlib.suppress(OSError):
            writer.write_eof()

    def _turned(self, data: bytes) -> bytes:
        place = self._random.randrange(len(data))
        return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]


def free_port(address: str = ADDRESS) -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def memory_of(pid: int) -> int:
    """The most memory that the process has held, in bytes."""
    with open(f"/proc/{pid}/status") as status:
        words = next(line for line in status if line.startswith("VmHWM")).split()
    return int(words[1]) * 1024


