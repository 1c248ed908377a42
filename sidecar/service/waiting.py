"""Where records wait for the MX of their domain, while everything else goes on.

In: records that wait.  Out: those whose wait is over: their domain's MX has
come, or can't be told, or has been waited for long enough.  What waits is in the
state file as well (``Ledger.waiting``): a process that is killed loses none.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Final

from sidecar.automation.waiting import Waiting
from sidecar.shaping.mx import MxError, Resolver


class WaitingRoom:
    """Records by domain, each domain's MX being asked for; at most `MOST` records."""

    MOST: Final = 5000
    SECONDS: Final = 10.0

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._by_domain: dict[str, list[Waiting]] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._over: deque[str] = deque()
        self._some = asyncio.Event()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def room(self) -> int:
        """How many more records may wait."""
        return max(0, self.MOST - self._count)

    def add(self, waiting: Iterable[Waiting]) -> None:
        """Have these wait; their domains are asked for."""
        for one in waiting:
            self._count += 1
            here = self._by_domain.get(one.domain)
            if here is None:
                self._by_domain[one.domain] = [one]
                self._asking[one.domain] = asyncio.create_task(self._ask(one.domain))
            else:
                here.append(one)

    async def some(self) -> None:
        """Wait until some record's wait is over."""
        await self._some.wait()

    def take(self, most: int) -> list[Waiting]:
        """Records whose wait is over, in the log's order: those of one domain, and up to `most`."""
        domains: list[str] = []
        count = 0
        while self._over and count < most:
            domains.append(self._over.popleft())
            count += len(self._by_domain.get(domains[-1], ()))
        if not self._over:
            self._some.clear()
        return self.take_of(domains)

    def take_of(self, domains: Iterable[str]) -> list[Waiting]:
        """The records of these domains, in the log's order; none where none waits."""
        ready = [one for domain in domains for one in self._by_domain.pop(domain, ())]
        self._count -= len(ready)
        return sorted(ready, key=lambda one: one.number)

    async def _ask(self, domain: str) -> None:
        try:
            async with asyncio.timeout(self.SECONDS):
                await self._resolver.resolve(domain)
        except (MxError, TimeoutError):
            pass  # what is known by then decides
        finally:
            self._asking.pop(domain, None)
        self._over.append(domain)
        self._some.set()
