"""What cannot be used: one line on stderr that says what to do, exit status 2, and nothing is connected."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from end_to_end.clstr_process import CLSTR, Process, Result

Run = Callable[..., Result]


@pytest.fixture
def guarded_port() -> Iterator[int]:
    """A port at which nobody may call."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


NODE = ["-n", "127.0.0.1:{port}"]
JOB = ["-j", "true"]

REFUSED = {
    # Nodes.
    "no nodes": (JOB, "no nodes (name them with -n NODE or -N FILE; ':' is this machine)"),
    "an empty node file": (["-N", "empty.txt", *JOB], "the node files name no node"),
    "all nodes excluded": ([*NODE, "--exclude", "127.0.0.1", *JOB], "no nodes are left after --exclude"),
    "a missing node file": ([*NODE, "-N", "missing.txt", *JOB], "missing.txt: No such file or directory"),
    "a directory as node file": ([*NODE, "-N", ".", *JOB], ".: Is a directory"),
    "a missing exclude file": ([*NODE, "--exclude-file", "missing.txt", *JOB], "missing.txt: No such file"),
    "an unknown key of a node": ([*NODE, "-n", "n1 color=red", *JOB], "--node: 'color=red' after 'n1': unknown key"),
    "a bad value of a node": ([*NODE, "-N", "bad_slots.txt", *JOB], "bad_slots.txt:2: 'slots=many' after 'n2': bad"),
    "an empty class": ([*NODE, "-n", "n1 class=", *JOB], "--node: empty class name in 'n1 class='"),
    "differing classes": ([*NODE, "-n", "n1 class=a", "n1 class=b", *JOB], "--node: the classes of n1 differ"),
    "a class of no node": ([*NODE, "--class", "gpu", *JOB], "no node is of class gpu"),
    "negative retries": ([*NODE, "--retries", "-1", *JOB], "argument --retries: '-1' is not a number"),
    "a unit without its number": ([*NODE, "--setup-timeout", "m", *JOB], "argument --setup-timeout: 'm' is not"),
    "output over the job file": ([*NODE, "-J", "jobs.txt", "-o", "jobs.txt"], "jobs.txt: --stdout would overwrite"),
    "output over the node file": (["-N", "bad_slots.txt", *JOB, "-e", "bad_slots.txt"], "bad_slots.txt:"),
    "one file for two things": ([*NODE, *JOB, "-o", "x", "-A", "x"], "x: --stdout and --active-nodes name one file"),
    "a push of nothing": ([*NODE, "--push", "no_such_file", *JOB], "--push no_such_file: no such file"),
    "a node set of no host": ([*NODE, "-n", "n[1-3]!n[1-3]", *JOB], "--node: 'n[1-3]!n[1-3]' yields no host"),
    "an unknown group": ([*NODE, "-n", "@nosuchgroup", *JOB], "--node: '@nosuchgroup'"),
    "a star in a node": ([*NODE, "-n", "n*", *JOB], "--node: '*' or '?' in 'n*'"),
    "a question mark in a node": ([*NODE, "-n", "n?", *JOB], "--node: '*' or '?' in 'n?'"),
    "a host that begins with a dash": ([*NODE, "-N", "dash.txt", *JOB], "dash.txt:1: host '-oProxyCommand"),
    "a bad port": ([*NODE, "-n", "n1:ssh", *JOB], "--node: bad port 'ssh' in 'n1:ssh'"),
    # Jobs.
    "no jobs": (NODE, "no jobs"),
    "two kinds of jobs": ([*NODE, "-E", "true", *JOB], "--on-each-node does not go with --job"),
    "a job file with -E": ([*NODE, "-E", "true", "-J", "jobs.txt"], "--on-each-node does not go with --job-file"),
    "uses with -E": ([*NODE, "-E", "true", "-u", "1"], "--on-each-node does not go with --max-node-uses"),
    "a missing job file": ([*NODE, "-J", "missing.txt"], "missing.txt: No such file or directory"),
    "a directory as job file": ([*NODE, "-J", "."], ".: is a directory"),
    "an empty job": ([*NODE, "-j", " "], "--job: empty command"),
    "stdin named twice": ([*NODE, "-N", "-", "-J", "-"], "standard input is named twice"),
    "stdin named twice as jobs": ([*NODE, "-J", "-", "-"], "standard input is named twice"),
    # Workloads.
    "a submit file with -E": ([*NODE, "-E", "true", "-S", "a.sub"], "--on-each-node does not go with --submit"),
    "a missing submit file": ([*NODE, "-S", "missing.sub"], "missing.sub: No such file or directory"),
    "a submit file that is none": ([*NODE, "-S", "jobs.txt"], "jobs.txt:1: 'true' is neither KEY = VALUE nor queue"),
    "a bad line of a submit file": ([*NODE, "-S", "a.sub", "bad.sub"], "bad.sub:2: bad number '2*3' of queue"),
    "a submit file named twice": ([*NODE, "-S", "a.sub", "a.sub"], "a.sub:2: the job at a.sub:2 is 'a' too"),
    "stdin named twice by a submit file": ([*NODE, "-S", "-", "-J", "-"], "standard input is named twice"),
    "a token without submit file": ([*NODE, *JOB, "--token", "a=1"], "--token needs --submit"),
    "a token that is none": ([*NODE, "-S", "a.sub", "--token", "a"], "--token a: bad number of units"),
    "a choice without submit file": ([*NODE, *JOB, "--only", "a"], "--only needs --submit"),
    "a choice of nothing": ([*NODE, "-S", "a.sub", "--only", "b"], "--only b: no job has that name"),
    "times for a submit file": ([*NODE, "-S", "a.sub", "-x", "2"], "--times is for -j, -J and -E"),
    "no times at all": ([*NODE, *JOB, "-x", "0"], "argument -x/--times: '0' is too small"),
    "a matrix without values": ([*NODE, *JOB, "--matrix", "A"], "--matrix A: no values"),
    "a matrix key that no job names": ([*NODE, *JOB, "--matrix", "A=1"], "--matrix A: no job names {A}"),
    "a matrix key that no -E names": ([*NODE, "-E", "true", "--matrix", "A=1"], "--matrix A: no job names {A}"),
    "a variable that is not set": ([*NODE, *JOB, "--var", "NO_SUCH"], "--var NO_SUCH: the environment has no NO_SUCH"),
    "a variable of no name": ([*NODE, *JOB, "--var", "a-b=1"], "--var a-b: bad name"),
    "a job that a matrix makes empty": ([*NODE, "-j", "{{A}}", "--matrix", "A=x, "], "--job: empty command"),
    # Numbers and words.
    "a bad number": ([*NODE, *JOB, "-m", "three"], "argument -m/--max-nodes/--fanout: 'three' is not a number"),
    "a negative number": ([*NODE, *JOB, "-u", "-1"], "argument -u/--max-node-uses"),
    "no connection at a time": ([*NODE, *JOB, "--max-connecting", "0"], "argument --max-connecting: '0' is too small"),
    "a bad duration": ([*NODE, *JOB, "--timeout", "1w"], "argument --timeout: '1w' is not a duration"),
    "no time at all": ([*NODE, *JOB, "--stall-timeout", "0"], "argument --stall-timeout: '0' is not a duration"),
    "a bad policy": ([*NODE, *JOB, "--host-key", "maybe"], "argument --host-key: invalid choice: 'maybe'"),
    "no form of a dry run": ([*NODE, *JOB, "--dry-run=pbs"], "argument --dry-run: invalid choice: 'pbs'"),
    "an unknown flag": ([*NODE, *JOB, "--colour"], "unknown flag --colour (did you mean --color?"),
    "an unknown flag and its value": ([*NODE, *JOB, "--max-node=3"], "unknown flag --max-node=3 (did you mean"),
    "a flag like no other": ([*NODE, *JOB, "--zzz"], "unknown flag --zzz (see clstr --help)"),
    "a flag of pdsh's": (["-w", "n1", *NODE, *JOB], "unknown flag -w (here it is -n NODE"),
    "a flag of parallel's": (["--sshlogin", "n1", *NODE, *JOB], "unknown flag --sshlogin (here it is -n NODE"),
    "a shortened flag": ([*NODE, "--job-fil", "jobs.txt"], "unknown flag --job-fil (did you mean --job-file?"),
    "a long flag with one dash": ([*NODE, "-job", "true"], "-job has one '-' too few (write --job)"),
    "the beginning of a flag": ([*NODE, *JOB, "--keep"], "unknown flag --keep (did you mean --keep-order?"),
    "the end of the flags": ([*NODE, "--", "true"], "unknown flag -- (here it is -j CMD"),
    "no flag at all": (["n1", "uptime"], "unexpected word 'n1' (nodes go behind -n, "),
    "a job without its quotes": ([*NODE, "-j", "echo", "hello"], "unexpected word 'hello' (a job is one word: "),
    "a job in place of its file": ([*NODE, "-J", "echo hi"], "echo hi: No such file or directory (give a file"),
    "a command behind the nodes": ([*NODE, "uptime"], "no jobs (name them with -j CMD"),
    "a number of jobs at once": ([*NODE, "-j", "8", "-J", "jobs.txt"], "--job: '8' is no command (jobs at once"),
    "slots without quotes": (["-n", "n1", "slots=4", *JOB], "--node: 'slots=4' is not a host (quote the whole"),
    "the files swapped": (["-N", "work.txt", "-J", "jobs.txt"], "work.txt:2: 'echo one' looks like a command"),
    # Files to write, and files of SSH.
    "an output in no directory": ([*NODE, *JOB, "-o", "missing/out"], "missing/out: No such file or directory"),
    "a directory as output": ([*NODE, *JOB, "-e", "."], ".: Is a directory"),
    "a directory of active nodes": ([*NODE, *JOB, "-A", "."], ".: "),
    "a device of active nodes": ([*NODE, *JOB, "-A", "/dev/null"], "/dev/null: not a regular file"),
    "a missing ssh_config": (
        [*NODE, *JOB, "-F", "missing.txt"],
        "Can't open user config file missing.txt: No such file",
    ),
    "an ssh_config that is wrong": ([*NODE, *JOB, "-F", "wrong_config"], "wrong_config"),
    "a missing identity": ([*NODE, *JOB, "-i", "missing.txt"], "-i missing.txt: no such file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line_before_any_connection(clstr: Run, tmp_path: Path, guarded_port: int, case: str) -> None:
    (tmp_path / "empty.txt").write_text("# none\n\n")
    (tmp_path / "jobs.txt").write_text("true\n")
    (tmp_path / "a.sub").write_text('executable = true\n+Name = "a"\nqueue\n')
    (tmp_path / "bad.sub").write_text("executable = true\nqueue 2*3\n")
    (tmp_path / "work.txt").write_text("hostname\necho one\n")
    (tmp_path / "bad_slots.txt").write_text("n1 slots=2\nn2 slots=many\n")
    (tmp_path / "dash.txt").write_text("-oProxyCommand=x\n")
    (tmp_path / "wrong_config").write_text("NoSuchOption yes\n")
    arguments, what = REFUSED[case]
    result = clstr(*(word.format(port=guarded_port) for word in arguments))
    assert (result.status, result.stdout) == (2, b"")
    assert re.fullmatch(r"clstr: [^\n]*\([^\n]+\)\n", result.stderr), result.stderr
    assert result.stderr.startswith(f"clstr: {what}")


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path, guarded_port: int) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("true\n")
    secret.chmod(0)
    command: list[str] = [*CLSTR, "-n", f"127.0.0.1:{guarded_port}"]
    if os.access(secret, os.R_OK):  # root may, unless it waives that
        waiver = "-dac_override,-dac_read_search"
        command = ["setpriv", f"--bounding-set={waiver}", f"--inh-caps={waiver}", *command]
    for flags in (["-J", "secret.txt"], ["-N", "secret.txt", "-j", "true"]):
        run = Process([*command, *flags], tmp_path)
        result = run.result()
        run.stop()
        assert (result.status, result.stdout) == (2, b"")
        assert re.fullmatch(r"clstr: secret\.txt: Permission denied \([^\n]+\)\n", result.stderr)


def test_bad_input_that_is_not_printable_stays_one_line(clstr: Run) -> None:
    result = clstr("-n", b"n1\xff\x1b[2J", "-j", "true")
    assert result.status == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.rstrip("\n").isprintable()


def test_nothing_is_opened_of_a_job_file_before_its_turn(clstr: Run, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    result = clstr("-n", "n1", "-n", "n*", "-J", fifo)  # would wait for a writer that never comes
    assert result.status == 2


def test_without_a_word_the_usage_is_shown(clstr: Run) -> None:
    result = clstr()
    usage, jobs, first_step, more = result.stderr.splitlines()
    assert (result.status, result.stdout) == (2, b"")
    assert usage.startswith("usage: clstr [-n NODE...] [-N FILE...]")
    assert "-j CMD" in jobs
    assert more == "see: clstr --help"
    tried = clstr(*shlex.split(first_step.removeprefix("try: clstr ")))
    assert (tried.status, tried.lines) == (0, ["hello", "hello again"])


def test_files_with_the_line_ends_of_windows_work(clstr: Run, tmp_path: Path) -> None:
    (tmp_path / "nodes.txt").write_bytes(b"# nodes\r\n: slots=2\r\n\r\n")
    (tmp_path / "jobs.txt").write_bytes(b"echo one\r\n\r\n# none\r\necho two\r\n")
    result = clstr("-N", "nodes.txt", "-J", "jobs.txt")
    assert (result.status, result.lines, result.stderr) == (0, ["one", "two"], "")


def test_help_and_version_are_no_errors(clstr: Run) -> None:
    assert re.fullmatch(rb"clstr \d+\.\d+\.\d+\n", clstr("--version").stdout)
    shown = clstr("--help")
    assert shown.status == 0
    titles = re.findall(r"^(\S[^\n]*):$", shown.stdout.decode(), re.M)
    assert titles[:6] == ["nodes", "jobs", "what failure means", "output", "monitoring", "records"]


def test_the_help_fits_a_narrow_terminal_and_breaks_no_flag(clstr: Run) -> None:
    lines = clstr("--help", env={"COLUMNS": "80"}).stdout.decode().splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert [line for line in lines if re.search(r"(?<![\w-])--?[a-z-]*-$", line)] == []


def test_an_error_without_stderr_is_still_an_error(clstr: Run) -> None:
    result = clstr("-n", "n*", "-j", "true", stderr=subprocess.DEVNULL)
    assert result.status == 2
