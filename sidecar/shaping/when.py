"""``sidecar.when`` of a rule: what else must be so of a record, besides its text.

In: what a file has under the key.  Out: a :class:`~.rules.When`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from .options import suggestion
from .rules import When
from .specs import shown

TYPES: Final = (
    "Reception",
    "Delivery",
    "Bounce",
    "TransientFailure",
    "Expiration",
    "AdminBounce",
    "OOB",
    "Feedback",
    "Rejection",
    "AdminRebind",
    "DeferredInjectionRebind",
    "Delayed",
    "XferIn",
    "XferOut",
)
"""The types of log records (KumoMTA's documentation, "Log record")."""

NEVER: Final = When(type=("",))
"""What no record meets."""

_CODE: Final = re.compile(r"([2-5])(?:([0-9])([0-9x])|xx)")
_MOST: Final = 1000


def read_when(raw: object) -> When:
    """The key as a value.  ValueError says what is wrong with it."""
    if not isinstance(raw, dict):
        raise ValueError(f'found {shown(raw)}, wanted a table as in {{code = "4xx"}}')
    values = {}
    for key, value in raw.items():
        read = _KEYS.get(key)
        if read is None:
            hint = suggestion(key, _KEYS) or f": keys are {', '.join(_KEYS)}"
            raise ValueError(f"key {shown(key)} means nothing{hint}")
        items = value if isinstance(value, list) else [value]
        if not items:
            raise ValueError(f"{key}: an empty array is never so: leave the key out for any")
        if len(items) > _MOST:
            raise ValueError(f"{key}: has more than {_MOST} items")
        try:
            values[key] = tuple(dict.fromkeys(read(item) for item in items))
        except ValueError as err:
            raise ValueError(f"{key}: {err}") from None
    return When(**values)


def _type(raw: object) -> str:
    if not isinstance(raw, str) or raw not in TYPES:
        hint = suggestion(raw, TYPES) if isinstance(raw, str) else ""
        raise ValueError(f"found {shown(raw)}{hint}, wanted one of {', '.join(TYPES)}")
    return raw


def _code(raw: object) -> str:
    """The beginning of the codes that are meant."""
    text = str(raw) if isinstance(raw, int) and not isinstance(raw, bool) else raw
    if not isinstance(text, str) or _CODE.fullmatch(text) is None:
        raise ValueError(f'found {shown(raw)}, wanted a code such as 421, "42x" or "4xx"')
    return text.rstrip("x")


def _name(raw: object) -> str:
    if not isinstance(raw, str):
        raise ValueError(f"found {shown(raw)}, wanted a name or an array of names")
    return raw


_KEYS: Final[Mapping[str, Callable[[object], str]]] = MappingProxyType(
    {
        "type": _type,
        "code": _code,
        "classification": _name,
        "source": _name,
        "tenant": _name,
        "campaign": _name,
    }
)
