"""Where this host is in its group's stream: as rows of the store, and back.

The place is committed with the effects of what was read up to it.  So an export has it as
well: whoever imports the state hears nothing twice.  Another engine has another epoch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from sidecar.share import Batch, Mark, Place, Watermark
from sidecar.share.place import Origin
from sidecar.store import Transaction

SHARE: Final = "share:"
"""Before the names under which the state file keeps what is of the group."""
_PLACE: Final = SHARE + "place"
_MARK: Final = SHARE + "mark:"
_WATERMARK: Final = SHARE + "told:"
HEARD: Final = (_PLACE, _MARK, _WATERMARK)
"""Before the names of what tells how far the others were heard."""
WORD: Final = SHARE + "word:"
"""Before the name of a word of this host's, which an engine that lost it is told again."""
_SOURCES: Final = SHARE + "sources"
_SOURCES_MOST: Final = 10_000


class _Saved(msgspec.Struct, frozen=True):
    epoch: str
    run: str
    id: str
    number: int


_PLACES: Final = msgspec.json.Decoder(_Saved)
_MARKS: Final = msgspec.json.Decoder(tuple[int, int])


def place_rows(place: Place) -> Transaction:
    """Keep where the stream was read to, without the marks."""
    saved = _Saved(place.epoch, place.run, place.id, place.number)
    return Transaction(meta={_PLACE: msgspec.json.encode(saved).decode()})


def mark_rows(moved: Mapping[Origin, Mark], forgotten: Iterable[Origin] = ()) -> Transaction:
    """Keep how far other hosts' segments were read; what is forgotten, of no use any more."""
    gone = set(forgotten)
    return Transaction(
        meta={
            _mark(origin): f"[{mark.line},{mark.at_ms}]"
            for origin, mark in moved.items()
            if origin not in gone
        },
        drop_meta={_mark(origin) for origin in gone},
    )


def watermark_rows(watermarks: Mapping[str, Watermark]) -> Transaction:
    """Keep below which names all segments of other hosts were read."""
    return Transaction(
        meta={
            _WATERMARK + host: _text((one.segment, one.at_ms)) for host, one in watermarks.items()
        }
    )


def batch_rows(batch: Batch) -> Transaction:
    """Keep the place behind a batch."""
    changes = place_rows(batch.place)
    changes.add(mark_rows(batch.moved, batch.forgotten))
    gone = set(batch.forgotten_hosts)
    changes.add(watermark_rows({h: w for h, w in batch.watermarks.items() if h not in gone}))
    changes.drop_meta |= {_WATERMARK + host for host in gone}
    return changes


def _mark(origin: Origin) -> str:
    return _MARK + _text(origin)


def _text(names: tuple[str | int, ...]) -> str:
    # Names of segments need not be Unicode, which msgspec asks for.
    return json.dumps(names, ensure_ascii=False, separators=(",", ":"))


def _names_in(text: str, kind: Any) -> Any:
    return msgspec.convert(json.loads(text), kind)


def place_of(meta: Mapping[str, str]) -> Place:
    """The place that the store has.  What is damaged is left out: it is read again."""
    try:
        saved = _PLACES.decode(meta.get(_PLACE, ""))
    except ValueError:
        saved = _Saved("", "", "0-0", 0)
    marks: dict[Origin, Mark] = {}
    watermarks: dict[str, Watermark] = {}
    for name, text in meta.items():
        if name.startswith(_MARK):
            try:
                line, at_ms = _MARKS.decode(text)
                marks[_names_in(name.removeprefix(_MARK), Origin)] = Mark(line, at_ms)
            except ValueError:
                continue
        elif name.startswith(_WATERMARK):
            try:
                segment, at_ms = _names_in(text, tuple[str, int])
            except ValueError:
                continue
            watermarks[name.removeprefix(_WATERMARK)] = Watermark(segment, at_ms)
    return Place(saved.epoch, saved.run, saved.id, saved.number, marks, watermarks)


_NAMES: Final = msgspec.json.Decoder(list[str])


def sources_row(sources: Iterable[str]) -> Transaction:
    """Keep the egress sources that this host's own log has shown, up to some thousands."""
    names = sorted(sources)[:_SOURCES_MOST]
    return Transaction(meta={_SOURCES: msgspec.json.encode(names).decode()})


def sources_of(meta: Mapping[str, str]) -> list[str]:
    """The egress sources that the store has; none where that is damaged."""
    try:
        return _NAMES.decode(meta.get(_SOURCES, "[]"))
    except ValueError:
        return []
