"""What is run: from the flags that name jobs to the jobs of submit files and a stream of the others.

Ids follow the order ``-j``, ``-S``, ``-J``. Submit files are read whole, because their jobs wait for each other; ``-j``
and ``-J`` come as they are asked for. Whatever is wrong with what was read is found here, before anything is connected.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clstr.model import BadInput, Job, Node

if TYPE_CHECKING:
    from clstr.inputs.jobs import JobStream, PinnedJobs
    from clstr.inputs.templates import Expanded, Templates


@dataclass(frozen=True, slots=True)
class Work:
    """The jobs of a run."""

    source: JobStream | PinnedJobs
    submitted: list[Job]
    """Those of submit files, whose ids follow each other; they are counted as seen by the source."""

    tokens: Mapping[str, int]
    warnings: list[str]


def read_work(
    flags: argparse.Namespace, nodes: Sequence[Node], templates: Templates, read_stdin: Callable[[], bytes]
) -> Work:
    """The work, for these nodes. Raises BadInput."""
    from clstr.inputs import jobs
    from clstr.transport import MAX_COMMAND

    if flags.on_each_node is not None:
        command = os.fsencode(flags.on_each_node)
        budget = flags.retries or 0
        pinned = jobs.PinnedJobs(command, nodes, longest=MAX_COMMAND, budget=budget, templates=templates)
        return Work(pinned, [], {}, [])
    commands = [os.fsencode(text) for text in flags.job]
    jobs.check_files(flags.job_file)
    submitted: list[Job] = []
    warnings: list[str] = []
    tokens: dict[str, int] = {}
    if flags.submit:
        from clstr.inputs.submit import Settings, parse_tokens, read_submit_files

        tokens = parse_tokens(flags.token)
        settings = Settings(templates, MAX_COMMAND, flags.retries, flags.job_class, tokens, flags.only)
        first = sum(map(templates.count, commands)) + 1
        submitted, warnings = read_submit_files(flags.submit, first, settings, read_stdin, os.environ)
    source = jobs.JobStream(
        commands,
        flags.job_file,
        null=flags.null,
        longest=MAX_COMMAND,
        budget=flags.retries,
        job_class=flags.job_class,
        templates=templates,
        listed=len(submitted),
    )
    return Work(source, submitted, tokens, warnings)


def read_templates(flags: argparse.Namespace, nodes: Sequence[Node]) -> Templates:
    """What is put in the place of names. Raises BadInput."""
    from clstr.inputs.templates import Templates, parse_matrix, parse_variables

    longest = max((len(os.fsencode(node.text)) for node in nodes), default=0)
    return Templates(parse_variables(flags.var, os.environ), parse_matrix(flags.matrix), flags.times, longest)


def read_setup(flags: argparse.Namespace, templates: Templates) -> tuple[Expanded, ...]:
    """The setup commands, with variables and ``{MACHINE}``. Raises BadInput."""
    from clstr.inputs.templates import Templates
    from clstr.transport import MAX_COMMAND

    of_nodes = Templates(templates.variables, longest_node=templates.longest_node)
    setup: list[Expanded] = []
    for text in flags.setup:
        command = os.fsencode(text)
        of_nodes.check(command, "--setup", MAX_COMMAND)
        setup += of_nodes.expand(command)
    return tuple(setup)


def check_work(flags: argparse.Namespace) -> None:
    """Raise BadInput for flags that do not go together."""
    if flags.on_each_node is None and not flags.job and not flags.job_file and not flags.submit:
        raise BadInput("no jobs (name them with -j CMD, -J FILE, -S FILE or -E CMD; the words behind -n are nodes)")
    if flags.on_each_node is not None:
        for given, flag in (
            (flags.job, "--job"),
            (flags.job_file, "--job-file"),
            (flags.submit, "--submit"),
            (flags.max_node_uses, "--max-node-uses"),
            (flags.null, "--null"),
            (flags.follow, "--follow"),
        ):
            if given:
                raise BadInput(f"--on-each-node does not go with {flag} (drop one of them)")
    for text in flags.job:
        if text.isdigit():
            raise BadInput(f"--job: {text!r} is no command (jobs at once: slots=N behind a node, or -m N for all)")
    if not flags.submit:
        for given, flag in ((flags.token, "--token"), (flags.only, "--only")):
            if given:
                raise BadInput(f"{flag} needs --submit, whose jobs it speaks of (name a submit file, or drop it)")
    elif flags.times > 1 and not flags.job and not flags.job_file:
        raise BadInput("--times is for -j, -J and -E (write queue N in the submit file)")
