"""Fixtures for every room: real SSH nodes of two kinds, OpenSSH's sshd and the practice cluster of examples/.

A machine without sshd skips what needs it, with the reason; with CI=true that is a failure.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from cluster.sshd import Account, Cluster, NotHere, Site

EXAMPLES = Path(__file__).parent.parent / "examples"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "site" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.sshd)


@contextlib.contextmanager
def needed_here() -> Iterator[None]:
    """Skip the test when the machine lacks what the block needs; in CI, fail it."""
    try:
        yield
    except NotHere as lacking:
        if os.environ.get("CI") == "true":
            pytest.fail(str(lacking))
        pytest.skip(str(lacking))


@pytest.fixture
def needs() -> Callable[[str], None]:
    """``needs("tmux")`` skips the test where there is no such program."""

    def check(program: str) -> None:
        with needed_here():
            if shutil.which(program) is None:
                raise NotHere(f"no {program} on this machine")

    return check


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """Keys and users of the session's clusters."""
    with needed_here():
        made = Site()
    yield made
    made.close()


@pytest.fixture
def cluster(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Cluster]]:
    """A factory: ``cluster(nodes=3, ...)`` gives a live cluster, which is stopped after the test."""
    with contextlib.ExitStack() as running:

        def start(nodes: int = 3, **options: object) -> Cluster:
            directory = tmp_path_factory.mktemp("cluster")
            return running.enter_context(Cluster(site, directory, nodes, **options))  # type: ignore[arg-type]

        yield start


@pytest.fixture
def two_nodes(cluster: Callable[..., Cluster]) -> Cluster:
    return cluster(nodes=2)


@pytest.fixture
def user_for_shell(site: Site) -> Callable[[str], Account]:
    """A factory: ``user_for_shell("zsh")`` gives a login whose shell is that, or skips the test."""

    def account(shell: str) -> Account:
        with needed_here():
            return site.account(shell)

    return account


@pytest.fixture
def root_login(site: Site) -> Account:
    """Root's login on the test nodes; the test is skipped where the tests do not run as root."""
    try:
        return site.root()
    except NotHere as lacking:
        pytest.skip(str(lacking))


def load_example(name: str) -> ModuleType:
    """A script of examples/ as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def practice() -> ModuleType:
    """examples/practice_cluster.py: ``async with practice.practice_cluster(nodes=3) as cluster``."""
    return load_example("practice_cluster")
