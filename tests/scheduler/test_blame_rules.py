"""Rules 3 to 6 and 8, and classes, as transcripts: whom a failure is blamed on, and what takes that back.

``recorder`` tells how to read a line.
"""

from __future__ import annotations

import pytest
from recorder import Recorder, connect_all, job, node, recorder, running, slots

from clstr.model import Exited, Job, Lost, NotStarted
from clstr.scheduler import Limits, Need

OK = Exited(0)
BAD = Exited(1)
LOST = Lost("reset")
BUDGETED = Need(None, True)
AGAIN = "connection lost again before a job was done: reset"


def patient(number: int, job_class: str | None = None) -> Job:
    """A job that may be requeued three times."""
    return job(number, budget=3, job_class=job_class)


def evict(run: Recorder, number: int) -> str:
    """The job fails where it runs, which is a node that this evicts; gives that node's name."""
    name = run.running[number].slot.node.text
    assert f"Evicted {name}: exit 1" in run.ended(number, BAD)
    return name


def evicted(run: Recorder) -> list[str]:
    """The nodes that are evicted now, as the news tell it."""
    names: dict[str, None] = {}
    for event in run.events:
        kind, name = type(event).__name__, getattr(event, "node", node("")).text
        if kind == "Evicted":
            names[name] = None
        elif kind in ("Pardoned", "Paroled"):
            del names[name]
    assert len(names) == run.scheduler.tally().evicted
    return list(names)


# --- rule 5: a spent budget --------------------------------------------------------------------------------


def test_a_job_that_has_failed_enters_no_streak() -> None:
    run = running("n1", job(1, budget=0), stream=BUDGETED)
    assert run.ended(1, BAD) == ["Failed 1.1: exit 1", "Want 1"]
    assert run.jobs(job(2, budget=0)) == ["Start 2.1 n1/1"]


def test_a_failed_job_pardons_every_node_that_it_evicted_in_the_order_it_came_there() -> None:
    run = running("n1 n2 n3", job(1, budget=2))
    run.exhausted()
    for name in ("n1", "n2"):
        assert evict(run, 1) == name
        connect_all(run)
    assert run.ended(1, BAD) == ["Failed 1.3: exit 1", "Pardoned n1", "Pardoned n2", "Finished SETTLED"]
    assert run.scheduler.tally().evicted == 0


def test_a_lost_connection_that_spends_the_budget_pardons_too() -> None:
    run = running("n1 n2", job(1, budget=1))
    run.exhausted()
    evict(run, 1)
    connect_all(run)
    assert run.ended(1, LOST) == ["Failed 1.2: connection lost: reset", "Pardoned n1", "Finished SETTLED"]


def test_a_job_that_is_done_at_last_pardons_nobody() -> None:
    run = running("n1 n2", job(1, budget=3))
    run.exhausted()
    evict(run, 1)
    connect_all(run)
    assert run.ended(1, OK) == ["Done 1.2", "Finished SETTLED"]
    assert evicted(run) == ["n1"]


def test_a_pardoned_node_is_dialed_again_after_its_close_and_works_on() -> None:
    run = running("n1 n2", job(1, budget=1), stream=BUDGETED)
    assert run.ended(1, BAD) == ["Requeued 1.1: exit 1", "Evicted n1: exit 1", "Close n1", "Dial n2"]
    run.jobs(job(2, budget=1))
    run.connected("n2")
    assert run.ended(1, BAD) == ["Failed 1.2: exit 1", "Pardoned n1", "Start 2.1 n2/1", "Want 1"]
    assert run.jobs(job(3, budget=1)) == ["Dial n1"]
    assert run.connected("n1") == ["Start 3.1 n1/1"]
    assert run.ended(3, OK) == ["Done 3.1", "Want 1"]


def test_a_node_pardoned_while_a_job_still_runs_there_keeps_its_connection() -> None:
    run = running("n1 n1/2", job(1, budget=1), 2)
    run.exhausted()
    run.nodes("n2")
    assert run.ended(1, BAD) == ["Requeued 1.1: exit 1", "Evicted n1: exit 1", "Dial n2"]
    run.connected("n2")
    assert run.ended(1, BAD) == ["Failed 1.2: exit 1", "Pardoned n1"]
    assert run.scheduler.tally().slots_live == 3
    assert run.ended(2, BAD) == ["Requeued 2.1: exit 1", "Evicted n1: exit 1", "Close n1", "Start 2.2 n2/1"]


def test_a_free_slot_of_a_pardoned_node_takes_a_job_beside_the_one_that_ran_on() -> None:
    run = running("n1 n1/2", job(1, budget=1), job(2, budget=1), stream=BUDGETED)
    run.nodes("n2")
    run.jobs(job(3, budget=1))
    assert run.ended(1, BAD) == ["Requeued 1.1: exit 1", "Evicted n1: exit 1"]
    run.connected("n2")
    assert run.ended(1, BAD)[:2] == ["Failed 1.2: exit 1", "Pardoned n1"]
    assert run.running[3].slot == slots("n2")[0]
    assert run.jobs(job(4, budget=1)) == ["Start 4.1 n1/1"]


