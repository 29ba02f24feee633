"""Opening one SSH connection: name, TCP or bastion or ProxyCommand, key exchange, authentication.

One deadline covers all of it, ssh_config included. Connections that the server drops before authentication
(MaxStartups, a full backlog, PerSourcePenalties) are tried again within the deadline, after a growing pause
with jitter and one at a time a server; what trying again cannot mend is not tried again.

A bastion has one connection, shared by all the nodes behind it and opened again when it has died. It is dialed
once for all who wait for it, for its own time; a failure is theirs all, and holds for a while, lest a thousand
nodes knock a thousand times.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import random
import re
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import asyncssh
from asyncssh.encryption import get_encryption_algs
from asyncssh.kex import get_kex_algs
from asyncssh.mac import get_mac_algs
from asyncssh.public_key import get_certificate_algs, get_public_key_algs

from clstr.model import BadInput, Node
from clstr.transport import CONNECT_TIMEOUT, CannotConnect
from clstr.transport.patience import within
from clstr.transport.ssh_config import HostConfig, Resolver
from clstr.transport.ssh_keys import KeyRing, Offer
from clstr.transport.ssh_trust import KnownHosts, Trust
from clstr.transport.ssh_way import (
    Line,
    NotReached,
    ProxyCommand,
    Straight,
    connect_socket,
    look_up,
    system_error,
)
from clstr.transport.words import last_line

KEEPALIVE = 15.0
"""Seconds between keepalives where ssh_config sets no ServerAliveInterval; three may go unanswered."""

CIPHERS = "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes*-ctr"
"""AES-GCM first: a third less CPU for each packet than ChaCha20 costs asyncssh."""

WINDOW = 128 * 1024
"""Bytes that a node may send on a session before clstr has read them."""

ATTEMPTS_AFTER_DROP = 6
"""How often a dial is begun at most whose server closes the connection before it gives its version."""

ATTEMPTS_AFTER_VERSION = 2
"""The same for a server that has given its version: full servers do not come that far."""

ATTEMPT_PAUSE = 1.0
"""Seconds between the attempts of ConnectionAttempts (ssh_config(5))."""

PER_BASTION = 16
"""Handshakes under way at once through one bastion."""

BASTION_REST = 10.0
"""Seconds for which a bastion that could not be opened is not tried again."""

FAMILIES = {"any": socket.AF_UNSPEC, "inet": socket.AF_INET, "inet6": socket.AF_INET6}

# What ssh says, as a ProxyCommand, when the bastion has dropped it before authentication.
_PROXY_DROPPED = re.compile(r"kex_exchange_identification|banner exchange|Connection (closed|reset) by")


class Dropped(Exception):
    """The server closed the connection before authentication; it may be worth trying again."""

    def __init__(self, why: str, attempts: int = ATTEMPTS_AFTER_DROP) -> None:
        super().__init__(why)
        self.attempts = attempts


class Client(asyncssh.SSHClient):
    """Hears of one connection: decides on its host key, and tells when it is lost."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self.on_lost: Callable[[str], None] | None = None
        self.release: Callable[[], object] | None = None
        self.refusal: CannotConnect | None = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Called by asyncssh for a key that is not on record."""
        self.refusal = self._trust.refusal(key)
        return self.refusal is None

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is over; a callback hears why."""
        if self.release is not None:
            self.release()
        if self.on_lost is not None:
            self.on_lost(error_in_words(exc) if exc is not None else "closed by the node")


Dialed = tuple[asyncssh.SSHClientConnection, Client]


@dataclass(slots=True)
class _Stage:
    """How far a dial has come, for the message when its time is up; ``where`` is what its host alone has."""

    name: str = "reading ssh_config"
    where: str = ""
    proxy: ProxyCommand | None = None
    bastion: _Bastion | None = None

    def __str__(self) -> str:
        if self.bastion is not None:
            return f"bastion {self.bastion.text}: {self.bastion.stage}"
        if self.proxy is not None and self.proxy.last_words:
            return f"{self.name}; ProxyCommand: {self.proxy.last_words}"
        return self.name + self.where

    @property
    def alike(self) -> str:
        """The same for all hosts that are as far."""
        return str(self).removesuffix(self.where)


