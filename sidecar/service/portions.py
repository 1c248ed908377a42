"""Portions: what of this host's log the group is to be told.

In: blocks of own segments, with the numbers of their lines; the rules in force.  Out: what
some rule may act on, for the decision here, and :class:`~sidecar.share.Portion`s for the
others: the lines that a rule matched, and where rules need them the attempts, summed
up.  Which lines travel is this host's rules' choice; what they lead to is the others'.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from sidecar.automation.attempts import Attempts, Run
from sidecar.automation.matching import Candidate
from sidecar.automation.pipeline import Tally, candidates, happened
from sidecar.log.blocks import Block
from sidecar.share import Item, Portion

from .rules import Rules

_ITEMS = 500
"""How many lines a portion has at most: the engine does nothing else while it takes one."""

_SLICE_SECONDS = 0.02


@dataclass(slots=True)
class _Collected:
    """What is found since the last portion."""

    items: list[Item] = field(default_factory=list)
    attempts: Attempts = field(default_factory=dict)

    def note(self, found: list[Candidate | Attempts], number: int, line: bytes) -> None:
        for one in found:
            if isinstance(one, dict):
                add_attempts(self.attempts, one)
            else:
                self.items.append(Item(number, "line", line))

    def take(self, segment: str, before: int, to: int) -> Portion:
        items = self.items
        if self.attempts:
            items.append(Item(to, "attempts", attempts_to_json(self.attempts)))
        self.items, self.attempts = [], {}
        return Portion(segment, before, to, tuple(items))


class Matching:
    """Matches blocks as the service does, and gathers portions meanwhile."""

    def __init__(self, rules: Rules, tally: Tally) -> None:
        """`tally` counts what is looked at."""
        self._rules = rules
        self._tally = tally
        self.portions: list[Portion] = []
        """Of the blocks matched so far, in order."""

    def parts(self, block: Block) -> Iterator[list[Candidate | Attempts]]:
        """What is in `block`, as much at once as fits into a slice of time."""
        collected, before = _Collected(), block.before
        end, some = time.perf_counter() + _SLICE_SECONDS, list[Candidate | Attempts]()
        for number, line, found in self._found(block):
            some += found
            collected.note(found, number, line)
            if len(collected.items) >= _ITEMS:
                self.portions.append(collected.take(block.segment, before, number))
                before = number
            if time.perf_counter() > end:
                yield some
                end, some = time.perf_counter() + _SLICE_SECONDS, []
        if block.position.lines > before:
            portion = collected.take(block.segment, before, block.position.lines)
            self.portions.append(portion)
        yield some

    def _found(self, block: Block) -> Iterator[tuple[int, bytes, list[Candidate | Attempts]]]:
        """What each line has led to, with its number in the segment."""
        rules, tally, first = self._rules, self._tally, block.first
        matcher, skip_types = rules.matcher, rules.settings.skip_record_types
        if matcher.needs_attempts:
            number, run = 0, Run()
            for number, lines, line in rules.prefilter.parts_numbered(block.data):
                part = ((lines, line),)
                found = happened(part, matcher=matcher, skip_types=skip_types, tally=tally, run=run)
                if found:
                    yield first + number, line, found
            if behind := run.take():
                yield first + number, b"", [behind]
            return
        for number, line in rules.prefilter.wanted_numbered(block.data, block.numbers):
            one = candidates((line,), matcher=matcher, skip_types=skip_types, tally=tally)
            if one:
                yield first + number, line, [*one]


def add_attempts(into: Attempts, more: Attempts) -> None:
    """Add `more` to the attempts counted so far."""
    for key, count in more.items():
        into[key] = into.get(key, 0) + count


def attempts_to_json(attempts: Attempts) -> bytes:
    """As they travel: each key, and the count behind it."""
    return msgspec.json.encode([(*key, count) for key, count in attempts.items()])


_ATTEMPTS = msgspec.json.Decoder(list[tuple[str, str, str, str | None, bool, int, int]])


def attempts_from_json(data: bytes, fresh: float = 1.0) -> Attempts:
    """What :func:`attempts_to_json` made, or the share `fresh` of it; ValueError for other data."""
    attempts: Attempts = {}
    for queue, source, domain, tenant, delivered, second, count in _ATTEMPTS.decode(data):
        if not (0 < count < 1 << 40 and 0 <= second < 1 << 40):
            raise ValueError("its counts do not go together")
        if rounded := round(count * fresh):
            attempts[queue, source, domain, tenant, delivered, second] = rounded
    return attempts
