"""Submit files as transcripts: jobs that come after others, tokens, priorities, jobs done before, and copies."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
from recorder import OK, Recorder, connect_all, filed, job, node, recorder, running, slot

from clstr.model import (
    Attempt,
    Barrier,
    CopyFailed,
    Exited,
    Found,
    Job,
    Lost,
    NotStarted,
    Outcome,
    Refused,
    Stopped,
)
from clstr.scheduler import JobFate, Limits, Need, NodeFate, Scheduler, verdict

BAD = Exited(1)
WITH_RESULTS = Exited(0, (b"out.txt",))
CUT = CopyFailed("connection lost: reset")
BUDGETED = Need(None, True)


def with_file(nodes: str, *batch: Job, **limits: Any) -> Recorder:
    """A run of a submit file and nothing else: every dial answered, so that all that may run does."""
    run = Recorder(Limits(**limits))
    run.submitted(*batch)
    run.nodes(nodes)
    run.exhausted()
    connect_all(run)
    return run


def ran_in_order(run: Recorder) -> list[int]:
    """End what runs, one job after the other, and tell in which order the jobs started."""
    while run.running:
        run.ended(next(iter(run.running)), OK)
    return [int(line.split()[1].split(".")[0]) for line in run.told() if line.startswith("Start")]


def kinds(lines: list[str], kind: str) -> list[str]:
    return [line for line in lines if line.startswith(kind)]


# --- jobs from submit files stand in the order of the input ------------------------------------------------


def test_submitted_jobs_are_dialed_for_before_the_stream_is_read() -> None:
    run = Recorder()
    assert run.submitted(filed(1), filed(2)) == []
    assert run.nodes("n1 n2 n3") == ["Dial n1", "Dial n2", "Want 1"]


def test_jobs_of_a_stream_that_stand_before_a_submit_file_are_read_first() -> None:
    run = Recorder()
    run.submitted(filed(3), filed(4))
    assert run.nodes("n1 n2") == ["Want 2"]
    assert run.jobs(1, 2) == ["Dial n1", "Dial n2"]
    assert run.connected("n1") == ["Start 1.1 n1/1"]
    assert run.ended(1, OK) == ["Done 1.1", "Start 2.1 n1/1"]
    assert run.ended(2, OK) == ["Done 2.1", "Start 3.1 n1/1"]


def test_jobs_that_stand_behind_the_stream_are_none_at_hand_for_its_slots() -> None:
    run = Recorder()
    run.submitted(filed(2), filed(3, priority=-1))
    assert run.nodes("n1 n2 n3") == ["Want 3"]
    assert run.jobs(1) == ["Dial n1", "Dial n2", "Want 1"]
    run = Recorder()
    run.submitted(filed(3), filed(4))
    run.nodes("n1 n2 n3")
    assert run.jobs(1) == ["Dial n1", "Want 2"]


def test_the_streams_ids_go_round_those_of_submit_files() -> None:
    run = Recorder()
    run.submitted(filed(2))
    run.nodes("n1")
    assert run.jobs(1) == ["Dial n1"]
    assert run.connected("n1") == ["Start 1.1 n1/1"]
    assert run.ended(1, OK) == ["Done 1.1", "Start 2.1 n1/1"]
    assert run.ended(2, OK) == ["Done 2.1", "Want 1"]
    assert run.jobs(3) == ["Start 3.1 n1/1"]


def test_submitted_jobs_need_not_wait_for_a_quiet_stream_before_them() -> None:
    run = Recorder()
    run.submitted(filed(3))
    assert run.nodes("n1") == ["Want 1"]
    assert run.quiet() == ["Dial n1"]


def test_a_run_of_submitted_jobs_is_settled_when_all_have_ended() -> None:
    run = with_file("n1", filed(1), filed(2))
    assert run.ended(1, OK) == ["Done 1.1", "Start 2.1 n1/1"]
    assert run.ended(2, OK) == ["Done 2.1", "Finished SETTLED"]


def test_a_submitted_job_that_needs_nothing_of_the_stream_does_not_wait_for_it() -> None:
    run = Recorder(Limits(stream=Need("a")))
    run.submitted(filed(2, job_class="b", priority=-1))
    assert run.nodes("n1=a n2=b") == ["Dial n2", "Want 1"]


def test_a_stream_that_nobody_can_serve_holds_nothing_up() -> None:
    run = Recorder(Limits(stream=Need("a")))
    run.submitted(filed(2), filed(3, priority=-1))
    assert run.nodes("n1=b") == ["Dial n1"]
    assert run.connected("n1") == ["Start 2.1 n1/1"]
    assert run.ended(2, OK) == ["Done 2.1", "Start 3.1 n1/1"]
    assert run.ended(3, OK) == ["Done 3.1", "Finished NO_NODES: none of class a"]


def test_jobs_of_a_class_that_no_node_has_fail_once_the_nodes_are_known() -> None:
    run = Recorder()
    assert run.submitted(filed(1, job_class="gpu"), filed(2, after="1")) == []
    assert run.nodes("n1") == ["Failed 1: no node of class gpu is left", "Held 2: after job 1 failed", "Want 1"]


# --- barriers ----------------------------------------------------------------------------------------------


def test_a_job_starts_when_what_it_comes_after_is_done() -> None:
    run = with_file("n1 n2", filed(1, after="2"), filed(2))
    assert list(run.running) == [2]
    assert run.scheduler.tally().waiting == 1
    assert run.ended(2, OK) == ["Done 2.1", "Start 1.1 n1/1"]


def test_no_node_is_dialed_for_a_job_at_a_barrier() -> None:
    run = Recorder()
    run.submitted(filed(1), filed(2, after="1"))
    assert run.nodes("n1 n2") == ["Dial n1", "Want 1"]


def test_a_diamond_runs_its_two_sides_at_once() -> None:
    run = with_file("n1 n2", filed(1), filed(2, after="1"), filed(3, after="1"), filed(4, after="2 3"))
    assert run.ended(1, OK) == ["Done 1.1", "Start 2.1 n1/1", "Dial n2"]
    assert run.connected("n2") == ["Start 3.1 n2/1"]
    assert run.ended(3, OK) == ["Done 3.1"]
    assert run.ended(2, OK) == ["Done 2.1", "Start 4.1 n2/1"]


def test_jobs_share_a_barrier_and_barriers_a_barrier() -> None:
    glob = Barrier("prep.*", (1, 2))
    both = Barrier("prep.*, 3", (3,), (glob,))
    run = with_file("n1", filed(1), filed(2), filed(3), filed(4, glob), filed(5, both), filed(6, both))
    assert ran_in_order(run) == [1, 2, 3, 4, 5, 6]


def test_a_barrier_of_nothing_is_open() -> None:
    nothing = Barrier("none", (), (Barrier("none at all"),))
    assert list(with_file("n1", filed(1, nothing)).running) == [1]


def test_a_requeued_job_keeps_what_comes_after_it_waiting() -> None:
    run = with_file("n1 n2", filed(1, budget=1), filed(2, after="1"))
    assert run.ended(1, BAD)[0] == "Requeued 1.1: exit 1"
    connect_all(run)
    assert run.ended(1, OK) == ["Done 1.2", "Start 2.1 n2/1"]


def test_all_that_comes_after_a_failed_job_is_held_in_input_order() -> None:
    run = with_file("n1", filed(1, after="3"), filed(2, after="1"), filed(3, budget=0), filed(4), node_failures=9)
    assert run.ended(3, BAD) == [
        "Failed 3.1: exit 1",
        "Held 1: after job 3 failed",
        "Held 2: after job 3 failed",
        "Start 4.1 n1/1",
    ]
    assert run.ended(4, OK) == ["Done 4.1", "Finished SETTLED"]
    tally = run.scheduler.tally()
    assert (tally.jobs, tally.done, tally.failed, tally.held, tally.waiting) == (4, 1, 1, 2, 0)
    assert list(run.scheduler.unfinished()) == []


def test_the_reason_names_the_job_that_failed() -> None:
    named = Job(1, b"false", budget=0, name="prep")
    run = with_file("n1", named, filed(2, after="1"))
    assert run.ended(1, BAD)[1] == "Held 2: after prep failed"


def test_a_diamond_whose_one_side_fails_holds_its_end() -> None:
    jobs = [filed(1), filed(2, after="1", budget=0), filed(3, after="1"), filed(4, after="2 3")]
    run = with_file("n1", *jobs)
    run.ended(1, OK)
    assert run.ended(2, BAD) == ["Failed 2.1: exit 1", "Held 4: after job 2 failed", "Start 3.1 n1/1"]
    assert run.ended(3, OK) == ["Done 3.1", "Finished SETTLED"]


def test_a_job_is_held_once_though_all_that_it_comes_after_fails() -> None:
    run = with_file("n1 n2", filed(1, budget=0), filed(2, budget=0), filed(3, after="1 2"))
    assert run.ended(1, BAD)[1] == "Held 3: after job 1 failed"
    assert run.ended(2, BAD) == ["Failed 2.1: exit 1", "Finished SETTLED"]


def test_what_nested_barriers_keep_is_held_too() -> None:
    inner = Barrier("inner", (1,))
    outer = Barrier("outer", (2,), (inner,))
    run = with_file("n1", filed(1, budget=0), filed(2), filed(3, outer), filed(4, inner))
    assert run.ended(1, BAD)[1:3] == ["Held 3: after job 1 failed", "Held 4: after job 1 failed"]
    assert run.ended(2, OK) == ["Done 2.1", "Finished SETTLED"]


def test_jobs_that_come_after_each_other_are_not_waited_for() -> None:
    run = with_file("n1", filed(1, after="2"), filed(2, after="1"), filed(3, after="1"), filed(4))
    assert run.ended(4, OK) == ["Done 4.1", "Finished BLOCKED"]
    assert [left.id for left in run.scheduler.unfinished()] == [1, 2, 3]


def test_jobs_behind_one_that_no_node_may_take_end_with_the_nodes() -> None:
    run = with_file("n1", filed(1), filed(2, after="1"))
    assert run.ended(1, BAD)[-1] == "Finished NO_NODES"
    assert [left.id for left in run.scheduler.unfinished()] == [1, 2]


def test_a_class_that_nobody_can_serve_fails_its_job_when_its_barrier_opens() -> None:
    run = with_file("n1", filed(1), filed(2, after="1", job_class="gpu"), filed(3, after="2"))
    assert run.ended(1, OK) == [
        "Done 1.1",
        "Failed 2: no node of class gpu is left",
        "Held 3: after job 2 failed",
        "Finished SETTLED",
    ]


def test_a_held_job_is_no_failed_one_for_max_failed() -> None:
    run = with_file("n1", filed(1, budget=0), filed(2, after="1"), filed(3), max_failed=2)
    assert run.ended(1, BAD) == ["Failed 1.1: exit 1", "Held 2: after job 1 failed", "Start 3.1 n1/1"]


def test_what_comes_after_the_failure_that_drains_is_held_before_the_end() -> None:
    run = with_file("n1", filed(1, budget=0), filed(2, after="1"), filed(3), max_failed=1)
    assert run.ended(1, BAD) == [
        "Failed 1.1: exit 1",
        "Held 2: after job 1 failed",
        "Finished DRAINED: 1 job failed (--max-failed)",
    ]


def test_a_drain_leaves_what_waits_at_barriers_undone() -> None:
    run = with_file("n1", filed(1), filed(2, after="1"))
    run.drain()
    assert run.ended(1, OK) == ["Done 1.1", "Finished DRAINED: told to"]
    assert [left.id for left in run.scheduler.unfinished()] == [2]
    assert run.scheduler.tally().waiting == 1


def test_more_is_to_come_while_a_job_stands_at_a_barrier() -> None:
    run = with_file("n1", filed(1), filed(2, after="1"))
    assert run.scheduler.more_to_come
    run.ended(1, OK)
    assert not run.scheduler.more_to_come


# --- hold = True -------------------------------------------------------------------------------------------


def test_a_job_on_hold_is_held_as_it_comes_and_so_is_what_comes_after_it() -> None:
    run = Recorder()
    assert run.submitted(filed(1, after="3"), filed(2, after="1", hold=True), filed(3, hold=True), filed(4)) == [
        "Held 2: hold = True",
        "Held 3: hold = True",
        "Held 1: after job 3 held",
    ]
    assert run.nodes("n1") == ["Dial n1"]


def test_a_run_of_held_jobs_is_settled() -> None:
    run = Recorder()
    assert run.submitted(filed(1, hold=True)) == ["Held 1: hold = True"]
    assert run.nodes("n1") == ["Want 1"]
    assert run.exhausted() == ["Finished SETTLED"]


# --- jobs that a gate found done ---------------------------------------------------------------------------


def test_jobs_done_before_are_done_in_no_attempt() -> None:
    run = Recorder()
    assert run.submitted(filed(1), filed(2), done=[2]) == ["Done 2"]
    assert run.nodes("n1 n2") == ["Dial n1", "Want 1"]
    tally = run.scheduler.tally()
    assert (tally.jobs, tally.done, tally.waiting) == (2, 1, 1)


def test_a_job_done_before_releases_what_comes_after_it() -> None:
    run = Recorder()
    assert run.submitted(filed(1, after="2"), filed(2, after="3"), filed(3), done=[2]) == ["Done 2"]
    assert run.nodes("n1") == ["Dial n1"]
    assert run.connected("n1") == ["Start 1.1 n1/1"]


def test_a_job_done_before_is_done_though_it_is_on_hold_now() -> None:
    run = Recorder()
    assert run.submitted(filed(1, hold=True), filed(2, after="1"), done=[1]) == ["Done 1"]
    assert run.nodes("n1") == ["Dial n1"]


def test_a_job_done_before_stays_so_when_what_it_comes_after_fails() -> None:
    run = Recorder()
    run.submitted(filed(1, budget=0), filed(2, after="1"), filed(3, after="2"), done=[2])
    run.nodes("n1 n2")
    connect_all(run)
    assert list(run.running) == [1, 3]
    assert run.ended(1, BAD) == ["Failed 1.1: exit 1"]


def test_jobs_done_before_do_not_count_for_the_want_that_they_answer() -> None:
    run = recorder("n1")
    assert run.jobs(1, 2, 3, done=[1, 3]) == ["Done 1", "Done 3", "Dial n1"]


def test_a_batch_of_jobs_done_before_leads_to_the_next_want() -> None:
    run = recorder("n1")
    assert run.jobs(1, 2, done=[1, 2]) == ["Done 1", "Done 2", "Want 1"]
    assert run.exhausted() == ["Finished SETTLED"]


def test_a_pinned_job_done_before_does_not_fail_with_its_node() -> None:
    run = recorder("n1 n2")
    run.jobs(job(1, pin="n1"))
    run.unreachable("n1")
    assert run.jobs(job(2, pin="n1"), done=[2]) == ["Done 2", "Want 1"]


def test_a_run_whose_jobs_are_all_done_before_ends_without_a_node() -> None:
    run = Recorder()
    run.submitted(filed(1), filed(2, hold=True), done=[1])
    assert run.exhausted() == ["Finished SETTLED"]
    assert run.nodes("n1") == []


def test_the_end_of_the_stream_may_be_known_before_the_nodes() -> None:
    run = Recorder()
    run.submitted(filed(1, job_class="a"))
    assert run.exhausted() == []
    assert run.nodes("n1=a n2=a") == ["Dial n1"]


# --- tokens ------------------------------------------------------------------------------------------------


def test_no_more_jobs_run_than_there_are_tokens() -> None:
    run = with_file("n1 n1/2 n1/3", *(filed(n, tokens="gpu") for n in range(1, 5)), tokens={"gpu": 2})
    assert list(run.running) == [1, 2]
    assert run.ended(2, OK) == ["Done 2.1", "Start 3.1 n1/2"]


def test_a_job_that_waits_for_tokens_blocks_none_behind_it() -> None:
    run = with_file("n1 n1/2", filed(1, tokens="gpu"), filed(2, tokens="gpu"), filed(3), tokens={"gpu": 1})
    assert list(run.running) == [1, 3]
    assert run.ended(1, OK) == ["Done 1.1", "Start 2.1 n1/1"]


def test_tokens_are_taken_all_or_none() -> None:
    jobs = [filed(1, tokens="disk"), filed(2, tokens="disk gpu"), filed(3, tokens="gpu")]
    run = with_file("n1 n1/2", *jobs, tokens={"disk": 1, "gpu": 1})
    assert list(run.running) == [1, 3]
    assert run.ended(1, OK) == ["Done 1.1"]
    assert run.ended(3, OK) == ["Done 3.1", "Start 2.1 n1/1"]


def test_a_large_claim_waits_for_its_units() -> None:
    jobs = [filed(1, tokens="gpu"), filed(2, tokens="gpu:2"), filed(3, tokens="gpu")]
    run = with_file("n1 n1/2", *jobs, tokens={"gpu": 2})
    assert list(run.running) == [1, 3]
    assert run.ended(1, OK) == ["Done 1.1"]
    assert run.ended(3, OK) == ["Done 3.1", "Start 2.1 n1/1"]


def test_nodes_are_dialed_only_for_jobs_that_have_their_tokens() -> None:
    run = Recorder(Limits(tokens={"gpu": 5}))
    run.submitted(*(filed(n, tokens="gpu:2") for n in range(1, 7)))
    assert run.nodes("n1 n2 n3 n4") == ["Dial n1", "Dial n2", "Want 2"]
    assert run.exhausted() == []
    assert run.connected("n1") == ["Start 1.1 n1/1"]
    assert run.connected("n2") == ["Start 2.1 n2/1"]
    assert run.ended(2, OK) == ["Done 2.1", "Start 3.1 n2/1"]


def test_dials_for_jobs_that_claim_tokens_leave_room_for_other_classes() -> None:
    run = Recorder(Limits(tokens={"gpu": 1}))
    run.submitted(*(filed(n, tokens="gpu", job_class="a") for n in (1, 2, 3)), filed(4, job_class="b"))
    assert kinds(run.nodes("n1=a n2=a n3=b"), "Dial") == ["Dial n1", "Dial n3"]


def test_a_dial_under_way_serves_the_next_when_its_job_has_started_elsewhere() -> None:
    run = Recorder(Limits(tokens={"gpu": 1}))
    run.submitted(filed(1), filed(2, tokens="gpu"), filed(3, tokens="gpu"), filed(4, after="1"))
    assert run.nodes("n1 n2 n3") == ["Dial n1", "Dial n2", "Want 1"]
    run.connected("n1")
    assert run.ended(1, OK) == ["Done 1.1", "Start 2.1 n1/1"]
    assert run.connected("n2") == ["Start 4.1 n2/1"]


def test_jobs_that_wait_for_tokens_leave_their_slots_to_the_stream() -> None:
    run = Recorder(Limits(tokens={"gpu": 1}))
    run.submitted(filed(1, tokens="gpu"), filed(2, tokens="gpu"))
    assert run.nodes("n1 n1/2") == ["Dial n1", "Want 1"]
    assert run.connected("n1") == ["Start 1.1 n1/1"]
    assert run.jobs(3) == ["Start 3.1 n1/2"]
    assert run.ended(3, OK) == ["Done 3.1", "Want 1"]


def test_a_requeued_job_gives_its_tokens_back() -> None:
    run = with_file("n1 n2", filed(1, tokens="gpu"), filed(2, tokens="gpu"), tokens={"gpu": 1})
    assert run.ended(1, BAD)[:2] == ["Requeued 1.1: exit 1", "Evicted n1: exit 1"]
    assert run.connected("n2") == ["Start 2.1 n2/1"]


def test_a_run_in_which_all_wait_for_tokens_is_not_blocked() -> None:
    run = with_file("n1 n2", filed(1, tokens="gpu"), filed(2, tokens="gpu"), tokens={"gpu": 1})
    assert run.scheduler.finished is None
    assert run.scheduler.owed() == ["Start(1)"]


def test_an_idle_slot_does_not_give_way_to_a_job_that_waits_for_tokens() -> None:
    jobs = [filed(1, tokens="gpu", job_class="a"), filed(2, tokens="gpu", job_class="b"), filed(3, job_class="a")]
    run = with_file("n1=a n1/2=a n2=b", *jobs, max_nodes=2, tokens={"gpu": 1})
    assert list(run.running) == [1, 3]


def test_a_class_that_is_gone_fails_jobs_that_wait_for_tokens_too() -> None:
    jobs = [filed(1, tokens="gpu", job_class="a"), filed(2, tokens="gpu", job_class="b")]
    run = with_file("n1=a n2=b", *jobs, tokens={"gpu": 1})
    assert run.nodes(left="n2") == ["Retired n2/1", "Close n2", "Failed 2: no node of class b is left"]


# --- priorities --------------------------------------------------------------------------------------------


def test_the_higher_priority_goes_first_and_ties_in_input_order() -> None:
    jobs = [filed(1), filed(2, priority=5), filed(3, priority=-1), filed(4, priority=5), filed(5)]
    assert ran_in_order(with_file("n1", *jobs)) == [2, 4, 1, 5, 3]


def test_a_priority_counts_across_classes_and_tokens() -> None:
    jobs = [filed(1), filed(2, priority=1, tokens="gpu"), filed(3, priority=2, job_class="a")]
    assert ran_in_order(with_file("n1=a", *jobs, tokens={"gpu": 1})) == [3, 2, 1]


def test_a_low_priority_stands_behind_the_stream_and_a_high_one_before_it() -> None:
    run = Recorder()
    run.submitted(filed(2, priority=-1), filed(3, priority=1))
    assert run.nodes("n1") == ["Dial n1"]
    assert run.connected("n1") == ["Start 3.1 n1/1"]
    assert run.ended(3, OK) == ["Done 3.1", "Want 1"]
    assert run.jobs(1) == ["Start 1.1 n1/1"]
    assert run.ended(1, OK) == ["Done 1.1", "Want 1"]
    assert run.exhausted() == ["Start 2.1 n1/1"]


def test_budgets_rank_before_priorities() -> None:
    jobs = [filed(1, budget=1, priority=-5), filed(2, priority=5, budget=1)]
    run = with_file("n1", *jobs, node_failures=9)
    assert run.ended(2, BAD) == ["Requeued 2.1: exit 1", "Start 2.2 n1/1"]
    assert run.ended(2, OK) == ["Done 2.2", "Start 1.1 n1/1"]


def test_a_requeued_job_within_its_budget_goes_before_untried_ones_of_a_higher_priority() -> None:
    jobs = [filed(1, budget=1, priority=-5), filed(2, after="3", priority=5), filed(3, priority=-9)]
    run = with_file("n1 n1/2", *jobs, node_failures=9)
    run.ended(3, OK)
    assert list(run.running) == [1, 2]
    run = with_file("n1", filed(1, budget=1, priority=1), filed(2, priority=9, after="3"), filed(3), node_failures=9)
    assert run.ended(1, BAD) == ["Requeued 1.1: exit 1", "Start 1.2 n1/1"]


def test_among_requeued_jobs_the_higher_priority_goes_first() -> None:
    run = with_file("n1 n1/2", filed(1, budget=9), filed(2, budget=9, priority=1))
    run.ended(1, Lost("reset"))
    run.ended(2, Lost("reset"))
    run.lost("n1")
    assert run.connected("n1") == ["Start 2.2 n1/1", "Start 1.2 n1/2"]
    run = with_file("n1 n1/2", filed(1), filed(2, priority=1), node_failures=9)
    run.nodes(left="n1/2")
    run.ended(1, BAD)
    assert run.ended(2, BAD) == ["Requeued 2.1: exit 1", "Start 2.2 n1/1"]


# --- copies ------------------------------------------------------------------------------------------------


def test_a_job_with_results_is_done_once_they_are_copied() -> None:
    run = with_file("n1", filed(1))
    assert run.ended(1, WITH_RESULTS) == ["Copy 1.1"]
    tally = run.scheduler.tally()
    assert (tally.copying, tally.running, tally.done, tally.slots_in_use) == (1, 0, 0, 0)
    assert run.scheduler.owed() == ["Copy(1)"]
    assert run.copied(1) == ["Done 1.1", "Finished SETTLED"]


def test_a_copy_is_of_the_results_that_the_job_named() -> None:
    run = with_file("n1", filed(1))
    (copy,) = run.feed("ended", run.running[1], Exited(0, (b"a", b"b")))
    assert copy.results == (b"a", b"b")  # type: ignore[union-attr]


def test_the_slot_and_the_tokens_of_a_job_are_free_while_its_results_are_copied() -> None:
    run = with_file("n1", filed(1, tokens="gpu"), filed(2, tokens="gpu"), tokens={"gpu": 1}, max_nodes=1)
    assert run.ended(1, WITH_RESULTS) == ["Copy 1.1", "Start 2.1 n1/1"]


def test_what_comes_after_a_job_waits_for_its_results() -> None:
    run = with_file("n1", filed(1), filed(2, after="1"))
    assert run.ended(1, WITH_RESULTS) == ["Copy 1.1"]
    assert run.copied(1) == ["Done 1.1", "Start 2.1 n1/1"]


def test_a_copy_that_fails_fails_the_job_and_blames_nobody() -> None:
    run = with_file("n1", filed(1, budget=5), filed(2, after="1"), filed(3))
    assert run.ended(1, WITH_RESULTS) == ["Copy 1.1", "Start 3.1 n1/1"]
    assert run.copied(1, CopyFailed("disk full")) == [
        "Failed 1.1: results not copied: disk full",
        "Held 2: after job 1 failed",
    ]
    assert run.scheduler.tally().evicted == 0


def test_a_success_clears_the_streak_before_its_results_are_copied() -> None:
    run = with_file("n1 n1/2", filed(1), filed(2), node_failures=2)
    assert run.ended(1, BAD) == ["Requeued 1.1: exit 1", "Start 1.2 n1/1"]
    assert run.ended(2, WITH_RESULTS) == ["Copy 2.1"]
    assert run.ended(1, BAD) == ["Requeued 1.2: exit 1", "Start 1.3 n1/1"]
    assert run.copied(2, CopyFailed("disk full")) == ["Failed 2.1: results not copied: disk full"]


def test_a_job_that_failed_before_pardons_nobody_when_its_copy_fails() -> None:
    run = with_file("n1 n2", filed(1, budget=5))
    run.ended(1, BAD)
    run.connected("n2")
    run.ended(1, WITH_RESULTS)
    assert run.copied(1, CUT) == ["Failed 1.2: results not copied: connection lost: reset", "Finished SETTLED"]
    assert run.scheduler.tally().evicted == 1


def test_jobs_of_a_class_do_not_wait_for_a_pardon_that_a_copy_cannot_bring() -> None:
    jobs = [filed(1, budget=5), filed(2, job_class="a", after="3"), filed(3, budget=5)]
    run = with_file("n1=a n2 n3", *jobs)
    assert list(run.running) == [1, 3]
    assert run.ended(1, BAD)[1] == "Evicted n1: exit 1"
    connect_all(run)
    assert run.ended(1, WITH_RESULTS) == ["Copy 1.2"]
    assert run.ended(3, OK) == ["Done 3.1", "Failed 2: no node of class a is left"]


def test_a_node_is_closed_only_when_its_copies_are_over() -> None:
    run = with_file("n1 n1/2 n2", filed(1), filed(2), filed(3))
    assert run.ended(1, WITH_RESULTS) == ["Copy 1.1"]
    assert run.ended(2, BAD) == ["Requeued 2.1: exit 1", "Evicted n1: exit 1"]
    assert run.copied(1) == ["Done 1.1", "Close n1"]


def test_a_node_that_leaves_while_it_gives_results_is_closed_behind_them() -> None:
    run = with_file("n1 n2", filed(1), filed(2))
    run.ended(1, WITH_RESULTS)
    assert run.nodes(left="n1") == ["Retired n1/1"]
    assert run.copied(1) == ["Done 1.1", "Close n1"]


def test_a_slot_that_joins_a_node_that_only_gives_results_takes_a_job_at_once() -> None:
    run = running("n1 n2", 1, max_node_uses=1)
    assert run.ended(1, WITH_RESULTS) == ["Retired n1/1", "Copy 1.1"]
    assert run.nodes("n1/2") == []
    assert run.jobs(2) == ["Start 2.1 n1/2", "Want 1"]
    assert run.copied(1) == ["Done 1.1"]


def test_a_retired_slot_ends_while_its_last_jobs_results_are_copied() -> None:
    run = running("n1 n2", 1, max_node_uses=1)
    assert run.ended(1, WITH_RESULTS) == ["Retired n1/1", "Copy 1.1"]
    assert run.jobs(2) == ["Dial n2"]
    assert run.copied(1) == ["Done 1.1", "Close n1"]


def test_the_end_of_the_nodes_waits_for_copies() -> None:
    run = running("n1", 1, max_node_uses=1)
    run.ended(1, WITH_RESULTS)
    assert run.scheduler.finished is None
    assert run.copied(1) == ["Done 1.1", "Close n1", "Finished NO_NODES"]


def test_a_blocked_run_waits_for_copies() -> None:
    run = with_file("n1", filed(1), filed(2, after="3"), filed(3, after="2"))
    assert run.ended(1, WITH_RESULTS) == ["Copy 1.1"]
    assert run.copied(1) == ["Done 1.1", "Finished BLOCKED"]


def test_a_drain_waits_for_copies() -> None:
    run = with_file("n1", filed(1), filed(2))
    run.drain()
    assert run.ended(1, WITH_RESULTS) == ["Copy 1.1"]
    assert run.copied(1) == ["Done 1.1", "Finished DRAINED: told to"]


def test_a_stop_kills_copies_behind_what_runs() -> None:
    run = with_file("n1", filed(1), filed(2))
    run.ended(1, WITH_RESULTS)
    assert run.stop() == ["Kill 2.1", "Kill 1.1"]
    assert run.ended(2, Stopped()) == []
    assert run.copied(1, Stopped()) == ["Finished STOPPED: ^C"]
    assert [left.id for left in run.scheduler.unfinished()] == [1, 2]


def test_a_copy_that_is_over_as_it_is_killed_is_done() -> None:
    run = with_file("n1", filed(1))
    run.ended(1, WITH_RESULTS)
    run.stop()
    assert run.copied(1) == ["Done 1.1", "Finished STOPPED: ^C"]


def test_after_a_stop_no_copy_is_begun() -> None:
    run = with_file("n1", filed(1), filed(2))
    run.stop()
    assert run.ended(1, WITH_RESULTS) == ["Finished STOPPED: ^C"]
    assert [left.id for left in run.scheduler.unfinished()] == [1, 2]


def test_a_connection_lost_under_copies_alone() -> None:
    run = with_file("n1", filed(1), filed(2, after="3"), filed(3, after="1"))
    run.ended(1, WITH_RESULTS)
    assert run.copied(1, CUT)[0] == "Failed 1.1: results not copied: connection lost: reset"


def test_a_connection_lost_under_a_job_and_a_copy() -> None:
    run = with_file("n1 n1/2", filed(1), filed(2))
    run.ended(1, WITH_RESULTS)
    assert run.ended(2, Lost("reset")) == ["Requeued 2.1: connection lost: reset"]
    assert run.copied(1, CUT) == ["Failed 1.1: results not copied: connection lost: reset"]
    assert run.lost("n1") == ["Dial n1"]
    assert run.connected("n1") == ["Start 2.2 n1/1"]


def test_a_pardoned_node_works_on_while_it_gives_results() -> None:
    run = with_file("n1 n1/2 n2", filed(1), filed(2, budget=1), filed(3, after="1"))
    run.ended(1, WITH_RESULTS)
    assert run.ended(2, BAD) == ["Requeued 2.1: exit 1", "Evicted n1: exit 1", "Start 2.2 n2/1"]
    assert run.ended(2, BAD) == ["Failed 2.2: exit 1", "Pardoned n1"]
    run.nodes(left="n2")
    assert run.copied(1) == ["Done 1.1", "Start 3.1 n1/1"]


# --- found done, refused -----------------------------------------------------------------------------------


def test_a_job_found_done_under_its_lock_is_done_and_proves_nothing_of_its_node() -> None:
    run = with_file("n1 n1/2", filed(1), filed(2), filed(3, after="2"), node_failures=2)
    run.ended(1, BAD)
    assert run.ended(2, Found()) == ["Done 2.1", "Start 3.1 n1/2"]
    assert run.ended(1, BAD)[1] == "Evicted n1: 2 failures in a row, last: exit 1"


def test_a_refused_job_fails_whatever_its_budget_and_blames_nobody() -> None:
    run = with_file("n1", filed(1, budget=9), filed(2, after="1"), filed(3))
    assert run.ended(1, Refused("another run holds its lock")) == [
        "Failed 1.1: another run holds its lock",
        "Held 2: after job 1 failed",
        "Start 3.1 n1/1",
    ]


@pytest.mark.parametrize("outcome", [Found(), Refused("lock"), NotStarted("refused")])
def test_a_job_that_did_not_begin_is_no_use_of_its_slot(outcome: Outcome) -> None:
    run = with_file("n1", filed(1), filed(2), max_node_uses=1)
    assert kinds(run.ended(1, outcome), "Retired") == []


@pytest.mark.parametrize(
    ("outcome", "job_fate", "node_fate"),
    [
        (WITH_RESULTS, JobFate.COPYING, NodeFate.CLEARED),
        (Found(), JobFate.DONE, NodeFate.UNTOUCHED),
        (Refused("lock"), JobFate.FAILED, NodeFate.UNTOUCHED),
        (CopyFailed("disk full"), JobFate.FAILED, NodeFate.UNTOUCHED),
    ],
)
def test_the_verdict_on_results_and_locks(outcome: Outcome, job_fate: JobFate, node_fate: NodeFate) -> None:
    assert verdict(outcome) == (job_fate, node_fate)


# --- facts that answer nothing -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "batch",
    [
        [filed(1), filed(3)],
        [filed(2), filed(1)],
        [filed(1), filed(1)],
        [filed(1, after="2")],
        [filed(1), filed(2, Barrier("nested", (), (Barrier("inner", (1, 3)),)))],
        [job(1, pin="n1")],
        [filed(1, tokens="gpu:3")],
        [filed(1, tokens="gpu:0")],
        [filed(1, tokens="unknown")],
    ],
)
def test_jobs_that_are_not_whole_are_not_submitted(batch: list[Job]) -> None:
    scheduler = Scheduler(Limits(tokens={"gpu": 2}))
    before = pickle.dumps(scheduler)
    with pytest.raises(ValueError, match=r"."):
        scheduler.submitted(batch)
    assert pickle.dumps(scheduler) == before


@pytest.mark.parametrize(
    "fact",
    [
        lambda run: run.submitted([filed(4)]),
        lambda run: run.jobs([filed(4, after="1")]),
        lambda run: run.jobs([filed(4, tokens="gpu")]),
        lambda run: run.jobs([filed(4, priority=1)]),
        lambda run: run.jobs([filed(4, hold=True)]),
        lambda run: run.jobs([job(4), job(5)], [6]),
        lambda run: run.copied(Attempt(job(2), 1, slot("n1/2")), OK),
        lambda run: run.copied(Attempt(job(1), 2, slot("n1")), OK),
        lambda run: run.copied(Attempt(job(1), 1, slot("n1")), BAD),
        lambda run: run.copied(Attempt(job(1), 1, slot("n1")), Lost("reset")),
        lambda run: run.ended(Attempt(job(1), 1, slot("n1")), OK),
        lambda run: run.lost(node("n1"), "under a copy"),
        lambda run: run.unreachable(node("n1"), "under a copy"),
    ],
)
def test_a_fact_about_copies_that_answers_nothing_raises_and_changes_nothing(
    fact: Callable[[Scheduler], object],
) -> None:
    run = recorder("n1 n1/2")
    run.jobs(1, 2)
    run.connected("n1")
    run.ended(1, WITH_RESULTS)
    run.ended(2, OK)
    run.jobs(3)
    run.ended(3, OK)
    before = pickle.dumps(run.scheduler)
    with pytest.raises(ValueError, match=r"."):
        fact(run.scheduler)
    assert pickle.dumps(run.scheduler) == before
    assert run.copied(1) == ["Done 1.1"]