@dataclass(slots=True)
class _Bastion:
    """A shared connection that others go through."""

    text: str
    turn: asyncio.Semaphore
    dial: asyncio.Task[asyncssh.SSHClientConnection] | None = None
    stage: _Stage = field(default_factory=_Stage)
    failed_at: float = 0.0

    def is_usable(self, now: float) -> bool:
        """Is its dial under way, its connection alive, or its failure still fresh?"""
        if self.dial is None:
            return False
        if not self.dial.done():
            return True
        if self.dial.cancelled() or self.dial.exception() is not None:
            return now < self.failed_at + BASTION_REST
        return not self.dial.result().is_closed()


@dataclass(slots=True)
class _Way:
    """How one dial reaches its host."""

    sock: Line | None = None
    proxy: ProxyCommand | None = None
    bastion: asyncssh.SSHClientConnection | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """For asyncssh."""
        return {"tunnel": self.bastion if self.sock is None else Straight(self.sock)}


class Dialer:
    """Opens connections; holds what they share: configuration, keys, known hosts, bastions."""

    def __init__(self, resolver: Resolver, connect_timeout: float | None) -> None:
        self._resolver = resolver
        self._connect_timeout = connect_timeout
        self._keys = KeyRing()
        self._known_hosts = KnownHosts()
        self._bastions: dict[tuple[str, ...], _Bastion] = {}
        self._retrying: dict[tuple[str, int], asyncio.Lock] = {}
        self._proxies: set[ProxyCommand] = set()

    def check_identities(self, paths: Sequence[str]) -> None:
        """Read the keys named on the command line. Raises BadInput."""
        for path in paths:
            self._keys.check(path)

    async def check(self, node: Node) -> None:
        """Read ssh_config and known hosts as a dial of the node would. Raises BadInput for what is at fault there."""
        with contextlib.suppress(CannotConnect):  # the node's own trouble, which its dial will tell
            self._trust(await self.resolve(node)).check()

    async def resolve(self, node: Node) -> HostConfig:
        """The host's configuration, in a dial's time. Raises CannotConnect, BadInput where ssh_config is at fault."""
        limit = self._connect_timeout or CONNECT_TIMEOUT
        try:
            async with within(limit):
                return await self._resolver.resolve(node.host, node.user, node.port)
        except TimeoutError:
            raise CannotConnect(f"no answer within {limit:g} s ({_Stage()}: ssh -G takes too long)") from None

    async def dial(self, config: HostConfig, since: float | None = None) -> Dialed:
        """Connect within the deadline, which counts from ``since`` (loop time). Raises CannotConnect, BadInput."""
        return await self._dial_in_time(config, _Stage(), (), since)

    async def _dial_in_time(
        self, config: HostConfig, stage: _Stage, behind: tuple[str, ...], since: float | None = None
    ) -> Dialed:
        limit = self._connect_timeout or config.connect_timeout or CONNECT_TIMEOUT
        now = asyncio.get_running_loop().time()
        spent = 0.0 if since is None else now - since
        try:
            async with within(max(limit - spent, 0.0)):
                return await self._dial_again(config, stage, behind)
        except TimeoutError:
            late = f"no answer within {limit:g} s"
            raise CannotConnect(f"{late} ({stage})", f"{late} ({stage.alike})") from None

    async def _dial_again(self, config: HostConfig, stage: _Stage, behind: tuple[str, ...]) -> Dialed:
        """Dial until the host takes the connection, as often as is decent."""
        drops, misses = 0, 0
        turn: contextlib.AbstractAsyncContextManager[object] = contextlib.nullcontext()
        while True:
            try:
                async with turn:
                    return await self._dial_once(config, stage, behind)
            except Dropped as drop:
                drops += 1
                if drops >= drop.attempts:
                    raise CannotConnect(f"{drop} ({drops} times)") from None
                stage.name, stage.where = f"waiting to try again: {drop}", ""
                turn = self._retrying.setdefault((config.hostname, config.port), asyncio.Lock())
                await asyncio.sleep(0.1 * 2**drops * random.uniform(0.5, 1.5))
            except NotReached:
                misses += 1
                if misses >= config.connection_attempts:
                    raise
                await asyncio.sleep(ATTEMPT_PAUSE)

    async def _dial_once(self, config: HostConfig, stage: _Stage, behind: tuple[str, ...]) -> Dialed:
        trust = self._trust(config)
        client = Client(trust)
        offer = await self._keys.offer(
            config.identity_files, config.certificate_files, config.identity_agent, config.identities_only
        )
        options = _options(config, offer, trust)
        async with self._way(config, stage, behind) as way:
            stage.name, stage.where = "key exchange and authentication", ""
            if way.proxy is not None:
                client.release = way.proxy.end
            try:
                connection = await asyncssh.connect(
                    config.hostname, config.port, client_factory=lambda: client, **way.arguments, **options
                )
            except (BadInput, CannotConnect):
                raise
            # asyncssh hands on whatever hostile bytes set off in it (OverflowError, IndexError).
            except Exception as error:
                raise await _reason(error, config, client, offer, way) from None
        return connection, client

    def _trust(self, config: HostConfig) -> Trust:
        direct = config.proxy_command is None and not config.proxy_jump
        return Trust(
            known_hosts=self._known_hosts,
            files=config.user_known_hosts + config.global_known_hosts,
            revoked_file=config.revoked_host_keys,
            record_in=config.record_known_host,
            hashed=config.hash_known_hosts,
            policy=config.strict_host_key_checking,
            name=config.host_key_alias or config.hostname,
            port=22 if config.host_key_alias else config.port,
            scan=(config.hostname, config.port) if direct else None,
        )

    @contextlib.asynccontextmanager
    async def _way(self, config: HostConfig, stage: _Stage, behind: tuple[str, ...]) -> AsyncIterator[_Way]:
        """The way to the host; cleared away if the block fails, else it is the connection's."""
        stage.bastion = stage.proxy = None
        if config.proxy_command is not None:
            proxy = stage.proxy = self._start_proxy(config.proxy_command)
            try:
                yield _Way(proxy.sock, proxy)
            except BaseException:
                proxy.sock.close()
                proxy.end()
                raise
        elif config.proxy_jump:
            bastion = self._bastion(config.proxy_jump, behind)
            stage.bastion = bastion
            connection = await self._opened(bastion)
            stage.name, stage.bastion = f"waiting for a turn at bastion {bastion.text}", None
            async with bastion.turn:
                yield _Way(bastion=connection)
        else:
            stage.name, stage.where = "looking up the name", f" {config.hostname}"
            addresses = await look_up(config.hostname, config.port, FAMILIES[config.address_family])
            stage.name, stage.where = "connecting", f" to {config.hostname} port {config.port}"
            sock = await connect_socket(addresses, config.bind_address)
            try:
                yield _Way(sock)
            except BaseException:
                sock.close()
                raise

    def _start_proxy(self, command: str) -> ProxyCommand:
        self._proxies = {proxy for proxy in self._proxies if not proxy.ended}
        proxy = ProxyCommand(command)
        self._proxies.add(proxy)
        return proxy

    def _bastion(self, jumps: tuple[Node, ...], behind: tuple[str, ...]) -> _Bastion:
        """The shared connection to the last of the jumps, through those before it; dialed if need be."""
        key = tuple(jump.text for jump in jumps)
        if key[-1] in behind:
            raise CannotConnect(f"jumphost loop via {key[-1]} (give the bastion itself 'ProxyJump none')")
        bastion = self._bastions.get(key)
        if bastion is None:
            bastion = self._bastions[key] = _Bastion(key[-1], asyncio.Semaphore(PER_BASTION))
        if not bastion.is_usable(asyncio.get_running_loop().time()):
            bastion.stage = _Stage()
            bastion.dial = asyncio.ensure_future(self._dial_bastion(bastion, jumps, (*behind, key[-1])))
            bastion.dial.add_done_callback(lambda dial: dial.cancelled() or dial.exception())
        return bastion

    async def _opened(self, bastion: _Bastion) -> asyncssh.SSHClientConnection:
        assert bastion.dial is not None
        try:
            # One who gives up must not end the dial of the others.
            return await asyncio.shield(bastion.dial)
        except (CannotConnect, BadInput) as error:
            unknown_key = error.unknown_key if isinstance(error, CannotConnect) else None
            raise CannotConnect(f"bastion {bastion.text}: {error}", unknown_key=unknown_key) from None

    async def _dial_bastion(
        self, bastion: _Bastion, jumps: tuple[Node, ...], behind: tuple[str, ...]
    ) -> asyncssh.SSHClientConnection:
        try:
            last = jumps[-1]
            config = await self._resolver.resolve(last.host, last.user, last.port, bastion=True)
            if len(jumps) > 1:
                config = replace(config, proxy_jump=jumps[:-1], proxy_command=None)
            connection, _ = await self._dial_in_time(config, bastion.stage, behind)
        except BaseException:
            bastion.failed_at = asyncio.get_running_loop().time()
            raise
        return connection

    async def close(self) -> None:
        """Drop the bastions, the agent and the ProxyCommands, whose processes are gone afterwards."""
        for bastion in self._bastions.values():
            if (dial := bastion.dial) is None:
                continue
            if not dial.done():
                dial.cancel()
            elif not dial.cancelled() and dial.exception() is None:
                dial.result().abort()
        self._keys.close()
        self._resolver.close()
        await asyncio.gather(*(proxy.end() for proxy in self._proxies), return_exceptions=True)


