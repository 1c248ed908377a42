"""Entries in force: what the rules have decided and until when.

In: entries and a time.  Out: which are in force, which have expired, in which
order they were matched.  An entry is a value; :class:`Entries` keeps the ones
in force, finds them by key and gives up the expired ones without scanning.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, ClassVar, Literal, TypeAlias

import msgspec

from sidecar.shaping.amounts import amount, setting
from sidecar.shaping.rules import TomlValue
from sidecar.times import format_rfc3339

from .course import Course, course_from, value_at

Kind = Literal["override", "ready_q", "sched_q", "bounce"]


class _Mark(msgspec.Struct, frozen=True, kw_only=True):
    """``simulated``: the entry is counted and listed, and published nowhere."""

    simulated: bool = False


class _AnyEntry(_Mark, frozen=True):
    """What every entry has.

    ``action_hash`` tells which action of which rule made it (64 hex digits);
    ``site`` is the ready queue's name as the record had it; ``seq`` counts
    matches: of two entries the one matched last has the higher.
    """

    action_hash: str
    site: str
    reason: str
    expires_ns: int
    seq: int


class Probing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a limit that is there for the time after a suspension: whose, and when that ends.

    ``of`` is the suspension's key.  Until ``from_ns`` the ready queue is held, so the limit
    costs nothing; it is published that early since kumod must have it when mail flows again.
    """

    of: str
    from_ns: int


class Override(_AnyEntry, frozen=True):
    """An option set for one (domain, source): a line of the overlay.

    ``mx_rollup``: for the whole site of the domain rather than the domain alone.
    ``course``: the value is no fixed one but goes by it; ``value`` is that of the last
    match, ``baseline`` what holds without us, and where it comes back to.
    ``release``: after so many deliveries without a match it ends; 0: it lasts until its time
    is over.  ``probe``: it is a limit for the time after a suspension.
    """

    kind: ClassVar[Kind] = "override"

    domain: str
    mx_rollup: bool
    source: str
    name: str
    value: TomlValue
    course: Course | None = None
    baseline: TomlValue | None = None
    release: int = 0
    probe: Probing | None = None

    @property
    def is_bounded(self) -> bool:
        """Whether it holds only as far as nothing else is stricter."""
        return self.course is not None or self.probe is not None

    @property
    def key(self) -> str:
        """A rematch of the same rule, action, site, domain and source has the same key.

        A course for a whole site is one, whichever of its domains was refused.  So is a
        limit after a suspension, which may have several options.
        """
        if self.probe is not None:
            return _key(self.kind, self.action_hash, self.site, "", self.source, self.name)
        whole_site = self.course is not None and self.mx_rollup
        domain = "" if whole_site else self.domain
        return _key(self.kind, self.action_hash, self.site, domain, self.source)

    def at(self, now_ns: int) -> Override:
        """The same with the value in force at `now_ns`."""
        if self.course is None:
            return self
        assert self.baseline is not None
        value = setting(self.name, value_at(self.course, now_ns), self.baseline)
        return self if value == self.value else msgspec.structs.replace(self, value=value)


class ReadyQSuspension(_AnyEntry, frozen=True):
    """A ready queue (``site``) held."""

    kind: ClassVar[Kind] = "ready_q"

    source: str

    @property
    def key(self) -> str:
        """A rematch of the same rule, action and ready queue has the same key."""
        return _key(self.kind, self.action_hash, self.site)

    def answer(self) -> dict[str, Any]:
        """As ``suspended.json`` has it."""
        return {
            "rule_hash": self.action_hash,
            "site_name": self.site,
            "reason": self.reason,
            "source": self.source,
            "expires": format_rfc3339(self.expires_ns),
        }


class _SchedQ(_AnyEntry, frozen=True):
    """The scheduled queues of a (campaign, tenant, domain); None: any.

    A suspension always has a tenant, a bounce may be of the whole domain.
    """

    kind: ClassVar[Kind]

    domain: str
    tenant: str | None
    campaign: str | None

    @property
    def key(self) -> str:
        """A rematch of the same rule, action, site and queue has the same key."""
        return _key(self.kind, self.action_hash, self.site, self.domain, self.tenant, self.campaign)

    def answer(self) -> dict[str, Any]:
        """As ``suspended.json`` and ``bounced.json`` have it."""
        return {
            "rule_hash": f"{self.site}-{self.action_hash}",
            "tenant": self.tenant,
            "domain": self.domain,
            "campaign": self.campaign,
            "reason": self.reason,
            "expires": format_rfc3339(self.expires_ns),
        }


class SchedQSuspension(_SchedQ, frozen=True):
    """Scheduled queues held."""

    kind: ClassVar[Kind] = "sched_q"


