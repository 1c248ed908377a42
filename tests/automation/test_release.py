"""Deliveries that end an option, and the limits that follow a suspension."""

from __future__ import annotations

import asyncio
import json

import pytest

from sidecar.automation.entries import Override, from_payload, to_payload
from sidecar.automation.episodes import Episode, episode_from_payload
from sidecar.automation.holds import RuleHold
from sidecar.automation.life import State
from sidecar.automation.selection import Selection
from sidecar.shaping.mx import OfflineResolver

from .trial import Trial, at, deliveries, load

SETTING = """
[default]
max_message_rate = "100/min"
[[default.automation]]
regex = "fixed"
action = {SetConfig = {name = "max_message_rate", value = "5/min"}}
duration = "10 minutes"
sidecar.release = {deliveries = 3}
[["example.com".automation]]
regex = "here"
action = {SetDomainConfig = {name = "max_connection_rate", value = "1/min"}}
duration = "10 minutes"
sidecar.release = true
[[default.automation]]
regex = "slowly"
action = {SetConfig = {name = "max_message_rate", value = "1/min"}}
duration = "10 minutes"
sidecar.adjust = {down = "50%"}
sidecar.release = {deliveries = 2}
"""

SUSPENDING = """
[default]
max_message_rate = "100/min"
connection_limit = 5
[[default.automation]]
regex = "held"
action = "Suspend"
duration = "2 minutes"
[default.automation.sidecar]
probe = {connection_limit = 1, max_message_rate = "10/min", deliveries = 3, for = "3 minutes"}
escalate = true
"""

LIMITS = {"connection_limit": 1, "max_message_rate": "10/min"}


@pytest.fixture
def setting() -> Trial:
    return Trial(load('["example.com"]\nmx_rollup = false\n' + SETTING))


@pytest.fixture
def suspending() -> Trial:
    return Trial(load(SUSPENDING))


# Release


def test_the_nth_delivery_ends_it_and_none_before(setting: Trial) -> None:
    setting.match(0, "fixed")
    setting.deliver(1, 2)
    assert setting.delivered() == {"max_message_rate": 2}
    assert setting.options() == {"max_message_rate": "5/min"}
    setting.deliver(2)
    assert setting.options() == {}
    assert setting.ended == [("max_message_rate", "released")]


def test_a_match_has_the_count_begin_anew(setting: Trial) -> None:
    setting.match(0, "fixed")
    setting.deliver(1, 2)
    setting.match(2, "fixed")
    assert setting.delivered() == {"max_message_rate": 0}
    setting.deliver(3, 2)
    assert setting.ended == []


def test_a_match_that_is_decided_late_takes_away_no_delivery_that_came_after_it(
    setting: Trial,
) -> None:
    setting.match(10, "fixed")
    setting.deliver(20, 2)
    setting.hear(5, *setting.refusal(5, "fixed"), now=21)
    assert setting.delivered() == {"max_message_rate": 2}
    setting.hear(15, *setting.refusal(15, "fixed"), now=22)
    assert setting.delivered() == {"max_message_rate": 0}  # which came before 15 is not known


def test_a_clock_that_is_set_back_does_not_keep_deliveries_from_counting(setting: Trial) -> None:
    setting.match(86_400, "fixed")
    setting.match(10, "fixed")
    setting.deliver(20, 3)
    assert setting.ended == [("max_message_rate", "released")]


def test_a_match_below_the_trigger_leaves_the_count_as_it_is() -> None:
    key = "sidecar.release = {deliveries = 3}\n"
    setting = Trial(load(SETTING.replace(key, f'trigger = {{Threshold = "2/min"}}\n{key}', 1)))
    setting.match(0, "fixed")
    setting.match(1, "fixed")
    setting.deliver(2, 2)
    setting.match(120, "fixed")
    assert setting.delivered() == {"max_message_rate": 2}
    setting.deliver(121)
    assert setting.ended == [("max_message_rate", "released")]


