"""``sidecar.ratio`` in a file: what it may hold, and what ``check`` says of it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from sidecar.shaping.lint import lint
from sidecar.shaping.load import MergeOptions
from sidecar.shaping.mx import OfflineResolver
from sidecar.shaping.ratio import read_ratio
from sidecar.shaping.rules import Ratio
from sidecar.times import NS
from sidecar.tools.check import check

from .shared import load, shown

RULE = '[[default.automation]]\nregex = "busy"\naction = "Suspend"\nduration = "1h"\n'
SETS = RULE.replace('"Suspend"', '{SetDomainConfig = {name = "connection_limit", value = 1}}')


def said(tmp_path: Path, text: str) -> list[str]:
    shaping = load(tmp_path, text)
    return shown([*shaping.warnings, *lint(shaping)], tmp_path)


def test_every_key_is_read_and_all_but_one_may_be_left_out() -> None:
    assert read_ratio({"over": "5%"}) == Ratio(0.05, 200, 600, None, complaints=False)
    raw = {"over": 0.125, "min": 50, "window": "1 hour", "confidence": "99.5 %", "of": "Feedback"}
    assert read_ratio(raw) == Ratio(0.125, 50, 3600, 0.995, complaints=True)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("5%", 'found "5%", wanted a table as in {over = "5%"}'),
        ({}, 'over is missing: write the share to strike above, as in over = "5%"'),
        ({"ovr": "5%"}, 'key "ovr" means nothing (did you mean "over"?)'),
        ({"over": 5}, 'over: found 5, wanted a share such as "5%"'),
        ({"over": "100%"}, 'over: found "100%", wanted less than 100 %: no share is above it'),
        ({"over": "5%", "min": 0}, "min: found 0, wanted a whole number from 1 to 1,000,000,000"),
        (
            {"over": "5%", "window": "9 days"},
            'window: found "9 days", wanted whole seconds, up to 7 days',
        ),
        ({"over": "5%", "confidence": "9%"}, 'confidence: found "9%", wanted 50 % to 99.99 %'),
        ({"over": "5%", "of": "OOB"}, 'of: found "OOB", wanted "Feedback", or no such key'),
    ],
)
def test_what_it_can_not_be_is_said_with_the_key(raw: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_ratio(raw)


def test_misread_the_rule_does_nothing(tmp_path: Path) -> None:
    shaping = load(tmp_path, RULE + 'sidecar.ratio = {over = "5"}\n')
    (rule,) = shaping.all_rules()
    assert rule.sidecar.ratio == Ratio(over=1.0)
    (finding,) = said(tmp_path, RULE + 'sidecar.ratio = {over = "5"}\n')
    assert finding.endswith("the rule does nothing")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            RULE + 'match_internal = true\nsidecar.ratio = {over = "5%"}\n',
            "what kumod says itself is no attempt and is never counted",
        ),
        (
            RULE + 'sidecar.ratio = {over = "5%", of = "Feedback"}\n',
            "a Feedback record names no ready queue to suspend",
        ),
        (
            SETS + 'sidecar.ratio = {over = "5%", of = "Feedback"}\n'
            'sidecar.when = {type = ["Bounce"]}\n',
            "the rule counts Feedback records, and sidecar.when.type leaves them out",
        ),
        (
            RULE + 'sidecar.ratio = {over = "5%"}\nsidecar.when = {type = ["Expiration", "OOB"]}\n',
            "records of type Expiration and OOB, which sidecar.when asks for, are no attempts",
        ),
    ],
)
def test_what_can_not_work_is_said(tmp_path: Path, text: str, message: str) -> None:
    (finding,) = said(tmp_path, text)
    assert f"rule 1: sidecar.ratio: {message}" in finding


def test_another_ratio_makes_another_rule(tmp_path: Path) -> None:
    def hash_of(text: str) -> str:
        (rule,) = load(tmp_path, RULE + text).all_rules()
        return rule.hash

    texts = ["", *(f'sidecar.ratio = {{over = "{n}%"}}\n' for n in (5, 6))]
    assert len({hash_of(text) for text in texts}) == 3


def test_logs_are_read_back_as_far_as_a_window_reaches(tmp_path: Path) -> None:
    shaping = load(tmp_path, RULE + 'sidecar.ratio = {over = "5%", window = "1 day"}\n')
    assert shaping.horizon_ns == (3600 + 86400) * NS


def test_check_notes_what_differs_and_what_the_log_must_have(tmp_path: Path) -> None:
    path = tmp_path / "shaping.toml"
    path.write_text(RULE + 'trigger = {Threshold = "9/hr"}\nsidecar.ratio = {over = "5%"}\n' + RULE)
    report = asyncio.run(check([str(path)], options=MergeOptions(), resolver=OfflineResolver()))
    notes = [problem.message for level, problem in report.findings() if level == "note"]
    assert any("the rule strikes at 9/hr, by its trigger, whatever the share" in n for n in notes)
    assert len([note for note in notes if "must have Delivery records" in note]) == 1
