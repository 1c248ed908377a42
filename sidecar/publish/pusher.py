"""Keeps kumod's suspensions and bounces equal to what is in force.

In: what changed in force.  Out: requests to kumod's admin API, and the ids that it
gave, for the store.  :mod:`sidecar.publish.holds` decides what to tell.

kumod keeps these entries in memory only.  So its lists are read at the start, after
each error and every half minute.  What it forgot is told again.  An entry of
somebody else for the same target (an operator's, shaping.lua's) that lasts as long
as ours is left alone, and only our own are taken back.  What somebody deleted there
stays deleted until a rule strikes anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from sidecar.http_client import Unreachable
from sidecar.publish.admin_api import AdminApi, read_json
from sidecar.publish.holds import (
    PATHS,
    Changes,
    Given,
    Hold,
    HoldKind,
    Listed,
    Target,
    Told,
    Wanted,
    cancelled_key,
    cancelled_target,
    due_at,
    is_deletion,
    is_replaced,
    kind_of,
    marker_domain,
    marker_key,
    read_list,
    replaced_key,
)
from sidecar.publish.link import Link, Refused, failed
from sidecar.publish.obey import Verdict
from sidecar.times import NS

_FAILURES_IN_A_ROW = 3
_KINDS: tuple[HoldKind, ...] = ("ready_q", "bounce", "sched_q")
"""The order in which their lists are read.  The one with the marker is last: if kumod
restarts in between, the marker is missing as well."""

_MARKER_NS = 3650 * 86400 * NS
_MARKER_REASON = (
    "kept by tsa-sidecar to tell a restart of kumod from entries deleted by hand; holds no mail. "
    "Deleted, it has all entries of tsa-sidecar told again"
)
_PIECE = 500  # targets looked at before the event loop has its turn


class Pusher:
    """Tells kumod what is in force, and takes back what is over."""

    name = "push"

    def __init__(
        self,
        link: Link,
        *,
        ids: Mapping[str, str],
        on_ids: Callable[[Mapping[str, str | None]], None],
    ) -> None:
        self._link = link
        self._on_ids = on_ids
        self._changed = asyncio.Event()
        self._wanted = Wanted()
        self._started = False
        self.settled = False
        """Whether kumod has been told everything."""
        # By target: what kumod has, be it ours or another's that serves as well.
        self._told: dict[str, Told] = {}
        # By target, or by the name of a replaced entry: what kumod gave us for it.
        self._given: dict[str, Given] = {}
        # By target: the last strike that an operator's deletion covers.
        self._cancelled: dict[str, int] = {}
        self._marker = (f"tsa-sidecar-{secrets.token_hex(4)}.invalid", "")
        self._recall(ids)
        # By target: what was told since the lists were read, and not answered: kumod may have it.
        self._unanswered: dict[str, list[tuple[Hold, int]]] = {}
        self._refused: dict[str, Hold] = {}
        # Targets to look at, in the order in which they changed, and those to look at later.
        self._dirty: dict[str, None] = dict.fromkeys(self._given)
        self._later: list[tuple[int, str]] = []
        self._pending: set[str] = set()
        self._reconcile_at = float("-inf")

    def _recall(self, ids: Mapping[str, str]) -> None:
        for name, text in ids.items():
            target, domain = cancelled_target(name), marker_domain(name)
            if target is not None:
                self._cancelled[target] = Given.parse(text).strike
            elif domain is not None:
                self._marker = (domain, Given.parse(text).id)
            elif kind_of(name) is not None:
                self._given[name] = Given.parse(text)

    def take(self, changes: Changes) -> None:
        """Note `changes`.  The cost is that of the changes."""
        began, self._started = self._started, True
        touched = self._wanted.take(changes)
        self._look_at(touched)
        self._report_dangerous()
        if touched or not began:
            self.settled = False
            self._changed.set()

    def _look_at(self, keys: Iterable[str]) -> None:
        """Look at `keys` in the next pass; note which of them kumod has yet to be told."""
        now = time.time_ns()
        for key in keys:
            self._dirty[key] = None
            self._note_pending(key, now)
        self._show_pending()

    def _note_pending(self, key: str, now: int) -> None:
        at = self._due(key, now)
        if (at is not None and at <= now) or (at is None and self._is_over(key)):
            self._pending.add(key)
        else:
            self._pending.discard(key)

    def _show_pending(self) -> None:
        self._link.metrics.kumod_pending.set(len(self._pending))

    async def ready(self) -> None:
        """Wait until something changes or is due, or it is time to read kumod's lists."""
        if not self._started:
            await self._changed.wait()
        if self._dirty:
            return
        seconds = self._reconcile_at - time.monotonic()
        if self._later:
            seconds = min(seconds, (self._later[0][0] - time.time_ns()) / NS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def work(self, api: AdminApi) -> None:
        """One pass: read kumod's lists if it is time, tell and take back what is due."""
        self._changed.clear()
        try:
            if time.monotonic() >= self._reconcile_at:
                await self._reconcile(api)
            await self._converge(api)
        except (Unreachable, Refused):
            # An answer may be lost, and its id with it: read the lists before telling again.
            self._reconcile_at = float("-inf")
            raise
        if not self._dirty:
            self.settled = True

    # -- what kumod has -------------------------------------------------------

    async def _reconcile(self, api: AdminApi) -> None:
        """Read from kumod's lists what it has, ours and others'."""
        listed: list[Listed] = []
        for kind in _KINDS:
            listed += await self._list(api, kind)
        now = time.time_ns()
        by_id = {entry.id: entry for entry in listed}
        targets = {entry.hold.target.key for entry in listed}
        same_run = by_id.pop(self._marker[1], None) is not None
        told_before, self._told = self._told, {}
        changes: dict[str, Given | None] = {}
        for key, given in self._given.items():
            entry = by_id.pop(given.id, None)
            if entry is not None:
                # What we said is more exact than what it lists by its own clock.
                self._told[key] = told_before.get(key) or Told(entry.hold, now)
                # Whoever deletes the entry from now on has seen all strikes up to this one.
                strike = self._wanted.last_strike(key)
                if strike != given.strike:
                    self._given[key] = replace(given, strike=strike)
                continue
            changes[key] = None
            listed_otherwise = key in targets
            if not is_replaced(key) and is_deletion(
                given, same_run=same_run, listed=listed_otherwise, now_ns=now
            ):
                changes[cancelled_key(key)] = self._cancel(key, given)
        self._remember(changes)
        for entry in by_id.values():
            self._consider(entry, now)
        self._unanswered.clear()
        if not same_run:
            await self._tell_marker(api)
        await self._look_at_all()
        self._reconcile_at = time.monotonic() + self._link.pace.reconcile

    def _cancel(self, key: str, given: Given) -> Given | None:
        """Note that somebody deleted the entry of target `key`; returns what to keep of that."""
        if not any(h.strike <= given.strike for h in self._wanted.entries(key).values()):
            return None  # nothing in force that it was told for
        self._cancelled[key] = given.strike
        return replace(given, id="cancelled")

    async def _look_at_all(self) -> None:
        """Look at every target, and give the event loop turns."""
        keys = [*self._wanted.targets(), *self._given, *self._cancelled]
        for start in range(0, len(keys), _PIECE):
            self._look_at(keys[start : start + _PIECE])
            await asyncio.sleep(0)

    def _consider(self, entry: Listed, now: int) -> None:
        """Look at an entry that is not known as ours, where we want one."""
        key = entry.hold.target.key
        wanted = self._hold(key)
        strike = self._unanswered_strike(entry.hold)
        if strike is not None:
            # Ours, whether or not it is wanted any more.
            given = Given(entry.id, entry.hold.expires_ns, strike)
            if key in self._given:
                self._remember({replaced_key(entry.hold.target.kind, entry.id): given})
            else:
                self._remember({key: given})
                self._told[key] = Told(entry.hold, now)
            return
        if wanted is None or key in self._given:
            return
        if wanted.is_told(entry.hold):
            # Ours, told in a request whose answer was lost or not stored, or by shaping.lua.
            strike = self._wanted.last_strike(key)
            self._remember({key: Given(entry.id, wanted.expires_ns, strike)})
        if entry.hold.ends_with(wanted) or entry.hold.expires_ns > wanted.expires_ns:
            self._told[key] = Told(wanted, now)

    def _unanswered_strike(self, listed: Hold) -> int | None:
        """The last strike that `listed` was told for, if it is ours and nobody answered that."""
        for hold, strike in self._unanswered.get(listed.target.key, ()):
            if hold.is_told(listed):
                return strike
        return None

    async def _list(self, api: AdminApi, kind: HoldKind) -> list[Listed]:
        answer = await self._link.request(api, "GET", PATHS[kind])
        if answer.status >= 400:
            raise Unreachable(f"GET {PATHS[kind]}: {answer.status} {answer.text}")
        try:
            # In a thread: a list may have a hundred thousand entries.
            return await asyncio.to_thread(
                lambda: read_list(kind, read_json(answer), time.time_ns())
            )
        except ValueError as error:
            raise Unreachable(f"GET {PATHS[kind]}: {error}") from error

    async def _tell_marker(self, api: AdminApi) -> None:
        """Put the marker into kumod: it is gone only when kumod has forgotten everything.

        What kumod has forgotten is forgotten here by now, and is committed no later than
        the marker's id.  So all ids that are kept are as old as the marker, or newer.
        """
        domain, _ = self._marker
        hold = Hold(Target("sched_q", domain=domain), _MARKER_REASON, time.time_ns() + _MARKER_NS)
        answer = await self._link.request(api, "POST", PATHS["sched_q"], hold.request)
        if answer.status >= 400:
            return  # tried again with the next look; until then what is deleted comes back
        entry_id = _id_of(read_json(answer))
        if entry_id is not None:
            self._marker = (domain, entry_id)
            self._on_ids({marker_key(domain): str(Given(entry_id, hold.expires_ns))})

    # -- what it should have --------------------------------------------------

    def _hold(self, key: str) -> Hold | None:
        """The hold that a target should have; None where it is over, or was deleted by hand."""
        return self._wanted.longest(key, after=self._cancelled.get(key, -1))

    def _due(self, key: str, now: int) -> int | None:
        """When kumod is to be told of a target (ns); None: not at all."""
        hold = self._hold(key)
        if hold is None or hold.expires_ns <= now or self._refused.get(key) == hold:
            return None
        return due_at(hold, self._told.get(key))

    def _is_over(self, key: str) -> bool:
        return key in self._given and self._hold(key) is None

    async def _converge(self, api: AdminApi) -> None:
        """Tell what is due and take back what is over, of the targets that changed."""
        now = time.time_ns()
        while self._later and self._later[0][0] <= now:
            self._dirty[heapq.heappop(self._later)[1]] = None
        failures = _Failures()
        for key in [*self._dirty]:
            if self._is_over(key):
                failure = await self._take_back(api, key)
            else:
                failure = await self._tell_if_due(api, key)
            failures.count(failure)
            if failure is None:
                self._pending.discard(key)
                self._show_pending()
        failures.check()

    async def _tell_if_due(self, api: AdminApi, key: str) -> str | None:
        self._dirty.pop(key, None)  # a change from here on puts it back
        self._settle_refusal(key)
        self._settle_cancelled(key)
        hold, now = self._hold(key), time.time_ns()
        at = self._due(key, now)
        if hold is None or at is None:
            return None
        if at > now:
            heapq.heappush(self._later, (at, key))
            return None
        failure = await self._tell(api, key, hold)
        if failure is not None:
            self._dirty[key] = None
        return failure

    async def _tell(self, api: AdminApi, key: str, hold: Hold) -> str | None:
        """POST one.  Returns what went wrong if it may succeed later."""
        kind, strike = hold.target.kind, self._wanted.last_strike(key)
        unanswered = self._unanswered.setdefault(key, [])
        unanswered.append((hold, strike))
        answer = await self._link.request(api, "POST", PATHS[kind], hold.request)
        if failed(answer):
            return f"POST {PATHS[kind]}: {answer.status} {answer.text}"
        if answer.status >= 400:
            unanswered.pop()
            self._refused[key] = hold
            message = f"POST {PATHS[kind]} for {key} is refused: {answer.status} {answer.text}"
            self._link.problems.report("entry", message, who=key)
            return None
        self._not_refused(key)
        entry_id = _id_of(read_json(answer))
        if entry_id is None:
            raise Unreachable(f"POST {PATHS[kind]}: an answer without an id")
        unanswered.pop()
        changes: dict[str, Given | None] = {key: Given(entry_id, hold.expires_ns, strike)}
        old = self._given.get(key)
        if old is not None and kind != "ready_q":
            name = replaced_key(kind, old.id)
            changes[name] = old
            self._dirty[name] = None
        self._told[key] = Told(hold, time.time_ns())
        self._remember(changes)
        return None

    async def _take_back(self, api: AdminApi, key: str) -> str | None:
        """DELETE one.  Returns what went wrong if it may succeed later."""
        self._dirty.pop(key, None)
        kind, told, given = kind_of(key), self._told.get(key), self._given[key]
        ends_ns = given.expires_ns if told is None else told.hold.expires_ns
        if kind is not None and (ends_ns == 0 or ends_ns > time.time_ns()):
            answer = await self._link.request(api, "DELETE", PATHS[kind], {"id": given.id})
            if failed(answer):
                self._dirty[key] = None
                return f"DELETE {PATHS[kind]}: {answer.status} {answer.text}"
            if answer.status >= 400 and answer.status != 404:
                message = f"DELETE {PATHS[kind]} for {key}: {answer.status} {answer.text}"
                self._link.problems.report("take-back", message)
            else:
                self._link.problems.well("take-back")
        self._told.pop(key, None)
        self._remember({key: None})
        self._settle_refusal(key)
        self._settle_cancelled(key)
        if self._hold(key) is not None:
            self._dirty[key] = None  # the rule struck again meanwhile
        return None

    def _settle_cancelled(self, key: str) -> None:
        """Forget a deletion by hand when nothing that it covers is in force any more."""
        strike = self._cancelled.get(key)
        holds = self._wanted.entries(key).values()
        if strike is not None and not any(h.strike <= strike for h in holds):
            del self._cancelled[key]
            self._on_ids({cancelled_key(key): None})

    def _settle_refusal(self, key: str) -> None:
        if not self._wanted.entries(key):
            self._not_refused(key)

    def _not_refused(self, key: str) -> None:
        if self._refused.pop(key, None) is not None:
            self._link.problems.well("entry", who=key)

    def _report_dangerous(self) -> None:
        if not self._wanted.dangerous:
            self._link.problems.well("dangerous")
        for hold in self._wanted.dangerous.values():
            message = (
                f"a {hold.target.kind} entry without a queue or domain would apply to everything "
                f"and is not told: {hold.reason}"
            )
            self._link.problems.report("dangerous", message)

    def _remember(self, changes: Mapping[str, Given | None]) -> None:
        for key, given in changes.items():
            if given is None:
                self._given.pop(key, None)
            elif cancelled_target(key) is None:
                self._given[key] = given
        if changes:
            self._on_ids({k: None if given is None else str(given) for k, given in changes.items()})

    # -- what can be said of it -----------------------------------------------

    def targets(self) -> list[str]:
        """The keys of the targets that something in force holds."""
        return list(self._wanted.targets())

    def verdicts(self, target: str) -> dict[str, Verdict]:
        """Whether kumod holds what each entry of `target` asks for, by the entry's key."""
        entries = self._wanted.entries(target)
        return {entry: self._verdict(target, hold) for entry, hold in entries.items()}

    def _verdict(self, key: str, hold: Hold) -> Verdict:
        if hold.strike <= self._cancelled.get(key, -1):
            return Verdict("cancelled in kumod")
        if key in self._refused:
            return Verdict("not obeyed", why="kumod refuses it: see the log")
        told = self._told.get(key)
        if told is not None:
            return Verdict("in effect", told.at_ns)
        trouble = next(iter(self._link.problems.current), None)
        if trouble is not None:
            return Verdict("not obeyed", why=trouble.message)
        return Verdict("unknown", why="kumod has yet to be told")


def _id_of(document: object) -> str | None:
    """The id in kumod's answer to a POST; None where there is none."""
    entry_id = document.get("id") if isinstance(document, dict) else None
    return entry_id if isinstance(entry_id, str) else None


class _Failures:
    """The failed requests of one pass: after one the pass goes on, after several it ends."""

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
