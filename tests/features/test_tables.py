"""The README's tables of other tools: the one of features is what was seen, the ones of flags lead to flags that exist.

The cells themselves are tried by hand: ``cells.py`` needs all the tools, and minutes.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from features.cells import BEGIN, END, ROWS, TABLE, TOOLS

from clstr.cli.flags import parser

README = (Path(__file__).parent.parent.parent / "README.md").read_text()
FLAGS = README.partition("### Their flags, and ours\n")[2].partition("\n## ")[0]


def cells(text: str) -> list[list[str]]:
    """The rows of the tables in a text, without heads and rules."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_of_the_readme_is_what_was_seen() -> None:
    assert README.partition(f"{BEGIN}\n")[2].partition(END)[0] == TABLE.read_text()


def test_every_row_was_tried_with_every_tool() -> None:
    _, _, *rows = cells(TABLE.read_text())
    assert [row[0] for row in rows] == [words for words, _, _ in ROWS]
    assert {cell for row in rows for cell in row[1:]} <= {"yes", "no", "-"}
    assert {len(row) for row in rows} == {1 + len(TOOLS)}


def ours() -> list[str]:
    """What the tables of flags say to write here."""
    spans = [span for _, here in cells(FLAGS) for span in re.findall(r"`([^`]+)`", here)]
    return list(dict.fromkeys(span for span in spans if span.startswith("-")))


def test_there_are_flags_for_each_of_the_tools() -> None:
    assert len(ours()) > 30
    assert re.findall(r"^\| (GNU parallel|pdsh|clush|pssh)", FLAGS, re.M) == ["GNU parallel", "pdsh", "clush", "pssh"]


@pytest.mark.parametrize("flags", ours())
def test_what_the_tables_of_flags_say_is_understood(flags: str) -> None:
    parser().parse(shlex.split(flags))
