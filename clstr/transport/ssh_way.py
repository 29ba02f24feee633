"""The way to a host's SSH server: a TCP connection to one of its addresses, or a ProxyCommand.

A slow name server or a dead address costs the one node time, never another. A ProxyCommand has a process group
of its own, which ends with its connection; its standard error never meets the stream: the last of it is kept,
for the message when the connection fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from typing import Any, cast

from clstr.transport import CannotConnect
from clstr.transport.words import last_line

HAPPY_EYEBALLS = 0.25
"""Seconds until a name's next address is tried beside one that does not answer (RFC 8305, section 5)."""

LAST_WORDS = 1024
"""Bytes kept of what a ProxyCommand says on standard error."""

PROXY_GRACE = 1.0
"""Seconds for a ProxyCommand to end by itself, or after SIGHUP, until it is killed."""

PROMPT_READS = 32
"""Reads of a new connection that are acknowledged at once: its login and the opening of its first session."""

QUICK_ACK: int | None = getattr(socket, "TCP_QUICKACK", None)


class NotReached(CannotConnect):
    """No address of the host took a TCP connection."""


class Line(socket.socket):
    """A socket that remembers what a server said first: a refusal stands where its version should.

    What a server says first is acknowledged at once. sshd sends its host keys after the login, unasked, and by
    Nagle's rule holds back its next word, that the session is open, until they are acknowledged (RFC 896); but
    there is nothing to send with which that could go, and alone it may wait 40 ms (RFC 1122, section 4.2.3.2).
    """

    __slots__ = ("first", "reads")

    def __init__(self, *arguments: int, **named: int) -> None:
        super().__init__(*arguments, **named)
        self.first = b""
        self.reads = 0

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        data = super().recv(size, flags)
        if len(self.first) < 256:
            self.first = (self.first + data)[:256]
        if self.reads < PROMPT_READS:
            self.reads += 1
            self._acknowledge()
        return data

    def _acknowledge(self) -> None:
        """Linux takes it for what has come by now only (tcp(7), TCP_QUICKACK)."""
        if QUICK_ACK is not None:
            with contextlib.suppress(OSError):  # a ProxyCommand's is not of TCP
                self.setsockopt(socket.IPPROTO_TCP, QUICK_ACK, 1)

    @property
    def refusal(self) -> str:
        """What the server said instead of its version (RFC 4253, section 4.2), or nothing."""
        line = self.first.partition(b"\n")[0]
        return "" if b"SSH-" in self.first else " ".join(line.decode("utf-8", "replace").split())


class Gathered(asyncio.Transport):
    """A transport that sends once, at the end of a turn of the loop, what was written in it.

    asyncssh writes each packet by itself; a system call for each would be the largest part of what a short job costs.
    Nothing is sent later for it than the other callbacks of its turn.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._written: list[bytes] = []

    def write(self, data: Any) -> None:
        if not self._written:
            self._loop.call_soon(self._send)
        self._written.append(data)

    def _send(self) -> None:
        if self._written:
            self._transport.write(b"".join(self._written))
            self._written.clear()

    def close(self) -> None:
        self._send()
        self._transport.close()

    def abort(self) -> None:
        self._send()
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)


class Straight:
    """A connected socket, as what asyncssh calls a tunnel."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def create_connection(
        self, factory: Callable[[], asyncio.Protocol], host: str, port: int
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Let the protocol talk over the socket."""
        protocol = factory()
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: _Opening(protocol), sock=self._sock)
        return transport, protocol


class _Opening(asyncio.Protocol):
    """Gives a transport over to its protocol, gathered."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self._protocol = protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        straight = cast(asyncio.Transport, transport)
        straight.set_protocol(self._protocol)
        self._protocol.connection_made(Gathered(straight))


def system_error(error: OSError) -> str:
    """One line about an error of the system."""
    if isinstance(error, socket.gaierror):
        return f"host name cannot be resolved: {error.strerror}"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    # asyncio's own texts name addresses and errno; the system's word says it shorter.
    return os.strerror(error.errno).lower() if error.errno else str(error) or type(error).__name__


# --- names and addresses -----------------------------------------------------------------------------------


