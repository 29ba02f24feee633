"""The streams of jobs: what a file's bytes mean, and how they arrive while the loop goes on."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import clstr
from clstr.inputs.jobs import AHEAD_BYTES, AHEAD_JOBS, BATCH, CHUNK, JobStream, Lines, PinnedJobs, check_files
from clstr.model import BadInput, Job, Node

LONGEST = 127 * 1024
SOON = 30.0
"""Seconds after which a test gives up."""


# --- bytes into commands -----------------------------------------------------------------------------------

Parsed = list[tuple[bytes, int]]


def parsed(data: bytes, null: bool = False, pieces: int | None = None) -> Parsed:
    """Commands with their line numbers; the data arrives in pieces of so many bytes."""
    parser = Lines("f", LONGEST, null)
    found: list[tuple[bytes, str]] = []
    feed(parser, data, pieces or len(data) or 1, found)
    found += parser.end()
    return [(command, int(origin.removeprefix("f:"))) for command, origin in found]


def feed(parser: Lines, data: bytes, pieces: int, found: list[tuple[bytes, str]]) -> None:
    for at in range(0, len(data), pieces):
        found += parser.feed(data[at : at + pieces])


CASES: list[tuple[bytes, bool, Parsed]] = [
    (b"", False, []),
    (b"a\n", False, [(b"a", 1)]),
    (b"a\nb", False, [(b"a", 1), (b"b", 2)]),
    (b"a\n\n \t\nb\n", False, [(b"a", 1), (b"b", 4)]),
    (b"# x\n  # y\na # z\n#", False, [(b"a # z", 3)]),
    (b"  a b  \n", False, [(b"  a b  ", 1)]),
    (b"a\r\n\r\n#\r\nb\r\nc\r", False, [(b"a", 1), (b"b", 4), (b"c", 5)]),
    (b"a\r\r\nb\rc\n", False, [(b"a\r", 1), (b"b\rc", 2)]),
    (b"echo \xff\xfe \xc3\xa9\n", False, [(b"echo \xff\xfe \xc3\xa9", 1)]),
    (b"\xef\xbb\xbf# x\na\n\xef\xbb\xbfb\n", False, [(b"a", 2), (b"\xef\xbb\xbfb", 3)]),
    (b"\xef\xbb\xbfa\n", False, [(b"a", 1)]),
    (b"# a\0b\na\n", False, [(b"a", 2)]),
    (b"a\0b\0", True, [(b"a", 1), (b"b", 2)]),
    (b"a\nb\0\0# c\r\0 \0", True, [(b"a\nb", 1), (b"# c\r", 3), (b" ", 4)]),
    (b"\xef\xbb\xbfa", True, [(b"\xef\xbb\xbfa", 1)]),
]


@pytest.mark.parametrize(("data", "null", "expected"), CASES)
def test_commands_are_the_same_whole_and_byte_by_byte(data: bytes, null: bool, expected: Parsed) -> None:
    assert parsed(data, null) == expected
    for pieces in (1, 2, 3):
        assert parsed(data, null, pieces) == expected


@pytest.mark.parametrize(("data", "null", "expected"), CASES)
def test_what_follows_a_line_does_not_change_what_is_before_it(data: bytes, null: bool, expected: Parsed) -> None:
    end = b"\0" if null else b"\n"
    closed = data if data.endswith(end) else data + end
    parser = Lines("f", LONGEST, null)
    before = [command for command, _ in parser.feed(closed + b"trailing")]
    assert before == [command for command, _ in expected]
    assert [command for command, _ in parser.end()] == [b"trailing"]


def test_a_nul_in_a_line_is_an_error_behind_the_jobs_before_it() -> None:
    for pieces in (1, 1000):
        parser = Lines("jobs.txt", LONGEST, False)
        found: list[tuple[bytes, str]] = []
        with pytest.raises(BadInput) as caught:
            feed(parser, b"a\nb\nc\0d\ne\n", pieces, found)
        assert [command for command, _ in found] == [b"a", b"b"]
        assert str(caught.value).startswith("jobs.txt:3: NUL byte in a job (use --null")


def test_a_job_may_be_as_long_as_the_limit_and_no_longer() -> None:
    just = b"x" * LONGEST
    for pieces in (None, CHUNK, 1000):
        assert parsed(just + b"\r\n" + just, pieces=pieces) == [(just, 1), (just, 2)]
        for data, null in [(just + b"x\n", False), (b"a\n" + just + b"x", False), (just + b"x\0", True)]:
            with pytest.raises(BadInput, match=r"f:[12]: job of more than 130,048 bytes"):
                parsed(data, null, pieces)


@pytest.mark.parametrize(("byte", "says"), [(b"x", "more than"), (b"\0", "NUL byte")])
def test_a_line_without_end_is_refused_before_it_fills_the_memory(byte: bytes, says: str) -> None:
    parser = Lines("f", LONGEST, False)
    with pytest.raises(BadInput, match=rf"f:1: .*{says}"):
        feed(parser, byte * (LONGEST + 2 * CHUNK), CHUNK, [])


def test_a_comment_or_blank_line_without_end_is_not_kept() -> None:
    for head in (b"  # ", b"   "):
        parser = Lines("f", LONGEST, False)
        for _ in range(10):
            assert list(parser.feed(head + b" " * CHUNK)) == []
            assert len(parser._tail) <= LONGEST + 1
        assert [command for command, _ in parser.feed(b"\na\n")] == [b"a"]
        assert parser.line == 3


# --- streams -----------------------------------------------------------------------------------------------


def running(scene: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(SOON):
            await scene()

    asyncio.run(bounded())


async def until(fact: Callable[[], bool]) -> None:
    """Wait, in time that other threads can use, until something is so."""
    while not fact():  # noqa: ASYNC110 (another thread brings the fact about)
        await asyncio.sleep(0.001)


async def rest(stream: JobStream | PinnedJobs, count: int = 100, found: list[Job] | None = None) -> list[Job]:
    """All jobs to the end of the stream; those before an error are in ``found``."""
    found = [] if found is None else found
    while jobs := await stream.next(count):
        assert len(jobs) <= count
        found += jobs
    return found


@contextmanager
def started(commands: list[bytes], files: list[str], **options: object) -> Iterator[JobStream]:
    stream = JobStream(commands, files, longest=LONGEST, **options)  # type: ignore[arg-type]
    stream.start(asyncio.get_running_loop())
    try:
        yield stream
    finally:
        stream.close()


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "clstr job files"]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe; a test may close the one to write to."""
    reader, writer = os.pipe()
    yield reader, writer
    with suppress(OSError):
        os.close(writer)
    for thread in readers():  # which would read on from whatever gets the number of a closed descriptor
        thread.join(SOON)
    os.close(reader)


