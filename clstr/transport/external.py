"""The external transport, ``--ssh COMMAND``: every job by a client of the user's own, as rsync has ``--rsh``.

The client runs as ``COMMAND [-p PORT] [USER@]HOST JOB``, or, where COMMAND names ``{HOST}``, as COMMAND with
``[USER@]HOST`` in its place and JOB behind it. JOB is one word, the leash's wrapper; the job itself comes over the
client's standard input, which is the leash. So a client can be started ahead, as a spare, and its whole login is
hidden behind the job before. Without the leash JOB is the job, and nothing is started ahead.

Rules:

- A client is in a session of its own, without a terminal, and no askpass program is called unless the user's
  SSH_ASKPASS_REQUIRE says so: nothing prompts.
- A client that ends, or says nothing for the connect timeout, without the wrapper's word has not started its job:
  its last line on standard error is the reason. Without the leash there is no word, and a job counts as begun when
  its client runs.
- What the client exits with is the job's status. 255 is a lost connection only if the client's last words are
  OpenSSH's own, who ends its lines with CR LF: a job may exit with 255, and ssh exits with 255 and no word for a
  job that died by a signal, whose name it does not tell.
- A client that dies by a signal is a lost connection; of a COMMAND with ``{HOST}`` it is the job that died, since
  such a tool may have become the job (nsenter, chroot).
- Few clients of one node log in at once: sshd drops logins beyond 10 by chance (MaxStartups).
- A client may be the master of a connection that others share, by ControlMaster without ControlPersist: when its
  job is over it waits for theirs, spares included. Once that is seen the node gets no more spares.
- Nothing is kept open here that could be lost: the connection is a word for the node.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clstr.model import BadInput, Exited, Killed, Lost, Node, NotStarted, Outcome
from clstr.transport import CONNECT_TIMEOUT, KILL_GRACE, Command, FetchFailed, Landing, NoChannel, PushFailed
from clstr.transport.leash import WRAPPER, bare
from clstr.transport.process import ProcessChannel, signal_name
from clstr.transport.words import last_line

HOST = "{HOST}"

LOGINS = 5
"""Clients of one node that may be on their way to their job at once."""

LATE = 1.0
"""Seconds between the end of a client's output and its own after which it is taken to wait for other clients."""


@dataclass(frozen=True, slots=True)
class Client:
    """A COMMAND, split into words."""

    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """What messages call it."""
        return os.path.basename(self.words[0])

    @property
    def has_place(self) -> bool:
        """Does it say where the host goes?"""
        return any(HOST in word for word in self.words)

    def arguments(self, node: Node) -> list[str]:
        """All but JOB. Raises BadInput for a node whose port has no place in COMMAND."""
        host = node.host if node.user is None else f"{node.user}@{node.host}"
        if not self.has_place:
            return [*self.words, *([] if node.port is None else ["-p", str(node.port)]), host]
        if node.port is not None:
            raise BadInput(f"{node.text}: --ssh with {HOST} has no place for a port (name the host without it)")
        return [word.replace(HOST, host) for word in self.words]


def split(command: str) -> Client:
    """Split a COMMAND like a shell line. Raises BadInput where it cannot be, or names no program."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise BadInput(f"--ssh {command!r}: {str(error).lower()} (quote it like a shell line)") from None
    if not words:
        raise BadInput("--ssh: an empty command (name a client, as in --ssh 'ssh -F FILE')")
    if shutil.which(words[0]) is None:
        raise BadInput(f"--ssh: there is no program {words[0]!r} (install it, or write its path out)")
    return Client(tuple(words))


@dataclass(frozen=True, slots=True)
class ExternalSettings:
    """What the command line says about the external client."""

    client: Client
    connect_timeout: float | None = None  # seconds
    max_connecting: int = 64
    leash: bool = True


class ExternalTransport:
    """Runs jobs by a client of the user's own."""

    def __init__(self, settings: ExternalSettings) -> None:
        self._settings = settings
        self._logins = asyncio.Semaphore(settings.max_connecting)

    async def connect(self, node: Node) -> ExternalConnection:
        """Give a connection; whether the node can be reached shows with its first job. Raises BadInput."""
        return ExternalConnection(self._settings, self._settings.client.arguments(node), self._logins)

    async def close(self) -> None:
        """Connections share nothing that is open."""


class ExternalConnection:
    """A node, as the client is told of it. Its ``lost`` is never resolved."""

    lasting = False

    def __init__(self, settings: ExternalSettings, arguments: list[str], logins: asyncio.Semaphore) -> None:
        self._settings = settings
        self._arguments = arguments
        self._logins = logins
        self._logins_here = asyncio.Semaphore(LOGINS)
        self._channels: set[ProcessChannel] = set()
        self._spares: set[ExternalChannel] = set()
        self._shared = False  # a client has been seen to wait for others
        self._closed = False
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def channel(self) -> ExternalChannel:
        """Start a client as soon as few enough others are on their way to their jobs. Raises NoChannel."""
        await self._logins_here.acquire()
        try:
            await self._logins.acquire()
        except BaseException:
            self._logins_here.release()
            raise
        return self._open(self._leave_login)

    def _leave_login(self, channel: ExternalChannel) -> None:
        self._logins_here.release()
        self._logins.release()

    def spare(self) -> asyncio.Task[ExternalChannel] | None:
        """Start a client ahead of its job; none without the leash, which is what it would wait on."""
        if not self._settings.leash or self._shared or self._closed:
            return None
        return asyncio.ensure_future(self._spare())

    async def _spare(self) -> ExternalChannel:
        spare = self._open(self._spares.discard)
        self._spares.add(spare)
        return spare

    def _open(self, settled: Callable[[ExternalChannel], None]) -> ExternalChannel:
        channel = ExternalChannel(
            self._settings, self._arguments, forget=self._channels.discard, settled=settled, waits=self._give_up_spares
        )
        try:
            if self._closed:
                raise NoChannel("closed")
            channel.start()
        except OSError as error:
            channel.close()
            raise NoChannel(f"cannot start {self._settings.client.name}: {error.strerror}") from None
        except NoChannel:
            channel.close()
            raise
        self._channels.add(channel)
        return channel

    def _give_up_spares(self) -> None:
        self._shared = True
        for spare in tuple(self._spares):
            if not spare.armed:
                spare.close()

    async def answers(self) -> bool:
        """There is nothing to ask."""
        return True

    async def push(self, local: Path, remote: str) -> None:
        """A client for a command cannot; the command line refuses it."""
        raise PushFailed("an external client copies no files (let a setup command fetch them)")

    async def fetch(self, names: Sequence[bytes], directory: bytes | None, landing: Landing) -> None:
        """Nor can it bring files; the command line refuses that too."""
        raise FetchFailed("an external client copies no files")

    def close(self) -> None:
        """Drop the running jobs' channels and the spares."""
        self._closed = True
        self.lost.cancel()
        for channel in tuple(self._channels):
            channel.close()


