"""Which suspensions and bounces kumod should have, which it has, and what to tell it.

In: the desired state, what kumod was told, what it lists, and the time.  Out:
the steps that turn the second into the first.  No sockets and no clock: every
rule of the admin API (``tests/data/api``) that the client relies on is here.

- A ready-queue suspension is keyed by the queue's name; of several, kumod keeps
  the one told last.  So of several for one queue only the longest is told.
- Scheduled-queue suspensions and bounces are keyed by their id; some versions of
  kumod replace one with the same (campaign, tenant, domain), others keep both.  So only the
  longest is told here too, and what it replaces is taken back by id.
- One without any domain applies to everything kumod has.  None is ever told.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from sidecar.times import NS, format_rfc3339, parse_rfc3339

HoldKind = Literal["ready_q", "sched_q", "bounce"]

PATHS: Mapping[HoldKind, str] = {
    "ready_q": "/api/admin/suspend-ready-q/v1",
    "sched_q": "/api/admin/suspend/v1",
    "bounce": "/api/admin/bounce/v1",
}
"""Where each kind is listed (GET), told (POST) and taken back (DELETE)."""

_TOLERANCE_NS = NS
"""Expiries this close are the same: kumod keeps a duration and computes the time from it."""

_EXTEND_EVERY_NS = NS
"""An entry that is merely prolonged, which a storm of matches does all the time, is told
anew no more often than this, unless what was told is about to end."""


@dataclass(frozen=True, slots=True)
class ReadyQHold:
    """A ready queue to suspend until ``expires_ns``; ``name`` as the record's ``site``."""

    name: str
    reason: str
    expires_ns: int


@dataclass(frozen=True, slots=True)
class SchedQHold:
    """Scheduled queues to suspend or bounce; a tenant or campaign of None is any."""

    domain: str
    tenant: str | None
    campaign: str | None
    reason: str
    expires_ns: int


@dataclass(frozen=True, slots=True)
class DesiredState:
    """All that kumod should know.  ``overlay_version`` changes when the overlay does."""

    overlay_version: int
    ready_q: tuple[ReadyQHold, ...] = ()
    sched_q: tuple[SchedQHold, ...] = ()
    bounces: tuple[SchedQHold, ...] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """What a hold holds: the criteria that kumod compares."""

    kind: HoldKind
    name: str | None = None
    domain: str | None = None
    tenant: str | None = None
    campaign: str | None = None

    @property
    def key(self) -> str:
        """The name under which the id that kumod gave is stored."""
        if self.kind == "ready_q":
            return _key(self.kind, self.name)
        return _key(self.kind, self.domain, self.tenant, self.campaign)

    @property
    def holds_everything(self) -> bool:
        """Whether kumod would apply it to more than somebody asked for."""
        return not (self.name if self.kind == "ready_q" else self.domain)


@dataclass(frozen=True, slots=True)
class Hold:
    """A target, until when, and why."""

    target: Target
    reason: str
    expires_ns: int

    @property
    def request(self) -> dict[str, object]:
        """The body of the POST; absent fields are left out, since any value would count."""
        t = self.target
        criteria = {"name": t.name, "campaign": t.campaign, "tenant": t.tenant, "domain": t.domain}
        return {
            **{name: value for name, value in criteria.items() if value is not None},
            "reason": self.reason,
            "expires": format_rfc3339(self.expires_ns),
        }

    def same(self, other: Hold) -> bool:
        """Whether kumod need not be told the one when it has the other."""
        return self.reason == other.reason and self.ends_with(other)

    def ends_with(self, other: Hold) -> bool:
        """Whether both end at the same time, as far as kumod's figures can tell."""
        return abs(self.expires_ns - other.expires_ns) <= _TOLERANCE_NS


@dataclass(frozen=True, slots=True)
class Listed:
    """An entry of kumod's own list."""

    id: str
    hold: Hold


@dataclass(frozen=True, slots=True)
class Told:
    """What kumod was told, or is known to have, and when that was."""

    hold: Hold
    at_ns: int


