"""Patterns mean what they mean in KumoMTA: Rust's fancy-regex is the judge.

`data/fancy-regex.json` holds what the real fancy-regex 0.16.2 said about patterns written by
hand and made up at random: refused, or the first match's start and end in each text.
"""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.fancy import parse
from sidecar.fancy.pattern import MOST_TIMEOUTS, PatternError, PatternSet, compile_pattern
from sidecar.log.record import Record
from tests.fancy.pattern_texts import patterns, texts

DATA = Path(__file__).parent.parent / "data"
ANSWERS: list[dict[str, Any]] = json.loads((DATA / "fancy-regex.json").read_text())
RECORDINGS = sorted((DATA / "conformance").glob("regex-[0-9]*.json"))


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer["regex"])
def test_every_pattern_does_what_it_does_in_rust(answer: dict[str, Any]) -> None:
    if answer.get("refused"):
        with pytest.raises(PatternError):
            compile_pattern(answer["regex"])
        return
    pattern = compile_pattern(answer["regex"])
    for text, span in answer["found"].items():
        assert pattern.search(text) == tuple(span), text
    for text in answer["not_found"]:
        assert pattern.search(text) is None, text


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_recordings_of_the_real_daemon_come_out_right(path: Path) -> None:
    recording = json.loads(path.read_text())
    (text,) = recording["files"].values()
    (rule,) = json.loads(text)["default"]["automation"]
    if not recording["expected"]["loads"]:
        with pytest.raises(PatternError):
            compile_pattern(rule["regex"])
        return
    matched = [compile_pattern(rule["regex"]).search(_line(r)) for r in recording["records"]]
    assert bool(any(matched)) == bool(recording["expected"]["suspended"]["ready_q"])


def _line(record: dict[str, Any]) -> str:
    response = record["response"]
    enhanced = response["enhanced_code"]
    return Record(
        type=record["type"],
        recipients=(record["recipient"],),
        queue=record["queue"],
        site=record["site"],
        egress_source=record["egress_source"],
        code=response["code"],
        enhanced=None if enhanced is None else ".".join(map(str, enhanced.values())),
        content=response["content"],
        time_ns=0,
    ).response_line


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("(unclosed", "( is never closed (at character 1)"),
        ("*bad", "nothing to repeat (at character 1)"),
        ("a[b", "[ is never closed (at character 2)"),
        ("a)b", "unmatched ) (at character 2)"),
        ("a{3,2}", "{3,2}: the lower bound exceeds the upper one"),
        ("x[z-a]", "a range that ends before it starts: z-a (at character 2)"),
        (r"\p{Klingon}", "unknown Unicode property 'Klingon' (at character 1)"),
        (r"\q", "unknown escape \\q (at character 1)"),
        ("(?<=a+)b", "a look-behind needs a fixed length"),
        (r"(abc)\2", "a reference to a group that does not exist"),
        ("(?z)a", "unknown flag 'z' (at character 3)"),
        (r"\w{300}", "too large: KumoMTA refuses it because of its repetitions"),
    ],
)
def test_what_is_wrong_with_a_pattern_is_said(source: str, message: str) -> None:
    with pytest.raises(PatternError) as caught:
        compile_pattern(source)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("source", "engine"),
    [
        ("Messages from \\d+ temporarily deferred", "re2"),
        (r"(?i)\bslow\b", "re2"),
        ("later(?= please)", "re2"),
        (r"(\w+) \1", "regex"),
        ("(?!x)y", "regex"),
        ("(?>a+)b", "regex"),
        ("a{1500}", "regex"),
    ],
)
def test_re2_runs_what_it_can(source: str, engine: str) -> None:
    assert compile_pattern(source).engine == engine


def test_a_search_without_an_end_is_no_match_and_is_counted() -> None:
    pattern = compile_pattern(r"^(?:a|a)*(?=b)c?")
    assert pattern.search("a" * 60) is None
    assert pattern.timeouts == 1
    assert pattern.search("aab") == (0, 2)


def test_a_text_that_cannot_match_never_reaches_the_backtracker() -> None:
    pattern = compile_pattern(r"(?!x)(?:a+)+b")
    assert pattern.search("a" * 5000) is None
    assert pattern.timeouts == 0


EXPLODES = r"(?:(?:(?:a{50}\b){50}){50}){50}(?=x)"


@pytest.mark.parametrize("source", [EXPLODES, r"(?!x)([\w.]a?){2000}", r"(?!x)a{1000000000}"])
def test_a_pattern_whose_repetitions_explode_is_refused_before_it_is_compiled(source: str) -> None:
    with pytest.raises(PatternError, match="too large to be run here: its repetitions"):
        compile_pattern(source)


def test_a_pattern_of_megabytes_is_refused_before_it_is_parsed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parse, "parse", lambda _: pytest.fail("it was parsed"))
    with pytest.raises(PatternError, match="too long to be run here: 262,144 characters"):
        compile_pattern("a" * 3_000_000)


