"""Text into Nodes and Jobs.

``nodes`` reads the NODE grammar, ``listing`` knows what slots it comes to, ``follow`` sees node files change, ``jobs``
reads the streams of job lines, ``pushes`` looks at what is to be copied. What cannot be used is a BadInput of one line
that begins with where it stands: ``FILE:LINE`` or the flag.
"""

from __future__ import annotations


def label(path: str) -> str:
    """The name that messages give to an input file: ``-`` is ``stdin``, and a name stays on one line."""
    if path == "-":
        return "stdin"
    return path if path.isprintable() else ascii(path)


def reason(error: OSError) -> str:
    """The system's words for an error."""
    return error.strerror or str(error)
