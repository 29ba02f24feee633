"""Results come from a node to this machine: what it names is looked up there, and what it sends lands here.

``collect`` walks over a node's files, whichever way a ``Tree`` reaches them, and writes them below one directory of
this machine. A node may name and send anything; so these rules hold, whatever it says:

- Only base names decide what is written, and only below the directory that is open as ``Landing``: every file is made
  anew (``O_EXCL``), relative to the descriptor of the directory that it is in, and no link is followed or made.
- Names of entries that are none (with ``/``, ``..``, empty) or hold control characters end the copy.
- Files and directories are copied, nothing else: what a link leads to and what a device has to say stay there. Below a
  directory they are left out and counted; named themselves, they are an error.
- Every byte that is received counts towards the limit, and so does every name in a listing: neither endless files nor
  endless directories are endless here. A node that sends nothing for STALL seconds has failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import posixpath
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from clstr.transport.patience import in_thread, within

STALL = 60.0
"""Seconds without anything from a node after which a copy has failed."""

DEPTH = 64
"""Directories within each other that are copied at most; each keeps two descriptors open."""

LONGEST = 4096
"""Bytes of a result's path (PATH_MAX)."""

NAMED = 3
"""Links and devices left out that are named."""

ENTRY = 64
"""Bytes that an entry of a listing counts beyond its name: its attributes."""


class FetchFailed(Exception):
    """Results could not be copied here; the text says which and why. ``again``: it may be otherwise the next time."""

    def __init__(self, why: str, again: bool = False) -> None:
        super().__init__(why)
        self.again = again


class Kind(enum.Enum):
    """What a name stands for."""

    FILE = "file"
    DIRECTORY = "directory"
    OTHER = "link, device or the like"


@dataclass(frozen=True, slots=True)
class Found:
    """What stands under a name; times in Unix seconds, None where the node does not say."""

    kind: Kind
    executable: bool = False
    times: tuple[float, float] | None = None


class Tree(Protocol):
    """The files of a node. Every method raises FetchFailed; none raises OSError, which is this machine's."""

    async def look(self, path: bytes) -> Found | None:
        """What stands there, links not followed; None where nothing does."""

    def list(self, path: bytes) -> AsyncGenerator[tuple[bytes, Found], None]:
        """The entries of a directory, as the node gives them."""

    def read(self, path: bytes) -> AsyncGenerator[bytes, None]:
        """The bytes of a file, in pieces that are not empty."""


class Landing:
    """A directory of this machine, open as ``fd``, that takes ``limit`` bytes; it stays the caller's to close."""

    def __init__(self, fd: int, limit: int) -> None:
        self.fd = fd
        self.left_out: list[bytes] = []
        """The first NAMED of the links and devices that were not copied."""
        self.left_out_count = 0
        self.answers = 0
        """How often the node sent something."""
        self._limit = limit
        self._left = limit

    def count(self, size: int) -> None:
        """So many bytes were received. Raises FetchFailed."""
        self.answers += 1
        self._left -= size
        if self._left < 0:
            raise FetchFailed(f"more than {self._limit:,} bytes (see --results-limit)")


async def collect(
    tree: Tree, names: Sequence[bytes], landing: Landing, *, home: bytes = b"", directory: bytes | None = None
) -> None:
    """Copy what the names stand for into the landing.

    Relative names begin at the job's ``directory``, which may itself begin at ``home``, or where the tree does. A name
    is a file's, a directory's or, where there is neither, how the names of several begin. Raises FetchFailed, OSError
    for what this machine cannot do, and what the tree raises.
    """
    work = asyncio.ensure_future(_collect(tree, names, landing, home, directory))
    try:
        while not work.done():
            before = landing.answers
            try:
                async with within(STALL):
                    await asyncio.wait([work])
            except TimeoutError:
                if landing.answers == before:
                    raise FetchFailed(f"nothing came for {STALL:g} s", again=True) from None
        work.result()
    finally:
        # Whoever leaves early does not wait for a node that says nothing: asyncssh wants an answer to each file that it
        # closes. Every turn ends one such wait.
        while not work.done():
            work.cancel()
            await asyncio.sleep(0)


