"""The words at the end of a run and of ``-v``, by exact text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from clstr.model import (
    Attempt,
    Connected,
    ConnectionLost,
    Done,
    End,
    Ended,
    Evicted,
    Exited,
    Fact,
    Failed,
    Finished,
    Held,
    Job,
    Killed,
    Lost,
    News,
    Node,
    NotStarted,
    Outcome,
    Pardoned,
    Paroled,
    Requeued,
    Retired,
    Slot,
    Started,
    Stopped,
    Tally,
    UnknownKey,
    Unreachable,
    in_words,
)
from clstr.output.advice import Advice
from clstr.output.messages import Losses, Narrator, Summary, called, fold, running
from clstr.output.paint import Style


def plainly(lines: list[str]) -> Callable[[str, Style], None]:
    """Who is told puts the words there."""
    return lambda line, style: lines.append(line)


def node(text: str) -> Node:
    return Node(text, text)


def nodes(*texts: str) -> list[Node]:
    return [node(text) for text in texts]


def job(number: int = 1, command: bytes = b"true", pin: Node | None = None) -> Job:
    return Job(number, command, f"jobs.txt:{number}", pin=pin)


def attempt(number: int = 1, on: str = "n1", command: bytes = b"true", pin: Node | None = None) -> Attempt:
    return Attempt(job(number, command, pin), 1, Slot(node(on), 1))


def done(by: Attempt) -> Done:
    return Done(by.job, by)


def tally(jobs: int, done: int, failed: int = 0) -> Tally:
    return Tally(jobs, done, failed, 0, 0, 0, 0, 0)


def failing(on: str, number: int = 1, status: int = 1) -> list[Fact | News]:
    """What is seen when a job's failure evicts its node."""
    this = attempt(number, on)
    outcome = Exited(status)
    why = f"exit {status}"
    return [Connected(node(on)), Ended(this, outcome), Requeued(this, outcome), Evicted(node(on), why)]


def refusing(on: str) -> list[Fact | News]:
    return [Unreachable(node(on), "connection refused"), Evicted(node(on), "connection refused")]


def closing(
    events: list[Fact | News],
    finished: Finished,
    counts: Tally,
    left: list[Job] | None = None,
    left_count: int | None = None,
    open_stream: bool = False,
    advice: Advice | None = None,
) -> list[str]:
    summary = Summary(advice)
    for event in events:
        summary.saw(0.0, event)
    left = left or []
    count = len(left) if left_count is None else left_count
    return summary.closing(finished, counts, left[:10], count, open_stream)


NO_NODES = Finished(End.NO_NODES)
SETTLED = Finished(End.SETTLED)


# --- the summary ---


def test_a_run_in_which_all_went_well_ends_silently() -> None:
    assert closing([Connected(node("n1")), done(attempt())], SETTLED, tally(1, 1)) == []


def test_an_empty_job_list_is_said() -> None:
    assert closing([], SETTLED, tally(0, 0)) == ["0 jobs"]


def test_jobs_not_done_are_named_with_the_evicted_nodes_by_reason() -> None:
    events = [event for i in range(1, 13) for event in failing(f"n{i:02}", number=i, status=127)]
    events += [event for i in (40, 41) for event in refusing(f"n{i}")]
    assert closing(events, NO_NODES, tally(556, 553), [job(i, b"make") for i in (3, 4, 12)])[:4] == [
        "3 of 556 jobs not done: no nodes left (n[01-12]: exit 127; n[40-41]: connection refused)",
        "jobs.txt:3: make",
        "jobs.txt:4: make",
        "jobs.txt:12: make",
    ]


def test_ten_jobs_are_named_and_the_rest_is_counted() -> None:
    lines = closing(refusing("n1"), NO_NODES, tally(17, 0), [job(i) for i in range(1, 18)])
    assert lines[1] == "jobs.txt:1: true"
    assert lines[10:12] == ["jobs.txt:10: true", "and 7 more"]


