"""SSH configuration: what we take a host's to be is what ``ssh`` takes it to be, and few calls tell."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from clstr.model import BadInput, Node
from clstr.transport import CannotConnect, ssh_config
from clstr.transport.ssh_config import ConfigError, HostConfig, Resolver, parse_jumps, seconds
from clstr.transport.ssh_scope import plain_name, read_scope

SSH = shutil.which("ssh")
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to see processes in")
needs_ssh = pytest.mark.skipif(SSH is None, reason="no ssh program on this machine")

HOSTS = ("n1", "n2", "N2", "n10", "web.example", "db", "bastion", "10.0.0.7", "127.1", "::1", "0:0::1", "host_x")


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], str]:
    """Writes an ssh_config whose ``DIR`` stands for a directory of its own, and gives its path."""

    def write(text: str) -> str:
        path = tmp_path / "ssh_config"
        path.write_text(text.replace("DIR", str(tmp_path)))
        return str(path)

    return write


def resolve_all(resolver: Resolver, hosts: Iterable[str]) -> dict[str, HostConfig | str]:
    """What each host gets, asked for all at once; a refusal is its text."""

    async def one(host: str) -> HostConfig | str:
        try:
            return await resolver.resolve(host)
        except CannotConnect as refusal:
            return str(refusal)

    async def everything() -> dict[str, HostConfig | str]:
        names = list(hosts)
        return dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))

    return asyncio.run(everything())


def resolve(resolver: Resolver, host: str = "n1") -> HostConfig:
    return asyncio.run(resolver.resolve(host))


def alone(path: str, host: str) -> HostConfig | str:
    """The host's answer from a resolver that has never heard of another host: a call of its own."""
    return resolve_all(Resolver(path), [host])[host]


def touch(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).touch()


# --- shared answers ----------------------------------------------------------------------------------------

