"""The keys of a table below ``sidecar``: each read by its own function, strangers refused.

In: a table from a file, and who reads which key.  Out: the values by field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from .options import suggestion
from .specs import shown

Keys: TypeAlias = Mapping[str, tuple[str, Callable[[Any], Any]]]
"""By key: the field that its value is for, and what reads it (ValueError: it can't be used)."""


def read_keys(raw: Mapping[str, Any], keys: Keys) -> dict[str, Any]:
    """The values of `raw` by field.  ValueError names the key that is wrong, and says why."""
    values: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in keys:
            hint = suggestion(key, keys) or f": keys are {', '.join(keys)}"
            raise ValueError(f"key {shown(key)} means nothing{hint}")
        name, read = keys[key]
        try:
            values[name] = read(value)
        except ValueError as err:
            raise ValueError(f"{key}: {err}") from None
    return values
