"""How it stands with all entries: states counted, shares kept until the next step."""

from __future__ import annotations

from prometheus_client import generate_latest

from sidecar.automation.entries import Override
from sidecar.publish.metrics import OTHER, Metrics
from sidecar.service.standing import LeastShares, in_states
from tests.automation.trial import Trial, at, load

RULES = """
[default]
max_message_rate = "1000/min"
[[default.automation]]
regex = "busy"
action = {SetConfig = {name = "max_message_rate", value = "1/min"}}
duration = "1 hour"
sidecar.name = "rate"
sidecar.adjust = true
[[default.automation]]
regex = "blocked"
action = ["Suspend", "BounceTenant"]
duration = "1 minute"
sidecar.probe = true
[[default.automation]]
regex = "simulated"
action = "SuspendTenant"
duration = "1 hour"
sidecar.simulate = true
"""


def struck() -> Trial:
    trial = Trial(load(RULES))
    for word in ("busy", "blocked", "simulated"):
        trial.match(0, word)
    return trial


def test_each_is_counted_in_its_state_but_the_simulated() -> None:
    entries = struck().automation.entries
    nothing = {"in force": 0, "adjusting": 1, "probing": 0, "bounced": 1}
    # The limits that wait for the end of the suspension cost nothing yet.
    assert in_states(entries, at(0)) == {**nothing, "suspended": 1}
    # The suspension is over, though nobody has ended it yet.
    assert in_states(entries, at(61)) == {**nothing, "suspended": 1, "probing": 2}


def test_the_least_share_of_a_rule_follows_the_steps() -> None:
    trial, shares = struck(), LeastShares()
    automation = trial.automation

    def now(second: int) -> dict[str, float]:
        return shares.at(automation.entries, automation.episodes, at(second))

    assert now(0) == {"rate": 0.7}
    assert now(119) == {"rate": 0.7}
    assert now(121) == {"rate": 0.8}
    trial.match(122, "busy")
    assert round(now(122)["rate"], 3) == 0.56
    trial.cancel(123, trial.key("max_message_rate"))
    assert now(123) == {}


def test_a_fixed_value_has_no_share() -> None:
    trial = Trial(load(RULES.replace("sidecar.adjust = true", "")))
    trial.match(0, "busy")
    (entry,) = trial.automation.entries
    assert isinstance(entry, Override)
    assert LeastShares().at(trial.automation.entries, trial.automation.episodes, at(0)) == {}


def test_the_metrics_name_some_rules_and_the_least_of_the_others() -> None:
    metrics = Metrics.create()
    metrics.show_shares({f"rule-{n:03}": n / 1000 for n in range(300)})
    text = generate_latest(metrics.registry).decode()
    shown = [line for line in text.splitlines() if line.startswith("tsa_sidecar_adjusting_share{")]
    assert len(shown) == 201
    assert f'tsa_sidecar_adjusting_share{{rule="{OTHER}"}} 0.2' in shown
    metrics.show_shares({})
    assert "tsa_sidecar_adjusting_share{" not in generate_latest(metrics.registry).decode()
