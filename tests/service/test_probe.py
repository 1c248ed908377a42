"""A careful way back, in a running service: limits after a suspension, deliveries that end them."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from sidecar.store import read_saved
from tests.kumod_writer import record
from tests.notify.support import receiving

from .support import Running, Setup, failure, until
from .test_crash import Traffic, comparable, kill_rounds

DOMAIN = "one.example"
RULES = """
[default]
connection_limit = 5
[["default".automation]]
regex = "Throttled"
action = "Suspend"
duration = "3 seconds"
[default.automation.sidecar]
name = "careful"
probe = {connection_limit = 1, max_message_rate = "10/min", deliveries = 2, for = "1 hour"}

[["default".automation]]
regex = "Slow down"
action = {SetConfig = {name = "max_connection_rate", value = "1/min"}}
duration = "1 hour"
sidecar.release = {deliveries = 2}
"""
LIMITS = {"connection_limit": 1, "max_message_rate": "10/min"}


@pytest.fixture
def setup(make_setup: Callable[..., Setup]) -> Setup:
    return make_setup(rules=RULES)


def delivery(number: int, at: int) -> Any:
    """Of the ready queue that :func:`failure` is about."""
    return record(
        number,
        at=at,
        type="Delivery",
        recipient=f"user{number}@{DOMAIN}",
        queue=DOMAIN,
        site=f"ip2->mx.{DOMAIN}@smtp_client",
        response={"code": 250, "enhanced_code": None, "content": "ok", "command": None},
    )


def options(setup: Setup) -> Any:
    """What the overlay sets."""
    return setup.overlay().get(DOMAIN, {}).get("sources", {}).get("ip2", {})


def said(setup: Setup, *command: str) -> str:
    """What a command prints, on one line."""
    text = setup.command(*command, "--state", str(setup.state_file)).output
    return " ".join(text.split())


def listed(setup: Setup) -> list[Any]:
    found = json.loads(said(setup, "list", "--json"))["entries"]
    assert isinstance(found, list)
    return found


def states(setup: Setup) -> set[str]:
    return {entry["state"] for entry in listed(setup)}


def deliver(setup: Setup, number: int, so_far: int) -> None:
    """One more delivery, and that it was counted."""
    setup.log(delivery(number, int(time.time()) + 1))
    until(lambda: {e["release"] and e["release"]["so_far"] for e in listed(setup)} == {so_far})


def again(setup: Setup, running: Running) -> Running:
    running.kill()
    return setup.run()


def test_limits_outlast_the_suspension_until_mail_gets_through_killed_or_not(setup: Setup) -> None:
    running = setup.run()
    setup.log(failure(1, domain=DOMAIN))
    until(lambda: options(setup) == LIMITS)
    running = again(setup, running)
    until(lambda: states(setup) == {"probing"})
    assert options(setup) == LIMITS
    assert "probing, 0 of 2 deliveries" in said(setup, "list")
    page = json.loads(setup.get("/tsa/sidecar/page.json"))
    assert {entry["state"] for entry in page["in_force"]} <= {"suspended", "probing"}
    deliver(setup, 2, 1)
    running = again(setup, running)
    assert "probing, 1 of 2 deliveries" in said(setup, "list")
    setup.log(delivery(3, int(time.time()) + 1))
    until(lambda: options(setup) == {})
    assert said(setup, "history").count("released after 2 deliveries") == 2
    assert running.stop() == 0


def test_while_the_queue_is_held_the_suspension_tells_of_its_limits(setup: Setup) -> None:
    setup.rules.write_text(RULES.replace("3 seconds", "1 hour"))
    setup.log(failure(1, domain=DOMAIN))
    setup.once()
    assert [entry["state"] for entry in listed(setup)] == ["suspended"] * 3
    text = said(setup, "list")
    assert 'then probing with connection_limit = 1 and max_message_rate = "10/min"' in text
    assert text.count("careful") == 1
    (suspension,) = (e["id"] for e in listed(setup) if e["kind"] == "ready_q")
    limit = next(e for e in listed(setup) if e["option"] == "connection_limit")
    assert "then probing with" in said(setup, "show", str(suspension))
    assert "of no effect while its ready queue is suspended" in said(
        setup, "show", str(limit["id"])
    )
    assert limit["probe"]["of"].startswith('["ready_q"')
    cancelled = said(setup, "cancel", str(suspension))
    assert cancelled.count("for the time after a suspension") == 2
    assert listed(setup) == []


def test_status_and_metrics_count_states(setup: Setup) -> None:
    setup.rules.write_text(RULES.replace("3 seconds", "1 hour"))
    running = setup.run()
    setup.log(failure(1, domain=DOMAIN), failure(2, "Slow down", domain=DOMAIN))
    until(lambda: setup.status().get("states") == {"suspended": 1, "in force": 1})
    text = setup.get("/metrics").decode()
    assert 'tsa_sidecar_entry_states{state="suspended"}' in text
    assert running.stop() == 0


def test_who_is_told_hears_of_the_limits_and_of_a_release(setup: Setup) -> None:
    setup.rules.write_text(RULES.replace("3 seconds", "1 hour"))
    with receiving() as receiver:
        file = setup.base / "notify.toml"
        file.write_text(
            f'[target.oncall]\nwebhook = "{receiver.url}"\nwait = "0s"\nevery = "0s"\n'
            "default = true\n"
        )
        file.chmod(0o600)
        running = setup.run(notify=str(file))
        at = int(time.time()) - 5
        setup.log(failure(1, domain=DOMAIN, at=at), failure(2, "Slow down", domain=DOMAIN, at=at))
        setup.log(delivery(3, at + 2), delivery(4, at + 3))
        until(lambda: len(receiver.events) >= 3)
        told = sorted(event["what"] for event in receiver.events)
        assert running.stop() == 0
    assert len(told) == 3
    assert "released by 2 deliveries" in told[0] + told[1]
    assert "then probing with connection_limit = 1" in told[2]


def test_what_is_only_simulated_has_no_limits_on_the_roads(setup: Setup) -> None:
    setup.rules.write_text(RULES.replace('name = "careful"', "simulate = true"))
    setup.log(failure(1, domain=DOMAIN))
    setup.once()
    assert options(setup) == {}
    assert {entry["simulated"] for entry in listed(setup)} == {True}


class DeliveriesToo(Traffic):
    """Two of three records are deliveries; suspensions are of yesterday, their limits of today."""

    def write(self, count: int) -> None:
        for _ in range(count):
            number = len(self.records)
            at = self._at + number // 10
            what = self._chance.randrange(6)
            if what < 4:
                one = delivery(number, at)
            elif what == 4:
                one = failure(number, "Slow down", domain=DOMAIN, at=at)
            else:
                one = failure(number, domain=DOMAIN, at=self._at - 36 * 3600)
            self.records.append(one)
            self._writer.log(one)


def test_killed_at_any_step_each_delivery_counts_once(
    make_setup: Callable[..., Setup], chance: random.Random
) -> None:
    rules = RULES.replace("3 seconds", "1 day").replace("1 hour", "1 day")
    killed, undisturbed = make_setup("killed", rules=rules), make_setup("other", rules=rules)
    undisturbed.logs = killed.logs
    traffic = DeliveriesToo(killed, chance)
    steps = ("batch-read", "batch-decided", "before-commit", "after-commit", "before-publish")
    rounds: list[str | None] = [f"{step}:{chance.randint(1, 4)}" for step in (*steps, *steps)]
    rounds += [None] * 8
    kill_rounds(killed, traffic, chance, rounds=rounds)
    traffic.close()
    killed.once()
    undisturbed.once()
    assert comparable(killed.saved()) == comparable(undisturbed.saved())
    pasts = [past(killed), past(undisturbed)]
    assert pasts[0] == pasts[1]
    assert {how for _, how, _ in pasts[0]} == {"released"}


def past(setup: Setup) -> list[tuple[int, str, str]]:
    """What ended: its number, how, and what it was."""
    rows = read_saved(setup.state_file, history=True).history
    return [(id_, row.how, row.payload) for id_, row in sorted(rows.items())]
