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


AT_THE_VERY_END = """
import os, sys
from clstr.__main__ import main

class Last:
    def __del__(self, kill=os.kill, write=os.write, pid=os.getpid(), number=int(sys.argv.pop(1))):
        kill(pid, number)
        write(1, b"sent")

sys.last = Last()  # one of the last things that Python forgets
sys.exit(main())
"""


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_who_asks_while_python_ends_does_not_change_the_exit_status(number: signal.Signals) -> None:
    command = [sys.executable, "-c", AT_THE_VERY_END, str(number.value), "-n", ":", "-j", "true"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "sent", "")