def test_held_jobs_are_named_behind_those_that_failed() -> None:
    prep = attempt(1)
    events: list[Fact | News] = [Failed(prep.job, prep, "exit 1")]
    events += [Held(job(i, b"train"), "after prep failed") for i in range(2, 14)]
    counts = replace(tally(20, 7, 1), held=12)
    assert closing(events, SETTLED, counts) == [
        "1 of 20 jobs failed",
        "jobs.txt:1: true (exit 1)",
        "12 of 20 jobs held",
        *(f"jobs.txt:{i}: train (after prep failed)" for i in range(2, 12)),
        "and 2 more",
    ]


def test_a_stream_that_was_not_read_to_its_end_has_a_plus() -> None:
    lines = closing(refusing("n1"), NO_NODES, tally(556, 553), [job(3)], 3, open_stream=True)
    assert lines[0] == "3 of 556+ jobs not done: no nodes left (n1: connection refused)"


def test_an_unread_rest_of_the_stream_is_said_when_all_that_was_read_is_done() -> None:
    lines = closing([Retired(Slot(node("n1"), 1))], NO_NODES, tally(2, 2), open_stream=True)
    assert lines[0] == "2+ jobs, not all read: no nodes left (1 retired)"


def test_evicted_nodes_are_named_when_all_jobs_were_done_too() -> None:
    events = [*failing("n1"), *refusing("n2")]
    assert closing(events, SETTLED, tally(5, 5)) == ["2 nodes evicted: n1: exit 1; n2: connection refused"]


def test_evicted_nodes_are_named_when_the_run_was_stopped() -> None:
    lines = closing(failing("n1"), Finished(End.STOPPED, "stopped by SIGINT"), tally(5, 1), [job(2)], 4)
    assert lines == [
        "4 of 5 jobs not done: stopped by SIGINT",
        "jobs.txt:2: true",
        "and 3 more",
        "1 node evicted: n1: exit 1",
    ]


def test_what_else_made_the_run_end_follows_the_end() -> None:
    lines = closing([], Finished(End.DRAINED, "jobs.txt:3: NUL in a job"), tally(1, 0), [job(1)])
    assert lines[0] == "1 of 1 jobs not done: drained: jobs.txt:3: NUL in a job"


def test_retired_nodes_did_not_fail() -> None:
    retired: list[Fact | News] = [Retired(Slot(node(name), slot)) for name in ("n2", "n3") for slot in (1, 2)]
    lines = closing([*failing("n1", status=3), *retired], NO_NODES, tally(9, 8), [job(9)])
    assert lines[0] == "1 of 9 jobs not done: no nodes left (2 retired, 1 evicted: n1: exit 3)"
    lines = closing(retired, NO_NODES, tally(9, 8), [job(9)])
    assert lines[0] == "1 of 9 jobs not done: no nodes left (2 retired)"
    assert lines[-1] == "nodes retire after --max-node-uses jobs: raise it, or name more nodes"


def test_a_job_that_evicted_every_node_is_named_with_the_cure() -> None:
    events = [event for name in ("n1", "n2", "n3") for event in failing(name, number=7)]
    lines = closing(events, NO_NODES, tally(9, 8), [job(7, b"false")])
    assert lines == [
        "1 of 9 jobs not done: no nodes left (n[1-3]: exit 1)",
        "jobs.txt:7: false",
        "one job evicted every node, as a job that always fails does (repair it, or give jobs a budget with "
        "--retries 3: then it fails alone and its nodes work on): jobs.txt:7: true",
    ]


def test_a_job_that_evicted_all_but_the_unreachable_nodes_is_named_too() -> None:
    events = [*failing("n1", number=7), *failing("n2", number=7), *refusing("n3")]
    lines = closing(events, NO_NODES, tally(9, 8), [job(7)])
    assert lines[-1].startswith("one job evicted every node that ran it, ")


