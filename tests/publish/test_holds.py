"""Which entries kumod is told of, when, and how its lists are read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.publish.holds import (
    Changes,
    Given,
    Hold,
    HoldKind,
    Target,
    Told,
    Wanted,
    cancelled_key,
    cancelled_target,
    due_at,
    duration_ns,
    is_deletion,
    kind_of,
    marker_domain,
    marker_key,
    read_list,
    replaced_key,
)
from sidecar.times import NS, parse_rfc3339
from tests.kumod_standin import humantime

NOW = 1_800_000_000 * NS
RECORDED = json.loads((Path(__file__).parent.parent / "data/api/kumod-admin.json").read_text())


def hold(seconds: float, *, reason: str = "r", name: str = "q") -> Hold:
    return Hold(Target("ready_q", name=name), reason, NOW + round(seconds * NS))


def test_of_several_for_one_target_the_longest_is_wanted() -> None:
    wanted = Wanted()
    holds = {"a": hold(10), "b": hold(30), "c": hold(20), "d": hold(1, name="other")}
    touched = wanted.take(Changes(1, holds))
    key = holds["a"].target.key
    assert touched == {key, holds["d"].target.key}
    assert wanted.longest(key) == holds["b"]
    assert wanted.take(Changes(1, {"b": None})) == {key}
    assert wanted.longest(key) == holds["c"]
    assert wanted.take(Changes(1, {"a": None, "c": None, "gone": None})) == {key}
    assert wanted.longest(key) is None
    assert list(wanted.targets()) == [holds["d"].target.key]


def test_only_what_struck_after_a_deletion_is_wanted() -> None:
    wanted = Wanted()
    long, short = replace(hold(30), strike=4), replace(hold(10), strike=5)
    wanted.take(Changes(1, {"long": long, "short": short}))
    key = long.target.key
    assert wanted.longest(key, after=3) == long
    assert wanted.longest(key, after=4) == short
    assert wanted.longest(key, after=5) is None
    assert wanted.last_strike(key) == 5


def test_what_would_apply_to_everything_is_never_wanted() -> None:
    wanted = Wanted()
    targets = [Target("ready_q", name=""), Target("sched_q", domain="", tenant="t"),
               Target("bounce", domain="")]  # fmt: skip
    holds = {str(n): Hold(t, "r", NOW + 1) for n, t in enumerate(targets)}
    assert wanted.take(Changes(1, holds)) == set()
    assert list(wanted.targets()) == []
    assert wanted.dangerous == holds
    wanted.take(Changes(1, dict.fromkeys(holds)))
    assert wanted.dangerous == {}


def test_the_request_leaves_out_what_is_any() -> None:
    assert Hold(Target("bounce", domain="d"), "r", NOW + NS // 2).request == {
        "domain": "d",
        "reason": "r",
        "expires": "2027-01-15T08:00:00.500Z",
    }


@pytest.mark.parametrize(
    ("given", "known"),
    [
        (Given("i", NOW + 60 * NS, 3), {}),
        (Given("i", NOW + 60 * NS, 3), {"same_run": False}),  # kumod forgot everything
        (Given("i", NOW + 60 * NS, 3), {"listed": True}),  # another entry took its place
        (Given("i", NOW + 4 * NS, 3), {}),  # about to end anyway
        (Given("i"), {}),  # from an older version: its end is not known
    ],
)
def test_what_is_a_deletion(given: Given, known: dict[str, bool]) -> None:
    deleted = is_deletion(given, **{"same_run": True, "listed": False, **known}, now_ns=NOW)
    assert deleted is (known == {} and given.expires_ns > NOW + 5 * NS)


@pytest.mark.parametrize("given", [Given("68ae20ca"), Given("a-b", 5, 7), Given("")])
def test_what_is_kept_of_an_entry_is_read_back(given: Given) -> None:
    assert Given.parse(str(given)) == given


@pytest.mark.parametrize("text", ["id", "id 5", "id x y", "id 5 \u0665", "id 5 6 7"])
def test_other_texts_are_ids_alone(text: str) -> None:
    assert Given.parse(text) == Given("id")


@pytest.mark.parametrize(
    "key", ["", "x", "[]", "3", '["marker"]', '["marker",3]', '["cancelled",1]']
)
def test_other_names_are_of_no_marker_and_no_deletion(key: str) -> None:
    assert marker_domain(key) is cancelled_target(key) is None


def test_names_of_markers_and_deletions_are_read_back() -> None:
    assert marker_domain(marker_key("x.invalid")) == "x.invalid"
    assert cancelled_target(cancelled_key('["ready_q","q"]')) == '["ready_q","q"]'
    assert kind_of(marker_key("x")) is kind_of(cancelled_key("x")) is None


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
