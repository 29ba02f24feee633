"""The NODE grammar, from flags and from files alike.

    NODE := [USER@]HOST[:PORT] [slots=N|auto] [class=NAME[,NAME...]]
    HOST := name or alias | IPv4 | [IPv6] | node set | @group | ':' (this machine)

- USER and PORT stand around the whole HOST: ``bob@rack[1-4]:2222`` is four nodes.
- Node sets and groups are ClusterShell's. It is loaded only for a HOST that needs it, and asked for one
  operand at a time, so that hosts keep the order in which they are listed and no operand is silently nothing.
- ``[`` at the head of HOST is IPv6. USER ends at the last ``@`` before any ``,!&^[``, as in ssh, which lets a
  user name contain ``@``; of two in a row the second leads a group (``bob@@rack``).
- ``@NAME:N`` is the group N of the group source NAME where the site has such a source, else port N.
- Every error is a BadInput of one line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from clstr.inputs import label, reason
from clstr.model import BadInput, Node, Slot

HERE = ":"
"""The text of this machine, reached without SSH."""

MOST_HOSTS = 1_000_000
"""Hosts of one node set, and slots of one run: more is a slip of the finger that would eat all memory."""

MOST_SLOTS = 10_000
"""The largest N of ``slots=N``."""

LARGEST_FILE = 64 * 1024 * 1024
"""Bytes of a node file: a device that never ends is refused before it fills the memory."""

_OPERATORS = ",!&^"
_OPERATOR = re.compile(rf"([{re.escape(_OPERATORS)}])(?![^\[]*\])")
_BRACKET = re.compile(r"\[([^\]]*)\]")
_RANGE = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18})(?:/([0-9]{1,18}))?)?")

_SHELL = frozenset("'\"`$\\;<>|(){}")
"""What ssh refuses in a host name since OpenSSH 9.6. ClusterShell hands it to a shell in a group's name."""

_KEYS = ("slots", "class")

_LONGEST = 1024
"""Characters of a node's text: as many as a host name has at most (NI_MAXHOST), so that numbers in it can be read."""

_NEVER_IN_A_HOST = _SHELL | frozenset("/@:=#[],!&^")


@dataclass(frozen=True, slots=True)
class Entry:
    """One listing of a node; ``origin`` is where it stands: ``nodes.txt:3`` or ``--node``.

    With ``auto`` its one slot stands for as many as the node says that it has processors.
    """

    node: Node
    slots: int
    origin: str
    auto: bool = False


def parse_node(text: str, origin: str) -> list[Entry]:
    """The entries of one NODE, in listed order; a node set yields several.

    Raises BadInput.
    """
    words = [word for word in re.split(r"[ \t]+", text) if word]
    _check_words(text, words, origin)
    keys = _keys(words, origin)
    classes = _classes(keys.get("class"), words[0], origin)
    slots = _slots(keys.get("slots"), words[0], origin)
    nodes = [replace(node, classes=classes) for node in _nodes(words[0], origin)]
    return [Entry(node, slots or 1, origin, auto=slots is None) for node in nodes]


def read_nodes(texts: Sequence[str], files: Sequence[str], read_stdin: Callable[[], bytes]) -> list[Entry]:
    """The entries of ``--node`` texts, then of ``--node-file`` files, in the order given; ``-`` is stdin.

    Raises BadInput, for a file that cannot be read too.
    """
    entries = [entry for text in texts for entry in parse_node(text, "--node")]
    for path in files:
        for number, line in _lines(path, read_stdin):
            entries += _parse_line(line, f"{label(path)}:{number}")
    return entries


