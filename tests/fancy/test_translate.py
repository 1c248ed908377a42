"""The same pattern, written for three engines, finds the same."""

from __future__ import annotations

import re
from typing import Literal

import pytest
import re2
import regex
from hypothesis import assume, example, given

from sidecar.fancy import nodes, translate
from sidecar.fancy.charset import AsciiAlphabet, UnicodeAlphabet, evaluate
from sidecar.fancy.parse import parse
from sidecar.fancy.pattern import compile_pattern, re2_options
from tests.fancy.pattern_texts import ascii_texts, patterns, texts


def _re2(source: str, *, ascii_only: bool) -> re2._Regexp:
    alphabet = AsciiAlphabet() if ascii_only else UnicodeAlphabet()
    try:
        return re2.compile(translate.to_re2(parse(source), alphabet), re2_options())
    except translate.NotInLanguage:
        assume(False)


@given(patterns(plain=True), ascii_texts())
@example("(a|b*)*c", "abbc")
@example(r"(\b)*a", "-a")
def test_three_engines_agree_on_ascii(source: str, text: str) -> None:
    python = re.search(source, text, re.ASCII)
    google = _re2(source, ascii_only=True).search(text)
    backtracker = regex.search(translate.to_regex(parse(source), AsciiAlphabet()), text)
    assert (python is None, python is None) == (google is None, backtracker is None)


@given(patterns(), texts())
@example("(?i)k", "\u212a")
@example(r"(\w)+.", "٣ſ")
def test_re2_and_regex_agree_on_everything(source: str, text: str) -> None:
    google = _re2(source, ascii_only=False).search(text)
    backtracker = regex.search(translate.to_regex(parse(source), UnicodeAlphabet()), text)
    assert (google is None) == (backtracker is None)


@given(patterns(), ascii_texts())
def test_the_alphabet_of_ascii_is_enough_for_ascii(source: str, text: str) -> None:
    parsed = parse(source)
    small = regex.search(translate.to_regex(parsed, AsciiAlphabet()), text)
    whole = regex.search(translate.to_regex(parsed, UnicodeAlphabet()), text)
    assert (small and small.span()) == (whole and whole.span())


@given(patterns(), texts())
@example(r"(?=(a))(?!b)\1", "a")
@example(r"(a)?(?(1)b|c)(?>a|ab)", "ca")
def test_the_guard_lets_every_match_through(source: str, text: str) -> None:
    guard = translate.to_guard(parse(source), UnicodeAlphabet())
    if compile_pattern(source).search(text) is not None:
        assert re2.search(guard, text, re2_options()) is not None


@pytest.mark.parametrize("kind", ["d", "s", "w"])
def test_the_perl_classes_that_are_written_down_are_those_of_the_tables(
    kind: Literal["d", "s", "w"],
) -> None:
    written = evaluate(nodes.SetPerl(kind, negated=False), AsciiAlphabet(), fold=False)
    everything = evaluate(nodes.SetPerl(kind, negated=False), UnicodeAlphabet(), fold=False)
    alike = [c for c in (*range(128), 0x17F, 0x212A) if everything >> c & 1]
    assert written == AsciiAlphabet()._set(map(chr, alike))
