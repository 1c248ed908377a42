"""A moment as people say it: text and the present in, Unix nanoseconds out.

``now``, ``today``, ``yesterday``, ``yesterday 15:24``, ``15:24`` (today),
``2026-11-22``, ``2026-11-22 15:24:05``, ``-2h`` or ``2h ago``, RFC 3339 and Unix
seconds.  A day without a time is its midnight.  Times are local unless ``UTC`` or
an offset stands behind them.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Final

from sidecar.shaping.specs import parse_duration
from sidecar.times import NS, parse_rfc3339, parse_time, seconds_since_epoch

WAYS: Final = "-2h, yesterday 15:24, 2026-11-22 15:24 UTC, RFC 3339 or Unix seconds"
"""The ways to say a moment, for messages and help."""

_SAID: Final = re.compile(
    r"(?P<day>now|today|yesterday|\d{4}-\d\d-\d\d)?"
    r"(?:(?:^|[ T])(?P<time>\d{1,2}:\d\d(?::\d\d(?:\.\d{1,9})?)?))?"
    r" ?(?P<zone>UTC|Z)?",
    re.IGNORECASE | re.ASCII,
)


def parse_moment(text: str, now_ns: int, zone: tzinfo | None = None) -> int:
    """Unix nanoseconds; ValueError says how to write one.

    `zone`: in place of the local time zone.
    """
    said = " ".join(text.split())
    try:
        ago = _ago(said)
        if ago is not None:
            return now_ns - ago
        found = _SAID.fullmatch(said)
        if found is None or not said:
            return parse_time(said)
        return _at(found, now_ns, zone)
    except (ValueError, OverflowError):
        raise ValueError(f"{text[:100]!r} is no time: write {WAYS}") from None


def _ago(said: str) -> int | None:
    """How long before the present, where it is said so."""
    if said.startswith("-"):
        return parse_duration(said[1:].strip())
    if said.endswith(" ago"):
        return parse_duration(said.removesuffix(" ago"))
    return None


def _at(found: re.Match[str], now_ns: int, zone: tzinfo | None) -> int:
    day, time = (found["day"] or "today").lower(), found["time"]
    zone = UTC if found["zone"] else zone
    if day == "now":
        if time or found["zone"]:
            raise ValueError("now is now")
        return now_ns
    present = datetime.fromtimestamp(now_ns // NS, UTC).astimezone(zone)
    if day in ("today", "yesterday"):
        on = present.date() - timedelta(days=day == "yesterday")
    else:
        on = date.fromisoformat(day)
    if zone is UTC:
        return parse_rfc3339(f"{on.isoformat()}T{_full(time)}Z")
    clock, _, fraction = _full(time).partition(".")
    # Where a clock that is put back shows a time twice, it is the first that is meant.
    local = datetime.fromisoformat(f"{on.isoformat()}T{clock}").replace(tzinfo=zone)
    return seconds_since_epoch(local.astimezone(UTC)) * NS + int(fraction.ljust(9, "0") or 0)


def _full(time: str | None) -> str:
    """``HH:MM:SS`` with its fraction."""
    if time is None:
        return "00:00:00"
    hour, *rest = time.split(":")
    return ":".join([hour.zfill(2), *rest, *(["00"] if len(rest) == 1 else [])])
