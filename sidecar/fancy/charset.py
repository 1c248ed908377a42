"""What the sets of a pattern contain, as Rust's regex-syntax sees it.

A set over an *alphabet* is an int with one bit a character.  There are two
alphabets: :class:`AsciiAlphabet`, small and exact for texts that are ASCII (it
also has the two other characters that case folding equates with ASCII ones),
and :class:`UnicodeAlphabet`, all of Unicode, whose tables are only built when a
text needs them.  Properties come from the ``regex`` module's Unicode data.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

from . import nodes

POSIX_NAMES: Final[Mapping[str, str]] = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": "\\x00-\\x7f",
    "blank": "\\t ",
    "cntrl": "\\x00-\\x1f\\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": "!-/:-@\\[-`{-~",
    "space": "\\t-\\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}
"""POSIX classes, each as the inside of a bracket: ASCII only, whatever the flags."""

PERL: Final[Mapping[str, str]] = {
    "d": r"\p{gc=Nd}",
    "s": r"\p{White_Space=Yes}",
    "w": r"\p{Alphabetic=Yes}\p{gc=M}\p{gc=Nd}\p{gc=Pc}\p{Join_Control=Yes}",
}
"""Rust's ``\\d``, ``\\s`` and ``\\w``, each as the inside of a bracket of the ``regex`` module."""

_VALUED: Final = {
    "gc": "gc",
    "generalcategory": "gc",
    "sc": "sc",
    "script": "sc",
    "scx": "scx",
    "scriptextensions": "scx",
    "gcb": "gcb",
    "graphemeclusterbreak": "gcb",
    "wb": "wb",
    "wordbreak": "wb",
    "sb": "sb",
    "sentencebreak": "sb",
}
"""Properties that take a value, by normalised name."""

_NOT_BINARY: Final = frozenset({"cf", "sc", "lc"})
"""Short names of other properties that mean a general category."""

_NAME: Final = re.compile("[a-z0-9]+")

_UNKNOWN_TO_RUST: Final = frozenset(
    {"alnum", "alphanumeric", "blank", "cs", "graph", "h", "horizspace", "hrkt"}
    | {"katakanaorhiragana", "posixalnum", "posixdigit", "posixpunct", "posixxdigit", "print"}
    | {"surrogate", "unknown", "v", "vertspace", "word", "xdigit", "zzzz"}
)
"""Names that the ``regex`` module has beyond Rust's."""

_SPECIAL: Final = {"any": r"\x00-\U0010FFFF", "assigned": r"\P{gc=Cn}", "ascii": r"\x00-\x7f"}

_LATE_FOLDS: Final = (("\ufb05", "\ufb06"), ("\u0390", "\u1fd3"), ("\u03b0", "\u1fe3"))
"""Simple foldings of characters whose full folding is longer (Unicode 15.1)."""


class Alphabet(Protocol):
    """The characters that sets are made of."""

    @property
    def everything(self) -> int:
        """The set of all characters."""

    def range(self, low: int, high: int) -> int:
        """The characters from ``low`` to ``high``."""

    def char(self, code: int, *, fold: bool) -> list[tuple[int, int]]:
        """The ranges of one character; with ``fold`` of everything that equals it."""

    def bracket(self, inside: str) -> int:
        """The characters that the ``regex`` module's ``[inside]`` matches."""

    def fold(self, members: int) -> int:
        """``members`` and everything that simple case folding equates with one of them."""

    def ranges(self, members: int) -> list[tuple[int, int]]:
        """``members`` as ranges of code points, for texts of this alphabet."""


def evaluate(item: nodes.SetNode, alphabet: Alphabet, *, fold: bool) -> int:
    """The characters of ``alphabet`` in the set ``item``; ``fold`` as under ``(?i)``."""

    def closed(members: int, *, negated: bool) -> int:
        members = alphabet.fold(members) if fold else members
        return alphabet.everything & ~members if negated else members

    match item:
        case nodes.SetRange(low, high):
            return alphabet.range(low, high)
        case nodes.SetPerl(kind, negated):
            members = alphabet.bracket(PERL[kind])
            return alphabet.everything & ~members if negated else members
        case nodes.SetPosix(name, negated):
            return closed(alphabet.bracket(POSIX_NAMES[name]), negated=negated)
        case nodes.SetProperty(query, negated):
            return closed(alphabet.bracket(_property(query)), negated=negated)
        case nodes.SetUnion(items):
            members = 0
            for part in items:
                members |= evaluate(part, alphabet, fold=fold)
            return members
        case nodes.SetBracket(inner, negated):
            return closed(evaluate(inner, alphabet, fold=fold), negated=negated)
        case nodes.SetOperation(kind, left_item, right_item):
            left = closed(evaluate(left_item, alphabet, fold=fold), negated=False)
            right = closed(evaluate(right_item, alphabet, fold=fold), negated=False)
            if kind == "&&":
                return left & right
            return left & ~right if kind == "--" else left ^ right


# -- properties -----------------------------------------------------------------------


def check_property(query: str) -> None:
    """Raise ValueError unless ``\\p{query}`` is something Rust knows and this machine too."""
    _property(query)


@functools.lru_cache(maxsize=256)
def _property(query: str) -> str:
    """``\\p{query}`` as the inside of a bracket of the ``regex`` module."""
    name, separator, value = query.replace(":", "=", 1).partition("=")
    name, value = _normalise(name), _normalise(value)
    asked = value if separator else name
    if asked in _UNKNOWN_TO_RUST or _NAME.fullmatch(asked) is None:
        candidates = []
    elif separator:
        candidates = [f"{_VALUED[name]}={value}"] if name in _VALUED else []
    elif name in _SPECIAL:
        return _SPECIAL[name]
    else:
        candidates = [] if name in _NOT_BINARY else [f"{name}=Yes"]
        candidates += [f"gc={name}", f"sc={name}"]
    for candidate in candidates:
        inside = rf"\p{{{candidate}}}"
        if _is_known(inside):
            return inside
    raise ValueError(f"unknown Unicode property {query!r}")


