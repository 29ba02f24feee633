"""A command once on every node by the parallel-ssh library; its output is printed.

    by_library.py SITE COMMAND

SITE as in floor.py. Run by a Python whose environment has the library; the library checks no host keys.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pssh.clients import ParallelSSHClient


def main(site: str, command: str) -> None:
    """Run it, 64 connections at once."""
    told = json.loads(Path(site).read_text())
    client = ParallelSSHClient(
        told["hosts"], user=told["user"], port=told["port"], pkey=told["key"], allow_agent=False, pool_size=64
    )
    for output in client.run_command(command):
        for line in output.stdout:
            print(line)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
