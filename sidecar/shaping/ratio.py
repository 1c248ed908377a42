"""``sidecar.ratio`` of a rule: it strikes by the share of matches, not by their number.

In: what a file has under the key; a rule.  Out: a :class:`~.rules.Ratio`; why the rule
can't be done with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from ..times import NS
from .keys import read_keys
from .rules import ATTEMPTS, FEEDBACK, Ratio, Rule
from .specs import parse_duration, shown

NEVER_OVER: Final = Ratio(over=1.0)
"""A share that no matches exceed."""

_LONGEST: Final = 7 * 86400
_MOST: Final = 1_000_000_000
_PERCENT: Final = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)\s*%")


def read_ratio(raw: object) -> Ratio:
    """The key as a value.  ValueError says what is wrong with it."""
    if not isinstance(raw, dict):
        raise ValueError(f'found {shown(raw)}, wanted a table as in {{over = "5%"}}')
    values = read_keys(raw, _KEYS)
    if "over" not in values:
        raise ValueError('over is missing: write the share to strike above, as in over = "5%"')
    return Ratio(**values)


def misplaced(rule: Rule) -> Iterator[str]:
    """Why `rule` can't do what its ratio says; nothing where it can, or has none."""
    ratio = rule.sidecar.ratio
    if ratio is None:
        return
    if rule.match_internal and not ratio.complaints:
        yield (
            "what kumod says itself is no attempt and is never counted, so match_internal does "
            "nothing; take it out"
        )
    when = rule.sidecar.when
    if not ratio.complaints:
        if when is not None and when.type and ATTEMPTS.isdisjoint(when.type):
            yield (
                f"records of type {' and '.join(when.type)}, which sidecar.when asks for, are no "
                "attempts and are never counted"
            )
        return
    if rule.scope.kind == "site":
        yield (
            "a Feedback record names no site, so a rule of a site never sees one; put the rule "
            "under default, a provider or a domain with mx_rollup = false"
        )
    if any(action.kind == "Suspend" for action in rule.actions):
        yield (
            "a Feedback record names no ready queue to suspend; SetDomainConfig and the actions "
            "on a tenant work"
        )
    if when is not None and when.type and FEEDBACK not in when.type:
        yield "the rule counts Feedback records, and sidecar.when.type leaves them out"


def _share(raw: object) -> float:
    if isinstance(raw, str) and (m := _PERCENT.fullmatch(raw.strip())) is not None:
        return float(m[1]) / 100
    if isinstance(raw, float) and math.isfinite(raw):
        return raw
    raise ValueError(f'found {shown(raw)}, wanted a share such as "5%"')


def _over(raw: object) -> float:
    share = _share(raw)
    if not 0 <= share < 1:
        raise ValueError(f"found {shown(raw)}, wanted less than 100 %: no share is above it")
    return share


def _confidence(raw: object) -> float:
    share = _share(raw)
    if not 0.5 <= share <= 0.9999:
        raise ValueError(f"found {shown(raw)}, wanted 50 % to 99.99 %")
    return share


def _min(raw: object) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int) or not 1 <= raw <= _MOST:
        raise ValueError(f"found {shown(raw)}, wanted a whole number from 1 to {_MOST:,}")
    return raw


def _window(raw: object) -> int:
    seconds, rest = divmod(parse_duration(raw), NS)
    if rest or not 1 <= seconds <= _LONGEST:
        raise ValueError(f"found {shown(raw)}, wanted whole seconds, up to 7 days")
    return seconds


def _of(raw: object) -> bool:
    if raw != FEEDBACK:
        raise ValueError(f'found {shown(raw)}, wanted "{FEEDBACK}", or no such key')
    return True


_KEYS: Final[Mapping[str, tuple[str, Callable[[object], Any]]]] = MappingProxyType(
    {
        "over": ("over", _over),
        "min": ("least", _min),
        "window": ("period", _window),
        "confidence": ("confidence", _confidence),
        "of": ("complaints", _of),
    }
)
"""A key of the table → the field, and how it is read."""
