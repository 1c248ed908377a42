"""Many events as one message, bounded.

In: a group of events, of which the first few are kept whole and the others counted.
Out: a message whose text never changes once it is made: what a program gets as
JSON, and what a person reads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from .event import Event, Kind

OTHERS = "others"
"""The label of all events beyond the first :data:`_LABELS` labels."""

_LABELS = 50
_LINES = 20


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The events that wait for a target's next message, counted.

    ``opened_ns``: when the first came.  ``last``: the number of the last event that
    is kept whole.  ``counts``: by label and kind.  ``unlisted``: those that are
    counted only.
    """

    opened_ns: int
    newest_ns: int
    last: int
    began: int = 0
    ended: int = 0
    unlisted: int = 0
    counts: dict[str, dict[Kind, int]] = {}

    def with_event(self, event: Event, *, listed: bool) -> Group:
        """The group with one event more."""
        label = event.label
        if label not in self.counts and len(self.counts) >= _LABELS:
            label = OTHERS
        of_label: dict[Kind, int] = {**self.counts.get(label, {})}
        of_label[event.kind] = of_label.get(event.kind, 0) + 1
        return msgspec.structs.replace(
            self,
            newest_ns=max(self.newest_ns, event.at_ns),
            last=self.last + listed,
            began=self.began + (event.kind == "began"),
            ended=self.ended + (event.kind == "ended"),
            unlisted=self.unlisted + (not listed),
            counts={**self.counts, label: of_label},
        )

    @property
    def count(self) -> int:
        """How many events wait."""
        return self.began + self.ended


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message that is sealed: what is sent at each attempt, to the letter.

    ``id`` is the same at each attempt.  ``body`` is the JSON for programs, ``title``
    and ``text`` are for people.
    """

    id: str
    opened_ns: int
    newest_ns: int
    count: int
    title: str
    text: str
    body: str


def seal(group: Group, listed: Iterable[Event], *, host: str, target: str) -> Message:
    """The message of `group`, whose first events are `listed`."""
    events = list(listed)
    title = f"[{host}] {_summary(group, events)}"
    text = "\n".join(_lines(group, events))
    said: dict[str, Any] = {
        "version": 1,
        "host": host,
        "target": target,
        "title": title,
        "text": text,
        "began": group.began,
        "ended": group.ended,
        "counts": group.counts,
        "unlisted": group.unlisted,
        "events": [event.document() for event in events],
    }
    # Of what it says, so that it differs from all others, also those of an earlier state file.
    id_ = "msg_" + hashlib.sha256(_json(said).encode()).hexdigest()[:32]
    return Message(
        id=id_,
        opened_ns=group.opened_ns,
        newest_ns=group.newest_ns,
        count=group.count,
        title=title,
        text=text,
        body=_json({"id": id_, **said}),
    )


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def _summary(group: Group, events: list[Event]) -> str:
    if group.count == 1 and events:
        return f"{events[0].kind}: {events[0].what}"
    parts = [f"{n} {kind}" for kind, n in (("began", group.began), ("ended", group.ended)) if n]
    labels = ", ".join(list(group.counts)[:3]) + (", …" if len(group.counts) > 3 else "")
    return f"{', '.join(parts)} ({labels})"


def _lines(group: Group, events: list[Event]) -> list[str]:
    lines = [event.line() for event in events[:_LINES]]
    if group.count > len(lines):
        lines.append(f"and {group.count - len(lines)} more; in all:")
        lines += [
            f"  {label}: " + ", ".join(f"{n} {kind}" for kind, n in kinds.items())
            for label, kinds in group.counts.items()
        ]
        lines.append("`tsa-sidecar history` lists them.")
    return lines