def _normalise(name: str) -> str:
    """Loose matching of names (UAX #44, LM3)."""
    if name[:2].lower() == "is":
        name = "isc" if name[2:].lower() == "c" else name[2:]
    return "".join(c for c in name.lower() if c.isascii() and c not in " _-")


# -- alphabets ------------------------------------------------------------------------


class AsciiAlphabet:
    """ASCII, and the two other characters that fold to ASCII letters (ſ and the Kelvin sign)."""

    _CHARS: Final = "".join(map(chr, range(128))) + "\u017f\u212a"
    _ORBITS: Final = ("kK\u212a", "sS\u017f", *(c + c.upper() for c in "abcdefghijlmnopqrtuvwxyz"))

    # These are the ones that most rules use.  Kept here, they need no import of regex.
    _KNOWN: Final[Mapping[str, str]] = {
        PERL["d"]: "0123456789",
        PERL["s"]: "\t\n\v\f\r ",
        PERL["w"]: "_" + "".join(filter(str.isalnum, _CHARS)),
    }

    everything: int = (1 << 130) - 1

    def range(self, low: int, high: int) -> int:
        members = (1 << (min(high, 127) + 1)) - (1 << low) if low < 128 else 0
        for bit, code in ((128, 0x17F), (129, 0x212A)):
            if low <= code <= high:
                members |= 1 << bit
        return members

    def char(self, code: int, *, fold: bool) -> list[tuple[int, int]]:
        members = self.range(code, code)
        return self.ranges(self.fold(members) if fold else members)

    def bracket(self, inside: str) -> int:
        known = self._KNOWN.get(inside)
        return self._set(_characters_in(inside, self._CHARS) if known is None else known)

    def fold(self, members: int) -> int:
        for orbit in self._ORBITS:
            together = self._set(orbit)
            if members & together:
                members |= together
        return members

    def ranges(self, members: int) -> list[tuple[int, int]]:
        """Without the two characters that no ASCII text has."""
        return _ranges(members & ((1 << 128) - 1), 128)

    def _set(self, chars: Iterable[str]) -> int:
        members = 0
        for char in chars:
            members |= 1 << self._CHARS.index(char)
        return members


class UnicodeAlphabet:
    """All of Unicode but the surrogates, which are no characters."""

    everything: int = (1 << (sys.maxunicode + 1)) - 1 - (((1 << 0x800) - 1) << 0xD800)

    def range(self, low: int, high: int) -> int:
        return ((1 << (high + 1)) - (1 << low)) & self.everything

    def char(self, code: int, *, fold: bool) -> list[tuple[int, int]]:
        codes = _orbit_of().get(code, (code,)) if fold else (code,)
        return [(code, code) for code in codes]

    def bracket(self, inside: str) -> int:
        return _unicode_bracket(inside) & self.everything

    def fold(self, members: int) -> int:
        bits = bytearray(members.to_bytes((sys.maxunicode + 8) // 8, "little"))
        for orbit in _orbits():
            if any(bits[code >> 3] >> (code & 7) & 1 for code in orbit):
                for code in orbit:
                    bits[code >> 3] |= 1 << (code & 7)
        return int.from_bytes(bits, "little")

    def ranges(self, members: int) -> list[tuple[int, int]]:
        return _ranges(members, sys.maxunicode + 1)


def _ranges(members: int, size: int) -> list[tuple[int, int]]:
    bits = f"{members:b}"[::-1]
    return [(m.start(), m.end() - 1) for m in re.finditer("1+", bits[:size])]


def _all_characters() -> str:
    return "".join(map(chr, range(sys.maxunicode + 1)))


@functools.lru_cache(maxsize=32)
def _unicode_bracket(inside: str) -> int:
    members = 0
    for run in _regex().finditer(f"[{inside}]+", _all_characters()):
        members |= (1 << run.end()) - (1 << run.start())
    return members


def _characters_in(inside: str, text: str) -> list[str]:
    """The characters of `text` that are in a bracket of the ``regex`` module."""
    found: list[str] = _regex().findall(f"[{inside}]", text)
    return found


def _is_known(inside: str) -> bool:
    """Whether the ``regex`` module knows what is in this bracket."""
    regex = _regex()
    try:
        regex.compile(f"[{inside}]")
    except regex.error:
        return False
    return True


def _regex() -> Any:
    import regex  # noqa: PLC0415 - most rules do without, and it takes a while to import

    return regex


@functools.lru_cache(maxsize=1)
def _orbits() -> tuple[tuple[int, ...], ...]:
    """The code points that simple case folding equates, orbit by orbit."""
    by_fold: dict[str, set[int]] = {}
    for char in _characters_in(r"\p{Changes_When_Casemapped}\p{Lt}", _all_characters()):
        by_fold.setdefault(_simple_fold(char), set()).add(ord(char))
    for first, second in _LATE_FOLDS:
        by_fold.setdefault(first, set()).update((ord(first), ord(second)))
    return tuple(tuple(sorted(orbit)) for orbit in by_fold.values() if len(orbit) > 1)


@functools.lru_cache(maxsize=1)
def _orbit_of() -> Mapping[int, tuple[int, ...]]:
    return {code: orbit for orbit in _orbits() for code in orbit}


def _simple_fold(char: str) -> str:
    folded = char.casefold()
    if len(folded) > 1:
        folded = char.lower()
    return folded if len(folded) == 1 else char
