"""Signals that come when the run is over, and the process not yet."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, os, signal, sys
from clstr.cli.ending import Ending, listen

class Runner:
    def drain(self, why): ...

async def run():
    listen(asyncio.get_running_loop(), Runner(), None, Ending())

signal.signal(signal.SIGINT, signal.SIG_DFL)
asyncio.run(run())
os.kill(os.getpid(), int(sys.argv[1]))
print("ended by itself")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_behind_the_end_of_the_run_changes_nothing(number: signal.Signals) -> None:
    command = [sys.executable, "-c", PROGRAM, str(number.value)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "ended by itself\n", "")
