"""The night: a storm, and an operator who looks, cancels, holds and releases.

Each with a running service and with a stopped one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from .support import Setup, failure, until

RULES = r"""
[["default".automation]]
regex = "Slow down"
action = "Suspend"
trigger = {Threshold = "3/hour"}
duration = "1 day"
sidecar.name = "slow"

[["default".automation]]
regex = "Throttled"
action = {SetConfig = {name = "connection_limit", value = 1}}
duration = "1 day"
sidecar.name = "throttle"
"""

HERE = "gmail.example"


class Night:
    """A sidecar whose service runs, or is started for each segment only."""

    def __init__(self, setup: Setup, *, runs: bool) -> None:
        self.setup = setup
        self._number = 0
        self._runs = setup.run() if runs else None

    def responses(self, text: str, count: int, *, later: int = 0, domain: str = HERE) -> None:
        """kumod logs so many responses, and they are read."""
        at = int(time.time()) + later
        self._number += count
        self.setup.log(
            *(failure(self._number + n, text, domain=domain, at=at) for n in range(count))
        )
        if self._runs is None:
            self.setup.once()
        else:
            until(lambda: self._read() == self._number)

    def _read(self) -> int:
        return self.setup.saved().counters.get("read", 0)

    def ask(self, command: str, *args: str, code: int = 0) -> str:
        running = self.setup.command(command, "--state", str(self.setup.state_file), *args)
        assert running.code == code, running.output
        return running.output

    def json(self, command: str, *args: str) -> Any:
        return json.loads(self.ask(command, "--json", *args))

    def in_force(self) -> list[int]:
        return sorted(entry["id"] for entry in self.json("list")["entries"])

    def published(self) -> tuple[int, set[str]]:
        """How many suspensions, and the domains in the overlay."""
        return len(self.setup.beside("suspended.json")["ready_q"]), set(self.setup.overlay())

    def end(self) -> None:
        if self._runs is not None:
            assert self._runs.stop() == 0, self._runs.output


@pytest.fixture(params=["running", "stopped"])
def night(make_setup: Callable[..., Setup], request: pytest.FixtureRequest) -> Night:
    return Night(make_setup(rules=RULES), runs=request.param == "running")


def test_the_night(night: Night) -> None:
    night.responses("Slow down", 40)
    (entry,) = night.json("list", "--domain", HERE)["entries"]
    assert (entry["rule"]["name"], entry["matches"]) == ("slow", 38)
    until(lambda: night.published()[0] == 1)

    said = night.ask("cancel", str(entry["id"]), "--for", "2h", "--reason", "customer is waiting")
    assert f"cancelled {entry['id']}: suspend the ready queue" in said
    assert "held until" in said
    assert f"kcli rebind --domain {HERE} --always-flush" in said
    until(lambda: night.published()[0] == 0)
    night.responses("Slow down", 20, later=2)
    night.responses("Slow down", 20, later=7100)  # the clock of the log is ahead: held all the same
    assert night.in_force() == []
    assert night.published()[0] == 0
    (hold,) = night.json("holds")["holds"]
    assert hold["reason"] == "customer is waiting"
    assert "suspend the ready queue" in night.ask("holds")

    assert f"released {hold['id']}" in night.ask("release", str(hold["id"]))
    assert "nothing is held" in night.ask("holds")
    night.responses("Slow down", 2, later=2)
    assert night.in_force() == []  # the counts began anew
    night.responses("Slow down", 1, later=2)
    (again,) = night.json("list")["entries"]
    assert again["id"] > entry["id"]
    until(lambda: night.published()[0] == 1)

    (episode,) = night.json("history")["episodes"]
    assert (episode["id"], episode["end"]["how"]) == (entry["id"], "cancelled")
    assert episode["end"]["reason"] == "customer is waiting"
    assert episode["end"]["by"]
    shown = night.ask("show", str(entry["id"]))
    assert "cancelled by" in shown
    assert "customer is waiting" in shown
    night.end()


def test_a_hold_ends_by_itself(night: Night) -> None:
    night.ask("hold", "throttle", "--for", "1s", "--reason", "a test")
    held_until = night.json("holds")["holds"]  # it may be over already
    night.responses("Throttled", 1, later=-5)
    assert night.in_force() == []  # logged before its end, though read after it
    until(lambda: night.json("holds")["holds"] == [])
    night.responses("Throttled", 1, later=2)
    assert len(night.in_force()) == 1
    assert len(held_until) <= 1
    night.end()


def test_a_hold_by_filters_is_for_what_fits_only(night: Night) -> None:
    night.ask("hold", "--domain", "held.example", "--kind", "override", "--for", "1h")
    night.responses("Throttled", 1, domain="held.example")
    night.responses("Throttled", 1, domain="other.example")
    night.responses("Slow down", 3, domain="held.example")
    found = {(e["kind"], e["site"]) for e in night.json("list")["entries"]}
    assert found == {
        ("override", "ip2->mx.other.example@smtp_client"),
        ("ready_q", "ip2->mx.held.example@smtp_client"),
    }
    assert "released" in night.ask("release", "--all")
    night.responses("Throttled", 1, domain="held.example", later=2)
    assert len(night.in_force()) == 3
    night.end()


def test_cancel_by_filters_takes_all_that_fit_and_holds_the_filters(night: Night) -> None:
    for domain in ("one.example", "two.example", "three.test"):
        night.responses("Throttled", 1, domain=domain)
    said = night.json("cancel", "--domain", "*.example", "--for", "1h")
    assert len(said["cancelled"]) == 2
    until(lambda: night.published()[1] == {"three.test"})
    night.responses("Throttled", 1, domain="new.example", later=2)
    assert len(night.in_force()) == 1
    night.end()


@pytest.mark.parametrize(
    ("command", "args", "error"),
    [
        ("cancel", (), "give the ids that `tsa-sidecar list` shows"),
        ("cancel", ("77", "78"), "no entry 77 is in force"),
        ("cancel", ("--domain", "none.example"), "nothing in force fits"),
        ("cancel", ("1", "--for", "2 huors"), "--for"),
        ("hold", ("--for", "1h"), "say what"),
        ("hold", ("slow", "--for", "0s"), "from 1s to 10 years"),
        ("release", (), "give the ids that `tsa-sidecar holds` shows"),
        ("release", ("--all",), "nothing is held"),
        ("release", ("5",), "there is no hold 5"),
    ],
)
def test_what_can_not_be_done_is_said_and_nothing_is_done(
    make_setup: Callable[..., Setup], command: str, args: tuple[str, ...], error: str
) -> None:
    night = Night(make_setup(rules=RULES), runs=False)
    night.responses("Throttled", 1)
    assert error in night.ask(command, *args, code=1)
    assert night.in_force() == [1]
    assert night.json("holds")["holds"] == []


def test_a_rule_that_is_not_there_is_not_held(make_setup: Callable[..., Setup]) -> None:
    night = Night(make_setup(rules=RULES), runs=True)
    assert "no rule is called 'slwo'" in night.ask("hold", "slwo", "--for", "1h", code=1)
    assert night.json("holds")["holds"] == []
    night.ask("hold", "shaping-rules.toml:2", "--for", "1h")
    assert len(night.json("holds")["holds"]) == 1
    night.end()


def test_the_files_of_a_stopped_service_are_rewritten(make_setup: Callable[..., Setup]) -> None:
    night = Night(make_setup(rules=RULES), runs=False)
    night.responses("Throttled", 1)
    night.responses("Slow down", 3)
    assert night.published() == (1, {HERE})
    said = night.ask("cancel", "--domain", HERE)
    assert f"{night.setup.overlay_file} was rewritten here" in said
    assert night.published() == (0, set())
    night.setup.once()
    assert night.published() == (0, set())


def test_the_page_has_what_ended_also_after_a_restart(make_setup: Callable[..., Setup]) -> None:
    setup = make_setup(rules=RULES)
    night = Night(setup, runs=True)
    night.responses("Throttled", 1, domain="one.example")
    night.responses("Throttled", 2, domain="two.example")

    def page() -> Any:
        return json.loads(setup.get("/tsa/sidecar/page.json"))

    until(lambda: len(page().get("in_force", ())) == 2)
    (one,) = (entry for entry in page()["in_force"] if entry["domain"] == "one.example")
    assert (one["rule"]["name"], one["matches"]) == ("throttle", 1)
    assert one["began"]
    night.ask("cancel", "--domain", "one.example")
    (ended,) = until(lambda: page()["ended"])
    assert (ended["id"], ended["how"]) == (one["id"], "cancelled")
    night.end()
    night = Night(setup, runs=True)
    assert until(lambda: page().get("ended")) == [ended]
    night.end()