class ExternalChannel(ProcessChannel):
    """One client, waiting for its job or running it.

    ``settled`` is called once, when the job has begun or will not; ``waits`` when the client outlives its job.
    """

    def __init__(
        self,
        settings: ExternalSettings,
        arguments: list[str],
        *,
        forget: Callable[[ProcessChannel], None],
        settled: Callable[[ExternalChannel], None],
        waits: Callable[[], None],
    ) -> None:
        super().__init__(forget)
        self._settings = settings
        self._arguments = arguments
        self._settled: Callable[[ExternalChannel], None] | None = settled
        self._waits = waits
        self._word: asyncio.TimerHandle | None = None
        self._killed: float | None = None  # when, loop time
        self.armed = False
        """Was it given its job?"""

    def start(self) -> None:
        """Start the client ahead of its job, if that can come by the leash. Raises OSError."""
        if self._settings.leash:
            self._spawn([*self._arguments, WRAPPER], environment=_environment())

    def _start(self, command: Command) -> None:
        self.armed = True
        if self._settings.leash:
            self._wait_for_word()
            self._took = self._wait_on
            self._hand_over(command)
            return
        job = bare(command)
        # A client takes a word that begins with `-` for an option of its own.
        job = b" " + job if job.startswith(b"-") else job
        self._spawn([*self._arguments, job], leash=command.input is not None, environment=_environment())
        self._begin()
        if command.input is not None:
            self._said.set()
            self._feed(command.input, then=self._let_go)  # its end is the end of the job's input

    def _begin(self) -> None:
        self._settle()
        super()._begin()

    def _end(self, outcome: Outcome) -> None:
        self._settle()
        super()._end(outcome)

    def _wait_for_word(self) -> None:
        seconds = self._settings.connect_timeout or CONNECT_TIMEOUT
        self._word = self._loop.call_later(seconds, self._no_word, seconds)

    def _wait_on(self) -> None:
        # A job begins when its input is on the node: that may take long, as long as it moves.
        if self._word is not None and self._settled is not None:
            self._word.cancel()
            self._wait_for_word()

    def _settle(self) -> None:
        if self._word is not None:
            self._word.cancel()
        if self._settled is not None:
            self._settled(self)
            self._settled = None

    def _no_word(self, seconds: float) -> None:
        self._end(NotStarted(f"{self._settings.client.name}: no word from the node within {seconds:g} s{self._last()}"))

    def kill(self) -> None:
        """See the protocol. Without the leash, or before the job has begun, it is the client that is terminated."""
        if self._killed is None:
            self._killed = self._loop.time()
        super().kill()
        if self._marker is not None and self.armed:
            # The job may begin at this moment: then it is for its watcher to end it.
            self._loop.call_later(LATE, self._signal_group, signal.SIGTERM)
        elif self._marker is not None or not self._settings.leash:
            self._signal_group(signal.SIGTERM)

    def _stream_ended(self, fd: int) -> None:
        is_stdout = self._streams[fd] == self._hear_stdout
        super()._stream_ended(fd)
        if is_stdout:
            self._loop.call_later(LATE, self._check_waits)

    def _check_waits(self) -> None:
        if not self._exited:
            self._waits()

    def _judge(self, status: int) -> Outcome:
        client = self._settings.client
        if self._marker is not None:
            return NotStarted(self._why(status))
        if status < 0 and client.has_place:
            return Killed(signal_name(-status))
        if self._killed is not None and (status < 0 or status == 255):
            return Killed("TERM" if self._loop.time() - self._killed < KILL_GRACE else "KILL")
        if status < 0 or (status == 255 and self._last_words.endswith(b"\r\n")):
            return Lost(self._why(status))
        return Exited(status)

    def _why(self, status: int) -> str:
        """Why the client, and not the job, ended."""
        ended = f"was killed by SIG{signal_name(-status)}" if status < 0 else f"exited with {status}"
        last = self._last()
        if not last and self._marker is not None:
            last = ", no word from the node (does it pass standard input on? no shell there? try --no-leash)"
        return f"{self._settings.client.name} {ended}{last}"

    def _last(self) -> str:
        """The client's last line on standard error, behind a colon."""
        words = last_line(self._last_words)
        return f": {words}" if words else ""


def _environment() -> dict[str, str]:
    return {"SSH_ASKPASS_REQUIRE": "never", **os.environ}
