#!/usr/bin/env python3
"""A practice cluster: real SSH nodes inside one Python process, to try clstr on without any machines.

    practice_cluster.py                    start 6 nodes, print command lines to try, wait for ^C or ^D
    practice_cluster.py --demo             20 jobs on 6 nodes, one of them dead, one failing every job
    practice_cluster.py --dead 1 -- clstr -F {config} --node-file {nodes} --job uptime
    practice_cluster.py -- examples/inventory.sh

It needs asyncssh, but neither root nor an SSH server. The nodes are ports of 127.0.0.1, with keys made for
this one run. Everything lies in a temporary directory that is removed at the end; ~/.ssh is neither read nor
written. A node really runs what it is told: with /bin/sh, as you, in a home directory of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import os
import shlex
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh
from asyncssh.stream import SSHServerStreamSession

HOLD = 2.0
"""Seconds that a background child may go on printing once its command has ended."""

SSH_CONFIG = """
Host n*
    HostName 127.0.0.1
    User practice
    IdentityFile "{0}/user_key"
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile "{0}/known_hosts"
    StrictHostKeyChecking yes
"""

DEMO_JOBS = "".join(f"echo frame {n}: rendering on $CLSTR_NODE; sleep 0.{n % 4 + 2}\n" for n in range(1, 21))


@dataclass(eq=False)
class Node:
    """One machine. A broken one runs every command, and ends it with exit status 1."""

    name: str
    home: Path
    broken: bool = False
    port: int = 0
    logins: set[asyncssh.SSHServerConnection] = field(default_factory=set)
    starting: set[asyncio.Task[None]] = field(default_factory=set)
    running: set[Process] = field(default_factory=set)

    def disconnect(self) -> None:
        """Break every connection to this node. Its commands go on; they see the end of their input."""
        for login in list(self.logins):
            login.abort()


class Login(asyncssh.SSHServer):
    """One connection to a node, for any number of sessions at once."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self.connection = conn
        self.node.logins.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        self.node.logins.discard(self.connection)

    def session_requested(self) -> Session:
        return Session(self.node)


