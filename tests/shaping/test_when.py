"""``sidecar.when`` in a file: what it may hold, and what is said of the rest."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sidecar.shaping.lint import lint
from sidecar.shaping.rules import When
from sidecar.shaping.when import NEVER, read_when

from .shared import load

RULE = '[[default.automation]]\nregex = "busy"\naction = "Suspend"\nduration = "1h"\n'


def test_each_key_takes_one_or_several() -> None:
    raw = {
        "type": ["Bounce", "TransientFailure", "Bounce"],
        "code": ["4xx", "42x", 550],
        "classification": "SpamBlock",
        "source": ["ip1"],
        "tenant": "t1",
        "campaign": "",
    }
    assert read_when(raw) == When(
        type=("Bounce", "TransientFailure"),
        code=("4", "42", "550"),
        classification=("SpamBlock",),
        source=("ip1",),
        tenant=("t1",),
        campaign=("",),
    )


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (True, 'found true, wanted a table as in {code = "4xx"}'),
        ({"cod": 4}, 'key "cod" means nothing (did you mean "code"?)'),
        (
            {"domain": "x"},
            'key "domain" means nothing: keys are type, code, classification, source, tenant, '
            "campaign",
        ),
        ({"code": "x21"}, 'code: found "x21", wanted a code such as 421, "42x" or "4xx"'),
        ({"code": 4}, 'code: found 4, wanted a code such as 421, "42x" or "4xx"'),
        ({"code": True}, 'code: found true, wanted a code such as 421, "42x" or "4xx"'),
        ({"tenant": []}, "tenant: an empty array is never so: leave the key out for any"),
        ({"source": [7]}, "source: found 7, wanted a name or an array of names"),
    ],
)
def test_what_it_can_not_be_is_said_with_the_key(raw: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_when(raw)


def test_a_type_that_does_not_exist_has_the_nearest_that_does() -> None:
    with pytest.raises(ValueError, match=r'type: found "bounce" \(did you mean "Bounce"\?\)'):
        read_when({"type": "bounce"})


def test_a_rule_whose_condition_can_not_be_read_does_nothing(tmp_path: Path) -> None:
    shaping = load(tmp_path, RULE + 'sidecar.when = {cod = "4xx"}\n')
    (rule,) = shaping.all_rules()
    assert rule.sidecar.when == NEVER
    (said,) = shaping.warnings
    assert said.message.endswith('(did you mean "code"?); the rule does nothing')
    assert said.line == 5


def test_rules_of_other_conditions_are_other_rules(tmp_path: Path) -> None:
    one = RULE + 'sidecar.when = {source = "ip1"}\n'
    other = RULE + 'sidecar.when = {source = "ip2"}\n'
    shaping = load(tmp_path, one + other + RULE)
    assert len({rule.hash for rule in shaping.all_rules()}) == 3
    assert lint(shaping) == []


def test_the_same_condition_twice_is_told(tmp_path: Path) -> None:
    rule = RULE + 'sidecar.when = {source = "ip1"}\n'
    (said,) = lint(load(tmp_path, rule + rule))
    assert said.code == "repeated-rule"
