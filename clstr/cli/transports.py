"""Which transport reaches which node."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clstr.model import BadInput, Node, Slot

if TYPE_CHECKING:
    from clstr.transport import Transport
    from clstr.transport.external import Client
    from clstr.transport.ssh import SshTransport


class Transports:
    """The transport of each node, made when its first node is dialed."""

    def __init__(self, flags: argparse.Namespace, client: Client | None) -> None:
        self._flags = flags
        self._client = client
        self._local: Transport | None = None
        self._ssh: SshTransport | None = None
        self._external: Transport | None = None

    def of(self, node: Node) -> Transport:
        """``:`` runs here, everything else by SSH or by the client of ``--ssh``."""
        if node.host == ":":
            if self._local is None:
                from clstr.transport.local import LocalTransport

                self._local = LocalTransport()
            return self._local
        return self._by_ssh() if self._client is None else self._by_client(self._client)

    def _by_ssh(self) -> SshTransport:
        if self._ssh is None:
            from clstr.transport.ssh_import import nothing_in_vain

            with nothing_in_vain():
                from clstr.transport.ssh import SshSettings, SshTransport

            self._ssh = SshTransport(
                SshSettings(
                    config_file=self._flags.ssh_config,
                    user=self._flags.user,
                    identities=tuple(self._flags.identity),
                    host_key=self._flags.host_key,
                    connect_timeout=self._flags.connect_timeout,
                    leash=not self._flags.no_leash,
                )
            )
        return self._ssh

    def _by_client(self, client: Client) -> Transport:
        if self._external is None:
            from clstr.transport.external import ExternalSettings, ExternalTransport

            self._external = ExternalTransport(
                ExternalSettings(
                    client=client,
                    connect_timeout=self._flags.connect_timeout,
                    max_connecting=self._flags.max_connecting,
                    leash=not self._flags.no_leash,
                )
            )
        return self._external

    async def prepare(self, slots: Sequence[Slot]) -> None:
        """Read what SSH needs. Raises BadInput for what no node can be reached with."""
        nodes = list(dict.fromkeys(slot.node for slot in slots if slot.node.host != ":"))
        if not nodes or self._client is not None:
            return
        try:
            await self._by_ssh().prepare(nodes)
        except BadInput:
            await self.close()
            raise

    async def close(self) -> None:
        """Release what connections shared."""
        for transport in (self._local, self._ssh, self._external):
            if transport is not None:
                await transport.close()