CORPUS = {
    "nothing": "",
    "comments and blank lines": "# a\n\n   # b\nHost n1 # n2\n  Port 7 # eight\n",
    "wildcards": "Host n?\n Port 1\nHost n*\n Port 2\n User x\nHost *.example\n User w\n",
    "a bracket is no wildcard": "Host n[12]\n Port 9\n",
    "negation": "Host n* !n10\n Port 5\nHost !n1 *\n User u\nHost !db\n Port 6\n",
    "case counts": "Host n2\n Port 3\nHost N2\n Port 4\n",
    "several patterns": "Host n1 db web.*\n Port 8\n",
    "no pattern list": "Host n1,n2\n Port 8\n",
    "equals signs": "Host=n1\nPort=4\nHost = n2\n  Port = 6\n",
    "quotes": 'Host "n1" "d b" db\n User "a b"\n IdentityFile "DIR/a key"\n',
    "odd quotes": "Host 'n1' d\\\\b\n Port 4\n",
    "capitals in keywords": "HOST n1\nPORT 5\nhost n2\npOrT 6\n",
    "first match wins": "Host n1\n Port 1\nHost *\n Port 2\nHost n2\n Port 3\n",
    "a global part": "Port 77\nHost n1\n Port 78\n User x\n",
    "HostName": "Host n*\n HostName db.example\nHost db\n HostName 10.1.2.3\n",
    "a HostName that is a host's name": "Host *\n HostName n1\n",
    "a HostName that is a host's address": "Host n*\n HostName 127.1\nHost 127.0.0.1\n Port 5\n",
    "%h in HostName": "Host n*\n HostName %h.cluster\nHost db\n HostName %%h\n",
    "tokens everywhere": "Host *\n IdentityFile DIR/id_%h_%n_%r_%p\n IdentityFile DIR/id_%k_%u_%i_%L\n"
    " CertificateFile DIR/c_%h\n"
    " ProxyCommand nc %h %p %r %n %k %% ${HOME}\n UserKnownHostsFile DIR/kh_%h DIR/kh_%k\n HostKeyAlias Alias\n"
    " IdentityAgent DIR/agent_%h\n ControlPath DIR/cm-%C\n RevokedHostKeys DIR/r_%h\n",
    "tokens of this machine": "Host *\n UserKnownHostsFile %d/x_%u_%i DIR/kh\n IdentityAgent %d/%L\n",
    "Match all": "Match all\n Port 3\n",
    "Match host": "Match host n1,db\n Port 3\nMatch originalhost n2\n User m\n",
    "Match exec": 'Match exec "test %h = n1"\n Port 3\n',
    "Match user": "Host n1\n User u\nMatch user u\n Port 3\n",
    "Match final": "Host db\n HostName n1\nMatch final all\n User f\nHost n1\n Port 5\nHost n2\n Port 6\n",
    "Match final and tokens": "Host n?\n HostName gate\nMatch final all\n User f\n"
    "Host gate\n UserKnownHostsFile DIR/kh_%n\n",
    "canonicalization": "CanonicalizeHostname yes\nCanonicalDomains invalid\nHost *.invalid\n Port 9\n",
    "canonicalization off": "CanonicalizeHostname no\nHost n1\n Port 9\n",
    "Include": "Include DIR/conf.d/*.conf\nHost n1\n Port 9\n",
    "Include in a Host block": "Host n*\n Include DIR/conf.d/*.conf\nHost *\n User last\n",
    "Include quoted, and of nothing": 'Include "DIR/conf.d/10.conf" DIR/nothing/*\nPort 5\n',
    "ProxyJump": "Host n*\n ProxyJump u@bastion:33,ssh://v@b2:44,[::1]:5\nHost db\n ProxyJump none\n",
    "everything over a bastion": "Host *\n ProxyJump bastion\n",
    "ProxyJump with a token": "Host n*\n ProxyJump %h-gate\n",
    "ProxyCommand before ProxyJump": "Host *\n ProxyCommand nc %h %p\nHost *\n ProxyJump b\n",
    "ProxyJump before ProxyCommand": "Host *\n ProxyJump b\nHost *\n ProxyCommand nc %h %p\n",
    "none": "Host n1\n ProxyCommand none\n IdentityFile none\n UserKnownHostsFile none\n GlobalKnownHostsFile none\n"
    " IdentityAgent none\n CertificateFile none\n ConnectTimeout none\nHost *\n ProxyJump b\n IdentityFile DIR/a\n",
    "keys": "Host n1\n IdentityFile DIR/a\n IdentityFile DIR/missing\nHost *\n IdentityFile DIR/b\n"
    " IdentitiesOnly yes\n CertificateFile DIR/b-cert.pub\n CertificateFile DIR/gone-cert.pub\n",
    "known hosts": 'Host *\n UserKnownHostsFile DIR/missing DIR/kh "DIR/a key"\n GlobalKnownHostsFile /nowhere DIR/b\n'
    " HashKnownHosts yes\n StrictHostKeyChecking accept-new\nHost n1\n StrictHostKeyChecking no\n",
    "times": "Host n1\n ConnectTimeout 1m30s\n ServerAliveInterval 1h\n ServerAliveCountMax 7\nHost n2\n"
    " ServerAliveInterval 0\n ConnectionAttempts 4\n TCPKeepAlive no\n",
    "environment": 'Host n1\n SetEnv A=b "C=d e"\nHost *\n SendEnv LANG LC_*\n SendEnv X\n SetEnv Z=z\n',
    "algorithms": "Host n1\n Ciphers aes128-ctr,aes256-ctr\n MACs -hmac-sha1*\n HostKeyAlgorithms ^ssh-ed25519\n"
    "Host n2\n KexAlgorithms curve25519-sha256\n PubkeyAcceptedAlgorithms ssh-ed25519\n",
    "the rest": "Host n1\n AddressFamily inet6\n BindAddress 127.0.0.1\n RekeyLimit 1G 1h\n Compression yes\n"
    "Host n2\n GSSAPIAuthentication yes\n PubkeyAuthentication no\n PreferredAuthentications publickey,password\n",
    "a bastion behind itself": "Host n1\n ProxyJump n1\n",
}


