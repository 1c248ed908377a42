"""Which rules match a record: everything about a decision that needs no state.

In: the merged rules and a record.  Out: a :class:`Candidate`: the rules that match the
record's text, in upstream's order (``default``, every fitting provider, the record's
site, the recipient's domain).  Whether a provider fits may depend on the domain's MX.
It is asked for only when a rule of such a provider matches the text.

Servers repeat themselves.  So the matches of a text, and those of a domain, are
remembered until the rules are loaded anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Final, Generic, TypeAlias, TypeVar

import msgspec

from sidecar.fancy.pattern import Pattern, PatternSet
from sidecar.log.record import Record
from sidecar.shaping.load import ProviderBlock, Shaping
from sidecar.shaping.mx import MxAnswer
from sidecar.shaping.rules import Rule, When

from .address import recipient_domain, site_name
from .conditions import fits
from .shares import NOT_ON_TENANTS, detail_needed


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """A rule that matches a text, and the first of its regexes that does.

    A load of the rules has one object for each regex, so that the object may be a key.
    """

    rule: Rule
    pattern: Pattern
    by_queue: bool
    """Whether what the rule does depends on the record's queue."""
    adjusts: bool
    """Whether what the rule does depends on what is in effect without it."""
    when: When | None
    """What else the rule asks of a record, besides its text."""

    @classmethod
    def of(cls, rule: Rule, pattern: Pattern) -> Match:
        """What `pattern`, one of those of `rule`, finds."""
        return cls(
            rule,
            pattern,
            by_queue=any(action.kind not in NOT_ON_TENANTS for action in rule.actions),
            adjusts=_is_relative(rule),
            when=rule.sidecar.when,
        )


def _is_relative(rule: Rule) -> bool:
    """Whether what `rule` does depends on what is in effect without it."""
    return rule.sidecar.adjust is not None or rule.sidecar.probe is not None


Numbered: TypeAlias = tuple[tuple[int, Match], ...]
"""The rules of a list that match, in order, with their numbers in it."""

_Found = TypeVar("_Found")


class RuleList(Generic[_Found]):
    """Rules that one search matches together: a text costs little more for many than for few."""

    __slots__ = ("_arrange", "_arranged", "_matches", "_remember", "_seen", "_set", "rules")

    _SEEN_LENGTH: Final = 512
    _ARRANGED_MAX: Final = 1024

    def __init__(
        self,
        rules: Iterable[Rule],
        *,
        arrange: Callable[[Numbered], _Found],
        remember: int = 1024,
    ) -> None:
        """`arrange` makes what :meth:`match` returns.

        `remember`: how many texts to know the matches of, each of 512 characters at most.
        """
        self.rules = tuple(rules)
        self._matches = [
            (n, Match.of(rule, pattern))
            for n, rule in enumerate(self.rules)
            for pattern in rule.regexes
        ]
        self._set = PatternSet([match.pattern for _, match in self._matches])
        self._arrange = arrange
        self._remember = remember
        # Searches given up at the time limit are kept, too: again they would cost as much.
        self._seen: dict[str, tuple[_Found, _Found]] = {}
        # The same by the numbers of the patterns: many texts match the same few.
        self._arranged: dict[tuple[int, ...], tuple[_Found, _Found]] = {}

    @property
    def remembered(self) -> int:
        """How many texts it knows the matches of."""
        return len(self._seen)

    def match(self, text: str, *, internal: bool) -> _Found:
        """The rules that match `text`; with `internal`, only those that want such texts."""
        found = self._seen.get(text)
        if found is None:
            patterns = tuple(self._set.matching(text))
            found = self._arranged.get(patterns) or self._learn(patterns)
            if len(text) <= self._SEEN_LENGTH:
                if len(self._seen) >= self._remember:
                    self._seen.clear()
                self._seen[text] = found
        return found[internal]

    def _learn(self, patterns: tuple[int, ...]) -> tuple[_Found, _Found]:
        matches = tuple(self._first_of_each_rule(patterns))
        wanted = tuple(one for one in matches if one[1].rule.match_internal)
        if len(self._arranged) >= self._ARRANGED_MAX:
            self._arranged.clear()
        found = self._arranged[patterns] = self._arrange(matches), self._arrange(wanted)
        return found

    def _first_of_each_rule(self, patterns: tuple[int, ...]) -> Iterator[tuple[int, Match]]:
        last = -1
        for index in patterns:
            one = self._matches[index]
            if one[0] != last:
                last = one[0]
                yield one


@dataclass(frozen=True, slots=True)
class _Fit:
    """Which of some general matches apply to a domain, given its MX."""

    needs_mx: bool
    mx: MxAnswer | None
    matches: tuple[Match, ...]


