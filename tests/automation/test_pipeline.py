"""The filter changes nothing: with it the pipeline decides what it decides without it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.automation.decide import Automation, Outcome
from sidecar.automation.entries import to_payload
from sidecar.automation.matching import Matcher
from sidecar.automation.pipeline import Tally, happened, only_candidates, read_everything
from sidecar.automation.prefilter import Prefilter
from sidecar.automation.scanners import HyperscanScanner, Re2Scanner, Scanner, best_scanner
from sidecar.fancy.pattern import Literal, PatternError, compile_pattern
from sidecar.log.blocks import SegmentReader
from sidecar.log.record import SKIPPED_TYPES
from sidecar.service.mx import resolve_all
from sidecar.shaping.load import MergeOptions, Shaping, load_shaping
from sidecar.shaping.mx import ZoneResolver
from sidecar.times import NS, format_rfc3339
from tests.fancy.pattern_texts import patterns

NOW = 1_795_360_000
"""Seconds; the moment that the tests take for the present."""

ZONE = """$ORIGIN .
mail.example. 600 IN MX 10 mx.mail.example.
other.example. 600 IN MX 10 mx.provider.example.
plain.example. 600 IN MX 10 mx.plain.example.
"""

# Said by servers and looked for by rules; alike enough for needles to overlap.
PHRASES = (
    "temporarily deferred",
    "deferred later",
    "[TSS04]",
    "[TS04] too many",
    "blocKed",
    "rate limited",
    'say "no"',
    "back\\slash path",
    "see http://x.example/a",
    "Gelöscht",
    "RL000010",
)

Parts = Callable[[bytes], Iterable[tuple[bytes, bytes]]]


def _literal_pattern(phrase: str) -> str:
    special = "\\.+*?()|[]{}^$#&-~"
    return "".join(f"\\{c}" if c in special else c for c in phrase)


@st.composite
def regexes(draw: st.DrawFn) -> str:
    """What a rule may look for: mostly phrases, in one way or another, seldom anything."""
    phrase = _literal_pattern(draw(st.sampled_from(PHRASES)))
    form = draw(st.integers(0, 9))
    if form == 0:
        return draw(patterns())
    shapes = ("{0}", "(?i){0}", "^4\\d\\d .*{0}", "(?:{0}|nothing like it)", "{0}.*$", "x?{0}")
    return shapes[form % len(shapes)].format(phrase)


TABLES = ('"default"', '"mail.example"', '"plain.example"', 'provider."p"')
ACTIONS = (
    '"Suspend"',
    '"SuspendTenant"',
    '"BounceCampaign"',
    '{SetConfig={name="connection_limit", value=1}}',
    '{SetDomainConfig={name="max_message_rate", value="1/m"}}',
)


RATIOS = (
    "",
    "",
    'sidecar.ratio = {over = "30%", min = 1, window = "1 minute"}\n',
    'sidecar.ratio = {over = "10%", min = 2, window = "90 s", confidence = "60%"}\n',
    'sidecar.ratio = {over = "0%", min = 1, window = "1 minute", of = "Feedback"}\n',
)


@st.composite
def rule_files(draw: st.DrawFn) -> str:
    """A shaping file of up to six rules in four scopes."""
    text = (
        '[provider."p"]\nmatch = [{MXSuffix=".provider.example."}, {DomainSuffix=".p.example"}]\n'
    )
    for _ in range(draw(st.integers(1, 6))):
        some = draw(st.lists(regexes().filter(_compiles), min_size=1, max_size=2))
        text += (
            f"[[{draw(st.sampled_from(TABLES))}.automation]]\n"
            f"regex = {json.dumps(some, ensure_ascii=False)}\n"
            f"action = {draw(st.sampled_from(ACTIONS))}\n"
            'duration = "1 hour"\n'
            f"match_internal = {draw(st.sampled_from(('true', 'false')))}\n"
        )
        if draw(st.booleans()):
            text += f'trigger = {{Threshold="{draw(st.integers(1, 3))}/min"}}\n'
        text += draw(st.sampled_from(RATIOS))
    return text


def _compiles(source: str) -> bool:
    try:
        compile_pattern(source)
    except PatternError:
        return False
    return "\n" not in source


TYPES = ("TransientFailure", "Bounce", "Delivery", "Delivery", "Reception", "Feedback", "OOB")
FORMS: tuple[Callable[[bytes], bytes], ...] = (
    *[lambda line: line] * 12,
    lambda line: line + b"\r",
    lambda line: b'{"header":1}' + line,
    lambda line: b"header" + line,
    lambda line: line + line,
    lambda line: line.replace(b"->", b"-\\u003e"),
    lambda line: line.replace(b"Z", b"+00:00"),
    lambda line: line.replace(b"event_time", b"other_time"),
    lambda line: line[:-9],
    lambda line: line.replace(b"{", b"{\n", 1),
    lambda line: line.replace(b"LogRecord", b"").replace(b"}", b"\xff}", 1),
)
"""What else a line may be like, seldom."""


@st.composite
def log_lines(draw: st.DrawFn) -> bytes:
    """A record, written in one of the ways that JSON allows, or what else stands in a log."""
    if draw(st.integers(0, 14)) == 0:
        odd = (b"", b" ", b"no json, deferred later", b'{"type":"Bounce"}', b"[]", b'{"type":')
        return draw(st.sampled_from(odd))
    words = [*PHRASES, "fine", "KumoMTA internal: ", "421", "4.7.0", "BLOCKED", "bloc\u212aed"]
    said = draw(st.lists(st.sampled_from(words), max_size=3))
    gap = draw(st.sampled_from((" ", "", "\n", "\r\n")))
    domain = draw(st.sampled_from(("mail", "other", "plain", "x.p", "lost"))) + ".example"
    record = {
        "type": draw(st.sampled_from(TYPES)),
        "recipient": draw(
            st.sampled_from(
                (f"u@{domain}", [f"a@{domain}", "b@mail.example"], "postmaster", "no address", [])
            )
        ),
        "queue": draw(st.sampled_from((f"c:t@{domain}", domain))),
        "site": f"ip1->mx.{domain}@smtp_client",
        "egress_source": draw(st.sampled_from(("ip1", None))),
        "response": {
            "code": draw(st.sampled_from((250, 421, 550))),
            "enhanced_code": draw(st.sampled_from((None, {"class": 4, "subject": 7, "detail": 0}))),
            "content": draw(
                st.sampled_from((gap.join(said), gap.join(said).replace(" ", gap or " ")))
            ),
            "command": ".\r\n",
        },
        "event_time": format_rfc3339((NOW - draw(st.integers(0, 120))) * NS),
        "headers": {"Subject": draw(st.sampled_from(PHRASES))},
    }
    ascii_only, slashes = draw(st.booleans()), draw(st.booleans())
    line = json.dumps(record, ensure_ascii=ascii_only, separators=(",", ":"))
    text = (line.replace("/", "\\/") if slashes else line).encode()
    return draw(st.sampled_from(FORMS))(text)


def blocks(log: bytes, cuts: list[int], *, compressed: bool) -> Iterator[bytes]:
    """The blocks that a segment of `log` comes in when read in pieces that end at `cuts`."""
    raw = zstandard.ZstdCompressor().compress(log) if compressed else log
    reader = SegmentReader("segment")
    ends = sorted({cut % (len(raw) + 1) for cut in cuts} | {len(raw)})
    for start, end in zip([0, *ends], ends, strict=False):
        reader.feed(raw[start:end])
        while (block := reader.next_block()) is not None:
            yield block.data
    reader.finish()
    while (block := reader.next_block()) is not None:
        yield block.data


def decided(shaping: Shaping, blocks: Iterable[bytes], parts: Parts) -> tuple[Outcome, Automation]:
    """What a pipeline comes to that looks at `parts` of each block."""
    automation, whole = Automation(), Outcome()
    matcher, resolver = Matcher(shaping), ZoneResolver([ZONE])
    automation.follow(shaping)
    for block in blocks:
        found = happened(parts(block), matcher=matcher, skip_types=SKIPPED_TYPES, tally=Tally())
        mx = asyncio.run(resolve_all(only_candidates(found), resolver))
        outcome = automation.apply(found, mx=mx, now_ns=NOW * NS)
        whole.entries |= outcome.entries
        whole.events += outcome.events
        whole.counts += outcome.counts
    return whole, automation


def windows(automation: Automation) -> dict[str, dict[int, int]]:
    return {scope: dict(window.items()) for scope, window in automation.thresholds.scopes()}


def filtered_by(prefilter: Prefilter, *, attempts: bool = False) -> Parts:
    """As the service reads."""
    if attempts:
        return prefilter.parts
    return lambda data: ((b"", line) for line in prefilter.wanted(prefilter.sift(data)))


def everything(data: bytes) -> Iterable[tuple[bytes, bytes]]:
    return ((b"", line) for line in data.split(b"\n"))


def load(text: str) -> Shaping:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "shaping.toml"
        path.write_text(text)
        options = MergeOptions()
        return asyncio.run(
            load_shaping([str(path)], options=options, resolver=ZoneResolver([ZONE]))
        )


@pytest.mark.parametrize(
    "scanner", [best_scanner, HyperscanScanner, Re2Scanner], ids=["best", "hyperscan", "re2"]
)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(
    rules=rule_files(),
    log=st.lists(log_lines(), min_size=1, max_size=20),
    cuts=st.lists(st.integers(0, 20_000), max_size=6),
    compressed=st.booleans(),
    ended=st.booleans(),
)
def test_the_filtered_pipeline_decides_what_the_unfiltered_one_does(
    *,
    scanner: Callable[[Iterable[Literal]], Scanner],
    rules: str,
    log: list[bytes],
    cuts: list[int],
    compressed: bool,
    ended: bool,
) -> None:
    shaping = load(rules)
    prefilter = Prefilter(
        [pattern for rule in shaping.all_rules() for pattern in rule.regexes],
        skip_types=SKIPPED_TYPES,
        scanner=scanner,
    )
    whole = b"\n".join(log) + (b"\n" if ended else b"")
    parts = list(blocks(whole, cuts, compressed=compressed))
    attempts = any(rule.sidecar.needs_attempts for rule in shaping.all_rules())
    filtered, ours = decided(shaping, parts, filtered_by(prefilter, attempts=attempts))
    unfiltered, theirs = decided(shaping, [whole], everything)
    assert filtered.entries == unfiltered.entries
    assert filtered.events == unfiltered.events
    assert filtered.counts == unfiltered.counts
    assert ours.seq == theirs.seq
    assert windows(ours) == windows(theirs)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=80)
@given(rules=rule_files(), log=st.lists(log_lines(), min_size=1, max_size=25))
def test_a_batch_decides_what_its_records_do_one_by_one(rules: str, log: list[bytes]) -> None:
    """Nothing remembered of one record makes a difference to another."""
    shaping, resolver = load(rules), ZoneResolver([ZONE])
    together, ours = decided(shaping, [b"\n".join(log)], everything)
    theirs, single = Automation(), Outcome()
    theirs.follow(shaping)
    for line in b"\n".join(log).split(b"\n"):
        # A matcher of its own: its matches are none of those that anything is known of.
        found = read_everything(
            [line], matcher=Matcher(shaping), skip_types=SKIPPED_TYPES, tally=Tally()
        )
        mx = asyncio.run(resolve_all(only_candidates(found), resolver))
        single.add(theirs.apply(found, mx=mx, now_ns=NOW * NS))
    assert together.entries == single.entries
    assert together.events == single.events
    assert together.counts == single.counts
    far_ns = (NOW + 365 * 86400) * NS
    expired = [[to_payload(e) for e in a.entries.expire(far_ns)] for a in (ours, theirs)]
    assert expired[0] == expired[1]
    assert ours.seq == theirs.seq
    assert windows(ours) == windows(theirs)


def test_rules_and_records_as_generated_do_match() -> None:
    """So that what is shown above is shown of something: one example of it."""
    text = '[[default.automation]]\nregex = "temporarily deferred"\naction = "Suspend"\n'
    shaping = load(text + 'duration = "1 hour"\n')
    record = {
        "type": "Bounce",
        "recipient": "u@mail.example",
        "queue": "mail.example",
        "site": "ip1->mx.mail.example@smtp_client",
        "response": {"code": 550, "content": "temporarily\r\ndeferred"},
        "event_time": format_rfc3339(NOW * NS),
    }
    prefilter = Prefilter([p for rule in shaping.all_rules() for p in rule.regexes])
    outcome, _ = decided(shaping, [json.dumps(record).encode()], filtered_by(prefilter))
    assert len(outcome.entries) == 1
