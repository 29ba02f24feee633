"""What bare asyncssh costs: loops without a scheduler, without a leash, without anything that may go wrong.

    floor.py jobs SITE JOB_FILE          each node runs the next job of the file when it has done one
    floor.py everywhere SITE COMMAND     the command once on every node, 64 connections under way at once
    floor.py hold SITE COMMAND           the same, all connected before it prints a line, and for as long as stdin

SITE is a file of JSON: hosts, port, user, key, known_hosts. Keys and known hosts are read once, the cheap cipher is
taken, and output is written as it comes: no other way of using asyncssh costs less.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh

AT_ONCE = 64


class Session(asyncssh.SSHClientSession[bytes]):
    """Prints what it gets."""

    def __init__(self) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes, datatype: int | None) -> None:
        while data:
            data = data[os.write(1, data) :]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(None)


async def run(connection: asyncssh.SSHClientConnection, command: str) -> None:
    """One session."""
    _, session = await connection.create_session(Session, command, encoding=None)
    await session.over


async def main(what: str, site: dict[str, Any], text: str) -> None:
    """Run the loop that is asked for, with the jobs or the command."""
    key, known_hosts = asyncssh.read_private_key(site["key"]), asyncssh.read_known_hosts(site["known_hosts"])
    room = asyncio.Semaphore(AT_ONCE)

    async def connect(host: str) -> asyncssh.SSHClientConnection:
        return await asyncssh.connect(
            host, site["port"], username=site["user"], config=None, known_hosts=known_hosts, client_keys=[key],
            agent_path=None, gss_host=None, x509_trusted_certs=None, encryption_algs="aes128-gcm@openssh.com",
        )  # fmt: skip

    async def work(host: str, jobs: Iterator[str]) -> None:
        async with await connect(host) as connection:
            for job in jobs:
                await run(connection, job)

    async def once(host: str) -> None:
        async with room, await connect(host) as connection:
            await run(connection, text)

    async def hold(host: str) -> tuple[asyncssh.SSHClientConnection, Session]:
        async with room:
            connection = await connect(host)
            _, session = await connection.create_session(Session, text, encoding=None)
            return connection, session

    hosts = site["hosts"]
    if what == "jobs":
        jobs = iter(text.splitlines())
        await asyncio.gather(*(work(host, jobs) for host in hosts))
    elif what == "everywhere":
        await asyncio.gather(*(once(host) for host in hosts))
    else:
        held = await asyncio.gather(*(hold(host) for host in hosts))
        print(f"{len(held)} connected", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    what, site, text = sys.argv[1:]
    asyncio.run(main(what, json.loads(Path(site).read_text()), Path(text).read_text() if what == "jobs" else text))
