"""The course of a limit that adjusts itself: down when refused, back up in steps.

In: a course (the state of one limit, with the law it goes by) and a time.  Out: the
limit at that time, when it next changes, when it is back at the baseline.  No clock,
no units, no rounding to what an option can hold: a course is numbers.

What happens to a course:

==================  ==========================  ========================================
state               a match                     a step (each `every` without a match)
==================  ==========================  ========================================
at the baseline     a bout begins: ``down``     —
settling            cuts nothing, waits anew    (a bout's cut is younger than ``settle``)
far below ``top``   the bout goes on: ``down``, times two, up to near ``top``
                    from the third cut ``DEEP``;
                    after ``BOUT_STEPS`` steps
                    a new bout: ``down``
near ``top``        a new bout begins: ``down`` up by ``up`` of ``top``
beyond ``top``      a new bout begins: ``down`` up, each step ``WIDEN`` times the last
==================  ==========================  ========================================

``top`` is the limit that was in force when the bout of refusals began: the one
thing that is known of the provider's limit.  Whoever is refused three times
running is far above it, or blocked: then less insistence costs little and ends the
block sooner, and the way back is more careful, since the next block costs more than a
slow approach.  ``python -m tests.bench.provider`` compares this law with others.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec
from msgspec.structs import replace

from sidecar.times import NS

NEAR: Final = 0.8
"""The share of ``top`` up to which a limit doubles on its way back."""
NEAR_BLOCKED: Final = 0.6
"""The same after a bout of more than the gentle cuts: of ``top`` only so much is trusted."""
BOUT_STEPS: Final = 2
"""A bout is over after so many steps without a match: the provider takes mail again."""
GENTLE_CUTS: Final = 2
"""How many cuts of a bout reduce by ``down`` alone."""
DEEP: Final = 0.8
"""By how much the later cuts of a bout reduce, where ``down`` is less."""
WIDEN: Final = 1.3
"""Beyond ``top`` each step is this many times as large as the one before."""
CAREFUL: Final = 0.5
"""After each bout of more than the gentle cuts steps are this share of what they were, ..."""
MOST_CAREFUL: Final = 3
"""... so many times at most.

What is refused is known seconds later.  A large step beyond the provider's limit is then
many refusals at once, and those lead to the next block.
"""
GRID: Final = 10 * NS
"""Limits go up at multiples of this time only: what goes up together is published together.

kumod looks at its files as often.
"""
_LEAST_UP: Final = 0.001
_WIDEST: Final = 1e30
_LATEST: Final = 1 << 62
_LONGEST: Final = 86400 * NS
_MOST_STEPS: Final = 2000
"""So many widening steps lead from any limit to any other; more would overflow."""


class Law(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a limit goes down and comes back: ``sidecar.adjust`` of a rule.

    ``down``: share taken away by a match (0 < down < 1); ``up``: share of ``top``
    added by a step (up > 0); ``every``: a step, ns; ``settle``: how long after a
    cut further matches say nothing new, ns.
    """

    down: float
    up: float
    every: int
    settle: int


