"""How the jobs' output looks: tagged, grouped, in order, folded; and files of a job's own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from readers import Calls, Reader, Tap, console, end_threads, until

from clstr.model import (
    Attempt,
    Done,
    Exited,
    Fact,
    Failed,
    Held,
    Job,
    News,
    Node,
    Requeued,
    Sink,
    Slot,
    Terms,
)
from clstr.output.console import Console
from clstr.output.files import divert
from clstr.output.fold import Fold
from clstr.output.group import Group
from clstr.output.lines import LONGEST
from clstr.output.merge import Merge, Mode
from clstr.output.modes import mode
from clstr.output.spool import BLOCK, LIMIT, TOGETHER, Spill, Spool

ModeOf = Callable[[Console], Mode]


@pytest.fixture(autouse=True)
def _threads_end() -> Iterator[None]:
    yield
    end_threads()


def attempt(job: int = 1, number: int = 1, node: str = "n1", **more: object) -> Attempt:
    return Attempt(Job(job, b"echo", **more), number, Slot(Node(node, node), 1))  # type: ignore[arg-type]


class Run:
    """Jobs that print by a mode, as the runner would have them."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode

    def tell(self, event: Fact | News) -> None:
        self.mode.saw(0.0, event)

    def begin(self, of: Attempt, flow: Tap | None = None) -> Sink:
        sink = self.mode.sink(of)
        sink.begun(flow or Tap())
        return sink

    def prints(self, of: Attempt, stdout: bytes = b"", stderr: bytes = b"") -> None:
        """A whole attempt, but for its fate."""
        sink = self.begin(of)
        if stdout:
            sink.stdout(stdout)
        if stderr:
            sink.stderr(stderr)
        sink.finished()

    def done(self, of: Attempt, stdout: bytes = b"", stderr: bytes = b"") -> None:
        self.prints(of, stdout, stderr)
        self.tell(Done(of.job, of))

    def failed(self, of: Attempt, stdout: bytes = b"") -> None:
        self.prints(of, stdout)
        self.tell(Failed(of.job, of, "exit 1"))

    def requeued(self, of: Attempt, stdout: bytes = b"") -> None:
        self.prints(of, stdout)
        self.tell(Requeued(of, Exited(1)))


def outputs(
    mode_of: ModeOf, act: Callable[[Run], Awaitable[None] | None], one_file: bool = False, color: str = "never"
) -> tuple[bytes, bytes]:
    """What a run puts on stdout and stderr by the mode."""
    out, err = Reader(), Reader()

    async def run() -> None:
        c = console(out.writing_fd, out.writing_fd if one_file else err.writing_fd, color=color)
        jobs = Run(mode_of(c))
        waits = act(jobs)
        if waits is not None:
            await waits
        await jobs.mode.drain()
        await c.drain()

    asyncio.run(run())
    return out.all(), err.all()


def tagged(c: Console) -> Mode:
    return Merge(c, tag=True)


def ordered(c: Console) -> Mode:
    return Group(c, order=True)


def whole(parts: list[bytes]) -> bytes:
    """Outputs behind each other, by whole lines."""
    text = b""
    for part in parts:
        if part:
            text += (b"\n" if text and not text.endswith(b"\n") else b"") + part
    return text


# --- tags ---


def test_each_line_begins_with_its_node_on_both_streams() -> None:
    def act(run: Run) -> None:
        run.prints(attempt(1, node="n1"), b"one\n\ntwo\n", b"oops\n")
        run.prints(attempt(2, node="n2"), b"three\n")

    assert outputs(tagged, act) == (b"n1: one\nn1: \nn1: two\nn2: three\n", b"n1: oops\n")


def test_a_tag_is_put_once_however_the_bytes_come() -> None:
    def act(run: Run) -> None:
        sink = run.begin(attempt(node="n1"))
        for byte in b"ab\ncd\ne":
            sink.stdout(bytes([byte]))
        sink.finished()

    assert outputs(tagged, act)[0] == b"n1: ab\nn1: cd\nn1: e"


def test_what_is_left_of_a_parted_line_is_tagged_again() -> None:
    long = b"x" * (LONGEST + 1)

    def act(run: Run) -> None:
        a, b = run.begin(attempt(1, node="n1")), run.begin(attempt(2, node="n2"))
        a.stdout(long)
        a.stdout(long)
        b.stdout(b"short\n")
        a.stdout(b"end\n")
        a.finished()
        b.finished()

    assert outputs(tagged, act)[0] == b"n1: " + long + long + b"\nn2: short\nn1: end\n"


