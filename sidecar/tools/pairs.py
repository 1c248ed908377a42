"""Two sets of rules in hindsight, compared: their episodes in, pairs and sums out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .hindsight import Scope, Told


@dataclass(frozen=True, slots=True)
class Pair:
    """An episode before and after the change; None where there is none."""

    before: Told | None
    after: Told | None

    @property
    def verdict(self) -> str:
        """``new``, ``gone``, ``other value``, ``longer``, ``shorter`` or ``same``."""
        if self.before is None:
            return "new"
        if self.after is None:
            return "gone"
        if self.before.values != self.after.values:
            return "other value"
        if self.before.seconds == self.after.seconds:
            return "same"
        return "longer" if self.after.seconds > self.before.seconds else "shorter"


VERDICTS = ("new", "gone", "longer", "shorter", "other value", "same")


def pairs(before: list[Told], after: list[Told]) -> list[Pair]:
    """The episodes of both sides: those of one scope that overlap are the same one."""
    waiting: dict[Scope, list[Told]] = {}
    for told in after:
        waiting.setdefault(told.scope, []).append(told)
    found = []
    for told in before:
        candidates = waiting.get(told.scope, [])
        match = next((one for one in candidates if _overlap(told, one)), None)
        if match is not None:
            candidates.remove(match)
        found.append(Pair(told, match))
    found += [Pair(None, told) for rest in waiting.values() for told in rest]
    return sorted(found, key=lambda pair: (_began(pair), (pair.after or pair.before).scope))  # type: ignore[union-attr]


def _overlap(one: Told, other: Told) -> bool:
    return one.began_ns < other.until_ns and other.began_ns < one.until_ns


def _began(pair: Pair) -> int:
    return min(told.began_ns for told in (pair.before, pair.after) if told is not None)


@dataclass(slots=True)
class Sum:
    """What the episodes of one scope come to: how long, how many matches, how much mail."""

    seconds: float = 0
    matches: int = 0
    sent: int = 0

    def add(self, told: Told) -> None:
        """Add an episode."""
        self.seconds += told.seconds
        self.matches += told.story.matches
        self.sent += told.sent


@dataclass(slots=True)
class ScopeSums:
    """The sums of one scope, before and after the change; ``example``: one of its episodes."""

    example: Told
    before: Sum = field(default_factory=Sum)
    after: Sum = field(default_factory=Sum)


def by_scope(found: Iterable[Pair]) -> list[ScopeSums]:
    """The sums of each scope; where the most minutes differ comes first."""
    sums: dict[Scope, ScopeSums] = {}
    for pair in found:
        for told, before in ((pair.before, True), (pair.after, False)):
            if told is not None:
                of_scope = sums.setdefault(told.scope, ScopeSums(told))
                (of_scope.before if before else of_scope.after).add(told)
    return sorted(sums.values(), key=lambda one: -abs(one.after.seconds - one.before.seconds))