def test_a_success_on_an_evicted_node_clears_nothing() -> None:
    run = running("n1 n1/2 n1/3 n1/4", patient(1), job(2, budget=1), 3, 4, node_failures=2)
    run.exhausted()
    run.nodes("n2")
    run.ended(2, BAD)
    assert run.ended(1, BAD)[1] == "Evicted n1: 2 failures in a row, last: exit 1"
    assert run.ended(3, OK) == ["Done 3.1"]
    run.connected("n2")
    assert run.ended(2, BAD) == ["Failed 2.2: exit 1", "Pardoned n1", "Start 1.2 n2/1"]
    assert run.ended(4, BAD)[1] == "Evicted n1: 2 failures in a row, last: exit 1"


def test_two_jobs_evict_a_node_and_one_of_them_failing_pardons_it() -> None:
    run = running("n1 n1/2", patient(1), job(2, budget=1), node_failures=2)
    run.exhausted()
    run.nodes("n2 n2/2")
    assert run.ended(1, BAD) == ["Requeued 1.1: exit 1", "Dial n2"]
    assert run.ended(2, BAD) == [
        "Requeued 2.1: exit 1",
        "Evicted n1: 2 failures in a row, last: exit 1",
        "Close n1",
    ]
    assert run.connected("n2") == ["Start 1.2 n2/1", "Start 2.2 n2/2"]
    assert run.ended(2, BAD) == ["Failed 2.2: exit 1", "Pardoned n1"]
    assert run.ended(1, OK) == ["Done 1.2", "Finished SETTLED"]


def test_the_failures_left_in_the_streak_of_a_pardoned_node_still_count() -> None:
    run = running("n1 n1/2 n1/3", 1, job(2, budget=1), 3, node_failures=2)
    run.exhausted()
    run.nodes("n2")
    run.ended(2, BAD)
    run.connected("n2")
    assert run.ended(1, BAD)[1] == "Evicted n1: 2 failures in a row, last: exit 1"
    assert run.ended(2, BAD) == ["Failed 2.2: exit 1", "Pardoned n1", "Start 1.2 n2/1"]
    assert run.ended(3, BAD)[:2] == ["Requeued 3.1: exit 1", "Evicted n1: 2 failures in a row, last: exit 1"]


def test_a_job_that_stands_in_a_streak_several_times_is_struck_out_whole() -> None:
    run = running("n1", job(1, budget=9), node_failures=3)
    run.exhausted()
    for _ in range(2):
        run.ended(1, BAD)
    assert run.ended(1, BAD) == [
        "Requeued 1.3: exit 1",
        "Evicted n1: 3 failures in a row, last: exit 1",
        "Close n1",
        "Paroled n1",
        "Dial n1",
    ]
    run.connected("n1")
    for _ in range(6):
        run.ended(1, BAD)
        connect_all(run)
    assert run.ended(1, BAD) == ["Failed 1.10: exit 1", "Pardoned n1", "Finished SETTLED"]


def test_a_streak_of_three_of_which_one_failed_is_too_short() -> None:
    run = running("n1 n1/2 n1/3", patient(1), patient(2), job(3, budget=1), node_failures=3)
    run.exhausted()
    run.nodes("n2")
    for number in (1, 2, 3):
        run.ended(number, BAD)
    assert evicted(run) == ["n1"]
    run.connected("n2")
    run.ended(1, OK)
    run.ended(2, OK)
    assert run.ended(3, BAD) == ["Failed 3.2: exit 1", "Pardoned n1", "Finished SETTLED"]


def test_a_streak_of_four_of_which_one_failed_is_still_long_enough() -> None:
    run = running("n1 n1/2 n1/3 n1/4", patient(1), patient(2), job(3, budget=1), patient(4), node_failures=3)
    run.exhausted()
    run.nodes("n2")
    for number in (1, 2, 4, 3):
        run.ended(number, BAD)
    run.connected("n2")
    for number in (1, 2, 4):
        run.ended(number, OK)
    assert run.ended(3, BAD) == ["Failed 3.2: exit 1", "Finished SETTLED"]
    assert evicted(run) == ["n1"]


def test_a_success_between_leaves_the_job_nothing_to_be_struck_out_of() -> None:
    run = running("n1 n1/2", job(1, budget=1), 2, node_failures=2)
    run.exhausted()
    run.nodes("n2")
    run.ended(1, BAD)
    run.ended(2, OK)
    run.connected("n2")
    assert run.ended(1, BAD) == ["Failed 1.2: exit 1", "Finished SETTLED"]


