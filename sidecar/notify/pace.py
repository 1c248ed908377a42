"""When to seal a message, and when to try again: pure.

In: what a target has waiting, and the time in seconds of a clock that nobody sets.
Out: the next step.  As in Prometheus's Alertmanager, a group waits a moment for
others to join it, and messages keep a distance from each other.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

_FIRST_RETRY = 5.0
_LAST_RETRY = 300.0
_LONGEST_ASKED_FOR = 3600.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a target has waiting, with the moments that its next step turns on.

    ``sealed``: a message is sealed, to be tried at ``retry_at``.  ``group_since``: when
    the group was opened; None: there is none.  ``last_sent``: when a message
    was taken; None: none yet in this run.
    """

    sealed: bool
    retry_at: float = 0.0
    group_since: float | None = None
    last_sent: float | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What to do next; ``seconds`` until then (None: until something comes)."""

    action: Literal["wait", "seal", "send"]
    seconds: float | None = None


def next_step(waiting: Waiting, now: float, *, wait: float, every: float) -> Step:
    """The next step at `now`: a group waits `wait` seconds, messages are `every` apart."""
    if waiting.sealed:
        left = waiting.retry_at - now
        return Step("send") if left <= 0 else Step("wait", left)
    if waiting.group_since is None:
        return Step("wait")
    due = waiting.group_since + wait
    if waiting.last_sent is not None:
        due = max(due, waiting.last_sent + every)
    return Step("seal") if due <= now else Step("wait", due - now)


def retry_seconds(failures: int, *, asked_for: float | None = None) -> float:
    """The pause after so many failures in a row, from 1 on, with jitter.

    `asked_for`: what the receiver asks for, which is heeded up to an hour.
    """
    pause = min(_FIRST_RETRY * 2.0 ** min(failures - 1, 16), _LAST_RETRY)
    # Jitter: those who lost a receiver together do not come back together.
    pause *= random.uniform(0.5, 1.0)  # noqa: S311 - no secret
    return pause if asked_for is None else max(pause, min(asked_for, _LONGEST_ASKED_FOR))
