"""What is a bug of clstr's own ends a run in one line, and loses nothing on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

BROKEN = """
from clstr.scheduler import Scheduler
def {name}(self, *arguments):
    raise OverflowError("injected")
Scheduler.{name} = {name}
from clstr.cli import main
raise SystemExit(main())
"""


def broken(name: str, directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BROKEN.format(name=name), *arguments]
    reading, writing = os.pipe()
    try:
        return subprocess.run(command, cwd=directory, stdin=reading, capture_output=True, text=True, timeout=60)
    finally:
        os.close(reading)
        os.close(writing)


def test_an_error_in_a_callback_ends_the_run_in_one_line_and_the_rest_is_written(tmp_path: Path) -> None:
    # ``quiet`` is told by a timer while the stream, a pipe that says nothing, is waited for.
    result = broken("quiet", tmp_path, "-n", ": slots=2", "-j", "sleep 60", "-J", "-", "--unfinished", "rest.txt")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "stuck [this is a bug in clstr]: OverflowError: injected" in result.stderr
    assert (tmp_path / "rest.txt").read_text().splitlines()[0] == "sleep 60"


def test_an_error_in_a_task_ends_the_run_in_one_line(tmp_path: Path) -> None:
    result = broken("connected", tmp_path, "-n", ":", "-j", "echo never")
    assert (result.returncode, result.stdout) == (1, "")
    assert "Traceback" not in result.stderr
    assert "1 of 1 jobs not done: stuck [this is a bug in clstr]: OverflowError: injected" in result.stderr


def test_output_that_nobody_reads_does_not_keep_a_stopped_run_alive(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    run = subprocess.Popen(
        [sys.executable, "-m", "clstr", "-n", ":", "-A", "active", "-j", "yes"],
        cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=writing, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        os.close(writing)
        while not (tmp_path / "active").exists() or not (tmp_path / "active").read_text():
            assert run.poll() is None
        run.send_signal(signal.SIGTERM)
        _, said = run.communicate(timeout=60)
        assert run.returncode == 128 + signal.SIGTERM
        assert "1 of 1 jobs not done: stopped by SIGTERM" in said
    finally:
        run.kill()
        run.wait()
        os.close(reading)


def test_a_run_under_nohup_outlives_the_hangup(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job = f"echo begun; until [ -e {gate} ]; do sleep 0.05; done; echo survived"
    run = subprocess.Popen(
        ["nohup", sys.executable, "-m", "clstr", "-n", ":", "-j", job],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert run.stdout is not None
        assert run.stdout.readline() == b"begun\n"
        run.send_signal(signal.SIGHUP)
        gate.touch()
        said, _ = run.communicate(timeout=60)
        assert (run.returncode, said) == (0, b"survived\n")
    finally:
        gate.touch()
        run.kill()
        run.wait()


def test_an_interrupt_before_the_run_has_begun_is_no_traceback(tmp_path: Path) -> None:
    # The node file is a pipe that says nothing: clstr waits for it before there is a run.
    os.mkfifo(tmp_path / "nodes")
    run = subprocess.Popen(
        [sys.executable, "-m", "clstr", "-N", "nodes", "-j", "true"],
        cwd=tmp_path, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        with open(tmp_path / "nodes", "wb"):  # opens when clstr has opened it
            run.send_signal(signal.SIGINT)
            _, said = run.communicate(timeout=60)
        assert (run.returncode, said) == (-signal.SIGINT, b"")
    finally:
        run.kill()
        run.wait()
