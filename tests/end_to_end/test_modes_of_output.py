"""--tag, --group, --keep-order, --fold and --color, in whole runs."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster.sshd import Cluster
from end_to_end.clstr_process import CLSTR, Process, Result

Run = Callable[..., Result]
Start = Callable[..., Process]


def jobs(*commands: str) -> list[str]:
    """As flags."""
    return [word for command in commands for word in ("-j", command)]


def test_tagged_lines_begin_with_the_node_that_printed_them(clstr: Run, nodes: Cluster) -> None:
    work = "echo $CLSTR_NODE; echo; printf $CLSTR_NODE; echo oops $CLSTR_NODE >&2"
    result = clstr("--tag", "-n", "n[1-4]", "-E", work, cluster=nodes)
    names = [f"n{number}" for number in range(1, 5)]
    assert result.status == 0
    assert result.lines == sorted(f"{name}: {text}" for name in names for text in ("", name, name))
    assert sorted(result.stderr.splitlines()) == [f"{name}: oops {name}" for name in names]


def test_grouped_jobs_are_printed_whole_and_attempts_that_failed_are_not(clstr: Run, nodes: Cluster) -> None:
    work = "echo begin $CLSTR_JOB; [ $CLSTR_ATTEMPT = 2 ] || exit 1; sleep 0.1; echo end $CLSTR_JOB; echo err >&2"
    result = clstr("--group", "-n", "n[1-4] slots=4", "--retries", 1, *["-j", work] * 8, cluster=nodes)
    assert result.status == 0
    lines = result.stdout.decode().splitlines()
    assert sorted(lines[::2]) == [f"begin {number}" for number in range(1, 9)]
    assert [line.replace("begin", "end") for line in lines[::2]] == lines[1::2]
    assert result.stderr.count("err\n") == 8


def test_a_job_that_has_failed_for_good_shows_its_last_attempt(clstr: Run, nodes: Cluster) -> None:
    work = "echo attempt $CLSTR_ATTEMPT; exit 1"
    result = clstr("--group", "-n", "n[1-4]", "--retries", 2, "-j", work, cluster=nodes)
    assert (result.status, result.stdout) == (1, b"attempt 3\n")


def test_in_order_jobs_are_printed_as_listed_however_long_they_take(clstr: Run, nodes: Cluster) -> None:
    dice = random.Random(5)
    commands = [f"echo {n}a; sleep {dice.random() / 5:.3f}; echo {n}b" for n in range(1, 31)]
    commands[9] = "exit 1"  # prints nothing, and fails
    result = clstr("-k", "--tag", "-n", "n[1-4] slots=2", "--retries", 0, *jobs(*commands), cluster=nodes)
    assert result.status == 1
    numbers = [n for n in range(1, 31) if n != 10]
    assert [line.split(": ")[1] for line in result.stdout.decode().splitlines()] == [
        f"{n}{part}" for n in numbers for part in "ab"
    ]


def test_in_order_a_stopped_run_prints_what_was_done(start: Start, tmp_path: Path) -> None:
    first = f"echo never; touch {tmp_path}/up; sleep 603"
    third = f"echo 3; until [ -e {tmp_path}/up ]; do sleep 0.1; done"
    run = start("-k", "-v", "-n", ": slots=3", *jobs(first, "echo 2", third))
    run.says("job 2 ended: exit 0")
    run.says("job 3 ended: exit 0")
    assert run.printed() == b""
    run.send(signal.SIGINT)
    result = run.result()
    assert (result.status, result.stdout) == (130, b"2\n3\n")


def test_alike_outputs_of_nodes_are_folded(clstr: Run, nodes: Cluster) -> None:
    work = "[ $CLSTR_NODE = n3 ] && echo other || { echo same; printf end; }; echo warning >&2"
    result = clstr("--fold", "-n", "n[1-4]", "-E", work, cluster=nodes)
    rule = "-" * 15
    assert result.status == 0
    assert result.stdout.decode() == f"{rule}\nn[1-2,4] (3)\n{rule}\nsame\nend\n{rule}\nn3\n{rule}\nother\n"
    assert result.stderr == f"{rule}\nn[1-4] (4)\n{rule}\nwarning\n"


def test_modes_work_on_files_too(clstr: Run, tmp_path: Path) -> None:
    work = "echo a; echo b >&2"
    assert clstr("--tag", "-k", "-n", ":", "-o", "both", "-e", "both", *jobs(work, work)).stdout == b""
    assert (tmp_path / "both").read_text() == "this machine: a\nthis machine: b\n" * 2
    assert clstr("--fold", "-n", ":", "-o", "folded", "-e", "-E", work).stdout == b""
    assert (tmp_path / "folded").read_text().splitlines()[1:] == ["this machine", "-" * 15, "a"]


def test_a_full_disk_under_group_is_told_and_ends_the_run(shell: Start) -> None:
    big = "head -c 20000000 /dev/zero"
    line = f"ulimit -f 4096; {' '.join(CLSTR)} --group -n : -j '{big}' -j 'echo never' | wc -c; echo ${{PIPESTATUS[0]}}"
    result = shell(line).result()
    printed, status = map(int, result.stdout.split())
    assert 1 << 20 <= printed < 20_000_000
    assert status == 1
    first, second, *rest = result.stderr.splitlines()
    assert first.startswith("clstr: temporary file in /")
    assert second == f"clstr: --job: {big}: stdout cut after {printed} bytes, the rest is lost"
    assert rest[0].startswith("clstr: 1 of 2 jobs not done: ")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--fold", "-j", "true"), "--fold needs --on-each-node"),
        (("--fold", "--tag", "-E", "true"), "--fold does not go with --tag (drop one of them)"),
        (("--fold", "--group", "-E", "true"), "--fold does not go with --group (drop one of them)"),
        (("--fold", "-k", "-E", "true"), "--fold does not go with --keep-order (drop one of them)"),
    ],
)
def test_what_makes_no_sense_together_is_refused(clstr: Run, flags: tuple[str, ...], words: str) -> None:
    result = clstr("-n", ":", *flags)
    assert result.status == 2
    assert result.stderr.startswith(f"clstr: {words}")


def test_clstr_colours_its_own_words_only_when_asked(clstr: Run) -> None:
    failing = ("-n", ":", "--retries", 0, "-j", "printf '\\033[1mbold\\033[m\\n'; exit 3")
    plain = clstr(*failing)
    assert "\x1b" not in plain.stderr
    always = clstr("--color", "always", *failing, env={"NO_COLOR": "1"})
    assert always.stdout == plain.stdout == b"\x1b[1mbold\x1b[m\n"
    first, job = always.stderr.splitlines()
    assert first == "\x1b[31mclstr: 1 of 1 jobs failed\x1b[m"
    assert "\\033" in job
    assert job.startswith("\x1b[31m")
    assert clstr("--color", "always", "-n", ":").stderr.startswith("\x1b[31mclstr: no jobs")


def test_control_sequences_in_jobs_are_shown_escaped_wherever_clstr_prints_them(start: Start, tmp_path: Path) -> None:
    (tmp_path / "jobs").write_bytes(b"echo up; sleep 604 # \x1b[2J\xff\n")
    run = start("-v", "-n", ":", "-J", "jobs")
    run.prints(b"up\n")
    run.send(signal.SIGUSR1)
    run.says("running for")
    run.send(signal.SIGINT)
    said = run.result().stderr
    assert said.count("# \\x1b[2J\\xff") == 3  # begun, running, not done
    assert "\x1b" not in said


def test_a_submit_file_names_files_for_the_streams_of_a_job(clstr: Run, tmp_path: Path) -> None:
    (tmp_path / "work.sub").write_text(
        "executable = /bin/sh\n"
        'arguments = "-c \'echo out $CLSTR_ATTEMPT; echo err >&2; [ $CLSTR_ATTEMPT = 2 ]\'"\n'
        "max_retries = 1\n"
        "output = $(Process).out\nqueue 2\n"
        "output = missing/out\nqueue\n"
    )
    result = clstr("--tag", "-k", "-n", ":", "-S", "work.sub")
    assert (result.status, result.stdout) == (1, b"")
    assert [(tmp_path / f"{n}.out").read_bytes() for n in (0, 1)] == [b"out 2\n"] * 2
    said = result.stderr.splitlines()
    assert said.count("this machine: err") == 2
    assert any("missing/out: No such file or directory" in line for line in said)
