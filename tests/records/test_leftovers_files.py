"""The files of ``--unfinished`` and ``--evicted``, byte for byte, and what they refuse."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from clstr.inputs.jobs import Lines
from clstr.model import Attempt, BadInput, Evicted, Failed, Job, Node, Pardoned, Paroled, Slot
from clstr.records.leftovers import Leftovers, check_target, unfinished, write_evicted


def node(text: str) -> Node:
    return Node(text, text)


def written(path: Path, *commands: bytes, null: bool = False, pin: Node | None = None) -> bytes:
    with unfinished(str(path), null) as file:
        file.write(Job(number, command, pin=pin) for number, command in enumerate(commands, 1))
    return path.read_bytes()


def read_back(data: bytes, null: bool = False) -> list[bytes]:
    lines = Lines("x", 1000, null)
    return [command for command, _ in [*lines.feed(data), *lines.end()]]


COMMANDS = (b"echo a", b" \tindented ", b"\xff\xfe not text", b"ends with CR\r", b"'a' # b")


def test_jobs_are_read_back_as_they_were(tmp_path: Path) -> None:
    assert read_back(written(tmp_path / "f", *COMMANDS)) == list(COMMANDS)


def test_null_keeps_newlines_and_comments(tmp_path: Path) -> None:
    commands = (*COMMANDS, b"two\nlines", b"# none", b" ")
    assert read_back(written(tmp_path / "f", *commands, null=True), null=True) == list(commands)


def test_what_a_line_cannot_hold_stays_in_sight_and_does_not_run(tmp_path: Path) -> None:
    data = written(tmp_path / "f", b"two\nlines", b"# none")
    assert data == b"# two\n# lines\n# # none\n"
    assert read_back(data) == []


def test_pinned_jobs_are_comments(tmp_path: Path) -> None:
    assert written(tmp_path / "f", b"a\nb", pin=node("n1")) == b"# n1: a\n# b\n"


def test_nodes_are_grouped_by_reason(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_evicted(str(path), {node("n1"): "exit 1", node("a@n2:22"): "no\nway", node("n3"): "exit 1"})
    assert path.read_text() == "# exit 1\nn1\nn3\n# no way\na@n2:22\n"


def test_pardoned_and_paroled_nodes_are_not_among_the_evicted() -> None:
    leftovers = Leftovers()
    job = Job(1, b"x")
    attempt = Attempt(job, 1, Slot(node("n1"), 1))
    for event in (
        Evicted(node("n1"), "exit 1"),
        Evicted(node("n2"), "exit 1"),
        Evicted(node("n3"), "exit 1"),
        Pardoned(node("n1")),
        Paroled(node("n2")),
        Evicted(node("n2"), "exit 2"),
        Paroled(node("n3")),
        Failed(job, attempt, "exit 1"),
    ):
        leftovers.saw(0.0, event)
    assert (leftovers.evicted, leftovers.failed) == ({node("n2"): "exit 2"}, [job])


def test_failed_jobs_are_remembered_only_when_somebody_asks() -> None:
    leftovers = Leftovers(jobs=False)
    leftovers.saw(0.0, Failed(Job(1, b"x"), None, "exit 1"))
    assert leftovers.failed == []


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old\n")

    def jobs() -> Iterator[Job]:
        yield Job(1, b"new")
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"), unfinished(str(path), False) as file:
        file.write(jobs())
    assert path.read_text() == "old\n"
    assert os.listdir(tmp_path) == ["f"]


def test_a_link_keeps_pointing_to_the_file_and_modes_stay(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old\n")
    (tmp_path / "real").chmod(0o600)
    (tmp_path / "link").symlink_to("real")
    written(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new\n"
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o600


def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        written(tmp_path / "f", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o640


def test_a_target_that_cannot_be_replaced_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, says in (
        (tmp_path, "not a regular file"),
        (tmp_path / "fifo", "not a regular file"),
        (Path("/dev/null"), "not a regular file"),
        (tmp_path / "no" / "such", "cannot be written"),
    ):
        with pytest.raises(BadInput, match=says):
            check_target("--unfinished", str(path))
    check_target("--unfinished", str(tmp_path / "new"))
