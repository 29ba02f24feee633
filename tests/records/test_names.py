"""The names of jobs in files: stable, one file's name each, and never another's."""

from __future__ import annotations

import os

import pytest

from clstr.model import Done, Job, Node
from clstr.records.names import LONGEST, Names, stem_of


def names_of(*jobs: Job, batch: int = 100) -> list[str]:
    names = Names()
    for start in range(0, len(jobs), batch):
        assert not names.done(jobs[start : start + batch])
    return [names.of(job) for job in jobs]


def plain(*commands: bytes, pin: Node | None = None) -> list[Job]:
    return [Job(number, command, pin=pin) for number, command in enumerate(commands, 1)]


def test_a_name_is_a_slug_and_a_hash_of_the_command() -> None:
    assert names_of(*plain(b"./train.py --seed 3")) == ["train.py-seed-3-1dcd4ed841"]


def test_what_a_submit_file_calls_a_job_is_its_name() -> None:
    assert names_of(Job(1, b"make", name="trec.test1")) == ["trec.test1"]


def test_identical_lines_are_numbered_in_the_order_of_reading() -> None:
    first, other, second, third = names_of(*plain(b"a b", b"a c", b"a b", b"a b"), batch=2)
    assert (second, third) == (f"{first}.2", f"{first}.3")
    assert other != first


def test_lines_that_differ_where_the_slug_does_not_show_have_different_names() -> None:
    assert len(set(names_of(*plain(b"echo 'a'", b'echo "a"', b"echo a", b"echo  a")))) == 4


def test_a_job_on_each_node_names_it() -> None:
    first, second = names_of(*plain(b"df", b"df", pin=Node("u@n1:22", "n1")))
    stem = stem_of(b"df")
    assert (first, second) == (f"{stem}@u@n1:22", f"{stem}.2@u@n1:22")


HOSTILE = [
    b"../../etc/passwd",
    b"/",
    b"..",
    b".",
    b"-rf",
    b"\n\0\x1b[2J",
    b"\xff\xfe",
    "h\u00e4\u00dflich".encode(),
    b"x" * 100_000,
    b"a/b\\c:d",
]


@pytest.mark.parametrize("command", HOSTILE)
@pytest.mark.parametrize("pin", [None, Node("[fe80::1%../eth0]:22", ""), Node("n" * 300, "")])
def test_every_name_is_one_files_name(command: bytes, pin: Node | None) -> None:
    (name,) = names_of(*plain(command, pin=pin))
    assert name.isascii()
    assert name.isprintable()
    assert len(name) <= LONGEST - len(".1000000")
    assert os.path.basename(name) == name
    assert not name.startswith((".", "-"))


def test_names_of_ended_jobs_are_forgotten_but_still_counted() -> None:
    (first, second), names = plain(b"a", b"a"), Names()
    names.done([first])
    kept = names.of(first)
    names.saw(0.0, Done(first, None))
    with pytest.raises(KeyError):
        names.of(first)
    names.done([second])
    assert names.of(second) == f"{kept}.2"
