"""What an SshConnection and its helpers do at moments that no real server can be made to meet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import asyncssh
import pytest

from clstr.transport import SESSIONS, CannotConnect, NoChannel, ssh
from clstr.transport.ssh_way import ProxyCommand
from clstr.transport.words import LONGEST, last_line


class Link:
    """An SSH connection whose sessions are opened and never heard of."""

    def __init__(self, cipher: str = "aes128-gcm@openssh.com") -> None:
        self.sessions: list[Any] = []
        self.packets: list[int] = []
        self.cipher = cipher

    def is_closed(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: object = None) -> object:
        return {"send_cipher": self.cipher}.get(name, default)

    def send_packet(self, kind: int, *parts: bytes) -> None:
        self.packets.append(kind)

    async def create_session(self, factory: Callable[[], Any], *_: object, **__: object) -> None:
        self.sessions.append(factory())

    def close(self) -> None:
        """Nothing is open."""

    abort = close


class Client:
    on_lost = None


class Dials:
    """Dials once; the next dial waits to be told, and fails."""

    def __init__(self) -> None:
        self.link: Link | None = None
        self.further = asyncio.Event()
        self.fail = asyncio.Event()

    async def __call__(self) -> tuple[Any, Any]:
        if self.link is None:
            self.link = Link()
            return self.link, Client()
        self.further.set()
        await self.fail.wait()
        raise CannotConnect("no further one")


def test_a_session_that_ends_while_a_further_connection_fails_is_taken() -> None:
    async def scenario() -> None:
        dials = Dials()
        connection = ssh.SshConnection(dials, True)
        await connection.open_link()
        channels = [await connection.channel() for _ in range(SESSIONS)]
        waiting = asyncio.create_task(connection.channel())
        await dials.further.wait()
        for channel in channels:
            channel.close()
        await connection.channel()  # it clears the event that said so
        dials.fail.set()
        async with asyncio.timeout(10):
            await waiting
        connection.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("cipher", "sent"),
    [("aes128-gcm@openssh.com", [94]), ("chacha20-poly1305@openssh.com", [94]), ("aes128-cbc", [2, 94])],
)
def test_only_before_packets_in_cbc_goes_one_that_means_nothing(cipher: str, sent: list[int]) -> None:
    async def scenario() -> None:
        link = Link(cipher)

        async def dial() -> tuple[Any, Any]:
            return link, Client()

        await ssh.SshConnection(dial, True).open_link()
        link.send_packet(2, b"")
        link.send_packet(94, b"data")
        assert link.packets == sent

    asyncio.run(scenario())


class Closing(Link):
    """An SSH connection that is lost: for a turn of the loop it only refuses, as asyncssh's does."""

    closed = False

    def is_closed(self) -> bool:
        return self.closed

    async def create_session(self, factory: Callable[[], Any], *_: object, **__: object) -> None:
        asyncio.get_running_loop().call_soon(setattr, self, "closed", True)
        raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "SSH connection closed")


async def closing() -> ssh.SshConnection:
    async def dial() -> tuple[Any, Any]:
        return Closing(), Client()

    connection = ssh.SshConnection(dial, True)
    await connection.open_link()
    return connection


def test_a_refusal_by_a_connection_that_is_being_closed_is_no_sign_of_life() -> None:
    async def scenario() -> None:
        assert not await (await closing()).answers()

    asyncio.run(scenario())


def test_a_refusal_by_a_connection_that_is_being_closed_is_not_the_nodes() -> None:
    async def scenario() -> None:
        connection = await closing()
        with pytest.raises(NoChannel, match=r"^the connection is gone$"):
            await connection.channel()
        assert connection._links, "it was dropped, so nobody would hear of its loss"

    asyncio.run(scenario())


def test_a_proxy_command_that_cannot_be_killed_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProxyCommand, "_send", lambda *_: None)  # as if it were root's

    async def scenario() -> None:
        proxy = ProxyCommand("sleep 10")
        try:
            await proxy.end()
            assert proxy.ended
            assert proxy._process.poll() is None, "its end was waited for"
        finally:
            proxy.sock.close()
            proxy._process.kill()
            proxy._process.wait()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (b"", ""),
        (b" \n\n", ""),
        (b"first\r\n last \t word\r\n\n", "last word"),
        (b"\xff", "\ufffd"),
        ("x" * LONGEST, "x" * LONGEST),
        ("x" * (LONGEST + 1), "x" * (LONGEST - 3) + "..."),
    ],
)
def test_of_what_another_says_a_message_holds_one_line(said: bytes | str, line: str) -> None:
    assert last_line(said) == line


class Sink:
    def begun(self, flow: object) -> None: ...
    def stdout(self, data: bytes) -> None: ...
    def stderr(self, data: bytes) -> None: ...
    def finished(self) -> None: ...


class Signalled:
    """A session on the node: the signals that it was asked to deliver."""

    def __init__(self) -> None:
        self.signals: list[str] = []

    def send_signal(self, name: str) -> None:
        self.signals.append(name)

    def write_eof(self) -> None: ...


def test_a_kill_that_comes_before_a_job_without_leash_has_begun_is_one_signal() -> None:
    async def scenario() -> None:
        link, node = Link(), Signalled()

        async def dial() -> tuple[Any, Any]:
            return link, Client()

        connection = ssh.SshConnection(dial, False)
        await connection.open_link()
        channel = await connection.channel()
        channel._sink = Sink()
        channel.connection_made(cast(Any, node))
        channel.kill()
        channel.session_started()
        assert node.signals == ["TERM"]

    asyncio.run(scenario())
