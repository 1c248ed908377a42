"""The service: one loop from the log directory to what is published.

In: settings and rules.  Out: committed state, published overlay.  One batch
after the other: read, match, decide, commit in one transaction with the log
position, then publish.  Expiry runs on its own, so that a full disk or a slow
name server holds up nothing that has its time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from sidecar.automation.decide import Outcome
from sidecar.automation.matching import Candidate
from sidecar.automation.pipeline import Tally, candidates
from sidecar.faults import reached
from sidecar.log.reader import Block
from sidecar.log.reading import Batch
from sidecar.log.tail import Tail
from sidecar.problems import Problem
from sidecar.publish.metrics import Metrics
from sidecar.shaping.mx import DnsResolver, Resolver
from sidecar.store import CheckpointRow, Saved, Store, Transaction
from sidecar.systemd import Notifier
from sidecar.times import NS, until_tick

from .checkpoints import to_rows
from .commits import Commits
from .logging import Log
from .mx import resolve_all
from .published import Published
from .publisher import Publisher
from .rules import RuleBook, Rules
from .state import number, progress, restore, transaction

_COPY = "copy:"
"""Before the URL in the name under which the state file keeps the last good copy."""

_FLOOR = "floor_ns"
_COMMITTED = "committed_ns"
_LOST = "segments_lost"

_NAMES_KEPT = 20
_TICK_SECONDS = 1.0
_TIDY_SECONDS = 60.0
_SLACK_NS = 2 * 3600 * NS
"""How much further back than the rules ask for segments are read and remembered.

