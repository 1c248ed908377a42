"""The clock that entries expire by: the host's clock, but it does not leap forward.

In: the wall clock, and a clock that nobody can set.  Out: Unix nanoseconds.

A wall clock that is set forward by an hour would end an hour's suspensions at
once, and release all the mail they hold.  So this clock catches up over an hour,
at twice the true pace or faster.  Entries end in their order: somewhat early if
the leap was a mistake, somewhat late if it was a correction.

A wall clock that is set back is followed at once.  kumod stamps its records by
the same wall clock: for a clock ahead of it they would be over when they are
read.  What has ended stays ended, since it has left the state.  What is in force
holds longer by as much as the clock went back, in kumod as well.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from sidecar.times import NS

JUMP_NS = 60 * NS
"""Leaps longer than this are logged; smaller ones are everyday corrections."""

_CATCH_UP_NS = 3600 * NS


def running_ns() -> int:
    """Nanoseconds since the host was booted, sleep included.  Nobody can set this clock."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class GuardedClock:
    """Call it for the time.  `on_jump` gets each leap in nanoseconds (negative: back)."""

    def __init__(
        self,
        *,
        on_jump: Callable[[int], None] = lambda _ns: None,
        wall: Callable[[], int] = time.time_ns,
        running: Callable[[], int] = running_ns,
    ) -> None:
        self._wall = wall
        self._running = running
        self._on_jump = on_jump
        self._lock = threading.Lock()
        self._last_running = running()
        self._last_wall = self._now = wall()
        self._caught_up_at = self._last_running

    @property
    def behind_ns(self) -> int:
        """How far it was behind the wall clock at the last call."""
        return self._last_wall - self._now

    def __call__(self) -> int:
        """Unix nanoseconds: as the wall clock has them, or fewer while it catches up."""
        with self._lock:
            running, wall = self._running(), self._wall()
            elapsed = running - self._last_running
            jump = wall - self._last_wall - elapsed
            if jump > JUMP_NS:
                self._caught_up_at = running + _CATCH_UP_NS
            self._now = min(wall, self._now + self._allowed(elapsed, wall))
            self._last_running, self._last_wall = running, wall
            now = self._now
        if abs(jump) > JUMP_NS:
            self._on_jump(jump)
        return now

    def _allowed(self, elapsed: int, wall: int) -> int:
        """By how much it may advance after `elapsed` nanoseconds."""
        behind = max(wall - self._now - elapsed, 0)
        left = max(self._caught_up_at - self._last_running, elapsed)
        share = behind * elapsed // left if left else 0
        return elapsed + max(elapsed, share)
