"""The keys that a run offers: every file parsed once, one agent client for all connections.

Order: explicit certificates, then the identity files as they are named (of a key that can only be used by the
agent, the agent's copy stands in), then the rest of the agent. ssh offers the rest of the agent before
identity files that the agent lacks; a server gives up after six keys (MaxAuthTries), so with a full agent the
one key that the user named would never be tried. Identity files that nobody named (``~/.ssh/id_*``) come last.

A key that can be read is used without the agent; where no other of the agent's may be offered either
(IdentitiesOnly), the agent is not asked at all.
"""

from __future__ import annotations

import asyncio
import base64
import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh

from clstr.model import BadInput
from clstr.transport.ssh_scope import home

DEFAULT_NAMES = ("id_rsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk", "id_xmss", "id_dsa")

AGENT_PATIENCE = 3.0
"""Seconds for an agent to list its keys. One that does not is left out for the rest of the run."""


@dataclass(slots=True)
class _Identity:
    """What an identity file holds: the key if it could be read without a passphrase, or else its public half."""

    key: asyncssh.SSHKey | None = None
    public: bytes | None = None
    certificate: asyncssh.SSHCertificate | None = None
    problem: str | None = None
    needs_agent: bool = False


@dataclass(slots=True)
class Offer:
    """What to offer one server, in order, and what could not be offered, for the message if all fail."""

    keys: list[Any] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class _Agent(asyncssh.SSHAgentClient):
    """An agent's connection that dials share: a dial given up must not leave its answer to the next request."""

    async def get_keys(self, identities: Sequence[bytes] | None = None) -> Sequence[asyncssh.SSHKeyPair]:
        return await asyncio.shield(super().get_keys(identities))

    async def sign(self, key_blob: bytes, data: bytes, flags: int = 0) -> bytes:
        return await asyncio.shield(super().sign(key_blob, data, flags))


class KeyRing:
    """All keys of a run."""

    def __init__(self) -> None:
        self._identities: dict[str, _Identity] = {}
        self._certificates: dict[str, asyncssh.SSHCertificate | None] = {}
        self._agents: dict[str, _Agent] = {}
        self._mute: set[str] = set()

    def check(self, path: str) -> None:
        """Raise BadInput for a key file, named on the command line, that no server can be offered."""
        identity = self._identity(path)
        if identity.problem is not None and not identity.needs_agent:
            raise BadInput(f"-i {identity.problem} (name a private key, or drop it)")

    async def offer(
        self, identity_files: Sequence[str], certificate_files: Sequence[str], agent: str | None, only: bool
    ) -> Offer:
        """The keys for a server; ``only`` leaves out agent keys that no identity file names."""
        identities = [self._identity(path) for path in identity_files]
        certificates = [cert for path in certificate_files if (cert := self._certificate(path)) is not None]
        offer = Offer()
        held: list[asyncssh.SSHKeyPair] = []
        if agent and (certificates or not only or any(identity.key is None for identity in identities)):
            held = await self._agent_keys(agent, offer)
        readable = {identity.public for identity in identities if identity.key is not None}
        theirs: dict[bytes, list[Any]] = {}  # the agent's, by the key behind a certificate
        for pair in held:
            if (public := _public_of(pair)) not in readable:
                theirs.setdefault(public, []).append(pair)
        first: list[Any] = []
        for certificate in certificates:
            if pairs := theirs.get(certificate.key.public_data):
                first.append(_certified(pairs[0], certificate))
        named_keys: list[Any] = []
        for identity in identities:
            if identity.key is not None:
                named_keys.append(_with_certificate(identity, certificates))
            elif identity.public is not None and identity.public in theirs:
                named_keys += theirs.pop(identity.public)
            elif identity.problem is not None:
                offer.problems.append(identity.problem)
        rest = [] if only else [pair for pairs in theirs.values() for pair in pairs]
        named = any(not _is_default(path) for path in identity_files)
        offer.keys = [*first, *named_keys, *rest] if named else [*first, *rest, *named_keys]
        return offer

    def _identity(self, path: str) -> _Identity:
        if path not in self._identities:
            self._identities[path] = _read_identity(path)
        return self._identities[path]

    def _certificate(self, path: str) -> asyncssh.SSHCertificate | None:
        if path not in self._certificates:
            self._certificates[path] = _read_certificate(path)
        return self._certificates[path]

    async def _agent_keys(self, path: str, offer: Offer) -> list[asyncssh.SSHKeyPair]:
        """What the agent holds, as pairs of this caller's own: asyncssh changes them during a login."""
        if path not in self._agents:
            self._agents[path] = _Agent(path)
        if path not in self._mute:
            try:
                async with asyncio.timeout(AGENT_PATIENCE):
                    for _ in range(2):  # it may have been restarted since: once more
                        try:
                            return list(await self._agents[path].get_keys())
                        except (OSError, ValueError, asyncssh.Error):
                            continue
                    offer.problems.append(f"the agent at {path} cannot be asked")
                    return []
            except TimeoutError:
                self._mute.add(path)
        offer.problems.append(f"the agent at {path} does not answer")
        return []

    def close(self) -> None:
        """Let the agents go."""
        for agent in self._agents.values():
            agent.close()


