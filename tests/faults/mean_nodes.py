"""Nodes for faults: what makes a cluster notice a dead link soon, and further hosts for its clients."""

from __future__ import annotations

from cluster.sshd import Cluster, until

QUICK = "    ServerAliveInterval 1\n    ServerAliveCountMax 2\n"
"""For ssh_config: a connection is lost after 3 s of silence."""

NOTICING = "ClientAliveInterval 1\nClientAliveCountMax 2"
"""For sshd_config: a cut cable is noticed by the node, too."""


def add_node(cluster: Cluster, alias: str, address: str, port: int) -> None:
    """Make another host known to the cluster's clients, with the host key that all have."""
    config = f"Host {alias}\n    HostName {address}\n    Port {port}\n"
    cluster.ssh_config.write_text(config + cluster.ssh_config.read_text())
    key = cluster.site.host_key.with_suffix(".pub").read_text()
    with cluster.known_hosts.open("a") as known_hosts:
        known_hosts.write(f"[{address}]:{port} {key}")


def no_process_is_left(cluster: Cluster, node: int | None = None, seconds: float = 15.0) -> None:
    until(lambda: not cluster.jobs(node), f"no process of a job is left on the nodes: {cluster.jobs(node)}", seconds)
