"""What jobs name on their output, heard however it is cut, and the directory that their results land in."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clstr.model import LONGEST_RESULT, MOST_RESULTS, Attempt, BadInput, Flow, Job, Node, Slot
from clstr.records.results import Results

ATTEMPT = Attempt(Job(1, b"x"), 1, Slot(Node("n1", "n1"), 1))


class Kept:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.out = self.err = b""
        self.over = 0

    def begun(self, flow: Flow) -> None: ...

    def stdout(self, data: bytes) -> None:
        self.out += data

    def stderr(self, data: bytes) -> None:
        self.err += data

    def finished(self) -> None:
        self.over += 1


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[[], Results]]:
    opened: list[Results] = []

    def make() -> Results:
        opened.append(Results(str(tmp_path / "R"), 100, lambda job: "NAME"))
        return opened[-1]

    yield make
    for results in opened:
        results.close()


def heard(results: Results, *pieces: bytes) -> tuple[bytes, ...]:
    kept = Kept()
    sink = results.sink(ATTEMPT, kept)
    for piece in pieces:
        sink.stdout(piece)
    sink.stderr(b"RESULTS: not this\n")
    sink.finished()
    assert (kept.out, kept.err, kept.over) == (b"".join(pieces), b"RESULTS: not this\n", 1)
    named = results.named(ATTEMPT)
    assert results.named(ATTEMPT) == ()
    return named


OUTPUT = (
    b"RESULTS: a\nxRESULTS: b\nRESULTS: \nRESULTS:c\n RESULTS: d\nresults: e\nRESULTS: f g \nRESULTS: \xff/h\r\n"
    b"RESULTS: RESULTS: i\n\nRESULTSRESULTS: j\nRESULTS: last"
)
NAMED = (b"a", b"f g ", b"\xff/h", b"RESULTS: i", b"last")


def test_lines_that_begin_so_name_results(made: Callable[[], Results]) -> None:
    assert heard(made(), OUTPUT) == NAMED


def test_it_does_not_matter_how_the_output_is_cut(made: Callable[[], Results]) -> None:
    results, dice = made(), random.Random(1)
    assert heard(results, *(OUTPUT[place : place + 1] for place in range(len(OUTPUT)))) == NAMED
    for _ in range(300):
        cuts = sorted(dice.randrange(len(OUTPUT)) for _ in range(dice.randrange(6)))
        pieces = [OUTPUT[start:end] for start, end in zip([0, *cuts], [*cuts, len(OUTPUT)], strict=True)]
        assert heard(results, *pieces) == NAMED


def test_of_long_lines_and_many_names_no_more_is_kept_than_shows_it(made: Callable[[], Results]) -> None:
    results = made()
    long = b"RESULTS: " + b"x" * 10_000_000
    assert heard(results, long, long, b"\nRESULTS: b\n") == (b"x" * (LONGEST_RESULT + 1), b"b")
    assert heard(results, b"y" * 10_000_000, b"\nRESULTS: b") == (b"b",)
    assert len(heard(results, b"RESULTS: a\n" * (MOST_RESULTS + 5))) == MOST_RESULTS + 1
    sink = results.sink(ATTEMPT, Kept())
    for _ in range(1000):
        sink.stdout(b"RESULTS: " + b"z" * 9000)
    assert len(sink._tail) <= LONGEST_RESULT + 9  # type: ignore[attr-defined]


def write(fd: int, name: str, text: str) -> None:
    with open(os.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=fd), "w") as file:
        file.write(text)


def test_results_are_in_their_place_when_they_are_kept(made: Callable[[], Results], tmp_path: Path) -> None:
    results, target = made(), tmp_path / "R" / "NAME"
    for text in ("old", "new"):
        place = results.place(ATTEMPT)
        write(place.fd, text, text)
        place.keep()
        place.discard()
        assert [(path.name, path.read_text()) for path in target.iterdir()] == [(text, text)]
    place = results.place(ATTEMPT)
    write(place.fd, "bad", "bad")
    place.discard()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert target.stat().st_mode & 0o777 == 0o777 & ~umask()
    results.close()
    assert [path.name for path in (tmp_path / "R").iterdir()] == ["NAME"]


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_link_in_the_place_of_results_is_replaced_and_not_followed(
    made: Callable[[], Results], tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").touch()
    results = made()
    (tmp_path / "R" / "NAME").symlink_to(tmp_path / "elsewhere")
    place = results.place(ATTEMPT)
    write(place.fd, "new", "")
    place.keep()
    place.discard()
    assert [path.name for path in (tmp_path / "R" / "NAME").iterdir()] == ["new"]
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["precious"]


def test_a_file_in_the_place_of_results_stays(made: Callable[[], Results], tmp_path: Path) -> None:
    results = made()
    (tmp_path / "R" / "NAME").write_text("mine")
    place = results.place(ATTEMPT)
    with pytest.raises(NotADirectoryError, match="NAME"):
        place.keep()
    place.discard()
    assert (tmp_path / "R" / "NAME").read_text() == "mine"


def test_nobody_else_may_enter_where_results_land(made: Callable[[], Results], tmp_path: Path) -> None:
    made()
    (own,) = (tmp_path / "R").iterdir()
    assert own.stat().st_mode & 0o777 == 0o700


def test_what_a_killed_run_left_goes_and_what_another_run_has_under_way_stays(
    made: Callable[[], Results], tmp_path: Path
) -> None:
    made()
    (alive,) = (tmp_path / "R").iterdir()
    left = tmp_path / "R" / ".clstr-left"
    (left / "1").mkdir(parents=True)
    (left / "1" / "file").touch()
    made()
    assert not left.exists()
    assert alive.exists()
    assert len(list((tmp_path / "R").iterdir())) == 2


def test_a_directory_that_cannot_be_used_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, why in (
        (tmp_path / "file", "not a directory"),
        (tmp_path / "file" / "R", "Not a directory"),
        (tmp_path / "none" / "R", "No such file or directory"),
    ):
        with pytest.raises(BadInput, match=f"^{path}: {why} .*--results"):
            Results(str(path), 1, lambda job: "")


def test_a_directory_that_disappears_meanwhile_is_an_error_that_names_it(
    made: Callable[[], Results], tmp_path: Path
) -> None:
    results = made()
    shutil.rmtree(tmp_path / "R")
    with pytest.raises(OSError, match=r"\.clstr-"):
        results.place(ATTEMPT)
