"""The decision: matched records and a time in; entries, events and counts out.

The state of the automation (entries in force, threshold windows, the number of
the last match) lives here and is changed by :meth:`Automation.apply` and
:meth:`Automation.expire` only.  The service, ``replay``, ``explain`` and the
tests drive this same class.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sidecar.log.record import Record
from sidecar.shaping.hashes import action_hash
from sidecar.shaping.merge import Shaping
from sidecar.shaping.mx import MxAnswer
from sidecar.shaping.rules import Action, Rule
from sidecar.times import NS

from .address import QueueName, recipient_domain
from .entries import (
    Entries,
    Entry,
    Override,
    ReadyQSuspension,
    SchedQBounce,
    SchedQSuspension,
    Suspension,
)
from .matching import Candidate, Match
from .thresholds import Thresholds

LATENESS = 3600
"""How many seconds behind the newest record another may come and still find its window whole,
and how many ahead of the present one may be without being held for a wrong clock's."""


@dataclass(slots=True)
class Outcome:
    """What a call changed, for the store and for publishing.

    ``entries``: those put into force, by key; ``dropped``: keys no longer in
    force; ``events``: suspensions and bounces in the order they came about;
    ``counts``: matched records and why outcomes were left out.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    events: list[Suspension] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def put(self, key: str, entry: Entry) -> None:
        """Note that `entry` is in force."""
        self.entries[key] = entry
        self.dropped.discard(key)

    def drop(self, key: str) -> None:
        """Note that the entry is not in force any more."""
        self.entries.pop(key, None)
        self.dropped.add(key)


def threshold_scope(rule: Rule, site: str) -> str:
    """The key of a threshold window: its period, its rule and the ready queue's name."""
    assert rule.trigger is not None
    return f"{rule.trigger.period} {rule.hash} {site}"


def scope_period(scope: str) -> int:
    """The period within a key of :func:`threshold_scope`; ValueError for other text."""
    digits = scope.split(" ", 1)[0]
    if re.fullmatch(r"[1-9][0-9]{0,9}", digits) is None:
        raise ValueError(f"{digits[:20]!r} is no period in seconds")
    return int(digits)


