"""A bare asyncssh script that holds one connection to each node, with a command running on it: the floor.

    bare.py SSH_CONFIG KNOWN_HOSTS KEY USER PORT < addresses

Prints a line when all are connected, and waits for the end of its input.
"""

from __future__ import annotations

import asyncio
import sys

import asyncssh


async def main(known_hosts: str, key: str, user: str, port: str) -> None:
    private, hosts = asyncssh.read_private_key(key), asyncssh.read_known_hosts(known_hosts)
    room = asyncio.Semaphore(64)

    async def connect(address: str) -> object:
        async with room:
            connection = await asyncssh.connect(
                address, int(port), username=user, config=None, known_hosts=hosts, client_keys=[private],
                agent_path=None, gss_host=None, x509_trusted_certs=None,
                encryption_algs="aes128-gcm@openssh.com",
            )  # fmt: skip
            channel, _ = await connection.create_session(asyncssh.SSHClientSession, "sleep 600", encoding=None)
            return connection, channel

    held = await asyncio.gather(*(connect(line.strip()) for line in sys.stdin))
    print(f"{len(held)} connected", flush=True)
    await asyncio.sleep(600)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
