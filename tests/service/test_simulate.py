"""``run --simulate`` and rules that are only simulated: counted and listed, told to nobody."""

from __future__ import annotations

import json
import re

import pytest

from tests.kumod_standin import READY_Q, KumodStandin

from .support import RULES, Running, Setup, failure, until

EVERYTHING = [
    failure(1, "Throttled", domain="o.example"),
    failure(2, "Suspend queue", domain="q.example"),
    failure(3, "Suspend tenant", domain="t.example"),
    failure(4, "Bounce it", domain="b.example"),
]
"""Records that each kind of entry comes about of."""


def simulated(setup: Setup) -> int:
    return int(setup.status().get("entries", {}).get("simulated", 0))


def test_a_simulation_publishes_nothing_on_any_road(setup: Setup) -> None:
    with KumodStandin() as kumod:
        # As an environment file would have it that is meant for the real service.
        env = {"TSA_SIDECAR_KUMOD_API": kumod.url, "TSA_SIDECAR_RETENTION": "1s"}
        running = setup.run("--simulate", env=env)
        subscription = kumod.subscribe(setup.url)
        segment = setup.log(*EVERYTHING)
        until(lambda: simulated(setup) == 4)
        assert setup.status()["entries"] == {"simulated": 4}
        metrics = setup.get("/metrics").decode()
        assert 'tsa_sidecar_entries{kind="simulated"} 4.0' in metrics
        assert 'road_up{road="overlay"}' not in metrics
        suspended = json.loads(setup.get("/get_suspension_v1/suspended.json"))
        assert suspended == {"ready_q": [], "sched_q": []}
        assert json.loads(setup.get("/get_bounce_v1/bounced.json")) == []
        assert b"example" not in setup.get("/get_config_v1/shaping.toml")
        page = json.loads(setup.get("/tsa/sidecar/page.json"))
        assert [entry["simulated"] for entry in page["in_force"]] == [True] * 4
        assert running.stop() == 0
        subscription.close()
        assert kumod.state.held == {}
        assert kumod.state.seen == []
    assert segment.exists()
    assert not setup.overlay_file.parent.exists()


def test_a_simulation_goes_on_where_it_stopped(setup: Setup) -> None:
    running = setup.run("--simulate", listen=False)
    setup.log(*EVERYTHING)
    until(lambda: simulated(setup) == 4)
    shown = setup.command("status", "--state", str(setup.state_file)).output
    assert "road      none: a run with --simulate publishes nothing" in shown
    assert "4 simulated" in shown
    assert running.stop() == 0
    running = setup.run("--simulate")
    until(lambda: simulated(setup) == 4)
    assert running.stop() == 0
    assert setup.saved().counters["read"] == 4


@pytest.mark.parametrize("first", [(), ("--simulate",)])
def test_a_state_is_of_a_simulation_or_of_a_real_run(setup: Setup, first: tuple[str, ...]) -> None:
    setup.log(*EVERYTHING)
    setup.once(*first)
    second = [] if first else ["--simulate"]
    running: Running = setup.start("--once", *second, listen=False)
    assert running.wait() == 1
    assert "name another with --state" in running.output
    assert "Traceback" not in running.output


def test_a_simulated_rule_beside_a_real_one(setup: Setup) -> None:
    queue = next(rule for rule in RULES.split("\n\n") if "Suspend queue" in rule)
    setup.rules.write_text(f"{queue}\n{queue}\nsidecar.simulate = true\n{RULES.split(queue)[0]}")
    with KumodStandin() as kumod:
        running = setup.run(kumod_api=kumod.url)
        setup.log(*EVERYTHING)
        kumod.state.wait_for(lambda state: len(state.held) == 1)
        assert kumod.state.names(READY_Q) == [{"name": "ip2->mx.q.example@smtp_client"}]
        until(lambda: "o.example" in setup.overlay())
        until(lambda: setup.status()["entries"] == {"override": 1, "ready_q": 1, "simulated": 1})
        assert len(setup.in_force()) == 1
        assert running.stop() == 0
    assert len(setup.saved().entries) == 3


def test_a_rule_that_is_simulated_from_now_on_leaves_what_it_did_and_does_no_more(
    setup: Setup,
) -> None:
    setup.rules.write_text(rule := next(r for r in RULES.split("\n\n") if "Suspend queue" in r))
    running = setup.run()
    setup.log(failure(1, "Suspend queue", domain="before.example"))
    until(lambda: setup.beside("suspended.json")["ready_q"])
    setup.rules.write_text(f"{rule}\nsidecar.simulate = true\n")
    running.says("the rules were replaced")
    setup.log(failure(2, "Suspend queue", domain="after.example"))
    until(lambda: simulated(setup) == 1)
    (held,) = setup.beside("suspended.json")["ready_q"]
    assert "before.example" in held["site_name"]
    assert running.stop() == 0


def test_matches_and_effects_are_counted_by_the_rules_name_or_place(setup: Setup) -> None:
    named, threshold, placed, *_ = RULES.split("\n\n")
    setup.rules.write_text(
        f'{named}\nsidecar.name = "slow"\nsidecar.simulate = true\n\n{threshold}\n\n{placed}\n'
    )
    running = setup.run()
    setup.log(*(failure(n, "Throttled") for n in (1, 2)), failure(3, "Slow down"), EVERYTHING[1])
    line = setup.rules.read_text().split("Suspend queue")[0].count("\n")
    expected = {
        ("matches", "slow"): 2.0,
        ("effects", "slow"): 2.0,
        ("matches", f"{setup.rules}:{line}"): 1.0,
        ("effects", f"{setup.rules}:{line}"): 1.0,
    }

    def counted() -> dict[tuple[str, str], float]:
        text = setup.get("/metrics").decode()
        found = re.findall(r'tsa_sidecar_rule_(\w+)_total\{rule="([^"]*)"\} (\S+)', text)
        return {(what, rule): float(count) for what, rule, count in found}

    until(lambda: counted().get(("matches", f"{setup.rules}:{line}")) == 1)
    now = counted()
    assert {key: now[key] for key in expected} == expected
    # A match below its threshold has no effect.
    below = [count for (what, rule), count in now.items() if (what, rule) not in expected]
    assert sorted(below) == [0.0, 1.0]
    assert running.stop() == 0
