"""Decisions that depend on time: thresholds across a wrong clock, late records, expiry."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from sidecar.automation.decide import LATENESS, Automation, Outcome, scope_period
from sidecar.automation.matching import Matcher
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
    automation: Automation, shaping: Shaping, second: int, *, now: int | None = None
) -> Outcome:
    """What a record of `second`, read at once or at `now`, leads to."""
    record = {
        "type": "TransientFailure",
        "recipient": "user@example.com",
        "queue": "example.com",
        "site": "ip1->mx.example.com@smtp_client",
        "egress_source": "ip1",
        "response": {"code": 421, "content": "busy"},
        "event_time": format_rfc3339(second * NS),
    }
    found = candidates(
        [json.dumps(record).encode()],
        matcher=Matcher(shaping),
        skip_types=frozenset(),
        tally=Tally(),
    )
    now_ns = (second if now is None else now) * NS
    return automation.apply(found, mx={}, now_ns=now_ns)


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
