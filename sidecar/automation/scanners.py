"""Multi-literal scans over a block of log lines, by the best library at hand.

In: the literals to look for, and a block.  Out: places in the lines that have one, or
may have one spelt in another way.

JSON can spell a text in many ways.  What serde_json and every other writer leave as it
is, is looked for as it is; escapes that could hide something raise an *alarm*:
``\\uXXXX``, ``\\/``, and line breaks within a string, which are spaces to the rules.
(``\\r\\n`` right before the closing quote, as in each record's ``command``, is none.)
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any, Final, Protocol, TypeAlias

import ahocorasick_rs
import re2

from sidecar.shaping.fancy.required import Literal
from sidecar.shaping.patterns import re2_options

from .needles import choose

Hit: TypeAlias = tuple[int, bool]
"""An offset within a line, and whether that line is to be handed on without a closer look."""

_UNICODE_ESCAPE: Final = rb"\\u"
_OTHER_ESCAPES: Final = (
    rb"\\/",
    rb"\\n[^\x22]",
    rb"\\r[^\\\x22]",
    rb"\\r\\[^n]",
    rb"\\r\\n[^\x22]",
)
_FOLDED_TO_ASCII: Final = (rb"\xc5\xbf", rb"\xe2\x84\xaa")  # ſ and the Kelvin sign, in UTF-8
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
    """A few short needles first, then another scanner on the lines that have one.

    By far the fastest, as long as there are few needles and they are rare: Rust's
    aho-corasick has its SIMD search ("packed", "Teddy") for those.
    """

    name = "aho-corasick"

    _SAMPLE: Final = 1 << 16
    _RARE: Final = 4000
    """Bytes of log to a needle: with more needles than that it is faster to do without."""

    def __init__(self, literals: Iterable[Literal], needles: Iterable[bytes] | None = None) -> None:
        """ValueError where the literals have no small number of needles."""
        self._literals: Final = tuple(literals)
        chosen = choose(self._literals) if needles is None else needles
        if chosen is None:
            raise ValueError("too many different literals")
        self._search: Final = ahocorasick_rs.BytesAhoCorasick(
            list(chosen),  # only leftmost searches are packed ones
            matchkind=ahocorasick_rs.MatchKind.LeftmostFirst,
        )

    @cached_property
    def _exact(self) -> Scanner:
        return _exact_scanner(self._literals)

    def hits(self, data: bytes) -> list[Hit]:
        if len(data) >= 4 * self._SAMPLE:
            sample = self._search.find_matches_as_indexes(data[: self._SAMPLE])
            if len(sample) > self._SAMPLE // self._RARE:
                return self._exact.hits(data)
        # Needles that overlap may hide each other, but none has a line end, so no line is lost.
        needles = self._search.find_matches_as_indexes(data)
        return self._hits_near(data, [at for _, at, _ in needles]) if needles else []

    def _hits_near(self, data: bytes, places: list[int]) -> list[Hit]:
        """The exact scanner's hits in the lines at `places`, scanned as one block."""
        lines: list[bytes] = []
        moves: list[tuple[int, int]] = []  # from which offset in the block on, and how far back
        size = end = 0
        for at in places:
            if at < end:
                continue
            start = data.rfind(b"\n", end, at) + 1 or end
            end = data.find(b"\n", at) + 1 or len(data)
            lines.append(data[start:end])
            moves.append((size, start - size))
            size += end - start
        found: list[Hit] = []
        move = 0
        for at, sure in self._exact.hits(b"".join(lines)):
            while move + 1 < len(moves) and moves[move + 1][0] <= at:
                move += 1
            found.append((at + moves[move][1], sure))
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
        alternatives = dict.fromkeys([*map(_however_spelt, wanted), *_sure_alarms(wanted)])
        self._search: Final = re2.compile(b"|".join(alternatives), options)

    def hits(self, data: bytes) -> list[Hit]:
        return [(found.start(), True) for found in self._search.finditer(data)]

    def confirms(self, line: bytes) -> bool:
        return self._search.search(line) is not None


class HyperscanScanner:
    """Hyperscan (Vectorscan on arm64): its cost hardly depends on how many literals there are."""

    name = "hyperscan"

    _ENOUGH: Final = 64
    """For up to some fifty literals Hyperscan takes a matcher that is half as fast as the one for
    more, so it always gets this many."""

    def __init__(self, literals: Iterable[Literal]) -> None:
        """ImportError where there is no Hyperscan for this machine."""
        hyperscan = _hyperscan()
        wanted = tuple(literals)
        sure = {(_hex(one.escaped_text), one.ignore_case): None for one in wanted}
        sure |= dict.fromkeys((alarm, False) for alarm in _sure_alarms(wanted))
        for number in range(self._ENOUGH - len(sure)):
            # Control characters never stand in JSON as they are: this will not be found.
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


def _hyperscan() -> Any:
    import hyperscan  # noqa: PLC0415 - not there on every machine, and needed for many rules only

    return hyperscan


def _sure_alarms(literals: Iterable[Literal]) -> list[bytes]:
    """What makes a line one to be decoded, whatever else it has."""
    folds = any(literal.folds_beyond_ascii for literal in literals)
    return [_UNICODE_ESCAPE, *(_FOLDED_TO_ASCII if folds else ())]


def _however_spelt(literal: Literal) -> bytes:
    """A regex for `literal` in a JSON string without ``\\uXXXX``."""
    spelt = {ord(" "): rb"(?: |\\r\\n|\\n|\\r)", ord("/"): rb"\\?/"}
    text = b"".join(spelt.get(byte) or _hex(bytes((byte,))) for byte in literal.escaped_text)
    return b"(?i:" + text + b")" if literal.ignore_case else text


def _hex(text: bytes) -> bytes:
    """`text` as a regex in which nothing can have a special meaning."""
    return b"".join(b"\\x%02x" % byte for byte in text)
