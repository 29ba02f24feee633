"""What a run leaves for the next one: ``--unfinished`` and ``--evicted``.

Both are written at the end, to a temporary file that then takes the name: the name may be that of a file that this
run has read (``-J jobs.txt --unfinished jobs.txt``), and a crash leaves the old one whole. So FILE is absent or a
regular file; where it is a symbolic link, the file that it names is replaced. A file that was there keeps its mode.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from clstr.model import NO_TERMS, BadInput, Evicted, Fact, Failed, Held, Job, News, Node, Pardoned, Paroled


class Leftovers:
    """An observer: remembers the nodes that were evicted and, with ``jobs``, the jobs that failed or were held."""

    def __init__(self, jobs: bool = True) -> None:
        self._jobs = jobs
        self.failed: list[Job] = []
        self.evicted: dict[Node, str] = {}

    def saw(self, when: float, event: Fact | News) -> None:
        """Remember what the end must write."""
        match event:
            case (Failed(job) | Held(job)) if self._jobs:
                self.failed.append(job)
            case Evicted(node, why):
                self.evicted[node] = why
            case Pardoned(node) | Paroled(node):
                self.evicted.pop(node, None)
            case _:
                pass


def check_target(flag: str, path: str) -> None:
    """Raise BadInput unless the file can be made or replaced at the end."""
    target = os.path.realpath(path)
    if os.path.exists(target) and not stat.S_ISREG(os.stat(target).st_mode):
        raise BadInput(f"{path}: not a regular file ({flag} replaces it: name one, or a file that is not there yet)")
    folder = os.path.dirname(target)
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise BadInput(f"{path}: cannot be written ({flag} needs a directory that can be written)")


@contextlib.contextmanager
def _replacing(path: str) -> Iterator[BinaryIO]:
    target = os.path.realpath(path)
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(target), prefix=f".{os.path.basename(target)[:100]}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        os.chmod(temporary, _mode_of(target))
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _mode_of(target: str) -> int:
    """The mode of the file that is there, or of a new one."""
    with contextlib.suppress(FileNotFoundError):
        return stat.S_IMODE(os.stat(target).st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


class JobFile:
    """Jobs in job-file form: a line each, or with ``null`` each with a NUL behind it."""

    def __init__(self, file: BinaryIO, null: bool) -> None:
        self._file = file
        self._null = null
        self.left_out = 0
        """Jobs that would have been comments, of which there are none between NULs."""

    def write(self, jobs: Iterable[Job]) -> None:
        """Add the jobs. Raises OSError."""
        for job in jobs:
            if not self._null:
                self._file.write(_line(job))
            elif _needs_its_file(job):
                self.left_out += 1
            else:
                self._file.write(job.command + b"\0")

    def remark(self, text: str) -> None:
        """Add a comment; there are none between NULs. Raises OSError."""
        if not self._null:
            self._file.write(f"# {' '.join(text.split())}\n".encode("utf-8", "backslashreplace"))


@contextlib.contextmanager
def unfinished(path: str, null: bool) -> Iterator[JobFile]:
    """The file of the jobs that were not done; it takes its name when all is written. Raises OSError."""
    with _replacing(path) as file:
        yield JobFile(file, null)


def _line(job: Job) -> bytes:
    if job.pin is not None:
        return as_comment(b"%s: %s" % (job.pin.text.encode("utf-8", "surrogateescape"), job.command))
    if _needs_its_file(job):
        name = b"" if job.name is None else b"%s: " % job.name.encode()
        return as_comment(name + job.command)
    return job_line(job.command)


def _needs_its_file(job: Job) -> bool:
    """Does its submit file say more of the job than a line can? Then that is what runs it again."""
    return job.name is not None or job.terms != NO_TERMS


def job_line(command: bytes) -> bytes:
    """The command as a job file has it."""
    if b"\n" in command or command.lstrip().startswith(b"#"):
        # A line cannot hold it (it came by --job): a comment keeps it in sight, and nothing runs it by halves.
        return as_comment(command)
    return command + (b"\r\n" if command.endswith(b"\r") else b"\n")  # who reads it drops one CR


def as_comment(text: bytes) -> bytes:
    """The text as comments of a job file, a line each."""
    return b"# %s\n" % text.replace(b"\n", b"\n# ")


def write_evicted(path: str, evicted: dict[Node, str]) -> None:
    """Write the nodes, those of one reason together behind it as a comment. Raises OSError."""
    reasons: dict[str, list[Node]] = {}
    for node, why in evicted.items():
        reasons.setdefault(" ".join(why.split()), []).append(node)
    with _replacing(path) as file:
        for why, nodes in reasons.items():
            file.write(f"# {why}\n".encode("utf-8", "backslashreplace"))
            file.writelines(node.text.encode("utf-8", "surrogateescape") + b"\n" for node in nodes)