def read_excluded(texts: Sequence[str], files: Sequence[str], read_stdin: Callable[[], bytes]) -> list[Node]:
    """The nodes of ``--exclude`` texts and ``--exclude-file`` files, where ``#`` after a blank is a comment too.

    ``slots=`` and ``class=`` make no difference, so that a node file serves as an exclude file. Raises BadInput.
    """
    named = [entry.node for text in texts for entry in parse_node(text, "--exclude")]
    for path in files:
        for number, line in _lines(path, read_stdin):
            bare = re.split(r"[ \t]#", line, maxsplit=1)[0]
            named += [entry.node for entry in _parse_line(bare, f"{label(path)}:{number}")]
    return named


def _parse_line(line: str, origin: str) -> list[Entry]:
    """As ``parse_node``, for a line of a file, which may be the wrong file."""
    try:
        return parse_node(line, origin)
    except BadInput:
        if not _is_a_command(line):
            raise
        raise BadInput(
            f"{origin}: {_quoted(line)} looks like a command, not like a node (is this the job file? nodes go with "
            "-N, jobs with -J)"
        ) from None


def _is_a_command(line: str) -> bool:
    first, *rest = line.split()
    if not line.replace("\t", " ").isprintable() or "=" in first:
        return False
    if rest and ("=" in rest[0] or rest[0] in _KEYS or rest[0].isdigit() or rest[0][0] == "#"):
        return False
    return bool(rest) or first.startswith(("/", "./")) or not _SHELL.isdisjoint(line)


def exclude(entries: Iterable[Entry], nodes: Sequence[Node]) -> list[Entry]:
    """The entries without those of the nodes.

    A NODE excludes the entries of the same text; a bare host every entry of that host, whatever its user and port.
    """
    out = {node.text for node in nodes}
    hosts = {node.host for node in nodes if node.user is None and node.port is None}
    return [entry for entry in entries if entry.node.text not in out and entry.node.host not in hosts]


def slots_of(
    entries: Iterable[Entry], one_each: bool = False, processors: Mapping[Node, int] | None = None
) -> list[Slot]:
    """The slots of all entries, in listed order; those of one node add up and are numbered from 1.

    With ``one_each`` (``--on-each-node``) an entry is one slot, whatever its ``slots=``. An entry with
    ``slots=auto`` is as many as ``processors`` knows of its node, 1 while that is unknown. Raises BadInput.
    """
    processors = processors or {}
    last: dict[Node, int] = {}
    slots: list[Slot] = []
    classes: dict[Node, Entry] = {}
    for entry in entries:
        other = classes.setdefault(entry.node, entry)
        if other.node.classes != entry.node.classes:
            raise BadInput(
                f"{entry.origin}: the classes of {entry.node.text} differ from those at {other.origin} "
                "(write the same class= on each of its lines)"
            )
        first = last.get(entry.node, 0) + 1
        count = processors.get(entry.node, 1) if entry.auto else entry.slots
        count = 1 if one_each else count
        if len(slots) + count > MOST_HOSTS:
            raise BadInput(f"{entry.origin}: more than {MOST_HOSTS:,} slots in all (list fewer)")
        slots += [Slot(entry.node, number) for number in range(first, first + count)]
        last[entry.node] = first + count - 1
    return slots


# --- files -------------------------------------------------------------------------------------------------


def _lines(path: str, read_stdin: Callable[[], bytes]) -> Iterator[tuple[int, str]]:
    """The lines that are neither blank nor comments, with their numbers, stripped."""
    name = label(path)
    try:
        data = read_stdin() if path == "-" else _content(path)
    except OSError as error:
        cure = "give a file with one NODE a line; a node itself goes with -n"
        raise BadInput(f"{name}: {reason(error)} ({cure})") from None
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            line = raw.decode().strip(" \t\r")
        except UnicodeDecodeError:
            raise BadInput(f"{name}:{number}: not UTF-8 text (write one NODE a line)") from None
        if line and not line.startswith("#"):
            yield number, line


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        data = file.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise BadInput(f"{label(path)}: over {LARGEST_FILE >> 20} MiB (give a file with one NODE a line)")
    return data


# --- words -------------------------------------------------------------------------------------------------


