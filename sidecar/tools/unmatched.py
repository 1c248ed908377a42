"""Which failing responses no rule matches, by their shape: records in, groups out.

A record counts as failing when its reply code is 400 or more and its text is not
kumod's own ("KumoMTA internal: …").  It is unmatched when no rule in force for its
recipient's domain, site and source matches it; whether the rule has reached its
threshold does not matter here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sidecar.automation.address import recipient_domain, site_name
from sidecar.automation.matching import Candidate, Match, Numbered, RuleList
from sidecar.automation.pipeline import Tally, consider
from sidecar.automation.selection import is_like
from sidecar.log.blocks import Block
from sidecar.log.record import Record
from sidecar.service.mx import resolve_all
from sidecar.service.rules import Rules
from sidecar.shaping.blocks import Shaping
from sidecar.shaping.mx import MxAnswer, Resolver
from sidecar.shaping.rules import Rule
from sidecar.times import format_rfc3339

from .logs import LinesRead
from .shapes import LONGEST, REPLY, group_name, links, shape

GROUPS_MAX: Final = 10_000
"""Shapes kept apart; what comes later in another shape is counted together."""

_NAMES_MAX: Final = 1000
_NAMES_IN_ALL: Final = 100_000
_NAMES_FEW: Final = 8
_NAME_LENGTH: Final = 255
_SAMPLES: Final = 3
_KNOWN_TEXTS: Final = 4096
_KNOWN_LENGTH: Final = 512


@dataclass(slots=True, eq=False)
class Group:
    """The unmatched failures of one shape.

    ``domains``, ``sites``, ``sources``, ``types`` and ``classifications`` (those of kumod's
    bounce classifier) count records, of the first thousand names each, or the first few where
    all groups together have very many.  ``samples`` are the first few different responses, as
    much of each as makes its shape.
    """

    name: str
    shape: str
    first_ns: int
    last_ns: int
    count: int = 0
    domains: Counter[str] = field(default_factory=Counter)
    sites: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    types: Counter[str] = field(default_factory=Counter)
    classifications: Counter[str] = field(default_factory=Counter)
    samples: list[str] = field(default_factory=list)

    def add(self, record: Record, domain: str, text: str, *, most: int = _NAMES_MAX) -> int:
        """Count one of its records; how many names are new.  `most`: how many it may have."""
        self.count += 1
        self.first_ns = min(self.first_ns, record.time_ns)
        self.last_ns = max(self.last_ns, record.time_ns)
        site = site_name(record.site, record.egress_source)
        new = 0
        for counter, name in (
            (self.domains, domain[:_NAME_LENGTH]),
            (self.sites, site[:_NAME_LENGTH]),
            (self.sources, record.egress_source[:_NAME_LENGTH]),
            (self.types, record.type[:_NAME_LENGTH]),
            (self.classifications, record.classification[:_NAME_LENGTH]),
        ):
            if name in counter or len(counter) < most:
                new += name not in counter
                counter[name] += 1
        if len(self.samples) < _SAMPLES and (sample := text[:LONGEST]) not in self.samples:
            self.samples.append(sample)
        return new

    @property
    def codes(self) -> list[str]:
        """The reply code and the enhanced one, which are the same in all of them."""
        found = REPLY.match(self.shape)
        return [] if found is None else found[0].split()

    @property
    def links(self) -> list[str]:
        """What the responses link to: most often the provider's page about them."""
        return list(dict.fromkeys(link for text in self.samples for link in links(text)))

    def document(self, failures: int, elsewhere: Iterable[Rule]) -> dict[str, Any]:
        """As ``unmatched --json`` has it; `failures`: how many there are in all."""
        return {
            "group": self.name,
            "shape": self.shape,
            "count": self.count,
            "share": self.count / failures,
            "first": format_rfc3339(self.first_ns),
            "last": format_rfc3339(self.last_ns),
            "domains": dict(self.domains.most_common()),
            "sites": dict(self.sites.most_common()),
            "sources": dict(self.sources.most_common()),
            "types": dict(self.types.most_common()),
            "codes": self.codes,
            "classifications": {
                name: count for name, count in self.classifications.most_common() if name
            },
            "samples": self.samples,
            "links": self.links,
            "would_match_elsewhere": [_place(rule) for rule in elsewhere],
        }


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which records of a log are looked at: from `since_ns` on, before `until_ns`, for `domain`.

    In `domain`, in small letters, ``*`` stands for anything.
    """

    since_ns: int | None = None
    until_ns: int | None = None
    domain: str | None = None

    def takes(self, record: Record, domain: str) -> bool:
        """Whether it is one of them; `domain` is its recipient's."""
        return (
            (self.since_ns is None or record.time_ns >= self.since_ns)
            and (self.until_ns is None or record.time_ns < self.until_ns)
            and (self.domain is None or is_like(self.domain, domain))
        )