def test_jobs_are_numbered_over_texts_and_files_in_order(tmp_path: Path) -> None:
    a, b, empty = (str(tmp_path / name) for name in ("a", "b", "empty"))
    Path(a).write_bytes(b"# first\na1\na2")
    Path(b).write_bytes(b"b1\n")
    Path(empty).write_bytes(b"\n# nothing\n")

    async def scene() -> None:
        with started([b"t1", b"t2\nt3"], [b, empty, a]) as stream:
            jobs = await rest(stream, 2)
            assert [(job.id, job.command, job.origin) for job in jobs] == [
                (1, b"t1", "--job"),
                (2, b"t2\nt3", "--job"),
                (3, b"b1", f"{b}:1"),
                (4, b"a1", f"{a}:2"),
                (5, b"a2", f"{a}:3"),
            ]
            assert all(job.budget is None and job.pin is None for job in jobs)
            assert stream.seen == (5, True)
            assert await stream.next(1) == []
            assert stream.at_hand(1) == []

    running(scene)


def test_texts_are_at_hand_at_once_and_need_no_file() -> None:
    async def scene() -> None:
        with started([b"a", b"b"], []) as stream:
            assert stream.seen == (2, True)
            assert [job.command for job in stream.at_hand(1)] == [b"a"]
            coroutine = stream.next(5)
            with pytest.raises(StopIteration) as returned:
                coroutine.send(None)
            assert [job.command for job in returned.value.value] == [b"b"]
            assert await stream.next(5) == []

    running(scene)


def test_the_last_jobs_are_not_lost_to_the_end_that_comes_right_behind_them(tmp_path: Path) -> None:
    path = tmp_path / "jobs"
    path.write_bytes(b"a\nb\n")

    class Late(JobStream):
        """The file is read to its end just after a look that found nothing at hand."""

        looks = 0

        def at_hand(self, count: int) -> list[Job]:
            jobs = super().at_hand(count)
            self.looks += 1
            if self.looks == 1:
                self.start(asyncio.get_running_loop())
                for thread in readers():
                    thread.join(0.2)
            return jobs

    async def scene() -> None:
        stream = Late([], [str(path)], longest=LONGEST)
        assert [job.command for job in await rest(stream)] == [b"a", b"b"]

    running(scene)


