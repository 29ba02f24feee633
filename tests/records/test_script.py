"""The script of a job, as sh reads it."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from records.story import attempt, job, node

from clstr.model import Attempt, Terms
from clstr.records.script import Script


def arguments(tmp_path: Path, of: Attempt, *further: str, nodes: tuple[str, ...] = ("-N", "my nodes")) -> list[bytes]:
    """What the script would give to clstr, and behind it what it would be given to read."""
    show = tmp_path / "show"
    show.write_text('#!/bin/sh\nprintf "%s\\0" "$@"; cat\n')
    show.chmod(0o755)
    script = Script(str(tmp_path), [str(show)], nodes, ["--user=me"], ["TOKEN", "OTHER"])
    (tmp_path / "run").write_bytes(script.of(of))
    command = ["sh", str(tmp_path / "run"), *further]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    return result.stdout.split(b"\0")


@pytest.mark.parametrize("command", [b"echo 'a' \"b\" $HOME `c` \\", b"-v", b"two\nlines", b"\xff {x}", b"it's"])
def test_the_job_comes_through_byte_for_byte(command: bytes, tmp_path: Path) -> None:
    got = arguments(tmp_path, attempt(job(1, command)), "-v")
    assert got == [b"-N", b"my nodes", b"--user=me", b"--retries", b"0", b"--job=" + command, b"-v", b""]


def test_a_pinned_job_has_its_node_only(tmp_path: Path) -> None:
    got = arguments(tmp_path, attempt(job(1, "uptime", pin=node("me@n3:22", classes=("gpu", "big")))))
    assert got[:2] == [b"-n", b"me@n3:22 class=gpu,big"]
    assert b"--on-each-node=uptime" in got


def test_nodes_that_came_from_standard_input_are_the_one_that_it_ran_on(tmp_path: Path) -> None:
    assert arguments(tmp_path, attempt(job(1), on="n7"), nodes=())[:2] == [b"-n", b"n7"]


def test_only_the_names_of_variables_that_the_job_has_are_given(tmp_path: Path) -> None:
    got = arguments(tmp_path, attempt(job(1, "curl {TOKEN}", parts=(b"curl secret",))))
    assert got[3:5] == [b"--var", b"TOKEN"]
    assert not any(b"OTHER" in word or b"secret" in word for word in got)


def test_the_terms_of_a_submit_file_are_kept(tmp_path: Path) -> None:
    terms = Terms(timeout=90.0, directory=b"/data dir", environment=(("A", b"x y"), ("B", b"it's")))
    got = arguments(tmp_path, attempt(job(1, "./sim 1", job_class="gpu", terms=terms)))
    assert got[3:9] == [b"--class", b"gpu", b"--chdir", b"/data dir", b"--timeout", b"90.000000"]
    (words,) = [word.removeprefix(b"--job=").decode() for word in got if word.startswith(b"--job=")]
    assert shlex.split(words) == ["env", "A=x y", "B=it's", "./sim", "1"]


def test_a_job_with_an_input_goes_in_as_a_submit_file(tmp_path: Path) -> None:
    of = attempt(job(1, b"sort -t'\"' $HOME", terms=Terms(input="/data/in $(x)")))
    *words, submitted = arguments(tmp_path, of)
    assert words[-2:] == [b"-S", b"-"]
    assert submitted.decode().splitlines() == [
        "executable = /bin/sh",
        "arguments = \"-c 'sort -t''\"\"'' $(DOLLAR)HOME'\"",
        "input = /data/in $(DOLLAR)(x)",
        "queue",
    ]


def test_a_comment_cannot_be_left_by_what_names_the_job(tmp_path: Path) -> None:
    of = attempt(job(1, "true", name="a\nreboot"))
    assert b"\nreboot" not in Script(str(tmp_path), ["clstr"], [], [], []).of(of)
