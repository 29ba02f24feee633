"""``--dry-run``: what would run is printed, as a job file, and nothing else happens."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from end_to_end.clstr_process import CLSTR, Process, Result

Run = Callable[..., Result]
Start = Callable[..., Process]

JOBS = b"""\
echo one
# a comment

  echo 'two  words' # {MACHINE}
echo $CLSTR_JOB \xff
"""


def test_the_list_has_each_job_behind_a_comment(clstr: Run, tmp_path: Path) -> None:
    (tmp_path / "jobs.txt").write_bytes(JOBS)
    result = clstr("--dry-run", "-n", "n[1-3]", "-j", "echo zero", "-J", "jobs.txt", "--class", "gpu", "-N", "nodes")
    assert result.status == 2  # the node file is looked for even so
    result = clstr("--dry-run", "-n", "n[1-3] class=gpu", "-j", "echo zero", "-J", "jobs.txt", "--class", "gpu")
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout == (
        b"# 1 (--job); class gpu\n"
        b"echo zero\n"
        b"# 2 (jobs.txt:1); class gpu\n"
        b"echo one\n"
        b"# 3 (jobs.txt:4); class gpu\n"
        b"  echo 'two  words' # {MACHINE}\n"
        b"# 4 (jobs.txt:5); class gpu\n"
        b"echo $CLSTR_JOB \xff\n"
    )


def test_the_list_is_a_job_file_that_does_the_same(clstr: Run, tmp_path: Path) -> None:
    (tmp_path / "jobs.txt").write_bytes(JOBS)
    (tmp_path / "list.txt").write_bytes(clstr("--dry-run", "-j", "echo zero", "-J", "jobs.txt").stdout)
    one = clstr("-n", ":", "-j", "echo zero", "-J", "jobs.txt")
    other = clstr("-n", ":", "-J", "list.txt")
    assert (one.status, one.stdout) == (other.status, other.stdout) == (0, b"zero\none\ntwo  words\n4 \xff\n")


def test_a_job_of_several_lines_is_whole_or_a_comment(clstr: Run, tmp_path: Path) -> None:
    (tmp_path / "jobs.bin").write_bytes(b"echo a\necho b\0# no comment\0\0echo c")
    shown = clstr("--dry-run", "-0", "-J", "jobs.bin")
    assert (shown.status, shown.stdout) == (0, b"echo a\necho b\0# no comment\0echo c\0")
    by_job = clstr("--dry-run", "-j", "echo a\nrm b", "-j", "#!sh", "-j", "echo c")
    assert by_job.stdout == b"# 1 (--job)\n# echo a\n# rm b\n# 2 (--job)\n# #!sh\n# 3 (--job)\necho c\n"


def test_one_job_for_each_node_is_a_comment(clstr: Run) -> None:
    result = clstr("--dry-run", "-n", "n[1-2]", "-E", "uptime")
    assert result.stdout == (
        b"# 1 (--on-each-node); on n1\n# uptime\n# 2 (--on-each-node); on n2\n# uptime\n"
    )


def test_nothing_is_connected_and_no_file_is_touched(clstr: Run, tmp_path: Path) -> None:
    trap = tmp_path / "bin" / "ssh"
    trap.parent.mkdir()
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/ssh-ran\n")
    trap.chmod(0o755)
    config = tmp_path / "config"
    config.write_text(f"Host *\n  ProxyCommand touch {tmp_path}/dialled\nMatch exec 'touch {tmp_path}/matched'\n")
    kept = tmp_path / "kept"
    kept.write_text("old\n")
    before = sorted(tmp_path.iterdir())
    files = ["-o", kept, "-e", "new1", "-A", "new2", "--unfinished", "new3", "--evicted", "new4"]
    path = {"PATH": f"{trap.parent}:{os.environ['PATH']}"}
    result = clstr("--dry-run", "-F", config, "-n", "n1", ":", "--setup", "false", "-j", "echo a", *files, env=path)
    assert (result.status, result.stdout, result.stderr) == (0, b"# 1 (--job)\necho a\n", "")
    assert kept.read_text() == "old\n"
    after = [name for name in sorted(tmp_path.iterdir()) if not name.name.startswith(("stdout-", "stderr-"))]
    assert after == [name for name in before if not name.name.startswith(("stdout-", "stderr-"))]


def test_nodes_need_not_be_named_but_for_each_of_them(clstr: Run) -> None:
    assert clstr("--dry-run", "-j", "a", "--class", "gpu").status == 0
    result = clstr("--dry-run", "-E", "a")
    assert result.status == 2
    assert result.stderr == "clstr: no nodes (name them with -n NODE or -N FILE; ':' is this machine)\n"


def test_the_reader_of_an_endless_list_may_leave(shell: Start) -> None:
    line = f"yes 'echo on' | {' '.join(CLSTR)} --dry-run -J - | head -2; exit ${{PIPESTATUS[1]}}"
    result = shell(line).result()
    assert (result.status, result.stdout, result.stderr) == (141, b"# 1 (stdin:1)\necho on\n", "")


def test_a_job_is_shown_before_the_next_one_is_written(start: Start) -> None:
    run = start("--dry-run", "-J", "-", stdin=subprocess.PIPE)
    run.give(b"echo first\n")
    run.prints(b"# 1 (stdin:1)\necho first\n")
    run.give(b"echo second\n")
    run.prints(b"echo second\n")
    run.stdin.close()
    assert run.result().status == 0


def test_jobs_before_a_line_that_cannot_be_used_are_shown(clstr: Run, tmp_path: Path) -> None:
    (tmp_path / "jobs.txt").write_bytes(b"echo a\necho \0\necho b\n")
    result = clstr("--dry-run", "-J", "jobs.txt")
    assert (result.status, result.stdout) == (2, b"# 1 (jobs.txt:1)\necho a\n")
    assert result.stderr == "clstr: jobs.txt:2: NUL byte in a job (use --null for entries that end with NUL)\n"


def test_a_full_disk_is_told_of(shell: Start) -> None:
    result = shell(f"{' '.join(CLSTR)} --dry-run -j true > /dev/full").result()
    assert result.status == 1
    words = "the list cannot be written: No space left on device (make room, here or for temporary files)"
    assert result.stderr == f"clstr: {words}\n"


PEAK = """
import os, resource, sys
status = os.spawnvp(os.P_WAIT, sys.argv[1], sys.argv[1:])
print(status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
"""


@pytest.mark.parametrize("form", ["jobs", "condor", "slurm"])
def test_a_long_list_takes_the_memory_of_a_short_one(form: str, tmp_path: Path) -> None:
    def peak(count: int) -> int:
        (tmp_path / "jobs.txt").write_text("echo a line of a list that may be long\n" * count)
        command = [sys.executable, "-c", PEAK, *CLSTR, f"--dry-run={form}", "-J", tmp_path / "jobs.txt"]
        with (tmp_path / "list").open("wb") as file:
            ran = subprocess.run(command, stdout=file, stderr=subprocess.PIPE, text=True, check=True)
        status, kilobytes = ran.stderr.split()
        assert status == "0"
        assert (tmp_path / "list").read_bytes().count(b"echo a line") == count
        return int(kilobytes)

    assert peak(100_000) < peak(10_000) + 8 * 1024


def test_what_is_done_already_is_a_comment(clstr: Run, tmp_path: Path) -> None:
    jobs = ["-j", "echo a", "-j", "echo b"]
    assert clstr("-n", ":", "--joblog", "log", *jobs[:2]).status == 0
    assert clstr("-n", ":", "-d", "dir", *jobs[2:]).status == 0
    changed = (tmp_path / "dir").stat().st_mtime_ns
    before = (tmp_path / "log").read_bytes(), sorted(os.listdir(tmp_path / "dir"))
    shown = clstr("--dry-run", "--joblog", "log", "--resume", *jobs)
    assert shown.stdout == b"# 1 (--job); done\n# echo a\n# 2 (--job)\necho b\n"
    shown = clstr("--dry-run", "-d", "dir", *jobs)
    assert shown.stdout == b"# 1 (--job)\necho a\n# 2 (--job); done\n# echo b\n"
    shown = clstr("--dry-run", "-0", "--joblog", "log", "--resume", *jobs)
    assert (shown.status, shown.stdout) == (0, b"echo b\0")
    words = "jobs left out that would not run: 1 (--null has no comments: see them without it)"
    assert shown.stderr == f"clstr: {words}\n"
    shown = clstr("--dry-run=slurm", "-d", "dir", *jobs)
    assert shown.stdout.count(b"set --") == 1
    assert b"echo a" in shown.stdout
    assert ((tmp_path / "log").read_bytes(), sorted(os.listdir(tmp_path / "dir"))) == before
    assert (tmp_path / "dir").stat().st_mtime_ns == changed  # no name came, or went


def test_records_that_are_not_there_are_not_made(clstr: Run, tmp_path: Path) -> None:
    records = ["--joblog", "log", "--resume", "-d", "dir", "--csv", "csv", "--events", "events", "--trace", "trace"]
    result = clstr("--dry-run", "-j", "true", *records, "--results", "results")
    assert (result.status, result.stdout, result.stderr) == (0, b"# 1 (--job)\ntrue\n", "")
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(("stdout-", "stderr-"))] == []


SUBMIT = """\
executable = ./prep
+Name = "prep"
queue
executable = ./sim
+Name = "sim.$(Process)"
+Class = "gpu"
+After = "prep"
concurrency_limits = license:2
priority = 5
queue seed from (
  1
  2
)
arguments = "--seed $(seed) {I}"
+Name = "sim.{I}"
+After =
+Timeout = "10m"
initialdir = work
environment = "A=1 B='x y'"
output = /dev/null
hold = True
queue seed in (3)
"""


def test_all_that_is_said_of_a_job_stands_before_it(clstr: Run, tmp_path: Path) -> None:
    (tmp_path / "exp.sub").write_text(SUBMIT)
    flags = ["--matrix", "I=a,b", "--token", "license=4", "--var", "KEY=secret"]
    jobs = ["-j", "echo {I} {KEY} ${I}", "-J", "-", "-S", "exp.sub"]
    result = clstr("--dry-run", *flags, *jobs)
    assert (result.status, result.stderr) == (0, "")
    claims = "class gpu; priority 5; token license:2"
    terms = "timeout 600 s; in work; environment A=1 'B=x y'"
    assert result.stdout.decode() == f"""\
# 1 (--job)
echo a {{KEY}} ${{I}}
# 2 (--job)
echo b {{KEY}} ${{I}}
# 3 (exp.sub:3) prep
./prep
# 4 (exp.sub:10) sim.1; class gpu; after prep; priority 5; token license:2
./sim
# 5 (exp.sub:10) sim.2; class gpu; after prep; priority 5; token license:2
./sim
# 6 (exp.sub:22) sim.a; held: hold = True; {claims}; {terms}; output /dev/null
# ./sim --seed 3 'a'
# 7 (exp.sub:22) sim.b; held: hold = True; {claims}; {terms}; output /dev/null
# ./sim --seed 3 'b'
"""


def test_what_comes_after_a_held_job_is_a_comment_too(clstr: Run, tmp_path: Path) -> None:
    held = "executable = a\n+Name = \"a\"\nhold = True\nqueue\nhold =\nexecutable = b\n"
    (tmp_path / "held.sub").write_text(f'{held}+Name = "b"\n+After = "a"\nqueue\n')
    first = "# 2 (held.sub:4) a; held: hold = True\n# a\n"
    second = "# 3 (held.sub:9) b; held: after a held; after a\n# b\n"
    assert clstr("--dry-run", "-S", "held.sub", "-j", "c").stdout.decode() == f"# 1 (--job)\nc\n{first}{second}"


def test_keys_that_mean_nothing_are_told_of(clstr: Run, tmp_path: Path) -> None:
    (tmp_path / "one.sub").write_text("executable = ./sim\nuniverse = vanilla\nqueue\n")
    result = clstr("--dry-run", "-S", "one.sub")
    assert (result.status, result.stdout) == (0, b"# 1 (one.sub:3)\n./sim\n")
    assert result.stderr == "clstr: submit files: keys that mean nothing here are ignored: universe\n"


def test_submitted_jobs_do_not_wait_for_a_pipe_behind_them(start: Start, tmp_path: Path) -> None:
    (tmp_path / "one.sub").write_text("executable = ./sim\nqueue\n")
    run = start("--dry-run", "-S", "one.sub", "-J", "-", stdin=subprocess.PIPE)
    run.prints(b"# 1 (one.sub:2)\n./sim\n")
    run.give(b"echo a\n")
    run.stdin.close()
    assert run.result().stdout.endswith(b"# 2 (stdin:1)\necho a\n")


def test_the_form_for_htcondor_is_a_submit_file_again(clstr: Run, tmp_path: Path) -> None:
    (tmp_path / "exp.sub").write_text(SUBMIT.replace("+After", "+Other").replace("+Timeout", "#"))
    flags = ["--matrix", "I=a,b", "--token", "license=4", "-S", "exp.sub"]
    once = clstr("--dry-run=condor", *flags)
    assert once.status == 0
    (tmp_path / "again.sub").write_bytes(once.stdout)

    def listed(*flags: str) -> list[str]:
        shown = clstr("--dry-run", *flags)
        assert shown.status == 0
        # A value of the matrix is quoted in the command, whether it needs it or not.
        return re.sub(r"\(.*?\)|'(\w)'", r"\1", shown.stdout.decode()).splitlines()

    assert listed("-S", "again.sub", "--token", "license=4") == listed(*flags)
    twice = clstr("--dry-run=condor", "-S", "again.sub", "--token", "license=4")
    assert twice.stdout == once.stdout


def test_what_a_scheduler_cannot_be_told_is_refused_and_nothing_is_printed(clstr: Run, tmp_path: Path) -> None:
    (tmp_path / "exp.sub").write_text(SUBMIT)
    flags = ["--matrix", "I=a,b", "--token", "license=4", "-S", "exp.sub"]
    for form, words in {
        "condor": "exp.sub:10: HTCondor's form has no word for +After (drop it; condor_submit_dag takes a DAG)",
        "slurm": "exp.sub:10: Slurm's form has no word for +After (drop it; sbatch takes --dependency)",
    }.items():
        result = clstr(f"--dry-run={form}", *flags)
        assert (result.status, result.stdout, result.stderr) == (2, b"", f"clstr: {words}\n")
    result = clstr("--dry-run=slurm", "-j", "get {KEY}", "--var", "KEY=secret")
    assert (result.status, result.stdout) == (2, b"")
    assert "secret" not in result.stderr
