"""Who offended before: how much longer a rule holds it this time (``sidecar.escalate``).

In: an entry's key, a rule's duration, the time of a match.  Out: the duration of the
hold.  What is remembered of a key is its level and when its hold ends: all that the
next match needs, whether or not the entry is still in force by then.

==========================================  =========================
a match                                     the level
==========================================  =========================
of a key that is not known                  0
while the hold lasts                        stays
within ``forget`` of its end                one more
later                                       0
==========================================  =========================

Each level is ``factor`` times as long as the one before, up to ``max``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import msgspec

from sidecar.shaping.rules import Escalate

from .entries import places

OFFENCE: Final = "offence:"
"""Before an entry's key in the name under which the state file keeps its offence."""


class Offence(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A key's level, when its hold ends, and until when it is remembered, ns."""

    level: int
    until_ns: int
    forgotten_ns: int

    def to_payload(self) -> str:
        """The same as JSON text, for the state file."""
        return msgspec.json.encode(self).decode()


_DECODER = msgspec.json.Decoder(Offence)


def offence_from_payload(payload: str) -> Offence:
    """What :meth:`Offence.to_payload` made; ValueError says what is wrong with it."""
    return _DECODER.decode(payload)


def level_at(offence: Offence | None, at_ns: int) -> int:
    """The level of a match at `at_ns`, after `offence`."""
    if offence is None or at_ns >= offence.forgotten_ns:
        return 0
    return offence.level + (at_ns >= offence.until_ns)


def duration_at(escalate: Escalate, duration_ns: int, level: int) -> int:
    """How long the hold of a level is: never less than `duration_ns`."""
    if duration_ns == 0 or level <= 0:
        return duration_ns
    most_ns = max(duration_ns, escalate.max_ns)
    # Beyond this level it is longer than `most_ns` in any case, and the power would overflow.
    enough = math.ceil(math.log(most_ns / duration_ns) / math.log(escalate.factor))
    if level > enough:
        return most_ns
    return min(most_ns, int(duration_ns * escalate.factor**level))


def again(
    known: Offence | None, escalate: Escalate, duration_ns: int, at_ns: int
) -> tuple[Offence, int]:
    """What to remember of a key after a match at `at_ns`; how long that holds, ns."""
    level = level_at(known, at_ns)
    held_ns = duration_at(escalate, duration_ns, level)
    until_ns = at_ns + held_ns
    if known is not None and level == known.level:
        until_ns = max(until_ns, known.until_ns)  # of a late record the hold is no shorter
    return Offence(level, until_ns, until_ns + escalate.forget_ns), held_ns


class Offences:
    """What is remembered, by the entry's key; and which of it changed."""

    __slots__ = ("_by_key", "_changed", "places")

    def __init__(self) -> None:
        self.places = 0
        """How many places all of them take, as entries do."""
        self._by_key: dict[str, Offence] = {}
        self._changed: set[str] = set()

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: str) -> Offence | None:
        """What is remembered of `key`."""
        return self._by_key.get(key)

    def strike(
        self, key: str, escalate: Escalate, duration_ns: int, at_ns: int, *, room: int | None
    ) -> int:
        """Note a match at `at_ns`; how long it holds, ns.

        A key for which there is no room (`room` places) is not remembered.
        """
        known = self._by_key.get(key)
        offence, held_ns = again(known, escalate, duration_ns, at_ns)
        self.put(key, offence, room=room)
        return held_ns

    def put(self, key: str, offence: Offence, *, room: int | None) -> None:
        """Have `offence` remembered of `key`, where there is room for it."""
        if key in self._by_key or room is None or self.places < room:
            self._put(key, offence)

    def restore(self, key: str, offence: Offence) -> None:
        """Put back what the state file holds."""
        self._put(key, offence)
        self._changed.discard(key)

    def drop(self, key: str) -> None:
        """Forget `key`."""
        if self._by_key.pop(key, None) is not None:
            self.places -= places(key)
            self._changed.add(key)

    def forget(self, before_ns: int) -> None:
        """Forget what does not count any more for records of `before_ns` and later."""
        gone = [key for key, found in self._by_key.items() if found.forgotten_ns <= before_ns]
        for key in gone:
            self.drop(key)

    def items(self) -> Iterator[tuple[str, Offence]]:
        """All that is remembered."""
        return iter(self._by_key.items())

    def take_changes(self) -> dict[str, Offence | None]:
        """What changed since the last call; None: it is forgotten."""
        changed, self._changed = self._changed, set()
        return {key: self._by_key.get(key) for key in changed}

    def _put(self, key: str, offence: Offence) -> None:
        if key not in self._by_key:
            self.places += places(key)
        self._by_key[key] = offence
        self._changed.add(key)
