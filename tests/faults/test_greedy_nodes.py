"""A node that says it takes everything, and takes nothing: a job's input waits in its file, not in memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from cluster.sshd import Cluster
from faults.mean_nodes import add_node
from faults.mean_servers import ADDRESS, MeanServer, MeanSession, Stage

from clstr.model import Flow, Node
from clstr.transport import Command, Input
from clstr.transport.ssh import SshSettings, SshTransport

SIZE = 200_000_000


class Counted(Input):
    """An input that knows how far it was read."""

    offset = 0

    async def read(self, offset: int) -> bytes:
        self.offset = offset
        return await super().read(offset)


class Quiet:
    def begun(self, flow: Flow) -> None: ...

    def stdout(self, data: bytes) -> None: ...

    def stderr(self, data: bytes) -> None: ...

    def finished(self) -> None: ...


def test_an_input_is_not_read_faster_than_the_node_takes_it(
    stage: Stage, cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    nodes = cluster(nodes=1)
    port = stage.ssh(lambda: MeanServer(lambda number: MeanSession()), window=2**30)
    proxy = stage.proxy(ADDRESS, port)
    add_node(nodes, "greedy", proxy.address, proxy.port)
    (tmp_path / "in").touch()
    os.truncate(tmp_path / "in", SIZE)

    async def scenario() -> None:
        transport = SshTransport(SshSettings(str(nodes.ssh_config)))
        connection = await transport.connect(Node("greedy", "greedy"))
        channel = await connection.channel()
        proxy.mute()
        with contextlib.closing(Counted(str(tmp_path / "in"))) as source:
            running = asyncio.create_task(channel.run(Command(b"x", input=source), Quiet()))
            async with asyncio.timeout(60):
                while not connection._links[0].jammed and source.offset < SIZE // 2:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.01)
            assert source.offset < SIZE // 2
            connection.close()
            await running
            await transport.close()

    asyncio.run(scenario())
