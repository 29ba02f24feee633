"""``--dry-run=condor``: the jobs as a submit file that HTCondor accepts, and that ``clstr --submit`` reads back.

- A command that is a program with a path and plain words is its executable and arguments. Any other shell line, and
  a program that a shell would look for, runs under ``/bin/sh -c``. Programs are those of the machine, as with clstr.
- Keys are sticky: each is written when it changes. Jobs that differ in their arguments only share a ``queue``.
- Nothing of a job is taken for a macro of HTCondor's: a ``$`` that would begin one is ``$(DOLLAR)``.
- What the form cannot hold is refused, with the file and line that it came from.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping

from clstr.cli.dry.refusals import check_flags, check_job, refuse
from clstr.model import BadInput, Job

SCHEDULER = "HTCondor"

MACRO = re.compile(r"\$(?=\w*\()", re.ASCII)

LATE_MACRO = re.compile(r"\$\$\w*\(", re.ASCII)
"""Filled in from the machine's attributes, and no escape for it holds inside of a longer value."""

SEPARATORS = re.compile(r"[\n\x1f]")
"""A line ends at the one, and an item of a ``queue`` list is split at the other, whatever the quotes."""

WORD = r"""(?:[\w@%+=:,./-]|'[^']*'|\\'|"[^"$`\\!]*")+"""

LITERAL = re.compile(f"{WORD}(?: {WORD})*", re.ASCII)
"""A line in which no shell finds anything to do but to take quotes away."""

PLAIN_WORD = re.compile(r"[^\s'\"]+")

NO_TIME_LIMIT = "HTCondor fails no job for its time"
HOLDS_INSTEAD = "drop it; allowed_execute_duration puts such a job on hold"

CLASSES = 'machines of a class must say so: Class = "gpu" and STARTD_ATTRS = $(STARTD_ATTRS) Class in their settings'
STARTS = "a job without remote_initialdir runs in a directory of HTCondor's, not in the home directory"
PRINTS = "what a job prints is dropped where output and error name no files for it"


class SubmitFile:
    """The file, job by job. Raises BadInput for what HTCondor has no words for."""

    def __init__(self, flags: argparse.Namespace, tokens: Mapping[str, int]) -> None:
        """``tokens``: the units that there are of each."""
        check_flags(flags, SCHEDULER)
        self._tokens = tokens
        if flags.timeout is not None:
            raise BadInput(f"--timeout: {NO_TIME_LIMIT} ({HOLDS_INSTEAD})")
        self._chdir: str | None = flags.chdir
        self._keys: dict[str, str] = {}
        self._first: str | None = None  # arguments of a job that waits to see whether the next one is like it
        self._listing = False
        self._remarks: dict[str, None] = {}

    def add(self, job: Job) -> bytes:
        """What of the body is settled by the next job."""
        check_job(job, SCHEDULER)
        if job.terms.timeout is not None:
            refuse(job, NO_TIME_LIMIT, HOLDS_INSTEAD)
        self._remark(job)
        said = _Words(job)
        keys, arguments = said.keys(self._chdir), said.arguments
        if keys != self._keys:
            settled = self._end_queue() + "".join(self._changes(keys))
            self._keys, self._first = keys, arguments
        elif self._listing:
            settled = f"{arguments}\n"
        else:
            settled = f"queue arguments from (\n{self._first}\n{arguments}\n"
            self._first, self._listing = None, True
        return settled.encode()

    def end(self) -> bytes:
        """The rest of the body. Raises BadInput for an empty list."""
        if not self._keys:
            raise BadInput("--dry-run=condor: no job is left to queue (name some)")
        return self._end_queue().encode()

    def head(self) -> bytes:
        """The comments at the top, and what holds for all jobs."""
        lines = ["for condor_submit, by clstr --dry-run=condor", *self._remarks]
        return "".join(f"# {line}\n" for line in lines).encode() + b"transfer_executable = false\n"

    def _end_queue(self) -> str:
        if self._listing:
            self._listing = False
            return ")\n"
        return "" if self._first is None else f"arguments = {self._first}\nqueue\n"

    def _changes(self, keys: dict[str, str]) -> Iterator[str]:
        """The lines that make these the keys in force; an empty value clears one."""
        yield "\n"
        for key in dict.fromkeys((*self._keys, *keys)):
            if keys.get(key) != self._keys.get(key):
                yield f"{key} = {keys.get(key, '')}".rstrip() + "\n"

    def _remark(self, job: Job) -> None:
        if job.terms.directory is None and self._chdir is None:
            self._remarks[STARTS] = None
        if job.job_class is not None:
            self._remarks[CLASSES] = None
        if job.terms.output is None:
            self._remarks[PRINTS] = None
        for name, _ in job.terms.tokens:
            self._remarks[f"the pool's settings must limit {name}: {name.upper()}_LIMIT = {self._tokens[name]}"] = None


