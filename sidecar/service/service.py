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
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping

from sidecar import __version__
from sidecar.automation.decide import Outcome
from sidecar.automation.matching import Candidate
from sidecar.automation.pipeline import Tally, candidates
from sidecar.faults import reached
from sidecar.log.reading import Batch
from sidecar.log.tail import Tail
from sidecar.problems import Problem
from sidecar.publish.metrics import Metrics
from sidecar.shaping.mx import DnsResolver, Resolver
from sidecar.store import Saved, Store, StoreError, StoreLostError, Transaction
from sidecar.systemd import Notifier
from sidecar.times import NS, format_rfc3339

from .checkpoints import to_rows
from .logging import Log
from .mx import resolve_all
from .published import Published
from .publisher import Publisher
from .rules import RuleBook
from .state import restore, transaction

_COMMIT_SECONDS = 0.5
"""How long what has no outcome (a position, a threshold's count) may wait for its commit."""

_COPY = "copy:"
"""Before the URL in the name under which the state file keeps the last good copy."""

_RETRY_SECONDS = (0.1, 0.5, 2.0, 5.0, 15.0)
_NAMES_KEPT = 20
_TICK_SECONDS = 1.0
_TIDY_SECONDS = 60.0


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
        self._store = store
        self._resolver = resolver
        self._log = log
        self._metrics = metrics
        self.clock = clock
        self.automation, problems = restore(saved)
        for problem in problems:
            log.problem(problem)
        self.automation.expire(clock())
        self.view = Published(self.automation.entries)
        self.counters: dict[str, int] = dict(saved.counters)
        self.copies: dict[str, str] = {
            name.removeprefix(_COPY): text
            for name, text in saved.meta.items()
            if name.startswith(_COPY)
        }
        """The last good text of each shaping file that comes by HTTP."""
        self._checkpoints = dict(saved.checkpoints)
        self.kumod_ids: dict[str, str] = dict(saved.kumod_ids)
        self._pending = Transaction()
        self._pending_since: float | None = None
        self._commit_failure: Problem | None = None
        self._lock = asyncio.Lock()
        self._started_ns = clock()
        self.lost_names: deque[str] = deque(maxlen=_NAMES_KEPT)
        """The latest segments that were deleted before they were wholly read."""
        self._newest_ns = 0
        self.book: RuleBook | None = None
        self.publisher: Publisher | None = None

    # Reading.

    async def follow(self, tail: Tail, *, follow: bool) -> None:
        """Process batches: for ever, or until all that is there now has been."""
        async for batch in tail.blocks(follow=follow):
            await self.process(batch)
        await self.flush()

    async def flush(self) -> None:
        """Commit what is pending."""
        async with self._lock:
            await self._commit(always=True)

    async def process(self, batch: Batch) -> None:
        """One batch, from its lines to its commit and the word to publish it."""
        assert self.book is not None
        reached("batch-read")
        rules = self.book.rules
        tally, found = Tally(), list[Candidate]()
        for block in batch.blocks:
            found += candidates(
                rules.prefilter.lines(block.data),
                matcher=rules.matcher,
                skip_types=rules.settings.skip_record_types,
                tally=tally,
            )
        mx = await resolve_all(found, self._resolver)
        async with self._lock:
            outcome = self.automation.apply(
                found, shaping=rules.shaping, mx=mx, now_ns=self.clock()
            )
            reached("batch-decided")
            changes = transaction(self.automation, outcome)
            self._note_positions(batch, changes)
            self._count(batch, tally, outcome)
            changes.counters = dict(self.counters)
            self._pending.add(changes)
            self._note_answers()
            await self._commit(always=bool(outcome.entries))
            self._publish(outcome)

    def _note_positions(self, batch: Batch, changes: Transaction) -> None:
        changes.checkpoints, changes.forget_segments = to_rows(batch)
        for name in changes.forget_segments:
            self._checkpoints.pop(name, None)
        self._checkpoints.update(changes.checkpoints)

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
        self.lost_names.extend(batch.lost)
        metrics.bytes_read.inc(sum(len(b.data) for b in batch.blocks))
        for reason in ("no_tenant", "no_site", "no_domain", "bad_recipient"):
            if count := outcome.counts[reason]:
                metrics.unusable.labels(reason).inc(count)
        if tally.newest_ns:
            self._newest_ns = max(self._newest_ns, tally.newest_ns)
            metrics.lag_seconds.set((self.clock() - tally.newest_ns) / NS)

    def _note_answers(self) -> None:
        """Keep what the DNS said, so that an outage does not drop rules at the next start."""
        if isinstance(self._resolver, DnsResolver):
            for domain, answer in self._resolver.take_changes().items():
                if answer is None:
                    self._pending.mx.pop(domain, None)
                    self._pending.drop_mx.add(domain)
                else:
                    self._pending.mx[domain] = answer

    def keep_kumod_ids(self, ids: Mapping[str, str | None]) -> None:
        """Have the ids that kumod gave (None: taken back) committed."""
        self._pending.kumod_ids.update(ids)
        self._pending_since = self._pending_since or time.monotonic()
        for key, given in ids.items():
            if given is None:
                self.kumod_ids.pop(key, None)
            else:
                self.kumod_ids[key] = given

    def keep_copies(self) -> None:
        """Have the last good copies of remote shaping files, and DNS answers, committed."""
        self._pending.meta |= {_COPY + url: text for url, text in self.copies.items()}
        self._note_answers()

    # Committing.

    async def _commit(self, *, always: bool) -> None:
        """Commit what is pending, now (`always`) or when it has waited long enough.

        A disk that is full or broken holds up what comes behind: it is tried
        again until it works, and nothing is published that is not committed.
        """
        now = time.monotonic()
        if self._pending_since is None:
            self._pending_since = now
        if not always and now - self._pending_since < _COMMIT_SECONDS:
            return
        failures = 0
        while not self._try_commit():
            await asyncio.sleep(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])
            failures += 1

    def _try_commit(self) -> bool:
        if not self._pending:
            self._pending_since = None
            return True
        reached("before-commit")
        try:
            self._store.commit(self._pending)
        except StoreLostError as error:
            # The file was damaged or taken away, and its successor is empty.
            self._log.problem(error.problem)
            self._pending = self._everything()
            return False
        except StoreError as error:
            if self._commit_failure is None:
                self._log.problem(error.problem)
            self._commit_failure = error.problem
            return False
        reached("after-commit")
        if self._commit_failure is not None:
            self._log.info("the state file can be written again")
            self._commit_failure = None
        self._pending = Transaction()
        self._pending_since = None
        return True

    def _everything(self) -> Transaction:
        """The whole state, what is pending included."""
        whole = transaction(
            self.automation, Outcome(entries={e.key: e for e in self.automation.entries})
        )
        for scope, window in self.automation.thresholds.scopes():
            whole.threshold_counts.update(
                {(scope, second): count for second, count in window.items()}
            )
        whole.checkpoints = dict(self._checkpoints)
        whole.counters = dict(self.counters)
        whole.kumod_ids = dict(self.kumod_ids)
        whole.meta |= {_COPY + url: text for url, text in self.copies.items()}
        whole.mx = dict(self._resolver.export()) if isinstance(self._resolver, DnsResolver) else {}
        return whole

    def _publish(self, outcome: Outcome) -> None:
        if outcome.entries or outcome.dropped:
            self.view.commit(outcome)
            if self.publisher is not None:
                self.publisher.changed(outcome.events)

    # Time.

    async def expire_for_ever(self) -> None:
        """End entries when their time comes; commit what has waited; tidy now and then."""
        tidied = time.monotonic()
        while True:
            self.expire()
            async with self._lock:
                if self._pending_since is not None:
                    self._try_commit()
                if time.monotonic() - tidied > _TIDY_SECONDS:
                    tidied = time.monotonic()
                    idle = set(self.automation.forget_idle_thresholds())
                    self._pending.add(Transaction(drop_thresholds=idle))
            upcoming = self.view.entries.next_expiry()
            seconds = _TICK_SECONDS
            if upcoming is not None:
                seconds = min(seconds, max(0.0, (upcoming - self.clock()) / NS))
            await asyncio.sleep(seconds)

    def expire(self) -> None:
        """End the entries whose time has come: in the view at once, in the state soon after."""
        now_ns = self.clock()
        outcome = self.automation.expire(now_ns)
        if outcome.dropped:
            self._pending.add(transaction(self.automation, outcome))
            self._pending_since = self._pending_since or time.monotonic()
        if self.view.expire(now_ns) and self.publisher is not None:
            self.publisher.changed()

    # Telling.

    def status(self) -> bytes:
        """The status document, JSON."""
        assert self.publisher is not None
        rules = None if self.book is None else self.book.rules
        entries: dict[str, int] = {}
        for entry in self.view.entries:
            entries[entry.kind] = entries.get(entry.kind, 0) + 1
        failures = [p for p in (self._commit_failure, self.publisher.failure) if p is not None]
        if self.book is not None:
            failures += self.book.failure
        document = {
            "version": __version__,
            "pid": os.getpid(),
            "started": format_rfc3339(self._started_ns),
            "newest_record": format_rfc3339(self._newest_ns) if self._newest_ns else None,
            "entries": entries,
            "overlay_version": self.publisher.version,
            "reserved_names": dict(self.view.overlay.reserved),
            "left_out": list(self.view.overlay.rejected.values()),
            "counters": dict(sorted(self.counters.items())),
            "rules": 0 if rules is None else len(rules.shaping.all_rules()),
            "files": [] if rules is None else [f.name for f in rules.shaping.files],
            "warnings": [] if rules is None else [str(p) for p in rules.problems],
            "errors": [str(p) for p in failures],
            "segments_lost": list(self.lost_names),
        }
        return json.dumps(document, ensure_ascii=False).encode("utf-8", "backslashreplace")


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
