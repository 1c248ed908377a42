"""What rule tests leave out: rules, regexes and alternatives that no record matches.

In: rules, and each record with the rules that matched it.  Out: a list of what was never
matched.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sidecar.automation.matching import Match
from sidecar.fancy.branches import Branches
from sidecar.shaping.rules import Rule

_Place: TypeAlias = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class Untouched:
    """What no record matched: a rule; with ``regex``, that one; with ``alternative``, only that."""

    rule: Rule
    regex: str | None = None
    alternative: str | None = None

    def document(self) -> dict[str, Any]:
        """As JSON-able values, in the form of ``test --coverage --json``."""
        return {
            "file": self.rule.file,
            "line": self.rule.line,
            "where": self.rule.where,
            "name": self.rule.sidecar.name or None,
            "regex": self.regex,
            "alternative": self.alternative,
        }


@dataclass(slots=True)
class Coverage:
    """The rules of some files of tests, and the texts that each has matched."""

    rules: dict[_Place, Rule] = field(default_factory=dict)
    texts: dict[_Place, set[str]] = field(default_factory=dict)

    def add(self, rules: Iterable[Rule]) -> None:
        """Note that `rules` are tested."""
        for rule in rules:
            self.rules.setdefault(_place(rule), rule)

    def note(self, matches: Iterable[Match], text: str) -> None:
        """Note that a record with `text` was matched."""
        for match in matches:
            self.texts.setdefault(_place(match.rule), set()).add(text)

    @property
    def touched(self) -> int:
        """How many rules were matched."""
        return len(self.texts)

    def untouched(self) -> list[Untouched]:
        """What was never matched, in the order of file and line."""
        found: list[Untouched] = []
        for place, rule in sorted(self.rules.items(), key=lambda item: item[0]):
            texts = self.texts.get(place)
            if texts is None:
                found.append(Untouched(rule))
                continue
            for pattern in rule.regexes:
                matching = [text for text in texts if pattern.search(text) is not None]
                if matching:
                    missed = _missed(pattern.source, matching)
                    found += (Untouched(rule, pattern.source, source) for source in missed)
                else:
                    found.append(Untouched(rule, pattern.source))
        return found


def _missed(regex: str, texts: Iterable[str]) -> list[str]:
    """The alternatives of `regex` that no match in `texts` goes through."""
    branches = Branches(regex)
    taken: set[int] = set()
    for text in texts:
        taken |= branches.taken(text)
    return [source for number, source in enumerate(branches.sources) if number not in taken]


def _place(rule: Rule) -> _Place:
    return os.path.realpath(rule.file), rule.line, rule.where
