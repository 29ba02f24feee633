"""The active-nodes file on a real file system."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest

from clstr.model import Attempt, BadInput, Connected, Ended, Exited, Job, Node, Slot, Started
from clstr.records.active_nodes import ActiveNodes, line


def attempt(number: int, command: bytes = b"make all", on: str = "n1") -> Attempt:
    return Attempt(Job(number, command), 1, Slot(Node(on, on), 1))


def never(text: str) -> None:
    raise AssertionError(text)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the condition is a fact of the file system
            await asyncio.sleep(0.01)


def text(file: Path) -> str:
    return file.read_text()


def reader(file: Path) -> TextIO:
    return file.open()


def inode(file: Path) -> int:
    return file.stat().st_ino


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "active"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (b"echo hi", "n1: <'Job' 'echo hi'>\n"),
        (b"echo 'hi'", "n1: <'Job' \"echo 'hi'\">\n"),
        ("echo é\n".encode(), "n1: <'Job' 'echo é\\n'>\n"),
        (b"echo \xff\\", "n1: <'Job' 'echo \\udcff\\\\'>\n"),
    ],
)
def test_the_line_has_the_node_and_the_repr_of_the_command(command: bytes, expected: str) -> None:
    assert line(attempt(1, command)) == expected


def test_the_file_shows_what_runs_and_is_empty_at_the_end(file: Path) -> None:
    file.write_text("old")
    file.chmod(0o644)

    async def run() -> None:
        view = ActiveNodes(str(file), never)
        assert text(file) == ""
        view.saw(0.0, Connected(Node("n1", "n1")))
        view.saw(0.0, Started(attempt(1)))
        view.saw(0.0, Started(attempt(2, on="me@n2:22")))
        await until(lambda: text(file) == "n1: <'Job' 'make all'>\nme@n2:22: <'Job' 'make all'>\n")
        view.saw(0.0, Ended(attempt(1), Exited(0)))
        await until(lambda: text(file) == "me@n2:22: <'Job' 'make all'>\n")
        assert mode(file) == 0o600
        view.saw(0.0, Ended(attempt(2), Exited(0)))
        view.saw(0.0, Started(attempt(3)))
        view.close()
        assert text(file) == ""

    asyncio.run(run())
    assert os.listdir(file.parent) == ["active"]


def test_a_reader_always_sees_one_moment_whole(file: Path) -> None:
    async def run() -> None:
        view = ActiveNodes(str(file), never)
        first = inode(file)
        for number in range(500):
            view.saw(0.0, Started(attempt(number)))
        await until(lambda: inode(file) != first)
        assert text(file).count("\n") == 500
        second = inode(file)
        with reader(file) as opened:
            for number in range(500):
                view.saw(0.0, Ended(attempt(number), Exited(0)))
            await until(lambda: inode(file) != second)
            assert opened.read().count("\n") == 500
        view.close()

    asyncio.run(run())


class ManualClock(asyncio.SelectorEventLoop):
    """A loop whose time the test moves; a timer that is due runs in the next round."""

    now = 100.0

    def time(self) -> float:
        return self.now


def test_it_is_replaced_at_most_ten_times_a_second_and_at_once_after_a_silence(file: Path) -> None:
    loop = ManualClock()
    inodes: list[int] = []

    async def after(seconds: float) -> None:
        loop.now += seconds
        for _ in range(3):
            await asyncio.sleep(0)
        if inode(file) != inodes[-1]:
            inodes.append(inode(file))

    async def run() -> None:
        view = ActiveNodes(str(file), never)
        inodes.append(inode(file))
        for number in range(1000):
            view.saw(0.0, Started(attempt(number)))
            await after(0.001)
        assert 9 <= len(inodes) - 1 <= 10
        await after(0.1)
        assert text(file).count("\n") == 1000
        await after(5.0)
        replaced = len(inodes)
        view.saw(0.0, Started(attempt(1000)))
        await after(0.0)
        assert text(file).count("\n") == 1001
        assert len(inodes) == replaced + 1
        view.close()

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(run())


def test_the_file_that_a_link_names_is_replaced(file: Path) -> None:
    link = file.parent / "link"
    link.symlink_to("active")
    view = ActiveNodes(str(link), never)
    view.close()
    assert link.is_symlink()
    assert text(file) == ""


@pytest.mark.parametrize("kind", ["directory", "fifo", "device", "missing directory", "read-only directory"])
def test_what_cannot_be_replaced_is_bad_input(kind: str, file: Path) -> None:
    match kind:
        case "directory":
            path, why = file.parent, "not a regular file"
        case "fifo":
            os.mkfifo(file)
            path, why = file, "not a regular file"
        case "device":
            path, why = Path(os.devnull), "not a regular file"
        case "missing directory":
            path, why = file / "active", "No such file or directory"
        case _:
            path, why = Path("/proc/self/comm"), "Permission denied|No such file or directory"
            if not path.exists():
                pytest.skip("no /proc here")
    with pytest.raises(BadInput, match=rf"^{path}: ({why}) \(.+\)$"):
        ActiveNodes(str(path), never)


def test_a_second_run_is_refused_however_often_the_file_was_replaced(file: Path) -> None:
    """The second run is another process, as flock goes by open files."""
    program = (
        "import sys; from clstr.records.active_nodes import ActiveNodes\n"
        "try: ActiveNodes(sys.argv[1], print).close()\n"
        "except Exception as error: print(error); sys.exit(2)"
    )

    def second() -> tuple[int, str]:
        command = [sys.executable, "-c", program, str(file)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return result.returncode, result.stdout

    refused = (2, f"{file}: another run keeps its active nodes there (name another file)\n")

    async def run() -> None:
        view = ActiveNodes(str(file), never)
        assert second() == refused
        view.saw(0.0, Started(attempt(1)))
        await until(lambda: text(file))
        assert second() == refused
        assert text(file) == "n1: <'Job' 'make all'>\n"
        view.close()
        assert second() == (0, "")

    asyncio.run(run())


def test_the_lock_is_on_the_file_that_has_the_name_now(file: Path) -> None:
    """A run that opened the file just before it was replaced must not take the old one for locked."""
    view = ActiveNodes(str(file), never)
    with file.open() as opened, pytest.raises(BlockingIOError):
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    view.close()


@pytest.mark.parametrize(("in_its_place", "number"), [("nothing", errno.ENOENT), ("directory", errno.EISDIR)])
def test_a_failure_is_one_warning_and_the_end_of_the_view(
    in_its_place: str, number: int, tmp_path: Path
) -> None:
    warnings: list[str] = []
    place = tmp_path / "place"
    place.mkdir()
    file = place / "active"

    async def run() -> None:
        view = ActiveNodes(str(file), warnings.append)
        file.unlink()
        if in_its_place == "directory":
            file.mkdir()
        else:
            place.rmdir()
        view.saw(0.0, Started(attempt(1)))
        await until(lambda: warnings)
        view.saw(0.0, Started(attempt(2)))
        view.saw(0.0, Ended(attempt(1), Exited(0)))
        view.close()

    asyncio.run(run())
    why = os.strerror(number)
    assert warnings == [f"{file}: {why} (no longer written; the run goes on without it)"]
    assert sorted(tmp_path.rglob("*")) == ([place, file] if in_its_place == "directory" else [])
