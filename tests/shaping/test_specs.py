"""Durations, throttle specs and limits: taken and refused as upstream does."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.shaping.specs import (
    U64_MAX,
    LimitSpec,
    ThrottleSpec,
    parse_duration,
    parse_limit,
    parse_throttle,
    shown,
)
from sidecar.times import NS

UNITS = {
    "ns": Fraction(1, NS),
    "us": Fraction(1000, NS),
    "µs": Fraction(1000, NS),
    "millis": Fraction(1, 1000),
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "secs": Fraction(1),
    "m": Fraction(60),
    "mins": Fraction(60),
    "hr": Fraction(3600),
    "hours": Fraction(3600),
    "d": Fraction(86_400),
    "wks": Fraction(604_800),
    "M": Fraction(2_630_016),
    "months": Fraction(2_630_016),
    "yr": Fraction(31_557_600),
    "years": Fraction(31_557_600),
}


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2 hours", 7200),
        ("1h 30m", 5400),
        ("1h30m", 5400),
        ("1.5 hours", 5400),
        ("1. 5h", 5400),
        (" 5s ", 5),
        ("1 0 s", 10),
        ("0", 0),
        ("0s", 0),
        ("10 M", 26_300_160),
        ("10 m", 600),
        ("\u00a05\u2003s", 5),
        (3600, 3600),
        (0, 0),
    ],
)
def test_durations_are_read(value: object, seconds: int) -> None:
    assert parse_duration(value) == seconds * NS


def test_a_float_is_seconds_to_the_nanosecond() -> None:
    assert parse_duration(1.5) == 1_500_000_000
    assert parse_duration(1e-9) == 1
    assert parse_duration(4e-10) == 0


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("2 huors", 'unknown unit "huors" (did you mean "hours"?)'),
        ("PT1H", 'a number is missing before "PT"'),
        ("3600", 'write for example "3600 s"'),
        ("00", 'write for example "0 s"'),
        ("", "is empty"),
        ("  ", "is empty"),
        ("1H", 'unknown unit "H"'),
        ("5 Seconds", 'did you mean "seconds"?'),
        ("1h and a half", 'a number is missing before "and"'),
        ("-5s", '"-" does not belong'),
        ("1.h", 'digits are missing after the "."'),
        ("0.5ns", "is no whole number of nanoseconds"),
        ("0.0001 hours", "is no whole number of seconds"),
        ("1.00000000000000000000s", "too many digits"),
        ("0.307445735m", "too many digits"),
        ("18446744073709551616s", "too long"),
        ("18446744073709551615s 1s", "too long"),
        ("1\x1cs", 'write for example "1 s"'),
        ("1h\x00", "does not belong"),
        (-5, "must be 0 or more"),
        (2**64, "of 64 bits"),
        (-0.5, "must be 0 or more"),
        (float("inf"), "finite"),
        (float("nan"), "finite"),
        (1e20, "finite"),
        (True, "true is no duration"),
        ([], "an array is no duration"),
        ({}, "a table is no duration"),
        (None, "null is no duration"),
    ],
)
def test_other_durations_are_refused_with_a_reason(value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        parse_duration(value)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 10**6), st.sampled_from(sorted(UNITS)), st.sampled_from(["", " "])
        ),
        min_size=1,
        max_size=6,
    )
)
def test_a_duration_is_the_sum_of_its_parts(parts: list[tuple[int, str, str]]) -> None:
    text = " ".join(f"{number}{gap}{unit}" for number, unit, gap in parts)
    assert parse_duration(text) == sum(n * UNITS[unit] for n, unit, _ in parts) * NS


@given(st.integers(0, 10**9), st.integers(0, 99_999_999), st.sampled_from(["s", "secs", "m", "ms"]))
def test_a_fraction_is_exact_or_refused(whole: int, fraction: int, unit: str) -> None:
    text = f"{whole}.{fraction:08d}{unit}"
    exact = (whole + Fraction(fraction, 10**8)) * UNITS[unit] * NS
    if exact.denominator == 1:
        assert parse_duration(text) == exact
    else:
        with pytest.raises(ValueError, match="whole number of nanoseconds"):
            parse_duration(text)


@given(st.one_of(st.text(max_size=30), st.from_regex(r"[0-9 .]{0,8}[a-zA-Zµ]{0,4}( [0-9.]*h)?")))
def test_no_text_breaks_the_duration_parser(text: str) -> None:
    reason = ""
    try:
        assert parse_duration(text) >= 0
    except ValueError as err:
        reason = str(err)
    assert (reason or "x").isprintable()


specs = st.builds(
    ThrottleSpec,
    limit=st.integers(1, U64_MAX),
    period=st.integers(0, U64_MAX),
    max_burst=st.none() | st.integers(0, U64_MAX),
    force_local=st.booleans(),
)


@given(specs)
def test_a_throttle_spec_survives_being_written(spec: ThrottleSpec) -> None:
    assert parse_throttle(str(spec)) == spec


@given(
    st.booleans(),
    st.integers(1, 10**9),
    st.integers(0, 10**6) | st.none(),
    st.sampled_from([("s", 1), ("sec", 1), ("second", 1), ("m", 60), ("min", 60), ("minute", 60)])
    | st.sampled_from([("h", 3600), ("hr", 3600), ("hour", 3600), ("d", 86400), ("day", 86400)]),
    st.sampled_from(["{}", "{:_}", "{:,}", "+{}", "0{}"]),
)
def test_a_throttle_spec_means_what_it_says(
    local: bool, limit: int, scale: int | None, unit: tuple[str, int], form: str
) -> None:
    text = (
        f"{'local:' if local else ''}{form.format(limit)}/{'' if scale is None else scale}{unit[0]}"
    )
    period = unit[1] * (1 if scale is None else scale)
    assert parse_throttle(text) == ThrottleSpec(limit, period, None, local)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("100/hr", "100/h"),
        ("1_000/day", "1000/d"),
        ("1,000/60sec", "1000/m"),
        ("local:5/10min", "local:5/600s"),
        ("50/day,max_burst=1", "50/d,max_burst=1"),
        ("50/s,max_burst=1_0", "50/s,max_burst=10"),
    ],
)
def test_the_canonical_throttle_is_kumods(text: str, canonical: str) -> None:
    assert str(parse_throttle(text)) == canonical


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("2 / minute", 'unknown period " minute": did you mean "minute"?'),
        ("2/hours", 'did you mean "hour"?'),
        ("2/H", 'did you mean "h"?'),
        ("2/", 'unknown period ""'),
        ("2/5", 'unknown period ""'),
        ("2", 'has no period: write for example "2/hr"'),
        ("0/hr", "greater than 0"),
        ("-1/hr", "no whole number"),
        ("2.5/hr", "no whole number"),
        (" 2/hr", "no whole number"),
        ("/hr", "no whole number"),
        ("٣/hr", "no whole number"),
        ("18446744073709551616/s", "too large"),
        ("2/99999999999999999999s", "too long"),
        ("2/s,max_burst=", "no whole number"),
        ("2/s,burst=1", "unknown period"),
        ("local:local:2/s", "no whole number"),
        (5, "5 is no throttle"),
        (None, "null is no throttle"),
    ],
)
def test_other_throttles_are_refused_with_a_reason(value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        parse_throttle(value)


@given(st.integers(1, U64_MAX), st.booleans())
def test_a_limit_survives_being_written(limit: int, local: bool) -> None:
    spec = LimitSpec(limit, local)
    assert parse_limit(str(spec)) == spec
    assert parse_limit({"limit": limit, "force_local": local}) == spec
    assert parse_limit(limit) == LimitSpec(limit)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (0, "must be 1 or larger"),
        (-1, "must be 1 or larger"),
        (2**64, "of 64 bits"),
        (True, "true is no limit"),
        (5.0, "5.0 is no limit"),
        ("0", "greater than 0"),
        ("five", "no whole number"),
        ("", "no whole number"),
        ("5 ", "no whole number"),
        ({}, "key limit must be an integer, got null"),
        ({"limit": "5"}, "key limit must be an integer"),
        ({"limit": 5, "force_local": 1}, "force_local must be true or false"),
        ({"limit": 5, "local": True}, 'unknown key "local"'),
    ],
)
def test_other_limits_are_refused_with_a_reason(value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        parse_limit(value)


@given(st.text() | st.integers() | st.floats() | st.none() | st.booleans())
def test_a_shown_value_is_short_and_on_one_line(value: object) -> None:
    text = shown(value)
    assert len(text) <= 600
    assert text.isprintable()


def test_a_huge_integer_is_not_spelt_out() -> None:
    assert shown(10**5000) == "a huge integer"