def _check_words(text: str, words: list[str], origin: str) -> None:
    if not words:
        raise BadInput(f"{origin}: empty NODE (write [USER@]HOST[:PORT])")
    if "\n" in text:
        raise BadInput(f"{origin}: line break in {_quoted(text)} (one NODE each; lists of them go with -N)")
    for word in words:
        if not word.isprintable():
            raise BadInput(f"{origin}: control or non-UTF-8 character in {_quoted(word)} (remove it)")
    if re.match(r"[A-Za-z]+=", words[0]):
        wrong = f"{origin}: {_quoted(words[0])} is not a host"
        if origin.startswith("--"):
            raise BadInput(f"{wrong} (quote the whole NODE: 'HOST {_shortened(words[0])}')")
        raise BadInput(f"{wrong} (write the host before it)")


def _keys(words: list[str], origin: str) -> dict[str, str]:
    """The KEY=VALUE words behind the host."""
    keys: dict[str, str] = {}
    for word in words[1:]:
        key, equals, value = word.partition("=")
        where = f"{origin}: {_quoted(word)} after {_quoted(words[0])}"
        if word.isdigit():
            raise BadInput(f"{where} is not KEY=VALUE (write slots={_shortened(word)})")
        if word.startswith("#"):
            raise BadInput(f"{where} is not KEY=VALUE (a comment has a line of its own)")
        if not equals:
            raise BadInput(f"{where} is not KEY=VALUE (a NODE is a host and perhaps slots=N, not a command)")
        if key not in _KEYS:
            raise BadInput(f"{where}: unknown key (those there are: slots=N, slots=auto, class=NAME)")
        if key in keys:
            raise BadInput(f"{where}: {key}= stands there twice (write it once)")
        keys[key] = value
    return keys


def _slots(value: str | None, host: str, origin: str) -> int | None:
    """The N of ``slots=N``, 1 where it is left out; None for ``auto``."""
    if value is None or value == "auto":
        return None if value else 1
    slots = _number(value, MOST_SLOTS)
    if slots is None:
        where = f"{origin}: {_quoted(f'slots={value}')} after {_quoted(host)}"
        raise BadInput(f"{where}: bad number of slots (write slots=1 to slots={MOST_SLOTS}, or slots=auto)")
    return slots


def _classes(value: str | None, host: str, origin: str) -> tuple[str, ...]:
    """The names of ``class=NAME,NAME``, sorted."""
    if value is None:
        return ()
    names = value.split(",")
    if not all(names):
        line = f"{host} class={value}"
        raise BadInput(f"{origin}: empty class name in {_quoted(line)} (write class=NAME or drop it)")
    return tuple(sorted(set(names)))


def _nodes(word: str, origin: str) -> list[Node]:
    if word == HERE:
        return [Node(HERE, HERE)]
    user, rest = _user(word, origin)
    before = "" if user is None else f"{user}@"
    if rest.startswith("["):
        address, port = _ipv6(rest, origin)
        hosts = {f"[{address}]": address}
    else:
        text, port = _port(rest, origin)
        hosts = {host: host for host in _hosts(text, origin)}
    after = "" if port is None else f":{port}"
    nodes = [Node(f"{before}{shown}{after}", host, user, port) for shown, host in hosts.items()]
    for node in nodes:
        if len(node.text) > _LONGEST:
            raise BadInput(f"{origin}: {_quoted(node.text)} is longer than {_LONGEST} characters (check it)")
    return nodes


