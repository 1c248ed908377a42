"""Lets every test begin at the same moment."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from . import FILE_VARIABLE, MOMENT_VARIABLE, read_clock, write_clock


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logstart() -> None:
    """Set the clock, first thing in a test."""
    file = Path(os.environ[FILE_VARIABLE])
    ahead_ns, began_ns = read_clock(file)
    real_ns = time.time_ns() - ahead_ns
    write_clock(file, int(os.environ[MOMENT_VARIABLE]) - real_ns, began_ns)
