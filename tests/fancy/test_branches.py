"""Which alternatives of a regex the match in a text goes through."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sidecar.fancy.branches import Branches

CASES = json.loads((Path(__file__).parents[1] / "data" / "fancy-regex.json").read_text())


def taken(regex: str, *texts: str) -> list[str]:
    """The alternatives of `regex` that some text takes, as written."""
    branches = Branches(regex)
    numbers = set().union(*map(branches.taken, texts))
    return [source for number, source in enumerate(branches.sources) if number in numbers]


@pytest.mark.parametrize(
    ("regex", "texts", "found"),
    [
        ("a|b", ["xa"], ["a"]),
        ("a|b", ["xa", "b"], ["a", "b"]),
        ("a|b", ["c"], []),
        ("abc", ["abc"], []),
        ("a|ab", ["ab"], ["a"]),
        ("(?:full|over quota) now", ["over quota now"], ["over quota"]),
        ("(?:(a|b)|c)", ["c"], ["c"]),
        ("(?:(a|b)|c)", ["b"], ["b", "(a|b)"]),
        ("x(?: a| b)*", ["x"], []),
        ("x(?: a| b)*", ["x a b"], [" a", " b"]),
        ("(?x) a # one\n | b", ["b"], [" b"]),
        ("(?i)a|b", ["B"], ["b"]),
        (r"(a)\1|b", ["aa"], [r"(a)\1"]),
        ("(?!x|y)z", ["z"], []),
        ("(?=x|y)[xyz]", ["y"], ["y"]),
        ("(a)?(?(1)b|c)", ["ab", "c"], []),
        ("é|e", ["né"], ["é"]),
        ("a|", ["b"], [""]),
    ],
)
def test_the_alternatives_that_a_match_takes(
    regex: str, texts: list[str], found: list[str]
) -> None:
    assert taken(regex, *texts) == found


def test_marks_change_nothing_about_where_a_match_begins() -> None:
    tried = 0
    for case in CASES:
        if not case.get("found"):  # or it compiles nowhere
            continue
        branches = Branches(case["regex"])
        if not branches.sources:
            continue
        for text, span in case["found"].items():
            if text.isascii():
                tried += 1
                # Where a loop of empty matches ends differs between engines.
                assert branches._ascii.search(text).start() == span[0], (case["regex"], text)
        for text in case.get("not_found", ()):
            if text.isascii():
                assert branches.taken(text) == set(), (case["regex"], text)
    assert tried > 20