def test_a_delivery_of_the_second_of_the_match_proves_nothing(setting: Trial) -> None:
    setting.match(5, "fixed")
    setting.deliver(5, 9)
    setting.hear(4, deliveries(4, 9), now=6)
    assert setting.delivered() == {"max_message_rate": 0}


def test_failures_are_no_deliveries(setting: Trial) -> None:
    setting.match(0, "fixed")
    failures = {(*key[:4], False, key[5]): count for key, count in deliveries(1, 9).items()}
    setting.hear(1, failures)
    assert setting.delivered() == {"max_message_rate": 0}


def test_for_a_whole_site_any_domain_counts_elsewhere_only_the_entrys(setting: Trial) -> None:
    setting.match(0, "fixed")
    setting.match(0, "here")
    setting.deliver(1, 2, domain="other.example")
    assert setting.delivered() == {"max_message_rate": 2, "max_connection_rate": 0}
    setting.deliver(2, 4)
    assert setting.ended == [("max_message_rate", "released")]
    # From another ready queue of the same source to the domain.
    setting.hear(3, deliveries(3, 1, site="ip1->mx.elsewhere.net@smtp_client"))
    assert setting.ended[1:] == [("max_connection_rate", "released")]
    setting.match(4, "here")
    setting.hear(5, deliveries(5, 9, site="ip2->mx.example.net@smtp_client"))
    assert setting.delivered() == {"max_connection_rate": 0}


def test_a_limit_that_adjusts_itself_ends_too(setting: Trial) -> None:
    setting.match(0, "slowly")
    assert setting.options() == {"max_message_rate": "50/m"}
    setting.deliver(61)
    setting.match(62, "slowly")
    setting.deliver(63, 2)
    assert setting.ended == [("max_message_rate", "released")]
    assert setting.options() == {}


def test_what_is_released_within_a_batch_may_begin_anew_in_it(setting: Trial) -> None:
    first, again = setting.refusal(0, "fixed"), setting.refusal(2, "fixed")
    outcome = setting.hear(2, *first, deliveries(1, 3), *again)
    assert [ended.how for ended in outcome.ended] == ["released"]
    assert [story.id for _, story in outcome.began] == [1, 2]
    assert setting.states(2) == {"max_message_rate": State.IN_FORCE}


def test_a_count_alone_is_committed_and_not_published(setting: Trial) -> None:
    setting.match(0, "fixed")
    outcome = setting.deliver(1)
    assert not outcome
    setting.crash(1)
    assert setting.delivered() == {"max_message_rate": 1}


def test_without_such_a_rule_any_more_what_was_set_lasts_until_its_time(setting: Trial) -> None:
    setting.match(0, "fixed")
    setting.reload(1, load('[default]\nmax_message_rate = "100/min"\n'))
    setting.deliver(2, 5)
    assert setting.states(2) == {"max_message_rate": State.IN_FORCE}
    setting.wait(600)
    assert setting.ended == [("max_message_rate", "expired")]


def test_without_the_key_nothing_is_counted() -> None:
    trial = Trial(load(SETTING.replace("sidecar.release", "#")))
    trial.match(0, "fixed")
    outcome = trial.deliver(1, 99)
    assert outcome.counted == {}
    assert trial.delivered() == {"max_message_rate": 0}


# Probe


def test_limits_come_with_the_suspension_and_outlast_it(suspending: Trial) -> None:
    suspending.match(0, "held")
    held = dict.fromkeys(["suspension", "connection_limit then", "max_message_rate then"])
    assert suspending.states(0) == dict.fromkeys(held, State.SUSPENDED)
    assert suspending.options() == LIMITS
    suspending.wait(120)
    assert suspending.states(120) == {
        "connection_limit then": State.PROBING,
        "max_message_rate then": State.PROBING,
    }
    assert suspending.options() == LIMITS
    suspending.wait(300)
    assert suspending.states(300) == {}
    assert suspending.options() == {}


