"""Sidecars as processes, for the tests of this room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .support import Nursery, Setup


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Starts the processes."""
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
def make_setup(nursery: Nursery, tmp_path: Path) -> Iterator[Callable[..., Setup]]:
    """Files of a sidecar in a directory of their own, by name."""
    made: list[Setup] = []

    def make(name: str = "one", **options: Any) -> Setup:
        setup = Setup(nursery, tmp_path / name, **options)
        made.append(setup)
        return setup

    yield make
    for setup in made:
        setup.close()


@pytest.fixture
def setup(make_setup: Callable[..., Setup]) -> Setup:
    """One sidecar's files."""
    return make_setup()