def _options(config: HostConfig, offer: Offer, trust: Trust) -> dict[str, Any]:
    options: dict[str, Any] = {
        "username": config.user,
        "config": None,
        "client_keys": offer.keys or None,
        "agent_path": None,
        "password_auth": False,
        "kbdint_auth": False,
        "gss_host": config.hostname if config.gssapi_authentication else None,
        "x509_trusted_certs": None,
        "host_based_auth": False,
        "public_key_auth": config.pubkey_authentication,
        "encryption_algs": CIPHERS,
        "compression_algs": "zlib@openssh.com,none" if config.compression else None,
        "keepalive_interval": KEEPALIVE if config.server_alive_interval is None else config.server_alive_interval,
        "keepalive_count_max": config.server_alive_count_max,
        "tcp_keepalive": config.tcp_keepalive,
        "utf8_decode_errors": "replace",
        "connect_timeout": None,
        "login_timeout": 0,
        "host_key_alias": config.host_key_alias,
        "known_hosts": _known(trust),
        "server_host_key_algs": trust.algorithms(config.host_key_algorithms),
        "env": dict(config.set_env),
        "send_env": list(config.send_env),
    }
    for name, keyword, chosen, known in (
        ("encryption_algs", "Ciphers", config.ciphers, get_encryption_algs()),
        ("mac_algs", "MACs", config.macs, get_mac_algs()),
        ("kex_algs", "KexAlgorithms", config.kex_algorithms, get_kex_algs()),
        ("server_host_key_algs", "HostKeyAlgorithms", options["server_host_key_algs"], _host_key_algorithms()),
        ("signature_algs", "PubkeyAcceptedAlgorithms", config.pubkey_accepted_algorithms, get_public_key_algs()),
    ):
        if chosen is not None:
            options[name] = _understood(keyword, chosen, known)
    if config.preferred_authentications is not None:
        options["preferred_auth"] = list(config.preferred_authentications)
    if config.rekey_limit is not None:
        size, period = config.rekey_limit
        options |= {"rekey_bytes": size} if size else {}
        options |= {"rekey_seconds": period} if period else {}
    return options


