"""The time that expiry goes by: the host's clock, kept from leaping forward.

In: the wall clock and a clock that nobody sets.  Out: Unix nanoseconds.

A clock set forward by an hour, by mistake or to correct it, would end an hour's
worth of suspensions at one stroke and let all the held mail loose.  So the
guarded clock catches up with a leap over an hour (never slower than twice the
true pace): entries end in their order, somewhat early if the leap was a mistake,
somewhat late if it was a correction, and an hour later all is as the wall says.

A clock set back is followed at once: kumod stamps its records by the same wall,
and by a clock that stayed ahead they would be over before they were read.  What
has ended stays ended, for it has left the state.  What was in force holds
longer by as much as the clock went back, for kumod (which compares the same
expiry with the same wall) as for us.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from sidecar.times import NS

JUMP_NS = 60 * NS
"""A leap worth telling an operator of; smaller ones are everyday corrections."""

_CATCH_UP_NS = 3600 * NS


def running_ns() -> int:
    """Nanoseconds since the host was booted, sleep included; nobody can set this clock."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class GuardedClock:
    """Call it for the time; `on_jump` is told of each leap, in nanoseconds (negative: back)."""

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
        """How far it was behind the wall clock when last asked."""
        return self._last_wall - self._now

    def __call__(self) -> int:
        """Unix nanoseconds: the wall's, or less while catching up with a leap."""
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
        """How far it may go on in `elapsed`."""
        behind = max(wall - self._now - elapsed, 0)
        left = max(self._caught_up_at - self._last_running, elapsed)
        share = behind * elapsed // left if left else 0
        return elapsed + max(elapsed, share)
