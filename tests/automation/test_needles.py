"""A few needles stand for all literals: no line with a literal is without one."""

from __future__ import annotations

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sidecar.automation.needles import MAX_NEEDLES, choose
from sidecar.automation.scanners import NeedleScanner, Re2Scanner
from sidecar.fancy.pattern import Literal

# Few letters, so that needles overlap and literals are parts of each other.
WORDS = st.text(alphabet='aAbBkK["\\[1é', min_size=3, max_size=9)
TEXTS = st.lists(WORDS, min_size=1, max_size=3).map(" ".join)
LITERALS = st.builds(Literal, TEXTS, st.just(""), st.booleans())


def lines(contents: list[str], *, ascii_only: bool) -> list[bytes]:
    return [json.dumps({"content": c}, ensure_ascii=ascii_only).encode() for c in contents]


def found(scanner: NeedleScanner | Re2Scanner, given_lines: list[bytes]) -> set[int]:
    """The numbers of the lines with a hit that stands up to a closer look."""
    data = b"\n".join(given_lines)
    hits = {(data.count(b"\n", 0, at), sure) for at, sure in scanner.hits(data)}
    return {number for number, sure in hits if sure or scanner.confirms(given_lines[number])}


@given(
    literals=st.lists(LITERALS, min_size=1, max_size=6),
    around=st.lists(st.tuples(WORDS, st.integers(0, 5), WORDS), min_size=1, max_size=6),
    space=st.sampled_from([" ", "\n", "\r", "\r\n"]),
    ascii_only=st.booleans(),
)
def test_every_line_with_a_literal_is_found(
    literals: list[Literal],
    around: list[tuple[str, int, str]],
    space: str,
    ascii_only: bool,
) -> None:
    needles = choose(literals)
    assume(needles is not None)
    chosen = [(a, literals[n % len(literals)].text, b) for a, n, b in around]
    data = lines([a + text.replace(" ", space) + b for a, text, b in chosen], ascii_only=ascii_only)
    assert found(NeedleScanner(literals, needles), data) == set(range(len(data)))


@given(
    literals=st.lists(LITERALS, min_size=1, max_size=6),
    contents=st.lists(st.lists(WORDS, max_size=4).map("".join), min_size=1, max_size=6),
)
def test_no_other_line_is_found_than_by_looking_for_all_literals(
    literals: list[Literal], contents: list[str]
) -> None:
    needles = choose(literals)
    assume(needles is not None)
    scanner, other = NeedleScanner(literals, needles), Re2Scanner(literals)
    data = lines(contents, ascii_only=False)
    assert found(scanner, data) >= found(other, data)
    for line in data:  # by itself, for the look around a needle may go beyond its line
        assert found(scanner, [line]) == found(other, [line])


def test_a_letter_that_is_two_in_lower_case_is_part_of_no_needle() -> None:
    literals = [Literal("a12\u0130 then", "a12\u0130", True)]  # i and a dot above it
    needles = choose(literals)
    assert needles is not None
    scanner = NeedleScanner(literals, needles)
    assert found(scanner, lines(["A12\u0130 then"], ascii_only=False)) == {0}


def test_literals_that_are_alike_have_one_needle() -> None:
    literals = [Literal(f"[TSS0{n}] Messages from", "[TSS0", False) for n in range(10)]
    needles = choose(literals)
    assert needles is not None
    assert len(needles) == 2  # and the escape that can hide anything


def test_too_many_different_literals_have_no_small_number_of_needles() -> None:
    literals = [Literal(f"{n:x}" * 4, "", False) for n in range(16**3, 16**3 + MAX_NEEDLES * 4)]
    assert choose(literals) is None
    with pytest.raises(ValueError, match="too many"):
        NeedleScanner(literals)


def test_where_needles_are_frequent_the_scan_is_for_the_literals() -> None:
    scanner = NeedleScanner([Literal("is deferred", "deferred", False)])
    data = [b'{"content":"was deferred"}'] * 10_000 + [b'{"content":"is deferred"}']
    assert found(scanner, data) == {10_000}
