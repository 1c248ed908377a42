"""``sidecar.probe`` of a rule: limits that hold where a suspension ends, for a while.

In: what a file has under the key; a rule.  Out: a :class:`~.rules.Probe`; why the rule
can't be done with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ..times import NS
from .amounts import MEASURED, amount
from .options import check_option, suggestion
from .release import read_deliveries
from .rules import Probe, Rule, TomlValue
from .specs import parse_duration, shown

_LONGEST: Final = 86400 * NS
_OWN: Final = ("deliveries", "for")


def read_probe(raw: object) -> Probe | None:
    """The key as a value; None for ``false``.  ValueError says what is wrong with it.

    A table that names no limit has the limits of ``true``.
    """
    if isinstance(raw, bool):
        return Probe() if raw else None
    if not isinstance(raw, dict):
        raise ValueError(
            f"found {shown(raw)}, wanted true or a table as in {{connection_limit = 1}}"
        )
    values: dict[str, Any] = {}
    limits: list[tuple[str, TomlValue]] = []
    for key, value in raw.items():
        try:
            if key == "deliveries":
                values["deliveries"] = read_deliveries(value)
            elif key == "for":
                values["for_ns"] = _for(value)
            elif key in MEASURED:
                limits.append((key, _limit(key, value)))
            else:
                raise ValueError(_unknown(key))
        except ValueError as err:
            raise ValueError(f"{key}: {err}") from None
    if limits:
        values["limits"] = tuple(limits)
    return Probe(**values)


def no_probe(rule: Rule) -> Iterator[str]:
    """Why `rule` can't probe; nothing where it can, or does not ask for it."""
    if rule.sidecar.probe is None or any(action.kind == "Suspend" for action in rule.actions):
        return
    if any(action.kind.startswith("Suspend") for action in rule.actions):
        yield (
            "kumod has limits for ready queues, not for tenants and campaigns: it takes the "
            "action Suspend"
        )
    else:
        yield "the rule suspends no ready queue, so nothing ends that could be probed"


def _unknown(key: str) -> str:
    known = (*sorted(MEASURED), *_OWN)
    hint = suggestion(key, known) or f": keys are {', '.join(known)}"
    return f"is no rate, limit or count that kumod knows{hint}"


def _limit(option: str, value: TomlValue) -> TomlValue:
    if reasons := check_option(option, value):
        raise ValueError("; ".join(reasons))
    amount(option, value)
    return value


def _for(raw: object) -> int:
    for_ns = parse_duration(raw)
    if not 0 < for_ns <= _LONGEST:
        raise ValueError(f"found {shown(raw)}, wanted a duration of up to a day")
    return for_ns
