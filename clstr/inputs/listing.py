"""The nodes of a run and the slots that they come to, as they change while it goes on.

Two things change them: what a node answers to ``slots=auto``, and the node files under ``--follow``. A node's slots
are always numbered from 1 without a gap, so a change of its entries adds or takes away the highest numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from clstr.inputs.nodes import MOST_SLOTS, Entry, slots_of
from clstr.model import BadInput, Node, Slot


class Listing:
    """What is listed now. Every method is called on the thread of the loop."""

    def __init__(self, entries: Sequence[Entry], one_each: bool = False, follow: bool = False) -> None:
        """``one_each``: an entry is one slot; ``follow``: the list may change. Raises BadInput."""
        self._one_each = one_each
        self._follow = follow
        self._processors: dict[Node, int] = {}
        self._classes: dict[Node, tuple[str, ...]] = {}
        self.slots = slots_of(entries, one_each)
        """The slots of the beginning, in listed order."""
        self._take(entries, self.slots)

    def _take(self, entries: Sequence[Entry], slots: Sequence[Slot]) -> None:
        self._auto = Counter(entry.node for entry in entries if entry.auto and not self._one_each)
        self._size = Counter(slot.node for slot in slots)
        self._classes |= {entry.node: entry.node.classes for entry in entries}

    def is_auto(self, node: Node) -> bool:
        """Has the node an entry with ``slots=auto``?"""
        return node in self._auto

    def asks(self, node: Node) -> bool:
        """Is the node to be asked how many processors it has? The next list may want to know, if there may be one."""
        return self._follow or self.is_auto(node)

    def found(self, node: Node, processors: int) -> int:
        """The node has so many processors: gives how many slots more than were listed it has for that."""
        self._processors[node] = min(processors, MOST_SLOTS)
        more = self._auto[node] * (self._processors[node] - 1)
        self._size[node] += more
        return more

    def replace(self, entries: Sequence[Entry]) -> tuple[list[Slot], list[Slot]]:
        """These are the entries from now on: gives the slots that have joined and those that have left.

        Raises BadInput, having changed nothing, for entries that do not go together or with what the run knows.
        """
        for entry in entries:
            known = self._classes.get(entry.node, entry.node.classes)
            if known != entry.node.classes:
                was = f"class={','.join(known)}" if known else "no class"
                cure = "a node keeps its classes while a run lasts"
                raise BadInput(f"{entry.origin}: {entry.node.text} had {was} when it was first listed ({cure})")
        slots = slots_of(entries, self._one_each, self._processors)
        before = self._size
        self._take(entries, slots)
        joined = [slot for slot in slots if slot.number > before[slot.node]]
        left = [
            Slot(node, number)
            for node, size in before.items()
            for number in range(self._size[node] + 1, size + 1)
        ]
        return joined, left
