"""``--active-nodes FILE``: which nodes run which jobs at this moment, for other programs to read.

    n17: <'Job' 'make -C /data part7'>

Rules:
- One line per running job, oldest first; the command as Python's ``repr`` of its text, which is one line.
- FILE is replaced by rename, so a reader sees one moment whole. It is replaced at most ten times a second, is
  exact once nothing has changed for 0.1 s, and is empty at the end of the run. Its mode is 0600.
- FILE is absent or a regular file; where it is a symbolic link, the file that it names is replaced.
- The run holds a lock on it, whatever file has the name (see ``ReplacedFile``).
- This is a view: when it cannot be written, it is given up with one warning and the run goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from clstr.model import Attempt, BadInput, Ended, Fact, News, Started
from clstr.records.files import ReplacedFile

_PERIOD = 0.1  # seconds from one replacement to the next


class ActiveNodes:
    """The observer. It writes in the event loop: a small file, as a rule, in a local directory."""

    def __init__(self, path: str, warn: Callable[[str], None]) -> None:
        """Lock and empty the file, which is to happen before any connection. Raises BadInput."""
        self._warn = warn
        self._lines: dict[int, str] = {}
        self._written_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._file = ReplacedFile(path, "keeps its active nodes there", 0o600)
        try:
            self._replace()
        except OSError as error:
            self._file.close()
            raise BadInput(
                f"{path}: {error.strerror} (it is replaced by renaming: its directory must be writable)"
            ) from error

    def saw(self, when: float, event: Fact | News) -> None:
        """Enter a job that has started, and strike it out when it has ended."""
        match event:
            case Started(attempt):
                self._lines[attempt.job.id] = line(attempt)
            case Ended(attempt, _):
                if self._lines.pop(attempt.job.id, None) is None:
                    return
            case _:
                return
        if self._timer is None and self._file.is_open:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(self._written_at + _PERIOD, self._write, loop)

    def close(self) -> None:
        """Leave the file empty and unlocked."""
        if self._timer is not None:
            self._timer.cancel()
        self._lines.clear()
        if self._file.is_open:
            self._write(None)
        self._file.close()

    def _write(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._timer = None
        if loop is not None:
            self._written_at = loop.time()
        try:
            self._replace()
        except OSError as error:
            self._file.close()
            self._warn(f"{self._file.path}: {error.strerror} (no longer written; the run goes on without it)")

    def _replace(self) -> None:
        text = "".join(self._lines.values()).encode("utf-8", "backslashreplace")
        self._file.replace(lambda file: file.write(text))


def line(attempt: Attempt) -> str:
    """The attempt's line, with its newline; the form is the first clstr's."""
    command = attempt.job.command.decode("utf-8", "surrogateescape")
    return f"{attempt.slot.node.text}: <'Job' {command!r}>\n"
