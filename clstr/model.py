"""The nouns of clstr and the messages between its rooms: frozen, without behaviour.

Facts enter the scheduler as method calls; orders and news come out of it. Facts that observers hear of are
here as classes too, so that an observer sees one stream: what happened (facts) and what it meant (news).

    inputs --Job--> runner --facts--> scheduler --orders, news--> runner --news--> output, records
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, assert_never


class BadInput(Exception):
    """The user gave something that cannot be used; exit status 2.

    The text is one line, ``[FILE:LINE: ]what (what to do)``, and is printed behind ``clstr: ``.
    """


# --- nouns -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Node:
    """A host that jobs run on. Its text ``[USER@]HOST[:PORT]`` is its identity; ``:`` is this machine."""

    text: str
    host: str = field(compare=False)
    user: str | None = field(default=None, compare=False)
    port: int | None = field(default=None, compare=False)
    classes: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one job at a time on a node; slots of a node are numbered from 1."""

    node: Node
    number: int


@dataclass(frozen=True, slots=True)
class Job:
    """One command line, with its id (1, 2, ... in input order) and where it was read (``jobs.txt:12``).

    ``budget`` is how often it may be requeued after charged attempts; ``None`` is without limit. A job with
    a ``pin`` runs on that node only, and its failures say nothing about the node (``--on-each-node``). One with
    a ``job_class`` runs on nodes of that class only.
    """

    id: int
    command: bytes = field(compare=False)
    origin: str = field(default="", compare=False)
    budget: int | None = field(default=None, compare=False)
    pin: Node | None = field(default=None, compare=False)
    job_class: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution of a job on a slot, numbered from 1 within its job."""

    job: Job
    number: int
    slot: Slot


# --- outcomes: how an attempt ended ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Exited:
    """The job exited with this status, 0 to 255."""

    status: int


@dataclass(frozen=True, slots=True)
class Killed:
    """The job died by this signal, named without ``SIG`` (``KILL``)."""

    signal: str


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The job overran ``--timeout`` (seconds) and was terminated by us."""

    after: float


@dataclass(frozen=True, slots=True)
class Stalled:
    """The job printed nothing for ``--stall-timeout`` (seconds) and was terminated by us."""

    after: float


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection broke under the job; nobody knows how far it came.

    ``ours``: every connection broke at once, so this machine is presumed to be at fault (rule 2).
    """

    why: str
    ours: bool = False


@dataclass(frozen=True, slots=True)
class NotStarted:
    """The job never began: command refused, connection gone before, or no word from the node's wrapper."""

    why: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """Terminated by us because the user stopped the run."""


Outcome: TypeAlias = Exited | Killed | TimedOut | Stalled | Lost | NotStarted | Stopped


def in_words(outcome: Outcome) -> str:
    """The outcome as messages name it: ``exit 127``, ``killed by SIGKILL``, ``connection lost: ...``."""
    match outcome:
        case Exited(status):
            return f"exit {status}"
        case Killed(signal):
            return f"killed by SIG{signal}"
        case TimedOut(after):
            return f"timed out after {after:g} s"
        case Stalled(after):
            return f"printed nothing for {after:g} s"
        case Lost(why):
            return f"connection lost: {why}"
        case NotStarted(why):
            return f"not started: {why}"
        case Stopped():
            return "stopped"
        case _:
            assert_never(outcome)


def name_of(node: Node) -> str:
    """The node as messages name it."""
    return "this machine" if node.text == ":" else node.text


