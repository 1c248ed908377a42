"""Entries in force: expiry, replacement, and their form in the state file."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sidecar.automation.entries import (
    Entries,
    Entry,
    Override,
    ReadyQSuspension,
    SchedQBounce,
    SchedQSuspension,
    frame,
    from_payload,
    to_payload,
)

NOW = 1_795_360_060_612_938_000


def suspension(site: str = "ip1->mx@smtp_client", expires_ns: int = NOW) -> ReadyQSuspension:
    return ReadyQSuspension(
        action_hash="a" * 64,
        site=site,
        reason="automation rule: busy",
        expires_ns=expires_ns,
        seq=1,
        source="ip1",
    )


TEXT = st.text(max_size=12)
VALUES = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
    TEXT,
    st.lists(TEXT, max_size=3),
    st.dictionaries(TEXT, TEXT, max_size=3),
)


def entry_of(kind: type[Entry]) -> st.SearchStrategy[Entry]:
    common = {
        "action_hash": TEXT,
        "site": TEXT,
        "reason": TEXT,
        "expires_ns": st.integers(0, 2**62 - 1),
        "seq": st.integers(0, 2**62 - 1),
        "simulated": st.booleans(),
    }
    own: dict[str, st.SearchStrategy[object]] = {"source": TEXT}
    if kind is Override:
        own |= {"domain": TEXT, "mx_rollup": st.booleans(), "name": TEXT, "value": VALUES}
    elif kind is SchedQSuspension:
        own = {"domain": TEXT, "tenant": TEXT, "campaign": st.none() | TEXT}
    elif kind is SchedQBounce:
        own = {"domain": TEXT, "tenant": st.none() | TEXT, "campaign": st.none() | TEXT}
    return st.builds(kind, **common, **own)


ENTRIES = st.one_of(
    *(entry_of(k) for k in (Override, ReadyQSuspension, SchedQSuspension, SchedQBounce))
)


@given(ENTRIES)
def test_an_entry_comes_back_from_its_payload(entry: Entry) -> None:
    assert from_payload(entry.kind, to_payload(entry)) == entry


@pytest.mark.parametrize(
    ("kind", "payload", "says"),
    [
        ("nope", "{}", "unknown kind"),
        ("ready_q", "[]", "JSON object"),
        ("ready_q", "{}", "action_hash"),
        ("ready_q", "{", "Expecting"),
    ],
)
def test_a_damaged_payload_says_what_is_wrong(kind: str, payload: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        from_payload(kind, payload)


@pytest.mark.parametrize("name", ["site", "expires_ns", "seq"])
def test_a_field_of_the_wrong_type_is_refused(name: str) -> None:
    data = json.loads(to_payload(suspension()))
    data[name] = None
    with pytest.raises(ValueError, match=name):
        from_payload("ready_q", json.dumps(data))


@pytest.mark.parametrize("value", [None, [None], {"a": None}, {"a": [{"b": None}]}, float("nan")])
def test_a_value_that_no_option_can_have_is_refused(value: Any) -> None:
    entry = Override("a", "s", "r", NOW, 1, "example.com", True, "ip1", "connection_limit", value)
    with pytest.raises(ValueError, match="value"):
        from_payload("override", to_payload(entry))


@pytest.mark.parametrize("seq", [-1, 2**62, 2**63])
def test_a_number_that_the_state_could_not_count_on_from_is_refused(seq: int) -> None:
    with pytest.raises(ValueError, match="seq"):
        from_payload("ready_q", to_payload(replace(suspension(), seq=seq)))


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 50)), max_size=60))
def test_expiry_is_that_of_the_last_put_whatever_came_before(puts: list[tuple[str, int]]) -> None:
    entries = Entries()
    expected: dict[str, int] = {}
    for site, expires in puts:
        entries.put(suspension(site, expires))
        expected[site] = expires
    for now in (0, 10, 25, 50):
        gone = {e.site: e.expires_ns for e in entries.expire(now)}
        assert gone == {s: e for s, e in expected.items() if e <= now}
        expected = {s: e for s, e in expected.items() if e > now}
        assert {e.site for e in entries} == set(expected)


def test_an_entry_holds_up_to_its_expiry_and_not_at_it() -> None:
    entries = Entries()
    entries.put(suspension(expires_ns=NOW))
    assert entries.expire(NOW - 1) == []
    assert entries.next_expiry() == NOW
    assert [e.site for e in entries.expire(NOW)] == ["ip1->mx@smtp_client"]
    assert entries.next_expiry() is None


def test_the_same_entry_put_very_often_keeps_one() -> None:
    entries = Entries()
    for n in range(100_000):
        entries.put(suspension(expires_ns=NOW + n))
    assert len(entries) == 1
    assert len(entries._heap) < 200
    assert [e.expires_ns for e in entries.expire(NOW + 10**9)] == [NOW + 99_999]


def test_a_removed_entry_does_not_expire_later() -> None:
    entries = Entries()
    entry = suspension()
    entries.put(entry)
    assert entries.remove(entry.key) == entry
    assert entries.remove(entry.key) is None
    assert entries.expire(NOW + 1) == []


def test_frames_are_those_that_a_real_daemon_sent() -> None:
    assert frame(suspension()) == {
        "ReadyQSuspension": {
            "rule_hash": "ip1->mx@smtp_client-" + "a" * 64,
            "site_name": "ip1->mx@smtp_client",
            "reason": "automation rule: busy",
            "source": "ip1",
            "expires": "2026-11-22T15:07:40.612938Z",
        }
    }


def test_keys_of_long_names_are_not_remembered() -> None:
    tracemalloc.start()
    try:
        for number in range(200):
            assert len(suspension(f"{number}" + "x" * 100_000).key) > 100_000
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()


def test_only_a_simulated_entry_says_whether_it_is() -> None:
    # So that an older version reads the others, and does not publish this one.
    assert "simulated" not in json.loads(to_payload(suspension()))
    payload = json.loads(to_payload(replace(suspension(), simulated=True)))
    assert payload["simulated"] is True
    with pytest.raises(ValueError, match="simulated"):
        from_payload("ready_q", json.dumps({**payload, "simulated": "yes"}))


def test_what_is_served_of_a_kind_is_what_is_not_simulated() -> None:
    entries = Entries()
    real = suspension()
    simulated = replace(real, action_hash="b" * 64, simulated=True)
    entries.put(real)
    entries.put(simulated)
    assert entries.of_kind("ready_q") == [real]
    assert entries.of_kind("ready_q", simulated=True) == [simulated]


@given(site=st.text(), source=st.text(), domain=st.text())
def test_a_key_is_the_json_that_earlier_versions_stored(
    site: str, source: str, domain: str
) -> None:
    entry = Override("a" * 64, site, "why", NOW, 1, domain, True, source, "connection_limit", 1)
    parts = ["override", "a" * 64, site, domain, source]
    assert entry.key == json.dumps(parts, separators=(",", ":"))
    bounce = SchedQBounce("b" * 64, site, "why", NOW, 1, domain, None, source)
    parts_of_bounce = ["bounce", "b" * 64, site, domain, None, source]
    assert bounce.key == json.dumps(parts_of_bounce, separators=(",", ":"))
