"""HTCondor's submit language: lines, macros and ``queue`` statements. What the keys mean is not known here.

- ``key = value``: what stands before the first ``=``, whole and in any case. ``+Name`` is ``MY.Name``. A line that
  ends in a backslash goes on in the next one, whose leading blanks are dropped; a comment does not go on.
- A macro stands for what its key has when a job is queued, so keys may be set in any order. A key that names itself
  gets what it had: ``arguments = $(arguments) -v``.
- ``queue``, ``queue N``, ``queue [N] [VAR,...] in (...)``, ``queue [N] [VAR,...] from FILE`` or ``from (...)``; a VAR
  left out is ``Item``. $(Process) counts through the file.
- Where HTCondor guesses, this does not: an undefined macro, a function of HTCondor's, ``if``, ``include`` and any
  other form of a line are errors, with file and line.

Text keeps the bytes of the file: what is not UTF-8 stands in it as surrogates.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from clstr.inputs import label, quoted, reason
from clstr.model import BadInput

MOST_JOBS = 1_000_000
"""The largest N of ``queue N``: more is a slip of the finger that would eat all memory."""

DEEPEST = 100
"""Macros inside of macros: more would be too deep for this program."""

MOST_MACROS = 100_000
"""Macros that are expanded for one value: a few that double again and again would take for ever."""

BLANKS = " \t\r\n\f\v"
"""What separates; anything beyond ASCII is text."""

_KEY = re.compile(r"\+?[A-Za-z_][A-Za-z0-9_.]*")
_MACRO = re.compile(r"\$(\$?[A-Za-z0-9_]*)\(")
_MACRO_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_QUEUE = re.compile(r"queue(?=\s|$)\s*(.*)", re.IGNORECASE | re.DOTALL)
_EACH = re.compile(r"(?:^|(?<=\s))(in|from|matching)(?=[\s(\[]|$)\s*(.*)", re.IGNORECASE | re.DOTALL)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_FORMS = "write queue, queue N, queue [N] VAR,... in (...), or queue [N] VAR,... from FILE"


@dataclass(frozen=True, slots=True)
class Setting:
    """What a key has, before its macros are expanded, and the line where it got it."""

    value: str
    line: int


@dataclass(frozen=True, slots=True)
class Queued:
    """A job as it was queued: every key, with what it had then."""

    file: str
    line: int
    number: int  # $(Process)
    settings: Mapping[str, Setting]
    own: Mapping[str, str]  # what $(Process), $(Item) and so on are
    environment: Mapping[str, str] = field(repr=False)

    def value(self, key: str) -> str:
        """What the key has, with all macros expanded; "" where it has nothing. A variable of ``queue`` may be a key."""
        if key in self.own:
            return _Macros(self.file, self).expand(self.own[key], self.line)
        setting = self.settings.get(key)
        if setting is None or "$" not in setting.value:
            return "" if setting is None else setting.value
        return _Macros(self.file, self).expand(setting.value, setting.line)

    def origin(self, key: str | None = None) -> str:
        """``FILE:LINE`` of the key, or of the ``queue`` statement."""
        setting = None if key is None or key in self.own else self.settings.get(key)
        return f"{self.file}:{self.line if setting is None else setting.line}"


def queued(text: str, path: str, cluster: int, environment: Mapping[str, str]) -> Iterator[Queued]:
    """The jobs of a submit file, in order. Raises BadInput."""
    return _File(text, label(path), cluster, environment).jobs()


def decoded(data: bytes) -> str:
    """Text that keeps the bytes."""
    return data.decode("utf-8", "surrogateescape")


def key_of(text: str) -> str:
    """A key as it is looked up."""
    return (f"MY.{text[1:]}" if text.startswith("+") else text).lower()


class _File:
    def __init__(self, text: str, name: str, cluster: int, environment: Mapping[str, str]) -> None:
        self._lines = text.removeprefix("\ufeff").split("\n")
        self._at = 0  # lines read so far, which is the number of the last one
        self._name = name
        self._environment = environment
        self._own = {"dollar": "$", "cluster": str(cluster), "clusterid": str(cluster)}
        self._settings: dict[str, Setting] = {}
        self._count = 0

    def jobs(self) -> Iterator[Queued]:
        """All that is queued, in order."""
        for number, row in enumerate(self._lines, 1):
            if "\0" in row:
                self._refuse(number, "NUL byte in a submit file (drop it)")
        has_queued = False
        while (found := self._statement()) is not None:
            text, line = found
            queue = _QUEUE.fullmatch(text)
            if queue is None:
                self._set(text, line)
            else:
                has_queued = True
                yield from self._queue(queue[1], line)
        if not has_queued:
            raise BadInput(f"{self._name}: no queue statement (write queue behind the keys of a job)")

    def _next(self) -> str | None:
        """The next line, trimmed, that is not blank and no comment."""
        while self._at < len(self._lines):
            line = self._lines[self._at].strip(BLANKS)
            self._at += 1
            if line and not line.startswith("#"):
                return line
        return None

    def _statement(self) -> tuple[str, int] | None:
        """The next line with those that it goes on in, and its number."""
        text = self._next()
        if text is None:
            return None
        line = self._at
        while text.endswith("\\"):
            if self._at == len(self._lines):
                self._refuse(line, "the last line ends in a backslash (drop it, or write the line that it goes on in)")
            text = text[:-1] + self._lines[self._at].strip(BLANKS)
            self._at += 1
        return text, line

    def _set(self, text: str, line: int) -> None:
        key, equals, value = text.partition("=")
        key, value = key.strip(BLANKS), value.strip(BLANKS)
        if not equals:
            self._refuse(line, f"{quoted(text)} is neither KEY = VALUE nor queue (write one of them)")
        if not _KEY.fullmatch(key):
            self._refuse(line, f"bad key {quoted(key)} (write KEY = VALUE; there is no if, no include and no @=)")
        name = key_of(key)
        if "$(" in value:
            value = self._with_own(key, value, line)
        self._settings[name] = Setting(value, line)

    def _with_own(self, key: str, value: str, line: int) -> str:
        """A macro of the key itself is what it had, so it is put in now; the others wait until a job is queued."""
        before = self._settings.get(key_of(key))

        def had(found: re.Match[str]) -> str:
            if found[1] is None and before is None:
                self._refuse(line, f"{found[0]} is not defined yet (set {key} first, or write $({key}:DEFAULT))")
            return (before and before.value) or found[1] or ""

        return re.sub(rf"\$\({re.escape(key)}(?::([^()]*))?\)", had, value, flags=re.IGNORECASE)

    # --- queue ---------------------------------------------------------------------------------------------

    def _queue(self, text: str, line: int) -> Iterator[Queued]:
        text = self._macros(line, {}).expand(text, line).strip(BLANKS)
        each = _EACH.search(text)
        head = text if each is None else text[: each.start()]
        words = _split(head)
        count = 1
        if words and not _VARIABLE.fullmatch(words[0]):
            count = self._number(words.pop(0), line)
        if each is None and words:
            self._refuse(line, f"cannot read {quoted(f'queue {text}')} ({_FORMS})")
        for word in words:
            if not _VARIABLE.fullmatch(word):
                self._refuse(line, f"bad variable {quoted(word)} of queue ({_FORMS})")
        names = words or ["Item"]
        rows = [""] if each is None else self._rows(each[1].lower(), each[2], line)
        settings = dict(self._settings)  # later lines change nothing for these jobs
        for index, row in enumerate(rows):
            values = {} if each is None else _bound(names, row)
            for step in range(count):
                own = {**values, "step": str(step), "row": str(index), "itemindex": str(index)}
                yield self._job(line, settings, own)

    def _job(self, line: int, settings: Mapping[str, Setting], own: Mapping[str, str]) -> Queued:
        number = self._count
        self._count += 1
        own = {**own, **self._own, "process": str(number), "procid": str(number)}
        return Queued(self._name, line, number, settings, own, self._environment)

    def _macros(self, line: int, own: Mapping[str, str]) -> _Macros:
        job = Queued(self._name, line, self._count, self._settings, {**self._own, **own}, self._environment)
        return _Macros(self._name, job)

    def _number(self, word: str, line: int) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", word) or int(word) > MOST_JOBS:
            self._refuse(line, f"bad number {quoted(word)} of queue ({_FORMS})")
        return int(word)

    def _rows(self, how: str, what: str, line: int) -> list[str]:
        """The items of ``in`` and ``from``, one for each row of jobs."""
        if how == "matching" or what.startswith("["):
            form = "matching" if how == "matching" else "a slice"
            self._refuse(line, f"queue with {form} is not known here (list the items: {_FORMS})")
        if what.startswith("("):
            rows = self._listed(what[1:], line)
        elif how == "in":
            self._refuse(line, f"no (...) behind 'in' ({_FORMS})")
        else:
            rows = self._from_file(what, line)
        return [item for row in rows for item in _split(row)] if how == "in" else rows

    def _listed(self, text: str, line: int) -> list[str]:
        """What stands in brackets: on this line, or on the lines up to one with the closing bracket alone."""
        text = text.strip(BLANKS)
        if text.endswith(")"):
            return [text[:-1].strip(BLANKS)] if text[:-1].strip(BLANKS) else []
        rows = [text] if text else []
        while (row := self._next()) is not None:
            if row == ")":
                return rows
            rows.append(row)
        self._refuse(line, "the list of queue has no end (write ')' on a line of its own behind it)")

    def _from_file(self, path: str, line: int) -> list[str]:
        if not path or path.endswith("|"):
            self._refuse(line, f"no file behind 'from' ({_FORMS})")
        try:
            with open(path, "rb") as file:
                rows = [row.strip(BLANKS) for row in decoded(file.read()).split("\n")]
        except OSError as error:
            self._refuse(line, f"{label(path)}: {reason(error)} (queue ... from needs a file with an item a line)")
        if any("\0" in row for row in rows):
            self._refuse(line, f"{label(path)}: NUL byte in an item (drop it)")
        return [row for row in rows if row and not row.startswith("#")]

    def _refuse(self, line: int, what: str) -> NoReturn:
        raise BadInput(f"{self._name}:{line}: {what}")


def _split(text: str) -> list[str]:
    return [word for word in re.split(f"[{BLANKS},]", text) if word]


def _bound(names: list[str], row: str) -> dict[str, str]:
    """What the variables of ``queue`` are in a row: each a word, up to a comma or a blank, and the last the rest."""
    values = []
    for _ in names[1:]:
        value, _, row = re.split(r"([ \t,]|$)", row, maxsplit=1)
        values.append(value)
        row = row.lstrip(" \t")
    return {name.lower(): value for name, value in zip(names, [*values, row], strict=True)}


class _Macros:
    """Expands the macros of a job."""

    def __init__(self, file: str, job: Queued) -> None:
        self._file = file
        self._job = job
        self._line = 0
        self._count = 0

    def expand(self, text: str, line: int, above: tuple[str, ...] = ()) -> str:
        """The text, which stands in that line, with its macros expanded. Raises BadInput."""
        outer, self._line = self._line, line
        done: list[str] = []
        at = 0
        while (found := _MACRO.search(text, at)) is not None:
            end = _closing(text, found.end())
            if end is None:
                self._refuse(f"{quoted(text[found.start() :])} has no ')' (write $(DOLLAR) for a '$' before '(')")
            self._count += 1
            if self._count > MOST_MACROS:
                self._refuse(f"more than {MOST_MACROS:,} macros in one value (write fewer)")
            done += [text[at : found.start()], self._value(found[1], text[found.end() : end], above)]
            at = end + 1
        self._line = outer
        return "".join(done) + text[at:]

    def _value(self, function: str, body: str, above: tuple[str, ...]) -> str:
        name, colon, default = body.partition(":")
        shown = f"${function}({name})"
        if function not in ("", "ENV") or not _MACRO_NAME.fullmatch(name):
            self._refuse(f"{quoted(shown)} is not known here (write $(NAME), $(NAME:DEFAULT) or $ENV(NAME))")
        if name.lower() in above:
            self._refuse(f"{shown} is in its own value (break the circle)")
        if len(above) >= DEEPEST:
            self._refuse(f"{shown} is inside of more than {DEEPEST} other macros (write fewer)")
        inner = (*above, name.lower())
        value = self._environment(name) if function else self._macro(name.lower(), inner)
        if colon and not value:
            return self.expand(default, self._line, (*above, ""))
        if value is None:
            cure = f"set {name}, or write ${function}({name}:DEFAULT)"
            self._refuse(f"{shown} is not defined ({cure})")
        return value

    def _environment(self, name: str) -> str | None:
        return self._job.environment.get(name)

    def _macro(self, name: str, above: tuple[str, ...]) -> str | None:
        own = self._job.own.get(name)
        if own is not None:
            return self.expand(own, self._line, above) if name not in _FIXED else own
        setting = self._job.settings.get(name)
        return None if setting is None else self.expand(setting.value, setting.line, above)

    def _refuse(self, what: str) -> NoReturn:
        raise BadInput(f"{self._file}:{self._line}: {what}")


_FIXED = {"dollar"}
"""What is not looked at again: it would be the '$' of another macro."""


def _closing(text: str, at: int) -> int | None:
    """Where the bracket is that closes the one before ``at``."""
    depth = 1
    for index in range(at, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if not depth:
            return index
    return None
