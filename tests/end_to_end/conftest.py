"""Fixtures for whole runs: ``clstr``, ``start``, and nodes to run on."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster.sshd import Cluster, Site, until
from end_to_end.clstr_process import CLSTR, Process, Result
from end_to_end.terminal import Terminal


@pytest.fixture
def after_the_nodes(request: pytest.FixtureRequest) -> None:
    """Processes are started after the nodes, whatever the order of a test's arguments, and so end before them."""
    for name in ("nodes", "cluster"):
        if name in request.fixturenames:
            request.getfixturevalue(name)


@pytest.fixture
def shell(tmp_path: Path, after_the_nodes: None) -> Iterator[Callable[..., Process]]:
    """A factory: ``shell("clstr ... | head -1", env=...)`` starts a line of bash."""
    with contextlib.ExitStack() as started:

        def start(line: str, **options: Any) -> Process:
            process = Process(["bash", "-c", line], tmp_path, **options)
            started.callback(process.stop)
            return process

        yield start


@pytest.fixture
def start(tmp_path: Path, after_the_nodes: None) -> Iterator[Callable[..., Process]]:
    """A factory: ``start("-j", "true", cluster=nodes)`` starts clstr with these arguments."""
    with contextlib.ExitStack() as started:

        def start(*arguments: Any, cluster: Cluster | None = None, **options: Any) -> Process:
            config = [] if cluster is None else ["-F", str(cluster.ssh_config)]
            texts = [part if isinstance(part, bytes) else str(part) for part in arguments]
            process = Process([*CLSTR, *config, *texts], tmp_path, **options)
            started.callback(process.stop)
            return process

        yield start


@pytest.fixture
def clstr(start: Callable[..., Process]) -> Callable[..., Result]:
    """A factory like ``start``, which waits for the end."""

    def run(*arguments: Any, **options: Any) -> Result:
        return start(*arguments, **options).result()

    return run


@pytest.fixture(scope="session")
def lasting_nodes(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Four nodes that stay up, for tests that do them no harm."""
    with Cluster(site, tmp_path_factory.mktemp("nodes"), 4) as nodes:
        yield nodes


@pytest.fixture
def nodes(lasting_nodes: Cluster) -> Iterator[Cluster]:
    """The four nodes; the test leaves no process on them."""
    yield lasting_nodes
    until(lambda: not lasting_nodes.jobs(), "no process of a job is left on the nodes")


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """A terminal to print on."""
    made = Terminal()
    yield made
    made.close()


@pytest.fixture
def scratch(site: Site) -> Iterator[Path]:
    """A directory in which clstr's user and the nodes' user may write."""
    directory = Path(tempfile.mkdtemp(prefix="scratch-", dir=site.directory))
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)