So that nothing is passed over by a clock that is wrong by an hour.
"""


class Service:
    """The state of a running sidecar and the steps that change it."""

    def __init__(
        self,
        *,
        store: Store,
        saved: Saved,
        resolver: Resolver,
        log: Log,
        metrics: Metrics,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.resolver = resolver
        self._metrics = metrics
        self._log = log
        self._said_bad = False
        self.clock = clock
        self.automation, cleaning, problems = restore(saved)
        for problem in problems:
            log.problem(problem)
        gone = self.automation.expire(clock()).dropped
        self.view = Published(self.automation.entries)
        self.counters: dict[str, int] = dict(saved.counters)
        self.copies: dict[str, str] = {
            name.removeprefix(_COPY): text
            for name, text in saved.meta.items()
            if name.startswith(_COPY)
        }
        """The last good text of each shaping file that comes by HTTP."""
        self.checkpoints: dict[str, CheckpointRow] = dict(saved.checkpoints)
        """How far each segment has been read, in memory: what is pending included."""
        self.kumod_ids: dict[str, str] = dict(saved.kumod_ids)
        self.commits = Commits(store, everything=self._everything, on_commit=self._publish, log=log)
        self.commits.add(cleaning)
        self.commits.add(Transaction(drop_entries=gone))
        self.lost_names: deque[str] = deque(_names(saved.meta.get(_LOST)), maxlen=_NAMES_KEPT)
        """The latest segments that were deleted before they were wholly read."""
        self.floor_ns = number(saved.meta, _FLOOR)
        """Of segments finished before this moment it is not known any more what was read."""
        self.committed_ns = number(saved.meta, _COMMITTED)
        """When the last run committed what it had read."""
        self.newest_ns = 0
        """Time of the newest record considered in this run."""
        self.book: RuleBook | None = None
        self._reading_by: Rules | None = None
        self.publisher: Publisher | None = None

    # Reading.

    async def follow(
        self,
        tail: Tail,
        *,
        follow: bool,
        on_finished: Callable[[Sequence[str]], None] = lambda _names: None,
    ) -> None:
        """Process batches: for ever, or until all that is there now has been.

        `on_finished` is told the names of segments that have been read to their ends.
        """
        async for batch in tail.blocks(follow=follow):
            self.floor_ns = max(self.floor_ns, tail.floor_ns or 0)
            await self.process(batch)
            on_finished(batch.finished)

    def say(self, problem: Problem) -> None:
        """Log `problem`."""
        self._log.problem(problem)

    def sift(self, data: bytes) -> bytes:
        """The lines that the rules in force can match; a batch keeps to those it began with."""
        if self._reading_by is None:
            assert self.book is not None
            self._reading_by = self.book.rules
        return self._reading_by.prefilter.sift(data)

    async def process(self, batch: Batch) -> None:
        """One batch, from its lines to its commit and the word to publish it."""
        assert self.book is not None
        reached("batch-read")
        rules, self._reading_by = self._reading_by or self.book.rules, None
        tally, found = Tally(), list[Candidate]()
        for block in batch.blocks:
            bad = tally.bad
            found += candidates(
                rules.prefilter.wanted(block.data),
                matcher=rules.matcher,
                skip_types=rules.settings.skip_record_types,
                tally=tally,
            )
            self._say_bad(block, tally.bad - bad + block.bad_lines)
        mx = await resolve_all(found, self.resolver)
        # From here to the commit nothing is awaited: what is pending is always whole batches.
        outcome = self.automation.apply(found, mx=mx, now_ns=self.clock())
        reached("batch-decided")
        changes = Transaction()
        self._note_positions(batch, changes)
        self._count(batch, tally, outcome)
        changes.counters = dict(self.counters)
        changes.meta = self._meta()
        self._note_answers(changes)
        # Last: a mistake in the above must not leave half a batch to be committed.
        changes.add(progress(self.automation))
        self.commits.add(changes, outcome)
        if self.commits.due or (self.commits.outcomes and not batch.more):
            await self.commits.commit()

    def _say_bad(self, block: Block, count: int) -> None:
        """Once in a run: where a log has lines of its own form, there are many."""
        if count == 0 or self._said_bad:
            return
        self._said_bad = True
        assert self.book is not None
        message = (
            f"{count} of the lines up to line {block.position.lines} are no log records, or too "
            "long, and were passed over; further ones are only counted (`tsa-sidecar status`)"
        )
        file = str(self.book.settled.settings.fixed.log_dir / block.segment)
        self._log.problem(Problem("warning", "bad-line", message, file=file))

    def _note_positions(self, batch: Batch, changes: Transaction) -> None:
        changes.checkpoints, changes.forget_segments = to_rows(batch)
        for name in changes.forget_segments:
            self.checkpoints.pop(name, None)
        self.checkpoints.update(changes.checkpoints)
        self.lost_names.extend(batch.lost)

    def _meta(self) -> dict[str, str]:
        return {
            _FLOOR: str(self.floor_ns),
            _LOST: json.dumps(list(self.lost_names)),
            _COMMITTED: str(self.clock()),
        }

    def _count(self, batch: Batch, tally: Tally, outcome: Outcome) -> None:
        counts = {
            "read": sum(b.lines for b in batch.blocks),
            "considered": tally.considered,
            "bad": tally.bad + sum(b.bad_lines for b in batch.blocks),
            "bytes_lost": sum(b.lost_bytes for b in batch.blocks),
            "segments_lost": len(batch.lost),
            "bad_recipient": tally.bad_recipient,
            **outcome.counts,
        }
        for name, count in counts.items():
            if count:
                self.counters[name] = self.counters.get(name, 0) + count
        metrics = self._metrics
        metrics.records_read.inc(counts["read"])
        metrics.records_considered.inc(tally.considered)
        metrics.records_matched.inc(outcome.counts["matched"])
        metrics.records_bad.inc(counts["bad"])
        metrics.bytes_lost.inc(counts["bytes_lost"])
        metrics.segments_lost.inc(len(batch.lost))
        metrics.bytes_read.inc(sum(b.size for b in batch.blocks))
        for reason in ("no_tenant", "no_site", "no_domain", "bad_recipient"):
            if count := outcome.counts[reason]:
                metrics.unusable.labels(reason).inc(count)
        if tally.newest_ns:
            self.newest_ns = max(self.newest_ns, tally.newest_ns)
            metrics.lag_seconds.set((self.clock() - tally.newest_ns) / NS)

    def _note_answers(self, changes: Transaction) -> None:
        """Keep what the DNS said, so that an outage does not drop rules at the next start."""
        if isinstance(self.resolver, DnsResolver):
            for domain, answer in self.resolver.take_changes().items():
                if answer is None:
                    changes.drop_mx.add(domain)
                else:
                    changes.mx[domain] = answer

    def keep_kumod_ids(self, ids: Mapping[str, str | None]) -> None:
        """Have the ids that kumod gave (None: taken back) committed."""
        self.commits.add(Transaction(kumod_ids=dict(ids)))
        for key, given in ids.items():
            if given is None:
                self.kumod_ids.pop(key, None)
            else:
                self.kumod_ids[key] = given

    def keep_copies(self) -> None:
        """Have the last good copies of remote shaping files, and DNS answers, committed."""
        changes = Transaction(meta={_COPY + url: text for url, text in self.copies.items()})
        self._note_answers(changes)
        self.commits.add(changes)

    def _everything(self) -> Transaction:
        """The whole state, what is pending included."""
        whole = transaction(
            self.automation, Outcome(entries={e.key: e for e in self.automation.entries})
        )
        for scope, window in self.automation.thresholds.scopes():
            whole.threshold_counts.update(
                {(scope, second): count for second, count in window.items()}
            )
        whole.checkpoints = dict(self.checkpoints)
        whole.counters = dict(self.counters)
        whole.kumod_ids = dict(self.kumod_ids)
        whole.meta |= self._meta()
        whole.meta |= {_COPY + url: text for url, text in self.copies.items()}
        whole.mx = dict(self.resolver.export()) if isinstance(self.resolver, DnsResolver) else {}
        return whole

    def _publish(self, outcome: Outcome) -> None:
        """Take what is committed into the view; tell of what came about and still holds."""
        now_ns = self.clock()
        self.view.commit(outcome)
        self.view.expire(now_ns)
        if self.publisher is not None:
            self.publisher.changed(
                [
                    event
                    for event in outcome.events
                    if event.expires_ns > now_ns and event.key in outcome.entries
                ]
            )

    # Time.

    async def expire_for_ever(self, tail: Tail) -> None:
        """End entries when their time comes; commit what has waited; tidy now and then."""
        tidied = time.monotonic()
        while True:
            self.expire()
            if time.monotonic() - tidied > _TIDY_SECONDS:
                tidied = time.monotonic()
                self.tidy(tail)
            if self.commits.due:
                self.commits.try_commit()
            upcoming = self.view.entries.next_expiry()
            seconds = until_tick(time.monotonic(), _TICK_SECONDS)
            if upcoming is not None:
                seconds = min(seconds, max(0.0, (upcoming - self.clock()) / NS))
            await asyncio.sleep(seconds)

    def expire(self) -> None:
        """End the entries whose time has come: in the view at once, in the state soon after."""
        now_ns = self.clock()
        if self.view.expire(now_ns) and self.publisher is not None:
            self.publisher.changed()
        outcome = self.automation.expire(now_ns)
        if outcome.dropped:
            self.commits.add_expired(outcome)

    def cancel(self, keys: Iterable[str]) -> list[str]:
        """Take back entries by hand, once committed; returns the keys of those in force."""
        outcome = Outcome()
        for key in keys:
            if self.automation.entries.remove(key) is not None:
                outcome.drop(key)
        self.commits.add(Transaction(), outcome)
        return sorted(outcome.dropped)

    def tidy(self, tail: Tail) -> None:
        """Forget windows that can't count any more, and segments too old to be of consequence."""
        assert self.book is not None
        idle = set(self.automation.forget_idle_thresholds())
        self.commits.add(Transaction(drop_thresholds=idle))
        if self.book.settled.settings.fixed.retention is None:
            tail.forget_before(self._needed_since_ns())

    def since_ns(self) -> int:
        """What was logged before this moment need not be read.

        Never earlier than in an earlier run, which has forgotten what it read
        before.  Where segments are to be deleted once they are processed, it
        stays where it was: all of them must be known.
        """
        assert self.book is not None
        if self.floor_ns and self.book.settled.settings.fixed.retention is not None:
            return self.floor_ns
        return max(self.floor_ns, self._needed_since_ns())

    def _needed_since_ns(self) -> int:
        assert self.book is not None
        return self.clock() - self.book.rules.shaping.horizon_ns - _SLACK_NS


def _names(text: str | None) -> list[str]:
    """What was kept as a JSON list; nothing where it is none."""
    try:
        names = json.loads(text or "[]")
    except ValueError:
        return []
    return [n for n in names if isinstance(n, str)] if isinstance(names, list) else []


@contextlib.contextmanager
def watchdog(notifier: Notifier) -> Iterator[None]:
    """Feed systemd's watchdog from the event loop, so that a loop that hangs is noticed."""
    if notifier.watchdog_seconds is None:
        yield
        return
    seconds = notifier.watchdog_seconds

    async def feed() -> None:
        while True:
            notifier.alive()
            await asyncio.sleep(seconds)

    task = asyncio.create_task(feed())
    try:
        yield
    finally:
        task.cancel()