def test_deliveries_from_the_end_of_the_suspension_on_end_the_limits(suspending: Trial) -> None:
    suspending.match(0, "held")
    suspending.deliver(119, 9)  # mail that was on its way
    suspending.deliver(120, 2)
    assert set(suspending.delivered().values()) == {2}
    suspending.deliver(121)
    assert suspending.options() == {}
    assert suspending.ended[1:] == [
        ("connection_limit then", "released"),
        ("max_message_rate then", "released"),
    ]


def test_a_match_while_probing_suspends_again_and_longer(suspending: Trial) -> None:
    suspending.match(0, "held")
    suspending.deliver(130, 2)
    suspending.match(140, "held", domain="other.example")
    assert set(suspending.states(140).values()) == {State.SUSPENDED}
    assert set(suspending.delivered().values()) == {0}
    (suspension,) = (e for e in suspending.automation.entries if e.kind == "ready_q")
    assert suspension.expires_ns == at(140 + 240)
    limits = [e for e in suspending.automation.entries if isinstance(e, Override)]
    assert {limit.probe and limit.probe.from_ns for limit in limits} == {at(380)}
    assert {limit.expires_ns for limit in limits} == {at(560)}
    assert suspending.options() == LIMITS  # in the section of the domain that was first


def test_cancelling_the_suspension_ends_its_limits(suspending: Trial) -> None:
    suspending.match(0, "held")
    outcome = suspending.cancel(1, suspending.key("suspension"))
    assert len(outcome.ended) == 3
    assert {ended.how for ended in outcome.ended} == {"cancelled"}
    assert suspending.options() == {}


def test_a_hold_of_the_suspension_keeps_its_limits_away(suspending: Trial) -> None:
    suspending.match(0, "held")
    key = suspending.key("suspension")
    suspending.cancel(1, key)
    suspending.automation.hold(RuleHold(9, Selection(keys=(key,)), at(1), at(60), "it"))
    suspending.match(2, "held")
    assert suspending.states(2) == {}
    suspending.match(61, "held")
    assert suspending.options() == LIMITS


def test_where_only_the_tenant_is_not_held_a_late_line_brings_no_limits() -> None:
    both = SUSPENDING.replace('"Suspend"', '["Suspend", "SuspendTenant"]').replace("escalate", "#")
    trial = Trial(load(both))
    trial.match(0, "held")
    key = trial.key("suspension")
    trial.cancel(50, key)
    trial.automation.hold(RuleHold(9, Selection(keys=(key,)), at(50), at(50), "it"))
    trial.hear(40, *trial.refusal(40, "held"), now=200)
    assert trial.states(200) == {}


def test_a_hold_of_one_limit_leaves_the_others(suspending: Trial) -> None:
    suspending.match(0, "held")
    key = suspending.key("connection_limit then")
    suspending.cancel(1, key)
    suspending.automation.hold(RuleHold(9, Selection(keys=(key,)), at(1), at(60), "it"))
    suspending.match(2, "held")
    assert suspending.options() == {"max_message_rate": "10/min"}


def test_what_is_simulated_has_simulated_limits() -> None:
    trial = Trial(load(SUSPENDING + "simulate = true\n"))
    trial.match(0, "held")
    assert [entry.simulated for entry in trial.automation.entries] == [True] * 3
    assert trial.options() == {}


def test_a_limit_that_is_not_below_what_the_files_set_is_left_out() -> None:
    lower = SUSPENDING.replace('max_message_rate = "100/min"', 'max_message_rate = "10/min"')
    trial = Trial(load(lower))
    trial.match(0, "held")
    assert trial.options() == {"connection_limit": 1}


def test_without_the_mx_a_provider_that_may_fit_counts() -> None:
    provider = """
[provider.big]
match = [{MXSuffix = ".big.example"}]
max_message_rate = "2/min"
"""
    trial = Trial(load(SUSPENDING + provider))
    trial.match(0, "held")
    assert trial.options() == {"connection_limit": 1}


