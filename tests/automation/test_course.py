"""A limit's course: between floor and baseline, up without matches, down with them."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.automation.course import (
    CAREFUL,
    DEEP,
    GRID,
    NEAR,
    NEAR_BLOCKED,
    Course,
    Law,
    course_from,
    ends_ns,
    next_step_ns,
    resting,
    struck,
    value_at,
)
from sidecar.times import NS

MINUTE = 60 * NS
START = 1_795_360_000 * NS
"""A moment of the grid."""
EVERY = 2 * MINUTE
LAW = Law(down=0.3, up=0.05, every=EVERY, settle=MINUTE)

laws = st.builds(
    Law,
    down=st.floats(0.01, 0.95),
    up=st.floats(0.005, 1.0),
    every=st.integers(GRID, 3600 * NS),
    settle=st.integers(0, 3600 * NS),
)
baselines = st.floats(1, 1e7)
gaps = st.lists(st.integers(0, 7200 * NS), max_size=30)


def course_of(law: Law, baseline: float, floor: float, waits: list[int]) -> tuple[Course, int]:
    """The course after a first match and one after each of `waits`; the time of the last."""
    at_ns = START
    course = struck(resting(law, baseline=baseline, floor=floor), at_ns)
    for wait in waits:
        at_ns += wait
        course = struck(course, at_ns)
    return course, at_ns


@given(laws, baselines, st.floats(0, 1), gaps, st.integers(0, 10**6 * NS))
def test_a_limit_stays_between_its_floor_and_its_baseline(
    law: Law, baseline: float, share: float, waits: list[int], later: int
) -> None:
    floor = max(1.0, baseline * share)
    course, at_ns = course_of(law, baseline, floor, waits)
    assert floor <= value_at(course, at_ns + later) <= baseline


@given(laws, baselines, gaps, st.lists(st.integers(0, 10**5 * NS), min_size=2, max_size=9))
def test_without_matches_it_never_goes_down(
    law: Law, baseline: float, waits: list[int], moments: list[int]
) -> None:
    course, at_ns = course_of(law, baseline, 1.0, waits)
    values = [value_at(course, at_ns + later) for later in sorted(moments)]
    assert values == sorted(values)


@given(laws, baselines, gaps)
def test_it_is_back_when_it_says_and_not_a_step_earlier(
    law: Law, baseline: float, waits: list[int]
) -> None:
    course, _ = course_of(law, baseline, 1.0, waits)
    end = ends_ns(course)
    assert value_at(course, end) == baseline
    if end > course.since_ns:
        assert value_at(course, end - 1) < baseline


@given(laws, baselines, gaps, st.integers(0, 10**5 * NS))
def test_between_two_steps_nothing_changes_and_steps_are_on_the_grid(
    law: Law, baseline: float, waits: list[int], later: int
) -> None:
    course, at_ns = course_of(law, baseline, 1.0, waits)
    now = at_ns + later
    upcoming = next_step_ns(course, now)
    assert upcoming > now
    assert upcoming % GRID == 0
    assert value_at(course, upcoming - 1) == value_at(course, now)


@given(laws, baselines, gaps, st.integers(0, 7200 * NS))
def test_a_match_never_raises_the_limit_and_equal_times_do_not_add_up(
    law: Law, baseline: float, waits: list[int], wait: int
) -> None:
    course, at_ns = course_of(law, baseline, 1.0, waits)
    once = struck(course, at_ns + wait)
    assert value_at(once, at_ns + wait) <= value_at(course, at_ns + wait)
    if law.settle:
        assert struck(once, at_ns + wait) == once


@given(laws, baselines, gaps)
def test_it_is_read_back_as_it_was_written(law: Law, baseline: float, waits: list[int]) -> None:
    course, _ = course_of(law, baseline, 1.0, waits)
    text = msgspec.json.encode(msgspec.to_builtins(course))
    assert course_from(msgspec.json.decode(text)) == course


@pytest.mark.parametrize(
    "change",
    [
        {"value": 2000.0},
        {"value": 0.0},
        {"top": 1e9},
        {"floor": "low"},
        {"cuts": -1},
        {"since": 3},
        {"since_ns": 1 << 70},
        {"cut_ns": -1},
        {"blocked": 2000},
        {"top": 1e-300},
        {"floor": 1e-300, "value": 1e-300},
        {"law": {"down": 1.0, "up": 0.05, "every": EVERY, "settle": 0}},
        {"law": {"down": 0.3, "up": 0.05, "every": 1, "settle": 0}},
    ],
)
def test_what_can_be_no_course_is_refused(change: dict[str, object]) -> None:
    course = struck(resting(LAW, baseline=1000, floor=1), START)
    with pytest.raises(ValueError, match="course"):
        course_from(msgspec.to_builtins(course) | change)


def test_a_match_from_before_the_last_cut_changes_nothing() -> None:
    course = struck(resting(LAW, baseline=1000, floor=1), START)
    assert struck(course, START - 1) == course


def test_a_single_refusal_costs_down_and_comes_back_in_known_steps() -> None:
    course = struck(resting(LAW, baseline=1000, floor=1), START)
    values = [value_at(course, START + n * EVERY) for n in range(6)]
    assert [round(v) for v in values] == [700, 800, 850, 900, 950, 1000]
    assert ends_ns(course) == START + 5 * EVERY


def test_matches_within_settle_cut_once_and_put_off_the_way_back() -> None:
    course = resting(LAW, baseline=1000, floor=1)
    for second in range(60):
        course = struck(course, START + second * NS)
    last = START + 59 * NS
    assert value_at(course, last) == 700
    step = next_step_ns(course, last)
    assert step == START + 60 * NS + EVERY  # the moment of the grid after it
    assert (value_at(course, step - 1), value_at(course, step)) == (700, 800)


def insisting() -> Course:
    """Refused once a minute, four times: as one who is blocked."""
    course = resting(LAW, baseline=1000, floor=1)
    for minute in range(4):
        course = struck(course, START + minute * MINUTE)
    return course


def test_the_third_cut_of_a_bout_is_deep_and_the_way_back_leads_to_less_than_before() -> None:
    course = insisting()
    assert course.value == pytest.approx(1000 * 0.7 * 0.7 * (1 - DEEP) ** 2)
    assert (course.top, course.cuts, course.blocked) == (1000, 4, 1)
    back = [value_at(course, course.since_ns + n * EVERY) for n in range(7)]
    near = NEAR_BLOCKED * 1000
    assert [math.floor(v) for v in back] == [19, 39, 78, 156, 313, near, near + 50 * CAREFUL]


def test_a_refusal_near_the_top_begins_a_new_bout_there() -> None:
    course = struck(resting(LAW, baseline=1000, floor=1), START)
    course = struck(course, START + 2 * EVERY)  # at 850, more than NEAR of 1000
    assert NEAR * 1000 < course.top == 850
    assert value_at(course, START + 2 * EVERY) == 850 * 0.7


def test_a_refusal_two_steps_later_begins_a_new_bout_though_far_below() -> None:
    course = insisting()
    again = struck(course, course.since_ns + 2 * EVERY + GRID)
    assert again.top == pytest.approx(4 * course.value)
    assert again.cuts == 1


def test_each_blocked_bout_makes_the_steps_smaller_to_an_end() -> None:
    course = resting(LAW, baseline=1000, floor=1)
    at_ns, seen = START, []
    for _ in range(5):
        for _ in range(3):
            course = struck(course, at_ns)
            at_ns += MINUTE
        seen.append(course.blocked)
        at_ns += 20 * EVERY
    assert seen == [1, 2, 3, 3, 3]
