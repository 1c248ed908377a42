"""Why a record does what it does: every rule in the order considered, with a verdict.

In: a log line, the rules, the MX of its domain, the automation's state (of the
service, or a fresh one) and a time.  Out: an :class:`Explanation`.  Which rules
match is what the :class:`Matcher` says, what they lead to is what the
:class:`Automation` says, one rule after the other; here is only worked out why
a rule is not among them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from sidecar.automation.address import site_name
from sidecar.automation.attempts import attempts_of
from sidecar.automation.conditions import fits, misfits
from sidecar.automation.decide import LATENESS, Automation, Outcome, threshold_scope
from sidecar.automation.entries import Entry, Override
from sidecar.automation.matching import Candidate, Match
from sidecar.automation.overlay import Overlay
from sidecar.automation.pipeline import Tally, consider
from sidecar.automation.shares import Standing, counts, share_of, standing
from sidecar.fancy.pattern import TIME_LIMIT, Pattern
from sidecar.log.record import LOG_PROTOCOL, Record, decode
from sidecar.service.rules import Rules
from sidecar.shaping.documents import quoted
from sidecar.shaping.load import ProviderBlock, Shaping
from sidecar.shaping.mx import MxAnswer, MxError
from sidecar.shaping.ratio import NEVER_OVER
from sidecar.shaping.rules import FEEDBACK, Ratio, Rule, Scope
from sidecar.shaping.when import NEVER
from sidecar.times import NS, format_rfc3339

from .question import domain_of
from .shown_shares import shown_standing, standing_document
from .text import shown_duration, shown_entry

Verdict = Literal["acts", "waits", "no-effect", "no-match", "internal", "elsewhere"]
"""What a rule does with a record.

``acts``: puts entries into force; ``waits``: matches, below its threshold;
``no-effect``: matches, but nothing comes of it; ``no-match``: none of its
regexes matches; ``internal``: one does, but kumod made the response up itself;
``elsewhere``: the rule is for other records, by its table or by its ``sidecar.when``.
"""

_LEFT_OUT: Final[Mapping[str, str]] = {
    "already_expired": "what it would do is over already: the record's time plus {duration} "
    "is not after {now}",
    "held": "an operator keeps it from striking: `tsa-sidecar holds` shows until when, and why",
    "no_site": "the record names no ready queue to suspend (its MX did not resolve)",
    "no_domain": "the queue's name has no domain",
    "no_tenant": "the queue's name has no tenant, so an action on one does nothing",
    "bad_recipient": "a later recipient is no address: nothing happens for it and those after it",
}
"""Why an outcome is left out, by its name in :class:`Outcome`'s counts."""

_NOT_READ: Final = "sidecar.{} is wrong, so the rule does nothing: `tsa-sidecar check` says why"
"""Of a key without which the rule would strike too often, so that it does not strike at all."""


@dataclass(frozen=True, slots=True)
class Found:
    """The first regex of a rule that matches, and where: characters of the text."""

    pattern: Pattern
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Step:
    """One rule and what becomes of it.

    ``count``: matches in the threshold's period, with this; ``standing``: the same for a
    share, and the attempts.
    """

    rule: Rule
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    found: Found | None = None
    count: int | None = None
    entries: tuple[Entry, ...] = ()
    standing: Standing | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """A record, what is known of it, and every rule in the order considered.

    ``unseen`` says why no rule sees the record at all, ``steps`` is empty then.
    ``domain`` is that of the first recipient, None where there is none.
    """

    record: Record
    domain: str | None
    mx: MxAnswer | MxError | None
    providers: tuple[str, ...]
    now_ns: int
    unseen: str | None = None
    steps: tuple[Step, ...] = ()

    def lasts_ns(self, entry: Entry) -> int:
        """How long an entry lasts, from the record's time on as the automation takes it."""
        return entry.expires_ns - min(self.record.time_ns, self.now_ns + LATENESS * NS)

    def document(self) -> dict[str, Any]:
        """As JSON-able values, in the form of ``explain --json``."""
        record = self.record
        return {
            "response": record.response_line,
            "record": {
                "type": record.type,
                "recipients": list(record.recipients),
                "queue": record.queue,
                "site": record.site,
                "source": record.egress_source,
                "time": format_rfc3339(record.time_ns),
            },
            "now": format_rfc3339(self.now_ns),
            "domain": self.domain,
            "mx": list(self.mx.hosts) if isinstance(self.mx, MxAnswer) else None,
            "mx_error": self.mx.reason if isinstance(self.mx, MxError) else None,
            "site_name": self.mx.site_name if isinstance(self.mx, MxAnswer) else None,
            "providers": list(self.providers),
            "unseen": self.unseen,
            "rules": [_step_document(step, record) for step in self.steps],
        }