class GeneralMatches:
    """The matches among the rules of ``default`` and of the providers, whatever the domain.

    :meth:`fitting` tells those that apply to a domain.
    """

    __slots__ = ("_fits", "_number", "default", "providers", "shaping")

    _FITS_MAX: Final = 4096

    def __init__(
        self,
        shaping: Shaping,
        default: tuple[Match, ...] = (),
        providers: tuple[tuple[ProviderBlock, tuple[Match, ...]], ...] = (),
        *,
        number: int = 0,
        fits: dict[tuple[int, str], _Fit] | None = None,
    ) -> None:
        """`fits`: what has been found so far, by `number` and domain; shared within a load."""
        self.shaping = shaping
        self.default = default
        self.providers = providers
        self._number = number
        self._fits = {} if fits is None else fits

    def __bool__(self) -> bool:
        return bool(self.default or self.providers)

    @property
    def adjusts(self) -> bool:
        """Whether some of them depend on what is in effect without them."""
        matches = chain(self.default, *(found for _, found in self.providers))
        return any(match.adjusts for match in matches)

    def needs_mx(self, domain: str) -> bool:
        """Whether it takes the MX of `domain` to tell which providers fit."""
        known = self._fits.get((self._number, domain))
        return (known or self._learn(domain, None)).needs_mx

    def fitting(self, domain: str, mx: MxAnswer | None) -> tuple[Match, ...]:
        """Those that apply to `domain`, given its MX (None: it does not resolve)."""
        known = self._fits.get((self._number, domain))
        if known is None or known.mx is not mx:
            known = self._learn(domain, mx)
        return known.matches

    def _learn(self, domain: str, mx: MxAnswer | None) -> _Fit:
        needs = any(self.shaping.needs_mx(block, domain) for block, _ in self.providers)
        matches = self.default
        for block, found in self.providers:
            if self.shaping.provider_matches(block, domain, mx):
                matches += found
        if len(self._fits) >= self._FITS_MAX:
            self._fits.clear()
        known = self._fits[self._number, domain] = _Fit(needs, mx, matches)
        return known


class _ByProvider:
    """Makes :class:`GeneralMatches` of the rules that match a text."""

    __slots__ = ("_count", "_fits", "_homes", "_shaping")

    def __init__(self, shaping: Shaping, homes: tuple[ProviderBlock | None, ...]) -> None:
        """`homes`: the provider that each rule of the list belongs to; None for ``default``."""
        self._shaping = shaping
        self._homes = homes
        self._fits: dict[tuple[int, str], _Fit] = {}
        self._count = 0

    def __call__(self, found: Numbered) -> GeneralMatches:
        default: tuple[Match, ...] = ()
        providers: list[tuple[ProviderBlock, tuple[Match, ...]]] = []
        for block, group in groupby(found, key=lambda one: self._homes[one[0]]):
            matches = tuple(match for _, match in group)
            if block is None:
                default = matches
            else:
                providers.append((block, matches))
        self._count += 1
        return GeneralMatches(
            self._shaping, default, tuple(providers), number=self._count, fits=self._fits
        )


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """A record with the rules that match its text.

    ``domain`` is that of the first recipient; ``common`` are those of ``default`` and
    the providers, ``specific`` those of the site, then of the domain.
    """

    record: Record
    domain: str
    common: GeneralMatches
    specific: tuple[Match, ...]
    needs_mx: bool
    counted: bool = False
    """Whether the record has been counted as matched: it is a part of one that was."""
    host: str = ""
    """Whose log has the record; "" for this host's own."""
    attempted: bool = False
    """Whether the record has been counted as an attempt, or is by whoever took it apart."""

    def matches(self, mx: MxAnswer | None) -> tuple[Match, ...]:
        """All matches in order, given the MX of :attr:`domain` (None: it does not resolve)."""
        found = self.common.fitting(self.domain, mx) + self.specific
        for match in found:
            if match.when is not None:
                return tuple(m for m in found if m.when is None or fits(m.when, self.record))
        return found

    def parts(self) -> tuple[Candidate | None, Candidate, Candidate | None]:
        """The same in order: what needs no MX, what needs one, what comes behind and needs none."""
        record, domain, common = self.record, self.domain, self.common
        before = after = None
        if common.default:
            default = GeneralMatches(common.shaping, common.default)
            before = Candidate(record, domain, default, (), needs_mx=False, host=self.host)
        counted = before is not None
        if self.specific:
            nothing = GeneralMatches(common.shaping)
            after = Candidate(
                record,
                domain,
                nothing,
                self.specific,
                needs_mx=False,
                counted=counted,
                attempted=counted,
                host=self.host,
            )
            counted = True
        providers = GeneralMatches(common.shaping, (), common.providers)
        waits = Candidate(
            record,
            domain,
            providers,
            (),
            needs_mx=True,
            counted=counted,
            attempted=True,
            host=self.host,
        )
        return before, waits, after

    def most_outcomes(self) -> int:
        """How many outcomes there are if every provider fits."""
        found = (*self.common.default, *chain(*(m for _, m in self.common.providers)))
        rules = (match.rule for match in (*found, *self.specific))
        return sum(len(rule.actions) for rule in rules) * len(self.record.recipients)

    def alone(self, match: Match) -> Candidate:
        """The same record with this match only; it counts as no attempt."""
        nothing = GeneralMatches(self.common.shaping)
        return Candidate(
            self.record, self.domain, nothing, (match,), needs_mx=False, attempted=True
        )


