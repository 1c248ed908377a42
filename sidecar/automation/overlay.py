"""The overlay: entries in, the text of the overlay ``shaping.toml`` out.

A section is a domain with one ``mx_rollup``; each is rendered on its own with
tomlkit, read back (tomllib and the options schema) and kept until one of its
entries changes, so that a change among ten thousand costs one section and a
join.  Since one bad byte would stop all of kumod's mail, what does not survive
the reading back is left out and reported.

Source of the form: KumoMTA's daemon (tests/data/conformance), with its defects mended:
both scopes of one domain hold (the site-wide one under the name with a final
dot), comments are one line, reserved names are never written.
"""

from __future__ import annotations

import tomllib
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import tomlkit
from tomlkit.items import KeyType, SingleKey

from sidecar.shaping.options import check_option
from sidecar.shaping.rules import TomlValue
from sidecar.times import format_rfc3339

from .entries import Override

RESERVED = frozenset({"default", "provider"})
"""Names that mean something else than a domain at the top of a shaping file."""

_Section = tuple[str, bool]
_Target = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Effective:
    """An override as the overlay says it: its section's name (``domain`` or ``domain.``) and it."""

    section: str
    override: Override


class Overlay:
    """All overrides in force, and their text."""

    __slots__ = ("_count", "_domains", "_fragments", "_sections", "_text", "rejected", "reserved")

    def __init__(self, overrides: Iterable[Override] = ()) -> None:
        self._sections: dict[_Section, dict[_Target, dict[str, Override]]] = {}
        self._domains: list[str] = []  # of the sections, in order
        self._fragments: dict[str, str] = {}
        self._count = 0
        self._text: str | None = None
        self.reserved: dict[str, int] = {}
        """Entries left out because of a reserved name, by name."""
        self.rejected: dict[str, str] = {}
        """Why an entry (by key) was left out: kumod would refuse it, or take it for another."""
        for override in overrides:
            self.put(override)

    def put(self, override: Override) -> None:
        """Take an override in, in place of the one with its key."""
        section = (override.domain, override.mx_rollup)
        target = (override.source, override.name)
        if not self._has(override.domain):
            insort(self._domains, override.domain)
        held = self._sections.setdefault(section, {}).setdefault(target, {})
        self._count += override.key not in held
        held[override.key] = override
        self._touch(override.domain)

    def remove(self, override: Override) -> None:
        """Take out the override with this one's key."""
        section = (override.domain, override.mx_rollup)
        target = (override.source, override.name)
        targets = self._sections.get(section, {})
        held = targets.get(target, {})
        if held.pop(override.key, None) is None:
            return
        self._count -= 1
        if not held:
            del targets[target]
        if not targets:
            del self._sections[section]
        if not self._has(override.domain):
            del self._domains[bisect_left(self._domains, override.domain)]
        self.rejected.pop(override.key, None)
        self._touch(override.domain)

    def _has(self, domain: str) -> bool:
        return (domain, True) in self._sections or (domain, False) in self._sections

    def _touch(self, domain: str) -> None:
        self._fragments.pop(domain, None)
        self._text = None

    def effective(self) -> Iterator[Effective]:
        """What the overlay says, in its order; of entries for the same thing the last matched."""
        self.text()  # which finds out what can't be said
        for domain in self._domains:
            if domain in RESERVED:
                continue
            for mx_rollup in (True, False):
                for override in self._winners(domain, mx_rollup):
                    if override.key not in self.rejected:
                        yield Effective(self._name(domain, mx_rollup), override)

    def _winners(self, domain: str, mx_rollup: bool) -> list[Override]:
        targets = self._sections.get((domain, mx_rollup), {})
        return [
            max(targets[target].values(), key=lambda o: (o.seq, o.key))
            for target in sorted(targets)
        ]

    def _name(self, domain: str, mx_rollup: bool) -> str:
        # One TOML table has one mx_rollup; kumod resolves the name with a final
        # dot to the same site (tests/data/conformance/mx-rollup-conflict.json).
        both = (domain, True) in self._sections and (domain, False) in self._sections
        return f"{domain}." if mx_rollup and both else domain

    def text(self) -> str:
        """The whole overlay; equal entries give equal text."""
        if self._text is None:
            self._text = self._render()
        return self._text

    def _render(self) -> str:
        parts: list[str] = []
        self.reserved = {}
        fragments = self._fragments
        for domain in self._domains:
            if domain in RESERVED:
                self.reserved[domain] = self._overrides(domain)
                continue
            kept = fragments.get(domain)
            if kept is None:
                kept = fragments[domain] = "".join(
                    self._fragment(domain, rollup)
                    for rollup in (True, False)
                    if (domain, rollup) in self._sections
                )
            parts.append(kept)
        count = self._count - sum(self.reserved.values()) - len(self.rejected)
        mark = f"# Generated by tsa-daemon\n# Number of entries: {count}\n"
        return f"{mark}\n{''.join(parts)}{mark}"

    def _overrides(self, domain: str) -> int:
        """How many overrides there are for a domain."""
        return sum(
            len(held)
            for rollup in (True, False)
            for held in self._sections.get((domain, rollup), {}).values()
        )

    def _fragment(self, domain: str, mx_rollup: bool) -> str:
        for held in self._sections[domain, mx_rollup].values():
            for key in held:
                self.rejected.pop(key, None)
        name = self._name(domain, mx_rollup)
        winners = self._winners(domain, mx_rollup)
        if domain.endswith("."):
            # Its section could be that of the same domain's site-wide options: no recipient
            # has such a domain, but an imported entry may.
            self._reject(winners, "a domain is written without a final dot")
            return ""
        text = _sound_section(name, mx_rollup, winners)
        if text is not None:
            return text
        sound: list[Override] = []
        for override in winners:
            if _sound_section(name, mx_rollup, [override]) is not None:
                sound.append(override)
            else:
                self._reject([override], "does not read back as written")
        return _section(name, mx_rollup, sound) if sound else ""

    def _reject(self, overrides: list[Override], why: str) -> None:
        for o in overrides:
            self.rejected[o.key] = (
                f"{o.name} = {o.value!r} for {o.domain!r} from {o.source!r} {why}"
            )


