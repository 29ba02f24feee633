"""The run directory: eight files a job, its lock, and ``.done``."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from records.story import BEGIN, Deaf, attempt, job, ran, requeued, tell

from clstr.model import (
    Attempt,
    BadInput,
    CopyFailed,
    Done,
    End,
    Ended,
    Exited,
    Failed,
    Finished,
    Found,
    Killed,
    Lost,
    Outcome,
    Refused,
    Sink,
    Stopped,
    Terms,
    TimedOut,
)
from clstr.records import locks
from clstr.records.run_dir import RunDir


def opened(path: Path, warn: Callable[[str], None] = lambda text: None) -> RunDir:
    return RunDir(str(path), lambda job: f"job{job.id}", lambda attempt: b"#!/bin/sh\n", warn)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dir"


@pytest.fixture
def run(path: Path) -> Iterator[RunDir]:
    made = opened(path)
    yield made
    made.close()


def files(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()} - {".clstr"}


def enter(run: RunDir, of: Attempt, inner: Sink | None = None) -> Sink:
    assert run.enter(of) is None
    return run.sink(of, inner or Deaf())


def text(path: Path, name: str) -> str:
    return (path / name).read_text()


def test_a_job_that_finds_no_descriptor_left_can_enter_later(run: RunDir, path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened_before = sorted(map(int, os.listdir("/proc/self/fd")))
    first, second = os.dup(0), os.dup(0)
    os.close(first)
    try:
        for left in (0, 1):  # none for the script, and one, which is none for the second of two files
            resource.setrlimit(resource.RLIMIT_NOFILE, (first + left, limits[1]))
            with pytest.raises(OSError, match="Too many open files"):
                run.enter(attempt(job(1)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.close(second)
    assert sorted(map(int, os.listdir("/proc/self/fd"))) == opened_before
    assert "job1.lock" not in files(path)
    enter(run, attempt(job(1)))
    tell(run, [(BEGIN, Ended(attempt(job(1)), Exited(0))), (BEGIN, Done(job(1), attempt(job(1))))])
    assert "job1.done" in files(path)


# --- the files ---------------------------------------------------------------------------------------------


def test_a_job_that_runs_has_its_script_its_output_its_status_and_its_lock(run: RunDir, path: Path) -> None:
    inner = Deaf()
    sink = enter(run, attempt(job(1)), inner)
    sink.stdout(b"half a li")
    sink.stderr(b"careful\n")
    assert files(path) == {"job1.run", "job1.out", "job1.err", "job1.status", "job1.lock"}
    assert text(path, "job1.out") == "half a li"
    assert text(path, "job1.err") == "careful\n"
    assert text(path, "job1.status") == f"{os.getpid()} w\n"
    assert text(path, "job1.lock").split()[1] == str(os.getpid())
    assert stat.S_IMODE((path / "job1.run").stat().st_mode) == 0o700
    assert (inner.out, inner.err) == (b"half a li", b"careful\n")


def test_a_job_that_is_done_has_code_and_done_and_no_lock(run: RunDir, path: Path) -> None:
    of = attempt(job(1))
    enter(run, of).stdout(b"x\n")
    tell(run, ran(of))
    assert "job1.lock" in files(path)  # its results may still have to be copied
    assert "job1.done" not in files(path)
    tell(run, [(BEGIN, Done(of.job, of))])
    assert files(path) == {"job1.run", "job1.out", "job1.err", "job1.code", "job1.done"}
    assert text(path, "job1.code") == "0\n"
    assert run.done([of.job, job(2)]) == [1]


@pytest.mark.parametrize(
    ("outcome", "code"),
    [(Exited(3), "3\n"), (Killed("KILL"), "137\n"), (TimedOut(1.0), "143\n"), (Lost("cut"), None), (Stopped(), None)],
)
def test_an_attempt_that_failed_leaves_its_code_if_it_has_one(
    outcome: Outcome, code: str | None, run: RunDir, path: Path
) -> None:
    of = attempt(job(1))
    enter(run, of)
    tell(run, requeued(of, outcome))
    assert files(path) == {"job1.run", "job1.out", "job1.err"} | ({"job1.code"} if code else set())
    assert code is None or text(path, "job1.code") == code
    assert run.done([of.job]) == []


def test_the_next_attempt_begins_with_empty_files_and_no_code(run: RunDir, path: Path) -> None:
    first, second = attempt(job(1)), attempt(job(1), 2)
    enter(run, first).stdout(b"a long story\n")
    tell(run, requeued(first, Exited(1)))
    enter(run, second).stdout(b"short\n")
    assert text(path, "job1.out") == "short\n"
    assert "job1.code" not in files(path)


def test_a_job_whose_results_were_not_copied_is_not_done(run: RunDir, path: Path) -> None:
    of = attempt(job(1))
    enter(run, of)
    tell(run, ran(of, Exited(0, (b"x",))), [(BEGIN, Failed(of.job, of, "results not copied: x"))])
    assert {"job1.done", "job1.lock"} & files(path) == set()


def test_the_end_of_a_run_gives_back_what_is_still_held(run: RunDir, path: Path) -> None:
    of = attempt(job(1))
    enter(run, of)
    tell(run, ran(of, Exited(0, (b"x",))), [(BEGIN, Finished(End.STOPPED))])
    assert {"job1.done", "job1.lock"} & files(path) == set()


def test_a_job_with_an_input_has_a_link_to_it(run: RunDir, path: Path, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("some\n")
    enter(run, attempt(job(1, terms=Terms(input=str(tmp_path / "data")))))
    assert text(path, "job1.input") == "some\n"


# --- the door ----------------------------------------------------------------------------------------------


def test_a_job_that_another_run_has_done_meanwhile_is_found(run: RunDir, path: Path) -> None:
    of = attempt(job(1))
    other = opened(path)
    enter(other, of)
    tell(other, ran(of), [(BEGIN, Done(of.job, of))])
    assert run.enter(of) == Found()
    assert "job1.lock" not in files(path)
    tell(run, [(BEGIN, Ended(of, Found())), (BEGIN, Done(of.job, of))])
    assert "job1.done" in files(path)


def test_a_job_that_another_run_holds_is_refused_and_left_alone(run: RunDir, path: Path) -> None:
    other, of = opened(path), attempt(job(1))
    enter(other, of).stdout(b"theirs\n")
    refused = run.enter(of)
    assert isinstance(refused, Refused)
    assert refused.why.startswith("locked by ")
    assert refused.why.endswith(f" {os.getpid()}")
    tell(run, [(BEGIN, Ended(of, refused)), (BEGIN, Failed(of.job, of, refused.why))])
    assert text(path, "job1.out") == "theirs\n"
    assert {"job1.lock", "job1.status"} <= files(path)


def a_dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("kind", ["dead", "number taken by another", "not waited for"])
def test_a_stale_lock_is_replaced_with_a_warning(kind: str, path: Path) -> None:
    said: list[str] = []
    run, me = opened(path, said.append), locks.this_process()
    zombie = subprocess.Popen([sys.executable, "-c", "pass"], stdout=subprocess.PIPE)
    assert zombie.stdout is not None
    zombie.stdout.read()  # it ends, and nobody has waited for it
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    pid = {"dead": a_dead_process(), "number taken by another": os.getpid(), "not waited for": zombie.pid}[kind]
    (path / "job1.lock").write_bytes(locks.Holder(me.host, pid, "long-ago").line)
    enter(run, attempt(job(1)))
    assert (path / "job1.lock").read_bytes() == me.line
    assert said == [f"{path}/job1.lock: {me.host} {pid} is gone: its lock is replaced, and the job runs again"]
    zombie.wait()
    run.close()


@pytest.mark.parametrize("content", ["elsewhere 1 x\n", "", "a b\n", "\xff"])
def test_a_lock_that_cannot_be_judged_from_here_stands(content: str, run: RunDir, path: Path) -> None:
    (path / "job1.lock").write_text(content, encoding="latin-1")
    refused = run.enter(attempt(job(1)))
    assert isinstance(refused, Refused)
    assert refused.why.startswith("locked by elsewhere 1" if content.startswith("else") else "locked by somebody (")
    assert files(path) == {"job1.lock"}


def test_a_stale_lock_beside_done_is_removed_and_one_that_is_held_stands(path: Path) -> None:
    run, me = opened(path), locks.this_process()
    (path / "job1.done").touch()
    (path / "job2.done").touch()
    (path / "job1.lock").write_bytes(locks.Holder(me.host, a_dead_process(), "long-ago").line)
    (path / "job2.lock").write_bytes(me.line)
    assert run.done([job(1), job(2)]) == [1, 2]
    assert files(path) == {"job1.done", "job2.done", "job2.lock"}


def test_what_runs_that_crashed_have_left_is_removed_and_the_last_run_leaves_nothing(path: Path) -> None:
    me = locks.this_process()
    (path / ".clstr").mkdir(parents=True)
    dead = path / ".clstr" / f"{me.host}.{a_dead_process()}"
    dead.write_bytes(locks.Holder(me.host, int(dead.suffix[1:]), "long-ago").line)
    dead.with_name(f"{dead.name}.status").write_text("1 w\n")
    (path / ".clstr" / "elsewhere.1").write_text("elsewhere 1 x\n")
    run = opened(path)
    names = {entry.name for entry in (path / ".clstr").iterdir()}
    assert names == {"elsewhere.1", f"{me.host}.{me.pid}", f"{me.host}.{me.pid}.status"}
    (path / ".clstr" / "elsewhere.1").unlink()
    run.close()
    assert not [*path.iterdir()]


def test_runs_that_begin_while_others_end_find_their_place(tmp_path: Path) -> None:
    """The last run to end removes ``.clstr``, perhaps just when another has found it there."""
    over = threading.Event()

    def remove() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                (tmp_path / ".clstr").rmdir()

    remover = threading.Thread(target=remove)
    remover.start()
    try:
        for _ in range(200):
            locks.Locks(str(tmp_path)).close()
    finally:
        over.set()
        remover.join()


TAKER = """
import sys
from clstr.records import locks
mine = locks.Locks(sys.argv[1])
sys.stdin.readline()
print(sum(mine.take(f"{sys.argv[1]}/{n}.lock")[0] is None for n in range(200)), flush=True)
sys.stdin.readline()
"""


def test_of_many_runs_that_want_a_stale_lock_one_gets_it(tmp_path: Path) -> None:
    stale = locks.Holder(locks.this_process().host, a_dead_process(), "long-ago").line
    for n in range(200):
        (tmp_path / f"{n}.lock").write_bytes(stale)
    command = [sys.executable, "-c", TAKER, str(tmp_path)]
    takers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    for taker in takers:
        assert taker.stdin is not None
        taker.stdin.write("go\n")
        taker.stdin.flush()
    taken = [int(taker.stdout.readline()) for taker in takers if taker.stdout]
    for taker in takers:
        taker.communicate("\n", timeout=60)
    assert sum(taken) == 200
    assert files(tmp_path) == {f"{n}.lock" for n in range(200)}


def test_a_stale_lock_is_judged_again_once_nobody_else_replaces_it(tmp_path: Path) -> None:
    mine = locks.Locks(str(tmp_path))
    lock = tmp_path / "1.lock"
    lock.write_bytes(locks.Holder(mine.me.host, a_dead_process(), "long-ago").line)
    taken: list[object] = []
    directory = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    taker = threading.Thread(target=lambda: taken.append(mine.take(str(lock))[0]))
    taker.start()
    taker.join(0.3)
    assert taker.is_alive()  # another run is at it
    lock.write_bytes(mine.me.line)
    os.close(directory)
    taker.join()
    assert taken == [mine.me]


# --- what cannot be written --------------------------------------------------------------------------------


def test_a_directory_that_disappears_is_told_with_the_next_event(run: RunDir, path: Path) -> None:
    shutil.rmtree(path)
    of = attempt(job(1))
    refused = run.enter(of)
    assert refused == Refused(f"{path}/job1: No such file or directory")
    with pytest.raises(FileNotFoundError) as raised:
        tell(run, [(BEGIN, Ended(of, refused))])
    assert raised.value.filename == f"{path}/job1"


def test_a_job_whose_output_could_not_be_kept_is_not_recorded_as_done(
    run: RunDir, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    of = attempt(job(1))
    inner = Deaf()
    sink = enter(run, of, inner)
    monkeypatch.setattr("clstr.records.run_dir.write_all", full)
    sink.stdout(b"lost\n")
    assert inner.out == b"lost\n"
    with pytest.raises(OSError, match="No space left") as raised:
        tell(run, ran(of))
    assert raised.value.filename == f"{path}/job1"
    with pytest.raises(OSError, match="No space left"):
        tell(run, [(BEGIN, Done(of.job, of))])
    assert "job1.done" not in files(path)


def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine\n")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(BadInput, match=r"\(--run-dir needs a directory that can be written\)$"):
            opened(path)
    assert (tmp_path / "file").read_text() == "mine\n"


def test_copies_that_fail_have_no_code_of_their_own(run: RunDir, path: Path) -> None:
    of = attempt(job(1))
    enter(run, of)
    tell(run, ran(of, Exited(0, (b"x",))), [(BEGIN, Ended(of, CopyFailed("cut"))), (BEGIN, Failed(of.job, of, "cut"))])
    assert text(path, "job1.code") == "0\n"
