"""``sidecar.adjust`` of a rule: read from a file, and checked against what the rule does.

In: what a file has under the key; a rule.  Out: an :class:`~.rules.Adjust`; why the rule
can't be done with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from ..times import NS
from .amounts import MEASURED, amount
from .keys import read_keys
from .rules import Action, Adjust, Rule, TomlValue
from .specs import parse_duration, shown

SETTERS: Final = ("SetConfig", "SetDomainConfig")
"""The actions that have something to adjust."""

_LEAST_EVERY: Final = 10 * NS
_MOST: Final = 86400 * NS
_PERCENT: Final = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)\s*%")


def read_adjust(raw: object) -> Adjust | None:
    """The key as a value; None for ``false``.  ValueError says what is wrong with it."""
    if isinstance(raw, bool):
        return Adjust() if raw else None
    if not isinstance(raw, dict):
        raise ValueError(f'found {shown(raw)}, wanted true or a table as in {{down = "30%"}}')
    values = read_keys(raw, _KEYS)
    return Adjust(**values)


def unfit(rule: Rule) -> Iterator[str]:
    """Why `rule` can't adjust what it sets; nothing where it can, or does not ask for it."""
    adjust = rule.sidecar.adjust
    if adjust is None:
        return
    setters = [action for action in rule.actions if action.kind in SETTERS]
    if not setters:
        yield "there is nothing to adjust: the rule sets no option"
    for action in setters:
        if action.option not in MEASURED:
            known = ", ".join(sorted(MEASURED))
            yield f"{action.option} is no rate, limit or count to adjust; {known} are"
        else:
            yield from _unfit_values(action, adjust)


def _unfit_values(action: Action, adjust: Adjust) -> Iterator[str]:
    assert action.option is not None
    floor, start = floor_of(action, adjust), adjust.start
    for key, value in (("floor", floor), ("from", start)):
        if value is None:
            continue
        try:
            amount(action.option, value)
        except ValueError as err:
            yield f"{key} for {action.option}: {err}"
            return
    if start is not None and amount(action.option, floor) >= amount(action.option, start):
        yield (
            f"{action.option} would go from {shown(start)} down to {shown(floor)}, which is not "
            "less; write a smaller floor (without one it is the action's value)"
        )


def floor_of(action: Action, adjust: Adjust) -> TomlValue:
    """What the option of `action` never goes below, as an option's value."""
    return action.value if adjust.floor is None else adjust.floor


def _share(raw: object) -> float:
    """A share of one, from ``"30%"`` or 0.3; above 0."""
    if isinstance(raw, str) and (m := _PERCENT.fullmatch(raw.strip())) is not None:
        share = float(m[1]) / 100
    elif isinstance(raw, float) and math.isfinite(raw):
        share = raw
    else:
        raise ValueError(f'found {shown(raw)}, wanted a share such as "30%"')
    if share <= 0:
        raise ValueError(f"found {shown(raw)}, wanted more than 0 %")
    return share


def _down(raw: object) -> float:
    share = _share(raw)
    if share > 0.99:
        raise ValueError(f"found {shown(raw)}, wanted 99 % at most: a limit is never 0")
    return share


def _up(raw: object) -> float:
    share = _share(raw)
    if not 0.001 <= share <= 1:
        raise ValueError(f"found {shown(raw)}, wanted 0.1 % to 100 %")
    return share


def _settle(raw: object) -> int:
    settle_ns = parse_duration(raw)
    if settle_ns > _MOST:
        raise ValueError(f"{shown(raw)} is too long: a day at most")
    return settle_ns


def _every(raw: object) -> int:
    every_ns = _settle(raw)
    if every_ns < _LEAST_EVERY:
        raise ValueError(f"{shown(raw)} is too short: kumod looks at its files every 10 seconds")
    return every_ns


def _plain(raw: object) -> TomlValue:
    if isinstance(raw, bool) or not isinstance(raw, str | int):
        raise ValueError(f'found {shown(raw)}, wanted what the option can be, as in "20/min"')
    return raw


_KEYS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "down": ("down", _down),
        "up": ("up", _up),
        "every": ("every_ns", _every),
        "settle": ("settle_ns", _settle),
        "floor": ("floor", _plain),
        "from": ("start", _plain),
    }
)
"""A key of the table → the field, and how it is read."""
