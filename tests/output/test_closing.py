"""The table at the end of ``-v``, line by line."""

from __future__ import annotations

from clstr.model import (
    Attempt,
    Connected,
    Ended,
    Evicted,
    Exited,
    Fact,
    Job,
    Lost,
    News,
    Node,
    Outcome,
    Pardoned,
    Slot,
    Started,
    Tally,
)
from clstr.output.closing import ClosingTable


def node(text: str) -> Node:
    return Node(text, text)


def tally(jobs: int, done: int, failed: int, held: int = 0) -> Tally:
    return Tally(jobs, done, failed, 0, 0, 0, 0, 0, held)


def run(table: ClosingTable, job: int, on: str, began: float, took: float, outcome: Outcome | None = None) -> None:
    attempt = Attempt(Job(job, f"job {job}".encode(), f"jobs.txt:{job}"), 1, Slot(node(on), 1 + job % 2))
    events: list[tuple[float, Fact | News]] = [
        (began, Started(attempt)),
        (began + took, Ended(attempt, outcome or Exited(0))),
    ]
    for when, event in events:
        table.saw(when, event)


def test_the_jobs_the_nodes_and_the_longest_jobs() -> None:
    table = ClosingTable()
    table.saw(0.0, Connected(node("n1")))
    run(table, 1, "n1", 0.0, 60.0)
    run(table, 2, "n1", 0.0, 90.0)
    run(table, 3, "n2", 0.0, 50.0, Exited(3))
    table.saw(50.0, Evicted(node("n2"), "exit 3"))
    run(table, 3, "n1", 90.0, 10.0)
    table.saw(100.0, Evicted(node("n3"), "refused"))
    table.saw(100.0, Pardoned(node("n3")))
    assert table.lines(tally(6, 3, 1, 1)) == [
        "6 jobs: 3 done, 1 failed, 1 held, 1 not done; 4 attempts took 03:30 in 01:40",
        "node     jobs  failures  busy",
        "n1          3         0   80%",
        "n2          0         1   50%  evicted: exit 3",
        "n3          0         0    0%",
        "01:30 on n1: jobs.txt:2: job 2",
        "01:00 on n1: jobs.txt:1: job 1",
        "00:10 on n1: jobs.txt:3: job 3",
    ]


def test_of_many_nodes_the_busiest_and_every_evicted_one() -> None:
    table = ClosingTable()
    for number in range(1, 31):
        run(table, number, f"n{number}", 0.0, float(number), Lost("cut") if number == 2 else None)
    table.saw(30.0, Evicted(node("n2"), "connection lost: cut"))
    lines = table.lines(tally(30, 29, 0))
    assert [line.split()[0] for line in lines[2:12]] == [f"n{number}" for number in range(30, 20, -1)]
    assert lines[12].endswith("evicted: connection lost: cut")
    assert lines[13] == "and 19 more nodes"
    assert [line.split()[-1] for line in lines[14:]] == ["30", "29", "28", "27", "26"]


def test_it_remembers_no_job_that_has_ended_but_the_longest() -> None:
    table = ClosingTable()
    for number in range(1000):
        run(table, number, f"n{number % 3}", float(number), 1.0)
    assert (len(table._began), len(table._longest), len(table._uses)) == (0, 5, 3)


def test_a_run_in_which_nothing_happened() -> None:
    assert ClosingTable().lines(tally(0, 0, 0)) == [
        "0 jobs: 0 done, 0 failed, 0 held, 0 not done; 0 attempts took 00:00 in 00:00"
    ]