@pytest.fixture
def surroundings(tmp_path: Path) -> Path:
    """The files that the corpus names, some of them missing on purpose."""
    touch(tmp_path, "a", "b", "a key", "kh", "b-cert.pub", "kh_alias")
    for host in HOSTS:
        low = plain_name(host) or host.lower()
        touch(tmp_path, f"id_{low}_{host}_{ssh_config.local_user()}_22", f"c_{low}", f"kh_{low}", f"kh_{host}")
    touch(tmp_path, "conf.d/10.conf", "conf.d/9.conf", "conf.d/.hidden.conf", "conf.d/other")
    (tmp_path / "conf.d/10.conf").write_text("Port 10\nHost n2 db\n Port 11\n User ten\n")
    (tmp_path / "conf.d/9.conf").write_text("User nine\nHost n1\n User n\nHost *\n Port 12\n")
    (tmp_path / "conf.d/.hidden.conf").write_text("Port 666\n")
    return tmp_path


@needs_ssh
@pytest.mark.parametrize("text", CORPUS.values(), ids=CORPUS.keys())
def test_a_shared_answer_is_what_a_call_of_its_own_gives(
    text: str, config: Callable[[str], str], surroundings: Path
) -> None:
    path = config(text)
    own = {host: alone(path, host) for host in HOSTS}
    assert resolve_all(Resolver(path), HOSTS) == own
    assert resolve_all(Resolver(path), HOSTS[::-1]) == own


@needs_ssh
@pytest.mark.parametrize("seed", range(25))
def test_random_configurations_are_shared_without_a_mistake(seed: int, config: Callable[[str], str]) -> None:
    rng = random.Random(seed)
    patterns = ["*", "n*", "n?", "n1", "n2", "N*", "!n1", "!n?", "db", "d*b", "*1", "10.*", "!*.example", "x"]
    lines = [
        rng.choice(
            [
                lambda: "Host " + " ".join(rng.sample(patterns, rng.randint(1, 3))),
                lambda: f"  Port {rng.randint(1, 9)}",
                lambda: f"  User {rng.choice('abc')}",
                lambda: f"  HostName {rng.choice(['n1', 'db', 'x.org', '%h.org', '10.0.0.7'])}",
                lambda: f"  ServerAliveInterval {rng.randint(0, 2)}",
                lambda: f"  ProxyJump {rng.choice(['db', 'gate', 'none'])}",
                lambda: "Match final all" if rng.random() < 0.3 else "# nothing",
            ]
        )()
        for _ in range(rng.randint(3, 14))
    ]
    path = config("\n".join(lines) + "\n")
    hosts = rng.sample(HOSTS, 6)
    shared = resolve_all(Resolver(path), hosts)
    assert shared == {host: alone(path, host) for host in hosts}, "\n".join(lines)


# --- how many calls ----------------------------------------------------------------------------------------


def calls(path: str, hosts: Sequence[str]) -> int:
    resolver = Resolver(path)
    resolve_all(resolver, hosts)
    return resolver.calls


@needs_ssh
def test_a_thousand_hosts_under_one_pattern_cost_one_call(config: Callable[[str], str]) -> None:
    path = config("Host *\n User u\n Port 2200\n IdentityFile ~/.ssh/%h\n ControlPath ~/.ssh/%r@%h:%p\n")
    resolver = Resolver(path)
    answers = resolve_all(resolver, [f"node{i}" for i in range(1000)])
    assert resolver.calls == 1
    assert [answer.hostname for answer in answers.values() if isinstance(answer, HostConfig)] == list(answers)


