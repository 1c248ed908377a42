"""Putting the published view out: overlay file, JSON files, endpoint, kumod's admin API.

In: that the view changed, and the events since.  Out: files and answers.  One
task; changes that come while it writes are put out together next time, and
making the texts takes at most a fifth of one core.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sidecar.automation.entries import Suspension
from sidecar.faults import reached
from sidecar.problems import Problem, ProblemError
from sidecar.publish.holds import DesiredState
from sidecar.publish.http import Endpoint
from sidecar.publish.metrics import Metrics
from sidecar.publish.overlay_file import write_atomically_async
from sidecar.publish.snapshot import Snapshot

from .logging import Log
from .published import Published, frame_text

_RETRY_SECONDS = (0.2, 1.0, 5.0, 15.0, 30.0)
_REST = 4.0  # seconds of rest for a second of making texts


class Publisher:
    """Publishes `view` whenever it is told that it changed."""

    def __init__(
        self,
        view: Published,
        *,
        overlay: Path,
        endpoint: Endpoint | None,
        log: Log,
        metrics: Metrics,
        status: Callable[[], bytes],
        on_change: Callable[[DesiredState], None] | None = None,
    ) -> None:
        self._view = view
        self._overlay = overlay
        self._endpoint = endpoint
        self._log = log
        self._metrics = metrics
        self._status = status
        self._on_change = on_change
        self._changed = asyncio.Event()
        self._settled = asyncio.Event()
        self._events: list[Suspension] = []
        self._text: str | None = None
        self._reported: set[str] = set()
        self.version = 0
        self.failure: Problem | None = None
        """Why the files on disk are not what they should be; None when they are."""

    def changed(self, events: Sequence[Suspension] = ()) -> None:
        """Say that the view changed, and which events brought that about."""
        self._events += self._view.events(events)
        self._settled.clear()
        self._changed.set()

    async def settled(self) -> None:
        """Wait until all that changed before this call is published (or failed to be)."""
        await self._settled.wait()

    async def run(self) -> None:
        """Publish for ever."""
        failures = 0
        while True:
            if self.failure is None:
                await self._changed.wait()
            else:
                seconds = _RETRY_SECONDS[min(failures, len(_RETRY_SECONDS)) - 1]
                await _wait(self._changed, seconds)
            self._changed.clear()
            spent = time.perf_counter()
            snapshot = self.snapshot()
            spent = time.perf_counter() - spent
            await self.write(snapshot)
            failures = 0 if self.failure is None else failures + 1
            if not self._changed.is_set():
                self._settled.set()
            await asyncio.sleep(spent * _REST if spent > 0.002 else 0)

    def snapshot(self) -> Snapshot:
        """The view as it is now, handed to the endpoint with the events since the last."""
        reached("before-publish")
        text = self._view.overlay.text()
        if text != self._text:
            self._text = text
            self.version += 1
            self._metrics.overlay_version.set(self.version)
        self._report_left_out()
        snapshot = self._view.snapshot(version=self.version, status=self._status())
        events, self._events = self._events, []
        if self._endpoint is not None:
            self._endpoint.publish(snapshot, [frame_text(e) for e in events])
        return snapshot

    async def write(self, snapshot: Snapshot) -> None:
        """The files beside each other: the overlay, ``suspended.json``, ``bounced.json``."""
        directory = self._overlay.parent
        try:
            if await write_atomically_async(self._overlay, snapshot.overlay):
                self._metrics.overlay_writes.inc()
            reached("overlay-written")
            await write_atomically_async(directory / "suspended.json", snapshot.suspended)
            await write_atomically_async(directory / "bounced.json", snapshot.bounced)
            if self._on_change is not None:
                # Only now: what kumod is told to read again must be there.
                self._on_change(self._view.desired(self.version))
        except ProblemError as error:
            self._metrics.overlay_failures.inc()
            problem = error.problems[0]
            if self.failure is None or self.failure.message != problem.message:
                self._log.problem(problem)
            self.failure = problem
            return
        if self.failure is not None:
            self._log.info("the overlay can be written again", file=str(self._overlay))
            self.failure = None
        reached("after-publish")

    def _report_left_out(self) -> None:
        overlay = self._view.overlay
        self._reported &= overlay.reserved.keys() | overlay.rejected.keys()
        for name, count in overlay.reserved.items():
            if name not in self._reported:
                self._reported.add(name)
                self._metrics.reserved_names.inc(count)
                self._log.warning(
                    "a recipient's domain is a reserved name: its options are left out",
                    domain=name,
                    entries=count,
                )
        for key, reason in overlay.rejected.items():
            if key not in self._reported:
                self._reported.add(key)
                self._metrics.entries_left_out.inc()
                self._log.warning("an entry is left out of the overlay", reason=reason)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