class SchedQBounce(_SchedQ, frozen=True):
    """Scheduled queues whose mail is bounced."""

    kind: ClassVar[Kind] = "bounce"


Suspension: TypeAlias = ReadyQSuspension | SchedQSuspension | SchedQBounce
Entry: TypeAlias = Override | Suspension

_KINDS: dict[str, type[Override | ReadyQSuspension | SchedQSuspension | SchedQBounce]] = {
    c.kind: c for c in (Override, ReadyQSuspension, SchedQSuspension, SchedQBounce)
}


_FIELDS = {
    kind: tuple(name for name in cls.__struct_fields__ if name != "simulated")
    for kind, cls in _KINDS.items()
}


_PLACE = 512
"""How many characters of names may be remembered, or kept at the price of one place."""


def _key(*parts: str | None) -> str:
    for part in parts:
        if part is not None and len(part) > _PLACE:
            return _made_key(*parts)
    return _short_key(*parts)


def _made_key(*parts: str | None) -> str:
    # json.dumps of the whole takes three times as long.
    return "[" + ",".join(["null" if part is None else _quoted(part) for part in parts]) + "]"


_quoted = json.JSONEncoder(ensure_ascii=True).encode


# Keys are made several times for each match, and matches repeat themselves.
_short_key = lru_cache(maxsize=4096)(_made_key)


def to_payload(entry: Entry) -> str:
    """The entry as JSON text, for the state file; :func:`from_payload` reads it back.

    Only a simulated one says whether it is, only one with a course has that, and so on.
    So an older version reads all others, and leaves out these, of which it does not know
    what to publish.
    """
    fields = {f: getattr(entry, f) for f in _FIELDS[entry.kind]}
    if entry.simulated:
        fields["simulated"] = True
    if isinstance(entry, Override):
        for name in _SELDOM:
            if not fields[name]:
                del fields[name]
            elif name in ("course", "probe"):
                fields[name] = msgspec.to_builtins(fields[name])
    return _compact(fields)


_compact = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


def from_payload(kind: str, payload: str) -> Entry:
    """An entry from the state file or an import.  ValueError says what is wrong with it."""
    cls = _KINDS.get(kind)
    if cls is None:
        raise ValueError(f"unknown kind of entry {kind!r}")
    data = json.loads(payload)
    if not isinstance(data, dict):
        raise ValueError("an entry is a JSON object")
    names = set(_FIELDS[cls.kind])
    if "course" not in data:
        names -= _OF_A_COURSE
    names -= {"release", "probe"} - data.keys()
    if data.keys() - {"simulated"} != names:
        raise ValueError(f"fields {sorted(data.keys() ^ names)} are unknown or missing")
    for name, value in data.items():
        if not _fits(name, value):
            raise ValueError(f"{name}: {value!r} is nothing that it can be")
    if "course" in data:
        amount(data["name"], data["baseline"])
        data["course"] = course_from(data["course"])
    if "probe" in data:
        amount(data["name"], data["value"])
        data["probe"] = _probing_from(data["probe"])
    return cls(**data)


def _probing_from(document: object) -> Probing:
    try:
        return msgspec.convert(document, Probing)
    except msgspec.ValidationError as error:
        raise ValueError(f"probe: {error}") from None


_SELDOM = ("course", "baseline", "release", "probe")
_OF_A_COURSE = {"course", "baseline"}
_OPTIONAL = {"tenant", "campaign"}
_MAX_SEQ = (1 << 62) - 1  # far below SQLite's 64 bits: it is counted on from


def _fits(name: str, value: object) -> bool:
    if name in ("course", "probe"):
        return True  # they are looked at when they are made
    if name in ("value", "baseline"):
        return _is_option_value(value)
    if name in ("mx_rollup", "simulated"):
        return isinstance(value, bool)
    if name in ("expires_ns", "seq", "release"):
        if not isinstance(value, int) or isinstance(value, bool):
            return False
        least = 1 if name == "release" else 0
        return name == "expires_ns" or least <= value <= _MAX_SEQ
    return isinstance(value, str) or (value is None and name in _OPTIONAL)


def _is_option_value(value: object) -> bool:
    if isinstance(value, list):
        return all(map(_is_option_value, value))
    if isinstance(value, dict):
        return all(map(_is_option_value, value.values()))
    # JSON has a null, and Python's has a NaN: TOML has no place for the one, no option
    # for the other.
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def frame(entry: Suspension) -> dict[str, Any]:
    """One ``/subscribe_event_v1`` frame, as sent when the entry comes about."""
    if isinstance(entry, ReadyQSuspension):
        body = entry.answer()
        # Upstream's live frame names the site in the hash, its replay does not.
        body["rule_hash"] = f"{entry.site}-{entry.action_hash}"
        return {"ReadyQSuspension": body}
    if isinstance(entry, SchedQSuspension):
        return {"SchedQSuspension": entry.answer()}
    return {"SchedQBounce": entry.answer()}