def test_no_single_job_is_blamed_when_several_evicted_nodes() -> None:
    events = [*failing("n1", number=7), *failing("n2", number=8)]
    lines = closing(events, NO_NODES, tally(9, 7), [job(7), job(8)])
    assert lines[-1].startswith("a job that fails evicts its node: ")


def budgeted(number: int, on: str, outcome: Outcome, again: bool = True) -> list[Fact | News]:
    """What is seen when a job with a budget fails there, to be tried again or for good."""
    this = Attempt(Job(number, b"make", f"jobs.txt:{number}", budget=9), 1, Slot(node(on), 1))
    meaning = Requeued(this, outcome) if again else Failed(this.job, this, in_words(outcome))
    return [Ended(this, outcome), meaning]


def test_a_job_that_has_failed_is_named_with_the_nodes_that_it_failed_on() -> None:
    events = [
        *budgeted(12, "m2", Exited(3)),
        *budgeted(13, "m9", Exited(1)),
        *budgeted(12, "m4", Exited(3)),
        *budgeted(12, "m4", Killed("KILL")),
        *budgeted(12, "m4", NotStarted("refused")),
        *budgeted(12, "m5", Lost("reset", ours=True)),
        *budgeted(12, "m1", Exited(3), again=False),
    ]
    assert closing(events, SETTLED, tally(20, 19, 1)) == [
        "1 of 20 jobs failed",
        "jobs.txt:12: make (exit 3 on m2, m4, m1; killed by SIGKILL on m4)",
    ]


def test_many_tries_are_counted_and_many_nodes_folded() -> None:
    events = budgeted(1, "m1", Exited(3)) * 3 + budgeted(1, "m2", Exited(3), again=False)
    for number in range(1, 13):
        events += budgeted(2, f"m{number}", Exited(4), again=number < 12)
    assert closing(events, SETTLED, tally(2, 0, 2))[1:] == [
        "jobs.txt:1: make (exit 3 on m2, 3 times on m1)",
        "jobs.txt:2: make (exit 4 on m[1-12])",
    ]


def test_a_job_that_no_node_can_serve_any_more_says_so_before_where_it_failed() -> None:
    events = budgeted(1, "m1", Exited(3))
    last = events[0]
    assert isinstance(last, Ended)
    events.append(Failed(last.attempt.job, last.attempt, "no node of class gpu is left"))
    line = closing(events, SETTLED, tally(1, 0, 1))[1]
    assert line == "jobs.txt:1: make (no node of class gpu is left; exit 3 on m1)"


def test_nothing_is_remembered_of_jobs_that_are_over() -> None:
    summary = Summary()
    for number in range(1, 1001):
        for event in [*budgeted(number, "m1", Exited(1)), *budgeted(number, "m2", Exited(1), again=number % 2 > 0)]:
            summary.saw(0.0, event)
        if number % 2:
            summary.saw(0.0, done(Attempt(job(number), 3, Slot(node("m3"), 1))))
    assert not summary._trials


def test_pardoned_nodes_are_no_evictions_and_paroled_ones_count_once() -> None:
    events: list[Fact | News] = [
        *failing("n1", number=7),
        *failing("n2", number=7),
        Pardoned(node("n1")),
        Paroled(node("n2")),
        *failing("n2", number=8, status=9),
    ]
    assert closing(events, SETTLED, tally(9, 9)) == ["1 node evicted: n2: exit 9"]


def test_a_streak_that_a_success_has_broken_blames_only_what_failed_since() -> None:
    events = [
        Ended(attempt(1, "n1"), Exited(1)),
        done(attempt(2, "n1")),
        *failing("n1", number=3),
        *failing("n2", number=3),
    ]
    assert "one job evicted every node" in closing(events, NO_NODES, tally(9, 8), [job(3)])[-1]


def test_a_failure_is_not_what_evicts_a_node_that_cannot_be_reached_any_more() -> None:
    events: list[Fact | News] = [Ended(attempt(1, "n1"), Exited(1)), *refusing("n1")]
    assert not any("one job" in line for line in closing(events, NO_NODES, tally(9, 8), [job(1)]))


