"""What is done on a node before its first job, against a scripted connection."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from clstr.model import Exited, Machine, Node, Outcome, Sink
from clstr.runner import Preparation, Push, Setup, Steps
from clstr.transport import CannotConnect, Command, PushFailed

N1 = Node("n1", "n1")


class Channel:
    def __init__(self, node: Connection) -> None:
        self.node = node

    async def run(self, command: Command, sink: Sink) -> Outcome:
        self.node.did.append(command.line.decode())
        said, outcome = self.node.answers.get(command.line, (b"", Exited(0)))
        if outcome is None:
            await asyncio.Event().wait()
        for at in range(0, len(said), 3):
            sink.stdout(said[at : at + 3])
        sink.finished()
        assert outcome is not None
        return outcome

    def kill(self) -> None:
        self.node.did.append("kill")

    def close(self) -> None:
        self.node.did.append("close")


class Connection:
    """Does what it is told, and notes it. ``answers``: what a command prints, and how it ends (None: never)."""

    def __init__(self, answers: dict[bytes, tuple[bytes, Outcome | None]] | None = None, refused: str = "") -> None:
        self.answers = answers or {}
        self.refused = refused
        self.did: list[str] = []

    async def channel(self) -> Channel:
        return Channel(self)

    async def push(self, local: Path, remote: str) -> None:
        self.did.append(f"push {local} {remote}")
        if self.refused:
            raise PushFailed(self.refused)


class Processors:
    """Wants to know; ``heard`` is what it was told."""

    def __init__(self, auto: bool = False) -> None:
        self.auto = auto
        self.heard: list[int] = []

    def asks(self, node: Node) -> bool:
        return self.auto

    def is_auto(self, node: Node) -> bool:
        return self.auto

    def found(self, node: Node, processors: int) -> int:
        self.heard.append(processors)
        return processors - 1


class Bench:
    """A Preparation with what it says and warns of."""

    def __init__(self, steps: Steps, auto: bool = False) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []
        self.processors = Processors(auto)
        self.preparation = Preparation(steps, self.processors, self.said.append, self.warned.append)

    def prepare(self, connection: Connection, times: int = 1) -> int:
        async def prepare() -> int:
            return sum([await self.preparation.prepare(N1, connection) for _ in range(times)])  # type: ignore[arg-type]

        return asyncio.run(prepare())

    def fails(self, connection: Connection) -> str:
        with pytest.raises(CannotConnect) as error:
            self.prepare(connection)
        return str(error.value)


def steps(setup: Sequence[bytes] = (), push: Sequence[str] = (), timeout: float = 600) -> Steps:
    return Steps(tuple(Push(Path(name), "there") for name in push), tuple(map(Setup, setup)), timeout)


def test_pushes_come_before_setup_each_in_order_and_once_a_node() -> None:
    node = Connection()
    assert Bench(steps([b"one", b"two"], ["a", "b"])).prepare(node, times=2) == 0
    assert node.did == ["push a there", "push b there", "one", "two"]


def test_whole_lines_of_setup_are_told_with_their_node() -> None:
    bench = Bench(steps([b"one"]))
    bench.prepare(Connection({b"one": (b"first line\n\nsecond\xff\nunended", Exited(0))}))
    assert bench.said == ["n1: setup: first line", "n1: setup: second\ufffd", "n1: setup: unended"]


def test_a_step_that_fails_is_named_with_its_status_and_last_line_and_ends_the_steps() -> None:
    node = Connection({b"two": (b"x\nno space\n\n", Exited(3))})
    assert Bench(steps([b"one", b"two", b"three"])).fails(node) == "setup 'two': exit 3: no space"
    assert node.did == ["one", "two"]


def test_a_node_that_failed_is_not_taken_for_prepared() -> None:
    bench = Bench(steps([b"one"]))
    bench.fails(Connection({b"one": (b"", Exited(1))}))
    again = Connection()
    bench.prepare(again)
    assert again.did == ["one"]


def test_a_push_that_fails_is_named() -> None:
    assert Bench(steps([b"one"], ["a"])).fails(Connection(refused="no room")) == "push a: no room"


def test_a_setup_over_its_time_is_killed() -> None:
    node = Connection({b"one": (b"", None)})
    message = Bench(steps([b"one"], timeout=0.05)).fails(node)
    assert message == "setup 'one': not done within 0.05 s (--setup-timeout)"
    assert node.did == ["one", "kill"]


def test_an_endless_line_is_kept_to_its_last_words() -> None:
    bench = Bench(steps([b"one"]))
    message = bench.fails(Connection({b"one": (b"x" * 20_000 + b"END", Exited(1))}))
    assert len(message) < 300
    assert message.endswith("xEND")
    assert [len(line) for line in bench.said] == [len("n1: setup: ") + 4096]


def test_a_node_is_asked_for_its_processors_only_if_somebody_wants_to_know() -> None:
    node = Connection({b"nproc; exit 0": (b"welcome\n8\n", Exited(0))})
    assert Bench(steps()).prepare(node) == 0
    assert node.did == []
    bench = Bench(steps([b"one"]), auto=True)
    assert bench.prepare(node, times=2) == 7
    assert (node.did, bench.processors.heard, bench.warned) == (["one", "nproc; exit 0"], [8], [])


@pytest.mark.parametrize("answer", [b"", b"not found\n", b"0\n", b"-1\n", b"9" * 10, "\u0664\n".encode()])
def test_a_node_that_does_not_tell_has_one_and_a_warning(answer: bytes) -> None:
    bench = Bench(steps(), auto=True)
    assert bench.prepare(Connection({b"nproc; exit 0": (answer, Exited(0))})) == 0
    assert bench.processors.heard == [1]
    assert bench.warned == ["n1: slots=auto: no nproc there, so it is 1 slot (write slots=N)"]


def test_a_setup_is_shown_as_it_was_written_and_sent_with_what_it_stands_for() -> None:
    setup = Setup(b"{KEY} {MACHINE}", (b"s3cret ", Machine.MACHINE), (("s3cret", "{KEY}"),))
    node = Connection({b"s3cret n1": (b"no s3cret\n", Exited(3))})
    bench = Bench(Steps((), (setup,), 600))
    assert bench.fails(node) == "setup '{KEY} {MACHINE}': exit 3: no {KEY}"
    assert bench.said == ["n1: setup: no {KEY}"]
