"""``--csv FILE``: all jobs as a table, for spreadsheets and data frames.

Rules:
- RFC 4180, UTF-8, a header and a row for each job that was read, in the order of their ids. Times are ISO 8601 in UTC,
  durations seconds; both are those of the last attempt. Status is done, failed, held, running, copying or not done.
- Exit is the exit status, or how else the last attempt ended (``SIGKILL``, ``timed out``).
- Results are the paths here of what was copied, with ``;`` between them. Behind them comes a column for each key of
  ``--matrix``, empty where the job does not name it.
- FILE is replaced by rename, at the end and before that by a thread of its own, as often as takes less than a twentieth
  of the time. Its rows are kept in memory for that.
"""

from __future__ import annotations

import csv
import io
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import BinaryIO, assert_never

from clstr.model import (
    CopyFailed,
    Done,
    Ended,
    Exited,
    Fact,
    Failed,
    Found,
    Held,
    Job,
    Killed,
    Lost,
    News,
    NotStarted,
    Outcome,
    Refused,
    Stalled,
    Started,
    Stopped,
    TimedOut,
)
from clstr.records.files import ReplacedFile

COLUMNS = (
    "Job ID", "Name", "Class", "Machine", "Command", "Status", "Exit",
    "Attempts", "Start", "End", "Duration", "Results",
)  # fmt: skip

_SHARE = 19  # times as long as a replacement took, until the next one
_REST = 1.0  # seconds until the next one, at least


@dataclass(frozen=True, slots=True)
class _Row:
    """A job, as far as it has come; it is not changed, but replaced, because the thread may be writing it."""

    job: Job
    status: str = "not done"
    machine: str = ""
    exit: str = ""
    attempts: int = 0
    began: float | None = None
    ended: float | None = None
    results: str = ""


class Table:
    """The record; of the jobs that there are it is told by ``read``."""

    def __init__(self, path: str, keys: Sequence[str], place_of: Callable[[Job, bytes], str]) -> None:
        """Lock the file and change nothing. ``place_of`` says where a result that a job names goes. Raises BadInput."""
        self._file = ReplacedFile(path, "writes its table there")
        self._keys = keys
        self._place_of = place_of
        self._rows: dict[int, _Row] = {}
        self._news = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._write_often, name="clstr table", daemon=True)
        self._error: OSError | None = None

    def begin(self, warn: Callable[[str], None]) -> None:
        """Write the header, and begin to write. Raises OSError."""
        self._write()
        self._thread.start()

    def read(self, jobs: Sequence[Job], done: Collection[int]) -> None:
        """There are these jobs, of which those were done before this run."""
        for job in jobs:
            self._rows[job.id] = _Row(job, "done") if job.id in done else _Row(job)

    def saw(self, when: float, event: Fact | News) -> None:
        """Keep the job's row. Raises OSError."""
        match event:
            case Started(attempt):
                row = self._row(attempt.job)
                machine = attempt.slot.node.text
                attempts = row.attempts + 1
                new = replace(row, status="running", machine=machine, attempts=attempts, began=when, ended=None)
            case Ended(attempt, outcome):
                row = self._row(attempt.job)
                if row.status != "running":
                    return
                results = ";".join(self._place_of(attempt.job, path) for path in _results(outcome))
                status = "copying" if results else "not done"
                new = replace(row, status=status, ended=when, exit=_exit(outcome), results=results)
            case Done(job, _):
                new = replace(self._row(job), status="done")
            case Failed(job):
                new = replace(self._row(job), status="failed", results="")
            case Held(job):
                new = replace(self._row(job), status="held")
            case _:
                return
        self._rows[new.job.id] = new
        self._news.set()
        if self._error is not None:
            raise self._error

    def _row(self, job: Job) -> _Row:
        return self._rows.get(job.id) or _Row(job)

    def finish(self) -> None:
        """The run is over: write the table a last time. Raises OSError."""
        self._stop()
        for row in list(self._rows.values()):
            if row.status == "copying":  # it was stopped, of which there is no news
                self._rows[row.job.id] = replace(row, status="not done", results="")
        self._write()

    def close(self) -> None:
        """Let others have the file."""
        self._stop()
        self._file.close()

    def _stop(self) -> None:
        self._over.set()
        self._news.set()
        if self._thread.is_alive():
            self._thread.join()

    # --- the thread ----------------------------------------------------------------------------------------

    def _write_often(self) -> None:
        while self._news.wait() and not self._over.is_set():
            self._news.clear()
            began = time.monotonic()
            try:
                self._write()
            except OSError as error:
                self._error = error
                return
            self._over.wait(max(_REST, (time.monotonic() - began) * _SHARE))

    def _write(self) -> None:
        known = self._rows.copy()
        rows = [known[job] for job in sorted(known)]
        self._file.replace(lambda file: self._write_rows(file, rows))

    def _write_rows(self, file: BinaryIO, rows: Sequence[_Row]) -> None:
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
        writer = csv.writer(text)
        writer.writerow([*COLUMNS, *self._keys])
        writer.writerows(map(self._cells, rows))
        text.detach()

    def _cells(self, row: _Row) -> list[str | int]:
        job = row.job
        duration = "" if row.began is None or row.ended is None else f"{max(0.0, row.ended - row.began):.3f}"
        values = [value or "" for value in job.matrix] or [""] * len(self._keys)
        return [
            job.id,
            job.name or "",
            job.job_class or "",
            row.machine,
            job.command.decode("utf-8", "surrogateescape"),
            row.status,
            row.exit,
            row.attempts,
            _iso(row.began),
            _iso(row.ended),
            duration,
            row.results,
            *values,
        ]


def _iso(when: float | None) -> str:
    return "" if when is None else datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _results(outcome: Outcome) -> tuple[bytes, ...]:
    return outcome.results if isinstance(outcome, Exited) else ()


def _exit(outcome: Outcome) -> str:
    match outcome:
        case Exited(status):
            return str(status)
        case Killed(signal):
            return f"SIG{signal}"
        case TimedOut():
            return "timed out"
        case Stalled():
            return "stalled"
        case Lost():
            return "connection lost"
        case Stopped():
            return "stopped"
        case NotStarted() | Found() | Refused() | CopyFailed():
            return ""
        case _:
            assert_never(outcome)
