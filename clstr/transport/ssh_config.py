"""The SSH configuration of a node, as the user's ``ssh`` reads it.

``ssh -G`` does the reading, so every file, ``Match`` and default is what the user's own ``ssh`` would take.
One call answers for all hosts that the configuration cannot tell apart (``ssh_scope``). Its rules:

* What NODE says about user and port comes before ``-l``, which comes before the configuration; bastions get
  neither ``-l`` nor ``-i``, as with ``ssh -J``.
* ``ssh -G`` leaves the tokens of IdentityFile, CertificateFile, ProxyCommand and ProxyJump for later; they
  are expanded here for each host (ssh_config(5), TOKENS). Which other paths it expands depends on its
  version, so those get the same treatment where a token is still there.
* Files that do not exist are left out, as ``ssh`` passes over them.
* Algorithms are None where the user has set none: what ``ssh`` was built with is not the user's wish.
* Without an ``ssh`` program, asyncssh's parser gives the same answer in its own, smaller, dialect.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import unquote

from clstr.model import BadInput, Node
from clstr.transport import CannotConnect
from clstr.transport.ssh_scope import (
    SAME_KEYWORD,
    Scope,
    expand_tilde,
    home,
    included_files,
    local_user,
    plain_name,
    read_scope,
)

if TYPE_CHECKING:
    from asyncssh.config import SSHClientConfig

HostKeyFlag: TypeAlias = Literal["strict", "accept-new", "off"]
Answer: TypeAlias = dict[str, list[str]]
"""What ``ssh -G`` prints: the values of each lower-case keyword, in order."""

CALLS_AT_ONCE = 8
WAITING_AFTER = 1.0
"""Seconds until a call counts no more among CALLS_AT_ONCE: it waits for a name server or a Match exec."""

_ALGORITHMS = ("ciphers", "macs", "kexalgorithms", "hostkeyalgorithms", "pubkeyacceptedalgorithms")
_TRUST: dict[str, Literal["yes", "accept-new", "no"]] = {
    "ask": "yes", "true": "yes", "yes": "yes", "strict": "yes", "accept-new": "accept-new",
    "false": "no", "no": "no", "off": "no",
}  # fmt: skip
_TIME_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_READ_FILE = re.compile(r"^debug1: Reading configuration data (.*)$", re.MULTILINE)
_AT_LINE = re.compile(r"(.+?):? line (\d+): (.+)")
_CHATTER = ("debug", "OpenSSH", "Pseudo-terminal", "Warning:", "**")


class ConfigError(BadInput):
    """An SSH configuration file that ``ssh`` refuses; the text names file and line."""


@dataclass(frozen=True, slots=True)
class HostConfig:
    """How to reach one host. Paths are expanded; times are seconds."""

    hostname: str
    port: int
    user: str
    identity_files: tuple[str, ...]
    """In the order to try them, ``-i`` first. Of a key with an agent's copy only ``FILE.pub`` may exist."""
    identities_only: bool
    certificate_files: tuple[str, ...]
    identity_agent: str | None
    """The agent's socket; None is no agent."""
    proxy_jump: tuple[Node, ...]
    """Bastions in the order they are passed. Only the first may have bastions of its own, as in ``ssh``."""
    proxy_command: str | None
    """For a shell, behind ``exec``; never given together with bastions."""
    user_known_hosts: tuple[str, ...]
    global_known_hosts: tuple[str, ...]
    record_known_host: str | None
    """Where a new host key is written; the file may not exist yet. None is nowhere."""
    hash_known_hosts: bool
    revoked_host_keys: str | None
    """A file of keys never to accept; that it cannot be read is an error."""
    host_key_alias: str | None
    strict_host_key_checking: Literal["yes", "accept-new", "no"]
    connect_timeout: float | None
    connection_attempts: int
    server_alive_interval: float | None
    """0 is off by the user's wish; None is unset."""
    server_alive_count_max: int
    tcp_keepalive: bool
    send_env: tuple[str, ...]
    """Names or patterns (``LC_*``) of local variables to pass on."""
    set_env: tuple[tuple[str, str], ...]
    ciphers: tuple[str, ...] | None
    macs: tuple[str, ...] | None
    kex_algorithms: tuple[str, ...] | None
    host_key_algorithms: tuple[str, ...] | None
    pubkey_accepted_algorithms: tuple[str, ...] | None
    address_family: Literal["any", "inet", "inet6"]
    bind_address: str | None
    rekey_limit: tuple[int, int] | None
    """Bytes and seconds, 0 for the default of either."""
    compression: bool
    gssapi_authentication: bool
    pubkey_authentication: bool
    preferred_authentications: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class _Question:
    """A host as ``ssh`` would be asked for it."""

    host: str
    user: str | None
    port: int | None
    identities: tuple[str, ...]


