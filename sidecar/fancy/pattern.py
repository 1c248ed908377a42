"""The regexes of rules: compiled once, asked often, safe on texts that strangers chose.

In: a pattern in the syntax of Rust's ``fancy-regex``, as KumoMTA reads it.
Out: a :class:`Pattern` that finds it in a response.

A pattern in RE2's language runs on google-re2, in time linear in the text.  For
ASCII texts, nearly all there are, it is a small program over bytes; the program for
all of Unicode is built when the first other text comes.

Look-around, back-references and the like, and word boundaries in texts that aren't
ASCII, run on the ``regex`` module, which backtracks.  It gets only texts that a
simpler pattern on google-re2 has let through, and :data:`TIME_LIMIT` for each.  A
search that takes longer is no match, as in KumoMTA, which gives up after a million
steps back.  A pattern that takes too long too often is switched off.
"""

from __future__ import annotations

import functools
import string
import time
from collections.abc import Callable, Iterable
from typing import Final

import re2

from . import check, parse, translate
from .charset import Alphabet, AsciiAlphabet, UnicodeAlphabet
from .errors import PatternError
from .literals import Literal, required

__all__ = ["Literal", "Pattern", "PatternError", "PatternSet", "compile_pattern", "re2_options"]

TIME_LIMIT: Final = 0.1
"""Seconds that one search may take on the ``regex`` module."""

MOST_TIMEOUTS: Final = 5
"""A pattern that hit the time limit so often is switched off."""

SLOW: Final = 0.005
"""A search on the ``regex`` module that takes so many seconds is a slow one."""

MOST_SLOW_SECONDS: Final = 0.5
"""A pattern whose slow searches come to more within a minute is switched off."""

LENGTH_MAX: Final = 256 * 1024
"""Characters of a pattern: to compile longer ones takes seconds and hundreds of megabytes."""

_RE2_MEMORY: Final = 8 << 20

_FOLDS: Final = str.maketrans(
    string.ascii_uppercase + "\u017f\u212a", string.ascii_lowercase + "sk"
)

Span = tuple[int, int]
_Search = Callable[[str], Span | None]


class Pattern:
    """A compiled pattern; equal to another of the same source."""

    __slots__ = (
        "__dict__",
        "_ascii",
        "_minute",
        "_parsed",
        "_slow_seconds",
        "engine",
        "off",
        "source",
        "timeouts",
    )

    def __init__(self, source: str) -> None:
        """Raises :class:`PatternError` for a pattern that KumoMTA refuses."""
        self.source: Final = source
        self.timeouts = 0
        """How often the time limit struck."""
        self.off: str | None = None
        """Why the backtracking engine is no longer asked; None while it is."""
        self._minute = 0.0
        self._slow_seconds = 0.0
        if len(source) > LENGTH_MAX:
            raise PatternError(f"too long to be run here: {LENGTH_MAX:,} characters are allowed")
        self._parsed: Final = parse.parse(source)
        check.check(self._parsed)
        alphabet = AsciiAlphabet()
        search = self._on_re2(alphabet)
        self.engine: Final = "regex" if search is None else "re2"
        self._ascii: Final = search or self._on_regex(alphabet)

    def search(self, text: str) -> Span | None:
        """The start and end of the first match in ``text``, in characters; never raises."""
        try:
            return self._ascii(text) if text.isascii() else self._unicode(text)
        except UnicodeEncodeError:  # a lone surrogate, which no text in Rust can have
            return self.search(text.encode(errors="replace").decode())

    def take_over(self, former: Pattern) -> None:
        """Go on counting from where `former`, of the same source, left off."""
        self.timeouts, self.off = former.timeouts, former.off

    @functools.cached_property
    def _unicode(self) -> _Search:
        alphabet = UnicodeAlphabet()
        try:
            return self._on_re2(alphabet) or self._on_regex(alphabet)
        except PatternError as error:
            self.off = f"it can't be run on texts beyond ASCII: {error}"
            return lambda _: None

    def _on_re2(self, alphabet: Alphabet) -> _Search | None:
        try:
            compiled = re2.compile(translate.to_re2(self._parsed, alphabet), re2_options())
        except (translate.NotInLanguage, re2.error):
            return None
        group = min(compiled.groups, 1)
        # In ASCII a byte is a character.  Given str, re2's Python half would count them.
        as_bytes = isinstance(alphabet, AsciiAlphabet)

        def search(text: str) -> Span | None:
            found = compiled.search(text.encode() if as_bytes else text)
            return None if found is None else found.span(group)

        return search

    def _on_regex(self, alphabet: Alphabet) -> _Search:
        import regex  # noqa: PLC0415 - most rules do without, and it takes a while to import

        try:
            compiled = regex.compile(translate.to_regex(self._parsed, alphabet))
        except (translate.NotInLanguage, regex.error, RecursionError, OverflowError) as error:
            raise PatternError(f"valid in KumoMTA, but cannot be run here: {error}") from None
        guard = _guard(self._parsed, alphabet)

        def search(text: str) -> Span | None:
            if self.off is not None or (guard is not None and guard.search(text) is None):
                return None
            start = time.thread_time()
            try:
                found = compiled.search(text, timeout=TIME_LIMIT)
            except TimeoutError:
                found = None
                self.timeouts += 1
            if (seconds := time.thread_time() - start) >= SLOW:
                self._was_slow(seconds)
            return None if found is None else found.span()

        return search

    def _was_slow(self, seconds: float) -> None:
        """Count a slow search, and switch the pattern off when it is one too many."""
        now = time.monotonic()
        if now - self._minute > 60:
            self._minute, self._slow_seconds = now, 0.0
        self._slow_seconds += seconds
        if self.timeouts >= MOST_TIMEOUTS:
            self.off = f"{self.timeouts} searches took longer than {TIME_LIMIT:g} s"
        elif self._slow_seconds > MOST_SLOW_SECONDS:
            self.off = f"its slow searches took {self._slow_seconds:.1f} s within a minute"

    def ascii_re2(self) -> str:
        """The pattern for ASCII texts in RE2's language; only where :attr:`engine` is ``re2``."""
        return translate.to_re2(self._parsed, AsciiAlphabet())

    def literals(self) -> tuple[Literal, ...] | None:
        """Literals of which every text with a match contains one; None when none are usable."""
        return self._literals

    @functools.cached_property
    def _literals(self) -> tuple[Literal, ...] | None:
        return required(self._parsed)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and self.source == other.source

    def __hash__(self) -> int:
        return hash(self.source)

    def __repr__(self) -> str:
        return f"Pattern({self.source!r})"


