"""The rules and the tests that come with the package: they are right, and cover each other."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.support import run

EXAMPLES = Path(__file__).parents[2] / "packaging" / "examples"
NOTES = ("differs", "needs-deliveries")


def test_the_example_rules_are_without_a_finding() -> None:
    document = json.loads(run("check", str(EXAMPLES / "shaping.toml"), "--no-dns", "--json").stdout)
    assert [p for p in document["problems"] if p["code"] not in NOTES] == []
    assert document["rules"] == 5


def test_the_example_tests_pass_and_leave_nothing_out() -> None:
    result = run("test", "--coverage", "--json", str(EXAMPLES / "shaping.test.toml"))
    document = json.loads(result.stdout)
    assert (result.exit_code, document["failed"], document["passed"]) == (0, 0, 8)
    assert document["coverage"] == {"rules": 5, "touched": 5, "untouched": []}
