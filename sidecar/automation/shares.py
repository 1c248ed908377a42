"""Shares: how many of the attempts in a window a rule matched (``sidecar.ratio``).

In: the rules in force, attempts, a match.  Out: which windows an attempt counts in, and
whether the matches in a rule's window are more than the share that it asks for.

The windows are those of :mod:`.thresholds`, and are kept, stored and forgotten with them.  They
move on in steps of a sixtieth, so that each holds some sixty counts, whatever comes.  A rule's
matches have a window of their own.  Those of attempts belong to a place, and all rules that
count the same there share them.  Where a window of either kind has no room, the rule does not
strike: a share that is not known is over nothing.

What is dated further ahead of the clock than records may be late is not counted: it would
push out of the windows all that has happened.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Final

import msgspec

from sidecar.log.record import Record
from sidecar.shaping.rules import FEEDBACK, Ratio, Rule

from .address import site_name, tenant_of
from .attempts import Detail, is_attempt
from .thresholds import Thresholds

NOT_ON_TENANTS: Final = frozenset({"SetConfig", "SetDomainConfig", "Suspend"})
"""Actions that hit everybody's mail.  A rule with any other counts each tenant for itself."""


@dataclass(frozen=True, slots=True)
class AttemptWindow:
    """A window of attempts: its key, and how it counts."""

    scope: str
    period: int
    step: int
    deliveries_only: bool


@dataclass(frozen=True, slots=True)
class Share:
    """The two windows of a rule at one place: their keys."""

    ratio: Ratio
    matches: str
    attempts: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How a share stands: matches and attempts in the window."""

    matches: int
    attempts: int

    def is_over(self, ratio: Ratio) -> bool:
        """Whether a rule with this ratio strikes."""
        return self.attempts >= ratio.least and self.measured(ratio) > ratio.over

    def measured(self, ratio: Ratio) -> float:
        """What is compared with ``over``: the share, or the least that it may well be."""
        if self.attempts == 0:
            return 0.0
        share = min(1.0, self.matches / self.attempts)
        return share if ratio.confidence is None else lower_bound(self, ratio.confidence)


def lower_bound(standing: Standing, confidence: float) -> float:
    """The lower end of Wilson's interval for the share, given how many attempts there are.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical
    inference", JASA 22 (1927).
    """
    n = standing.attempts
    share = min(1.0, standing.matches / n)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = share + z * z / (2 * n)
    reach = z * math.sqrt((share * (1 - share) + z * z / (4 * n)) / n)
    return max(0.0, (middle - reach) / (1 + z * z / n))


def counts(ratio: Ratio, record: Record) -> bool:
    """Whether a match of `record` is one of the share's: an attempt itself, or a complaint."""
    return record.type == FEEDBACK if ratio.complaints else is_attempt(record)


def share_of(rule: Rule, record: Record, domain: str) -> Share | None:
    """The windows in which a match of `record` counts, for a recipient at `domain`."""
    ratio = rule.sidecar.ratio
    if ratio is None:
        return None
    kind = _Kind.of(rule, ratio)
    place = kind.place(record.site, domain, tenant_of(record.queue))
    # A rule that stands in two tables is two rules here: each sees a match of its own.
    own = msgspec.json.encode((rule.scope.kind, rule.scope.name)).decode()
    return Share(
        ratio,
        matches=f"{ratio.period} {rule.hash} {own}{place}",
        attempts=kind.scope(place),
    )


def standing(thresholds: Thresholds, share: Share) -> Standing:
    """How many matches and attempts there are up to the newest of them, over the period."""
    first = thresholds.first_of(share.ratio.period, share.matches, share.attempts)
    return Standing(thresholds.since(share.matches, first), thresholds.since(share.attempts, first))


