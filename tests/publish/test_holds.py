"""Which entries kumod is told of, when, and how its lists are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.publish.holds import (
    DesiredState,
    Hold,
    HoldKind,
    ReadyQHold,
    SchedQHold,
    Target,
    Told,
    due_at,
    duration_ns,
    kind_of,
    longest,
    read_list,
    replaced_key,
)
from sidecar.times import NS, parse_rfc3339
from tests.kumod_standin import humantime

NOW = 1_800_000_000 * NS
RECORDED = json.loads((Path(__file__).parent.parent / "data/api/kumod-admin.json").read_text())


def hold(seconds: float, *, reason: str = "r", name: str = "q") -> Hold:
    return Hold(Target("ready_q", name=name), reason, NOW + round(seconds * NS))


def test_of_several_for_one_queue_only_the_longest_is_told() -> None:
    desired = DesiredState(
        1,
        ready_q=(
            ReadyQHold("a", "short", NOW + 10),
            ReadyQHold("a", "long", NOW + 30),
            ReadyQHold("a", "middle", NOW + 20),
            ReadyQHold("b", "other", NOW + 1),
        ),
        sched_q=(
            SchedQHold("d", "t", None, "short", NOW + 10),
            SchedQHold("d", "t", None, "long", NOW + 20),
            SchedQHold("d", "t", "c", "narrower", NOW + 5),
        ),
        bounces=(SchedQHold("d", "t", None, "bounce", NOW + 1),),
    )
    wanted, dangerous = longest(desired, NOW)
    assert sorted(h.reason for h in wanted.values()) == [
        "bounce", "long", "long", "narrower", "other",
    ]  # fmt: skip
    assert dangerous == []


def test_what_has_expired_is_not_told() -> None:
    assert longest(DesiredState(1, ready_q=(ReadyQHold("a", "r", NOW),)), NOW) == ({}, [])


def test_what_would_apply_to_everything_is_never_told() -> None:
    desired = DesiredState(
        1,
        ready_q=(ReadyQHold("", "r", NOW + 1),),
        sched_q=(SchedQHold("", "t", "c", "r", NOW + 1),),
        bounces=(SchedQHold("", None, None, "r", NOW + 1),),
    )
    wanted, dangerous = longest(desired, NOW)
    assert wanted == {}
    assert len(dangerous) == 3


def test_the_request_leaves_out_what_is_any() -> None:
    (wanted,) = longest(
        DesiredState(1, bounces=(SchedQHold("d", None, None, "r", NOW + NS // 2),)), NOW
    )[0].values()
    assert wanted.request == {
        "domain": "d",
        "reason": "r",
        "expires": "2027-01-15T08:00:00.500Z",
    }


@pytest.mark.parametrize(
    ("wanted", "told", "expected"),
    [
        (hold(100), None, 0),
        (hold(100), Told(hold(100), NOW), None),
        (hold(100), Told(hold(100.5), NOW), None),  # kumod's figures are not exact
        (hold(100, reason="new"), Told(hold(100), NOW), None),
        (hold(100), Told(hold(200), NOW), 0),  # the longest was taken back
        (hold(200), Told(hold(100), NOW), NOW + NS),  # merely longer: not at once
        (hold(200), Told(hold(2.5), NOW), NOW + NS // 2),  # unless what it has ends soon
    ],
)
def test_when_kumod_is_told(wanted: Hold, told: Told | None, expected: int | None) -> None:
    assert due_at(wanted, told) == expected


@pytest.mark.parametrize("kind", ["ready_q", "sched_q", "bounce"])
def test_the_kind_is_known_from_the_name_of_a_stored_id(kind: HoldKind) -> None:
    assert kind_of(Target(kind, name="n", domain="d").key) == kind
    assert kind_of(replaced_key(kind, "id")) == kind


@pytest.mark.parametrize("key", ["", "x", "[]", "{}", "3", '["x"]', '["replaced"]', "[[]]", "null"])
def test_names_of_other_things_have_no_kind(key: str) -> None:
    assert kind_of(key) is None


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.text()), min_size=6, max_size=6))
def test_different_targets_have_different_names(parts: list[str | None]) -> None:
    one = Target("sched_q", domain=parts[0], tenant=parts[1], campaign=parts[2])
    other = Target("sched_q", domain=parts[3], tenant=parts[4], campaign=parts[5])
    assert (one.key == other.key) is (one == other)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/api/admin/suspend-ready-q/v1", "ready_q"),
        ("/api/admin/suspend/v1", "sched_q"),
        ("/api/admin/bounce/v1", "bounce"),
    ],
)
def test_the_recorded_lists_are_understood(path: str, kind: HoldKind) -> None:
    lists = [r["response"] for r in RECORDED if (r["method"], r["path"]) == ("GET", path)]
    for recorded in lists:
        listed = read_list(kind, recorded, NOW)
        assert [entry.id for entry in listed] == [r["id"] for r in recorded]
        for entry, item in zip(listed, recorded, strict=True):
            assert entry.hold.reason == item["reason"]
            assert entry.hold.target.domain == item.get("domain")
            assert entry.hold.target.name == item.get("name")
            if "expires" in item:
                assert entry.hold.expires_ns == parse_rfc3339(item["expires"])
            else:
                assert 4 * 60 * NS < entry.hold.expires_ns - NOW < 7 * 60 * NS
    assert any(lists)


@pytest.mark.parametrize("document", [{}, None, "x", [1], [{}], [{"id": 3}], [[]]])
def test_what_is_no_list_of_kumods_is_refused(document: object) -> None:
    with pytest.raises(ValueError, match=r"list|id"):
        read_list("ready_q", document, NOW)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("6m 59s 986ms 774us 167ns", 419_986_774_167),
        ("1day 1h", 90_000 * NS),
        ("2days", 172_800 * NS),
        ("1year 2months 3days", 31_557_600 * NS + 2 * 2_630_016 * NS + 3 * 86_400 * NS),
        ("0s", 0),
        ("", 0),
        ("soon", 0),
        ("3 parsecs", 0),
        ("3parsecs", 0),
    ],
)
def test_durations_as_kumod_prints_them(text: str, expected: int) -> None:
    assert duration_ns(text) == expected


@settings(deadline=None)
@given(st.integers(0, 400 * 86_400 * NS))
def test_any_duration_is_read_back(ns: int) -> None:
    assert duration_ns(humantime(ns)) == ns