def _section(name: str, mx_rollup: bool, overrides: list[Override]) -> str:
    # Keys and values are tomlkit's; a whole tomlkit document would cost ten times as much.
    head = _key(name)
    lines = [f"[{head}]", f"mx_rollup = {tomlkit.item(mx_rollup).as_string()}"]
    source = None
    for override in overrides:
        if override.source != source:
            source = override.source
            lines += ["", f"[{head}.sources.{_key(source)}]"]
        expires = format_rfc3339(override.expires_ns, utc="+00:00")
        lines += [
            f"# reason: {one_line(override.reason)}",
            f"# expires: {expires}",
            f"{tomlkit.key(override.name).as_string()} = {_value(override.value)}",
        ]
    return "\n".join(lines) + "\n\n"


def _key(name: str) -> str:
    return SingleKey(name, t=KeyType.Basic).as_string()


def _value(value: TomlValue) -> str:
    if isinstance(value, dict):
        table = tomlkit.inline_table()
        table.update(value)
        return table.as_string()
    return tomlkit.item(value).as_string()


def one_line(text: str) -> str:
    r"""`text` fit for a comment: what is no printable character or space as ``\n``, ``\u2028`` …

    TOML forbids control characters in comments, and a line break would end it.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _sound_section(name: str, mx_rollup: bool, overrides: list[Override]) -> str | None:
    """The section's text, if kumod takes its options and it means what it should; else None."""
    sources: dict[str, dict[str, object]] = {}
    for o in overrides:
        if check_option(o.name, o.value):
            return None
        sources.setdefault(o.source, {})[o.name] = o.value
    try:
        text = _section(name, mx_rollup, overrides)
        text.encode()
        read = tomllib.loads(text)
    except (TypeError, ValueError, RecursionError):  # tomlkit's, tomllib's and Unicode's errors
        return None
    return text if read == {name: {"mx_rollup": mx_rollup, "sources": sources}} else None
