"""What rules would have had in force when: logs in, episodes out.

In: blocks of lines, in the order of time, and one or more sets of rules.  Out: for
each set the episodes it would have led to.  Each record is decided at its own time,
as the running service would have, by the same core.  Deliveries in the log are
counted for the episodes in force where they went.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from sidecar.automation.address import QueueName, site_name
from sidecar.automation.adjusting import share_at
from sidecar.automation.attempts import DELIVERED, Attempts, Run, attempts_of
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
from sidecar.times import NS

from .logs import LinesRead

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
    story: Episode
    until_ns: int
    values: list[TomlValue] = field(default_factory=list)
    sent: int = 0
    cuts: list[Override] = field(default_factory=list)

    @property
    def began_ns(self) -> int:
        """When its entry came into force; of a limit for the time after another, that time."""
        probe = self.entry.probe if isinstance(self.entry, Override) else None
        return self.story.began_ns if probe is None else min(probe.from_ns, self.until_ns)

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


class Hindsight:
    """One set of rules, and what they would have done so far."""

    def __init__(self, rules: Rules, *, on_end: Callable[[Told], None] | None = None) -> None:
        """`on_end` is told each episode when it ends; without it they are all kept."""
        self.rules = rules
        self.automation = Automation(max_entries=rules.settings.max_entries)
        self.automation.follow(rules.shaping)
        self.needs_attempts = rules.matcher.needs_attempts
        self.counts: Counter[str] = Counter()
        """What became of the records that a rule matches: ``matched``, ``no_tenant``, …"""
        self.sent_meanwhile = 0
        """Deliveries to where something was in force, each counted once."""
        self._ended: list[Told] = []
        self._on_end = on_end or self._ended.append
        self._open: dict[str, Told] = {}
        self._tidied_ns = 0
        self._by_place: dict[_Place, set[str]] = {}
        self._went: dict[tuple[str, str, str], tuple[_Place, ...]] = {}

    @property
    def told(self) -> list[Told]:
        """The episodes that are kept, and those not over yet, in the order of their beginnings."""
        return sorted((*self._ended, *self._open.values()), key=lambda told: told.story.id)

    def candidate(self, record: Record) -> Candidate | None:
        """The rules that match the text of `record`; None where none does."""
        try:
            return self.rules.matcher.candidate(record)
        except ValueError:  # its recipient is no address: upstream does nothing about it, either
            self.counts["bad_recipient"] += 1
            return None

    def expire(self, now_ns: int) -> None:
        """Have what is over by then end."""
        upcoming = self.automation.entries.next_expiry()
        if upcoming is not None and upcoming <= now_ns:
            self._take(self.automation.expire(now_ns))

    def decide(self, candidate: Candidate, mx: MxAnswer | None, now_ns: int) -> None:
        """Decide one record."""
        self._apply(candidate, {} if mx is None else {candidate.domain: mx}, now_ns)

    def attempt(self, attempts: Attempts, now_ns: int) -> None:
        """Count what no rule matches, for the rules that need attempts."""
        self._apply(attempts, {}, now_ns)

    def _apply(self, one: Candidate | Attempts, answers: dict[str, MxAnswer], now_ns: int) -> None:
        outcome = self.automation.apply((one,), mx=answers, now_ns=now_ns)
        self.counts.update(outcome.counts)
        self._take(outcome)

    def tidy(self, now_ns: int) -> None:
        """Forget the windows that can't count any more, once in a minute of the logs' time."""
        if now_ns - self._tidied_ns >= 60 * NS:
            self._tidied_ns = now_ns
            self.automation.forget_idle_thresholds()

    def _take(self, outcome: Outcome) -> None:
        for ended in outcome.ended:
            told = self._open.pop(ended.entry.key)
            told.until_ns = ended.at_ns
            self._leave(told)
            self._on_end(told)
        for key, entry in outcome.entries.items():
            story = outcome.episodes[key]
            told = self._open.get(key) or self._begin(key, entry, story)
            told.entry, told.story, told.until_ns = entry, story, entry.expires_ns
            if isinstance(entry, Override) and told.values[-1:] != [entry.value]:
                told.values.append(entry.value)
            if isinstance(entry, Override) and entry.course is not None:
                if told.cuts and _cut_ns(told.cuts[-1]) == _cut_ns(entry):
                    told.cuts.pop()  # a match that cut nothing only puts off the way back
                told.cuts.append(entry)

    def _begin(self, key: str, entry: Entry, story: Episode) -> Told:
        told = Told(entry, story, entry.expires_ns)
        self._open[key] = told
        self._by_place.setdefault(_place(entry), set()).add(key)
        return told

    def _leave(self, told: Told) -> None:
        place = _place(told.entry)
        keys = self._by_place[place]
        keys.discard(told.entry.key)
        if not keys:
            del self._by_place[place]

    def deliver(self, record: Record) -> None:
        """Count a delivery for what is in force where it went."""
        went = record.queue, record.site, record.egress_source
        places = self._went.get(went)
        if places is None:
            if len(self._went) >= _KNOWN:
                self._went.clear()
            places = self._went[went] = tuple(dict.fromkeys(_places(*went)))
        meanwhile = False
        for place in places:
            for key in self._by_place.get(place, ()):
                told = self._open[key]
                if told.began_ns <= record.time_ns:
                    told.sent += 1
                    meanwhile = True
        self.sent_meanwhile += meanwhile


_KNOWN: Final = 4096

_Place: TypeAlias = tuple[str | None, ...]
"""What an entry covers; every record that went there is covered."""


def _place(entry: Entry) -> _Place:
    if isinstance(entry, ReadyQSuspension):
        return "ready", entry.site
    if not isinstance(entry, Override):
        return "queue", entry.domain, entry.tenant, entry.campaign
    if entry.mx_rollup:
        return "site", site_name(entry.site, entry.source), entry.source
    return "domain", entry.domain, entry.source


def _places(queue: str, ready_queue: str, source: str) -> Iterator[_Place]:
    """All the places that what covers a record may be at."""
    to = QueueName.parse(queue)
    yield "ready", ready_queue
    yield "site", site_name(ready_queue, source), source
    yield "domain", to.domain, source
    for tenant in (to.tenant, None):
        for campaign in (to.campaign, None):
            yield "queue", to.domain, tenant, campaign


@dataclass(slots=True)
class Read(LinesRead):
    """What was read, and when its records are of.

    ``later``: records that a rule may match, of a time behind the moment asked for.
    """

    later: int = 0
    deliveries: int = 0
    first_ns: int | None = None
    last_ns: int | None = None

    def note_time(self, time_ns: int) -> None:
        """Note the time of a record that rules see."""
        if self.first_ns is None or time_ns < self.first_ns:
            self.first_ns = time_ns
        if self.last_ns is None or time_ns > self.last_ns:
            self.last_ns = time_ns


@dataclass(frozen=True, slots=True)
class _Happening:
    """What one line of a log tells: for each side the rules that match it, and else attempts.

    ``delivery`` is its record where it is one.
    """

    time_ns: int
    candidates: Sequence[Candidate | None]
    attempts: Attempts
    delivery: Record | None = None


async def look_back(
    blocks: AsyncIterator[Block],
    *sides: Hindsight,
    resolver: Resolver,
    until_ns: int | None = None,
) -> Read:
    """Have each of `sides` decide everything in `blocks`; what was read.

    Records behind `until_ns` have not happened yet: they are only counted.  "Behind" is by
    more than a second, since a moment may be given in whole seconds.  At the end it is
    `until_ns`, or else the time of the newest record.

    Every line is decoded, so that each bad one is counted.  Matching only those that the
    prefilter lets through takes as long: to tell them apart costs what it saves.  A second
    process that decodes and matches takes 10 to 20 % off this one's time, since it must hand
    on all deliveries: not worth a second core of a mail server.
    """
    read, now_ns = Read(), 0
    end_ns = sys.maxsize if until_ns is None else until_ns + NS
    async for block in blocks:
        tally = Tally()
        found = [*_happenings(block, sides, tally=tally, read=read, end_ns=end_ns)]
        mx = await resolve_all((c for one in found for c in one.candidates if c), resolver)
        for one in found:
            now_ns = max(now_ns, one.time_ns)
            for side, candidate in zip(sides, one.candidates, strict=True):
                side.expire(now_ns)
                if candidate is not None:
                    side.decide(candidate, mx.get(candidate.domain), now_ns)
                elif one.attempts and side.needs_attempts:
                    side.attempt(one.attempts, now_ns)
                if one.delivery is not None:
                    side.deliver(one.delivery)
        read.add(block, tally)
        for side in sides:
            side.tidy(now_ns)
    for side in sides:
        side.expire(until_ns if until_ns is not None else read.last_ns or 0)
    return read


def _happenings(
    block: Block, sides: Sequence[Hindsight], *, tally: Tally, read: Read, end_ns: int
) -> Iterator[_Happening]:
    """What makes a difference to some side, of what had happened by `end_ns`."""
    counts_attempts = any(side.needs_attempts for side in sides)
    skip_types = sides[0].rules.settings.skip_record_types
    nobody = [None] * len(sides)
    for line in block.data.split(b"\n"):
        record = consider(line, skip_types=skip_types, tally=tally)
        if record is None:
            attempts = _attempts_in(line) if counts_attempts and line else {}
            time_ns = max((key[-1] for key in attempts), default=0) * NS
            if attempts and time_ns <= end_ns:
                yield _Happening(time_ns, nobody, attempts)
            continue
        candidates = [side.candidate(record) for side in sides]
        if record.time_ns > end_ns:
            read.later += candidates[0] is not None
            continue
        read.note_time(record.time_ns)
        delivery = record if record.type == DELIVERED else None
        read.deliveries += delivery is not None
        attempts = attempts_of(record) if counts_attempts else {}
        if attempts or delivery is not None or any(candidates):
            yield _Happening(record.time_ns, candidates, attempts, delivery)


def _attempts_in(line: bytes) -> Attempts:
    """Those in a line that rules don't see, be it of another type or damaged."""
    run = Run()
    run.add_line(line)
    return run.take()
