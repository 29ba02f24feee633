"""``python -m clstr`` is the ``clstr`` command."""

import sys

from clstr.cli import main

if __name__ == "__main__":
    sys.exit(main())
