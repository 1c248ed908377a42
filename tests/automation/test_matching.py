"""What a list of rules remembers of the texts that it has seen."""

from __future__ import annotations

import asyncio
import gc
import weakref
from pathlib import Path

import pytest

from sidecar.automation.decide import Automation
from sidecar.automation.matching import GeneralMatches, Matcher, Numbered, RuleList
from sidecar.fancy.pattern import Pattern, compile_pattern
from sidecar.log.record import Record
from sidecar.shaping.load import MergeOptions, Shaping, load_shaping
from sidecar.shaping.mx import OfflineResolver
from sidecar.shaping.rules import Action, Rule, Scope
from sidecar.times import NS

NOW_NS = 1_795_360_000 * NS


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


def shaping_of(path: Path, text: str) -> Shaping:
    path.write_text(text)
    return asyncio.run(
        load_shaping([str(path)], options=MergeOptions(), resolver=OfflineResolver())
    )


RULES = """
[[default.automation]]
regex = "busy"
action = "SuspendCampaign"
duration = "1 hour"
"""


def record(said: str, *, domain: str = "one.example", queue: str = "") -> Record:
    return Record(
        type="TransientFailure",
        recipients=(f"user@{domain}",),
        queue=queue or f"camp:tenant@{domain}",
        site=f"ip1->mx.{domain}@smtp_client",
        egress_source="ip1",
        code=421,
        enhanced=None,
        content=said,
        time_ns=NOW_NS,
    )


def act_on(automation: Automation, matcher: Matcher, *records: Record) -> int:
    found = [c for c in map(matcher.candidate, records) if c is not None]
    return len(automation.apply(found, mx={}, now_ns=NOW_NS).entries)


def test_rules_that_were_replaced_are_freed_at_once(tmp_path: Path) -> None:
    automation = Automation()
    matcher = Matcher(shaping_of(tmp_path / "1.toml", RULES))
    assert act_on(automation, matcher, record("busy")) == 1
    old = weakref.ref(matcher.shaping.all_rules()[0].regexes[0]._ascii)
    gc.disable()  # nor is there a cycle that only the collector would find
    try:
        matcher = Matcher(shaping_of(tmp_path / "2.toml", RULES))
        assert old() is not None
        assert act_on(automation, matcher, record("busy")) == 1
        assert old() is None
    finally:
        gc.enable()


def test_what_is_remembered_of_domains_and_queues_is_bounded(tmp_path: Path) -> None:
    automation = Automation()
    matcher = Matcher(shaping_of(tmp_path / "1.toml", RULES))
    records = [record("busy", domain=f"d{n}.example") for n in range(GeneralMatches._FITS_MAX + 9)]
    assert act_on(automation, matcher, *records) == len(records)
    assert len(matcher._common.match("421 busy", internal=False)._fits) <= GeneralMatches._FITS_MAX
    assert 0 < len(matcher._places) <= Matcher._PLACES_MAX
    assert 0 < len(automation._plans) <= Automation._PLANS_MAX
    known = len(automation._plans)
    assert act_on(automation, matcher, record("busy", queue="c" * 4096 + ":t@one.example")) == 1
    assert len(automation._plans) == known
