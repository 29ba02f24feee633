"""What runs leave: joblog and resume, run directory, table, events and timeline, and what stands in their way."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster.sshd import Cluster, until
from end_to_end.clstr_process import CLSTR, Process, Result

Clstr = Callable[..., Result]
Start = Callable[..., Process]

ALL = ["--joblog", "log", "-d", "dir", "--csv", "table.csv", "--events", "events", "--trace", "trace"]
ROOT = Path(__file__).parent.parent.parent
HEADER = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n"


def logged(directory: Path) -> list[list[str]]:
    """The fields of the joblog's lines."""
    head, *lines = (directory / "log").read_text().splitlines()
    assert head + "\n" == HEADER
    return [line.split("\t") for line in lines]


# --- resume ------------------------------------------------------------------------------------------------


def test_a_resumed_run_does_what_is_left_of_an_edited_list(clstr: Clstr, tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    jobs.write_text("echo a\ntest -e ready && echo b\necho a\n")
    log = ["--joblog", "log", "--resume"]
    first = clstr("-n", ":", "-J", "jobs", "--retries", "0", *log)
    assert (first.status, first.lines) == (1, ["a", "a"])
    (tmp_path / "ready").touch()
    jobs.write_text("echo c\necho a\necho a\necho a\ntest -e ready && echo b\n")
    second = clstr("-n", ":", "-J", "jobs", "--retries", "0", *log)
    assert (second.status, second.lines, second.stderr) == (0, ["a", "b", "c"], "")
    third = clstr("-n", ":", "-J", "jobs", *log)
    assert (third.status, third.lines, third.stderr) == (0, [], "")
    assert sorted(fields[8] for fields in logged(tmp_path) if fields[6] == "0") == [
        "echo a", "echo a", "echo a", "echo c", "test -e ready && echo b",
    ]  # fmt: skip


def test_on_each_node_goes_on_with_the_nodes_that_are_left(clstr: Clstr, nodes: Cluster) -> None:
    command = ["-E", "echo $CLSTR_NODE", "--joblog", "log", "--resume"]
    assert clstr("-n", "n1", "n2", *command, cluster=nodes).lines == ["n1", "n2"]
    assert clstr("-n", "n1", "n2", "n3", "n2", *command, cluster=nodes).lines == ["n2", "n3"]


def test_a_run_that_is_stopped_goes_on_where_it_was(start: Start, clstr: Clstr, tmp_path: Path) -> None:
    jobs = ["-j", "echo a", "-j", "test -e go && echo b || { echo waits; sleep 60; }", "-j", "echo c", *ALL]
    run = start("-n", ":", *jobs, "--resume")
    run.prints(b"waits")
    run.send(signal.SIGTERM)
    assert run.result().status == 143
    left = {path.suffix for path in (tmp_path / "dir").iterdir()}
    assert left == {".run", ".out", ".err", ".code", ".done"}
    (tmp_path / "go").touch()
    result = clstr("-n", ":", *jobs, "--resume")
    assert (result.status, result.lines) == (0, ["b", "c"])
    assert [fields[8][:6] for fields in logged(tmp_path)] == ["echo a", "test -", "echo c"]


# --- the run directory -------------------------------------------------------------------------------------


def test_the_script_of_a_job_runs_it_again(clstr: Clstr, tmp_path: Path) -> None:
    result = clstr("-n", ": class=a,b", "--class", "b", "-j", "echo \"it's $CLSTR_JOB\" $A", "-d", "dir")
    assert result.lines == ["it's 1"]
    assert again(tmp_path / "dir", "echo-it-s-CLSTR_JOB-A-*", A="again") == "it's 1 again\n"


def test_done_is_done_until_it_is_removed(clstr: Clstr, tmp_path: Path) -> None:
    run = ["-n", ":", "-j", "echo a", "-j", "echo b; false", "-d", "dir", "--retries", "0"]
    assert clstr(*run).lines == ["a", "b"]
    assert clstr(*run).lines == ["b"]
    (done,) = (tmp_path / "dir").glob("*.done")
    done.unlink()
    assert clstr(*run).lines == ["a", "b"]


def test_two_runs_over_one_directory_do_each_job_once(start: Start, clstr: Clstr, tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("".join(f"echo {n}; sleep 0.05\n" for n in range(60)))
    arguments = ["-n", ": slots=3", "-J", "jobs", "-d", "dir"]
    runs = [start(*arguments) for _ in range(2)]
    results = [run.result() for run in runs]
    lines = [line for result in results for line in result.lines]
    assert sorted(lines, key=int) == [str(n) for n in range(60)]
    for result in results:  # a job is refused while the other run has it
        refused = len(re.findall(r" \(locked by \S+ \d+\)$", result.stderr, re.M))
        assert result.status == (1 if refused else 0)
    assert not [*(tmp_path / "dir").glob("*.lock")]
    assert clstr(*arguments).stderr == ""


def test_a_job_that_another_run_has_is_refused_by_name(start: Start, clstr: Clstr, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    arguments = ["-n", ":", "-j", "echo begun; cat gate", "-d", "dir"]
    other = start(*arguments)
    other.prints(b"begun")
    result = clstr(*arguments)
    assert result.status == 1
    assert f"clstr: --job: echo begun; cat gate (locked by {os.uname().nodename} {other.pid})" in result.stderr
    (tmp_path / "gate").write_text("")
    assert other.result().status == 0
    assert clstr(*arguments).status == 0


# --- table, events, timeline -------------------------------------------------------------------------------


def test_all_records_tell_the_same_story_with_an_eviction_and_a_pardon(
    clstr: Clstr, nodes: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "jobs").write_text("".join(f"sleep 0.0{n}; [ {n} != 3 ]\n" for n in range(1, 9)))
    result = clstr("-n", "n[1-4]", "-J", "jobs", "--retries", "1", *ALL, cluster=nodes)
    assert result.status == 1
    log = {int(fields[0]): fields for fields in logged(tmp_path)}
    assert sorted(log) == list(range(1, 9))
    assert [number for number, fields in log.items() if fields[6] != "0"] == [3]
    events = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    names = [event["event"] for event in events]
    assert (names.count("Evicted"), names.count("Pardoned"), names[-1]) == (1, 1, "Finished")
    trace = json.loads((tmp_path / "trace").read_text())
    nodes_of = {event["pid"]: event["args"]["name"] for event in trace if event["name"] == "process_name"}
    last = {event["args"]["job"]: event for event in trace if event["ph"] == "X"}  # later ones in the place of earlier
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = {int(row["Job ID"]): row for row in csv.DictReader(file)}
    assert last.keys() == rows.keys() == log.keys()
    for number, (_, host, began, took, _, _, status, _, command) in log.items():
        piece, row = last[number], rows[number]
        assert nodes_of[piece["pid"]] == row["Machine"] == host
        assert abs(piece["ts"] / 1e6 - float(began)) <= 0.001
        assert abs(piece["dur"] / 1e6 - float(took)) <= 0.001
        assert float(row["Duration"]) == float(took)
        assert piece["args"]["command"] == row["Command"] == command
        assert row["Exit"] == status
        assert row["Status"] == ("failed" if number == 3 else "done")
        assert row["Attempts"] == str(piece["args"]["attempt"]) == ("2" if number == 3 else "1")
    assert [event["name"] for event in trace if event["ph"] == "i"].count("pardoned") == 1


def test_events_go_to_a_program_as_they_come(shell: Callable[..., Process], tmp_path: Path) -> None:
    command = " ".join(CLSTR)
    line = f"{command} -n : -j 'echo a; until [ -e seen ]; do sleep 0.05; done' --events >(cat > events)"
    run = shell(line)
    events = tmp_path / "events"
    until(lambda: events.exists() and "Started" in events.read_text(), "the start is told", 60)
    (tmp_path / "seen").touch()
    assert run.result().status == 0
    until(lambda: "Finished" in events.read_text(), "the end is told", 60)


def test_a_table_has_all_jobs_when_the_run_ends_early(clstr: Clstr, tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("false\n" * 5)
    assert clstr("-n", ":", "-J", "jobs", "--csv", "table.csv").status == 1
    with (tmp_path / "table.csv").open(newline="") as file:
        assert [row["Status"] for row in csv.DictReader(file)] == ["not done"] * 5


def test_what_was_done_before_is_told_as_done_when_the_run_ends_before_it_comes_to_it(
    clstr: Clstr, tmp_path: Path
) -> None:
    done = [f"echo {number}" for number in range(1500)]  # more than are asked for at once
    (tmp_path / "log").write_text(HEADER + "".join(f"1\tn\t1.0\t1.0\t0\t0\t0\t0\t{job}\n" for job in done))
    (tmp_path / "jobs").write_text("\n".join(["false", "echo left", *done]))
    flags = ["--joblog", "log", "--resume", "--csv", "table.csv", "--unfinished", "left", "-v"]
    result = clstr("-n", ":", "-J", "jobs", *flags)
    assert (result.status, result.lines) == (1, [])
    assert re.search(r"^clstr: 2 of \d+\+? jobs not done: no nodes left", result.stderr, re.M)
    assert re.search(r"^\d+ jobs: \d+ done, 0 failed, 0 held, 2 not done; 1 attempt ", result.stderr, re.M)
    assert (tmp_path / "left").read_text() == "false\necho left\n"
    with (tmp_path / "table.csv").open(newline="") as file:
        assert [row["Status"] for row in csv.DictReader(file)] == ["not done"] * 2 + ["done"] * 1500


# --- what stands in the way --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--resume"], "--resume needs a joblog to go on from (name it with --joblog FILE)"),
        (["--joblog", "notes", "--resume"], "notes:1: not a joblog: it begins with 'dear diary' (name another"),
        (["--joblog", "notes"], "notes:1: not a joblog: it begins with 'dear diary' (name another"),
        (["--joblog", "jobs"], "jobs: --joblog would overwrite what --job-file reads (name another file)"),
        (["-d", "notes"], "notes: not a directory (--run-dir needs one, or a name that is free)"),
        (["-d", "notes/below"], "notes/below: Not a directory (--run-dir needs a directory that can be written)"),
        (["-d", "place", "--results", "./place"], "./place: --run-dir and --results name one directory (name two)"),
        (["--csv", "x", "--trace", "./x"], "./x: --csv and --trace name one file (name two)"),
        (["--events", "x", "-o", "x"], "x: --stdout and --events name one file (name two)"),
        (["--trace", "no/such"], "no/such: No such file or directory (name a file that can be written)"),
        (["--csv", "place"], "place: not a regular file (name one, or a file that is not there yet)"),
        (["--events", "place"], "place: not a regular file (name one, or a file that is not there yet)"),
        (["--trace", "/dev/full"], "/dev/full: not a regular file (name one, or a file that is not there yet)"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_is_done(
    flags: list[str], says: str, clstr: Clstr, tmp_path: Path
) -> None:
    (tmp_path / "jobs").write_text("echo ran\n")
    (tmp_path / "notes").write_text("dear diary\n")
    (tmp_path / "kept").write_text("mine\n")
    (tmp_path / "place").mkdir()
    more = [] if "-o" in flags else ["-o", "kept"]
    result = clstr("-n", ":", "-J", "jobs", *more, *flags)
    assert result.status == 2
    assert result.stderr.startswith(f"clstr: {says}")
    assert result.stderr.count("\n") == 1
    for name, text in (("jobs", "echo ran\n"), ("notes", "dear diary\n"), ("kept", "mine\n")):
        assert (tmp_path / name).read_text() == text


@pytest.mark.parametrize("flag", ["--joblog", "--csv", "--events", "--trace"])
def test_a_second_run_over_a_file_is_refused(flag: str, start: Start, clstr: Clstr, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    other = start("-n", ":", "-j", "echo begun; cat gate", flag, "file")
    other.prints(b"begun")
    result = clstr("-n", ":", "-j", "echo ran", flag, "file")
    assert (result.status, result.stdout) == (2, b"")
    assert re.fullmatch(r"clstr: file: another run \w+ its \w+ there \(name another file\)\n", result.stderr)
    (tmp_path / "gate").write_text("")
    assert other.result().status == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "clstr-tests", str(disk)]
    if os.getuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


FILES = [("--joblog", "log"), ("--csv", "table"), ("--events", "events"), ("--trace", "trace"), ("-d", "dir")]
LONG = "#" * 4000
JOBS = 80


def check_full(result: Result, what: str, name: str, done: int) -> None:
    assert result.status == 1
    assert re.search(rf"^clstr: \S*{name}\S* cannot be written: {what}", result.stderr, re.M), result.stderr
    assert result.stdout.count(b"\n") >= done


@pytest.mark.parametrize(("flag", "name"), FILES)
def test_a_disk_that_is_full_drains_the_run(flag: str, name: str, clstr: Clstr, small_disk: Path) -> None:
    jobs = small_disk.parent / "jobs"
    jobs.write_text("".join(f"echo {n} {LONG}\n" for n in range(JOBS)))
    result = clstr("-n", ": slots=2", "-J", jobs, flag, small_disk / name)
    check_full(result, "No space left on device", name, 1)
    assert flag != "--joblog" or result.stdout.count(b"\n") < JOBS  # the others wait for company, and so may come late


def test_a_joblog_that_a_full_disk_has_cut_goes_on(clstr: Clstr, small_disk: Path) -> None:
    arguments = ["-n", ":", "-J", small_disk.parent / "jobs", "--joblog", small_disk / "log"]
    (small_disk.parent / "jobs").write_text("".join(f"echo {n} {LONG}\n" for n in range(JOBS)))
    first = clstr(*arguments)
    log = (small_disk / "log").read_bytes()
    (small_disk.parent / "log").write_bytes(log)
    second = clstr(*arguments[:-1], small_disk.parent / "log", "--resume")
    assert second.status == 0
    assert ("the last line was not finished, and is cut off" in second.stderr) is not log.endswith(b"\n")
    again = len(first.lines) + len(second.lines) - JOBS
    assert again == 1  # the job whose line was cut
    assert {*first.lines, *second.lines} == {str(n) for n in range(JOBS)}


@pytest.mark.parametrize(("flag", "name"), FILES[:4])
def test_a_file_that_may_not_grow_drains_the_run(flag: str, name: str, shell: Callable[..., Process]) -> None:
    line = f"for i in $(seq 50); do echo \"echo $i {LONG[:1000]}\"; done > jobs; ulimit -f 40; "
    result = shell(f"{line} exec {' '.join(CLSTR)} -n : -J jobs {flag} {name}").result()
    check_full(result, "File too large", name, 1)


def test_output_that_a_run_directory_cannot_keep_drains_the_run(clstr: Clstr, small_disk: Path) -> None:
    jobs = ["-j", "yes 0123456789 | head -c 1000000", "-j", "echo next", "-d", small_disk / "dir"]
    result = clstr("-n", ":", *jobs)
    check_full(result, "No space left on device", "dir", 1)
    assert len(result.stdout) == 1_000_000  # it was printed nevertheless
    assert not [*(small_disk / "dir").glob("*.done")]
    assert not [*(small_disk / "dir").glob("*.lock")]


@pytest.mark.parametrize("flag", ["--joblog", "--csv", "--events", "--trace", "-d"])
def test_a_file_system_that_is_read_only_is_refused(flag: str, clstr: Clstr, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    result = clstr("-n", ":", "-j", "echo ran", flag, small_disk / "x")
    assert (result.status, result.stdout) == (2, b"")
    assert re.fullmatch(rf"clstr: {small_disk}/x: Read-only file system \(.*\)\n", result.stderr)


def test_a_run_directory_that_disappears_drains_the_run(clstr: Clstr, tmp_path: Path) -> None:
    jobs = ["-j", "echo a; rm -r dir", "-j", "echo b", "-j", "echo c"]
    result = clstr("-n", ":", *jobs, "-d", "dir")
    assert (result.status, result.lines) == (1, ["a"])
    assert re.search(r"^clstr: dir/\S+ cannot be written: No such file", result.stderr, re.M)


@pytest.mark.parametrize("flag", ["--joblog", "--events", "--trace"])
def test_a_file_that_is_removed_drains_the_run(flag: str, clstr: Clstr) -> None:
    result = clstr("-n", ":", "-j", "rm file", flag, "file")
    assert result.status == 1
    assert re.search(r"^clstr: file cannot be written: No such file", result.stderr, re.M)


def test_what_is_refused_when_records_are_open_leaves_nothing_of_them_behind(clstr: Clstr, tmp_path: Path) -> None:
    result = clstr("-n", ":", "-j", "echo ran", "-d", "dir", "--results", "results", "-o", "no/such")
    assert (result.status, result.stdout) == (2, b"")
    assert not [*(tmp_path / "dir").iterdir(), *(tmp_path / "results").iterdir()]
    (tmp_path / "ssh_config").write_text("Host *\nProxyCommand\n")
    result = clstr("-F", "ssh_config", "-n", "n1", "-j", "echo ran", "-d", "dir", "--results", "results")
    assert (result.status, result.stdout) == (2, b"")
    assert not [*(tmp_path / "dir").iterdir(), *(tmp_path / "results").iterdir()]


def test_names_with_dots_have_files_of_their_own(clstr: Clstr, tmp_path: Path) -> None:
    (tmp_path / "exp.sub").write_text(
        'executable = /bin/echo\narguments = $(Process)\n+Name = "exp.$(Process)"\nqueue 2\n+Name = "exp"\nqueue\n'
    )
    assert clstr("-n", ":", "-S", "exp.sub", "-d", "run").status == 0
    printed = {path.name: path.read_text() for path in (tmp_path / "run").glob("*.out")}
    assert printed == {"exp.0.out": "0\n", "exp.1.out": "1\n", "exp.out": "2\n"}
    assert len(list((tmp_path / "run").glob("*.done"))) == 3


# --- workloads ---------------------------------------------------------------------------------------------


def test_no_value_of_a_variable_is_in_any_record_and_the_script_takes_it_from_its_environment(
    clstr: Clstr, tmp_path: Path
) -> None:
    jobs = ["-j", "echo {TOKEN} for {I}", "--matrix", "I=one,two", "--var", "TOKEN=t0k3n"]
    result = clstr("-n", ":", *jobs, *ALL, "--active-nodes", "active")
    assert (result.status, result.lines) == (0, ["t0k3n for one", "t0k3n for two"])
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        assert "t0k3n" not in path.name
        assert path.suffix == ".out" or path.name.startswith("stdout-") or b"t0k3n" not in path.read_bytes(), path
    with (tmp_path / "table.csv").open(newline="") as file:
        assert [row["I"] for row in csv.DictReader(file)] == ["one", "two"]
    assert again(tmp_path / "dir", "*two*", TOKEN="other") == "other for two\n"


def again(run_dir: Path, pattern: str, **more: str) -> str:
    """What the script of the job prints."""
    (script,) = run_dir.glob(f"{pattern}.run")
    environment = {"PATH": os.environ["PATH"], "HOME": str(run_dir), "PYTHONPATH": str(ROOT), **more}
    result = subprocess.run([script], capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def test_jobs_of_a_submit_file_keep_their_names_their_order_and_their_input(clstr: Clstr, tmp_path: Path) -> None:
    (tmp_path / "words").write_text("b\na\n")
    (tmp_path / "study.sub").write_text(
        'executable = sort\ninput = words\nenvironment = "A=1 B=\'x y\'"\n+Name = "t.sort"\nqueue\n'
        'executable = cat\narguments = last\ninput =\n+After = "t.sort"\n+Name = "t.last"\nqueue\n'
    )
    run = ["-n", ":", "-S", "study.sub", *ALL, "--resume", "--retries", "0"]
    first = clstr(*run)
    assert (first.status, first.lines) == (1, ["a", "b"])
    assert os.readlink(tmp_path / "dir" / "t.sort.input") == str(tmp_path / "words")
    assert (tmp_path / "dir" / "t.sort.done").exists()
    (tmp_path / "last").write_text("at last\n")
    second = clstr(*run)  # what it comes after is done already
    assert (second.status, second.lines) == (0, ["at last"])
    assert again(tmp_path / "dir", "t.sort") == "a\nb\n"
    assert [fields[4] for fields in logged(tmp_path)] == ["4", "0", "0"]


@pytest.mark.parametrize("name", ["../out", "a/b", ".hidden", "x" * 201, "a b"])
def test_a_name_that_is_no_file_name_is_refused(name: str, clstr: Clstr, tmp_path: Path) -> None:
    (tmp_path / "study.sub").write_text(f'executable = echo\n+Name = "{name}"\nqueue\n')
    result = clstr("-n", ":", "-S", "study.sub", "-d", "dir")
    assert (result.status, result.stdout) == (2, b"")
    assert re.match(r"clstr: study.sub:2: \+Name .*\n$", result.stderr)
    assert result.stderr.count("\n") == 1
