"""The files that a run leaves, made from the flags: what stands before the jobs, and who writes.

All that can be found wrong is found in ``open_records``, before anything is connected or changed. The files are made
ready for this run in ``begin``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from clstr.model import Attempt, BadInput, Door, Gate, Job, Observer, Sink

if TYPE_CHECKING:
    from clstr.records.events import Events
    from clstr.records.joblog import Joblog
    from clstr.records.names import Names
    from clstr.records.results import Results
    from clstr.records.run_dir import RunDir
    from clstr.records.table import Table
    from clstr.records.trace import Trace


class Records:
    """The records of one run. As a gate, it asks all gates of every job, so that what each counts tallies."""

    def __init__(self, flags: argparse.Namespace) -> None:
        self._flags = flags
        self._gates: list[Gate] = []
        self._warn: Callable[[str], None] = lambda text: None
        self._counters: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self.names: Names | None = None
        self.joblog: Joblog | None = None
        self.run_dir: RunDir | None = None
        self.results: Results | None = None
        self.table: Table | None = None
        self.events: Events | None = None
        self.trace: Trace | None = None

    def open(self) -> None:
        """Open and lock every file, and read what must be. Raises BadInput."""
        flags = self._flags
        if flags.run_dir is not None or flags.results is not None:
            self._open_names()
        if flags.joblog is not None:
            self._open_joblog(flags.joblog)
        if flags.run_dir is not None:
            self._open_run_dir(flags.run_dir)
        if flags.results is not None:
            self._open_results(flags.results, flags.results_limit)
        if flags.csv is not None:
            from clstr.records.table import Table

            keys = [text.partition("=")[0] for text in flags.matrix]
            self.table = Table(flags.csv, list(dict.fromkeys(keys)), self._place_of)
        if flags.events is not None:
            from clstr.records.events import Events

            self.events = Events(flags.events, keep=flags.resume)
        if flags.trace is not None:
            from clstr.records.trace import Trace

            self.trace = Trace(flags.trace, lambda: self._counters())

    def look(self) -> None:
        """Read what was done before, where there is something to read, and make nothing. Raises BadInput."""
        flags = self._flags
        if flags.resume and os.path.exists(flags.joblog):
            self._open_joblog(flags.joblog)
        if flags.run_dir is not None:
            from clstr.records.run_dir import Looked

            self._gates.append(Looked(flags.run_dir, self._open_names().of))

    def _open_names(self) -> Names:
        from clstr.records.names import Names

        self.names = Names()
        self._gates.append(self.names)
        return self.names

    def _open_joblog(self, path: str) -> None:
        from clstr.records.joblog import Joblog

        self.joblog = Joblog(path, self._flags.resume, self._flags.on_each_node is not None)
        if self._flags.resume:
            self._gates.append(self.joblog)

    def _open_run_dir(self, path: str) -> None:
        from clstr.records.run_dir import RunDir

        assert self.names is not None
        self.run_dir = RunDir(path, self.names.of, _script(self._flags), lambda text: self._warn(text))
        self._gates.append(self.run_dir)

    def _open_results(self, path: str, limit: int) -> None:
        from clstr.records.results import Results

        assert self.names is not None
        self.results = Results(path, limit, self.names.of)

    def _place_of(self, job: Job, result: bytes) -> str:
        assert self.names is not None
        return os.path.join(self._flags.results, self.names.of(job), os.fsdecode(os.path.basename(result.rstrip(b"/"))))

    @property
    def gate(self) -> Gate | None:
        """What knows of jobs that are done, or has to know of all jobs."""
        return self if self._gates or self.table is not None else None

    @property
    def door(self) -> Door | None:
        """What lets attempts begin."""
        return self.run_dir

    def done(self, jobs: Sequence[Job]) -> Collection[int]:
        """The ids of those that any gate knows as done."""
        done = {job for gate in self._gates for job in gate.done(jobs)}
        if self.table is not None:
            self.table.read(jobs, done)
        return done

    def sink(self, attempt: Attempt, sink: Sink) -> Sink:
        """The sink, with those of the records before it."""
        if self.joblog is not None:
            sink = self.joblog.sink(attempt, sink)
        if self.run_dir is not None:
            sink = self.run_dir.sink(attempt, sink)
        return sink if self.results is None else self.results.sink(attempt, sink)

    def begin(self, warn: Callable[[str], None], counters: Callable[[], tuple[int, int]]) -> None:
        """Make the files ready for this run. Raises BadInput where that cannot be done."""
        self._warn, self._counters = warn, counters
        for record in (self.joblog, self.table, self.events, self.trace):
            try:
                if record is not None:
                    record.begin(warn)
            except OSError as error:
                raise BadInput(f"{error.filename}: {error.strerror} (make room, or name another file)") from error

    @property
    def records(self) -> list[Observer]:
        """Who must be able to write, in order: ``.done`` comes before what else is told of a job."""
        events = None if self.events is not None and self.events.is_view else self.events
        told = (self.run_dir, self.joblog, self.table, events, self.trace)
        return [record for record in told if record is not None]

    @property
    def views(self) -> list[Observer]:
        """Who is done without when it fails."""
        told = (self.events if self.events is not None and self.events.is_view else None, self.names)
        return [view for view in told if view is not None]

    def finish(self, warn: Callable[[str], None]) -> bool:
        """The run is over: write the end, and let others have the files.

        False, with a message, where that fails.
        """
        try:
            if self.table is not None:
                self.table.finish()
        except OSError as error:
            warn(f"{error.filename} cannot be written: {error.strerror}")
            return False
        finally:
            self.close()
        return True

    def close(self) -> None:
        """Let others have the files."""
        for record in (self.run_dir, self.joblog, self.results, self.table, self.events, self.trace):
            if record is not None:
                record.close()


def open_records(flags: argparse.Namespace) -> Records:
    """The records that the flags ask for, opened and locked; for a dry run only what it has to know. Raises BadInput.
    """
    if flags.resume and flags.joblog is None:
        raise BadInput("--resume needs a joblog to go on from (name it with --joblog FILE)")
    if flags.run_dir is not None and os.path.exists(flags.run_dir) and not os.path.isdir(flags.run_dir):
        raise BadInput(f"{flags.run_dir}: not a directory (--run-dir needs one, or a name that is free)")
    both = [os.path.realpath(path) for path in (flags.run_dir, flags.results) if path is not None]
    if len(both) > len(set(both)):
        raise BadInput(f"{flags.results}: --run-dir and --results name one directory (name two)")
    records = Records(flags)
    try:
        if flags.dry_run is None:
            records.open()
        else:
            records.look()
    except BadInput:
        records.close()
        raise
    return records


def _script(flags: argparse.Namespace) -> Callable[[Attempt], bytes]:
    """What makes ``NAME.run`` of a run under these flags."""
    from clstr.records.script import Script

    nodes: list[str] = []
    if "-" not in [*flags.node_file, *flags.exclude_file]:
        for flag, values in (
            ("--node", flags.node),
            ("--node-file", flags.node_file),
            ("--exclude", flags.exclude),
            ("--exclude-file", flags.exclude_file),
        ):
            nodes += [flag, *values] if values else []
    conditions: list[str] = []
    for flag, value in (
        ("--ssh-config", flags.ssh_config),
        ("--user", flags.user),
        ("--host-key", flags.host_key),
        ("--ssh", flags.ssh),
        ("--connect-timeout", flags.connect_timeout),
        ("--chdir", flags.chdir),
        ("--timeout", flags.timeout),
        ("--stall-timeout", flags.stall_timeout),
    ):
        conditions += [] if value is None else [f"{flag}={value}"]
    for flag, values in (("--identity", flags.identity), ("--setup", flags.setup), ("--push", flags.push)):
        conditions += [f"{flag}={value}" for value in values]
    conditions += ["--no-leash"] if flags.no_leash else []
    names = [text.partition("=")[0] for text in flags.var]
    return Script(os.getcwd(), (sys.executable, "-m", "clstr"), nodes, conditions, names).of
