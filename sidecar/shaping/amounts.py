"""An option's value as one number, and a number as the option's value.

In: an option's name and what it is set to.  Out: a number that is greater where more
is let through: a rate in messages (connections) a second, a limit, a count.  Back: the
largest value that lets no more through, written like another.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from .options import SCHEMA
from .rules import TomlValue
from .specs import LimitSpec, ThrottleSpec, parse_limit, parse_throttle, shown

_RATES: Final = frozenset({"max_message_rate", "max_connection_rate", "source_selection_rate"})
_COUNTS: Final = frozenset(
    {
        "connection_limit",
        "max_ready",
        "consecutive_connection_failures_before_delay",
        "max_deliveries_per_connection",
        "max_recipients_per_batch",
    }
)
MEASURED: Final = _RATES | _COUNTS
"""The options that are a number of something, so that there is more and less of it."""

_PERIODS: Final = (60, 3600, 86400)
_FINE: Final = 10
"""A rate of fewer than these in its period is written with a longer one."""
_LEAST: Final = 1e-6


def amount(name: str, value: object) -> float:
    """How much `value` lets through; ValueError where `name` or `value` is no number."""
    if name in _RATES:
        rate = parse_throttle(value)
        return rate.limit / rate.period
    if name not in MEASURED:
        raise ValueError(f"{shown(name)} is no rate, limit or count")
    count = SCHEMA[name].parse(value)
    return float(count.limit if isinstance(count, LimitSpec) else _whole(count))


def _whole(count: object) -> int:
    assert isinstance(count, int)
    return count


def by_default(name: str) -> TomlValue | None:
    """What kumod takes for `name` where no file sets it; None where that is no limit at all."""
    value = SCHEMA[name].default if name in MEASURED else None
    if isinstance(value, LimitSpec):
        return value.limit
    return value if isinstance(value, int) else None


def setting(name: str, number: float, like: TomlValue) -> TomlValue:
    """The largest value of `name` that lets through `number` or less, at least 1; as `like` is."""
    if name in _RATES:
        return str(_throttle(number, parse_throttle(like)))
    count = max(1, math.floor(number + _LEAST))
    if name == "connection_limit":
        limit = replace(parse_limit(like), limit=count)
        return str(limit) if limit.force_local else count
    return count


def _throttle(number: float, like: ThrottleSpec) -> ThrottleSpec:
    """`number` a second; in a longer period than `like` where whole numbers are too coarse."""
    period = like.period
    for longer in _PERIODS:
        exact = number * period
        if exact >= _FINE or abs(exact - max(1, round(exact))) < _LEAST:
            break
        period = max(period, longer)
    limit = max(1, math.floor(number * period + _LEAST))
    burst = like.max_burst
    if period > like.period:
        # As many at once as would be with the period that was configured.
        burst = min(burst or limit, max(1, math.floor(number * like.period)))
    elif burst is not None:
        burst = min(burst, limit)
    return ThrottleSpec(limit, period, burst, like.force_local)
