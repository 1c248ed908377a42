"""What is published: the committed entries that have not expired, and their texts.

In: outcomes, each after its commit, and the time.  Out: snapshots for the files
and the listener, changes for kumod's admin API.  All roads begin here, and no
simulated entry takes one: it is in ``entries`` only.  Entries expire here by
themselves, whether or not the disk can be written.  Each entry's text is made
once and kept, so that a change costs that entry, and joining the texts.
"""

from __future__ import annotations

import json
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping

from sidecar.automation.decide import Outcome
from sidecar.automation.entries import (
    Entries,
    Entry,
    Override,
    ReadyQSuspension,
    SchedQSuspension,
    Suspension,
    frame,
)
from sidecar.automation.overlay import RESERVED, Overlay
from sidecar.publish.holds import Changes, Hold, Target
from sidecar.publish.obey import Place, Setting
from sidecar.publish.snapshot import Snapshot

_Place = tuple[int, str]


class Published:
    """The committed entries in force, and their texts."""

    __slots__ = (
        "_aside",
        "_changed",
        "_held",
        "_order",
        "_overrides",
        "_simulated",
        "_texts",
        "entries",
        "overlay",
        "sources",
    )

    def __init__(self, entries: Iterable[Entry] = (), *, sources: set[str] | None = None) -> None:
        """`sources`: the egress sources whose options the overlay has; None: all."""
        self.sources = sources
        # The overrides of other sources, by key.
        self._aside: dict[str, Override] = {}
        self.entries = Entries()
        self.overlay = Overlay()
        # By kind: the place of each entry in the order of expiry, by key; the texts in that order.
        self._order: dict[str, dict[str, _Place]] = {"ready_q": {}, "sched_q": {}, "bounce": {}}
        self._texts: dict[str, list[tuple[_Place, str]]] = {kind: [] for kind in self._order}
        # The keys of the entries that are not published.
        self._simulated: set[str] = set()
        # The suspensions of each ready queue, by key.
        self._held: dict[str, dict[str, ReadyQSuspension]] = {}
        # What each suspension or bounce that changed holds now, by key; None: it is over.
        self._changed: dict[str, Hold | None] = {}
        # The overrides that changed, by key; None: it is over.
        self._overrides: dict[str, Override | None] = {}
        for entry in entries:
            self._put(entry)

    def commit(self, outcome: Outcome) -> None:
        """Add an outcome that has been committed."""
        for key in outcome.dropped:
            self._gone(self.entries.remove(key))
        for entry in outcome.entries.values():
            self._put(entry)

    def expire(self, now_ns: int) -> bool:
        """Remove what has expired at `now_ns`, and take the steps that are due.

        Returns whether anything has changed.
        """
        gone = self.entries.expire(now_ns)
        for entry in gone:
            self._gone(entry)
        stepped = self.overlay.advance(now_ns)
        self._overrides.update((override.key, override) for override in stepped)
        return bool(gone or stepped)

    def next_change(self) -> int | None:
        """A time not later than the next expiry or step; None when there is none."""
        times = (self.entries.next_expiry(), self.overlay.next_step())
        return min((time for time in times if time is not None), default=None)

    def _put(self, entry: Entry) -> None:
        self.entries.put(entry)
        if entry.simulated:
            self._simulated.add(entry.key)
            return
        if isinstance(entry, Override):
            if self.sources is not None and entry.source not in self.sources:
                self._aside[entry.key] = entry
                return
            self.overlay.put(entry)
            self._overrides[entry.key] = entry
            return
        key = entry.key
        self._take_out(entry)
        self._changed[key] = _hold(entry)
        place = self._order[entry.kind][key] = (entry.expires_ns, key)
        insort(self._texts[entry.kind], (place, compact_json(entry.answer())))
        if isinstance(entry, ReadyQSuspension):
            self._held.setdefault(entry.site, {})[key] = entry

    def _gone(self, entry: Entry | None) -> None:
        if entry is None:
            return
        if entry.simulated:
            self._simulated.discard(entry.key)
            return
        if self._aside.pop(entry.key, None) is not None:
            return
        if isinstance(entry, Override):
            self.overlay.remove(entry)
            self._overrides[entry.key] = None
            return
        self._take_out(entry)
        self._changed[entry.key] = None
        if isinstance(entry, ReadyQSuspension):
            held = self._held[entry.site]
            del held[entry.key]
            if not held:
                del self._held[entry.site]

    def _take_out(self, entry: Suspension) -> None:
        """Remove the text of the entry with the same key."""
        place = self._order[entry.kind].pop(entry.key, None)
        if place is not None:
            texts = self._texts[entry.kind]
            del texts[bisect_left(texts, (place, ""))]

    def add_source(self, source: str) -> bool:
        """Have the overlay show the options of this source, too; whether it has any."""
        if self.sources is None or source in self.sources:
            return False
        self.sources.add(source)
        found = [entry for entry in self._aside.values() if entry.source == source]
        for entry in found:
            del self._aside[entry.key]
            self._put(entry)
        return bool(found)

    def aside(self) -> list[str]:
        """The keys of the options that are left out: no source of this host's."""
        return list(self._aside)

    def counts(self) -> Mapping[str, int]:
        """How many entries of each kind are in force, and how many are simulated."""
        holds = {kind: len(places) for kind, places in self._order.items()}
        others = {**holds, "simulated": len(self._simulated)}
        return {"override": len(self.entries) - sum(others.values()), **others}

    def events(self, events: Iterable[Suspension]) -> list[Suspension]:
        """`events`, and what must be sent after them.

        kumod keeps only the last suspension of a ready queue that it hears of.  So
        where another entry holds the queue for longer, that one is sent again.
        """
        told: list[Suspension] = []
        for event in (event for event in events if not event.simulated):
            told.append(event)
            if isinstance(event, ReadyQSuspension):
                held = self._held.get(event.site, {}).values()
                last = max(held, key=lambda e: e.expires_ns, default=event)
                if last.expires_ns > event.expires_ns:
                    told.append(last)
        return told

    def take_changes(self, overlay_version: int) -> Changes:
        """What has changed for kumod's admin API since the last call."""
        holds, self._changed = self._changed, {}
        overrides, self._overrides = self._overrides, {}
        settings = {k: None if o is None else self._setting(o) for k, o in overrides.items()}
        return Changes(overlay_version, holds, settings)

    def _setting(self, override: Override) -> Setting | None:
        """The option that the overlay sets for `override`; None where it leaves it out."""
        if override.domain in RESERVED or override.key in self.overlay.rejected:
            return None
        place = Place(override.domain, override.source)
        value = self.overlay.shown(override).value
        return Setting(place, override.mx_rollup, override.name, value, override.seq)

    def snapshot(self, *, version: int, status: bytes) -> Snapshot:
        """All that is in force in the order of expiry, so that kumod hears of the longest last."""
        ready_q, sched_q, bounces = ([text for _, text in texts] for texts in self._texts.values())
        return Snapshot.build(
            overlay=self.overlay.text(),
            ready_q=ready_q,
            sched_q=sched_q,
            bounces=bounces,
            version=version,
            status=status,
        )


def _hold(entry: Suspension) -> Hold:
    if isinstance(entry, ReadyQSuspension):
        target = Target("ready_q", name=entry.site)
    else:
        target = Target(
            "sched_q" if isinstance(entry, SchedQSuspension) else "bounce",
            domain=entry.domain,
            tenant=entry.tenant,
            campaign=entry.campaign,
        )
    return Hold(target, entry.reason, entry.expires_ns, entry.seq)


# json.dumps makes an encoder for each text.
_compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def compact_json(value: object) -> str:
    """`value` as serde_json writes it; a lone surrogate stays an escape."""
    text = _compact(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text


def frame_text(entry: Suspension) -> str:
    """The WebSocket frame of an event as it happens."""
    return compact_json(frame(entry))
