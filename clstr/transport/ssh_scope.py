"""Which hosts an SSH configuration cannot tell apart, so that one ``ssh -G`` can answer for all of them.

The files are read only for that: for their ``Host`` patterns, and for what would make two hosts differ though
the same patterns match them. No value is taken from here. Its rules:

* When in doubt, a host is on its own; a needless call costs milliseconds, a shared wrong answer costs trust.
* A host is on its own where ``Match``, canonicalization or a ``%`` token may give it values of its own, where
  a HostName or ProxyJump names it, and where ``ssh`` may refuse or rewrite its spelling.
* ``Host`` patterns are case-sensitive, know only ``*`` and ``?``, and see the host as the user wrote it; in
  the second pass that ``Match final`` causes they see the resolved name (ssh.c, readconf.c; ssh_config(5)).
"""

from __future__ import annotations

import functools
import glob
import os
import pwd
import re
import socket
import stat
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

MAX_INCLUDE_DEPTH = 16
"""How deep files may include each other (readconf.c, READCONF_MAX_DEPTH); ssh gives up beyond it."""

EXPANDED_BY_SSH = frozenset({
    "hostname", "user", "port", "hostkeyalias", "identityagent", "userknownhostsfile", "globalknownhostsfile",
    "proxyjump", "setenv", "sendenv", "bindaddress", "bindinterface", "tag",
})  # fmt: skip
"""Keywords whose tokens some version of ``ssh -G`` expands into a value that is read here, or may come to."""

SAME_KEYWORD = {"pubkeyacceptedkeytypes": "pubkeyacceptedalgorithms"}
"""Keywords that were renamed: the old name and the new one."""

_KEYWORD = re.compile(r'\s*"?([^\s"=#]+)"?\s*=?\s*(.*)$')
_WORD = re.compile(r'(?<!\S)(?:"([^"]*)"|([^\s"\'\\]+))(?!\S)')
_HOST_TOKEN = re.compile(r"%[^dilLu]")  # of this machine and user: %d %i %l %L %u
_NUMERIC = re.compile(r"[0-9a-fA-FxX.]+|.*:.*")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """What a ``Host`` or ``Match`` line opens. ``patterns`` is None where it may apply to any host."""

    patterns: tuple[str, ...] | None = None
    outer: Block | None = None

    def may_apply(self, names: Collection[str]) -> bool:
        """Whether the block is in force for a host known by one of these names."""
        if self.outer is not None and not self.outer.may_apply(names):
            return False
        return self.patterns is None or any(_listed(name, self.patterns) for name in names)


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of a configuration file: a lower-case keyword, its text, and the block it stands in."""

    keyword: str
    text: str
    block: Block


@dataclass(slots=True)
class Scope:
    """What the configuration files say about hosts in general."""

    files: set[str] = field(default_factory=set)
    complete: bool = True
    """False: something could not be followed; nothing may be concluded from a keyword's absence."""
    told_apart: bool = False
    """True: any two hosts may differ."""
    final_pass: bool = False
    settings: dict[str, list[Setting]] = field(default_factory=lambda: defaultdict(list))
    _own: list[Setting] = field(default_factory=list)
    _named: set[str] = field(default_factory=set)
    _literals: set[str] = field(default_factory=set)
    _wildcards: dict[str, re.Pattern[str]] = field(default_factory=dict)

    def group(self, host: str) -> object | None:
        """The same value for all hosts whose answers differ only in their own name; None: ask for it."""
        if self.told_apart or not self.complete or host.lower() in self._named or plain_name(host) is None:
            return None
        if any(self.final_pass or setting.block.may_apply((host,)) for setting in self._own):
            return None
        names = (host, host.lower()) if self.final_pass else (host,)
        return tuple((name if name in self._literals else None, self._matching(name)) for name in names)

    def may_mention(self, keyword: str, names: Collection[str]) -> bool:
        """Whether a host of these names may have a value of the keyword from the files."""
        return not self.complete or any(s.block.may_apply(names) for s in self.settings.get(keyword, ()))

    def sets(self, keyword: str, text: str, names: Collection[str]) -> bool:
        """Whether a line that gives the keyword this text is known to stand where these names may find it."""
        return any(s.text == text and s.block.may_apply(names) for s in self.settings.get(keyword, ()))

    def _matching(self, name: str) -> frozenset[str]:
        return frozenset(text for text, pattern in self._wildcards.items() if pattern.fullmatch(name))

    def _add_patterns(self, patterns: Iterable[str]) -> None:
        for pattern in patterns:
            text = pattern.removeprefix("!")
            if "*" in text or "?" in text:
                self._wildcards[text] = _compiled(text)
            else:
                self._literals.add(text)

    def _add(self, setting: Setting) -> None:
        self.settings[setting.keyword].append(setting)
        words = setting.text.replace('"', " ").replace(",", " ").split()
        match setting.keyword:
            case "hostname" | "proxyjump":
                # `HostName n1` met by the host n1 looks like a host without HostName, and `ProxyJump n1` is
                # refused for n1 itself ("jumphost loop").
                for word in words:
                    host = word.rpartition("@")[2].removeprefix("ssh://")
                    for name in (word, host, host.rpartition(":")[0].strip("[]")):
                        self._named |= {name.lower(), plain_name(name) or ""}
            case "canonicalizehostname" if not words or words[0].lower() not in ("no", "none", "false"):
                self._own.append(setting)
            case "canonicalizepermittedcnames" if not words or words[0].lower() != "none":
                self._own.append(setting)
        if setting.keyword in EXPANDED_BY_SSH and _HOST_TOKEN.search(setting.text.replace("%%", "")):
            self._own.append(setting)