@needs_ssh
@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 1),
        ("Host a*\n Port 1\n", 2),
        ("Host a*\n Port 1\nHost b*\n Port 2\nHost *\n User u\n", 2),
        ("Host a1\n HostName 10.0.0.1\n", 2),
        ("Host a1 a2\n Port 5\n", 3),
        ("Match final all\n Port 2\n", 1),
        ("Match host a*\n Port 2\n", 20),
        ("Match exec true\n Port 2\n", 20),
        ("Host a*\n HostName %h.x\n", 11),
        ("Host *\n HostName %h.x\n", 20),
        ("Host zzz\n HostName %h.x\n", 1),
        ("Host *\n UserKnownHostsFile /nowhere/%h\n", 20),
        ("Host *\n UserKnownHostsFile %d/%u\n", 1),
        ("CanonicalizeHostname no\n", 1),
        ("Host a*\n CanonicalizeHostname yes\n CanonicalizeMaxDots 0\n", 11),
        ("Host *\n ProxyJump a1\n", 2),
        ("Host *\n Ciphers aes128-ctr\n", 2),
        ("Host zzz\n Ciphers aes128-ctr\n", 1),
    ],
)
def test_hosts_that_may_differ_and_no_others_get_a_call_of_their_own(
    text: str, count: int, config: Callable[[str], str]
) -> None:
    hosts = [f"{letter}{i}" for letter in "ab" for i in range(10)]
    assert calls(config(text), hosts) == count


@needs_ssh
def test_what_is_included_for_one_host_sets_no_other_apart(config: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "more").write_text("HostName %h.x\nHost *\n Ciphers aes128-ctr\n")
    assert calls(config("Host zzz\n Include DIR/more\n"), ["a", "b", "c"]) == 1


@needs_ssh
def test_users_and_ports_of_nodes_are_not_mixed_up(config: Callable[[str], str]) -> None:
    resolver = Resolver(config("Host *\n User conf\n Port 7\n"), user="flag")

    async def ask() -> list[HostConfig]:
        asked = [("n1", None, None), ("n2", "node", None), ("n3", None, 9), ("n4", "node", None), ("n5", None, None)]
        return [await resolver.resolve(*question) for question in asked]

    answers = asyncio.run(ask())
    assert [(a.hostname, a.user, a.port) for a in answers] == [
        ("n1", "flag", 7),
        ("n2", "node", 7),
        ("n3", "flag", 9),
        ("n4", "node", 7),
        ("n5", "flag", 7),
    ]
    assert resolver.calls == 3


@needs_ssh
def test_a_bastion_gets_neither_user_nor_identity_of_the_command_line(
    config: Callable[[str], str], tmp_path: Path
) -> None:
    touch(tmp_path, "flag", "conf")
    resolver = Resolver(config("Host *\n User conf\n IdentityFile DIR/conf\n"), "flag", [str(tmp_path / "flag")])

    async def ask() -> tuple[HostConfig, HostConfig]:
        return await resolver.resolve("n1"), await resolver.resolve("n1", bastion=True)

    node, bastion = asyncio.run(ask())
    assert (node.user, bastion.user) == ("flag", "conf")
    assert [Path(path).name for path in node.identity_files] == ["flag", "conf"]
    assert [Path(path).name for path in bastion.identity_files] == ["conf"]


@needs_ssh
def test_when_ssh_reads_a_file_that_was_not_foreseen_nothing_is_shared(
    config: Callable[[str], str], tmp_path: Path
) -> None:
    unforeseen = config("Host n2\n Port 5\n")
    wrapper = script(tmp_path, f'exec {SSH} -F {unforeseen} "$@"')
    resolver = Resolver(ssh=wrapper)
    ports = {host: resolve(resolver, host).port for host in ("n1", "n2", "n3")}
    assert ports == {"n1": 22, "n2": 5, "n3": 22}


def test_a_pattern_of_a_pipe_is_not_read_away_from_ssh(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert not read_scope([(str(tmp_path / "pipe"), "/")]).complete


def test_includes_may_not_go_round_for_ever(config: Callable[[str], str]) -> None:
    assert not read_scope([(config("Include DIR/ssh_config\n"), "/")]).complete


# --- what ssh would do -------------------------------------------------------------------------------------


def does(path: str, host: str) -> str:
    """What ``ssh -v`` says while it gets as far as its proxy command."""
    command = ["ssh", "-v", "-F", path, "-o", "BatchMode=yes", "--", host, "true"]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False).stderr


