"""What a list of rules remembers of the texts that it has seen."""

from __future__ import annotations

import pytest

from sidecar.automation.matching import Numbered, RuleList
from sidecar.shaping.patterns import Pattern, compile_pattern
from sidecar.shaping.rules import Action, Rule, Scope
from sidecar.times import NS


def rule(regex: str) -> Rule:
    return Rule(
        regexes=(compile_pattern(regex),),
        actions=(Action("Suspend"),),
        trigger=None,
        duration_ns=NS,
        match_internal=False,
        rollup=True,
        scope=Scope("default"),
        file="shaping.toml",
        line=1,
        number=1,
        table="default",
    )


def numbers(found: Numbered) -> list[int]:
    return [n for n, _ in found]


def test_a_text_is_matched_once_while_it_is_remembered() -> None:
    rules = RuleList([rule("busy"), rule("idle")], arrange=numbers)
    assert rules.match("421 busy", internal=False) == [0]
    assert rules.match("421 busy", internal=False) == [0]
    assert rules.match("421 busy", internal=True) == []
    assert rules.remembered == 1


def test_a_match_given_up_at_the_time_limit_costs_that_time_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given_up: list[str] = []

    def search(_pattern: Pattern, text: str) -> None:
        given_up.append(text)

    monkeypatch.setattr(Pattern, "search", search)
    rules = RuleList([rule("^(?!no).+")], arrange=numbers)
    for _ in range(2):
        assert rules.match("421 busy", internal=False) == []
    assert given_up == ["421 busy"]


def test_what_is_remembered_is_bounded() -> None:
    rules = RuleList([rule("busy")], arrange=numbers, remember=8)
    for number in range(100):
        assert rules.match(f"421 busy #{number}", internal=False)
        assert rules.remembered <= 8
    rules.match("421 busy" + "x" * 10_000, internal=False)
    assert rules.remembered <= 8
    assert not any(len(text) > 1000 for text in rules._seen)
