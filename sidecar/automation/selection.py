"""Which entries an operator means: by id, or by what they are about and which rule made them.

In: a :class:`Selection`, made from filters on a command line, and an entry with what is
known of its rule.  Out: whether it is meant.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import msgspec

from .entries import Entry, Override, ReadyQSuspension


@dataclass(frozen=True, slots=True)
class Made:
    """What is known of an entry beside itself.

    ``rule``: its rule's name, "" without one; ``place``: where that stands, as
    ``file:line``; ``domains``: of the recipients whose mail caused it.
    """

    id: int = 0
    rule: str = ""
    place: str = ""
    domains: Collection[str] = ()


class Selection(msgspec.Struct, frozen=True, omit_defaults=True):
    """Entries that fit all of these; of each kind of filter one is enough, and none asks nothing.

    In a text ``*`` stands for anything.  ``sites`` are names of ready queues, or of
    sites alone; ``rules`` are names, or ``file:line`` as far as it is told.  A domain
    is the entry's own; of a ready queue, which has none, one whose mail caused it.
    """

    ids: tuple[int, ...] = ()
    keys: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()
    campaigns: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether it asks for anything in particular."""
        return any(getattr(self, name) for name in self.__struct_fields__)

    def fits(self, entry: Entry, made: Made) -> bool:
        """Whether `entry` is meant."""
        return (
            (not self.ids or made.id in self.ids)
            and (not self.keys or entry.key in self.keys)
            and (not self.kinds or entry.kind in self.kinds)
            and fits_rule(self.rules, made)
            and _one(self.sites, (entry.site, site_name(entry.site)))
            and _one(self.sources, (source(entry),))
            and _one(self.domains, _domains(entry, made))
            and _one(self.tenants, (getattr(entry, "tenant", None),))
            and _one(self.campaigns, (getattr(entry, "campaign", None),))
        )


def fits_rule(rules: tuple[str, ...], made: Made) -> bool:
    """Whether one of `rules` is what the rule is called; none asks nothing."""
    return _one(rules, _names(made))


def source(entry: Entry) -> str:
    """The egress source whose mail caused it."""
    if isinstance(entry, Override | ReadyQSuspension):
        return entry.source
    return entry.site.partition("->")[0]


def site_name(ready_queue: str) -> str:
    """The site within the name of a ready queue."""
    return ready_queue.partition("->")[2].rpartition("@")[0] or ready_queue


def _domains(entry: Entry, made: Made) -> Collection[str]:
    return made.domains if isinstance(entry, ReadyQSuspension) else (entry.domain,)


def _names(made: Made) -> Iterable[str]:
    """What the rule may be called: its name, its place, and that without leading directories."""
    yield made.rule
    parts = made.place.split("/")
    for first in range(len(parts)):
        yield "/".join(parts[first:])


def _one(patterns: tuple[str, ...], texts: Iterable[str | None]) -> bool:
    if not patterns:
        return True
    known = [text.lower() for text in texts if text]
    return any(is_like(pattern.lower(), text) for pattern in patterns for text in known)


def is_like(pattern: str, text: str) -> bool:
    """Whether `text` is `pattern`, whose ``*`` stand for anything; in one pass over it."""
    first, *others = pattern.split("*")
    if not others:
        return text == first
    *between, last = others
    at, end = len(first), len(text) - len(last)
    if not text.startswith(first) or not text.endswith(last) or at > end:
        return False
    for part in between:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True
