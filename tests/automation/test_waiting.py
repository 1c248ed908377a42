"""Records that wait for an MX: decided later, they lead to what they would have at once."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.automation.decide import Automation, Outcome
from sidecar.automation.entries import Override
from sidecar.automation.matching import Candidate, Matcher
from sidecar.automation.overlay import Overlay
from sidecar.automation.pipeline import Tally, candidates
from sidecar.automation.waiting import decide, decide_late, from_payload
from sidecar.shaping.load import MergeOptions, load_shaping
from sidecar.shaping.mx import MxAnswer, ZoneResolver
from sidecar.times import NS

NOW = 1_795_360_000

RULES = """
[[default.automation]]
regex = "busy"
action = ["Suspend", {SetConfig = {name = "connection_limit", value = 1}}]
duration = "10 minutes"

[[default.automation]]
regex = "slow|busy"
action = {SetDomainConfig = {name = "max_connection_rate", value = "1/s"}}
duration = "20 minutes"

[provider.big]
match = [{MXSuffix = ".big.test"}]

[[provider.big.automation]]
regex = "busy|full"
action = [
  {SetDomainConfig = {name = "max_connection_rate", value = "2/s"}},
  {SetConfig = {name = "connection_limit", value = 2}},
  "SuspendTenant",
]
duration = "30 minutes"

[provider.huge]
match = [{MXSuffix = ".test"}]

[[provider.huge.automation]]
regex = "busy"
action = {SetConfig = {name = "connection_limit", value = 3}}
duration = "15 minutes"

