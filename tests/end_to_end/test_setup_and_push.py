"""What is done on a node before its first job, over real sshd: pushed files, setup commands, counted processors."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster.sshd import Cluster, until
from end_to_end.clstr_process import Process, Result

from clstr.inputs.nodes import parse_node, slots_of

Run = Callable[..., Result]
Start = Callable[..., Process]

SFTP = "Subsystem sftp internal-sftp"


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.chmod(0o700)
        for inner in path.iterdir():
            remove(inner)
        path.rmdir()
    else:
        path.unlink()


# --- setup -------------------------------------------------------------------------------------------------


def test_setup_runs_once_a_node_in_order_before_its_jobs(clstr: Run, nodes: Cluster, scratch: Path) -> None:
    log = scratch / "log"
    steps = ["--setup", f"echo one $CLSTR_NODE >> {log}", "--setup", f"echo two $CLSTR_NODE >> {log}"]
    job = f"grep -c $CLSTR_NODE {log}"
    result = clstr("-n", "n[1-2] slots=3", *steps, *["-j", job] * 12, cluster=nodes)
    assert (result.status, result.stdout) == (0, b"2\n" * 12)
    lines = log.read_text().splitlines()
    assert sorted(lines) == sorted(set(lines))
    for node in {line.split()[1] for line in lines}:
        assert [line for line in lines if node in line] == [f"one {node}", f"two {node}"]


def test_setup_is_not_done_again_on_a_new_connection(
    start: Start, cluster: Callable[..., Cluster], scratch: Path
) -> None:
    one = cluster(nodes=1)
    begun, log = scratch / "begun", scratch / "log"
    job = f"touch {begun}; [ $CLSTR_ATTEMPT = 2 ] || sleep 600; echo ran"
    run = start("-n", "n1", "--setup", f"echo set up >> {log}", "-j", job, cluster=one)
    until(begun.exists, "the job runs")
    one.kill_connections(1)
    result = run.result()
    assert (result.status, result.stdout) == (0, b"ran\n")
    assert log.read_text() == "set up\n"


def test_output_of_setup_is_told_under_verbose_only(clstr: Run, nodes: Cluster) -> None:
    steps = ["--setup", "echo to stdout; echo to stderr >&2"]
    quiet = clstr("-n", "n1", *steps, "-j", "echo job", cluster=nodes)
    assert (quiet.status, quiet.stdout, quiet.stderr) == (0, b"job\n", "")
    told = clstr("-v", "-n", "n1", *steps, "-j", "echo job", cluster=nodes)
    assert told.stdout == b"job\n"
    assert {"clstr: n1: setup: to stdout", "clstr: n1: setup: to stderr"} <= set(told.stderr.splitlines())


def seed_that_begins_with(first: str, nodes: str) -> str:
    """A --seed by which this node is taken first."""
    listed = [slot.node.text for slot in slots_of(parse_node(nodes, "--node"))]
    for seed in range(100):
        shuffled = listed.copy()
        random.Random(seed).shuffle(shuffled)
        if shuffled[0] == first:
            return str(seed)
    raise AssertionError("no such seed")


def test_a_setup_that_fails_evicts_its_node_with_step_status_and_last_line(clstr: Run, nodes: Cluster) -> None:
    step = 'echo trying; [ "$CLSTR_NODE" = n2 ] || { echo disk full >&2; exit 3; }'
    # With one node at a time, n2 is not alone in its turn before another has failed, whoever is first.
    steps = ["--setup", "true", "--setup", step, "--seed", seed_that_begins_with("n1", "n[1-4]")]
    result = clstr("-n", "n[1-4]", "-m", "1", *steps, *["-j", "echo $CLSTR_NODE"] * 4, cluster=nodes)
    assert (result.status, result.stdout) == (0, b"n2\n" * 4)
    assert re.search(r"^clstr: \d nodes? evicted: .*: setup '.*: exit 3: disk full$", result.stderr, re.M)


def test_setups_that_fail_everywhere_are_not_taken_for_unreachable_nodes(clstr: Run, nodes: Cluster) -> None:
    result = clstr("-n", "n[1-2]", "--setup", "exit 3", "-j", "true", cluster=nodes)
    assert result.status == 1
    assert "1 of 1 jobs not done: no nodes left (n[1-2]: setup 'exit 3': exit 3)" in result.stderr
    assert "could be reached" not in result.stderr


def test_a_setup_over_its_time_is_terminated_with_its_children(clstr: Run, nodes: Cluster) -> None:
    step = "trap '' TERM; sleep 601 & echo waiting; wait; sleep 602"
    result = clstr("-n", "n1", "--setup", step, "--setup-timeout", "2s", "-j", "true", cluster=nodes)
    assert result.status == 1
    assert "not done within 2 s (--setup-timeout)" in result.stderr
    until(lambda: not nodes.jobs(1), "nothing of the setup is left", 20)


def test_an_interrupt_in_mid_setup_leaves_nothing_on_the_node(start: Start, nodes: Cluster) -> None:
    run = start("-v", "-n", "n1", "--setup", "echo begun; sleep 603", "-j", "true", cluster=nodes)
    run.says("n1: setup: begun")
    run.send(signal.SIGINT)
    assert run.result().status == 130
    until(lambda: not nodes.jobs(1), "nothing of the setup is left", 20)


def test_a_setup_that_prints_much_takes_no_memory(start: Start, nodes: Cluster, scratch: Path) -> None:
    go = scratch / "go"
    step = f"head -c 100000000 /dev/zero; until [ -e {go} ]; do sleep 0.1; done; echo; echo done"
    run = start("-v", "-n", "n1", "--setup", step, "-j", f"echo ran; rm {go}", cluster=nodes)
    go.touch()
    run.says("n1: setup: done")
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{run.pid}/status").read_text())
    assert peak is not None
    assert int(peak[1]) < 100_000
    assert run.result().status == 0


# --- push --------------------------------------------------------------------------------------------------


@pytest.fixture
def with_sftp(cluster: Callable[..., Cluster]) -> Iterator[Cluster]:
    """Two nodes with SFTP; their login directory, which they share, is as it was after the test."""
    two = cluster(nodes=2, extra_config=SFTP)
    start = two.account.start
    before = set(start.iterdir())
    yield two
    for path in set(start.iterdir()) - before:
        remove(path)


def make_tree(directory: Path) -> Path:
    """A directory with a script, data, an empty directory, a link to a file and one to a directory."""
    tree = directory / "tree"
    (tree / "sub" / "empty").mkdir(parents=True)
    (tree / "run.sh").write_text("#!/bin/sh\necho run\n")
    (tree / "run.sh").chmod(0o750)
    (tree / "sub" / "data").write_bytes(b"\0\xff" * 100_000)
    (tree / "sub" / "data").chmod(0o604)
    (tree / "link").symlink_to("run.sh")
    (tree / "there").symlink_to("sub")
    (tree / "sub" / "empty").chmod(0o711)
    return tree


LOOK = "cd {0} && stat -c '%n %a %F %s' run.sh link sub/data there/data sub/empty && ./run.sh"
LOOKS = [
    "run.sh 750 regular file 19",
    "link 750 regular file 19",
    "sub/data 604 regular file 200000",
    "there/data 604 regular file 200000",
    "sub/empty 711 directory 4096",
    "run",
]


def looks(result: Result) -> list[str]:
    return [line.replace("40 ", "4096 ") for line in result.stdout.decode().splitlines()]


@pytest.mark.parametrize("remote", ["", ":", ":place", ":~/place"])
def test_a_directory_is_pushed_whole_with_its_modes(
    clstr: Run, with_sftp: Cluster, tmp_path: Path, remote: str
) -> None:
    make_tree(tmp_path)
    place = "place" if "place" in remote else "tree"
    result = clstr("-n", "n1", "--push", f"tree{remote}", "-j", LOOK.format(place), cluster=with_sftp)
    assert (result.status, result.stderr) == (0, "")
    assert looks(result) == LOOKS


def test_this_machine_gets_its_copy_too(clstr: Run, tmp_path: Path) -> None:
    make_tree(tmp_path)
    result = clstr("-n", ":", "--push", "tree:copy", "--push", "tree", "-j", LOOK.format("copy"))
    assert (result.status, result.stderr) == (0, "")
    assert looks(result) == LOOKS


def test_a_push_goes_before_setup_and_may_be_repeated(clstr: Run, with_sftp: Cluster, tmp_path: Path) -> None:
    (tmp_path / "a:b").write_text("colon\n")
    (tmp_path / "c").write_text("plain\n")
    arguments = ["--setup", "cat a:b d > both", "--push", "a:b", "--push", "c:d"]
    for _ in range(2):  # what an earlier run has left is no hindrance
        result = clstr("-n", "n1", *arguments, "-j", "cat both", cluster=with_sftp)
        assert (result.status, result.stdout) == (0, b"colon\nplain\n")


def test_one_session_a_connection_suffices(clstr: Run, cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    narrow = cluster(nodes=1, extra_config=SFTP, max_sessions=1)
    (tmp_path / "file").write_text("pushed\n")
    steps = ["--push", "file", "--setup", "true"]
    result = clstr("-n", "n1 slots=auto", *steps, "-j", "cat file; rm file", cluster=narrow)
    assert (result.status, result.stdout, result.stderr) == (0, b"pushed\n", "")


def test_a_node_without_sftp_says_so(clstr: Run, nodes: Cluster, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text\n")
    result = clstr("-n", "n1", "--push", "file", "-j", "true", cluster=nodes)
    assert result.status == 1
    assert re.search(r"\(n1: push \S+/file: no SFTP there: ", result.stderr)
    assert "could be reached" not in result.stderr


def test_a_push_to_a_place_that_is_not_there_names_it(clstr: Run, with_sftp: Cluster, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text\n")
    result = clstr("-n", "n1", "--push", "file:no/such/place", "-j", "true", cluster=with_sftp)
    assert result.status == 1
    assert "no/such/place: No such file" in result.stderr


def test_a_file_that_vanishes_meanwhile_evicts_with_its_name(
    start: Start, with_sftp: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("text\n")
    run = start("-n", "n1", "--push", "file", "-J", "-", cluster=with_sftp, stdin=subprocess.PIPE)
    until(lambda: len(os.listdir(f"/proc/{run.pid}/task")) > 1, "jobs are being read: the input was checked", 20)
    (tmp_path / "file").unlink()
    run.give(b"true\n")
    run.stdin.close()
    result = run.result()
    assert result.status == 1
    assert re.search(r"n1: push \S+/file: \S*file: No such file", result.stderr)


def test_a_push_that_hangs_ends_with_the_setup_timeout(
    start: Start, cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    mute = cluster(nodes=1, extra_config="Subsystem sftp /bin/sleep 604")
    (tmp_path / "file").write_text("text\n")
    result = start("-n", "n1", "--push", "file", "--setup-timeout", 2, "-j", "true", cluster=mute).result()
    assert result.status == 1
    assert re.search(r"n1: push \S+/file: not done within 2 s \(--setup-timeout\)", result.stderr)


def test_what_cannot_be_copied_is_refused_before_any_connection(clstr: Run, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    os.mkfifo(tree / "fifo")
    assert "fifo is no file and no directory" in clstr("-n", "n1", "--push", "tree", "-j", "true").stderr
    (tree / "fifo").unlink()
    (tree / "loop").symlink_to(".")
    assert "leads back to a directory above it" in clstr("-n", "n1", "--push", "tree", "-j", "true").stderr
    (tree / "loop").unlink()
    (tree / "dangling").symlink_to("nothing")
    result = clstr("-n", "n1", "--push", "tree", "-j", "true")
    assert (result.status, "dangling: No such file" in result.stderr) == (2, True)


# --- slots=auto --------------------------------------------------------------------------------------------


def test_auto_slots_are_as_many_as_processors_and_add_up(
    clstr: Run, cluster: Callable[..., Cluster], scratch: Path
) -> None:
    one = cluster(nodes=1, extra_config=f"SetEnv PATH={scratch}:/usr/bin:/bin")
    set_nproc(scratch, 3)
    meet = f"touch {scratch}/at$CLSTR_SLOT; until [ $(ls {scratch}/at* | wc -l) = 5 ]; do sleep 0.1; done; echo met"
    result = clstr("-n", "n1 slots=auto", "n1 slots=2", *["-j", meet] * 5, cluster=one)
    assert (result.status, result.stdout, result.stderr) == (0, b"met\n" * 5, "")
    assert sorted(path.name for path in scratch.glob("at*")) == ["at1", "at2", "at3", "at4", "at5"]


def set_nproc(directory: Path, count: int) -> None:
    """An ``nproc`` on the nodes that answers this."""
    new = directory / "nproc.new"
    new.write_text(f"#!/bin/sh\necho {count}\n")
    new.chmod(0o755)
    new.rename(directory / "nproc")


def test_a_node_that_cannot_count_has_one_slot_and_a_warning(clstr: Run, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sh").symlink_to("/bin/sh")
    result = clstr("-n", ": slots=auto", "-j", "echo $CLSTR_SLOT", env={"PATH": str(tools)})
    assert (result.status, result.stdout) == (0, b"1\n")
    assert result.stderr == "clstr: this machine: slots=auto: no nproc there, so it is 1 slot (write slots=N)\n"


def test_on_each_node_counts_auto_as_one(clstr: Run, nodes: Cluster) -> None:
    result = clstr("-n", "n1 slots=auto", "n2 slots=3", "-E", "echo $CLSTR_NODE", cluster=nodes)
    assert (result.status, result.lines) == (0, ["n1", "n2"])
