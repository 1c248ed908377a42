"""Multi-literal scans over a block of log lines, by the best library at hand.

In: literals, and a block of lines.  Out: places in the lines that hold a literal, or may
hold one in another spelling.

JSON has several spellings for a text.  A scanner looks for the plain one.  An escape
that could hide a literal raises an *alarm*: ``\\uXXXX``, ``\\/``, and a line break within
a string, which rules see as a space.  (``\\r\\n`` right before the closing quote raises
none: each record's ``command`` ends so.)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Protocol, TypeAlias

import ahocorasick_rs
import re2

from sidecar.fancy.literals import Literal
from sidecar.fancy.pattern import re2_options

from .needles import choose

Hit: TypeAlias = tuple[int, bool]
"""An offset within a line, and whether the line is wanted without a closer look."""

_UNICODE_ESCAPE: Final = rb"\\u"
_OTHER_ESCAPES: Final = (
    rb"\\/",
    rb"\\n[^\x22]",
    rb"\\r[^\\\x22]",
    rb"\\r\\[^n]",
    rb"\\r\\n[^\x22]",
)
_FOLDED_TO_ASCII: Final = (rb"\xc5\xbf", rb"\xe2\x84\xaa")  # ſ and the Kelvin sign, in UTF-8
_SMALL: Final = 1 << 16  # bytes: a block of which it says little how much is found in it
_RE2_MEMORY: Final = 64 << 20


class Scanner(Protocol):
    """Finds literals in blocks of whole lines."""

    name: str

    def __init__(self, literals: Iterable[Literal]) -> None: ...

    def hits(self, data: bytes) -> list[Hit]:
        """Ascending places, at least one in each line of `data` that may have a literal."""

    def confirms(self, line: bytes) -> bool:
        """The closer look: whether `line` may have a literal."""


def best_scanner(literals: Iterable[Literal]) -> Scanner:
    """The fastest scanner for `literals` that this machine has."""
    wanted = tuple(literals)
    needles = choose(wanted)
    return _exact_scanner(wanted) if needles is None else NeedleScanner(wanted, needles)


def _exact_scanner(literals: tuple[Literal, ...]) -> Scanner:
    try:
        return HyperscanScanner(literals)
    except ImportError:  # no wheel for this machine: google-re2 does it, some four times slower
        return Re2Scanner(literals)


class NeedleScanner:
    """Looks for a few short needles that stand for all literals, then around each one found.

    It is by far the fastest while the needles are few and rare: for those, Rust's
    aho-corasick has a SIMD search ("packed", "Teddy").
    """

    name = "aho-corasick"

    _RARE: Final = 4000
    """Bytes of log for each needle found.  With more needles the exact scan is faster."""

    def __init__(
        self,
        literals: Iterable[Literal],
        needles: Mapping[bytes, tuple[Literal, ...]] | None = None,
    ) -> None:
        """ValueError where the literals have no small number of needles."""
        self._literals: Final = tuple(literals)
        chosen = choose(self._literals) if needles is None else needles
        if chosen is None:
            raise ValueError("too many different literals")
        # The search compares as many bytes at once as the shortest needle has, up to four,
        # so a short one has a search of its own.
        groups = [[n for n in chosen if len(n) > 3], [n for n in chosen if len(n) <= 3]]
        self._searches: Final = tuple(_Search.create(group, chosen) for group in groups if group)

    @cached_property
    def _exact(self) -> Scanner:
        return _exact_scanner(self._literals)

    def hits(self, data: bytes) -> list[Hit]:
        most = max(len(data), _SMALL) // self._RARE
        found: list[Hit] = []
        for search in self._searches:
            places = search.find(data)
            if len(places) > most:
                return self._exact.hits(data)
            line_end = 0  # of the last line found: it need not be found again
            for number, at, end in places:
                if at < line_end:
                    continue
                around = search.around[number]
                if around is None or around.look(data, at, end):
                    found.append((at, True))
                    line_end = data.find(b"\n", at)
        if len(self._searches) > 1:
            found.sort()
        return found

    def confirms(self, line: bytes) -> bool:
        return self._exact.confirms(line)


class Re2Scanner:
    """google-re2, which is always there: one alternation of everything."""

    name = "re2"

    def __init__(self, literals: Iterable[Literal]) -> None:
        wanted = tuple(literals)
        options = re2_options()
        options.encoding = re2.Options.Encoding.LATIN1
        options.max_mem = _RE2_MEMORY
        alternatives = dict.fromkeys([*map(_usual_spellings, wanted), *_sure_alarms(wanted)])
        self._search: Final = re2.compile(b"|".join(alternatives), options)

    def hits(self, data: bytes) -> list[Hit]:
        return [(found.start(), True) for found in self._search.finditer(data)]

    def confirms(self, line: bytes) -> bool:
        return self._search.search(line) is not None


class HyperscanScanner:
    """Hyperscan (Vectorscan on arm64): its cost hardly depends on how many literals there are."""

    name = "hyperscan"

    _ENOUGH: Final = 64
    """How many literals Hyperscan gets at least.

    For fewer than some fifty it takes a matcher that is half as fast.
    """

    _LONGEST: Final = 256
    """Bytes of a literal that the scan looks for: Hyperscan refuses a few thousand."""

    def __init__(self, literals: Iterable[Literal]) -> None:
        """ImportError where there is no Hyperscan for this machine."""
        hyperscan = _hyperscan()
        wanted = tuple(literals)
        sure = {(_hex(one.escaped_text[: self._LONGEST]), one.ignore_case): None for one in wanted}
        sure |= dict.fromkeys((alarm, False) for alarm in _sure_alarms(wanted))
        for number in range(self._ENOUGH - len(sure)):
            # JSON never holds a plain control character, so nothing will be found.
            sure[(_hex(b"\x00\x01%d" % number), False)] = None
        expressions = [*sure, *((alarm, False) for alarm in _OTHER_ESCAPES)]
        self._unsure_from: Final = len(sure)
        self._database: Final = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        self._database.compile(
            expressions=[expression for expression, _ in expressions],
            ids=list(range(len(expressions))),
            flags=[hyperscan.HS_FLAG_CASELESS if any_case else 0 for _, any_case in expressions],
        )
        self._scratch: Final = hyperscan.Scratch(self._database)
        self._closer: Final = Re2Scanner(wanted)

    def hits(self, data: bytes) -> list[Hit]:
        found: list[Hit] = []
        unsure_from = self._unsure_from

        def on_match(number: int, _start: int, end: int, _flags: int, _context: Any) -> None:
            found.append((end - 1, number < unsure_from))

        self._database.scan(data, match_event_handler=on_match, scratch=self._scratch)
        found.sort()
        return found

    def confirms(self, line: bytes) -> bool:
        return self._closer.confirms(line)


@dataclass(frozen=True, slots=True)
class _Search:
    """A search for some needles.

    ``around`` has for each needle what to look for around it; None where the needle
    itself is enough.
    """

    find: Callable[[bytes], list[tuple[int, int, int]]]
    around: tuple[_Around | None, ...]

    @classmethod
    def create(cls, group: list[bytes], needles: Mapping[bytes, tuple[Literal, ...]]) -> _Search:
        search = ahocorasick_rs.BytesAhoCorasick(
            group,  # only leftmost searches are packed ones
            matchkind=ahocorasick_rs.MatchKind.LeftmostFirst,
        )
        return cls(search.find_matches_as_indexes, tuple(_around(n, needles) for n in group))


class _Around:
    """What to look for around a needle that was found."""

    __slots__ = ("_literals", "_reach", "_search", "_sure")

    def __init__(self, literals: Iterable[Literal], sure: Iterable[bytes]) -> None:
        """`sure`: needles that are enough by themselves, where this one may hide them."""
        self._literals = tuple(literals)
        self._sure = tuple(sure)
        self._reach = max((*map(_longest, self._literals), *map(len, self._sure)))
        # Compiled when first needed: most needles are never found.
        self._search: Callable[[bytes, int, int], object] | None = None

    def look(self, data: bytes, start: int, end: int) -> bool:
        """Whether one of the literals may be where a needle is, from `start` to `end`."""
        if self._search is None:
            every = (*map(_any_spelling, self._literals), *map(_hex, self._sure))
            self._search = re.compile(b"|".join(every)).search
        reach = self._reach
        return self._search(data, start - reach if start > reach else 0, end + reach) is not None


def _around(needle: bytes, needles: Mapping[bytes, tuple[Literal, ...]]) -> _Around | None:
    """How to tell whether a literal is where `needle` was found; None where one is for sure."""
    meant = needles[needle]
    if not meant or any(one.escaped_text == needle and not one.ignore_case for one in meant):
        return None
    # Of needles that overlap the search finds one only.  It must stand for the others, too.
    every = dict.fromkeys(meant)
    sure: list[bytes] = []
    for other, hidden in needles.items():
        if _may_overlap(needle, other):
            every |= dict.fromkeys(hidden)
            if not hidden:
                sure.append(other)
    return _Around(every, sure)


def _may_overlap(found: bytes, hidden: bytes) -> bool:
    return hidden in found or any(hidden.startswith(found[start:]) for start in range(len(found)))


def _any_spelling(literal: Literal) -> bytes:
    """A regex, for Python's ``re``, for `literal` in a JSON string without ``\\u00XX``."""
    text = b"".join(_spellings(char, any_case=literal.ignore_case)[0] for char in literal.text)
    return b"(?i:" + text + b")" if literal.ignore_case else text