def test_a_limit_goes_when_the_files_come_down_to_it(suspending: Trial) -> None:
    suspending.match(0, "held")
    suspending.reload(1, load(SUSPENDING.replace("connection_limit = 5", "connection_limit = 1")))
    assert suspending.options() == {"max_message_rate": "10/min"}


MAY_FIT = '\n[provider.big]\nmatch = [{MXSuffix = ".big.example"}]\nconnection_limit = 1\n'


def test_a_provider_that_does_not_fit_ends_no_limit(suspending: Trial) -> None:
    suspending.match(0, "held")
    elsewhere = asyncio.run(OfflineResolver().resolve("mx.example.net"))
    suspending.reload(1, load(SUSPENDING + MAY_FIT), mx=elsewhere)
    assert suspending.options() == LIMITS


def test_without_the_mx_a_limit_goes_that_may_be_above_what_the_files_set(
    suspending: Trial,
) -> None:
    suspending.match(0, "held")
    lower = SUSPENDING.replace('max_message_rate = "100/min"', 'max_message_rate = "5/min"')
    suspending.reload(1, load(lower + MAY_FIT))
    assert suspending.options() == {}


def test_the_strictest_holds_beside_a_limit_that_adjusts_itself() -> None:
    trial = Trial(load(SUSPENDING + SETTING.replace('[default]\nmax_message_rate = "100/min"', "")))
    trial.match(0, "held")
    trial.match(1, "fixed")  # a lower fixed one, matched later
    assert trial.options() == {"connection_limit": 1, "max_message_rate": "5/min"}
    trial.match(2, "held")
    assert trial.options() == {"connection_limit": 1, "max_message_rate": "5/min"}


def test_read_after_the_suspension_has_ended_the_limits_come_alone(suspending: Trial) -> None:
    outcome = suspending.hear(0, *suspending.refusal(0, "held"), now=150)
    assert set(suspending.states(150).values()) == {State.PROBING}
    assert outcome.counts["already_expired"] == 0
    outcome = suspending.hear(1, *suspending.refusal(1, "held"), now=10_000)
    assert outcome.counts["already_expired"] == 1


def test_a_late_line_does_not_cut_short_the_limits_of_the_suspension_in_force(
    suspending: Trial,
) -> None:
    trial = Trial(load(SUSPENDING.replace("escalate", "#")))
    trial.match(100, "held")
    trial.hear(0, *trial.refusal(0, "held"), now=150)
    limits = [e for e in trial.automation.entries if isinstance(e, Override)]
    assert {limit.expires_ns for limit in limits} == {at(100 + 120 + 180)}


def test_without_room_there_are_no_limits(suspending: Trial) -> None:
    suspending.automation.max_entries = 1
    outcome = suspending.match(0, "held")
    assert suspending.states(0) == {"suspension": State.SUSPENDED}
    assert outcome.counts["no_room"] == 2


# Rows


def test_older_rows_are_read_and_newer_ones_come_back(suspending: Trial) -> None:
    suspending.match(0, "held")
    for entry in suspending.automation.entries:
        assert from_payload(entry.kind, to_payload(entry)) == entry
    story = Episode(3, 4, 5)
    older = story.to_payload().replace(',"struck_ns":0,"delivered":0', "")
    assert "delivered" not in older
    assert episode_from_payload(older) == story


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("release", 0),
        ("release", True),
        ("probe", {"of": "x"}),
        ("probe", 7),
        ("name", "tls_prefer_openssl"),  # nothing that could be below what the files set
        ("value", "many"),
    ],
)
def test_a_row_that_holds_nonsense_is_refused(suspending: Trial, field: str, value: object) -> None:
    suspending.match(0, "held")
    limit = next(e for e in suspending.automation.entries if isinstance(e, Override))
    says = {"name": "is no rate", "value": "many"}.get(field, field)
    with pytest.raises(ValueError, match=says):
        from_payload("override", json.dumps({**json.loads(to_payload(limit)), field: value}))