def _is_default(path: str) -> bool:
    return Path(path).parent == Path(home(), ".ssh") and Path(path).name in DEFAULT_NAMES


def _public_of(pair: asyncssh.SSHKeyPair) -> bytes:
    """The key behind what the agent holds; a certificate stands for the key that it certifies."""
    if not pair.algorithm.endswith(b"-cert-v01@openssh.com"):
        return pair.public_data
    try:
        line = pair.algorithm + b" " + base64.b64encode(pair.public_data)
        return asyncssh.import_certificate(line).key.public_data
    except ValueError:
        return pair.public_data


def _certified(pair: asyncssh.SSHKeyPair, certificate: asyncssh.SSHCertificate) -> asyncssh.SSHKeyPair:
    """A key of the agent's with a certificate of ours; the key itself stays as it is."""
    certified = copy.copy(pair)
    certified.set_certificate(certificate)
    return certified


def _with_certificate(identity: _Identity, certificates: Sequence[asyncssh.SSHCertificate]) -> Any:
    """The key, offered behind its certificate if it has one; CertificateFile replaces what lies beside the key."""
    matching = [cert for cert in certificates if cert.key.public_data == identity.public]
    certificate = matching[0] if matching else None if certificates else identity.certificate
    return (identity.key, certificate) if certificate is not None else identity.key


def _read_identity(path: str) -> _Identity:
    identity = _Identity()
    try:
        identity.key = asyncssh.read_private_key(path)
        identity.public = identity.key.public_data
    except OSError as error:
        identity.problem = f"{path}: {error.strerror}"
    except ValueError as error:
        # Only the text tells that a passphrase is missing.
        identity.needs_agent = isinstance(error, asyncssh.KeyEncryptionError) or "assphrase" in str(error)
        identity.problem = f"{path}: {str(error)[:1].lower()}{str(error)[1:]}"
    if identity.key is None:
        identity.public = _public_beside(path)
        if identity.needs_agent:
            identity.problem = f"{path} is encrypted and the agent does not hold it (ssh-add {path})"
        elif identity.public is not None:
            identity.needs_agent = True
            identity.problem = f"{path}: only its public half is here and the agent does not hold it"
    identity.certificate = _read_certificate(f"{path}-cert.pub")
    return identity


def _public_beside(path: str) -> bytes | None:
    """The public half of a key that cannot be read, by which the agent's copy is found."""
    for public in (f"{path}.pub", path):
        try:
            return asyncssh.read_public_key(public).public_data
        except (OSError, ValueError):
            continue
    return None


def _read_certificate(path: str) -> asyncssh.SSHCertificate | None:
    try:
        return asyncssh.read_certificate(path)
    except (OSError, ValueError):
        return None
