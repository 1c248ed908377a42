"""The table ``sidecar`` of a rule: the keys that are ours, read and checked.

In: what a rule has under ``sidecar``.  Out: a :class:`~.rules.SidecarTable`, and
what is wrong with it.  Upstream's loaders ignore the table, so kumod loads a
file whatever stands here.  So nothing here keeps a file from loading: every
finding is a warning, and ``tsa-sidecar check`` makes an error of it.

A key that is added here needs four things: a field of ``SidecarTable``, a reader in
``_READERS``, a place in ``SidecarTable.deciding`` if it changes what the rule does,
and a line in packaging/doc.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from .adjust import read_adjust
from .escalate import read_escalate
from .options import suggestion
from .probe import read_probe
from .ratio import NEVER_OVER, read_ratio
from .release import read_release
from .rules import SidecarTable
from .specs import shown
from .when import NEVER, read_when

TABLE: Final = "sidecar"
"""What the table is called."""

CODE: Final = "sidecar-key"
"""The code of every finding here."""

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
_NOTE_LONGEST: Final = 500
_TARGETS_MOST: Final = 20

Say = Callable[[str | None, str], None]
"""Takes the key that a finding is about (None: the table itself) and the finding."""


def read_table(raw: object, say: Say) -> SidecarTable:
    """The table as a value.  `say` hears of each key that is ignored or misread."""
    if not isinstance(raw, dict):
        say(None, f'sidecar: found {shown(raw)}, wanted a table: write sidecar.name = "…"')
        return SidecarTable()
    values = {}
    for key, value in raw.items():
        reader = _READERS.get(key)
        if reader is None:
            hint = suggestion(key, _READERS) or f": keys are {', '.join(_READERS)}"
            say(key, f"sidecar: key {shown(key)} means nothing and is ignored{hint}")
            continue
        try:
            values[key] = reader.read(value)
        except ValueError as err:
            say(key, f"sidecar.{key}: {err}; {reader.otherwise}")
            if reader.instead is not None:
                values[key] = reader.instead
    return SidecarTable(**values)


@dataclass(frozen=True, slots=True)
class _Reader:
    """How one key is read: ``read`` raises ValueError for a value that can't be used.

    ``instead`` then is the value (None: the key's default), and ``otherwise`` says so.
    """

    read: Callable[[Any], Any]
    otherwise: str
    instead: Any = None


def _name(raw: object) -> str:
    if not isinstance(raw, str) or _NAME.fullmatch(raw) is None:
        raise ValueError(
            f"found {shown(raw)}, wanted a letter and up to 63 letters, digits, -, _ or ."
        )
    return raw


def _note(raw: object) -> str:
    if not isinstance(raw, str):
        raise ValueError(f"found {shown(raw)}, wanted a text")
    if len(raw) > _NOTE_LONGEST:
        raise ValueError(f"is longer than {_NOTE_LONGEST} characters")
    return raw


def _notify(raw: object) -> tuple[str, ...]:
    targets = raw if isinstance(raw, list) else [raw]
    if len(targets) > _TARGETS_MOST:
        raise ValueError(f"names more than {_TARGETS_MOST} targets")
    for target in targets:
        if not isinstance(target, str) or _NAME.fullmatch(target) is None:
            raise ValueError(f'found {shown(target)}, wanted names of targets, as in ["oncall"]')
    return tuple(dict.fromkeys(targets))


def _simulate(raw: object) -> bool:
    if not isinstance(raw, bool):
        raise ValueError(f"found {shown(raw)}, wanted true or false (without quotes)")
    return raw


_READERS: Final[Mapping[str, _Reader]] = MappingProxyType(
    {
        "name": _Reader(_name, "the rule goes without a name"),
        "note": _Reader(_note, "the rule goes without a note"),
        "notify": _Reader(_notify, "nobody is told"),
        # Whoever writes the key wants no effect on mail: that is the safe reading.
        "simulate": _Reader(_simulate, "the rule is only simulated", instead=True),
        # Whoever restricts a rule wants no effect elsewhere: doing nothing is the safe reading.
        "when": _Reader(read_when, "the rule does nothing", instead=NEVER),
        "escalate": _Reader(read_escalate, "nobody is held longer than the rule's duration"),
        # Without its share the rule would strike at each match.
        "ratio": _Reader(read_ratio, "the rule does nothing", instead=NEVER_OVER),
        "adjust": _Reader(read_adjust, "the rule sets what its action says"),
        "release": _Reader(read_release, "nothing ends before its duration is over"),
        "probe": _Reader(read_probe, "all mail goes out at once when the suspension ends"),
    }
)
