"""Decisions that depend on time: thresholds across a wrong clock, late records, expiry."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from sidecar.automation.decide import LATENESS, Automation, Outcome, scope_period
from sidecar.automation.matching import Candidate, Matcher
from sidecar.automation.pipeline import Tally, candidates
from sidecar.shaping.load import MergeOptions, Shaping, load_shaping
from sidecar.shaping.mx import ZoneResolver
from sidecar.times import NS, format_rfc3339

NOW = 1_795_360_000
"""Seconds; the moment that the tests take for the present."""

YEAR = 365 * 86400

RULES = """
[[default.automation]]
regex = "busy"
action = "Suspend"
trigger = {Threshold = "3/hr"}
duration = "10 minutes"
"""


@pytest.fixture
def shaping(tmp_path: Path) -> Shaping:
    """One rule: three times busy within an hour suspends for ten minutes."""
    path = tmp_path / "shaping.toml"
    path.write_text(RULES)
    return asyncio.run(load_shaping([str(path)], options=MergeOptions(), resolver=ZoneResolver([])))


def busy(
    automation: Automation,
    shaping: Shaping,
    second: int,
    *,
    now: int | None = None,
    domain: str = "example.com",
) -> Outcome:
    """What a record of `second`, read at once or at `now`, leads to."""
    found = candidates_of(shaping, second, domain=domain)
    return automation.apply(found, mx={}, now_ns=(second if now is None else now) * NS)


def candidates_of(shaping: Shaping, second: int, *, domain: str = "example.com") -> list[Candidate]:
    record = {
        "type": "TransientFailure",
        "recipient": f"user@{domain}",
        "queue": domain,
        "site": f"ip1->mx.{domain}@smtp_client",
        "egress_source": "ip1",
        "response": {"code": 421, "content": "busy"},
        "event_time": format_rfc3339(second * NS),
    }
    return candidates(
        [json.dumps(record).encode()],
        matcher=Matcher(shaping),
        skip_types=frozenset(),
        tally=Tally(),
    )


def test_the_third_within_the_hour_suspends(shaping: Shaping) -> None:
    automation = Automation()
    made = [len(busy(automation, shaping, NOW + s).entries) for s in (0, 1800, 3600, 7201)]
    assert made == [0, 0, 1, 0]


def test_a_record_too_old_to_act_on_still_counts(shaping: Shaping) -> None:
    automation = Automation()
    assert not busy(automation, shaping, NOW - 1800, now=NOW).entries
    outcome = busy(automation, shaping, NOW - 1700, now=NOW)
    assert (outcome.entries, outcome.counts) == ({}, {"matched": 1})
    assert busy(automation, shaping, NOW).entries


def test_what_is_over_when_it_is_read_is_counted_and_left_out(shaping: Shaping) -> None:
    automation = Automation()
    for second in (0, 1):
        busy(automation, shaping, NOW + second)
    outcome = busy(automation, shaping, NOW + 2, now=NOW + 602)
    assert (outcome.entries, outcome.counts) == ({}, {"matched": 1, "already_expired": 1})


@pytest.mark.parametrize("read", ["then", "later"])
def test_a_clock_that_was_years_ahead_for_a_while_costs_no_threshold(
    shaping: Shaping, read: str
) -> None:
    automation = Automation()
    ahead = NOW + 10 * YEAR
    busy(automation, shaping, ahead, now=ahead if read == "then" else NOW)
    made = []
    for second in (0, 600, 1200):
        made.append(len(busy(automation, shaping, NOW + second).entries))
        assert automation.forget_idle_thresholds() == []
    assert made == [0, 0, 1]
    assert automation.newest_ns == (NOW + 1200) * NS


def test_a_clock_that_is_set_back_a_little_goes_on_counting(shaping: Shaping) -> None:
    automation = Automation()
    seconds = (LATENESS // 2, 0, 1)
    assert [len(busy(automation, shaping, NOW + s).entries) for s in seconds] == [0, 0, 1]
    assert automation.newest_ns == (NOW + LATENESS // 2) * NS


def test_the_newest_time_does_not_depend_on_when_a_record_is_read(shaping: Shaping) -> None:
    early, late = Automation(), Automation()
    busy(early, shaping, NOW, now=NOW - 1)  # two clocks, or a record read as it is written
    busy(late, shaping, NOW, now=NOW + 60)
    assert early.newest_ns == late.newest_ns == NOW * NS


@pytest.mark.parametrize("scope", ["", "x", "0 hash site", "-5 hash site", "99999999999999 h s"])
def test_a_scope_that_is_none_of_ours_is_refused(scope: str) -> None:
    with pytest.raises(ValueError, match="period"):
        scope_period(scope)


def test_a_scope_has_its_period() -> None:
    assert scope_period("3600 hash a site with blanks") == 3600


EVERYWHERE = """
[[default.automation]]
regex = "busy"
action = ["Suspend", {SetConfig = {name = "connection_limit", value = 1}}]
duration = "10 minutes"
"""


def load(tmp_path: Path, text: str) -> Shaping:
    path = tmp_path / "shaping.toml"
    path.write_text(text)
    return asyncio.run(load_shaping([str(path)], options=MergeOptions(), resolver=ZoneResolver([])))


def test_a_record_of_a_far_future_makes_an_entry_that_ends_soon(tmp_path: Path) -> None:
    automation, far = Automation(), NOW + 230 * YEAR
    outcome = busy(automation, load(tmp_path, EVERYWHERE), far, now=NOW)
    assert {e.expires_ns for e in outcome.entries.values()} == {(NOW + LATENESS + 600) * NS}
    assert outcome.counts == {"matched": 1, "dated_ahead": 1}


def test_a_record_within_the_tolerated_lateness_is_taken_at_its_word(tmp_path: Path) -> None:
    automation, at = Automation(), NOW + LATENESS
    outcome = busy(automation, load(tmp_path, EVERYWHERE), at, now=NOW)
    assert {e.expires_ns for e in outcome.entries.values()} == {(at + 600) * NS}
    assert outcome.counts == {"matched": 1}


def test_past_the_ceiling_the_oldest_stay_and_are_renewed(tmp_path: Path) -> None:
    shaping = load(tmp_path, EVERYWHERE)
    automation = Automation(max_entries=4)
    for number in range(2):
        assert len(busy(automation, shaping, NOW, domain=f"old{number}.example").entries) == 2
    late = busy(automation, shaping, NOW + 1, domain="new.example")
    assert (late.entries, late.events) == ({}, [])
    assert late.counts == {"matched": 1, "no_room": 2}
    assert [e.site for e in late.left_out] == ["ip1->mx.new.example@smtp_client"] * 2
    assert {e.expires_ns for e in late.left_out} == {(NOW + 601) * NS}
    renewed = busy(automation, shaping, NOW + 2, domain="old0.example")
    assert {e.expires_ns for e in renewed.entries.values()} == {(NOW + 602) * NS}
    automation.expire((NOW + 601) * NS)  # the other one's time is over
    assert len(busy(automation, shaping, NOW + 602, domain="new.example").entries) == 2


def test_the_ceiling_counts_what_a_batch_makes_and_names_a_few(tmp_path: Path) -> None:
    shaping = load(tmp_path, EVERYWHERE)
    automation = Automation(max_entries=3)
    names = [f"d{number}.example" for number in range(20)]
    found = [c for name in names for c in candidates_of(shaping, NOW, domain=name)]
    outcome = automation.apply([*found, *found], mx={}, now_ns=NOW * NS)
    assert len(automation.entries) == len(outcome.entries) == 3
    assert outcome.counts == {"matched": 40, "no_room": 2 * (40 - 3)}
    assert len(outcome.left_out) == 10
    assert {event.key for event in outcome.events} <= outcome.entries.keys()
    whole = Outcome()
    whole.add(outcome)
    whole.add(outcome)
    assert len(whole.left_out) == 10


def test_past_the_ceiling_the_oldest_counts_go_on_and_the_others_are_counted(
    shaping: Shaping,
) -> None:
    automation = Automation(max_entries=2)
    for domain in ("one.example", "two.example"):
        busy(automation, shaping, NOW, domain=domain)
    outcome = busy(automation, shaping, NOW, domain="new.example")
    assert outcome.counts == {"matched": 1, "no_room_to_count": 1}
    assert outcome.not_counted == ["ip1->mx.new.example@smtp_client"]
    busy(automation, shaping, NOW + 1, domain="one.example")
    assert busy(automation, shaping, NOW + 2, domain="one.example").entries
    automation.newest_ns = (NOW + 3 * 3600) * NS
    assert len(automation.forget_idle_thresholds()) == 2
    assert not busy(automation, shaping, NOW + 3 * 3600, domain="new.example").counts["no_room"]
    assert len(automation.thresholds) == 1


def test_a_count_takes_no_more_room_than_its_threshold_asks_for(shaping: Shaping) -> None:
    automation = Automation()
    for second in range(1000):
        busy(automation, shaping, NOW + second)
    ((_, window),) = automation.thresholds.scopes()
    assert sum(count for _, count in window.items()) == 3


def test_long_names_take_several_places(tmp_path: Path) -> None:
    shaping = load(tmp_path, EVERYWHERE.replace('["Suspend", ', "").replace("}}]", "}}"))
    automation = Automation(max_entries=100)
    for number in range(20):
        busy(automation, shaping, NOW, domain=f"[x{number}:{'y' * 2048}]")
    assert len(automation.entries) == 12  # the domain and the ready queue, four places each
    automation.expire((NOW + 3600) * NS)
    assert automation.entries.places == 0


def test_a_simulated_rule_and_a_real_one_with_the_same_action_stand_side_by_side(
    tmp_path: Path,
) -> None:
    path = tmp_path / "shaping.toml"
    path.write_text(RULES + RULES + "sidecar.simulate = true\n")
    both = asyncio.run(load_shaping([str(path)], options=MergeOptions(), resolver=ZoneResolver([])))
    automation = Automation()
    for second in range(3):
        outcome = busy(automation, both, NOW + second)
    assert sorted(entry.simulated for entry in outcome.entries.values()) == [False, True]
    assert [entry.simulated for entry in outcome.events] == [False, True]
    # Each counts for itself: one match is not two.
    assert [window.total for _, window in automation.thresholds.scopes()] == [3, 3]


def test_a_rules_name_stands_in_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "shaping.toml"
    path.write_text(RULES + 'sidecar.name = "slow"\n')
    named = asyncio.run(
        load_shaping([str(path)], options=MergeOptions(), resolver=ZoneResolver([]))
    )
    automation = Automation()
    for second in range(3):
        outcome = busy(automation, named, NOW + second)
    assert [entry.reason for entry in outcome.events] == ["automation rule: slow: busy"]
