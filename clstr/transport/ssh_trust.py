"""Host keys: which one a node may show, as OpenSSH decides it (ssh_config(5), StrictHostKeyChecking).

Files are parsed once a run. asyncssh is given what ``Trust.check`` finds on record and asks, for a key that is
not among it, ``Trust.refusal``: a changed key is refused under every policy but ``no``; an unknown one is
recorded under ``accept-new``, under a lock, and refused under ``yes``. Stricter than ssh: under ``accept-new``
a host that has a key of another kind on record is a changed host too. A host is looked up by its name (or
HostKeyAlias) only, never by its address: a key on record for an address vouches for no name.
"""

from __future__ import annotations

import base64
import fcntl
import functools
import hmac
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncssh
from asyncssh.public_key import get_default_certificate_algs, get_default_public_key_algs

from clstr.model import BadInput, UnknownKey
from clstr.transport import CannotConnect


@dataclass(frozen=True, slots=True)
class OnRecord:
    """What the known_hosts files say of one host."""

    keys: tuple[asyncssh.SSHKey, ...]
    """Its keys. Any other key is a changed one."""
    portless: tuple[asyncssh.SSHKey, ...]
    """Keys of the same name at port 22: ssh takes them for another port too, but misses them at none."""
    authorities: tuple[asyncssh.SSHKey, ...]
    revoked: tuple[asyncssh.SSHKey, ...]


class KnownHosts:
    """The known_hosts files of a run, each parsed once."""

    def __init__(self) -> None:
        self._parsed: dict[tuple[str, ...], asyncssh.SSHKnownHosts] = {}
        self._found: dict[tuple[tuple[str, ...], str, int], OnRecord] = {}
        self._revoked: dict[str, tuple[asyncssh.SSHKey, ...]] = {}

    def of(self, files: tuple[str, ...], name: str, port: int) -> OnRecord:
        """What is on record for a host.

        Raises BadInput for a file that cannot be read or parsed. Looking a name up among hashed ones costs a
        hash per line, so answers are kept.
        """
        key = (files, name, port)
        if key not in self._found:
            self._found[key] = _look_up(self._read(files), name, port)
        return self._found[key]

    def revoked(self, file: str) -> tuple[asyncssh.SSHKey, ...]:
        """The keys of a RevokedHostKeys file, one a line. Raises BadInput: ssh goes no further either."""
        if file not in self._revoked:
            try:
                self._revoked[file] = tuple(asyncssh.read_public_key_list(file))
            except OSError as error:
                raise BadInput(f"{file}: {error.strerror} (RevokedHostKeys must be readable)") from None
            except ValueError as error:
                raise BadInput(f"{file}: {error} (RevokedHostKeys: public keys, one a line)") from None
        return self._revoked[file]

    def add(self, files: tuple[str, ...], line: str) -> None:
        """Take a line that was just recorded into what is held in memory."""
        self._read(files).load(line)
        self._found.clear()

    def _read(self, files: tuple[str, ...]) -> asyncssh.SSHKnownHosts:
        if files not in self._parsed:
            hosts = asyncssh.import_known_hosts("")
            for file in files:
                _load(hosts, file)
            self._parsed[files] = hosts
        return self._parsed[files]


def _look_up(hosts: asyncssh.SSHKnownHosts, name: str, port: int) -> OnRecord:
    # Not asyncssh's own fall-back to the name without port: it loses the port's revoked keys.
    keys, authorities, revoked, *_ = hosts.match(recorded_name(name, port), "", None)
    plain: Sequence[Any] = hosts.match(name, "", None) if port != 22 else ((), (), ())
    return OnRecord(
        tuple(keys), () if keys else tuple(plain[0]), (*authorities, *plain[1]), (*revoked, *plain[2])
    )


def recorded_name(name: str, port: int) -> str:
    """How known_hosts spells a host (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT)."""
    return name if port == 22 else f"[{name}]:{port}"


def _load(hosts: asyncssh.SSHKnownHosts, file: str) -> None:
    try:
        text = Path(file).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror} (host keys cannot be checked)") from None
    try:
        hosts.load(text)
    except ValueError:
        for number, line in enumerate(text.splitlines(), 1):
            _load_line(hosts, line, f"{file}:{number}")


