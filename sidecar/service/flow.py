"""The main flow: read → decide → commit → publish, one batch after the other.

In: batches of the log, the rules in force.  Out: committed state, and the word
to publish it.  :meth:`Flow.process` is the whole of it.  Expiry runs beside it,
so that a full disk or a slow name server holds up nothing that has its time.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from typing import TYPE_CHECKING, TypeVar

import msgspec

from sidecar.automation.attempts import Attempts, Run
from sidecar.automation.decide import LATENESS, Outcome
from sidecar.automation.group import GroupAutomation
from sidecar.automation.matching import Candidate
from sidecar.automation.pipeline import (
    Tally,
    candidates,
    happened,
    only_candidates,
    read_everything,
)
from sidecar.automation.waiting import Waiting, decide, decide_late
from sidecar.faults import reached
from sidecar.log.batches import Batch
from sidecar.log.blocks import Block
from sidecar.log.tail import Tail
from sidecar.problems import Problem
from sidecar.publish.metrics import Metrics
from sidecar.settings import Fixed
from sidecar.shaping.mx import MxAnswer, Resolver
from sidecar.store import Transaction
from sidecar.times import NS, until_tick

from .deliveries import missing_deliveries
from .journal import Journal
from .ledger import Ledger
from .logging import Log
from .mx import ask_for, known
from .orders import Answer, Order, carry_out
from .portions import Matching, attempts_from_json
from .publisher import Publisher
from .rules import RuleBook, Rules
from .state import kept_holds
from .waiting import WaitingRoom
from .words import obey, word_from_json
from .words import order as order_for_all

if TYPE_CHECKING:
    from sidecar.share import Portion, Received

    from .retention import Keeper
    from .sharing import Sharing

_Item = TypeVar("_Item")

_TICK_SECONDS = 1.0
_TIDY_SECONDS = 60.0
_SLACK_NS = 2 * 3600 * NS
"""How much further back than the rules ask for segments are read and remembered.

So that nothing is passed over by a clock that is wrong by an hour.
"""

_HISTORY_ROWS = 50_000
"""How many of the episodes that have ended are kept, the latest; each takes about 2 kB."""

_PATIENCE_SECONDS = 0.05
"""How long a batch waits for the DNS before those records are set aside that need it."""

_SOURCES_MOST = 10_000
"""How many egress sources of this host are known at most: a remote side names none."""

_LATE_AT_ONCE = 200
"""How many records that have waited are decided before other tasks have their turn."""

_HEARD_AT_ONCE = 500
"""How many lines of other hosts are matched before other tasks have their turn."""

_SLICE_SECONDS = 0.02
"""How long a batch's records are matched before other tasks have their turn."""


@dataclass(slots=True)
class Found:
    """What a batch holds: the records that some rule may act on, and counts of the others.

    ``happened`` has the attempts in between, where rules need them.  ``portions``: what the
    group is to be told.
    """

    happened: list[Candidate | Attempts]
    tally: Tally
    portions: list[Portion] = field(default_factory=list)

    @property
    def candidates(self) -> list[Candidate]:
        """The records without the attempts."""
        return list(only_candidates(self.happened))


