"""The prefilter loses no line that a rule matches, however the line spells it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.automation.prefilter import Prefilter
from sidecar.automation.scanners import HyperscanScanner, Re2Scanner, Scanner, best_scanner
from sidecar.fancy.pattern import Literal, Pattern, compile_pattern
from sidecar.log.record import decode
from sidecar.shaping.rules import Action, Rule, Scope, ScopeKind
from tests.fancy.pattern_texts import patterns

SCANNERS: list[Callable[[Iterable[Literal]], Scanner]] = [
    best_scanner,
    HyperscanScanner,
    Re2Scanner,
]


def record(content: str, *, kind: str = "TransientFailure", code: int = 421) -> dict[str, object]:
    return {
        "type": kind,
        "recipient": "user@example.com",
        "queue": "example.com",
        "site": "ip1->mx.example.com@smtp_client",
        "response": {
            "code": code,
            "enhanced_code": {"class": 4, "subject": 7, "detail": 0},
            "content": content,
            "command": ".\r\n",
        },
        "timestamp": 1795360648,
        "headers": {"Subject": "Too many offers"},
    }


def line(content: str, *, kind: str = "TransientFailure") -> bytes:
    return serde(record(content, kind=kind))


def handed_on(prefilter: Prefilter, data: bytes) -> list[bytes]:
    return list(prefilter.wanted(prefilter.sift(data)))


def serde(value: object) -> bytes:
    """As kumod writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def ascii_only(value: object) -> bytes:
    return json.dumps(value).encode()


def slashes_too(value: object) -> bytes:
    return serde(value).replace(b"/", b"\\/")


def everything_escaped(value: object) -> bytes:
    """Each letter within a string as \\uXXXX: what JSON allows and nobody does."""
    text = serde(value).decode()
    strings = re.compile(r'(?<=:")(?:[^"\\]|\\.)*(?=")')
    return strings.sub(lambda m: _escape_letters(m[0]), text).encode()


def _escape_letters(text: str) -> str:
    return re.sub(r"(?<!\\)[a-zA-Z]", lambda m: f"\\u{ord(m[0]):04x}", text)


WRITERS: list[Callable[[object], bytes]] = [serde, ascii_only, slashes_too, everything_escaped]


def filtered(
    pattern_sources: list[str], data: bytes, scanner: Callable[[Iterable[Literal]], Scanner]
) -> list[bytes]:
    compiled = [compile_pattern(source) for source in pattern_sources]
    return handed_on(Prefilter(compiled, scanner=scanner), data)


# -- what comes through ----------------------------------------------------------------


@pytest.mark.parametrize("scanner", SCANNERS)
@pytest.mark.parametrize(
    ("source", "content"),
    [
        ("temporarily deferred", "Messages temporarily deferred"),
        ("temporarily deferred", "Messages temporarily\r\ndeferred"),
        ("temporarily deferred", "Messages temporarily\ndeferred"),
        ("temporarily deferred", "Messages temporarily\rdeferred"),
        ("^421 4\\.7\\.0 \\[TS04\\]", "[TS04] x"),
        ("7\\.0 Too many", "Too many connections"),
        ("421 4.7.0 5 busy", "5 busy"),
        ("busy 5", "I am busy 5 minutes"),
        ('say "no"', 'they say "no" today'),
        ('say "no"', 'they say\n"no" today'),
        ("C:\\\\temp", "C:\\temp is full"),
        ("see http://a.example/b", "please see\nhttp://a.example/b"),
        ("Gelöscht", "Gelöscht!"),
        ("(?i)gelöscht", "GELÖSCHT"),
        ("(?i)blocked", "BlocKed"),
        ("(?i)blocked", "bloc\u212aed"),
        ("(?i)spam", "ſpam"),
        ("tab\tbed text", "tab\tbed text"),
        ("\\[TS?S04\\]", "[TSS04] Messages"),
        ("(?:foo|bar)baz", "barbaz"),
        ("^(?!.*internal).*RL000010", "RL000010 throttled"),
        ("later$", "try later"),
        ("later  $", "try later\r\n\n"),
    ],
)
def test_a_line_that_matches_comes_through(
    scanner: Callable[[Iterable[Literal]], Scanner], source: str, content: str
) -> None:
    pattern = compile_pattern(source)
    for write in WRITERS:
        data = write(record(content))
        assert pattern.search(decode(data).response_line) is not None
        assert filtered([source], data, scanner) == [data], write.__name__


