"""What rules would have had in force when: logs in, episodes out.

In: blocks of lines, in the order of time, and one or more sets of rules.  Out: for
each set the episodes it would have led to.  Each record is decided at its own time,
as the running service would have, by the same core.  Deliveries in the log are
counted for the episodes in force where they went.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from sidecar.automation.address import QueueName, site_name
from sidecar.automation.adjusting import share_at
from sidecar.automation.attempts import Attempts, attempts_of, is_attempt
from sidecar.automation.decide import Automation, Outcome
from sidecar.automation.entries import Entry, Override, ReadyQSuspension
from sidecar.automation.episodes import Episode
from sidecar.automation.matching import Candidate
from sidecar.automation.pipeline import Tally, consider
from sidecar.log.blocks import Block
from sidecar.log.record import Record
from sidecar.service.mx import resolve_all
from sidecar.service.rules import Rules
from sidecar.shaping.mx import MxAnswer, Resolver
from sidecar.shaping.rules import TomlValue

Scope = tuple[str, ...]
"""What an episode is about, whichever rule it is by: kind, option, domain or queue, source."""


@dataclass(slots=True)
class Told:
    """One episode: from when until when its entry held, and what mail went there meanwhile.

    ``until_ns`` is when it ends if nothing more comes, perhaps behind the logs' end.
    ``values`` are those it set, in order, without repetition.  ``cuts`` are, of one that
    adjusts itself, the entry after each cut, in order.
    """

    entry: Entry
    rule: str
    began_ns: int
    until_ns: int
    matches: int
    values: list[TomlValue]
    sent: int = 0
    cuts: list[Override] = field(default_factory=list)

    @property
    def scope(self) -> Scope:
        """What it is about."""
        return scope_of(self.entry)

    @property
    def seconds(self) -> float:
        """How long it lasted."""
        return (self.until_ns - self.began_ns) / 1e9

    def share_at(self, at_ns: int) -> float:
        """How much of what holds without us it let through then; 0 of what has no measure."""
        at = bisect_right(self.cuts, at_ns, key=_cut_ns) - 1
        return share_at(self.cuts[max(at, 0)], at_ns) if self.cuts else 0.0


def _cut_ns(entry: Override) -> int:
    return 0 if entry.course is None else entry.course.cut_ns


def scope_of(entry: Entry) -> Scope:
    """What `entry` is about."""
    if isinstance(entry, Override):
        where = site_name(entry.site, entry.source) if entry.mx_rollup else entry.domain
        return entry.kind, entry.name, where, entry.source
    if isinstance(entry, ReadyQSuspension):
        return entry.kind, "", entry.site, entry.source
    return entry.kind, entry.tenant or "", entry.domain, entry.campaign or ""


@dataclass(slots=True)
class Hindsight:
    """One set of rules, and what they would have done so far."""

    rules: Rules
    automation: Automation = field(default_factory=Automation)
    told: list[Told] = field(default_factory=list)
    matched: int = 0
    _open: dict[str, Told] = field(default_factory=dict)
    _by_place: dict[tuple[str, str], set[str]] = field(default_factory=dict)

    def expire(self, now_ns: int) -> None:
        """Have what is over by then end."""
        self._take(self.automation.expire(now_ns))

    def decide(self, candidate: Candidate, mx: MxAnswer | None, now_ns: int) -> None:
        """Decide one record."""
        answers = {} if mx is None else {candidate.domain: mx}
        self._apply(candidate, answers, now_ns)

    def attempt(self, record: Record, now_ns: int) -> None:
        """Count one record that no rule matches."""
        self.automation.follow(self.rules.shaping)
        self._apply(attempts_of(record), {}, now_ns)

    def _apply(self, one: Candidate | Attempts, answers: dict[str, MxAnswer], now_ns: int) -> None:
        outcome = self.automation.apply((one,), mx=answers, now_ns=now_ns)
        self.matched += outcome.counts["matched"]
        self._take(outcome)

    def _take(self, outcome: Outcome) -> None:
        for ended in outcome.ended:
            told = self._open.pop(ended.entry.key)
            told.until_ns = ended.at_ns
            self._by_place[_place(told.entry)].discard(told.entry.key)
        for key, entry in outcome.entries.items():
            story = outcome.episodes[key]
            told = self._open.get(key) or self._begin(key, entry, story)
            told.entry, told.matches, told.until_ns = entry, story.matches, entry.expires_ns
            if isinstance(entry, Override) and told.values[-1:] != [entry.value]:
                told.values.append(entry.value)
            if isinstance(entry, Override) and entry.course is not None:
                if told.cuts and _cut_ns(told.cuts[-1]) == _cut_ns(entry):
                    told.cuts.pop()  # a match that cut nothing only puts off the way back
                told.cuts.append(entry)

    def _begin(self, key: str, entry: Entry, story: Episode) -> Told:
        began_ns = story.began_ns
        if isinstance(entry, Override) and entry.probe is not None:
            began_ns = entry.probe.from_ns  # it is of no effect before
        told = Told(entry, story.label, began_ns, entry.expires_ns, 0, [])
        self._open[key] = told
        self._by_place.setdefault(_place(entry), set()).add(key)
        self.told.append(told)
        return told

    def deliver(self, record: Record) -> None:
        """Count a delivery for what is in force where it went."""
        queue = QueueName.parse(record.queue)
        site = site_name(record.site, record.egress_source)
        for place in (("ready", record.site), ("site", site), ("domain", queue.domain)):
            for key in self._by_place.get(place, ()):
                told = self._open[key]
                told.sent += _covers(told.entry, record, queue)


def _place(entry: Entry) -> tuple[str, str]:
    """Where to look for what covers a record."""
    if isinstance(entry, ReadyQSuspension):
        return "ready", entry.site
    if isinstance(entry, Override) and entry.mx_rollup:
        return "site", site_name(entry.site, entry.source)
    return "domain", entry.domain


def _covers(entry: Entry, record: Record, queue: QueueName) -> bool:
    if isinstance(entry, ReadyQSuspension):
        return True
    if isinstance(entry, Override):
        return entry.source == record.egress_source
    return entry.tenant in (None, queue.tenant) and entry.campaign in (None, queue.campaign)


@dataclass(slots=True)
class Read:
    """What was read: lines, records that rules see, deliveries, the first and last moment."""

    lines: int = 0
    considered: int = 0
    bad: int = 0
    deliveries: int = 0
    first_ns: int | None = None
    last_ns: int | None = None


async def look_back(
    blocks: AsyncIterator[Block], *sides: Hindsight, resolver: Resolver, count_deliveries: bool
) -> Read:
    """Have each of `sides` decide everything in `blocks`; what was read.

    With `count_deliveries`, and where a rule needs attempts, every line is decoded, else only
    those that a rule may match.
    """
    read, now_ns = Read(), 0
    counts_attempts = any(side.rules.matcher.needs_attempts for side in sides)
    async for block in blocks:
        tally = Tally()
        everything = [
            (record, [_candidate(side, record) for side in sides])
            for record in _records(
                block, sides, tally, everything=count_deliveries or counts_attempts
            )
        ]
        found = (c for _, candidates in everything for c in candidates if c is not None)
        mx = await resolve_all(found, resolver)
        for record, candidates in everything:
            now_ns = max(now_ns, record.time_ns)
            delivery = count_deliveries and record.type == "Delivery"
            read.deliveries += delivery
            for side, candidate in zip(sides, candidates, strict=True):
                attempt = side.rules.matcher.needs_attempts and is_attempt(record)
                if candidate is None and not delivery and not attempt:
                    continue
                side.expire(now_ns)
                if candidate is not None:
                    side.decide(candidate, mx.get(candidate.domain), now_ns)
                elif attempt:
                    side.attempt(record, now_ns)
                if delivery:
                    side.deliver(record)
        read.lines += block.lines
        read.considered += tally.considered
        read.bad += tally.bad + block.bad_lines
        times = [record.time_ns for record, _ in everything]
        if times:
            read.first_ns = min(times) if read.first_ns is None else min(read.first_ns, *times)
            read.last_ns = max(times) if read.last_ns is None else max(read.last_ns, *times)
    return read


def _records(
    block: Block, sides: tuple[Hindsight, ...], tally: Tally, *, everything: bool
) -> Iterator[Record]:
    skipped = sides[0].rules.settings.skip_record_types
    if everything or len(sides) > 1:
        lines = iter(block.data.split(b"\n"))
    else:
        lines = iter(sides[0].rules.prefilter.wanted(block.data))
    for line in lines:
        record = consider(line, skip_types=skipped, tally=tally)
        if record is not None:
            yield record


def _candidate(side: Hindsight, record: Record) -> Candidate | None:
    try:
        return side.rules.matcher.candidate(record)
    except ValueError:
        return None  # its recipient is no address: upstream does nothing about it, either


# Two sides compared.


@dataclass(frozen=True, slots=True)
class Pair:
    """An episode before and after the change; None where there is none."""

    before: Told | None
    after: Told | None

    @property
    def verdict(self) -> str:
        """``new``, ``gone``, ``other value``, ``longer``, ``shorter`` or ``same``."""
        if self.before is None:
            return "new"
        if self.after is None:
            return "gone"
        if self.before.values != self.after.values:
            return "other value"
        if self.before.seconds == self.after.seconds:
            return "same"
        return "longer" if self.after.seconds > self.before.seconds else "shorter"


VERDICTS = ("new", "gone", "longer", "shorter", "other value", "same")


def pairs(before: list[Told], after: list[Told]) -> list[Pair]:
    """The episodes of both sides: those of one scope that overlap are the same one."""
    waiting: dict[Scope, list[Told]] = {}
    for told in after:
        waiting.setdefault(told.scope, []).append(told)
    found = []
    for told in before:
        candidates = waiting.get(told.scope, [])
        match = next((one for one in candidates if _overlap(told, one)), None)
        if match is not None:
            candidates.remove(match)
        found.append(Pair(told, match))
    found += [Pair(None, told) for rest in waiting.values() for told in rest]
    return sorted(found, key=lambda pair: (_began(pair), (pair.after or pair.before).scope))  # type: ignore[union-attr]


def _overlap(one: Told, other: Told) -> bool:
    return one.began_ns < other.until_ns and other.began_ns < one.until_ns


def _began(pair: Pair) -> int:
    return min(told.began_ns for told in (pair.before, pair.after) if told is not None)


def verdicts(found: list[Pair]) -> Counter[str]:
    """How many episodes of each verdict."""
    return Counter(pair.verdict for pair in found)