async def look_up(host: str, port: int, family: int) -> list[Any]:
    """The host's addresses. A slow name server blocks a thread of its own, never another node's look-up."""
    with contextlib.suppress(socket.gaierror, UnicodeError):
        return socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Any]] = loop.create_future()

    def settle(addresses: list[Any], error: OSError | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(addresses)

    def ask() -> None:
        addresses: list[Any] = []
        problem: OSError | None = None
        try:
            addresses = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
        except OSError as error:
            problem = error
        except UnicodeError:
            problem = socket.gaierror(socket.EAI_NONAME, "not a host name")
        with contextlib.suppress(RuntimeError):  # the run is over
            loop.call_soon_threadsafe(settle, addresses, problem)

    threading.Thread(target=ask, name=f"resolve {host}", daemon=True).start()
    try:
        return await answer
    except OSError as error:
        raise CannotConnect(system_error(error)) from None


async def connect_socket(addresses: list[Any], bind_address: str | None) -> Line:
    """The first address that answers; a further one is tried beside each that has kept silent for a while.

    Raises NotReached.
    """
    pending: set[asyncio.Task[Line]] = set()
    winner: Line | None = None
    failure = NotReached("host name has no address")
    rest = iter(_alternating(addresses))
    following = next(rest, None)
    try:
        while winner is None and (pending or following is not None):
            if following is not None:
                pending.add(asyncio.ensure_future(_connect_one(following, bind_address)))
                following = next(rest, None)
            done, pending = await asyncio.wait(
                pending,
                timeout=HAPPY_EYEBALLS if following is not None else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                try:
                    sock = task.result()
                except NotReached as error:
                    failure = error
                    continue
                if winner is not None:
                    sock.close()
                winner = winner or sock
    finally:
        for task in pending:
            task.cancel()
    if winner is None:
        raise failure
    return winner


def _alternating(addresses: list[Any]) -> list[Any]:
    """Addresses of the first family and of the others in turn (RFC 8305, section 4)."""
    first = [address for address in addresses if address[0] == addresses[0][0]]
    other = [address for address in addresses if address[0] != addresses[0][0]]
    mixed = []
    while first or other:
        mixed += [*first[:1], *other[:1]]
        first, other = first[1:], other[1:]
    return mixed


async def _connect_one(address: Any, bind_address: str | None) -> Line:
    family, kind, protocol, _, target = address
    sock: Line | None = None
    try:
        sock = Line(family, kind, protocol)
        sock.setblocking(False)
        if bind_address is not None:
            sock.bind((bind_address, 0))
        await asyncio.get_running_loop().sock_connect(sock, target)
    except OSError as error:
        if sock is not None:
            sock.close()
        raise NotReached(system_error(error)) from None
    except BaseException:
        if sock is not None:
            sock.close()
        raise
    return sock


# --- ProxyCommand ------------------------------------------------------------------------------------------


class ProxyCommand:
    """A running ProxyCommand, its standard input and output one socket.

    It runs in a session of its own: nothing may prompt on the terminal, and its whole group ends together.
    """

    def __init__(self, command: str) -> None:
        """Start it. Raises CannotConnect where no process can be had."""
        ours, theirs = socket.socketpair()
        self.sock = Line(fileno=ours.detach())
        self._loop = asyncio.get_running_loop()
        self._words = b""
        self._burial: asyncio.Task[None] | None = None
        try:
            with theirs:
                self._process = subprocess.Popen(
                    ["/bin/sh", "-c", f"exec {command.removeprefix('exec ')}"],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
        except OSError as error:
            self.sock.close()
            raise CannotConnect(f"ProxyCommand cannot be started: {system_error(error)}") from None
        self.sock.setblocking(False)
        assert self._process.stderr is not None
        self._stderr = self._process.stderr.fileno()
        os.set_blocking(self._stderr, False)
        self._loop.add_reader(self._stderr, self._hear)

    def _hear(self) -> None:
        try:
            data = os.read(self._stderr, 16 * 1024)
        except BlockingIOError:
            return
        if data:
            self._words = (self._words + data)[-LAST_WORDS:]
        else:
            self._loop.remove_reader(self._stderr)

    @property
    def last_words(self) -> str:
        """The last line that it said on standard error, or nothing."""
        return last_line(self._words)

    async def failure(self) -> str:
        """How it ended, once its stream has: its last words and status, as far as there are any."""
        status = await self._status()
        self._hear_the_rest()
        ended = {None: "", 0: "", 127: " (command not found)"}.get(status, f" (status {status})")
        words = f": {self.last_words}" if self.last_words else ""
        return f"ProxyCommand failed{ended}{words}" if status or words else ""

    async def _status(self) -> int | None:
        """Its exit status, if it ends within the grace."""
        for _ in range(int(PROXY_GRACE / 0.02)):
            if self._process.poll() is not None:
                break
            await asyncio.sleep(0.02)
        return self._process.returncode

    def _hear_the_rest(self) -> None:
        for _ in range(64):  # a child that lives on may talk without end
            before = self._words
            self._hear()
            if self._words is before:
                return

    @property
    def ended(self) -> bool:
        """Have its processes been ended?"""
        return self._burial is not None and self._burial.done()

    def end(self) -> asyncio.Task[None]:
        """End its group and wait for it in the background; idempotent."""
        if self._burial is None:
            self._burial = self._loop.create_task(self._bury())
        return self._burial

    async def _bury(self) -> None:
        try:
            self._send(signal.SIGHUP)  # ssh's own way (sshconnect.c, ssh_kill_proxy_command)
            await self._status()
        finally:
            self._send(signal.SIGKILL)
            await self._status()  # nor is one waited for that cannot be killed (sudo)
            self._loop.remove_reader(self._stderr)
            assert self._process.stderr is not None
            self._process.stderr.close()

    def _send(self, number: signal.Signals) -> None:
        # The group outlives its leader while a member lives; without one there is nobody to hear it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)
