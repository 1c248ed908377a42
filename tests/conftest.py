"""What holds for every test."""

from __future__ import annotations

import random
import shutil
from importlib.util import find_spec

import pytest
from hypothesis import settings

# How long an example takes says more about what else the machine does than about the code.
settings.register_profile("tsa-sidecar", deadline=None)
settings.load_profile("tsa-sidecar")


NEEDED = {
    "cc": ("clock/test_clock.py", "gcc"),
    "promtool": ("packaging/test_alerts.py", "prometheus"),
    "chromium": ("publish/test_page_in_browser.py", "chromium"),
    "redis-server": ("share/engine", "redis-server"),
}
"""Programs that some tests need: those tests, and Debian's package."""

MODULES = {
    "apprise": ("notify/test_apprise.py", "apprise"),
    "redis": ("share/engine", "redis[hiredis]"),
}
"""Modules that some tests need: those tests, and PyPI's package."""

collect_ignore = [tests for program, (tests, _) in NEEDED.items() if not shutil.which(program)]
collect_ignore += [tests for module, (tests, _) in MODULES.items() if find_spec(module) is None]


def pytest_report_header() -> list[str]:
    """One line for each file of tests that can't run here."""
    return [
        f"not run: tests/{tests}, for want of {program} (apt install {package})"
        for program, (tests, package) in NEEDED.items()
        if not shutil.which(program)
    ] + [
        f"not run: tests/{tests}, for want of {module} (pip install {package})"
        for module, (tests, package) in MODULES.items()
        if find_spec(module) is None
    ]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Our own options."""
    parser.addoption("--seed", type=int, help="of the tests that kill processes at random moments")


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """The test's own source of chance; what it printed its seed as repeats it."""
    seed = request.config.getoption("--seed")
    if seed is None:
        seed = random.randrange(1 << 32)
    print(f"--seed {seed}")  # pytest shows it when the test fails
    return random.Random(seed)
