"""What ``replay`` reports: what is in force at a moment, and episodes, as JSON.

In: one side of a look back.  Out: the entries as kumod would read them, and why others
were left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from sidecar.automation.entries import Entry, Override
from sidecar.automation.overlay import Effective
from sidecar.problems import Problem
from sidecar.service.published import Published
from sidecar.times import NS, format_rfc3339

from .hindsight import Hindsight, Read, Told

_LEFT_OUT: Final = (
    "already_expired",
    "bad_recipient",
    "no_domain",
    "no_room",
    "no_room_to_count",
    "no_site",
    "no_tenant",
)


class Standing:
    """What is in force at `now_ns`, the moment up to which `side` has decided."""

    def __init__(self, side: Hindsight, now_ns: int) -> None:
        self.now_ns = now_ns
        self._view = Published(side.automation.entries)
        self._view.expire(now_ns)
        self.overlay = self._view.overlay.text()
        """The text of the overlay."""

    def overrides(self) -> list[Effective]:
        """What the overlay sets, in its order."""
        return list(self._view.overlay.effective())

    def held(self) -> Iterator[Entry]:
        """The suspensions and bounces."""
        for kind in ("ready_q", "sched_q", "bounce"):
            yield from self._view.entries.of_kind(kind)

    def simulated(self) -> list[Entry]:
        """What simulated rules would have put into force, in the order of expiry."""
        found = [entry for entry in self._view.entries if entry.simulated]
        return sorted(found, key=lambda entry: (entry.expires_ns, entry.key))

    def problems(self) -> Iterable[Problem]:
        """Why entries were left out of the overlay."""
        overlay = self._view.overlay
        for name, count in overlay.reserved.items():
            yield Problem(
                "warning",
                "reserved-name",
                f"{count} entries for the recipient domain {name!r} were left out of the overlay: "
                "a section of that name would govern everything",
            )
        for reason in overlay.rejected.values():
            yield Problem("error", "overlay-entry", f"left out of the overlay: {reason}")

    def document(self) -> dict[str, Any]:
        """As ``replay --json`` has it."""
        answers: dict[str, list[dict[str, Any]]] = {"ready_q": [], "sched_q": [], "bounce": []}
        for entry in self.held():
            answers[entry.kind].append(_fields(entry))
        return {
            "now": self.now_ns / NS,
            "overlay": self.overlay,
            "overrides": [
                {"section": one.section, **_fields(one.override)} for one in self.overrides()
            ],
            "suspended": {kind: answers[kind] for kind in ("ready_q", "sched_q")},
            "bounced": answers["bounce"],
            "simulated": [{"kind": entry.kind, **_fields(entry)} for entry in self.simulated()],
        }


def _fields(entry: Entry) -> dict[str, Any]:
    if not isinstance(entry, Override):
        return entry.answer()
    return {
        "domain": entry.domain,
        "mx_rollup": entry.mx_rollup,
        "source": entry.source,
        "name": entry.name,
        "value": entry.value,
        "reason": entry.reason,
        "expires": format_rfc3339(entry.expires_ns),
    }


def read_document(read: Read, side: Hindsight) -> dict[str, Any]:
    """What was read, and what `side` made of it, as JSON has it."""
    return {
        "records": {
            "read": read.lines,
            "considered": read.considered,
            "matched": side.counts["matched"],
            "deliveries": read.deliveries,
            "bad": read.bad,
            "bytes_lost": read.lost_bytes,
        },
        "left_out": {**{name: side.counts[name] for name in _LEFT_OUT}, "later": read.later},
        "files_without_a_record": read.no_logs,
        "first": None if read.first_ns is None else format_rfc3339(read.first_ns),
        "last": None if read.last_ns is None else format_rfc3339(read.last_ns),
    }


def episode_document(told: Told) -> dict[str, Any]:
    """An episode, as JSON has it."""
    entry, story = told.entry, told.story
    fields = {
        name: getattr(entry, name)
        for name in ("domain", "tenant", "campaign", "site", "source", "mx_rollup")
        if hasattr(entry, name)
    }
    if isinstance(entry, Override):
        fields |= {"option": entry.name, "values": told.values}
    return {
        "kind": entry.kind,
        **fields,
        "rule": story.label,
        "place": f"{story.file}:{story.line}",
        "began": format_rfc3339(told.began_ns),
        "until": format_rfc3339(told.until_ns),
        "seconds": told.seconds,
        "matches": story.matches,
        "response": None if story.first is None else story.first.response,
        "delivered_meanwhile": told.sent,
        "simulated": entry.simulated,
    }
