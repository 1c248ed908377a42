"""Rules that strike by the share of matches: ``sidecar.ratio``."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from sidecar.automation.attempts import Attempts
from sidecar.automation.decide import LATENESS, Automation, Outcome
from sidecar.automation.matching import Candidate, Matcher
from sidecar.automation.pipeline import Tally, read_everything
from sidecar.automation.shares import Standing, lower_bound
from sidecar.automation.waiting import decide, decide_late
from sidecar.shaping.load import MergeOptions, Shaping, load_shaping
from sidecar.shaping.mx import ZoneResolver
from sidecar.shaping.rules import Ratio
from sidecar.times import NS, format_rfc3339

NOW = 1_795_360_000

RULE = """
[[default.automation]]
regex = "busy"
action = "Suspend"
duration = "10 minutes"
sidecar.ratio = {over = "10%", min = 20, window = "10 minutes"}
"""


class Core:
    """Rules from a text, and an automation that gets records."""

    def __init__(self, tmp_path: Path, text: str, *, max_entries: int | None = None) -> None:
        path = tmp_path / "shaping.toml"
        path.write_text(text)
        self.shaping: Shaping = asyncio.run(
            load_shaping([str(path)], options=MergeOptions(), resolver=ZoneResolver([]))
        )
        self.matcher = Matcher(self.shaping)
        self.automation = Automation(max_entries=max_entries)
        self.automation.follow(self.shaping)

    def happened(self, *records: dict[str, Any]) -> list[Candidate | Attempts]:
        return read_everything(
            [json.dumps(record).encode() for record in records],
            matcher=self.matcher,
            skip_types=frozenset(),
            tally=Tally(),
        )

    def read(self, *records: dict[str, Any], now: int = NOW) -> Outcome:
        return self.automation.apply(self.happened(*records), mx={}, now_ns=now * NS)

    def windows(self) -> dict[str, dict[int, int]]:
        return {
            scope: dict(window.items()) for scope, window in self.automation.thresholds.scopes()
        }


def record(second: int = NOW, *, domain: str = "example.com", **fields: Any) -> dict[str, Any]:
    return {
        "type": "Delivery",
        "recipient": f"user@{domain}",
        "queue": domain,
        "site": "ip1->mx.example.com@smtp_client",
        "egress_source": "ip1",
        "response": {"code": 250, "content": "Ok"},
        "event_time": format_rfc3339(second * NS),
    } | fields


def busy(second: int = NOW, **fields: Any) -> dict[str, Any]:
    refused: dict[str, Any] = {
        "type": "TransientFailure",
        "response": {"code": 421, "content": "busy"},
    }
    return record(second, **(refused | fields))


@pytest.mark.parametrize(
    ("delivered", "refused", "strikes"),
    [
        (18, 2, False),  # 10 %, which is not above it
        (17, 3, True),
        (16, 3, False),  # 19 attempts are too few
        (0, 20, True),
        (200, 22, False),
        (200, 23, True),  # 23 of 223
    ],
)
def test_a_rule_strikes_above_its_share_from_enough_attempts_on(
    tmp_path: Path, delivered: int, refused: int, strikes: bool
) -> None:
    core = Core(tmp_path, RULE)
    outcome = core.read(*[record()] * delivered, *[busy()] * refused)
    assert bool(outcome.entries) == strikes
    assert outcome.counts["attempts"] == delivered + refused
    assert outcome.counts["delivered"] == delivered


def test_it_strikes_at_a_match_and_never_at_a_delivery(tmp_path: Path) -> None:
    core = Core(tmp_path, RULE)
    assert not core.read(*[busy()] * 19)
    assert not core.read(record())  # 19 of 20, and nobody is refused now
    assert core.read(busy())


def test_other_failures_are_attempts_and_no_matches(tmp_path: Path) -> None:
    core = Core(tmp_path, RULE)
    full = busy(response={"code": 452, "content": "mailbox full"})
    assert not core.read(*[full] * 18, *[busy()] * 2)
    assert core.read(busy())


def test_each_ready_queue_has_a_share_of_its_own(tmp_path: Path) -> None:
    core = Core(tmp_path, RULE)
    elsewhere: dict[str, Any] = {"site": "ip2->mx.example.com@smtp_client", "egress_source": "ip2"}
    outcome = core.read(*[record(**elsewhere)] * 500, *[busy()] * 20)
    assert [entry.site for entry in outcome.entries.values()] == ["ip1->mx.example.com@smtp_client"]


def test_a_rule_on_tenants_counts_each_for_itself(tmp_path: Path) -> None:
    core = Core(tmp_path, RULE.replace('"Suspend"', '"SuspendTenant"'))
    good: dict[str, Any] = {"queue": "c1:good@example.com"}
    bad: dict[str, Any] = {"queue": "c2:bad@example.com"}
    outcome = core.read(*[record(**good)] * 500, *[busy(**good)] * 5, *[busy(**bad)] * 20)
    assert [entry.tenant for entry in outcome.entries.values()] == ["bad"]  # type: ignore[union-attr]


def test_a_rule_of_a_domain_counts_that_domain(tmp_path: Path) -> None:
    text = '["one.example"]\nmx_rollup = false\n' + RULE.replace("default.", '"one.example".')
    core = Core(tmp_path, text)
    assert core.read(*[record(domain="two.example")] * 500, *[busy(domain="one.example")] * 20)
    assert not core.read(*[busy(domain="two.example")] * 20)
    # Nothing is counted that no rule needs.
    assert all("two.example" not in scope for scope in core.windows())


def test_what_leaves_the_window_does_not_count(tmp_path: Path) -> None:
    core = Core(tmp_path, RULE)
    later = NOW + 700
    core.read(*[busy()] * 20, *[record(later)] * 20, now=later)
    assert not core.read(busy(later), now=later)  # 1 of 21; with the old ones 21 of 41
    assert not core.read(*[busy(later - 650)] * 50, now=later)  # too late to count
    assert core.read(busy(later), busy(later), now=later)


def test_the_order_of_attempts_does_not_matter(tmp_path: Path) -> None:
    chance = random.Random(3)
    records = [record(NOW - chance.randrange(1500)) for _ in range(300)]
    records += [record(NOW + LATENESS + 60), record(NOW - 9 * 3600)]
    one, other = Core(tmp_path, RULE), Core(tmp_path, RULE)
    one.read(*records)
    chance.shuffle(records)
    for each in records:
        other.read(each)
    assert one.windows() == other.windows()
    (window,) = one.windows().values()
    assert len(window) <= 61
    assert max(window) <= NOW


def test_what_is_dated_far_ahead_is_no_part_of_a_share(tmp_path: Path) -> None:
    core = Core(tmp_path, RULE)
    ahead = NOW + LATENESS + 5
    assert not core.read(*[busy(ahead)] * 30)
    assert core.windows() == {}


def test_a_match_counts_only_where_it_is_an_attempt(tmp_path: Path) -> None:
    core = Core(tmp_path, RULE)
    assert not core.read(*[record()] * 20, *[busy(type="Expiration")] * 20, *[busy(site="")] * 20)
    (window,) = core.windows().values()
    assert sum(window.values()) == 20


def test_complaints_are_set_against_deliveries_to_the_domain(tmp_path: Path) -> None:
    text = RULE.replace('"Suspend"', '{SetDomainConfig={name="connection_limit", value=1}}')
    text = text.replace("sidecar.ratio = {", 'sidecar.ratio = {of = "Feedback", ')
    core = Core(tmp_path, text)
    complaint = busy(type="Feedback", site="", egress_source=None)
    other = record(domain="example.net")
    assert not core.read(*[record()] * 19, *[other] * 99, *[busy()] * 50, *[complaint] * 9)
    assert core.read(record(), complaint)


def test_confidence_asks_for_more_of_few(tmp_path: Path) -> None:
    sure = RULE.replace("}", ', confidence = "95%"}')
    # 5 of 25 are 20 %, which may be 8.9 %; 50 of 250 are at least 15.5 %.
    assert Core(tmp_path, RULE).read(*[record()] * 20, *[busy()] * 5)
    assert not Core(tmp_path, sure).read(*[record()] * 20, *[busy()] * 5)
    assert Core(tmp_path, sure).read(*[record()] * 200, *[busy()] * 50)


@pytest.mark.parametrize(
    ("matches", "attempts", "expected"),
    # Computed by hand from Wilson's formula, z = 1.959964.
    [(5, 25, 0.0886), (50, 250, 0.1551), (0, 10, 0.0), (10, 10, 0.7225), (1, 100, 0.0018)],
)
def test_the_lower_end_of_wilsons_interval(matches: int, attempts: int, expected: float) -> None:
    assert lower_bound(Standing(matches, attempts), 0.95) == pytest.approx(expected, abs=0.0001)


def test_without_attempts_there_is_no_share() -> None:
    assert not Standing(0, 0).is_over(Ratio(over=0.0, least=1))


def test_rules_with_the_same_window_share_the_attempts_and_not_the_matches(tmp_path: Path) -> None:
    core = Core(tmp_path, RULE + RULE.replace("busy", "full").replace("10%", "20%"))
    core.read(record(), busy())
    scopes = sorted(core.windows())
    assert len([scope for scope in scopes if " attempts " in scope]) == 1
    assert len(scopes) == 2


def test_a_rule_that_stands_twice_counts_a_match_once_in_each_place(tmp_path: Path) -> None:
    again = '["example.com"]\nmx_rollup = false\n' + RULE.replace("default.", '"example.com".')
    core = Core(tmp_path, RULE + again)
    assert not core.read(*[record()] * 18, *[busy()] * 2)


def test_without_room_nothing_strikes_and_it_is_said(tmp_path: Path) -> None:
    core = Core(tmp_path, RULE, max_entries=1)
    outcome = core.read(record(), *[busy()] * 30)
    assert not outcome.entries
    assert outcome.counts["no_room_to_count"] == 30
    assert outcome.not_counted[0] == "ip1->mx.example.com@smtp_client"
    assert len(core.windows()) == 1


def test_windows_of_attempts_are_forgotten_though_nothing_ever_matches(tmp_path: Path) -> None:
    core = Core(tmp_path, RULE)
    core.read(record())
    later = NOW + 600 + LATENESS + 1
    core.read(record(later, site="ip1->mx.example.net@smtp_client"), now=later)
    assert len(core.automation.forget_idle_thresholds()) == 1
    assert len(core.windows()) == 1


def test_cancelled_it_begins_to_count_matches_anew(tmp_path: Path) -> None:
    core = Core(tmp_path, RULE)
    core.read(*[record()] * 20, *[busy()] * 5)
    (key,) = [entry.key for entry in core.automation.entries]
    core.automation.cancel([key], now_ns=NOW * NS, how="cancelled")
    assert not core.read(*[busy()] * 2)  # 2 of 27
    assert core.read(busy())  # 3 of 28


def test_a_record_that_waits_for_its_mx_is_an_attempt_at_once(tmp_path: Path) -> None:
    text = '[provider."p"]\nmatch = [{MXSuffix=".example.com"}]\n'
    core = Core(tmp_path, text + RULE.replace("default.", 'provider."p".'))
    happened = core.happened(*[record()] * 17, *[busy()] * 3)
    outcome, waiting = decide(
        core.automation, happened, mx={}, asked={"example.com"}, room=9, now_ns=NOW * NS
    )
    assert outcome.counts["attempts"] == 20
    (attempts,) = core.windows().values()
    assert attempts == {NOW: 20}
    mx = ZoneResolver(["$ORIGIN .\nexample.com. 60 IN MX 1 mx.example.com.\n"])
    answer = asyncio.run(mx.resolve("example.com"))
    late = Outcome()
    for one in waiting:
        late.add(
            decide_late(core.automation, one, matcher=core.matcher, mx=answer, now_ns=NOW * NS)
        )
    assert len(late.entries) == 1
    assert late.counts["attempts"] == 0


def test_where_no_rule_needs_them_attempts_are_not_counted(tmp_path: Path) -> None:
    core = Core(tmp_path, RULE.replace("sidecar.ratio", "sidecar.note = 'x' #"))
    outcome = core.read(record(), busy())
    assert outcome.counts["attempts"] == 0
    assert core.windows() == {}
    assert core.happened(record()) == []
