"""The table: RFC 4180, a row a job, whole at every moment."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from records.story import BEGIN, attempt, done, failed, job, node, ran, requeued, tell

from clstr.model import BadInput, Done, Exited, Held, Job, Killed, TimedOut
from clstr.records.table import COLUMNS, Table

KEYS = ["I", "J"]


def never(text: str) -> None:
    raise AssertionError(text)


def place_of(job: Job, result: bytes) -> str:
    return f"here/{os.path.basename(result).decode()}"


def opened(path: Path, *jobs: Job) -> Table:
    table = Table(str(path), KEYS, place_of)
    table.begin(never)
    table.read(jobs, ())
    return table


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        read = list(csv.DictReader(file, strict=True))
    assert all(None not in row and None not in row.values() for row in read)
    return read


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_row_says_what_became_of_a_job(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    one = job(1, "train --i 1", name="t.1", job_class="gpu", matrix=("1", None))
    table = opened(path, one)
    tell(
        table,
        requeued(attempt(one), Exited(1)),
        ran(attempt(one, 2, on="me@n2"), Exited(0, (b"/tmp/a", b"b")), began=BEGIN + 60, took=0.25),
        [(BEGIN + 61, Done(one, attempt(one, 2)))],
    )
    table.finish()
    table.close()
    assert rows(path) == [
        {
            "Job ID": "1", "Name": "t.1", "Class": "gpu", "Machine": "me@n2", "Command": "train --i 1",
            "Status": "done", "Exit": "0", "Attempts": "2", "Start": "2026-11-27T11:19:54.250000Z",
            "End": "2026-11-27T11:19:54.500000Z", "Duration": "0.250", "Results": "here/a;here/b", "I": "1", "J": "",
        }
    ]  # fmt: skip


def test_every_job_has_its_row_in_the_order_of_ids(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    jobs = [job(number) for number in range(1, 8)]
    table = opened(path, *jobs[5:], *jobs[:5])
    tell(
        table,
        done(attempt(jobs[0])),
        failed(attempt(jobs[1]), Killed("KILL")),
        requeued(attempt(jobs[2]), TimedOut(1.0)),
        [(BEGIN, Done(jobs[3], None)), (BEGIN, Held(jobs[5], "after x failed"))],
        ran(attempt(jobs[6]))[:1],
    )
    table.finish()
    table.close()
    assert [(row["Job ID"], row["Status"], row["Exit"], row["Attempts"]) for row in rows(path)] == [
        ("1", "done", "0", "1"),
        ("2", "failed", "SIGKILL", "1"),
        ("3", "not done", "timed out", "1"),
        ("4", "done", "", "0"),
        ("5", "not done", "", "0"),
        ("6", "held", "", "0"),
        ("7", "running", "", "1"),
    ]


def test_what_was_done_before_is_done_also_when_the_run_ends_before_it_comes_to_it(tmp_path: Path) -> None:
    table = opened(tmp_path / "t.csv")
    table.read([job(1), job(2), job(3)], {2, 3})
    tell(table, [(BEGIN, Done(job(2), None))])
    table.finish()
    table.close()
    assert [row["Status"] for row in rows(tmp_path / "t.csv")] == ["not done", "done", "done"]


def test_a_job_whose_copy_was_stopped_is_not_done_and_has_no_results(tmp_path: Path) -> None:
    table = opened(tmp_path / "t.csv", job(1))
    tell(table, ran(attempt(job(1)), Exited(0, (b"a",))))
    until(lambda: [(row["Status"], row["Results"]) for row in rows(tmp_path / "t.csv")] == [("copying", "here/a")])
    table.finish()
    table.close()
    assert [(row["Status"], row["Exit"], row["Results"]) for row in rows(tmp_path / "t.csv")] == [("not done", "0", "")]


def test_commas_quotes_newlines_and_bytes_come_back(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    commands = [b'echo "a", b', b"one\ntwo\r\n", b"\xff\xfe", b" x "]
    table = opened(path, *(job(number, command) for number, command in enumerate(commands, 1)))
    table.finish()
    table.close()
    assert [row["Command"].encode("utf-8", "surrogateescape") for row in rows(path)] == commands
    assert path.read_bytes().startswith(",".join([*COLUMNS, *KEYS]).encode() + b"\r\n")


def test_the_table_follows_the_run_and_a_reader_always_sees_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    jobs = [job(number) for number in range(1, 2001)]
    table = opened(path, *jobs)
    tell(table, done(attempt(jobs[0])))
    until(lambda: len(rows(path)) == 2000 and rows(path)[0]["Status"] == "done")
    for of in jobs[1:]:
        tell(table, done(attempt(of)))
        assert of.id % 200 or len(rows(path)) == 2000
    table.finish()
    table.close()
    assert {row["Status"] for row in rows(path)} == {"done"}
    assert os.listdir(tmp_path) == ["t.csv"]


def test_what_the_thread_cannot_write_is_raised_with_an_event(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    table = opened(place / "t.csv", job(1))
    (place / "t.csv").unlink()
    place.rmdir()
    with pytest.raises(FileNotFoundError) as raised:
        until(lambda: tell(table, done(attempt(job(1)))))
    assert raised.value.filename == str(place / "t.csv")
    with pytest.raises(FileNotFoundError):
        table.finish()
    table.close()


def test_a_table_that_was_there_stays_until_the_run_begins_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("old\n")
    path.chmod(0o600)
    table = Table(str(path), KEYS, place_of)
    assert path.read_text() == "old\n"
    with pytest.raises(BadInput, match="another run writes its table there"):
        Table(str(path), KEYS, place_of)
    table.begin(never)
    with pytest.raises(BadInput, match="another run writes its table there"):
        Table(str(path), KEYS, place_of)
    table.close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_nodes_and_pins_are_named_as_listed(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    of = job(1, pin=node("me@n1:22"))
    table = opened(path, of)
    tell(table, done(attempt(of)))
    table.finish()
    table.close()
    assert rows(path)[0]["Machine"] == "me@n1:22"
