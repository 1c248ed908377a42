"""Which lines of a log can matter, found without reading them one by one.

In: whole lines as bytes, a block of many at a time.  Out: those on which some rule
may match; every line on which one does match is among them.

Each regex of each rule yields literals that any match must contain
(:mod:`sidecar.shaping.fancy.required`).  One scan over the block looks for a piece of
each; a line with a hit is then looked at more closely before it is handed on.  Lines
that cannot be judged from their bytes, because they spell characters as ``\\uXXXX``
or broke the literal with an escape, are handed on too.  Where a regex has no usable
literal, all lines are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import re2

from sidecar.shaping.fancy.required import Literal
from sidecar.shaping.patterns import Pattern, re2_options

from .scanners import Hit, Scanner, best_scanner

_UNICODE_ESCAPE: Final = rb"\\u"
_FOLDED_TO_ASCII: Final = "|".join(("\u017f", "\u212a")).encode()  # ſ and the Kelvin sign
_OTHER_ESCAPE: Final = rb"\\(?:/|n(?:[^\"]|$)|r(?:[^\\\"]|\\[^n]|\\n[^\"]|$))"
"""A slash or an inner line break in a JSON string; `\\r\\n` at a string's end is no matter."""


class Prefilter:
    """The rules' literals, ready to scan.  Immutable: a reload makes another."""

    __slots__ = ("_alarms", "_other_escape", "_scanner", "_skipped", "_texts", "unfiltered")

    def __init__(
        self,
        patterns: Iterable[Pattern],
        *,
        skip_types: Iterable[str] = (),
        scanner: type[Scanner] | None = None,
    ) -> None:
        """Prepare for `patterns`.

        `skip_types`: record types that nobody wants, dropped where that can be told
        from how a line begins.  `scanner`: for tests and measurements; the best one
        for this machine unless given.
        """
        needs = {pattern: pattern.literals() for pattern in patterns}
        self.unfiltered: Final = tuple(p for p, found in needs.items() if found is None)
        """The patterns on whose account nothing is filtered."""
        literals = {literal for found in needs.values() if found for literal in found}
        self._texts: Final = _texts_by_piece(literals)
        self._skipped: Final = tuple(f'{{"type":"{name}"'.encode() for name in skip_types)
        self._scanner: Final = (scanner or best_scanner(self._texts))(self._texts)
        alarm = _UNICODE_ESCAPE
        if any(literal.folds_beyond_ascii for literal in literals):
            alarm += b"|" + _FOLDED_TO_ASCII
        self._alarms: Final = _compile(alarm)
        self._other_escape: Final = _compile(_OTHER_ESCAPE)

    @property
    def engine(self) -> str:
        """What scans: for `status` and measurements."""
        return self._scanner.name

    def lines(self, data: bytes) -> Iterator[bytes]:
        """The lines of `data` that may match, without their line ends, each once, in order."""
        if self.unfiltered:
            return self._all_lines(data)
        return self._hit_lines(data)

    def _all_lines(self, data: bytes) -> Iterator[bytes]:
        for line in data.split(b"\n"):
            if line and not line.startswith(self._skipped):
                yield line

    def _hit_lines(self, data: bytes) -> Iterator[bytes]:
        end = 0
        line: bytes | None = None  # None: nothing more to learn about the current line
        for at, pieces in self._hits(data):
            if at >= end:
                start = data.rfind(b"\n", end, at) + 1 or end
                end = data.find(b"\n", at) + 1 or len(data) + 1
                line = None if data.startswith(self._skipped, start) else data[start : end - 1]
            if line is not None and self._may_match(line, pieces):
                yield line
                line = None

    def _hits(self, data: bytes) -> list[Hit]:
        """Places to look at, in order."""
        hits = self._scanner.hits(data)
        found = self._alarms.search(data)
        if found is None:
            return hits
        alarms: list[Hit] = []
        while found is not None:
            alarms.append((found.start(), ()))
            end = data.find(b"\n", found.end())
            found = None if end < 0 else self._alarms.search(data, end)
        return sorted(hits + alarms)

    def _may_match(self, line: bytes, pieces: tuple[tuple[bytes, bool], ...]) -> bool:
        """Whether one of the literals that have one of `pieces` may stand in `line`."""
        if not pieces:
            return True
        for piece in pieces:
            folded = line.lower() if piece[1] else line
            if any(text in folded for text in self._texts[piece]):
                return True
        return self._other_escape.search(line) is not None


def _texts_by_piece(literals: Iterable[Literal]) -> Mapping[tuple[bytes, bool], tuple[bytes, ...]]:
    """Piece and whether case is ignored → the texts it is a piece of."""
    texts: dict[tuple[bytes, bool], set[bytes]] = {}
    for literal in literals:
        piece, text = literal.escaped_piece, literal.escaped_text
        if literal.ignore_case:
            piece, text = piece.lower(), text.lower()
        texts.setdefault((piece, literal.ignore_case), set()).add(text)
    return {piece: tuple(sorted(found)) for piece, found in sorted(texts.items())}


def _compile(pattern: bytes) -> re2._Regexp:
    options = re2_options()
    options.encoding = re2.Options.Encoding.LATIN1
    return re2.compile(pattern, options)