def test_nodes_whose_setup_failed_are_not_said_to_be_out_of_reach() -> None:
    why = "setup 'make': exit 2: no make"
    events: list[Fact | News] = [Connected(node("n1")), Unreachable(node("n1"), why), Evicted(node("n1"), why)]
    assert closing(events, NO_NODES, tally(1, 0), [job()]) == [
        f"1 of 1 jobs not done: no nodes left (n1: {why})",
        "jobs.txt:1: true",
    ]


def test_a_job_whose_connection_was_lost_is_not_blamed() -> None:
    events: list[Fact | News] = [Connected(node("n1")), Ended(attempt(), Lost("reset")), Evicted(node("n1"), "lost")]
    events += [Ended(attempt(), Stopped()), Ended(attempt(), NotStarted("refused"))]
    assert len(closing(events, NO_NODES, tally(1, 0), [job()])) == 2


def test_a_job_that_its_own_nodes_failed_is_not_blamed_for_what_became_of_them() -> None:
    this = attempt(pin=node("n1"))
    events: list[Fact | News] = [
        Connected(node("n1")),
        Ended(this, Exited(1)),
        Failed(this.job, this, "exit 1"),
        Evicted(node("n1"), "connection lost twice"),
    ]
    assert closing(events, NO_NODES, tally(2, 0, 1), [job(2)]) == [
        "1 of 2 jobs failed: n1: exit 1",
        "1 of 2 jobs not done: no nodes left (n1: connection lost twice)",
        "jobs.txt:2: true",
    ]


def test_when_no_node_could_be_reached_a_command_to_try_is_named() -> None:
    far = Node("me@n1:2222", "n1", "me", 2222)
    events: list[Fact | News] = [Unreachable(far, "timed out"), Evicted(far, "timed out")]
    lines = closing(events, NO_NODES, tally(1, 0), [job()])
    assert lines[-1] == "no node could be reached; try one by hand, with the same options: ssh -p 2222 me@n1"


def test_nodes_out_of_reach_for_one_reason_are_told_of_once_with_a_cure() -> None:
    events: list[Fact | News] = []
    for name in ("n1", "n2", "n3"):
        why = f"no answer within 10 s (connecting to {name}.example port 22)"
        events += [Unreachable(node(name), why, "no answer within 10 s (connecting)"), Evicted(node(name), why)]
    lines = closing(events, NO_NODES, tally(1, 0), [job()])
    assert lines == [
        "1 of 1 jobs not done: no nodes left (n[1-3]: no answer within 10 s (connecting))",
        "jobs.txt:1: true",
        "none of the 3 nodes could be reached (are they up, and is there a way to them, by VPN or ProxyJump?); try "
        "one by hand, with the same options: ssh n1",
    ]


def test_a_node_that_has_its_reason_to_itself_is_told_all_of_it() -> None:
    why = "no answer within 10 s (connecting to n1.example port 22)"
    events: list[Fact | News] = [Unreachable(node("n1"), why, "no answer within 10 s"), Evicted(node("n1"), why)]
    assert why in closing(events, NO_NODES, tally(1, 0), [job()])[0]


def test_a_reason_in_which_a_client_names_the_host_is_one_reason() -> None:
    events: list[Fact | News] = []
    for name in ("n1", "n11"):
        why = f"ssh exited with 255: connect to host {name} port 22: Connection refused"
        events += [Unreachable(node(name), why), Evicted(node(name), why)]
    said = "n[1,11]: ssh exited with 255: connect to host HOST port 22: Connection refused"
    assert said in closing(events, NO_NODES, tally(1, 0), [job()])[0]