def _load_line(hosts: asyncssh.SSHKnownHosts, line: str, where: str) -> None:
    try:
        hosts.load(line)
    except ValueError as error:
        raise BadInput(f"{where}: {error} (remove or mend this line of known hosts)") from None


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom to take for one host: what is on record, and the policy for what is not."""

    known_hosts: KnownHosts
    files: tuple[str, ...]  # the user's first
    revoked_file: str | None  # RevokedHostKeys
    record_in: str | None  # the file that accept-new writes to
    hashed: bool  # HashKnownHosts
    policy: str  # yes, accept-new or no
    name: str  # the name or HostKeyAlias that keys are recorded under
    port: int
    scan: tuple[str, int] | None
    """Host and port for ssh-keyscan; None behind a bastion or a ProxyCommand, where it does not reach."""

    def check(self) -> OnRecord:
        """What is on record, as far as the policy cares. Raises BadInput for a file that is at fault."""
        found = OnRecord((), (), (), ())
        if self.policy != "no":
            found = self.known_hosts.of(self.files, self.name, self.port)
        if self.revoked_file is not None:
            found = replace(found, revoked=found.revoked + self.known_hosts.revoked(self.revoked_file))
        return found

    def algorithms(self, preferred: Sequence[str] | None) -> list[str]:
        """The host key algorithms to ask for: certificates only where an authority is known for the host, those
        of its known keys first, and then the others, so that a changed kind of key is seen as such.

        ``preferred`` is the user's own list, whose order stands (ssh_config(5), HostKeyAlgorithms).
        """
        found = self.check()
        certificates = [name.decode() for name in get_default_certificate_algs()] if found.authorities else []
        if preferred is not None:
            return [name for name in preferred if "-cert-" not in name or found.authorities]
        known = [name.decode() for key in (*found.keys, *found.portless) for name in key.sig_algorithms]
        return list(dict.fromkeys([*certificates, *known, *_public_key_algorithms()]))

    def refusal(self, key: asyncssh.SSHKey) -> CannotConnect | None:
        """Why this key, which is not on record for the host, is refused; None if it is taken."""
        found = self.check()
        shown = _shown(key)
        if key in found.revoked:
            return CannotConnect(f"the host key of {self.name} is marked as revoked: {shown}")
        # Another connection may have recorded it since this one was begun.
        if self.policy == "no" or key in found.keys:
            return None
        if found.keys:
            recorded = ", ".join(_shown(old) for old in found.keys)
            return CannotConnect(
                f"the host key of {self.name} has CHANGED: it shows {shown}, on record is {recorded} "
                f"(somebody may be listening in; if the change is known to be right: "
                f"{self._forget()})"
            )
        if self.policy == "accept-new" and self.record_in is not None:
            failure = self._record(key, self.record_in)
            return None if failure is None else CannotConnect(failure)
        why = f"unknown host key of {self.name}: {shown} ({self._cure()})"
        return CannotConnect(why, "unknown host key", self._unknown_key)

    @property
    def _unknown_key(self) -> UnknownKey | None:
        """What is asked for many keys at once; None where ssh-keyscan does not reach, or prints another name."""
        if self.scan is None or self.scan != (self.name, self.port):
            return None
        return UnknownKey(self.name, self.port, self.record_in or "known_hosts")

    def _forget(self) -> str:
        file = "" if self.record_in is None else f" -f {shlex.quote(self.record_in)}"
        return f"ssh-keygen -R {shlex.quote(self._recorded_name)}{file}"

    def _cure(self) -> str:
        if self.scan is None:
            return "compare it with the host's own, then record it or give --host-key accept-new"
        host, port = self.scan
        scan = f"ssh-keyscan -p {port} {shlex.quote(host)}"
        if (host, port) != (self.name, self.port):  # HostKeyAlias
            scan += f" | sed 's/^[^ ]*/{self.name}/'"
        return (
            "compare it with the host's own, then record it: "
            f"{scan} >> {shlex.quote(self.record_in or 'known_hosts')}"
        )

    @property
    def _recorded_name(self) -> str:
        return recorded_name(self.name, self.port)

    def _record(self, key: asyncssh.SSHKey, file: str) -> str | None:
        public = key.export_public_key("openssh").decode().split()[:2]
        name = _hashed(self._recorded_name) if self.hashed else self._recorded_name
        line = f"{name} {' '.join(public)}\n"
        try:
            Path(file).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(descriptor, "r+b") as record:
                fcntl.flock(record, fcntl.LOCK_EX)
                text = record.read()
                # Somebody may have recorded the host since the file was parsed: theirs stands.
                others = _keys_in(text, self.name, self.port)
                if others and key not in others:
                    return f"the host key of {self.name} has CHANGED: it shows {_shown(key)} ({file})"
                if not others:
                    record.write((b"" if not text or text.endswith(b"\n") else b"\n") + line.encode())
        except OSError as error:
            return f"the host key of {self.name} cannot be recorded in {file}: {error.strerror}"
        self.known_hosts.add(self.files, line)
        return None


@functools.cache
def _public_key_algorithms() -> tuple[str, ...]:
    """The same words for all hosts: thousands of connections keep them."""
    return tuple(name.decode() for name in get_default_public_key_algs())


def _hashed(name: str) -> str:
    """The name as HashKnownHosts writes it: ``|1|salt|HMAC-SHA1 of the name|``, in base64."""
    salt = os.urandom(20)
    digest = hmac.digest(salt, name.encode(), "sha1")
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


def _keys_in(text: bytes, name: str, port: int) -> Sequence[Any]:
    try:
        hosts = asyncssh.import_known_hosts(text.decode("utf-8", "surrogateescape"))
    except ValueError:
        return ()
    return _look_up(hosts, name, port).keys


def _shown(key: asyncssh.SSHKey) -> str:
    """A key as ssh shows it: ``ED25519 SHA256:...``."""
    kind = key.algorithm.decode().removeprefix("ssh-").removeprefix("ecdsa-sha2-").upper()
    return f"{kind} {key.get_fingerprint()}"

