"""Taking over from kumo-tsa-daemon: its real state file, whole and damaged."""

from __future__ import annotations

import json
import time
import tomllib
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.automation.decide import threshold_scope
from sidecar.automation.entries import Override, ReadyQSuspension, SchedQBounce, SchedQSuspension
from sidecar.automation.thresholds import Thresholds
from sidecar.shaping.rules import TomlValue
from sidecar.store.tsa_daemon import (
    MAX_PROBLEMS,
    History,
    TsaDaemonState,
    read_tsa_daemon,
    threshold_counts,
)
from sidecar.times import NS, parse_rfc3339
from tests.shaping.upstream_rules import rules_of

DATA = Path(__file__).parents[1] / "data" / "tsa-state"
STATE = (DATA / "tsa.db.state").read_bytes()
ANSWERS: dict[str, Any] = json.loads((DATA / "answers.json").read_text())
NOW = int(ANSWERS["now"] * NS)
HASH = bytes(range(32))


def whole() -> TsaDaemonState:
    return read_tsa_daemon(STATE, NOW)


def test_the_real_file_is_read_without_loss() -> None:
    state = whole()
    assert state.problems == []
    assert (state.expired, state.unlisted) == (0, 0)


def test_suspensions_and_bounces_are_those_it_had_answered() -> None:
    entries = whole().entries
    ready = [e.answer() for e in entries if isinstance(e, ReadyQSuspension)]
    sched = [e.answer() for e in entries if isinstance(e, SchedQSuspension)]
    bounced = [e.answer() for e in entries if isinstance(e, SchedQBounce)]
    assert _recorded(ready) == _recorded(ANSWERS["suspended"]["ready_q"])
    assert _recorded(sched) == _recorded(ANSWERS["suspended"]["sched_q"])
    # One record more came between the last answer and the end of the daemon.
    before = [answer for answer in bounced if answer["domain"] != "selfhost.example"]
    assert _recorded(before) == _recorded(ANSWERS["bounced"])
    assert len(bounced) == len(before) + 3


def _recorded(answers: list[dict[str, Any]]) -> list[str]:
    # The file is of another run of the same records, some seconds later.
    return sorted(json.dumps({**answer, "expires": None}, sort_keys=True) for answer in answers)


def test_overrides_are_those_of_its_overlay() -> None:
    entries = [e for e in whole().entries if isinstance(e, Override)]
    overlay = tomllib.loads(ANSWERS["overlay"])
    theirs = {
        (domain, source, name, json.dumps(value))
        for domain, table in overlay.items()
        for source, options in table["sources"].items()
        for name, value in options.items()
    }
    ours = {(e.domain, e.source, e.name, json.dumps(e.value)) for e in entries}
    assert theirs <= ours
    assert [e.seq for e in entries] == sorted(e.seq for e in entries)


