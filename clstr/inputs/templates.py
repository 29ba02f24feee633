"""Templates in jobs: ``--var``, ``--matrix``, ``--times``, and ``{MACHINE}``.

- ``{NAME}`` is replaced where NAME is defined, in one pass: what a value holds is not looked at again. Every other
  brace is left alone, and so is one behind ``$``: ``${NAME}`` is the shell's. ``{"MACHINE"}`` reaches the shell.
- A job that names matrix keys is expanded over the product of their values, the first key of the command line
  slowest; each combination is run ``times`` in a row. A matrix key wins over a variable of its name.
- The product is walked through as jobs are asked for, and never held in memory.
- Values of variables may be secrets: they go into ``Job.parts`` alone, and into no message.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple, TypeAlias

from clstr.model import BadInput, Machine, Parts

_NAME = re.compile(rb"(?<!\$)\{([A-Za-z_][A-Za-z0-9_]*)\}")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_MACHINE = "MACHINE"

Quote: TypeAlias = Callable[[bytes], bytes]

Piece: TypeAlias = bytes | str
"""A literal part of a command, or the name of what is put there."""


class Expanded(NamedTuple):
    """One job of a template: what ``Job`` has under these names."""

    command: bytes
    parts: Parts | None = None
    matrix: tuple[str | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Templates:
    """What is defined for all jobs of a run.

    ``longest_node`` is the length of the longest text that ``{MACHINE}`` may become.
    """

    variables: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    matrix: Mapping[str, Sequence[str]] = field(default_factory=dict)
    times: int = 1
    longest_node: int = 0
    _named: set[str] = field(default_factory=set, init=False)

    def check(self, command: bytes, where: str, longest: int) -> None:
        """Raise BadInput for a command that is empty, or of more than ``longest`` bytes, in some combination."""
        pieces = self._pieces(command)
        self._named.update(self._keys(pieces))
        if all(any(not text.strip() for text in self._choices(piece)) for piece in pieces):
            raise BadInput(f"{where}: empty command (give a shell line)")
        if sum(max(map(len, self._choices(piece))) for piece in pieces) > longest:
            raise BadInput(f"{where}: job of more than {longest:,} bytes (put it into a script on the nodes)")

    def count(self, command: bytes) -> int:
        """How many jobs the command is."""
        return self.times * math.prod(len(self.matrix[key]) for key in self._keys(self._pieces(command)))

    def expand(self, command: bytes) -> Iterable[Expanded]:
        """The jobs of the command, in order."""
        if b"{" not in command:  # nearly every line of a long file
            return [Expanded(command, None, (None,) * len(self.matrix))] * self.times
        return (expanded for expanded in self.combinations(command) for _ in range(self.times))

    def combinations(
        self, command: bytes, name: bytes = b"", quote: Quote = bytes
    ) -> Iterator[Expanded]:
        """The combinations of the keys that a command, or the name of its job, names.

        A value goes through ``quote`` before it is put into the command.
        """
        pieces = self._pieces(command)
        keys = self._keys([*pieces, *self._pieces(name)])
        self._named.update(keys)
        for values in product(*(self.matrix[key] for key in keys)):
            chosen = dict(zip(keys, values, strict=True))
            yield Expanded(
                b"".join(_shown(piece, chosen, quote) for piece in pieces),
                self._parts(pieces, chosen, quote),
                tuple(chosen.get(key) for key in self.matrix),
            )

    def named(self, text: bytes, matrix: Sequence[str | None]) -> bytes:
        """The text with these values of the matrix keys, and nothing else, put in."""
        chosen = {key: value for key, value in zip(self.matrix, matrix, strict=True) if value is not None}
        return b"".join(_shown(piece, chosen, bytes) for piece in self._pieces(text))

    def check_named(self) -> None:
        """Raise BadInput for a matrix key that no job has named that was checked or expanded so far."""
        for key in self.matrix:
            if key not in self._named:
                raise BadInput(f"--matrix {key}: no job names {{{key}}} (write it into the command, or drop the key)")

    def hidden(self) -> tuple[tuple[str, str], ...]:
        """The values of variables as text, each with its ``{NAME}``; the longest first, since one may hold another."""
        texts = [(value.decode("utf-8", "replace"), f"{{{name}}}") for name, value in self.variables.items() if value]
        return tuple(sorted(texts, key=lambda pair: -len(pair[0])))

    def _pieces(self, command: bytes) -> list[Piece]:
        """The command in literal parts and the names that are defined."""
        pieces: list[Piece] = []
        literal = b""
        for index, piece in enumerate(_NAME.split(command)):
            if index % 2 == 0:
                literal += piece
            elif (name := piece.decode()) == _MACHINE or name in self.matrix or name in self.variables:
                pieces += [literal, name] if literal else [name]
                literal = b""
            else:
                literal += b"{%s}" % piece
        return [*pieces, literal] if literal else pieces

    def _keys(self, pieces: Sequence[Piece]) -> list[str]:
        """The matrix keys among the pieces, in the order of the command line."""
        return [key for key in self.matrix if key in pieces]

    def _choices(self, piece: Piece) -> Sequence[bytes]:
        """All that may stand for the piece."""
        if isinstance(piece, bytes):
            return [piece]
        if piece in self.matrix:
            return [os.fsencode(value) for value in self.matrix[piece]]
        return [self.variables[piece] if piece in self.variables else b"x" * max(1, self.longest_node)]

    def _parts(self, pieces: Sequence[Piece], chosen: Mapping[str, str], quote: Quote) -> Parts | None:
        """What is sent, where that is not what is shown."""
        parts: list[bytes | Machine] = []
        differs = False
        for piece in pieces:
            if isinstance(piece, bytes) or piece in chosen:
                text = _shown(piece, chosen, quote)
            elif piece == _MACHINE:
                differs = True
                parts.append(Machine.MACHINE)
                continue
            else:
                differs = True
                text = quote(self.variables[piece])
            if parts and isinstance(parts[-1], bytes):
                parts[-1] += text
            else:
                parts.append(text)
        return tuple(parts) if differs else None


def _shown(piece: Piece, chosen: Mapping[str, str], quote: Quote) -> bytes:
    """The piece as it is shown: names of variables stay."""
    if isinstance(piece, bytes):
        return piece
    return quote(os.fsencode(chosen[piece])) if piece in chosen else b"{%s}" % piece.encode()


# --- flags -------------------------------------------------------------------------------------------------


def parse_variables(texts: Sequence[str], environment: Mapping[str, str]) -> dict[str, bytes]:
    """The values of ``--var`` texts. Raises BadInput, in which no value stands."""
    variables: dict[str, bytes] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        shown = f"--var {name if equals or _IDENTIFIER.fullmatch(name) else '...'}"
        _check_name(name, shown, variables)
        if not equals:
            if name not in environment:
                raise BadInput(f"{shown}: the environment has no {name} (set it, or write --var {name}=VALUE)")
            value = environment[name]
        variables[name] = os.fsencode(value)
    return variables


def parse_matrix(texts: Sequence[str]) -> dict[str, list[str]]:
    """The values of ``--matrix`` texts, in order; ``\\,`` is a comma in a value. Raises BadInput."""
    matrix: dict[str, list[str]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        shown = f"--matrix {key if key.isprintable() else ascii(key)}"
        if not equals or not values:
            raise BadInput(f"{shown}: no values (write KEY=V1,V2,...)")
        _check_name(key, shown, matrix)
        # No argument of a program holds a NUL.
        matrix[key] = [value.replace("\0", ",") for value in values.replace("\\,", "\0").split(",")]
    return matrix


def _check_name(name: str, shown: str, taken: Mapping[str, object]) -> None:
    shown = shown if shown.isprintable() else ascii(shown)
    if not _IDENTIFIER.fullmatch(name):
        raise BadInput(f"{shown}: bad name (letters, digits and '_' make one, and no digit begins it)")
    if name == _MACHINE:
        raise BadInput(f"{shown}: {{MACHINE}} is the node's name (name it otherwise)")
    if name in taken:
        raise BadInput(f"{shown}: is given twice (give it once)")
