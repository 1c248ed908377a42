"""One thing to be told: something began, or ended.

In: values.  Out: the same as JSON, and back.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from sidecar.problems import one_line
from sidecar.times import NS, format_rfc3339

Kind = Literal["began", "ended"]
Subject = Literal["episode", "service"]

_LONGEST = 300


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What began or ended, and when.

    ``id`` is the same whenever the same thing is told.  ``subject``: an episode of an
    entry, or a condition of the service itself.  ``what`` says it in words.  ``label``
    groups events that are alike: the rule's label, or the condition's code.
    ``fields`` are for programs.
    """

    id: str
    kind: Kind
    at_ns: int
    subject: Subject
    label: str
    what: str
    fields: dict[str, str | int | None] = {}

    def bounded(self) -> Event:
        """The same with texts of one printable line and bounded length."""
        return msgspec.structs.replace(
            self,
            label=shortened(self.label, 80),
            what=shortened(self.what),
            fields={
                name: shortened(value) if isinstance(value, str) else value
                for name, value in self.fields.items()
            },
        )

    def document(self) -> dict[str, Any]:
        """As a message has it."""
        return {
            "id": self.id,
            "event": self.kind,
            "at": format_rfc3339(self.at_ns),
            "about": self.subject,
            "label": self.label,
            "what": self.what,
            **self.fields,
        }

    def line(self) -> str:
        """As a person reads it."""
        at = format_rfc3339(self.at_ns // NS * NS)
        return f"{self.kind} {at} {self.label}: {self.what}"


def shortened(text: str, longest: int = _LONGEST) -> str:
    """`text` on one printable line, cut where it is longer."""
    if len(text) > longest:
        text = text[: longest - 1] + "…"
    return one_line(text)


def to_row(event: Event) -> str:
    """For the outbox."""
    return msgspec.json.encode(event).decode()


def from_row(row: str) -> Event:
    """The inverse of :func:`to_row`; ValueError where it is none."""
    return msgspec.json.decode(row, type=Event)
