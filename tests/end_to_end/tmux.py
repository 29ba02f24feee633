"""A real terminal emulator: tmux, which wraps old lines anew when its window is resized."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

from cluster.sshd import descendants, kill, until
from end_to_end.clstr_process import environment


class Tmux:
    """A window of its own server, in which one shell line runs; what it printed stays when it has ended."""

    def __init__(self, directory: Path, line: str, *, columns: int = 80, rows: int = 24) -> None:
        self._socket = directory / "tmux"
        self._environment = environment(directory) | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        self._status = directory / "tmux-status"
        script = directory / "tmux-line"
        self._shell = directory / "tmux-shell"
        script.write_text(
            f"echo $$ > {self._shell}\ncd {shlex.quote(str(directory))}\n{line}\necho $? > {self._status}\nsleep 1000\n"
        )
        size = ("-x", str(columns), "-y", str(rows))
        self._tmux("-f", "/dev/null", "new-session", "-d", *size, f"exec bash {script}")
        self._tmux("set-option", "-g", "history-limit", "50000")

    def _tmux(self, *words: str) -> str:
        command = ["tmux", "-S", str(self._socket), *words]
        return subprocess.run(command, env=self._environment, check=True, capture_output=True, text=True).stdout

    def resize(self, columns: int) -> None:
        """Drag the window's edge."""
        self._tmux("resize-window", "-x", str(columns))

    def screen(self) -> list[str]:
        """The screen's rows, without the empty ones at its end."""
        return self._tmux("capture-pane", "-p").rstrip("\n").split("\n")

    def lines(self) -> list[str]:
        """All lines printed so far, those that have scrolled away too; wrapped ones are whole."""
        shown = self._tmux("capture-pane", "-p", "-J", "-S", "-").rstrip("\n").split("\n")
        return [line.rstrip() for line in shown]

    def ended(self) -> int:
        """Wait for the line's end; gives its exit status."""
        until(lambda: self._status.exists() and self._status.read_text().endswith("\n"), "the line has ended", 30)
        return int(self._status.read_text())

    def close(self) -> None:
        """End what runs in it."""
        if self._shell.exists() and (shell := self._shell.read_text()):
            kill(lambda: descendants([int(shell)]))
        subprocess.run(["tmux", "-S", str(self._socket), "kill-server"], capture_output=True, check=False)