@needs_ssh
def test_tokens_mean_what_they_mean_to_ssh_when_it_connects(
    config: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = config(
        "Host *\n User me\n Port 2200\n HostName %h.example\n HostKeyAlias AKA\n"
        " IdentityFile DIR/i/%C_%d_%h_%i_%k_%L_%l_%n_%p_%r_%u_%%\n IdentityFile DIR/i/${USERVAR}\n"
        " CertificateFile DIR/c/%h\n ProxyCommand false %h %p %r %n %k %%\n"
    )
    monkeypatch.setenv("USERVAR", "v")
    said = does(path, "Box")
    named = [line.split("file ")[1].rpartition(" type")[0] for line in said.splitlines() if " file /" in line]
    touch(tmp_path, *(os.path.relpath(name, tmp_path) for name in named))
    found = resolve(Resolver(path), "Box")
    assert len(named) == 3
    assert [*found.identity_files, *found.certificate_files] == named
    assert f"Executing proxy command: exec {found.proxy_command}\n" in said


@needs_ssh
def test_the_flags_of_the_command_line_come_first(config: Callable[[str], str], tmp_path: Path) -> None:
    touch(tmp_path, "a", "b")
    path = config("Host *\n StrictHostKeyChecking no\n IdentityFile DIR/b\n User c\n")
    assert resolve(Resolver(path)).strict_host_key_checking == "no"
    assert resolve(Resolver(path, host_key="strict")).strict_host_key_checking == "yes"
    assert resolve(Resolver(path, host_key="accept-new")).strict_host_key_checking == "accept-new"
    assert resolve(Resolver(path, host_key="off")).strict_host_key_checking == "no"
    found = resolve(Resolver(path, "l", [str(tmp_path / "a")]))
    assert found.user == "l"
    assert found.identity_files == (str(tmp_path / "a"), str(tmp_path / "b"))


@needs_ssh
def test_values_are_translated(config: Callable[[str], str], surroundings: Path) -> None:
    here = str(surroundings)
    path = config(
        'Host *\n IdentityFile DIR/a\n IdentityFile DIR/missing\n IdentityFile "DIR/a key"\n IdentitiesOnly yes\n'
        ' UserKnownHostsFile DIR/new "DIR/a key" DIR/kh\n GlobalKnownHostsFile none\n StrictHostKeyChecking ask\n'
        " ConnectTimeout 1m\n ServerAliveInterval 2m\n ServerAliveCountMax 5\n ConnectionAttempts 3\n"
        ' SendEnv LC_* X\n SetEnv A=b "C=d e=f"\n Ciphers aes128-ctr,aes256-ctr\n RekeyLimit 1M 1h\n'
        " AddressFamily inet\n BindAddress 127.0.0.9\n Compression yes\n HostKeyAlias Alias\n TCPKeepAlive no\n"
        " PreferredAuthentications publickey,keyboard-interactive\n PubkeyAuthentication no\n"
        " HashKnownHosts yes\n RevokedHostKeys DIR/revoked\n IdentityAgent DIR/agent\n"
        " ProxyJump u@gate:33,[fe80::1]:44\n"
    )
    assert dataclasses.asdict(resolve(Resolver(path), "N1")) == {
        "hostname": "n1",
        "port": 22,
        "user": ssh_config.local_user(),
        "identity_files": (f"{here}/a", f"{here}/a key"),
        "identities_only": True,
        "certificate_files": (),
        "identity_agent": f"{here}/agent",
        "proxy_jump": (
            {"text": "u@gate:33", "host": "gate", "user": "u", "port": 33, "classes": ()},
            {"text": "[fe80::1]:44", "host": "fe80::1", "user": None, "port": 44, "classes": ()},
        ),
        "proxy_command": None,
        "user_known_hosts": (f"{here}/a key", f"{here}/kh"),
        "global_known_hosts": (),
        "record_known_host": f"{here}/new",
        "hash_known_hosts": True,
        "revoked_host_keys": f"{here}/revoked",
        "host_key_alias": "alias",
        "strict_host_key_checking": "yes",
        "connect_timeout": 60.0,
        "connection_attempts": 3,
        "server_alive_interval": 120.0,
        "server_alive_count_max": 5,
        "tcp_keepalive": False,
        "send_env": ("LC_*", "X"),
        "set_env": (("A", "b"), ("C", "d e=f")),
        "ciphers": ("aes128-ctr", "aes256-ctr"),
        "macs": None,
        "kex_algorithms": None,
        "host_key_algorithms": None,
        "pubkey_accepted_algorithms": None,
        "address_family": "inet",
        "bind_address": "127.0.0.9",
        "rekey_limit": (2**20, 3600),
        "compression": True,
        "gssapi_authentication": False,
        "pubkey_authentication": False,
        "preferred_authentications": ("publickey", "keyboard-interactive"),
    }


@needs_ssh
def test_algorithms_are_none_unless_the_user_chose_them(config: Callable[[str], str]) -> None:
    text = "Host *\n MACs -hmac-sha1\n Ciphers +aes128-ctr\nHost x\n KexAlgorithms curve25519-sha256\n"
    found = resolve(Resolver(config(text)))
    assert found.macs is not None
    assert "hmac-sha1" not in found.macs
    assert found.ciphers is None  # it was in the default already
    assert found.kex_algorithms is None


@needs_ssh
def test_a_keepalive_that_is_unset_differs_from_one_that_is_off(config: Callable[[str], str]) -> None:
    resolver = Resolver(config("Host off\n ServerAliveInterval 0\nHost on\n ServerAliveInterval 9\n"))
    found = {host: resolve(resolver, host).server_alive_interval for host in ("off", "on", "other")}
    assert found == {"off": 0, "on": 9, "other": None}


@needs_ssh
@pytest.mark.parametrize(
    ("value", "expected"),
    [("none", None), ("SSH_AUTH_SOCK", "/the/default"), ("$ELSEWHERE", "/else"), ("$UNSET", None), ("~/s", "HOME/s")],
)
def test_the_agent_is_the_one_that_ssh_would_ask(
    value: str, expected: str | None, config: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/the/default")
    monkeypatch.setenv("ELSEWHERE", "/else")
    monkeypatch.delenv("UNSET", raising=False)
    found = resolve(Resolver(config(f"Host *\n IdentityAgent {value}\n")))
    assert found.identity_agent == (expected and expected.replace("HOME", ssh_config.home()))
    assert resolve(Resolver("none")).identity_agent == "/the/default"


@needs_ssh
def test_a_public_key_alone_still_names_an_agents_key(config: Callable[[str], str], tmp_path: Path) -> None:
    touch(tmp_path, "token.pub")
    found = resolve(Resolver(config("Host *\n IdentityFile DIR/token\n")))
    assert found.identity_files == (str(tmp_path / "token"),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gate", [("gate", "gate", None, None)]),
        ("u@gate:33,b", [("u@gate:33", "gate", "u", 33), ("b", "b", None, None)]),
        ("ssh://u@gate:33", [("u@gate:33", "gate", "u", 33)]),
        ("ssh://a%40b@gate/", [("a@b@gate", "gate", "a@b", None)]),
        ("[::1]:5", [("[::1]:5", "::1", None, 5)]),
        ("u@[fe80::1%eth0]", [("u@[fe80::1%eth0]", "fe80::1%eth0", "u", None)]),
        ("fe80::1", [("[fe80::1]", "fe80::1", None, None)]),
        ("[127.1]", [("127.1", "127.1", None, None)]),
        ("a@b@c", [("a@b@c", "c", "a@b", None)]),
    ],
)
def test_bastions_are_read_in_every_spelling(text: str, expected: list[tuple[object, ...]]) -> None:
    assert [(n.text, n.host, n.user, n.port) for n in parse_jumps(text)] == expected


@pytest.mark.parametrize("text", ["", "u@", "gate:x", "[::1]x", "a,,b"])
def test_a_bastion_that_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not a host"):
        parse_jumps(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("90", 90), ("1m30s", 90), ("2H", 7200), ("1w", 604800), ("none", None)]
)
def test_times_are_read_as_sshd_config_has_them(text: str, expected: float | None) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "1y", "-1", "1.5", "m"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a time"):
        seconds(text)


