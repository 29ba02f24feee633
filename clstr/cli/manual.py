"""The manual page clstr(1), made of the parser's flags and the README's sections whenever a wheel is built.

A hook of hatchling's (pyproject.toml), so that no page in the tree can grow stale; nothing of clstr imports this, and
no wheel contains it. Markdown is read by markdown-it; what is here is how its tokens are written in man(7).
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import textwrap
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from markdown_it import MarkdownIt
from markdown_it.token import Token

LEFT_OUT = {"Quick start", "Development", "Licences", "Changes"}
"""Sections that are about the checkout, and not about the command."""

SEE_ALSO = "ssh(1), ssh_config(5), parallel(1), pdsh(1), clush(1), sbatch(1)"

_ESCAPES = {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}
"""In code: what is copied from a page must be what was written."""


class ManualHook(BuildHookInterface):  # type: ignore[type-arg]
    """Puts the page into the wheel, as ``share/man/man1/clstr.1``."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before a wheel is built; ``version`` is ``standard`` or ``editable``."""
        sys.path.insert(0, self.root)  # nothing of the package is installed where it is built
        from clstr.cli.flags import SYNOPSIS, parser

        self._directory = tempfile.TemporaryDirectory()
        page = Path(self._directory.name) / "clstr.1"
        readme = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        day = time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())))
        metadata = self.metadata
        text = manual(parser(), SYNOPSIS, readme, metadata.version, metadata.core.description, day)
        page.write_text(text, encoding="utf-8")
        build_data["shared_data"][str(page)] = "share/man/man1/clstr.1"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Called when it is built."""
        self._directory.cleanup()


def manual(
    parser: argparse.ArgumentParser, synopsis: str, readme: str, version: str, purpose: str, day: time.struct_time
) -> str:
    """The page."""
    introduction, *sections = re.split(r"^## ", readme.partition("\n")[2], flags=re.M)
    kept = [section for section in sections if section.partition("\n")[0] not in LEFT_OUT]
    lines = [
        r"'\" t",  # for man: the page has tables
        f'.TH CLSTR 1 {time.strftime("%Y-%m-%d", day)} "clstr {version}"',
        ".SH NAME",
        rf"clstr \- {_plain(purpose)}",
        ".SH SYNOPSIS",
        *_code(synopsis),
        ".SH DESCRIPTION",
        *_markdown(introduction),
        ".SH OPTIONS",
        *_options(parser),
    ]
    for section in kept:
        lines += _markdown(f"## {section}")
    lines += [".SH SEE ALSO", SEE_ALSO]
    return "\n".join(lines) + "\n"


def _options(parser: argparse.ArgumentParser) -> list[str]:
    lines = []
    form = parser._get_formatter()
    for group in parser._action_groups:
        if not group._group_actions:
            continue
        lines.append(f".SS {_plain(group.title or '')}")
        if group.description:
            lines += _filled(_plain(group.description))
        for action in group._group_actions:
            lines += [".TP", _bold(form._format_action_invocation(action)), *_filled(_plain(action.help or ""))]
    lines.append(".SS terms")
    for paragraph in (parser.epilog or "").split("\n\n"):
        lines += [*_filled(_plain(paragraph)), ".PP"]
    return lines[:-1]


# --- Markdown in man(7) ------------------------------------------------------------------------------------


def _markdown(text: str) -> list[str]:
    tokens = MarkdownIt("commonmark", {"html": False}).enable("table").parse(text)
    lines: list[str] = []
    fresh = True  # behind a heading or the mark of an item stands no macro for a paragraph
    lists: list[int | None] = []  # of each the number that its next item gets; None: a bullet
    rows: list[list[str]] = []
    for before, token in pairwise([Token("", "", 0), *tokens]):
        match token.type:
            case "inline" if before.type == "heading_open":
                title = _inline(token)
                lines.append(f".SH {title.upper()}" if before.tag == "h2" else f".SS {title}")
                fresh = True
            case "inline" if before.type == "paragraph_open":
                lines += [*_apart(fresh, lists), *_filled(_inline(token))]
                fresh = False
            case "inline":
                rows[-1].append(_inline(token))
            case "fence" | "code_block":
                lines += [*_apart(fresh, lists), ".RS 2", *_code(token.content), ".RE"]
                fresh = False
            case "bullet_list_open" | "ordered_list_open":
                lines += [".RS 4"] if lists else []
                lists.append(None if token.type == "bullet_list_open" else int(token.attrGet("start") or 1))
            case "bullet_list_close" | "ordered_list_close":
                lists.pop()
                lines += [".RE"] if lists else []
            case "list_item_open":
                number = lists.pop()
                lines.append(r".IP \(bu 2" if number is None else f".IP {number}. 4")
                lists.append(None if number is None else number + 1)
                fresh = True
            case "table_open":
                rows = []
            case "tr_open":
                rows.append([])
            case "table_close":
                lines += _table(rows)
                fresh = False
            case _:
                pass
    return lines


def _apart(fresh: bool, lists: list[int | None]) -> list[str]:
    """What parts a block from the one before it; within an item the indentation must stay."""
    if fresh:
        return []
    return [".sp"] if lists else [".PP"]


def _table(rows: list[list[str]]) -> list[str]:
    columns = ["l", "lx"] if len(rows[0]) == 2 else ["lx"] * len(rows[0])
    lines = [".TS", "allbox;", f"{' '.join(columns)}."]
    for row in rows:
        lines.append("\t".join("\n".join(["T{", *_filled(cell), "T}"]) for cell in row))
    return [*lines, ".TE"]


def _inline(token: Token) -> str:
    """The text of a block, on one line, its fonts marked."""
    fonts = {"strong_open": r"\fB", "em_open": r"\fI", "strong_close": r"\fR", "em_close": r"\fR"}
    parts = []
    for child in token.children or ():
        match child.type:
            case "code_inline":
                parts.append(_bold(child.content))
            case "softbreak" | "hardbreak":
                parts.append(" ")
            case kind:
                parts.append(fonts.get(kind, _plain(child.content)))
    return "".join(parts)


def _bold(text: str) -> str:
    return rf"\fB{_escaped(text)}\fR"


def _escaped(text: str) -> str:
    return "".join(_ESCAPES.get(character, character) for character in text)


def _plain(text: str) -> str:
    """Prose: its flags must stay flags, its apostrophes may be typographic."""
    return re.sub(r"(?<![\w])-", r"\-", text.replace("\\", r"\e"))


def _code(text: str) -> list[str]:
    return [".EX", *(_guarded(_escaped(line)) for line in text.rstrip("\n").split("\n")), ".EE"]


def _filled(text: str) -> list[str]:
    words = " ".join(text.split())
    return [_guarded(line) for line in textwrap.wrap(words, 76, break_long_words=False, break_on_hyphens=False)]


def _guarded(line: str) -> str:
    """A line of text that begins like a macro is none."""
    return rf"\&{line}" if line.startswith((".", "'")) else line
