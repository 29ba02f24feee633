"""A command run by a process of this machine: the channel that the local and the external transport share.

The process has a session of its own and the leash's wrapper at its end: itself, or on the node that it leads to.
Its end of the leash is a pipe that closes with clstr, so not even a SIGKILL of clstr leaves a job behind.

Rules:

- The pipe's writing end is inherited by nobody (Python makes descriptors so): another job that held it would
  keep this one's leash tight for ever.
- The process is never killed from here while the watcher may still do it: the watcher takes a dead first process
  for a job that ended by itself and leaves its children alone. asyncio's own subprocesses kill when they are
  closed or forgotten; hence plain descriptors here.
- A job is over when its process has ended and its output too, or after LINGER seconds of silence, since a
  background child may keep the output open.
- The output of a process without a job is not read: what it may say before that is what a pipe holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import IO

from clstr.model import Lost, NotStarted, Outcome, Refused, Sink
from clstr.transport import KILL_GRACE, LINGER, CannotRead, Command, Input
from clstr.transport.leash import Marker, arm

_CHUNK = 64 * 1024
"""Bytes of output taken at a time: what a pipe holds."""

_EARLY_LIMIT = 1024 * 1024
"""Bytes of output before the job's beginning after which no more are read: no start-up file says so much."""

_LAST_WORDS = 1024
"""Bytes of standard error that are remembered for a reason."""