@dataclass(frozen=True, slots=True)
class _Kind:
    """What windows of attempts some rules share."""

    period: int
    step: int
    complaints: bool
    by_domain: bool
    by_tenant: bool

    @classmethod
    def of(cls, rule: Rule, ratio: Ratio) -> _Kind:
        return cls(
            ratio.period,
            ratio.step,
            ratio.complaints,
            by_domain=ratio.complaints or rule.scope.kind == "domain",
            by_tenant=any(action.kind not in NOT_ON_TENANTS for action in rule.actions),
        )

    def place(self, ready_queue: str, domain: str, tenant: str | None) -> str:
        """Where an attempt happens, as text that no name can forge."""
        return msgspec.json.encode(
            (
                None if self.complaints else ready_queue,
                domain if self.by_domain else None,
                tenant if self.by_tenant else None,
            )
        ).decode()

    def scope(self, place: str) -> str:
        """The key of the window of attempts at `place`."""
        return f"{self.period} {'deliveries' if self.complaints else 'attempts'} {place}"


def detail_needed(rules: Iterable[Rule]) -> Detail:
    """What `rules` tell attempts apart by.

    By domain, besides those that count so: rules with ``sidecar.release`` or ``sidecar.probe``
    whose options are a domain's.
    """
    domains = tenants = False
    for rule in rules:
        if rule.sidecar.needs_attempts:
            domains |= rule.scope.kind == "domain" or not rule.rollup
            domains |= any(action.kind == "SetDomainConfig" for action in rule.actions)
        if rule.sidecar.ratio is not None:
            kind = _Kind.of(rule, rule.sidecar.ratio)
            domains |= kind.by_domain
            tenants |= kind.by_tenant
    return Detail(domains, tenants)


@dataclass(slots=True)
class _Wanted:
    """Where attempts of one kind are wanted; only there are they counted."""

    everywhere: bool = False
    sites: set[str] = field(default_factory=set)
    domains: set[str] = field(default_factory=set)

    def add(self, rule: Rule) -> None:
        if rule.scope.kind == "site":
            self.sites.add(rule.scope.name)
        elif rule.scope.kind == "domain":
            self.domains.add(rule.scope.name)
        else:
            self.everywhere = True

    def has(self, site: str, domain: str) -> bool:
        return self.everywhere or site in self.sites or domain in self.domains


class Shares:
    """Which windows an attempt counts in, by the rules of one load."""

    __slots__ = ("_by_domain", "_by_tenant", "_known", "_wanted")

    _KNOWN_MAX: Final = 16384
    _KNOWN_LENGTH: Final = 512

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._wanted: dict[_Kind, _Wanted] = {}
        for rule in rules:
            if rule.sidecar.ratio is not None:
                kind = _Kind.of(rule, rule.sidecar.ratio)
                self._wanted.setdefault(kind, _Wanted()).add(rule)
        kinds = self._wanted
        self._by_tenant = any(kind.by_tenant for kind in kinds)
        self._by_domain = any(k.by_domain or wanted.domains for k, wanted in kinds.items())
        self._known: dict[tuple[str, str, str, str | None], tuple[AttemptWindow, ...]] = {}

    def __bool__(self) -> bool:
        return bool(self._wanted)

    def windows(
        self, ready_queue: str, source: str, domain: str, tenant: str | None
    ) -> tuple[AttemptWindow, ...]:
        """The windows that an attempt there counts in, each once."""
        if not self._by_domain:
            domain = ""
        if not self._by_tenant:
            tenant = None
        key = ready_queue, source, domain, tenant
        found = self._known.get(key)
        if found is None:
            site = site_name(ready_queue, source)
            found = tuple(
                AttemptWindow(
                    kind.scope(kind.place(ready_queue, domain, tenant)),
                    kind.period,
                    kind.step,
                    kind.complaints,
                )
                for kind, wanted in self._wanted.items()
                if wanted.has(site, domain)
            )
            if len(ready_queue) + len(domain) + len(tenant or "") <= self._KNOWN_LENGTH:
                if len(self._known) >= self._KNOWN_MAX:
                    self._known.clear()
                self._known[key] = found
        return found
