"""A policy file from a text, run with an environment of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from sidecar.policy import Limits, Policy, load_policy
from sidecar.problems import ProblemError

RunPolicy = Callable[..., Policy]
FailPolicy = Callable[..., ProblemError]

LIMITS = Limits(instructions=20_000_000, memory=32 << 20)
"""Enough for any test, and soon reached by those that mean to."""


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    return tmp_path / "tsa_init.lua"


@pytest.fixture
def run(policy_file: Path) -> RunPolicy:
    """Run a Lua text; an indented one begins behind the quotes' line."""

    def run_policy(source: str | bytes, **env: str) -> Policy:
        if isinstance(source, str):
            indented = source.startswith("\n ")
            source = dedent(source).encode()[indented:]
        policy_file.write_bytes(source)
        return load_policy(policy_file, env=env, limits=LIMITS)

    return run_policy


@pytest.fixture
def fail(run: RunPolicy) -> FailPolicy:
    """Run a Lua text that must be refused; the ProblemError."""

    def fail_policy(source: str | bytes, **env: str) -> ProblemError:
        with pytest.raises(ProblemError) as caught:
            run(source, **env)
        return caught.value

    return fail_policy
