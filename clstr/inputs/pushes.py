"""``--push LOCAL[:REMOTE]``: what it names, looked through before anything is connected.

A tree may hold files, directories and symbolic links to such, which are followed, as ``scp -r`` does. Anything else
is refused: a FIFO would hold up the run for ever, a device would fill the node's disk.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from clstr.inputs import reason
from clstr.model import BadInput


def parse_push(text: str) -> tuple[Path, str]:
    """LOCAL, absolute, and REMOTE. A name with a colon in it is LOCAL, as far as there is such a file.

    Raises BadInput for what is not there, cannot be read, or cannot be copied.
    """
    local, remote = _split(text)
    path = os.path.abspath(local)
    _check(path, f"--push {text}", ())
    return Path(path), remote


def _split(text: str) -> tuple[str, str]:
    local, colon, remote = text, "", ""
    while not local or not os.path.lexists(local):
        local, colon, after = local.rpartition(":")
        if not colon:
            raise BadInput(f"--push {text}: no such file (write LOCAL or LOCAL:REMOTE)")
        remote = f"{after}:{remote}" if remote else after
    return local, remote


def _check(path: str, flag: str, above: tuple[tuple[int, int], ...]) -> None:
    try:
        facts = os.stat(path)
        if stat.S_ISDIR(facts.st_mode):
            here = facts.st_dev, facts.st_ino
            if here in above:
                raise BadInput(f"{flag}: {path} leads back to a directory above it (remove the link)")
            for name in os.listdir(path):
                _check(os.path.join(path, name), flag, (*above, here))
        elif not stat.S_ISREG(facts.st_mode):
            raise BadInput(f"{flag}: {path} is no file and no directory (leave it out)")
        elif not os.access(path, os.R_OK):
            raise BadInput(f"{flag}: {path}: Permission denied (push what you may read)")
    except OSError as error:
        raise BadInput(f"{flag}: {path}: {reason(error)} (push what can be read)") from None
