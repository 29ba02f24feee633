"""That clstr's SSH is the user's ssh: each configuration is given to both, against the same sshd."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster.sshd import Cluster, Site, command_line, is_sshd, until

from clstr.model import BadInput, Exited, Flow, Node
from clstr.transport import CannotConnect, Command
from clstr.transport.ssh import SshSettings, SshTransport

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh program on this machine")

SAYS = 'echo "$(id -un) ${SSH_CONNECTION#* * } [$FOO] [$LC_TEST] [$LC_OTHER]"'
"""What a login shows of itself: user, the server's address and port, and the environment that was passed on."""

BASE = """
Host n1
  HostName ADDRESS1
Host n2
  HostName ADDRESS2
Host bastion
  HostName ADDRESS3
  ProxyJump none
Host *
  Port PORT
  User USER
  IdentityFile KEY
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile DIR/known_hosts
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
"""


class Heard:
    """A sink that keeps what a job says."""

    def __init__(self) -> None:
        self.out = b""

    def begun(self, flow: Flow) -> None:
        pass

    def stdout(self, data: bytes) -> None:
        self.out += data

    def stderr(self, data: bytes) -> None:
        pass

    def finished(self) -> None:
        pass


@dataclass
class Place:
    """Three nodes, and directories with the keys and known_hosts that configurations name."""

    cluster: Cluster
    site: Site
    directory: Path

    def text(self, config: str, directory: Path) -> str:
        """The configuration with its words in capitals replaced."""
        words = {
            **{f"ADDRESS{k}": address for k, address in enumerate(self.cluster.addresses, 1)},
            "OTHERPORT": str(self.cluster.port + 1),
            "PORT": str(self.cluster.port),
            "USER": self.cluster.account.name,
            "KEY": str(self.cluster.identity),
            "WRONG": str(self.site.stranger_key),
            "DIR": str(directory),
        }
        for word, value in words.items():
            config = config.replace(word, value)
        return config

    def write(self, config: str, name: str = "alone", base: str = BASE) -> Path:
        """A directory of its own with known_hosts of every kind; gives its ssh_config."""
        directory = self.directory / name
        directory.mkdir(exist_ok=True, parents=True)
        port = self.cluster.port
        own, other = (
            " ".join(key.with_suffix(".pub").read_text().split()[:2])
            for key in (self.site.host_key, self.site.other_host_key)
        )
        places = [f"[{address}]:{port}" for address in self.cluster.addresses]
        files = {
            "known_hosts": "".join(f"{place} {own}\n" for place in places),
            "hashed": "".join(f"{place} {own}\n" for place in places),
            "changed": "".join(f"{place} {other}\n" for place in places),
            "both": "".join(f"{place} {other}\n{place} {own}\n" for place in places),
            "empty": "",
            "commented": "# a comment\n\n" + "".join(f"{place} {own} a comment\n" for place in places),
            "patterns": f"[127.0.*]:{port},!nobody {own}\n",
            "portless": "".join(f"{address} {own}\n" for address in self.cluster.addresses),
            "portless_other": "".join(f"{address} {other}\n" for address in self.cluster.addresses),
            "alias": f"farm {own}\n",
            "revoked": "".join(f"{place} {own}\n@revoked {place} {own}\n" for place in places),
            "revoked_only": "".join(f"@revoked {place} {own}\n" for place in places),
            "revoked_keys": f"{own}\n",
            "certified": f"@cert-authority * {other}\n",
        }
        for file, text in files.items():
            (directory / file).write_text(text)
        subprocess.run(["ssh-keygen", "-q", "-H", "-f", directory / "hashed"], check=True, capture_output=True)
        (directory / "hashed.old").unlink()
        (directory / "conf.d").mkdir(exist_ok=True)
        (directory / "conf.d" / "20-late").write_text("SetEnv FOO=late\n")
        (directory / "conf.d" / "10-early").write_text("SetEnv FOO=early\n")
        path = directory / "ssh_config"
        path.write_text(self.text(config + base, directory))
        return path

    def log(self, node: int) -> str:
        return self.cluster.log(node)


