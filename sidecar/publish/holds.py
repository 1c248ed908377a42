"""Which suspensions and bounces kumod should have, which it has, and what to tell it.

In: what changed in force, what kumod was told, what it lists, and the time.  Out:
the steps that turn the second into the first.  No sockets and no clock: every
rule of the admin API (``tests/data/api``) that the client relies on is here.

- A ready-queue suspension is keyed by the queue's name; of several, kumod keeps
  the one told last.  So of several for one queue only the longest is told.
- Scheduled-queue suspensions and bounces are keyed by their id; some versions of
  kumod replace one with the same (campaign, tenant, domain), others keep both.  So only the
  longest is told here too, and what it replaces is taken back by id.
- One without any domain applies to everything kumod has.  None is ever told.
- What an operator deletes there stays deleted until a rule strikes anew.  What kumod
  forgot in a restart is told again.  A suspension of a domain that cannot exist, the
  marker, tells the two apart: kumod forgets it only when it forgets everything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, KeysView, Mapping
from dataclasses import dataclass, field
from typing import Literal

from sidecar.publish.obey import Setting
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

_ENDING_NS = 5 * NS
"""An entry this close to its end may be gone by itself: kumod's clock is another."""

_EXTEND_EVERY_NS = NS
"""An entry that is merely prolonged, which a storm of matches does all the time, is told
anew no more often than this, unless what was told is about to end."""


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
    """A target, until when, and why; ``strike`` counts matches, as an entry's ``seq`` does."""

    target: Target
    reason: str
    expires_ns: int
    strike: int = 0

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

    def is_told(self, listed: Hold) -> bool:
        """Whether `listed` is this one, told by us or, with the rule's hash, by kumod's own Lua."""
        ours = listed.reason == self.reason or listed.reason.startswith(
            f"{self.reason} (rule_hash="
        )
        return ours and self.ends_with(listed)

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


@dataclass(frozen=True, slots=True)
class Given:
    """What is kept of an entry told: the id that kumod gave, its end, the last strike told of.

    ``expires_ns`` is 0 where an older version kept the id alone.
    """

    id: str
    expires_ns: int = 0
    strike: int = 0

    def __str__(self) -> str:
        return f"{self.id} {self.expires_ns} {self.strike}"

    @classmethod
    def parse(cls, text: str) -> Given:
        """What :meth:`__str__` wrote; the id alone where it is something else."""
        entry_id, *numbers = text.split(" ")
        if len(numbers) != 2 or not all(n.isascii() and n.isdecimal() for n in numbers):
            return cls(entry_id)
        return cls(entry_id, int(numbers[0]), int(numbers[1]))


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed since the last of these.

    ``overlay_version`` changes when the overlay does.  ``holds``: by the key of the
    entry in force that each comes from; None where it is over.  ``settings``: likewise,
    the options that the overlay sets.
    """

    overlay_version: int
    holds: Mapping[str, Hold | None] = field(default_factory=dict)
    settings: Mapping[str, Setting | None] = field(default_factory=dict)


class Wanted:
    """The holds in force, by target.  A change costs that change."""

    def __init__(self) -> None:
        self._target: dict[str, str] = {}  # entry's key → key of its target
        self._holds: dict[str, dict[str, Hold]] = {}  # key of a target → entry's key → hold
        self.dangerous: dict[str, Hold] = {}
        """Those that would apply to everything and must never be told, by entry's key."""

    def take(self, changes: Changes) -> KeysView[str]:
        """Take `changes` in; returns the keys of the targets they concern, in this order."""
        touched: dict[str, None] = {}
        for entry, hold in changes.holds.items():
            self.dangerous.pop(entry, None)
            old = self._target.pop(entry, None)
            if old is not None:
                touched[old] = None
                del self._holds[old][entry]
                if not self._holds[old]:
                    del self._holds[old]
            if hold is not None and hold.target.holds_everything:
                self.dangerous[entry] = hold
            elif hold is not None:
                key = self._target[entry] = hold.target.key
                touched[key] = None
                self._holds.setdefault(key, {})[entry] = hold
        return touched.keys()

    def targets(self) -> Iterable[str]:
        """The keys of all targets."""
        return self._holds.keys()

    def entries(self, key: str) -> Mapping[str, Hold]:
        """The holds on a target, by entry's key."""
        return self._holds.get(key, {})

    def longest(self, key: str, *, after: int = -1) -> Hold | None:
        """Of those on a target that struck after strike `after`, the one that ends last."""
        holds = [h for h in self.entries(key).values() if h.strike > after]
        return max(holds, key=lambda h: h.expires_ns, default=None)

    def last_strike(self, key: str) -> int:
        """The latest strike on a target; 0: none."""
        return max((h.strike for h in self.entries(key).values()), default=0)


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


def is_deletion(given: Given, *, same_run: bool, listed: bool, now_ns: int) -> bool:
    """Whether an entry whose id kumod does not list any more was deleted by somebody.

    Not where kumod has restarted since, nor where the target is held by another
    entry, which replaced it, nor where the entry came to its own end.
    """
    return same_run and not listed and given.expires_ns > now_ns + _ENDING_NS


# -- names of stored ids ------------------------------------------------------


def replaced_key(kind: HoldKind, entry_id: str) -> str:
    """The name under which the id of a replaced entry is stored until it is taken back."""
    return _key("replaced", kind, entry_id)


def cancelled_key(key: str) -> str:
    """The name under which it is stored that an operator deleted the entry of target `key`."""
    return _key("cancelled", key)


def cancelled_target(key: str) -> str | None:
    """The target that a name from :func:`cancelled_key` is about; None: another name."""
    return _second(key, "cancelled")


def marker_key(domain: str) -> str:
    """The name under which the marker's id is stored."""
    return _key("marker", domain)


def marker_domain(key: str) -> str | None:
    """The domain of the marker stored under `key`; None: another name."""
    return _second(key, "marker")


def _second(key: str, first: str) -> str | None:
    try:
        parts = json.loads(key)
    except ValueError:
        return None
    if isinstance(parts, list) and len(parts) == 2 and parts[0] == first:
        return parts[1] if isinstance(parts[1], str) else None
    return None


def is_replaced(key: str) -> bool:
    """Whether `key` is from :func:`replaced_key`."""
    return key.startswith('["replaced",')


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