def _user(word: str, origin: str) -> tuple[str | None, str]:
    """The user, and what follows it."""
    head = re.split(rf"[{re.escape(_OPERATORS)}\[]", word, maxsplit=1)[0]
    at = head.rfind("@")
    if at > 0 and head[at - 1] == "@":
        at -= 1
    if at < 0 or (at == 0 and not head.startswith("@@")):
        return None, word
    user = word[:at]
    if not user:
        raise BadInput(f"{origin}: empty user in {_quoted(word)} (write USER@HOST or drop the @)")
    if user.startswith("-") or not _NEVER_IN_A_HOST.isdisjoint(user.replace("@", "").replace("\\", "")):
        raise BadInput(f"{origin}: bad user {_quoted(user)} in {_quoted(word)} (write [USER@]HOST[:PORT])")
    return user, word[at + 1 :]


def _ipv6(rest: str, origin: str) -> tuple[str, int | None]:
    import ipaddress

    address, bracket, after = rest[1:].partition("]")
    try:
        if not bracket:
            raise ValueError
        ipaddress.IPv6Address(address)
    except ValueError:
        raise BadInput(f"{origin}: {_quoted(rest)} is not [IPv6] (a node set needs a name before its '[')") from None
    if after and not after.startswith(":"):
        raise BadInput(f"{origin}: {_quoted(after)} after [IPv6] (only :PORT may follow)")
    return address, _port_number(after[1:], rest, origin) if after else None


def _port(rest: str, origin: str) -> tuple[str, int | None]:
    """The host part of a HOST that is not IPv6, and the port."""
    operand = _OPERATOR.split(rest)[-1]
    host, colon, port = rest.rpartition(":")
    if not colon or (operand.startswith("@") and _is_group(operand)):
        return rest, None
    if rest.count(":") > 1 and "@" not in rest:
        raise BadInput(f"{origin}: several ':' in {_quoted(rest)} (write IPv6 in brackets, as in [::1]:22)")
    if not host:
        raise BadInput(f"{origin}: no host in {_quoted(rest)} (write HOST:PORT; ':' alone is this machine)")
    return host, _port_number(port, rest, origin)


def _port_number(port: str, rest: str, origin: str) -> int:
    number = _number(port, 65535)
    if number is None:
        raise BadInput(f"{origin}: bad port {_quoted(port)} in {_quoted(rest)} (write 1 to 65535)")
    return number


def _number(text: str, most: int) -> int | None:
    """The number from 1 to ``most`` that the text is, in ASCII digits alone."""
    number = int(text) if re.fullmatch(r"[0-9]{1,9}", text) else 0
    return number if 1 <= number <= most else None


def _is_group(operand: str) -> bool:
    """Whether the last ``:`` of a group's operand belongs to the group, and not to a port."""
    name, colon, tail = operand[1:].rpartition(":")
    return not (colon and tail.isdigit()) or (":" not in name and name in _sources())


def _hosts(text: str, origin: str) -> list[str]:
    if "*" in text or "?" in text:
        raise BadInput(f"{origin}: '*' or '?' in {_quoted(text)} (name the hosts, or a @group of them)")
    if not _SHELL.isdisjoint(text):
        raise _no_host(text, origin)
    plain = not text.startswith("@") and not any(c in "[]" + _OPERATORS for c in text)
    hosts = [text] if plain else _expanded(text, origin)
    for host in hosts:
        _check_host(host, origin)
    return hosts


def _check_host(host: str, origin: str) -> None:
    if not host:
        raise BadInput(f"{origin}: no host (write [USER@]HOST[:PORT])")
    if host.startswith("-"):
        raise BadInput(f"{origin}: host {_quoted(host)} begins with '-' (a host cannot)")
    if "@" in host or ":" in host:
        where = f"{origin}: '@' or ':' in {_quoted(host)}"
        raise BadInput(f"{where}, a host of a node set (USER@ and :PORT go around the whole set)")
    if not _NEVER_IN_A_HOST.isdisjoint(host) or not host.isprintable() or " " in host:
        raise _no_host(host, origin)


