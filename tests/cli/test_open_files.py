"""How many slots fit into a limit of open files."""

from __future__ import annotations

import pytest

from clstr.cli.open_files import costs, most
from clstr.model import Node, Slot


def slots(host: str, count: int) -> list[Slot]:
    return [Slot(Node(host, host), number) for number in range(1, count + 1)]


def test_a_connection_is_shared_by_five_slots() -> None:
    assert costs(slots("n1", 7), with_client=False) == [1, 0, 0, 0, 0, 1, 0]


def test_a_process_of_this_machine_takes_four_and_a_client_as_many_again_for_its_spare() -> None:
    assert costs([*slots(":", 1), *slots("n1", 2)], with_client=True) == [4, 8, 8]


def test_files_of_jobs_count_for_each_slot_and_copies_for_each_node() -> None:
    assert costs([*slots(":", 2), *slots("n1", 2)], with_client=False, files=3, copies=8) == [15, 7, 12, 3]


@pytest.mark.parametrize(
    ("each", "room", "fit"),
    [
        ([1] * 2000, 976, 976),
        ([1, 0, 0, 0, 0] * 3, 3, 15),
        ([1, 0, 0, 0, 0] * 3, 2, 2),  # those in use may be of three nodes
        ([1, 4, 1, 4], 5, 1),
        ([4], 3, 0),
        ([1] * 3, -7, 0),
        ([], 0, 0),
    ],
)
def test_what_fits_fits_whichever_slots_are_in_use(each: list[int], room: int, fit: int) -> None:
    assert most(each, room) == fit