def places(key: str) -> int:
    """How many places what has this key takes: one, and more where its names are long.

    A remote side chooses names, and each is kept several times.
    """
    return 1 + len(key) // _PLACE


def _delivered_to(override: Override) -> tuple[str, str]:
    """Where a delivery goes that may end it: to a ready queue, or from a source to a domain."""
    if override.mx_rollup:
        return override.site, ""
    return override.source, override.domain


class Entries:
    """The entries in force, by key.

    Every operation costs what the entries it touches cost, never what all
    that are in force do.
    """

    __slots__ = ("_awaiting", "_by_key", "_heap", "_stale", "places")

    def __init__(self) -> None:
        self.places = 0
        """How many places all of them take: see :func:`places`."""
        self._by_key: dict[str, Entry] = {}
        # Of those that deliveries end, the keys by where these must go.
        self._awaiting: dict[tuple[str, str], set[str]] = {}
        self._heap: list[tuple[int, str]] = []
        self._stale = 0

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._by_key.values())

    def items(self) -> Iterable[tuple[str, Entry]]:
        """Each key with its entry: to make a key anew costs more than to find it."""
        return self._by_key.items()

    def get(self, key: str) -> Entry | None:
        """The entry with that key, if one is in force."""
        return self._by_key.get(key)

    @property
    def await_deliveries(self) -> bool:
        """Whether deliveries may end any of them."""
        return bool(self._awaiting)

    def awaiting(self, site: str, domain: str, source: str) -> list[Override]:
        """Those that a delivery of the ready queue `site`, to `domain` from `source`, may end."""
        places = ((site, ""), (source, domain))
        keys = [key for place in places for key in sorted(self._awaiting.get(place, ()))]
        found = (self._by_key[key] for key in keys)
        return [entry for entry in found if isinstance(entry, Override)]

    def put(self, entry: Entry) -> Entry | None:
        """Take `entry` into force; returns the one that it replaces."""
        key = entry.key
        old = self._by_key.get(key)
        self._by_key[key] = entry
        if isinstance(entry, Override) and (entry.release or self._awaiting):
            self._await(key, old, entry)
        if old is not None:
            if old.expires_ns == entry.expires_ns:
                return old
            self._stale += 1
        else:
            self.places += places(key)
        heapq.heappush(self._heap, (entry.expires_ns, key))
        if self._stale > len(self._by_key) + 64:
            self._rebuild()
        return old

    def remove(self, key: str) -> Entry | None:
        """Take the entry with that key out of force; returns it."""
        entry = self._by_key.pop(key, None)
        if entry is not None:
            self._stale += 1
            self.places -= places(key)
            if self._awaiting:
                self._await(key, entry, None)
        return entry

    def _await(self, key: str, old: Entry | None, new: Entry | None) -> None:
        """Have the entry with that key found by deliveries where `new` is, no more where `old`."""
        if isinstance(old, Override) and old.release:
            keys = self._awaiting.get(_delivered_to(old), set())
            keys.discard(key)
            if not keys:
                self._awaiting.pop(_delivered_to(old), None)
        if isinstance(new, Override) and new.release:
            self._awaiting.setdefault(_delivered_to(new), set()).add(key)

    def expire(self, now_ns: int) -> list[Entry]:
        """Take out and return what has expired by `now_ns`, the earliest first.

        An entry holds up to, not including, its expiry (upstream: ``now >= expires`` ends it).
        """
        gone: list[Entry] = []
        while self._heap and self._heap[0][0] <= now_ns:
            expires_ns, key = heapq.heappop(self._heap)
            entry = self._by_key.get(key)
            if entry is None or entry.expires_ns != expires_ns:
                self._stale -= 1
                continue
            del self._by_key[key]
            self.places -= places(key)
            if self._awaiting:
                self._await(key, entry, None)
            gone.append(entry)
        return gone

    def next_expiry(self) -> int | None:
        """When the next entry expires, or earlier; None when none is in force."""
        return self._heap[0][0] if self._heap else None

    def of_kind(self, kind: Kind, *, simulated: bool = False) -> list[Entry]:
        """All entries of one kind, by expiry, then key: the order they are served in.

        They are those that hold for kumod, or with `simulated` those that are not published.
        """
        found = [e for e in self._by_key.values() if e.kind == kind and e.simulated == simulated]
        found.sort(key=lambda e: (e.expires_ns, e.key))
        return found

    def _rebuild(self) -> None:
        self._heap = [(e.expires_ns, k) for k, e in self._by_key.items()]
        heapq.heapify(self._heap)
        self._stale = 0
