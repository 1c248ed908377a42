"""``replay --timeline``, ``--svg``, ``--compare``: what was in force when, or would have been."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from tests.kumod_writer import record

from .support import DATA, assert_one_line_error, run

LOGS = DATA / "logs" / "plain"
ZONES = [a for zone in sorted((DATA / "zones").glob("*.zone")) for a in ("--dns-zone", str(zone))]
REAL = ("--shaping", str(LOGS / "shaping.toml"), *ZONES, str(LOGS / "logs"))

RULES = """
[[default.automation]]
regex = "slow"
action = "Suspend"
duration = "10 minutes"
[default.automation.sidecar]
name = "slow-down"

[[default.automation]]
regex = "busy"
action = {SetConfig = {name = "connection_limit", value = 1}}
trigger = {Threshold = "2/hr"}
duration = "5 minutes"
"""
BEGIN = 1_795_360_800


def line(text: str, minute: float = 0, *, site: str = "a", code: int = 421, **fields: Any) -> bytes:
    domain = f"{site}.example"
    said = {"code": code, "enhanced_code": None, "content": text, "command": None}
    one = record(
        at=BEGIN + int(minute * 60),
        response=said,
        recipient=f"user@{domain}",
        queue=f"camp:tenant@{domain}",
        site=f"ip2->mx.{domain}@smtp_client",
        **fields,
    )
    return json.dumps(one).encode() + b"\n"


def delivery(minute: float, site: str = "a") -> bytes:
    return line("ok", minute, site=site, code=250, type="Delivery")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rules.toml").write_text(RULES)
    return tmp_path


def look(files: Path, *lines: bytes, options: tuple[str, ...] = ("--timeline",)) -> dict[str, Any]:
    (files / "log").write_bytes(b"".join(lines))
    result = run("replay", "--json", "--shaping", "rules.toml", *options, "log")
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_each_record_is_decided_at_its_own_time(files: Path) -> None:
    document = look(files, line("slow"), line("slow", 5), line("slow", 20), line("busy", 21))
    first, second = document["episodes"]
    assert (first["seconds"], first["matches"], first["rule"]) == (900, 2, "slow-down")
    assert (second["seconds"], second["matches"]) == (600, 1)
    assert document["records"]["matched"] == 4


def test_a_threshold_in_place_of_another(files: Path) -> None:
    options = ("--compare-set", "rules.toml:9:trigger=3/hr")
    document = look(files, line("busy"), line("busy", 1), line("slow", 2), options=options)
    assert document["verdicts"]["gone"] == 1
    assert document["verdicts"]["same"] == 1
    (gone,) = [pair for pair in document["pairs"] if pair["verdict"] == "gone"]
    assert (gone["now"]["option"], gone["now"]["values"]) == ("connection_limit", [1])
    assert gone["then"] is None


def test_what_differs_is_summed_up_for_each_thing_that_is_held(files: Path) -> None:
    lines = [line("slow"), delivery(1), delivery(5), line("slow", 15, site="b"), line("slow", 15)]
    document = look(files, *lines, options=("--compare-set", "slow-down:duration=2 min"))
    sums = {one["where"]: (one["now"], one["then"]) for one in document["scopes"]}
    assert sums["mx.a.example ip2"] == (
        {"seconds": 1200, "matches": 2, "delivered_meanwhile": 2},
        {"seconds": 240, "matches": 2, "delivered_meanwhile": 1},
    )
    options = ("--compare-set", "slow-down:duration=2 min", "--shaping", "rules.toml", "log")
    shown = run("replay", *options).stdout.splitlines()
    assert shown[2:6] == [
        "episodes                               3           3",
        "minutes suspended                   30.0         6.0",
        "minutes limited                      0.0         0.0",
        "delivered meanwhile                    2           1",
    ]
    (row,) = [text for text in shown if text.endswith("  mx.a.example ip2")]
    assert row.split()[:6] == ["20.0", "4.0", "2", "2", "2", "1"]


def test_longer_shorter_and_another_value(files: Path) -> None:
    lines = [line("slow"), line("busy"), line("busy", 1)]
    for change, verdict in (
        ("slow-down:duration=1h", "longer"),
        ("slow-down: duration = 1 min", "shorter"),
    ):
        document = look(files, *lines, options=("--compare-set", change))
        assert document["verdicts"][verdict] == 1, change
    (files / "other.toml").write_text(RULES.replace("value = 1", "value = 2"))
    document = look(files, *lines, options=("--compare", "other.toml"))
    assert document["verdicts"]["other value"] == 1


def test_mail_that_was_delivered_meanwhile_is_counted_where_it_went(files: Path) -> None:
    lines = [
        *(delivery(0), line("slow", 1), delivery(2), delivery(3, "b"), delivery(4)),
        *(line("busy", 5, site="b"), line("busy", 6, site="b"), delivery(7, "b")),
        delivery(12),
    ]
    document = look(files, *lines, options=("--compare", "rules.toml"))
    sent = {pair["now"]["kind"]: pair["now"]["delivered_meanwhile"] for pair in document["pairs"]}
    assert sent == {"ready_q": 2, "override": 1}
    assert document["records"]["deliveries"] == 6
    assert {pair["verdict"] for pair in document["pairs"]} == {"same"}


def test_mail_that_went_before_a_limit_held_is_not_counted_for_it(files: Path) -> None:
    probe = '"slow-down"\nprobe = {connection_limit = 2, for = "1 hour"}'
    (files / "rules.toml").write_text(RULES.replace('"slow-down"', probe))
    document = look(files, line("slow"), *(delivery(minute) for minute in (1, 2, 3, 11, 12)))
    sent = {one["kind"]: one["delivered_meanwhile"] for one in document["episodes"]}
    assert sent == {"ready_q": 3, "override": 2}


def test_a_delivery_is_summed_up_once_whatever_was_in_force_where_it_went(files: Path) -> None:
    lines = [
        line("slow"),
        line("busy"),
        line("busy", 1),
        delivery(2),
        delivery(3),
        delivery(4, "b"),
    ]
    options = ("--compare-set", "slow-down:duration=150 s")
    document = look(files, *lines, options=options)
    assert document["delivered_meanwhile"] == {"now": 2, "then": 2}
    assert [one["now"]["delivered_meanwhile"] for one in document["scopes"]] == [2, 2]
    shown = run("replay", *options, "--shaping", "rules.toml", "log").stdout.splitlines()
    assert shown[5] == "delivered meanwhile                    2           2"


def test_a_comparison_with_itself_differs_in_nothing() -> None:
    result = run("replay", "--compare", str(LOGS / "shaping.toml"), *REAL)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "32 same"
    assert all(len(text) <= 80 for text in result.stdout.splitlines())


def test_episodes_end_with_what_a_replay_has_in_force() -> None:
    document = json.loads(run("replay", "--json", *REAL).stdout)
    episodes = document["episodes"]
    suspended = document["suspended"]
    held = sorted(e["expires"] for e in suspended["ready_q"] + suspended["sched_q"])
    assert held == sorted(e["until"] for e in episodes if e["kind"] in ("ready_q", "sched_q"))
    bounced = sorted(e["expires"] for e in document["bounced"])
    assert bounced == sorted(e["until"] for e in episodes if e["kind"] == "bounce")


def test_the_picture_on_a_terminal(files: Path) -> None:
    (files / "log").write_bytes(line("slow") + line("busy", 9, site="b") * 2 + line("nothing", 20))
    result = run("replay", "--timeline", "--shaping", "rules.toml", "log", COLUMNS="60")
    lines = result.stdout.splitlines()
    assert all(len(text) <= 60 for text in lines[2:])
    (slow,) = [text for text in lines if text.startswith("mx.a.example ip2")]
    (busy,) = [text for text in lines if text.startswith("b.example ip2")]
    assert 0 < slow.count("#") < 30
    assert slow.index("#") < busy.index("-")
    assert lines[-1] == "- limited, # ready queue held"


def test_the_svg_is_one_harmless_file(files: Path) -> None:
    hostile = "x<script>alert(1)</script>"
    (files / "log").write_bytes(line("slow", site=hostile) + line("slow", 1))
    result = run("replay", "--svg", "out.svg", "--shaping", "rules.toml", "log")
    assert result.exit_code == 0, result.output
    text = (files / "out.svg").read_text()
    root = ET.fromstring(text)
    kinds = {element.tag.partition("}")[2] for element in root.iter()}
    assert kinds == {"svg", "title", "rect", "line", "text"}
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_nothing_in_a_log_is_no_error(files: Path) -> None:
    (files / "log").write_bytes(b"")
    for options in (("--timeline", "--svg", "x.svg"), ("--compare", "rules.toml")):
        result = run("replay", *options, "--shaping", "rules.toml", "log")
        assert result.exit_code == 0, result.output
    assert ET.parse(files / "x.svg").getroot() is not None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("rules.toml:9", "write RULE:KEY=VALUE"),
        ("rules.toml:9:colour=red", "keys are trigger, duration"),
        ("rules.toml:10:trigger=1/hr", "no rule is called"),
        ("slow-down:trigger=often", "often"),
        ("slow-down:duration=-1", "-1"),
    ],
)
def test_a_change_that_cannot_be_made_is_explained(files: Path, change: str, says: str) -> None:
    (files / "log").write_bytes(b"")
    result = run("replay", "--compare-set", change, "--shaping", "rules.toml", "log")
    assert_one_line_error(result, 1, "--compare-set", says)


@pytest.mark.parametrize(
    ("others", "says"),
    [
        (("gone.toml",), "gone.toml: can't be loaded"),
        (("rules.toml", "gone.toml"), "gone.toml: can't be loaded"),
        (("binary.toml",), "binary.toml: can't be loaded"),
    ],
)
def test_nothing_is_compared_with_a_file_that_is_not_there(
    files: Path, others: tuple[str, ...], says: str
) -> None:
    (files / "log").write_bytes(line("slow"))
    (files / "binary.toml").write_bytes(b"\xff\x00")
    compare = [part for other in others for part in ("--compare", other)]
    result = run("replay", "--shaping", "rules.toml", *compare, "log")
    assert_one_line_error(result, 1, says)
    assert result.stdout == ""


@pytest.mark.parametrize("command", [("replay",), ("unmatched",), ("suggest", "abcdef")])
def test_a_log_is_not_judged_by_rule_files_that_are_not_there(
    files: Path, command: tuple[str, ...]
) -> None:
    (files / "log").write_bytes(line("slow"))
    result = run(*command, "--shaping", "gone.toml", "log")
    assert_one_line_error(result, 1, "gone.toml: can't be loaded")
    assert result.stdout == ""


def test_of_several_rule_files_one_may_be_missing_as_in_the_service(files: Path) -> None:
    (files / "log").write_bytes(line("slow"))
    result = run("replay", "--shaping", "rules.toml", "--shaping", "gone.toml", "log")
    assert result.exit_code == 0
    assert "1 matched" in result.stdout
    assert "gone.toml: can't be loaded" in result.stderr


def test_what_is_later_than_the_moment_asked_for_has_not_happened(files: Path) -> None:
    at = ("--timeline", "--at", str(BEGIN + 6 * 60))
    document = look(files, line("slow"), line("slow", 5), line("slow", 20), options=at)
    (episode,) = document["episodes"]
    assert (episode["seconds"], episode["matches"]) == (900, 2)
    assert document["left_out"]["later"] == 1


ADJUSTING = """
[default]
max_message_rate = "1000/min"
[[default.automation]]
regex = "busy"
action = {SetConfig = {name = "max_message_rate", value = "1/min"}}
duration = "1 hour"
sidecar.adjust = true
"""


def test_what_adjusts_itself_is_drawn_as_high_as_what_is_let_through(files: Path) -> None:
    (files / "rules.toml").write_text(ADJUSTING)
    (files / "log").write_bytes(b"".join(line("busy", minute) for minute in (0, 1, 2, 30)))
    options = ("--timeline", "--svg", "picture.svg", "--shaping", "rules.toml")
    result = run("replay", *options, "log", COLUMNS="80")
    assert result.exit_code == 0, result.output
    (row,) = (text for text in result.output.splitlines() if text.startswith("a.example"))
    levels = row.partition("|")[2]
    assert set(levels) <= set("▁▂▃▄▅▆▇█")
    low, high = levels.index("▁"), levels.index("▇")
    assert levels[0] > levels[low]
    assert list(levels[low:high]) == sorted(levels[low:high])  # as the blocks' numbers go
    assert "limited to so much of what is configured" in result.output
    picture = ET.fromstring((files / "picture.svg").read_text())
    (drawn,) = picture.iter("{http://www.w3.org/2000/svg}polygon")
    heights = [float(point.partition(",")[2]) for point in drawn.attrib["points"].split()]
    assert len(set(heights)) > 5


def test_explain_does_not_promise_the_duration_to_what_comes_back_by_itself(files: Path) -> None:
    (files / "rules.toml").write_text(ADJUSTING)
    result = run("explain", "--shaping", "rules.toml", "--domain", "a.example", "421 busy")
    text = " ".join(result.output.split())
    assert 'set max_message_rate = "700/m" (of "1000/min")' in text
    assert "(back by itself, if no more come)" in text
