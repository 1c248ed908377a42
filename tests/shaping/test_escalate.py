"""``sidecar.escalate`` in a file: what it may hold, and what ``check`` says of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sidecar.shaping.escalate import read_escalate
from sidecar.shaping.lint import lint
from sidecar.shaping.rules import Escalate
from sidecar.times import NS

from .shared import load, shown

RULE = '[[default.automation]]\nregex = "busy"\naction = "Suspend"\nduration = "1h"\n'
SETS = "[default]\nconnection_limit = 9\n" + RULE.replace(
    '"Suspend"', '{SetConfig = {name = "connection_limit", value = 1}}'
)


def said(tmp_path: Path, text: str) -> list[str]:
    shaping = load(tmp_path, text)
    return shown([*shaping.warnings, *lint(shaping)], tmp_path)


def test_true_is_the_default_and_false_is_none(tmp_path: Path) -> None:
    assert read_escalate(True) == Escalate(2.0, 86400 * NS, 86400 * NS)
    assert read_escalate(False) is None
    assert said(tmp_path, RULE + "sidecar.escalate = true\n") == []


def test_every_key_is_read() -> None:
    raw = {"factor": 1.5, "max": "2 days", "forget": "12 hours"}
    assert read_escalate(raw) == Escalate(1.5, 2 * 86400 * NS, 43200 * NS)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (3, "found 3, wanted true or a table as in {factor = 2}"),
        ({"facter": 2}, 'key "facter" means nothing (did you mean "factor"?)'),
        ({"factor": 1}, "factor: found 1, wanted a number above 1, 100 at most"),
        ({"factor": "2"}, 'factor: found "2", wanted a number above 1'),
        ({"max": 0}, "max: found 0, wanted a duration of up to 366 days"),
        ({"forget": "9 years"}, 'forget: found "9 years", wanted a duration of up to 366 days'),
    ],
)
def test_what_it_can_not_be_is_said_with_the_key(raw: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_escalate(raw)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            RULE + 'sidecar.escalate = {max = "1h"}\n',
            "sidecar.escalate: max is not more than the duration, so nothing is ever held longer",
        ),
        (
            SETS + "sidecar.escalate = true\nsidecar.adjust = true\n",
            "sidecar.escalate: what adjusts itself has no duration; take out one of the two keys",
        ),
    ],
)
def test_what_changes_nothing_is_said(tmp_path: Path, text: str, message: str) -> None:
    (finding,) = said(tmp_path, text)
    assert finding.endswith(f"[[default.automation]] rule 1: {message}")


def test_logs_are_read_back_as_far_as_a_hold_may_last(tmp_path: Path) -> None:
    assert load(tmp_path, RULE + "sidecar.escalate = true\n").horizon_ns == 86400 * NS
