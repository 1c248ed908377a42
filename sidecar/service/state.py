"""The automation's state as rows of the store, and back.

In: what a batch changed.  Out: the :class:`Transaction` that commits it.  In:
what the store holds at start.  Out: an :class:`Automation` as it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import cast, get_args

from sidecar.automation.decide import Automation, Outcome, scope_period
from sidecar.automation.entries import Entry, from_payload, to_payload
from sidecar.automation.episodes import Ended, Episode, How, episode_from_payload
from sidecar.automation.group import KEPT, GroupAutomation
from sidecar.automation.holds import RuleHold, hold_from_payload
from sidecar.automation.offences import OFFENCE, offence_from_payload
from sidecar.problems import Problem
from sidecar.store import EntryRow, HistoryRow, Saved, Transaction

_SEQ = "seq"
_NEWEST = "newest_ns"
_EPISODE = "episode_id"
_HOLD = "hold:"
"""Before the id in the name under which the state file keeps an operator's hold."""


def restore(
    saved: Saved, *, group: bool | None = None
) -> tuple[Automation, Transaction, list[Problem]]:
    """The automation that the store holds, of a sidecar in a group or alone (None: as it was).

    Rows that can't be read are left out and reported.  The transaction removes
    them from the store, and keeps the ids of entries that had none, so that this
    happens once.
    """
    if group is None:
        group = any(name.startswith(KEPT) for name in saved.meta)
    automation = GroupAutomation() if group else Automation()
    cleaning, problems = Transaction(), list[Problem]()
    seq = number(saved.meta, _SEQ)
    automation.episode_id = number(saved.meta, _EPISODE)
    nameless: list[tuple[EntryRow, Entry]] = []
    for key, row in saved.entries.items():
        try:
            entry = from_payload(row.kind, row.payload)
        except ValueError as e:
            cleaning.drop_entries.add(key)
            problems.append(_left_out(f"entry {key}", e))
            continue
        story = _episode(row, problems)
        if story is None:
            nameless.append((row, entry))
            continue
        automation.restore(entry, story)
        automation.episode_id = max(automation.episode_id, story.id)
        # An imported entry may have a higher number than the counter.
        seq = max(seq, entry.seq)
    _restore_holds(saved, automation, cleaning, problems)
    for row, entry in nameless:
        automation.restore(entry)
        seq = max(seq, entry.seq)
        episode = automation.episodes[entry.key].to_payload()
        cleaning.entries[row.key] = replace(row, episode=episode)
    if nameless:
        cleaning.add(ids_given(automation))
    windows: dict[str, dict[int, int]] = {}
    for (scope, second), count in saved.threshold_counts.items():
        windows.setdefault(scope, {})[second] = count
    for scope, counts in windows.items():
        try:
            automation.thresholds.restore(scope, scope_period(scope), counts)
        except ValueError as e:
            cleaning.drop_thresholds.add(scope)
            problems.append(_left_out(f"threshold {scope!r}", e))
    for name, payload in saved.meta.items():
        if name.startswith(OFFENCE):
            try:
                offence = offence_from_payload(payload)
            except ValueError as e:
                cleaning.drop_meta.add(name)
                problems.append(_left_out(name, e))
            else:
                automation.offences.restore(name.removeprefix(OFFENCE), offence)
    _restore_group(saved, automation, cleaning, problems)
    automation.seq = seq
    automation.newest_ns = number(saved.meta, _NEWEST)
    automation.thresholds.take_changes()
    return automation, cleaning, problems


def _restore_group(
    saved: Saved, automation: Automation, cleaning: Transaction, problems: list[Problem]
) -> None:
    """Restore what a group's order asks for; of a sidecar that is alone now it is removed."""
    for name, payload in saved.meta.items():
        if not name.startswith(KEPT):
            continue
        if not isinstance(automation, GroupAutomation):
            cleaning.drop_meta.add(name)
            continue
        try:
            automation.restore_kept(name, payload)
        except ValueError as e:
            cleaning.drop_meta.add(name)
            problems.append(_left_out(name, e))


def holds(saved: Saved) -> list[RuleHold]:
    """What operators hold, as the store has it.  A damaged one is left out."""
    automation = Automation()
    _restore_holds(saved, automation, Transaction(), [])
    return list(automation.holds)