class Automation:
    """The automation's state, and the only code that changes it."""

    __slots__ = ("_hashes", "entries", "newest_ns", "seq", "thresholds")

    def __init__(self) -> None:
        self.entries = Entries()
        self.thresholds = Thresholds()
        self.seq = 0
        """Number of the last match that had an outcome."""
        self.newest_ns = 0
        """Time of the newest record that matched, those of a clock ahead of time left out."""
        self._hashes: dict[tuple[str, int], str] = {}

    def apply(
        self,
        candidates: Iterable[Candidate],
        *,
        shaping: Shaping,
        mx: Mapping[str, MxAnswer],
        now_ns: int,
    ) -> Outcome:
        """Decide what `candidates`, in order, lead to at `now_ns`.

        `mx` holds the MX of every candidate's domain that needs one and resolves.
        """
        outcome = Outcome()
        for candidate in candidates:
            matches = list(candidate.matches(shaping, mx.get(candidate.domain)))
            if not matches:
                continue
            outcome.counts["matched"] += 1
            self._note_time(candidate.record.time_ns, now_ns + LATENESS * NS)
            self._recipients(candidate.record, matches, now_ns, outcome)
        return outcome

    def expire(self, now_ns: int) -> Outcome:
        """End the entries that have expired by `now_ns`."""
        outcome = Outcome()
        for entry in self.entries.expire(now_ns):
            outcome.drop(entry.key)
        return outcome

    def forget_idle_thresholds(self) -> list[str]:
        """Drop windows that can't count any more; returns their scopes."""
        return self.thresholds.forget_idle(self.newest_ns // NS - LATENESS)

    def _note_time(self, time_ns: int, latest_ns: int) -> None:
        if self.newest_ns > latest_ns:  # noted when our own clock was ahead
            self.newest_ns = 0
        if time_ns <= latest_ns:
            self.newest_ns = max(self.newest_ns, time_ns)

    def _recipients(
        self, record: Record, matches: list[Match], now_ns: int, outcome: Outcome
    ) -> None:
        # Upstream picks the rules by the first recipient, then runs them once
        # per recipient, and gives up at one that it can't parse.
        for recipient in record.recipients:
            try:
                domain = recipient_domain(recipient)
            except ValueError:
                outcome.counts["bad_recipient"] += 1
                return
            if domain is None:
                continue
            for match in matches:
                if self._triggered(match.rule, record, now_ns):
                    self._act(match, record, domain, now_ns, outcome)

    def _triggered(self, rule: Rule, record: Record, now_ns: int) -> bool:
        if rule.trigger is None:
            return True
        scope = threshold_scope(rule, record.site)
        count = self.thresholds.record(
            scope, rule.trigger.period, record.time_ns // NS, latest=now_ns // NS + LATENESS
        )
        return count >= rule.trigger.limit

    def _act(
        self, match: Match, record: Record, domain: str, now_ns: int, outcome: Outcome
    ) -> None:
        rule = match.rule
        expires_ns = record.time_ns + rule.duration_ns
        if expires_ns <= now_ns:
            outcome.counts["already_expired"] += 1
            return
        for number, action in enumerate(rule.actions):
            self.seq += 1
            made = _make(
                action,
                action_hash=self._action_hash(rule, number),
                rule=rule,
                record=record,
                domain=domain,
                reason=f"automation rule: {match.pattern.source}",
                expires_ns=expires_ns,
                seq=self.seq,
            )
            if isinstance(made, str):
                outcome.counts[made] += 1
                continue
            self.entries.put(made)
            outcome.put(made.key, made)
            if not isinstance(made, Override):
                outcome.events.append(made)

    def _action_hash(self, rule: Rule, number: int) -> str:
        key = rule.hash, number
        found = self._hashes.get(key)
        if found is None:
            found = self._hashes[key] = action_hash(rule, rule.actions[number])
        return found


def _make(
    action: Action,
    *,
    action_hash: str,
    rule: Rule,
    record: Record,
    domain: str,
    reason: str,
    expires_ns: int,
    seq: int,
) -> Entry | str:
    """The entry that one action makes of a record, or the name of why there is none."""
    if action.kind in ("SetConfig", "SetDomainConfig"):
        assert action.option is not None
        return Override(
            action_hash=action_hash,
            site=record.site,
            reason=reason,
            expires_ns=expires_ns,
            seq=seq,
            domain=domain,
            mx_rollup=rule.rollup and action.kind == "SetConfig",
            source=record.egress_source,
            name=action.option,
            value=action.value,
        )
    if action.kind == "Suspend":
        if not record.site:
            # A record whose MX did not resolve has no ready queue to suspend.
            return "no_site"
        return ReadyQSuspension(
            action_hash=action_hash,
            site=record.site,
            reason=reason,
            expires_ns=expires_ns,
            seq=seq,
            source=record.egress_source,
        )
    queue = QueueName.parse(record.queue)
    if not queue.domain:
        # Without a domain it would hold or bounce everything that kumod has.
        return "no_domain"
    if queue.tenant is None and action.kind != "Bounce":
        return "no_tenant"
    # A plain Bounce takes the record's tenant when it has one: recorded, though
    # the documentation says the whole domain; a bounce can't be undone.
    tenant = f" tenant={queue.tenant}" if queue.tenant is not None else ""
    target = f" domain={queue.domain}"
    campaign = queue.campaign if action.kind.endswith("Campaign") else None
    suffix = f" campaign={campaign}" if campaign is not None else ""
    suspends = action.kind.startswith("Suspend")
    made = SchedQSuspension if suspends else SchedQBounce
    return made(
        action_hash=action_hash,
        site=record.site,
        # The order of the parts is upstream's.
        reason=reason + (tenant + target if suspends else target + tenant) + suffix,
        expires_ns=expires_ns,
        seq=seq,
        domain=queue.domain,
        tenant=queue.tenant,
        campaign=campaign,
    )
