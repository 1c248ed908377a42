"""Taking over the state of a backup, of another host, or of a kumo-tsa-daemon.

In: an open store and what is to be taken over.  The store is locked, so no service
uses it.  Out: one transaction, forced to the disk.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from sidecar.automation.decide import Automation, Outcome
from sidecar.automation.entries import Entry
from sidecar.problems import Problem, ProblemError
from sidecar.shaping.rules import Rule
from sidecar.store import Saved, Store, StoreError, Transaction
from sidecar.store.tsa_daemon import TsaDaemonState, threshold_counts

from .notify import rows_of_ended
from .orders import Answer, Order, carry_out
from .places import HEARD
from .state import restore, transaction
from .told import FLOOR, LATE


@dataclass(frozen=True, slots=True)
class TakenOver:
    """What was taken over from a kumo-tsa-daemon, and why the rest was not."""

    entries: int
    counted_seconds: int
    problems: tuple[Problem, ...] = field(default=())


def load(store: Store) -> Saved:
    """What the store holds.  Raises ProblemError where it can't be read."""
    try:
        return store.load()
    except StoreError as error:
        raise ProblemError([error.problem]) from None


def next_seq(saved: Saved) -> int:
    """The number for the next match."""
    return restore(saved)[0].seq + 1


def put_in_place(store: Store, imported: Saved, *, replace: bool, file: str) -> None:
    """Make `imported` the state.  ProblemError where there is one, unless `replace` is set."""
    current = load(store)
    if (current.entries or current.checkpoints) and not replace:
        raise ProblemError.one(
            "state-not-empty",
            f"holds {len(current.entries)} entries and {len(current.checkpoints)} segments: "
            "--replace puts the import in their place (`tsa-sidecar state export` keeps them)",
            file=file,
        )
    changes = imported.as_transaction()
    changes.drop_entries = set(current.entries)
    changes.forget_segments = set(current.checkpoints)
    gone_meta = {name for name in current.meta if name.startswith((FLOOR, LATE, *HEARD))}
    changes.drop_meta = gone_meta - changes.meta.keys()
    changes.drop_thresholds = {scope for scope, _ in current.threshold_counts}
    changes.drop_mx = set(current.mx)
    gone: dict[str, str | None] = dict.fromkeys(current.kumod_ids)
    changes.kumod_ids = gone | changes.kumod_ids
    told: dict[str, str | None] = dict.fromkeys(current.outbox)
    changes.outbox = told | changes.outbox
    _store(store, changes)


def carry_out_in(store: Store, order: Order, now_ns: int) -> tuple[Answer, Automation]:
    """Do what an operator orders in a state that no service uses; the automation behind it."""
    saved = load(store)
    automation, cleaning, _ = restore(saved)
    outcome = automation.expire(now_ns)
    done = carry_out(automation, order, now_ns, None)
    outcome.add(done.outcome)
    changes = cleaning
    changes.add(transaction(automation, outcome))
    changes.add(done.changes)
    changes.outbox |= rows_of_ended(saved.outbox, outcome.ended)
    _store(store, changes)
    return done.answer, automation


def take_over(
    store: Store,
    daemon: TsaDaemonState,
    *,
    rules: Iterable[Rule],
    from_end: bool,
    file: str,
) -> TakenOver:
    """Add what `daemon` knew to the state.

    Of an entry that both know, the one that expires later stays.  Histories of
    thresholds are taken only where the log will be read from its end on
    (`from_end`, and nothing read yet).  Else the log has the same events, and they
    would count twice.
    """
    current = load(store)
    automation, _, problems = restore(current)
    taken = [e for e in daemon.entries if _is_news(automation, e)]
    counts: dict[tuple[str, int], int] = {}
    if daemon.histories:
        if from_end and not current.checkpoints:
            counts, left = threshold_counts(daemon.histories, rules, file=file)
            problems += left
        else:
            problems.append(_left_histories(len(daemon.histories), file))
    _store(store, _additions(automation, taken, counts))
    return TakenOver(len(taken), len(counts), tuple(problems))


def _is_news(automation: Automation, entry: Entry) -> bool:
    known = automation.entries.get(entry.key)
    return known is None or known.expires_ns < entry.expires_ns


def _left_histories(count: int, file: str) -> Problem:
    return Problem(
        "warning",
        "histories-left",
        f"the histories of {count} thresholds are left out: the log is read from before their "
        "end and tells them again (they are taken over with --from end into an empty state)",
        file=file,
        where="event_history",
    )


def _additions(
    automation: Automation, entries: Iterable[Entry], counts: dict[tuple[str, int], int]
) -> Transaction:
    outcome = Outcome()
    for entry in entries:
        automation.restore(entry, automation.episodes.get(entry.key))
        outcome.put(entry.key, entry, automation.episodes[entry.key])
        automation.seq = max(automation.seq, entry.seq)
    changes = transaction(automation, outcome)
    changes.threshold_counts |= counts
    return changes


def _store(store: Store, changes: Transaction) -> None:
    try:
        store.commit(changes)
        store.make_durable()
    except StoreError as error:
        raise ProblemError([error.problem]) from None