def test_an_empty_text_or_one_too_long_is_refused() -> None:
    for command in (b"", b" \n"):
        with pytest.raises(BadInput, match="--job: empty command"):
            JobStream([b"a", command], [], longest=LONGEST)
        with pytest.raises(BadInput, match="--on-each-node: empty command"):
            PinnedJobs(command, [], longest=LONGEST)
    with pytest.raises(BadInput, match="--job: job of more than 3 bytes"):
        JobStream([b"abcd"], [], longest=3)


def test_the_first_job_arrives_before_the_last_line_exists(pipe: tuple[int, int]) -> None:
    async def scene() -> None:
        with started([], ["-"], stdin_fd=pipe[0]) as stream:
            os.write(pipe[1], b"first\nsec")
            assert [job.command for job in await stream.next(9)] == [b"first"]
            assert stream.seen == (1, False)
            assert stream.at_hand(9) == []
            os.write(pipe[1], b"ond\n")
            (job,) = await stream.next(9)
            assert (job.command, job.origin) == (b"second", "stdin:2")
            os.close(pipe[1])
            assert await stream.next(9) == []

    running(scene)


def test_a_writer_that_pauses_holds_nothing_up(tmp_path: Path) -> None:
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    check_files([fifo])

    async def scene() -> None:
        with started([b"at once"], [fifo]) as stream:
            assert len(await stream.next(9)) == 1
            waiting = asyncio.ensure_future(stream.next(9))
            turns = 0
            while turns < 100:  # the loop goes on though nobody has opened the other end
                await asyncio.sleep(0)
                turns += 1
            assert not waiting.done()
            with open(fifo, "wb", buffering=0) as writer:  # noqa: ASYNC230 (its reader is there)
                writer.write(b"late\n")
                assert [job.command for job in await waiting] == [b"late"]
                waiting = asyncio.ensure_future(stream.next(9))
                await asyncio.sleep(0)
                waiting.cancel()
                writer.write(b"later\n")
                assert [job.command for job in await stream.next(9)] == [b"later"]
            assert await stream.next(9) == []

    running(scene)


def test_closing_ends_the_waiting_though_the_writer_pauses(pipe: tuple[int, int]) -> None:
    async def scene() -> None:
        with started([], ["-"], stdin_fd=pipe[0]) as stream:
            waiting = asyncio.ensure_future(stream.next(9))
            await asyncio.sleep(0)
            stream.close()
            assert await waiting == []
            assert stream.seen == (0, False)

    running(scene)


