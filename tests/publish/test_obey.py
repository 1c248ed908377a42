"""What kumod is asked about what was published, when, and what its answers mean."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from sidecar.publish.obey import (
    FIRST_NS,
    GRACE_NS,
    Place,
    Questions,
    Setting,
    Shown,
    Verdict,
    read_answer,
)
from sidecar.shaping.rules import TomlValue
from sidecar.times import NS

NOW = 1_800_000_000 * NS
RECORDED = json.loads((Path(__file__).parent.parent / "data/api/kumod-inspect.json").read_text())
HOTMAIL = Place("hotmail.com", "ip1")


def recorded(path: str) -> Shown:
    """What the recorded answer to a question says."""
    (exchange,) = [r for r in RECORDED if r["path"] == path]
    body = exchange["response"]
    text = body if isinstance(body, str) else json.dumps(body)
    return read_answer(exchange["status"], body if isinstance(body, dict) else None, text)


def setting(
    name: str = "connection_limit",
    value: TomlValue = 3,
    *,
    place: Place = HOTMAIL,
    mx_rollup: bool = False,
    strike: int = 1,
) -> Setting:
    return Setting(place, mx_rollup, name, value, strike)


def asked(settings: dict[str, Setting], *, after: int = FIRST_NS) -> Questions:
    """Having asked about every place once; kumod answered as recorded for hotmail.com."""
    questions = Questions()
    questions.take(settings, NOW)
    while place := questions.next(NOW + after):
        questions.answered(place, recorded(HOTMAIL.path), NOW + after)
    return questions


def effect(questions: Questions, key: str = "a") -> str:
    verdict = questions.verdict(key)
    assert verdict is not None
    return verdict.effect


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("connection_limit", 3),
        ("connection_limit", "3"),
        ("max_message_rate", "77/min"),
        ("max_message_rate", "77/m"),
        ("connect_timeout", "60 seconds"),
        ("enable_tls", "Disabled"),
        ("use_lmtp", False),
        ("max_ready", 1024),
    ],
)
def test_what_the_recorded_kumod_had_is_in_effect(name: str, value: TomlValue) -> None:
    questions = asked({"a": setting(name, value)})
    assert questions.verdict("a") == Verdict("in effect", NOW + FIRST_NS)


@pytest.mark.parametrize(
    ("name", "value"),
    [("connection_limit", 4), ("connection_limit", "local:3"), ("max_message_rate", "78/min"),
     ("use_lmtp", True), ("ehlo_domain", "x")],
)  # fmt: skip
def test_what_the_recorded_kumod_had_not_is_not_obeyed_after_a_grace(
    name: str, value: TomlValue
) -> None:
    assert effect(asked({"a": setting(name, value)})) == "unknown"
    assert effect(asked({"a": setting(name, value)}, after=GRACE_NS)) == "not obeyed"


def test_a_table_is_in_effect_when_its_names_are() -> None:
    name = "additional_connection_limits"
    questions = Questions()
    questions.take({"a": setting(name, {"shared": 5})}, NOW)
    there: dict[str, Any] = {name: {"shared": {"limit": 5, "force_local": False}, "x": "3"}}
    questions.answered(HOTMAIL, Shown(there), NOW)
    assert effect(questions) == "in effect"
    questions.answered(HOTMAIL, Shown({name: {"x": "3"}}), NOW)
    assert effect(questions) == "unknown"


def test_an_older_kumod_is_seldom_asked_and_nothing_is_known() -> None:
    path = "/api/admin/inspect-v9/v1"
    shown = recorded(path)
    assert shown.lacking
    questions = Questions()
    questions.take({"a": setting(), "b": setting(place=Place("other.example", "ip1"))}, NOW)
    questions.answered(HOTMAIL, shown, NOW + FIRST_NS)
    assert effect(questions) == "unknown"
    due = questions.due_ns()
    assert due is not None
    assert due >= NOW + 600 * NS


def test_what_kumod_says_instead_of_an_answer_is_told() -> None:
    shown = read_answer(500, None, "error in shaping.toml: nope")
    questions = Questions()
    questions.take({"a": setting()}, NOW)
    questions.answered(HOTMAIL, shown, NOW)
    verdict = questions.verdict("a")
    assert verdict is not None
    assert (verdict.effect, "error in shaping.toml: nope" in verdict.why) == ("not obeyed", True)
    assert read_answer(200, {"path_config": 5}, "{…}").options is None
    assert read_answer(200, [], "").failure


def why(questions: Questions, key: str) -> str:
    verdict = questions.verdict(key)
    assert verdict is not None
    return verdict.why


def test_the_likely_cause_is_named() -> None:
    none = asked({"a": setting(value=9)}, after=GRACE_NS)
    assert "not among kumod's shaping files" in why(none, "a")
    some = asked({"a": setting(value=9), "b": setting("max_message_rate", "77/m")}, after=GRACE_NS)
    assert "reads after the overlay" in why(some, "a")
    site = asked(
        {
            "a": setting(value=9, mx_rollup=True),
            "b": setting(value=3, mx_rollup=True, place=Place("live.com", "ip1")),
        },
        after=GRACE_NS,
    )
    assert why(site, "a").endswith("entry b sets it, too")
    assert effect(site) == "unknown"


def test_of_entries_for_one_option_the_one_that_kumod_goes_by_is_judged() -> None:
    questions = asked({"a": setting(value=9), "b": setting(value=3, strike=2)}, after=GRACE_NS)
    assert effect(questions, "b") == "in effect"
    assert why(questions, "a").endswith("entry b sets it, too")
    assert effect(questions) == "unknown"  # nobody disobeys
    # A domain's own option counts more than its site's, however old it is.
    questions = asked({"a": setting(value=9, mx_rollup=True, strike=5), "b": setting()})
    assert effect(questions, "b") == "in effect"


def test_what_changes_is_asked_about_anew_and_what_is_prolonged_is_not() -> None:
    questions = asked({"a": setting()})
    later = NOW + 10 * NS
    questions.take({"a": setting(strike=2)}, later)  # the same, once more
    assert questions.verdict("a") == Verdict("in effect", NOW + FIRST_NS)
    assert questions.next(later + FIRST_NS) is None
    questions.take({"a": setting(value=7, strike=3)}, later)
    assert effect(questions) == "unknown"
    assert questions.next(later + FIRST_NS) == HOTMAIL


def test_what_is_not_in_effect_is_asked_about_less_and_less_often() -> None:
    questions = Questions()
    questions.take({"a": setting(value=9)}, NOW)
    times = []
    for second in range(2000):
        if place := questions.next(NOW + second * NS):
            times.append(second)
            questions.answered(place, recorded(HOTMAIL.path), NOW + second * NS)
    assert times[:4] == [1, 2, 4, 8]
    assert len(times) < 20
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert max(gaps) == 300  # and as often as what is in effect


def test_of_many_at_once_none_keeps_a_later_one_waiting() -> None:
    questions = Questions()
    many = {str(n): setting(place=Place(f"d{n}.example", "ip1")) for n in range(1000)}
    questions.take(many, NOW)
    new = Place("new.example", "ip1")
    questions.take({"new": setting(place=new)}, NOW + 10 * NS)
    asked, now = [], NOW
    while new not in asked:
        now += NS // 5
        if place := questions.next(now):
            asked.append(place)
            questions.answered(place, recorded(HOTMAIL.path), now)
    assert now - NOW < 20 * NS


def test_a_place_is_asked_about_once_for_all_its_options() -> None:
    questions = Questions()
    names = ("connection_limit", "max_message_rate", "max_ready")
    questions.take({n: setting(n) for n in names}, NOW)
    assert questions.next(NOW + FIRST_NS) == HOTMAIL
    questions.answered(HOTMAIL, recorded(HOTMAIL.path), NOW + FIRST_NS)
    assert questions.next(NOW + FIRST_NS) is None


def test_what_is_over_is_asked_about_no_more() -> None:
    questions = asked({"a": setting(), "b": setting("max_ready", 1)})
    questions.take({"a": None}, NOW)
    assert questions.verdict("a") is None
    assert questions.keys() == ["b"]
    questions.take({"b": None, "never": None}, NOW)
    assert questions.due_ns() is None
    questions.answered(HOTMAIL, Shown({}), NOW)  # an answer that was under way


def test_nothing_in_a_name_changes_the_question() -> None:
    path = Place("a&source=x/?#\u00e9\ud800", "ip 1%").path
    assert path == (
        "/api/admin/resolve-egress-path/v1?domain=a%26source%3Dx%2F%3F%23%C3%A9%3F&source=ip%201%25"
    )
