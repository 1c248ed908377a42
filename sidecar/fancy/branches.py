"""Which alternatives of a regex the match in a text goes through.

In: a regex that compiles, and texts.  Out: the numbers of alternatives of ``a|b``, in the
order in which they end in the regex.  Alternatives within a negative look-around
are none: no match goes through them.
"""

from __future__ import annotations

import functools
from typing import Any

from msgspec.structs import replace

from . import nodes
from .charset import Alphabet, AsciiAlphabet, UnicodeAlphabet
from .parse import Parsed, parse
from .pattern import TIME_LIMIT
from .translate import to_regex


class Branches:
    """The alternatives of one regex; ``sources`` is how each is written."""

    def __init__(self, source: str) -> None:
        self._parsed = parse(source)
        self._first = self._parsed.groups + 1
        self.sources: list[str] = []
        root = self._marked(self._parsed.root)
        marks = frozenset(self._first + number for number in range(len(self.sources)))
        referenced = self._parsed.referenced | marks
        self._with_marks = Parsed(root, self._parsed.groups + len(marks), referenced)

    def taken(self, text: str) -> set[int]:
        """The alternatives that the first match in `text` goes through."""
        if not self.sources:
            return set()
        try:
            found = (self._ascii if text.isascii() else self._unicode).search(
                text, timeout=TIME_LIMIT
            )
        except TimeoutError:
            return set()
        if found is None:
            return set()
        numbers = range(len(self.sources))
        return {number for number in numbers if found.captures(f"g{self._first + number}")}

    @functools.cached_property
    def _ascii(self) -> Any:
        return self._compiled(AsciiAlphabet())

    @functools.cached_property
    def _unicode(self) -> Any:
        return self._compiled(UnicodeAlphabet())

    def _compiled(self, alphabet: Alphabet) -> Any:
        import regex  # noqa: PLC0415 - takes a while, and most commands do without

        return regex.compile(to_regex(self._with_marks, alphabet))

    def _marked(self, node: nodes.Node) -> nodes.Node:
        """The same, and each alternative is a group that is referred to."""
        match node:
            case nodes.Concat(items):
                return replace(node, items=tuple(map(self._marked, items)))
            case nodes.Alternation(items, sources):
                pairs = zip(items, sources, strict=True)
                return replace(node, items=tuple(self._mark(*pair) for pair in pairs))
            case nodes.Look(_, _, True):
                return node
            case nodes.Group() | nodes.Repeat() | nodes.Look() | nodes.Atomic():
                return replace(node, child=self._marked(node.child))
            case nodes.Conditional(condition, yes, no):
                return nodes.Conditional(condition, self._marked(yes), self._marked(no))
        return node

    def _mark(self, item: nodes.Node, source: str) -> nodes.Group:
        child = self._marked(item)
        self.sources.append(source)
        return nodes.Group(self._first + len(self.sources) - 1, child)
