"""What operators hold: neither struck nor counted, until a moment of the log's time."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.automation.decide import LATENESS, Automation, Outcome
from sidecar.automation.entries import Override, ReadyQSuspension, SchedQBounce
from sidecar.automation.holds import RuleHold, hold_from_payload
from sidecar.automation.matching import Candidate, Matcher
from sidecar.automation.selection import Made, Selection
from sidecar.log.record import decode
from sidecar.shaping.load import MergeOptions, load_shaping
from sidecar.shaping.mx import OfflineResolver
from sidecar.times import NS
from tests.kumod_writer import record

NOW = 1_700_000_000

RULES = """
[["default".automation]]
regex = "slow"
action = ["Suspend", {SetConfig = {name = "connection_limit", value = 1}}]
trigger = {Threshold = "3/hour"}
duration = "1 day"
sidecar.name = "slow"
"""


@pytest.fixture(scope="module")
def matcher(tmp_path_factory: pytest.TempPathFactory) -> Matcher:
    file = tmp_path_factory.mktemp("rules") / "rules.toml"
    file.write_text(RULES)
    return Matcher(
        asyncio.run(
            load_shaping([str(file)], options=MergeOptions.all_warn(), resolver=OfflineResolver())
        )
    )


def candidate(matcher: Matcher, second: int, domain: str = "a.test") -> Candidate:
    response: Any = {"code": 421, "enhanced_code": None, "content": "slow", "command": None}
    said = record(
        second,
        at=NOW + second,
        recipient=f"x@{domain}",
        queue=domain,
        site=f"ip2->mx.{domain}@smtp_client",
        response=response,
    )
    found = matcher.candidate(decode(json.dumps(said).encode()))
    assert found is not None
    return found


def apply(automation: Automation, *found: Candidate, second: int) -> Outcome:
    return automation.apply(found, mx={}, now_ns=(NOW + second) * NS)


def hold(selection: Selection, until: int, id_: int = 1) -> RuleHold:
    return RuleHold(id_, selection, NOW * NS, (NOW + until) * NS, "about")


def test_what_is_held_is_neither_struck_nor_counted(matcher: Matcher) -> None:
    automation = Automation()
    automation.hold(hold(Selection(rules=("slow",)), until=100))
    outcome = apply(automation, *(candidate(matcher, n) for n in range(10)), second=10)
    assert (len(automation.entries), len(automation.thresholds)) == (0, 0)
    assert (outcome.counts["matched"], outcome.counts["held"]) == (10, 10)
    assert outcome.events == []
    # Logged before its end, and read after it.
    apply(automation, *(candidate(matcher, 90 + n) for n in range(5)), second=120)
    assert len(automation.thresholds) == 0
    apply(automation, *(candidate(matcher, 100 + n) for n in range(2)), second=120)
    assert len(automation.entries) == 0
    apply(automation, candidate(matcher, 102), second=120)
    assert len(automation.entries) == 2


def test_a_clock_ahead_does_not_get_past_a_hold(matcher: Matcher) -> None:
    automation = Automation()
    automation.hold(hold(Selection(rules=("slow",)), until=100))
    apply(automation, *(candidate(matcher, 200 + n) for n in range(5)), second=50)
    assert len(automation.entries) == 0


def test_of_several_effects_only_the_one_that_is_meant_is_held(matcher: Matcher) -> None:
    automation = Automation()
    automation.hold(hold(Selection(kinds=("ready_q",), domains=("a.test",)), until=100))
    outcome = apply(automation, *(candidate(matcher, n) for n in range(3)), second=3)
    (entry,) = automation.entries
    assert isinstance(entry, Override)
    assert outcome.events == []
    apply(automation, *(candidate(matcher, n, "b.test") for n in range(3)), second=3)
    assert len(automation.entries) == 3


def test_a_hold_that_is_made_later_holds_what_was_planned_before(matcher: Matcher) -> None:
    automation = Automation()
    apply(automation, candidate(matcher, 0), candidate(matcher, 1), second=1)
    automation.hold(hold(Selection(rules=("slow",)), until=100))
    apply(automation, candidate(matcher, 2), second=2)
    assert len(automation.entries) == 0
    assert [one.id for one in automation.release([1, 7])] == [1]
    apply(automation, candidate(matcher, 3), second=3)
    assert len(automation.entries) == 2


def test_a_hold_is_forgotten_when_nothing_late_can_come_any_more(matcher: Matcher) -> None:
    automation = Automation()
    automation.hold(hold(Selection(rules=("slow",)), until=100))
    assert automation.forget_holds((NOW + 100 + LATENESS) * NS) == []
    assert automation.forget_holds((NOW + 101 + LATENESS) * NS) == [1]
    assert len(automation.holds) == 0


def test_a_hold_can_be_kept() -> None:
    made = hold(Selection(ids=(1,), keys=("k",), domains=("*",)), until=3)
    assert hold_from_payload(made.to_payload()) == made
    with pytest.raises(ValueError, match="Expected"):
        hold_from_payload("[]")


COMMON: Any = {"action_hash": "a", "reason": "r", "expires_ns": 1, "seq": 1}
ENTRIES = (
    Override(
        site="i->s@c", domain="D.test", mx_rollup=True, source="i", name="n", value=1, **COMMON
    ),
    ReadyQSuspension(site="i->(a|b)?.s@c", source="i", **COMMON),
    SchedQBounce(site="i->s@c", domain="d.test", tenant="t", campaign=None, **COMMON),
)
MADE = Made(id=5, rule="named", place="/etc/x/rules.toml:12", domains={"cause.test"})


@pytest.mark.parametrize(
    ("selection", "fits"),
    [
        (Selection(), (True, True, True)),
        (Selection(ids=(5, 6)), (True, True, True)),
        (Selection(ids=(6,)), (False, False, False)),
        (Selection(domains=("d.TEST",)), (True, False, True)),
        (Selection(domains=("cause.test",)), (False, True, False)),
        (Selection(sites=("(a|b)?.s",)), (False, True, False)),
        (Selection(sites=("*s@c",)), (True, True, True)),
        (Selection(sources=("i",)), (True, True, True)),
        (Selection(tenants=("t",)), (False, False, True)),
        (Selection(tenants=("t",), domains=("no",)), (False, False, False)),
        (Selection(campaigns=("*",)), (False, False, False)),
        (Selection(rules=("NAMED",)), (True, True, True)),
        (Selection(rules=("rules.toml:12",)), (True, True, True)),
        (Selection(rules=("x/rules.toml:12",)), (True, True, True)),
        (Selection(rules=("rules.toml:1",)), (False, False, False)),
        (Selection(kinds=("bounce", "override")), (True, False, True)),
    ],
)
def test_what_a_selection_means(selection: Selection, fits: tuple[bool, ...]) -> None:
    assert tuple(selection.fits(entry, MADE) for entry in ENTRIES) == fits


@given(st.text(min_size=1))
def test_a_text_without_a_star_means_itself(text: str) -> None:
    entry = ReadyQSuspension(site=text, source="i", **COMMON)
    assert Selection(sites=(text,)).fits(entry, Made()) or "*" in text


@given(st.text("ab*", max_size=8), st.text("ab", max_size=8))
def test_stars_stand_for_anything(pattern: str, text: str) -> None:
    expected = re.fullmatch(pattern.replace("*", ".*"), text) is not None
    entry = ReadyQSuspension(site=text, source="i", **COMMON)
    assert Selection(sites=(pattern,)).fits(entry, Made()) == (expected and text != "")


def test_many_stars_do_not_take_long() -> None:
    entry = ReadyQSuspension(site="a" * 4000, source="i", **COMMON)
    assert not Selection(sites=("*a" * 40 + "*b",)).fits(entry, Made())
