"""Where a reader is in the group's stream, and what is new behind it.  Pure.

In: a place, entries of the stream, what the engine says of itself.  Out: the items that
the place does not hold yet, and the place behind them.

The stream's id alone is not enough.  An engine that failed over may have lost the end
of the stream and give the same ids again; a flushed one is filled anew.  So the place
holds for each origin the line up to which it was read, and whatever is read again is
recognised by it.

A line for each segment that ever was would be too much.  Behind a host's watermark it is
enough to remember that: what it covers was read before, whatever an engine gives again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Final, TypeAlias

import msgspec

from .items import WORDS, Entry, Kind, Received, comes_before, is_covered, read_entry

BEGINNING: Final = "0-0"
"""Before the first id that a stream can have."""

Origin: TypeAlias = tuple[str, str, Kind]
"""Host, segment (as in the stream) and kind: its items come in the order of lines."""


class Mark(msgspec.Struct, frozen=True, gc=False):
    """The line up to which an origin was read, and the stream's time of that item (ms)."""

    line: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class Watermark:
    """The name below which all segments of a host were read, and the stream's time of it (ms)."""

    segment: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Place:
    """How far a reader is.

    ``epoch`` and ``run`` tell the engine's data and its process, ``id`` is the last
    entry's, ``number`` the last item's number in the group (0: none was read).
    ``marks`` are of segments that no watermark covers; ``watermarks`` are by host.
    """

    epoch: str = ""
    run: str = ""
    id: str = BEGINNING
    number: int = 0
    marks: dict[Origin, Mark] = field(default_factory=dict)
    watermarks: dict[str, Watermark] = field(default_factory=dict)

    def behind(self, batch: Batch) -> Place:
        """The place behind a batch.  It takes this one's marks over: all would be many to copy."""
        marks, watermarks = self.marks, self.watermarks
        marks.update(batch.moved)
        watermarks.update(batch.watermarks)
        for origin in batch.forgotten:
            marks.pop(origin, None)
        for host in batch.forgotten_hosts:
            watermarks.pop(host, None)
        return replace(batch.place, marks=marks, watermarks=watermarks)


@dataclass(frozen=True, slots=True)
class Engine:
    """What an engine says of itself.  ``run`` is "" where it does not tell."""

    epoch: str
    run: str
    last_id: str


@dataclass(frozen=True, slots=True)
class Batch:
    """What was received: items, each for the first time, and the place behind them.

    ``place`` is without marks and watermarks.  How they differ from those before is in
    ``moved`` and ``watermarks``, then ``forgotten`` and ``forgotten_hosts``: a mark may have
    moved and be of no more use behind the batch.  :meth:`Place.behind` puts them together.
    ``missed``: items that were trimmed before they were read, those of this host among
    them.  ``bad``: why entries were passed over.  ``more``: another batch follows at once.
    """

    items: tuple[Received, ...]
    place: Place
    moved: Mapping[Origin, Mark] = field(default_factory=dict)
    forgotten: tuple[Origin, ...] = ()
    watermarks: Mapping[str, Watermark] = field(default_factory=dict)
    forgotten_hosts: tuple[str, ...] = ()
    missed: int = 0
    bad: tuple[str, ...] = ()
    more: bool = False


def id_key(text: str) -> tuple[int, int]:
    """An entry's id as numbers that compare as the engine compares them."""
    ms, _, number = text.partition("-")
    return int(ms), int(number or 0)


def resume(place: Place, engine: Engine) -> Place:
    """The place to read on from at an engine: its beginning, where that may hold new items.

    An engine that does not tell its process may be another one each time.
    """
    same = (
        place.epoch == engine.epoch
        and place.run == engine.run != ""
        and id_key(place.id) <= id_key(engine.last_id)
    )
    # A reader may come before the first host that tells something, and so before the epoch.
    number = place.number if place.epoch in ("", engine.epoch) else 0
    return replace(
        place,
        epoch=engine.epoch,
        run=engine.run,
        id=place.id if same else BEGINNING,
        number=number,
    )


