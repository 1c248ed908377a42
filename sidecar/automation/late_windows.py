"""Windows of thresholds in a group: each match is counted at its time, however late it comes.

In: the second of a match.  Out: the seconds at which the threshold is reached because of
it.  Several hosts' records come in any order.  A late one may be what made the
threshold full at the time of a later one, which has been here before it.  So a window
keeps its matches longer than its period, by `lateness`.

What a match would have done, had the threshold been reached, is told from its *target*: its
domain, queue and source.  Those of matches that did nothing are kept, second by second: a
late one may be what they lacked.

``reached(e)`` is: the matches from ``e - period`` to ``e``, both included, are as many as the
threshold asks for.  That is a property of the set of matches, so their order can't matter.
"""

from __future__ import annotations

import sys
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from typing import Final, TypeAlias

import msgspec

from .thresholds import Thresholds, Window

_TARGETS_MOST: Final = 100
"""So many targets are kept of one second."""


class LateWindow(Window):
    """Matches of one scope: seconds that have some, in order, each with its count.

    ``total`` is the number within the period that ends with the newest.
    """

    __slots__ = ("_all", "_lateness", "_start")

    def __init__(self, period: int, lateness: int) -> None:
        super().__init__(period)
        self._lateness = lateness
        self._start = 0  # of the period that ends with the newest
        self._all = 0  # how many from the head on

    def add(self, second: int, count: int = 1, *, enough: int = sys.maxsize) -> int | None:
        """Count a match; returns the new count of its second, None if it is too late to count.

        So many seconds are kept as may be needed for `enough` matches at any second that a late
        one may change: each has one at least.
        """
        seconds, counts = self.seconds, self.counts
        if second < self.first or (seconds and second < self._oldest()):
            return None
        if self.head == len(seconds) or second > seconds[-1]:
            seconds.append(second)
            counts.append(count)
            self.total += count
            self._all += count
            while seconds[self._start] < second - self.period:
                self.total -= counts[self._start]
                self._start += 1
            self._forget(self._oldest(), self._lateness + enough)
            return count
        at = bisect_left(seconds, second, self.head)
        if seconds[at] != second:
            seconds.insert(at, second)
            counts.insert(at, 0)
            self._start += at < self._start or second < seconds[-1] - self.period
        counts[at] += count
        self._all += count
        if at >= self._start:
            self.total += count
        return counts[at]

    def reached(self, second: int, limit: int) -> list[int]:
        """The seconds at which there are `limit` matches because of the one just added."""
        seconds, counts = self.seconds, self.counts
        if second == seconds[-1]:
            return [second] if self.total >= limit else []
        low = bisect_left(seconds, second - self.period, self.head)
        at = bisect_left(seconds, second, low)
        total = sum(counts[low : at + 1])
        found = [second] if total >= limit else []
        for later in range(at + 1, bisect_right(seconds, second + self.period, at)):
            total += counts[later]
            while seconds[low] < seconds[later] - self.period:
                total -= counts[low]
                low += 1
            if total == limit:  # it was reached there without this one if there are more
                found.append(seconds[later])
        return found

    def keep(self, enough: int, second: int) -> None:
        """Forget what makes no difference any more: there were `enough` at `second`.

        For a later second it takes no more than so many of those before it.
        """
        at = bisect_right(self.seconds, second, self.head)
        before, head = self._all - sum(self.counts[at:]), self.head
        while before - self.counts[head] >= enough:
            before -= self.counts[head]
            head += 1
        self._forget(self.seconds[head])

    def cut(self, latest: int) -> list[int]:
        """Take out the seconds after `latest`; returns them."""
        at = bisect_right(self.seconds, latest, self.head)
        gone = self.seconds[at:]
        kept = list(self.items())[: at - self.head]
        self._begin_anew(kept)
        return gone

    def drop_until(self, second: int) -> None:
        """Forget what was counted up to `second`."""
        kept = [one for one in self.items() if one[0] > second]
        self._begin_anew(kept)
        self.first = second + 1

    def _oldest(self) -> int:
        return self.seconds[-1] - self.period - self._lateness

    def _forget(self, oldest: int, most: int = sys.maxsize) -> None:
        seconds, counts, head = self.seconds, self.counts, self.head
        while seconds[head] < oldest or len(seconds) - head > most:
            self._all -= counts[head]
            head += 1
        if head > self.head:
            self.first = seconds[head]
        while self._start < head:
            self.total -= counts[self._start]
            self._start += 1
        if head > 64 and head * 2 > len(seconds):
            del seconds[:head], counts[:head]
            self._start -= head
            head = 0
        self.head = head

    def _begin_anew(self, kept: list[tuple[int, int]]) -> None:
        self.seconds, self.counts = [], []
        self.head = self.total = self.first = self._start = self._all = 0
        for second, count in kept:
            self.add(second, count)


