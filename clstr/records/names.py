"""The NAME of each job in files: of its results, and of what a run directory keeps of it.

NAME is what a submit file calls the job (``+Name``), or a slug of its command and ten hex digits of the command's hash;
that of an ``--on-each-node`` job ends in ``@NODE``. Jobs whose NAME would be the same get ``.2``, ``.3`` and so on
behind the hash, counted in the order in which this run reads them: submit files first, then the stream of the other
jobs. Jobs that are done already are read too, so a NAME is the same in the next run over the same input.

Rules:

- It is made of ``Job.command``, in which ``--var`` values do not stand: no NAME holds a secret.
- It holds letters, digits and ``_.@:+=,[]-`` only, does not begin with a full stop and has 200 bytes at most, so it is
  one file's name, in a shell too. A ``+Name`` that is none was refused when its submit file was read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence

from clstr.model import Done, Fact, Failed, Held, Job, News

LONGEST = 200
"""Bytes of a NAME; what is put behind it (``.status``) and a file system's 255 leave no more."""

_SLUG = 48
"""Bytes of a command that its slug shows, half of them from its end: parameters stand there."""

_NODE = 120
"""Bytes of a node's text that a NAME shows."""

_STRANGE = re.compile(r"[^A-Za-z0-9_.@:+=,\[\]-]+")
_NOT_IN_SLUG = re.compile(rb"[^A-Za-z0-9._]+")


class Names:
    """The NAME of every job that has been read and has not ended. A gate that finds nothing done, and an observer.

    It stands before all gates that ask for a NAME, and behind all observers that do. Memory: some 70 bytes for each
    distinct command.
    """

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._times: dict[int, int] = {}  # how often a NAME was wanted, by its hash

    def of(self, job: Job) -> str:
        """The job's NAME."""
        return self._names[job.id]

    def done(self, jobs: Sequence[Job]) -> Collection[int]:
        """Name the jobs, which have just been read."""
        for job in jobs:
            self._names[job.id] = self._name(job)
        return ()

    def saw(self, when: float, event: Fact | News) -> None:
        """Forget the jobs that have ended."""
        if isinstance(event, (Done, Failed, Held)):
            self._names.pop(event.job.id, None)

    def _name(self, job: Job) -> str:
        if job.name is not None:
            return job.name
        stem, node = stem_of(job.command), ""
        if job.pin is not None:
            node = "@" + _STRANGE.sub("_", job.pin.text)[:_NODE]
        key = int.from_bytes(hashlib.blake2b(f"{stem}{node}".encode(), digest_size=8).digest())
        times = self._times[key] = self._times.get(key, 0) + 1
        return f"{stem}{node}" if times == 1 else f"{stem}.{times}{node}"


def stem_of(command: bytes) -> str:
    """A slug of the command, and ten hex digits of its hash: ``train.py-seed-3-0f1e2d3c4b``."""
    slug = _NOT_IN_SLUG.sub(b"-", command).strip(b"-.")
    if len(slug) > _SLUG:
        slug = slug[: _SLUG // 2] + b"-" + slug[-_SLUG // 2 :]
    digits = hashlib.sha256(command).hexdigest()[:10]
    return f"{slug.decode()}-{digits}" if slug else digits
