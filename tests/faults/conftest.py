"""Fixtures for faults: a stage for mean servers, and clstr processes that meet them."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster.sshd import Cluster, Site
from end_to_end.clstr_process import CLSTR, Process
from faults.mean_nodes import NOTICING, QUICK
from faults.mean_servers import Stage


@pytest.fixture
def stage(site: Site) -> Iterator[Stage]:
    with Stage(site) as made:
        yield made


@pytest.fixture
def quick(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Cluster]]:
    """A factory like ``cluster``, of nodes whose ssh_config and sshd_config notice a dead link within seconds."""
    with contextlib.ExitStack() as running:

        def make(nodes: int = 2, **options: Any) -> Cluster:
            options.setdefault("extra_config", NOTICING)
            directory = tmp_path_factory.mktemp("cluster")
            made = running.enter_context(Cluster(site, directory, nodes, **options))
            made.ssh_config.write_text(made.ssh_config.read_text() + QUICK)
            return made

        yield make


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """A factory: ``start("-j", "true", cluster=nodes)`` starts clstr; ``prelude`` is Python that runs before it."""
    with contextlib.ExitStack() as started:

        def start(*arguments: Any, cluster: Cluster | None = None, prelude: str = "", **options: Any) -> Process:
            command: list[Any] = list(CLSTR)
            if prelude:
                command[1:] = ["-c", f"{prelude}\nfrom clstr.cli import main\nraise SystemExit(main())"]
            config = [] if cluster is None else ["-F", str(cluster.ssh_config)]
            texts = [part if isinstance(part, bytes) else str(part) for part in arguments]
            process = Process([*command, *config, *texts], tmp_path, **options)
            started.callback(process.stop)
            return process

        yield start


@pytest.fixture
def scratch(site: Site) -> Iterator[Path]:
    """A directory in which clstr's user and the nodes' user may write."""
    directory = Path(tempfile.mkdtemp(prefix="scratch-", dir=site.directory))
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def table() -> Iterator[list[tuple[object, ...]]]:
    """Rows that tests measured, printed at the end (pytest -s)."""
    rows: list[tuple[object, ...]] = []
    yield rows
    print()
    for row in rows:
        print("|", " | ".join(f"{part:.1f}" if isinstance(part, float) else str(part) for part in row), "|")
