"""Who offends again soon is held longer; and whatever is killed or replayed, for as long."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.automation.decide import Automation, Outcome
from sidecar.automation.entries import from_payload, to_payload
from sidecar.automation.matching import Candidate, Matcher
from sidecar.automation.offences import (
    Offence,
    Offences,
    duration_at,
    level_at,
    offence_from_payload,
)
from sidecar.automation.pipeline import Tally, candidates
from sidecar.shaping.rules import Escalate
from sidecar.times import NS, format_rfc3339
from tests.automation.test_adjusting import load

HOUR = 3600
NOW = 1_795_360_000
TWICE = Escalate(factor=2.0, max_ns=24 * HOUR * NS, forget_ns=24 * HOUR * NS)

RULES = """
[[default.automation]]
regex = "busy"
action = "Suspend"
duration = "1 hour"
sidecar.escalate = {factor = 2, max = "6 hours", forget = "1 day"}
"""
MATCHER = Matcher(load(RULES))


def found(second: int) -> list[Candidate]:
    record = {
        "type": "TransientFailure",
        "recipient": "user@example.com",
        "queue": "example.com",
        "site": "ip1->mx.example.net@smtp_client",
        "egress_source": "ip1",
        "response": {"code": 421, "content": "busy"},
        "event_time": format_rfc3339((NOW + second) * NS),
    }
    line = json.dumps(record).encode()
    return candidates([line], matcher=MATCHER, skip_types=frozenset(), tally=Tally())


def hear(automation: Automation, second: int, *, now: int | None = None) -> Outcome:
    now_ns = (NOW + (second if now is None else now)) * NS
    automation.expire(now_ns)
    return automation.apply(found(second), mx={}, now_ns=now_ns)


def held(outcome: Outcome) -> float | None:
    """Until when, in hours after the beginning; None: nothing is in force."""
    return next(((e.expires_ns // NS - NOW) / HOUR for e in outcome.entries.values()), None)


def test_each_offence_soon_after_the_last_is_held_longer_up_to_the_maximum() -> None:
    automation, ends, second = Automation(), [], 0
    for _ in range(5):
        outcome = hear(automation, second)
        until = held(outcome)
        assert until is not None
        ends.append(until - second / HOUR)
        second = int(until * HOUR) + 60
    assert ends == pytest.approx([1, 2, 4, 6, 6])


def test_a_match_while_it_is_held_renews_it_and_is_no_new_offence() -> None:
    automation = Automation()
    assert held(hear(automation, 0)) == 1
    assert held(hear(automation, 1800)) == 1.5
    assert held(hear(automation, 6 * 1800)) == 3 + 2


def test_what_is_long_ago_is_forgotten() -> None:
    automation = Automation()
    hear(automation, 0)
    assert held(hear(automation, 2 * HOUR)) == 2 + 2
    end = 4 * HOUR + 24 * HOUR
    assert held(hear(automation, end)) == end / HOUR + 1
    automation.newest_ns = (NOW + 10 * 24 * HOUR) * NS
    automation.forget_idle_thresholds()
    assert len(automation.offences) == automation.offences.places == 0


def test_an_operators_cancel_makes_the_next_a_first_one() -> None:
    automation = Automation()
    outcome = hear(automation, 0)
    automation.cancel(outcome.entries, now_ns=(NOW + 1) * NS, how="cancelled")
    assert held(hear(automation, 2 * HOUR)) == 2 + 1


def test_there_is_room_for_so_many_only() -> None:
    offences = Offences()
    for number in range(5):
        assert offences.strike(f"k{number}", TWICE, HOUR * NS, NOW * NS, room=3) == HOUR * NS
    assert (len(offences), offences.places) == (3, 3)
    later = (NOW + 2 * HOUR) * NS
    assert offences.strike("k0", TWICE, HOUR * NS, later, room=3) == 2 * HOUR * NS
    assert offences.strike("k4", TWICE, HOUR * NS, later, room=3) == HOUR * NS


@pytest.mark.parametrize("payload", ["", "{}", "[1]", '["x",1,2]', "[1,2,3,4"])
def test_a_damaged_row_is_refused(payload: str) -> None:
    with pytest.raises(ValueError, match=r"Expected|truncated"):
        offence_from_payload(payload)


escalations = st.builds(
    Escalate,
    factor=st.floats(1.001, 100),
    max_ns=st.integers(1, 366 * 86400 * NS),
    forget_ns=st.integers(1, 366 * 86400 * NS),
)


@given(escalations, st.integers(0, 10**6 * NS), st.integers(0, 10**6))
def test_a_higher_level_is_never_shorter_and_none_is_longer_than_the_maximum(
    escalate: Escalate, duration_ns: int, level: int
) -> None:
    one, next_one = (duration_at(escalate, duration_ns, n) for n in (level, level + 1))
    assert duration_ns <= one <= next_one <= max(duration_ns, escalate.max_ns)


@given(st.integers(0, 99), st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_level_is_kept_while_held_then_one_more_then_none(
    level: int, until: int, forget: int, at: int
) -> None:
    offence = Offence(level, until, until + forget)
    assert offence_from_payload(offence.to_payload()) == offence
    expected = level if at < until else level + 1 if at < until + forget else 0
    if forget:
        assert level_at(offence, at) == expected


def restarted(automation: Automation) -> Automation:
    """What a kill leaves, and the next start finds."""
    fresh = Automation()
    for entry in automation.entries:
        fresh.restore(from_payload(entry.kind, to_payload(entry)))
    for key, offence in automation.offences.items():
        fresh.offences.restore(key, offence_from_payload(offence.to_payload()))
    fresh.seq = automation.seq
    assert fresh.offences.take_changes() == {}
    return fresh


@given(st.lists(st.tuples(st.integers(0, 9 * HOUR), st.booleans()), max_size=20))
def test_killed_or_not_and_read_late_or_not_it_is_held_for_as_long(
    steps: list[tuple[int, bool]],
) -> None:
    spared, killed, late, second = Automation(), Automation(), Automation(), 0
    end = sum(wait for wait, _ in steps)
    outcomes = [(Outcome(), Outcome(), Outcome())]
    for wait, kill in steps:
        second += wait
        if kill:
            killed = restarted(killed)
        outcomes.append((hear(spared, second), hear(killed, second), hear(late, second, now=end)))
    one, other, replayed = outcomes[-1]
    assert held(one) == held(other) == held(replayed)
