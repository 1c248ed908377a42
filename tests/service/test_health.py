"""``status``: one screen for people, one line for monitoring plugins."""

from __future__ import annotations

import re
from typing import Any

import pytest

from sidecar.cli.health import Limits, check, describe
from sidecar.times import NS, format_rfc3339

from .support import Setup, failure, until

NOW = 1_795_361_800 * NS
DOCUMENT = {
    "version": "1.0",
    "pid": 7,
    "started": format_rfc3339(NOW - 3600 * NS),
    "newest_record": format_rfc3339(NOW - 90 * NS),
    "bytes_waiting": 5_000_000,
    "segments_waiting": 2,
    "rules": 3,
    "files": ["/etc/shaping.toml"],
    "entries": {"override": 3, "ready_q": 2},
    "counters": {"read": 1_000_000},
    "warnings": [],
    "roads": {"overlay": "/o", "kumod": "http://k:8000"},
    "kumod": {"counts": {"in effect": 4, "not obeyed": 1}},
}


def checked(*troubles: str, running: bool = True, limits: Any = (), **more: Any) -> tuple[int, str]:
    return check(
        {**DOCUMENT, **more}, running=running, troubles=troubles, now_ns=NOW, limits=dict(limits)
    )


def test_a_plugin_s_line_has_what_is_so_and_performance_data() -> None:
    limits = {"age": Limits(120, 600)}
    assert checked(limits=limits) == (
        0,
        "TSA-SIDECAR OK - 5 in force, 5000000 bytes behind"
        " | age=90s;120;600;0 behind=5000000B;;;0 in_force=5;;;0",
    )


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"age": Limits(90)}, 1),
        ({"age": Limits(91)}, 0),
        ({"age": Limits(60, 80)}, 2),
        ({"behind": Limits(None, 5_000_000)}, 2),
        ({"in_force": Limits(5, 6), "age": Limits(60, 80)}, 2),
        ({"in_force": Limits(5, 6)}, 1),
    ],
)
def test_limits_decide(limits: dict[str, Limits], code: int) -> None:
    assert checked(limits=limits)[0] == code


def test_what_is_wrong_is_critical_and_what_deserves_a_look_a_warning() -> None:
    code, text = checked("the disk | is full", "and more")
    assert (code, text.partition(" | ")[0]) == (
        2,
        "TSA-SIDECAR CRITICAL - the disk / is full (and 1 more)",
    )
    assert checked(warnings=["a rule never matches"])[0] == 1
    assert checked(running=False) == (2, "TSA-SIDECAR CRITICAL - the service is not running")
    assert check(None, running=True, troubles=(), now_ns=NOW, limits={})[0] == 3


def test_no_record_yet_has_no_age() -> None:
    code, text = checked(newest_record=None, limits={"age": Limits(1, 1)})
    assert code == 0
    assert "age=" not in text


def test_one_screen_says_the_worst_first() -> None:
    document = {**DOCUMENT, "warnings": ["a look"], "segments_lost": ["x\x1b[2J"]}
    lines = [
        str(text)
        for text in describe(document, running=True, troubles=("bad",), stories=(), now_ns=NOW)
    ]
    assert lines[0].startswith("running since 2026-11-22T14:36:40Z, process 7")
    assert lines[1:3] == ["error: bad", "warning: a look"]
    assert "log       newest record 1m 30s ago, 5,000,000 bytes behind in 2 segments" in lines
    assert "road      kumod http://k:8000: in effect 4, not obeyed 1" in lines
    assert lines[-1] == r"lost      deleted before they were read: x\x1b[2J"
    assert len(lines) < 24


def status(setup: Setup, *args: str) -> tuple[int | None, str]:
    where = ("--listen", f"127.0.0.1:{setup.port}", "--state", str(setup.state_file))
    running = setup.command("status", *where, *args)
    return running.code, running.output


def test_the_running_service_on_one_screen_and_as_a_plugin(setup: Setup) -> None:
    running = setup.run()
    setup.log(failure(1, domain="a.example"), failure(2, "Suspend queue", domain="b.example"))
    until(lambda: len(setup.saved().entries) == 2)
    until(lambda: sum(setup.status().get("entries", {}).values()) == 2)
    code, shown = status(setup)
    assert code == 0, shown
    assert "in force  1 option set, 1 ready queue held (tsa-sidecar list)" in shown
    assert "b.example: 421 10.0.0.1 Suspend queue #2" in shown
    assert "(tsa-sidecar show 2)" in shown
    until(lambda: status(setup, "--check")[0] == 0)
    code, line = status(setup, "--check", "--age", "1h,2h", "--in-force", "1,5")
    assert code == 1
    assert re.fullmatch(
        r"TSA-SIDECAR WARNING - the number of entries in force is 2 \| age=\d+s;3600;7200;0 "
        r"behind=0B;;;0 in_force=2;1;5;0\n",
        line,
    ), line
    assert running.stop() == 0
    code, line = status(setup, "--check")
    assert (code, line) == (2, "TSA-SIDECAR CRITICAL - the service is not running\n")


@pytest.mark.parametrize("value", ["", "x", "1,2,3", "-1", "1h,soon"])
def test_what_is_no_limit_is_explained(setup: Setup, value: str) -> None:
    setup.once()
    code, said = status(setup, "--check", f"--behind={value}")
    assert code == 2
    assert "give numbers, durations (10m) or sizes (5MB)" in " ".join(said.split())
    assert status(setup, "--age", "5")[0] == 2  # without --check
