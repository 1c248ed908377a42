"""The worlds: what each provider takes, moment by moment, from each source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

DAY: Final = 86400
HOUR: Final = 3600

Rate = Callable[[float], float]
"""Second of the day → messages a minute that a provider takes."""


@dataclass(frozen=True, slots=True)
class World:
    """A provider: the rate it takes from each source, and when what it refused comes back, s."""

    name: str
    rates: tuple[Rate, ...]
    retry: tuple[int, int] = (900, 1500)


def constant(rate: float) -> Rate:
    """The same all day."""
    return lambda _second: rate


def between(start: float, end: float, rate: float, otherwise: float) -> Rate:
    """`rate` between two hours of the day, and another before and after."""
    return lambda second: rate if start * HOUR < second < end * HOUR else otherwise


def rising(first: float, last: float) -> Rate:
    """Evenly from `first` to `last` over the day."""
    return lambda second: first + (last - first) * second / DAY


def stairs(first: float, step: float, hours: float) -> Rate:
    """Up by `step` every few hours."""
    return lambda second: first + step * (second // (hours * HOUR))


WORLDS: Final = (
    World("20/min", (constant(20),)),
    World("60/min", (constant(60),)),
    World("200/min", (constant(200),)),
    World("500/min", (constant(500),)),
    World("day and night", (between(8, 18, 60, 300),)),
    World("drops to a tenth", (between(8.34, 11.34, 40, 400),)),
    World("office hours", (between(9, 17, 150, 600),)),
    World("warm-up", (rising(50, 500),)),
    World("stairs", (stairs(20, 60, 4),)),
    World("slow retry", (constant(120),), retry=(7200, 10800)),
    World("two sources", (constant(60), constant(300))),
)
