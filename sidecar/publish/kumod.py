"""The third road: telling kumod over its admin API, at once.

In: the desired state, complete each time, from the service.  Out: a bump of the
configuration epoch after each change of the overlay, and in kumod exactly the
suspensions and bounces that are in force.  Ids that kumod gives are handed to
the store.  What to tell is decided in :mod:`sidecar.publish.holds`; this module
keeps at it: two tasks of their own, so that neither tailing nor the other one waits.

kumod keeps these entries in memory only.  So its lists are read at the start,
after any error and every half minute, and what it forgot is told again.
Somebody else's entry for the same queue (an operator's, shaping.lua's) that
lasts at least as long as ours is left alone, and what isn't ours is never taken back.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from sidecar.http_client import Answer, Unreachable
from sidecar.problems import Problem
from sidecar.publish.admin_api import AdminApi, ApiAddress, parse_api_url, read_json
from sidecar.publish.holds import (
    PATHS,
    DesiredState,
    Hold,
    HoldKind,
    Listed,
    Told,
    due_at,
    kind_of,
    longest,
    read_list,
    replaced_key,
)
from sidecar.publish.metrics import Metrics
from sidecar.times import NS

_BUMP_PATH = "/api/admin/bump-config-epoch"
_FAILURES_IN_A_ROW = 3
_KINDS: tuple[HoldKind, ...] = ("ready_q", "sched_q", "bounce")


@dataclass(frozen=True, slots=True)
class Pace:
    """How hard to try, in seconds.

    ``bump``: between two bumps at least.  ``first_retry`` doubles up to
    ``last_retry``, each with jitter.  ``refused``: until a whole API that refused us is asked
    again.  ``reconcile``: between two looks at kumod's lists.  ``answer``: for one exchange.
    """

    bump: float = 1.0
    first_retry: float = 0.25
    last_retry: float = 15.0
    refused: float = 60.0
    reconcile: float = 30.0
    answer: float = 10.0


class Refused(Exception):  # noqa: N818 - an answer, not an error of ours
    """kumod won't have us at all: not trusted, or not its API at this address."""


class KumodClient:
    """One kumod and what it should know.

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
        self._link = _Link(
            parse_api_url(url),
            on_problem=on_problem,
            metrics=metrics if metrics is not None else Metrics.create(),
            pace=pace if pace is not None else Pace(),
        )
        self._bumper = _Bumper(self._link)
        self._pusher = _Pusher(self._link, ids=ids, on_ids=on_ids)
        self._tasks: list[asyncio.Task[None]] = []

    def set_desired(self, desired: DesiredState) -> None:
        """This is what kumod should know now.  Costs nothing; call it from the loop's thread."""
        self._bumper.set_version(desired.overlay_version)
        self._pusher.set_desired(desired)

    def conditions(self) -> list[Problem]:
        """What keeps kumod from being told."""
        return [replace(problem, level="error") for problem in self._link.problems.current]

    @property
    def settled(self) -> bool:
        """Whether kumod has been told everything."""
        return self._bumper.settled and self._pusher.settled

    async def wait_settled(self) -> None:
        """Until kumod has been told everything (``run --once``); use a timeout."""
        await self._bumper.wait_settled()
        await self._pusher.wait_settled()

    async def run(self) -> None:
        """Work until :meth:`close`; raises what neither task was prepared for."""
        self._tasks = [
            asyncio.create_task(self._link.keep_at(self._bumper), name="kumod-bump"),
            asyncio.create_task(self._link.keep_at(self._pusher), name="kumod-push"),
        ]
        try:
            done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await self.close()
        for task in done:
            if not task.cancelled():
                task.result()  # neither ends by itself

    async def close(self) -> None:
        """Stop.  What kumod was told stays in force there until it expires."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Task(Protocol):
    """One of the two things to keep at."""

    name: str

    async def ready(self) -> None:
        """Until there is something to do."""

    async def work(self, api: AdminApi) -> None:
        """Do it.  Raises Unreachable and Refused."""


class _Problems:
    """Each kind of trouble is reported once, until it has been well again."""

    def __init__(self, address: ApiAddress, on_problem: Callable[[Problem], None]) -> None:
        self._shown = address.url
        self._on_problem = on_problem
        # By code: who has it.  One kumod that is down is one trouble, not one a task.
        self._ill: dict[str, set[str]] = {}
        self._current: dict[str, Problem] = {}

    @property
    def current(self) -> tuple[Problem, ...]:
        """The troubles that are not over."""
        return tuple(self._current.values())

    def report(self, code: str, message: str, *, who: str = "") -> None:
        """`who` has this trouble; news if nobody had it."""
        ill = self._ill.setdefault(code, set())
        problem = Problem("warning", f"kumod-{code}", message, where=self._shown)
        if not ill:
            self._on_problem(problem)
        self._current[code] = problem
        ill.add(who)

    def well(self, code: str, *, who: str = "") -> None:
        """`who` doesn't have it any longer."""
        ill = self._ill.get(code, set())
        ill.discard(who)
        if not ill:
            self._current.pop(code, None)


