"""Matrices, variables, submit files, dependencies and tokens, as whole runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cluster.sshd import Cluster
from end_to_end.clstr_process import Process, Result

Run = Callable[..., Result]
Start = Callable[..., Process]

HERE = ("-n", ": slots=8")
"""This machine, without SSH."""

MATRIX = (
    *("--matrix", "I=1,2,3,4"),
    *("--matrix", "J=linear,quadratic,exotic"),
    *("--matrix", "K=banana,rockingchair,airplane"),
)
"""The seeds' example."""

COMBINATIONS = [
    f"{i} {j} {k}"
    for i in ("1", "2", "3", "4")
    for j in ("linear", "quadratic", "exotic")
    for k in ("banana", "rockingchair", "airplane")
]


def test_the_example_of_the_seeds_runs_its_36_jobs_in_nested_loop_order(clstr: Run, nodes: Cluster) -> None:
    result = clstr("-n", "n1", *MATRIX, "-j", "echo {I} {J} {K}", cluster=nodes)
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.decode().splitlines() == COMBINATIONS


def test_a_job_file_is_expanded_as_it_is_read(clstr: Run, tmp_path: Path) -> None:
    (tmp_path / "jobs.txt").write_text("echo {A} ${A} \"{A}\"\n# no\necho plain\n")
    result = clstr("-n", ":", "-J", "jobs.txt", "--matrix", "A=x,y", "--times", 2)
    assert result.status == 0
    assert result.stdout.decode().splitlines() == ["x x", "x x", "y y", "y y", "plain", "plain"]


def test_a_matrix_key_that_no_job_names_is_told_of_at_the_end_of_a_stream(clstr: Run, tmp_path: Path) -> None:
    (tmp_path / "jobs.txt").write_text("echo one\n")
    result = clstr("-n", ":", "-J", "jobs.txt", "--matrix", "A=x,y")
    assert (result.status, result.stdout) == (2, b"one\n")
    assert "clstr: --matrix A: no job names {A} (" in result.stderr


def test_a_machine_is_named_as_it_is_listed(clstr: Run, nodes: Cluster) -> None:
    flags = ["-n", "n[1-2]", "-E", 'echo {MACHINE} $CLSTR_NODE {"MACHINE"}', "--setup", "echo setup {MACHINE}", "-v"]
    result = clstr(*flags, cluster=nodes)
    assert (result.status, result.lines) == (0, ["n1 n1 {MACHINE}", "n2 n2 {MACHINE}"])
    assert "clstr: n2: setup: setup n2" in result.stderr.splitlines()


def test_what_is_left_of_a_matrix_are_its_combinations(clstr: Run, tmp_path: Path) -> None:
    job = "[ {A} = y ] && echo {V}"
    flags = ["--matrix", "A=x,y,z", "--var", "V=value", "--retries", 0, "--unfinished", "rest.txt"]
    result = clstr("-n", ":", "-j", job, *flags)
    assert (result.status, result.stdout) == (1, b"value\n")
    assert (tmp_path / "rest.txt").read_text() == "[ x = y ] && echo {V}\n[ z = y ] && echo {V}\n"


def test_bytes_that_are_not_utf_8_reach_the_job(clstr: Run) -> None:
    result = clstr("-n", ":", "-j", b"printf %s {A}{V}", "--matrix", b"A=\xff", "--var", b"V=\xfe")
    assert (result.status, result.stdout) == (0, b"\xff\xfe")


SECRET = "hunter2verysecret"


@pytest.mark.parametrize("more", [[], ["--no-leash"]])
def test_values_of_variables_are_shown_nowhere(clstr: Run, nodes: Cluster, tmp_path: Path, more: list[str]) -> None:
    (tmp_path / "a.sub").write_text('executable = test\narguments = {KEY} = x\n+Name = "checked"\nqueue\n')
    job = "[ {KEY} = $(printf %s hunter2; echo verysecret) ] && exit 3"
    files = ["--unfinished", "u", "-A", "a", "--joblog", "j", "-d", "d", "--csv", "c", "--events", "e", "--trace", "t"]
    flags = ["--retries", 1, "-s", "-vv", "--setup", "test -n {KEY} && echo {KEY}", "--var", "KEY", *more, *files]
    result = clstr("-n", "n1", "n2", "-j", job, "-S", "a.sub", *flags, cluster=nodes, env={"KEY": SECRET})
    assert result.status == 1
    assert "job 1 failed: exit 3" in result.stderr  # so the value was there
    assert "{KEY}" in result.stderr
    assert SECRET not in result.stderr
    assert SECRET not in result.stdout.decode()
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"u", "j", "c", "e", "t"} <= {file.name for file in written}
    assert [file.name for file in written if SECRET.encode() in file.read_bytes() or SECRET in file.name] == []


# --- submit files ------------------------------------------------------------------------------------------


def test_a_file_in_the_form_of_jrs_runs(clstr: Run, nodes: Cluster, tmp_path: Path) -> None:
    (tmp_path / "test.condor").write_text(
        "Universe = vanilla\nExecutable = /bin/echo\nInitialDir = /\nLog = log\n"
        "Arguments = run 1 --opt=5\nQueue\nArguments = run $(Process)\nQueue 2\n"
    )
    result = clstr("-n", "n1", "-S", "test.condor", cluster=nodes)
    assert (result.status, result.lines) == (0, ["run 1", "run 1 --opt=5", "run 2"])
    assert result.stderr == "clstr: submit files: keys that mean nothing here are ignored: log, universe\n"


