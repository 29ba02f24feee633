"""Which mode the flags ask for."""

from __future__ import annotations

from clstr.output.console import Console
from clstr.output.merge import Merge, Mode


def mode(console: Console, *, tag: bool, group: bool, keep_order: bool, fold: bool) -> Mode:
    """The mode; which flags go together was checked before."""
    if fold:
        from clstr.output.fold import Fold

        return Fold(console)
    if group or keep_order:
        from clstr.output.group import Group

        return Group(console, tag=tag, order=keep_order)
    return Merge(console, tag=tag)