def _known(trust: Trust) -> Callable[..., tuple[Any, ...]]:
    """What asyncssh takes without asking: known keys, authorities, revoked ones, and nothing of X.509."""
    found = trust.check()
    lists: tuple[list[Any], ...]
    lists = ([*found.keys, *found.portless], list(found.authorities), list(found.revoked), [], [], [], [])
    return lambda host, address, port: lists


def _host_key_algorithms() -> list[bytes]:
    return [*get_certificate_algs(), *get_public_key_algs()]


def _understood(keyword: str, chosen: Sequence[str], known: Sequence[bytes]) -> list[str]:
    """The user's algorithms without those that only his ssh has. Raises CannotConnect if none is left."""
    names = {name.decode() for name in known}
    found = [name for name in chosen if name in names]
    if not found:
        raise CannotConnect(f"{keyword} {','.join(chosen)}: none of them is known here (add one, or use --ssh ssh)")
    return found


async def _reason(
    error: Exception, config: HostConfig, client: Client, offer: Offer, way: _Way
) -> CannotConnect | Dropped:
    """What went wrong with a handshake and what may mend it."""
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return client.refusal or CannotConnect(f"host key of {config.hostname}: {error.reason}")
    if isinstance(error, asyncssh.PermissionDenied):
        return CannotConnect(_denied(config, offer))
    if isinstance(error, asyncssh.ProtocolError) and "Too many authentication failures" in error.reason:
        return CannotConnect(
            f"too many authentication failures as {config.user} (the agent holds more keys than the server lets "
            "one try: name the right one by IdentityFile or -i, with IdentitiesOnly yes)"
        )
    if isinstance(error, (asyncssh.ConnectionLost, ConnectionResetError, BrokenPipeError)):
        return await _drop(error, config, way)
    if isinstance(error, asyncssh.ChannelOpenError):
        if way.bastion is not None and way.bastion.is_closed():
            return Dropped("the connection to the bastion broke")
        why = error_in_words(error)
        where = f"{config.hostname} port {config.port}"
        return CannotConnect(f"the bastion cannot reach {where}: {why}", f"the bastion cannot reach it: {why}")
    return CannotConnect(error_in_words(error))