def _longest(literal: Literal) -> int:
    """Bytes of the longest spelling of `literal`."""
    return sum(_spellings(char, any_case=literal.ignore_case)[1] for char in literal.text)


def _spellings(char: str, *, any_case: bool) -> tuple[bytes, int]:
    """A regex for the spellings of a character, and the length of the longest."""
    plain = (f"\\{char}" if char in '"\\' else char).encode(errors="replace")
    if char == " ":
        return rb"(?: |\\r\\n|\\n|\\r)", 4
    if char == "/":
        return rb"\\?/", 2
    if not char.isascii():
        return b"(?:" + _hex(plain) + rb"|(?:\\u[0-9a-fA-F]{4}){1,2})", 12
    if any_case and char in "ksKS":
        others = b"|".join((*_FOLDED_TO_ASCII, rb"\\u(?:017[fF]|212[aA])"))
        return b"(?:" + _hex(plain) + b"|" + others + b")", 6
    return _hex(plain), len(plain)


def _hyperscan() -> Any:
    import hyperscan  # noqa: PLC0415 - not there on every machine, and needed for many rules only

    return hyperscan


def _sure_alarms(literals: Iterable[Literal]) -> list[bytes]:
    """Regexes for what makes a line wanted, whatever else the line holds."""
    folds = any(literal.folds_beyond_ascii for literal in literals)
    return [_UNICODE_ESCAPE, *(_FOLDED_TO_ASCII if folds else ())]


def _usual_spellings(literal: Literal) -> bytes:
    """A regex for `literal` in a JSON string without ``\\uXXXX``."""
    spelt = {ord(" "): rb"(?: |\\r\\n|\\n|\\r)", ord("/"): rb"\\?/"}
    text = b"".join(spelt.get(byte) or _hex(bytes((byte,))) for byte in literal.escaped_text)
    return b"(?i:" + text + b")" if literal.ignore_case else text


def _hex(text: bytes) -> bytes:
    """`text` as a regex in which nothing can have a special meaning."""
    return b"".join(b"\\x%02x" % byte for byte in text)
