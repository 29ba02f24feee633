"""The console on real pipes and files."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import select
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from readers import Calls, Reader, Tap, console, end_threads, until

from clstr.model import Attempt, BadInput, Job, Node, Sink, Slot
from clstr.output import writer
from clstr.output.console import Console, open_files
from clstr.output.lines import LONGEST
from clstr.output.merge import Merge
from clstr.output.paint import Style, printable, wanted
from clstr.output.writer import LIMIT, Writer

ATTEMPT = Attempt(Job(1, b"true"), 1, Slot(Node("n1", "n1"), 1))


@pytest.fixture(autouse=True)
def _threads_end() -> Iterator[None]:
    yield
    end_threads()


def job(on: Console, flow: Tap | None = None) -> Sink:
    sink = Merge(on).sink(ATTEMPT)
    sink.begun(flow or Tap())
    return sink


def printed(write: Callable[[Console], None], one_file: bool = False) -> tuple[bytes, bytes]:
    """What comes out on stdout and stderr."""
    out, err = Reader(), Reader()

    async def run() -> None:
        c = console(out.writing_fd, out.writing_fd if one_file else err.writing_fd)
        write(c)
        await c.drain()

    asyncio.run(run())
    return out.all(), err.all()


# --- lines and cursors ---


def test_stdout_and_stderr_of_a_job_go_to_their_own_places() -> None:
    def write(c: Console) -> None:
        sink = job(c)
        sink.stdout(b"out\n")
        sink.stderr(b"err\n")
        sink.finished()
        c.message("hello")

    assert printed(write) == (b"out\n", b"err\nclstr: hello\n")


def test_lines_of_two_jobs_are_never_mixed() -> None:
    def write(c: Console) -> None:
        a, b = job(c), job(c)
        for byte in b"alpha\nbeta":
            a.stdout(bytes([byte]))
            b.stdout(bytes([byte]).upper())
        a.finished()
        b.finished()

    assert printed(write) == (b"alpha\nALPHA\nbeta\nBETA", b"")


def test_an_unterminated_last_line_is_passed_on_as_it_is() -> None:
    def write(c: Console) -> None:
        sink = job(c)
        sink.stdout(b"no newline")
        sink.finished()

    assert printed(write) == (b"no newline", b"")


def test_a_message_after_an_unterminated_line_begins_its_own_line_where_both_are_one_file() -> None:
    def write(c: Console) -> None:
        sink = job(c)
        sink.stdout(b"no newline")
        sink.finished()
        c.message("hello")

    assert printed(write, one_file=True) == (b"no newline\nclstr: hello\n", b"")


def test_both_streams_of_a_job_in_one_file_keep_whole_lines() -> None:
    def write(c: Console) -> None:
        sink = job(c)
        sink.stdout(b"ou")
        sink.stderr(b"er")
        sink.stdout(b"t\ntail")
        sink.stderr(b"r\nend")
        sink.finished()

    assert printed(write, one_file=True) == (b"out\nerr\ntail\nend", b"")


def test_a_lone_line_of_20_mb_arrives_whole() -> None:
    out = Reader()

    async def run() -> None:
        c, flow = console(out.writing_fd, out.writing_fd), Tap()
        sink = job(c, flow)
        for _ in range(640):
            sink.stdout(b"x" * 32768)
            await flow.open.wait()
        sink.stdout(b"\n")
        sink.finished()
        await c.drain()

    asyncio.run(run())
    assert out.all() == b"x" * (640 * 32768) + b"\n"


def test_a_very_long_line_is_parted_by_a_newline_when_another_job_prints() -> None:
    def write(c: Console) -> None:
        a, b = job(c), job(c)
        a.stdout(b"x" * (LONGEST + 1))
        b.stdout(b"short\n")
        a.stdout(b"yy\n")
        a.finished()
        b.finished()

    assert printed(write)[0] == b"x" * (LONGEST + 1) + b"\nshort\nyy\n"


def test_a_900_kb_line_beside_other_jobs_stays_whole() -> None:
    def write(c: Console) -> None:
        a, b = job(c), job(c)
        for _ in range(30):
            a.stdout(b"x" * 30_000)
            b.stdout(b"short\n")
        a.stdout(b"\n")
        a.finished()
        b.finished()

    assert printed(write)[0] == b"short\n" * 30 + b"x" * 900_000 + b"\n"


def test_many_jobs_lose_no_byte() -> None:
    out = Reader()

    async def one(c: Console, number: int) -> None:
        flow = Tap()
        sink = job(c, flow)
        data = b"".join(b"%d %d\n" % (number, line) for line in range(2000))
        for at in range(0, len(data), 777):
            sink.stdout(data[at : at + 777])
            await flow.open.wait()
            await asyncio.sleep(0)
        sink.finished()

    async def run() -> None:
        c = console(out.writing_fd, out.writing_fd)
        await asyncio.gather(*(one(c, number) for number in range(50)))
        await c.drain()

    asyncio.run(run())
    lines = out.all().splitlines()
    assert len(lines) == 100_000
    for number in range(50):
        prefix = b"%d " % number
        mine = [line for line in lines if line.startswith(prefix)]
        assert mine == [b"%d %d" % (number, line) for line in range(2000)]


# --- flow ---


def test_a_slow_reader_holds_the_jobs_and_memory_stays_bounded() -> None:
    out = Reader(waits=True, keeps=False)

    async def flood(c: Console) -> None:
        flow = Tap()
        sink = job(c, flow)
        for _ in range(3200):
            sink.stdout(bytes(32767) + b"\n")
            if not flow.open.is_set():
                out.go.set()
                await flow.open.wait()
        sink.finished()

    async def run() -> None:
        c = console(out.writing_fd, out.writing_fd)
        await asyncio.gather(flood(c), flood(c))
        await c.drain()

    tracemalloc.start()
    try:
        asyncio.run(run())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    out.all()
    assert out.count == 2 * 3200 * 32768
    assert peak < 8 * LIMIT


def test_every_held_job_is_released_and_only_then() -> None:
    out = Reader(waits=True)

    async def run() -> None:
        c = console(out.writing_fd, out.writing_fd)
        flows = [Tap() for _ in range(5)]
        sinks = [job(c, flow) for flow in flows]
        sinks[0].stdout(b"x" * (2 * LIMIT) + b"\n")
        for sink in sinks[1:4]:
            sink.stdout(b"y\n")
        assert [flow.open.is_set() for flow in flows] == [False, False, False, False, True]
        sinks[3].finished()
        out.go.set()
        await asyncio.gather(*(flow.open.wait() for flow in flows[:3]))
        for sink in sinks:
            sink.stdout(b"more\n")
        assert all(flow.open.is_set() for flow in flows[:3])
        await c.drain()

    asyncio.run(run())
    assert out.all().count(b"more\n") == 5


def test_a_blocked_stdout_does_not_stop_stderr() -> None:
    out, err = Reader(waits=True), Reader()

    async def run() -> None:
        c = console(out.writing_fd, err.writing_fd)
        sink, flow = Merge(c).sink(ATTEMPT), Tap()
        sink.begun(flow)
        sink.stdout(b"x" * (2 * LIMIT) + b"\n")
        c.message("still here")
        await until(lambda: err.data == b"clstr: still here\n")
        assert not flow.open.is_set()
        out.go.set()
        await c.drain()

    asyncio.run(run())
    out.all()
    err.all()


def test_a_job_held_by_both_files_goes_on_when_both_have_room() -> None:
    out, err = Reader(waits=True), Reader(waits=True)

    async def run() -> None:
        c, flow = console(out.writing_fd, err.writing_fd), Tap()
        sink = job(c, flow)
        sink.stdout(b"x" * (2 * LIMIT) + b"\n")
        sink.stderr(b"x" * (2 * LIMIT) + b"\n")
        out.go.set()
        await until(lambda: len(out.data) == 2 * LIMIT + 1)
        await asyncio.sleep(0)
        assert not flow.open.is_set()
        err.go.set()
        await flow.open.wait()
        await c.drain()

    asyncio.run(run())
    out.all()
    err.all()


def test_a_pipe_that_somebody_made_non_blocking_is_written_all_the_same() -> None:
    out = Reader(waits=True)
    flags = fcntl.fcntl(out.writing_fd, fcntl.F_GETFL)
    fcntl.fcntl(out.writing_fd, fcntl.F_SETFL, flags | os.O_NONBLOCK)

    async def run() -> None:
        c = console(out.writing_fd, out.writing_fd)
        job(c).stdout(b"x" * LIMIT + b"\n")
        out.go.set()
        await c.drain()

    asyncio.run(run())
    assert len(out.all()) == LIMIT + 1


def test_remarks_are_dropped_and_counted_when_nobody_reads_them() -> None:
    err = Reader(waits=True)

    async def run() -> None:
        c = console(err.writing_fd, err.writing_fd)
        for _ in range(40):
            c.remark("x" * (1 << 20))
        c.message("the end")
        err.go.set()
        await c.drain()

    asyncio.run(run())
    *kept, count, end = err.all().splitlines()
    assert 0 < len(kept) < 40
    assert count == b"clstr: %d lines of --verbose dropped (stderr was not read)" % (40 - len(kept))
    assert end == b"clstr: the end"


# --- errors ---


def test_a_closed_stdout_is_reported_once_and_messages_go_on() -> None:
    calls, err = Calls(), Reader()
    fd, closed = os.pipe()
    os.close(fd)

    async def run() -> None:
        c = console(closed, err.writing_fd, calls=calls)
        sink, flow = Merge(c).sink(ATTEMPT), Tap()
        sink.begun(flow)
        sink.stdout(b"x" * (2 * LIMIT) + b"\n")
        await until(lambda: calls.broken)
        await flow.open.wait()
        sink.stdout(b"more\n")
        sink.finished()
        c.message("hello")
        await c.drain()

    asyncio.run(run())
    os.close(closed)
    assert (calls.broken, calls.failed) == (["stdout"], [])
    assert err.all() == b"clstr: hello\n"


def test_a_closed_stderr_is_remembered_quietly() -> None:
    calls, out = Calls(), Reader()
    fd, closed = os.pipe()
    os.close(fd)

    async def run() -> Console:
        c = console(out.writing_fd, closed, calls=calls)
        c.message("nobody hears this")
        await c.drain()
        job(c).stdout(b"out\n")
        await c.drain()
        return c

    c = asyncio.run(run())
    os.close(closed)
    assert (calls.broken, calls.failed) == ([], [])
    assert c.errors["stderr"].errno == errno.EPIPE
    assert out.all() == b"out\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_stdout_is_one_message_and_one_failure_known_after_drain() -> None:
    calls, err = Calls(), Reader()
    full = os.open("/dev/full", os.O_WRONLY)

    async def run() -> None:
        c = console(full, err.writing_fd, calls=calls)
        for _ in range(3):
            job(c).stdout(b"out\n")
            await c.drain()
            assert calls.failed == [("stdout", errno.ENOSPC)]
        await c.drain()

    asyncio.run(run())
    os.close(full)
    assert err.all().startswith(b"clstr: stdout: No space left on device (")
    assert err.data.count(b"\n") == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_an_error_that_the_loop_has_not_heard_of_yet_is_known_after_drained() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    errors: list[OSError] = []

    async def run() -> None:
        writer = Writer(full, asyncio.get_running_loop(), errors.append)
        writer.write(run, b"out\n")
        while not writer.discards:
            time.sleep(0.001)  # noqa: ASYNC251 - the loop is to hear of nothing meanwhile
        await writer.drained()
        assert [error.errno for error in errors] == [errno.ENOSPC]

    asyncio.run(run())
    os.close(full)


def test_the_end_does_not_wait_for_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_REST", 100_000.0)
    out, fd = os.pipe()

    async def run() -> None:
        printer = Writer(fd, asyncio.get_running_loop(), lambda error: None)
        for line in (b"first\n", b"second\n"):  # the one ends a rest that has begun, the other the next
            printer.write(run, line)
            async with asyncio.timeout(60):
                await printer.drained()
            assert os.read(out, 100) == line
        printer.write(run, b"third\n")
        printer.close()

    asyncio.run(run())
    assert select.select([out], [], [], 60)[0]
    assert os.read(out, 100) == b"third\n"
    os.close(out)
    os.close(fd)


def test_a_drain_that_waits_for_a_stuck_reader_ends_by_abort() -> None:
    out = Reader(waits=True)

    async def run() -> None:
        c, flow = console(out.writing_fd, out.writing_fd), Tap()
        job(c, flow).stdout(b"x" * (2 * LIMIT) + b"\n")
        drain = asyncio.ensure_future(c.drain())
        await asyncio.sleep(0)
        assert not drain.done()
        c.abort()
        await drain
        assert flow.open.is_set()

    asyncio.run(run())
    out.go.set()
    out.all()


# --- files ---


@pytest.fixture
def fds() -> Iterator[set[int]]:
    opened: set[int] = set()
    yield opened
    for fd in opened - {1, 2}:
        os.close(fd)


def test_files_are_truncated_and_get_what_stdout_and_stderr_would(tmp_path: Path, fds: set[int]) -> None:
    (tmp_path / "o").write_text("something old and long")
    files = open_files(str(tmp_path / "o"), str(tmp_path / "e"))
    fds |= {files.stdout, files.stderr}
    err = Reader()

    async def run() -> None:
        c = console(files.stdout, files.stderr, err.writing_fd)
        sink = job(c)
        sink.stdout(b"out\n")
        sink.stderr(b"err\n")
        c.message("hello")
        await c.drain()

    asyncio.run(run())
    assert ((tmp_path / "o").read_bytes(), (tmp_path / "e").read_bytes()) == (b"out\n", b"err\n")
    assert err.all() == b"clstr: hello\n"


def test_the_same_file_twice_is_opened_once(tmp_path: Path, fds: set[int]) -> None:
    (tmp_path / "link").symlink_to("o")
    files = open_files(str(tmp_path / "o"), str(tmp_path / "link"))
    fds |= {files.stdout, files.stderr}
    assert files.stdout == files.stderr


def test_one_file_under_two_descriptors_has_one_cursor(tmp_path: Path, fds: set[int]) -> None:
    one, two = (os.open(tmp_path / "both", os.O_WRONLY | os.O_CREAT) for _ in range(2))
    fds |= {one, two}

    async def run() -> None:
        c = console(one, two)
        sink = job(c)
        sink.stdout(b"out")
        sink.stderr(b"err")
        sink.finished()
        c.message("hello")
        await c.drain()

    asyncio.run(run())
    assert (tmp_path / "both").read_bytes() == b"out\nerr\nclstr: hello\n"


@pytest.mark.parametrize("name", ["", "missing/file"])
def test_a_file_that_cannot_be_opened_is_bad_input(name: str, tmp_path: Path) -> None:
    path = str(tmp_path / name)
    for arguments in ((path, None), (None, path)):
        with pytest.raises(BadInput, match=r"^.*: (Is a directory|No such file or directory) \(.+\)$"):
            open_files(*arguments)


def test_the_null_device_costs_no_thread_and_holds_nobody() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    before = set(threading.enumerate())

    async def run() -> None:
        c, flow = console(null, null), Tap()
        job(c, flow).stdout(b"x" * (4 * LIMIT))
        await c.drain()
        assert flow.open.is_set()
        assert set(threading.enumerate()) <= before

    asyncio.run(run())
    os.close(null)


# --- words ---


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 中", "plain é 中"),
        ("a\nb\tc\x1b[31m\x7f", r"a\nb\tc\x1b[31m\x7f"),
        (b"caf\xe9".decode("utf-8", "surrogateescape"), r"caf\xe9"),
        ("\u202eright to left\x9b", r"\u202eright to left\x9b"),
    ],
)
def test_messages_show_what_cannot_be_printed_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


# --- colours ---


@pytest.mark.parametrize(
    ("when", "environment", "coloured"),
    [
        ("auto", {}, True),
        ("auto", {"NO_COLOR": "1"}, False),
        ("auto", {"NO_COLOR": ""}, True),
        ("auto", {"TERM": "dumb"}, False),
        ("always", {"NO_COLOR": "1"}, True),
        ("never", {}, False),
    ],
)
def test_when_colours_are_wanted(
    when: str, environment: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    terminal, other = os.openpty()
    with open(os.devnull, "wb") as null:
        assert wanted(when, other) is coloured
        assert wanted(when, null.fileno()) is (when == "always")
    os.close(terminal)
    os.close(other)


def test_a_message_is_escaped_and_then_painted() -> None:
    out, err = Reader(), Reader()

    async def run() -> None:
        c = console(out.writing_fd, err.writing_fd, color="always")
        c.message("a\x1b[2Jb", Style.BAD)
        c.message("plain")
        job(c).stdout(b"\x1b[1mjob\n")
        await c.drain()

    asyncio.run(run())
    assert out.all() == b"\x1b[1mjob\n"
    assert err.all() == b"\x1b[31mclstr: a\\x1b[2Jb\x1b[m\nclstr: plain\n"
