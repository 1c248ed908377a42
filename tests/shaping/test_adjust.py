"""``sidecar.adjust`` in a file: what it may hold, and what ``check`` says of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sidecar.shaping.adjust import read_adjust
from sidecar.shaping.lint import lint
from sidecar.shaping.rules import Adjust
from sidecar.times import NS

from .shared import load, shown

HEAD = '[default]\nmax_message_rate = "100/min"\n'
RULE = (
    '[[default.automation]]\nregex = "busy"\nduration = "1h"\n'
    'action = {SetConfig = {name = "max_message_rate", value = "20/min"}}\n'
)


def said(tmp_path: Path, text: str) -> list[str]:
    """All findings of the load and of the lint."""
    shaping = load(tmp_path, text)
    return shown([*shaping.warnings, *lint(shaping)], tmp_path)


def test_true_is_the_default_law_and_false_is_none(tmp_path: Path) -> None:
    assert read_adjust(True) == Adjust()
    assert read_adjust(False) is None
    assert said(tmp_path, HEAD + RULE + "sidecar.adjust = true\n") == []


def test_every_key_is_read() -> None:
    raw = {
        "down": "50%",
        "up": 0.1,
        "every": "5 minutes",
        "settle": "90s",
        "floor": "30/min",
        "from": "600/min",
    }
    assert read_adjust(raw) == Adjust(0.5, 0.1, 300 * NS, 90 * NS, "30/min", "600/min")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("yes", 'found "yes", wanted true or a table as in {down = "30%"}'),
        ({"dwon": "5%"}, 'key "dwon" means nothing (did you mean "down"?)'),
        ({"x": 1}, 'key "x" means nothing: keys are down, up, every, settle, floor, from'),
        ({"down": "0%"}, 'down: found "0%", wanted more than 0 %'),
        ({"down": "100%"}, 'down: found "100%", wanted 99 % at most: a limit is never 0'),
        ({"down": 30}, 'down: found 30, wanted a share such as "30%"'),
        ({"down": float("nan")}, 'down: found nan, wanted a share such as "30%"'),
        ({"up": "200%"}, 'up: found "200%", wanted 0.1 % to 100 %'),
        ({"every": "1s"}, 'every: "1s" is too short: kumod looks at its files every 10 seconds'),
        ({"settle": "2 days"}, 'settle: "2 days" is too long: a day at most'),
        ({"floor": True}, 'floor: found true, wanted what the option can be, as in "20/min"'),
    ],
)
def test_what_it_can_not_be_is_said_with_the_key(raw: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_adjust(raw)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            HEAD + RULE + 'sidecar.adjust = {down = "x"}\n',
            'sidecar.adjust: down: found "x", wanted a share such as "30%"; the rule sets what its '
            "action says",
        ),
        (
            HEAD + RULE + "sidecar.adjust = {floor = 3}\n",
            "sidecar.adjust: floor for max_message_rate: 3 is no throttle: write a string such as "
            '"100/hr"',
        ),
        (
            HEAD + RULE + 'sidecar.adjust = {from = "10/min"}\n',
            'sidecar.adjust: max_message_rate would go from "10/min" down to "20/min", which is '
            "not less; write a smaller floor (without one it is the action's value)",
        ),
        (
            RULE + "sidecar.adjust = true\n",
            "sidecar.adjust: no file sets max_message_rate where the rule applies, so there is "
            'nothing to come down from: write from = "…" (where it is to begin)',
        ),
        (
            HEAD
            + '[[default.automation]]\nregex = "busy"\nduration = "1h"\naction = "Suspend"\n'
            + "sidecar.adjust = true\n",
            "sidecar.adjust: there is nothing to adjust: the rule sets no option",
        ),
        (
            HEAD
            + RULE.replace("max_message_rate", "enable_tls").replace("20/min", "Required")
            + "sidecar.adjust = true\n",
            "sidecar.adjust: enable_tls is no rate, limit or count to adjust; connection_limit, "
            "consecutive_connection_failures_before_delay, max_connection_rate, "
            "max_deliveries_per_connection, max_message_rate, max_ready, "
            "max_recipients_per_batch, source_selection_rate are",
        ),
    ],
)
def test_what_can_not_work_is_said_with_file_and_line(
    tmp_path: Path, text: str, message: str
) -> None:
    (finding,) = said(tmp_path, text)
    assert finding.endswith(f"[[default.automation]] rule 1: {message}")
    assert ".toml:" in finding


def test_from_or_a_default_of_kumods_is_something_to_come_down_from(tmp_path: Path) -> None:
    assert said(tmp_path, RULE + 'sidecar.adjust = {from = "100/min"}\n') == []
    limit = RULE.replace("max_message_rate", "connection_limit").replace('"20/min"', "2")
    assert said(tmp_path, limit + "sidecar.adjust = true\n") == []


def test_rules_that_adjust_are_worth_reading_logs_for_as_long_as_they_may_last(
    tmp_path: Path,
) -> None:
    plain = load(tmp_path, HEAD + RULE.replace("1h", "1s"))
    adjusting = load(tmp_path, HEAD + RULE.replace("1h", "1s") + "sidecar.adjust = true\n")
    assert plain.horizon_ns == NS
    assert adjusting.horizon_ns == 120 * 120 * NS