def _step_document(step: Step, record: Record) -> dict[str, Any]:
    rule, found = step.rule, step.found
    return {
        "file": rule.file,
        "line": rule.line,
        "where": rule.where,
        "name": rule.sidecar.name or None,
        "simulated": rule.sidecar.simulate,
        "scope": {"kind": rule.scope.kind, "name": rule.scope.name},
        "verdict": step.verdict,
        "reasons": list(step.reasons),
        "regex": None if found is None else found.pattern.source,
        "span": None if found is None else [found.start, found.end],
        "matched": None if found is None else record.response_line[found.start : found.end],
        "threshold": None
        if rule.trigger is None or rule.sidecar.ratio is not None
        else {
            "count": step.count,
            "limit": rule.trigger.limit,
            "period": rule.trigger.period,
            "spec": rule.trigger.spec,
        },
        "duration": rule.duration_ns / 1e9,
        "effects": [
            {"what": shown_entry(entry), "expires": format_rfc3339(entry.expires_ns)}
            for entry in step.entries
        ],
        **(
            {}
            if step.standing is None or rule.sidecar.ratio is None
            else {"ratio": standing_document(step.standing, rule.sidecar.ratio)}
        ),
    }


def explain(
    line: bytes,
    *,
    rules: Rules,
    mx: MxAnswer | MxError | None,
    automation: Automation,
    now_ns: int | None,
) -> Explanation:
    """Say what every rule makes of the record in `line` at `now_ns` (None: at its own time).

    `automation` is changed as the record changes it.  Raises BadLine when
    `line` holds no record.
    """
    record = decode(line)
    now_ns = record.time_ns if now_ns is None else now_ns
    domain = domain_of(record)
    answer = mx if isinstance(mx, MxAnswer) else None
    result = Explanation(
        record=record,
        domain=domain,
        mx=mx,
        providers=() if domain is None else _fitting(rules.shaping, domain, answer),
        now_ns=now_ns,
    )
    skip_types = rules.settings.skip_record_types
    if consider(line, skip_types=skip_types, tally=Tally()) is None:
        return replace(result, unseen=_skipped(record, skip_types))
    try:
        candidate = rules.matcher.candidate(record)
    except ValueError as error:
        return replace(result, unseen=f"{error}, and the rules are chosen by the first recipient")
    if domain is None:
        return replace(result, unseen="the first recipient is postmaster without a domain")
    automation.follow(rules.shaping)
    automation.apply([attempts_of(record)], mx={}, now_ns=now_ns)
    matches = {} if candidate is None else _matches(candidate, answer)
    explainer = _Explainer(rules.shaping, record, domain, mx, automation, now_ns)
    steps = [
        explainer.matched(candidate, match)
        if candidate is not None and (match := matches.get(id(rule))) is not None
        else explainer.passed_over(rule)
        for rule in rules.shaping.all_rules()
    ]
    ignored = [explainer.ignored(rule, reason) for rule, reason in _ignored(rules.shaping)]
    return replace(result, steps=(*steps, *ignored))


def _ignored(shaping: Shaping) -> Iterator[tuple[Rule, str]]:
    """The rules of tables that belong to no site, and so are in no block, with the reason."""
    for table in (table for file in shaping.files for table in file.domains if table.mx_rollup):
        mx = shaping.mx.get(table.name)
        reason = shaping.unresolved.get(table.name)
        if reason is None and mx is not None and mx.is_null:
            reason = "null MX"
        if reason is not None:
            scope = Scope("domain", table.name)
            yield from ((replace(rule, scope=scope), reason) for rule in table.rules)


def _fitting(shaping: Shaping, domain: str, mx: MxAnswer | None) -> tuple[str, ...]:
    return tuple(
        name for name, p in shaping.providers.items() if shaping.provider_matches(p, domain, mx)
    )


def _skipped(record: Record, skip_types: frozenset[str]) -> str:
    if record.type in skip_types:
        return f"records of type {record.type} are skipped (skip_record_types)"
    if record.reception_protocol == LOG_PROTOCOL:
        return f"reception_protocol is {LOG_PROTOCOL}: kumod's own log traffic"
    return "the record has no recipient"


def _matches(candidate: Candidate, mx: MxAnswer | None) -> dict[int, Match]:
    return {id(match.rule): match for match in candidate.matches(mx)}


