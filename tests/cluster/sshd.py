"""Real OpenSSH servers for tests: separate hosts on loopback addresses, started and stopped by the tests.

Rules:
- Nothing of the machine's SSH is used: own configuration, host keys, user keys, known_hosts and ssh_config.
- Who starts a server stops it, by process id. Every process of a cluster can be found, also when its parent is
  gone: sshds by descent from the ones started here, jobs by a mark in their environment. ``close`` kills them all.
- Node k listens on 127.0.1.k (then 127.0.2.1, ...); all nodes of a cluster share one port.
- Jobs run as a user made for the tests where the tests run as root (root's own start-up files are heavy, and
  sshd treats root in ways of its own), else as the current user with an empty home directory.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PER_SERVER = 16
"""Addresses of one sshd at most: with more than MAX_LISTEN_SOCKS (sshd.c) it does not start."""

SHELLS = {
    "sh": "/bin/sh",
    "dash": "dash",
    "bash": "bash",
    "zsh": "zsh",
    "ksh": "ksh",
    "tcsh": "tcsh",
    "fish": "fish",
    "busybox": "busybox",
}

MARK = "CLSTR_TEST_MARK"


class NotHere(Exception):
    """This machine lacks what the test needs; the text says what."""


def find_sshd() -> str:
    """sshd's absolute path, which it needs to run itself again. Raises NotHere."""
    path = shutil.which("sshd", path=f"/usr/sbin:/usr/local/sbin:/sbin:{os.environ.get('PATH', '')}")
    if path is None:
        raise NotHere("no sshd on this machine (install OpenSSH's server)")
    return path


def until(condition: Callable[[], object], what: str, seconds: float = 10.0) -> None:
    """Wait until the condition holds; the deadline only ends a test that has failed."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain until {what}"
        time.sleep(0.01)


# --- processes ---------------------------------------------------------------------------------------------


def parents() -> dict[int, int]:
    """The parent of every live process."""
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent = directory.joinpath("stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                found[int(directory.name)] = int(parent)
    return found


def descendants(roots: Iterable[int]) -> set[int]:
    """These processes, their children, and so on, as far as they live."""
    tree = parents()
    found = {pid for pid in roots if pid in tree}
    while more := {pid for pid, parent in tree.items() if parent in found} - found:
        found |= more
    return found


def marked(mark: str) -> set[int]:
    """The live processes whose environment has the mark, wherever they stand in the tree."""
    found = set()
    for pid in parents():
        with contextlib.suppress(OSError):
            if mark.encode() in Path(f"/proc/{pid}/environ").read_bytes():
                found.add(pid)
    return found


def command_line(pid: int) -> str:
    """The process's command line, or an empty text when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def is_sshd(pid: int) -> bool:
    """Whether the process is an sshd of any kind (sshd, and from OpenSSH 9.8 sshd-session and sshd-auth)."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().startswith("sshd")
    except OSError:
        return False


def send(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def kill(find: Callable[[], set[int]]) -> None:
    """Kill all that ``find`` finds, and wait until they are gone.

    All are stopped first, until no new ones turn up: what forks while its parent is killed could not be found by
    descent any more.
    """
    found: set[int] = set()
    while new := find() - found:
        send(new, signal.SIGSTOP)
        found |= new
    send(found, signal.SIGKILL)
    until(lambda: not found & parents().keys(), "the processes that were killed are gone")


# --- what the clusters of a test session share ---------------------------------------------------------------


@dataclass(frozen=True)
class Account:
    """A login on the test nodes, with an empty home directory (``$HOME``) of its own.

    ``start`` is where sshd starts its sessions, the home directory of /etc/passwd.
    """

    name: str
    home: Path
    shell: str
    start: Path


class Site:
    """Keys and users for all clusters of a test session. Making it raises NotHere on a machine without sshd."""

    def __init__(self) -> None:
        self.sshd = find_sshd()
        # Not pytest's own directory: the users of the nodes cannot enter that.
        self.directory = Path(tempfile.mkdtemp(prefix="clstr-test-"))
        self.directory.chmod(0o755)
        self.host_key = self.make_key("host_key")
        self.other_host_key = self.make_key("other_host_key")
        self.user_key = self.make_key("user_key")
        self.stranger_key = self.make_key("stranger_key")
        self.authorized_keys = self.directory / "authorized_keys"
        shutil.copy(self.user_key.with_suffix(".pub"), self.authorized_keys)
        self.authorized_keys.chmod(0o644)
        self._accounts: dict[str, Account] = {}
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's directory for privilege separation
            self._remove_users(lambda owner: not Path(f"/proc/{owner}").exists())

    def close(self) -> None:
        """Remove users, homes and keys."""
        if os.geteuid() == 0:
            self._remove_users(lambda owner: owner == os.getpid())
        shutil.rmtree(self.directory, ignore_errors=True)

    def make_key(self, name: str, kind: str = "ed25519", passphrase: str = "") -> Path:
        """A new private key, its public key beside it as ``NAME.pub``."""
        path = self.directory / name
        subprocess.run(
            ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", name, "-f", path],
            check=True,
            stdin=subprocess.DEVNULL,
        )
        return path

    def account(self, shell: str = "sh") -> Account:
        """A login with this shell of SHELLS. Raises NotHere where the machine lacks it or it needs root."""
        if shell not in self._accounts:
            self._accounts[shell] = self._make_account(shell)
        return self._accounts[shell]

    def root(self) -> Account:
        """Root's login, with an empty home directory. Raises NotHere unless the tests run as root."""
        if os.geteuid() != 0:
            raise NotHere("a root login needs tests that run as root")
        return self._account_of(pwd.getpwuid(0))

    def _make_account(self, shell: str) -> Account:
        if os.geteuid() != 0:
            if shell != "sh":
                raise NotHere(f"a user whose login shell is {shell} needs tests that run as root")
            return self._account_of(pwd.getpwuid(os.geteuid()))
        name = f"clstr{os.getpid()}{shell}"
        home = self._make_home(shell)
        path = self._shell_path(shell)
        user_add = ["useradd", "-M", "-N", "-d", str(home), "-s", path, "-p", "*", name]
        _retry_while_locked(user_add)
        os.chown(home, pwd.getpwnam(name).pw_uid, -1)
        return Account(name, home, path, home)

    def _account_of(self, user: pwd.struct_passwd) -> Account:
        return Account(user.pw_name, self._make_home(user.pw_name), user.pw_shell, Path(user.pw_dir))

    def _make_home(self, name: str) -> Path:
        home = self.directory / "homes" / name
        home.mkdir(parents=True, exist_ok=True)
        return home

    def _shell_path(self, shell: str) -> str:
        path = shutil.which(SHELLS[shell])
        if path is None:
            raise NotHere(f"no {shell} on this machine")
        if shell != "busybox":
            return path
        applet = self.directory / "busybox" / "sh"  # busybox is the applet that its file name says
        applet.parent.mkdir(exist_ok=True)
        applet.symlink_to(path)
        return str(applet)

    def _remove_users(self, owned_by: Callable[[int], bool]) -> None:
        for user in pwd.getpwall():
            owner = user.pw_name.removeprefix("clstr").rstrip("abcdefghijklmnopqrstuvwxyz")
            if user.pw_name.startswith("clstr") and owner.isdigit() and owned_by(int(owner)):
                _retry_while_locked(["userdel", "-f", user.pw_name])


