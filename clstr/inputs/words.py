"""HTCondor's two syntaxes of arguments and of environments, and quoting for the shell.

    old arguments:    a blank separates, \\" is a quote     old environment:    A=1;B=2
    new arguments:    "a 'b c' d"                           new environment:    "A=1 B='x y'"

In the new ones, which stand in double quotes, ``""`` is a double quote; blanks inside of single quotes do not separate,
and ``''`` in there is a single quote.
"""

from __future__ import annotations

import re

from clstr.inputs.condor import BLANKS

_SAFE = re.compile(rb"[A-Za-z0-9_@%+=:,./-]+")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class BadWords(Exception):
    """The text is not of the syntax; says what and what to do."""


def arguments(text: str) -> list[str]:
    """The words of ``arguments``. Raises BadWords."""
    if text.startswith('"'):
        return _words(_within_quotes(text))
    if '"' in text.replace('\\"', ""):
        raise BadWords('a " that is neither around all nor behind a backslash (write "ARGUMENTS", or \\")')
    return [word.replace('\\"', '"') for word in re.split(f"[{BLANKS}]", text) if word]


def environment(text: str) -> dict[str, str]:
    """The names and values of ``environment``. Raises BadWords."""
    if text.startswith('"'):
        pairs = _words(_within_quotes(text))
    elif '"' in text:
        raise BadWords('a " inside of NAME=VALUE;... (write "NAME=VALUE ..." for values with blanks or quotes)')
    else:
        pairs = [pair.lstrip(BLANKS) for pair in text.split(";") if pair.strip(BLANKS)]
    values = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise BadWords("an entry that is not NAME=VALUE (write \"A=1 B='x y'\")")
        values[name] = value
    return values


def in_single_quotes(value: bytes) -> bytes:
    """The value as it stands between single quotes of a shell."""
    return value.replace(b"'", b"'\\''")


def shell_line(words: list[bytes]) -> bytes:
    """A shell line of these words, in which every word with a brace is in single quotes."""
    return b" ".join(word if _SAFE.fullmatch(word) else b"'%s'" % in_single_quotes(word) for word in words)


def _within_quotes(text: str) -> str:
    inner = text[1:-1]
    if len(text) < 2 or not text.endswith('"') or '"' in inner.replace('""', ""):
        raise BadWords('a " that is not closed, or alone inside (write "..." around all, and "" for a quote in it)')
    return inner.replace('""', '"')


def _words(text: str) -> list[str]:
    words: list[str] = []
    word: str | None = None
    quoted = False
    at = 0
    while at < len(text):
        letter = text[at]
        at += 1
        if quoted and text[at - 1 : at + 1] == "''":
            word = (word or "") + "'"
            at += 1
        elif letter == "'":
            quoted = not quoted
            word = word or ""
        elif letter in BLANKS and not quoted:
            words += [] if word is None else [word]
            word = None
        else:
            word = (word or "") + letter
    if quoted:
        raise BadWords("a ' that is not closed (close it; '' inside of quotes is a quote)")
    return words if word is None else [*words, word]
