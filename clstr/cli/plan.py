"""From flags to a run that is checked and ready: whatever is wrong with the input is found here."""

from __future__ import annotations

import argparse
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clstr.cli.work import Work, check_work, read_setup, read_templates, read_work
from clstr.model import BadInput, Node, Slot

if TYPE_CHECKING:
    from clstr.cli.records import Records
    from clstr.inputs.follow import Followed
    from clstr.inputs.jobs import JobStream, PinnedJobs
    from clstr.inputs.listing import Listing
    from clstr.inputs.nodes import Entry
    from clstr.inputs.templates import Templates
    from clstr.output.console import Files
    from clstr.runner import Steps
    from clstr.transport.external import Client


@dataclass(frozen=True, slots=True)
class Plan:
    """A run, checked and ready: nothing is connected yet, but files are open."""

    flags: argparse.Namespace
    slots: list[Slot]
    work: Work
    steps: Steps
    listing: Listing
    followed: Followed[list[Entry]] | None
    order: random.Random
    files: Files
    client: Client | None  # of --ssh
    records: Records

    @property
    def source(self) -> JobStream | PinnedJobs:
        """The jobs that come as they are asked for."""
        return self.work.source


def make_plan(flags: argparse.Namespace) -> Plan:
    from clstr.cli.records import open_records
    from clstr.inputs import nodes
    from clstr.inputs.follow import Followed
    from clstr.inputs.listing import Listing
    from clstr.output.console import open_files

    _check_combinations(flags)
    left_out = nodes.read_excluded(flags.exclude, flags.exclude_file, _read_stdin)
    followed = Followed(flags.node_file, lambda: _entries(flags, left_out)) if flags.follow else None
    entries = [] if flags.dry_run and not _names_nodes(flags) else _entries(flags, left_out)
    listing = Listing(entries, one_each=flags.on_each_node is not None, follow=flags.follow)
    listed = [entry.node for entry in entries]
    client = _client(flags, listed)
    templates = read_templates(flags, listed)
    work = read_work(flags, listed, templates, _read_stdin)
    if flags.no_leash and (job := next((job for job in work.submitted if job.terms.environment), None)) is not None:
        raise BadInput(f"{job.origin}: environment does not go with --no-leash, which sets nothing there (drop one)")
    steps = _steps(flags, templates)
    _check_leftovers(flags)
    _check_overwritten(flags)
    order = random.Random(flags.seed)
    slots = list(listing.slots)
    order.shuffle(slots)
    records = open_records(flags)  # before output is truncated: it may find another run at work
    try:
        files = open_files(None, None) if flags.dry_run else open_files(flags.stdout, flags.stderr)
    except BadInput:
        records.close()
        raise
    return Plan(flags, slots, work, steps, listing, followed, order, files, client, records)


def _entries(flags: argparse.Namespace, left_out: Sequence[Node]) -> list[Entry]:
    """The nodes of this run, in listed order."""
    from clstr.inputs import nodes

    listed = nodes.read_nodes(flags.node, flags.node_file, _read_stdin)
    entries = nodes.exclude(listed, left_out)
    if not entries and not flags.follow:
        raise BadInput(
            "no nodes are left after --exclude (name others with --node or --node-file)"
            if listed
            else "the node files name no node (write one [USER@]HOST[:PORT] a line)"
        )
    wanted = flags.job_class
    if wanted is None:
        return entries
    of_class = [entry for entry in entries if wanted in entry.node.classes]
    if not of_class and not flags.follow:
        raise BadInput(f"no node is of class {wanted} (write class={wanted} behind the nodes that are)")
    return of_class if flags.on_each_node is not None else entries


def _steps(flags: argparse.Namespace, templates: Templates) -> Steps:
    from clstr.inputs.pushes import parse_push
    from clstr.runner.prepare import Push, Setup, Steps

    hidden = templates.hidden()
    setup = tuple(Setup(text.command, text.parts, hidden) for text in read_setup(flags, templates))
    pushes = tuple(Push(*parse_push(text)) for text in flags.push)
    return Steps(pushes, setup, flags.setup_timeout)