async def _drop(error: Exception, config: HostConfig, way: _Way) -> CannotConnect | Dropped:
    """The other side has closed the connection; what it, or a ProxyCommand, has said is why."""
    if way.proxy is not None and (failure := await way.proxy.failure()):
        return Dropped(failure) if _PROXY_DROPPED.search(failure) else CannotConnect(failure)
    why = f"connection closed before authentication: {error_in_words(error)}"
    if way.sock is None or not way.sock.first:
        return Dropped(why)
    if way.sock.refusal:
        return Dropped(f"connection closed before authentication: {way.sock.refusal}")
    # asyncssh does not notice when there is no host key algorithm in common; the server does, and hangs up.
    chosen = config.host_key_algorithms
    cure = f" (has it a host key of HostKeyAlgorithms {','.join(chosen)}?)" if chosen else ""
    return Dropped(why + cure, ATTEMPTS_AFTER_VERSION)


def _denied(config: HostConfig, offer: Offer) -> str:
    who = f"permission denied for {config.user}"
    cures = list(offer.problems)
    if config.gssapi_authentication and importlib.util.find_spec("gssapi") is None:
        cures.append("GSSAPIAuthentication needs Python's gssapi package here, or --ssh ssh")
    if not offer.keys:
        cure = "; ".join(cures) or "no key was found: name one by -i FILE or IdentityFile, or use ssh-agent"
        return f"{who}: no key to offer ({cure})"
    tried = f"{len(offer.keys)} key{'s' if len(offer.keys) > 1 else ''} refused"
    cures.append("is the public key in its authorized_keys there?")
    return f"{who}: {tried} ({'; '.join(cures)})"


def error_in_words(error: Exception) -> str:
    """One line about an error of a connection."""
    if isinstance(error, asyncssh.MACError):
        return f"bytes were corrupted on the way ({last_line(error.reason)})"
    if isinstance(error, asyncssh.Error):
        return last_line(error.reason) or type(error).__name__
    if isinstance(error, OSError):
        return system_error(error)
    words, kind = last_line(str(error)), type(error).__name__
    if isinstance(error, ValueError) and words:
        return words  # asyncssh's own, for what it cannot use
    return f"{kind}: {words}" if words else kind
