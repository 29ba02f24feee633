"""``output =`` and ``error =`` of a submit file: a stream of a job into a file of its own on this machine.

Rules:
- The file is truncated at each attempt and written as the output comes; its directory must be there. It is a regular
  file or the null device: a FIFO's reader could hold up everybody else.
- A stream that has its file reaches no mode; the other one does. One file for both gets both as they come.
- A file that cannot be opened refuses the attempt; one that cannot be written drains the run.
"""

from __future__ import annotations

import errno
import os
import stat

from clstr.model import Attempt, Flow, Sink
from clstr.output.console import Console
from clstr.output.writer import is_null

_CURE = "what the job prints from here on is lost: make room, or name another file"


def divert(attempt: Attempt, sink: Sink, console: Console) -> Sink:
    """The sink, or one before it that puts streams into the files that the job's terms name. Raises OSError."""
    paths = {"stdout": attempt.job.terms.output, "stderr": attempt.job.terms.error}
    named = {name: path for name, path in paths.items() if path is not None}
    if not named:
        return sink
    for path in named.values():
        # An attempt that never begins has no end either: so this only looks whether it can.
        os.close(_open(path, os.O_TRUNC))
    return _Diverted(sink, named, console)


def _open(path: str, flag: int = 0) -> int:
    # Without a reader a FIFO is an error then, instead of a wait.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    fd = os.open(path, flags | flag, 0o666)
    if not stat.S_ISREG(os.fstat(fd).st_mode) and not is_null(fd):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return fd


class _Diverted:
    __slots__ = ("_console", "_fds", "_paths", "_sink")

    def __init__(self, sink: Sink, paths: dict[str, str], console: Console) -> None:
        self._sink = sink
        self._paths = paths
        self._console = console
        self._fds: dict[str, int] = {}

    def begun(self, flow: Flow) -> None:
        self._sink.begun(flow)
        for name, path in self._paths.items():
            try:
                self._fds[name] = _open(path)
            except OSError as error:
                self._console.failed(path, error, _CURE)

    def stdout(self, data: bytes) -> None:
        if "stdout" in self._paths:
            self._write("stdout", data)
        else:
            self._sink.stdout(data)

    def stderr(self, data: bytes) -> None:
        if "stderr" in self._paths:
            self._write("stderr", data)
        else:
            self._sink.stderr(data)

    def finished(self) -> None:
        for name in tuple(self._fds):
            self._close(name)
        self._sink.finished()

    def _write(self, name: str, data: bytes) -> None:
        if name not in self._fds:  # it has failed
            return
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fds[name], view) :]
        except OSError as error:
            self._close(name)
            self._console.failed(self._paths[name], error, _CURE)

    def _close(self, name: str) -> None:
        try:
            os.close(self._fds.pop(name))
        except OSError as error:  # what a quota or a network file system tells only now
            self._console.failed(self._paths[name], error, _CURE)