def test_a_node_that_was_lost_twice_is_not_pardoned() -> None:
    run = running("n1", job(1, budget=3), node_failures=2)
    run.exhausted()
    run.ended(1, BAD)
    for _ in range(2):
        connect_all(run)
        run.ended(1, LOST)
        lost = run.lost("n1")
    assert lost[0] == f"Evicted n1: {AGAIN}"
    assert lost[1:] == ["Finished NO_NODES"]


def test_a_node_that_turns_out_unreachable_after_its_eviction_is_evicted_for_good() -> None:
    run = running("n1 n1/2", job(1, budget=1), 2)
    run.exhausted()
    run.nodes("n2")
    run.ended(1, BAD)
    run.ended(2, NotStarted("reset"))
    run.unreachable("n1")
    connect_all(run)
    assert run.ended(1, BAD) == ["Failed 1.2: exit 1", "Start 2.1 n2/1"]
    assert evicted(run) == ["n1"]


def test_a_loss_while_evicted_is_the_first_of_two_for_a_pardoned_node() -> None:
    run = running("n1 n1/2", job(1, budget=1), 2)
    run.exhausted()
    run.nodes("n2")
    run.ended(1, BAD)
    run.ended(2, LOST)
    run.lost("n1")
    connect_all(run)
    assert run.ended(1, BAD)[:2] == ["Failed 1.2: exit 1", "Pardoned n1"]
    assert run.ended(2, BAD)[1:] == ["Evicted n2: exit 1", "Close n2", "Dial n1"]
    run.connected("n1")
    run.ended(2, LOST)
    assert run.lost("n1") == [f"Evicted n1: {AGAIN}", "Finished NO_NODES"]


def test_a_node_that_leaves_the_list_while_it_is_evicted_is_not_pardoned() -> None:
    run = running("n1 n2", job(1, budget=1))
    run.exhausted()
    evict(run, 1)
    assert run.nodes(left="n1") == []
    run.connected("n2")
    assert run.ended(1, BAD) == ["Failed 1.2: exit 1", "Finished SETTLED"]


def test_a_slot_that_left_the_list_under_its_job_does_not_come_back_with_a_pardon() -> None:
    run = running("n1 n1/2", job(1, budget=1), job(2, budget=1), stream=BUDGETED)
    run.nodes("n2", left="n1/2")
    assert run.ended(1, BAD)[:2] == ["Requeued 1.1: exit 1", "Evicted n1: exit 1"]
    connect_all(run)
    run.ended(1, BAD)
    assert run.scheduler.tally().slots_live == 3  # that of job 2 until it has ended
    assert run.ended(2, OK)[:2] == ["Retired n1/2", "Done 2.1"]
    assert run.scheduler.tally().slots_live == 2


def test_a_slot_that_joins_an_evicted_node_comes_with_its_pardon() -> None:
    run = running("n1 n2", job(1, budget=1))
    run.exhausted()
    evict(run, 1)
    assert run.nodes("n1/2") == []
    run.connected("n2")
    run.ended(1, BAD)
    assert run.scheduler.tally().slots_live == 3


def test_the_slot_that_evicted_its_node_at_the_end_of_its_share_does_not_come_back() -> None:
    run = running("n1 n1/2", job(1, budget=1), 2, max_node_uses=1)
    run.exhausted()
    run.nodes("n2")
    assert run.ended(1, BAD)[:3] == ["Retired n1/1", "Requeued 1.1: exit 1", "Evicted n1: exit 1"]
    connect_all(run)
    assert run.ended(1, BAD) == ["Retired n2/1", "Failed 1.2: exit 1", "Pardoned n1", "Close n2"]
    assert run.scheduler.tally().slots_live == 1


def test_a_node_whose_last_share_is_used_up_by_the_eviction_is_not_pardoned() -> None:
    run = running("n1 n2", job(1, budget=1), max_node_uses=1)
    run.exhausted()
    run.ended(1, BAD)
    connect_all(run)
    assert run.ended(1, BAD) == ["Retired n2/1", "Failed 1.2: exit 1", "Close n2", "Finished SETTLED"]


def test_a_share_used_up_while_evicted_does_not_come_back() -> None:
    run = running("n1 n1/2", job(1, budget=1), 2, max_node_uses=2, stream=BUDGETED)
    run.nodes("n2")
    run.ended(2, OK)
    assert run.jobs(3)[0] == "Start 3.1 n1/2"
    run.ended(1, BAD)
    run.ended(3, OK)  # the second and last of n1/2
    connect_all(run)
    assert run.ended(1, BAD)[:2] == ["Failed 1.2: exit 1", "Pardoned n1"]
    assert run.scheduler.tally().slots_live == 2
    assert not [told for told in run.told() if told.startswith("Retired")]