@contextmanager
def in_a_process(code: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python that runs the ``main`` of the code."""
    imports = "import asyncio, sys\nfrom clstr.inputs.jobs import JobStream\n"
    code = f"{imports}{textwrap.dedent(code)}\nasyncio.run(main())"
    root = str(Path(clstr.__file__).parent.parent)
    command = [sys.executable, "-c", code, *words]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": root}, stdout=subprocess.PIPE) as run:
        try:
            yield run
        finally:
            run.kill()


@pytest.mark.parametrize("how", ["paused", "never opened", "closed"])
def test_a_writer_that_pauses_does_not_hold_up_the_exit(how: str, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    code = """
        async def main():
            stream = JobStream([], [sys.argv[1]], longest=999)
            stream.start(asyncio.get_running_loop())
            if sys.argv[2] != "never opened":
                print([job.command for job in await stream.next(9)])
            if sys.argv[2] == "closed":
                stream.close()
    """
    with in_a_process(code, str(fifo), how) as run:
        if how == "never opened":
            assert run.communicate(timeout=SOON)[0] == b""
        else:
            with open(fifo, "wb", buffering=0) as writer:
                writer.write(b"one\ntw")
                assert run.communicate(timeout=SOON)[0] == b"[b'one']\n"
        assert run.returncode == 0


def test_process_substitution_is_read_and_checked_without_harm(pipe: tuple[int, int]) -> None:
    path = f"/dev/fd/{pipe[0]}"
    os.write(pipe[1], b"a\nb\n")
    check_files([path])
    os.close(pipe[1])

    async def scene() -> None:
        with started([], [path]) as stream:
            assert [(job.command, job.origin) for job in await rest(stream)] == [
                (b"a", f"{path}:1"),
                (b"b", f"{path}:2"),
            ]

    running(scene)


def test_a_pipe_left_not_to_block_is_waited_for(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[0], False)

    async def scene() -> None:
        with started([], ["-"], stdin_fd=pipe[0]) as stream:
            waiting = asyncio.ensure_future(stream.next(9))
            for _ in range(20):
                await asyncio.sleep(0.001)
            os.write(pipe[1], b"a\n")
            assert [job.command for job in await waiting] == [b"a"]
            os.close(pipe[1])
            assert await stream.next(9) == []

    running(scene)


LINE = b"echo %064d\n" % 7


@contextmanager
def endless(pipe: tuple[int, int], line: bytes = LINE) -> Iterator[list[int]]:
    """A thread that writes lines for as long as the test lasts; gives how many it has written."""
    written = [0]
    enough = threading.Event()

    def write() -> None:
        while not enough.is_set():
            os.write(pipe[1], line * 100)
            written[0] += 100

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield written
    finally:
        enough.set()
        os.set_blocking(pipe[0], False)
        while thread.is_alive():  # make room for its last write
            with suppress(BlockingIOError):
                os.read(pipe[0], CHUNK)


def test_an_endless_stream_is_read_ahead_boundedly_and_on(pipe: tuple[int, int]) -> None:
    in_a_pipe = 1024 * 1024 // len(LINE)

    async def scene() -> None:
        with endless(pipe) as written, started([], ["-"], stdin_fd=pipe[0]) as stream:
            await until(lambda: stream.seen[0] > AHEAD_JOBS - BATCH)
            taken = 0
            while taken < 10 * AHEAD_JOBS:
                jobs = await stream.next(100)
                assert [job.id for job in jobs] == list(range(taken + 1, taken + 1 + len(jobs)))
                taken += len(jobs)
                assert stream.seen[0] - taken <= AHEAD_JOBS
                assert written[0] - taken <= AHEAD_JOBS + in_a_pipe
            assert not stream.seen[1]

    running(scene)


def test_long_jobs_are_read_ahead_by_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "jobs"
    line = b"x" * (100 * 1024) + b"\n"
    path.write_bytes(line * 40)

    async def scene() -> None:
        with started([], [str(path)]) as stream:
            taken = 0
            await until(lambda: stream.seen[0] >= 8)
            while jobs := await stream.next(1):
                taken += len(jobs)
                assert (stream.seen[0] - taken) * len(line) <= AHEAD_BYTES + 2 * len(line)
            assert taken == 40

    running(scene)


def test_a_closed_stream_is_read_no_further_and_yields_what_was_read(tmp_path: Path) -> None:
    path = tmp_path / "jobs"
    path.write_bytes(b"a\n" * (CHUNK // 2))

    async def scene() -> None:
        with started([], [str(path)]) as stream:
            await until(lambda: stream.seen[0] == AHEAD_JOBS)
            stream.close()
            assert len(await rest(stream)) == AHEAD_JOBS
            await until(lambda: not readers())
            assert stream.seen == (AHEAD_JOBS, False)
            assert stream.at_hand(1) == []

    running(scene)


def test_a_closed_stream_is_read_no_further_though_there_are_only_comments(pipe: tuple[int, int]) -> None:
    async def scene() -> None:
        with endless(pipe, b"# nothing yet\n") as written, started([], ["-"], stdin_fd=pipe[0]) as stream:
            await until(lambda: written[0] > 100_000)
            stream.close()
            await until(lambda: not readers())
            assert stream.seen == (0, False)

    running(scene)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_thirty_times_the_lines_take_no_more_memory(tmp_path: Path) -> None:
    # Not by getrusage: its peak is inherited from the process that forked this one.
    code = """
        async def main():
            stream = JobStream([], [sys.argv[1]], longest=999)
            stream.start(asyncio.get_running_loop())
            count = 0
            while jobs := stream.at_hand(50) or await stream.next(50):
                count += len(jobs)
            [peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
            print(count, peak)
    """
    peaks = []
    for lines in (10_000, 300_000):
        path = tmp_path / str(lines)
        path.write_bytes(b"echo some job of ours\n" * lines)
        with in_a_process(code, str(path)) as run:
            count, kib = run.communicate(timeout=3 * SOON)[0].split()
        assert int(count) == lines
        peaks.append(int(kib))
    assert peaks[1] - peaks[0] < 5 * 1024


# --- what cannot be used in mid-stream ---------------------------------------------------------------------


def test_bad_input_in_mid_stream_comes_behind_all_jobs_before_it(tmp_path: Path) -> None:
    path = tmp_path / "jobs.txt"
    path.write_bytes(b"a\n" * 1000 + b"b\0c\nd\n")

    async def scene() -> None:
        with started([], [str(path), str(path)]) as stream:
            found: list[Job] = []
            with pytest.raises(BadInput) as caught:
                await rest(stream, 300, found)
            assert len(found) == 1000
            assert str(caught.value).startswith(f"{path}:1001: NUL byte in a job")
            assert stream.seen == (1000, False)
            for _ in range(2):
                with pytest.raises(BadInput):
                    stream.at_hand(1)

    running(scene)


def fail_with(message: str, files: list[str], **options: object) -> None:
    async def scene() -> None:
        with started([b"first"], files, **options) as stream:
            assert len(await stream.next(9)) == 1
            with pytest.raises(BadInput) as caught:
                await stream.next(9)
            assert str(caught.value).startswith(message)
            assert str(caught.value).endswith(")")

    running(scene)


def test_a_file_gone_or_a_directory_by_the_time_of_its_turn_is_an_error(tmp_path: Path) -> None:
    fail_with(f"{tmp_path}/gone: No such file or directory (", [f"{tmp_path}/gone"])
    fail_with(f"{tmp_path}:1: Is a directory (", [str(tmp_path)])


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a terminal left alone is at its end")
def test_a_read_error_names_file_and_line() -> None:
    ours, theirs = os.openpty()
    os.write(theirs, b"a\nb\nunfinished")
    os.close(theirs)  # from here on reading what is not there yet fails with EIO

    async def scene() -> None:
        with started([], ["-"], stdin_fd=ours) as stream:
            found: list[Job] = []
            with pytest.raises(BadInput) as caught:
                await rest(stream, 9, found)
            assert [job.command for job in found] == [b"a", b"b"]
            assert str(caught.value).startswith("stdin:3: Input/output error (")

    running(scene)
    os.close(ours)


# --- the check before anything is connected ----------------------------------------------------------------


def refused(files: list[str], stdin_fd: int = 0) -> str:
    with pytest.raises(BadInput) as caught:
        check_files(files, stdin_fd)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_files_that_cannot_be_read_are_found_before_the_run(tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.touch()
    check_files([str(good), str(good), "/dev/null"])
    gone = f"{tmp_path}/gone"
    assert refused([str(good), gone]).startswith(f"{gone}: No such file or directory (")
    assert refused([str(tmp_path)]).startswith(f"{tmp_path}: is a directory (")
    assert refused([f"{tmp_path}/a\nb"]).startswith("'")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        assert "is a socket" in refused([str(tmp_path / "s")])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_found_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "secret").touch(mode=0o000)
    assert "Permission denied" in refused([f"{tmp_path}/secret"])


def test_standard_input_is_checked_as_files_are(pipe: tuple[int, int], tmp_path: Path) -> None:
    check_files(["-"], pipe[0])
    assert "stdin is named twice" in refused(["-", "/dev/null", "-"], pipe[0])
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        assert refused(["-"], directory).startswith("stdin: is a directory (")
    finally:
        os.close(directory)
    assert refused(["-"], directory).startswith("stdin: Bad file descriptor (")


# --- one job for each entry --------------------------------------------------------------------------------


def test_each_entry_gets_its_own_job_pinned_and_tried_once() -> None:
    nodes = [Node("n2", "n2"), Node("n1", "n1"), Node("n2", "n2")]

    async def scene() -> None:
        stream = PinnedJobs(b"uptime", nodes, longest=LONGEST)
        stream.start(asyncio.get_running_loop())
        assert stream.seen == (3, True)
        jobs = stream.at_hand(2) + await rest(stream)
        assert [(job.id, job.pin) for job in jobs] == list(enumerate(nodes, 1))
        assert {(job.command, job.budget, job.origin) for job in jobs} == {(b"uptime", 0, "--on-each-node")}
        assert stream.at_hand(1) == []
        stream.close()

    running(scene)