["b.test"]
mx_rollup = false
[["b.test".automation]]
regex = "busy|slow"
action = {SetConfig = {name = "connection_limit", value = 4}}
duration = "25 minutes"
"""

ZONES = [
    "$ORIGIN a.test.\n@ MX 1 mx.big.test.\n",
    "$ORIGIN b.test.\n@ MX 1 mx2.big.test.\n",
    "$ORIGIN c.test.\n@ MX 1 mx.elsewhere.example.\n",
]

RESOLVER = ZoneResolver(ZONES)


@pytest.fixture(scope="module")
def matcher(tmp_path_factory: pytest.TempPathFactory) -> Matcher:
    path = tmp_path_factory.mktemp("rules") / "shaping.toml"
    path.write_text(RULES)
    return matcher_of(path)


def matcher_of(path: Path) -> Matcher:
    return Matcher(
        asyncio.run(load_shaping([str(path)], options=MergeOptions(), resolver=RESOLVER))
    )


def record(said: str, second: int, *domains: str, source: str = "ip1") -> dict[str, Any]:
    return {
        "type": "TransientFailure",
        "recipient": [f"user@{domain}" for domain in domains],
        "queue": f"tenant@{domains[0]}",
        "site": f"{source}->mx.site@smtp_client",
        "egress_source": source,
        "response": {"code": 421, "content": said},
        "timestamp": NOW + second,
    }


def found(matcher: Matcher, records: Sequence[dict[str, Any]]) -> list[Candidate]:
    lines = [json.dumps(one).encode() for one in records]
    return candidates(lines, matcher=matcher, skip_types=frozenset(), tally=Tally())


def answer(domain: str) -> MxAnswer | None:
    return RESOLVER.remembered(domain)


def answers(all_found: Sequence[Candidate]) -> dict[str, MxAnswer]:
    known = {one.domain: answer(one.domain) for one in all_found if one.needs_mx}
    return {domain: mx for domain, mx in known.items() if mx is not None}


def view(automation: Automation) -> tuple[str, set[tuple[str, int]]]:
    """What is published: the overlay, and the other entries with their expiry."""
    entries = list(automation.entries)
    overlay = Overlay(e for e in entries if isinstance(e, Override))
    return overlay.text(), {(e.key, e.expires_ns) for e in entries}


def test_what_needs_no_mx_is_decided_at_once(matcher: Matcher) -> None:
    automation = Automation()
    records = [
        record("busy", 0, "a.test"),
        record("slow", 1, "a.test"),
        record("full", 2, "a.test"),
    ]
    outcome, waiting = decide(
        automation, found(matcher, records), mx={}, asked={"a.test"}, room=99, now_ns=NOW * NS
    )
    assert outcome.counts["matched"] == 2
    assert {type(e).__name__ for e in outcome.entries.values()} == {"Override", "ReadyQSuspension"}
    assert len(outcome.events) == 1
    assert [(w.domain, w.counted, w.record.content) for w in waiting] == [
        ("a.test", True, "busy"),
        ("a.test", False, "full"),
    ]
    late = Outcome()
    for one in waiting:
        late.add(
            decide_late(automation, one, matcher=matcher, mx=answer("a.test"), now_ns=NOW * NS)
        )
    assert late.counts["matched"] == 1
    assert [type(e).__name__ for e in late.events] == ["SchedQSuspension"] * 2


def test_a_record_that_no_provider_rule_fits_never_waits(matcher: Matcher) -> None:
    outcome, waiting = decide(
        Automation(),
        found(matcher, [record("slow", 0, "a.test")]),
        mx={},
        asked={"a.test"},
        room=99,
        now_ns=NOW * NS,
    )
    assert waiting == []
    assert outcome.entries


def test_what_waits_can_be_kept(matcher: Matcher) -> None:
    said = record('busy "\u2028\x00ü', 0, "a.test", "b.test")
    _, (one,) = decide(
        Automation(), found(matcher, [said]), mx={}, asked={"a.test"}, room=99, now_ns=NOW * NS
    )
    assert from_payload(one.to_payload()) == one
    for bad in ("", "{}", "[]", one.to_payload()[:-1], one.to_payload().replace("421", '"x"')):
        with pytest.raises(ValueError):  # noqa: PT011 - the message is the library's
            from_payload(bad)


def test_rules_that_have_gone_meanwhile_do_nothing(matcher: Matcher, tmp_path: Path) -> None:
    automation = Automation()
    _, (one,) = decide(
        automation,
        found(matcher, [record("busy", 0, "a.test")]),
        mx={},
        asked={"a.test"},
        room=99,
        now_ns=NOW * NS,
    )
    (tmp_path / "other.toml").write_text("[default]\nconnection_limit = 1\n")
    other = matcher_of(tmp_path / "other.toml")
    late = decide_late(automation, one, matcher=other, mx=answer("a.test"), now_ns=NOW * NS)
    assert (late.entries, late.events) == ({}, [])


def test_a_record_behind_that_was_decided_before_is_not_undone(matcher: Matcher) -> None:
    automation = Automation()
    records = [record("full", 0, "a.test"), record("full", 5, "a.test")]
    first, second = found(matcher, records)
    now = NOW * NS
    _, (one,) = decide(automation, [first], mx={}, asked={"a.test"}, room=99, now_ns=now)
    outcome, _ = decide(automation, [second], mx=answers([second]), asked=(), room=99, now_ns=now)
    assert len(outcome.entries) == 3
    late = decide_late(automation, one, matcher=matcher, mx=answer("a.test"), now_ns=now)
    assert (late.entries, late.events) == (outcome.entries, [])
    assert {story.matches for story in late.episodes.values()} == {2}
    assert all(e.expires_ns == (NOW + 5 + 1800) * NS for e in automation.entries)


RECORDS = st.builds(
    record,
    st.sampled_from(["busy", "slow", "full", "fine"]),
    st.integers(0, 300),
    st.sampled_from(["a.test", "b.test", "c.test"]),
    st.sampled_from(["a.test", "b.test", "c.test"]),
    source=st.sampled_from(["ip1", "ip2"]),
)


@given(
    records=st.lists(RECORDS, max_size=12),
    asked=st.sets(st.sampled_from(["a.test", "b.test", "c.test"])),
    batches=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_whenever_it_is_decided_it_leads_to_the_same(
    matcher: Matcher, records: list[dict[str, Any]], asked: set[str], batches: int, seed: int
) -> None:
    at_once, in_time = Automation(), Automation()
    every = found(matcher, records)
    now = NOW * NS
    expected = at_once.apply(every, mx=answers(every), now_ns=now)
    chance, waiting = random.Random(seed), []
    counts, events = Counter[str](), 0

    def note(outcome: Outcome) -> None:
        nonlocal counts, events
        counts += outcome.counts
        events += len(outcome.events)

    size = max(1, -(-len(every) // batches))
    for start in range(0, len(every), size):
        part = every[start : start + size]
        known = {d: mx for d, mx in answers(part).items() if d not in asked}
        outcome, more = decide(in_time, part, mx=known, asked=asked, room=99, now_ns=now)
        note(outcome)
        waiting += more
        chance.shuffle(waiting)
        for one in [waiting.pop() for _ in range(chance.randint(0, len(waiting)))]:
            one = from_payload(one.to_payload())  # noqa: PLW2901 - as after a restart
            mx = answer(one.domain)
            note(decide_late(in_time, one, matcher=matcher, mx=mx, now_ns=now))
    for one in waiting:
        mx = answer(one.domain)
        note(decide_late(in_time, one, matcher=matcher, mx=mx, now_ns=now))
    assert view(in_time) == view(at_once)
    assert counts == expected.counts
    assert events <= len(expected.events)