def test_a_share_begun_before_the_eviction_goes_on_after_the_pardon() -> None:
    run = running("n1 n1/2", job(1, budget=1), 2, max_node_uses=2, stream=BUDGETED)
    run.nodes("n2")
    run.ended(1, BAD)
    connect_all(run)
    assert run.ended(1, BAD)[:2] == ["Failed 1.2: exit 1", "Pardoned n1"]
    assert run.ended(2, BAD)[1] == "Evicted n1: exit 1"
    assert run.scheduler.tally().slots_live == 1


# --- rule 6: paroles ---------------------------------------------------------------------------------------


def test_on_one_node_a_job_that_works_the_fourth_time_is_done() -> None:
    run = running("n1", patient(1))
    run.exhausted()
    for attempt in (1, 2, 3):
        assert run.ended(1, BAD) == [
            f"Requeued 1.{attempt}: exit 1",
            "Evicted n1: exit 1" if attempt == 1 else f"Evicted n1: {attempt} failures in a row, last: exit 1",
            "Close n1",
            "Paroled n1",
            "Dial n1",
        ]
        assert run.connected("n1") == [f"Start 1.{attempt + 1} n1/1"]
    assert run.ended(1, OK) == ["Done 1.4", "Finished SETTLED"]
    assert run.scheduler.tally().evicted == 0


def test_on_one_node_a_job_that_never_works_has_failed_and_the_node_works_on() -> None:
    run = running("n1", patient(1), stream=BUDGETED)
    for _ in range(3):
        run.ended(1, BAD)
        connect_all(run)
    assert run.ended(1, BAD) == ["Failed 1.4: exit 1", "Pardoned n1"]
    assert run.jobs(job(2)) == ["Start 2.1 n1/1"]


def test_a_paroled_node_whose_next_failure_comes_is_evicted_again_though_k_is_three() -> None:
    run = running("n1 n1/2", patient(1), patient(2), node_failures=3)
    run.exhausted()
    run.ended(1, BAD)
    run.ended(1, BAD)
    assert run.ended(2, BAD) == [
        "Requeued 2.1: exit 1",
        "Evicted n1: 3 failures in a row, last: exit 1",
        "Paroled n1",
        "Start 2.2 n1/2",
    ]
    assert run.ended(2, BAD)[1] == "Evicted n1: 4 failures in a row, last: exit 1"
    assert run.ended(1, BAD)[1] == "Evicted n1: 5 failures in a row, last: exit 1"


def test_a_paroled_node_takes_only_jobs_with_a_budget_until_it_has_done_one() -> None:
    run = running("n1 n1/2", patient(1), 2)
    run.nodes("n2")
    run.jobs(3)
    run.exhausted()
    run.ended(1, BAD)
    assert run.unreachable("n2") == ["Evicted n2: refused", "Paroled n1", "Start 1.2 n1/1"]
    assert run.ended(2, LOST) == ["Requeued 2.1: connection lost: reset"]
    assert run.ended(1, LOST) == ["Requeued 1.2: connection lost: reset"]
    assert run.lost("n1") == ["Dial n1"]
    assert run.connected("n1") == ["Start 1.3 n1/1"]  # and no other, though a slot is idle
    assert run.ended(1, OK) == ["Done 1.3", "Start 3.1 n1/1", "Start 2.2 n1/2"]


def test_a_paroled_node_that_succeeds_has_no_streak() -> None:
    run = running("n1", patient(1), stream=BUDGETED, node_failures=2)
    for _ in range(2):
        run.ended(1, BAD)
        connect_all(run)
    run.ended(1, OK)
    run.jobs(patient(2))
    assert run.ended(2, BAD) == ["Requeued 2.1: exit 1", "Start 2.2 n1/1"]


def test_a_success_of_a_job_without_a_budget_that_ran_on_ends_the_parole_too() -> None:
    run = running("n1 n1/2", patient(1), 2, stream=BUDGETED)
    assert run.ended(1, BAD)[1:3] == ["Evicted n1: exit 1", "Paroled n1"]
    run.ended(2, OK)
    run.jobs(3)
    assert 3 in run.running


def test_a_failed_job_that_is_struck_out_ends_the_parole_of_its_node() -> None:
    run = running("n1 n1/2", job(1, budget=1), 2, stream=BUDGETED)
    assert run.ended(1, BAD)[1:] == ["Evicted n1: exit 1", "Paroled n1", "Start 1.2 n1/1"]
    assert run.jobs(3) == []  # it must not run on a node on parole
    assert run.ended(1, BAD) == ["Failed 1.2: exit 1", "Pardoned n1", "Start 3.1 n1/1"]


def test_the_failure_of_a_spent_job_leaves_a_paroled_node_on_parole() -> None:
    run = running("n1 n1/2", patient(1), job(2, budget=0), stream=BUDGETED)
    assert run.ended(1, BAD)[1:4] == ["Evicted n1: exit 1", "Paroled n1", "Start 1.2 n1/1"]
    assert run.ended(2, BAD)[0] == "Failed 2.1: exit 1"
    run.jobs(3)
    assert 3 not in run.running
    assert run.ended(1, OK)[:2] == ["Done 1.2", "Start 3.1 n1/1"]


