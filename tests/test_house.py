"""The house's law, read from the source: who may import whom, and how a module is written.

    cli -> everything      runner -> scheduler, transport (the protocol only), model
    records, output, inputs, transport, scheduler -> model
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

import clstr
from clstr import model

PACKAGE = Path(clstr.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

ROOMS = {
    "": set(),  # the package itself: a docstring and the version
    "model": set(),
    "scheduler": {"model"},
    "inputs": {"model"},
    "transport": {"model"},
    "output": {"model"},
    "records": {"model"},
    "runner": {"scheduler", "transport", "model"},
    "cli": {"", "scheduler", "inputs", "transport", "output", "records", "runner", "model"},
    "__main__": {"cli"},
}
"""What each room may import of the others."""

GUESTS = {"asyncssh": "transport/ssh", "tqdm": "output/", "ClusterShell": ("inputs/", "output/")}
"""Each dependency, and the only places that it is imported in."""

RELATIVE = "a relative import"

NEVER_IN_THE_SCHEDULER = {"asyncio", "logging", "os", "random", "socket", "subprocess", "sys", "threading", "time"}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes(), filename=str(path))


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported, anywhere in the file, by its full name; names from one too (``a.b``)."""
    for part in ast.walk(tree):
        match part:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(level=0, module=str(module), names=names):
                yield from (f"{module}.{name.name}" for name in names)
            case ast.ImportFrom():
                yield RELATIVE


def room_imported(imported: str) -> str | None:
    """The room of ours that an import names; None for what is not ours."""
    first, *rest = imported.split(".")
    if first != "clstr":
        return None
    return rest[0] if rest and rest[0] in ROOMS else ""


def strangers(path: Path, tree: ast.Module) -> list[str]:
    """What this module imports against the table."""
    return [imported for imported in imports(tree) if is_a_stranger(room_of(path), name_of(path), imported)]


def is_a_stranger(room: str, name: str, imported: str) -> bool:
    ours, guest = room_imported(imported), imported.split(".")[0]
    if ours is not None and ours != room:
        return ours not in ROOMS[room] or (room == "runner" and is_a_transport(imported))
    if guest in GUESTS:
        return not name.startswith(GUESTS[guest])
    return imported == RELATIVE or (room == "scheduler" and guest in NEVER_IN_THE_SCHEDULER)


def is_a_transport(imported: str) -> bool:
    """Does the import reach past the protocol into a module of the transport's room?"""
    room, *rest = imported.split(".")[1:]
    return room == "transport" and bool(rest) and (PACKAGE / "transport" / f"{rest[0]}.py").exists()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    assert strangers(path, tree_of(path)) == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("scheduler/core.py", "import asyncio"),
        ("scheduler/core.py", "from time import monotonic"),
        ("scheduler/core.py", "from clstr.transport import Channel"),
        ("scheduler/core.py", "from clstr import runner"),
        ("scheduler/core.py", "from . import verdict"),
        ("model.py", "import clstr.scheduler"),
        ("inputs/jobs.py", "def f():\n    from clstr.output import console"),
        ("output/console.py", "from clstr.records.joblog import Joblog"),
        ("runner.py", "from clstr.transport import ssh"),
        ("runner.py", "from clstr.transport.local import Local"),
        ("runner.py", "import clstr.cli"),
        ("runner.py", "def f():\n    import asyncssh"),
        ("transport/local.py", "import asyncssh.misc"),
        ("records/status.py", "from tqdm import tqdm"),
        ("cli.py", "from ClusterShell.NodeSet import NodeSet"),
    ],
)
def test_the_law_finds_a_stranger(name: str, line: str) -> None:
    assert strangers(PACKAGE / name, ast.parse(line)) != []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("scheduler/core.py", "from clstr.scheduler.verdict import verdict"),
        ("runner.py", "from clstr.transport import Connection\nfrom clstr.scheduler import Scheduler"),
        ("transport/ssh_keys.py", "import asyncssh"),
        ("output/status.py", "from tqdm import tqdm"),
        ("cli.py", "from clstr import __version__\nfrom clstr.transport.ssh import Ssh"),
    ],
)
def test_the_law_lets_a_neighbour_in(name: str, line: str) -> None:
    assert strangers(PACKAGE / name, ast.parse(line)) == []


def test_every_module_stands_in_a_room_of_the_table() -> None:
    assert {room_of(path) for path in MODULES} <= set(ROOMS)


def test_the_dependencies_are_not_loaded_before_they_are_used() -> None:
    for path in MODULES:
        for part in tree_of(path).body:
            guests = {imported.split(".")[0] for imported in imports(part)} & set(GUESTS)
            loaded_late = isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or type_only(part)
            assert not guests or loaded_late or heavy_itself(path), f"{name_of(path)}:{part.lineno}: {guests}"


def heavy_itself(path: Path) -> bool:
    """Modules that are asyncssh's side of the house; ``cli`` imports them when a node needs them."""
    return name_of(path).startswith("transport/ssh")


def type_only(part: ast.stmt) -> bool:
    return isinstance(part, ast.If) and ast.unparse(part.test) == "TYPE_CHECKING"


# --- how a module is written -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_begins_with_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(tree_of(path))


