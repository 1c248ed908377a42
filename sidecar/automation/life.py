"""The life of what a rule does in one place, as a table: in each state, what may happen next.

An entry comes about by a match, is renewed by others, and goes::

    FREE ─▶ IN_FORCE                an option is set
    FREE ─▶ ADJUSTING               a limit went down and comes back (the law: course.py)
    FREE ─▶ BOUNCED                 a scheduled queue's mail is bounced
    FREE ─▶ SUSPENDED ─▶ PROBING    a queue is held; then come limits, until mail gets through

With ``sidecar.probe`` a suspension has limits, which are entries of their own.  They are
SUSPENDED as long as it is: published already, of no effect yet.  Then they are PROBING.

Whether an operator holds a rule is no state here: a match that is held changes nothing
(``WITHHELD``), whatever the state.

No I/O.  In: an entry and a time, or a state and an event.  Out: a state.
"""

from __future__ import annotations

from enum import Enum
from types import MappingProxyType
from typing import Final

from .entries import Entry, Override, SchedQBounce
from .episodes import How


class State(Enum):
    """Where an entry is in its life; the value is what people are told."""

    FREE = "free"
    IN_FORCE = "in force"
    ADJUSTING = "adjusting"
    SUSPENDED = "suspended"
    PROBING = "probing"
    BOUNCED = "bounced"


class Event(Enum):
    """What can happen to an entry."""

    SETS = "a match, and the rule sets a value"
    ADJUSTS = "a match, and the rule lowers a limit"
    SUSPENDS = "a match, and the rule holds a queue"
    SUSPENDS_LATE = "the same, read so late that the suspension is over, not the limits after it"
    BOUNCES = "a match, and the rule bounces a queue's mail"
    TOO_FEW = "a match, and the rule's threshold asks for more"
    WITHHELD = "a match, and an operator holds the rule"
    DELIVERED = "a delivery there, not the last that it takes"
    PROVEN = "so many deliveries without a match that mail gets through"
    STEP = "a limit goes up a step"
    BASELINE_REACHED = "a limit is back where it began"
    PROBE_BEGINS = "the suspension is over to which a limit belongs"
    EXPIRED = "its time is over"
    CANCELLED = "an operator takes it back"
    REFITTED = "the files were loaded anew: a limit stays below what they set by now"
    NOTHING_LEFT = "the files were loaded anew: what they set is not above the limit any more"


S, E = State, Event

_OF_ANY: Final = (E.TOO_FEW, E.WITHHELD, E.DELIVERED)
"""These leave the state as it is."""

TRANSITIONS: Final[dict[State, dict[Event, State]]] = {
    S.FREE: {
        E.SETS: S.IN_FORCE,
        E.ADJUSTS: S.ADJUSTING,
        E.SUSPENDS: S.SUSPENDED,
        E.SUSPENDS_LATE: S.PROBING,
        E.BOUNCES: S.BOUNCED,
        **dict.fromkeys(_OF_ANY, S.FREE),
    },
    S.IN_FORCE: {
        E.SETS: S.IN_FORCE,
        **dict.fromkeys(_OF_ANY, S.IN_FORCE),
        E.PROVEN: S.FREE,
        E.EXPIRED: S.FREE,
        E.CANCELLED: S.FREE,
    },
    S.ADJUSTING: {
        E.ADJUSTS: S.ADJUSTING,
        **dict.fromkeys(_OF_ANY, S.ADJUSTING),
        E.PROVEN: S.FREE,
        E.STEP: S.ADJUSTING,
        E.BASELINE_REACHED: S.FREE,
        E.CANCELLED: S.FREE,
        E.REFITTED: S.ADJUSTING,
        E.NOTHING_LEFT: S.FREE,
    },
    S.SUSPENDED: {
        E.SUSPENDS: S.SUSPENDED,
        **dict.fromkeys(_OF_ANY, S.SUSPENDED),
        E.PROBE_BEGINS: S.PROBING,
        E.EXPIRED: S.FREE,
        E.CANCELLED: S.FREE,
        E.NOTHING_LEFT: S.FREE,
    },
    S.PROBING: {
        E.SUSPENDS: S.SUSPENDED,
        E.SUSPENDS_LATE: S.PROBING,
        **dict.fromkeys(_OF_ANY, S.PROBING),
        E.PROVEN: S.FREE,
        E.EXPIRED: S.FREE,
        E.CANCELLED: S.FREE,
        E.NOTHING_LEFT: S.FREE,
    },
    S.BOUNCED: {
        E.BOUNCES: S.BOUNCED,
        **dict.fromkeys(_OF_ANY, S.BOUNCED),
        E.EXPIRED: S.FREE,
        E.CANCELLED: S.FREE,
    },
}
"""What is not in the table can't happen: deliveries prove nothing while a queue is held."""

IS_PROVABLE: Final = frozenset(s for s, events in TRANSITIONS.items() if E.PROVEN in events)
"""States in which deliveries count."""

HOW: Final[MappingProxyType[Event, How]] = MappingProxyType(
    {
        E.EXPIRED: "expired",
        E.BASELINE_REACHED: "expired",
        E.NOTHING_LEFT: "outdated",
        E.PROVEN: "released",
        E.CANCELLED: "cancelled",
    }
)
"""How the history says that an entry ended, by the event that ended it."""


def state_of(entry: Entry, at_ns: int) -> State:
    """The state of an entry in force at a moment."""
    if isinstance(entry, Override):
        if entry.probe is not None:
            return S.SUSPENDED if at_ns < entry.probe.from_ns else S.PROBING
        return S.IN_FORCE if entry.course is None else S.ADJUSTING
    return S.BOUNCED if isinstance(entry, SchedQBounce) else S.SUSPENDED
