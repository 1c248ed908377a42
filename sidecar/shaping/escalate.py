"""``sidecar.escalate`` of a rule: whoever offends again soon is held longer.

In: what a file has under the key; a rule.  Out: an :class:`~.rules.Escalate`; why it
changes nothing about the rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from ..times import NS
from .keys import read_keys
from .rules import Escalate, Rule
from .specs import parse_duration, shown

_LONGEST: Final = 366 * 86400 * NS


def read_escalate(raw: object) -> Escalate | None:
    """The key as a value; None for ``false``.  ValueError says what is wrong with it."""
    if isinstance(raw, bool):
        return Escalate() if raw else None
    if not isinstance(raw, dict):
        raise ValueError(f"found {shown(raw)}, wanted true or a table as in {{factor = 2}}")
    values = read_keys(raw, _KEYS)
    return Escalate(**values)


def pointless(rule: Rule) -> Iterator[str]:
    """Why the key changes nothing about `rule`; nothing where it does, or is not there."""
    escalate, adjust = rule.sidecar.escalate, rule.sidecar.adjust
    if escalate is None:
        return
    if escalate.max_ns <= rule.duration_ns:
        yield "max is not more than the duration, so nothing is ever held longer"
    if adjust is not None and all(action.option is not None for action in rule.actions):
        yield "what adjusts itself has no duration; take out one of the two keys"


def _factor(raw: object) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not math.isfinite(raw):
        raise ValueError(f"found {shown(raw)}, wanted a number above 1")
    if not 1 < raw <= 100:
        raise ValueError(f"found {shown(raw)}, wanted a number above 1, 100 at most")
    return float(raw)


def _duration(raw: object) -> int:
    duration_ns = parse_duration(raw)
    if not 0 < duration_ns <= _LONGEST:
        raise ValueError(f"found {shown(raw)}, wanted a duration of up to 366 days")
    return duration_ns


_KEYS: Final[Mapping[str, tuple[str, Callable[[object], Any]]]] = MappingProxyType(
    {
        "factor": ("factor", _factor),
        "max": ("max_ns", _duration),
        "forget": ("forget_ns", _duration),
    }
)
"""A key of the table → the field, and how it is read."""
