"""Records of several hosts: in any order they lead to what one decides that reads them all."""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sidecar.automation.decide import LATENESS, Automation
from sidecar.automation.entries import Override
from sidecar.automation.group import GroupAutomation
from sidecar.automation.late_windows import LateThresholds, Target
from sidecar.automation.matching import Candidate, Matcher
from sidecar.automation.pipeline import Tally, candidates
from sidecar.automation.recent import (
    KEPT,
    Recent,
    course_from_payload,
    offence_from_payload,
    to_payload,
)
from sidecar.service.published import Published
from sidecar.shaping.load import MergeOptions, load_shaping
from sidecar.shaping.mx import ZoneResolver
from sidecar.times import NS, format_rfc3339
from tests.kumod_writer import record

NOW = 1_795_360_000
RULES = """
[default]
max_message_rate = "1000/min"
connection_limit = 10

[["default".automation]]
regex = "plain"
action = [
    "Suspend",
    "SuspendTenant",
    {SetConfig = {name = "max_deliveries_per_connection", value = 1}},
]
duration = "40 minutes"

[["default".automation]]
regex = "(plain|rival)"
action = {SetConfig = {name = "max_deliveries_per_connection", value = 2}}
duration = "1 hour"

[["default".automation]]
regex = "often"
action = "SuspendTenant"
trigger = {Threshold = "3/min"}
duration = "30 minutes"

[["default".automation]]
regex = "adjust"
action = {SetConfig = {name = "max_message_rate", value = "1/min"}}
duration = "1 hour"
sidecar.adjust = {settle = "2 minutes", every = "3 minutes"}

[["default".automation]]
regex = "slower"
action = {SetConfig = {name = "connection_limit", value = 1}}
duration = "1 hour"
trigger = {Threshold = "2/5min"}
sidecar.adjust = true

[["default".automation]]
regex = "again"
action = "Suspend"
duration = "5 minutes"
sidecar.escalate = {factor = 3, max = "2 hours", forget = "20 minutes"}
"""
ANY = Target("", "", "")
TEXTS = ("plain", "rival", "often", "adjust", "slower", "again", "adjust often again")


@lru_cache
def matcher() -> Matcher:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "shaping.toml"
        file.write_text(RULES)
        resolver = ZoneResolver([])
        return Matcher(
            asyncio.run(load_shaping([str(file)], options=MergeOptions(), resolver=resolver))
        )


def found(second: int, text: str, number: int = 0, source: str = "ip1") -> list[Candidate]:
    one: Any = record(
        number,
        at=NOW + second,
        event_time=format_rfc3339((NOW + second) * NS),
        recipient="user@example.com",
        queue=f"tenant{number}@example.com",
        site=f"{source}->mx.example.com@smtp_client",
        egress_source=source,
        response={"code": 421, "enhanced_code": None, "content": text, "command": None},
    )
    return candidates(
        [json.dumps(one).encode()], matcher=matcher(), skip_types=frozenset(), tally=Tally()
    )


def in_force(automation: Automation) -> dict[str, Any]:
    """All that the rules decided, but for what the order may change: see the module's page."""
    return {e.key: replace(e, reason="", seq=0) for e in automation.entries}


def overlay(automation: Automation, second: int) -> str:
    view = Published(automation.entries)
    view.expire((NOW + second) * NS)
    return view.overlay.text()


Heard = tuple[int, str, int]
heard = st.lists(
    st.tuples(st.integers(0, LATENESS - 1), st.sampled_from(TEXTS), st.integers(0, 1)),
    min_size=1,
    max_size=40,
)


def decide(automation: Automation, records: list[Heard], sizes: random.Random, end: int) -> None:
    """Hear the records in this order, some at once."""
    left = list(records)
    while left:
        count = sizes.randint(1, 5)
        some, left = left[:count], left[count:]
        batch = [one for second, text, number in some for one in found(second, text, number)]
        automation.apply(batch, mx={}, now_ns=(NOW + end) * NS)
        automation.expire((NOW + end) * NS)