class Course(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where one limit is on its way: numbers in one unit, times in ns.

    ``value`` was in force at ``since_ns``, the time of the last match; ``top`` when
    the bout began, ``cuts`` cuts ago; ``cut_ns`` is the time of the last cut;
    ``blocked`` counts the bouts of more than the gentle cuts.  Without a cut a course
    rests at its baseline.
    """

    law: Law
    baseline: float
    floor: float
    value: float
    top: float
    cuts: int = 0
    blocked: int = 0
    since_ns: int = 0
    cut_ns: int = 0


def course_from(document: object) -> Course:
    """A course from what msgspec made of one; ValueError for what is none."""
    try:
        course = msgspec.convert(document, Course)
    except msgspec.ValidationError as error:
        raise ValueError(f"course: {error}") from None
    law = course.law
    numbers = (course.baseline, course.floor, course.value, course.top, law.down, law.up)
    sound = (
        all(math.isfinite(number) and number > 0 for number in numbers)
        and course.floor <= course.value <= course.baseline
        and course.top <= course.baseline
        and law.down < 1
        and law.up >= _LEAST_UP
        and GRID <= law.every <= _LONGEST
        and 0 <= law.settle <= _LONGEST
        # What is further apart than this would take for ever to come back.
        and course.baseline <= _WIDEST * min(course.floor, course.top)
        and 0 <= course.cuts < _LATEST
        and 0 <= course.blocked <= MOST_CAREFUL
        and 0 <= course.cut_ns <= course.since_ns < _LATEST
    )
    if not sound:
        raise ValueError("course: its numbers do not go together")
    return course


def resting(law: Law, *, baseline: float, floor: float) -> Course:
    """The course of a limit that nothing has struck yet."""
    return Course(law, baseline, min(floor, baseline), baseline, baseline)


def struck(course: Course, at_ns: int) -> Course:
    """The course after one more match at `at_ns`; unchanged by one from before the last cut."""
    law = course.law
    now = value_at(course, at_ns)
    if course.cuts:
        if at_ns < course.cut_ns:
            return course
        if at_ns < course.cut_ns + law.settle:
            return replace(course, value=now, since_ns=max(course.since_ns, at_ns))
    if now < _near(course) and at_ns <= course.since_ns + BOUT_STEPS * law.every:
        cuts, top = course.cuts + 1, course.top
    else:
        cuts, top = 1, now
    down = law.down if cuts <= GENTLE_CUTS else max(law.down, DEEP)
    return replace(
        course,
        value=max(course.floor, now * (1 - down)),
        top=top,
        cuts=cuts,
        blocked=min(MOST_CAREFUL, course.blocked + (cuts == GENTLE_CUTS + 1)),
        since_ns=at_ns,
        cut_ns=at_ns,
    )


def value_at(course: Course, now_ns: int) -> float:
    """The limit in force at `now_ns`."""
    return min(course.baseline, _after(course, _steps(course, now_ns)))


def next_step_ns(course: Course, now_ns: int) -> int:
    """When the limit next goes up after `now_ns`, unless there is another match."""
    return _step_ns(course, _steps(course, now_ns) + 1)


def ends_ns(course: Course) -> int:
    """When the limit is back at the baseline, unless there is another match."""
    return _step_ns(course, _steps_to_baseline(course))


def _steps(course: Course, now_ns: int) -> int:
    """How many steps have been taken by `now_ns` since the last match."""
    return max(0, now_ns - now_ns % GRID - course.since_ns) // course.law.every


def _step_ns(course: Course, step: int) -> int:
    """The time of a step: the first moment of the grid that is not before it."""
    due = course.since_ns + course.law.every * step
    return due if step == 0 else -(-due // GRID) * GRID


def _near(course: Course) -> float:
    """Up to where it is "far below ``top``"."""
    share = NEAR if course.cuts <= GENTLE_CUTS else NEAR_BLOCKED
    return share * course.top


def _after(course: Course, steps: int) -> float:
    """The limit after so many steps without a match, the baseline left out of account."""
    value, top, near = course.value, course.top, _near(course)
    if value < near:
        doublings = max(1, math.ceil(math.log2(near / value) - 1e-9))
        if steps < doublings:
            return value * 2.0**steps
        value, steps = near, steps - doublings
    step = course.law.up * top * CAREFUL**course.blocked
    even = min(steps, max(0, math.ceil((top - value) / step - 1e-9)))
    return value + step * even + step * _widened(min(steps - even, _MOST_STEPS))


def _widened(count: int) -> float:
    """The sum of `count` steps, each ``WIDEN`` times the one before, the first ``WIDEN``."""
    return WIDEN * (WIDEN**count - 1) / (WIDEN - 1)


def _steps_to_baseline(course: Course) -> int:
    """The fewest steps after which the limit is at the baseline."""
    low, high = 0, 1
    while _after(course, high) < course.baseline:
        low, high = high, high * 2
    while low < high:
        middle = (low + high) // 2
        if _after(course, middle) < course.baseline:
            low = middle + 1
        else:
            high = middle
    return low
