"""The ledger: what the state file keeps, as it is in memory, and what is still to be committed.

In: what the state file holds, then what each batch changes.  Out: transactions;
what they lead to is handed back once it is committed, to be published.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from sidecar.automation.decide import Outcome
from sidecar.automation.episodes import Ended
from sidecar.automation.group import GroupAutomation
from sidecar.automation.offences import OFFENCE
from sidecar.automation.waiting import Waiting
from sidecar.automation.waiting import from_payload as waiting_from_payload
from sidecar.log.batches import Batch
from sidecar.problems import Problem, ProblemError
from sidecar.settings import Fixed
from sidecar.shaping.mx import DnsResolver, Resolver
from sidecar.store import CheckpointRow, Saved, Store, Transaction
from sidecar.times import NS

from .checkpoints import to_rows
from .commits import Commits
from .logging import Log
from .places import (
    WORD,
    mark_rows,
    place_of,
    place_rows,
    sources_of,
    sources_row,
    watermark_rows,
)
from .state import ended_of, kept_holds, number, progress, restore, transaction
from .told import Told
from .words import is_old

if TYPE_CHECKING:
    from .notify import Notifications

_COPY = "copy:"
"""Before the URL in the name under which the state file keeps the last good copy."""

_DAY_NS = 86400 * NS
_PAST = 500
"""How many ended episodes are kept in memory, for the page; it shows fewer."""

_ANSWER = "answer:"
"""Before the name of an order in the name under which its answer is kept."""

_FLOOR = "floor_ns"
_COMMITTED = "committed_ns"
_LOST = "segments_lost"
_SIMULATED = "simulated"
_NAMES_KEPT = 20


def refuse_other_kind(saved: Saved, settings: Fixed) -> None:
    """Raise ProblemError where the state is a real run's and this one simulates, or the reverse.

    A simulation moves the log's position on without an effect, and what is in force in a
    real run's state would never end on the roads, which it must not use.
    """
    if not saved.checkpoints and not saved.entries:
        return
    simulated = _SIMULATED in saved.meta
    if simulated != settings.simulate:
        whose = "of a run with --simulate" if simulated else "of a run that is not simulated"
        message = f"is the state {whose}: name another with --state or TSA_SIDECAR_STATE"
        raise ProblemError.one("state-of-other-kind", message, file=str(settings.state))


class Ledger:
    """The state in memory, what is pending included, and the way of each change to the store."""

    def __init__(
        self,
        store: Store,
        saved: Saved,
        *,
        resolver: Resolver,
        log: Log,
        clock: Callable[[], int],
        took: Callable[[float], object] = lambda _seconds: None,
        simulate: bool = False,
        notifications: Notifications | None = None,
        group: bool = False,
    ) -> None:
        self._resolver = resolver
        self._notifications = notifications
        self._clock = clock
        self._kind = {_SIMULATED: "1"} if simulate else {}
        self.automation, cleaning, problems = restore(saved, group=group)
        for problem in problems:
            log.problem(problem)
        gone = self.automation.expire(clock())
        rows = store.ended(clock() - _DAY_NS, _PAST)
        self._past: deque[Ended] = deque(ended_of(rows), maxlen=_PAST)
        self.waiting: dict[int, str] = dict(saved.waiting)
        """Records that wait for an MX, by number."""
        self.counters: dict[str, int] = dict(saved.counters)
        """Counts since the state was made, by name."""
        self.copies: dict[str, str] = {
            name.removeprefix(_COPY): text
            for name, text in saved.meta.items()
            if name.startswith(_COPY)
        }
        """The last good text of each shaping file that comes by HTTP, by URL."""
        self._copies_kept = dict(self.copies)
        self.answers: dict[str, str] = {
            name.removeprefix(_ANSWER): text
            for name, text in saved.meta.items()
            if name.startswith(_ANSWER)
        }
        """What operators were answered, or are to be, by the name of their order."""
        self.words: dict[str, str] = {
            name.removeprefix(WORD): text
            for name, text in saved.meta.items()
            if name.startswith(WORD)
        }
        """What this host's operators said to its group, by the name of their order."""
        self.sources: set[str] = set(sources_of(saved.meta))
        """The egress sources that this host's own log has shown, where that matters."""
        self.place = place_of(saved.meta)
        """Where it is in its group's stream."""
        self.checkpoints: dict[str, CheckpointRow] = dict(saved.checkpoints)
        """How far each segment has been read."""
        self.told = Told(saved.meta, saved.checkpoints, clock=clock) if group else None
        """Which own segments the group may take for told; None where there is no group."""
        self.kumod_ids: dict[str, str] = dict(saved.kumod_ids)
        """The ids that kumod gave, by the entry's key."""
        self.lost_names: deque[str] = deque(_names(saved.meta.get(_LOST)), maxlen=_NAMES_KEPT)
        """The latest segments that were deleted before they were wholly read."""
        self.floor_ns = number(saved.meta, _FLOOR)
        """Of segments finished before this moment it is not known any more what was read."""
        self.committed_ns = number(saved.meta, _COMMITTED)
        """When the last run committed what it had read."""
        self.commits = Commits(
            store,
            everything=self.everything,
            log=log,
            took=took,
            tell=(lambda _outcome: {}) if notifications is None else notifications.rows_of,
        )
        if notifications is not None:
            notifications.attach(self.commits)
        for problem in self._drop_damaged(cleaning):
            log.problem(problem)
        self.commits.add(cleaning)
        self.commits.add_unpublished(gone)

    def changes(
        self, batch: Batch, counts: Counter[str], waiting: Iterable[Waiting] = ()
    ) -> Transaction:
        """What a batch whose records have been decided, or wait, changes, but for the entries."""
        changes = Transaction(waiting={one.number: one.to_payload() for one in waiting})
        self.note_positions(batch, changes)
        changes.meta |= self._meta()
        self._note_decided(counts, changes)
        self.waiting |= changes.waiting
        return changes

    def heard_changes(self, counts: Counter[str], waiting: Iterable[Waiting]) -> Transaction:
        """What another host's records change, but for the entries."""
        changes = Transaction(waiting={one.number: one.to_payload() for one in waiting})
        self._note_decided(counts, changes)
        self.waiting |= changes.waiting
        return changes

    def late_changes(self, decided: Iterable[Waiting], counts: Counter[str]) -> Transaction:
        """What records change that have waited and are decided now, but for the entries."""
        changes = Transaction(drop_waiting={one.number for one in decided})
        self._note_decided(counts, changes)
        for one in changes.drop_waiting:
            self.waiting.pop(one, None)
        return changes

    def note_ended(self, ended: Iterable[Ended]) -> None:
        """Remember what ended, for :meth:`past`."""
        self._past.extend(ended)

    def past(self) -> list[Ended]:
        """What ended within a day, the latest last; the latest of very many."""
        since_ns = self._clock() - _DAY_NS
        return [ended for ended in self._past if ended.at_ns >= since_ns]

    def waited(self) -> list[Waiting]:
        """The records that wait."""
        return [waiting_from_payload(payload) for payload in self.waiting.values()]

    def _drop_damaged(self, cleaning: Transaction) -> Iterator[Problem]:
        """Have `cleaning` take what waits and can't be read out of the state file."""
        for key, payload in list(self.waiting.items()):
            try:
                waiting_from_payload(payload)
            except ValueError as error:
                del self.waiting[key]
                cleaning.drop_waiting.add(key)
                message = f"a record that waits in the state file was left out: {error}"
                yield Problem("warning", "state-entry", message)

    def _note_decided(self, counts: Counter[str], changes: Transaction) -> None:
        """Have counts, answers and the automation's progress committed with `changes`."""
        for name, count in counts.items():
            if count:
                self.counters[name] = self.counters.get(name, 0) + count
        changes.counters = dict(self.counters)
        changes.add(self._answers())
        # Last: a mistake in the above must not leave half a batch to be committed.
        changes.add(progress(self.automation))

    def note_positions(self, batch: Batch, changes: Transaction) -> None:
        """Have the position behind `batch` committed with `changes`."""
        changes.checkpoints, changes.forget_segments = to_rows(batch)
        for name in changes.forget_segments:
            self.checkpoints.pop(name, None)
        self.checkpoints.update(changes.checkpoints)
        if self.told is not None:
            changes.add(self.told.note(batch))
        self.lost_names.extend(batch.lost)

    def keep_kumod_ids(self, ids: Mapping[str, str | None]) -> None:
        """Have the ids that kumod gave (None: taken back) committed."""
        self.commits.add(Transaction(kumod_ids=dict(ids)))
        for key, given in ids.items():
            if given is None:
                self.kumod_ids.pop(key, None)
            else:
                self.kumod_ids[key] = given

    def keep_answer(self, name: str, answer: str) -> Transaction:
        """Keep the answer to an order, so that it is not carried out twice."""
        self.answers[name] = answer
        return Transaction(meta={_ANSWER + name: answer})

    def forget_answer(self, name: str) -> Transaction:
        """Forget the answer to an order that is there no more."""
        self.answers.pop(name, None)
        return Transaction(drop_meta={_ANSWER + name})

    def keep_word(self, name: str, text: str) -> Transaction:
        """Keep what the group is to be told of this host's operators."""
        self.words[name] = text
        return Transaction(meta={WORD + name: text})

    def keep_sources(self, new: Iterable[str]) -> None:
        """Have egress sources committed that this host's own log has shown."""
        self.sources.update(new)
        self.commits.add(sources_row(self.sources))

    def forget_words(self, now_ns: int) -> Transaction:
        """Forget the words that are so old that nobody needs them any more."""
        old = {name for name, text in self.words.items() if is_old(text, now_ns)}
        for name in old:
            del self.words[name]
        return Transaction(drop_meta={WORD + name for name in old})

    def keep_copies(self, wanted: Iterable[str]) -> None:
        """Have the last good copies of the remote shaping files in `wanted` committed, no others.

        DNS answers that came with a load of the rules are committed as well.
        """
        names = set(wanted)
        for url in self.copies.keys() - names:
            del self.copies[url]
        new = {
            _COPY + url: text
            for url, text in self.copies.items()
            if self._copies_kept.get(url) != text
        }
        gone = {_COPY + url for url in self._copies_kept.keys() - names}
        self._copies_kept = dict(self.copies)
        changes = Transaction(meta=new, drop_meta=gone)
        changes.add(self._answers())
        self.commits.add(changes)

    def everything(self) -> Transaction:
        """The whole state, what is pending included, for a store that lost its file."""
        whole = transaction(
            self.automation,
            Outcome({e.key: e for e in self.automation.entries}, episodes=self.automation.episodes),
        )
        for scope, window in self.automation.thresholds.scopes():
            whole.threshold_counts.update(
                {(scope, second): count for second, count in window.items()}
            )
        whole.checkpoints = dict(self.checkpoints)
        whole.counters = dict(self.counters)
        whole.kumod_ids = dict(self.kumod_ids)
        whole.waiting = dict(self.waiting)
        if self._notifications is not None:
            whole.outbox |= self._notifications.rows()
        whole.meta |= self._meta()
        whole.meta |= {
            OFFENCE + key: found.to_payload() for key, found in self.automation.offences.items()
        }
        if self.place.epoch:
            whole.add(place_rows(self.place))
            whole.add(mark_rows(self.place.marks))
            whole.add(watermark_rows(self.place.watermarks))
        if self.told is not None:
            whole.meta |= self.told.rows()
        if self.sources:
            whole.add(sources_row(self.sources))
        whole.meta |= {WORD + name: text for name, text in self.words.items()}
        if isinstance(self.automation, GroupAutomation):
            whole.meta |= {name: text for name, text in self.automation.kept().items() if text}
        whole.add(kept_holds(self.automation.holds))
        whole.meta |= {_COPY + url: text for url, text in self.copies.items()}
        if isinstance(self._resolver, DnsResolver):
            whole.mx = dict(self._resolver.export())
        return whole

    def _meta(self) -> dict[str, str]:
        return {
            _FLOOR: str(self.floor_ns),
            _LOST: json.dumps(list(self.lost_names)),
            _COMMITTED: str(self._clock()),
            **self._kind,
        }

    def _answers(self) -> Transaction:
        """What the DNS said lately, kept so that an outage drops no rules at the next start."""
        changes = Transaction()
        if isinstance(self._resolver, DnsResolver):
            for domain, answer in self._resolver.take_changes().items():
                if answer is None:
                    changes.drop_mx.add(domain)
                else:
                    changes.mx[domain] = answer
        return changes


def _names(text: str | None) -> list[str]:
    """What was kept as a JSON list; nothing where it is none."""
    try:
        names = json.loads(text or "[]")
    except ValueError:
        return []
    return [n for n in names if isinstance(n, str)] if isinstance(names, list) else []