@pytest.mark.parametrize("mode_of", [tagged, lambda c: Group(c, tag=True)], ids=["merged", "grouped"])
def test_without_its_tags_the_output_is_the_jobs_own(mode_of: ModeOf) -> None:
    data = random.Random(3).randbytes(300_000)

    def act(run: Run) -> None:
        run.done(attempt(node="n1"), data)

    shown = outputs(mode_of, act)[0]
    assert b"\n".join(line.removeprefix(b"n1: ") for line in shown.split(b"\n")) == data
    assert all(line.startswith(b"n1: ") for line in shown.split(b"\n"))


def test_a_tag_steers_no_terminal_and_its_colour_stays_off_the_output() -> None:
    def act(run: Run) -> None:
        run.prints(attempt(node="n\x1b[2J"), b"\x1b[31mred\n")

    assert outputs(tagged, act)[0] == b"n\\x1b[2J: \x1b[31mred\n"
    assert outputs(tagged, act, color="always")[0] == b"\x1b[36mn\\x1b[2J:\x1b[m \x1b[31mred\n"


def test_this_machine_is_called_so() -> None:
    assert outputs(tagged, lambda run: run.prints(attempt(node=":"), b"x\n"))[0] == b"this machine: x\n"


# --- groups ---


def test_output_comes_whole_when_its_job_is_done() -> None:
    async def act(run: Run) -> None:
        a, b = attempt(1), attempt(2)
        first, second = run.begin(a), run.begin(b)
        first.stdout(b"1a\n")
        second.stdout(b"2a\n")
        first.stdout(b"1b\n")
        second.stdout(b"2b")
        second.finished()
        run.tell(Done(b.job, b))
        first.finished()
        run.tell(Done(a.job, a))

    assert outputs(Group, act)[0] == b"2a\n2b\n1a\n1b\n"


def test_stdout_comes_before_stderr_where_both_are_one_file() -> None:
    def act(run: Run) -> None:
        a = attempt()
        sink = run.begin(a)
        sink.stderr(b"e1\n")
        sink.stdout(b"o1\n")
        sink.stderr(b"e2")
        sink.stdout(b"o2")
        sink.finished()
        run.tell(Done(a.job, a))

    assert outputs(Group, act, one_file=True)[0] == b"o1\no2\ne1\ne2"
    assert outputs(Group, act) == (b"o1\no2", b"e1\ne2")


def test_of_a_requeued_job_only_the_last_attempt_is_printed() -> None:
    def act(run: Run) -> None:
        run.requeued(attempt(1), b"broken on n1")
        run.done(attempt(1, number=2, node="n2"), b"whole\n")
        run.requeued(attempt(2), b"a")
        run.failed(attempt(2, number=2), b"b\n")

    assert outputs(Group, act)[0] == b"whole\nb\n"


def test_a_job_that_fails_without_another_attempt_shows_its_last() -> None:
    """As one does whose class has no node left."""

    def act(run: Run) -> None:
        a = attempt()
        run.requeued(a, b"last words\n")
        run.mode.sink(attempt(number=2))  # never begins
        run.tell(Failed(a.job, a, "no node of its class is left"))

    assert outputs(Group, act)[0] == b"last words\n"


@pytest.mark.parametrize("mode_of", [Group, ordered, Fold])
def test_a_job_that_is_not_done_in_the_end_prints_nothing(mode_of: ModeOf) -> None:
    def act(run: Run) -> None:
        run.prints(attempt(1), b"stopped")
        run.begin(attempt(2)).stdout(b"x" * (LIMIT + 1))
        run.requeued(attempt(3), b"requeued")

    assert outputs(mode_of, act) == (b"", b"")


def test_for_the_null_device_nothing_is_kept() -> None:
    null = os.open(os.devnull, os.O_WRONLY)

    async def run() -> None:
        jobs = Run(Group(console(null, null)))
        tracemalloc.start()
        try:
            for number in range(1, 20):
                jobs.prints(attempt(number), b"x" * LIMIT)
            assert tracemalloc.get_traced_memory()[0] < LIMIT
        finally:
            tracemalloc.stop()

    asyncio.run(run())
    os.close(null)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("order", [False, True], ids=["grouped", "ordered"])