def longest(desired: DesiredState, now_ns: int) -> tuple[dict[str, Hold], list[Hold]]:
    """The holds to tell, by key, one a target; and those that must never be told.

    Expired ones are left out: kumod would take them to no effect.
    """
    wanted: dict[str, Hold] = {}
    dangerous: list[Hold] = []
    for hold in _all(desired):
        if hold.target.holds_everything:
            dangerous.append(hold)
        elif hold.expires_ns > now_ns:
            key = hold.target.key
            known = wanted.get(key)
            if known is None or hold.expires_ns > known.expires_ns:
                wanted[key] = hold
    return wanted, dangerous


def _all(desired: DesiredState) -> Iterable[Hold]:
    for r in desired.ready_q:
        yield Hold(Target("ready_q", name=r.name), r.reason, r.expires_ns)
    kinds: tuple[tuple[HoldKind, tuple[SchedQHold, ...]], ...] = (
        ("sched_q", desired.sched_q),
        ("bounce", desired.bounces),
    )
    for kind, holds in kinds:
        for h in holds:
            target = Target(kind, domain=h.domain, tenant=h.tenant, campaign=h.campaign)
            yield Hold(target, h.reason, h.expires_ns)


def due_at(wanted: Hold, told: Told | None) -> int | None:
    """When to tell kumod of `wanted` (ns; 0: now), None when it knows."""
    if told is None:
        return 0
    if wanted.ends_with(told.hold):
        # A new reason for the same end is not worth a request, least of all a bounce.
        return None
    if wanted.expires_ns < told.hold.expires_ns:
        return 0
    return min(told.at_ns + _EXTEND_EVERY_NS, told.hold.expires_ns - 2 * NS)


# -- names of stored ids ------------------------------------------------------


def replaced_key(kind: HoldKind, entry_id: str) -> str:
    """The name under which the id of a replaced entry is stored until it is taken back."""
    return _key("replaced", kind, entry_id)


def kind_of(key: str) -> HoldKind | None:
    """The kind of entry whose id is stored under `key`; None: not one of our names."""
    try:
        parts = json.loads(key)
        kind = parts[1] if parts[0] == "replaced" else parts[0]
    except (ValueError, TypeError, LookupError):
        return None
    return next((known for known in PATHS if known == kind), None)


def _key(*parts: str | None) -> str:
    return json.dumps(parts, separators=(",", ":"))


# -- kumod's lists ------------------------------------------------------------


def read_list(kind: HoldKind, document: object, now_ns: int) -> list[Listed]:
    """kumod's answer to a GET, at `now_ns`; ValueError when it is not such a list."""
    if not isinstance(document, list):
        raise ValueError("not a list")
    found = []
    for item in document:
        if not isinstance(item, dict) or not isinstance(item.get("id"), str):
            raise ValueError("an entry without an id")
        fields = {n: item.get(n) for n in ("name", "domain", "tenant", "campaign")}
        target = Target(kind, **{n: v for n, v in fields.items() if isinstance(v, str)})
        expires = _expires(item, now_ns)
        found.append(Listed(item["id"], Hold(target, str(item.get("reason", "")), expires)))
    return found


def _expires(item: Mapping[str, object], now_ns: int) -> int:
    """The end of a listed entry: only ready-queue lists name it, the others how long it is."""
    try:
        return parse_rfc3339(str(item["expires"]))
    except (KeyError, ValueError):
        return now_ns + duration_ns(str(item.get("duration", "")))


_UNIT = {
    "ns": 1,
    "us": 1000,
    "µs": 1000,
    "ms": 1_000_000,
    "s": NS,
    "m": 60 * NS,
    "h": 3600 * NS,
    "day": 86400 * NS,
    "month": 2_630_016 * NS,
    "year": 31_557_600 * NS,
}


def duration_ns(text: str) -> int:
    """A duration as kumod prints it: ``1day 4h 59m 59s 994ms 586us 310ns``; 0: not one."""
    total = 0
    for part in text.split():
        m = re.fullmatch(r"([0-9]{1,18})([a-zµ]+)", part)
        if m is None:
            return 0
        unit = _UNIT.get(m[2]) or _UNIT.get(m[2].removesuffix("s"))
        if unit is None:
            return 0
        total += int(m[1]) * unit
    return total
