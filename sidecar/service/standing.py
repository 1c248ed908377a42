"""How it stands with all entries, for the status and the metrics.

In: entries in force with their stories, and the time.  Out: how many are in each state;
how far down the limits are that adjust themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sidecar.automation.adjusting import share_at
from sidecar.automation.course import next_step_ns
from sidecar.automation.entries import Entries, Entry, Override
from sidecar.automation.episodes import Episode
from sidecar.automation.life import State, state_of


def in_states(entries: Iterable[Entry], now_ns: int) -> dict[str, int]:
    """How many are in each state that an entry may have, but for the simulated.

    Limits that wait for the end of a suspension are left out: they cost nothing yet.
    """
    counts = dict.fromkeys((state.value for state in State if state is not State.FREE), 0)
    for entry in entries:
        state = state_of(entry, now_ns)
        waits = isinstance(entry, Override) and state is State.SUSPENDED
        if not (entry.simulated or waits):
            counts[state.value] += 1
    return counts


class LeastShares:
    """By the rule's label, the least share of its baseline that one of its limits lets through.

    Each limit's share is kept until its next step: to make all of them anew takes long.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[str, tuple[Override, int, float]] = {}

    def at(self, entries: Entries, stories: Mapping[str, Episode], now_ns: int) -> dict[str, float]:
        """Those at `now_ns`, never earlier than the last time; the simulated are left out."""
        before, self._known, least = self._known, {}, dict[str, float]()
        for key, entry in entries.items():
            if not isinstance(entry, Override) or entry.course is None or entry.simulated:
                continue
            known = before.get(key)
            if known is None or known[0] is not entry or known[1] <= now_ns:
                step_ns = next_step_ns(entry.course, now_ns)
                known = entry, step_ns, share_at(entry, now_ns)
            self._known[key] = known
            story = stories.get(key)
            if story is not None:
                least[story.label] = min(known[2], least.get(story.label, 1.0))
        return least
