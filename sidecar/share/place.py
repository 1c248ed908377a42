"""Where a reader is in the group's stream, and what is new behind it.  Pure.

In: a place, entries of the stream, what the engine says of itself.  Out: the items that
the place does not hold yet, and the place behind them.

The stream's id alone is not enough.  An engine that failed over may have lost the end
of the stream and give the same ids again; a flushed one is filled anew.  So the place
holds for each origin the line up to which it was read, and whatever is read again is
recognised by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from .items import WORDS, Entry, Kind, Received, read_entry

BEGINNING: Final = "0-0"
"""Before the first id that a stream can have."""

Origin: TypeAlias = tuple[str, str, Kind]
"""Host, segment (as in the stream) and kind: its items come in the order of lines."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The line up to which an origin was read, and the stream's time of that item (ms)."""

    line: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class Place:
    """How far a reader is.

    ``epoch`` and ``run`` tell the engine's data and its process, ``id`` is the last
    entry's, ``number`` the last item's number in the group (0: none was read).
    """

    epoch: str = ""
    run: str = ""
    id: str = BEGINNING
    number: int = 0
    marks: Mapping[Origin, Mark] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Engine:
    """What an engine says of itself.  ``run`` is "" where it does not tell."""

    epoch: str
    run: str
    last_id: str


@dataclass(frozen=True, slots=True)
class Batch:
    """What was received: items, each for the first time, and the place behind them.

    ``moved`` and ``forgotten`` are how the place's marks differ from those before, for
    whoever keeps them as rows.  ``missed``: items that were trimmed before they were
    read, those of this host among them.  ``bad``: why entries were passed over.
    """

    items: tuple[Received, ...]
    place: Place
    moved: Mapping[Origin, Mark] = field(default_factory=dict)
    forgotten: tuple[Origin, ...] = ()
    missed: int = 0
    bad: tuple[str, ...] = ()


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
        self._place = place
        self._host = host
        self._keep_ms = keep_ms
        self._longest = longest
        self._marks = dict(place.marks)
        self._swept_ms = 0

    @property
    def place(self) -> Place:
        """Where it is."""
        return self._place

    def meet(self, engine: Engine) -> None:
        """Begin to read from this engine."""
        self._place = resume(self._place, engine)

    def take(self, entries: Sequence[tuple[bytes, object]]) -> Batch:
        """The batch of these entries, as XREAD gave them: behind the place, in order."""
        items: list[Received] = []
        moved: dict[Origin, tuple[int, bytes]] = {}
        bad: list[str] = []
        missed = 0
        number = self._place.number
        for raw_id, fields in entries:
            entry = read_entry(fields, longest=self._longest)
            if isinstance(entry, str):
                bad.append(f"entry {raw_id.decode()}: {entry}")
                continue
            if entry.number > number:
                missed += entry.number - number - 1 if number else 0
                number = entry.number
            if entry.host == self._host:
                continue
            origin = (entry.host, entry.segment, entry.kind)
            known = self._line(origin, moved)
            if known < entry.line:
                moved[origin] = (entry.line, raw_id)
                items.append(_received(entry, known))
        last = entries[-1][0].decode() if entries else self._place.id
        marks = {o: Mark(line, id_key(raw_id.decode())[0]) for o, (line, raw_id) in moved.items()}
        self._marks.update(marks)
        forgotten = self._forget_at(id_key(last)[0])
        for origin in forgotten:
            marks.pop(origin, None)
        self._place = replace(self._place, id=last, number=number, marks=dict(self._marks))
        return Batch(tuple(items), self._place, marks, forgotten, missed, tuple(bad))

    def _line(self, origin: Origin, moved: Mapping[Origin, tuple[int, bytes]]) -> int:
        """The line up to which an origin is read; 0 where it is not known."""
        if origin in moved:
            return moved[origin][0]
        mark = self._marks.get(origin)
        return 0 if mark is None else mark.line

    def _forget_at(self, now_ms: int) -> tuple[Origin, ...]:
        # Not for each batch: marks are looked through whole.
        if now_ms - self._swept_ms < self._keep_ms // 16:
            return ()
        self._swept_ms = now_ms
        newest = max((mark.at_ms for mark in self._marks.values()), default=0)
        old = tuple(o for o, m in self._marks.items() if m.at_ms < newest - self._keep_ms)
        for origin in old:
            del self._marks[origin]
        return old


def _received(entry: Entry, known: int) -> Received:
    host, segment, line, kind, data, since, _ = entry
    fresh = 1.0
    if kind == "attempts" and since < known:
        fresh = (line - known) / (line - since)
    if kind == "word":
        segment = segment.removeprefix(WORDS)
    return Received(host, segment, line, kind, data, fresh)
