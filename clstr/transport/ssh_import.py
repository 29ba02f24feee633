"""Importing asyncssh without what it does in vain.

asyncssh looks for libraries that it can do without as it is imported. Two of these searches are long:

* liboqs (the key exchange sntrup761), by ``ctypes.util.find_library``. Where it is not installed, that runs
  ldconfig, gcc and ld before it gives up. The linker's cache says the same at once. Only a "no" is given here,
  where the dynamic linker could not load the library under any name; otherwise, and where glibc's cache is not
  there (musl, macOS, BSD), ctypes is asked as ever.
* X.509, which needs pyOpenSSL. Where that is not installed, asyncssh finds it out after it has loaded all of
  ``cryptography.x509``. Here it finds it out before.

So what asyncssh can do stays the same.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

CACHE = "/etc/ld.so.cache"
"""What the dynamic linker knows of the directories in /etc/ld.so.conf (ld.so(8), ldconfig(8))."""

X509 = "asyncssh.crypto.x509"
"""What asyncssh does without where importing it fails."""


@contextlib.contextmanager
def nothing_in_vain() -> Iterator[None]:
    """For the time of an import: what cannot be there is neither looked for by compilers nor loaded in parts."""
    find = ctypes.util.find_library
    ctypes.util.find_library = lambda name: find(name) if may_be_there(name) else None
    loaded = cast(dict[str, Any], sys.modules)
    no_x509 = X509 not in loaded and importlib.util.find_spec("OpenSSL") is None
    if no_x509:
        loaded[X509] = None  # Python's word for a module that is not there (reference, section 5.3.1)
    try:
        yield
    finally:
        ctypes.util.find_library = find
        if no_x509:
            del loaded[X509]


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