class Session(asyncssh.SSHServerSession[bytes]):
    """The client's end of one command; Process is the node's end.

    Each end pauses the other while it cannot take more, so nothing piles up here. Like sshd's, a channel that
    closes closes the pipes of its process and does nothing else to it.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.process: Process | None = None
        self.files: SSHServerStreamSession | None = None  # who answers instead of a process, for SFTP
        self.early: list[bytes | None] = []  # input that came before the process was there

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self.channel = chan

    def exec_requested(self, command: str) -> bool:
        self.command = command
        return True

    def subsystem_requested(self, subsystem: str) -> bool:
        if subsystem == "sftp":
            self.files = SSHServerStreamSession(None, lambda chan: Files(chan, self.node.home), 3, False)
            self.files.connection_made(self.channel)
        return self.files is not None

    def session_started(self) -> None:
        if self.files:
            self.files.session_started()
            return
        starting = asyncio.create_task(self.start())
        self.node.starting.add(starting)
        starting.add_done_callback(self.node.starting.discard)

    async def start(self) -> None:
        peername = self.channel.get_extra_info("peername")
        if peername is None:
            return  # the client has gone, before its command has begun
        peer, port = peername
        environment = {
            "HOME": str(self.node.home),
            "LOGNAME": "practice",
            "PATH": os.environ.get("PATH", os.defpath),
            "SHELL": "/bin/sh",
            "SSH_CONNECTION": f"{peer} {port} {peer} {self.node.port}",
            "USER": "practice",
        }
        try:
            await asyncio.get_running_loop().subprocess_exec(
                lambda: Process(self), "/bin/sh", "-c", self.command,
                cwd=self.node.home, env=environment, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            if not self.channel.is_closing():
                self.channel.write_stderr(f"{self.node.name}: {error}\n".encode())
                self.channel.exit(126)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if self.files:
            self.files.data_received(data, datatype)
        else:
            self.feed(data)

    def eof_received(self) -> bool:
        if self.files:
            return bool(self.files.eof_received())
        self.feed(None)
        return True  # the other direction stays open

    def feed(self, data: bytes | None) -> None:
        """Pass input on to the process; None is its end."""
        if not self.process:
            self.early.append(data)
        elif data is None:
            self.process.stdin.close()
        else:
            self.process.stdin.write(data)

    def signal_received(self, signal: str) -> None:
        if self.process:
            self.process.signal(signal)

    def pause_writing(self) -> None:
        if self.files:
            self.files.pause_writing()
        for output in self.process.outputs.values() if self.process else ():
            output.pause_reading()

    def resume_writing(self) -> None:
        if self.files:
            self.files.resume_writing()
        for output in self.process.outputs.values() if self.process else ():
            output.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.files:
            self.files.connection_lost(exc)
        if self.process:
            self.process.hang_up()


class Files(asyncssh.SFTPServer):
    """The files of a node by SFTP: relative paths count from its home directory."""

    def __init__(self, chan: asyncssh.SSHServerChannel[bytes], home: Path) -> None:
        self.home = os.fsencode(home)
        super().__init__(chan)

    def map_path(self, path: bytes) -> bytes:
        return os.path.join(self.home, path)


class Process(asyncio.SubprocessProtocol):
    """The node's end of one command: a shell in a session, and so a process group, of its own."""

    def __init__(self, session: Session) -> None:
        self.session, self.channel, self.node = session, session.channel, session.node
        self.holding: asyncio.TimerHandle | None = None  # set once the process has exited

    def connection_made(self, transport: asyncio.SubprocessTransport) -> None:
        self.transport = transport
        self.stdin = transport.get_pipe_transport(0)
        self.outputs = {fd: transport.get_pipe_transport(fd) for fd in (1, 2)}
        self.node.running.add(self)
        self.session.process = self
        for data in self.session.early:
            self.session.feed(data)
        if self.channel.is_closing():
            self.hang_up()

    def hang_up(self) -> None:
        for pipe in (self.stdin, *self.outputs.values()):
            pipe.close()

    def pause_writing(self) -> None:  # asyncio says so when the process does not read its input
        self.channel.pause_reading()

    def resume_writing(self) -> None:
        # Not at once: a pipe that is written to and closed from inside this call loses data (asyncio, all versions).
        asyncio.get_running_loop().call_soon(self.channel.resume_reading)

    def signal(self, name: str) -> None:
        """Signal the whole process group, as sshd does."""
        if self in self.node.running:
            with contextlib.suppress(AttributeError, ProcessLookupError):
                os.killpg(self.transport.get_pid(), getattr(signal, f"SIG{name}"))

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if not self.channel.is_closing():
            self.channel.write(data, None if fd == 1 else asyncssh.EXTENDED_DATA_STDERR)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self.outputs.pop(fd, None)
        self.end_if_over()

    def process_exited(self) -> None:
        self.node.running.discard(self)
        self.hold()

    def hold(self) -> None:
        """Give background children their time to print, and a slow client all of its own."""
        self.holding = asyncio.get_running_loop().call_later(HOLD, self.let_go)
        self.end_if_over()

    def let_go(self) -> None:
        if self.channel.get_write_buffer_size():
            self.hold()
        else:
            self.end()

    def end_if_over(self) -> None:
        if self.holding and not self.outputs:
            self.holding.cancel()
            self.end()

    def end(self) -> None:
        """Tell the client how the command ended, which closes the channel once everything is sent."""
        status = self.transport.get_returncode() or 0
        self.transport.close()
        if self.channel.is_closing():
            return
        if status < 0:
            self.channel.exit_with_signal(signal.Signals(-status).name.removeprefix("SIG"))
        elif status == 0 and self.node.broken:
            self.channel.write_stderr(f"{self.node.name}: No space left on device\n".encode())
            self.channel.exit(1)
        else:
            self.channel.exit(status)


@dataclass(frozen=True)
class Cluster:
    """The nodes that are up, and the files that a client needs to reach them."""

    nodes: list[Node]
    config: Path
    node_file: Path


@contextlib.asynccontextmanager
async def practice_cluster(nodes: int = 6, dead: int = 0, broken: int = 0) -> AsyncIterator[Cluster]:
    """Run the nodes n1, n2, ...: the last ``dead`` refuse connections, the ``broken`` before those fail."""
    host_key, user_key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    authorized = asyncssh.import_authorized_keys(user_key.export_public_key().decode())
    async with contextlib.AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="practice-")))
        cluster = Cluster([], directory / "ssh_config", directory / "nodes.txt")
        stack.push_async_callback(stop, cluster.nodes)
        for number in range(1, nodes + 1):
            node = Node(f"n{number}", directory / f"n{number}", broken=number > nodes - dead - broken)
            node.home.mkdir()
            cluster.nodes.append(node)
            if number > nodes - dead:  # bound but not listening: the port refuses, and nobody else gets it
                reserved = stack.enter_context(socket.socket())
                reserved.bind(("127.0.0.1", 0))
                node.port = reserved.getsockname()[1]
                continue
            server = await asyncssh.listen(
                "127.0.0.1", 0, server_factory=functools.partial(Login, node), encoding=None,
                server_host_keys=[host_key], authorized_client_keys=authorized, gss_host=None,
            )  # fmt: skip
            stack.callback(server.close)
            node.port = server.get_port()
        write_files(cluster, host_key, user_key)
        yield cluster


