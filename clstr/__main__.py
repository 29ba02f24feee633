"""The ``clstr`` command, also as ``python -m clstr``."""

import signal
import sys


def main() -> int:
    """Run the command line; gives the exit status."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Until the run listens to signals itself, ^C ends clstr as it ends cat: in silence, wherever it falls.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from clstr.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