@settings(max_examples=200, deadline=None)
@given(records=heard, seed=st.integers(0, 2**32), later=st.integers(0, 1800))
def test_any_order_gives_what_the_order_of_time_gives(
    records: list[Heard], seed: int, later: int
) -> None:
    chance = random.Random(seed)
    end = max(second for second, _, _ in records) + later
    ordered, shuffled = GroupAutomation(), GroupAutomation()
    decide(ordered, sorted(records), chance, end)
    chance.shuffle(records)
    decide(shuffled, records, chance, end)
    assert in_force(shuffled) == in_force(ordered)
    assert overlay(shuffled, end) == overlay(ordered, end)


@settings(max_examples=200, deadline=None)
@given(records=heard, seed=st.integers(0, 2**32), later=st.integers(0, 1800))
def test_it_is_what_one_host_decides_that_reads_all(
    records: list[Heard], seed: int, later: int
) -> None:
    chance = random.Random(seed)
    # What is logged in the same second has an order in one log, and none among several.
    records = list({one[0]: one for one in records}.values())
    end = max(second for second, _, _ in records) + later
    alone, group = Automation(), GroupAutomation()
    for second, text, number in sorted(records):  # each when it is logged
        alone.expire((NOW + second) * NS)
        alone.apply(found(second, text, number), mx={}, now_ns=(NOW + second) * NS)
    alone.expire((NOW + end) * NS)
    chance.shuffle(records)
    decide(group, records, chance, end)
    assert in_force(group) == in_force(alone)
    assert overlay(group, end) == overlay(alone, end)


@settings(max_examples=100, deadline=None)
@given(
    seconds=st.lists(st.integers(0, 9000), min_size=1, max_size=60),
    limit=st.integers(1, 4),
    period=st.sampled_from([1, 60, 600]),
)
def test_a_threshold_is_reached_at_the_same_seconds_in_any_order(
    seconds: list[int], limit: int, period: int
) -> None:
    base = NOW
    late = LateThresholds(10_000)
    reached: set[int] = set()
    for second in seconds:
        found = late.record_late(
            "s",
            period,
            base + second,
            enough=limit,
            latest=base + 10**6,
            target=Target(str(second), "", ""),
            history=True,
        )
        assert all(targets == (Target(str(at - base), "", ""),) for at, targets in found)
        reached.update(at for at, _ in found)
    expected = {
        base + end
        for end in seconds
        if sum(end - period <= second <= end for second in seconds) >= limit
    }
    assert reached == expected


@settings(max_examples=100, deadline=None)
@given(
    seconds=st.lists(st.integers(0, 9000), min_size=1, max_size=60),
    limit=st.integers(1, 4),
    period=st.sampled_from([1, 60, 600]),
)
def test_a_window_that_keeps_few_still_finds_the_last_second_at_which_there_are_enough(
    seconds: list[int], limit: int, period: int
) -> None:
    late = LateThresholds(10_000)
    reached = [0]
    for second in seconds:
        found = late.record_late(
            "s",
            period,
            NOW + second,
            enough=limit,
            latest=NOW + 10**6,
            target=ANY,
            history=False,
        )
        reached += [at for at, _ in found]
    expected = [
        NOW + end
        for end in seconds
        if sum(end - period <= second <= end for second in seconds) >= limit
    ]
    assert max(reached) == max(expected, default=0)


def strikes(late: LateThresholds, *seconds: int, period: int, enough: int) -> list[int]:
    """The seconds at which there were enough because of matches at `seconds`."""
    found: list[int] = []
    for second in seconds:
        found += (
            at - NOW
            for at, _ in late.record_late(
                "60 s",
                period,
                NOW + second,
                enough=enough,
                latest=NOW + 10**6,
                target=ANY,
                history=True,
            )
        )
    return found


def test_a_threshold_may_ask_for_matches_at_any_number_of_seconds() -> None:
    late, enough, step = LateThresholds(LATENESS), 6000, 10
    seconds = range(0, (enough + 5) * step, step)
    found = strikes(late, *seconds, period=86400, enough=enough)
    assert found == [*seconds][enough - 1 :]


def test_a_restart_forgets_nothing_that_a_late_match_may_need() -> None:
    late, again = LateThresholds(LATENESS), LateThresholds(LATENESS)
    assert strikes(late, 0, 10, 300, period=60, enough=3) == []
    for scope, window in late.scopes():
        again.restore(scope, 60, dict(window.items()))
    assert strikes(again, 15, period=60, enough=3) == [15]


