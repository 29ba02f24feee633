"""What is done on a node once in a run, before its first job: files pushed, setup commands, counting processors.

The scheduler hears of none of it: it is part of the answer to its order to dial, so the node's other slots wait too. A
failure evicts the node, with the step and what it said last in the message (cli.md, failure rule 1). Setup runs where
the login shell starts, since the jobs' ``--chdir`` may be what it makes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from clstr.model import Exited, Flow, Machine, Node, Parts, in_words, name_of
from clstr.transport import CannotConnect, Command, Connection, NoChannel, PushFailed, within

LONGEST_LINE = 4096
"""Bytes of a line of a step's output that are passed on; of a longer one the last."""

LAST_WORDS = 200
"""Characters of the last line that stand in the message of a step that failed."""

_LONGEST_NAME = 80  # characters of a setup command in messages


@dataclass(frozen=True, slots=True)
class Push:
    """A local file or directory, and where it goes on a node (from the login directory; empty: its own name)."""

    local: Path
    remote: str


@dataclass(frozen=True, slots=True)
class Setup:
    """A setup command, as ``Job`` has one: what is shown, and what is sent where that is not the same."""

    command: bytes
    parts: Parts | None = field(default=None, repr=False)
    hidden: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Values that may not be shown of what it prints, each with what is shown instead."""


def sent(command: bytes, parts: Parts | None, node: Node) -> bytes:
    """What the node gets of a command."""
    if parts is None:
        return command
    name = os.fsencode(node.text)
    return b"".join(name if isinstance(part, Machine) else part for part in parts)


@dataclass(frozen=True, slots=True)
class Steps:
    """What to do on each node, in this order; ``timeout`` (seconds) is for all of it together."""

    pushes: tuple[Push, ...] = ()
    setup: tuple[Setup, ...] = ()
    timeout: float = 600.0


class Processors(Protocol):
    """Who wants to know how many processors a node has (``slots=auto``)."""

    def asks(self, node: Node) -> bool:
        """Is the node to be asked?"""

    def is_auto(self, node: Node) -> bool:
        """Does a slot depend on the answer now?"""

    def found(self, node: Node, processors: int) -> int:
        """The answer, 1 or more: gives how many slots the node has beyond those listed."""


class Preparation:
    """Does the steps, once a node."""

    def __init__(
        self, steps: Steps, processors: Processors, say: Callable[[str], None], warn: Callable[[str], None]
    ) -> None:
        self._steps = steps
        self._processors = processors
        self._say = say  # what steps print
        self._warn = warn
        self._prepared: set[Node] = set()

    async def prepare(self, node: Node, connection: Connection) -> int:
        """Give the slots that the node has beyond those listed. Raises CannotConnect naming the step that failed."""
        if node in self._prepared:
            return 0
        step = _Step()
        count: int | None = None
        try:
            async with within(self._steps.timeout):
                await self._do_steps(node, connection, step)
                if self._processors.asks(node):
                    count = await self._count(node, connection, step)
        except TimeoutError:
            raise CannotConnect(f"{step.name}: not done within {self._steps.timeout:g} s (--setup-timeout)") from None
        self._prepared.add(node)
        # From here on nothing waits: the list may change at any other moment, and the answer is for the list of now.
        return 0 if count is None else self._processors.found(node, count)

    async def _do_steps(self, node: Node, connection: Connection, step: _Step) -> None:
        for push in self._steps.pushes:
            step.name = f"push {push.local}"
            try:
                await connection.push(push.local, push.remote)
            except PushFailed as error:
                raise CannotConnect(f"{step.name}: {error}") from None
        for setup in self._steps.setup:
            step.name = f"setup {_shown(setup.command)}"
            ear = _Ear(lambda text: self._say(f"{name_of(node)}: setup: {text}"), hidden=setup.hidden)
            await self._command(node, connection, sent(setup.command, setup.parts, node), step, ear)

    async def _count(self, node: Node, connection: Connection, step: _Step) -> int:
        """How many processors the node has: 1, with a warning where it matters, if it does not tell."""
        step.name = "counting processors (slots=auto)"
        answer: list[str] = []
        # ``exit 0`` also where there is no nproc: that is no fault of the node's.
        await self._command(node, connection, b"nproc; exit 0", step, _Ear(answer.append, stderr=False))
        text = answer[-1] if answer else ""
        if text.isascii() and text.isdigit() and 0 < len(text) < 10 and int(text) > 0:
            return int(text)
        if self._processors.is_auto(node):
            self._warn(f"{name_of(node)}: slots=auto: no nproc there, so it is 1 slot (write slots=N)")
        return 1

    async def _command(self, node: Node, connection: Connection, line: bytes, step: _Step, ear: _Ear) -> None:
        try:
            channel = await connection.channel()
        except NoChannel as error:
            raise CannotConnect(f"{step.name}: {error}") from None
        try:
            outcome = await channel.run(Command(line, (("CLSTR_NODE", node.text),)), ear)
        except asyncio.CancelledError:
            channel.kill()  # the leash obeys also when the connection is dropped behind it
            raise
        if outcome != Exited(0):
            last = f": {ear.last[-LAST_WORDS:]}" if ear.last else ""
            raise CannotConnect(f"{step.name}: {in_words(outcome)}{last}")


def _shown(command: bytes) -> str:
    text = command.decode("utf-8", "replace")
    return repr(text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 3]}...")


@dataclass(slots=True)
class _Step:
    """How far the steps have come, for the message when their time is up."""

    name: str = "setup"


class _Ear:
    """A sink that passes on whole lines that are not blank, and remembers the last."""

    def __init__(
        self, say: Callable[[str], None], stderr: bool = True, hidden: tuple[tuple[str, str], ...] = ()
    ) -> None:
        self._say = say
        self._hidden = hidden
        self._tails = {"stdout": b"", "stderr": b""}
        self._hears_stderr = stderr
        self.last = ""

    def begun(self, flow: Flow) -> None:
        """Nothing here is ever held back."""

    def stdout(self, data: bytes) -> None:
        self._hear("stdout", data)

    def stderr(self, data: bytes) -> None:
        if self._hears_stderr:
            self._hear("stderr", data)

    def finished(self) -> None:
        for tail in self._tails.values():
            self._line(tail)

    def _hear(self, stream: str, data: bytes) -> None:
        *lines, tail = (self._tails[stream] + data).split(b"\n")
        self._tails[stream] = tail[-LONGEST_LINE:]
        for line in lines:
            self._line(line)

    def _line(self, line: bytes) -> None:
        text = line[-LONGEST_LINE:].decode("utf-8", "replace").strip()
        for value, name in self._hidden:
            text = text.replace(value, name)
        if text:
            self.last = text
            self._say(text)
