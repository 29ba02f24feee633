"""The nouns of clstr and the messages between its rooms: frozen, without behaviour.

Facts enter the scheduler as method calls; orders and news come out of it. Facts that observers hear of are
here as classes too, so that an observer sees one stream: what happened (facts) and what it meant (news).

    inputs --Job--> runner --facts--> scheduler --orders, news--> runner --news--> output, records
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
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


class Machine(enum.Enum):
    """``{MACHINE}`` in a command: the text of the node that the attempt runs on."""

    MACHINE = "{MACHINE}"


Parts: TypeAlias = tuple[bytes | Machine, ...]
"""A command in the pieces that it is sent in."""


@dataclass(frozen=True, slots=True, eq=False)
class Barrier:
    """What a job waits for: jobs by id, and further barriers, one for each glob, that many may share.

    A barrier opens when all of them are done. The same object stands in every job that waits for the same.
    """

    words: str  # as the file has them, for messages
    jobs: tuple[int, ...] = ()
    barriers: tuple[Barrier, ...] = ()


@dataclass(frozen=True, slots=True)
class Terms:
    """What only a submit file can say of a job (``submit.md``)."""

    priority: int = 0  # higher first among jobs that the rules on budgets rank alike
    after: Barrier | None = None
    tokens: tuple[tuple[str, int], ...] = ()  # units claimed of each token, sorted by name, all >= 1
    hold: bool = False
    timeout: float | None = None  # seconds, instead of --timeout
    directory: bytes | None = None  # on the node, instead of --chdir
    environment: tuple[tuple[str, bytes], ...] = ()
    input: str | None = None  # paths of local files
    output: str | None = None
    error: str | None = None


NO_TERMS = Terms()


@dataclass(frozen=True, slots=True)
class Job:
    """One command line, with its id (1, 2, ... in input order) and where it was read (``jobs.txt:12``).

    ``budget`` is how often it may be requeued after charged attempts; ``None`` is without limit. A job with
    a ``pin`` runs on that node only, and its failures say nothing about the node (``--on-each-node``). One with
    a ``job_class`` runs on nodes of that class only. ``name`` is what a submit file calls it.

    ``command`` is what is shown, logged and matched: in it ``{NAME}`` of ``--var`` and ``{MACHINE}`` stand as
    they were written. What is sent is ``parts``, in which the variables' values are, or ``command`` where that is
    None; so nothing but the transport may look at ``parts``. ``matrix`` has the job's value of each matrix key, None
    for a key that it does not name.
    """

    id: int
    command: bytes = field(compare=False)
    origin: str = field(default="", compare=False)
    budget: int | None = field(default=None, compare=False)
    pin: Node | None = field(default=None, compare=False)
    job_class: str | None = field(default=None, compare=False)
    name: str | None = field(default=None, compare=False)
    parts: Parts | None = field(default=None, compare=False, repr=False)
    matrix: tuple[str | None, ...] = field(default=(), compare=False)
    terms: Terms = field(default=NO_TERMS, compare=False)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution of a job on a slot, numbered from 1 within its job."""

    job: Job
    number: int
    slot: Slot


# --- outcomes: how an attempt ended ------------------------------------------------------------------------


MOST_RESULTS = 1000
"""Results that one job may name."""

LONGEST_RESULT = 4096
"""Bytes of a result's name (PATH_MAX)."""


@dataclass(frozen=True, slots=True)
class Exited:
    """The job exited with this status, 0 to 255; with 0 it may have named results, which are to be copied."""

    status: int
    results: tuple[bytes, ...] = ()


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


@dataclass(frozen=True, slots=True)
class Found:
    """The job turned out to be done already, when this run had the right to start it (``.done``, seen under lock)."""


@dataclass(frozen=True, slots=True)
class Refused:
    """This machine would not let the job start: another run holds its lock, or a local file cannot be opened."""

    why: str


@dataclass(frozen=True, slots=True)
class CopyFailed:
    """The job exited with 0, but its results could not be copied here."""

    why: str


Outcome: TypeAlias = (
    Exited | Killed | TimedOut | Stalled | Lost | NotStarted | Stopped | Found | Refused | CopyFailed
)


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
        case Found():
            return "found done"
        case Refused(why):
            return why
        case CopyFailed(why):
            return f"results not copied: {why}"
        case _:
            assert_never(outcome)


def name_of(node: Node) -> str:
    """The node as messages name it."""
    return "this machine" if node.text == ":" else node.text


# --- orders: what the scheduler wants done -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Want:
    """Answer with a batch of 1 to ``count`` jobs, those that are done already not counted, or with ``exhausted()``."""

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
class Copy:
    """Copy the results that the attempt named; answer with ``copied``. Its node's connection stays meanwhile."""

    attempt: Attempt
    results: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Kill:
    """Terminate the attempt's process group; its answer is the attempt's ``ended``, or ``copied`` for a copy."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Close:
    """Nothing more will run on the node: drop its connection, or the dial under way."""

    node: Node


Order: TypeAlias = Want | Dial | Start | Copy | Kill | Close


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
    """The job is done: in this attempt, or, with None, it was so before this run."""

    job: Job
    attempt: Attempt | None


@dataclass(frozen=True, slots=True)
class Failed:
    """The job has failed for good; ``attempt`` is its last one, if it ever had one."""

    job: Job
    attempt: Attempt | None
    why: str


@dataclass(frozen=True, slots=True)
class Held:
    """The job will not run: its file says ``hold = True``, or one that it comes after has failed or is held."""

    job: Job
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
    """The run is over. Jobs that have not yielded Done, Failed or Held are not done; ``why`` adds to ``end``."""

    end: End
    why: str = ""


News: TypeAlias = Requeued | Done | Failed | Held | Evicted | Pardoned | Paroled | Retired | Finished
Event: TypeAlias = Order | News


# --- facts that observers hear of --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connected:
    """The node has a connection."""

    node: Node


@dataclass(frozen=True, slots=True)
class UnknownKey:
    """A host key that is on no record: what ssh-keyscan is asked for it, and the file that it belongs into."""

    host: str
    port: int
    known_hosts: str


@dataclass(frozen=True, slots=True)
class Unreachable:
    """No session could be opened on the node.

    ``alike`` is the reason without what this node alone has (its address, its key), where that differs.
    """

    node: Node
    why: str
    alike: str = ""
    unknown_key: UnknownKey | None = None


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
    held: int = 0
    copying: int = 0  # jobs whose results are being copied; none of them is counted as running


# --- the roles beside the runner ---------------------------------------------------------------------------


class Observer(Protocol):
    """Hears facts and news, synchronously and in order, each with its time in Unix seconds."""

    def saw(self, when: float, event: Fact | News) -> None:
        """React to the event; must not block."""


class Gate(Protocol):
    """Knows which jobs were done before this run."""

    def done(self, jobs: Sequence[Job]) -> Collection[int]:
        """The ids of those that are done already; asked once of every job, before it goes into the scheduler."""


class Door(Protocol):
    """Lets attempts begin, or not: asked between the order to start one and its command."""

    def enter(self, attempt: Attempt) -> Found | Refused | None:
        """None: it may begin, and whoever else asks is refused until the attempt is told of as over.

        Raises OSError where too many files are open just now; it is asked again later.
        """


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