class _Words:
    """What HTCondor is told of one job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        program, *arguments = _words(self._text(job.command, "the command"))
        self._program = program
        self.arguments = self._quoted(arguments)

    def keys(self, chdir: str | None) -> dict[str, str]:
        """All but the arguments."""
        job, terms = self._job, self._job.terms
        directory = self._bare(chdir if terms.directory is None else terms.directory, "the directory")
        if directory.startswith("~"):
            refuse(job, f"HTCondor does not know the home directory in {directory!r}", "write it from / on")
        said = {
            "executable": self._bare(self._program, "the program"),
            "+Name": self._string(job.name, "the name"),
            "+Class": self._string(job.job_class, "the class"),
            "requirements": "stringListMember(MY.Class, TARGET.Class)" if job.job_class is not None else "",
            "remote_initialdir": directory,
            "input": self._bare(terms.input, "the input"),
            "output": self._bare(terms.output, "the output"),
            "error": self._bare(terms.error, "the error"),
            "environment": self._environment(),
            "priority": str(terms.priority or ""),
            "max_retries": "" if job.budget is None else str(job.budget),
            "hold": "True" if terms.hold else "",
            "concurrency_limits": ", ".join(f"{name}:{units}" for name, units in terms.tokens),
        }
        return {key: value for key, value in said.items() if value}

    def _environment(self) -> str:
        pairs = self._job.terms.environment
        return self._quoted(f"{name}={self._text(value, name)}" for name, value in pairs) if pairs else ""

    def _quoted(self, words: Iterable[str]) -> str:
        """The words in HTCondor's new syntax: all in double quotes, doubled inside, single quotes around each."""
        quoted = (word if PLAIN_WORD.fullmatch(word) else "'" + word.replace("'", "''") + "'" for word in words)
        return '"' + self._escaped(" ".join(quoted).replace('"', '""')) + '"'

    def _bare(self, value: str | bytes | None, what: str) -> str:
        """A value that stands without quotes."""
        if value is None:
            return ""
        text = self._text(value, what)
        if text != text.strip() or text.endswith("\\"):
            refuse(self._job, f"{what} {text!r} begins or ends with what HTCondor drops", "name another")
        return self._escaped(text)

    def _string(self, value: str | None, what: str) -> str:
        """A value that is a string of HTCondor's ClassAd language."""
        if value is None:
            return ""
        text = self._text(value, what)
        return '"' + self._escaped(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'

    def _text(self, value: str | bytes, what: str) -> str:
        text = value if isinstance(value, str) else os.fsdecode(value)
        if not text.isprintable():
            self._check(text, what)
        return text

    def _check(self, text: str, what: str) -> None:
        if SEPARATORS.search(text):
            refuse(self._job, f"{what} has a newline or a unit separator in it", "put it into a script")
        try:
            text.encode()
        except UnicodeEncodeError:
            refuse(self._job, f"{what} has bytes that are not UTF-8", "put it into a script")

    def _escaped(self, text: str) -> str:
        if found := LATE_MACRO.search(text):
            refuse(self._job, f"HTCondor would fill {found[0]}...) in", "write it otherwise, or put it into a script")
        return MACRO.sub("$(DOLLAR)", text)


def _words(command: str) -> list[str]:
    """The program and its arguments; a shell's, unless the command is nothing but words as they are to be."""
    words = shlex.split(command) if LITERAL.fullmatch(command) else []
    if words and "/" in words[0] and "=" not in words[0]:
        return words
    return ["/bin/sh", "-c", command]
