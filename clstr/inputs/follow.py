"""``--follow``: node files that change while the run goes on.

A change is seen by the files' times, sizes and inodes, and the files are read once they have stood still for one
look: who rewrites a file in place is not caught with half of it. A file that cannot be read or parsed changes nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from clstr.inputs import label, reason
from clstr.model import BadInput

T = TypeVar("T")


class Followed(Generic[T]):
    """Files that are looked at again and again; ``read`` makes of them what they mean."""

    def __init__(self, files: Sequence[str], read: Callable[[], T]) -> None:
        """Look for the first time, which is to happen before they are read.

        Raises BadInput for what is no regular file.
        """
        for path in files:
            if path == "-" or _is_special(path):
                raise BadInput(f"{label(path)}: is no regular file, and --follow reads it again (or drop --follow)")
        self._files = files
        self._read = read
        self._taken = self._seen = self._look()

    def changed(self) -> T | None:
        """What the files mean now, if they have changed since they were read and not since the last call.

        Raises BadInput, once for each change of the files.
        """
        before, self._seen = self._seen, self._look()
        if self._seen == self._taken or self._seen != before:
            return None
        self._taken = self._seen
        return self._read()

    def _look(self) -> list[object]:
        stamps: list[object] = []
        for path in self._files:
            try:
                facts = os.stat(path)
                stamps.append((facts.st_mtime_ns, facts.st_size, facts.st_ino))
            except OSError as error:
                stamps.append(reason(error))
        return stamps


def _is_special(path: str) -> bool:
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False  # who reads it says what is wrong with it