# --- refusals ----------------------------------------------------------------------------------------------


@needs_ssh
@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("Host *\n Bogus x\n", 2, "Bad configuration option: bogus"),
        ("\n\nHost x\n Port y\n", 4, "Bad port 'y'"),
        ("Match nothing\n", 1, "Bad Match condition"),
        ("Host *\n ProxyJump ssh://v@[::1]:x\n", 2, "Invalid ProxyJump"),
    ],
)
def test_a_faulty_configuration_is_named_by_file_and_line(
    text: str, line: int, what: str, config: Callable[[str], str]
) -> None:
    path = config(text)
    with pytest.raises(ConfigError) as caught:
        resolve(Resolver(path))
    assert str(caught.value).startswith(f"{path}:{line}: {what}")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, BadInput)


@needs_ssh
def test_a_missing_configuration_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere: No such file"):
        resolve(Resolver(str(tmp_path / "nowhere")))


@needs_ssh
def test_what_is_wrong_with_one_host_is_no_fault_of_the_configuration(config: Callable[[str], str]) -> None:
    answers = resolve_all(Resolver(config("Host *\n ProxyJump bastion\n")), ["n1", "bastion"])
    assert answers["bastion"] == "jumphost loop via bastion"
    assert isinstance(answers["n1"], HostConfig)
    with pytest.raises(CannotConnect, match="invalid characters"):
        resolve(Resolver("none"), "-x")