@dataclass(frozen=True, slots=True)
class _Explainer:
    """Turns rules into steps, for one record."""

    shaping: Shaping
    record: Record
    domain: str
    mx: MxAnswer | MxError | None
    automation: Automation
    now_ns: int

    def matched(self, candidate: Candidate, match: Match) -> Step:
        """A rule that matches: let it alone act on the record, and tell what that did."""
        rule, found = match.rule, _found(match.pattern, self.record.response_line)
        if rule.sidecar.ratio == NEVER_OVER:
            return Step(rule, "no-effect", (_NOT_READ.format("ratio"),), found)
        outcome = self.automation.apply([candidate.alone(match)], mx={}, now_ns=self.now_ns)
        count = stands = None
        share = share_of(rule, self.record, self.domain)
        if share is not None:
            stands = standing(self.automation.thresholds, share)
        elif rule.trigger is not None:
            count = self.automation.thresholds.count(threshold_scope(rule, self.record.site))
        entries = tuple(outcome.entries.values())
        reasons = (*self._left_out(rule, outcome), *_unwritten(entries))
        verdict: Verdict = "acts" if entries else "no-effect"
        if not entries and not reasons:
            if share is not None and stands is not None:
                verdict, reasons = "waits", tuple(self._waits(share.ratio, stands))
            elif rule.trigger is not None:
                verdict, reasons = "waits", (f"threshold {count} of {rule.trigger.spec}",)
        return Step(rule, verdict, reasons, found, count, entries, stands)

    def _waits(self, ratio: Ratio, stands: Standing) -> Iterator[str]:
        """Why a share does not strike."""
        if not counts(ratio, self.record):
            yield (
                f"a share of complaints counts records of type {FEEDBACK} only"
                if ratio.complaints
                else "the record is no attempt (see packaging/doc/rules.md), so no share counts it"
            )
        yield shown_standing(stands, ratio)

    def _left_out(self, rule: Rule, outcome: Outcome) -> Iterator[str]:
        for name, text in _LEFT_OUT.items():
            if outcome.counts[name]:
                yield text.format(
                    duration=shown_duration(rule.duration_ns), now=format_rfc3339(self.now_ns)
                )
        if not rule.actions:
            yield "the rule has no action"

    def passed_over(self, rule: Rule) -> Step:
        """A rule that does not match the record: say why."""
        text = self.record.response_line
        timeouts = sum(p.timeouts for p in rule.regexes)
        found = next((f for p in rule.regexes if (f := _found(p, text)) is not None), None)
        elsewhere = self._elsewhere(rule)
        if elsewhere is not None:
            return Step(rule, "elsewhere", (elsewhere,), found)
        when = rule.sidecar.when
        if found is not None and when == NEVER:
            return Step(rule, "no-effect", (_NOT_READ.format("when"),), found)
        if found is not None and when is not None and not fits(when, self.record):
            return Step(rule, "elsewhere", tuple(misfits(when, self.record)), found)
        if found is not None:
            reason = "kumod made the response up itself, and match_internal is false"
            return Step(rule, "internal", (reason,), found)
        if sum(p.timeouts for p in rule.regexes) > timeouts:
            reason = f"a regex was given up after {TIME_LIMIT:g} s, which counts as no match"
        else:
            reason = "no regex matches" if len(rule.regexes) != 1 else "the regex does not match"
        return Step(rule, "no-match", (reason,))

    def ignored(self, rule: Rule, reason: str) -> Step:
        """A rule whose table is ignored for want of a site."""
        name = quoted(rule.scope.name)
        said = f"the MX of {name} does not resolve ({reason}), so its table is ignored"
        found = (_found(p, self.record.response_line) for p in rule.regexes)
        return Step(rule, "elsewhere", (said,), next((f for f in found if f is not None), None))

    def _elsewhere(self, rule: Rule) -> str | None:
        scope, record = rule.scope, self.record
        if scope.kind == "provider":
            return self._misfit(self.shaping.providers[scope.name])
        if scope.kind == "site":
            here = site_name(record.site, record.egress_source)
            if here == scope.name:
                return None
            return f"other site: the record is of {quoted(here)}" if here else "no site"
        if scope.kind == "domain" and scope.name != self.domain:
            return f"other domain: the record is for {quoted(self.domain)}"
        return None

    def _misfit(self, provider: ProviderBlock) -> str | None:
        """Why the domain does not belong to a provider."""
        mx = self.mx if isinstance(self.mx, MxAnswer) else None
        if self.shaping.provider_matches(provider, self.domain, mx):
            return None
        if not provider.matches:
            return "the provider has no match, so no domain belongs to it"
        if not self.shaping.needs_mx(provider, self.domain):
            return f"no DomainSuffix of the provider fits {quoted(self.domain)}"
        if mx is None:
            reason = self.mx.reason if isinstance(self.mx, MxError) else "not asked for"
            return (
                f"the provider goes by MX, and that of {quoted(self.domain)} is unknown: {reason}"
            )
        strange = [
            host
            for host in mx.hosts
            if not self.shaping.provider_matches(provider, self.domain, replace(mx, hosts=(host,)))
        ]
        return f"MX host {strange[0] if strange else '(none)'} fits no match of the provider"


def _found(pattern: Pattern, text: str) -> Found | None:
    span = pattern.search(text)
    return None if span is None else Found(pattern, *span)


def _unwritten(entries: tuple[Entry, ...]) -> Iterator[str]:
    """Why an override would not stand in the overlay."""
    overlay = Overlay(entry for entry in entries if isinstance(entry, Override))
    overlay.text()
    for name in overlay.reserved:
        yield f"left out of the overlay: a section {quoted(name)} would govern everything"
    for reason in overlay.rejected.values():
        yield f"left out of the overlay: {reason}"
