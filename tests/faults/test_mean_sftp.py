"""Results from nodes whose SFTP server lies: whatever it names and sends, nothing is written but below one place."""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from cluster.sshd import Cluster
from faults.mean_nodes import add_node
from faults.mean_servers import ADDRESS, Stage

from clstr.model import Node
from clstr.transport import FetchFailed, Landing, landing
from clstr.transport.ssh import SshSettings, SshTransport

PATIENCE = 30.0
"""Seconds after which a scenario has failed."""

FILE, FOLDER, LINK = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777
PIPE, DEVICE, SOCKET = stat.S_IFIFO | 0o644, stat.S_IFCHR | 0o644, stat.S_IFSOCK | 0o644


def attrs(mode: int) -> asyncssh.SFTPAttrs:
    return asyncssh.SFTPAttrs(permissions=mode, size=2**63, atime=2**32 - 1, mtime=2**32 - 1)


class Liar(asyncssh.SFTPServer):
    """A server on which ``out`` is a directory that holds what ``entries`` says, and every file is ``content``."""

    def __init__(self, channel: Any, entries: list[tuple[bytes, int]], content: bytes = b"x\n") -> None:
        super().__init__(channel)
        self.entries = entries
        self.content = content

    def lstat(self, path: bytes) -> asyncssh.SFTPAttrs:
        return attrs(FOLDER)

    async def scandir(self, path: bytes) -> AsyncIterator[asyncssh.SFTPName]:
        for name, mode in self.entries:
            yield asyncssh.SFTPName(name, attrs=attrs(mode))

    def open(self, path: bytes, pflags: int, attrs: object) -> object:
        return path

    async def read(self, file_obj: object, offset: int, size: int) -> bytes:
        return self.content[offset : offset + size]

    def close(self, file_obj: object) -> None:
        """There is nothing to close."""


class Endless(Liar):
    """Every file and every directory goes on for ever."""

    async def scandir(self, path: bytes) -> AsyncIterator[asyncssh.SFTPName]:
        number = 0
        while True:
            number += 1
            name, mode = self.entries[0]
            yield asyncssh.SFTPName(name % number if b"%" in name else name, attrs=attrs(mode))
            await asyncio.sleep(0)

    async def read(self, file_obj: object, offset: int, size: int) -> bytes:
        return bytes(size)


class TooMuch(Liar):
    """More is sent than was asked for, and never an end."""

    async def read(self, file_obj: object, offset: int, size: int) -> bytes:
        return bytes(size + 50_000)


class Silent(Liar):
    """Nothing is answered from the moment that ``silent_at`` names."""

    silent_at = ""
    is_silent = False

    async def lstat(self, path: bytes) -> asyncssh.SFTPAttrs:  # type: ignore[override]
        await self._fall_silent("lstat")
        return attrs(FOLDER)

    async def scandir(self, path: bytes) -> AsyncIterator[asyncssh.SFTPName]:
        await self._fall_silent("scandir")
        yield asyncssh.SFTPName(b"a", attrs=attrs(FILE))

    async def read(self, file_obj: object, offset: int, size: int) -> bytes:
        await self._fall_silent("read")
        return b""

    async def _fall_silent(self, where: str) -> None:
        if where == self.silent_at or self.is_silent:
            Silent.is_silent = True
            await asyncio.Event().wait()

    async def close(self, file_obj: object) -> None:  # type: ignore[override]
        await self._fall_silent("close")


class Nothing(Liar):
    """Its attributes do not say what a name stands for."""

    def lstat(self, path: bytes) -> asyncssh.SFTPAttrs:
        return asyncssh.SFTPAttrs()


Fetch = Callable[..., dict[str, bytes | None]]


@pytest.fixture
def fetch(stage: Stage, cluster: Callable[..., Cluster], tmp_path: Path) -> Fetch:
    """Fetches ``out``, or other names, from a server; gives what came, and looks for what must not have come."""
    nodes = cluster(nodes=1)

    def fetch(
        server: Callable[[Any], asyncssh.SFTPServer], *names: bytes, leave: Callable[[], bool] | None = None
    ) -> dict[str, bytes | None]:
        port = stage.ssh(asyncssh.SSHServer, sftp_factory=server)
        add_node(nodes, "liar", ADDRESS, port)
        place = tmp_path / "above" / "place"
        place.mkdir(parents=True)

        async def get() -> None:
            transport = SshTransport(SshSettings(str(nodes.ssh_config)))
            connection = await transport.connect(Node("liar", "liar"))
            fd = os.open(place, os.O_RDONLY)
            try:
                async with asyncio.timeout(PATIENCE):
                    work = asyncio.create_task(connection.fetch(names or (b"out",), None, Landing(fd, 1_000_000)))
                    while leave is not None and not leave():  # noqa: ASYNC110 - the server's thread does not tell
                        await asyncio.sleep(0.01)
                    if leave is not None:
                        work.cancel()
                    await work
            finally:
                os.close(fd)
                connection.close()
                await transport.close()

        try:
            asyncio.run(get())
        finally:
            assert sorted(path.name for path in (tmp_path / "above").iterdir()) == ["place"]
            for path in place.rglob("*"):
                assert path.is_dir() or path.is_file()
                assert not path.is_symlink()
        return {
            str(path.relative_to(place)): None if path.is_dir() else path.read_bytes() for path in place.rglob("*")
        }

    return fetch


