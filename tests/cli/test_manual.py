"""The manual page in a wheel, as hatchling builds it: whole, and clean for mandoc."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from clstr import __version__
from clstr.cli.flags import parser

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this tree, built without a network."""
    directory = tmp_path_factory.mktemp("wheel")
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    built = subprocess.run(
        [sys.executable, "-c", build, directory], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert built.returncode == 0, built.stderr
    return directory / built.stdout.split()[-1]


@pytest.fixture(scope="module")
def page(wheel: Path) -> Path:
    """The page that the wheel installs."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".data/data/share/man/man1/clstr.1")]
        return Path(archive.extract(name, wheel.parent))


@pytest.fixture
def shown(page: Path, needs: Callable[[str], None]) -> str:
    """What a reader sees, without its fonts."""
    needs("mandoc")
    command = ["mandoc", "-T", "utf8", "-O", "width=200", page]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return re.sub(r".\x08", "", text)


@pytest.mark.usefixtures("shown")
def test_mandoc_finds_nothing_to_complain_of(page: Path) -> None:
    lint = subprocess.run(["mandoc", "-T", "lint", page], capture_output=True, text=True, timeout=60)
    assert (lint.returncode, lint.stdout, lint.stderr) == (0, "", "")


def test_the_page_has_every_flag_with_its_help(shown: str) -> None:
    options = " ".join(shown[shown.index("\nOPTIONS\n") : shown.index("\nTUTORIAL\n")].split())
    for action in parser()._actions:
        value = "" if action.nargs == 0 else rf" \[?{re.escape(str(action.metavar))}"
        assert re.search(re.escape(", ".join(action.option_strings)) + value, options), action.option_strings
        assert " ".join(str(action.help).split()) in options


def test_the_page_has_the_sections_of_the_readme_that_are_about_the_command(shown: str) -> None:
    titles = re.findall(r"^[A-Z].*$", shown, re.M)[1:]
    assert titles[:5] == ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "TUTORIAL"]
    readme = re.findall(r"^## (.*)$", (ROOT / "README.md").read_text(), re.M)
    others = {"Quick start", "Development", "Licences", "Changes"}
    assert titles[4:-1] == [title.upper() for title in readme if title not in others]
    assert f"clstr {__version__}" in shown


def test_code_is_as_it_was_written(shown: str) -> None:
    assert """clstr --node n1 n2 --job 'echo "Hello, world."' --job 'echo "Hello again."'\n""" in shown
    assert r"find . -name '*.wav' -print0 | sed -z 's/^/.\/encode /' | clstr --node-file nodes.txt" in shown


def test_no_wheel_holds_what_only_builds_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert "clstr/cli/flags.py" in archive.namelist()
        assert "clstr/cli/manual.py" not in archive.namelist()