async def _collect(
    tree: Tree, names: Sequence[bytes], landing: Landing, home: bytes, directory: bytes | None
) -> None:
    place = b"" if directory is None else _from_home(directory, home)
    taken: dict[bytes, bytes] = {}  # the path of each base name
    for name in dict.fromkeys(names):
        matched = False
        async with contextlib.aclosing(_results(tree, name, _from_home(name, home, place), landing)) as results:
            async for path, base, found in results:
                matched = True
                if base in taken:
                    raise FetchFailed(f"{shown(taken[base])} and {shown(path)} have one name")
                taken[base] = path
                await _copy(tree, path, found, landing, landing.fd, base)
        if not matched:
            raise FetchFailed(f"{shown(name)}: nothing there has this name or begins with it")


def _from_home(path: bytes, home: bytes, place: bytes = b"") -> bytes:
    """The path, from ``home`` if it begins with ``~``, else from ``place``."""
    if path == b"~" or path.startswith(b"~/"):
        return posixpath.join(home, path[2:])
    return posixpath.join(place, path)


async def _results(
    tree: Tree, name: bytes, path: bytes, landing: Landing
) -> AsyncGenerator[tuple[bytes, bytes, Found], None]:
    """The path, base name and kind of each result that the name stands for."""
    bare = path.rstrip(b"/")
    base = posixpath.basename(bare)
    if base in (b"", b".", b"..") or b"\0" in name or len(path) > LONGEST:
        raise FetchFailed(f"{shown(name)}: is no name that a copy could have here")
    found = await tree.look(bare)
    landing.answers += 1
    if found is not None:
        if found.kind is Kind.OTHER:
            raise FetchFailed(f"{shown(name)}: is neither a file nor a directory, and links are not followed")
        _check_entry(base, name)
        yield bare, base, found
        return
    parent = posixpath.dirname(bare)
    if path != bare or (parent and await tree.look(parent) is None):
        return
    async with contextlib.aclosing(_entries(tree, parent or b".", landing)) as entries:
        async for entry, found in entries:
            if entry.startswith(base) and _is_wanted(found, posixpath.join(parent, entry), landing):
                yield posixpath.join(parent, entry), entry, found


def _is_wanted(found: Found, path: bytes, landing: Landing) -> bool:
    if found.kind is not Kind.OTHER:
        return True
    landing.left_out_count += 1
    if len(landing.left_out) < NAMED:
        landing.left_out.append(path)
    return False


async def _copy(
    tree: Tree, path: bytes, found: Found, landing: Landing, parent: int, name: bytes, depth: int = 0
) -> None:
    """Copy it to ``name`` in the directory that ``parent`` is open for."""
    if depth > DEPTH:
        raise FetchFailed(f"{shown(path)}: deeper than {DEPTH} directories")
    if found.kind is Kind.FILE:
        mode = 0o777 if found.executable else 0o666  # and the umask
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode, dir_fd=parent)
    else:
        os.mkdir(name, dir_fd=parent)
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        if found.kind is Kind.FILE:
            async with contextlib.aclosing(tree.read(path)) as pieces:
                async for data in pieces:
                    landing.count(len(data))
                    await in_thread(_write, os.dup(fd), data)
        else:
            async with contextlib.aclosing(_entries(tree, path, landing)) as entries:
                async for entry, inner in entries:
                    inside = posixpath.join(path, entry)
                    if _is_wanted(inner, inside, landing):
                        await _copy(tree, inside, inner, landing, fd, entry, depth + 1)
        if found.times is not None:
            with contextlib.suppress(OSError, OverflowError, ValueError):  # times may be nonsense
                os.utime(fd, found.times)
    finally:
        os.close(fd)


def _write(fd: int, data: bytes) -> None:
    """Write and close: the descriptor is the thread's own, lest it write to what has its number next."""
    try:
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


async def _entries(tree: Tree, path: bytes, landing: Landing) -> AsyncGenerator[tuple[bytes, Found], None]:
    """What a directory holds, each name counted and fit to be a file's."""
    async with contextlib.aclosing(tree.list(path)) as listing:
        async for entry, found in listing:
            landing.count(len(entry) + ENTRY)
            if entry not in (b".", b".."):
                _check_entry(entry, path)
                yield entry, found


def _check_entry(entry: bytes, path: bytes) -> None:
    if not entry or b"/" in entry or entry in (b".", b"..") or any(byte < 32 or byte == 127 for byte in entry):
        raise FetchFailed(f"{shown(path)}: a name there is none for a file here: {shown(entry)}")


def shown(name: bytes) -> str:
    """A name as messages have it; what a node makes up may be long."""
    text = name.decode("utf-8", "replace")
    return repr(text if len(text) <= 100 else f"{text[:97]}...")
