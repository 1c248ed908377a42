"""A reader that has had enough (``| head``) is no error."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from .support import HERE, REPOSITORY, RULES

LOGS = str(REPOSITORY / "tests" / "data" / "logs" / "plain" / "logs")


@pytest.mark.parametrize(
    "command",
    [
        ("check", "--help"),
        ("check", *HERE),
        ("explain", *HERE, "--domain", "alpha.example", "421 4.7.0 slow down"),
        ("resolve", *HERE, "alpha.example"),
        ("replay", *HERE, LOGS),
        ("replay", *HERE, "--json", LOGS),
    ],
    ids=" ".join,
)
def test_a_closed_pipe_is_no_error(command: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    settled = {k: v for k, v in os.environ.items() if not k.startswith("TSA_SIDECAR_")}
    with open(writing, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "sidecar", *command],
            cwd=RULES,
            env={**settled, "PYTHONPATH": str(REPOSITORY)},
            stdout=closed,
            stderr=subprocess.PIPE,
            timeout=120,
        )
    assert (done.returncode, done.stderr.decode()) == (0, "")