def test_an_identity_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"-i .*nokey: no such file \("):
        Resolver(identities=[str(tmp_path / "nokey")])


@needs_ssh
def test_a_path_with_an_unset_variable_is_refused(config: Callable[[str], str]) -> None:
    with pytest.raises(ConfigError, match=r"\$NO_SUCH_THING is not set"):
        resolve(Resolver(config("Host *\n IdentityFile ${NO_SUCH_THING}/x\n")))


def test_an_ssh_that_cannot_be_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CannotConnect, match="gone: No such file"):
        resolve(Resolver("none", ssh=str(tmp_path / "gone")))


def test_a_passing_want_of_processes_is_not_held_against_later_hosts(tmp_path: Path) -> None:
    resolver = Resolver("none", ssh=str(tmp_path / "fake-ssh"))
    with pytest.raises(CannotConnect):
        resolve(resolver)
    script(tmp_path, "echo hostname n1; echo user u")
    assert resolve(resolver).user == "u"


def test_a_refused_connection_concerns_its_host_only(tmp_path: Path) -> None:
    ssh = script(tmp_path, "echo 'c line 3: RefuseConnection: maintenance' >&2; exit 255")
    with pytest.raises(CannotConnect, match="maintenance"):
        resolve(Resolver("none", ssh=ssh))


# --- calls that hang ---------------------------------------------------------------------------------------


def script(directory: Path, body: str) -> str:
    """A stand-in for ssh."""
    path = directory / "fake-ssh"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not fact():
        assert time.monotonic() < deadline, "it never came about"
        await asyncio.sleep(0.01)


