"""The law as transcripts: a fact in, exactly these orders and news out. ``recorder`` tells how to read a line."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
from recorder import Recorder, connect_all, job, node, recorder, running, slot, slots

from clstr.model import (
    Attempt,
    Exited,
    Killed,
    Lost,
    NotStarted,
    Outcome,
    Stalled,
    Stopped,
    TimedOut,
)
from clstr.scheduler import JobFate, Limits, Need, NodeFate, Scheduler, verdict

OK = Exited(0)
BAD = Exited(1)
LOST = Lost("reset")
BUDGETED = Need(None, True)
OUR_LOSS = Lost("reset", ours=True)
NOT_STARTED = NotStarted("refused")


# --- jobs are wanted, nodes are dialed ---------------------------------------------------------------------


def test_each_slot_wants_a_job_first_of_all() -> None:
    run = Recorder()
    assert run.nodes("n1 n2 n1/2") == ["Want 3"]


def test_no_node_is_dialed_before_there_is_a_job() -> None:
    run = recorder("n1 n2")
    assert run.quiet() == []
    assert run.jobs(1) == ["Dial n1", "Want 1"]


def test_five_jobs_on_five_hundred_nodes_dial_five() -> None:
    run = recorder(" ".join(f"n{number}" for number in range(1, 501)))
    assert run.jobs(1, 2, 3, 4, 5) == ["Dial n1", "Dial n2", "Dial n3", "Dial n4", "Dial n5", "Want 495"]
    assert run.exhausted() == []


def test_slots_need_not_ask_for_their_next_job_where_jobs_are_read_ahead() -> None:
    run = Recorder(Limits(read_ahead=2))
    assert run.nodes("n1 n2") == ["Want 4"]
    run.jobs(1, 2, 3, 4)
    connect_all(run)
    assert run.ended(1, OK) == ["Done 1.1", "Start 3.1 n1/1"]
    assert run.ended(2, OK) == ["Done 2.1", "Start 4.1 n2/1"]
    assert run.ended(3, OK) == ["Done 3.1", "Want 3"]


def test_a_job_starts_as_soon_as_its_node_is_connected() -> None:
    run = recorder("n1 n2")
    run.jobs(1, 2)
    assert run.connected("n2") == ["Start 1.1 n2/1"]
    assert run.started(1) == []
    assert run.connected("n1") == ["Start 2.1 n1/1"]
    assert run.ended(1, OK) == ["Done 1.1", "Want 1"]
    assert run.exhausted() == []
    assert run.ended(2, OK) == ["Done 2.1", "Finished SETTLED"]


def test_the_slots_of_a_node_share_its_dial() -> None:
    run = recorder("n1 n1/2 n1/3")
    assert run.jobs(1, 2, 3) == ["Dial n1"]
    assert run.connected("n1") == ["Start 1.1 n1/1", "Start 2.1 n1/2", "Start 3.1 n1/3"]


def test_a_want_is_not_repeated_while_it_is_owed() -> None:
    run = recorder("n1 n2 n3")
    assert run.jobs(1) == ["Dial n1", "Want 2"]
    assert run.connected("n1") == ["Start 1.1 n1/1"]
    assert run.ended(1, OK) == ["Done 1.1"]
    assert run.jobs(2, 3) == ["Start 2.1 n1/1", "Dial n2", "Want 1"]


def test_an_idle_slot_is_used_before_a_spare_node_is_dialed() -> None:
    run = running("n1 n2", 1)
    run.ended(1, OK)
    assert run.jobs(2) == ["Start 2.1 n1/1", "Want 1"]


def test_a_dial_under_way_is_not_doubled_for_a_job_that_comes_back() -> None:
    run = recorder("n1 n2 n3")
    run.jobs(1, 2)
    run.exhausted()
    assert run.connected("n1") == ["Start 1.1 n1/1"]
    assert run.ended(1, OK) == ["Done 1.1", "Start 2.1 n1/1"]
    assert run.ended(2, BAD) == ["Requeued 2.1: exit 1", "Evicted n1: exit 1", "Close n1"]
    assert run.connected("n2") == ["Start 2.2 n2/1"]


def test_a_free_job_dials_one_node_and_leaves_the_next_to_a_pinned_one() -> None:
    run = recorder("n1 n2 n3")
    assert run.jobs(1, job(2, pin="n3")) == ["Dial n1", "Dial n3", "Want 2"]


def test_no_more_dials_are_under_way_than_max_connecting() -> None:
    run = recorder("n1 n2 n3 n4", max_connecting=2)
    assert run.jobs(1, 2, 3, 4) == ["Dial n1", "Dial n2"]
    assert run.connected("n1") == ["Start 1.1 n1/1", "Dial n3"]
    assert run.unreachable("n2") == ["Evicted n2: refused", "Dial n4"]


# --- max_nodes and max_node_uses ---------------------------------------------------------------------------


def test_no_more_slots_are_in_use_than_max_nodes() -> None:
    run = Recorder(Limits(max_nodes=2))
    assert run.nodes("n1 n1/2 n2 n3") == ["Want 2"]
    assert run.jobs(1, 2) == ["Dial n1", "Dial n2"]
    assert run.connected("n1") == ["Start 1.1 n1/1"]
    assert run.connected("n2") == ["Start 2.1 n1/2"]
    assert run.scheduler.tally().slots_in_use == 2
    assert run.ended(1, OK) == ["Done 1.1", "Want 1"]
    assert run.jobs(3) == ["Start 3.1 n2/1"]


def test_a_dial_counts_as_a_slot_in_use() -> None:
    run = recorder("n1 n2", max_nodes=1)
    assert run.jobs(1) == ["Dial n1"]
    assert run.scheduler.tally().slots_in_use == 1


def test_an_idle_slot_gives_way_when_the_next_job_needs_another() -> None:
    run = recorder("n1 n2", max_nodes=1)
    run.jobs(job(1, pin="n1"))
    run.connected("n1")
    run.ended(1, OK)
    assert run.jobs(job(2, pin="n2")) == ["Dial n2", "Want 1"]
    assert run.connected("n2") == ["Start 2.1 n2/1"]


def test_an_idle_slot_leaves_its_room_to_the_first_job_though_a_later_one_could_use_it() -> None:
    run = recorder("n1 n2 n3", max_nodes=1, node_failures=9, stream=BUDGETED)
    run.jobs(job(1, budget=1))
    run.connected("n1")
    assert run.ended(1, BAD) == ["Requeued 1.1: exit 1", "Dial n2", "Want 1"]
    assert run.jobs(job(2, budget=1)) == []
    assert run.unreachable("n2") == ["Evicted n2: refused", "Dial n3"]
    assert run.connected("n3") == ["Start 1.2 n3/1"]
    assert run.ended(1, OK) == ["Done 1.2", "Start 2.1 n1/1"]


def test_one_dial_for_the_first_job_is_room_enough_for_it() -> None:
    run = recorder("n1 n2 n3", max_nodes=2, node_failures=9)
    run.jobs(job(1, budget=1))
    run.connected("n1")
    assert run.ended(1, BAD) == ["Requeued 1.1: exit 1", "Dial n2"]
    assert run.jobs(2) == ["Start 2.1 n1/1", "Want 1"]


def test_a_slot_retires_after_max_node_uses_jobs() -> None:
    run = running("n1 n2", 1, max_node_uses=2)
    assert run.ended(1, OK) == ["Done 1.1"]
    assert run.jobs(2) == ["Start 2.1 n1/1", "Want 1"]
    assert run.ended(2, OK) == ["Retired n1/1", "Done 2.1", "Close n1"]
    assert run.jobs(3) == ["Dial n2"]
    assert run.connected("n2") == ["Start 3.1 n2/1"]


def test_a_node_is_closed_only_when_its_last_slot_has_retired() -> None:
    run = running("n1 n1/2", 1, 2, max_node_uses=1)
    assert run.ended(1, OK) == ["Retired n1/1", "Done 1.1"]
    assert run.ended(2, OK) == ["Retired n1/2", "Done 2.1", "Close n1", "Finished NO_NODES"]


def test_a_job_that_never_began_is_no_use_of_its_slot() -> None:
    run = running("n1", 1, max_node_uses=1)
    assert run.ended(1, NOT_STARTED) == ["Requeued 1.1: not started: refused"]
    assert run.lost("n1") == ["Dial n1"]
    assert run.connected("n1") == ["Start 1.1 n1/1"]
    assert run.ended(1, OK) == ["Retired n1/1", "Done 1.1", "Close n1", "Finished NO_NODES"]


def test_a_lost_job_is_a_use_of_its_slot() -> None:
    run = running("n1", 1, max_node_uses=1)
    assert run.ended(1, LOST) == ["Retired n1/1", "Requeued 1.1: connection lost: reset", "Finished NO_NODES"]


def test_a_slot_that_retires_under_a_failing_job_is_evicted_with_its_node() -> None:
    run = running("n1", 1, max_node_uses=1)
    assert run.ended(1, BAD) == [
        "Retired n1/1",
        "Requeued 1.1: exit 1",
        "Evicted n1: exit 1",
        "Close n1",
        "Finished NO_NODES",
    ]


# --- rule 1: unreachable -----------------------------------------------------------------------------------


def test_an_unreachable_node_is_evicted_and_nothing_is_charged() -> None:
    run = recorder("n1 n2")
    run.jobs(job(1, budget=0))
    assert run.unreachable("n1", "no route") == ["Evicted n1: no route", "Dial n2"]
    assert run.connected("n2") == ["Start 1.1 n2/1"]


def test_a_connection_that_runs_nothing_is_unreachable() -> None:
    run = running("n1 n2", 1)
    assert run.ended(1, NOT_STARTED) == ["Requeued 1.1: not started: refused", "Dial n2"]
    assert run.unreachable("n1", "session refused") == ["Evicted n1: session refused"]
    assert run.connected("n2") == ["Start 1.1 n2/1"]


# --- rule 2: lost ------------------------------------------------------------------------------------------


def test_a_job_that_never_began_returns_to_its_place() -> None:
    run = recorder("n1 n2", max_connecting=1)
    run.jobs(1, 2)
    assert run.connected("n1") == ["Start 1.1 n1/1", "Dial n2"]
    assert run.ended(1, NOT_STARTED) == ["Requeued 1.1: not started: refused"]
    assert run.connected("n2") == ["Start 1.1 n2/1"]
    assert run.lost("n1") == ["Dial n1"]


def test_nothing_starts_between_a_lost_job_and_the_word_of_its_connection() -> None:
    run = running("n1 n1/2", 1, 2)
    run.exhausted()
    assert run.ended(1, LOST) == ["Requeued 1.1: connection lost: reset"]
    assert run.ended(2, OK) == ["Done 2.1"]
    assert run.scheduler.owed() == ["connection gone, its loss not yet told: n1"]
    assert run.lost("n1") == ["Dial n1"]
    assert run.connected("n1") == ["Start 1.2 n1/1"]


def test_an_idle_node_that_is_lost_is_dialed_again_when_it_is_needed() -> None:
    run = running("n1", 1)
    run.ended(1, OK)
    assert run.lost("n1") == []
    assert run.jobs(2) == ["Dial n1"]


def test_the_jobs_of_a_lost_node_move_and_it_is_dialed_once_more() -> None:
    run = running("n1 n2", 1, 2)
    run.exhausted()
    assert run.ended(1, LOST) == ["Requeued 1.1: connection lost: reset"]
    assert run.lost("n1") == []
    assert run.ended(2, OK) == ["Done 2.1", "Start 1.2 n2/1"]


def test_a_second_loss_before_a_job_was_done_evicts() -> None:
    run = running("n1", 1)
    run.exhausted()
    run.ended(1, LOST)
    run.lost("n1")
    run.connected("n1")
    assert run.ended(1, LOST) == ["Requeued 1.2: connection lost: reset"]
    assert run.lost("n1", "no keepalive") == [
        "Evicted n1: connection lost again before a job was done: no keepalive",
        "Finished NO_NODES",
    ]


def test_a_job_that_never_began_is_a_second_loss_all_the_same() -> None:
    run = running("n1", 1, node_failures=9)
    run.ended(1, LOST)
    run.lost("n1")
    run.quiet()
    run.connected("n1")
    run.ended(1, NOT_STARTED)
    assert run.lost("n1") == ["Evicted n1: connection lost again before a job was done: reset", "Finished NO_NODES"]


def test_a_second_loss_while_idle_evicts_too() -> None:
    run = running("n1", 1, node_failures=9)
    run.ended(1, LOST)
    run.lost("n1")
    run.jobs(2)
    run.connected("n1")
    run.ended(2, BAD)  # idle now: all that waits stands behind the stream
    assert run.lost("n1") == ["Evicted n1: connection lost again before a job was done: reset", "Finished NO_NODES"]


def test_a_job_done_clears_the_loss_before_it() -> None:
    run = running("n1", 1)
    run.ended(1, OK)
    run.lost("n1")
    run.jobs(2)
    run.connected("n1")
    run.ended(2, OK)
    assert run.lost("n1") == []
    assert run.jobs(3) == ["Dial n1"]
    run.connected("n1")
    run.ended(3, LOST)
    assert run.lost("n1") == ["Evicted n1: connection lost again before a job was done: reset", "Finished NO_NODES"]


def test_a_failed_dial_after_a_loss_evicts() -> None:
    run = running("n1", 1)
    run.exhausted()
    run.ended(1, LOST)
    assert run.lost("n1") == ["Dial n1"]
    assert run.unreachable("n1") == ["Evicted n1: refused", "Finished NO_NODES"]


def test_a_lost_job_avoids_its_node_while_another_is_live() -> None:
    run = running("n1 n2", 1, 2)
    run.exhausted()
    run.ended(1, LOST)
    assert run.lost("n1") == []  # n2 is live, though it is busy
    assert run.ended(2, BAD) == ["Requeued 2.1: exit 1", "Evicted n2: exit 1", "Close n2", "Dial n1"]
    assert run.connected("n1") == ["Start 1.2 n1/1"]


def test_a_job_remembers_the_node_that_lost_it_though_that_leaves_and_returns() -> None:
    run = running("n1 n2 n3", job(1, budget=9), 2, 3)
    run.exhausted()
    run.ended(1, LOST)
    run.lost("n1")
    run.nodes(left="n1")
    assert run.ended(2, OK) == ["Done 2.1", "Start 1.2 n2/1"]
    run.ended(1, LOST)
    run.lost("n2")
    assert run.nodes("n1") == []  # n3 is live, though it is busy
    assert run.ended(3, OK) == ["Done 3.1", "Start 1.3 n3/1"]


def test_a_loss_of_ours_is_charged_to_no_job() -> None:
    run = running("n1", job(1, budget=0))
    run.exhausted()
    assert run.ended(1, OUR_LOSS) == ["Requeued 1.1: connection lost: reset"]
    assert run.lost("n1", ours=True) == ["Dial n1"]
    assert run.connected("n1") == ["Start 1.2 n1/1"]


def test_a_loss_of_ours_keeps_no_job_from_its_node_nor_from_its_place() -> None:
    run = recorder("n1 n2", max_connecting=1)
    run.jobs(1, 2)
    run.exhausted()
    run.connected("n1")
    assert run.ended(1, OUR_LOSS) == ["Requeued 1.1: connection lost: reset"]
    run.lost("n1", ours=True)
    assert run.unreachable("n2") == ["Evicted n2: refused", "Dial n1"]
    assert run.connected("n1") == ["Start 1.2 n1/1"]


def test_a_loss_of_ours_counts_against_no_node() -> None:
    run = running("n1", 1)
    run.exhausted()
    for again in (2, 3, 4):
        run.ended(1, OUR_LOSS)
        assert run.lost("n1", ours=True) == ["Dial n1"]
        assert run.connected("n1") == [f"Start 1.{again} n1/1"]
    run.ended(1, LOST)
    assert run.lost("n1") == ["Dial n1"]


def test_a_loss_of_ours_clears_no_node() -> None:
    run = running("n1", 1)
    run.exhausted()
    run.ended(1, LOST)
    run.lost("n1")
    run.connected("n1")
    run.ended(1, OUR_LOSS)
    assert run.lost("n1", ours=True) == ["Dial n1"]
    run.connected("n1")
    run.ended(1, LOST)
    assert run.lost("n1")[0] == "Evicted n1: connection lost again before a job was done: reset"


# --- rule 3: failures and streaks --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Exited(127), "exit 127"),
        (Killed("KILL"), "killed by SIGKILL"),
        (TimedOut(90), "timed out after 90 s"),
        (Stalled(0.5), "printed nothing for 0.5 s"),
    ],
)
def test_a_failed_job_evicts_its_node_and_moves_to_another(outcome: Outcome, words: str) -> None:
    run = running("n1 n2", 1)
    run.exhausted()
    assert run.ended(1, outcome) == [f"Requeued 1.1: {words}", f"Evicted n1: {words}", "Close n1", "Dial n2"]
    assert run.connected("n2") == ["Start 1.2 n2/1"]
    assert run.ended(1, OK) == ["Done 1.2", "Finished SETTLED"]


def test_an_evicted_node_finishes_what_runs_and_is_closed_then() -> None:
    run = running("n1 n1/2 n2", 1, 2)
    run.exhausted()
    assert run.ended(1, BAD) == ["Requeued 1.1: exit 1", "Evicted n1: exit 1", "Start 1.2 n2/1"]
    assert run.ended(2, OK) == ["Done 2.1", "Close n1"]
    assert run.scheduler.tally().done == 1


def test_a_free_slot_wants_a_job_while_an_evicted_node_still_runs_one() -> None:
    run = running("n1 n1/2 n2", 1, 2)
    assert run.jobs(3) == ["Start 3.1 n2/1"]
    assert run.ended(1, BAD) == ["Requeued 1.1: exit 1", "Evicted n1: exit 1"]
    assert run.ended(3, OK) == ["Done 3.1", "Want 1"]
    assert run.jobs(4) == ["Start 4.1 n2/1"]


def test_a_sibling_that_fails_on_an_evicted_node_is_requeued_without_a_second_eviction() -> None:
    run = running("n1 n1/2 n2", 1, 2)
    run.exhausted()
    run.ended(1, BAD)
    assert run.ended(2, BAD) == ["Requeued 2.1: exit 1", "Close n1"]


def test_a_streak_of_three_evicts_and_a_success_between_clears_it() -> None:
    run = running("n1", 1, node_failures=3)
    run.exhausted()
    assert run.ended(1, BAD) == ["Requeued 1.1: exit 1", "Start 1.2 n1/1"]
    assert run.ended(1, BAD) == ["Requeued 1.2: exit 1", "Start 1.3 n1/1"]
    assert run.ended(1, Exited(9)) == [
        "Requeued 1.3: exit 9",
        "Evicted n1: 3 failures in a row, last: exit 9",
        "Close n1",
        "Finished NO_NODES",
    ]


def test_a_success_clears_the_streak() -> None:
    run = running("n1 n1/2", 1, 2, node_failures=2)
    run.exhausted()
    assert run.ended(1, BAD) == ["Requeued 1.1: exit 1", "Start 1.2 n1/1"]
    assert run.ended(2, OK) == ["Done 2.1"]
    assert run.ended(1, BAD) == ["Requeued 1.2: exit 1", "Start 1.3 n1/1"]
    assert run.ended(1, OK) == ["Done 1.3", "Finished SETTLED"]


def test_all_slots_of_a_node_share_one_streak() -> None:
    run = running("n1 n1/2", 1, 2, node_failures=2)
    run.exhausted()
    run.ended(1, BAD)
    assert run.ended(2, BAD) == [
        "Requeued 2.1: exit 1",
        "Evicted n1: 2 failures in a row, last: exit 1",
    ]


def test_a_loss_and_a_job_that_never_began_stand_in_no_streak() -> None:
    run = running("n1", 1, node_failures=2)
    run.exhausted()
    run.ended(1, BAD)
    run.ended(1, LOST)
    run.lost("n1")
    run.connected("n1")
    assert run.ended(1, OK) == ["Done 1.3", "Finished SETTLED"]


# --- rules 4 and 5: where a requeued job stands ------------------------------------------------------------


def test_without_a_budget_a_requeued_job_stands_behind_the_untried() -> None:
    run = running("n1", 1, node_failures=9)
    assert run.ended(1, BAD) == ["Requeued 1.1: exit 1", "Want 1"]
    assert run.jobs(2) == ["Start 2.1 n1/1"]
    assert run.exhausted() == []
    assert run.ended(2, OK) == ["Done 2.1", "Start 1.2 n1/1"]


def test_a_requeued_job_waits_for_the_unread_stream_until_that_is_quiet() -> None:
    run = running("n1", 1, node_failures=9)
    assert run.ended(1, BAD) == ["Requeued 1.1: exit 1", "Want 1"]
    assert run.quiet() == ["Start 1.2 n1/1"]


def test_a_requeued_job_waits_for_the_unread_stream_until_its_end() -> None:
    run = running("n1", 1, node_failures=9)
    assert run.ended(1, BAD) == ["Requeued 1.1: exit 1", "Want 1"]
    assert run.exhausted() == ["Start 1.2 n1/1"]


def test_a_stream_is_not_quiet_before_it_was_asked() -> None:
    run = running("n1", 1, node_failures=9)
    assert run.quiet() == []
    assert run.ended(1, BAD) == ["Requeued 1.1: exit 1", "Want 1"]


def test_a_stream_that_speaks_again_is_no_longer_quiet() -> None:
    run = running("n1 n1/2", 1, 2, node_failures=9)
    run.ended(1, BAD)
    assert run.quiet() == ["Start 1.2 n1/1"]
    assert run.jobs(3) == []
    assert run.ended(2, BAD) == ["Requeued 2.1: exit 1", "Start 3.1 n1/2"]
    assert run.ended(1, OK) == ["Done 1.2", "Want 1"]


def test_jobs_without_a_budget_stand_in_the_order_in_which_they_came_back() -> None:
    run = running("n1 n1/2", 1, 2, node_failures=9)
    run.ended(2, BAD)
    run.ended(1, BAD)
    assert run.quiet() == ["Start 2.2 n1/1", "Start 1.2 n1/2"]


def test_with_a_budget_a_requeued_job_goes_before_the_untried() -> None:
    run = running("n1", job(1, budget=1), node_failures=9)
    assert run.ended(1, BAD) == ["Requeued 1.1: exit 1", "Start 1.2 n1/1"]


def test_with_a_budget_a_requeued_job_passes_jobs_that_wait() -> None:
    run = recorder("n1 n2 n3", node_failures=9)
    run.jobs(job(1, budget=1), 2, 3)
    run.exhausted()
    assert run.connected("n1") == ["Start 1.1 n1/1"]
    assert run.ended(1, BAD) == ["Requeued 1.1: exit 1", "Start 2.1 n1/1"]
    assert run.connected("n2") == ["Start 1.2 n2/1"]


def test_with_a_budget_a_job_avoids_the_nodes_where_it_has_failed() -> None:
    run = running("n1 n2", job(1, budget=3), 2, node_failures=9)
    run.exhausted()
    assert run.ended(1, BAD) == ["Requeued 1.1: exit 1"]
    assert run.ended(2, OK) == ["Done 2.1", "Start 1.2 n2/1"]
    assert run.ended(1, BAD) == ["Requeued 1.2: exit 1", "Start 1.3 n1/1"]


def test_a_spent_budget_is_a_failed_job() -> None:
    run = running("n1 n2 n3", job(1, budget=1))
    run.exhausted()
    run.ended(1, BAD)
    run.connected("n2")
    assert run.ended(1, TimedOut(5)) == [
        "Failed 1.2: timed out after 5 s",
        "Pardoned n1",
        "Finished SETTLED",
    ]
    assert run.scheduler.tally().failed == 1


def test_a_lost_connection_spends_the_budget() -> None:
    run = running("n1", job(1, budget=0), stream=BUDGETED)
    assert run.ended(1, LOST) == ["Failed 1.1: connection lost: reset", "Want 1"]


def test_a_job_that_never_began_spends_no_budget() -> None:
    run = running("n1", job(1, budget=0))
    run.exhausted()
    run.ended(1, NOT_STARTED)
    run.lost("n1")
    assert run.connected("n1") == ["Start 1.1 n1/1"]


# --- pinned jobs -------------------------------------------------------------------------------------------


def test_a_pinned_job_starts_on_its_node_only() -> None:
    run = recorder("n1 n2 n3")
    assert run.jobs(job(1, pin="n3"), job(2, pin="n1")) == ["Dial n3", "Dial n1", "Want 3"]
    assert run.connected("n1") == ["Start 2.1 n1/1"]
    assert run.connected("n3") == ["Start 1.1 n3/1"]


def test_pinned_jobs_of_one_node_run_in_listed_order() -> None:
    run = recorder("n1")
    run.jobs(job(1, pin="n1"))
    assert run.jobs(job(2, pin="n1")) == ["Want 1"]
    assert run.connected("n1") == ["Start 1.1 n1/1"]
    run.exhausted()
    assert run.ended(1, OK) == ["Done 1.1", "Start 2.1 n1/1"]


def test_a_pinned_job_that_fails_never_evicts() -> None:
    run = recorder("n1")
    run.jobs(job(1, budget=0, pin="n1"))
    run.connected("n1")
    assert run.ended(1, BAD) == ["Failed 1.1: exit 1"]
    assert run.jobs(job(2, budget=0, pin="n1")) == ["Start 2.1 n1/1"]


def test_a_pinned_job_with_a_budget_is_tried_again_on_its_node() -> None:
    run = recorder("n1 n2")
    run.jobs(job(1, budget=1, pin="n1"))
    run.connected("n1")
    assert run.ended(1, BAD) == ["Requeued 1.1: exit 1", "Start 1.2 n1/1"]
    assert run.ended(1, BAD) == ["Failed 1.2: exit 1"]


def test_an_unreachable_node_fails_its_jobs_and_no_others() -> None:
    run = recorder("n1 n2")
    run.jobs(job(1, pin="n1"), job(2, pin="n2"))
    run.jobs(job(3, pin="n1"))
    assert run.unreachable("n1") == [
        "Evicted n1: refused",
        "Failed 1: refused",
        "Failed 3: refused",
    ]
    assert run.connected("n2") == ["Start 2.1 n2/1"]


def test_a_job_pinned_to_an_evicted_node_fails_as_it_comes() -> None:
    run = recorder("n1 n2")
    run.jobs(job(1, pin="n1"))
    run.unreachable("n1")
    assert run.jobs(job(2, pin="n1")) == ["Failed 2: refused", "Want 1"]


def test_a_pinned_job_that_had_an_attempt_fails_with_its_last_one() -> None:
    run = recorder("n1")
    run.jobs(job(1, pin="n1"))
    run.connected("n1")
    run.ended(1, LOST)
    run.lost("n1")
    assert run.unreachable("n1") == [
        "Evicted n1: refused",
        "Failed 1.1: refused",
        "Finished NO_NODES",
    ]


def test_a_pinned_job_that_was_stopped_fails_with_that_attempt_when_its_node_goes() -> None:
    run = recorder("n1 n1/2 n2")
    run.jobs(job(1, pin="n1"), job(2, pin="n1"), job(3, pin="n2"))
    connect_all(run)
    run.stop()
    assert run.ended(1, Stopped()) == []
    assert run.ended(2, LOST) == ["Requeued 2.1: connection lost: reset"]
    assert run.unreachable("n1") == [
        "Evicted n1: refused",
        "Failed 1.1: refused",
        "Failed 2.1: refused",
    ]


def test_a_requeued_job_without_a_budget_is_behind_its_pinned_neighbours() -> None:
    run = recorder("n1 n1/2")
    run.jobs(job(1, pin="n1"), job(2, pin="n1"))
    run.jobs(job(3, pin="n1"), job(4, pin="n1"))
    run.connected("n1")
    assert run.ended(1, BAD) == ["Requeued 1.1: exit 1", "Start 3.1 n1/1"]
    assert run.ended(2, OK) == ["Done 2.1", "Start 4.1 n1/2"]
    assert run.ended(3, LOST) == ["Requeued 3.1: connection lost: reset"]
    assert run.ended(4, LOST) == ["Requeued 4.1: connection lost: reset"]
    assert run.unreachable("n1")[1:4] == [
        "Failed 1.1: refused",
        "Failed 3.1: refused",
        "Failed 4.1: refused",
    ]


def test_the_failure_of_a_free_job_evicts_beside_pinned_ones() -> None:
    run = recorder("n1 n2")
    run.jobs(1, job(2, pin="n1"))
    run.connected("n1")
    assert run.ended(1, BAD) == [
        "Requeued 1.1: exit 1",
        "Evicted n1: exit 1",
        "Failed 2: exit 1",
        "Close n1",
    ]


# --- nodes come and go -------------------------------------------------------------------------------------


def test_a_node_that_joins_is_dialed_for_a_job_that_waits() -> None:
    run = running("n1", 1)
    run.exhausted()
    assert run.nodes("n2") == []
    assert run.ended(1, BAD) == ["Requeued 1.1: exit 1", "Evicted n1: exit 1", "Close n1", "Dial n2"]


def test_a_slot_that_joins_a_connected_node_takes_a_job_at_once() -> None:
    run = running("n1", 1, node_failures=9)
    run.ended(1, OK)
    assert run.nodes("n1/2") == []
    assert run.jobs(2) == ["Start 2.1 n1/1", "Want 1"]
    assert run.jobs(3) == ["Start 3.1 n1/2"]


def test_a_node_that_leaves_while_spare_is_not_dialed() -> None:
    run = recorder("n1 n2")
    assert run.nodes(left="n1") == ["Retired n1/1"]
    assert run.jobs(1) == ["Dial n2"]


def test_a_node_that_leaves_while_idle_is_closed() -> None:
    run = running("n1 n2", 1)
    run.ended(1, OK)
    assert run.nodes(left="n1") == ["Retired n1/1", "Close n1"]


def test_a_node_that_leaves_while_running_finishes_its_job() -> None:
    run = running("n1 n2", 1)
    assert run.nodes(left="n1") == []
    assert run.ended(1, OK) == ["Retired n1/1", "Done 1.1", "Close n1"]


def test_a_node_that_leaves_while_dialing_has_its_dial_cancelled() -> None:
    run = recorder("n1 n2")
    run.jobs(1)
    assert run.nodes(left="n1") == ["Retired n1/1", "Close n1", "Dial n2"]
    assert run.connected("n2") == ["Start 1.1 n2/1"]


def test_a_node_that_left_may_join_again() -> None:
    run = running("n1 n2", 1)
    run.ended(1, OK)
    run.nodes(left="n1")
    assert run.nodes("n1") == []
    run.nodes(left="n2")
    assert run.jobs(2) == ["Dial n1"]
    assert run.connected("n1") == ["Start 2.1 n1/1"]


def test_a_slot_that_returns_before_its_job_has_ended_never_left() -> None:
    run = running("n1", 1)
    run.nodes(left="n1")
    assert run.nodes("n1") == []
    assert run.ended(1, OK) == ["Done 1.1", "Want 1"]


def test_an_evicted_node_stays_so_however_often_it_is_listed() -> None:
    run = running("n1 n2", 1)
    run.exhausted()
    run.ended(1, BAD)
    assert run.nodes("n1 n1/2") == []
    assert run.unreachable("n2") == ["Evicted n2: refused", "Finished NO_NODES"]


def test_an_evicted_node_may_leave_while_a_job_runs_there() -> None:
    run = running("n1 n1/2 n2", 1, 2)
    run.exhausted()
    run.ended(1, BAD)
    assert run.nodes(left="n1 n1/2") == []
    assert run.ended(2, OK) == ["Done 2.1", "Close n1"]


# --- drain and stop ----------------------------------------------------------------------------------------


def test_a_drain_lets_what_runs_finish_and_starts_nothing() -> None:
    run = running("n1 n2", 1, 2)
    assert run.drain("disk full") == []
    assert run.ended(1, OK) == ["Done 1.1"]
    assert run.ended(2, BAD) == [
        "Requeued 2.1: exit 1",
        "Evicted n2: exit 1",
        "Close n2",
        "Finished DRAINED: disk full",
    ]
    assert [left.id for left in run.scheduler.unfinished()] == [2]


def test_a_drain_while_nothing_runs_ends_the_run_and_cancels_its_dials() -> None:
    run = recorder("n1 n2")
    run.jobs(1, 2)
    assert run.drain() == ["Finished DRAINED: told to"]
    assert run.scheduler.owed() == []


def test_a_drain_that_leaves_nothing_undone_is_settled() -> None:
    run = running("n1", 1)
    run.drain()
    run.exhausted()
    assert run.ended(1, OK) == ["Done 1.1", "Finished SETTLED"]


def test_jobs_read_during_a_drain_are_counted_and_left() -> None:
    run = running("n1 n2", 1)
    run.drain()
    assert run.jobs(2) == []
    assert run.ended(1, OK) == ["Done 1.1", "Finished DRAINED: told to"]
    assert [left.id for left in run.scheduler.unfinished()] == [2]


def test_a_stop_kills_what_runs_in_the_order_in_which_it_started() -> None:
    run = recorder("n1 n2")
    run.jobs(1, 2)
    run.connected("n2")
    run.connected("n1")
    assert run.stop("^C") == ["Kill 1.1", "Kill 2.1"]
    assert run.stop("again") == []
    assert run.ended(2, Stopped()) == []
    assert run.ended(1, OK) == ["Done 1.1", "Finished STOPPED: ^C"]
    assert [left.id for left in run.scheduler.unfinished()] == [2]


def test_a_stop_charges_nobody_and_evicts_nobody() -> None:
    run = running("n1", job(1, budget=0))
    run.stop()
    assert run.ended(1, Stopped()) == ["Finished STOPPED: ^C"]
    tally = run.scheduler.tally()
    assert (tally.failed, tally.evicted, tally.waiting) == (0, 0, 1)


def test_a_stop_before_anything_runs_is_the_end() -> None:
    run = recorder("n1")
    run.jobs(1)
    assert run.stop() == ["Finished STOPPED: ^C"]


def test_a_stop_overrides_a_drain() -> None:
    run = running("n1", 1)
    run.drain()
    assert run.stop() == ["Kill 1.1"]
    assert run.ended(1, Stopped()) == ["Finished STOPPED: ^C"]


# --- every end ---------------------------------------------------------------------------------------------


def test_a_run_without_jobs_is_settled() -> None:
    run = recorder("n1")
    assert run.exhausted() == ["Finished SETTLED"]


def test_a_stream_known_to_be_at_its_end_may_say_so_unasked() -> None:
    run = running("n1", 1)
    assert run.exhausted() == []
    assert run.ended(1, OK) == ["Done 1.1", "Finished SETTLED"]


def test_a_job_that_always_fails_evicts_every_node() -> None:
    run = running("n1 n2", 1)
    run.exhausted()
    run.ended(1, BAD)
    run.connected("n2")
    assert run.ended(1, BAD) == ["Requeued 1.2: exit 1", "Evicted n2: exit 1", "Close n2", "Finished NO_NODES"]
    assert [left.id for left in run.scheduler.unfinished()] == [1]


def test_a_run_without_nodes_ends_though_a_want_is_owed() -> None:
    run = recorder("n1 n2")
    run.jobs(1)
    run.unreachable("n1")
    assert run.unreachable("n2") == ["Evicted n2: refused", "Finished NO_NODES"]
    assert run.scheduler.owed() == []


def test_the_last_job_of_an_evicted_node_is_waited_for_before_the_end() -> None:
    run = running("n1 n1/2", 1, 2)
    assert run.ended(1, BAD) == ["Requeued 1.1: exit 1", "Evicted n1: exit 1"]
    assert run.ended(2, OK) == ["Done 2.1", "Close n1", "Finished NO_NODES"]


def test_a_job_that_no_node_can_ever_take_is_not_waited_for() -> None:
    run = recorder("n1")
    run.jobs(job(1, pin="elsewhere"))
    assert run.exhausted() == ["Finished BLOCKED"]


def test_dials_under_way_are_cancelled_by_the_end() -> None:
    run = recorder("n1 n2")
    run.jobs(1, 2)
    run.exhausted()
    run.connected("n1")
    run.ended(1, OK)
    assert run.ended(2, OK) == ["Done 2.1", "Finished SETTLED"]
    assert run.scheduler.owed() == []
    assert run.scheduler.tally().slots_in_use == 0


def test_facts_after_the_end_are_ignored() -> None:
    run = running("n1 n2 n3", 1, 2)
    attempt = run.running[1]
    run.stop()
    run.ended(1, Stopped())
    run.ended(2, Stopped())
    tally = run.scheduler.tally()
    late: list[tuple[str, list[Any]]] = [
        ("nodes", [slots("n9 n1"), slots("n2")]),
        ("jobs", [[job(9)]]),
        ("exhausted", []),
        ("quiet", []),
        ("connected", [node("n3")]),
        ("unreachable", [node("n9"), "late"]),
        ("started", [attempt]),
        ("ended", [attempt, OK]),
        ("lost", [node("n1"), "late"]),
        ("drain", ["late"]),
        ("stop", ["late"]),
    ]
    for fact, arguments in late:
        assert run.feed(fact, *arguments) == []
    assert run.scheduler.tally() == tally
    assert [left.id for left in run.scheduler.unfinished()] == [1, 2]


# --- questions, and facts that answer nothing --------------------------------------------------------------


def test_the_tally_counts_what_is_in_use_and_what_is_live() -> None:
    run = recorder("n1 n1/2 n2 n3")
    run.jobs(1, 2, 3, 4)
    run.connected("n1")
    run.ended(1, OK)
    run.ended(2, BAD)
    tally = run.scheduler.tally()
    assert (tally.jobs, tally.done, tally.failed) == (4, 1, 0)
    assert (tally.waiting, tally.running, tally.slots_in_use) == (2, 1, 3)
    assert (tally.slots_live, tally.evicted) == (2, 1)


def test_there_is_more_to_come_until_the_stream_ends_and_nothing_waits() -> None:
    run = running("n1", 1)
    assert run.scheduler.more_to_come
    run.exhausted()
    assert not run.scheduler.more_to_come


@pytest.mark.parametrize(
    "fact",
    [
        lambda run: run.jobs([]),
        lambda run: run.jobs([job(3), job(4), job(5)]),
        lambda run: run.connected(node("n1")),
        lambda run: run.connected(node("n4")),
        lambda run: run.connected(node("unknown")),
        lambda run: run.unreachable(node("n1"), "while a job runs"),
        lambda run: run.unreachable(node("n4"), "never dialed"),
        lambda run: run.unreachable(node("unknown"), "never listed"),
        lambda run: run.lost(node("n1"), "while a job runs"),
        lambda run: run.lost(node("n2"), "while dialing"),
        lambda run: run.lost(node("unknown"), "never listed"),
        lambda run: run.started(Attempt(job(2), 1, slot("n1"))),
        lambda run: run.ended(Attempt(job(2), 1, slot("n1")), OK),
        lambda run: run.ended(Attempt(job(1), 2, slot("n1")), OK),
        lambda run: run.ended(Attempt(job(1), 1, slot("n1/2")), OK),
        lambda run: run.nodes(slots("n8 n1")),
        lambda run: run.nodes(slots("n8 n8")),
        lambda run: run.nodes(slots("n8"), slots("unknown")),
    ],
)
def test_a_fact_that_answers_nothing_raises_and_changes_nothing(fact: Callable[[Scheduler], object]) -> None:
    run = recorder("n1 n2 n3 n4")
    run.jobs(1, 2)
    run.connected("n1")
    before = pickle.dumps(run.scheduler)
    with pytest.raises(ValueError, match=r"."):
        fact(run.scheduler)
    assert pickle.dumps(run.scheduler) == before
    assert run.connected("n2") == ["Start 2.1 n2/1"]


@pytest.mark.parametrize(
    ("outcome", "job_fate", "node_fate"),
    [
        (Exited(0), JobFate.DONE, NodeFate.CLEARED),
        (Exited(1), JobFate.CHARGED, NodeFate.STRUCK),
        (Exited(255), JobFate.CHARGED, NodeFate.STRUCK),
        (Killed("KILL"), JobFate.CHARGED, NodeFate.STRUCK),
        (TimedOut(1), JobFate.CHARGED, NodeFate.STRUCK),
        (Stalled(1), JobFate.CHARGED, NodeFate.STRUCK),
        (Lost("reset"), JobFate.INTERRUPTED, NodeFate.AWAITED),
        (Lost("reset", ours=True), JobFate.EXCUSED, NodeFate.AWAITED),
        (NotStarted("refused"), JobFate.RETURNED, NodeFate.AWAITED),
        (Stopped(), JobFate.UNFINISHED, NodeFate.UNTOUCHED),
    ],
)
def test_the_verdict_on_every_outcome(outcome: Outcome, job_fate: JobFate, node_fate: NodeFate) -> None:
    assert verdict(outcome) == (job_fate, node_fate)


def test_slots_that_a_node_has_found_leave_by_their_numbers_and_come_back() -> None:
    run = recorder("n1 n2", follow=True)
    run.jobs(1)
    assert run.connected("n1", more=2) == ["Start 1.1 n1/1"]
    assert run.nodes("", left="n1/2 n1/3") == ["Retired n1/2", "Retired n1/3"]
    assert run.nodes("n1/2") == []
    assert run.jobs(2) == ["Start 2.1 n1/2", "Want 1"]