def test_unknown_host_keys_are_one_line_to_review() -> None:
    events: list[Fact | News] = [Connected(node("n9"))]
    for name, port in (("n1", 22), ("n2", 2222), ("n3", 22)):
        why = f"unknown host key of {name}: SHA256:x (record it)"
        key = UnknownKey(name, port, "/home/me/.ssh/known_hosts")
        events += [Unreachable(node(name), why, "unknown host key", key), Evicted(node(name), why)]
    assert closing(events, SETTLED, tally(5, 5)) == [
        "3 nodes evicted: n[1-3]: unknown host key",
        "3 host keys are on no record: compare what this prints with the hosts' own, then append it to "
        "/home/me/.ssh/known_hosts, or give --host-key accept-new: ssh-keyscan n1 n3; ssh-keyscan -p 2222 n2",
    ]
    assert "SHA256:x (record it)" in closing(events[:3], SETTLED, tally(5, 5))[0]


def test_a_command_not_found_is_explained_once() -> None:
    events = [event for i in range(1, 13) for event in failing(f"n{i:02}", number=i, status=127)]
    lines = closing(events, NO_NODES, tally(556, 553), [job(3)])
    (told,) = [line for line in lines if "command not found" in line]
    assert told.startswith('exit 127 means "command not found": jobs run in the login directory, with the PATH of a')
    events = [*failing("n1", status=126), *failing("n2", status=1)]
    assert not any("command not found" in line for line in closing(events, NO_NODES, tally(5, 4), [job()]))


def test_exit_255_may_be_the_client_s_own() -> None:
    events = failing("n1", status=255)
    advice = Advice(lambda node: f"rsh {node.text} true", "rsh")
    (told,) = closing(events, SETTLED, tally(1, 1), advice=advice)[1:]
    assert told.startswith("exit 255 may be rsh's own and not the job's: ")
    assert told.endswith("; try one by hand: rsh n1 true")
    assert closing(events, SETTLED, tally(1, 1)) == ["1 node evicted: n1: exit 255"]


def test_failed_jobs_are_named_with_their_reasons() -> None:
    events: list[Fact | News] = [Failed(job(i), None, "no node of its class") for i in range(1, 13)]
    lines = closing(events, SETTLED, tally(20, 8, 12))
    assert lines[:2] == ["12 of 20 jobs failed", "jobs.txt:1: true (no node of its class)"]
    assert lines[10:] == ["jobs.txt:10: true (no node of its class)", "and 2 more"]


def test_failed_jobs_of_each_node_are_folded_and_their_nodes_not_named_again() -> None:
    events = [Connected(node("n1")), *refusing("n9")]
    for name, why in (("n1", "exit 1"), ("n2", "exit 1"), ("n9", "connection refused")):
        this = attempt(1, name, pin=node(name))
        events += [Ended(this, Exited(1)), Failed(this.job, this, why)]
    assert closing(events, SETTLED, tally(5, 2, 3)) == [
        "3 of 5 jobs failed: n[1-2]: exit 1; n9: connection refused"
    ]


def test_reasons_beyond_ten_are_counted() -> None:
    events: list[Fact | News] = [Evicted(node(f"n{i}"), f"reason {i}") for i in range(14)]
    (line,) = closing(events, SETTLED, tally(1, 1))
    assert line.endswith("; n9: reason 9; 4 more nodes for other reasons")


def test_a_very_long_command_is_cut() -> None:
    assert called(job(1, b"x" * 1000)) == f"jobs.txt:1: {'x' * 200}..."


def test_a_job_with_a_name_is_called_by_it_too() -> None:
    assert called(replace(job(1, b"./sim 2"), origin="exp.sub:9", name="sim.2")) == "exp.sub:9: sim.2: ./sim 2"


# --- names ---


