"""The files of a node by SFTP, over a connection that is open, for results to be copied from."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterator
from typing import cast

import asyncssh

from clstr.transport.landing import FetchFailed, Found, Kind, shown
from clstr.transport.ssh_dial import error_in_words

BLOCK = 64 * 1024
"""Bytes of one request; a server may give less."""

AHEAD = 8 * BLOCK
"""Bytes that are asked for at once: what a copy may have in memory."""

KINDS = {asyncssh.FILEXFER_TYPE_REGULAR: Kind.FILE, asyncssh.FILEXFER_TYPE_DIRECTORY: Kind.DIRECTORY}


class SftpTree:
    """A node's files. Its methods raise FetchFailed, and whatever else a hostile reply sets off in asyncssh."""

    def __init__(self, sftp: asyncssh.SFTPClient) -> None:
        self._sftp = sftp

    async def look(self, path: bytes) -> Found | None:
        with _about(path):
            try:
                return _found(await self._sftp.lstat(path))
            except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
                return None

    async def list(self, path: bytes) -> AsyncGenerator[tuple[bytes, Found], None]:
        with _about(path):
            entries = cast(AsyncGenerator[asyncssh.SFTPName, None], self._sftp.scandir(path))
            async with contextlib.aclosing(entries):
                async for entry in entries:
                    yield cast(bytes, entry.filename), _found(entry.attrs)

    async def read(self, path: bytes) -> AsyncGenerator[bytes, None]:
        with _about(path):
            file = await self._sftp.open(path, asyncssh.FXF_READ, encoding=None, block_size=BLOCK)
            offset = 0
            try:
                while data := cast(bytes, await file.read(AHEAD, offset)):
                    offset += len(data)
                    yield data
            finally:
                with contextlib.suppress(asyncssh.Error, OSError):
                    await file.close()


@contextlib.contextmanager
def _about(path: bytes) -> Iterator[None]:
    """What goes wrong has to do with this path."""
    try:
        yield
    except (asyncssh.Error, OSError) as error:
        raise FetchFailed(f"{shown(path)}: {error_in_words(error)}", again=True) from None


def _found(attrs: asyncssh.SFTPAttrs) -> Found:
    times = None if attrs.atime is None or attrs.mtime is None else (attrs.atime, attrs.mtime)
    return Found(KINDS.get(attrs.type, Kind.OTHER), bool((attrs.permissions or 0) & 0o111), times)
