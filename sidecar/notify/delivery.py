"""Delivery: keeps at each target until it has taken what waits for it.

In: events with the names of whom to tell, and the targets.  Out: rows of the outbox,
to be committed; attempts.  Each target has a task of its own, so a slow or hanging
one holds up nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

from sidecar.faults import reached

from .event import Event
from .message import Message
from .outbox import Outbox, Rows
from .pace import Step, Waiting, next_step, retry_seconds
from .program import NotSent
from .sending import send
from .targets import LISTED, Target, Targets

Commit = Callable[[Rows], asyncio.Future[None]]
"""Takes rows; the future is done when they, and all before them, are committed."""

Told = Callable[[str, str | None], None]
"""Hears of each attempt: the target, and why it failed (None: it was sent)."""

_NS = 1_000_000_000


@dataclass(slots=True)
class _Moments:
    """What only this run knows of a target: moments, by a clock that nobody sets.

    ``sealing``: done when the message is committed; None: it was, at the start.
    """

    wake: asyncio.Event = field(default_factory=asyncio.Event)
    sealing: asyncio.Future[None] | None = None
    retry_at: float = 0.0
    group_since: float | None = None
    last_sent: float | None = None


class Delivery:
    """The tasks of the targets, and the outbox that they empty.

    ``run`` is one coroutine; :meth:`replace` gives it other targets at any time.
    """

    def __init__(
        self,
        outbox: Outbox,
        targets: Targets,
        *,
        host: str,
        commit: Commit,
        clock: Callable[[], int],
        told: Told = lambda _target, _error: None,
        sender: Callable[[Target, Message], Awaitable[None]] = send,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._outbox = outbox
        self._host = host
        self._commit = commit
        self._clock = clock
        self._told = told
        self._send = sender
        self._now = now
        self._moments: dict[str, _Moments] = {}
        self._replaced = asyncio.Event()
        self.targets = targets

    def begin(self, subject: str, event: Event, names: Iterable[str]) -> Rows:
        """The rows by which it is told that `subject` began; `names`: whom its rule names.

        They are to be committed together with what began.
        """
        by_name = self.targets.by_name
        wanted = {name: by_name[name].listed for name in self.targets.of(names)}
        rows = self._outbox.begin(subject, event, wanted)
        self._wake(wanted)
        return rows

    def end(self, subject: str, event: Event) -> Rows:
        """The rows by which those are told that `subject` ended who were told that it began."""
        told = self._outbox.told.get(subject)
        rows = self._outbox.end(subject, event, self._listed)
        self._wake(() if told is None else told.targets)
        return rows

    def _listed(self, name: str) -> int:
        target = self.targets.by_name.get(name)
        return LISTED if target is None else target.listed

    def _wake(self, names: Iterable[str]) -> None:
        for name in names:
            self._of(name).wake.set()

    def replace(self, targets: Targets) -> tuple[Rows, Mapping[str, int]]:
        """Go on with `targets`; rows to be committed, and what was given up of which target."""
        gone = [name for name in self._outbox.names if name not in targets.by_name]
        given_up = {name: self._outbox[name].count for name in gone}
        rows = Rows()
        for name in gone:
            rows |= self._outbox.forget(name)
            self._moments.pop(name, None)
        self.targets = targets
        self._replaced.set()
        return rows, {name: count for name, count in given_up.items() if count}

    async def run(self) -> None:
        """Deliver for ever."""
        tasks: dict[Target, asyncio.Task[None]] = {}
        try:
            while True:
                self._replaced.clear()
                wanted = set(self.targets.by_name.values())
                await _end(tasks.pop(target) for target in list(tasks) if target not in wanted)
                for target in wanted - tasks.keys():
                    name = f"notify {target.name}"
                    tasks[target] = asyncio.create_task(self._keep_at(target), name=name)
                replaced = asyncio.create_task(self._replaced.wait())
                try:
                    done, _ = await asyncio.wait(
                        [replaced, *tasks.values()], return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    replaced.cancel()
                for task in done - {replaced}:
                    task.result()  # a mistake of ours: let it be seen
        finally:
            await _end(tasks.values())

    async def send_now(self) -> None:
        """Send what waits, for one who is about to end; what is not taken goes on waiting.

        No message waits for others to join it.  Each target is tried until it fails.
        """
        await asyncio.gather(*map(self._send_what_waits, self.targets.by_name.values()))

    async def _send_what_waits(self, target: Target) -> None:
        moments, failures = self._of(target.name), 0
        while not failures and (queue := self._outbox[target.name]).count:
            if queue.message is None:
                rows = self._outbox.seal(target.name, host=self._host)
                moments.sealing = self._commit(rows)
            await self._attempt(target, moments)
            failures = self._outbox[target.name].fate.failures

    async def _keep_at(self, target: Target) -> None:
        moments = self._of(target.name)
        while True:
            step = self._step(target, moments)
            if step.action == "wait":
                await _wait(moments.wake, step.seconds)
                moments.wake.clear()
            elif step.action == "seal":
                rows = self._outbox.seal(target.name, host=self._host)
                moments.sealing = self._commit(rows)
            else:
                await self._attempt(target, moments)

    def _step(self, target: Target, moments: _Moments) -> Step:
        queue, now = self._outbox[target.name], self._now()
        if queue.group is None:
            moments.group_since = None
        elif moments.group_since is None:
            moments.group_since = now
        waiting = Waiting(
            sealed=queue.message is not None,
            retry_at=moments.retry_at,
            group_since=moments.group_since,
            last_sent=moments.last_sent,
        )
        return next_step(waiting, now, wait=target.wait, every=target.every)

    async def _attempt(self, target: Target, moments: _Moments) -> None:
        """Send the message once, and note what came of it."""
        name, message = target.name, self._outbox[target.name].message
        assert message is not None
        if moments.sealing is not None:
            await asyncio.shield(moments.sealing)
        try:
            await self._send(target, message)
        except NotSent as reason:
            self._told(name, str(reason))
            rows = self._outbox.failed(name, str(reason), self._clock())
            failures = self._outbox[name].fate.failures
            moments.retry_at = self._now() + retry_seconds(failures, asked_for=reason.retry_after)
            rows |= self._outbox.drop_older(name, self._clock() - int(target.keep * _NS))
        else:
            reached("notify-sent")
            self._told(name, None)
            rows = self._outbox.sent(name, self._clock())
            moments.retry_at, moments.last_sent = 0.0, self._now()
        # Not waited for: what is not committed yet is sent again after a crash.
        self._commit(rows)
        reached("notify-noted")

    def _of(self, name: str) -> _Moments:
        return self._moments.setdefault(name, _Moments())


async def _wait(wake: asyncio.Event, seconds: float | None) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await wake.wait()


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)