class Resolver:
    """Answers for hosts, with as few calls of ``ssh -G`` as the configuration allows."""

    def __init__(
        self,
        config_file: str | None = None,
        user: str | None = None,
        identities: Sequence[str] = (),
        host_key: HostKeyFlag | None = None,
        ssh: str | None = None,
    ) -> None:
        """Take ``-F``, ``-l``, ``-i``, ``--host-key`` and the path of ``ssh`` (default: PATH's, if any).

        Raises BadInput for an ``-i`` that is not there, which ``ssh`` itself only warns of.
        """
        for path in identities:
            if not os.path.exists(expand_tilde(path)):
                raise BadInput(f"-i {path}: no such file (name a private key, or drop it)")
        self.calls = 0
        """How many ``ssh -G`` processes were started."""
        self._config_file = config_file
        self._user = user
        self._identities = tuple(identities)
        self._host_key: HostKeyFlag | None = host_key
        self._ssh = ssh or shutil.which("ssh")
        self._scope: Scope | None = None
        self._shared: dict[object, asyncio.Task[Answer]] = {}
        self._room = asyncio.Semaphore(CALLS_AT_ONCE)

    async def resolve(
        self, host: str, user: str | None = None, port: int | None = None, *, bastion: bool = False
    ) -> HostConfig:
        """What ``ssh`` would do for ``[USER@]HOST[:PORT]``; a bastion is spared ``-l`` and ``-i``.

        Canonicalization and ``Match exec`` may take long: cancel it to end the call. Raises ConfigError for a
        configuration that no host can use, and CannotConnect for what ``ssh`` refuses for this host.
        """
        question = _Question(
            host, user or (None if bastion else self._user), port, () if bastion else self._identities
        )
        answer = await self._answer(question)
        hostname = answer["hostname"][0]
        names = {host, host.lower(), hostname}
        algorithms = await self._chosen_algorithms(answer, names)
        alive_off = self._files().sets("serveraliveinterval", "0", names)
        return _host_config(answer, host, algorithms, alive_off, self._host_key)

    def close(self) -> None:
        """End the calls under way."""
        for task in self._shared.values():
            task.cancel()

    def _files(self) -> Scope:
        if self._scope is None:
            self._scope = read_scope(self._roots())
        return self._scope

    def _roots(self) -> list[tuple[str, str]]:
        user_base = os.path.join(home(), ".ssh")
        if self._config_file is not None:
            # An explicit file replaces the system's too; `none` is ssh's word for no file at all.
            return [] if self._config_file.lower() == "none" else [(self._config_file, user_base)]
        bases = ["/etc/ssh"]
        if self._ssh is not None:
            prefix = os.path.dirname(os.path.dirname(self._ssh))
            bases.append(os.path.join(prefix, "etc/ssh"))  # as Homebrew and openSUSE have it
        system = [(os.path.join(base, "ssh_config"), base) for base in bases]
        return [(os.path.join(user_base, "config"), user_base), *system]

    async def _answer(self, question: _Question) -> Answer:
        group = self._files().group(question.host)
        if group is not None:
            key = (group, question.user, question.port, question.identities)
            answer = await self._once(key, lambda: self._ask_for_all(question))
            if self._files().complete:
                return _renamed(answer, question.host)
        return await self._ask(question)

    async def _once(self, key: object, ask: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
        if key not in self._shared:
            self._shared[key] = asyncio.ensure_future(ask())
            self._shared[key].add_done_callback(_seen)
        try:
            return await asyncio.shield(self._shared[key])
        except CannotConnect:
            self._shared.pop(key, None)  # it may have been a passing want of processes: the next one asks again
            raise

    async def _ask_for_all(self, question: _Question) -> Answer:
        if self._ssh is None:
            return await self._ask(question)
        stdout, stderr = await self._call(self._ssh, self._arguments(question, "-v"))
        if not set(_READ_FILE.findall(stderr)) <= {path[:200] for path in self._files().files}:
            self._files().complete = False  # ssh has read a file that we have not
        return _parse(stdout) | {"host": [question.host]}

    async def _ask(self, question: _Question) -> Answer:
        if self._ssh is None:
            # In a thread, for asyncssh waits for the command of a Match exec.
            return await asyncio.to_thread(_ask_asyncssh, question, self._config_paths())
        stdout, _ = await self._call(self._ssh, self._arguments(question))
        return _parse(stdout) | {"host": [question.host]}

    def _config_paths(self) -> list[str]:
        if self._config_file is not None and not os.path.exists(self._config_file):
            raise ConfigError(f"{self._config_file}: no such file (give -F an SSH configuration)")
        return [path for path, _ in self._roots() if os.path.exists(path)]

    def _arguments(self, question: _Question, *flags: str) -> list[str]:
        arguments = ["-G", "-T", *flags]
        for flag, values in (
            ("-F", () if self._config_file is None else (self._config_file,)),
            ("-l", () if question.user is None else (question.user,)),
            ("-p", () if question.port is None else (str(question.port),)),
            ("-i", question.identities),
        ):
            for value in values:
                arguments += [flag, value]
        return [*arguments, "--", question.host]

    async def _chosen_algorithms(self, answer: Answer, names: set[str]) -> dict[str, tuple[str, ...] | None]:
        """What the user has set of _ALGORITHMS: what differs from an ``ssh`` without configuration."""
        mentioned = [key for key in _ALGORITHMS if self._files().may_mention(key, names)]
        defaults: Answer = {}
        if mentioned and (ssh := self._ssh) is not None:
            defaults = await self._once("defaults", lambda: self._default_answer(ssh))
        chosen: dict[str, tuple[str, ...] | None] = dict.fromkeys(_ALGORITHMS)
        for key in mentioned:
            if key in answer and answer[key] != defaults.get(key):
                chosen[key] = tuple(answer[key][0].split(","))
        return chosen

    async def _default_answer(self, ssh: str) -> Answer:
        stdout, _ = await self._call(ssh, ["-G", "-T", "-F", "/dev/null", "--", "localhost"])
        return _parse(stdout)

    async def _call(self, ssh: str, arguments: list[str]) -> tuple[str, str]:
        async with self._room:
            self.calls += 1
            talk = asyncio.ensure_future(_run(ssh, arguments))
            try:
                await asyncio.wait((talk,), timeout=WAITING_AFTER)
            except asyncio.CancelledError:
                talk.cancel()
                raise
        return await talk


def _seen(done: asyncio.Task[Answer]) -> None:
    """Take note of its error, lest asyncio complain where all who waited for it have gone."""
    if not done.cancelled():
        done.exception()


async def _run(ssh: str, arguments: list[str]) -> tuple[str, str]:
    # Files, not pipes: whoever a Match exec left behind may hold a pipe open for ever.
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        try:
            process = await asyncio.create_subprocess_exec(
                ssh,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,  # nothing may prompt on our terminal, and a Match exec must end with it
            )
        except OSError as error:
            raise CannotConnect(f"{ssh}: {error.strerror}") from None
        try:
            status = await process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        said = _text(stderr)
        if status != 0:
            raise _refusal(said, f"{ssh} -G ended with status {status}")
        return _text(stdout), said


def _text(file: IO[bytes]) -> str:
    """What was written to the file; ssh ends the lines of its messages with ``\\r\\n``."""
    file.seek(0)
    return os.fsdecode(file.read()).replace("\r\n", "\n")


def _refusal(stderr: str, otherwise: str) -> ConfigError | CannotConnect:
    """What a failed ``ssh -G`` says: an error of the configuration, or one of this host alone."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip() and not line.startswith(_CHATTER)]
    for line in lines:
        if (found := _AT_LINE.fullmatch(line)) and "RefuseConnection" not in line:
            return _at_line(found)
        if line.startswith(("Can't open user config file", "Bad owner or permissions on")):
            return ConfigError(f"{line} (ssh refuses its configuration)")
    return CannotConnect(lines[-1] if lines else otherwise)


def _at_line(found: re.Match[str], cure: str = "correct the line, or drop it") -> ConfigError:
    return ConfigError(f"{found[1]}:{found[2]}: {found[3].rstrip('.')} ({cure})")


def _parse(stdout: str) -> Answer:
    """An answer is kept for each host with a block of its own, and most of its words are those of the others."""
    answer: Answer = {}
    for line in stdout.splitlines():
        keyword, _, value = line.partition(" ")
        answer.setdefault(sys.intern(SAME_KEYWORD.get(keyword, keyword)), []).append(sys.intern(value))
    return answer


def _renamed(answer: Answer, host: str) -> Answer:
    """A shared answer, which was given for another host, as this one would have got it."""
    asked = answer["host"][0]
    if answer["hostname"][0] != plain_name(asked):
        return {**answer, "host": [host]}
    return {**answer, "host": [host], "hostname": [plain_name(host) or host]}


# --- translation -------------------------------------------------------------------------------------------


def _host_config(
    answer: Answer,
    host: str,
    algorithms: Mapping[str, tuple[str, ...] | None],
    alive_off: bool,
    host_key: HostKeyFlag | None,
) -> HostConfig:
    def text(key: str, otherwise: str = "none") -> str:
        return answer.get(key, [otherwise])[0]

    def optional(key: str) -> str | None:
        value = text(key)
        return None if value.lower() == "none" else value

    def switch(key: str, otherwise: str = "no") -> bool:
        return text(key, otherwise).lower() not in ("no", "false")

    tokens = _tokens(answer, host)
    known_hosts = text("userknownhostsfile")
    interval = seconds(text("serveraliveinterval", "0"))
    jump, command, revoked = optional("proxyjump"), optional("proxycommand"), optional("revokedhostkeys")
    family = text("addressfamily", "any")
    return HostConfig(
        hostname=answer["hostname"][0],
        port=int(text("port", "22")),
        user=text("user"),
        identity_files=_existing(answer.get("identityfile", []), tokens, ".pub"),
        identities_only=switch("identitiesonly"),
        certificate_files=_existing(answer.get("certificatefile", []), tokens),
        identity_agent=_agent(text("identityagent", "SSH_AUTH_SOCK"), tokens),
        proxy_jump=parse_jumps(_expand(jump, tokens)) if jump else (),
        proxy_command=_expand(command, tokens) if command else None,
        user_known_hosts=_existing_of_line(known_hosts, tokens),
        global_known_hosts=_existing_of_line(text("globalknownhostsfile"), tokens),
        record_known_host=_recorder(known_hosts, tokens),
        hash_known_hosts=switch("hashknownhosts"),
        revoked_host_keys=_path(revoked, tokens) if revoked else None,
        host_key_alias=optional("hostkeyalias"),
        strict_host_key_checking=_TRUST[host_key or text("stricthostkeychecking", "ask").lower()],
        connect_timeout=seconds(text("connecttimeout")),
        connection_attempts=int(text("connectionattempts", "1")),
        server_alive_interval=interval if interval or alive_off else None,
        server_alive_count_max=int(text("serveralivecountmax", "3")),
        tcp_keepalive=switch("tcpkeepalive", "yes"),
        send_env=tuple(name for line in answer.get("sendenv", []) for name in line.split()),
        set_env=tuple(_assignment(line) for line in answer.get("setenv", [])),
        ciphers=algorithms["ciphers"],
        macs=algorithms["macs"],
        kex_algorithms=algorithms["kexalgorithms"],
        host_key_algorithms=algorithms["hostkeyalgorithms"],
        pubkey_accepted_algorithms=algorithms["pubkeyacceptedalgorithms"],
        address_family="inet" if family == "inet" else "inet6" if family == "inet6" else "any",
        bind_address=optional("bindaddress"),
        rekey_limit=_rekey_limit(text("rekeylimit", "0 0")),
        compression=switch("compression"),
        gssapi_authentication=switch("gssapiauthentication"),
        pubkey_authentication=switch("pubkeyauthentication", "yes"),
        preferred_authentications=_listing(optional("preferredauthentications")),
    )


def _tokens(answer: Answer, host: str) -> dict[str, str]:
    """The tokens of ssh_config(5) that a client knows before it connects."""
    machine = socket.gethostname()
    hostname, port, user = answer["hostname"][0], answer.get("port", ["22"])[0], answer["user"][0]
    alias, jump = answer.get("hostkeyalias", [host])[0], answer.get("proxyjump", [""])[0]
    digest = hashlib.sha1(os.fsencode(machine + hostname + port + user), usedforsecurity=False)
    return {
        "%": "%",
        "C": digest.hexdigest(),
        "d": home(),
        "h": hostname,
        "i": str(os.getuid()),
        "j": jump,
        "k": alias,
        "L": machine.partition(".")[0],
        "l": machine,
        "n": host,
        "p": port,
        "r": user,
        "u": local_user(),
    }


def _expand(text: str, tokens: Mapping[str, str]) -> str:
    return re.sub(r"%(.)", lambda found: tokens.get(found[1], found[0]), text)


def _path(text: str, tokens: Mapping[str, str]) -> str:
    """A path with ``~``, tokens and ``${VARIABLE}`` replaced. Raises ConfigError for an unset variable."""

    def variable(found: re.Match[str]) -> str:
        if found[1] not in os.environ:
            raise ConfigError(f"{text}: ${found[1]} is not set (set it, or change the SSH configuration)")
        return os.environ[found[1]]

    return re.sub(r"\$\{([^}]*)\}", variable, _expand(expand_tilde(text), tokens))


def _existing(texts: Sequence[str], tokens: Mapping[str, str], suffix: str = "") -> tuple[str, ...]:
    paths = dict.fromkeys(_path(text, tokens) for text in texts if text.lower() != "none")
    return tuple(path for path in paths if os.path.exists(path) or os.path.exists(path + suffix))


def _existing_of_line(line: str, tokens: Mapping[str, str]) -> tuple[str, ...]:
    """The files of a list, which ``ssh -G`` prints without its quotes: the longest names that exist."""
    words, paths = line.split(" "), list[str]()
    while words and line.lower() != "none":
        for end in range(len(words), 0, -1):
            path = _path(" ".join(words[:end]), tokens)
            if os.path.exists(path):
                paths.append(path)
                break
        del words[:end]
    return tuple(paths)


def _recorder(line: str, tokens: Mapping[str, str]) -> str | None:
    """The first file of a list; the longest name that exists, else the first word."""
    if line.lower() == "none":
        return None
    words = line.split(" ")
    names = [_path(" ".join(words[:end]), tokens) for end in range(len(words), 0, -1)]
    return next((name for name in names if os.path.exists(name)), names[-1])


def _agent(text: str, tokens: Mapping[str, str]) -> str | None:
    if text.lower() == "none":
        return None
    if text == "SSH_AUTH_SOCK" or (text.startswith("$") and not text.startswith("${")):
        return os.environ.get(text.removeprefix("$")) or None
    return _path(text, tokens)


def _assignment(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def _listing(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(text.split(","))


def _rekey_limit(text: str) -> tuple[int, int] | None:
    data, time = (int(word) for word in text.split())
    return (data, time) if data or time else None


def seconds(text: str) -> float | None:
    """A time as in sshd_config(5), TIME FORMATS: ``90``, ``1m30s``; None for ``none``. Raises ValueError."""
    if text.lower() == "none":
        return None
    if not re.fullmatch(r"(\d+[smhdw]?)+", text.lower()):
        raise ValueError(f"not a time: {text!r}")
    return float(sum(int(n) * _TIME_UNITS[unit] for n, unit in re.findall(r"(\d+)([smhdw]?)", text.lower())))


def parse_jumps(text: str) -> tuple[Node, ...]:
    """The bastions of a ProxyJump, ``[USER@]HOST[:PORT]`` or ``ssh://...`` with commas between.

    Raises ConfigError for a port that is none.
    """
    return tuple(_jump(word.strip()) for word in text.split(","))


def _jump(text: str) -> Node:
    is_uri = text.lower().startswith("ssh://")
    place = text[len("ssh://") :].rstrip("/") if is_uri else text
    user, _, address = place.rpartition("@")
    if is_uri:
        user = unquote(user.partition(";")[0])  # `;fingerprint=...` may follow (RFC draft of the ssh scheme)
    if found := re.fullmatch(r"\[(.*)\](?::(\d+))?|([^:]*)(?::(\d+))?|([^][]*:[^][]*:[^][]*)", address):
        host, port = found[1] or found[3] or found[5], found[2] or found[4]
        if host:
            return _node(host, user or None, int(port) if port else None)
    raise ConfigError(f"ProxyJump {text}: not a host (write [USER@]HOST[:PORT])")


def _node(host: str, user: str | None, port: int | None) -> Node:
    text = f"[{host}]" if ":" in host else host
    text = text if port is None else f"{text}:{port}"
    return Node(text if user is None else f"{user}@{text}", host, user, port)


# --- without ssh -------------------------------------------------------------------------------------------

_DEFAULT_IDENTITIES = [f"~/.ssh/id_{kind}" for kind in ("rsa", "ecdsa", "ecdsa_sk", "ed25519", "ed25519_sk")]
_WITHOUT_SSH: Answer = {
    "userknownhostsfile": ["~/.ssh/known_hosts ~/.ssh/known_hosts2"],
    "globalknownhostsfile": ["/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"],
}
_SIZE_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}


def _ask_asyncssh(question: _Question, paths: Sequence[str]) -> Answer:
    """The answer of asyncssh's own parser, in the form that ``ssh -G`` prints."""
    options = _asyncssh_options(question, paths)
    if "ProxyJump" in options and "ProxyCommand" in options:
        # The first one wins in ssh, and options stand in the order in which they were set.
        first = next(option for option in options if option.startswith("Proxy"))
        options = {option: options[option] for option in options if option[:5] != "Proxy" or option == first}
    try:
        answer = _WITHOUT_SSH | {key.lower(): _as_ssh_prints(key, value) for key, value in options.items()}
        for key in ("connecttimeout", "serveraliveinterval"):
            seconds(answer.get(key, ["none"])[0])
    except ValueError as error:
        raise ConfigError(f"SSH configuration for {question.host}: {error} (correct it)") from None
    if answer.get("stricthostkeychecking", ["ask"])[0].lower() not in _TRUST:
        where = f"SSH configuration for {question.host}"
        raise ConfigError(f"{where}: bad StrictHostKeyChecking (write yes, no or accept-new)")
    answer["host"] = [question.host]
    hostname = answer.get("hostname", [question.host])[0]
    answer["hostname"] = [plain_name(hostname) or hostname]
    answer.setdefault("user", [local_user()])
    if "hostkeyalias" in answer:
        answer["hostkeyalias"] = [answer["hostkeyalias"][0].lower()]
    identities = [*question.identities, *answer.get("identityfile", [])]
    answer["identityfile"] = identities or _DEFAULT_IDENTITIES
    return answer


def _asyncssh_options(question: _Question, paths: Sequence[str]) -> dict[str, object]:
    from asyncssh.config import ConfigParseError

    port: object = () if question.port is None else question.port
    user: object = () if question.user is None else question.user
    who = (local_user(), user, question.host, port)
    dialect = _asyncssh_dialect()
    try:
        config = dialect.load(None, paths, False, False, False, *who)
        if config.has_match_final():
            config = dialect.load(config, paths, False, True, True, *who)
    except ConfigParseError as error:
        found = _AT_LINE.fullmatch(str(error))
        cure = "install the ssh program, without which less of its language is read, or change the line"
        raise _at_line(found, cure) if found else ConfigError(f"{error} ({cure})") from None
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"SSH configuration: {error}") from None
    return config.get_options(False)