def _check_leftovers(flags: argparse.Namespace) -> None:
    from clstr.records.leftovers import check_target

    given = [os.path.realpath(path) for path in (flags.unfinished, flags.evicted) if path is not None]
    if len(set(given)) < len(given):
        raise BadInput(f"{flags.evicted}: --unfinished and --evicted name one file (name two)")
    for flag, path in (("--unfinished", flags.unfinished), ("--evicted", flags.evicted)):
        if path is not None:
            check_target(flag, path)


def _check_overwritten(flags: argparse.Namespace) -> None:
    """Refuse to write over what is read, and to write two things into one file.

    --unfinished may be the job file and --evicted the --exclude-file: they are replaced when all is read.
    """
    read = {
        "--node-file": flags.node_file,
        "--exclude-file": flags.exclude_file,
        "--job-file": flags.job_file,
        "--submit": flags.submit,
    }
    written = (
        ("--stdout", flags.stdout, read),
        ("--stderr", flags.stderr, read),
        ("--active-nodes", flags.active_nodes, read),
        ("--unfinished", flags.unfinished, ("--node-file", "--exclude-file", "--submit")),
        ("--evicted", flags.evicted, ("--node-file", "--job-file", "--submit")),
        ("--joblog", flags.joblog, read),
        ("--csv", flags.csv, read),
        ("--events", flags.events, read),
        ("--trace", flags.trace, read),
    )
    taken: dict[str, str] = {}
    for flag, path, inputs in written:
        if path is None or (os.path.exists(path) and not os.path.isfile(path)):
            continue
        real = os.path.realpath(path)
        for source in inputs:
            if any(real == os.path.realpath("/dev/stdin" if name == "-" else name) for name in read[source]):
                raise BadInput(f"{path}: {flag} would overwrite what {source} reads (name another file)")
        other = taken.setdefault(real, flag)
        if other != flag and (other, flag) != ("--stdout", "--stderr"):
            raise BadInput(f"{path}: {other} and {flag} name one file (name two)")


def _client(flags: argparse.Namespace, nodes: Sequence[Node]) -> Client | None:
    """The client of ``--ssh``, for which every one of the nodes can be put into words."""
    if flags.ssh is None:
        return None
    from clstr.transport import external

    client = external.split(flags.ssh)
    for node in nodes:
        if node.host != ":":
            client.arguments(node)
    return client


def _read_stdin() -> bytes:
    with open(0, "rb", closefd=False) as stdin:
        return stdin.read()


def _names_nodes(flags: argparse.Namespace) -> bool:
    return bool(flags.node or flags.node_file)


def _check_combinations(flags: argparse.Namespace) -> None:
    if not _names_nodes(flags) and (flags.dry_run is None or flags.on_each_node is not None):
        raise BadInput("no nodes (name them with -n NODE or -N FILE; ':' is this machine)")
    check_work(flags)
    if flags.fold:
        if flags.on_each_node is None:
            raise BadInput("--fold needs --on-each-node, whose nodes it folds (to print jobs whole there is --group)")
        for given, flag in ((flags.tag, "--tag"), (flags.group, "--group"), (flags.keep_order, "--keep-order")):
            if given:
                raise BadInput(f"--fold does not go with {flag} (drop one of them)")
    if flags.job_class == "":
        raise BadInput("--class: empty name (name a class, or drop it)")
    if flags.follow and not flags.node_file:
        raise BadInput("--follow needs a node file (name it with --node-file FILE)")
    if flags.ssh is not None:
        for given, flag in (
            (flags.ssh_config, "--ssh-config"),
            (flags.user, "--user"),
            (flags.identity, "--identity"),
            (flags.host_key, "--host-key"),
        ):
            if given:
                raise BadInput(f"--ssh does not go with {flag} (give the client its own options in COMMAND)")
        if flags.results is not None:
            raise BadInput("--ssh does not go with --results, which needs SFTP (let jobs put their results in place)")
        if flags.push:
            raise BadInput("--ssh does not go with --push, which needs SFTP (let a --setup command fetch the files)")
    if [*flags.node_file, *flags.job_file, *flags.exclude_file, *flags.submit].count("-") > 1:
        inputs = "--node-file, --exclude-file, --job-file and --submit"
        raise BadInput(f"standard input is named twice (one '-' among {inputs})")
