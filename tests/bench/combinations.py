"""What a matrix costs: peak memory and CPU of reading all its combinations, as a run would take them.

    combinations.py [DIGITS...]      10**DIGITS combinations each (3 and 7 unless given)

Prints a line for each: combinations, peak resident memory in MB, CPU microseconds for each of them.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from clstr.inputs.jobs import JobStream
from clstr.inputs.templates import Templates

AT_ONCE = 256


def read(digits: int) -> None:
    """Read them all in this process, and print what that took."""
    keys = [f"K{n}" for n in range(digits)]
    command = " ".join(["simulate", *(f"{{{key}}}" for key in keys), "{SECRET}", "{MACHINE}"]).encode()
    templates = Templates({"SECRET": b"value"}, dict.fromkeys(keys, "0123456789"))
    begun, count = time.process_time(), 0
    stream = JobStream([command], [], longest=10_000, templates=templates)
    while jobs := stream.at_hand(AT_ONCE):
        count += len(jobs)
    spent = time.process_time() - begun
    status = Path("/proc/self/status").read_text().splitlines()
    [peak] = [line.split()[1] for line in status if line.startswith("VmHWM")]
    print(f"{count:>10}  {int(peak) / 1024:6.1f} MB  {spent / count * 1e6:5.1f} us")


def main(arguments: list[str]) -> None:
    """Each in a process of its own, whose peak is its own."""
    if arguments[:1] == ["--here"]:
        read(int(arguments[1]))
        return
    for digits in arguments or ["3", "7"]:
        subprocess.run([sys.executable, __file__, "--here", digits], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