def test_what_has_expired_is_counted_and_left_out() -> None:
    entries = whole().entries
    later = sorted(entry.expires_ns for entry in entries)[len(entries) // 2]
    state = read_tsa_daemon(STATE, later)
    assert [e.key for e in state.entries] == [e.key for e in entries if e.expires_ns > later]
    assert state.expired == len(entries) - len(state.entries)


def test_numbers_go_on_from_where_the_caller_is() -> None:
    state = read_tsa_daemon(STATE, NOW, first_seq=100)
    assert [e.seq for e in state.entries] == list(range(100, 100 + len(state.entries)))


def test_an_option_that_kumod_would_refuse_is_left_out() -> None:
    def check(name: str, _value: TomlValue) -> list[str]:
        return ["no such option"] if name == "connection_limit" else []

    state = read_tsa_daemon(STATE, NOW, check_option=check)
    names = {e.name for e in state.entries if isinstance(e, Override)}
    assert names == {"max_connection_rate", "additional_connection_limits"}
    assert {problem.code for problem in state.problems} == {"bad-option"}
    assert "connection_limit" in str(state.problems[0])


def test_histories_go_on_in_the_thresholds_of_the_same_rules() -> None:
    rules = rules_of(tomllib.loads((DATA / "shaping.toml").read_text()))
    histories = whole().histories
    assert [sum(h.counts.values()) for h in histories] == [2, 1]
    counts, problems = threshold_counts(histories, rules)
    assert problems == []
    (rule,) = {
        rule.hash: rule for rule in rules if rule.trigger is not None and rule.rollup
    }.values()
    assert {scope for scope, _ in counts} == {threshold_scope(rule, h.site) for h in histories}
    thresholds = Thresholds()
    for scope, second in counts:
        thresholds.restore(scope, 3600, {second: counts[scope, second]})
    # One match more reaches the limit that the daemon would have reached with it.
    scope = threshold_scope(rule, histories[0].site)
    assert thresholds.record(scope, 3600, max(second for _, second in counts)) == 3


def test_a_history_keeps_only_what_the_threshold_can_still_count() -> None:
    rules = rules_of(tomllib.loads((DATA / "shaping.toml").read_text()))
    (known, *_) = whole().histories
    newest = max(known.counts)
    history = History(known.rule_hash, "site", {newest: 1, newest - 3600: 2, newest - 3601: 4})
    counts, _ = threshold_counts([history], rules)
    assert sorted(counts.values()) == [1, 2]


def test_a_history_of_an_unknown_rule_is_listed() -> None:
    counts, problems = threshold_counts(whole().histories, [])
    assert counts == {}
    assert [problem.code for problem in problems] == ["unknown-rule"] * 2
    assert "event_history: 940442cb" in str(problems[0])


EXPIRES = "2026-12-22T15:49:36.948460Z"


def encoded(**sections: object) -> bytes:
    """A state file with these sections, each a list of (key, value)."""
    data = bytes((0x80 | len(sections),))
    for name, items in sections.items():
        data += msgspec.msgpack.encode(name)
        if isinstance(items, list):
            data += bytes((0x80 | len(items),))
            data += b"".join(msgspec.msgpack.encode(part) for item in items for part in item)
        else:
            data += msgspec.msgpack.encode(items)
    return data


def override(**changes: object) -> dict[str, object]:
    fields: dict[str, object] = {
        "domain": "example.com",
        "mx_rollup": True,
        "source": "ip1",
        "reason": "why",
        "option": {"name": "connection_limit", "value": 3},
        "expires": EXPIRES,
    }
    return fields | changes


def queue(**changes: object) -> dict[str, object]:
    fields: dict[str, object] = {
        "action_hash": [HASH, "site"],
        "domain": "example.com",
        "tenant": "acme",
        "campaign": None,
    }
    return fields | changes


GOOD = ([HASH, "site"], override())
HELD = {"reason": "why", "expires": EXPIRES}


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("config_overrides", [HASH[:31], "b"], override()),
        ("config_overrides", ["text", "b"], override()),
        ("config_overrides", [HASH], override()),
        ("config_overrides", None, override()),
        ("config_overrides", [HASH, "b"], None),
        ("config_overrides", [HASH, "b"], {}),
        ("config_overrides", [HASH, "b"], override(domain=b"\xff")),
        ("config_overrides", [HASH, "b"], override(mx_rollup=1)),
        ("config_overrides", [HASH, "b"], override(option=[])),
        ("config_overrides", [HASH, "b"], override(option={"name": "x", "value": None})),
        ("config_overrides", [HASH, "b"], override(option={"name": "x", "value": 2**63})),
        ("config_overrides", [HASH, "b"], override(option={"name": "x", "value": float("inf")})),
        ("config_overrides", [HASH, "b"], override(option={"name": "x", "value": {"a": b"b"}})),
        ("config_overrides", [HASH, "b"], override(option={"name": "x", "value": {1: 2}})),
        ("config_overrides", [HASH, "b"], override(expires="soon")),
        ("config_overrides", [HASH, "b"], override(expires="2026-02-30T00:00:00Z")),
        ("config_overrides", [HASH, "b"], override(expires=7)),
        ("readyq_suspensions", [HASH, "b"], HELD),
        ("schedq_suspensions", queue(tenant=None), HELD),
        ("schedq_suspensions", queue(action_hash=HASH), HELD),
        ("schedq_bounces", queue(campaign=1), HELD),
        ("schedq_bounces", {"action_hash": [HASH, "site"]}, HELD),
        ("event_history", [HASH, "b"], {"duration": 60}),
        ("event_history", [HASH, "b"], {"duration": 60, "series": 1}),
        ("event_history", [HASH, "b"], {"duration": 60, "series": [1.5]}),
        ("event_history", [HASH, "b"], {"duration": 60, "series": [True]}),
        ("event_history", [HASH, "b"], {"duration": 60, "series": [2**63]}),
    ],
)
def test_a_damaged_item_is_listed_and_the_others_kept(
    section: str, key: object, value: object
) -> None:
    sections = {section: [(key, value)], "config_overrides": [GOOD]}
    if section == "config_overrides":
        sections = {section: [(key, value), GOOD]}
    state = read_tsa_daemon(encoded(**sections), NOW, file="old.state")
    (problem,) = state.problems
    assert problem.where == f"{section}: item 1"
    assert problem.file == "old.state"
    assert len(problem.message) < 300
    assert [e.kind for e in state.entries] == ["override"]
    assert state.histories == []


