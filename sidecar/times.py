"""Times as KumoMTA writes them: integer nanoseconds since the Unix epoch, UTC.

kumod writes nine fractional digits and the daemon's answers keep them, so a
float (53 bits) would lose some.  In: RFC 3339 text or Unix seconds.  Out:
text as chrono's ``to_rfc3339`` and its serde form write it: no fraction, or
three, six or nine digits, whichever is the shortest that is exact.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

NS = 1_000_000_000
"""Nanoseconds in a second."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:([Zz])|([+-])(\d\d):(\d\d))",
    re.ASCII,
)


def parse_rfc3339(text: str) -> int:
    """Nanoseconds since the epoch; ValueError where `text` is no RFC 3339 time.

    A leap second (``:60``) counts as the second before it; digits past the
    ninth are dropped.
    """
    # As kumod writes it, many times a second.
    if len(text) == 30 and text[19] == "." and text[29] == "Z" and text.isascii():
        fraction = text[20:29]
        if fraction.isdecimal():
            try:
                return _start_of_second(text[:19]) + int(fraction)
            except ValueError:
                pass  # the parser below has the message
    return _parse_rfc3339(text)


@lru_cache(maxsize=256)
def _start_of_second(text: str) -> int:
    return _parse_rfc3339(f"{text}Z")


def _parse_rfc3339(text: str) -> int:
    m = _RFC3339.fullmatch(text)
    if m is None:
        raise ValueError(f"{text!r} is not an RFC 3339 time such as 2026-11-22T15:07:40.5Z")
    year, month, day, hour, minute, second, fraction, _, sign, off_h, off_m = m.groups()
    moment = datetime(
        int(year), int(month), int(day), int(hour), int(minute), min(int(second), 59), tzinfo=UTC
    )
    if sign is not None:
        if int(off_h) > 23 or int(off_m) > 59:
            raise ValueError(f"{text!r}: no such offset from UTC")
        offset = (int(off_h) * 60 + int(off_m)) * 60
        seconds = seconds_since_epoch(moment) + (offset if sign == "-" else -offset)
    else:
        seconds = seconds_since_epoch(moment)
    return seconds * NS + (int(fraction[:9].ljust(9, "0")) if fraction else 0)


def parse_time(text: str) -> int:
    """A time on a command line: RFC 3339, or Unix seconds with or without a fraction."""
    m = re.fullmatch(r"(\d{1,12})(?:\.(\d{1,9})\d*)?", text, re.ASCII)
    if m is not None:
        whole, fraction = m.groups()
        return int(whole) * NS + int((fraction or "").ljust(9, "0"))
    return parse_rfc3339(text)


def seconds_since_epoch(moment: datetime) -> int:
    """Whole seconds, exactly (``datetime.timestamp`` goes through a float)."""
    delta = moment - _EPOCH
    return delta.days * 86400 + delta.seconds


def until_tick(now: float, every: float) -> float:
    """Seconds from `now` (monotonic) to the next multiple of `every`, which is above 0.

    Tasks that wait by it wake at the same moments, so that the processor wakes less often.
    """
    return every - now % every


def format_rfc3339(ns: int, *, utc: str = "Z") -> str:
    """`ns` as text with `utc` ("Z" or "+00:00") behind it.

    Times outside the years 1 to 9999 are clamped: they come from absurd
    durations ("9000 years"), and a far end of time serves as well.
    """
    seconds, fraction = divmod(ns, NS)
    seconds = min(max(seconds, -62135596800), 253402300799)
    text = (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    if len(text) < 19:  # strftime does not pad years before 1000 on Linux
        text = text.rjust(19, "0")
    if fraction % 1_000_000 == 0:
        digits = f".{fraction // 1_000_000:03d}" if fraction else ""
    elif fraction % 1000 == 0:
        digits = f".{fraction // 1000:06d}"
    else:
        digits = f".{fraction:09d}"
    return text + digits + utc
