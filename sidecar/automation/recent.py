"""Recent strikes of one key: what has a memory comes out the same in whatever order they come.

In: the seconds of strikes.  Out: the state that all of them lead to in the order of
time.  A limit that adjusts itself, and the level of a repeated offence, depend on the
order of the matches.  The hosts of a group see them in different orders.  So there are
kept, beside the state, the strikes of the last while, as whole seconds, and the state
before them.  A strike that comes late is put in its place, and all are gone through
again.

Bounded: a few bits for each second of :data:`KEPT`, whatever comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeAlias, TypeVar

import msgspec

from .course import Course, course_from
from .entries import places
from .offences import Offence

KEPT: Final = 3600
"""How many seconds behind the newest strike of a key another may come and still count."""

State = TypeVar("State", Course, Offence)
Step: TypeAlias = Callable[[State | None, int], State]
"""The state after a strike at a second; None: there was none before."""


class Recent(Generic[State]):
    """The strikes of one key: ``newest`` is the second of the last.

    Bit `k` of ``bits`` is the second `k` before it.  ``before``: the state before all of
    them.  ``domain``: of the recipients' domains the first by name.
    """

    __slots__ = ("_now", "_until", "before", "bits", "domain", "newest")

    def __init__(self, before: State | None, newest: int, domain: str, *, bits: int = 0) -> None:
        self.before: State | None = before
        self.newest = newest
        self.bits = bits
        self.domain = domain
        self._now: State | None = before  # all strikes up to the second `_until`
        self._until = -1

    def add(self, second: int, domain: str, step: Step[State]) -> None:
        """Note a strike.  `step` is what strikes do."""
        self.domain = min(self.domain, domain)
        ahead = second - self.newest
        if ahead <= 0:
            if ahead >= -KEPT and not self.bits >> -ahead & 1:
                self.bits |= 1 << -ahead
                if second <= self._until:
                    self._now, self._until = self.before, -1
            return
        if ahead + self.bits.bit_length() > 3 * KEPT:
            self._settle(second - KEPT, step)
        self.bits = (self.bits << ahead) | 1
        self.newest = second

    def state(self, step: Step[State]) -> State:
        """The state after all strikes."""
        now: State | None = self._now
        for second in self._after(self._until):
            now = step(now, second)
        self._now, self._until = now, self.newest
        assert now is not None
        return now

    def rebase(self, change: Callable[[State], State]) -> None:
        """Have `change` made to the states: what they depend on is another."""
        self.before = None if self.before is None else change(self.before)
        self._now = None if self._now is None else change(self._now)

    def drop_until(self, second: int) -> bool:
        """Forget the strikes up to `second`; False where there are no others."""
        self.bits &= (1 << max(self.newest - second, 0)) - 1
        self.before = self._now = None
        self._until = -1
        return self.bits != 0

    def _settle(self, second: int, step: Step[State]) -> None:
        """Make the strikes before `second` a part of ``before``: none can come among them."""
        for one in self._after(-1):
            if one >= second:
                break
            self.before = step(self.before, one)
        self.bits &= (1 << max(self.newest - second + 1, 0)) - 1
        if self._until < second:
            self._now, self._until = self.before, -1

    def _after(self, second: int) -> Iterator[int]:
        """The seconds of the strikes after `second`, in order."""
        length = min(self.bits.bit_length(), max(self.newest - second, 0))
        text = f"{self.bits & ((1 << length) - 1):b}"
        first = self.newest - len(text) + 1
        at = text.find("1")
        while at >= 0:
            yield first + at
            at = text.find("1", at + 1)


AnyRecent: TypeAlias = Recent[Course] | Recent[Offence]


class _Saved(msgspec.Struct, frozen=True, array_like=True):
    newest: int
    bits: str
    domain: str
    course: Course | None
    offence: Offence | None


_DECODER = msgspec.json.Decoder(_Saved)


def to_payload(recent: AnyRecent) -> str:
    """The strikes as JSON text, for the state file."""
    before = recent.before
    saved = _Saved(
        recent.newest,
        f"{recent.bits:x}",
        recent.domain,
        before if isinstance(before, Course) else None,
        before if isinstance(before, Offence) else None,
    )
    return msgspec.json.encode(saved).decode()


class Recents(Generic[State]):
    """The recent strikes of all keys; and which of them changed."""

    __slots__ = ("_by_key", "_changed", "places")

    def __init__(self) -> None:
        self.places = 0
        """How many places all of them take, as entries do."""
        self._by_key: dict[str, Recent[State]] = {}
        self._changed: set[str] = set()

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: str) -> Recent[State] | None:
        """What is kept of `key`."""
        return self._by_key.get(key)

    def strike(
        self,
        key: str,
        second: int,
        domain: str,
        *,
        before: State | None,
        step: Step[State],
        room: int | None,
    ) -> Recent[State]:
        """Note a strike; `before` is the state of a key of which nothing is kept.

        A key for which there is no room (`room` places) is not kept.
        """
        known = self._by_key.get(key)
        if known is None:
            known = Recent(before, second, domain)
            if room is None or self.places < room:
                self.places += places(key)
                self._by_key[key] = known
        known.add(second, domain, step)
        self._changed.add(key)
        return known

    def drop(self, key: str) -> None:
        """Forget `key`."""
        if self._by_key.pop(key, None) is not None:
            self.places -= places(key)
            self._changed.add(key)

    def touch(self, key: str) -> None:
        """Have `key` kept anew: it was changed."""
        self._changed.add(key)

    def forget(self, before: int) -> None:
        """Forget the keys of which nothing was struck since the second `before`."""
        for key in [key for key, recent in self._by_key.items() if recent.newest < before]:
            self.drop(key)

    def items(self) -> Iterator[tuple[str, Recent[State]]]:
        """All that is kept."""
        return iter(self._by_key.items())

    def take_changes(self) -> dict[str, Recent[State] | None]:
        """What changed since the last call; None: it is forgotten."""
        changed, self._changed = self._changed, set()
        return {key: self._by_key.get(key) for key in changed}

    def restore(self, key: str, recent: Recent[State]) -> None:
        """Put back what the state file holds."""
        if key not in self._by_key:
            self.places += places(key)
        self._by_key[key] = recent


def course_from_payload(payload: str) -> Recent[Course]:
    """What :func:`to_payload` made of a limit's; ValueError says what is wrong with it."""
    saved, bits = _decoded(payload)
    if saved.course is not None:
        course_from(msgspec.to_builtins(saved.course))
    return Recent(saved.course, saved.newest, saved.domain, bits=bits)


def offence_from_payload(payload: str) -> Recent[Offence]:
    """What :func:`to_payload` made of an offender's; ValueError says what is wrong with it."""
    saved, bits = _decoded(payload)
    return Recent(saved.offence, saved.newest, saved.domain, bits=bits)


def _decoded(payload: str) -> tuple[_Saved, int]:
    saved = _DECODER.decode(payload)
    bits = int(saved.bits, 16)
    if not 0 < bits.bit_length() <= 4 * KEPT or bits < 0 or not 0 <= saved.newest < 1 << 40:
        raise ValueError("its seconds do not go together")
    return saved, bits
