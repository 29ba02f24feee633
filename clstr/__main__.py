"""The ``clstr`` command, also as ``python -m clstr``."""

import contextlib
import gc
import os
import signal
import sys


def main() -> int:
    """Run the command line; gives the exit status."""
    gc.disable()  # the start makes much and drops little; once it is over, the run collects what it drops itself
    _fill_standard_descriptors()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Until the run listens to signals itself, ^C ends clstr as it ends cat: in silence, wherever it falls.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    asking = (signal.SIGUSR1, getattr(signal, "SIGINFO", signal.SIGUSR1))
    for number in asking:
        signal.signal(number, _list_nothing)  # who asks early must not end the run
    from clstr.cli import main as run

    status = run()
    for number in (*asking, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # who asks late must not either: while Python ends, handlers are no more
    return status


def _fill_standard_descriptors() -> None:
    """Fill those that are closed with the null device, as ssh does, lest a file or a socket get their number.

    It takes what is written; to read a standard input that is not there stays an error.
    """
    while (fd := os.open(os.devnull, os.O_WRONLY)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def _list_nothing(number: int, frame: object) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"clstr: no job is running\n")


if __name__ == "__main__":
    sys.exit(main())
