"""``sidecar.when``: a rule strikes only where the record is as it asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from sidecar.automation.conditions import fits, misfits
from sidecar.automation.decide import Automation
from sidecar.automation.matching import Matcher
from sidecar.automation.pipeline import Tally, candidates
from sidecar.cli import main
from sidecar.log.record import Record, decode
from sidecar.shaping.rules import When
from sidecar.shaping.when import NEVER
from sidecar.times import NS
from tests.automation.test_adjusting import load

NOW = 1_795_360_000

LINE: dict[str, Any] = {
    "type": "TransientFailure",
    "recipient": "user@example.com",
    "queue": "camp:ten@example.com",
    "site": "ip1->mx.example.net@smtp_client",
    "egress_source": "ip1",
    "response": {"code": 421, "content": "busy"},
    "bounce_classification": "SpamBlock",
    "timestamp": NOW,
}


def record(**changes: object) -> Record:
    return decode(json.dumps({**LINE, **changes}).encode())


MET = (
    When(),
    When(type=("Bounce", "TransientFailure")),
    When(code=("4",)),
    When(code=("42",)),
    When(code=("421", "5")),
    When(classification=("SpamBlock",)),
    When(source=("ip1",)),
    When(tenant=("ten",), campaign=("camp",)),
)
UNMET = (
    NEVER,
    When(type=("Bounce",)),
    When(code=("5",)),
    When(code=("42",), source=("ip2",)),
    When(classification=("Uncategorized",)),
    When(tenant=("other",)),
    When(tenant=("ten",), campaign=("other",)),
)


@pytest.mark.parametrize("when", MET)
def test_a_record_that_is_as_asked_fits(when: When) -> None:
    assert fits(when, record())


@pytest.mark.parametrize("when", UNMET)
def test_one_that_is_not_does_not_and_it_is_said_why(when: When) -> None:
    assert not fits(when, record())
    assert all(reason.startswith("sidecar.when.") for reason in misfits(when, record()))


def test_what_the_record_has_not_fits_no_name() -> None:
    bare = record(queue="example.com", bounce_classification=None, egress_source=None)
    (said,) = misfits(When(tenant=("ten",)), bare)
    assert said == 'sidecar.when.tenant: the record has none, the rule asks for "ten"'
    assert not fits(When(classification=("SpamBlock",)), bare)
    assert fits(When(source=("unspecified",)), bare)


def test_a_classification_of_another_form_is_none_and_the_line_is_good() -> None:
    assert record(bounce_classification={"UserDefined": "x"}).classification == ""
    assert record(bounce_classification=["x"]).classification == ""


conditions = st.builds(
    When,
    type=st.sampled_from([(), ("TransientFailure",), ("Bounce",)]),
    code=st.sampled_from([(), ("4",), ("45",)]),
    source=st.sampled_from([(), ("ip1",), ("ip2",)]),
    tenant=st.sampled_from([(), ("ten",), ("two",)]),
)


@given(conditions, st.sampled_from(["ip1", "ip2"]), st.sampled_from([421, 451, 550]))
def test_no_condition_less_means_fewer_records(when: When, source: str, code: int) -> None:
    """A rule with a condition taken out fits at least what it fitted before."""
    one = record(egress_source=source, response={"code": code, "content": "busy"})
    wider = When(type=when.type, code=when.code, source=when.source)
    assert fits(when, one) <= fits(wider, one)


RULES = """
[[default.automation]]
regex = "busy"
action = "Suspend"
duration = "1 hour"
sidecar.when = {source = "ip1"}
[[default.automation]]
regex = "busy"
action = "SuspendTenant"
duration = "1 hour"
trigger = {Threshold = "2/hr"}
sidecar.when = {source = ["ip1", "ip2"], code = "4xx"}
"""


def test_only_what_fits_strikes_and_counts_towards_a_threshold() -> None:
    matcher, automation = Matcher(load(RULES)), Automation()

    def hear(**changes: object) -> tuple[list[str], int]:
        line = json.dumps({**LINE, **changes}).encode()
        found = candidates([line], matcher=matcher, skip_types=frozenset(), tally=Tally())
        outcome = automation.apply(found, mx={}, now_ns=NOW * NS)
        return [entry.kind for entry in outcome.entries.values()], outcome.counts["matched"]

    assert hear(egress_source="ip3") == ([], 0)
    assert hear(egress_source="ip2") == ([], 1)
    assert hear(egress_source="ip2", response={"code": 550, "content": "busy"}) == ([], 0)
    assert hear(egress_source="ip2") == (["sched_q"], 1)
    assert hear() == (["ready_q", "sched_q"], 1)


def test_explain_says_why_a_rule_does_not_strike(tmp_path: Path) -> None:
    rules, log = tmp_path / "shaping.toml", tmp_path / "record.json"
    rules.write_text(RULES)
    log.write_text(json.dumps({**LINE, "egress_source": "ip3"}))
    result = CliRunner().invoke(main, ["explain", "--shaping", str(rules), "--record", str(log)])
    assert 'the record has "ip3", the rule asks for "ip1"' in " ".join(result.output.split())
