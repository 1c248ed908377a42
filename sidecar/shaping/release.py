"""``sidecar.release`` of a rule: what it sets ends once mail is delivered without a match.

In: what a file has under the key; a rule.  Out: a :class:`~.rules.Release`; why the rule
can't be done with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .adjust import SETTERS
from .options import suggestion
from .rules import Release, Rule
from .specs import shown

_MOST: Final = 1_000_000


def read_release(raw: object) -> Release | None:
    """The key as a value; None for ``false``.  ValueError says what is wrong with it."""
    if isinstance(raw, bool):
        return Release() if raw else None
    if not isinstance(raw, dict):
        raise ValueError(f"found {shown(raw)}, wanted true or a table as in {{deliveries = 5}}")
    for key in raw:
        if key != "deliveries":
            hint = suggestion(key, ("deliveries",)) or ": the key is deliveries"
            raise ValueError(f"key {shown(key)} means nothing{hint}")
    return Release(**{key: read_deliveries(value) for key, value in raw.items()})


def read_deliveries(raw: object) -> int:
    """How many deliveries prove that mail gets through; ValueError for what is no such number."""
    if isinstance(raw, bool) or not isinstance(raw, int) or not 1 <= raw <= _MOST:
        raise ValueError(f"found {shown(raw)}, wanted a whole number from 1 to {_MOST:,}")
    return raw


def no_release(rule: Rule) -> Iterator[str]:
    """Why deliveries end nothing of `rule`; nothing where they do, or it does not ask for it."""
    if rule.sidecar.release is None or any(action.kind in SETTERS for action in rule.actions):
        return
    hint = (
        "; sidecar.probe is for the time after it"
        if any(action.kind == "Suspend" for action in rule.actions)
        else ""
    )
    yield (
        "the rule sets no option, and of a queue that is held or bounced there are no deliveries "
        f"that could end it: take out the key{hint}"
    )