class Follower:
    """A place that moves on.  Bounded: an origin that is silent for `keep_ms` is forgotten."""

    def __init__(self, place: Place, *, host: str, keep_ms: int, longest: int) -> None:
        self._place = replace(place, marks={}, watermarks={})
        self._host = host
        self.keep_ms = keep_ms
        """May be changed at any time: rules loaded anew may look further back."""
        self._longest = longest
        # By host: a watermark is of one.
        self._marks: dict[str, dict[Origin, Mark]] = {}
        for origin, mark in place.marks.items():
            self._marks.setdefault(origin[0], {})[origin] = mark
        self._watermarks = dict(place.watermarks)
        self._swept_ms = 0

    @property
    def place(self) -> Place:
        """Where it is, without marks and watermarks."""
        return self._place

    def meet(self, engine: Engine) -> None:
        """Begin to read from this engine."""
        self._place = resume(self._place, engine)

    def take(self, entries: Sequence[tuple[bytes, object]], *, more: bool = False) -> Batch:
        """The batch of these entries, as XREAD gave them: behind the place, in order.

        `more` follows at once.
        """
        batch = _Taken()
        number = self._place.number
        for raw_id, fields in entries:
            entry = read_entry(fields, longest=self._longest)
            if isinstance(entry, str):
                batch.bad.append(f"entry {raw_id.decode()}: {entry}")
                continue
            if entry.number > number:
                batch.missed += entry.number - number - 1 if number else 0
                number = entry.number
            if entry.host != self._host:
                self._take_entry(entry, _ms(raw_id), batch)
        last = entries[-1][0].decode() if entries else self._place.id
        self._forget_at(id_key(last)[0], batch)
        self._place = replace(self._place, id=last, number=number)
        return Batch(
            tuple(batch.items),
            self._place,
            batch.moved,
            tuple(batch.forgotten),
            batch.watermarks,
            tuple(batch.forgotten_hosts),
            batch.missed,
            tuple(batch.bad),
            more,
        )

    def _take_entry(self, entry: Entry, at_ms: int, batch: _Taken) -> None:
        if entry.kind == "told":
            self._pass(entry.host, Watermark(os.fsdecode(entry.data), at_ms), batch)
            return
        watermark = self._watermarks.get(entry.host)
        if watermark is not None and is_covered(entry.segment, watermark.segment):
            return
        marks = self._marks.setdefault(entry.host, {})
        origin = (entry.host, entry.segment, entry.kind)
        mark = marks.get(origin)
        known = 0 if mark is None else mark.line
        if known < entry.line:
            marks[origin] = batch.moved[origin] = Mark(entry.line, at_ms)
            batch.items.append(_received(entry, entry.kind, known))

    def _pass(self, host: str, watermark: Watermark, batch: _Taken) -> None:
        """Everything that the watermark covers has been read: it comes behind that."""
        before = self._watermarks.get(host)
        if before is not None and not comes_before(before.segment, watermark.segment):
            return
        self._watermarks[host] = batch.watermarks[host] = watermark
        marks = self._marks.get(host, {})
        for origin in [o for o in marks if is_covered(o[1], watermark.segment)]:
            del marks[origin]
            batch.forgotten.append(origin)

    def _forget_at(self, now_ms: int, batch: _Taken) -> None:
        # Not for each batch: marks are looked through whole.
        if now_ms - self._swept_ms < self.keep_ms // 16:
            return
        self._swept_ms = now_ms
        all_marks = chain.from_iterable(marks.items() for marks in self._marks.values())
        newest = max((mark.at_ms for _, mark in all_marks), default=0)
        newest = max(newest, *(mark.at_ms for mark in self._watermarks.values()), 0)
        for host, marks in list(self._marks.items()):
            for origin in [o for o, m in marks.items() if m.at_ms < newest - self.keep_ms]:
                del marks[origin]
                batch.forgotten.append(origin)
            if not marks:
                del self._marks[host]
        # A host is forgotten as a whole, or its watermark stands for what it told.
        for host, watermark in list(self._watermarks.items()):
            if host not in self._marks and watermark.at_ms < newest - self.keep_ms:
                del self._watermarks[host]
                batch.forgotten_hosts.append(host)


@dataclass(slots=True)
class _Taken:
    """What a batch will be made of."""

    items: list[Received] = field(default_factory=list)
    moved: dict[Origin, Mark] = field(default_factory=dict)
    forgotten: list[Origin] = field(default_factory=list)
    watermarks: dict[str, Watermark] = field(default_factory=dict)
    forgotten_hosts: list[str] = field(default_factory=list)
    missed: int = 0
    bad: list[str] = field(default_factory=list)


def _ms(raw_id: bytes) -> int:
    return int(raw_id.partition(b"-")[0])


def _received(entry: Entry, kind: Kind, known: int) -> Received:
    host, segment, line, _, data, since, _ = entry
    fresh = 1.0
    if kind == "attempts" and since < known:
        fresh = (line - known) / (line - since)
    if kind == "word":
        segment = segment.removeprefix(WORDS)
    return Received(host, segment, line, kind, data, fresh)
