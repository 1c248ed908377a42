"""Moments as people say them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from sidecar.times import NS, parse_rfc3339, seconds_since_epoch
from sidecar.tools.moments import parse_moment

NOW = parse_rfc3339("2026-11-23T12:00:00Z")
EAST = timezone(timedelta(hours=2))


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("now", "2026-11-23T12:00:00Z"),
        ("today", "2026-11-22T22:00:00Z"),
        ("Today UTC", "2026-11-23T00:00:00Z"),
        ("yesterday", "2026-11-21T22:00:00Z"),
        ("yesterday 15:24", "2026-11-22T13:24:00Z"),
        ("9:05", "2026-11-23T07:05:00Z"),
        ("15:24:05 UTC", "2026-11-23T15:24:05Z"),
        ("2026-11-22", "2026-11-21T22:00:00Z"),
        ("2026-11-22 15:24", "2026-11-22T13:24:00Z"),
        (" 2026-11-22T15:24 ", "2026-11-22T13:24:00Z"),
        ("2026-11-22 15:24 utc", "2026-11-22T15:24:00Z"),
        ("2026-11-22 15:24:05.25Z", "2026-11-22T15:24:05.25Z"),
        ("2026-11-22 15:24:05.25", "2026-11-22T13:24:05.25Z"),
        ("2026-11-22T15:24:05+01:00", "2026-11-22T14:24:05Z"),
        ("-2h", "2026-11-23T10:00:00Z"),
        ("- 1h 30m", "2026-11-23T10:30:00Z"),
        ("2 hours ago", "2026-11-23T10:00:00Z"),
        ("1795359600.5", "2026-11-22T15:00:00.5Z"),
    ],
)
def test_a_moment_is_understood(said: str, meant: str) -> None:
    assert parse_moment(said, NOW, EAST) == parse_rfc3339(meant)


@pytest.mark.parametrize(
    "said",
    [
        *("", " ", "soon", "-", "ago", "-2", "now 15:00", "25:00", "10:60", "\u0661\u0662:00"),
        *("2026-13-01", "2026-02-30 10:00", "-99999999999999 years", "yesterdayUTC15:00"),
    ],
)
def test_what_is_no_moment_is_told_how_to_write_one(said: str) -> None:
    with pytest.raises(ValueError, match=r"is no time: write -2h, yesterday"):
        parse_moment(said, NOW, EAST)


def test_an_hour_that_is_there_twice_is_the_first() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)  # 02:30 of summer time
    assert parse_moment("2026-10-25 02:30", NOW, berlin) == seconds_since_epoch(first) * NS


def test_the_local_time_is_the_system_s(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        assert parse_moment("2026-11-22 15:24", NOW) == parse_rfc3339("2026-11-22T09:54:00Z")
    finally:
        monkeypatch.undo()
        time.tzset()
