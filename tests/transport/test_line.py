"""The socket of an SSH connection: what a server says first is acknowledged at once."""

import socket
import struct
from collections.abc import Iterator

import pytest

from clstr.transport.ssh_way import PROMPT_READS, Line

on_linux = pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="TCP_QUICKACK is Linux's")


@pytest.fixture
def pair() -> Iterator[tuple[Line, socket.socket]]:
    """A client's line and the server's end of it, which have talked: Linux now waits with what it acknowledges."""
    with socket.create_server(("127.0.0.1", 0)) as listening, Line(socket.AF_INET, socket.SOCK_STREAM, 0) as line:
        line.connect(listening.getsockname())
        server, _ = listening.accept()
        with server:
            for _ in range(3):
                line.sendall(b"question")
                server.recv(100)
                server.sendall(b"answer")
                line.recv(100)
            yield line, server


def unacknowledged(server: socket.socket) -> int:
    """Segments that the other side has not acknowledged (tcpi_unacked of linux/tcp.h)."""
    segments: int = struct.unpack_from("=I", server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 24)[0]
    return segments


def hear(line: Line, server: socket.socket) -> None:
    """The client sends, and so waits with its acknowledgements; the server says something unasked."""
    line.sendall(b"question")
    server.recv(100)
    server.sendall(b"answer")
    line.recv(100)


@on_linux
def test_what_is_heard_is_acknowledged_though_nothing_is_sent(pair: tuple[Line, socket.socket]) -> None:
    line, server = pair
    hear(line, server)
    assert unacknowledged(server) == 0


@on_linux
def test_a_connection_that_is_at_work_pays_nothing_for_it(
    pair: tuple[Line, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    line, server = pair
    line.reads = PROMPT_READS
    asked: list[None] = []
    monkeypatch.setattr(Line, "_acknowledge", lambda line: asked.append(None))
    hear(line, server)
    assert not asked


def test_a_line_that_is_not_of_tcp_is_read_all_the_same() -> None:
    ours, theirs = socket.socketpair()
    with Line(fileno=ours.detach()) as line, theirs:
        theirs.sendall(b"SSH-2.0-x\r\n")
        assert line.recv(100) == b"SSH-2.0-x\r\n"