def test_items_of_every_kind_are_read() -> None:
    data = encoded(
        config_overrides=[
            ([HASH, "b"], override(option={"name": "x", "value": {"a": [1.5, "b"]}}))
        ],
        readyq_suspensions=[([HASH, "b"], HELD | {"source": "ip1"})],
        schedq_suspensions=[(queue(campaign="c"), HELD)],
        schedq_bounces=[(queue(tenant=None), HELD)],
        event_history=[([HASH, "b"], {"duration": 60, "series": [5, 5, 7]})],
    )
    state = read_tsa_daemon(data, NOW)
    common: dict[str, Any] = {
        "action_hash": HASH.hex(),
        "reason": "why",
        "expires_ns": parse_rfc3339(EXPIRES),
    }
    assert state.problems == []
    assert sorted(state.entries, key=lambda e: e.kind) == [
        SchedQBounce(
            site="site", domain="example.com", tenant=None, campaign=None, seq=1, **common
        ),
        Override(
            site="b",
            domain="example.com",
            mx_rollup=True,
            source="ip1",
            name="x",
            value={"a": [1.5, "b"]},
            seq=2,
            **common,
        ),
        ReadyQSuspension(site="b", source="ip1", seq=3, **common),
        SchedQSuspension(
            site="site", domain="example.com", tenant="acme", campaign="c", seq=4, **common
        ),
    ]
    assert state.histories == [History(HASH.hex(), "b", {5: 2, 7: 1})]


def test_an_expiry_past_the_year_9999_is_its_end() -> None:
    (entry,) = read_tsa_daemon(
        encoded(config_overrides=[([HASH, "b"], override(expires="+11026-11-22T15:49:36Z"))]), NOW
    ).entries
    assert entry.expires_ns == parse_rfc3339("9999-12-31T23:59:59Z")


def test_an_unknown_section_is_listed_and_the_others_read() -> None:
    state = read_tsa_daemon(encoded(novelty={"a": [1]}, config_overrides=[GOOD]), NOW)
    (problem,) = state.problems
    assert (problem.code, problem.where) == ("unknown-section", "novelty")
    assert len(state.entries) == 1


def test_the_list_of_problems_has_an_end() -> None:
    items = b"\x01\x02" * (MAX_PROBLEMS + 10)
    data = b"\x81" + msgspec.msgpack.encode("config_overrides")
    data += b"\xde" + (MAX_PROBLEMS + 10).to_bytes(2, "big") + items
    state = read_tsa_daemon(data, NOW)
    assert (len(state.problems), state.unlisted) == (MAX_PROBLEMS, 10)


@pytest.mark.parametrize("data", [b"", b"SQLite format 3\0" * 100, b"[default]\nx = 1\n", b"\x90"])
def test_another_file_is_one_problem(data: bytes) -> None:
    state = read_tsa_daemon(data, NOW)
    assert state.entries == []
    assert [problem.code for problem in state.problems] == ["damaged"]


@given(st.integers(0, len(STATE) - 1))
def test_of_a_cut_file_everything_before_the_cut_is_read(cut: int) -> None:
    state = read_tsa_daemon(STATE[:cut], NOW)
    everything = whole()
    assert [problem.code for problem in state.problems] == ["damaged"]
    assert {e.key for e in state.entries} <= {e.key for e in everything.entries}
    assert len(state.histories) <= len(everything.histories)
    smallest = 80  # bytes of an item
    if cut > len(STATE) // 2:
        assert len(state.entries) > (cut - len(STATE) // 4) // 300
    assert len(state.entries) * smallest <= cut


@settings(max_examples=400)
@given(st.lists(st.tuples(st.integers(0, len(STATE) - 1), st.integers(0, 7)), min_size=1))
def test_flipped_bits_do_no_harm(flips: list[tuple[int, int]]) -> None:
    data = bytearray(STATE)
    for at, bit in flips:
        data[at] ^= 1 << bit
    state = read_tsa_daemon(bytes(data), NOW)
    for entry in state.entries:
        assert entry.expires_ns > NOW
        assert len(entry.action_hash) == 64


@pytest.mark.parametrize(
    "bomb",
    [
        b"\x91" * 2_000_000,
        b"\x81" * 2_000_000,
        b"\xdd\xff\xff\xff\xff" * 400_000,
        b"\xdf\x00\x0f\xff\xff" * 400_000,
        b"\xdc\xff\xff" * 600_000,
        b"\x90" * 2_000_000,
    ],
    ids=["arrays", "maps", "huge arrays", "huge maps", "full arrays", "empty arrays"],
)
def test_bombs_take_bounded_time_and_memory(bomb: bytes) -> None:
    data = b"\x81\xb0config_overrides\x81" + bomb
    started = time.process_time()
    tracemalloc.start()
    try:
        read_tsa_daemon(data, NOW)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000
    assert time.process_time() - started < 10
