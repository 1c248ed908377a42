"""``sidecar.release`` and ``sidecar.probe`` in a file, and what ``check`` says of them."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from sidecar.shaping.hashes import rule_hash
from sidecar.shaping.lint import lint
from sidecar.shaping.load import MergeOptions
from sidecar.shaping.mx import ZoneResolver
from sidecar.shaping.probe import read_probe
from sidecar.shaping.release import read_release
from sidecar.shaping.rules import Probe, Release
from sidecar.times import NS
from sidecar.tools.check import check

from .shared import load, shown

RULE = '[[default.automation]]\nregex = "busy"\naction = "Suspend"\nduration = "1h"\n'
SETS = RULE.replace('"Suspend"', '{SetConfig = {name = "connection_limit", value = 1}}')


def said(tmp_path: Path, text: str) -> list[str]:
    shaping = load(tmp_path, text)
    return shown([*shaping.warnings, *lint(shaping)], tmp_path)


# Reading


def test_true_is_the_default_and_false_is_none() -> None:
    assert read_release(True) == Release(5)
    assert read_release(False) is None
    assert read_probe(True) == Probe(
        (("connection_limit", 1), ("max_message_rate", "10/min")), 20, 600 * NS
    )
    assert read_probe(False) is None


def test_every_key_is_read() -> None:
    assert read_release({"deliveries": 1}) == Release(1)
    raw = {"max_connection_rate": "5/h", "deliveries": 3, "for": "1 hour"}
    assert read_probe(raw) == Probe((("max_connection_rate", "5/h"),), 3, 3600 * NS)
    assert read_probe({"for": 30}) == Probe(for_ns=30 * NS)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (5, "found 5, wanted true or a table as in {deliveries = 5}"),
        ({"delivery": 5}, 'key "delivery" means nothing (did you mean "deliveries"?)'),
        ({"deliveries": 0}, "found 0, wanted a whole number from 1 to 1,000,000"),
        ({"deliveries": True}, "found true, wanted a whole number"),
        ({"deliveries": "5"}, 'found "5", wanted a whole number'),
    ],
)
def test_nonsense_is_no_release(raw: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read_release(raw)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("slow", 'found "slow", wanted true or a table as in {connection_limit = 1}'),
        (
            {"connection_limits": 1},
            "connection_limits: is no rate, limit or count that kumod knows",
        ),
        ({"connection_limits": 1}, 'did you mean "connection_limit"?'),
        ({"enable_tls": "Required"}, "enable_tls: is no rate, limit or count"),
        ({"connection_limit": "many"}, "connection_limit: "),
        ({"max_message_rate": 10}, "max_message_rate: "),
        ({"deliveries": -1}, "deliveries: found -1"),
        ({"for": "0s"}, 'for: found "0s", wanted a duration of up to a day'),
        ({"for": "2 days"}, 'for: found "2 days", wanted a duration of up to a day'),
    ],
)
def test_nonsense_is_no_probe(raw: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read_probe(raw)


# What the rule does with them


def test_a_rule_with_other_keys_is_another_rule(tmp_path: Path) -> None:
    keys = ("", "sidecar.probe = true\n", "sidecar.probe = {deliveries = 21}\n")
    rules = [load(tmp_path, RULE + key).all_rules()[0] for key in keys]
    others = ("sidecar.release = true\n", "sidecar.release = {deliveries = 6}\n")
    rules += [load(tmp_path, SETS + key).all_rules()[0] for key in others]
    assert len({rule_hash(rule) for rule in rules}) == len(rules)
    assert [rule.sidecar.needs_attempts for rule in rules] == [False, True, True, True, True]


def test_records_matter_as_long_as_the_limits_may_last(tmp_path: Path) -> None:
    assert load(tmp_path, RULE).horizon_ns == 3600 * NS
    assert load(tmp_path, RULE + "sidecar.probe = true\n").horizon_ns == 4200 * NS


# Findings


@pytest.mark.parametrize(
    "text", [SETS + "sidecar.release = true\n", RULE + "sidecar.probe = true\n"]
)
def test_where_they_belong_nothing_is_said(tmp_path: Path, text: str) -> None:
    assert said(tmp_path, text) == []


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        (
            RULE + "sidecar.release = true\n",
            "sidecar.release: the rule sets no option, and of a queue that is held or bounced "
            "there are no deliveries that could end it: take out the key; sidecar.probe is for "
            "the time after it",
        ),
        (
            RULE.replace("Suspend", "SuspendTenant") + "sidecar.probe = true\n",
            "sidecar.probe: kumod has limits for ready queues, not for tenants and campaigns: it "
            "takes the action Suspend",
        ),
        (
            SETS + "sidecar.probe = true\n",
            "sidecar.probe: the rule suspends no ready queue, so nothing ends that could be probed",
        ),
        (
            RULE + "sidecar.probe = {connection_limit = 0}\n",
            "all mail goes out at once when the suspension ends",
        ),
    ],
)
def test_where_they_do_nothing_file_and_line_say_so(
    tmp_path: Path, text: str, finding: str
) -> None:
    found = said(tmp_path, text)
    assert len(found) == 1
    assert finding in found[0]
    assert re.search(r":[0-9]+: ", found[0])


@pytest.mark.parametrize(
    ("files", "limit", "finding"),
    [
        ("[default]\nconnection_limit = 10\n", "connection_limit = 10", "not below 10, the most"),
        ("", "connection_limit = 1000", "not below 32, the most"),  # kumod's own
        (
            '[default]\nmax_message_rate = "600/min"\n',
            'max_message_rate = "10/s"',
            'not below "600/min", the most',
        ),
    ],
)
def test_a_limit_that_is_below_nothing_is_a_doubt(
    tmp_path: Path, files: str, limit: str, finding: str
) -> None:
    (found,) = said(tmp_path, f"{files}{RULE}sidecar.probe = {{{limit}}}\n")
    assert f": [[default.automation]] rule 1: sidecar.probe: {limit}" in found
    assert finding in found


@pytest.mark.parametrize(
    "more",
    [
        '["a.example"]\nmx_rollup = false\nconnection_limit = 99\n',
        '["a.example"]\nmx_rollup = false\n["a.example".sources.ip1]\nconnection_limit = 99\n',
    ],
)
def test_a_limit_that_is_below_something_somewhere_is_none(tmp_path: Path, more: str) -> None:
    text = (
        f"[default]\nconnection_limit = 10\n{more}{RULE}sidecar.probe = {{connection_limit = 20}}\n"
    )
    assert said(tmp_path, text) == []


def test_check_says_what_upstream_does_instead(tmp_path: Path) -> None:
    file = tmp_path / "shaping.toml"
    file.write_text(SETS + "sidecar.release = true\n" + RULE + "sidecar.probe = true\n")
    report = asyncio.run(check([str(file)], options=MergeOptions(), resolver=ZoneResolver([])))
    found = (problem.message for problem in report.differences)
    texts = [text for text in found if "in kumo-tsa-daemon" in text]
    assert texts == [
        "sidecar.release: in kumo-tsa-daemon what is set lasts for 1h, whatever is delivered "
        "meanwhile",
        "sidecar.probe: in kumo-tsa-daemon all mail goes out at once when the suspension ends",
    ]
