"""State as JSON, for backup and for moving to another host.

In: :class:`Saved`.  Out: a document of plain lists and maps, the same for the
same state; and back.  What a document holds that can't be used is listed and
left out, nothing else with it.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sidecar.automation.entries import from_payload
from sidecar.automation.episodes import episode_from_payload
from sidecar.problems import Problem, ProblemError

from .rows import CheckpointRow, EntryRow, HistoryRow, Saved

FORMAT = "tsa-sidecar state"
VERSION = 1
"""Of the document; a newer one is refused."""

_COUNTS = ("inode", "offset", "lines", "frame_start", "frame_offset")
_TEXTS = ("fingerprint", "content")
_SHARE, _HEARD = "share:", ("share:place", "share:mark:", "share:told:")
"""Of a group's stream (service/places.py) a document has what was heard, since that has had its
effects on the rest of the state.  Words and egress sources are one host's own.
"""
_ENDED = ("how", "by", "reason")


def export_state(saved: Saved) -> dict[str, Any]:
    """`saved` as a document for :func:`json.dump`; times in it are Unix nanoseconds."""
    thresholds: dict[str, dict[str, int]] = {}
    for (scope, second), count in sorted(saved.threshold_counts.items()):
        thresholds.setdefault(scope, {})[str(second)] = count
    return {
        "format": FORMAT,
        "version": VERSION,
        "meta": {
            name: text
            for name, text in sorted(saved.meta.items())
            if not name.startswith(_SHARE) or name.startswith(_HEARD)
        },
        "counters": dict(sorted(saved.counters.items())),
        "segments": {
            name: {
                **{field: getattr(row, field) for field in _COUNTS + _TEXTS},
                "done": row.done,
            }
            for name, row in sorted(saved.checkpoints.items())
        },
        "entries": [
            {
                "key": row.key,
                "kind": row.kind,
                "expires_ns": row.expires_ns,
                "seq": row.seq,
                "entry": _opened(row.payload),
                "episode": _opened(row.episode),
            }
            for row in sorted(saved.entries.values(), key=lambda row: (row.seq, row.key))
        ],
        "history": {
            str(id_): {
                **{field: getattr(row, field) for field in ("ended_ns", "kind", *_ENDED)},
                "entry": _opened(row.payload),
                "episode": _opened(row.episode),
            }
            for id_, row in sorted(saved.history.items())
        },
        "thresholds": thresholds,
        "mx": {domain: _opened(answer) for domain, answer in sorted(saved.mx.items())},
        "kumod_ids": dict(sorted(saved.kumod_ids.items())),
        "waiting": {
            str(number): _opened(payload) for number, payload in sorted(saved.waiting.items())
        },
        "outbox": {key: _opened(payload) for key, payload in sorted(saved.outbox.items())},
    }


def import_state(document: object, *, file: str) -> tuple[Saved, tuple[Problem, ...]]:
    """What :func:`export_state` made, and what in it had to be left out.

    ProblemError where `document` as a whole is nothing of the kind, or newer;
    `file` is its name, for messages.
    """
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ProblemError.one(
            "state-foreign",
            f'is no state of tsa-sidecar: "format" must be "{FORMAT}". To take over from '
            "kumo-tsa-daemon, use --from-tsa-daemon",
            file=file,
        )
    version = document.get("version")
    if not isinstance(version, int) or version < 1:
        raise ProblemError.one(
            "state-damaged", f'"version" is {_shown(version)}, no number from 1 on', file=file
        )
    if version > VERSION:
        raise ProblemError.one(
            "state-newer",
            f"was written by a newer tsa-sidecar (version {version} of the format, known up to "
            f"{VERSION}): import it with that one",
            file=file,
        )
    return _Importer(document, file).run()


_OF_LATER_VERSIONS: Mapping[str, object] = {"waiting": {}, "outbox": {}, "history": {}}
"""Sections that documents of earlier versions do without, with what stands for them."""


class _Importer:
    """One import: takes each item by itself, so that a bad one costs only itself."""

    def __init__(self, document: dict[str, Any], file: str) -> None:
        self._document = document
        self._file = file
        self._saved = Saved()
        self._problems: list[Problem] = []

    def run(self) -> tuple[Saved, tuple[Problem, ...]]:
        readers: dict[str, Callable[[str, Any], None]] = {
            "meta": lambda name, value: self._put(self._saved.meta, name, _text(value)),
            "counters": lambda name, value: self._put(self._saved.counters, name, _count(value)),
            "segments": self._segment,
            "entries": self._entry,
            "thresholds": self._threshold,
            "mx": lambda name, value: self._put(self._saved.mx, name, _closed(value)),
            "kumod_ids": lambda name, value: self._put(self._saved.kumod_ids, name, _text(value)),
            "waiting": self._waiting,
            "outbox": lambda name, value: self._put(self._saved.outbox, name, _closed(value)),
            "history": self._history,
        }
        for section in self._document.keys() - readers.keys() - {"format", "version"}:
            self._left_out("unknown-section", section, "is unknown")
        for section, read in readers.items():
            for name, value in self._items(section):
                try:
                    read(name, value)
                except (ValueError, TypeError, RecursionError) as error:
                    where = f"{section}: {_shown(name)}"
                    self._left_out("damaged", where, str(error))
        return self._saved, tuple(sorted(self._problems, key=lambda problem: problem.where or ""))

    def _items(self, section: str) -> Iterator[tuple[str, Any]]:
        value = self._document.get(section, _OF_LATER_VERSIONS.get(section))
        if section == "entries" and isinstance(value, list):
            yield from ((f"item {number}", item) for number, item in enumerate(value, 1))
        elif section != "entries" and isinstance(value, dict):
            yield from value.items()
        else:
            self._left_out("damaged", section, f"is missing or of the wrong type: {_shown(value)}")

    def _left_out(self, code: str, where: str, reason: str) -> None:
        message = f"left out: {reason}"
        self._problems.append(Problem("warning", code, message, file=self._file, where=where))

    @staticmethod
    def _put(target: dict[str, Any], name: str, value: object) -> None:
        target[name] = value

    def _segment(self, name: str, value: Any) -> None:
        fields = _fields(value, {*_COUNTS, *_TEXTS, "done"})
        if not isinstance(fields["done"], bool):
            raise ValueError(f"done: {_shown(fields['done'])} is neither true nor false")
        self._saved.checkpoints[name] = CheckpointRow(
            inode=_count(fields["inode"], bits=64),
            fingerprint=_text(fields["fingerprint"]),
            offset=_count(fields["offset"]),
            lines=_count(fields["lines"]),
            frame_start=_count(fields["frame_start"]),
            frame_offset=_count(fields["frame_offset"]),
            done=fields["done"],
            content=_text(fields["content"]),
        )

    def _waiting(self, number: str, value: Any) -> None:
        self._saved.waiting[_number(number)] = _closed(value)

    def _entry(self, _name: str, value: Any) -> None:
        if isinstance(value, dict):
            value = {"episode": "", **value}  # documents of earlier versions have none
        fields = _fields(value, {"key", "kind", "expires_ns", "seq", "entry", "episode"})
        payload = _closed(fields["entry"])
        entry = from_payload(_text(fields["kind"]), payload)
        said = (fields["key"], fields["expires_ns"], _count(fields["seq"]))
        if said != (entry.key, entry.expires_ns, entry.seq):
            raise ValueError("key, expires_ns or seq is not what the entry itself says")
        self._saved.entries[entry.key] = EntryRow(
            key=entry.key,
            kind=entry.kind,
            payload=payload,
            expires_ns=entry.expires_ns,
            seq=entry.seq,
            episode=_story(fields["episode"]),
        )

    def _history(self, id_: str, value: Any) -> None:
        fields = _fields(value, {"ended_ns", "kind", *_ENDED, "entry", "episode"})
        entry = from_payload(_text(fields["kind"]), payload := _closed(fields["entry"]))
        story = _story(fields["episode"])
        if not story or episode_from_payload(story).id != _number(id_):
            raise ValueError("its episode is another")
        self._saved.history[int(id_)] = HistoryRow(
            _count(fields["ended_ns"]),
            entry.kind,
            payload,
            story,
            *(_text(fields[name]) for name in _ENDED),
        )

    def _threshold(self, scope: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise ValueError(f"{_shown(value)} is no map from Unix second to count")
        counts = {(scope, _second(second)): _count(count) for second, count in value.items()}
        self._saved.threshold_counts.update(counts)


def _number(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,18}", text) is None:
        raise ValueError(f"{_shown(text)} is no number")
    return int(text)


def _story(value: object) -> str:
    """The text of an episode; "" where there is none."""
    text = _closed(value)
    if text:
        episode_from_payload(text)
    return text


def _opened(text: str) -> Any:
    """JSON text as the value it stands for, so that the export can be read; else the text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, str) else value


def _closed(value: object) -> str:
    """The inverse of :func:`_opened`, for text written compactly as ours is."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def _fields(value: Any, names: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{_shown(value)} is no map")
    if value.keys() != names:
        raise ValueError(f"fields {sorted(value.keys() ^ names)} are unknown or missing")
    return value


def _count(value: object, *, bits: int = 63) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << bits:
        raise ValueError(f"{_shown(value)} is no count")
    return value


def _second(text: str) -> int:
    if re.fullmatch(r"-?[0-9]{1,12}", text) is None:
        raise ValueError(f"{_shown(text)} is no Unix second")
    return int(text)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{_shown(value)} is no text")
    return value


def _shown(value: object) -> str:
    """`value` for a message: short, whatever it is."""
    return value if isinstance(value, str) and len(value) <= 80 else reprlib.repr(value)
