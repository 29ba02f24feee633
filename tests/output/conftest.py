"""Fixtures for what is printed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import readers


@pytest.fixture(autouse=True)
def _threads_end() -> Iterator[None]:
    yield
    while readers.made:
        readers.made.pop().close()
