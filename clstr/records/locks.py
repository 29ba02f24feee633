"""The locks of jobs in a run directory that several runs share: ``NAME.lock`` holds ``HOST PID START``.

- A lock is made by link(2) of a file that is finished, so there is none that says nothing, and of two that want it one
  gets it, on NFS too.
- It is stale when on this host no such process lives that began then; START is there because numbers of processes come
  again. A stale lock is replaced under a flock of the directory: else two that find it stale could each remove the
  other's new one.
- Whether a process on another host lives cannot be told from here: its lock stands until somebody removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clstr.records.files import write_all


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock."""

    host: str
    pid: int
    start: str

    @property
    def line(self) -> bytes:
        """What the lock's file says."""
        return f"{self.host} {self.pid} {self.start}\n".encode("utf-8", "surrogateescape")

    def __str__(self) -> str:
        return f"{self.host} {self.pid}"


def this_process() -> Holder:
    """The holder of this run's locks."""
    return Holder("".join(socket.gethostname().split()) or "localhost", os.getpid(), _start_of(os.getpid()) or "?")


def take(path: str, me: Holder) -> tuple[Holder | str | None, Holder | None]:
    """Take the lock: gives who holds it instead, if anybody, and whose stale lock was replaced, if one was.

    Raises OSError.
    """
    if _link(path, me):
        return None, None
    with _alone_in(os.path.dirname(path)):
        holder = read(path)
        if isinstance(holder, Holder) and _is_gone(holder, me):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return (None, holder) if _link(path, me) else (read(path), None)
    return holder, None


def release(path: str) -> None:
    """Give the lock back. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def read(path: str) -> Holder | str:
    """Who holds the lock; words about it where it cannot be read."""
    try:
        host, pid, start = Path(path).read_bytes().decode("utf-8", "surrogateescape").split()
        return Holder(host, int(pid), start)
    except FileNotFoundError:
        return "a run that has just ended"
    except (OSError, ValueError):
        return f"somebody ({path} is none of clstr's: remove it if nobody is at work)"


def _link(path: str, me: Holder) -> bool:
    finished = f"{path}.{me.host[:24]}.{me.pid}"  # a name has 255 bytes, of which the job's may have 200
    fd = os.open(finished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        write_all(fd, me.line)
        os.link(finished, path)
    except FileExistsError:
        return False
    finally:
        os.close(fd)
        os.unlink(finished)
    return True


@contextlib.contextmanager
def _alone_in(directory: str) -> Iterator[None]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # no locks here: then a run alone is all that is safe
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _is_gone(holder: Holder, me: Holder) -> bool:
    if holder.host != me.host:
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass  # it lives, and is somebody else's
    start = _start_of(holder.pid)
    return start is not None and start != holder.start


def _start_of(pid: int) -> str | None:
    """When the process began, in a word; ``dead`` for one that nobody has waited for, None where that is not known."""
    with contextlib.suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()  # proc(5)
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
        return "dead" if fields[0] in ("Z", "X") else f"{boot}-{fields[19]}"
    with contextlib.suppress(OSError):
        shown = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return "-".join(shown.stdout.split()) or None
    return None