class Flow:
    """The steps from a batch to what is published, and those that time and operators ask for."""

    def __init__(
        self,
        *,
        settings: Fixed,
        book: RuleBook,
        ledger: Ledger,
        publisher: Publisher,
        resolver: Resolver,
        log: Log,
        metrics: Metrics,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._settings = settings
        self._book = book
        self._ledger = ledger
        self._publisher = publisher
        self._resolver = resolver
        self._log = log
        self._journal = Journal(log)
        self._metrics = metrics
        self._clock = clock
        self._said_bad = False
        self._said_missing = False
        self._said_unadjusted: set[str] = set()
        self._waiting = WaitingRoom(resolver)
        self._idle = asyncio.Event()
        self._idle.set()
        self.sharing: Sharing | None = None
        """Who tells the group; None where this host is alone."""
        self.newest_ns = 0
        """Time of the newest record considered in this run, of those that a clock may have now."""

    # Batches.

    async def follow(self, tail: Tail, *, for_ever: bool, keeper: Keeper | None = None) -> None:
        """Process batches, for ever or until all that is there now has been.

        `keeper` is told which segments have been read to their ends.
        """
        self._waiting.add(self._ledger.waited())
        self.rules_changed()  # perhaps since the last run
        async for batch in tail.blocks(follow=for_ever):
            self._ledger.floor_ns = max(self._ledger.floor_ns, tail.floor_ns or 0)
            self._idle.clear()
            try:
                await self.process(batch)
            finally:
                self._idle.set()
            if keeper is not None:
                keeper.note(batch.finished)

    async def process(self, batch: Batch) -> None:
        """One batch, from its lines to its commit and the word to publish it."""
        reached("batch-read")
        # The rules that its lines were chosen by, though others be in force by now.
        rules = batch.sieve if isinstance(batch.sieve, Rules) else self._book.rules
        found = await self._match(batch, rules)
        room, looked_at = self._waiting.room, found.candidates
        mx, asked = await ask_for(looked_at, self._resolver, seconds=_PATIENCE_SECONDS, most=room)
        # From here to the commit nothing is awaited: what is pending is always whole batches.
        if self._waiting:
            self._decide_those_before(looked_at, asked)
        self._ledger.automation.follow(rules.shaping)
        outcome, waiting = self._decide(found.happened, mx, asked, room)
        counts = _counts(batch, found.tally, outcome)
        changes = self._ledger.changes(batch, counts, waiting)
        self._say_missing(rules)
        self._waiting.add(waiting)
        self._measure(counts, batch, found.tally)
        self._measure_rules(outcome)
        if self.sharing is not None:
            self.sharing.offer(found.portions)
            if self._settings.share_sources == "own":
                self._note_sources(found.happened)
        committed = await self._commit(changes, outcome, more=batch.more)
        self._publish(committed)

    def _note_sources(self, happened: Iterable[Candidate | Attempts]) -> None:
        """Note egress sources that the own log has not shown before."""
        known, new = self._ledger.sources, set[str]()
        for one in happened:
            if isinstance(one, dict):
                new.update(source for _, source, *_ in one if source not in known)
            elif one.record.egress_source not in known:
                new.add(one.record.egress_source)
        if new and len(known) < _SOURCES_MOST:
            self._ledger.keep_sources(new)
            for source in new:
                self._publisher.add_source(source)

    async def _match(self, batch: Batch, rules: Rules) -> Found:
        """The records that some rule may act on; other tasks have their turns meanwhile."""
        found = Found([], Tally(latest_ns=self._clock() + LATENESS * NS))
        run = Run(rules.matcher.detail)
        matching = Matching(rules, found.tally) if self.sharing is not None else None
        parts: Iterator[Iterable[Candidate | Attempts]]
        for block in batch.blocks:
            bad = found.tally.bad
            if matching is not None:
                parts = matching.parts(block)
            else:
                parts = _parts(block.data, rules, found.tally, run)
            for part in parts:
                found.happened.extend(part)
                await asyncio.sleep(0)
            self._say_bad(block, found.tally.bad - bad + block.bad_lines)
        if matching is not None:
            found.portions = matching.portions
        if behind := run.take():
            found.happened.append(behind)
        return found

    def _decide(
        self,
        found: Iterable[Candidate | Attempts],
        mx: Mapping[str, MxAnswer],
        asked: Collection[str],
        room: int,
    ) -> tuple[Outcome, list[Waiting]]:
        """What `found` lead to now, and what waits for the MX of a domain in `asked`."""
        automation = self._ledger.automation
        automation.max_entries = self._book.rules.settings.max_entries
        outcome, waiting = decide(
            automation, found, mx=mx, asked=asked, room=room, now_ns=self._clock()
        )
        self._say_left_out(outcome)
        reached("batch-decided")
        return outcome, waiting

    def _say_left_out(self, outcome: Outcome) -> None:
        for entry in outcome.left_out:
            self._log.warning(
                "there is no room for a new entry (--max-entries)",
                kind=entry.kind,
                ready_queue=entry.site,
                reason=entry.reason,
            )
        for ready_queue in outcome.not_counted:
            self._log.warning(
                "there is no room to count towards a new threshold or share (--max-entries)",
                ready_queue=ready_queue,
            )
        for setting in sorted(outcome.unadjusted - self._said_unadjusted):
            self._said_unadjusted.add(setting)
            self._log.warning(
                "sidecar.adjust has nothing to come down from: the action's value is set",
                setting=setting,
            )

    async def _commit(self, changes: Transaction, outcome: Outcome, *, more: bool) -> Outcome:
        """Have both committed, soon or at once; what has now been committed.

        At once where something is to be published and no further batch (`more`) follows
        at once.
        """
        commits = self._ledger.commits
        commits.add(changes, outcome)
        if commits.due or (commits.outcomes and not more):
            return await commits.commit()
        return Outcome()

    def _publish(self, committed: Outcome) -> None:
        if committed:
            now_ns = self._clock()
            self._publisher.publish(committed, now_ns)
            self._journal.tell(committed, now_ns)
            self._ledger.note_ended(committed.ended)

    def _say_bad(self, block: Block, count: int) -> None:
        """Once in a run: where a log has lines of its own form, there are many."""
        if count == 0 or self._said_bad:
            return
        self._said_bad = True
        message = (
            f"{count} of the lines up to line {block.position.lines} are no log records, or too "
            "long, and were passed over; further ones are only counted (`tsa-sidecar status`)"
        )
        file = str(self._settings.log_dir / block.segment)
        self._log.problem(Problem("warning", "bad-line", message, file=file))

    def _say_missing(self, rules: Rules) -> None:
        """Once in a run."""
        missing = missing_deliveries(rules, self._ledger.counters)
        if missing is not None and not self._said_missing:
            self._said_missing = True
            self._log.problem(missing)

    def _measure(self, counts: Counter[str], batch: Batch, tally: Tally) -> None:
        metrics = self._metrics
        metrics.records_read.inc(counts["read"])
        metrics.records_considered.inc(counts["considered"])
        metrics.records_bad.inc(counts["bad"])
        metrics.attempts.inc(counts["attempts"])
        metrics.bytes_lost.inc(counts["bytes_lost"])
        metrics.segments_lost.inc(counts["segments_lost"])
        metrics.bytes_read.inc(sum(b.size for b in batch.blocks))
        self._measure_decided(counts)
        if tally.newest_ns:
            # One dated in the future would hide that no more come.
            self.newest_ns = max(self.newest_ns, min(tally.newest_ns, self._clock()))

    def _measure_decided(self, counts: Counter[str]) -> None:
        self._metrics.records_matched.inc(counts["matched"])
        for reason in ("no_tenant", "no_site", "no_domain", "bad_recipient"):
            if count := counts[reason]:
                self._metrics.unusable.labels(reason).inc(count)
        self._metrics.no_room.labels("entry").inc(counts["no_room"])
        self._metrics.no_room.labels("threshold").inc(counts["no_room_to_count"])

    def _measure_rules(self, outcome: Outcome) -> None:
        for label, count in outcome.rule_matches.items():
            effects = outcome.rule_effects[label]
            self._metrics.count_rule(label, matches=count, effects=effects)

    # What other hosts tell.

    async def idle(self) -> None:
        """Wait until no own batch is under way: it comes first."""
        await self._idle.wait()

    async def hear(
        self,
        items: Sequence[Received],
        place: Transaction,
        *,
        move: Callable[[], None],
        more: bool,
    ) -> int:
        """Decide what other hosts told, and commit it with `place`; how many bad lines it has.

        `move` is called between the two: from there on all of the state, should it be written
        anew, is that behind these items.  `more` follows at once.
        """
        await self.idle()
        rules, tally = self._book.rules, Tally(latest_ns=self._clock() + LATENESS * NS)
        if items[0].kind == "word":
            self._obey(items[0], place)
            move()
            return 0
        heard: list[Candidate | Attempts] = []
        for first in range(0, len(items), _HEARD_AT_ONCE):
            heard += _heard(items[first : first + _HEARD_AT_ONCE], rules, tally)
            await asyncio.sleep(0)
        found, room = list(only_candidates(heard)), self._waiting.room
        mx, asked = await ask_for(found, self._resolver, seconds=_PATIENCE_SECONDS, most=room)
        if self._waiting:
            self._decide_those_before(found, asked)
        automation = self._ledger.automation
        automation.follow(rules.shaping)
        outcome, waiting = self._decide(heard, mx, asked, room)
        counts = Counter({"peers_read": len(items), "peers_bad": tally.bad})
        counts["peers_matched"] = outcome.counts.pop("matched", 0)
        changes = self._ledger.heard_changes(counts + outcome.counts, waiting)
        changes.add(place)
        self._waiting.add(waiting)
        self._measure_decided(outcome.counts)
        self._measure_rules(outcome)
        move()
        reached("peers-decided")
        self._publish(await self._commit(changes, outcome, more=more))
        return tally.bad

    async def note_place(self, place: Transaction, *, more: bool) -> None:
        """Have `place` committed soon, behind which nothing was told.  `more` follows at once."""
        self._publish(await self._commit(place, Outcome(), more=more))

    def _obey(self, item: Received, place: Transaction) -> None:
        """Do what an operator ordered on another host."""
        name, now_ns = f"{item.host}/{item.segment}", self._clock()
        automation = self._ledger.automation
        try:
            word = word_from_json(item.data)
        except ValueError as error:
            self._log.warning("a word of the group can't be read", word=name, reason=str(error))
            self._ledger.commits.add(place)
            return
        assert isinstance(automation, GroupAutomation)
        done = obey(automation, word, name, now_ns)
        done.changes.add(place)
        self._ledger.commits.add(done.changes, done.outcome)
        self._log.info(
            "an operator's order",
            order=word.verb,
            by=word.by,
            reason=word.reason,
            cancelled=len(done.answer.cancelled),
            hold=done.answer.held,
            released=len(done.answer.released),
        )
        self.try_commit()

    # What has waited for an MX.

    async def decide_what_waited(self, *, for_ever: bool) -> None:
        """Decide each record whose wait is over, for ever or until none waits."""
        while for_ever or self._waiting:
            await self._waiting.some()
            self._decide_late(self._waiting.take(_LATE_AT_ONCE))
            self.try_commit()
            await asyncio.sleep(0)

    def _decide_those_before(self, found: Iterable[Candidate], asked: Collection[str]) -> None:
        """Decide what waits of the domains whose MX is known to `found`: their order stays."""
        domains = {one.domain for one in found if one.needs_mx}
        waited = self._waiting.take_of(sorted(domains.difference(asked)))
        if waited:
            self._decide_late(waited)

    def _decide_late(self, waited: Sequence[Waiting]) -> None:
        """By the rules in force now, and by what is known now of their domains."""
        outcome, now_ns = Outcome(), self._clock()
        for one in waited:
            outcome.add(
                decide_late(
                    self._ledger.automation,
                    one,
                    matcher=self._book.rules.matcher,
                    mx=known(one.domain, self._resolver),
                    now_ns=now_ns,
                )
            )
        self._say_left_out(outcome)
        reached("waited-decided")
        changes = self._ledger.late_changes(waited, outcome.counts)
        self._measure_decided(outcome.counts)
        self._measure_rules(outcome)
        self._ledger.commits.add(changes, outcome)

    @property
    def waiting(self) -> int:
        """How many records wait for an MX."""
        return len(self._waiting)

    # Time and operators.

    async def keep_time(self, tail: Tail) -> None:
        """End entries when their time comes; commit what has waited; tidy now and then."""
        tidied = -_TIDY_SECONDS
        while True:
            self.expire()
            self._journal.sum_up(self._clock())
            if time.monotonic() - tidied > _TIDY_SECONDS:
                tidied = time.monotonic()
                self.tidy(tail)
            if self._ledger.commits.due:
                self.try_commit()
            upcoming = self._publisher.next_change()
            seconds = until_tick(time.monotonic(), _TICK_SECONDS)
            if upcoming is not None:
                seconds = min(seconds, max(0.0, (upcoming - self._clock()) / NS))
            await asyncio.sleep(seconds)

    def expire(self) -> None:
        """End the entries whose time has come: in what is published at once, then in the state."""
        now_ns = self._clock()
        self._publisher.expire(now_ns)
        outcome = self._ledger.automation.expire(now_ns)
        if outcome.dropped:
            # The view has dropped them by itself.
            self._ledger.commits.add_unpublished(outcome)
            self._journal.tell(outcome, now_ns)
            self._ledger.note_ended(outcome.ended)

    def rules_changed(self) -> int:
        """Mark the entries whose rule is gone; returns how many there are.

        What adjusts itself stays below what the files set by now.
        """
        automation, shaping = self._ledger.automation, self._book.rules.shaping
        self._ledger.commits.add_unpublished(automation.mark_gone(shaping.all_rules()))
        refitted = automation.refit(
            shaping,
            now_ns=self._clock(),
            mx_of=lambda domain: known(domain, self._resolver),
        )
        if refitted:
            self._ledger.commits.add(Transaction(), refitted)
        return sum(story.rule_gone for story in automation.episodes.values())

    def carry_out(self, order: Order, name: str) -> Answer:
        """Do what an operator orders, once committed; `name` is the order's, done once only."""
        known = self._ledger.answers.get(name)
        if known is not None:
            return msgspec.json.decode(known, type=Answer)
        rules, now_ns = self._book.rules.shaping.all_rules(), self._clock()
        automation = self._ledger.automation
        word = None
        if self.sharing is not None and not order.here:
            assert isinstance(automation, GroupAutomation)
            host = self.sharing.host
            done, word = order_for_all(
                automation, order, name, host=host, now_ns=now_ns, rules=rules
            )
        else:
            done = carry_out(automation, order, now_ns, rules)
        if word is not None:
            done.changes.add(self._ledger.keep_word(name, word.to_json()))
        done.changes.add(self._ledger.keep_answer(name, msgspec.json.encode(done.answer).decode()))
        self._ledger.commits.add(done.changes, done.outcome)
        return done.answer

    def forget_answers(self, *, but: Container[str]) -> None:
        """Forget the answers to orders that are there no more, which `but` are not."""
        for name in [name for name in self._ledger.answers if name not in but]:
            self._ledger.commits.add(self._ledger.forget_answer(name))

    def try_commit(self) -> bool:
        """Commit and publish what is pending; False where the disk won't have it now."""
        committed = self._ledger.commits.try_commit()
        if committed is None:
            return False
        self._publish(committed)
        if self.sharing is not None:
            self.sharing.say_words()
        return True

    async def last_commit(self) -> None:
        """Commit and publish what is pending, for one who is about to end; ProblemError if not."""
        self._publish(await self._ledger.commits.last_commit())

    def tidy(self, tail: Tail) -> None:
        """Forget windows that can't count any more, and segments and history that are too old."""
        idle = set(self._ledger.automation.forget_idle_thresholds())
        since_ns = self._clock() - self._book.rules.settings.history_ns
        changes = Transaction(drop_thresholds=idle, prune_history=(since_ns, _HISTORY_ROWS))
        changes.add(kept_holds((), self._ledger.automation.forget_holds(self._clock())))
        changes.add(self._ledger.forget_words(self._clock()))
        self._ledger.commits.add(changes)
        if self._settings.retention is None:
            tail.forget_before(self._needed_since_ns())

    def since_ns(self) -> int:
        """What was logged before this moment need not be read.

        Never earlier than in an earlier run, which has forgotten what it read
        before.  Where segments are to be deleted once they are processed, it
        stays where it was: all of them must be known.
        """
        floor_ns = self._ledger.floor_ns
        if floor_ns and self._settings.retention is not None:
            return floor_ns
        return max(floor_ns, self._needed_since_ns())

    def _needed_since_ns(self) -> int:
        return self._clock() - self._book.rules.shaping.horizon_ns - _SLACK_NS


def _parts(
    data: bytes, rules: Rules, tally: Tally, run: Run
) -> Iterator[Iterable[Candidate | Attempts]]:
    """What is in a sifted block, as much at once as fits into a slice of time.

    Attempts that no candidate is behind stay in `run`.
    """
    matcher, skip_types = rules.matcher, rules.settings.skip_record_types
    if matcher.needs_attempts:
        parts = rules.prefilter.parts(data)
        for part in parts:
            some = _for_a_slice(part, parts)
            yield happened(some, matcher=matcher, skip_types=skip_types, tally=tally, run=run)
    else:
        lines = iter(rules.prefilter.wanted(data))
        for line in lines:
            few = _for_a_slice(line, lines)
            yield candidates(few, matcher=matcher, skip_types=skip_types, tally=tally)


def _heard(items: Iterable[Received], rules: Rules, tally: Tally) -> list[Candidate | Attempts]:
    """What is in the items that other hosts told."""
    matcher, skip_types = rules.matcher, rules.settings.skip_record_types
    found: list[Candidate | Attempts] = []
    for (host, kind), same in groupby(items, key=lambda item: (item.host, item.kind)):
        if kind == "attempts":
            attempts = _heard_attempts(same, tally)
            found += attempts if matcher.needs_attempts else ()
        else:
            lines = (item.data for item in same)
            found += read_everything(
                lines, matcher=matcher, skip_types=skip_types, tally=tally, host=host
            )
    return found


def _heard_attempts(items: Iterable[Received], tally: Tally) -> list[Attempts]:
    found: list[Attempts] = []
    for item in items:
        try:
            attempts = attempts_from_json(item.data, item.fresh)
        except ValueError:
            tally.bad += 1
            continue
        if attempts:
            found.append(attempts)
    return found


def _for_a_slice(first: _Item, rest: Iterator[_Item]) -> Iterator[_Item]:
    """`first`, then more of `rest` until a slice of time is over."""
    end = time.perf_counter() + _SLICE_SECONDS
    for one in chain((first,), rest):
        yield one
        if time.perf_counter() > end:
            return


def _counts(batch: Batch, tally: Tally, outcome: Outcome) -> Counter[str]:
    """What a batch adds to the counters of the state."""
    return Counter(
        {
            "read": sum(b.lines for b in batch.blocks),
            "considered": tally.considered,
            "bad": tally.bad + sum(b.bad_lines for b in batch.blocks),
            "bytes_lost": sum(b.lost_bytes for b in batch.blocks),
            "segments_lost": len(batch.lost),
            **outcome.counts,
            "bad_recipient": tally.bad_recipient + outcome.counts["bad_recipient"],
        }
    )