def test_each_output_is_whole_however_jobs_run_and_end(seed: int, order: bool) -> None:
    dice = random.Random(seed)
    count = 12
    printed: dict[int, bytes] = {}  # in the order in which jobs settle

    async def act(run: Run) -> None:
        live: dict[int, tuple[Attempt, Sink, bytearray]] = {}
        tries = dict.fromkeys(range(1, count + 1), 0)
        to_go = list(tries)
        dice.shuffle(to_go)
        while to_go or live:
            if to_go and (len(live) < 5 or dice.random() < 0.2):
                number = to_go.pop()
                fate = dice.random() if tries[number] == 0 else 1.0
                if fate < 0.1:
                    run.tell(Held(Job(number, b""), "hold = True"))
                elif fate < 0.2:
                    run.tell(Done(Job(number, b""), None))
                elif fate < 0.3:
                    run.tell(Failed(Job(number, b""), None, "no node of class gpu"))
                elif fate > 0.35:
                    tries[number] += 1
                    begun = attempt(number, tries[number])
                    live[number] = (begun, run.begin(begun), bytearray())
                continue
            number = dice.choice(list(live))
            begun, sink, data = live[number]
            if dice.random() < 0.8:
                chunk = dice.choice([b"\n", b"a", b"line\n", dice.randbytes(dice.randrange(1, 100)), b"z" * 300_000])
                data += chunk
                sink.stdout(chunk)
                continue
            del live[number]
            sink.finished()
            if dice.random() < 0.3 and tries[number] < 4:
                run.tell(Requeued(begun, Exited(1)))
                to_go.insert(0, number)
            elif dice.random() < 0.9:
                printed[number] = bytes(data)
                run.tell(dice.choice([Done(begun.job, begun), Failed(begun.job, begun, "exit 1")]))
            await asyncio.sleep(0)

    shown = outputs(ordered if order else Group, act)[0]
    assert shown == whole([printed[number] for number in (sorted(printed) if order else printed)])


def test_a_hundred_megabytes_are_grouped_in_bounded_memory_and_one_descriptor() -> None:
    out = Reader(keeps=False)
    chunk = b"x" * 32767 + b"\n"
    jobs, chunks = 8, 400

    async def run() -> int:
        c = console(out.writing_fd, out.writing_fd)
        grouped = Run(Group(c))
        attempts = [attempt(number) for number in range(1, jobs + 1)]
        sinks = [grouped.begin(of) for of in attempts]
        before = len(os.listdir("/dev/fd"))
        for _ in range(chunks):
            for sink in sinks:
                sink.stdout(chunk)
        opened = len(os.listdir("/dev/fd")) - before
        for of, sink in zip(attempts, sinks, strict=True):
            sink.finished()
            grouped.tell(Done(of.job, of))
        await grouped.mode.drain()
        await c.drain()
        return opened

    tracemalloc.start()
    try:
        assert asyncio.run(run()) <= 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    out.all()
    assert out.count == jobs * chunks * len(chunk) >= 100 << 20
    assert peak < (jobs + 8) * LIMIT


# --- groups and a slow reader ---


def test_behind_a_slow_reader_jobs_under_way_go_on_and_new_ones_wait_with_their_first_output() -> None:
    out = Reader(waits=True)

    async def run() -> None:
        c = console(out.writing_fd, out.writing_fd)
        jobs = Run(Group(c))
        early, late, silent = Tap(), Tap(), Tap()
        going_on = jobs.begin(attempt(2), early)
        going_on.stdout(b"2\n")
        jobs.done(attempt(1), b"1" * (4 * LIMIT) + b"\n")
        going_on.stdout(b"2" * (4 * LIMIT) + b"\n")
        assert early.open.is_set()
        later = jobs.begin(attempt(3), late)
        assert late.open.is_set()
        later.stdout(b"3\n")
        jobs.begin(attempt(4), silent)
        assert not late.open.is_set()
        assert silent.open.is_set()
        out.go.set()
        await late.open.wait()
        later.finished()
        jobs.tell(Done(attempt(3).job, attempt(3)))
        await jobs.mode.drain()
        await c.drain()

    asyncio.run(run())
    assert out.all() == b"1" * (4 * LIMIT) + b"\n3\n"