def _asyncssh_dialect() -> type[SSHClientConfig]:
    """asyncssh's parser, taught what ``ssh`` has and it lacks, where that is simple."""
    from asyncssh.config import SSHClientConfig

    class Dialect(SSHClientConfig):
        def _include(self, option: str, args: list[str]) -> None:
            """Read the files of the line in order, and go on in the block that the line stands in."""
            path, line = self._path, self._line_no
            for included in included_files(args, str(self._default_path)):
                self.parse(Path(included))
            self._path, self._line_no, self._matching = path, line, True
            args.clear()

    Dialect._percent_expand = set()  # tokens are expanded by _host_config, as for ssh's answers
    Dialect._handlers = SSHClientConfig._handlers | {
        "connectionattempts": ("ConnectionAttempts", Dialect._set_int),
        "connecttimeout": ("ConnectTimeout", Dialect._set_string),
        "hashknownhosts": ("HashKnownHosts", Dialect._set_bool),
        "include": ("Include", Dialect._include),
        "revokedhostkeys": ("RevokedHostKeys", Dialect._set_string),
        "serveraliveinterval": ("ServerAliveInterval", Dialect._set_string),
        "stricthostkeychecking": ("StrictHostKeyChecking", Dialect._set_string),
    }
    return Dialect


def _as_ssh_prints(option: str, value: Any) -> list[str]:
    """Raises ValueError for a size or time that is none."""
    match value:
        case None | []:
            return ["none"]
        case bool():
            return ["yes" if value else "no"]
        case socket.AddressFamily():
            return ["inet" if value == socket.AF_INET else "inet6" if value == socket.AF_INET6 else "any"]
        case [size, time] if option == "RekeyLimit":
            return [f"{_size(size) if size else 0} {seconds(time) or 0 if time else 0:.0f}"]
        case [*words] if option.endswith("KnownHostsFile"):
            return [" ".join(words)]
        case [*words]:
            return list(dict.fromkeys(map(str, words)))  # the final pass adds to a list what it had
        case _:
            return [str(value)]


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d+)([kmg]?)", text.lower())
    if found is None:
        raise ValueError(f"not a size: {text!r}")
    return int(found[1]) * _SIZE_UNITS[found[2]]