def _restore_holds(
    saved: Saved, automation: Automation, cleaning: Transaction, problems: list[Problem]
) -> None:
    for name, payload in saved.meta.items():
        if name.startswith(_HOLD):
            try:
                hold = hold_from_payload(payload)
                automation.hold(hold)
                automation.episode_id = max(automation.episode_id, hold.id)
            except ValueError as error:
                cleaning.drop_meta.add(name)
                problems.append(_left_out(name, error))


def ids_given(automation: Automation) -> Transaction:
    """The transaction that keeps the latest id, so that none is given twice."""
    return Transaction(meta={_EPISODE: str(automation.episode_id)})


def kept_holds(kept: Iterable[RuleHold], gone: Iterable[int] = ()) -> Transaction:
    """The transaction that keeps these holds, and forgets those with the ids in `gone`."""
    return Transaction(
        meta={f"{_HOLD}{hold.id}": hold.to_payload() for hold in kept},
        drop_meta={f"{_HOLD}{id_}" for id_ in gone},
    )


def _episode(row: EntryRow, problems: list[Problem]) -> Episode | None:
    """The story of an entry, where there is one that can be read."""
    if not row.episode:
        return None
    try:
        return episode_from_payload(row.episode)
    except ValueError as error:
        problems.append(_left_out(f"the episode of entry {row.key}", error))
        return None


def _left_out(what: str, error: ValueError) -> Problem:
    return Problem("warning", "state-entry", f"{what} in the state file was left out: {error}")


def number(meta: Mapping[str, str], name: str) -> int:
    """The count stored under `name`; 0 where there is none, or something else."""
    text = meta.get(name, "0")
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        return 0
    return found if (found := int(text)) < 2**62 else 0


def transaction(automation: Automation, outcome: Outcome) -> Transaction:
    """The changes of `outcome`, and of the automation since the last call."""
    changes = progress(automation)
    changes.add(effects(outcome))
    return changes


def effects(outcome: Outcome) -> Transaction:
    """The entries that `outcome` changes, and the history of those that ended."""
    changed = ((key, entry, outcome.episodes[key]) for key, entry in outcome.entries.items())
    counted = ((key, *known) for key, known in outcome.counted.items())
    return Transaction(
        entries={
            key: EntryRow(
                key,
                entry.kind,
                to_payload(entry),
                entry.expires_ns,
                entry.seq,
                story.to_payload(),
            )
            for key, entry, story in (*changed, *counted)
        },
        drop_entries=set(outcome.dropped),
        history={ended.episode.id: _history(ended) for ended in outcome.ended},
    )


def _history(ended: Ended) -> HistoryRow:
    entry = ended.entry
    return HistoryRow(
        ended.at_ns,
        entry.kind,
        to_payload(entry),
        ended.episode.to_payload(),
        ended.how,
        ended.by,
        ended.reason,
    )


def ended_of(rows: Iterable[HistoryRow]) -> Iterator[Ended]:
    """The history's rows as what they tell; those that can't be read are left out."""
    for row in rows:
        with contextlib.suppress(ValueError):
            entry, story = from_payload(row.kind, row.payload), episode_from_payload(row.episode)
            how = row.how if row.how in get_args(How) else "expired"
            yield Ended(entry, story, row.ended_ns, cast(How, how), row.by, row.reason)


def progress(automation: Automation) -> Transaction:
    """What has changed besides entries since the last call: thresholds, and the matches' number.

    It is taken for each batch, so that it is committed with the position behind it.
    """
    counts, oldest = automation.thresholds.take_changes()
    offences = automation.offences.take_changes()
    group = automation.take_changes() if isinstance(automation, GroupAutomation) else {}
    return Transaction(
        threshold_counts=counts,
        prune_thresholds=oldest,
        meta={
            _SEQ: str(automation.seq),
            _NEWEST: str(automation.newest_ns),
            _EPISODE: str(automation.episode_id),
            **{OFFENCE + key: found.to_payload() for key, found in offences.items() if found},
            **{name: text for name, text in group.items() if text is not None},
        },
        drop_meta={
            *(OFFENCE + key for key, found in offences.items() if found is None),
            *(name for name, text in group.items() if text is None),
        },
    )
