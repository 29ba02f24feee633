"""Runs a command and says what it cost: all of its processes, those too that outlive their parents.

    python -I -S measured.py FD SECONDS (tty|notty) COMMAND...

Writes a line of JSON to descriptor FD: the command's exit status, its wall time, the user and system time of all its
processes, and the peak resident memory of the largest of them in kB. A subreaper (prctl(2)) inherits what the command
leaves behind, such as the master of a shared connection; that gets a second to go by itself, and is then killed. A
command that takes longer than SECONDS is killed with all it started, and its status is null.

A program of its own, and a small one: a process counts as at least as large as the one that forked it (getrusage(2)).
``tty`` gives the command a controlling terminal, for what insists on /dev/tty; its standard streams stay as they are.
"""

import ctypes
import fcntl
import json
import os
import pty
import resource
import signal
import sys
import termios
import time

PR_SET_CHILD_SUBREAPER = 36

LEFTOVERS = 1.0
"""Seconds for which what the command left behind may go on."""


def main(report: int, seconds: float, terminal: bool, command: list[str]) -> None:
    """Run the command, and report."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.set_inheritable(report, False)
    signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    begun = time.monotonic()
    pid = start(command, terminal)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # who reads the command's output shall see its end
    try:
        status = reap(pid)
    except TimeoutError:
        status = None
    wall = time.monotonic() - begun
    signal.setitimer(signal.ITIMER_REAL, 0)
    end_the_rest()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {"status": status, "wall": wall, "cpu": used.ru_utime + used.ru_stime, "peak": used.ru_maxrss}
    os.write(report, json.dumps(found).encode() + b"\n")


def too_long(number: int, frame: object) -> None:
    """Its time is up."""
    raise TimeoutError


def start(command: list[str], terminal: bool) -> int:
    """Fork; the child becomes the command."""
    master, slave = pty.openpty() if terminal else (-1, -1)
    pid = os.fork()
    if pid:
        return pid
    if terminal:
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        os.close(master)
        os.close(slave)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    os._exit(127)


def reap(awaited: int) -> int:
    """Wait for this child, and bury whatever others end meanwhile."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == awaited:
            return os.waitstatus_to_exitcode(status)


def end_the_rest() -> None:
    """Reap what is left, by force when its time is up; what a killed parent leaves comes to us in turn."""
    deadline = time.monotonic() + LEFTOVERS
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            if time.monotonic() > deadline:
                with open(f"/proc/self/task/{os.getpid()}/children") as file:
                    for child in file.read().split():
                        os.kill(int(child), signal.SIGKILL)
            time.sleep(0.01)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "tty", sys.argv[4:])