class Target(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What a match is about besides its ready queue: all that its effect may depend on."""

    domain: str
    queue: str
    source: str


Reached: TypeAlias = tuple[int, tuple[Target, ...]]
"""A second at which there are enough, and the targets of the matches then."""

_Place: TypeAlias = tuple[str, int]
"""A scope and a second."""


class LateThresholds(Thresholds):
    """All windows of a sidecar in a group: those of thresholds are late ones."""

    __slots__ = ("_lateness", "_targets", "_targets_changed")

    def __init__(self, lateness: int) -> None:
        """`lateness`: how many seconds behind the newest a match may come."""
        super().__init__()
        self._lateness = lateness
        self._targets: dict[str, dict[int, tuple[Target, ...]]] = {}
        self._targets_changed: set[_Place] = set()

    def record_late(
        self,
        scope: str,
        period: int,
        second: int,
        *,
        enough: int,
        latest: int,
        target: Target,
        history: bool,
    ) -> list[Reached]:
        """Count one match; the seconds at which `enough` are there because of it.

        `history`: the matches that were too many, and targets, are kept as long as others:
        a late one may change what those before have led to.  Without it all matches of the
        scope have the same effect, and no target but this one is handed back.
        """
        window = self._late_window(scope, period)
        if window.head < len(window.seconds) and second <= latest < window.newest:
            self._changed |= dict.fromkeys(((scope, s) for s in window.cut(latest)), 0)
            self._shrunk.pop(scope, None)
        first = window.first
        count = window.add(second, enough=enough)
        if count is None:
            return [(second, (target,))] if enough <= 1 else []
        self._changed[scope, second] = count
        found = window.reached(second, enough)
        if window.first > first:
            self._forget_targets(scope, window.first)
        reached: list[Reached]
        if history:
            self._add_target(scope, second, target)
            reached = [(at, self._take_targets(scope, at)) for at in found]
        else:
            if found:
                window.keep(enough, found[-1])
            reached = [(at, (target,)) for at in found]
        if window.first > first:
            self._shrunk[scope] = window.first
        return reached

    def drop_until(self, scope: str, second: int) -> bool:
        """Have `scope` forget what it counted up to `second`; False where nothing else is left."""
        window = self._windows.get(scope)
        if isinstance(window, LateWindow) and window.seconds and window.newest > second:
            window.drop_until(second)
            self._forget_targets(scope, second + 1)
            self._shrunk[scope] = window.first
            return True
        self.drop(scope)
        return False

    def restore(self, scope: str, period: int, counts: Mapping[int, int]) -> None:
        """As of :class:`Thresholds`.  Of which kind a window is the state file does not say."""
        window = self._late_window(scope, period)
        for second in sorted(counts):
            window.add(second, counts[second])

    def drop(self, scope: str) -> None:
        """Have `scope` count from nothing."""
        super().drop(scope)
        self._forget_targets(scope, sys.maxsize)

    def forget_idle(self, before: int) -> list[str]:
        """As of :class:`Thresholds`."""
        idle = super().forget_idle(before)
        for scope in idle:
            self._forget_targets(scope, sys.maxsize)
        return idle

    def targets(self) -> dict[str, str | None]:
        """All that is kept of targets: what it is called → JSON text, for the state file."""
        places = ((scope, second) for scope, kept in self._targets.items() for second in kept)
        return {_name(place): self._payload(place) for place in places}

    def take_target_changes(self) -> dict[str, str | None]:
        """What changed of :meth:`targets` since the last call; None: it is forgotten."""
        changed, self._targets_changed = self._targets_changed, set()
        return {_name(place): self._payload(place) for place in changed}

    def restore_targets(self, name: str, payload: str) -> None:
        """Put back what the state file holds; ValueError says what is wrong with it."""
        second, _, scope = name.partition(" ")
        if not (second.isascii() and second.isdecimal() and scope):
            raise ValueError(f"{name[:40]!r} is no second and scope")
        self._targets.setdefault(scope, {})[int(second)] = _TARGETS.decode(payload)

    def _payload(self, place: _Place) -> str | None:
        targets = self._targets.get(place[0], {}).get(place[1])
        return None if targets is None else msgspec.json.encode(targets).decode()

    def _add_target(self, scope: str, second: int, target: Target) -> None:
        kept = self._targets.setdefault(scope, {})
        here = kept.get(second, ())
        if target not in here and len(here) < _TARGETS_MOST:
            kept[second] = (*here, target)
            self._targets_changed.add((scope, second))

    def _take_targets(self, scope: str, second: int) -> tuple[Target, ...]:
        self._targets_changed.add((scope, second))
        return self._targets.get(scope, {}).pop(second, ())

    def _forget_targets(self, scope: str, first: int) -> None:
        """Forget those before the second `first`."""
        kept = self._targets.get(scope, {})
        for second in [second for second in kept if second < first]:
            del kept[second]
            self._targets_changed.add((scope, second))
        if not kept:
            self._targets.pop(scope, None)

    def _late_window(self, scope: str, period: int) -> LateWindow:
        known = self._windows.get(scope)
        if isinstance(known, LateWindow):
            return known
        super()._window(scope, period)
        late = self._windows[scope] = LateWindow(period, self._lateness)
        return late

    def _window(self, scope: str, period: int) -> Window:
        known = super()._window(scope, period)
        if not isinstance(known, LateWindow):
            return known
        # Restored, and a share's: those need no more than their period.
        window = self._windows[scope] = Window(period)
        for second, count in known.items():
            window.add(second, count)
        return window


_TARGETS: Final = msgspec.json.Decoder(tuple[Target, ...])


def _name(place: _Place) -> str:
    return f"{place[1]} {place[0]}"