def test_nobody_is_paroled_while_a_live_node_is_only_busy() -> None:
    run = running("n1 n2", patient(1), patient(2))
    run.exhausted()
    assert run.ended(1, BAD) == ["Requeued 1.1: exit 1", "Evicted n1: exit 1", "Close n1"]
    assert run.ended(2, OK) == ["Done 2.1", "Start 1.2 n2/1"]


def test_nobody_is_paroled_for_a_job_without_a_budget() -> None:
    run = running("n1", 1)
    run.exhausted()
    assert run.ended(1, BAD) == ["Requeued 1.1: exit 1", "Evicted n1: exit 1", "Close n1", "Finished NO_NODES"]


def test_jobs_without_a_budget_are_left_when_all_is_on_parole_and_no_job_may_clear_it() -> None:
    run = all_on_parole()
    run.jobs(3)
    run.exhausted()
    assert run.ended(2, LOST) == ["Failed 2.1: connection lost: reset"]
    assert run.lost("n1") == ["Finished BLOCKED"]
    assert run.scheduler.tally().waiting == 1


def test_a_stream_without_a_budget_is_read_no_further_when_all_is_on_parole() -> None:
    run = all_on_parole()
    run.jobs(job(3, budget=0))
    assert run.ended(2, LOST) == ["Failed 2.1: connection lost: reset"]
    assert run.lost("n1") == ["Dial n1"]
    run.connected("n1")
    assert run.ended(3, BAD) == ["Failed 3.1: exit 1", "Finished NO_NODES: all on parole"]


def all_on_parole() -> Recorder:
    """Job 1 was done elsewhere; job 2, with its last chance, runs on the node that is left; the stream goes on."""
    run = running("n1 n2", patient(1), job(2, budget=0))
    evict(run, 1)
    assert run.ended(2, NotStarted("reset"))[0] == "Requeued 2.1: not started: reset"
    run.lost("n2")
    connect_all(run)
    assert run.running.keys() == {1}
    run.ended(1, OK)
    run.ended(2, NotStarted("reset"))
    assert run.unreachable("n2") == ["Evicted n2: refused", "Paroled n1", "Dial n1"]
    run.connected("n1")
    assert run.running.keys() == {2}
    return run


def test_an_unread_job_of_the_stream_paroles_a_node() -> None:
    run = running("n1 n2", job(1, budget=1), stream=BUDGETED)
    evict(run, 1)
    connect_all(run)
    assert run.ended(1, OK) == ["Done 1.2"]  # the Want is owed
    assert evicted(run) == ["n1"]
    assert run.lost("n2") == []
    run.jobs(job(2, budget=1))
    assert run.unreachable("n2") == ["Evicted n2: refused", "Paroled n1", "Dial n1"]
    run.connected("n1")
    assert run.ended(2, LOST)[0] == "Requeued 2.1: connection lost: reset"


def test_the_unread_stream_alone_paroles_a_node() -> None:
    run = running("n1 n2", job(1, budget=1), job(2, budget=1), stream=BUDGETED)
    evict(run, 1)
    run.ended(2, OK)
    assert run.ended(1, OK) == ["Done 1.2", "Want 1"]
    run.lost("n2")
    run.jobs(job(3, budget=0))
    run.connected("n2")
    run.ended(3, NotStarted("reset"))
    assert run.unreachable("n2") == ["Evicted n2: refused", "Paroled n1", "Dial n1"]


def test_the_end_of_the_stream_paroles_nobody() -> None:
    run = running("n1 n2", job(1, budget=1), stream=BUDGETED)
    run.exhausted()
    evict(run, 1)
    connect_all(run)
    assert run.ended(1, OK) == ["Done 1.2", "Finished SETTLED"]
    assert evicted(run) == ["n1"]


def test_a_stream_that_has_ended_paroles_nobody_for_itself() -> None:
    run = running("n1", 1, stream=BUDGETED)
    run.exhausted()
    assert run.ended(1, BAD) == ["Requeued 1.1: exit 1", "Evicted n1: exit 1", "Close n1", "Finished NO_NODES"]


@pytest.mark.parametrize("how", ["drain", "stop"])
def test_a_run_that_is_ending_paroles_nobody(how: str) -> None:
    run = running("n1", patient(1))
    run.drain() if how == "drain" else run.stop()
    assert run.ended(1, BAD)[:3] == ["Requeued 1.1: exit 1", "Evicted n1: exit 1", "Close n1"]
    assert "Paroled n1" not in run.told()