@pytest.mark.parametrize(
    ("texts", "folded"),
    [
        (["n1"], "n1"),
        (["n10", "n9", "n1", "n1"], "n[1,9-10]"),
        (["r1n1", "r1n2", "r2n1", "r2n2"], "r[1-2]n[1-2]"),
        ([f"127.0.1.{i}" for i in range(1, 11)], "127.0.1.[1-10]"),
        (["n2", "n1", "me@n3", "n4:22", "[::1]:22", ":"], "n[1-2],[::1]:22,me@n3,n4:22,this machine"),
        (["a&b", "n[1", "@g", "x!y", "-n1", "n*"], "-n1,@g,a&b,n*,n[1,x!y"),
        ([f"u@n{i}" for i in range(25)], ",".join(f"u@n{i}" for i in range(20)) + " and 5 more"),
        ([f"n{i}" for i in range(1, 100, 2)], f"n[{','.join(str(i) for i in range(1, 40, 2))}] and 30 more"),
        (["n1", "n2", "n" + "1" * 200, "1" * 1024], "n[1-2]," + "1" * 1024 + ",n" + "1" * 200),
    ],
)
def test_nodes_are_folded(texts: list[str], folded: str) -> None:
    assert fold(nodes(*texts)) == folded


@pytest.mark.timeout(30)
def test_irregular_names_by_the_thousand_do_not_hold_up_the_end() -> None:
    """Folded in all their dimensions, these take minutes of CPU."""
    texts = [f"10.{i * 7919 % 251}.{i * 104729 % 241}.{i * 1299709 % 239}" for i in range(10_000)]
    assert fold(nodes(*texts)).endswith("and 9980 more")


# --- while it runs ---


def told(*events: Fact | News) -> list[str]:
    lines: list[str] = []
    say = plainly(lines)
    observers = [Losses(say, idle=True), Narrator(say)]
    for event in events:
        for observer in observers:
            observer.saw(0.0, event)
    return lines


def test_each_event_is_a_line() -> None:
    again = Attempt(job(), 2, Slot(node("n2"), 1))
    assert told(
        Connected(node("n1")),
        Started(attempt()),
        Ended(attempt(), Killed("KILL")),
        Requeued(attempt(), Killed("KILL")),
        Evicted(node("n1"), "killed by SIGKILL"),
        Started(again),
        Ended(again, Exited(0)),
        done(again),
        Retired(Slot(node("n2"), 1)),
        Unreachable(node("n3"), "connection refused"),
        Evicted(node("n3"), "connection refused"),
        Failed(job(2), None, "its node is gone"),
        Finished(End.SETTLED),
    ) == [
        "n1: connected",
        "n1: job 1 started: jobs.txt:1: true",
        "n1: job 1 ended: killed by SIGKILL",
        "job 1 requeued: killed by SIGKILL on n1",
        "n1: evicted: killed by SIGKILL",
        "n2: job 1 started (attempt 2): jobs.txt:1: true",
        "n2: job 1 ended: exit 0",
        "n2: slot 1 retired",
        "n3: evicted: connection refused",
        "job 2 failed: its node is gone",
    ]


def test_running_jobs_are_told_with_their_nodes_and_ages() -> None:
    attempts = [(attempt(7, "n2"), 1000.0), (attempt(8), 4700.9)]
    assert running(attempts, [(attempt(6), 4720.0)], now=4725.0) == [
        "n2: job 7 running for 1:02:05: jobs.txt:7: true",
        "n1: job 8 running for 00:24: jobs.txt:8: true",
        "n1: job 6 copying its results for 00:05: jobs.txt:6: true",
    ]
    assert running([], [], now=0.0) == ["no job is running"]


def test_a_connection_lost_under_jobs_is_one_message_and_while_idle_only_with_v() -> None:
    lines: list[str] = []
    losses = Losses(plainly(lines))
    for number in (1, 2):
        losses.saw(0.0, Ended(attempt(number), Lost("reset")))
    losses.saw(0.0, ConnectionLost(node("n1"), "reset"))
    losses.saw(0.0, ConnectionLost(node("n1"), "reset"))
    assert lines == ["n1: connection lost under 2 jobs: reset"]
    assert told(ConnectionLost(node("n1"), "reset")) == ["n1: connection lost while idle: reset"]