@pytest.mark.parametrize("scanner", SCANNERS)
def test_lines_come_once_in_order_and_whole(
    scanner: Callable[[Iterable[Literal]], Scanner],
) -> None:
    hit, other = line("rate limited, and rate limited again, blocked"), line("fine")
    last = line("blocked")
    data = b"\n".join([other, hit, other, hit, b"", b"no json: blocked", last])
    sources = ["rate limited", "blocked"]
    assert filtered(sources, data, scanner) == [hit, hit, b"no json: blocked", last]
    assert filtered(sources, data + b"\n", scanner) == [hit, hit, b"no json: blocked", last]


@pytest.mark.parametrize("scanner", SCANNERS)
def test_lines_without_a_literal_stay_out(scanner: Callable[[Iterable[Literal]], Scanner]) -> None:
    data = b"\n".join([line("all is well"), line("too many con\nnections"), line("a\nb")])
    assert filtered(["too many connections"], data, scanner) == []


@pytest.mark.parametrize("scanner", SCANNERS)
def test_skipped_types_are_dropped(scanner: Callable[[Iterable[Literal]], Scanner]) -> None:
    reception, delivery = line("blocked", kind="Reception"), line("blocked", kind="Delivery")
    glued = reception + delivery
    data = b"\n".join([reception, delivery, glued])
    compiled = [compile_pattern("blocked")]
    skipping = Prefilter(compiled, skip_types=["Reception"], scanner=scanner)
    assert handed_on(skipping, data) == [delivery, glued]
    assert handed_on(Prefilter(compiled, scanner=scanner), data) == [reception, delivery, glued]


@pytest.mark.parametrize("glued", [ascii_only(record("blocked")), b'{ "type": 1, "x": blocked'])
def test_a_skipped_type_hides_no_record_behind_it_however_it_is_written(glued: bytes) -> None:
    behind = line("ok", kind="Reception") + glued
    prefilter = Prefilter([compile_pattern("blocked")], skip_types=["Reception"])
    assert handed_on(prefilter, behind) == [behind]


def test_of_a_type_said_twice_the_last_one_counts() -> None:
    twice = line("blocked").replace(b"{", b'{"type":"Reception",', 1)
    assert decode(twice).type == "TransientFailure"
    prefilter = Prefilter([compile_pattern("blocked")], skip_types=["Reception"])
    assert handed_on(prefilter, twice) == [twice]


@pytest.mark.parametrize("scanner", SCANNERS)
def test_a_literal_may_be_as_long_as_a_response(
    scanner: Callable[[Iterable[Literal]], Scanner],
) -> None:
    content = " ".join(f"part {number} is blocked" for number in range(500))
    assert filtered([content], line(content), scanner) == [line(content)]


def test_a_pattern_without_a_literal_lets_everything_through() -> None:
    compiled = [compile_pattern("blocked"), compile_pattern(r"^5\d\d ")]
    prefilter = Prefilter(compiled, skip_types=["Reception"])
    data = b"\n".join([line("ok"), line("ok", kind="Reception"), b"junk", b""])
    assert prefilter.unfiltered == (compiled[1],)
    assert handed_on(prefilter, data) == [line("ok"), b"junk"]


@pytest.mark.parametrize("scanner", SCANNERS)
def test_a_rule_of_one_site_without_a_literal_wants_its_lines_only(
    scanner: Callable[[Iterable[Literal]], Scanner],
) -> None:
    site = Scope("site", "(mx1|mx2).example.net")
    blocked, any_5xx = rule("blocked", Scope("default")), rule(r"^5\d\d ", site)
    here = serde(record("what") | {"site": "ip1->(mx1|mx2).example.net@smtp_client"})
    data = b"\n".join([line("ok"), here, line("blocked"), line("ok")])
    prefilter = Prefilter.for_rules([blocked, any_5xx], scanner=scanner)
    assert prefilter.unfiltered == ()
    assert handed_on(prefilter, data) == [here, line("blocked")]


