"""What the flags do to each other: nothing. Each sets its own value (JRS's -m fell through into -x)."""

from __future__ import annotations

import contextlib

import pytest

from clstr.cli.flags import parser
from clstr.model import BadInput

WORDS = ((), ("7",), ("strict",), ("bash",), ("always",), ("A=b",))
"""What may follow a flag; one of these is good for each of them."""

FLAGS = {
    flag: action.dest
    for action in parser()._actions
    if action.dest not in ("help", "version")
    for flag in action.option_strings
}
"""Every name of every flag, with the value that it is to set."""


def test_there_are_flags() -> None:
    assert {"-m", "--max-nodes", "--fanout", "--dry-run"} <= FLAGS.keys()


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_sets_its_own_value_and_no_other(flag: str) -> None:
    unset = vars(parser().parse([]))
    for words in WORDS:
        with contextlib.suppress(BadInput):
            given = vars(parser().parse([flag, *words]))
            assert {name for name, value in given.items() if value != unset[name]} == {FLAGS[flag]}
            return
    pytest.fail(f"none of {WORDS} is good for {flag}")