def test_in_order_a_job_whose_turn_it_is_is_never_held_by_those_behind_it() -> None:
    out = Reader(waits=True)

    async def run() -> None:
        c = console(out.writing_fd, out.writing_fd)
        jobs, first = Run(ordered(c)), Tap()
        for number in range(2, 6):
            jobs.done(attempt(number), b"x" * (2 * LIMIT) + b"\n")
        jobs.begin(attempt(1), first).stdout(b"1\n")
        assert first.open.is_set()
        jobs.tell(Done(attempt(1).job, attempt(1)))
        out.go.set()
        await jobs.mode.drain()
        await c.drain()

    asyncio.run(run())
    assert out.all() == b"1\n" + (b"x" * (2 * LIMIT) + b"\n") * 4


def test_a_message_beside_a_long_group_stands_between_whole_lines() -> None:
    both = Reader(waits=True)
    line = b"x" * 999 + b"\n"

    async def run() -> None:
        c = console(both.writing_fd, both.writing_fd)
        jobs = Run(Group(c))
        jobs.done(attempt(1), line * 5000)
        c.message("hello")
        both.go.set()
        await jobs.mode.drain()
        await c.drain()

    asyncio.run(run())
    lines = both.all().splitlines(keepends=True)
    assert lines.count(line) == 5000
    assert sorted(set(lines)) == [b"clstr: hello\n", line]


def test_what_nobody_will_read_is_given_up_by_abort() -> None:
    out = Reader(waits=True)

    async def run() -> None:
        c = console(out.writing_fd, out.writing_fd)
        jobs = Run(Group(c))
        jobs.done(attempt(1), b"x" * (8 * LIMIT))
        drain = asyncio.ensure_future(jobs.mode.drain())
        await asyncio.sleep(0)
        assert not drain.done()
        c.abort()
        await drain
        await c.drain()

    asyncio.run(run())
    out.go.set()
    out.all()


# --- order ---


def test_in_order_jobs_that_never_print_are_stepped_over() -> None:
    def act(run: Run) -> None:
        run.done(attempt(6), b"6\n")
        run.tell(Held(Job(2, b""), "hold = True"))
        run.tell(Done(Job(3, b""), None))
        run.tell(Failed(Job(4, b""), None, "no node of class gpu"))
        run.done(attempt(5))
        run.done(attempt(1), b"1\n")

    assert outputs(ordered, act)[0] == b"1\n6\n"


def test_in_order_nobody_waits_for_the_end_of_the_run() -> None:
    out = Reader()

    async def run() -> None:
        jobs = Run(ordered(console(out.writing_fd, out.writing_fd)))
        jobs.done(attempt(5), b"5\n")
        jobs.tell(Held(Job(1, b""), "hold = True"))
        jobs.tell(Done(Job(2, b""), None))
        jobs.tell(Failed(Job(3, b""), None, "no node of class gpu"))
        jobs.done(attempt(4))
        await until(lambda: out.data == b"5\n")

    asyncio.run(run())
    out.all()


def test_in_order_what_waited_for_a_job_that_is_never_done_comes_at_the_end() -> None:
    async def act(run: Run) -> None:
        run.done(attempt(4), b"4\n")
        run.prints(attempt(3), b"stopped\n")
        run.done(attempt(2), b"2\n")

    assert outputs(ordered, act)[0] == b"2\n4\n"


# --- spools ---


@contextlib.contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Files of more bytes cannot be written, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("seed", range(10))
def test_spools_give_back_what_they_got_and_use_the_space_again(seed: int) -> None:
    dice = random.Random(seed)
    spill = Spill(lambda directory, error: pytest.fail(str(error)))
    for _ in range(3):
        spools = [(Spool(spill), bytearray()) for _ in range(4)]
        for _ in range(60):
            spool, expected = dice.choice(spools)
            data = dice.randbytes(dice.choice([1, 1000, BLOCK, 3 * BLOCK + 1, LIMIT]))
            spool.append(data)
            expected += data
        for spool, expected in spools:
            assert spool.size == len(expected)
            if dice.random() < 0.2:
                spool.take()
                spool.drop()
            else:
                assert b"".join(iter(spool.take, b"")) == expected
            assert spool.size == 0
        assert spill.in_memory == 0
    assert spill.put(b"x") is not None
    spill.close()


def test_the_space_of_what_was_printed_is_used_again() -> None:
    spill = Spill(lambda directory, error: pytest.fail(str(error)))
    with files_up_to(5 * LIMIT):
        for _ in range(10):
            spool = Spool(spill)
            spool.append(b"x" * (4 * LIMIT))
            assert sum(len(piece) for piece in iter(spool.take, b"")) == 4 * LIMIT
    spill.close()