def test_a_node_where_the_job_has_not_failed_is_paroled_before_one_where_it_has() -> None:
    run = running("n1 n2", patient(1), patient(2))
    run.exhausted()
    assert evict(run, 1) == "n1"
    assert run.ended(2, BAD) == [
        "Requeued 2.1: exit 1",
        "Evicted n2: exit 1",
        "Close n2",
        "Paroled n2",  # job 1 goes first, and n1 is where it failed, though that was evicted longer ago
        "Dial n2",
    ]


def test_the_node_whose_streak_has_fewer_jobs_since_done_elsewhere_is_paroled() -> None:
    run = running("n1 n1/2", patient(1), patient(2), max_connecting=1)
    run.exhausted()
    run.nodes("n2")
    assert evict(run, 1) == "n1"
    run.connected("n2")
    run.ended(2, BAD)
    run.nodes("n3")
    connect_all(run)
    run.ended(2, OK)  # so n1 was at fault
    assert evict(run, 1) == "n2"
    run.ended(1, NotStarted("reset"))
    assert run.unreachable("n3") == ["Evicted n3: refused", "Paroled n2", "Dial n2"]


def test_any_node_is_paroled_when_the_job_has_failed_on_all() -> None:
    run = running("n1 n2", patient(1))
    run.exhausted()
    evict(run, 1)
    run.connected("n2")
    assert run.ended(1, BAD)[1:4] == ["Evicted n2: exit 1", "Close n2", "Paroled n1"]


def test_among_equals_the_node_that_was_evicted_longest_ago_is_paroled() -> None:
    run = running("n1 n2", job(1, budget=1))
    run.jobs(patient(2))
    run.exhausted()
    connect_all(run)
    evict(run, 1)
    assert run.running[2].slot.node == node("n2")
    run.ended(2, NotStarted("reset"))
    run.lost("n2")
    run.connected("n2")
    assert run.ended(1, BAD) == ["Failed 1.2: exit 1", "Pardoned n1", "Start 2.1 n2/1"]
    assert evict(run, 2) == "n2"
    run.connected("n1")
    assert run.ended(2, BAD)[1:4] == ["Evicted n1: exit 1", "Close n1", "Paroled n2"]


# --- rule 2 with a budget: jobs that break connections -----------------------------------------------------


def test_a_job_that_reboots_its_nodes_takes_no_more_of_them_than_its_budget_and_one() -> None:
    run = running("n1 n2 n3 n4 n5 n6", job(1, budget=2))
    run.exhausted()
    rebooted = []
    while 1 in run.running:
        rebooted.append(run.running[1].slot.node.text)
        ended = run.ended(1, LOST)
        if run.scheduler.finished is None:
            run.lost(rebooted[-1])
            connect_all(run)
    assert ended == ["Failed 1.3: connection lost: reset", "Finished SETTLED"]
    assert rebooted == ["n1", "n2", "n3"]
    assert run.scheduler.tally().evicted == 0


def test_a_job_that_reboots_the_only_node_evicts_it_for_good() -> None:
    run = running("n1", patient(1))
    run.exhausted()
    run.ended(1, LOST)
    run.lost("n1")
    connect_all(run)
    run.ended(1, LOST)
    assert run.lost("n1") == [f"Evicted n1: {AGAIN}", "Finished NO_NODES"]


def test_a_lost_job_keeps_away_from_its_nodes_though_one_of_them_is_on_parole() -> None:
    run = running("n1=gpu n2 n3", 1, 2, 3)
    assert run.ended(1, LOST) == ["Requeued 1.1: connection lost: reset", "Want 1"]
    run.lost("n1")
    run.jobs(patient(4, "gpu"))
    run.exhausted()
    run.connected("n1")
    assert run.ended(2, OK) == ["Done 2.1", "Start 1.2 n2/1"]
    run.ended(1, LOST)
    assert run.lost("n2") == []
    assert run.ended(4, BAD)[1:] == ["Evicted n1: exit 1", "Close n1", "Paroled n1", "Dial n1"]
    assert run.connected("n1") == ["Start 4.2 n1/1"]
    assert run.ended(3, OK) == ["Done 3.1", "Start 1.3 n3/1"]


# --- rule 8 ------------------------------------------------------------------------------------------------


def test_max_failed_drains_once_so_many_jobs_have_failed() -> None:
    run = running("n1 n2 n3", *(job(number, budget=0) for number in (1, 2, 3)), stream=BUDGETED, max_failed=2)
    assert run.ended(1, BAD) == ["Failed 1.1: exit 1", "Want 1"]
    assert run.ended(2, BAD) == ["Failed 2.1: exit 1"]
    assert run.jobs(job(4, budget=0)) == []
    assert run.ended(3, OK) == ["Done 3.1", "Finished DRAINED: 2 jobs failed (--max-failed)"]
    assert [left.id for left in run.scheduler.unfinished()] == [4]


def test_max_failed_counts_no_job_that_is_requeued() -> None:
    run = running("n1", job(1, budget=1), stream=BUDGETED, max_failed=1)
    run.ended(1, BAD)
    connect_all(run)
    assert run.ended(1, BAD) == [
        "Failed 1.2: exit 1",
        "Pardoned n1",
        "Finished DRAINED: 1 job failed (--max-failed)",
    ]


