"""clstr as a user starts it: a process of its own, whose end and words are looked at from outside.

Rules:
- stdout and stderr go to files unless a test says otherwise, so that clstr never waits for the test.
- Nothing of the user's reaches it: an empty home directory, no agent, no terminal but the test's own.
- ``stop`` ends what is left of it. A traceback, or a bug that clstr itself tells of, fails the test.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cluster.sshd import descendants, kill, until

LONGEST = 60.0
"""Seconds after which a run is believed to hang."""


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    status: int
    stdout: bytes
    stderr: str

    @property
    def lines(self) -> list[str]:
        """The lines of stdout, sorted: their order is the jobs' own affair."""
        return sorted(self.stdout.decode().splitlines())


TREE = Path(__file__).parents[2]
"""What is tested stands beside the tests, whatever copy of clstr the interpreter has installed."""


def environment(directory: Path) -> dict[str, str]:
    """A bare environment, with ``directory`` as the home."""
    bare = {"PATH": os.environ["PATH"], "HOME": str(directory), "LC_ALL": "C.UTF-8", "TERM": "xterm"}
    return bare | {"PYTHONPATH": str(TREE)}


class Process:
    """A process under way."""

    def __init__(self, command: Sequence[str | bytes | Path], directory: Path, **options: Any) -> None:
        self._out = Path(tempfile.mkstemp(prefix="stdout-", dir=directory)[1])
        self._err = Path(tempfile.mkstemp(prefix="stderr-", dir=directory)[1])
        with self._out.open("wb") as out, self._err.open("wb") as err:
            settings: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err, "cwd": directory}
            settings["env"] = environment(directory) | options.pop("env", {})
            # What runs the tests may ignore signals, and an ignored signal is inherited: clstr must get its own.
            self.process = subprocess.Popen(command, **(settings | options), preexec_fn=_default_signals)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stdin(self) -> IO[bytes]:
        """Its standard input, where that is a pipe of the test's."""
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        """Its standard output, where that is a pipe of the test's."""
        assert self.process.stdout is not None
        return self.process.stdout

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def give(self, text: bytes) -> None:
        """Write to its standard input."""
        self.stdin.write(text)
        self.stdin.flush()

    def printed(self) -> bytes:
        """What is on stdout so far."""
        return self._out.read_bytes()

    def said(self) -> str:
        """What is on stderr so far."""
        return self._err.read_text(errors="surrogateescape")

    def prints(self, text: bytes, times: int = 1) -> None:
        """Wait until stdout has the text so many times."""
        self._wait(lambda: self.printed().count(text) >= times, f"stdout has {text!r} {times} times")

    def says(self, text: str, times: int = 1) -> None:
        """Wait until stderr has the text so many times."""
        self._wait(lambda: self.said().count(text) >= times, f"stderr has {text!r} {times} times")

    def _wait(self, condition: Any, what: str) -> None:
        until(lambda: condition() or not self.running, what, 30)
        assert condition(), f"it ended before {what}: {self.said()}"

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def result(self) -> Result:
        """Wait for the end."""
        self.process.wait(LONGEST)
        return Result(self.process.returncode, self.printed(), self.said())

    def stop(self) -> None:
        """End it and what it started, if it has not ended, and check its words."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        if self.running:
            kill(lambda: descendants([self.pid]))
        self.process.wait(LONGEST)
        said = self.said()
        assert "Traceback" not in said
        assert "bug in clstr" not in said


def _default_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)


CLSTR = (sys.executable, "-m", "clstr")
"""The command, whatever is in PATH."""


def put_in_path(directory: Path, *flags: str | Path) -> dict[str, str]:
    """A ``clstr`` for shell lines that are to run unchanged: it adds the flags. Gives the environment for it."""
    script = directory / "bin" / "clstr"
    script.parent.mkdir()
    words = " ".join(f"'{word}'" for word in (*CLSTR, *flags))
    script.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    script.chmod(0o755)
    return {"PATH": f"{script.parent}:{os.environ['PATH']}"}
