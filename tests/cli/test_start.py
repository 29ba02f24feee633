"""What the start of a run is spared."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc, sys
from clstr.__main__ import main

collected = []
gc.callbacks.append(lambda phase, info: collected.append(phase))
collected_before = None

class Finder:
    def find_spec(self, name, *rest):
        global collected_before
        if name == "clstr.transport.local":  # what the first node needs is imported when it is dialed
            collected_before = list(collected)

sys.meta_path.insert(0, Finder())
gc.collect()
collected.clear()
main()
print(collected_before, gc.isenabled(), gc.get_freeze_count() > 0)
"""


def test_garbage_is_collected_in_a_run_but_not_in_its_start() -> None:
    command = [sys.executable, "-c", PROGRAM, "-n", ":", "-j", "true"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "[] True True\n", "")
