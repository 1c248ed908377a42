"""Windows of thresholds in a group: each match is counted at its time, however late it comes.

In: the second of a match.  Out: the seconds at which the threshold is reached because of
it.  Several hosts' records come in any order.  A late one may be what made the
threshold full at the time of a later one, which has been here before it.  So a window
keeps its matches longer than its period, by `lateness`.

``reached(e)`` is: the matches from ``e - period`` to ``e``, both included, are as many as the
threshold asks for.  That is a property of the set of matches, so their order can't matter.
"""

from __future__ import annotations

import sys
from bisect import bisect_left, bisect_right
from typing import Final

from .thresholds import Thresholds, Window

_MOST: Final = 5000
"""So many seconds with matches a window keeps at most."""


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
        """Count a match; returns the new count of its second, None if it is too late to count."""
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
            self._forget(self._oldest())
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

    def keep(self, enough: int) -> None:
        """Forget the oldest of which it takes no note any more: `enough` of the newest stay."""
        all_, head = self._all, self.head
        while all_ - self.counts[head] >= enough:
            all_ -= self.counts[head]
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

    def _forget(self, oldest: int) -> None:
        seconds, counts, head = self.seconds, self.counts, self.head
        while seconds[head] < oldest or len(seconds) - head > _MOST:
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


class LateThresholds(Thresholds):
    """All windows of a sidecar in a group."""

    __slots__ = ("_lateness",)

    def __init__(self, lateness: int) -> None:
        """`lateness`: how many seconds behind the newest a match may come."""
        super().__init__()
        self._lateness = lateness

    def record_late(
        self, scope: str, period: int, second: int, *, enough: int, latest: int, history: bool
    ) -> list[int]:
        """Count one match; the seconds at which `enough` are there because of it.

        `history`: the matches that were too many are kept as long as others: a late
        one may change what those before have led to.
        """
        window = self._window(scope, period)
        assert isinstance(window, LateWindow)
        if window.head < len(window.seconds) and second <= latest < window.newest:
            self._changed |= dict.fromkeys(((scope, s) for s in window.cut(latest)), 0)
            self._shrunk.pop(scope, None)
        first = window.first
        count = window.add(second)
        if count is None:
            return [second] if enough <= 1 else []
        self._changed[scope, second] = count
        found = window.reached(second, enough)
        if found and not history:
            window.keep(enough)
        if window.first > first:
            self._shrunk[scope] = window.first
        return found

    def drop_until(self, scope: str, second: int) -> bool:
        """Have `scope` forget what it counted up to `second`; False where nothing else is left."""
        window = self._windows.get(scope)
        if isinstance(window, LateWindow) and window.seconds and window.newest > second:
            window.drop_until(second)
            self._shrunk[scope] = window.first
            return True
        self.drop(scope)
        return False

    def _made(self, period: int) -> Window:
        return LateWindow(period, self._lateness)
