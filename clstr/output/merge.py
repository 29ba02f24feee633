"""Output as it comes, merged by whole lines; and a job's way to a writer, which all modes share.

    channel -> sink -> Lines -> [tag] -> Writer -> fd

Rules:
- With a tag, each line that begins is begun with it, also what is left of a line of over 1 MiB that another job's
  output has parted.
- A job whose output does not get away is held at its source by its ``Flow``; so memory stays bounded.
"""

from __future__ import annotations

from typing import Protocol

from clstr.model import Attempt, Fact, Flow, News, Node, Sink, name_of
from clstr.output.console import Console
from clstr.output.lines import Lines
from clstr.output.paint import Style, painted, printable
from clstr.output.writer import Sender, Writer


class Mode(Protocol):
    """A way to print the jobs' output: where the bytes of an attempt go, and what then becomes of them."""

    def sink(self, attempt: Attempt) -> Sink:
        """Where the attempt's bytes go."""

    def saw(self, when: float, event: Fact | News) -> None:
        """As an observer: what became of the attempt."""

    async def drain(self) -> None:
        """The run is over: hand the console all that is still to be printed, as fast as it takes it."""


class Held(Sender, Protocol):
    """A sender that asked for room and must wait."""

    def held(self) -> None:
        """A writer has no room: send no more until ``released``, called once for each ``held``."""


def tag_of(node: Node, writer: Writer) -> bytes:
    """``n17: ``, in colour where the writer takes it."""
    name = painted(printable(name_of(node)) + ":", Style.NODE if writer.colours else Style.PLAIN)
    return f"{name} ".encode()


class Stream:
    """Some job's bytes on their way to a writer; the owner of its lines there."""

    __slots__ = ("_lines", "_sender", "_tag", "_writer")

    def __init__(self, writer: Writer, sender: Held, tag: bytes = b"") -> None:
        self._writer = writer
        self._sender = sender
        self._tag = tag
        self._lines = Lines()

    def feed(self, data: bytes) -> None:
        """Print what is whole of it; the sender may be held."""
        ready = self._lines.feed(data)
        if ready and self._writer.write(self, self._tagged(ready)) and self._writer.hold(self._sender):
            self._sender.held()

    def finish(self) -> None:
        """Print the unfinished line, if there is one."""
        if rest := self._lines.rest():
            self._writer.write(self, self._tagged(rest))
        self._writer.ended(self)

    def _tagged(self, text: bytes) -> bytes:
        if not self._tag:
            return text
        begin = b"" if self._writer.goes_on(self) else self._tag
        return begin + text[:-1].replace(b"\n", b"\n" + self._tag) + text[-1:]


class Throttled:
    """The part of a sink that holds its job back, as long as anything that it prints to is behind."""

    __slots__ = ("_flow", "_holds")

    def __init__(self) -> None:
        self._flow: Flow | None = None
        self._holds = 0

    def begun(self, flow: Flow) -> None:
        self._flow = flow

    def finished(self) -> None:
        self._flow = None

    def held(self) -> None:
        self._holds += 1
        if self._flow:
            self._flow.pause()

    def released(self) -> None:
        self._holds -= 1
        if self._flow and not self._holds:
            self._flow.resume()


class Merge:
    """The default mode."""

    def __init__(self, console: Console, *, tag: bool = False) -> None:
        self._console = console
        self._tag = tag

    def sink(self, attempt: Attempt) -> Sink:
        return _Merged(self._console, attempt.slot.node if self._tag else None)

    def saw(self, when: float, event: Fact | News) -> None:
        """What became of an attempt changes nothing: its output is printed by then."""

    async def drain(self) -> None:
        """The console has it all."""


class _Merged(Throttled):
    """The streams are made when there is data: most jobs have no stderr."""

    __slots__ = ("_console", "_streams", "_tagged")

    def __init__(self, console: Console, tagged: Node | None) -> None:
        super().__init__()
        self._console = console
        self._tagged = tagged
        self._streams: dict[str, Stream] = {}

    def stdout(self, data: bytes) -> None:
        self._print("stdout", self._console.out, data)

    def stderr(self, data: bytes) -> None:
        self._print("stderr", self._console.err, data)

    def finished(self) -> None:
        for stream in self._streams.values():
            stream.finish()
        super().finished()

    def _print(self, name: str, writer: Writer, data: bytes) -> None:
        if not data or writer.discards:
            return
        stream = self._streams.get(name)
        if stream is None:
            tag = tag_of(self._tagged, writer) if self._tagged else b""
            stream = self._streams[name] = Stream(writer, self, tag)
        stream.feed(data)
