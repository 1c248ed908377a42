"""Threshold windows against the simplest possible count of the same matches."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from sidecar.automation.thresholds import Thresholds, Window

PERIODS = st.integers(1, 40)
SECONDS = st.lists(st.integers(0, 200), min_size=1, max_size=120)


def simple_counts(period: int, seconds: list[int]) -> list[int]:
    """What each match counts to, by going through all of them each time."""
    seen: list[int] = []
    result = []
    for second in seconds:
        end = max([*seen, second])
        if second < end - period:
            result.append(1)
            continue
        seen.append(second)
        result.append(sum(s >= end - period for s in seen))
    return result


@given(period=PERIODS, seconds=SECONDS)
def test_counts_are_those_of_the_simple_way_in_any_order(period: int, seconds: list[int]) -> None:
    thresholds = Thresholds()
    assert [thresholds.record("s", period, s) for s in seconds] == simple_counts(period, seconds)


@given(period=PERIODS, seconds=SECONDS, enough=st.integers(1, 12), cut=st.integers(0, 120))
def test_a_window_that_keeps_only_enough_reaches_its_threshold_as_one_that_keeps_all(
    period: int, seconds: list[int], enough: int, cut: int
) -> None:
    thresholds = Thresholds()
    stored: dict[int, int] = {}
    reached = []
    for number, second in enumerate(seconds):
        if number == cut:  # a restart
            thresholds = Thresholds()
            if stored:
                thresholds.restore("s", period, stored)
        reached.append(thresholds.record("s", period, second, enough=enough) >= enough)
        changed, shrunk = thresholds.take_changes()
        stored.update({s: n for (_, s), n in changed.items()})
        oldest = shrunk.get("s", 0)
        stored = {s: n for s, n in stored.items() if s >= oldest}
        assert len(stored) <= enough
    assert reached == [count >= enough for count in simple_counts(period, seconds)]


@given(period=PERIODS, seconds=SECONDS, cut=st.integers(0, 120))
def test_a_restart_from_the_stored_changes_counts_on_as_if_nothing_had_happened(
    period: int, seconds: list[int], cut: int
) -> None:
    first, rest = seconds[:cut], seconds[cut:]
    thresholds = Thresholds()
    stored: dict[int, int] = {}
    for second in first:
        thresholds.record("s", period, second)
        changed, shrunk = thresholds.take_changes()
        stored.update({s: n for (_, s), n in changed.items()})
        oldest = shrunk.get("s", 0)
        stored = {s: n for s, n in stored.items() if s >= oldest}
    again = Thresholds()
    if stored:
        again.restore("s", period, stored)
    assert [again.record("s", period, s) for s in rest] == simple_counts(period, seconds)[cut:]


@given(period=PERIODS, seconds=SECONDS)
def test_changes_taken_once_add_up_to_the_window(period: int, seconds: list[int]) -> None:
    thresholds = Thresholds()
    for second in seconds:
        thresholds.record("s", period, second)
    changed, _ = thresholds.take_changes()
    newest = max(seconds)
    kept = Counter(
        {s: n for (_, s), n in changed.items() if s >= newest - period},
    )
    assert sum(kept.values()) == thresholds.count("s")
    assert thresholds.take_changes() == ({}, {})


def test_a_window_keeps_no_more_than_twice_what_counts() -> None:
    window = Window(10)
    for second in range(100_000):
        window.add(second)
    assert window.total == 11
    assert len(window.seconds) < 200


def test_a_window_of_a_long_period_is_as_long_as_its_threshold() -> None:
    window = Window(86_400)
    for second in range(50_000):
        window.add(second, enough=100)
    assert window.total == 100
    assert len(window.seconds) < 300


def test_scopes_are_apart() -> None:
    thresholds = Thresholds()
    assert thresholds.record("a", 60, 5) == 1
    assert thresholds.record("b", 60, 5) == 1
    assert thresholds.record("a", 60, 6) == 2


def test_an_idle_window_is_forgotten_with_its_changes() -> None:
    thresholds = Thresholds()
    thresholds.record("old", 10, 100)
    thresholds.record("new", 10, 200)
    assert thresholds.forget_idle(150) == ["old"]
    changed, _ = thresholds.take_changes()
    assert changed == {("new", 200): 1}
    assert thresholds.count("old") == 0


def test_what_a_clock_ahead_of_time_counted_is_taken_out_of_the_store_as_well() -> None:
    thresholds = Thresholds()
    for _ in range(2):
        thresholds.record("s", 60, 9_000, latest=9_100)
    assert thresholds.take_changes() == ({("s", 9_000): 2}, {})
    assert thresholds.record("s", 60, 9_001, latest=200) == 3  # itself ahead: nothing to go by
    assert thresholds.record("s", 60, 130, latest=200) == 1
    assert thresholds.take_changes() == ({("s", 9_000): 0, ("s", 9_001): 0, ("s", 130): 1}, {})
    assert thresholds.record("s", 60, 131, latest=200) == 2
