"""clstr is called by nobody: it opens no port, whatever it runs (expjobserver listened on TCP 3030 for anybody)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cluster.sshd import Cluster
from end_to_end.clstr_process import Process

LISTENED_TO = """
import sys
sys.addaudithook(lambda event, arguments: event == "socket.bind" and print("bound", arguments, file=sys.stderr))
"""
"""A beginning that tells of every address that the process takes (Python's audit events)."""


def test_a_process_that_takes_an_address_is_seen() -> None:
    script = f"{LISTENED_TO}\nimport socket\nsocket.create_server(('127.0.0.1', 0))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stderr.startswith("bound ")


def test_a_run_takes_no_address(nodes: Cluster, tmp_path: Path) -> None:
    script = f"{LISTENED_TO}\nfrom clstr.cli import main\nsys.exit(main())"
    flags = ["-F", nodes.ssh_config, "-n", "n[1-3]", ":", "-A", "active", "-s", *["-j", "echo ran"] * 9]
    run = Process([sys.executable, "-c", script, *map(str, flags)], tmp_path)
    result = run.result()
    run.stop()
    assert (result.status, result.stdout) == (0, b"ran\n" * 9)
    assert "bound" not in result.stderr