class _Link:
    """The way to one kumod: exchanges, what they say about it, and how often to try."""

    def __init__(
        self,
        address: ApiAddress,
        *,
        on_problem: Callable[[Problem], None],
        metrics: Metrics,
        pace: Pace,
    ) -> None:
        self.metrics = metrics
        self.pace = pace
        self.problems = _Problems(address, on_problem)
        self._address = address

    async def keep_at(self, task: _Task) -> None:
        """Do `task` for ever, over a connection; wait longer and longer while it fails."""
        pause = self.pace.first_retry
        while True:
            await task.ready()
            try:
                async with AdminApi(self._address, seconds=self.pace.answer) as api:
                    await task.work(api)
            except Unreachable as reason:
                self.metrics.kumod_up.set(0)
                message = f"{reason}; tried again until it answers"
                self.problems.report("unreachable", message, who=task.name)
                # Half to the whole of it: those who lost kumod together come back apart.
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
                pause = min(2 * pause, self.pace.last_retry)
            except Refused as reason:
                self.problems.report("refused", str(reason), who=task.name)
                await asyncio.sleep(self.pace.refused)
            else:
                self.metrics.kumod_up.set(1)
                self.problems.well("unreachable", who=task.name)
                self.problems.well("refused", who=task.name)
                pause = self.pace.first_retry

    async def request(
        self, api: AdminApi, method: str, path: str, payload: Mapping[str, object] | None = None
    ) -> Answer:
        """One exchange, counted.  Raises Unreachable and Refused; other 4xx are returned."""
        try:
            answer = await api.request(method, path, payload)
        except Unreachable:
            self.metrics.kumod_requests.labels(method, "unreachable").inc()
            raise
        outcome = "ok" if answer.status < 400 else "refused" if answer.status < 500 else "failed"
        self.metrics.kumod_requests.labels(method, outcome).inc()
        if answer.status in (401, 403):
            raise Refused(
                f"{method} {path} is refused ({answer.status} {answer.text}): add this host to "
                "trusted_hosts of kumod's http listener"
            )
        if answer.status in (404, 405) and method != "DELETE":
            raise Refused(
                f"{method} {path} is unknown there ({answer.status}): "
                "is this kumod's HTTP listener?"
            )
        if answer.status < 200 or 300 <= answer.status < 400:
            raise Unreachable(f"{method} {path}: an unexpected answer, {answer.status}")
        return answer


def _failed(answer: Answer) -> bool:
    """Whether the same request may succeed later."""
    return answer.status >= 500 or answer.status in (408, 425, 429)


class _Bumper:
    """Bumps the configuration epoch: soon after a change, and always after the last one."""

    name = "bump"

    def __init__(self, link: _Link) -> None:
        self._link = link
        self._changed = asyncio.Event()
        self._done = asyncio.Condition()
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

    async def wait_settled(self) -> None:
        async with self._done:
            await self._done.wait_for(lambda: self.settled)

    async def ready(self) -> None:
        """Until there is a change, and it is its turn."""
        if self.settled:
            self._changed.clear()
            await self._changed.wait()
        await asyncio.sleep(self._last + self._link.pace.bump - time.monotonic())

    async def work(self, api: AdminApi) -> None:
        """Bump."""
        self._last = time.monotonic()
        # Taken before the request: a change while it is under way needs another.
        version = self._wanted
        answer = await self._link.request(api, "POST", _BUMP_PATH)
        if _failed(answer):
            raise Unreachable(f"POST {_BUMP_PATH}: {answer.status} {answer.text}")
        if answer.status >= 400:
            message = f"POST {_BUMP_PATH} is refused: {answer.status} {answer.text}"
            self._link.problems.report("bump", message)
        else:
            self._link.problems.well("bump")
        async with self._done:
            self._bumped = version
            self._done.notify_all()


