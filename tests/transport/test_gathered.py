"""What is written in one turn of the loop goes out together, whole and in order, also when the way is closed then."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from clstr.transport.ssh_way import Gathered, Straight


class Calls(asyncio.Transport):
    """Notes what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def write(self, data: Any) -> None:
        self.seen.append(bytes(data))

    def close(self) -> None:
        self.seen.append("close")

    def abort(self) -> None:
        self.seen.append("abort")


def seen(*calls: tuple[str, Any] | str) -> list[Any]:
    async def play() -> list[Any]:
        under = Calls()
        transport = Gathered(under)
        for call in calls:
            match call:
                case ("write", data):
                    transport.write(data)
                case "turn":
                    await asyncio.sleep(0)
                case str(name):
                    getattr(transport, name)()
        await asyncio.sleep(0)
        return under.seen

    return asyncio.run(play())


def test_what_is_written_in_one_turn_is_sent_once() -> None:
    assert seen(("write", b"a"), ("write", b"b"), "turn", ("write", b"c")) == [b"ab", b"c"]


def test_what_is_written_is_sent_before_the_transport_is_closed() -> None:
    assert seen(("write", b"a"), ("write", b"b"), "close") == [b"ab", "close"]
    assert seen(("write", b"a"), "abort") == [b"a", "abort"]


def test_more_than_the_socket_takes_at_once_arrives_whole() -> None:
    async def play() -> bytes:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        transport, _ = await Straight(ours).create_connection(asyncio.Protocol, "", 0)
        reader, writer = await asyncio.open_connection(sock=theirs)
        for number in range(100):
            transport.write(bytes([number]) * 100_000)
        came = await reader.readexactly(10_000_000)
        transport.close()
        writer.close()
        return came

    assert asyncio.run(play()) == b"".join(bytes([number]) * 100_000 for number in range(100))


def test_the_protocol_writes_to_what_gathers() -> None:
    made: list[asyncio.BaseTransport] = []

    class Greeter(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.append(transport)

    async def play() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            transport, _ = await Straight(ours).create_connection(Greeter, "", 0)
            transport.close()
            await asyncio.sleep(0)

    asyncio.run(play())
    assert [type(transport) for transport in made] == [Gathered]
