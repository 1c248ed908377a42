"""Which rules match a record: everything about a decision that needs no state.

In: the merged rules and a record.  Out: a :class:`Candidate`, the rules whose
text matches, in upstream's order: ``default``, every fitting provider, the
record's site, the recipient's domain.  Whether a provider fits may depend on
the domain's MX: that is asked for only when one of its rules matches the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from sidecar.log.record import Record
from sidecar.shaping.merge import ProviderBlock, Shaping
from sidecar.shaping.mx import MxAnswer
from sidecar.shaping.patterns import Pattern, PatternSet
from sidecar.shaping.rules import Rule

from .address import recipient_domain, site_name


@dataclass(frozen=True, slots=True)
class Match:
    """A rule whose text matched, and the first of its regexes that did."""

    rule: Rule
    pattern: Pattern


class RuleList:
    """The rules of one scope, matched together so that their number costs little."""

    __slots__ = ("_owners", "_patterns", "_set", "rules")

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        flat = [(n, p) for n, rule in enumerate(self.rules) for p in rule.regexes]
        self._owners = [n for n, _ in flat]
        self._patterns = [p for _, p in flat]
        self._set = PatternSet(self._patterns)

    def match(self, text: str, *, internal: bool) -> list[Match]:
        """The rules that match `text`, in order; with `internal`, those that want such texts."""
        found: list[Match] = []
        last = -1
        for index in self._set.matching(text):
            owner = self._owners[index]
            if owner == last:
                continue
            last = owner
            rule = self.rules[owner]
            if internal and not rule.match_internal:
                continue
            found.append(Match(rule, self._patterns[index]))
        return found


@dataclass(frozen=True, slots=True)
class Candidate:
    """A record with the rules that match its text.

    ``domain`` is that of the first recipient; ``providers`` are those with a
    matching rule, of which the fitting ones count.
    """

    record: Record
    domain: str
    default: tuple[Match, ...]
    providers: tuple[tuple[ProviderBlock, tuple[Match, ...]], ...]
    specific: tuple[Match, ...]
    """Of the site, then of the domain."""
    needs_mx: bool

    def matches(self, shaping: Shaping, mx: MxAnswer | None) -> Iterator[Match]:
        """All matches in order, given the MX of :attr:`domain` (None: it does not resolve)."""
        yield from self.default
        for provider, found in self.providers:
            if shaping.provider_matches(provider, self.domain, mx):
                yield from found
        yield from self.specific


class Matcher:
    """The rules of one load, ready to match records.  Immutable: a reload makes another."""

    __slots__ = ("_default", "_domains", "_providers", "_sites", "shaping")

    def __init__(self, shaping: Shaping) -> None:
        self.shaping = shaping
        self._default = RuleList(shaping.default.rules if shaping.default else ())
        self._providers = [
            (block, RuleList(block.rules)) for block in shaping.providers.values() if block.rules
        ]
        self._sites = _by_name({n: b.rules for n, b in shaping.sites.items()})
        self._domains = _by_name({n: b.rules for n, b in shaping.domains.items()})

    def candidate(self, record: Record) -> Candidate | None:
        """What matches the text of `record`; None when nothing does.

        Raises ValueError when the first recipient can't be parsed: upstream
        picks the rules by it, so such a record has no effect.
        """
        domain = recipient_domain(record.recipients[0])
        if domain is None:
            return None
        text, internal = record.response_line, record.is_internal
        default = tuple(self._default.match(text, internal=internal))
        providers = tuple(
            (block, tuple(found))
            for block, rules in self._providers
            if (found := rules.match(text, internal=internal))
        )
        specific: list[Match] = []
        for named, name in (
            (self._sites, site_name(record.site, record.egress_source)),
            (self._domains, domain),
        ):
            rules_here = named.get(name)
            if rules_here is not None:
                specific += rules_here.match(text, internal=internal)
        if not (default or providers or specific):
            return None
        needs_mx = any(self.shaping.needs_mx(block, domain) for block, _ in providers)
        return Candidate(record, domain, default, providers, tuple(specific), needs_mx)


def _by_name(rules: Mapping[str, tuple[Rule, ...]]) -> dict[str, RuleList]:
    return {name: RuleList(found) for name, found in rules.items() if found}