def _retry_while_locked(command: Sequence[str]) -> None:
    """Run useradd or userdel, which give up at once while another one holds the lock on /etc/passwd."""
    for _ in range(100):
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode == 0:
            return
        if "lock" not in result.stderr:
            break
        time.sleep(0.1)
    raise RuntimeError(f"{' '.join(command)}: {result.stderr.strip()}")


# --- a cluster -----------------------------------------------------------------------------------------------


@dataclass
class Server:
    """One sshd and the nodes that it serves."""

    addresses: list[str]
    config: Path
    log: Path
    mark: str
    process: subprocess.Popen[bytes] | None = None


class Cluster:
    """Nodes n1, n2, ... each with an sshd of its own, or with ``many`` nodes up to 16 addresses an sshd.

    Use as a context manager. Nodes are counted from 1 in every method. ``nodes`` are the texts to give to a
    client together with ``ssh_config``; with ``many`` they are bare addresses, which one ``Host *`` block serves.
    ``extra_config`` stands before the rest of sshd_config, so it wins.
    """

    def __init__(
        self,
        site: Site,
        directory: Path,
        nodes: int = 3,
        *,
        many: bool = False,
        max_sessions: int | None = None,
        account: Account | None = None,
        extra_config: str = "",
    ) -> None:
        self.site = site
        self.account = account or site.account()
        self.directory = directory
        self.addresses = [f"127.0.{1 + k // 250}.{1 + k % 250}" for k in range(nodes)]
        self.nodes = self.addresses if many else [f"n{k}" for k in range(1, nodes + 1)]
        self.identity = site.user_key
        self.known_hosts = directory / "known_hosts"
        self.ssh_config = directory / "ssh_config"
        self.port = 0
        self._mark = f"{MARK}={uuid.uuid4()}"
        self._many = many
        self._extra = extra_config
        if max_sessions is not None:
            self._extra += f"\nMaxSessions {max_sessions}"
        if many:
            self._extra += f"\nMaxStartups {nodes}:30:{2 * nodes}"
        size = PER_SERVER if many else 1
        self._servers = [
            Server(
                self.addresses[k : k + size],
                directory / f"sshd_config-{k // size + 1}",
                directory / f"sshd-{k // size + 1}.log",
                f"{self._mark}-{k // size + 1}-",
            )
            for k in range(0, nodes, size)
        ]

    def __enter__(self) -> Cluster:
        try:
            self._start_on_a_free_port()
        except BaseException:
            self.close()
            raise
        self._write_client_files()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill every process of the cluster: sshds, connections and jobs."""
        for server in self._servers:
            self._stop(server)
        kill(lambda: marked(self._mark))

    # --- faults

    def stop(self, node: int) -> None:
        """Kill the node's sshd and its connections. What runs there is not killed: that is the leash's part."""
        self._stop(self._server(node))

    def restart(self, node: int) -> None:
        """Start a stopped node's sshd again, on the same port."""
        self._start(self._server(node))

    def kill_connections(self, node: int) -> None:
        """Kill the sshds of the node's connections; it accepts new ones."""
        server = self._server(node)
        kill(lambda: self._sshds(server) - self._listener(server))

    def freeze(self, node: int) -> None:
        """Stop the node's sshds (SIGSTOP): its port still accepts, nothing answers."""
        send(self._sshds(self._server(node)), signal.SIGSTOP)

    def thaw(self, node: int) -> None:
        """Let a frozen node go on."""
        send(self._sshds(self._server(node)), signal.SIGCONT)

    # --- looking on

    def log(self, node: int) -> str:
        """What the node's sshd has logged."""
        return self._server(node).log.read_text()

    def jobs(self, node: int | None = None) -> dict[int, str]:
        """Process ids and command lines of what runs on the node, or on all: wrappers, jobs, their children."""
        mark = self._mark if node is None else self._server(node).mark
        return {pid: command_line(pid) for pid in marked(mark) if not is_sshd(pid)}

    def connections(self, node: int) -> int:
        """How many connections the node has."""
        server = self._server(node)
        tree, listener = parents(), self._listener(server)
        return sum(1 for pid in self._sshds(server) if tree.get(pid) in listener)

    # --- inside

    def _server(self, node: int) -> Server:
        return self._servers[(node - 1) // (PER_SERVER if self._many else 1)]

    def _start_on_a_free_port(self) -> None:
        for _ in range(20):
            self.port = random.randrange(20_000, 32_000)  # below the ports that clients are given
            if not all(_is_free(address, self.port) for address in self.addresses):
                continue
            for server in self._servers:
                server.config.write_text(self._sshd_config(server))
                self._start(server)
            return
        raise RuntimeError("no free port for sshd")

    def _sshd_config(self, server: Server) -> str:
        lines = [
            self._extra,
            f"Port {self.port}",
            *(f"ListenAddress {address}" for address in server.addresses),
            f"HostKey {self.site.host_key}",
            f"AuthorizedKeysFile {self.site.authorized_keys}",
            # One line, since only the first SetEnv counts.
            f"SetEnv {server.mark} HOME={self.account.home}",
            "AuthenticationMethods publickey",
            "LogLevel VERBOSE",
            "PermitRootLogin yes",
            "PermitUserEnvironment no",
            "PidFile none",
            "PrintLastLog no",
            "PrintMotd no",
            "StrictModes no",
            "UseDNS no",
            "UsePAM no",
        ]
        return "\n".join(lines) + "\n"

    def _start(self, server: Server) -> None:
        server.log.write_text("")
        command = [self.site.sshd, "-D", "-f", str(server.config), "-E", str(server.log)]
        if setpriv := shutil.which("setpriv"):  # the servers end with the tests, also when those are killed
            command = [setpriv, "--pdeathsig", "KILL", *command]
        server.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        process = server.process

        def listens() -> bool:
            log = server.log.read_text()
            assert process.poll() is None, f"sshd did not start: {log}"
            return log.count("Server listening on") == len(server.addresses)

        until(listens, "sshd listens")

    def _stop(self, server: Server) -> None:
        process = server.process
        if process is None:
            return
        kill(lambda: self._sshds(server))
        process.wait()
        server.process = None

    def _listener(self, server: Server) -> set[int]:
        return {server.process.pid} if server.process else set()

    def _sshds(self, server: Server) -> set[int]:
        return {pid for pid in descendants(self._listener(server)) if is_sshd(pid)}

    def _write_client_files(self) -> None:
        key = self.site.host_key.with_suffix(".pub").read_text()
        self.known_hosts.write_text("".join(f"[{address}]:{self.port} {key}" for address in self.addresses))
        hosts = ""
        if not self._many:
            for alias, address in zip(self.nodes, self.addresses, strict=True):
                hosts += f"Host {alias}\n    HostName {address}\n"
        self.ssh_config.write_text(
            f"{hosts}Host *\n"
            f"    Port {self.port}\n"
            f"    User {self.account.name}\n"
            f"    IdentityFile {self.identity}\n"
            "    IdentitiesOnly yes\n"
            "    IdentityAgent none\n"
            f"    UserKnownHostsFile {self.known_hosts}\n"
            "    GlobalKnownHostsFile /dev/null\n"
            "    StrictHostKeyChecking yes\n"
        )


def _is_free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
        return True


@contextlib.contextmanager
def site() -> Iterator[Site]:
    """A Site for the duration of the block."""
    made = Site()
    try:
        yield made
    finally:
        made.close()