class _Pusher:
    """Makes kumod's suspensions and bounces the wanted ones."""

    name = "push"

    def __init__(
        self,
        link: _Link,
        *,
        ids: Mapping[str, str],
        on_ids: Callable[[Mapping[str, str | None]], None],
    ) -> None:
        self._link = link
        self._ids = {key: entry_id for key, entry_id in ids.items() if kind_of(key) is not None}
        self._on_ids = on_ids
        self._changed = asyncio.Event()
        self._done = asyncio.Condition()
        self._desired: DesiredState | None = None
        self._planned: DesiredState | None = None
        self._wanted: dict[str, Hold] = {}
        # What kumod has: ours, and others' that will do.  By key.
        self._told: dict[str, Told] = {}
        self._refused: dict[str, Hold] = {}
        self._settled = False
        self._reconcile_at = self._next_at = float("-inf")

    @property
    def settled(self) -> bool:
        return self._settled and self._planned is self._desired

    def set_desired(self, desired: DesiredState) -> None:
        old = self._desired
        self._desired = desired
        if old is not None and _same_holds(old, desired):
            if self._planned is old:
                self._planned = desired
            return
        self._settled = False
        self._changed.set()

    async def wait_settled(self) -> None:
        async with self._done:
            await self._done.wait_for(lambda: self.settled)

    async def ready(self) -> None:
        """Until something changes, is due, or kumod's lists are to be looked at."""
        if self._desired is None:
            await self._changed.wait()
        if self._planned is not self._desired:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._next_at - time.monotonic()):
                await self._changed.wait()

    async def work(self, api: AdminApi) -> None:
        """One pass: look at kumod's lists if it is time, tell and take back what is due."""
        try:
            if time.monotonic() >= self._reconcile_at:
                await self._reconcile(api)
            due_ns = await self._converge(api)
        except (Unreachable, Refused):
            # An answer may have been lost with its id: look before telling again.
            self._reconcile_at = self._next_at = float("-inf")
            raise
        self._next_at = self._reconcile_at
        if due_ns is not None:
            seconds = (due_ns - time.time_ns()) / NS
            self._next_at = min(self._next_at, time.monotonic() + seconds)
        if self._planned is self._desired:
            async with self._done:
                self._settled = True
                self._done.notify_all()

    # -- what kumod has -------------------------------------------------------

    async def _reconcile(self, api: AdminApi) -> None:
        """Learn from kumod's lists what it has, ours and others'."""
        self._plan()
        listed: list[Listed] = []
        for kind in _KINDS:
            listed += await self._list(api, kind)
        by_id = {entry.id: entry for entry in listed}
        now = time.time_ns()
        told_before, self._told = self._told, {}
        gone: dict[str, str | None] = {}
        for key, entry_id in self._ids.items():
            entry = by_id.pop(entry_id, None)
            if entry is None:
                gone[key] = None
            else:
                # Rather what we said than what it lists, which passed through two clocks.
                self._told[key] = told_before.get(key) or Told(entry.hold, now)
        self._remember(gone)
        for entry in by_id.values():
            self._consider(entry, now)
        self._reconcile_at = time.monotonic() + self._link.pace.reconcile

    def _consider(self, entry: Listed, now: int) -> None:
        """An entry that isn't known to be ours, where we want one."""
        key = entry.hold.target.key
        wanted = self._wanted.get(key)
        if wanted is None or key in self._ids:
            return
        if entry.hold.same(wanted):
            # Ours, told in a request whose answer was lost or not stored.
            self._remember({key: entry.id})
        if entry.hold.ends_with(wanted) or entry.hold.expires_ns > wanted.expires_ns:
            self._told[key] = Told(Hold(wanted.target, wanted.reason, wanted.expires_ns), now)

    async def _list(self, api: AdminApi, kind: HoldKind) -> list[Listed]:
        answer = await self._link.request(api, "GET", PATHS[kind])
        if answer.status >= 400:
            raise Unreachable(f"GET {PATHS[kind]}: {answer.status} {answer.text}")
        try:
            return read_list(kind, read_json(answer), time.time_ns())
        except ValueError as error:
            raise Unreachable(f"GET {PATHS[kind]}: {error}") from error

    # -- what it should have --------------------------------------------------

    def _plan(self) -> None:
        """Take up the newest desired state."""
        self._changed.clear()
        if self._planned is self._desired or self._desired is None:
            return
        self._planned = self._desired
        self._wanted, dangerous = longest(self._desired, time.time_ns())
        for key in self._refused.keys() - self._wanted.keys():
            self._not_refused(key)
        if not dangerous:
            self._link.problems.well("dangerous")
        for hold in dangerous:
            message = (
                f"a {hold.target.kind} entry without a queue or domain would apply to everything "
                f"and is not told: {hold.reason}"
            )
            self._link.problems.report("dangerous", message)

    async def _converge(self, api: AdminApi) -> int | None:
        """Tell what is due and take back what is over; when the next is due (ns), if any."""
        self._plan()
        now = time.time_ns()
        due: list[tuple[str, Hold]] = []
        later: list[int] = []
        for key, hold in self._wanted.items():
            at = due_at(hold, self._told.get(key)) if hold.expires_ns > now else None
            if at is None or self._refused.get(key) == hold:
                continue
            if at <= now:
                due.append((key, hold))
            else:
                later.append(at)
        failures = _Failures()
        for number, (key, hold) in enumerate(due):
            if self._planned is not self._desired:
                break  # look again at what is wanted before telling more
            self._link.metrics.kumod_pending.set(len(due) - number)
            failures.count(await self._tell(api, key, hold))
        # Including what was replaced just now.  Also in a storm, which may never let all be told.
        for key in [key for key in self._ids if key not in self._wanted]:
            failures.count(await self._take_back(api, key))
        failures.check()
        if self._planned is not self._desired:
            return None
        self._link.metrics.kumod_pending.set(0)
        return min(later, default=None)

    async def _tell(self, api: AdminApi, key: str, hold: Hold) -> str | None:
        """POST one; what went wrong if it failed and may succeed later."""
        kind = hold.target.kind
        answer = await self._link.request(api, "POST", PATHS[kind], hold.request)
        if _failed(answer):
            return f"POST {PATHS[kind]}: {answer.status} {answer.text}"
        if answer.status >= 400:
            self._refused[key] = hold
            message = f"POST {PATHS[kind]} for {key} is refused: {answer.status} {answer.text}"
            self._link.problems.report("entry", message, who=key)
            return None
        self._not_refused(key)
        document = read_json(answer)
        entry_id = document.get("id") if isinstance(document, dict) else None
        if not isinstance(entry_id, str):
            raise Unreachable(f"POST {PATHS[kind]}: an answer without an id")
        changes: dict[str, str | None] = {key: entry_id}
        old_id = self._ids.get(key)
        if old_id is not None and kind != "ready_q":
            changes[replaced_key(kind, old_id)] = old_id
        self._told[key] = Told(hold, time.time_ns())
        self._remember(changes)
        return None

    async def _take_back(self, api: AdminApi, key: str) -> str | None:
        """DELETE one; that kumod doesn't know it is as good."""
        kind, told = kind_of(key), self._told.get(key)
        if kind is not None and (told is None or told.hold.expires_ns > time.time_ns()):
            payload = {"id": self._ids[key]}
            answer = await self._link.request(api, "DELETE", PATHS[kind], payload)
            if _failed(answer):
                return f"DELETE {PATHS[kind]}: {answer.status} {answer.text}"
            if answer.status >= 400 and answer.status != 404:
                message = f"DELETE {PATHS[kind]} for {key}: {answer.status} {answer.text}"
                self._link.problems.report("take-back", message)
            else:
                self._link.problems.well("take-back")
        self._told.pop(key, None)
        self._remember({key: None})
        return None

    def _not_refused(self, key: str) -> None:
        if self._refused.pop(key, None) is not None:
            self._link.problems.well("entry", who=key)

    def _remember(self, changes: Mapping[str, str | None]) -> None:
        for key, entry_id in changes.items():
            if entry_id is None:
                self._ids.pop(key, None)
            else:
                self._ids[key] = entry_id
        if changes:
            self._on_ids(changes)


def _same_holds(a: DesiredState, b: DesiredState) -> bool:
    return (a.ready_q, a.sched_q, a.bounces) == (b.ready_q, b.sched_q, b.bounces)


class _Failures:
    """Failed requests of one pass: one must not keep the others waiting, many mean kumod is ill."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._last: str | None = None

    def count(self, failure: str | None) -> None:
        self._in_a_row = 0 if failure is None else self._in_a_row + 1
        self._last = failure or self._last
        if self._in_a_row >= _FAILURES_IN_A_ROW:
            self.check()

    def check(self) -> None:
        """Raises Unreachable if anything is to be tried again."""
        if self._last is not None:
            raise Unreachable(self._last)
