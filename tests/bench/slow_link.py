"""A long way: passes TCP connections on, and every byte later.

    slow_link.py SECONDS PORT LISTEN=TARGET...

Listens on PORT of each LISTEN address, connects to PORT of its TARGET, and delivers what comes SECONDS after it came,
either way; so a round trip takes twice that. Says so in a line when it listens, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence


class End(asyncio.Protocol):
    """One end of a connection; what it gets goes to the other end, later."""

    def __init__(self, delay: float, other: End | None = None) -> None:
        self._delay = delay
        self._loop = asyncio.get_running_loop()
        self.other = other
        self.transport: asyncio.Transport | None = None
        self._early: list[bytes] = []  # to be delivered once this end is connected

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        for data in self._early:
            transport.write(data)

    def data_received(self, data: bytes) -> None:
        assert self.other is not None
        self._loop.call_later(self._delay, self.other.deliver, data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self._loop.call_later(self._delay, self.other.hang_up)

    def deliver(self, data: bytes) -> None:
        if self.transport is None:
            self._early.append(data)
        else:
            self.transport.write(data)

    def hang_up(self) -> None:
        if self.transport is not None:
            self.transport.close()


async def main(delay: float, port: int, pairs: Sequence[str]) -> None:
    """Listen until standard input ends."""
    loop = asyncio.get_running_loop()
    tasks = set()

    def accept(target: str) -> End:
        near = End(delay)
        near.other = far = End(delay, near)
        task = loop.create_task(loop.create_connection(lambda: far, target, port))
        tasks.add(task)
        task.add_done_callback(lambda done: (tasks.discard(done), done.cancelled() or done.exception()))
        return near

    for pair in pairs:
        listen, target = pair.split("=")
        await loop.create_server(lambda target=target: accept(target), listen, port)  # type: ignore[misc]
    print("listening", flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
