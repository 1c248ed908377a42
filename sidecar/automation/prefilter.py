"""The lines of a log that some rule may match, found without decoding them.

In: a block of whole lines.  Out: the lines that some rule may match.  No line that a
rule does match is left out.

Each regex of each rule yields literals that every match contains
(:mod:`sidecar.fancy.literals`).  One scan looks for all of them in a block
(:mod:`.scanners`).  Where a regex yields none, a rule of one site gets all lines of that
site.  A rule of a wider scope gets every line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from sidecar.fancy.pattern import Literal, Pattern
from sidecar.shaping.rules import Rule, Scope

from .scanners import Scanner, best_scanner

_TYPE: Final = b'"type"'
_SHORTEST_SITE: Final = 4
_ARROW: Final = rb"-\u003e"
"""How a template with ``tojson`` writes the arrow in a ready queue's name.  Each delivery has
one, and an escape may hide a literal.  Behind the ``-`` it can't be half of another escape."""
_GLANCE: Final = 1 << 14  # bytes that tell whether a log is written so


class Prefilter:
    """The literals of a set of patterns, ready to scan.  Immutable: a reload makes another."""

    __slots__ = ("_scanner", "_skipped", "unfiltered")

    def __init__(
        self,
        patterns: Iterable[Pattern],
        *,
        also: Iterable[Literal] = (),
        skip_types: Iterable[str] = (),
        scanner: Callable[[Iterable[Literal]], Scanner] = best_scanner,
    ) -> None:
        """Prepare for `patterns`.

        `also`: literals whose lines are wanted, too.  `skip_types`: record types that
        nobody wants, dropped where that can be told from how a line begins.  `scanner`:
        for tests and measurements; by default the best one that this machine has.
        """
        found = {pattern: pattern.literals() for pattern in patterns}
        self.unfiltered: Final = tuple(p for p, literals in found.items() if literals is None)
        """The patterns on whose account nothing is filtered."""
        literals = dict.fromkeys(one for literals in found.values() for one in literals or ())
        literals |= dict.fromkeys(also)
        self._scanner: Final = scanner(literals) if literals else None
        self._skipped: Final = tuple(f'{{"type":"{name}"'.encode() for name in skip_types)

    @classmethod
    def for_rules(
        cls,
        rules: Iterable[Rule],
        *,
        skip_types: Iterable[str] = (),
        scanner: Callable[[Iterable[Literal]], Scanner] = best_scanner,
    ) -> Prefilter:
        """Prepare for `rules`.  A rule is asked only about the records of its scope."""
        patterns: list[Pattern] = []
        sites: list[Literal] = []
        for rule in rules:
            site = _site(rule.scope)
            for pattern in rule.regexes:
                if site is not None and pattern.literals() is None:
                    sites.append(site)
                else:
                    patterns.append(pattern)
        return cls(patterns, also=sites, skip_types=skip_types, scanner=scanner)

    @property
    def engine(self) -> str:
        """What scans, for people; "none" when there is nothing to look for."""
        return "none" if self._scanner is None else self._scanner.name

    def sift(self, data: bytes) -> bytes:
        """The lines of `data` that may match, and perhaps others: for :meth:`wanted`."""
        if self.unfiltered:
            return data
        kept = [] if self._scanner is None else [line for _, line in self._hit(data, self._scanner)]
        return b"\n".join((*kept, b"")) if kept else b""

    def sift_numbered(self, data: bytes) -> tuple[bytes, list[int] | None]:
        """The same, and which lines they are, counted from 0; None: all of them."""
        if self.unfiltered:
            return data, None
        if self._scanner is None:
            return b"", []
        lines: list[bytes] = []
        numbers: list[int] = []
        number = counted = 0
        for start, line in self._hit(data, self._scanner):
            number += _line_feeds(data[counted:start])
            counted = start
            lines.append(line)
            numbers.append(number)
        return (b"\n".join((*lines, b"")) if lines else b""), numbers

    def wanted_numbered(
        self, data: bytes, numbers: Sequence[int] | None
    ) -> Iterator[tuple[int, bytes]]:
        """What :meth:`wanted` yields, each with its number; `numbers` as that was sifted."""
        lines = data.split(b"\n")
        numbered = enumerate(lines) if numbers is None else zip(numbers, lines, strict=False)
        for number, line in numbered:
            if line and not self._unwanted(line):
                yield number, line

    def parts_numbered(self, data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
        """What :meth:`parts` yields, each with the number of its last line."""
        number = 0
        for lines, line in self.parts(data):
            number += _line_feeds(lines)
            yield number, lines, line
            number += bool(line)

    def wanted(self, data: bytes) -> Iterator[bytes]:
        """All lines of `data` but those of skipped types, without their line ends."""
        for line in data.split(b"\n"):
            if line and not self._unwanted(line):
                yield line

    def parts(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """All of `data` in order: lines that no rule matches, then one that some rule may.

        Either may be empty.  The lines come with their ends, the one without.
        """
        if data.find(_ARROW, 0, _GLANCE) >= 0:
            data = b"->".join(data.split(_ARROW))  # takes two thirds of bytes.replace
        end = 0
        for start, line in self._hit_or_any(data):
            yield data[end:start], line
            end = start + len(line) + 1
        yield data[end:], b""

    def _hit_or_any(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The lines that some rule may match, each with its place."""
        if not self.unfiltered:
            return iter(()) if self._scanner is None else self._hit(data, self._scanner)
        return self._any(data)

    def _any(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        start = 0
        for line in data.split(b"\n"):
            if line and not self._unwanted(line):
                yield start, line
            start += len(line) + 1

    def _unwanted(self, line: bytes) -> bool:
        """Whether `line` is of a skipped type, and names no other type later."""
        return line.startswith(self._skipped) and line.find(_TYPE, len(_TYPE) + 1) < 0

    def _hit(self, data: bytes, scanner: Scanner) -> Iterator[tuple[int, bytes]]:
        start = end = 0  # of the current line
        line = b""
        done = looked = True  # with the current line; whether it has had its closer look
        for at, sure in scanner.hits(data):
            if at >= end:
                start = data.rfind(b"\n", end, at) + 1 or end
                end = data.find(b"\n", at) + 1 or len(data) + 1
                line = data[start : end - 1]
                done = self._unwanted(line)
                looked = False
            if done or (looked and not sure):
                continue
            looked = True
            if sure or scanner.confirms(line):
                yield start, line
                done = True


def decodes_all(rule: Rule) -> bool:
    """Whether every record must be decoded to tell which ones `rule` matches."""
    return _site(rule.scope) is None and any(p.literals() is None for p in rule.regexes)


def _line_feeds(data: bytes) -> int:
    # bytes.count looks at each byte before Python 3.13.
    return len(data) - len(data.replace(b"\n", b""))


def _site(scope: Scope) -> Literal | None:
    """The literal in every line of the site of `scope`: its name; None for another scope.

    A domain has no such literal: a recipient may spell it in other ways.
    """
    if scope.kind != "site" or len(scope.name) < _SHORTEST_SITE:
        return None
    return Literal(text=scope.name, piece=scope.name, ignore_case=False)
