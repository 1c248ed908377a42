"""What the store keeps, as values: rows in, the same rows out.

The store knows rows, not rules: ``payload`` and the MX answers are texts made
and read elsewhere, keys are whatever their owners chose.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

_Key = TypeVar("_Key")
_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """How far one segment has been read.

    ``inode`` and ``fingerprint`` (text made by the log room, opaque here) tell
    the segment from another of the same name, ``content`` is a fingerprint of
    its decompressed beginning, which survives recompression.  ``offset`` counts
    decompressed bytes, ``frame_start`` compressed ones, ``frame_offset`` is the
    decompressed offset of ``frame_start``; ``lines`` counts from the segment's
    start.  ``done``: finished and wholly read.
    """

    inode: int
    fingerprint: str
    offset: int
    lines: int
    frame_start: int
    frame_offset: int
    done: bool
    content: str = ""


@dataclass(frozen=True, slots=True)
class EntryRow:
    """One entry in force: ``payload`` is JSON, ``expires_ns`` Unix nanoseconds, ``seq`` its order.

    ``kind`` is ``override``, ``ready_q``, ``sched_q`` or ``bounce``; ``episode`` the
    entry's story as JSON, "" where none is kept.
    """

    key: str
    kind: str
    payload: str
    expires_ns: int
    seq: int
    episode: str = ""


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One entry that is in force no more: the texts of its row, when and how it ended.

    ``by`` and ``reason`` are an operator's; "" where nobody had a hand in it.
    """

    ended_ns: int
    kind: str
    payload: str
    episode: str
    how: str
    by: str = ""
    reason: str = ""


@dataclass(slots=True)
class Transaction:
    """What one batch changes.  Absolute values throughout, so committing it twice is harmless.

    Within a transaction removals come first, whatever they remove: what is put
    under the same name stays.

    ========================  =====================================================
    ``checkpoints``           segment name → how far it has been read
    ``forget_segments``       names of segments that no longer exist
    ``entries``               key → entry, new or changed
    ``drop_entries``          keys of entries expired or removed
    ``history``               id of an episode → how it ended
    ``prune_history``         (moment, count): only what ended since then, and the newest
                              so many, is kept
    ``threshold_counts``      (scope, Unix second) → matches in that second; 0 removes
    ``prune_thresholds``      scope → the first Unix second that still counts
    ``drop_thresholds``       scopes whose counts all go
    ``waiting``               number → record that waits for an answer, as JSON
    ``drop_waiting``          numbers of records that wait no more
    ``outbox``                key → what notifications keep, as JSON; None removes it
    ``mx``, ``drop_mx``       domain → answer as JSON; domains to forget
    ``counters``              name → value since the state was made
    ``kumod_ids``             entry key → id that kumod gave it; None forgets it
    ``meta``, ``drop_meta``   name → value; names to forget
    ========================  =====================================================
    """

    checkpoints: dict[str, CheckpointRow] = field(default_factory=dict)
    forget_segments: set[str] = field(default_factory=set)
    entries: dict[str, EntryRow] = field(default_factory=dict)
    drop_entries: set[str] = field(default_factory=set)
    history: dict[int, HistoryRow] = field(default_factory=dict)
    prune_history: tuple[int, int] | None = None
    threshold_counts: dict[tuple[str, int], int] = field(default_factory=dict)
    prune_thresholds: dict[str, int] = field(default_factory=dict)
    drop_thresholds: set[str] = field(default_factory=set)
    waiting: dict[int, str] = field(default_factory=dict)
    drop_waiting: set[int] = field(default_factory=set)
    outbox: dict[str, str | None] = field(default_factory=dict)
    mx: dict[str, str] = field(default_factory=dict)
    drop_mx: set[str] = field(default_factory=set)
    counters: dict[str, int] = field(default_factory=dict)
    kumod_ids: dict[str, str | None] = field(default_factory=dict)
    meta: dict[str, str] = field(default_factory=dict)
    drop_meta: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return any(
            (
                self.checkpoints,
                self.forget_segments,
                self.entries,
                self.drop_entries,
                self.history,
                self.prune_history,
                self.threshold_counts,
                self.prune_thresholds,
                self.drop_thresholds,
                self.waiting,
                self.drop_waiting,
                self.outbox,
                self.mx,
                self.drop_mx,
                self.counters,
                self.kumod_ids,
                self.meta,
                self.drop_meta,
            )
        )

    def add(self, later: Transaction) -> None:
        """Make this the transaction that does what this one and then `later` would do.

        For a caller whose disk is full: what couldn't be committed stays as
        large as the keys it names, however many batches are added.
        """
        _replace(self.checkpoints, self.forget_segments, later.checkpoints, later.forget_segments)
        _replace(self.entries, self.drop_entries, later.entries, later.drop_entries)
        _replace(self.mx, self.drop_mx, later.mx, later.drop_mx)
        _replace(self.waiting, self.drop_waiting, later.waiting, later.drop_waiting)
        self.history.update(later.history)
        self.prune_history = later.prune_history or self.prune_history
        self._add_thresholds(later)
        self.counters.update(later.counters)
        self.kumod_ids.update(later.kumod_ids)
        self.outbox.update(later.outbox)
        _replace(self.meta, self.drop_meta, later.meta, later.drop_meta)

    def _add_thresholds(self, later: Transaction) -> None:
        def outlives(scope: str, second: int) -> bool:
            first = later.prune_thresholds.get(scope, second)
            return scope not in later.drop_thresholds and second >= first

        if later.prune_thresholds or later.drop_thresholds:
            self.threshold_counts = {
                (scope, second): count
                for (scope, second), count in self.threshold_counts.items()
                if outlives(scope, second)
            }
        self.threshold_counts.update(later.threshold_counts)
        self.drop_thresholds |= later.drop_thresholds
        for scope, first in later.prune_thresholds.items():
            self.prune_thresholds[scope] = max(first, self.prune_thresholds.get(scope, first))


def _replace(
    puts: dict[_Key, _Row], drops: set[_Key], later_puts: dict[_Key, _Row], later_drops: set[_Key]
) -> None:
    for key in later_drops:
        puts.pop(key, None)
    drops |= later_drops
    puts.update(later_puts)


@dataclass(slots=True)
class Saved:
    """Everything the store holds, in the shapes of :class:`Transaction`."""

    checkpoints: dict[str, CheckpointRow] = field(default_factory=dict)
    entries: dict[str, EntryRow] = field(default_factory=dict)
    history: dict[int, HistoryRow] = field(default_factory=dict)
    threshold_counts: dict[tuple[str, int], int] = field(default_factory=dict)
    mx: dict[str, str] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    kumod_ids: dict[str, str] = field(default_factory=dict)
    waiting: dict[int, str] = field(default_factory=dict)
    outbox: dict[str, str] = field(default_factory=dict)
    meta: dict[str, str] = field(default_factory=dict)

    def as_transaction(self) -> Transaction:
        """The transaction that writes all of this into an empty store."""
        return Transaction(
            checkpoints=dict(self.checkpoints),
            entries=dict(self.entries),
            history=dict(self.history),
            threshold_counts=dict(self.threshold_counts),
            mx=dict(self.mx),
            counters=dict(self.counters),
            kumod_ids=dict(self.kumod_ids),
            waiting=dict(self.waiting),
            outbox=dict(self.outbox),
            meta=dict(self.meta),
        )