def _no_host(text: str, origin: str) -> BadInput:
    if of_parallel := re.fullmatch(r"([0-9]+)/([\w.-]+)", text):
        slots, host = map(_shortened, of_parallel.groups())
        return BadInput(f"{origin}: {_quoted(text)} is not a host (write '{host} slots={slots}')")
    return BadInput(f"{origin}: {_quoted(text)} is not a host (a NODE is a host and perhaps slots=N)")


# --- node sets ---------------------------------------------------------------------------------------------


def _expanded(text: str, origin: str) -> list[str]:
    """The hosts of a node set, each once, in listed order; operators apply from left to right, as ever."""
    operator = ","
    hosts: dict[str, None] = {}
    pieces = _OPERATOR.split(text)
    _check_size(pieces[::2], text, origin)
    for piece, following in zip(pieces[::2], [*pieces[1::2], ""], strict=True):
        if not piece:
            raise BadInput(f"{origin}: an operator without operand in {_quoted(text)} (drop it)")
        operand = _operand(piece, origin)
        match operator:
            case ",":
                # Only here: a group may well be empty where it is taken away, as in @all!@down.
                if not operand:
                    raise BadInput(f"{origin}: {_quoted(piece)} yields no host (check the group's name)")
                hosts |= dict.fromkeys(operand)
            case "!":
                hosts = {host: None for host in hosts if host not in operand}
            case "&":
                hosts = {host: None for host in hosts if host in operand}
            case _:
                both = {**hosts, **operand}
                hosts = {host: None for host in both if (host in hosts) != (host in operand)}
        operator = following
    if not hosts:
        raise BadInput(f"{origin}: {_quoted(text)} yields no host (check the operators)")
    return list(hosts)


def _check_size(operands: Iterable[str], text: str, origin: str) -> None:
    """Refuse what would not fit: the library expands a range the moment it reads it."""
    size = 0
    for operand in operands:
        product = 1
        for ranges in _BRACKET.findall(operand):
            product *= sum(_extent(item, text, origin) for item in ranges.split(","))
            if size + product > MOST_HOSTS:
                _too_many(text, origin)
        size += product


def _extent(item: str, text: str, origin: str) -> int:
    """How many indexes a range such as ``01-32`` or ``0-100/10`` stands for."""
    bounds = _RANGE.fullmatch(item)
    first, last, step = bounds.groups("") if bounds else ("", "", "")
    if not first or (last and int(last) < int(first)) or (step and not int(step)):
        raise BadInput(f"{origin}: bad range {_quoted(item)} in {_quoted(text)} (write it as in n[1-9,08])")
    return (int(last or first) - int(first)) // int(step or 1) + 1


def _operand(piece: str, origin: str) -> dict[str, None]:
    from ClusterShell.NodeSet import NodeSet

    try:
        nodes = NodeSet(piece)
        if len(nodes) > MOST_HOSTS:
            _too_many(piece, origin)
        return dict.fromkeys(nodes)
    except BadInput:
        raise
    except Exception as error:
        # No base class of the library holds them all: a broken groups.conf raises configparser's, YAML's or
        # the system's errors, and an unknown group source an error of a third tree.
        raise BadInput(f"{origin}: cannot expand {_quoted(piece)}: {_words_of(error)} (check it)") from None


def _sources() -> Sequence[str]:
    """The names of the site's group sources."""
    from ClusterShell.NodeSet import std_group_resolver

    try:
        return [str(source) for source in std_group_resolver().sources()]
    except Exception:  # a broken configuration: the expansion that follows reports it
        return []


def _words_of(error: Exception) -> str:
    kind = type(error).__name__
    words = " ".join(str(error).split())
    if kind == "GroupResolverSourceError":
        return f"no group source {words}"
    return _shortened(words) or kind


def _too_many(text: str, origin: str) -> NoReturn:
    raise BadInput(f"{origin}: {_quoted(text)} is more than {MOST_HOSTS:,} hosts (list fewer)")


def _quoted(text: str) -> str:
    text = _shortened(text)
    return f"'{text}'" if text.isprintable() else ascii(text)


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