def test_the_space_of_attempts_that_were_requeued_is_used_again() -> None:
    def act(run: Run) -> None:
        with files_up_to(4 * LIMIT):
            for number in range(1, 10):
                run.requeued(attempt(number=number), b"x" * (2 * LIMIT))
            run.done(attempt(number=10), b"y" * (2 * LIMIT))

    assert outputs(Group, act) == (b"y" * (2 * LIMIT), b"")


def test_many_outputs_that_wait_are_together_bounded_in_memory() -> None:
    spill = Spill(lambda directory, error: pytest.fail(str(error)))
    data = b"x" * (LIMIT // 2)
    spools = [Spool(spill) for _ in range(3 * TOGETHER // len(data))]
    for spool in spools:
        spool.append(data)
        assert spill.in_memory <= TOGETHER + len(data)
    assert all(b"".join(iter(spool.take, b"")) == data for spool in spools)
    spill.close()


def test_a_full_disk_is_told_once_and_what_is_cut_is_named() -> None:
    out, err, calls = Reader(), Reader(), Calls()

    async def run() -> None:
        c = console(out.writing_fd, err.writing_fd, calls=calls)
        jobs = Run(Group(c))
        with files_up_to(2 * LIMIT):
            for number in (1, 2):
                jobs.done(attempt(number, origin=f"jobs.txt:{number}"), b"%d" % number * (8 * LIMIT))
            jobs.done(attempt(3), b"3" * LIMIT)
        await jobs.mode.drain()
        await c.drain()
        assert list(c.errors) == [name for name, _ in calls.failed]

    asyncio.run(run())
    shown = out.all()
    sizes = [shown.count(b"%d" % number) for number in (1, 2, 3)]
    assert LIMIT <= sizes[0] < 8 * LIMIT
    assert sizes[1:] == [LIMIT, LIMIT]
    first, second, third = err.all().decode().splitlines()
    assert first.startswith("clstr: temporary file in /")
    assert ": File too large (" in first
    assert second == f"clstr: jobs.txt:1: echo: stdout cut after {sizes[0]} bytes, the rest is lost"
    assert third == f"clstr: jobs.txt:2: echo: stdout cut after {LIMIT} bytes, the rest is lost"
    assert len(calls.failed) == 1


# --- folds ---


def heading(text: str) -> bytes:
    rule = "-" * 15
    return f"{rule}\n{text}\n{rule}\n".encode()


def test_each_distinct_output_is_printed_once_under_its_nodes() -> None:
    def act(run: Run) -> None:
        for number in (3, 1, 20, 2):
            run.done(attempt(number, node=f"n{number:02}"), b"Linux 6.1\nx86_64\n")
        run.done(attempt(4, node="n04"), b"Linux 5.10\n")
        run.failed(attempt(5, node="n05"), b"not found")
        run.done(attempt(6, node="n06"))

    assert outputs(Fold, act)[0] == (
        heading("n[01-03,20] (4)") + b"Linux 6.1\nx86_64\n" + heading("n04") + b"Linux 5.10\n"
        + heading("n05") + b"not found"
    )  # fmt: skip


def test_stderr_is_folded_on_stderr() -> None:
    def act(run: Run) -> None:
        for number in (1, 2):
            run.done(attempt(number, node=f"n{number}"), b"%d" % number, b"warning\n")

    assert outputs(Fold, act) == (
        heading("n1") + b"1\n" + heading("n2") + b"2",
        heading("n[1-2] (2)") + b"warning\n",
    )


def test_nothing_is_folded_before_the_end_and_attempts_before_the_last_never() -> None:
    async def act(run: Run) -> None:
        run.requeued(attempt(1, node="n1"), b"broken")
        run.done(attempt(1, number=2, node="n1"), b"well")
        run.done(attempt(2, node="n2"), b"well")

    assert outputs(Fold, act)[0] == heading("n[1-2] (2)") + b"well"


def test_a_heading_steers_no_terminal_and_alone_is_coloured() -> None:
    def act(run: Run) -> None:
        run.done(attempt(node="n\x1b[2J"), b"\x1b[31mred\n")

    assert outputs(Fold, act)[0] == heading("n\\x1b[2J") + b"\x1b[31mred\n"
    rule = b"\x1b[36m" + b"-" * 15 + b"\x1b[m\n"
    painted = rule + b"\x1b[36mn\\x1b[2J\x1b[m\n" + rule
    assert outputs(Fold, act, color="always")[0] == painted + b"\x1b[31mred\n"


def test_alike_outputs_of_many_nodes_take_the_space_of_one() -> None:
    out = Reader(keeps=False)
    data = b"x" * (LIMIT + 1)

    async def run() -> None:
        c = console(out.writing_fd, out.writing_fd)
        jobs = Run(Fold(c))
        with files_up_to(4 * LIMIT):
            for number in range(1, 101):
                jobs.done(attempt(number, node=f"n{number}"), data)
        await jobs.mode.drain()
        await c.drain()
        assert c.errors == {}

    asyncio.run(run())
    out.all()
    assert out.count == len(heading("n[1-100] (100)") + data)


# --- files of a job's own ---


def own_files(jobs: Run, c: Console, of: Attempt, **paths: str | None) -> Sink:
    terms = Terms(**paths)  # type: ignore[arg-type]
    return divert(replace(of, job=replace(of.job, terms=terms)), jobs.mode.sink(of), c)


def test_a_stream_with_a_file_of_its_own_goes_there_alone_and_anew_at_each_attempt(tmp_path: Path) -> None:
    path = tmp_path / "out"

    def act(c: Console) -> Mode:
        merge = Merge(c, tag=True)
        for words in (b"first, and longer\n", b"second"):
            sink = own_files(Run(merge), c, attempt(), output=str(path))
            sink.begun(Tap())
            sink.stdout(words)
            assert path.read_bytes() == words
            sink.stderr(b"oops\n")
            sink.finished()
        return merge

    assert outputs(act, lambda run: None) == (b"", b"n1: oops\nn1: oops\n")
    assert path.read_bytes() == b"second"


def test_one_file_may_take_both_streams(tmp_path: Path) -> None:
    path = str(tmp_path / "both")

    def act(c: Console) -> Mode:
        sink = own_files(Run(Merge(c)), c, attempt(), output=path, error=path)
        sink.begun(Tap())
        sink.stdout(b"out\n")
        sink.stderr(b"err\n")
        sink.stdout(b"out\n")
        sink.finished()
        return Merge(c)

    assert outputs(act, lambda run: None) == (b"", b"")
    assert Path(path).read_bytes() == b"out\nerr\nout\n"


def test_a_file_that_cannot_be_opened_refuses_the_attempt(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    def act(c: Console) -> Mode:
        for name, why in (("missing/out", "No such file"), ("", "Is a directory"), ("fifo", "No such device")):
            with pytest.raises(OSError, match=why):
                own_files(Run(Merge(c)), c, attempt(), error=str(tmp_path / name))
        with pytest.raises(OSError, match="not a regular file"):
            own_files(Run(Merge(c)), c, attempt(), output="/dev/zero")
        own_files(Run(Merge(c)), c, attempt(), output=os.devnull)
        return Merge(c)

    before = len(os.listdir("/dev/fd"))
    outputs(act, lambda run: None)
    assert len(os.listdir("/dev/fd")) <= before


def test_a_file_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    out, err, calls = Reader(), Reader(), Calls()
    path = str(tmp_path / "out")

    async def run() -> None:
        c = console(out.writing_fd, err.writing_fd, calls=calls)
        sink = own_files(Run(Merge(c)), c, attempt(), output=path)
        sink.begun(Tap())
        with files_up_to(1000):
            for _ in range(3):
                sink.stdout(b"x" * 600)
        sink.finished()
        await c.drain()

    asyncio.run(run())
    out.all()
    assert [name for name, _ in calls.failed] == [path]
    assert err.all().decode().startswith(f"clstr: {path}: File too large (")
    assert Path(path).stat().st_size == 1000


# --- flags ---


def test_each_flag_has_its_mode() -> None:
    def kind(c: Console, **flags: bool) -> Mode:
        return mode(c, **({"tag": False, "group": False, "keep_order": False, "fold": False} | flags))

    def act(c: Console) -> Mode:
        assert isinstance(kind(c), Merge)
        assert isinstance(kind(c, group=True, tag=True), Group)
        assert isinstance(kind(c, keep_order=True), Group)
        assert isinstance(kind(c, fold=True), Fold)
        return kind(c, tag=True)

    assert outputs(act, lambda run: run.prints(attempt(), b"x\n"))[0] == b"n1: x\n"
