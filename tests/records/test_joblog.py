"""The joblog: GNU parallel's columns, what a resume makes of them, and GNU parallel itself on our log."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from records.story import BEGIN, Deaf, attempt, done, failed, job, node, requeued, tell

from clstr.model import (
    BadInput,
    CopyFailed,
    Done,
    Ended,
    Exited,
    Failed,
    Found,
    Job,
    Killed,
    Lost,
    Outcome,
    Refused,
    Stalled,
    Terms,
    TimedOut,
)
from clstr.records.joblog import HEADER, Joblog

needs_parallel = pytest.mark.skipif(shutil.which("parallel") is None, reason="GNU parallel is not installed")


def line(seq: int, command: str, status: int = 0, signal: int = 0, host: str = ":") -> str:
    return f"{seq}\t{host}\t{BEGIN:.3f}\t     0.001\t0\t3\t{status}\t{signal}\t{command}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def logged(path: Path, *stories: list[tuple[float, object]], resume: bool = False) -> list[str]:
    """The lines of a log that was told these stories, without its header."""
    log = Joblog(str(path), resume)
    log.begin(never)
    tell(log, *stories)  # type: ignore[arg-type]
    log.close()
    data = path.read_bytes()
    assert data.startswith(HEADER)
    return data[len(HEADER) :].decode("utf-8", "surrogateescape").splitlines()


def never(text: str) -> None:
    raise AssertionError(text)


def skipped(path: Path, jobs: Sequence[Job], by_node: bool = False) -> list[int]:
    """The jobs that a resume skips."""
    log = Joblog(str(path), resume=True, by_node=by_node)
    try:
        return [*log.done(jobs)]
    finally:
        log.close()


def jobs(*commands: str) -> list[Job]:
    return [job(number, command) for number, command in enumerate(commands, 1)]


# --- lines -------------------------------------------------------------------------------------------------


def test_a_line_is_as_gnu_parallel_prints_it(path: Path) -> None:
    assert logged(path, done(attempt(job(12, "echo a\tb"), on="me@n17:22"))) == [
        "12\tme@n17:22\t1795778334.250\t     1.500\t0\t0\t0\t0\techo a\tb"
    ]


def test_newlines_of_a_command_become_nul_and_other_bytes_stay(path: Path) -> None:
    logged(path, done(attempt(job(1, b"echo a\necho \xff"))))
    assert path.read_bytes().endswith(b"\techo a\0echo \xff\n")


@pytest.mark.parametrize(
    ("outcome", "columns"),
    [
        (Exited(3), "3\t0"),
        (Killed("KILL"), "0\t9"),
        (Killed("odd@example.com"), "255\t0"),
        (TimedOut(5.0), "-1\t15"),
        (Stalled(5.0), "-1\t15"),
        (Lost("cut"), "255\t0"),
        (Exited(0, (b"x",)), "1\t0"),  # its results were not copied, or it would not have failed
        (CopyFailed("x"), "1\t0"),
    ],
)
def test_how_a_failed_job_is_logged(outcome: Outcome, columns: str, path: Path) -> None:
    (text,) = logged(path, failed(attempt(job(1, "x")), outcome))
    assert text.endswith(f"\t{columns}\tx")


def test_a_job_has_one_line_with_its_last_attempt(path: Path) -> None:
    tried = job(1, "x", budget=1)
    first, second = attempt(tried), attempt(tried, 2, on="n2")
    (text,) = logged(path, requeued(first, Exited(1)), done(second, began=BEGIN + 10, took=0.25))
    assert text == "1\tn2\t1795778344.250\t     0.250\t0\t0\t0\t0\tx"


def test_a_job_that_did_not_run_here_has_no_line(path: Path) -> None:
    a, b, c, d = (attempt(job(number)) for number in range(1, 5))
    found = [*requeued(b, Lost("cut")), (BEGIN, Ended(b, Found())), (BEGIN, Done(b.job, b))]
    refused = [(BEGIN, Ended(c, Refused("locked"))), (BEGIN, Failed(c.job, c, "locked"))]
    assert logged(path, [(BEGIN, Done(a.job, None))], found, refused, [(BEGIN, Failed(d.job, None, "no node"))]) == []


def test_a_line_names_the_node_of_the_attempt_that_it_tells_of(path: Path) -> None:
    first, second = attempt(job(1)), attempt(job(1), 2, on="n2")
    refused = [(BEGIN + 9, Ended(second, Refused("locked"))), (BEGIN + 9, Failed(second.job, second, "locked"))]
    (only,) = logged(path, requeued(first, Exited(3)), refused)
    assert only == f"1\tn1\t{BEGIN:.3f}\t     1.500\t0\t0\t3\t0\ttrue"


def test_receive_counts_stdout_of_the_last_attempt_and_send_the_input(path: Path, tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(bytes(1000))
    tried = job(1, "x", terms=Terms(input=str(tmp_path / "input")))
    log = Joblog(str(path))
    log.begin(never)
    for number, text in ((1, b"first"), (2, b"at last")):
        sink, inner = log.sink(attempt(tried, number), inner := Deaf()), inner
        sink.stdout(text[:3])
        sink.stdout(text[3:])
        sink.stderr(b"not counted")
        sink.finished()
        assert (inner.out, inner.err, inner.over) == (text, b"not counted", True)
    tell(log, done(attempt(tried, 2)))
    assert path.read_text().splitlines()[-1].split("\t")[4:6] == ["1000", "7"]


def test_without_resume_a_log_is_begun_anew(path: Path) -> None:
    path.write_bytes(HEADER + line(1, "old").encode())
    assert [text.split("\t")[-1] for text in logged(path, done(attempt(job(1, "new"))))] == ["new"]


# --- what a resume makes of it -----------------------------------------------------------------------------


def test_a_command_is_skipped_as_often_as_it_is_recorded_wherever_that_stands(path: Path) -> None:
    path.write_bytes(HEADER + "".join(line(9 - n, c) for n, c in enumerate(["b", "a", "c", "a"])).encode())
    assert skipped(path, jobs("a", "x", "a", "b", "a", "b")) == [1, 3, 4]


def test_only_what_ended_well_is_recorded_as_done(path: Path) -> None:
    path.write_bytes(HEADER + (line(1, "a", 1) + line(2, "b", 0, 9) + line(3, "c", -1, 15) + line(4, "d")).encode())
    assert skipped(path, jobs("a", "b", "c", "d")) == [4]


def test_jobs_of_each_node_match_by_node_too(path: Path) -> None:
    path.write_bytes(HEADER + (line(1, "x", host="n1") + line(2, "x", host="n2")).encode())
    pinned = [job(n, "x", pin=node(on)) for n, on in enumerate(["n2", "n3", "n2", "n1"], 1)]
    assert skipped(path, pinned, by_node=True) == [1, 4]


def test_the_log_goes_on_behind_what_is_there(path: Path) -> None:
    path.write_bytes(HEADER + line(1, "a").encode())
    assert len(logged(path, done(attempt(job(2, "b"))), resume=True)) == 2


def test_a_line_without_its_end_is_no_record_and_is_cut_off(path: Path) -> None:
    """Completed, the record of ``rm a b`` would be one of ``rm a``; and GNU parallel would refuse the log."""
    whole = HEADER + line(1, "a").encode()
    said: list[str] = []
    for cut in range(1, len(line(2, "rm a b"))):
        path.write_bytes(whole + line(2, "rm a b")[:cut].encode())
        assert skipped(path, jobs("a", "rm a b", "rm a", "rm")) == [1]
        log = Joblog(str(path), resume=True)
        log.begin(said.append)
        log.close()
        assert path.read_bytes() == whole
    assert set(said) == {f"{path}: the last line was not finished, and is cut off"}


def test_crlf_is_understood(path: Path) -> None:
    path.write_bytes((HEADER.decode() + line(1, "a") + line(2, "b")).replace("\n", "\r\n").encode())
    assert skipped(path, jobs("b", "a", "c")) == [1, 2]
    assert len(logged_after(path, "c")) == 4
    assert skipped(path, jobs("b", "a", "c")) == [1, 2, 3]


def logged_after(path: Path, command: str) -> list[bytes]:
    log = Joblog(str(path), resume=True)
    log.begin(never)
    tell(log, done(attempt(job(9, command))))
    log.close()
    return path.read_bytes().splitlines()


def test_a_command_that_ends_with_cr_is_itself(path: Path) -> None:
    path.write_bytes(HEADER + line(1, "a\r").encode())
    assert skipped(path, [job(1, "a"), job(2, "a\r")]) == [2]


def test_foreign_lines_are_skipped_with_one_warning(path: Path) -> None:
    path.write_bytes(HEADER + b"hello\n" + line(1, "a").encode() + b"\x00\xff\tx\n\n" + line(2, "b").encode())
    assert skipped(path, jobs("a", "b", "hello")) == [1, 2]
    said: list[str] = []
    log = Joblog(str(path), resume=True)
    log.begin(said.append)
    log.close()
    assert said == [f"{path}: 3 lines are no records of jobs: skipped"]


@pytest.mark.parametrize("size", [1, 7, 100, 1 << 20])
def test_reading_in_pieces_finds_the_same(size: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    longest = max(size, 200)
    monkeypatch.setattr("clstr.records.joblog._CHUNK", longest)
    commands = [f"job {n} {'x' * (n % 50)}" for n in range(300)]
    path.write_bytes(HEADER + "".join(line(n, c) for n, c in enumerate(commands)).encode())
    assert len(skipped(path, jobs(*commands, "other"))) == 300


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("content", [b"echo a job\n", b"Seq\n", b"Seq\tX", b"\0\0\0", b"1\t:\t1\t1\t0\t0\t0\t0\tx\n"])
def test_a_file_that_is_no_joblog_is_refused_and_left_alone(content: bytes, resume: bool, path: Path) -> None:
    path.write_bytes(content)
    with pytest.raises(BadInput, match=rf"^{re.escape(str(path))}:1: not a joblog: .* \(.*\)$"):
        Joblog(str(path), resume)
    assert path.read_bytes() == content


@pytest.mark.parametrize("resume", [True, False])
def test_an_empty_file_is_a_log_that_has_not_begun(resume: bool, path: Path) -> None:
    path.touch()
    assert len(logged(path, done(attempt(job(1))), resume=resume)) == 1


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("size", [1, 12, len(HEADER) - 1])
def test_a_header_that_a_crash_has_cut_is_a_log_that_has_not_begun(size: int, resume: bool, path: Path) -> None:
    path.write_bytes(HEADER[:size])
    (only,) = logged(path, done(attempt(job(1, "echo a"))), resume=resume)
    assert only.endswith("\techo a")


def test_a_second_run_over_the_log_is_refused(path: Path) -> None:
    log = Joblog(str(path))
    with pytest.raises(BadInput, match=r"another run keeps its joblog there \(name another file\)"):
        Joblog(str(path))
    log.close()
    Joblog(str(path)).close()


# --- with GNU parallel -------------------------------------------------------------------------------------


def parallel(directory: Path, *arguments: str, stdin: str) -> list[str]:
    """What GNU parallel prints, sorted."""
    command = ["parallel", "--will-cite", "--jobs", "1", *arguments]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(directory)}
    result = subprocess.run(
        command, input=stdin, capture_output=True, text=True, cwd=directory, env=environment, timeout=60, check=False
    )
    assert "Error" not in result.stderr, result.stderr
    return sorted(result.stdout.split())


@needs_parallel
def test_gnu_parallel_goes_on_from_our_log(path: Path, tmp_path: Path) -> None:
    a, b, c, d = jobs("echo a", "echo b", "echo c", "echo d")
    log = Joblog(str(path))
    log.begin(never)
    tell(log, done(attempt(a, on=":")), failed(attempt(b), Exited(1)), done(attempt(d, on="me@n3:2222")))
    log.close()
    rest = parallel(tmp_path, "--resume-failed", "--joblog", str(path), stdin="echo a\necho b\necho c\necho d\n")
    assert rest == ["b", "c"]
    assert skipped(path, [c, d, a, b, job(5, "echo e")]) == [3, 4, 1, 2]


@needs_parallel
def test_gnu_parallel_goes_on_from_a_log_whose_last_line_was_torn(path: Path, tmp_path: Path) -> None:
    path.write_bytes(HEADER + (line(1, "echo a") + line(2, "echo b")[:-6]).encode())
    log = Joblog(str(path), resume=True)
    log.begin(lambda text: None)
    tell(log, done(attempt(job(3, "echo c"))))
    log.close()
    rest = parallel(tmp_path, "--resume-failed", "--joblog", str(path), stdin="echo a\necho b\necho c\n")
    assert rest == ["b"]


@needs_parallel
def test_we_go_on_from_a_log_of_gnu_parallel(path: Path, tmp_path: Path) -> None:
    lines = "printf a\nexit 3\nkill -9 $$\necho 'b\tc'\n"
    parallel(tmp_path, "--joblog", str(path), stdin=lines)
    assert path.read_bytes().startswith(HEADER)
    assert skipped(path, jobs(*reversed(lines.splitlines()))) == [1, 4]


@needs_parallel
def test_gnu_parallel_logs_a_job_of_many_lines_as_we_do(path: Path, tmp_path: Path) -> None:
    parallel(tmp_path, "--null", "--joblog", str(path), stdin="echo a\necho b\0true")
    assert skipped(path, jobs("true", "echo a\necho b", "echo a")) == [1, 2]