def test_max_failed_adds_nothing_to_a_drain_that_was_told() -> None:
    run = running("n1 n2", job(1, budget=0), 2, max_failed=1)
    run.drain("disk full")
    run.ended(1, BAD)
    assert run.ended(2, OK) == ["Done 2.1", "Finished DRAINED: disk full"]


# --- classes -----------------------------------------------------------------------------------------------

GPU = Need("gpu", False)


def gpu(number: int) -> Job:
    return job(number, job_class="gpu")


def test_a_job_of_a_class_runs_on_its_nodes_only() -> None:
    run = recorder("n1 n2=gpu n3=big,gpu", stream=GPU)
    assert run.jobs(gpu(1), gpu(2)) == ["Dial n2", "Dial n3"]
    assert run.connected("n3") == ["Start 1.1 n3/1"]


def test_a_stream_of_a_class_wants_jobs_for_the_slots_of_its_nodes_only() -> None:
    run = Recorder(Limits(stream=GPU))
    assert run.nodes("n1 n2=gpu n2/2=gpu n3=big") == ["Want 2"]


def test_a_job_without_a_class_runs_anywhere() -> None:
    run = recorder("n1=gpu n2")
    assert run.jobs(1, 2) == ["Dial n1", "Dial n2"]


def test_an_idle_slot_of_another_class_is_no_reason_to_wait() -> None:
    run = running("n1 n2=gpu", 1)
    run.ended(1, OK)
    assert run.jobs(gpu(2)) == ["Dial n2", "Want 2"]
    assert run.connected("n2") == ["Start 2.1 n2/1"]
    assert run.jobs(3) == ["Start 3.1 n1/1"]


def test_an_idle_slot_gives_way_to_a_job_of_another_class() -> None:
    run = recorder("n1 n2=gpu", max_nodes=1)
    run.jobs(1)
    run.connected("n1")
    run.ended(1, OK)
    assert run.jobs(gpu(2)) == ["Dial n2", "Want 1"]
    assert run.connected("n2") == ["Start 2.1 n2/1"]


def test_a_job_of_a_class_moves_within_its_class() -> None:
    run = running("n1=gpu n2 n3=gpu", gpu(1), stream=GPU)
    run.exhausted()
    assert run.ended(1, BAD) == ["Requeued 1.1: exit 1", "Evicted n1: exit 1", "Close n1", "Dial n3"]


def test_a_lost_job_may_return_to_the_only_node_of_its_class() -> None:
    run = running("n1=gpu n2", gpu(1), stream=GPU)
    run.exhausted()
    run.ended(1, LOST)
    assert run.lost("n1") == ["Dial n1"]
    assert run.connected("n1") == ["Start 1.2 n1/1"]


def test_jobs_of_a_class_that_has_no_node_left_fail_at_once() -> None:
    run = running("n1=gpu n2", gpu(1), 2)
    run.exhausted()
    assert run.ended(1, BAD) == [
        "Requeued 1.1: exit 1",
        "Evicted n1: exit 1",
        "Close n1",
        "Failed 1.1: no node of class gpu is left",
    ]
    assert run.ended(2, OK) == ["Done 2.1", "Finished SETTLED"]


def test_jobs_of_a_class_that_never_had_a_node_fail_as_they_come_and_in_order() -> None:
    run = recorder("n1 n2 n3")
    assert run.jobs(gpu(1), 2, gpu(3)) == [
        "Failed 1: no node of class gpu is left",
        "Failed 3: no node of class gpu is left",
        "Dial n1",
        "Want 2",
    ]


def test_jobs_of_a_class_that_is_gone_count_for_max_failed() -> None:
    run = recorder("n1 n2", max_failed=2)
    assert run.jobs(gpu(1), gpu(2))[2:] == ["Finished DRAINED: 2 jobs failed (--max-failed)"]


def test_no_node_is_paroled_once_jobs_of_a_lost_class_have_drained_the_run() -> None:
    run = running("n1 n2=gpu", patient(1), stream=BUDGETED, max_failed=1)
    run.jobs(gpu(2))
    run.exhausted()
    connect_all(run)
    assert run.running[2].slot.node == node("n2")
    assert run.ended(2, NotStarted("reset")) == ["Requeued 2.1: not started: reset"]
    assert run.ended(1, BAD)[1:] == ["Evicted n1: exit 1", "Close n1"]
    assert run.unreachable("n2") == [
        "Evicted n2: refused",
        "Failed 2: no node of class gpu is left",
        "Finished DRAINED: 1 job failed (--max-failed)",
    ]