# --- orders: what the scheduler wants done -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Want:
    """Answer with a batch of 1 to ``count`` jobs, or with ``exhausted()``."""

    count: int


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect to the node; answer with ``connected`` or ``unreachable``. ``Close`` cancels it."""

    node: Node


@dataclass(frozen=True, slots=True)
class Start:
    """Run the attempt; answer with ``ended``, and with ``started`` before it when the job really began."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Kill:
    """Terminate the attempt's process group; its answer is the attempt's ``ended``."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Close:
    """Nothing more will run on the node: drop its connection, or the dial under way."""

    node: Node


Order: TypeAlias = Want | Dial | Start | Kill | Close


# --- news: what the scheduler decided ----------------------------------------------------------------------


class End(enum.Enum):
    """Why a run ended. ``STUCK`` is a bug in the scheduler, and is reported as one."""

    SETTLED = "every job has ended"
    NO_NODES = "no nodes left"
    BLOCKED = "nothing that waits can ever start"
    DRAINED = "drained"
    STOPPED = "stopped"
    STUCK = "stuck [this is a bug in clstr]"


@dataclass(frozen=True, slots=True)
class Requeued:
    """The attempt ended without settling its job, which waits again."""

    attempt: Attempt
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Done:
    """The job's command exited with 0 in this attempt."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Failed:
    """The job has failed for good; ``attempt`` is its last one, if it ever had one."""

    job: Job
    attempt: Attempt | None
    why: str


@dataclass(frozen=True, slots=True)
class Evicted:
    """The node gets no more work, for this reason."""

    node: Node
    why: str


@dataclass(frozen=True, slots=True)
class Pardoned:
    """The job that the node was evicted for was itself at fault: the node works on."""

    node: Node


@dataclass(frozen=True, slots=True)
class Paroled:
    """The evicted node may try a job again, because no other node is left that may."""

    node: Node


@dataclass(frozen=True, slots=True)
class Retired:
    """The slot did its share (``--max-node-uses``), or its node left the list; nothing failed."""

    slot: Slot


@dataclass(frozen=True, slots=True)
class Finished:
    """The run is over. Jobs that have not yielded Done or Failed are not done; ``why`` adds to ``end``."""

    end: End
    why: str = ""


News: TypeAlias = Requeued | Done | Failed | Evicted | Pardoned | Paroled | Retired | Finished
Event: TypeAlias = Order | News


# --- facts that observers hear of --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connected:
    """The node has a connection."""

    node: Node


@dataclass(frozen=True, slots=True)
class Unreachable:
    """No session could be opened on the node."""

    node: Node
    why: str


@dataclass(frozen=True, slots=True)
class Started:
    """The job really began to run."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Ended:
    """The attempt is over."""

    attempt: Attempt
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class ConnectionLost:
    """The node's connection broke, idle or under jobs."""

    node: Node
    why: str


Fact: TypeAlias = Connected | Unreachable | Started | Ended | ConnectionLost


@dataclass(frozen=True, slots=True)
class Tally:
    """Counters of a run at one moment, as the status line and the closing summary need them."""

    jobs: int  # read so far
    done: int
    failed: int
    waiting: int
    running: int
    slots_in_use: int  # connecting or running
    slots_live: int  # neither evicted nor retired
    evicted: int  # nodes


# --- the roles beside the runner ---------------------------------------------------------------------------


class Observer(Protocol):
    """Hears facts and news, synchronously and in order, each with its time in Unix seconds."""

    def saw(self, when: float, event: Fact | News) -> None:
        """React to the event; must not block."""


class Flow(Protocol):
    """The tap of one attempt's output, handed to its sink."""

    def pause(self) -> None:
        """Read no more from the job until ``resume``; idempotent."""

    def resume(self) -> None:
        """Read on; idempotent."""


class Sink(Protocol):
    """Gets an attempt's bytes, on the event loop's thread; must not block."""

    def begun(self, flow: Flow) -> None:
        """The job really began; ``flow`` can hold its output back. Called at most once, before any data."""

    def stdout(self, data: bytes) -> None:
        """Some bytes of the job's standard output, split anywhere."""

    def stderr(self, data: bytes) -> None:
        """Some bytes of the job's standard error, split anywhere."""

    def finished(self) -> None:
        """No more bytes come; called exactly once for an attempt that began."""