@pytest.mark.parametrize("source", [r"(?!x)\b\w{1,253}\b", r"(?!x)(?:\b\S+\b|a){1,60}"])
def test_what_people_write_is_small_enough_beyond_ascii_as_well(source: str) -> None:
    pattern = compile_pattern(source)
    assert pattern.search("-é " + "a" * 50) is not None
    assert pattern.off is None


BACKTRACKS = r"(?=zzz((a|a)*)*d)z"


def test_a_pattern_that_is_given_up_too_often_is_switched_off_and_stays_so_after_a_reload() -> None:
    pattern = compile_pattern(BACKTRACKS)
    assert pattern.search("zzzad") == (0, 1)
    for number in range(MOST_TIMEOUTS + 20):
        assert pattern.search(f"{number} zzz" + "a" * 60 + " d") is None
    assert pattern.timeouts <= MOST_TIMEOUTS
    assert pattern.off is not None
    assert pattern.search("zzzad") is None
    again = compile_pattern(BACKTRACKS)
    again.take_over(pattern)
    assert again.search("zzzad") is None
    assert (again.timeouts, again.off) == (pattern.timeouts, pattern.off)


def test_searches_that_stay_below_the_limit_may_not_take_all_the_time_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pattern = compile_pattern(BACKTRACKS)
    seconds = itertools.count()
    monkeypatch.setattr(time, "thread_time", lambda: next(seconds) * 0.09)
    searches = 0
    while pattern.off is None and searches < 100:
        assert pattern.search("zzzad") == (0, 1)
        searches += 1
    assert searches == 6
    assert pattern.off == "its slow searches took 0.5 s within a minute"


@pytest.mark.parametrize("source", ["x", "(?!a).x", r"\bx", ""])
def test_no_text_raises(source: str) -> None:
    found = compile_pattern(source).search("a\udc80\x00\ud800x")
    assert found is not None or source == r"\bx"


def test_patterns_are_equal_by_source() -> None:
    assert compile_pattern("a+") == compile_pattern("a+")
    assert hash(compile_pattern("a+")) == hash(compile_pattern("a+"))
    assert compile_pattern("a+") != compile_pattern("a")
    assert len({compile_pattern("a"), compile_pattern("a"), compile_pattern("b")}) == 2


@given(st.lists(patterns(), max_size=8), texts())
def test_a_set_says_what_its_patterns_say(sources: list[str], text: str) -> None:
    compiled = [compile_pattern(source) for source in sources]
    expected = [n for n, pattern in enumerate(compiled) if pattern.search(text) is not None]
    assert PatternSet(compiled).matching(text) == expected


def test_a_set_does_not_take_the_end_of_a_word_for_its_middle() -> None:
    # Σ is σ or ς in lower case, depending on what is around it.
    source, text = "\u03a3: spam found", "550 \u039b\u039f\u03a3: spam found"
    assert compile_pattern(source).search(text) is not None
    assert PatternSet([compile_pattern(source)]).matching(text) == [0]


@given(st.lists(patterns(), min_size=1, max_size=5), st.lists(texts(), min_size=2, max_size=6))
def test_what_a_set_learns_of_one_text_holds_for_the_next(
    sources: list[str], said: list[str]
) -> None:
    compiled = [compile_pattern(source) for source in sources]
    matching = PatternSet(compiled).matching
    for text in said:
        expected = [n for n, pattern in enumerate(compiled) if pattern.search(text) is not None]
        assert matching(text) == expected


def test_texts_that_somebody_chose_do_not_make_a_set_compile_for_ever() -> None:
    words = [f"word{letter}" for letter in "abcdefghij"]
    patterns_of = PatternSet([compile_pattern(word) for word in words])
    for number in range(2 ** len(words)):
        chosen = [n for n in range(len(words)) if number >> n & 1]
        assert patterns_of.matching(" ".join(words[n] for n in chosen)) == chosen
        assert len(patterns_of._groups) <= PatternSet._GROUPS_MAX


def test_a_search_for_several_that_runs_out_of_memory_is_made_one_by_one() -> None:
    # google-re2's set when it has no memory left: it finds nothing, and says nothing.
    exhausted = SimpleNamespace(Match=lambda _text: [])
    patterns_of = PatternSet([compile_pattern("busy"), compile_pattern("idle")])
    assert patterns_of.matching("421 busy") == [0]
    for group in patterns_of._groups.values():
        group._together = exhausted
    assert patterns_of.matching("421 busy") == [0]


def test_a_set_takes_thousands_of_patterns() -> None:
    words = [f"reason {number} given" for number in range(5000)]
    matching = PatternSet(compile_pattern(word) for word in words).matching
    assert matching("550 5.7.1 reason 17 given, and reason 4711 given") == [17, 4711]
    assert matching("550 5.7.1 reason x") == []
