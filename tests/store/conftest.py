"""Stores in a directory of their own, closed again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.store import Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the state file of a test is, or will be."""
    return tmp_path / "state.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """A fresh store at `path`."""
    with Store.open(path) as opened:
        yield opened
