"""What the other side says, cut to what a message holds: a node may say anything, at any length.

Controls are left in: who prints a message escapes them.
"""

from __future__ import annotations

LONGEST = 200
"""Characters of another's words in a message."""


def last_line(said: bytes | str) -> str:
    """The last line that is not blank, its runs of white space one space each; nothing where there is none."""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    line = " ".join(text.rstrip().rpartition("\n")[2].split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."
