"""Thresholds: how often a rule matched on a site within its period.

In: a scope (rule and site), a period and the second of a match.  Out: the
number of matches in the period.  The window ends with the newest match known
(so that records of several segments may come in any order), begins `period`
seconds earlier, both ends included, and counts whole seconds of record time.
The present matters only where a clock went ahead and was set back: what it
counted in the future would keep all that follows from counting.  A window
keeps its newest matches, about as many as its threshold asks for: older ones
can't make a difference.  So its size is the rule's, whatever comes.  Source of
the rule: KumoMTA's documentation of ``trigger``, "N matches in the period"
(upstream's daemon counts over ``duration`` instead).
"""

from __future__ import annotations

import sys
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping

from .entries import places


class Window:
    """Matches of one scope: seconds that have some, in order, each with its count.

    A match costs the same however long the window is: it lands at the end
    (late ones are rare and found by bisection), and each second leaves once.
    """

    __slots__ = ("counts", "first", "head", "period", "seconds", "total")

    def __init__(self, period: int) -> None:
        self.period = period
        self.seconds: list[int] = []
        self.counts: list[int] = []
        self.head = 0
        self.total = 0
        self.first = 0
        """No second before this one counts any more."""

    def add(self, second: int, count: int = 1, *, enough: int = sys.maxsize) -> int | None:
        """Count a match; returns the new count of its second, None if it is too late to count.

        Of more than `enough` matches the oldest seconds go that are not needed for so many.
        """
        seconds = self.seconds
        if self.head < len(seconds) and second < seconds[-1]:
            if second < seconds[-1] - self.period:
                return None
            at = bisect_left(seconds, second, self.head)
            if seconds[at] != second:
                seconds.insert(at, second)
                self.counts.insert(at, 0)
        else:
            at = len(seconds) - 1
            if at < self.head or seconds[at] != second:
                seconds.append(second)
                self.counts.append(0)
                at += 1
        self.counts[at] += count
        self.total += count
        result = self.counts[at]
        self._leave(seconds[-1] - self.period, enough)
        return result

    def cut(self, latest: int) -> list[int]:
        """Take out the seconds after `latest`; returns them."""
        at = bisect_right(self.seconds, latest, self.head)
        gone = self.seconds[at:]
        self.total -= sum(self.counts[at:])
        del self.seconds[at:], self.counts[at:]
        self.first = 0
        return gone

    def items(self) -> Iterator[tuple[int, int]]:
        """The seconds that count, each with its number of matches."""
        return zip(self.seconds[self.head :], self.counts[self.head :], strict=True)

    def _leave(self, oldest: int, enough: int) -> None:
        seconds, counts, head = self.seconds, self.counts, self.head
        self.first = max(self.first, oldest)
        while seconds[head] < oldest or self.total - counts[head] >= enough:
            if seconds[head] >= oldest:
                self.first = seconds[head + 1]
            self.total -= counts[head]
            head += 1
        if head > 64 and head * 2 > len(seconds):
            del seconds[:head], self.counts[:head]
            head = 0
        self.head = head

    def since(self, first: int) -> int:
        """How many there are from the second `first` on."""
        at = bisect_left(self.seconds, first, self.head)
        return self.total if at == self.head else sum(self.counts[at:])

    @property
    def newest(self) -> int:
        """The last second counted."""
        return self.seconds[-1]


class Thresholds:
    """All windows, and which of their seconds have changed since the last :meth:`take_changes`."""

    __slots__ = ("_changed", "_shrunk", "_windows", "places")

    def __init__(self) -> None:
        self.places = 0
        """How many places all of them take, as entries do."""
        self._windows: dict[str, Window] = {}
        self._changed: dict[tuple[str, int], int] = {}
        self._shrunk: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._windows)

    def __contains__(self, scope: str) -> bool:
        return scope in self._windows

    def record(
        self,
        scope: str,
        period: int,
        second: int,
        count: int = 1,
        *,
        enough: int = sys.maxsize,
        latest: int = sys.maxsize,
    ) -> int:
        """Count a match of `scope` (or `count`); how many the period has, these included.

        Beyond `enough` they are not counted any further. After the second `latest` nothing
        can have happened yet: what was counted there goes, unless this match is there, too.
        """
        window = self._window(scope, period)
        if window.head < len(window.seconds) and second == window.seconds[-1]:
            # As nearly all are: nothing leaves the window, and nothing was counted later.
            window.total += count
            window.counts[-1] += count
            self._changed[scope, second] = window.counts[-1]
            return window.total
        if window.head < len(window.seconds) and second <= latest < window.newest:
            # What left the window for them is gone, from the store as well.
            self._changed |= dict.fromkeys(((scope, s) for s in window.cut(latest)), 0)
            self._shrunk.pop(scope, None)
        before = window.head
        first = window.seconds[before] if before < len(window.seconds) else second
        of_second = window.add(second, count, enough=enough)
        if of_second is None:
            return count
        if second >= window.first:
            self._changed[scope, second] = of_second
        if window.seconds[window.head] > first:
            self._shrunk[scope] = window.first
        return window.total

    def count(self, scope: str) -> int:
        """How many matches the window of `scope` holds."""
        window = self._windows.get(scope)
        return 0 if window is None else window.total

    def since(self, scope: str, first: int) -> int:
        """How many of them are from the second `first` on."""
        window = self._windows.get(scope)
        return 0 if window is None else window.since(first)

    def first_of(self, period: int, *scopes: str) -> int:
        """The first second of a period that ends with the newest of these windows."""
        windows = (self._windows.get(scope) for scope in scopes)
        return max((w.newest for w in windows if w is not None), default=0) - period

    def restore(self, scope: str, period: int, counts: Mapping[int, int]) -> None:
        """Put back what the state file holds of one scope: second → count."""
        window = self._window(scope, period)
        for second in sorted(counts):
            window.add(second, counts[second])

    def _window(self, scope: str, period: int) -> Window:
        window = self._windows.get(scope)
        if window is None:
            window = self._windows[scope] = Window(period)
            self.places += places(scope)
        return window

    def drop(self, scope: str) -> None:
        """Have `scope` count from nothing."""
        if self._windows.pop(scope, None) is not None:
            self.places -= places(scope)
            self._shrunk.pop(scope, None)
            for changed in [one for one in self._changed if one[0] == scope]:
                del self._changed[changed]

    def forget_idle(self, before: int) -> list[str]:
        """Drop the windows that end more than their period before `before`; returns their scopes.

        `before` is record time, well behind the newest record read, so that
        what is dropped could not have counted any more.
        """
        idle = [s for s, w in self._windows.items() if w.newest + w.period < before]
        for scope in idle:
            del self._windows[scope]
            self.places -= places(scope)
            self._shrunk.pop(scope, None)
        if idle:
            gone = set(idle)
            self._changed = {k: v for k, v in self._changed.items() if k[0] not in gone}
        return idle

    def take_changes(self) -> tuple[dict[tuple[str, int], int], dict[str, int]]:
        """What changed: (scope, second) → count; scope → the first second that still counts."""
        changed, shrunk = self._changed, self._shrunk
        self._changed, self._shrunk = {}, {}
        # A second may have come and gone since: only what still counts is worth keeping.
        changed = {
            (scope, second): count
            for (scope, second), count in changed.items()
            if second >= shrunk.get(scope, second)
        }
        return changed, shrunk

    def scopes(self) -> Iterator[tuple[str, Window]]:
        """Every scope with its window."""
        return iter(self._windows.items())