def write_files(cluster: Cluster, host_key: asyncssh.SSHKey, user_key: asyncssh.SSHKey) -> None:
    directory, public = cluster.config.parent, host_key.export_public_key().decode()
    known = "".join(f"[127.0.0.1]:{node.port} {public}" for node in cluster.nodes)
    ports = "".join(f"Host {node.name}\n    Port {node.port}\n" for node in cluster.nodes)
    (directory / "known_hosts").write_text(known)
    (directory / "user_key").touch(mode=0o600)  # ssh refuses a key that others may read
    user_key.write_private_key(directory / "user_key")
    cluster.config.write_text(ports + SSH_CONFIG.format(directory))
    cluster.node_file.write_text("".join(f"{node.name}\n" for node in cluster.nodes))


async def stop(nodes: Iterable[Node]) -> None:
    """Break all connections, and leave no running command behind."""
    for node in nodes:
        node.disconnect()
        await asyncio.gather(*node.starting)
        for process in list(node.running):
            process.signal("KILL")
    while any(node.running for node in nodes):  # noqa: ASYNC110 - short, after KILL
        await asyncio.sleep(0.01)


async def run(cluster: Cluster, command: list[str]) -> int:
    """Run the user's command, {config} and {nodes} filled in; gives its exit status as a shell would."""
    loop = asyncio.get_running_loop()
    files = {"config": str(cluster.config), "nodes": str(cluster.node_file)}
    for name, path in files.items():
        command = [word.replace(f"{{{name}}}", path) for word in command]
    environment = os.environ | {f"PRACTICE_{name.upper()}": path for name, path in files.items()}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', os.defpath)}"  # this one's clstr
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # the command answers ^C, and needs its nodes for that
    try:
        process = await asyncio.create_subprocess_exec(*command, env=environment)
    except OSError as error:
        print(f"practice_cluster: {command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, process.send_signal, number)
    status = await process.wait()
    return status if status >= 0 else 128 - status


async def wait(cluster: Cluster, seconds: float | None) -> int:
    """Say what to try, and keep the nodes up: until ^C or the end of standard input, or for ``seconds``."""
    clstr = f"clstr -F {shlex.quote(str(cluster.config))} --node-file {shlex.quote(str(cluster.node_file))}"
    print(f"{len(cluster.nodes)} nodes are up. Try, in another terminal:\n")
    print(f"  {clstr} --on-each-node 'echo $CLSTR_NODE; uptime'")
    print(f"  {clstr} --job 'sleep 1; echo done by $CLSTR_NODE' --verbose")
    print(f"  ssh -F {shlex.quote(str(cluster.config))} n1 pwd\n", flush=True)
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, over.set)

    def read_to_end() -> None:
        while os.read(0, 4096):
            pass
        with contextlib.suppress(RuntimeError):  # the nodes are gone already
            loop.call_soon_threadsafe(over.set)

    if seconds is None:
        threading.Thread(target=read_to_end, daemon=True).start()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(over.wait(), seconds)
    return 0


async def demo(cluster: Cluster) -> int:
    jobs = cluster.config.with_name("jobs.txt")
    jobs.write_text(DEMO_JOBS)
    flags = f"-F {cluster.config} --node-file {cluster.node_file} --job-file {jobs} --verbose"
    print(f"$ clstr {flags}", file=sys.stderr, flush=True)
    return await run(cluster, [sys.executable, "-m", "clstr", *flags.split()])


async def main() -> int:
    parser = argparse.ArgumentParser(description="Real SSH nodes inside one process, to try clstr on.")
    parser.add_argument("--nodes", type=int, default=6, metavar="N", help="how many nodes (default 6)")
    parser.add_argument("--dead", type=int, default=0, metavar="K", help="of these refuse connections")
    parser.add_argument("--broken", type=int, default=0, metavar="K", help="of these fail every command")
    parser.add_argument("--for", type=float, dest="seconds", metavar="SECONDS", help="stop after this time")
    parser.add_argument("--demo", action="store_true", help="run 20 jobs with one node dead and one broken")
    parser.add_argument("command", nargs="*", help="run this, with {config} and {nodes} filled in, and stop")
    flags = parser.parse_args()
    if min(flags.nodes - flags.dead - flags.broken, flags.dead, flags.broken) < 0:
        parser.error("--dead and --broken are counts that together do not exceed --nodes")
    if flags.demo:
        flags.dead = flags.broken = 1
    async with practice_cluster(flags.nodes, flags.dead, flags.broken) as cluster:
        if flags.demo:
            return await demo(cluster)
        return await (run(cluster, flags.command) if flags.command else wait(cluster, flags.seconds))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
