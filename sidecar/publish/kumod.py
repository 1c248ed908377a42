"""kumod's admin API: it is told of changes at once, and asked what it does.

In: what changed in force.  Out: a bump of the configuration epoch after each change
of the overlay; in kumod, exactly the suspensions and bounces that are in force;
whether it does what was published.  Each has a task of its own, so that none waits
for another, nor the log for any.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from sidecar.http_client import Unreachable
from sidecar.problems import Problem
from sidecar.publish.admin_api import AdminApi, parse_api_url
from sidecar.publish.holds import Changes
from sidecar.publish.inspector import Inspector, Obedience
from sidecar.publish.link import Link, Pace, failed
from sidecar.publish.metrics import Metrics
from sidecar.publish.pusher import Pusher

_BUMP_PATH = "/api/admin/bump-config-epoch"


class KumodClient:
    """The client of one kumod.

    ``ids``: ids known from the store.  ``on_ids``: told of each change to them
    (None: gone), in the loop's thread; to be stored.  ``on_problem``: each kind
    of trouble once, until it has been well again.  Raises ProblemError on a bad URL.
    """

    def __init__(
        self,
        url: str,
        *,
        ids: Mapping[str, str],
        on_ids: Callable[[Mapping[str, str | None]], None],
        on_problem: Callable[[Problem], None],
        metrics: Metrics | None = None,
        pace: Pace | None = None,
    ) -> None:
        metrics = metrics if metrics is not None else Metrics.create()
        metrics.show_kumod()
        self._link = Link(
            parse_api_url(url),
            on_problem=on_problem,
            metrics=metrics,
            pace=pace if pace is not None else Pace(),
        )
        self._bumper = _Bumper(self._link)
        self._pusher = Pusher(self._link, ids=ids, on_ids=on_ids)
        self._inspector = Inspector(self._link, self._pusher)
        self._tasks: list[asyncio.Task[None]] = []

    def take(self, changes: Changes) -> None:
        """Have kumod told of `changes`.  Call it from the loop's thread."""
        self._bumper.set_version(changes.overlay_version)
        self._pusher.take(changes)
        self._inspector.take(changes.settings)

    def conditions(self) -> list[Problem]:
        """What keeps kumod from being told, or from doing what was published."""
        problems = [replace(problem, level="error") for problem in self._link.problems.current]
        disobeyed = self.obedience.first("not obeyed")
        if problems or disobeyed is None:
            return problems
        count = self.obedience.counts["not obeyed"]
        entry, verdict = disobeyed
        message = f"kumod does not obey {count} entries, such as {entry}: {verdict.why}"
        return [Problem("error", "kumod-not-obeyed", message)]

    @property
    def obedience(self) -> Obedience:
        """Whether kumod does what was published, as of a few seconds ago."""
        return self._inspector.obedience

    @property
    def settled(self) -> bool:
        """Whether kumod has been told everything."""
        return self._bumper.settled and self._pusher.settled

    async def run(self) -> None:
        """Work until :meth:`close`.  Raises what no task expects."""
        self._tasks = [
            asyncio.create_task(self._link.keep_at(self._bumper), name="kumod-bump"),
            asyncio.create_task(self._link.keep_at(self._pusher), name="kumod-push"),
            asyncio.create_task(self._inspector.ask(), name="kumod-ask"),
            asyncio.create_task(self._inspector.sum_up(), name="kumod-sum-up"),
        ]
        try:
            done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await self.close()
        for task in done:
            if not task.cancelled():
                task.result()  # none ends by itself

    async def close(self) -> None:
        """Stop.  In kumod, what it was told stays until it expires."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Bumper:
    """Bumps the configuration epoch soon after each change, and always after the last one."""

    name = "bump"

    def __init__(self, link: Link) -> None:
        self._link = link
        self._changed = asyncio.Event()
        self._wanted: int | None = None
        self._bumped: int | None = None
        self._last = float("-inf")

    @property
    def settled(self) -> bool:
        return self._wanted == self._bumped

    def set_version(self, version: int) -> None:
        self._wanted = version
        if not self.settled:
            self._changed.set()

    async def ready(self) -> None:
        """Wait until there is a change, and the last bump is long enough ago."""
        if self.settled:
            self._changed.clear()
            await self._changed.wait()
        await asyncio.sleep(self._last + self._link.pace.bump - time.monotonic())

    async def work(self, api: AdminApi) -> None:
        """Bump."""
        self._last = time.monotonic()
        # Noted before the request: a change during the request needs another one.
        version = self._wanted
        answer = await self._link.request(api, "POST", _BUMP_PATH)
        if failed(answer):
            raise Unreachable(f"POST {_BUMP_PATH}: {answer.status} {answer.text}")
        if answer.status >= 400:
            message = f"POST {_BUMP_PATH} is refused: {answer.status} {answer.text}"
            self._link.problems.report("bump", message)
        else:
            self._link.problems.well("bump")
        self._bumped = version