@pytest.fixture(scope="module")
def place(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("equivalence")
    with Cluster(
        site, tmp_path_factory.mktemp("cluster"), 3, extra_config="AcceptEnv FOO LC_*\nLogLevel DEBUG1"
    ) as cluster:
        yield Place(cluster, site, directory)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    for name in [name for name in os.environ if name.startswith("LC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LC_TEST", "sent")
    monkeypatch.setenv("LC_OTHER", "sent too")


def by_ssh(config: Path, host: str, command: str = SAYS) -> str | None:
    """What the command says when ssh runs it, or None where ssh does not come that far."""
    done = subprocess.run(
        ["ssh", "-F", config, "-o", "BatchMode=yes", host, command], stdin=subprocess.DEVNULL, capture_output=True
    )
    return done.stdout.decode() if done.returncode != 255 else None


async def run_on(transport: SshTransport, host: str, command: str = SAYS) -> str:
    connection = await transport.connect(Node(host, host))
    try:
        heard = Heard()
        outcome = await (await connection.channel()).run(Command(command.encode()), heard)
        assert outcome == Exited(0), outcome
        return heard.out.decode()
    finally:
        connection.close()


def by_clstr(config: Path, host: str = "n1", **settings: object) -> str:
    """What the command says when clstr runs it; raises what clstr raises."""

    async def both() -> str:
        transport = SshTransport(SshSettings(str(config), **settings))  # type: ignore[arg-type]
        try:
            return await run_on(transport, host)
        finally:
            await transport.close()

    return asyncio.run(both())


def refusal(config: Path, host: str = "n1", **settings: object) -> str:
    """Why clstr does not come to the host."""
    with pytest.raises((CannotConnect, BadInput)) as caught:
        by_clstr(config, host, **settings)
    text = str(caught.value)
    assert "\n" not in text
    return text


# --- the table ---------------------------------------------------------------------------------------------

WORKS = {
    "the base": "",
    "a comment behind an option": "Host n1\n  ConnectTimeout 20 # seconds\n",
    "an equals sign and quotes": 'Host n1\n  HostName="ADDRESS2"\n',
    "HostName with %h": "Host 127.0.1.2\n  HostName %h\n",
    "User": "Host n1\n  User USER\n",
    "Port as a service of another block": "Host n2\n  Port 1\nHost n1\n  Port PORT\n",
    "an IdentityFile that is missing": "IdentityFile DIR/no_such_key\n",
    "an IdentityFile that is a directory": "IdentityFile DIR/conf.d\n",
    "an IdentityFile that is no key": "IdentityFile DIR/commented\n",
    "a wrong IdentityFile before the right one": "IdentityFile WRONG\nIdentityFile KEY\n",
    "the same IdentityFile many times": "IdentityFile KEY\n" * 8,
    "a CertificateFile that is missing": "CertificateFile DIR/no-such-cert.pub\n",
    "an IdentityAgent that is missing": "IdentityAgent DIR/no_agent\n",
    "known hosts, one of the list missing": "UserKnownHostsFile DIR/no_such_file DIR/known_hosts\n",
    "known hosts, the second of the list": "UserKnownHostsFile DIR/empty DIR/known_hosts\n",
    "known hosts, hashed": "UserKnownHostsFile DIR/hashed\n",
    "known hosts, with patterns": "UserKnownHostsFile DIR/patterns\n",
    "known hosts, with comments": "UserKnownHostsFile DIR/commented\n",
    "known hosts, without port": "UserKnownHostsFile DIR/portless\n",
    "known hosts, two keys of a kind": "UserKnownHostsFile DIR/both\n",
    "known hosts, global": "UserKnownHostsFile DIR/empty\nGlobalKnownHostsFile DIR/no_such_file DIR/known_hosts\n",
    "known hosts with %k": "Host n1\n  HostKeyAlias farm\n  UserKnownHostsFile DIR/alias\n",
    "known hosts named by %k": "Host n1\n  HostKeyAlias known_hosts\n  UserKnownHostsFile DIR/%k\n"
    "  StrictHostKeyChecking no\n",
    "no check, and nowhere to record": "StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\n",
    "no check of a changed key": "StrictHostKeyChecking no\nUserKnownHostsFile DIR/changed\n",
    "accept-new": "StrictHostKeyChecking accept-new\nUserKnownHostsFile DIR/new/known_hosts\n",
    "accept-new beside a wrong key without port":
        "StrictHostKeyChecking accept-new\nUserKnownHostsFile DIR/portless_other\n",
    "ConnectTimeout in minutes": "ConnectTimeout 1m\n",
    "ConnectTimeout none": "ConnectTimeout none\n",
    "ConnectionAttempts": "ConnectionAttempts 3\n",
    "ServerAliveInterval in minutes": "ServerAliveInterval 1m\nServerAliveCountMax 5\n",
    "ServerAliveInterval off": "ServerAliveInterval 0\n",
    "TCPKeepAlive": "TCPKeepAlive no\n",
    "SendEnv": "SendEnv LC_TEST\n",
    "SendEnv with a pattern": "SendEnv LC_*\n",
    "SendEnv, and taken back": "SendEnv LC_*\nSendEnv -LC_OTHER\n",
    "SetEnv": "SetEnv FOO=bar\n",
    "SetEnv, quoted": 'SetEnv FOO="bar baz"\n',
    "SetEnv before SendEnv": "SetEnv LC_TEST=set\nSendEnv LC_TEST\n",
    "SetEnv, one that is not accepted": "SetEnv NOTACCEPTED=1 FOO=2\n",
    "Ciphers": "Ciphers aes256-ctr\n",
    "Ciphers added": "Ciphers +aes128-cbc\n",
    "Ciphers taken away": "Ciphers -aes128-gcm@openssh.com,chacha20*\n",
    "MACs": "Ciphers aes128-ctr\nMACs hmac-sha2-512\n",
    "MACs first": "Ciphers aes128-ctr\nMACs ^umac-64-etm@openssh.com,hmac-sha2-256\n",
    "KexAlgorithms": "KexAlgorithms ecdh-sha2-nistp384\n",
    "KexAlgorithms first": "KexAlgorithms ^ecdh-sha2-nistp256\n",
    "KexAlgorithms that not everyone knows": "KexAlgorithms sntrup761x25519-sha512@openssh.com,curve25519-sha256\n",
    "HostKeyAlgorithms": "HostKeyAlgorithms ssh-ed25519\n",
    "HostKeyAlgorithms first": "HostKeyAlgorithms ^rsa-sha2-512\n",
    "PubkeyAcceptedAlgorithms": "PubkeyAcceptedAlgorithms +ssh-rsa\n",
    "AddressFamily": "AddressFamily inet\n",
    "BindAddress": "BindAddress 127.0.0.9\n",
    "RekeyLimit": "RekeyLimit 1G 1h\n",
    "Compression": "Compression yes\n",
    "PreferredAuthentications": "PreferredAuthentications keyboard-interactive,publickey\n",
    "GSSAPIAuthentication before keys": "GSSAPIAuthentication yes\n",
    "Match exec with an equals sign": 'Match host n1 exec "test 1 = 1"\n  SetEnv FOO=matched\n',
    "Match exec with %h": 'Match originalhost n1 exec "test %n = n1"\n  SetEnv FOO=matched\n',
    "Match final": "Match final host 127.0.1.1\n  SetEnv FOO=matched\n",
    "Include in order": "Include DIR/conf.d/*\n",
    "Include in a block of another host": "Host n2\n  Include DIR/conf.d/*\n",
    "a negated pattern": "Host n* !n1\n  SetEnv FOO=others\nHost n1\n  SetEnv FOO=one\n",
    "ProxyCommand with redirection": "Host n1\n  ProxyCommand PROXY %h %p 2>/dev/null\n",
    "ProxyCommand with a pipe": "Host n1\n  ProxyCommand cat | PROXY %h %p | cat\n",
    "ProxyCommand with %n, %r and %k": "Host n1\n  ProxyCommand sh -c 'test %n-%r-%k = n1-USER-n1 && PROXY %h %p'\n",
    "ProxyCommand that is noisy":
        "Host n1\n  ProxyCommand sh -c 'echo noise >&2; (sleep .2; echo more >&2) & PROXY %h %p'\n",
    "ProxyCommand before ProxyJump":
        "Host n1\n  ProxyCommand PROXY %h %p\nHost n1\n  ProxyJump nowhere.invalid\n",
    "ProxyCommand none": "Host n1\n  ProxyCommand none\nHost *\n  ProxyCommand false\n",
    "ProxyJump": "Host n1\n  ProxyJump bastion\n",
    "ProxyJump with user and port": "Host n1\n  ProxyJump USER@ADDRESS3:PORT\n",
    "ProxyJump as a URI": "Host n1\n  ProxyJump ssh://USER@bastion:PORT\n",
    "ProxyJump, a chain": "Host n1\n  ProxyJump bastion,n2\n",
    "ProxyJump, nested": "Host n1\n  ProxyJump n2\nHost n2\n  ProxyJump bastion\n",
    "ProxyJump for all but the bastion": "Host n*\n  ProxyJump bastion\n",
    "ProxyJump before ProxyCommand": "Host n1\n  ProxyJump bastion\nHost n1\n  ProxyCommand false\n",
    "keywords that only ssh has": "ControlMaster no\nUpdateHostKeys no\nCheckHostIP yes\nIgnoreUnknown Foo\nFoo bar\n",
    "keywords in capitals": "HOST n1\n  SETENV FOO=loud\n",
}  # fmt: skip

FAILS = {
    "accept-new and nowhere to record": "StrictHostKeyChecking accept-new\nUserKnownHostsFile none\n",
    "no authentication by key": "PubkeyAuthentication no\n",
    "another way to authenticate": "PreferredAuthentications keyboard-interactive\n",
    "a wrong user": "Host n1\n  User nobody-there\n",
    "a wrong port": "Host n1\n  Port OTHERPORT\n",
    "an unknown host key": "UserKnownHostsFile DIR/empty\n",
    "an unknown host key, and no file of them": "UserKnownHostsFile DIR/no_such_file\n",
    "a changed host key": "UserKnownHostsFile DIR/changed\n",
    "a changed host key under accept-new": "StrictHostKeyChecking accept-new\nUserKnownHostsFile DIR/changed\n",
    "a wrong key without port": "UserKnownHostsFile DIR/portless_other\n",
    "an alias that is unknown": "Host n1\n  HostKeyAlias nobody\n",
    "a revoked host key": "UserKnownHostsFile DIR/revoked\n",
    "a revoked host key under accept-new": "StrictHostKeyChecking accept-new\nUserKnownHostsFile DIR/revoked_only\n",
    "a host key in RevokedHostKeys": "StrictHostKeyChecking no\nRevokedHostKeys DIR/revoked_keys\n",
    "RevokedHostKeys that is missing": "RevokedHostKeys DIR/no_such_file\n",
    "a kind of host key that is not there": "HostKeyAlgorithms ecdsa-sha2-nistp256\n",
    "a host that has no address": "Host n1\n  HostName does-not-exist.invalid\n",
    "IPv6 only, for an IPv4 address": "AddressFamily inet6\n",
    "ProxyCommand that fails": "Host n1\n  ProxyCommand false\n",
    "a bastion that has no address": "Host n1\n  ProxyJump does-not-exist.invalid\n",
    "a bastion that refuses": "Host n1\n  ProxyJump bastion:OTHERPORT\n",
    "a bastion whose key is unknown": "Host n1\n  ProxyJump bastion\nHost bastion\n  UserKnownHostsFile DIR/empty\n",
    "a faulty line": "Prot 22\n",
    "a faulty value": "Host n2\n  Port many\n",
}


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A netcat of ours: HOST PORT."""
    path = tmp_path_factory.mktemp("proxy") / "connect"
    path.write_text(PROXY)
    path.chmod(0o755)
    return path


PROXY = """#!/usr/bin/env python3
import os, select, socket, sys
far = socket.create_connection((sys.argv[1], int(sys.argv[2])))
ends = {0: far.fileno(), far.fileno(): 1}
while True:
    for end in select.select(list(ends), [], [])[0]:
        data = os.read(end, 65536)
        if not data:
            sys.exit()
        os.write(ends[end], data)
"""


def slug(row: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in row)


@pytest.mark.parametrize("row", WORKS)
def test_what_works_with_ssh_works_here_and_the_same(row: str, place: Place, proxy: Path) -> None:
    config = WORKS[row].replace("PROXY", str(proxy)) if "ProxyCommand" in WORKS[row] else WORKS[row]
    theirs = by_ssh(place.write(config, f"{slug(row)}/ssh"), "n1")
    assert theirs is not None, "ssh itself fails: the row is wrong"
    assert by_clstr(place.write(config, f"{slug(row)}/clstr")) == theirs


@pytest.mark.parametrize("row", FAILS)
def test_what_fails_with_ssh_fails_here(row: str, place: Place) -> None:
    assert by_ssh(place.write(FAILS[row], f"{slug(row)}/ssh"), "n1") is None, "ssh succeeds: the row is wrong"
    refusal(place.write(FAILS[row], f"{slug(row)}/clstr"))


def test_a_jumphost_loop_is_said_where_ssh_starts_processes_without_end(place: Place) -> None:
    assert "jumphost loop via n1" in refusal(place.write("Host n1\n  ProxyJump n1\n"))
    assert "jumphost loop" in refusal(place.write("Host n1\n  ProxyJump n2\nHost n2\n  ProxyJump n1\n"))


def test_an_exec_before_a_proxy_command_is_no_error(place: Place, proxy: Path) -> None:
    assert by_clstr(place.write(f"Host n1\n  ProxyCommand exec {proxy} %h %p\n"))


@pytest.mark.parametrize("cipher", ["aes256-ctr", "chacha20-poly1305@openssh.com"])
def test_the_cipher_is_the_users(cipher: str, place: Place) -> None:
    before = len(place.log(1))
    by_clstr(place.write(f"Ciphers {cipher}\n"))
    assert f"cipher: {cipher}" in place.log(1)[before:]


# --- host keys ---------------------------------------------------------------------------------------------


def test_an_unknown_host_key_names_its_cure_and_the_cure_works(place: Place) -> None:
    config = place.write("UserKnownHostsFile DIR/empty\n")
    fingerprint = subprocess.run(
        ["ssh-keygen", "-lf", place.site.host_key], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    why = refusal(config)
    assert f"unknown host key of 127.0.1.1: ED25519 {fingerprint}" in why
    cure = why.partition("record it: ")[2].removesuffix(")")
    subprocess.run(["sh", "-c", cure], check=True, capture_output=True)
    assert by_clstr(config)


def test_the_cure_for_an_alias_works_too(place: Place) -> None:
    config = place.write("UserKnownHostsFile DIR/empty\nHost n1\n  HostKeyAlias farm\n")
    cure = refusal(config).partition("record it: ")[2].removesuffix(")")
    subprocess.run(["sh", "-c", cure], check=True, capture_output=True)
    assert (config.parent / "empty").read_text().startswith("farm ")
    assert by_clstr(config)


@pytest.mark.parametrize("policy", ["strict", "accept-new"])
def test_a_changed_host_key_is_said_as_such_and_never_taken(policy: str, place: Place) -> None:
    config = place.write("UserKnownHostsFile DIR/changed\n")
    before = (config.parent / "changed").read_text()
    assert "has CHANGED" in refusal(config, host_key=policy)
    assert (config.parent / "changed").read_text() == before
    assert by_clstr(config, host_key="off")


@pytest.mark.parametrize("hashed", ["no", "yes"])
def test_accept_new_records_once_and_as_ssh_reads_it(hashed: str, place: Place) -> None:
    config = place.write(f"HashKnownHosts {hashed}\nUserKnownHostsFile DIR/sub/{hashed}\nLogLevel ERROR\n")

    async def two_runs_at_once() -> None:
        runs = [SshTransport(SshSettings(str(config), host_key="accept-new")) for _ in range(2)]
        await asyncio.gather(*(run_on(run, "n1") for run in runs for _ in range(3)))
        for run in runs:
            await run.close()

    asyncio.run(two_runs_at_once())
    lines = (config.parent / "sub" / hashed).read_text().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("|1|") == (hashed == "yes")
    assert by_ssh(config, "n1")


def test_a_host_certificate_is_taken_from_its_authority_only(site: Site, place: Place, tmp_path: Path) -> None:
    key = tmp_path / "host"
    shutil.copy(site.host_key, key)
    shutil.copy(site.host_key.with_suffix(".pub"), f"{key}.pub")
    sign = ["ssh-keygen", "-q", "-s", site.other_host_key, "-I", "a host", "-h", "-n", "127.0.1.1", f"{key}.pub"]
    subprocess.run(sign, check=True)
    with Cluster(site, tmp_path, 1, extra_config=f"HostCertificate {key}-cert.pub") as certified:
        there = Place(certified, site, tmp_path)
        base = BASE.replace("ADDRESS2", "ADDRESS1").replace("ADDRESS3", "ADDRESS1")
        for row, works in (
            ("UserKnownHostsFile DIR/certified\n", True),
            ("UserKnownHostsFile DIR/known_hosts\n", True),
            ("UserKnownHostsFile DIR/empty\n", False),
            ("UserKnownHostsFile DIR/empty\nStrictHostKeyChecking accept-new\n", True),
        ):
            ours, theirs = (there.write(row, f"{slug(row)}/{name}", base) for name in ("clstr", "ssh"))
            assert (by_ssh(theirs, "n1") is not None) is works
            if works:
                by_clstr(ours)
            else:
                refusal(ours)


# --- keys and agents ---------------------------------------------------------------------------------------


@dataclass
class Agent:
    """A real ssh-agent."""

    socket: Path

    def add(self, *keys: Path) -> None:
        environment = {**os.environ, "SSH_AUTH_SOCK": str(self.socket)}
        for key in keys:
            subprocess.run(["ssh-add", "-q", key], env=environment, check=True, capture_output=True)


@pytest.fixture
def agent(site: Site, tmp_path: Path) -> Iterator[Agent]:
    path = site.directory / f"agent-{tmp_path.name[:20]}"  # short: a socket's name has room for 107 bytes
    process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    try:
        until(path.exists, "the agent listens")
        yield Agent(path)
    finally:
        process.terminate()
        process.wait()


def made(directory: Path, name: str, passphrase: str = "") -> Path:
    path = directory / name
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", path], check=True)
    return path


NO_KEY = BASE.replace("IdentityFile KEY", "IdentityFile DIR/no_such_key").replace("IdentityAgent none\n", "").replace(
    "IdentitiesOnly yes", ""
)


def test_a_full_agent_does_not_keep_the_named_key_from_being_tried(place: Place, agent: Agent, tmp_path: Path) -> None:
    agent.add(*(made(tmp_path, f"wrong{k}") for k in range(8)))
    config = place.write(f"IdentityAgent {agent.socket}\nIdentityFile KEY\n", base=NO_KEY)
    assert by_clstr(config)


def test_a_full_agent_without_the_right_key_names_the_cure(place: Place, agent: Agent, tmp_path: Path) -> None:
    agent.add(*(made(tmp_path, f"wrong{k}") for k in range(8)))
    why = refusal(place.write(f"IdentityAgent {agent.socket}\n", base=NO_KEY))
    assert "too many authentication failures" in why
    assert "IdentitiesOnly" in why


def test_an_agents_key_is_offered_unless_identities_only(place: Place, agent: Agent) -> None:
    agent.add(place.cluster.identity)
    for only in ("no", "yes"):
        row = f"IdentityAgent {agent.socket}\nIdentitiesOnly {only}\n"
        ours, theirs = (place.write(row, f"only-{only}/{name}", NO_KEY) for name in ("clstr", "ssh"))
        assert (by_ssh(theirs, "n1") is not None) is (only == "no")
        if only == "no":
            by_clstr(ours)
        else:
            assert "no key to offer" in refusal(ours)


def test_an_encrypted_key_is_used_by_the_agents_copy(place: Place, agent: Agent, tmp_path: Path) -> None:
    key = tmp_path / "locked"
    shutil.copy(place.cluster.identity, key)
    agent.add(key)
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", key], check=True, capture_output=True)
    row = f"IdentityFile {key}\nIdentitiesOnly yes\n"
    assert by_ssh(place.write(f"IdentityAgent {agent.socket}\n{row}", base=NO_KEY), "n1")
    assert by_clstr(place.write(f"IdentityAgent {agent.socket}\n{row}", base=NO_KEY))
    assert f"ssh-add {key}" in refusal(place.write(f"IdentityAgent none\n{row}", base=NO_KEY))


def test_an_agent_that_never_answers_costs_little(place: Place, tmp_path: Path) -> None:
    async def mute(config: Path) -> str:
        server = await asyncio.start_unix_server(lambda reader, writer: None, tmp_path / "mute")
        transport = SshTransport(SshSettings(str(config)))
        try:
            return await run_on(transport, "n1")
        finally:
            await transport.close()
            server.close()

    assert asyncio.run(mute(place.write(f"IdentityAgent {tmp_path}/mute\nIdentityFile KEY\n", base=NO_KEY)))


@pytest.mark.parametrize(
    "where", ["beside the key", "CertificateFile", "in the agent", "CertificateFile, key in the agent"]
)
def test_certificates_log_in(where: str, site: Site, agent: Agent, tmp_path: Path) -> None:
    key = made(tmp_path, "certified")
    authority = site.user_key
    with Cluster(
        site, tmp_path, 1, extra_config=f"TrustedUserCAKeys {authority}.pub\nAuthorizedKeysFile none"
    ) as cluster:
        subprocess.run(
            ["ssh-keygen", "-q", "-s", authority, "-I", "me", "-n", cluster.account.name, f"{key}.pub"], check=True
        )
        certificate = Path(f"{key}-cert.pub")
        row = f"IdentityAgent {agent.socket}\n"
        if "agent" in where:
            agent.add(key)
            if where == "in the agent":
                certificate.unlink()
            else:
                environment = {**os.environ, "SSH_AUTH_SOCK": str(agent.socket)}
                subprocess.run(["ssh-add", "-q", "-D"], env=environment, check=True, capture_output=True)
                certificate.rename(tmp_path / "elsewhere.pub")
                agent.add(key)
            key.unlink()
        elif where == "CertificateFile":
            certificate.rename(tmp_path / "elsewhere.pub")
        if "agent" not in where:
            row += f"IdentityFile {key}\n"
        if "CertificateFile" in where:
            row += f"CertificateFile {tmp_path}/elsewhere.pub\n"
        base = NO_KEY.replace("ADDRESS2", "ADDRESS1").replace("ADDRESS3", "ADDRESS1")
        there = Place(cluster, site, tmp_path)
        assert by_ssh(there.write(row, "ssh", base), "n1")
        assert by_clstr(there.write(row, "clstr", base))


def test_keys_and_known_hosts_are_read_once_a_run(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncssh

    reads = []
    real = asyncssh.read_private_key
    monkeypatch.setattr(asyncssh, "read_private_key", lambda path: (reads.append(path), real(path))[1])

    async def many() -> None:
        transport = SshTransport(SshSettings(str(place.write(""))))
        await asyncio.gather(*(run_on(transport, host) for host in ("n1", "n2", "bastion")))
        await transport.close()

    asyncio.run(many())
    assert reads == [str(place.cluster.identity)]


def test_gssapi_that_is_wanted_and_not_there_names_the_external_client(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "--ssh ssh" in refusal(place.write("GSSAPIAuthentication yes\n", base=NO_KEY))


# --- bastions and ProxyCommands ----------------------------------------------------------------------------


def test_nodes_behind_a_bastion_share_its_connection_which_is_opened_again(place: Place) -> None:
    hosts = [f"far{k}" for k in range(10)]
    config = place.write("Host far*\n  HostName ADDRESS1\n  ProxyJump bastion\n")
    before = place.log(3).count("Accepted publickey")

    async def ten_and_one() -> None:
        transport = SshTransport(SshSettings(str(config)))
        try:
            await asyncio.gather(*(run_on(transport, host) for host in hosts))
            assert place.log(3).count("Accepted publickey") == before + 1
            connection = await transport.connect(Node("far0", "far0"))
            await asyncio.to_thread(place.cluster.kill_connections, 3)
            await asyncio.wait_for(connection.lost, 10)
            await run_on(transport, "far1")
            assert place.log(3).count("Accepted publickey") == before + 2
        finally:
            await transport.close()

    asyncio.run(ten_and_one())
    until(lambda: place.cluster.connections(3) == 0, "the bastion is let go")


def test_a_bastion_that_refuses_is_asked_once(place: Place) -> None:
    config = place.write(
        "Host far*\n  HostName ADDRESS1\n  ProxyJump bastion\n",
        base=BASE.replace("ProxyJump none", "ProxyJump none\n  User nobody-there"),
    )
    before = place.log(3).count("Connection from")

    async def in_two_waves() -> list[object]:
        transport = SshTransport(SshSettings(str(config)))
        try:
            nodes = [Node(f"far{k}", f"far{k}") for k in range(20)]
            first = await asyncio.gather(*map(transport.connect, nodes[:10]), return_exceptions=True)
            return [*first, *await asyncio.gather(*map(transport.connect, nodes[10:]), return_exceptions=True)]
        finally:
            await transport.close()

    assert all("bastion bastion: permission denied" in str(error) for error in asyncio.run(in_two_waves()))
    assert place.log(3).count("Connection from") == before + 1


def groups(marker: str) -> set[int]:
    """The live processes, zombies too, that are children of ours or have the marker in their command line."""
    found = set()
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int(directory.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            ours = parent == os.getpid() and not is_sshd(int(directory.name))
            if ours or marker in command_line(int(directory.name)):
                found.add(int(directory.name))
    return found


def test_nothing_of_a_proxy_command_is_left(place: Place, proxy: Path) -> None:
    marker = f"100.{os.getpid()}"
    before = groups(marker)
    config = place.write(f"Host n1\n  ProxyCommand sh -c 'sleep {marker} & {proxy} %h %p'\n")

    async def while_it_runs() -> None:
        transport = SshTransport(SshSettings(str(config)))
        try:
            connection = await transport.connect(Node("n1", "n1"))
            assert len(groups(marker) - before) >= 2
            connection.close()
            deadline = asyncio.get_running_loop().time() + 10
            while groups(marker) != before:
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.01)
        finally:
            await transport.close()

    asyncio.run(while_it_runs())


def test_a_proxy_command_that_fails_says_its_last_words(place: Place) -> None:
    row = "Host n1\n  ProxyCommand sh -c 'echo first >&2; echo no route to the moon >&2; exit 3'\n"
    assert refusal(place.write(row)) == "ProxyCommand failed (status 3): no route to the moon"


def test_a_proxy_command_that_hangs_costs_the_connect_timeout_and_ends(place: Place) -> None:
    marker = f"101.{os.getpid()}"
    before = groups(marker)
    row = f"Host n1\n  ProxyCommand sh -c 'echo waiting for the moon >&2; sleep {marker}'\n"
    why = refusal(place.write(row), connect_timeout=1.0)
    assert "no answer within 1 s" in why
    assert "waiting for the moon" in why
    assert groups(marker) == before


# --- bursts ------------------------------------------------------------------------------------------------


def test_a_server_that_drops_most_of_a_burst_is_reached_by_all(site: Site, tmp_path: Path) -> None:
    with Cluster(site, tmp_path, 1, extra_config="MaxStartups 2:100:3") as cluster:
        there = Place(cluster, site, tmp_path)
        base = BASE.replace("ADDRESS2", "ADDRESS1").replace("ADDRESS3", "ADDRESS1")
        config = there.write("Host far*\n  HostName ADDRESS1\n", "burst", base)

        async def twenty() -> None:
            transport = SshTransport(SshSettings(str(config)))
            try:
                await asyncio.gather(*(run_on(transport, f"far{k}") for k in range(20)))
            finally:
                await transport.close()

        asyncio.run(twenty())
        log = cluster.log(1)
        assert "MaxStartups" in log  # it did drop some
        assert log.count("Connection from") <= 20 * 6


@pytest.mark.parametrize(
    ("says", "tries"), [(b"", 6), (b"Not allowed at this time\r\n", 6), (b"SSH-2.0-Grumpy_1.0\r\n", 2)]
)
def test_a_server_that_hangs_up_is_tried_a_few_times_and_quoted(
    says: bytes, tries: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clstr.transport.ssh_dial.random.uniform", lambda low, high: 0.05)
    seen = []

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(1)
        writer.write(says)
        await writer.drain()
        writer.close()

    async def dial() -> str:
        server = await asyncio.start_server(hang_up, "127.0.1.1", 0)
        config = tmp_path / "ssh_config"
        config.write_text("Host *\n  IdentityFile none\n  UserKnownHostsFile none\n  GlobalKnownHostsFile none\n")
        transport = SshTransport(SshSettings(str(config), host_key="off"))
        try:
            with pytest.raises(CannotConnect) as caught:
                await transport.connect(Node("n", "127.0.1.1", None, server.sockets[0].getsockname()[1]))
        finally:
            await transport.close()
            server.close()
        return str(caught.value)

    why = asyncio.run(dial())
    assert len(seen) == tries
    if says.startswith(b"Not"):
        assert "Not allowed at this time" in why


# --- time --------------------------------------------------------------------------------------------------


def test_names_that_are_never_resolved_hold_up_nobody_else(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket
    import threading

    released = threading.Event()
    real = socket.getaddrinfo

    def slow(host: str, *rest: object, **more: object) -> object:
        if str(host).endswith(".slow") and not more.get("flags"):
            released.wait()
        return real(host, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", slow)

    async def many() -> None:
        transport = SshTransport(SshSettings(str(place.write("")), connect_timeout=2.0))
        try:
            stuck = [asyncio.ensure_future(transport.connect(Node(f"x{k}", f"x{k}.slow"))) for k in range(50)]
            await asyncio.sleep(0)
            assert await run_on(transport, "n1")
            for error in await asyncio.gather(*stuck, return_exceptions=True):
                assert "no answer within 2 s" in str(error)
        finally:
            await transport.close()

    try:
        asyncio.run(many())
    finally:
        released.set()


def test_a_dead_address_beside_a_live_one_is_passed_over(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    from clstr.transport import ssh_way

    tried = []
    real = ssh_way._connect_one

    async def one(address: tuple[object, ...], bind: str | None) -> object:
        tried.append(address[4])
        if address[4] == "dead":
            await asyncio.Event().wait()
        return await real(address, bind)

    live = socket.getaddrinfo("127.0.1.1", place.cluster.port, type=socket.SOCK_STREAM)
    dead = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", "dead")

    async def both(*_: object) -> list[object]:
        return [dead, *live]

    monkeypatch.setattr(ssh_way, "_connect_one", one)
    monkeypatch.setattr("clstr.transport.ssh_dial.look_up", both)
    assert by_clstr(place.write(""), connect_timeout=5.0)
    assert tried[0] == "dead"


def test_a_match_exec_that_hangs_costs_the_connect_timeout(place: Place) -> None:
    config = place.write('Match host n1 exec "sleep 1000"\n')
    assert "no answer within 1 s" in refusal(config, connect_timeout=1.0)


# --- bad input ---------------------------------------------------------------------------------------------


def clstr(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clstr", *arguments, "-j", "true"]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("Prot 22\n", "ssh_config:1: Bad configuration option: prot"),
        ("Host n2\n  Port many\n", "ssh_config:2: Bad port 'many'"),
        ("UserKnownHostsFile DIR/broken\n", "broken:2: "),
        ("UserKnownHostsFile DIR/conf.d\n", "conf.d: Is a directory"),
        ("RevokedHostKeys DIR/no_such_file\n", "no_such_file: No such file"),
    ],
)
def test_what_keeps_all_nodes_away_ends_the_run_before_it_begins(row: str, says: str, place: Place) -> None:
    config = place.write(row)
    (config.parent / "broken").write_text("# fine\nwhat-is-this\n")
    before = place.log(1)
    done = clstr("-F", str(config), "-n", "n1", "n2")
    assert done.returncode == 2
    assert done.stderr.startswith("clstr: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert place.log(1) == before


def test_a_fault_of_one_node_is_its_own(place: Place) -> None:
    config = place.write("Host n1\n  RevokedHostKeys DIR/no_such_file\n")
    done = clstr("-F", str(config), "-n", "n1", "n2")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["missing", "no key", "a directory"])
def test_a_key_of_the_command_line_that_is_none_is_named(kind: str, place: Place, tmp_path: Path) -> None:
    key = tmp_path / "key"
    if kind == "no key":
        key.write_text("nothing\n")
    elif kind == "a directory":
        key.mkdir()
    done = clstr("-F", str(place.write("")), "-n", "n1", "-i", str(key))
    assert done.returncode == 2
    assert done.stderr.startswith(f"clstr: -i {key}: ")
    assert done.stderr.count("\n") == 1