@pytest.mark.parametrize(
    "name",
    [
        *(b"../evil", b"../../evil", b"/tmp/evil", b"a/b", b"a/../../evil"),
        *(b"", b"/", b"..//", b"a\nb", b"\x1b[2J", b"\x7f", b"a\0b"),
    ],
)
def test_names_that_are_none_end_the_copy(name: bytes, fetch: Fetch) -> None:
    with pytest.raises(FetchFailed, match="a name there is none for a file here"):
        fetch(lambda channel: Liar(channel, [(b".", FOLDER), (b"..", FOLDER), (b"good", FILE), (name, FILE)]))


@pytest.mark.parametrize("name", [b"../evil", b"a/b", b"a\nb"])
def test_such_names_end_a_copy_of_what_begins_so_too(name: bytes, fetch: Fetch) -> None:
    class Prefix(Liar):
        def lstat(self, path: bytes) -> asyncssh.SFTPAttrs:
            raise asyncssh.SFTPNoSuchFile("none")

    with pytest.raises(FetchFailed, match="a name there is none"):
        fetch(lambda channel: Prefix(channel, [(b"out1", FILE), (name, FILE)]))


def test_other_strange_names_are_files_names_here_too(fetch: Fetch) -> None:
    names = [b"\xff\xfe", b"-rf", b"~", b"$(reboot)", b"...", b" ", b"a\\b", b"\xe2\x80\xae", b"x" * 255]
    got = fetch(lambda channel: Liar(channel, [(name, FILE) for name in names]))
    assert got == {"out": None} | {f"out/{os.fsdecode(name)}": b"x\n" for name in names}


def test_links_devices_pipes_and_sockets_are_neither_followed_nor_made(fetch: Fetch) -> None:
    entries = [(b"l", LINK), (b"p", PIPE), (b"d", DEVICE), (b"s", SOCKET), (b"n", 0), (b"good", FILE)]
    assert fetch(lambda channel: Liar(channel, entries)) == {"out": None, "out/good": b"x\n"}


class Flat(Liar):
    """Its directories but ``out`` are empty."""

    async def scandir(self, path: bytes) -> AsyncIterator[asyncssh.SFTPName]:
        if path.endswith(b"out"):
            async for name in super().scandir(path):
                yield name


@pytest.mark.parametrize("modes", [(FILE, FILE), (FOLDER, FILE), (FILE, FOLDER)])
def test_a_name_that_comes_twice_does_not_write_over_the_first(modes: tuple[int, int], fetch: Fetch) -> None:
    with pytest.raises(FileExistsError):
        fetch(lambda channel: Flat(channel, [(b"a", mode) for mode in modes]))


def test_a_name_too_long_for_a_file_is_an_error_like_any_other(fetch: Fetch) -> None:
    with pytest.raises(OSError, match="too long"):
        fetch(lambda channel: Liar(channel, [(b"x" * 256, FILE)]))


@pytest.mark.parametrize(
    ("server", "entry"),
    [
        (Endless, (b"file", FILE)),
        (TooMuch, (b"file", FILE)),
        (Endless, (b"entry-%d", LINK)),
        (Endless, (b".", FOLDER)),
    ],
    ids=["file", "more than was asked for", "directory", "nothing but dots"],
)
def test_what_does_not_end_is_ended_by_the_limit(server: type[Liar], entry: tuple[bytes, int], fetch: Fetch) -> None:
    with pytest.raises(FetchFailed, match=r"^more than 1,000,000 bytes \(see --results-limit\)$"):
        fetch(lambda channel: server(channel, [entry]))


def test_directories_within_each_other_are_followed_so_far_and_no_further(fetch: Fetch) -> None:
    with pytest.raises(FetchFailed, match=r"deeper than 64 directories"):
        fetch(lambda channel: Liar(channel, [(b"d", FOLDER)]))


@pytest.mark.parametrize("where", ["lstat", "scandir", "read"])
def test_a_server_that_falls_silent_is_not_waited_for_for_ever(
    where: str, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landing, "STALL", 2.0)
    monkeypatch.setattr(Silent, "silent_at", where)
    monkeypatch.setattr(Silent, "is_silent", False)
    with pytest.raises(FetchFailed, match="nothing came for 2 s"):
        fetch(lambda channel: Silent(channel, []))


@pytest.mark.parametrize("where", ["lstat", "scandir", "read"])
def test_who_leaves_does_not_wait_for_a_silent_server(
    where: str, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Silent, "silent_at", where)
    monkeypatch.setattr(Silent, "is_silent", False)
    with pytest.raises(asyncio.CancelledError):
        fetch(lambda channel: Silent(channel, []), leave=lambda: Silent.is_silent)


def test_attributes_that_say_nothing_make_no_file(fetch: Fetch) -> None:
    with pytest.raises(FetchFailed, match=re.escape("'out': is neither a file nor a directory")):
        fetch(lambda channel: Nothing(channel, []))


@pytest.mark.parametrize(
    "error", [asyncssh.SFTPPermissionDenied("no"), asyncssh.SFTPFailure("disk on fire"), ValueError()]
)
def test_an_error_of_the_servers_names_the_path(error: Exception, fetch: Fetch) -> None:
    class Fails(Liar):
        def open(self, path: bytes, pflags: int, attrs: object) -> object:
            raise error

    with pytest.raises(FetchFailed, match=r"^'out/a': "):
        fetch(lambda channel: Fails(channel, [(b"a", FILE)]))