_Specific: TypeAlias = RuleList[tuple[Match, ...]]
"""The rules of one site or of one domain."""


class Matcher:
    """The rules of one load, ready to match records.  A reload makes another."""

    __slots__ = (
        "_any_adjusts",
        "_common",
        "_domains",
        "_places",
        "_sites",
        "detail",
        "needs_attempts",
        "shaping",
    )

    _PLACES_MAX: Final = 4096
    _PLACE_LENGTH: Final = 512

    def __init__(self, shaping: Shaping) -> None:
        self.shaping = shaping
        self._any_adjusts = any(_is_relative(rule) for rule in shaping.all_rules())
        self.needs_attempts = any(rule.sidecar.needs_attempts for rule in shaping.all_rules())
        """Whether some rule has to know what is delivered and refused, besides its matches."""
        self.detail = detail_needed(shaping.all_rules())
        """What these rules tell attempts apart by."""
        homes: list[tuple[ProviderBlock | None, Rule]] = []
        homes += [(None, rule) for rule in (shaping.default.rules if shaping.default else ())]
        homes += [(block, rule) for block in shaping.providers.values() for rule in block.rules]
        # One list for default and all providers: most records match no rule of any of them.
        arrange = _ByProvider(shaping, tuple(block for block, _ in homes))
        self._common = RuleList((rule for _, rule in homes), arrange=arrange)
        self._sites = _by_name({n: b.rules for n, b in shaping.sites.items()})
        self._domains = _by_name({n: b.rules for n, b in shaping.domains.items()})
        self._places: dict[tuple[str, str, str], tuple[_Specific, ...]] = {}

    def candidate(self, record: Record, *, host: str = "") -> Candidate | None:
        """What matches the text of `record`, of the log of `host`; None when nothing does.

        Raises ValueError when the first recipient can't be parsed: upstream
        picks the rules by it, so such a record has no effect.
        """
        domain = recipient_domain(record.recipients[0])
        if domain is None:
            return None
        text, internal = record.response_line, record.is_internal
        common = self._common.match(text, internal=internal)
        specific: tuple[Match, ...] = ()
        for rules in self._rules_of(record.site, record.egress_source, domain):
            specific += rules.match(text, internal=internal)
        if not (common or specific):
            return None
        needs_mx = common.needs_mx(domain) or self._adjusts_by_mx(common, specific, domain)
        return Candidate(record, domain, common, specific, needs_mx, host=host)

    def _adjusts_by_mx(
        self, common: GeneralMatches, specific: tuple[Match, ...], domain: str
    ) -> bool:
        """Whether it takes the MX to tell what is in effect where a rule adjusts it."""
        if not self._any_adjusts:
            return False
        if not (common.adjusts or any(match.adjusts for match in specific)):
            return False
        shaping = self.shaping
        return any(shaping.needs_mx(block, domain) for block in shaping.providers.values())

    def _rules_of(self, ready_queue: str, source: str, domain: str) -> tuple[_Specific, ...]:
        """The rules of the site, then of the domain, where they have some."""
        place = ready_queue, source, domain
        rules = self._places.get(place)
        if rules is None:
            found = self._sites.get(site_name(ready_queue, source)), self._domains.get(domain)
            rules = tuple(one for one in found if one is not None)
            if len(ready_queue) + len(source) <= self._PLACE_LENGTH:
                if len(self._places) >= self._PLACES_MAX:
                    self._places.clear()
                self._places[place] = rules
        return rules


def _by_name(rules: Mapping[str, tuple[Rule, ...]]) -> dict[str, _Specific]:
    # There may be thousands of these lists with few rules each.  To remember many texts in
    # each would save little time and take much memory.
    return {
        name: RuleList(found, arrange=_bare, remember=16) for name, found in rules.items() if found
    }


def _bare(found: Numbered) -> tuple[Match, ...]:
    return tuple(match for _, match in found)
