"""Text into Nodes and Jobs.

``nodes`` reads the NODE grammar, ``listing`` knows what slots it comes to, ``follow`` sees node files change. ``jobs``
reads the streams of job lines, ``templates`` what a line stands for. ``submit`` reads submit files: ``condor`` is their
language, ``words`` their quoting, ``after`` who waits for whom. ``pushes`` looks at what is to be copied. What cannot
be used is a BadInput of one line that begins with where it stands: ``FILE:LINE`` or the flag.
"""

from __future__ import annotations


def label(path: str) -> str:
    """The name that messages give to an input file: ``-`` is ``stdin``, and a name stays on one line."""
    if path == "-":
        return "stdin"
    return path if path.isprintable() else ascii(path)


def quoted(text: str) -> str:
    """The text in a message: in quotes, on one line, and cut where it is long."""
    text = text if len(text) <= 60 else f"{text[:57]}..."
    return f"'{text}'" if text.isprintable() else ascii(text)


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_seconds(text: str) -> float | None:
    """Seconds from ``90``, ``90s``, ``10m``, ``2h`` or ``1d``; None for what is no duration."""
    digits, unit = (text[:-1], text[-1]) if text[-1:] in _SECONDS else (text, "s")
    if not digits.isascii() or not digits.replace(".", "", 1).isdigit():
        return None
    seconds = float(digits) * _SECONDS[unit]
    return seconds if 0 < seconds < 1e9 else None


def reason(error: OSError) -> str:
    """The system's words for an error."""
    return error.strerror or str(error)
