"""The daemon's own hashes come out, of every rule that the recordings show one of."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidecar.shaping.hashes import action_hash, rule_hash
from sidecar.shaping.rules import Action, Rule, Threshold, TomlValue

from .upstream_rules import rules_of

DATA = Path(__file__).parents[1] / "data"
RECORDINGS = sorted((DATA / "conformance").glob("*.json"))


def recorded(value: Any) -> Iterator[str]:
    """Every ``rule_hash`` in an answer, without the site in front of it."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "rule_hash":
                yield item[-64:]
            else:
                yield from recorded(item)
    elif isinstance(value, list):
        for item in value:
            yield from recorded(item)


def parsed(text: str) -> dict[str, Any]:
    document: dict[str, Any]
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        document = json.loads(text)
    return document


def action_hashes(rules: list[Rule]) -> set[str]:
    return {action_hash(rule, action) for rule in rules for action in rule.actions}


SHOWING = [p for p in RECORDINGS if set(recorded(json.loads(p.read_text())["expected"]))]


def test_there_is_something_to_compare() -> None:
    assert len(SHOWING) > 30


@pytest.mark.parametrize("path", SHOWING, ids=lambda path: path.stem)
def test_every_recorded_hash_is_that_of_a_rule_in_the_files(path: Path) -> None:
    scenario = json.loads(path.read_text())
    documents = [parsed(text) for text in scenario["files"].values() if text is not None]
    computed = action_hashes([rule for document in documents for rule in rules_of(document)])
    assert set(recorded(scenario["expected"])) <= computed


def test_the_hashes_in_a_daemons_state_file_are_those_of_its_rules() -> None:
    state = (DATA / "tsa-state" / "tsa.db.state").read_bytes()
    rules = rules_of(tomllib.loads((DATA / "tsa-state" / "shaping.toml").read_text()))
    thresholds = [rule for rule in rules if rule.trigger is not None]
    assert sum(bytes.fromhex(rule_hash(rule)) in state for rule in thresholds) == 1
    # Every action has left its hash; each of the rules is only in the file as rolled up or not.
    found = {hash_ for hash_ in action_hashes(rules) if bytes.fromhex(hash_) in state}
    assert len(found) == sum(len(rule.actions) for rule in rules) // 2


VALUES: list[TomlValue] = ["1", 1, 1.0, True, ["a", "b"], {"a": 1}, -1]


def sample() -> Rule:
    (rule, _) = rules_of(
        {"default": {"automation": [{"regex": "x", "action": "Bounce", "duration": "90s"}]}}
    )
    return rule


def test_a_burst_may_be_written_in_any_way_that_a_throttle_takes() -> None:
    def hash_of(spec: str) -> str:
        return rule_hash(replace(sample(), trigger=Threshold(5, 3600, spec)))

    plain = hash_of("5/hr,max_burst=10")
    for burst in ("1__0", "_1,0_", "+10", "0" * 5000 + "10"):
        assert hash_of(f"5/hr,max_burst={burst}") == plain


@pytest.mark.parametrize(
    "changes",
    [
        {"trigger": Threshold(5, 3600, "5/hr")},
        {"trigger": Threshold(5, 3600, "local:5/hr")},
        {"trigger": Threshold(5, 3600, "5/hr,max_burst=5")},
        {"trigger": Threshold(5, 3600, "5/hr,max_burst=1,000")},
        {"duration_ns": 90_000_000_001},
        {"rollup": True},
        {"match_internal": True},
        *({"actions": (Action("SetConfig", "option", value),)} for value in VALUES),
    ],
)
def test_everything_a_rule_says_is_in_its_hash(changes: dict[str, Any]) -> None:
    rule = sample()
    changed = replace(rule, **changes)
    assert rule_hash(changed) != rule_hash(rule)
    assert action_hash(changed, rule.actions[0]) != action_hash(rule, rule.actions[0])
