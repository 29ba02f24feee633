"""What stands around a console in these tests: a job's tap, the other ends of pipes, what is reported."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable

from clstr.output.console import Console, Files


class Tap:
    """A job's output that can be held back."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()

    def pause(self) -> None:
        self.open.clear()

    def resume(self) -> None:
        self.open.set()


class Reader:
    """The other end of a pipe. Reads nothing before ``go``, or as it comes."""

    def __init__(self, waits: bool = False, keeps: bool = True) -> None:
        self.fd, self.writing_fd = os.pipe()
        self.data = bytearray()
        self.count = 0
        self._keeps = keeps
        self.go = threading.Event()
        if not waits:
            self.go.set()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        self.go.wait(60)
        while chunk := os.read(self.fd, 1 << 16):
            self.count += len(chunk)
            if self._keeps:
                self.data += chunk
        os.close(self.fd)

    def all(self) -> bytes:
        """Everything, once the writing end is closed here."""
        os.close(self.writing_fd)
        self.go.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        return bytes(self.data)


class Calls:
    """What the console reported."""

    def __init__(self) -> None:
        self.broken: list[str] = []
        self.failed: list[tuple[str, int | None]] = []

    def on_broken(self, name: str) -> None:
        self.broken.append(name)

    def on_failed(self, name: str, error: OSError) -> None:
        self.failed.append((name, error.errno))


made: list[Console] = []
"""The consoles of this test; their threads are ended behind it."""


def console(
    stdout: int, stderr: int, messages: int | None = None, calls: Calls | None = None, color: str = "never"
) -> Console:
    """A console on these descriptors."""
    calls = calls or Calls()
    files = Files(stdout, stderr, stderr if messages is None else messages)
    made.append(Console(files, asyncio.get_running_loop(), calls.on_broken, calls.on_failed, color))
    return made[-1]


def end_threads() -> None:
    """Behind each test."""
    while made:
        made.pop().close()


async def until(condition: Callable[[], object]) -> None:
    """Wait for a fact."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - the condition is a fact of another thread
            await asyncio.sleep(0.005)
