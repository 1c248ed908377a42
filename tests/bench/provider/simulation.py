"""One day of one sender in one world."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final, Protocol

from tests.bench.provider.worlds import World

CONFIGURED: Final = 1000.0
"""The sender's own limit, messages a minute from each source."""
ARRIVALS: Final = 700.0
"""Messages a minute that each source has to send."""
_MEMORY: Final = 600
"""Over how many seconds a provider counts refusals."""


class Sender(Protocol):
    """Something that limits itself.  Times are seconds; sources are numbered."""

    def limit(self, source: int, second: int) -> float:
        """Messages a minute that it sends now."""

    def refused(self, source: int, second: int, count: int) -> None:
        """So many attempts were refused in this second."""

    def delivered(self, source: int, second: int, count: int) -> None:
        """So many were taken."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Who has more than ``after`` refusals in ten minutes is refused all for ``seconds``."""

    after: int = 30
    seconds: int = 1800


@dataclass(slots=True)
class Day:
    """What came of a run; ``limits`` and ``hidden`` of the first source, once a minute."""

    delivered: int = 0
    refused: int = 0
    best: float = 0.0
    limits: list[float] = field(default_factory=list)
    hidden: list[float] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Delivered, of what an all-knowing sender would have."""
        return self.delivered / self.best

    @property
    def refused_per_1000(self) -> float:
        """Refused attempts per 1,000 delivered."""
        return self.refused * 1000 / max(1, self.delivered)


def run(world: World, sender: Sender, *, blocks: Blocks | None, seconds: int, seed: int = 1) -> Day:
    """The first `seconds` of a day; equal arguments give an equal day."""
    day = Day()
    roads = [
        _Road(world, number, blocks=blocks, seconds=seconds, seed=seed)
        for number in range(len(world.rates))
    ]
    for second in range(seconds):
        for road in roads:
            road.second(second, sender, day)
        if second % 60 == 0:
            day.limits.append(sender.limit(0, second))
            day.hidden.append(world.rates[0](second))
    return day


class _Road:
    """From one source to the provider: the queue, the provider's bucket and its block."""

    def __init__(
        self, world: World, source: int, *, blocks: Blocks | None, seconds: int, seed: int
    ) -> None:
        self.source = source
        self.rate = world.rates[source]
        self.retry = world.retry
        self.blocks = blocks
        self.rng = random.Random(f"{seed} {source}")
        self.queue = self.credit = self.bucket = self.best_queue = 0.0
        self.returning = [0] * (seconds + self.retry[1] + 1)
        self.refusals = [0] * (seconds + _MEMORY)
        self.recent = 0
        self.blocked_until = -1

    def second(self, now: int, sender: Sender, day: Day) -> None:
        """What happens in one second."""
        self.queue += ARRIVALS / 60 * self.rng.uniform(0.5, 1.5) + self.returning[now]
        day.best += self._best(now)
        tried = self._tries(sender.limit(self.source, now))
        taken = min(tried, int(self.bucket)) if now >= self.blocked_until else 0
        self.bucket -= taken
        day.delivered += taken
        if taken:
            sender.delivered(self.source, now, taken)
        refused = tried - taken
        self.recent -= self.refusals[now - _MEMORY] if now >= _MEMORY else 0
        if refused:
            day.refused += refused
            sender.refused(self.source, now, refused)
            self._note(now, refused)

    def _best(self, now: int) -> float:
        """What the all-knowing sender delivers."""
        rate = self.rate(now)
        self.bucket = min(rate, self.bucket + rate / 60)
        self.best_queue += ARRIVALS / 60
        sent = min(self.best_queue, rate / 60, CONFIGURED / 60)
        self.best_queue -= sent
        return sent

    def _tries(self, limit: float) -> int:
        each = limit / 60
        self.credit = min(self.credit + each, each + 1)  # a part of a message is kept
        tried = int(min(self.credit, self.queue))
        self.credit -= tried
        self.queue -= tried
        return tried

    def _note(self, now: int, refused: int) -> None:
        for _ in range(refused):
            self.returning[now + self.rng.randrange(*self.retry)] += 1
        self.refusals[now] = refused
        self.recent += refused
        if self.blocks and now >= self.blocked_until and self.recent > self.blocks.after:
            self.blocked_until = now + self.blocks.seconds
            self.recent = 0
            self.refusals[max(0, now - _MEMORY) : now + 1] = [0] * (now + 1 - max(0, now - _MEMORY))