class Survey:
    """The failures of some logs, counted by what becomes of them."""

    def __init__(self, shaping: Shaping) -> None:
        self._shaping = shaping
        self._groups: dict[str, Group] = {}
        self._shapes: dict[tuple[str, str], str] = {}
        self._names = 0  # of all groups
        self._matches: Counter[int] = Counter()  # by id() of the rule
        self._anywhere: RuleList[tuple[Match, ...]] | None = None
        self.lines_read = LinesRead()
        self.failures = 0
        """Failing responses of servers."""
        self.internal = 0
        """Failures whose response is kumod's own."""
        self.unmatched = 0
        """Failing responses that no rule matches."""
        self.further = 0
        """Those of them that came when there were :data:`GROUPS_MAX` shapes already."""
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self.not_wanted = 0
        """Failing responses of servers that were not to be looked at: of another time or domain."""
        self.not_wanted_ns: tuple[int, int] | None = None
        """The times of the first and the last of them."""

    def add(
        self, record: Record, domain: str, candidate: Candidate | None, mx: MxAnswer | None
    ) -> None:
        """Count a record for a recipient of `domain`, with what may match it."""
        matches = () if candidate is None else candidate.matches(mx)
        for match in matches:
            self._matches[id(match.rule)] += 1
        if record.code < 400:
            return
        if record.is_internal:
            self.internal += 1
            return
        self.failures += 1
        time_ns = record.time_ns
        self.first_ns = time_ns if self.first_ns is None else min(self.first_ns, time_ns)
        self.last_ns = time_ns if self.last_ns is None else max(self.last_ns, time_ns)
        if matches:
            return
        self.unmatched += 1
        text = record.response_line
        group = self._group(self._shape(text, record.recipients[0]), time_ns)
        if group is None:
            self.further += 1
        else:
            most = _NAMES_MAX if self._names < _NAMES_IN_ALL else _NAMES_FEW
            self._names += group.add(record, domain, text, most=most)

    async def read(
        self, blocks: AsyncIterator[Block], *, rules: Rules, resolver: Resolver, wanted: Wanted
    ) -> None:
        """Add the records of `blocks` that are `wanted`."""
        async for block in blocks:
            tally = Tally()
            found = []
            for one in records(block, rules, tally):
                if wanted.takes(one[0], one[1]):
                    found.append(one)
                else:
                    self._pass_over(one[0])
            mx = await resolve_all((c for _, _, c in found if c is not None), resolver)
            for record, domain, candidate in found:
                self.add(record, domain, candidate, mx.get(domain))
            self.lines_read.add(block, tally)

    def _pass_over(self, record: Record) -> None:
        if record.code < 400 or record.is_internal:
            return
        self.not_wanted += 1
        at = record.time_ns
        first, last = self.not_wanted_ns or (at, at)
        self.not_wanted_ns = min(first, at), max(last, at)

    def _shape(self, text: str, recipient: str) -> str:
        key = text, recipient
        known = self._shapes.get(key)
        if known is None:
            known = shape(text, recipient)
            if len(text) <= _KNOWN_LENGTH:
                if len(self._shapes) >= _KNOWN_TEXTS:
                    self._shapes.clear()
                self._shapes[key] = known
        return known

    def _group(self, shape: str, time_ns: int) -> Group | None:
        group = self._groups.get(shape)
        if group is None and len(self._groups) < GROUPS_MAX:
            group = self._groups[shape] = Group(group_name(shape), shape, time_ns, time_ns)
        return group

    @property
    def shapes(self) -> int:
        """How many shapes the unmatched ones have."""
        return len(self._groups)

    def groups(self, *, least: int = 1) -> list[Group]:
        """The groups of `least` records or more, the most frequent first."""
        found = (group for group in self._groups.values() if group.count >= least)
        return sorted(found, key=lambda group: (-group.count, group.shape))

    def elsewhere(self, group: Group) -> list[Rule]:
        """The rules of other providers, sites and domains that match a response of the group."""
        if self._anywhere is None:
            self._anywhere = RuleList(self._shaping.all_rules(), arrange=_bare)
        found = self._anywhere.match(group.samples[0], internal=False)
        return [match.rule for match in found]

    def idle_rules(self) -> list[Rule]:
        """The rules that matched nothing of what was looked at."""
        return [rule for rule in self._shaping.all_rules() if not self._matches[id(rule)]]

    def document(self, groups: Sequence[Group]) -> dict[str, Any]:
        """As ``unmatched --json`` prints it."""
        return {
            "lines": self.lines_read.lines,
            "considered": self.lines_read.considered,
            "bad_lines": self.lines_read.bad,
            "files_without_a_record": self.lines_read.no_logs,
            "failures": self.failures,
            "not_wanted": self.not_wanted,
            "internal": self.internal,
            "unmatched": self.unmatched,
            "in_further_shapes": self.further,
            "groups": [group.document(self.failures, self.elsewhere(group)) for group in groups],
            "rules_without_a_match": [_place(rule) for rule in self.idle_rules()],
        }


def records(
    block: Block, rules: Rules, tally: Tally | None = None
) -> Iterator[tuple[Record, str, Candidate | None]]:
    """The records of a block, each with its recipient's domain and what may match it.

    Left out are those that the automation does not see; `tally` counts bad lines.
    """
    tally = Tally() if tally is None else tally
    for line in block.data.split(b"\n"):
        record = consider(line, skip_types=rules.settings.skip_record_types, tally=tally)
        if record is None:
            continue
        try:
            domain = recipient_domain(record.recipients[0])
            candidate = rules.matcher.candidate(record)
        except ValueError:
            continue  # upstream does nothing about such a recipient, either
        if domain is not None:
            yield record, domain, candidate


def _bare(found: Numbered) -> tuple[Match, ...]:
    return tuple(match for _, match in found)


def _place(rule: Rule) -> dict[str, Any]:
    return {
        "file": rule.file,
        "line": rule.line,
        "rule": rule.where,
        "scope": {"kind": rule.scope.kind, "name": rule.scope.name},
    }
