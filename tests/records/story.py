"""What an observer hears of jobs, in short: nodes, attempts, and the news of their ends."""

from __future__ import annotations

from typing import TypeAlias

from clstr.model import (
    Attempt,
    Done,
    Ended,
    Exited,
    Fact,
    Failed,
    Job,
    News,
    Node,
    Observer,
    Outcome,
    Requeued,
    Slot,
    Started,
    in_words,
)

Story: TypeAlias = "list[tuple[float, Fact | News]]"

BEGIN = 1795778334.25
"""The time at which every story begins, in Unix seconds."""


def node(text: str, **more: object) -> Node:
    return Node(text, text, **more)  # type: ignore[arg-type]


def job(number: int, command: str | bytes = "true", **more: object) -> Job:
    raw = command.encode() if isinstance(command, str) else command
    return Job(number, raw, f"jobs.txt:{number}", **more)  # type: ignore[arg-type]


def attempt(of: Job, number: int = 1, on: str = "n1", slot: int = 1) -> Attempt:
    return Attempt(of, number, Slot(of.pin or node(on), slot))


def ran(of: Attempt, outcome: Outcome | None = None, began: float = BEGIN, took: float = 1.5) -> Story:
    """The attempt began, and ended so."""
    return [(began, Started(of)), (began + took, Ended(of, outcome or Exited(0)))]


def done(of: Attempt, **more: float) -> Story:
    """The attempt ran, and its job is done."""
    facts = ran(of, **more)  # type: ignore[arg-type]
    return [*facts, (facts[-1][0], Done(of.job, of))]


def failed(of: Attempt, outcome: Outcome, **more: float) -> Story:
    """The attempt ran, and its job has failed for good."""
    facts = ran(of, outcome, **more)  # type: ignore[arg-type]
    return [*facts, (facts[-1][0], Failed(of.job, of, in_words(outcome)))]


def requeued(of: Attempt, outcome: Outcome, **more: float) -> Story:
    """The attempt ran, and its job waits again."""
    facts = ran(of, outcome, **more)  # type: ignore[arg-type]
    return [*facts, (facts[-1][0], Requeued(of, outcome))]


def tell(observer: Observer, *stories: Story) -> None:
    for story in stories:
        for when, event in story:
            observer.saw(when, event)


class Deaf:
    """A sink that counts what it gets."""

    def __init__(self) -> None:
        self.out = b""
        self.err = b""
        self.over = False

    def begun(self, flow: object) -> None: ...

    def stdout(self, data: bytes) -> None:
        self.out += data

    def stderr(self, data: bytes) -> None:
        self.err += data

    def finished(self) -> None:
        self.over = True