@pytest.mark.parametrize("kind", ["default", "provider", "domain"])
def test_a_rule_of_a_wider_scope_without_a_literal_wants_all_lines(kind: ScopeKind) -> None:
    any_5xx = rule(r"^5\d\d ", Scope(kind, "example.net"))
    prefilter = Prefilter.for_rules([any_5xx])
    assert prefilter.unfiltered == any_5xx.regexes
    assert handed_on(prefilter, line("ok")) == [line("ok")]


def rule(regex: str, scope: Scope) -> Rule:
    return Rule(
        regexes=(compile_pattern(regex),),
        actions=(Action("Suspend"),),
        trigger=None,
        duration_ns=1,
        match_internal=False,
        rollup=True,
        scope=scope,
        file="shaping.toml",
        line=1,
        number=1,
        table="x",
    )


def test_without_patterns_no_line_matters() -> None:
    prefilter = Prefilter([])
    assert prefilter.engine == "none"
    assert handed_on(prefilter, line("blocked")) == []


@pytest.mark.parametrize(
    "source",
    [
        "421",
        "421 4\\.7\\.0",
        "^\\d+ ",
        "",
        "a",
        "ok",
        "(?i)\\w+",
        "content",
        "blocked|a",
        "(?:blocked)?",
        "(?!blocked)",
        "timestamp",
    ],
)
def test_what_every_line_may_have_is_no_literal(source: str) -> None:
    assert compile_pattern(source).literals() is None


def test_literals_are_the_rarest_there_are() -> None:
    def found(source: str) -> list[tuple[str, str]]:
        return [(one.text, one.piece) for one in compile_pattern(source).literals() or ()]

    assert found("Messages from \\d+ temporarily deferred") == [
        ("temporarily deferred", "temporarily")
    ]
    assert found("421 4\\.7\\.0 \\[TS04\\] from") == [("[TS04] from", "[TS04]")]
    assert found("(?:rate|speed) limit(?:ed)?.*") == [
        ("rate limit", "limit"),
        ("speed limit", "speed"),
    ]


# -- whatever the rules and the lines ---------------------------------------------------

WORDS = [
    "busy",
    "rate",
    "limit",
    "[TS04]",
    "4.7.1",
    "421",
    "5",
    "kiss",
    "café",
    'x"y',
    "a/b",
    "\\d",
]
GAPS = [" ", " ", "\r\n", "\n", "\r", "  ", "\t", "", ", "]

contents = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(GAPS)), max_size=6).map(
    lambda parts: "".join(word + gap for word, gap in parts)
)


@st.composite
def matching(draw: st.DrawFn) -> tuple[str, dict[str, object]]:
    """A record, and a pattern made from the text that rules see of it."""
    written = record(draw(contents), code=draw(st.sampled_from([421, 5, 550])))
    text = decode(serde(written)).response_line
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, min(len(text), start + 16)))
    parts = [draw(_spellings(char)) for char in text[start:end]]
    pattern = "".join(parts)
    if draw(st.booleans()):
        pattern = "(?i)" + "".join(p.swapcase() if len(p) == 1 else p for p in parts)
    return pattern, written


def _spellings(char: str) -> st.SearchStrategy[str]:
    itself = re.sub(r"([^\w\s])", r"\\\1", char)
    others = [f"{itself}+", f"(?:{itself}|zz)", f"[{itself}q]", f"q?{itself}", ".", f"({itself})"]
    return st.one_of(st.just(itself), st.just(itself), st.just(itself), st.sampled_from(others))


@given(matching(), st.sampled_from(WRITERS), st.sampled_from(SCANNERS))
@example(("(?i)KISS", record("\u212ai\u017fs")), serde, HyperscanScanner)
def test_a_pattern_made_from_a_line_finds_it(
    case: tuple[str, dict[str, object]],
    write: Callable[[object], bytes],
    scanner: Callable[[Iterable[Literal]], Scanner],
) -> None:
    source, written = case
    data = write(written)
    assert compile_pattern(source).search(decode(data).response_line) is not None
    assert filtered([source], data, scanner) == [data]


