"""Which rules match a record: everything about a decision that needs no state.

In: the merged rules and a record.  Out: a :class:`Candidate`, the rules whose
text matches, in upstream's order: ``default``, every fitting provider, the
record's site, the recipient's domain.  Whether a provider fits may depend on
the domain's MX: that is asked for only when one of its rules matches the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

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
    """Rules matched together, so that their number costs little."""

    __slots__ = ("_owners", "_patterns", "_remember", "_seen", "_set", "rules")

    _SEEN_LENGTH = 512

    def __init__(self, rules: Iterable[Rule], *, remember: int = 1024) -> None:
        """`remember`: how many texts to know the matches of, each of 512 characters at most."""
        self.rules = tuple(rules)
        flat = [(n, p) for n, rule in enumerate(self.rules) for p in rule.regexes]
        self._owners = [n for n, _ in flat]
        self._patterns = [p for _, p in flat]
        self._set = PatternSet(self._patterns)
        self._remember = remember
        # The last texts and what matches them: servers say the same things over and over.
        # What was given up at the time limit is among them, not to cost as much again.
        self._seen: dict[str, tuple[tuple[int, Match], ...]] = {}

    @property
    def remembered(self) -> int:
        """How many texts it knows the matches of."""
        return len(self._seen)

    def match(self, text: str, *, internal: bool) -> list[tuple[int, Match]]:
        """The rules that match `text`, in order, with their numbers in :attr:`rules`.

        With `internal`, only those that want such texts.
        """
        found = self._seen.get(text)
        if found is None:
            found = tuple(self._match(text))
            if len(text) <= self._SEEN_LENGTH:
                if len(self._seen) >= self._remember:
                    self._seen.clear()
                self._seen[text] = found
        return [(n, match) for n, match in found if not internal or match.rule.match_internal]

    def _match(self, text: str) -> Iterator[tuple[int, Match]]:
        last = -1
        for index in self._set.matching(text):
            owner = self._owners[index]
            if owner != last:
                last = owner
                yield owner, Match(self.rules[owner], self._patterns[index])


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

    def matches(
        self,
        shaping: Shaping,
        mx: MxAnswer | None,
        *,
        known: dict[tuple[str, str], bool] | None = None,
    ) -> Iterator[Match]:
        """All matches in order, given the MX of :attr:`domain` (None: it does not resolve).

        `known`: which (provider, domain) fit, kept by the caller for as long as no MX changes.
        """
        yield from self.default
        for provider, found in self.providers:
            key = provider.name, self.domain
            fits = None if known is None else known.get(key)
            if fits is None:
                fits = shaping.provider_matches(provider, self.domain, mx)
                if known is not None:
                    known[key] = fits
            if fits:
                yield from found
        yield from self.specific


class Matcher:
    """The rules of one load, ready to match records.  A reload makes another."""

    __slots__ = ("_common", "_domains", "_homes", "_mx_needed", "_sites", "shaping")

    _MX_NEEDED_MAX = 4096

    def __init__(self, shaping: Shaping) -> None:
        self.shaping = shaping
        homes: list[tuple[ProviderBlock | None, Rule]] = []
        homes += [(None, rule) for rule in (shaping.default.rules if shaping.default else ())]
        homes += [(block, rule) for block in shaping.providers.values() for rule in block.rules]
        # One list for default and all providers: most records have neither's rules match.
        self._common = RuleList(rule for _, rule in homes)
        self._homes = tuple(block for block, _ in homes)
        self._mx_needed: dict[tuple[str, ...], bool] = {}
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
        common = self._common.match(text, internal=internal)
        specific: list[Match] = []
        for named, name in (
            (self._sites, site_name(record.site, record.egress_source)),
            (self._domains, domain),
        ):
            rules_here = named.get(name)
            if rules_here is not None:
                specific += [match for _, match in rules_here.match(text, internal=internal)]
        if not (common or specific):
            return None
        default: list[Match] = []
        providers: list[tuple[ProviderBlock, tuple[Match, ...]]] = []
        for block, found in groupby(common, key=self._home):
            matches = [match for _, match in found]
            if block is None:
                default += matches
            else:
                providers.append((block, tuple(matches)))
        needs_mx = bool(providers) and self._needs_mx(domain, providers)
        return Candidate(
            record, domain, tuple(default), tuple(providers), tuple(specific), needs_mx
        )

    def _needs_mx(
        self, domain: str, providers: Iterable[tuple[ProviderBlock, tuple[Match, ...]]]
    ) -> bool:
        key = (domain, *(block.name for block, _ in providers))
        found = self._mx_needed.get(key)
        if found is None:
            if len(self._mx_needed) >= self._MX_NEEDED_MAX:
                self._mx_needed.clear()
            found = any(self.shaping.needs_mx(block, domain) for block, _ in providers)
            self._mx_needed[key] = found
        return found

    def _home(self, found: tuple[int, Match]) -> ProviderBlock | None:
        """The provider that a match of the common list belongs to; None for ``default``."""
        return self._homes[found[0]]


def _by_name(rules: Mapping[str, tuple[Rule, ...]]) -> dict[str, RuleList]:
    # There may be thousands of these lists, each with few rules: little is to be saved, much to
    # be kept.
    return {name: RuleList(found, remember=16) for name, found in rules.items() if found}
