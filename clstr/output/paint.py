"""Colours, for what clstr itself prints: messages, tags, headings. A job's output is never touched.

Rules:
- ``auto`` is a terminal that is not dumb, with NO_COLOR unset or empty (no-color.org); the flag wins over it.
- Text is escaped (``printable``) before it is painted, so that no sequence in it is anybody else's.
"""

from __future__ import annotations

import enum
import os


class Style(enum.Enum):
    """How a text looks; the value is ECMA-48's parameter for SGR."""

    PLAIN = ""
    BAD = "31"  # red: errors, evictions
    WORSE = "33"  # yellow: requeued
    BETTER = "32"  # green: pardoned
    NODE = "36"  # cyan: tags and headings


def wanted(when: str, fd: int) -> bool:
    """Whether ``--color WHEN`` asks for colours on this descriptor."""
    if when == "auto":
        return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and os.isatty(fd)
    return when == "always"


def painted(text: str, style: Style) -> str:
    """The text in that style."""
    return text if style is Style.PLAIN else f"\x1b[{style.value}m{text}\x1b[m"


def printable(text: str) -> str:
    """The text with escapes for what is not plainly seen: controls, newlines, bytes that are not UTF-8."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape's form of a byte
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()