def test_a_window_of_a_share_is_restored_as_one() -> None:
    late, again = LateThresholds(LATENESS), LateThresholds(LATENESS)
    for second in (0, 50, 100):
        late.record("60 share", 60, second)
    for scope, window in late.scopes():
        again.restore(scope, 60, dict(window.items()))
    assert again.count("60 share") == late.count("60 share") == 2
    assert again.record("60 share", 60, 120) == late.record("60 share", 60, 120)
    assert again.places == late.places


def test_a_window_that_is_full_keeps_no_more_than_the_threshold_asks_for() -> None:
    late = LateThresholds(LATENESS)
    for second in range(LATENESS):
        late.record_late(
            "s",
            60,
            NOW + second,
            enough=5,
            latest=NOW + 10**6,
            target=ANY,
            history=False,
        )
    [(_, window)] = late.scopes()
    assert len(list(window.items())) == 5


def test_of_two_for_one_option_the_one_of_the_newest_record_counts_wherever_it_came_first() -> None:
    texts = set()
    for order in ((0, 1), (1, 0)):
        automation = GroupAutomation()
        records = [found(100, "plain"), found(200, "rival")]
        for index in order:
            automation.apply(records[index], mx={}, now_ns=(NOW + 300) * NS)
        texts.add(overlay(automation, 300))
    [text] = texts
    assert "max_deliveries_per_connection = 2" in text


def test_an_earlier_match_shortens_nothing() -> None:
    automation = GroupAutomation()
    automation.apply(found(500, "plain"), mx={}, now_ns=(NOW + 600) * NS)
    before = in_force(automation)
    outcome = automation.apply(found(100, "plain"), mx={}, now_ns=(NOW + 600) * NS)
    assert in_force(automation) == before
    assert outcome.events == []  # nobody is told what he knows


def test_a_course_that_has_ended_is_taken_up_again_by_a_late_match() -> None:
    end = 3000
    late, ordered = GroupAutomation(), GroupAutomation()
    for second in (0, 10, 20, 900):
        ordered.apply(found(second, "adjust"), mx={}, now_ns=(NOW + second) * NS)
    for second, now in ((0, 0), (20, 20), (900, 2000), (10, end)):
        late.apply(found(second, "adjust"), mx={}, now_ns=(NOW + now) * NS)
        late.expire((NOW + now) * NS)
    ordered.expire((NOW + end) * NS)
    late.expire((NOW + end) * NS)
    assert in_force(late) == in_force(ordered)


def state_of(recent: Recent[Any]) -> Any:
    return recent.before, recent.newest, recent.bits, recent.domain


@given(st.lists(st.integers(0, 20_000), min_size=1, max_size=50))
def test_recent_strikes_stay_small_and_survive_the_state_file(seconds: list[int]) -> None:
    automation = GroupAutomation()
    for second in seconds:
        automation.apply(found(second, "adjust again"), mx={}, now_ns=(NOW + 20_000) * NS)
    [(_, course)] = automation.recent_courses.items()
    [(_, offence)] = automation.recent_offences.items()
    assert course.bits.bit_length() <= 3 * KEPT + 1
    assert offence.bits.bit_length() <= 3 * KEPT + 1
    assert state_of(course_from_payload(to_payload(course))) == state_of(course)
    assert state_of(offence_from_payload(to_payload(offence))) == state_of(offence)


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "[]",
        '[5,"0","",null,null]',
        '[-1,"1","",null,null]',
        '[5,"x","",null,null]',
        f'[5,"{"f" * 9000}","",null,null]',
    ],
)
def test_damaged_strikes_are_refused(payload: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        course_from_payload(payload)
    with pytest.raises(ValueError, match=r"."):
        offence_from_payload(payload)


def test_where_there_is_no_room_a_strike_counts_alone() -> None:
    automation = GroupAutomation(max_entries=1)
    automation.apply(found(0, "adjust", source="ip1"), mx={}, now_ns=NOW * NS)
    automation.max_entries = 2
    automation.recent_courses.places = 2
    automation.apply(found(0, "adjust", source="ip2"), mx={}, now_ns=NOW * NS)
    values = [e.value for e in automation.entries if isinstance(e, Override)]
    assert len(values) == 2
    assert len(set(map(str, values))) == 1
    assert len(automation.recent_courses) == 1
