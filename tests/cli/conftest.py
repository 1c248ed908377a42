"""Fixtures: commands run where the example rules are, so that what they print does not vary."""

from __future__ import annotations

import pytest

from .support import RULES


@pytest.fixture
def in_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to tests/data/rules."""
    monkeypatch.chdir(RULES)
