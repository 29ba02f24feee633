"""Importing asyncssh without a wait for compilers.

asyncssh looks for liboqs (the key exchange sntrup761) as it is imported, by ``ctypes.util.find_library``. Where
the library is not installed, that runs ldconfig, gcc and ld before it gives up: as long as a tenth of a second of
every start. The linker's cache says the same at once. Its rules:

* Only a "no" is given here, and only where the dynamic linker could not load the library under any name;
  otherwise ctypes is asked as ever, so that what the key exchange offers stays the same.
* Where glibc's cache is not there (musl, macOS, BSD), ctypes is asked as ever.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

CACHE = "/etc/ld.so.cache"
"""What the dynamic linker knows of the directories in /etc/ld.so.conf (ld.so(8), ldconfig(8))."""


@contextlib.contextmanager
def without_compilers() -> Iterator[None]:
    """For the time of an import: a library that cannot be loaded is not looked for by compilers."""
    find = ctypes.util.find_library
    ctypes.util.find_library = lambda name: find(name) if may_be_there(name) else None
    try:
        yield
    finally:
        ctypes.util.find_library = find


def may_be_there(name: str, cache: str = CACHE, directories: Sequence[str] | None = None) -> bool:
    """Whether the dynamic linker may find a library that ``find_library`` gives for this name.

    ``directories`` are those it searches besides its cache. In them a compiler finds ``lib<name>.so`` alone; in
    the cache ldconfig finds every version.
    """
    try:
        known = Path(cache).read_bytes()
    except OSError:
        return True
    if f"lib{name}.".encode() in known:
        return True
    places = _searched() if directories is None else directories
    return any(os.path.exists(os.path.join(place, f"lib{name}.so")) for place in places)


def _searched() -> list[str]:
    """The directories of ld.so(8): $LD_LIBRARY_PATH, the built-in ones, and Python's own (an RPATH, as conda has)."""
    multiarch = f"{os.uname().machine}-linux-gnu"
    given = os.environ.get("LD_LIBRARY_PATH", "").replace(";", ":").split(":")
    built_in = [f"{root}/{lib}" for root in ("", "/usr") for lib in ("lib", "lib64", f"lib/{multiarch}")]
    return [*given, *built_in, *(os.path.join(prefix, "lib") for prefix in (sys.prefix, sys.base_prefix))]