DECIDED = {kind.__name__ for kind in (*get_args(model.Outcome), *get_args(model.Order))}
"""Unions whose every member needs an answer, in every match: a new one must be found by mypy."""

HEARD = {kind.__name__ for kind in (*get_args(model.Fact), *get_args(model.News))}
"""Unions of which an observer may pick what concerns it, if ``case _`` says so aloud."""


def closes(match: ast.Match) -> bool:
    """Does the match end in ``case _: assert_never(...)``, or need not?"""
    names = {name for case in match.cases for name in members(case.pattern)}
    last = match.cases[-1]
    takes_all = isinstance(last.pattern, ast.MatchAs) and last.pattern.pattern is None and last.guard is None
    if names & DECIDED or any("." in name for name in names):
        return takes_all and ast.unparse(last.body[0]).startswith("assert_never(")
    return takes_all or not names & HEARD


def members(pattern: ast.pattern) -> Iterator[str]:
    """The classes and members of an enum that a case names; not those inside of another."""
    match pattern:
        case ast.MatchClass(cls=named):
            yield ast.unparse(named).rpartition(".")[2]
        case ast.MatchValue(value=ast.Attribute() as named):
            yield ast.unparse(named)
        case ast.MatchOr(patterns=patterns):
            for part in patterns:
                yield from members(part)
        case ast.MatchAs(pattern=ast.pattern() as inner):
            yield from members(inner)
        case _:
            return


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_match_is_closed(path: Path) -> None:
    matches = [part for part in ast.walk(tree_of(path)) if isinstance(part, ast.Match)]
    assert [match.lineno for match in matches if not closes(match)] == []


@pytest.mark.parametrize(
    ("cases", "closed"),
    [
        ("case Lost():\n  pass\n case _:\n  assert_never(x)", True),
        ("case Fate.DONE | Fate.CHARGED:\n  pass\n case _:\n  assert_never(x)", True),
        ("case Done():\n  pass\n case _:\n  pass", True),
        ("case Ended(_, Lost()):\n  pass\n case _:\n  pass", True),
        ("case 'a':\n  pass", True),
        ("case Lost():\n  pass", False),
        ("case model.Lost() as it:\n  pass\n case _:\n  pass", False),
        ("case Exited(0):\n  pass\n case Lost() | Stopped():\n  pass\n case _:\n  raise ValueError(x)", False),
        ("case Start():\n  pass\n case _:\n  return", False),
        ("case Fate.DONE:\n  pass", False),
        ("case Done():\n  pass", False),
    ],
)
def test_the_law_knows_a_closed_match(cases: str, closed: bool) -> None:
    match = ast.parse(f"match x:\n {cases}").body[0]
    assert isinstance(match, ast.Match)
    assert closes(match) is closed


def swallows(part: ast.AST) -> bool:
    """Is it an ``except`` for everything that does nothing? (A bug must stay visible.)"""
    if not isinstance(part, ast.ExceptHandler):
        return False
    broad = part.type is None or ast.unparse(part.type) in ("Exception", "BaseException")
    return broad and all(isinstance(step, ast.Pass | ast.Continue) for step in part.body)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_error_is_swallowed_unnamed(path: Path) -> None:
    assert [part.lineno for part in ast.walk(tree_of(path)) if swallows(part)] == []  # type: ignore[attr-defined]


def test_the_scheduler_walks_no_set_but_where_no_order_can_show() -> None:
    """A set literal, a set comprehension or ``set(...)`` under ``for`` in the scheduler's room."""
    for path in MODULES:
        if room_of(path) == "scheduler":
            for part in ast.walk(tree_of(path)):
                if isinstance(part, ast.For | ast.comprehension):
                    walked = ast.unparse(part.iter)
                    assert not isinstance(part.iter, ast.Set | ast.SetComp), f"{name_of(path)}: for {walked}"
                    assert not walked.startswith(("set(", "frozenset(")), f"{name_of(path)}: for {walked}"


def test_the_names_are_those_of_the_field() -> None:
    empty_words = {"manager", "engine", "handler", "helper", "utils", "util", "common", "misc"}
    for path in MODULES:
        assert path.stem not in empty_words
        for part in ast.walk(tree_of(path)):
            if isinstance(part, ast.ClassDef):
                assert not any(word in part.name.lower() for word in empty_words), f"{name_of(path)}: {part.name}"


def test_the_model_has_no_behaviour_to_import() -> None:
    loaded = {imported.split(".")[0] for imported in imports(tree_of(PACKAGE / "model.py"))}
    assert loaded <= {"__future__", *sys.stdlib_module_names}


# --- start-up ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--version", "--help"])
def test_what_only_prints_imports_little(flag: str) -> None:
    code = f"""if True:
        import sys
        from clstr.cli import main
        try:
            main([{flag!r}])
        finally:
            sys.stderr.write(" ".join(sys.modules))
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(result.stderr.split()) & {"asyncio", "asyncssh", "tqdm", "ClusterShell", "clstr.model"} == set()


def test_no_two_modules_of_the_tests_have_one_name() -> None:
    """pytest puts their directories on one path: of two modules with one name it would find the first only."""
    tests = Path(__file__).parent
    names = [path.stem for path in tests.rglob("*.py")] + [path.name for path in tests.iterdir() if path.is_dir()]
    assert {name for name in names if names.count(name) > 1} <= {"conftest", "__pycache__"}