def test_a_job_of_a_class_waits_while_its_node_may_be_pardoned() -> None:
    run = running("n1=gpu n2", job(1, budget=1), 2)
    run.jobs(gpu(3))
    run.exhausted()
    assert run.ended(1, BAD) == ["Requeued 1.1: exit 1", "Evicted n1: exit 1", "Close n1"]
    assert run.ended(2, OK) == ["Done 2.1", "Start 1.2 n2/1"]
    assert run.ended(1, BAD) == ["Failed 1.2: exit 1", "Pardoned n1", "Dial n1"]
    assert run.connected("n1") == ["Start 3.1 n1/1"]


def test_a_job_of_a_class_fails_when_its_node_will_not_be_pardoned() -> None:
    run = running("n1=gpu n2", job(1, budget=1), 2)
    run.jobs(gpu(3))
    run.exhausted()
    run.ended(1, BAD)
    run.ended(2, OK)
    assert run.ended(1, OK) == ["Done 1.2", "Failed 3: no node of class gpu is left", "Finished SETTLED"]


def test_a_job_of_a_class_waits_while_its_node_is_on_parole() -> None:
    run = running("n1=gpu n1/2=gpu", patient(1, "gpu"), gpu(2), stream=GPU)
    run.exhausted()
    assert run.ended(1, BAD)[1:] == ["Evicted n1: exit 1", "Paroled n1", "Start 1.2 n1/1"]
    assert run.ended(2, LOST) == ["Requeued 2.1: connection lost: reset"]
    run.ended(1, LOST)
    run.lost("n1")
    assert run.connected("n1") == ["Start 1.3 n1/1"]
    assert run.ended(1, OK) == ["Done 1.3", "Start 2.2 n1/1"]


def test_a_class_with_a_budget_paroles_its_node_beside_live_nodes_of_others() -> None:
    run = running("n1=gpu n2", patient(1, "gpu"))
    run.exhausted()
    assert run.ended(1, BAD)[1:] == ["Evicted n1: exit 1", "Close n1", "Paroled n1", "Dial n1"]


def test_an_endless_stream_of_a_class_that_is_gone_is_read_no_further() -> None:
    run = running("n1=gpu n2", gpu(1), stream=GPU)
    assert run.ended(1, BAD) == [
        "Requeued 1.1: exit 1",
        "Evicted n1: exit 1",
        "Close n1",
        "Failed 1.1: no node of class gpu is left",
        "Finished NO_NODES: none of class gpu",
    ]


def test_a_stream_of_a_class_of_no_node_is_not_read_at_all() -> None:
    run = Recorder(Limits(stream=GPU))
    assert run.nodes("n1 n2") == ["Finished NO_NODES: none of class gpu"]


# --- the list of nodes is followed -------------------------------------------------------------------------


def test_a_run_that_follows_its_list_waits_for_a_node() -> None:
    run = running("n1", 1, follow=True)
    run.exhausted()
    assert run.ended(1, BAD) == ["Requeued 1.1: exit 1", "Evicted n1: exit 1", "Close n1"]
    assert run.scheduler.owed() == []
    assert run.nodes("n2") == ["Dial n2"]
    assert run.connected("n2") == ["Start 1.2 n2/1"]
    assert run.ended(1, OK) == ["Done 1.2", "Finished SETTLED"]


def test_a_run_that_follows_its_list_begins_without_a_node() -> None:
    run = Recorder(Limits(follow=True))
    assert run.nodes() == []
    assert run.nodes("n1") == ["Want 1"]


def test_a_job_of_a_class_waits_for_its_node_to_join() -> None:
    run = recorder("n1", follow=True)
    assert run.jobs(gpu(1)) == ["Want 1"]
    assert run.exhausted() == []
    assert run.nodes("n2=gpu") == ["Dial n2"]
    assert run.connected("n2") == ["Start 1.1 n2/1"]


def test_a_stream_of_a_class_waits_for_its_node_to_join() -> None:
    run = Recorder(Limits(stream=GPU, follow=True))
    assert run.nodes("n1") == []
    assert run.nodes("n2=gpu") == ["Want 1"]


def test_a_run_that_follows_its_list_paroles_rather_than_waits() -> None:
    run = running("n1", patient(1), follow=True)
    run.exhausted()
    assert "Paroled n1" in run.ended(1, BAD)


def test_a_run_that_waits_for_a_node_can_be_drained() -> None:
    run = running("n1", 1, follow=True)
    run.exhausted()
    run.ended(1, BAD)
    assert run.drain() == ["Finished DRAINED: told to"]


# --- slots that the node itself names ----------------------------------------------------------------------


def test_a_node_may_have_more_slots_than_were_listed() -> None:
    run = recorder("n1")
    assert run.jobs(1) == ["Dial n1"]
    assert run.connected("n1", more=3) == ["Start 1.1 n1/1", "Want 3"]
    assert run.jobs(2, 3, 4) == ["Start 2.1 n1/2", "Start 3.1 n1/3", "Start 4.1 n1/4"]
