"""redis-py: only where sharing is on, and one sentence where it is not installed."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from sidecar.problems import ProblemError
from sidecar.share import ShareSettings, connect, read_url, sharing


def test_the_client_is_not_imported_with_the_room() -> None:
    code = "import sys, sidecar.share; sys.exit('redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_the_client_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "has_client", lambda: False)

    async def story() -> None:
        settings = ShareSettings(read_url("redis://mx"), "mail", "mx1", age=1.0)
        async with connect(settings, clock=lambda: 0):
            raise AssertionError("it is not installed")

    with pytest.raises(ProblemError, match=r"pip install 'kumo-tsa-sidecar\[share\]'"):
        asyncio.run(story())