def _guard(parsed: parse.Parsed, alphabet: Alphabet) -> re2._Regexp | None:
    try:
        return re2.compile(translate.to_guard(parsed, alphabet), re2_options())
    except re2.error:  # too large for RE2
        return None


class PatternSet:
    """Patterns asked together: only those are run whose literals are in the text.

    So the cost of a text that none of them matches hardly depends on their number.
    Those that are run are run in one search, unless they are many.
    """

    __slots__ = ("_always", "_gated", "_gates", "_groups", "_patterns")

    _GROUPS_MAX: Final = 256

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        self._patterns: Final = tuple(patterns)
        self._always: Final[list[int]] = []
        gates: dict[str, list[int]] = {}
        for number, pattern in enumerate(self._patterns):
            literals = pattern.literals()
            if literals is None:
                self._always.append(number)
            for literal in literals or ():
                gates.setdefault(_folded(literal.text), []).append(number)
        self._gated: Final = tuple(gates.values())
        self._gates: Final = re2.Set.SearchSet(_literal_options())
        for gate in gates:
            self._gates.Add(gate)
        if gates:
            self._gates.Compile()
        self._groups: Final[dict[tuple[int, ...], _Group]] = {}

    def matching(self, text: str) -> list[int]:
        """The numbers of the patterns that match `text`, ascending."""
        gates = tuple(sorted(self._gates.Match(_folded(text)) or ())) if self._gated else ()
        group = self._groups.get(gates)
        if group is None:
            group = self._group(gates)
        return group.matching(text)

    def _group(self, gates: tuple[int, ...]) -> _Group:
        """The patterns to run on a text with the literals of `gates`."""
        numbers = sorted({*self._always, *(n for gate in gates for n in self._gated[gate])})
        group = _Group([(n, self._patterns[n]) for n in numbers])
        # One compilation costs as much as many searches: texts must not cause it without end.
        if len(self._groups) < self._GROUPS_MAX:
            group.compile()
            self._groups[gates] = group
        return group


class _Group:
    """A few patterns with their numbers, to be run on the same texts.

    google-re2 finds all of a few patterns in one search, and faster than one by itself.
    With more than :data:`_TOGETHER` that could be slow: the states of a search multiply.
    """

    __slots__ = ("_patterns", "_together")

    _TOGETHER: Final = 4

    def __init__(self, patterns: list[tuple[int, Pattern]]) -> None:
        self._patterns: Final = patterns
        self._together: re2.Set | None = None

    def matching(self, text: str) -> list[int]:
        """The numbers of the patterns that match `text`, ascending."""
        if self._together is not None and text.isascii():
            found = sorted(self._together.Match(text))
            # The last one is the empty pattern. It is not found where memory ran out.
            if found and found.pop() == len(self._patterns):
                return [self._patterns[index][0] for index in found]
        return [n for n, pattern in self._patterns if pattern.search(text) is not None]

    def compile(self) -> None:
        """Prepare the one search, where there can be one."""
        patterns = [pattern for _, pattern in self._patterns]
        if len(patterns) > self._TOGETHER or any(p.engine != "re2" for p in patterns):
            return
        together = re2.Set.SearchSet(re2_options())
        try:
            for pattern in patterns:
                together.Add(pattern.ascii_re2())
            together.Add("")
            together.Compile()
        except re2.error:  # together they are too large
            return
        self._together = together


def _folded(text: str) -> str:
    """`text` with everything alike that `(?i)` takes for an ASCII letter, and nothing else.

    What ``lower`` makes of a character beyond ASCII may depend on its neighbours.
    """
    return text.lower() if text.isascii() else text.translate(_FOLDS)


def _literal_options() -> re2.Options:
    options = re2_options()
    options.literal = True
    options.max_mem = 64 << 20
    return options


def compile_pattern(source: str) -> Pattern:
    """``source`` as a :class:`Pattern`; raises :class:`PatternError`, a ValueError."""
    return Pattern(source)


def re2_options() -> re2.Options:
    """Options for patterns that were written by :func:`translate.to_re2`."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _RE2_MEMORY
    return options
