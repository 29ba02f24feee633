"""When a connection's guard is asked for, and what happens to those who were to be terminated meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import asyncssh
import pytest

from clstr.transport import ssh_guard
from clstr.transport.ssh_guard import Guard


class Session:
    """The node's side of a session: what was written to it."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.heard = b""
        self.aborted = False
        session.connection_made(self)

    def write(self, data: bytes) -> None:
        self.heard += data

    def abort(self) -> None:
        self.aborted = True

    def says_its_word(self, number: int) -> None:
        word = f"welcome\nclstr-guards-b2c64e0d95f1a837 {number}\n".encode()
        for start in range(0, len(word), 7):
            self.session.data_received(word[start : start + 7], None)

    def ends(self) -> None:
        self.session.connection_lost(None)


class Connection:
    """Opens sessions, or refuses them."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.asked = 0
        self.refuses = False
        self.cut_off = False  # it ends, behind its word, before it is granted

    def is_closed(self) -> bool:
        return False

    async def create_session(self, factory: Callable[[], Any], command: str, *, encoding: None) -> None:
        self.asked += 1
        await asyncio.sleep(0)
        if self.refuses:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "open failed")
        session = Session(factory())
        if self.cut_off:
            self.cut_off = False
            session.says_its_word(17)
            session.ends()
            await asyncio.sleep(0)
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "closed")
        self.sessions.append(session)


def play(scenario: Callable[[Connection, Guard], Awaitable[None]]) -> None:
    async def main() -> None:
        connection = Connection()
        await scenario(connection, Guard(cast(asyncssh.SSHClientConnection, connection)))

    asyncio.run(main())


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_it_is_there_once_it_has_said_its_word() -> None:
    async def scenario(connection: Connection, guard: Guard) -> None:
        assert not guard.takes_place
        guard.open()
        guard.open()
        assert guard.takes_place
        await turns()
        assert guard.number == b""
        (session,) = connection.sessions
        session.says_its_word(17)
        assert guard.number == b"17"
        guard.terminate(b"4")
        assert session.heard == b"4\n"
        guard.open()
        await turns()
        assert connection.asked == 1

    play(scenario)


def test_who_is_to_be_terminated_before_it_is_there_is_not_forgotten() -> None:
    async def scenario(connection: Connection, guard: Guard) -> None:
        guard.terminate(b"4")
        await turns()
        guard.terminate(b"5")
        (session,) = connection.sessions
        assert session.heard == b""
        session.says_its_word(17)
        assert session.heard == b"4\n5\n"

    play(scenario)


def test_one_that_was_killed_has_a_successor_but_not_without_end() -> None:
    async def scenario(connection: Connection, guard: Guard) -> None:
        guard.open()
        for number in range(20):
            await turns()
            if len(connection.sessions) > number:
                connection.sessions[number].says_its_word(17 + number)
                assert guard.number == b"%d" % (17 + number)
                connection.sessions[number].ends()
        assert guard.number == b""
        assert not guard.takes_place
        assert connection.asked == 3

    play(scenario)


def test_one_that_lived_long_is_no_sign_that_the_next_one_will_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_guard, "_LONG", 0.0)

    async def scenario(connection: Connection, guard: Guard) -> None:
        guard.open()
        for number in range(20):
            await turns()
            connection.sessions[number].says_its_word(17 + number)
            assert guard.number == b"%d" % (17 + number)
            connection.sessions[number].ends()

    play(scenario)


def test_one_more_is_asked_for_whenever_somebody_is_to_be_terminated() -> None:
    async def scenario(connection: Connection, guard: Guard) -> None:
        guard.open()
        while guard.takes_place:
            await turns()
            connection.sessions[-1].says_its_word(17)
            connection.sessions[-1].ends()
        for leader in (b"4", b"5"):
            guard.terminate(leader)
            await turns()
            connection.sessions[-1].says_its_word(18)
            assert connection.sessions[-1].heard == leader + b"\n"
            connection.sessions[-1].ends()
            assert not guard.takes_place

    play(scenario)


def test_one_that_is_refused_is_asked_for_again_while_somebody_is_to_be_terminated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ssh_guard, "_PAUSE", 0.0)

    async def scenario(connection: Connection, guard: Guard) -> None:
        connection.refuses = True
        guard.terminate(b"4")
        await turns()
        connection.refuses = False
        await turns()
        connection.sessions[-1].says_its_word(17)
        assert connection.sessions[-1].heard == b"4\n"

    play(scenario)


def test_one_that_is_killed_before_its_session_is_granted_leaves_its_successor_alone() -> None:
    async def scenario(connection: Connection, guard: Guard) -> None:
        connection.cut_off = True
        guard.open()
        await turns()
        connection.cut_off = False
        assert len(connection.sessions) == 1
        await turns()
        connection.sessions[-1].says_its_word(18)
        assert guard.number == b"18"

    play(scenario)


def test_one_that_ends_without_its_word_cannot_be_had_there() -> None:
    async def scenario(connection: Connection, guard: Guard) -> None:
        guard.open()
        await turns()
        connection.sessions[0].ends()
        guard.open()
        await turns()
        assert not guard.takes_place
        assert connection.asked == 1

    play(scenario)


def test_one_that_is_refused_takes_no_place_and_is_asked_for_again_a_few_times() -> None:
    async def scenario(connection: Connection, guard: Guard) -> None:
        connection.refuses = True
        for _ in range(20):
            guard.open()
            await turns()
            assert not guard.takes_place
        assert connection.asked == 3

    play(scenario)


def test_a_start_up_file_that_floods_is_not_kept() -> None:
    async def scenario(connection: Connection, guard: Guard) -> None:
        guard.open()
        await turns()
        (session,) = connection.sessions
        while not session.aborted:
            session.session.data_received(b"flood\n" * 1000, None)
        session.ends()
        guard.open()
        await turns()
        assert connection.asked == 1

    play(scenario)