def home() -> str:
    """The user's home as ``ssh`` finds it, which never asks ``$HOME``."""
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return os.path.expanduser("~")


def local_user() -> str:
    """The name of the user who runs this, as ``ssh`` finds it."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def expand_tilde(path: str) -> str:
    """The path with a leading ``~`` or ``~USER`` replaced; an unknown user's is left alone."""
    if path == "~" or path.startswith("~/"):
        return home() + path[1:]
    return os.path.expanduser(path) if path.startswith("~") else path


def plain_name(host: str) -> str | None:
    """What ``ssh`` prints as the HostName of a host without one; None where it may refuse or rewrite it."""
    if _NUMERIC.fullmatch(host):
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except (OSError, UnicodeError):
            pass  # a name that looks like a number, `face`
        else:
            return host if found[0][4][0] == host else None
    return host.lower() if _NAME.fullmatch(host) else None


def read_scope(roots: Iterable[tuple[str, str]]) -> Scope:
    """Read configuration files, each with the directory that its relative Includes start in.

    Files that do not exist say nothing. Never raises: what is wrong with a file, ``ssh`` says better.
    """
    scope = Scope()
    for path, base in roots:
        _read(scope, path, base, Block(), 0)
    return scope


def _read(scope: Scope, path: str, base: str, outer: Block, depth: int) -> None:
    try:
        if stat.S_ISFIFO(os.stat(path).st_mode):
            scope.complete = False  # what is read here, ssh would miss
            return
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return
    except OSError:
        scope.complete = False
        return
    scope.files.add(path)
    block = outer
    for line in lines:
        found = _KEYWORD.match(line)
        if found is None:
            continue
        keyword, text = found[1].lower(), found[2].rstrip()
        match SAME_KEYWORD.get(keyword, keyword):
            case "host":
                words = _words(text)
                if words is None:
                    scope.complete = False
                    continue
                scope._add_patterns(words)  # those in a comment too: ssh before 8.7 took them for patterns
                block = Block(_before_comment(words), outer)
            case "match":
                criteria = text.partition("#")[0].lower().split()
                scope.final_pass |= "final" in criteria
                # A stock RHEL or Fedora configuration says `Match final all`, which tells no hosts apart.
                scope.told_apart |= not set(criteria) <= {"all", "final", "canonical"}
                block = Block(None, outer)
            case "include":
                _include(scope, text, base, block, depth)
            case name:
                scope._add(Setting(name, text, block))


def _include(scope: Scope, text: str, base: str, block: Block, depth: int) -> None:
    words = _words(text)
    if words is None or "$" in text or "%" in text or depth >= MAX_INCLUDE_DEPTH:
        scope.complete = False
        return
    for path in included_files(_before_comment(words), base):
        _read(scope, path, base, block, depth + 1)


def included_files(patterns: Iterable[str], base: str) -> list[str]:
    """The files that an Include of these patterns reads, in that order."""
    return [
        path
        for pattern in patterns
        for path in sorted(glob.glob(os.path.join(base, expand_tilde(pattern))))
    ]  # fmt: skip


def _words(text: str) -> list[str] | None:
    """The words of a line, comment included; None where its quoting is beyond a look."""
    if _WORD.sub("", text).strip():
        return None
    return [quoted or bare for quoted, bare in _WORD.findall(text)]


def _before_comment(words: list[str]) -> tuple[str, ...]:
    comment = next((i for i, word in enumerate(words) if word.startswith("#")), len(words))
    return tuple(words[:comment])


def _listed(name: str, patterns: tuple[str, ...]) -> bool:
    if any(_compiled(pattern[1:]).fullmatch(name) for pattern in patterns if pattern.startswith("!")):
        return False
    return any(_compiled(pattern).fullmatch(name) for pattern in patterns if not pattern.startswith("!"))


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = (".*" if char == "*" else "." if char == "?" else re.escape(char) for char in pattern)
    return re.compile("".join(parts), re.DOTALL)
