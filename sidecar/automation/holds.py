"""What operators have said must not strike, and until when.

In: a selection, and until when.  Out: for an entry that a rule is about to make, the
moment until which it is held.  A hold covers what is decided before that moment, and
what was logged before it, so that lines which are read late strike no more than
those read in time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from .entries import Entry
from .selection import Made, Selection


class RuleHold(msgspec.Struct, frozen=True):
    """Nothing that ``selection`` means is made until ``until_ns``.

    ``id`` is of the same kind as an entry's.  ``about`` says in words what is held.
    ``word`` is what the group calls the order that made it, "" where that is no matter of
    the group's.
    """

    id: int
    selection: Selection
    made_ns: int
    until_ns: int
    about: str
    by: str = ""
    reason: str = ""
    word: str = ""

    def to_payload(self) -> str:
        """The same as JSON text, for the state file."""
        return msgspec.json.encode(self).decode()


_DECODER = msgspec.json.Decoder(RuleHold)


def hold_from_payload(payload: str) -> RuleHold:
    """What :meth:`RuleHold.to_payload` made; ValueError says what is wrong with it."""
    return _DECODER.decode(payload)


class RuleHolds:
    """All of them, by id.  Asking costs little where they name keys, as those of `cancel` do."""

    __slots__ = ("_by_id", "_by_key", "_wide")

    def __init__(self) -> None:
        self._by_id: dict[int, RuleHold] = {}
        self._by_key: dict[str, int] = {}
        self._wide: list[RuleHold] = []

    def __iter__(self) -> Iterator[RuleHold]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def put(self, hold: RuleHold) -> None:
        """Add `hold`."""
        self._by_id[hold.id] = hold
        self._index()

    def remove(self, ids: Iterable[int]) -> list[RuleHold]:
        """Take out those with these ids; returns those that were there."""
        gone = [self._by_id.pop(id_) for id_ in ids if id_ in self._by_id]
        if gone:
            self._index()
        return gone

    def over(self, before_ns: int) -> list[int]:
        """The ids of those that ended before that moment."""
        return [hold.id for hold in self if hold.until_ns < before_ns]

    def until_ns(self, entry: Entry, made: Made) -> int:
        """Until when `entry` is held; 0 where it is not."""
        wide = [hold.until_ns for hold in self._wide if hold.selection.fits(entry, made)]
        return max([self._by_key.get(entry.key, 0), *wide])

    def _index(self) -> None:
        self._by_key = {}
        self._wide = []
        for hold in self:
            if not hold.selection.keys:
                self._wide.append(hold)
            for key in hold.selection.keys:
                self._by_key[key] = max(hold.until_ns, self._by_key.get(key, 0))
