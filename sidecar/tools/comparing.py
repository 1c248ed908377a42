"""Entries in force against those that a test expects: values in, differences out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import tomlkit

from sidecar.automation.address import site_name
from sidecar.automation.entries import (
    Entry,
    Override,
    ReadyQSuspension,
    SchedQBounce,
    SchedQSuspension,
)
from sidecar.automation.episodes import Ended
from sidecar.automation.life import State, state_of
from sidecar.automation.overlay import Overlay
from sidecar.shaping.options import canonical

from .casefile import ExpectedEntry
from .text import shown_duration, shown_value


@dataclass(frozen=True, slots=True)
class Difference:
    """One entry that is not as expected, as text in the language of the test file.

    ``missing``: expected, not in force; ``unexpected``: the reverse; ``differs``:
    in force with other values, ``fields`` are (key, expected, got).
    """

    what: Literal["missing", "unexpected", "differs"]
    entry: str
    line: int | None = None
    fields: tuple[tuple[str, str, str], ...] = ()


def in_force(entries: Iterable[Entry], now_ns: int) -> list[Entry]:
    """The entries as kumod sees them at `now_ns`, then the simulated ones.

    Of overrides those are in force that the overlay says.
    """
    everything = sorted(entries, key=lambda entry: (entry.expires_ns, entry.key))
    simulated = [entry for entry in everything if entry.simulated]
    real = [entry for entry in everything if not entry.simulated]
    overlay = Overlay(entry for entry in real if isinstance(entry, Override))
    overlay.advance(now_ns)
    held = [entry for entry in real if not isinstance(entry, Override)]
    effective = [one.override.at(now_ns) for one in overlay.effective()]
    return [*effective, *held, *simulated]


@dataclass(frozen=True, slots=True)
class Actual:
    """An entry in force, in the terms of the test file; times are what is left of them, in ns."""

    kind: str
    fields: Mapping[str, Any]

    @property
    def simulated(self) -> bool:
        """Whether it is not published."""
        return bool(self.fields["simulated"])

    @property
    def is_of_no_effect(self) -> bool:
        """Whether it changes nothing yet: it has ended, is simulated, or waits for its time."""
        waits = self.kind == "overrides" and self.fields["state"] == State.SUSPENDED.value
        return self.simulated or self.kind == "ended" or waits

    @classmethod
    def of(cls, entry: Entry, now_ns: int) -> Actual:
        """The entry as it is at `now_ns`."""
        kind, fields = _fields(entry)
        left = {"expires_in": entry.expires_ns - now_ns, "simulated": entry.simulated}
        return cls(kind, {**fields, **left, "state": state_of(entry, now_ns).value})

    @classmethod
    def of_ended(cls, ended: Ended) -> Actual:
        """An entry that is in force no more."""
        _, fields = _fields(ended.entry)
        simulated = ended.entry.simulated
        return cls("ended", {**fields, "simulated": simulated, "how": ended.how})


def _fields(entry: Entry) -> tuple[str, dict[str, Any]]:
    match entry:
        case Override():
            return "overrides", {
                "domain": entry.domain,
                "mx_rollup": entry.mx_rollup,
                "source": entry.source,
                "option": entry.name,
                "value": entry.value,
            }
        case ReadyQSuspension():
            return "suspended", {"site": entry.site, "source": entry.source}
        case SchedQSuspension() | SchedQBounce():
            kind = "suspended" if isinstance(entry, SchedQSuspension) else "bounced"
            parts = {
                "domain": entry.domain,
                "tenant": entry.tenant,
                "campaign": entry.campaign,
            }
            return kind, {key: value for key, value in parts.items() if value is not None}


def compare(
    expected: Sequence[ExpectedEntry], actual: Sequence[Actual], *, exact: bool
) -> list[Difference]:
    """What differs, the expected entries first; ``exact``: nothing else may be in force.

    One of no effect that nobody expects does not count: see :attr:`Actual.is_of_no_effect`.
    """
    partners = _pair(expected, actual)
    left = [a for n, a in enumerate(actual) if n not in partners.values()]
    differences: list[Difference] = []
    for number, want in enumerate(expected):
        if number in partners:
            continue
        near = min(
            (a for a in left if _similar(want, a)),
            key=lambda a: len(_differing(want, a)),
            default=None,
        )
        if near is None:
            differences.append(Difference("missing", _shown(want.kind, want.fields), want.line))
            continue
        left.remove(near)
        fields = tuple(
            (key, _shown_field(key, want.fields.get(key)), _shown_field(key, near.fields.get(key)))
            for key in _differing(want, near)
        )
        entry = _shown(near.kind, near.fields)
        differences.append(Difference("differs", entry, want.line, fields))
    if exact:
        others = (a for a in left if not a.is_of_no_effect)
        differences += [Difference("unexpected", _shown(a.kind, a.fields)) for a in others]
    return differences


def _pair(expected: Sequence[ExpectedEntry], actual: Sequence[Actual]) -> dict[int, int]:
    """Expected entry → its entry in force, as many as possible (augmenting paths)."""
    fitting = [
        [n for n, a in enumerate(actual) if a.kind == want.kind and not _differing(want, a)]
        for want in expected
    ]
    owner: dict[int, int] = {}

    def place(number: int, tried: set[int]) -> bool:
        for candidate in fitting[number]:
            if candidate in tried:
                continue
            tried.add(candidate)
            if candidate not in owner or place(owner[candidate], tried):
                owner[candidate] = number
                return True
        return False

    for number in range(len(expected)):
        place(number, set())
    return {number: candidate for candidate, number in owner.items()}


def _similar(want: ExpectedEntry, got: Actual) -> bool:
    """Whether the two may be of one mind but for a value or two."""
    if want.kind != got.kind or want.fields["simulated"] != got.simulated:
        return False
    if not want.fields.keys() <= {*got.fields, "tenant", "campaign"}:
        return False
    return len(_differing(want, got)) < max(len(want.fields), 2)


def _differing(want: ExpectedEntry, got: Actual) -> list[str]:
    return [key for key in want.fields if not _equal(key, want.fields[key], got.fields)]


def _equal(key: str, want: Any, got: Mapping[str, Any]) -> bool:
    if key not in got:
        return key in ("tenant", "campaign") and want == ""
    have = got[key]
    if key == "site" and "->" not in want:
        return bool(want == site_name(have, got["source"]))
    if key == "value":
        try:
            return canonical(got["option"], want) == canonical(got["option"], have)
        except ValueError:
            return False
    return bool(want == have)


_PLAIN = {"in force", "suspended", "bounced"}
"""States of which the list that an entry is in says enough."""


def _shown(kind: str, fields: Mapping[str, Any]) -> str:
    """An entry as the test file would have it."""
    inner = ", ".join(
        f"{key} = {_shown_field(key, value)}"
        for key, value in fields.items()
        if (key != "simulated" or value) and not (key == "state" and value in _PLAIN)
    )
    return f"{kind} {{{inner}}}"


def _shown_field(key: str, value: Any) -> str:
    if value is None:
        return "none"
    if key == "expires_in":
        return f'"{shown_duration(value)}"'
    return shown_value(tomlkit.item(value).unwrap() if key == "value" else value)