class ProcessChannel(ABC):
    """Room for one job in a process of this machine; also the tap of the job's output.

    A kind of channel says what it runs in ``_start`` and what its end means in ``_judge``.
    """

    def __init__(self, forget: Callable[[ProcessChannel], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[Outcome] = self._loop.create_future()
        self._forget = forget
        self._process: subprocess.Popen[bytes] | None = None
        self._leash = -1
        self._unsaid = b""  # of what is written to the leash
        self._said = asyncio.Event()  # nothing is unsaid, or will be said
        self._took: Callable[[], None] = lambda: None  # called when the process takes some of it
        self._feeder: asyncio.Task[None] | None = None
        self._streams: dict[int, Callable[[bytes], None]] = {}  # the open ends of the job's output
        self._paused = True
        self._marker: Marker | None = Marker()  # None once the job has begun
        self._early: list[tuple[Callable[[bytes], None], bytes]] = []  # heard before that
        self._early_size = 0
        self._last_words = b""  # of standard error
        self._silence: asyncio.TimerHandle | None = None
        self._heard = 0.0

    # --- what a kind of channel says -----------------------------------------------------------------------

    @abstractmethod
    def _start(self, command: Command) -> None:
        """Get the command under way, by ``_spawn`` and ``_hand_over``. Raises OSError."""

    @abstractmethod
    def _judge(self, status: int) -> Outcome:
        """What it means that the process ended with this status, negative for a signal."""

    # --- the protocol --------------------------------------------------------------------------------------

    async def run(self, command: Command, sink: Sink) -> Outcome:
        """Run the command; see the protocol. NotStarted where no process can be made (EAGAIN, ENOMEM)."""
        self._sink = sink
        try:
            if not self._over.done():
                self._start(command)
            return await self._over
        except OSError as error:
            return NotStarted(f"cannot start {error.filename or 'a process'}: {error.strerror}")
        finally:
            self.close()
            if self._marker is None:
                sink.finished()

    def kill(self) -> None:
        """Let the leash go; see the protocol. A job that has not begun will not."""
        if self._process is None:
            self._end(NotStarted("stopped before it began"))
            return
        self._let_go()
        self._loop.call_later(KILL_GRACE + 1, self._kill_hard)

    def close(self) -> None:
        """Drop the job: it is terminated as by ``kill``, and nothing more is heard of it."""
        if self._process is not None and not self._exited:
            self.kill()
        self._end(Lost("closed") if self._marker is None else NotStarted("closed before it began"))

    def pause(self) -> None:
        """Read no more of the job's output."""
        self._paused = True
        for fd in self._streams:
            self._loop.remove_reader(fd)
        self._stop_listening()

    def resume(self) -> None:
        """Read on."""
        self._paused = False
        for fd in self._streams:
            self._loop.add_reader(fd, self._read, fd)
        if self._exited and self._streams:
            self._listen()

    # --- the process ---------------------------------------------------------------------------------------

    def _spawn(
        self, arguments: Sequence[str | bytes], *, leash: bool = True, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start the process; without leash its standard input is empty. Raises OSError."""
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE if leash else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            env=environment,
        )
        try:
            if leash:
                self._leash = _own(process.stdin)
            self._streams = {_own(process.stdout): self._hear_stdout, _own(process.stderr): self._hear_stderr}
        except OSError:  # no descriptor left; the process has no job yet
            self._let_go()
            process.kill()
            with process:  # waits, and closes what is its own
                raise
        self._process = process
        self._call_on_exit(process)

    def _hand_over(self, command: Command) -> None:
        """Give the process its job, over the leash, and begin to listen to it."""
        if self._leash >= 0:
            self._begin_to_say(arm(command))
            if command.input is not None:
                self._feed(command.input)
        self.resume()

    def _feed(self, source: Input, then: Callable[[], None] = lambda: None) -> None:
        """Say the job's input too, piece by piece."""
        self._feeder = asyncio.ensure_future(self._say_all(source))
        self._feeder.add_done_callback(lambda feeder: None if feeder.cancelled() else then())

    async def _say_all(self, source: Input) -> None:
        offset = 0
        while True:
            await self._said.wait()
            if self._leash < 0 or offset == source.size:
                return
            try:
                data = await source.read(offset)
            except CannotRead as error:
                self.kill()
                self._end(Refused(str(error)))
                return
            offset += len(data)
            if self._leash >= 0:
                self._begin_to_say(data)

    def _begin_to_say(self, data: bytes) -> None:
        self._unsaid = data
        self._said.clear()
        self._loop.add_writer(self._leash, self._say)
        self._say()

    def _say(self) -> None:
        try:
            self._unsaid = self._unsaid[os.write(self._leash, self._unsaid) :]
        except BlockingIOError:
            return
        except OSError:
            self._let_go()  # the process has ended; its exit says the rest
            return
        self._took()
        if not self._unsaid:
            self._loop.remove_writer(self._leash)
            self._said.set()

    def _let_go(self) -> None:
        if self._leash >= 0:
            self._loop.remove_writer(self._leash)
            os.close(self._leash)
            self._leash = -1
        self._said.set()

    def _kill_hard(self) -> None:
        # For a watcher that was itself killed, or that is out of reach.
        self._signal_group(signal.SIGKILL)

    def _signal_group(self, number: signal.Signals) -> None:
        # Not reaped: so the number is still this group's.
        if self._process is not None and not self._exited:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _call_on_exit(self, process: subprocess.Popen[bytes]) -> None:
        try:
            fd = os.pidfd_open(process.pid)
        except (AttributeError, OSError):  # not Linux, or before 5.3
            threading.Thread(target=self._wait_in_thread, args=(process,), daemon=True).start()
        else:
            self._loop.add_reader(fd, self._reap, fd)

    def _wait_in_thread(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed, nobody asks any more
            self._loop.call_soon_threadsafe(self._on_exit)

    def _reap(self, fd: int) -> None:
        self._loop.remove_reader(fd)
        os.close(fd)
        self._on_exit()

    def _on_exit(self) -> None:
        assert self._process is not None
        self._process.wait()
        self._let_go()
        if not self._streams:
            self._end_by_itself()
        elif not self._paused:
            self._listen()

    @property
    def _exited(self) -> bool:
        return self._process is not None and self._process.returncode is not None

    def _end_by_itself(self) -> None:
        assert self._process is not None
        if not self._over.done():
            self._end(self._judge(self._process.returncode))

    def _end(self, outcome: Outcome) -> None:
        """The attempt is over; an outcome that came first stays."""
        self._stop_listening()
        for fd in self._streams:
            self._loop.remove_reader(fd)
            os.close(fd)
        self._streams = {}
        self._forget(self)
        if self._feeder is not None:
            self._feeder.cancel()
        if not self._over.done():
            self._over.set_result(outcome)

    # --- its output ----------------------------------------------------------------------------------------

    def _read(self, fd: int) -> None:
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return
        if data:
            self._heard = self._loop.time()
            self._streams[fd](data)
        else:
            self._stream_ended(fd)

    def _stream_ended(self, fd: int) -> None:
        self._loop.remove_reader(fd)
        os.close(fd)
        del self._streams[fd]
        if self._exited and not self._streams:
            self._end_by_itself()

    def _hear_stdout(self, data: bytes) -> None:
        if self._marker is None:
            self._sink.stdout(data)
            return
        before, begun, after = self._marker.feed(data)
        self._keep(self._sink.stdout, before)
        if begun:
            self._keep(self._sink.stdout, after)
            self._begin()

    def _hear_stderr(self, data: bytes) -> None:
        self._last_words = (self._last_words + data)[-_LAST_WORDS:]
        if self._marker is None:
            self._sink.stderr(data)
        else:
            self._keep(self._sink.stderr, data)

    def _keep(self, hear: Callable[[bytes], None], data: bytes) -> None:
        """Remember what came before the job, whose output it will be if it begins."""
        if data:
            self._early.append((hear, data))
            self._early_size += len(data)
            if self._early_size > _EARLY_LIMIT:
                self.pause()

    def _begin(self) -> None:
        """The job begins: this is its tap, and what came before was its output."""
        self._marker = None
        if self._paused:
            self.resume()
        self._sink.begun(self)
        for hear, data in self._early:
            hear(data)
        self._early = []

    def _listen(self) -> None:
        """The process has ended: wait for LINGER seconds without output."""
        self._stop_listening()
        self._heard = self._loop.time()
        self._silence = self._loop.call_later(LINGER, self._check_silence)

    def _check_silence(self) -> None:
        left = self._heard + LINGER - self._loop.time()
        if left > 0:
            self._silence = self._loop.call_later(left, self._check_silence)
        else:
            self._end_by_itself()

    def _stop_listening(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None


def signal_name(number: int) -> str:
    """The signal's name without ``SIG``."""
    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:  # a real-time signal
        return str(number)


def _own(pipe: IO[bytes] | None) -> int:
    """The pipe's descriptor, non-blocking and ours to close."""
    assert pipe is not None
    fd = os.dup(pipe.fileno())
    pipe.close()
    os.set_blocking(fd, False)
    return fd
