"""Publishing: the overlay, the JSON files, the listener, kumod's admin API.

In: what has been committed, and the time.  Out: files and answers.  It is one
task.  Changes that come while it writes are published together the next time.
Making the texts takes a fifth of one core at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.automation.decide import Outcome
from sidecar.automation.entries import Suspension
from sidecar.faults import reached
from sidecar.problems import Problem, ProblemError
from sidecar.publish.holds import Changes
from sidecar.publish.metrics import Metrics
from sidecar.publish.overlay_file import write_atomically
from sidecar.publish.snapshot import Snapshot
from sidecar.times import until_tick

from .logging import Log
from .published import Published, frame_text
from .reload import Signature, signature

if TYPE_CHECKING:  # not loaded where nothing listens
    from sidecar.publish.http import Endpoint

_RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)
_LOOK_SECONDS = 5.0
_LOOKS = 12  # looks at size and time only, before the contents are compared
_REST = 4.0  # seconds of rest after each second of making texts
_REST_MAX = 1.0  # the first time takes long, the next ones do not


class Publisher:
    """Publishes `view` when it has changed, and when somebody has changed a file of ours.

    Without an `overlay` it writes no files.
    """

    def __init__(
        self,
        view: Published,
        *,
        overlay: Path | None,
        endpoint: Endpoint | None,
        log: Log,
        metrics: Metrics,
        on_change: Callable[[Changes], None] | None = None,
        look_seconds: float = _LOOK_SECONDS,
    ) -> None:
        self._view = view
        self._overlay = overlay
        self._endpoint = endpoint
        self._log = log
        self._metrics = metrics
        self._on_change = on_change
        self._look_seconds = look_seconds
        self._changed = asyncio.Event()
        self._since: float | None = (
            None  # when the oldest change that is not published yet was committed
        )
        self._events: dict[str, Suspension] = {}  # by key, so no more than there are entries
        self._text: str | None = None
        self._reported: set[str] = set()
        self._written: Signature = {}
        self._written_version = 0
        self._writing: asyncio.Future[tuple[bool, Signature]] | None = None
        self.status = b"{}"
        """The status document, as it goes out with the next snapshot."""
        self.version = 0
        self.failure: Problem | None = None
        """Why the files on disk are not what they should be; None when they are."""

    def publish(self, committed: Outcome, now_ns: int) -> None:
        """Publish `committed` soon, except for what is over at `now_ns`."""
        self._view.commit(committed)
        self._view.expire(now_ns)
        self.changed(
            [
                event
                for event in committed.events
                if event.expires_ns > now_ns and event.key in committed.entries
            ]
        )

    def expire(self, now_ns: int) -> None:
        """Publish soon what has expired, or gone up a step, by `now_ns`."""
        if self._view.expire(now_ns):
            self.changed()

    def add_source(self, source: str) -> None:
        """Note an egress source of this host's: the overlay has its options from now on."""
        if self._view.add_source(source):
            self.changed()

    def next_change(self) -> int | None:
        """A time not later than the next expiry or step of a course; None when there is none."""
        return self._view.next_change()

    def changed(self, events: Sequence[Suspension] = ()) -> None:
        """Note that the view has changed, by these events.

        Of several events of one entry between two snapshots only the last is sent:
        it says all that the others did.
        """
        if self._endpoint is not None:
            for event in self._view.events(events):
                self._events.pop(event.key, None)
                self._events[event.key] = event
        if self._since is None:
            self._since = time.perf_counter()
        self._changed.set()

    async def run(self) -> None:
        """Publish for ever."""
        failures = 0
        while True:
            await self._wait_for_work(failures)
            self._changed.clear()
            began, since = time.perf_counter(), self._since
            self._since = None
            snapshot = self.snapshot()
            spent = time.perf_counter() - began
            await self.write(snapshot)
            self._measure(began, since)
            failures = 0 if self.failure is None else failures + 1
            await asyncio.sleep(min(spent * _REST, _REST_MAX) if spent > 0.002 else 0)

    def _measure(self, began: float, since: float | None) -> None:
        now, metrics = time.perf_counter(), self._metrics
        metrics.publish_seconds.observe(now - began)
        if self.failure is None and since is not None and self._overlay is not None:
            metrics.road_seconds.labels("overlay").observe(now - since)

    async def _wait_for_work(self, failures: int) -> None:
        """Wait until the view changes, a file of ours is changed, or it is time to try again."""
        if failures:
            seconds = _RETRY_SECONDS[min(failures, len(_RETRY_SECONDS)) - 1]
            await _wait(self._changed, seconds)
            return
        for _ in range(_LOOKS):
            if await _wait(self._changed, until_tick(time.monotonic(), self._look_seconds)):
                return
            if signature(self._written) != self._written:
                self._log.warning("somebody changed the overlay: it is written anew")
                return

    def snapshot(self) -> Snapshot:
        """A snapshot of the view.  The listener gets it, with the events since the last one."""
        reached("before-publish")
        text = self._view.overlay.text()
        if text != self._text:
            self._text = text
            self.version += 1
            self._metrics.overlay_version.set(self.version)
        self._report_left_out()
        snapshot = self._view.snapshot(version=self.version, status=self.status)
        events, self._events = self._events, {}
        if self._endpoint is not None:
            self._endpoint.publish(snapshot, [frame_text(e) for e in events.values()])
        return snapshot

    async def put_out(self) -> None:
        """Publish what is in force, and return when it is done."""
        await self.write(self.snapshot())

    async def write(self, snapshot: Snapshot) -> None:
        """Write the files, then tell kumod, which must not hear of a file that is not there yet."""
        try:
            await self._write_files(snapshot)
        except ProblemError as error:
            self._failed(error.problems[0])
        else:
            self._written_version = snapshot.version
            if self.failure is not None:
                self._log.info("the overlay can be written again", file=str(self._overlay))
                self.failure = None
        if self._overlay is not None:
            self._metrics.road_up.labels("overlay").set(self.failure is None)
            self._metrics.road_pending.labels("overlay").set(self.version - self._written_version)
        if self._endpoint is not None:
            self._metrics.road_up.labels("listener").set(1)
        # A file that can't be written holds up the overlay only, not the suspensions.
        changes = self._view.take_changes(self._written_version)
        if self._on_change is not None:
            self._on_change(changes)
        reached("after-publish")

    async def _write_files(self, snapshot: Snapshot) -> None:
        if self._overlay is None:
            return
        # Somebody may have removed the directory since the start.
        with contextlib.suppress(OSError):
            self._overlay.parent.mkdir(parents=True, exist_ok=True)
        for path, data in snapshot.files(self._overlay).items():
            changed = await self._write_file(path, data)
            if path == self._overlay:
                self._metrics.overlay_writes.inc(changed)
                reached("overlay-written")

    async def _write_file(self, path: Path, data: bytes) -> bool:
        # A write that was given up (at the end) goes on in its thread: it must not end after ours.
        while self._writing is not None and not self._writing.done():
            await asyncio.wait([self._writing])
        self._writing = asyncio.ensure_future(asyncio.to_thread(_put, path, data))
        changed, found = await asyncio.shield(self._writing)
        self._written = {**self._written, **found}
        return changed

    def _failed(self, problem: Problem) -> None:
        self._metrics.overlay_failures.inc()
        if self.failure is None or self.failure.message != problem.message:
            self._log.problem(problem)
        self.failure = problem

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


def _put(path: Path, data: bytes) -> tuple[bool, Signature]:
    """Write the file.  Returns whether it changed, and its signature.  Call it in a thread."""
    changed = write_atomically(path, data)
    return changed, signature([str(path)])


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    """Whether `event` is set, or gets set within `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True