def test_arguments_reach_the_program_on_the_node_unchanged(clstr: Run, nodes: Cluster, tmp_path: Path) -> None:
    (tmp_path / "a.sub").write_text(
        """executable = printf\narguments = "'<%s>' 'a  b' 'it''s' $HOME * '' ""q\""\"\nqueue\n"""
    )
    result = clstr("-n", "n1", "-S", "a.sub", cluster=nodes)
    assert (result.status, result.stdout) == (0, b"<a  b><it's><$HOME><*><><\"q\">")


DIAMOND = """
executable = sh
arguments = "-c 'echo $(me) >> {HERE}/order; $(how)'"
+Name = "$(me)"
me = top
how = true
queue
+After = "top"
me = left
queue
me = right
how = $(RIGHT)
queue
+After = "left, right"
me = end
how = true
queue
"""


def test_a_diamond_runs_in_order(clstr: Run, tmp_path: Path) -> None:
    (tmp_path / "a.sub").write_text(DIAMOND.replace("{HERE}", str(tmp_path)).replace("$(RIGHT)", "true"))
    assert clstr(*HERE, "-S", "a.sub").status == 0
    order = (tmp_path / "order").read_text().split()
    assert (order[0], sorted(order[1:3]), order[3]) == ("top", ["left", "right"], "end")


def test_a_diamond_whose_middle_fails_holds_its_end(clstr: Run, tmp_path: Path) -> None:
    (tmp_path / "a.sub").write_text(DIAMOND.replace("{HERE}", str(tmp_path)).replace("$(RIGHT)", "exit 3"))
    result = clstr(*HERE, "-S", "a.sub", "--retries", 0, "--unfinished", "rest.txt")
    assert result.status == 1
    assert sorted((tmp_path / "order").read_text().split()) == ["left", "right", "top"]
    assert "after right failed" in result.stderr
    rest = (tmp_path / "rest.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in rest] == ["# right", "# end"]


def test_held_jobs_are_not_run(clstr: Run, tmp_path: Path) -> None:
    (tmp_path / "a.sub").write_text("executable = echo\narguments = $(Process)\nqueue\nhold = True\nqueue\n")
    result = clstr("-n", ":", "-S", "a.sub")
    assert (result.status, result.stdout) == (1, b"0\n")


def test_a_run_whose_submitted_jobs_are_all_done_waits_for_no_node(clstr: Run, tmp_path: Path) -> None:
    (tmp_path / "a.sub").write_text('executable = true\n+Name = "a"\nqueue\n+Name = "b"\n+After = "a"\nqueue\n')
    assert clstr("-n", ":", "-S", "a.sub", "-d", "done").status == 0
    (tmp_path / "nodes.txt").write_text("# none yet\n")
    result = clstr("--follow", "-N", "nodes.txt", "-S", "a.sub", "-d", "done")
    assert (result.status, result.stderr) == (0, "")


def test_between_nuls_there_is_no_place_for_jobs_of_submit_files(clstr: Run, tmp_path: Path) -> None:
    (tmp_path / "a.sub").write_text('executable = false\n+Name = "a"\nqueue\n')
    (tmp_path / "jobs.nul").write_bytes(b"exit 1\0")
    result = clstr("-n", ":", "-0", "-J", "jobs.nul", "-S", "a.sub", "--retries", 0, "--unfinished", "rest.nul")
    assert (result.status, (tmp_path / "rest.nul").read_bytes()) == (1, b"exit 1\0")
    what = "1 of the jobs not done are from submit files and do not stand there (run these files again)"
    assert f"clstr: rest.nul: {what}" in result.stderr


def test_texts_come_before_submit_files_and_these_before_job_files(clstr: Run, tmp_path: Path) -> None:
    (tmp_path / "jobs.txt").write_text("echo $CLSTR_JOB file\n")
    (tmp_path / "a.sub").write_text("executable = sh\narguments = \"-c 'echo $CLSTR_JOB submit'\"\nqueue 2\n")
    result = clstr("-n", ":", "-J", "jobs.txt", "-S", "a.sub", "-j", "echo $CLSTR_JOB text", "-x", 2)
    assert result.status == 0
    lines = ["1 text", "2 text", "3 submit", "4 submit", "5 file", "6 file"]
    assert result.stdout.decode().splitlines() == lines


def test_only_what_is_chosen_is_run(clstr: Run, tmp_path: Path) -> None:
    (tmp_path / "a.sub").write_text(DIAMOND.replace("{HERE}", str(tmp_path)).replace("$(RIGHT)", "true"))
    assert clstr(*HERE, "-S", "a.sub", "--only", "left").status == 0
    assert (tmp_path / "order").read_text().split() == ["top", "left"]


def test_two_tokens_are_never_exceeded(clstr: Run, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    (tmp_path / "a.sub").write_text(
        f"executable = sh\narguments = \"-c 'echo + >> {journal}; echo - >> {journal}'\"\n"
        "concurrency_limits = license\nqueue 500\n"
    )
    result = clstr(*HERE, "-S", "a.sub", "--token", "license=2")
    assert (result.status, result.stderr) == (0, "")
    held = most = 0
    for mark in journal.read_text().split():
        held += 1 if mark == "+" else -1
        most = max(most, held)
    assert len(journal.read_text().split()) == 1000
    assert (held, most <= 2) == (0, True)


def test_a_submit_file_may_be_standard_input(start: Start, tmp_path: Path) -> None:
    (tmp_path / "a.sub").write_text("executable = echo\narguments = piped\nqueue\n")
    with (tmp_path / "a.sub").open("rb") as file:
        result = start("-n", ":", "-S", "-", stdin=file).result()
    assert (result.status, result.stdout) == (0, b"piped\n")