literal_patterns = st.lists(
    st.sampled_from(
        ["busy", " ", "rate limit", r"\[TS04\]", ".*", r"\d+", "kiss", "(?:a|ite)", "$"]
    ),
    min_size=1,
    max_size=4,
).map("".join)
lines = st.builds(
    lambda content, write, kind: write(record(content, kind=kind)),
    contents,
    st.sampled_from(WRITERS),
    st.sampled_from(["TransientFailure", "Reception", "Bounce"]),
)


@given(
    st.lists(st.one_of(literal_patterns, patterns()), min_size=1, max_size=4),
    st.lists(st.one_of(lines, st.sampled_from([b"", b"junk", b'"\\'])), max_size=6),
    st.sets(st.integers(0, 6)),
    st.sampled_from(SCANNERS),
)
def test_filtering_changes_no_decision(
    sources: list[str],
    written: list[bytes],
    cuts: set[int],
    scanner: Callable[[Iterable[Literal]], Scanner],
) -> None:
    compiled = [compile_pattern(source) for source in sources]
    prefilter = Prefilter(compiled, skip_types=["Reception"], scanner=scanner)
    blocks = _blocks(written, cuts)
    found = [one for block in blocks for one in handed_on(prefilter, block)]
    assert _wanted(found, compiled) == _wanted(written, compiled)


def _blocks(written: list[bytes], cuts: set[int]) -> list[bytes]:
    """The lines as a reader hands them on, a few at a time."""
    blocks: list[list[bytes]] = [[]]
    for number, one in enumerate(written):
        if number in cuts:
            blocks.append([])
        blocks[-1].append(one)
    return [b"".join(one + b"\n" for one in block) for block in blocks]


def _wanted(written: list[bytes], compiled: list[Pattern]) -> list[bytes]:
    """The lines that are records of a wanted type on which a pattern matches."""
    found = []
    for one in written:
        if not one.startswith(b"{"):
            continue
        decoded = decode(one)
        text = decoded.response_line
        if decoded.type != "Reception" and any(p.search(text) is not None for p in compiled):
            found.append(one)
    return found


def test_a_sifted_block_is_whole_lines() -> None:
    prefilter = Prefilter([compile_pattern("blocked")])
    data = b"".join(
        one + b"\n" for one in (line("ok"), line("blocked"), line("ok"), line("blocked"))
    )
    assert prefilter.sift(data) == 2 * (line("blocked") + b"\n")
    assert prefilter.sift(data[:-1]) == 2 * (line("blocked") + b"\n")
    assert prefilter.sift(line("ok") + b"\n") == b""
    assert prefilter.sift(b"") == b""


def test_without_a_filter_a_block_stays_as_it_is() -> None:
    prefilter = Prefilter([compile_pattern("[a-z]")], skip_types=["Reception"])
    data = line("ok", kind="Reception") + b"\n" + line("ok") + b"\n"
    assert prefilter.sift(data) is data
    assert list(prefilter.wanted(data)) == [line("ok")]


def test_a_needle_that_hides_the_one_for_escapes() -> None:
    patterns = [compile_pattern(source) for source in ("(?i)0Xb9", '(?i)/\\\\K\\[1b"')]
    spelt = line("#").replace(b"#", rb"\/\\K[1b\u0022")
    assert patterns[1].search(decode(spelt).response_line) is not None
    assert handed_on(Prefilter(patterns), spelt) == [spelt]


def test_a_machine_without_hyperscan_has_the_same_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [compile_pattern(f"reason {number:04x} of many") for number in range(0, 65_536, 61)]
    data = b"\n".join(line(f"reason {number:04x} of many") for number in range(0, 1_000, 7))
    with_it = Prefilter(many)
    monkeypatch.setitem(sys.modules, "hyperscan", None)
    without = Prefilter(many)
    assert (with_it.engine, without.engine) == ("hyperscan", "re2")
    assert handed_on(without, data) == handed_on(with_it, data) != []
