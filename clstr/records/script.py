"""``NAME.run`` of a run directory: a shell script that runs one job again, through clstr and under the same conditions.

- It names the nodes as the run did, from the directory in which the run was started; a job of ``--on-each-node`` has
  its one node, and so has any other whose nodes came from standard input.
- It holds no value of ``--var``: it names the variables that the job has, and takes them from its environment.
- A job with a standard input of its own goes in as a submit file, which alone can say so.
- What follows the script's name are further flags: ``./NAME.run -v``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from clstr.model import Attempt, Job


@dataclass(frozen=True, slots=True)
class Script:
    """Makes the scripts of a run."""

    directory: str
    program: Sequence[str]
    nodes: Sequence[str]  # flags and their values; none where they came from standard input
    conditions: Sequence[str]
    variables: Sequence[str]  # names

    def of(self, attempt: Attempt) -> bytes:
        """The script of the attempt's job."""
        job, node = attempt.job, attempt.slot.node
        nodes = self.nodes
        if job.pin is not None or not nodes:
            nodes = ["-n", f"{node.text} class={','.join(node.classes)}" if node.classes else node.text]
        words = [*self.program, *nodes, *self.conditions, *self._terms(job)]
        named = [name for name in self.variables if f"{{{name}}}".encode() in job.command]
        words += [word for name in named for word in ("--var", name)]
        words += ["--retries", "0"]
        origin = re.sub(r"[^ -~]", "?", f"{job.name or 'job ' + str(job.id)}, from {job.origin}")
        head = f"#!/bin/sh\n# {origin}\ncd {shlex.quote(self.directory)} || exit\nexec {shlex.join(words)} "
        return head.encode("utf-8", "surrogateescape") + _job(job)

    def _terms(self, job: Job) -> list[str]:
        words = []
        if job.job_class is not None:
            words += ["--class", job.job_class]
        if job.terms.directory is not None:
            words += ["--chdir", job.terms.directory.decode("utf-8", "surrogateescape")]
        if job.terms.timeout is not None:
            words += ["--timeout", f"{job.terms.timeout:f}"]
        return words


def _job(job: Job) -> bytes:
    environment = [b"%s=%s" % (name.encode(), _quoted(value)) for name, value in job.terms.environment]
    command = b" ".join([b"env", *environment, job.command]) if environment else job.command
    if job.terms.input is None:
        flag = b"--job=" if job.pin is None else b"--on-each-node="
        return b'%s%s "$@"\n' % (flag, _quoted(command))
    return b"-S - \"$@\" <<'CLSTR'\nexecutable = /bin/sh\narguments = \"-c '%s'\"\ninput = %s\nqueue\nCLSTR\n" % (
        _in_arguments(command),
        _no_macros(job.terms.input.encode("utf-8", "surrogateescape")),
    )


def _quoted(text: bytes) -> bytes:
    return b"'" + text.replace(b"'", b"'\"'\"'") + b"'"


def _in_arguments(text: bytes) -> bytes:
    """Within single quotes within the double quotes of a submit file's ``arguments``."""
    return _no_macros(text).replace(b'"', b'""').replace(b"'", b"''")


def _no_macros(text: bytes) -> bytes:
    return text.replace(b"$", b"$(DOLLAR)")
