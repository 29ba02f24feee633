"""Node files that change, the slots that they come to, and what ``--push`` names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clstr.inputs.follow import Followed
from clstr.inputs.listing import Listing
from clstr.inputs.nodes import Entry, parse_node
from clstr.inputs.pushes import parse_push
from clstr.model import BadInput, Slot


def entries(*texts: str) -> list[Entry]:
    return [entry for text in texts for entry in parse_node(text, "nodes.txt")]


def names(slots: list[Slot]) -> str:
    return " ".join(f"{slot.node.text}/{slot.number}" for slot in slots)


# --- files that change -------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "nodes.txt"
    path.write_text("one\n")
    return path


def followed(path: Path) -> Followed[str]:
    return Followed([str(path)], path.read_text)


def test_files_that_stand_still_are_not_read(path: Path) -> None:
    looking = followed(path)
    assert [looking.changed() for _ in range(3)] == [None, None, None]


def test_a_change_is_read_once_when_it_has_stood_for_one_look(path: Path) -> None:
    looking = followed(path)
    path.write_text("half of\n")
    assert looking.changed() is None
    path.write_text("half of it no more\n")
    assert looking.changed() is None
    assert looking.changed() == "half of it no more\n"
    assert looking.changed() is None


def test_a_file_replaced_by_one_of_the_same_size_and_time_is_a_change(path: Path, tmp_path: Path) -> None:
    looking = followed(path)
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    (tmp_path / "new").write_text("two\n")
    os.utime(tmp_path / "new", ns=times)
    (tmp_path / "new").rename(path)
    assert [looking.changed() for _ in range(2)] == [None, "two\n"]


def test_a_change_that_cannot_be_read_is_reported_once_and_a_later_one_is_taken(path: Path) -> None:
    def read() -> str:
        if not path.exists():
            raise BadInput("nodes.txt: gone (bring it back)")
        return path.read_text()

    looking = Followed([str(path)], read)
    path.unlink()
    assert looking.changed() is None
    with pytest.raises(BadInput, match="gone"):
        looking.changed()
    assert [looking.changed() for _ in range(2)] == [None, None]
    path.write_text("two\n")
    assert [looking.changed() for _ in range(3)] == [None, "two\n", None]


def test_a_change_between_the_first_look_and_the_first_reading_is_noticed(path: Path) -> None:
    looking = followed(path)
    path.write_text("already another\n")
    assert [looking.changed() for _ in range(2)] == [None, "already another\n"]


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("-", str(tmp_path / "fifo"), str(tmp_path)):
        with pytest.raises(BadInput, match="no regular file"):
            Followed([name], lambda: "")


# --- the slots that are listed -----------------------------------------------------------------------------


def test_slots_join_and_leave_as_a_multiset() -> None:
    listing = Listing(entries("n1", "n2 slots=2", "n1"), follow=True)
    assert names(listing.slots) == "n1/1 n2/1 n2/2 n1/2"
    joined, left = listing.replace(entries("n1", "n3", "n2", "n1", "n1"))
    assert (names(joined), names(left)) == ("n3/1 n1/3", "n2/2")
    joined, left = listing.replace([])
    assert (names(joined), names(left)) == ("", "n1/1 n1/2 n1/3 n3/1 n2/1")
    joined, left = listing.replace(entries("n2 slots=2"))
    assert (names(joined), names(left)) == ("n2/1 n2/2", "")


def test_the_same_slots_in_another_order_are_no_change() -> None:
    listing = Listing(entries("n1 slots=2", "n2"))
    assert listing.replace(entries("n2", "n1", "n1")) == ([], [])


def test_auto_is_one_slot_until_the_node_has_answered() -> None:
    listing = Listing(entries("n1 slots=auto", "n1 slots=2", "n1 slots=auto", "n2"))
    assert names(listing.slots) == "n1/1 n1/2 n1/3 n1/4 n2/1"
    n1, n2 = (listing.slots[at].node for at in (0, -1))
    assert (listing.asks(n1), listing.asks(n2)) == (True, False)
    assert listing.found(n1, 8) == 14  # two entries of 8, two slots of which were listed


def test_slots_that_were_found_leave_with_their_entry_and_only_these() -> None:
    listing = Listing(entries("n1 slots=auto", "n1"), follow=True)
    listing.found(listing.slots[0].node, 3)
    joined, left = listing.replace(entries("n1"))
    assert (names(joined), names(left)) == ("", "n1/2 n1/3 n1/4")
    joined, left = listing.replace(entries("n1 slots=auto"))
    assert (names(joined), names(left)) == ("n1/2 n1/3", "")  # the answer is remembered


def test_a_node_that_turns_to_auto_later_has_answered_before() -> None:
    listing = Listing(entries("n1"), follow=True)
    node = listing.slots[0].node
    assert listing.asks(node)
    assert listing.found(node, 4) == 0
    joined, _ = listing.replace(entries("n1 slots=auto"))
    assert names(joined) == "n1/2 n1/3 n1/4"


def test_an_entry_counts_as_one_on_each_node() -> None:
    listing = Listing(entries("n1 slots=auto", "n1 slots=3"), one_each=True)
    assert names(listing.slots) == "n1/1 n1/2"
    assert not listing.asks(listing.slots[0].node)


def test_a_node_that_claims_more_processors_than_there_can_be_is_not_believed() -> None:
    listing = Listing(entries("n1 slots=auto"))
    assert listing.found(listing.slots[0].node, 10**9) == 9_999


@pytest.mark.parametrize(
    ("now", "says"),
    [
        (["n1 class=big"], "n1 had class=gpu when it was first listed"),
        (["n1"], "n1 had class=gpu"),
        (["n2", "n3 class=a", "n3 class=b"], "differ"),
    ],
)
def test_a_list_that_contradicts_itself_or_what_is_known_changes_nothing(now: list[str], says: str) -> None:
    listing = Listing(entries("n1 class=gpu"), follow=True)
    with pytest.raises(BadInput, match=says):
        listing.replace(entries(*now))
    assert listing.replace(entries("n1 class=gpu")) == ([], [])


def test_a_node_that_left_is_known_by_its_class_when_it_comes_back() -> None:
    listing = Listing(entries("n1 class=gpu"), follow=True)
    listing.replace([])
    with pytest.raises(BadInput, match="had class=gpu"):
        listing.replace(entries("n1 class=big"))


# --- what is pushed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "local", "remote"),
    [
        ("data", "data", ""),
        ("data:", "data", ""),
        ("data:place/x", "data", "place/x"),
        ("a:b", "a:b", ""),
        ("a:b:c", "a:b", "c"),
        ("data:x:y", "data", "x:y"),
        ("./data/.:x", "data", "x"),
    ],
)
def test_a_push_is_local_and_remote(
    text: str, local: str, remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "a:b").touch()
    assert parse_push(text) == (tmp_path / local, remote)


@pytest.mark.parametrize("text", ["", ":", ":x", "nosuch", "nosuch:x"])
def test_a_push_of_nothing_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="no such file"):
        parse_push(text)
