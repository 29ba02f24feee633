"""The bugs and limits of the programs that clstr takes after, and the tests that show that it has none of them.

The programs: the first ``clstr`` (one file of Python over ``ssh`` processes), expjobserver, experimaestro (in C++, and
before that in Java: XJ), and JRS. Each line of the table is a fault found in their source, or seen when they ran.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

CLSTR, EXPJOBSERVER, EXPERIMAESTRO, JRS = "the first clstr", "expjobserver", "experimaestro", "JRS"

BUGS: dict[int, tuple[str, str, list[str]]] = {
    1: (CLSTR, "-m and -u take lists and not numbers", [
        "end_to_end/test_which_nodes_and_how_many.py::test_at_most_so_many_slots_are_in_use",
        "end_to_end/test_which_nodes_and_how_many.py::test_a_slot_is_retired_after_its_share",
        "end_to_end/test_bad_input.py::test_bad_input_is_one_line_before_any_connection",
    ]),
    2: (CLSTR, "does not run without /dev/tty", [
        "end_to_end/test_signals.py::test_it_runs_without_a_terminal_in_a_session_of_its_own",
    ]),
    3: (CLSTR, "blank lines, comments and newlines of a job file are jobs; an empty one opens a shell", [
        "end_to_end/test_streams_of_jobs.py::test_job_files_skip_blanks_and_comments_and_keep_their_order",
        "end_to_end/test_streams_of_jobs.py::test_entries_that_end_with_nul_may_hold_newlines",
        "inputs/test_job_streams.py::test_an_empty_text_or_one_too_long_is_refused",
        "transport/test_leash.py::test_no_job_no_run",
    ]),
    4: (CLSTR, "looks at the wrong variable to see that there are no jobs", [
        "end_to_end/test_bad_input.py::test_bad_input_is_one_line_before_any_connection",
        "end_to_end/test_streams_of_jobs.py::test_an_empty_job_file_is_no_error",
    ]),
    5: (CLSTR, "says nothing of what failed, nor, with -E, where", [
        "end_to_end/test_failing_nodes_and_jobs.py::test_a_job_that_always_fails_evicts_every_node_and_is_named",
        "end_to_end/test_failing_nodes_and_jobs.py::test_on_each_node_one_bad_node_fails_its_own_job_only",
        "end_to_end/test_failing_nodes_and_jobs.py::test_nodes_that_cannot_be_reached_are_evicted_and_named_with_their_reasons",
    ]),
    6: (CLSTR, "one job that always fails takes every node, unexplained, and nothing can be done", [
        "end_to_end/test_who_is_to_blame.py::test_a_job_that_always_fails_is_named_with_its_nodes_and_evicts_none",
        "end_to_end/test_who_is_to_blame.py::test_without_budgets_the_end_names_the_job_and_the_cure",
    ]),
    7: (CLSTR, "jobs read the standard input of the program", [
        "end_to_end/test_streams_of_jobs.py::test_a_loop_over_lines_loses_none_to_the_clstr_within",
        "transport/test_contract.py::test_standard_input_is_empty",
    ]),
    8: (CLSTR, "the first node of the list comes first always", [
        "end_to_end/test_which_nodes_and_how_many.py::test_the_same_seed_takes_nodes_in_the_same_order",
    ]),
    9: (CLSTR, "one connection that hangs hangs the program", [
        "faults/test_fault_servers.py::test_an_sshd_that_is_stopped_under_a_job_costs_its_own_job_only",
        "faults/test_fault_servers.py::test_a_key_exchange_that_stalls_costs_the_connect_timeout",
        "runner/test_orders.py::test_a_node_deaf_to_a_kill_is_left_after_the_grace",
    ]),
    10: (CLSTR, "the file of active nodes is rewritten in place, and read by halves", [
        "records/test_active_nodes.py::test_a_reader_always_sees_one_moment_whole",
    ]),
    11: (CLSTR, "tracebacks for files that cannot be read", [
        "end_to_end/test_bad_input.py::test_bad_input_is_one_line_before_any_connection",
        "end_to_end/test_bad_input.py::test_a_file_that_may_not_be_read_is_refused",
    ]),
    12: (CLSTR, "ssh asks for passwords and host keys", [
        "end_to_end/test_which_nodes_and_how_many.py::test_an_unknown_host_key_is_refused_unless_the_policy_takes_it",
        "transport/test_external.py::test_the_client_has_a_session_of_its_own_and_never_asks",
    ]),
    13: (CLSTR, "a dead host costs a job for each of its slots", [
        "scheduler/test_transcripts.py::test_the_jobs_of_a_lost_node_move_and_it_is_dialed_once_more",
        "end_to_end/test_failing_nodes_and_jobs.py::test_an_sshd_killed_under_a_job_costs_the_node_and_not_the_job",
    ]),
    14: (CLSTR, "no time limits and no keepalive: a node that is mute is waited for", [
        "end_to_end/test_failing_nodes_and_jobs.py::test_a_job_over_its_limit_is_terminated_and_tried_elsewhere",
        "faults/test_fault_servers.py::test_a_partition_under_a_job_loses_it_and_evicts_when_dialing_again_fails",
        "runner/test_orders.py::test_silence_counts_from_the_last_output_and_not_while_we_hold_it_back",
    ]),
    15: (CLSTR, "^C leaves the jobs running on their nodes", [
        "end_to_end/test_signals.py::test_the_first_signal_terminates_the_jobs_on_their_nodes",
        "faults/test_no_orphans.py::test_no_process_of_a_running_job_is_left",
    ]),
    16: (CLSTR, "a host that begins with '-' is an option of ssh's", [
        "inputs/test_nodes.py::test_what_is_no_node_is_refused_in_one_line",
        "end_to_end/test_bad_input.py::test_bad_input_is_one_line_before_any_connection",
    ]),
    17: (CLSTR, "retired nodes count as failed, and jobs are left without a reason", [
        "output/test_messages.py::test_retired_nodes_did_not_fail",
        "end_to_end/test_which_nodes_and_how_many.py::test_a_slot_is_retired_after_its_share",
    ]),
    18: (EXPJOBSERVER, "commands are split at blanks; nothing can be quoted", [
        "transport/test_contract.py::test_quotes_newlines_and_dollars_reach_the_shell_as_they_are",
        "transport/test_leash.py::test_a_job_is_to_its_login_shell_what_plain_ssh_makes_of_it",
    ]),
    19: (EXPJOBSERVER, "the order of a matrix and of variables is that of a hash table", [
        "end_to_end/test_workloads.py::test_the_example_of_the_seeds_runs_its_36_jobs_in_nested_loop_order",
        "inputs/test_templates.py::test_the_example_of_the_seeds_is_36_jobs_in_nested_loop_order",
        "inputs/test_templates.py::test_the_order_of_keys_is_that_of_the_flags_and_not_of_the_command",
        "inputs/test_templates.py::test_there_is_one_pass",
    ]),
    20: (EXPJOBSERVER, "a global variable wins over a key of the matrix", [
        "inputs/test_templates.py::test_a_matrix_key_wins_over_a_variable",
    ]),
    21: (EXPJOBSERVER, "secrets stand in file names and tables", [
        "end_to_end/test_workloads.py::test_values_of_variables_are_shown_nowhere",
        "inputs/test_templates.py::test_no_value_of_a_variable_is_in_the_words_of_a_job_or_of_templates",
    ]),
    22: (EXPJOBSERVER, "--max_failures N allows one failure more", [
        "end_to_end/test_who_is_to_blame.py::test_one_node_and_a_job_that_works_the_fourth_time",
        "scheduler/test_blame_rules.py::test_on_one_node_a_job_that_never_works_has_failed_and_the_node_works_on",
        "scheduler/test_blame_rules.py::test_max_failed_drains_once_so_many_jobs_have_failed",
    ]),
    23: (EXPJOBSERVER, "a time limit ends the local side only, up to 30 s late", [
        "end_to_end/test_failing_nodes_and_jobs.py::test_a_job_over_its_limit_is_terminated_and_tried_elsewhere",
        "transport/test_contract.py::test_kill_ends_the_whole_process_group",
        "runner/test_orders.py::test_a_job_over_its_time_is_killed_and_goes_elsewhere",
    ]),
    24: (EXPJOBSERVER, "results: the first line only, no directories, no port, names for a shell, collisions", [
        "end_to_end/test_results_come_home.py::test_all_that_a_job_names_is_copied_whatever_it_is_called_and_to_its_own_place",
    ]),
    25: (EXPJOBSERVER, "names of logs are cut, in mid-character, and collide", [
        "records/test_names.py::test_every_name_is_one_files_name",
        "records/test_names.py::test_identical_lines_are_numbered_in_the_order_of_reading",
        "records/test_names.py::test_lines_that_differ_where_the_slug_does_not_show_have_different_names",
    ]),
    26: (EXPJOBSERVER, "jobs of a class without machines wait for ever", [
        "end_to_end/test_who_is_to_blame.py::test_jobs_whose_class_is_lost_fail_and_an_endless_stream_of_them_is_read_no_further",
        "scheduler/test_blame_rules.py::test_jobs_of_a_class_that_never_had_a_node_fail_as_they_come_and_in_order",
    ]),
    27: (EXPJOBSERVER, "after a restart, what ran is in a state of its own, Unknown", [
        "end_to_end/test_restart.py::test_what_ran_when_the_run_was_killed_runs_again_and_what_was_done_does_not",
        "end_to_end/test_records.py::test_a_run_that_is_stopped_goes_on_where_it_was",
        "records/test_joblog.py::test_only_what_ended_well_is_recorded_as_done",
    ]),
    28: (EXPJOBSERVER, "listens on a TCP port, for anybody", [
        "end_to_end/test_no_daemon.py::test_a_run_takes_no_address",
    ]),
    29: (EXPERIMAESTRO, "an extension takes the place of what stands behind the first dot: exp.1 and exp.2 collide", [
        "records/test_names.py::test_what_a_submit_file_calls_a_job_is_its_name",
        "end_to_end/test_records.py::test_names_with_dots_have_files_of_their_own",
    ]),
    30: (EXPERIMAESTRO, "what comes after the dependents of a failed job waits for ever", [
        "end_to_end/test_workloads.py::test_a_diamond_whose_middle_fails_holds_its_end",
        "scheduler/test_workload_rules.py::test_all_that_comes_after_a_failed_job_is_held_in_input_order",
        "scheduler/test_workload_rules.py::test_what_nested_barriers_keep_is_held_too",
    ]),
    31: (EXPERIMAESTRO, "after the first ^C waiting jobs keep the program alive", [
        "end_to_end/test_signals.py::test_jobs_that_wait_for_others_do_not_keep_a_stopped_run_alive",
        "scheduler/test_workload_rules.py::test_a_drain_leaves_what_waits_at_barriers_undone",
    ]),
    32: (EXPERIMAESTRO, "a lock that is not had in time makes the job finished", [
        "runner/test_gates_and_doors.py::test_what_the_door_bars_does_not_reach_the_node_and_blames_nobody",
        "records/test_run_dir.py::test_a_job_that_another_run_holds_is_refused_and_left_alone",
        "scheduler/test_workload_rules.py::test_a_refused_job_fails_whatever_its_budget_and_blames_nobody",
    ]),
    33: (EXPERIMAESTRO, "the state and times of a job that never ran are what was in memory", [
        "records/test_joblog.py::test_a_job_that_did_not_run_here_has_no_line",
        "records/test_table.py::test_every_job_has_its_row_in_the_order_of_ids",
    ]),
    34: (EXPERIMAESTRO, "a variable that is not defined is nothing, silently", [
        "inputs/test_condor.py::test_a_macro_that_means_nothing_is_refused_with_the_line_that_names_it",
        "inputs/test_templates.py::test_only_defined_names_are_replaced_and_never_behind_a_dollar",
    ]),
    35: (EXPERIMAESTRO, "XJ: one unit of a token comes back, however many were taken", [
        "end_to_end/test_workloads.py::test_two_tokens_are_never_exceeded",
        "scheduler/test_workload_rules.py::test_a_large_claim_waits_for_its_units",
        "scheduler/test_workload_rules.py::test_a_requeued_job_gives_its_tokens_back",
    ]),
    36: (EXPERIMAESTRO, "XJ: a script without its lock leaves a subshell only, and runs the job", [
        "end_to_end/test_records.py::test_a_job_that_another_run_has_is_refused_by_name",
        "end_to_end/test_records.py::test_two_runs_over_one_directory_do_each_job_once",
    ]),
    37: (EXPERIMAESTRO, "a lock that was left blocks for ever", [
        "records/test_run_dir.py::test_a_stale_lock_is_replaced_with_a_warning",
        "records/test_run_dir.py::test_of_many_runs_that_want_a_stale_lock_one_gets_it",
    ]),
    38: (EXPERIMAESTRO, "every ready job is started, however many there are", [
        "end_to_end/test_which_nodes_and_how_many.py::test_a_node_listed_twice_or_with_two_slots_runs_two_jobs_at_once",
        "end_to_end/test_which_nodes_and_how_many.py::test_at_most_so_many_slots_are_in_use",
    ]),
    39: (JRS, "the parser: keys by prefix, values cut at '=', counts, macros and empty values not understood", [
        "end_to_end/test_workloads.py::test_a_file_in_the_form_of_jrs_runs",
        "inputs/test_submit_files.py::test_a_file_in_the_form_of_jrs_is_its_jobs",
        "inputs/test_submit_files.py::test_an_empty_value_takes_back_what_was_said",
        "inputs/test_submit_files.py::test_arguments_reach_the_program_as_they_are",
        "inputs/test_condor.py::test_keys_have_what_they_have_for_htcondor",
        "inputs/test_condor.py::test_each_item_is_queued_so_many_times",
        "inputs/test_condor.py::test_what_cannot_be_read_is_refused_with_its_line",
    ]),
    40: (JRS, "the queue runs backwards", [
        "end_to_end/test_streams_of_jobs.py::test_job_files_skip_blanks_and_comments_and_keep_their_order",
        "scheduler/test_workload_rules.py::test_the_higher_priority_goes_first_and_ties_in_input_order",
    ]),
    41: (JRS, "the exit status counts for nothing, that of a directory that cannot be entered included", [
        "end_to_end/test_failing_nodes_and_jobs.py::test_a_job_that_exits_nonzero_goes_to_another_node",
        "transport/test_contract.py::test_a_missing_directory_ends_the_job_with_1_and_runs_nothing",
    ]),
    42: (JRS, "a node that disconnects under its jobs aborts the program", [
        "end_to_end/test_failing_nodes_and_jobs.py::test_an_sshd_killed_under_a_job_costs_the_node_and_not_the_job",
        "faults/test_fault_servers.py::test_a_connection_that_is_reset_loses_its_job_and_not_its_node",
    ]),
    43: (JRS, "ends while jobs are on their way to a node", [
        "end_to_end/test_failing_nodes_and_jobs.py::test_four_hundred_jobs_on_twenty_slots_run_once_each",
        "runner/test_orders.py::test_jobs_that_come_in_the_turn_in_which_the_run_ends_are_kept",
        "scheduler/test_transcripts.py::test_a_job_that_never_began_returns_to_its_place",
    ]),
    44: (JRS, "-m falls through into -x", [
        "cli/test_flags.py::test_a_flag_sets_its_own_value_and_no_other",
    ]),
    45: (JRS, "a blank line of the node list is a node", [
        "inputs/test_nodes.py::test_a_file_has_one_node_a_line_and_comments",
    ]),
}  # fmt: skip
"""By number: whose it is, what it is, and the tests that show its absence."""


def test_there_are_45_and_each_has_its_tests() -> None:
    assert list(BUGS) == list(range(1, 46))
    assert [number for number, (_, _, tests) in BUGS.items() if not tests] == []
    assert len({test for _, _, tests in BUGS.values() for test in tests}) >= 45


@pytest.mark.parametrize("number", BUGS)
def test_the_tests_are_there(number: int) -> None:
    for test in BUGS[number][2]:
        file, _, name = test.partition("::")
        tree = ast.parse((TESTS / file).read_bytes())
        defined = [part.name for part in tree.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
        assert defined.count(name) == 1, test