@needs_proc
def test_a_cancelled_call_leaves_no_process(config: Callable[[str], str], tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    ssh = script(tmp_path, f"sleep 600 & echo $! $$ > {pids}.new; mv {pids}.new {pids}; wait")

    async def scenario() -> None:
        asking = asyncio.ensure_future(Resolver(config("Match exec x\n"), ssh=ssh).resolve("n1"))
        await until(pids.exists)
        running = [int(pid) for pid in pids.read_text().split()]
        assert all(map(alive, running))
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await until(lambda: not any(map(alive, running)))

    asyncio.run(scenario())


@needs_proc
def test_close_ends_a_shared_call(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    ssh = script(tmp_path, f"echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; exec sleep 600")

    async def scenario() -> None:
        resolver = Resolver("none", ssh=ssh)
        asking = asyncio.ensure_future(resolver.resolve("n1"))
        await until(pid_file.exists)
        resolver.close()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await until(lambda: not alive(int(pid_file.read_text())))

    asyncio.run(scenario())


def test_one_who_gives_up_does_not_end_the_call_of_the_others(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    ssh = script(tmp_path, f"while [ ! -e {gate} ]; do sleep 0.01; done; echo hostname n1; echo user u")

    async def scenario() -> HostConfig:
        resolver = Resolver("none", ssh=ssh)
        first, second = (asyncio.ensure_future(resolver.resolve(host)) for host in ("n1", "n2"))
        await until(lambda: resolver.calls == 1)
        first.cancel()
        gate.touch()
        found = await second
        assert resolver.calls == 1
        return found

    assert asyncio.run(scenario()).hostname == "n2"


def test_hosts_whose_calls_hang_do_not_hold_up_the_others(
    config: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_config, "WAITING_AFTER", 0.01)
    body = 'for host; do :; done; case $host in hang*) exec sleep 600 ;; esac; echo hostname $host; echo user u'
    ssh = script(tmp_path, body)

    async def scenario() -> HostConfig:
        resolver = Resolver(config("Match exec x\n"), ssh=ssh)
        hanging = [asyncio.ensure_future(resolver.resolve(f"hang{i}")) for i in range(ssh_config.CALLS_AT_ONCE + 2)]
        await until(lambda: resolver.calls >= ssh_config.CALLS_AT_ONCE)
        found = await resolver.resolve("n1")
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
        return found

    assert asyncio.run(scenario()).hostname == "n1"


# --- without ssh -------------------------------------------------------------------------------------------

ONLY_SSH = {
    # Beyond asyncssh's parser, which says so or knows no better.
    "comments and blank lines", "no pattern list", "a HostName that is a host's address", "Match exec",
    "Match final", "Match final and tokens", "algorithms", "a bastion behind itself",
}  # fmt: skip


@pytest.fixture
def no_ssh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")


@needs_ssh
@pytest.mark.parametrize("name", [name for name in CORPUS if name not in ONLY_SSH])
def test_asyncssh_alone_gives_what_ssh_gives(
    name: str, config: Callable[[str], str], surroundings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = config(CORPUS[name])
    hosts = ["n1", "n2", "db", "web.example"]
    told = resolve_all(Resolver(path), hosts)
    monkeypatch.setenv("PATH", "/nonexistent")
    resolver = Resolver(path)
    assert resolve_all(resolver, hosts) == told
    assert resolver.calls == 0


@pytest.mark.usefixtures("no_ssh")
def test_without_ssh_the_first_of_proxy_command_and_jump_wins(config: Callable[[str], str]) -> None:
    found = resolve(Resolver(config("Host *\n ProxyCommand nc %h %p\n ProxyJump b\n")))
    assert (found.proxy_command, found.proxy_jump) == ("nc n1 22", ())
    found = resolve(Resolver(config("Host *\n ProxyJump b\n ProxyCommand nc %h %p\n")))
    assert (found.proxy_command, found.proxy_jump) == (None, (Node("b", "b"),))


@pytest.mark.usefixtures("no_ssh")
@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("Host *\n Port x\n", "ssh_config:2: Invalid Port integer value: x"),
        ("Host *\n ConnectTimeout soon\n", "not a time: 'soon'"),
        ("Host *\n StrictHostKeyChecking perhaps\n", "bad StrictHostKeyChecking"),
        ("Host *\n RekeyLimit lots\n", "not a size: 'lots'"),
    ],
)
def test_without_ssh_a_faulty_configuration_is_named_too(text: str, what: str, config: Callable[[str], str]) -> None:
    with pytest.raises(ConfigError, match=what):
        resolve(Resolver(config(text)))


@pytest.mark.usefixtures("no_ssh")
def test_without_ssh_a_missing_configuration_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere: no such file"):
        resolve(Resolver(str(tmp_path / "nowhere")))
