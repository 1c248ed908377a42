"""Rules that strike by shares: the service counts every delivery once, killed or not."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from sidecar.store import read_saved
from tests.kumod_writer import KumodWriter
from tests.log.support import copy_recorded

from .support import Setup, failure, until
from .test_crash import Traffic, comparable, kill_rounds

RULES = r"""
[["default".automation]]
regex = "Throttled"
action = "Suspend"
duration = "1 day"
sidecar.ratio = {over = "15%", min = 5, window = "10 minutes"}

[["default".automation]]
regex = "Slow down"
action = "SuspendTenant"
duration = "1 day"
sidecar.ratio = {over = "30%", min = 2, window = "1 hour", confidence = "60%"}
"""
REAL = r"""
[["default".automation]]
regex = "sent too many messages in this session"
action = "Suspend"
duration = "9000 days"
sidecar.ratio = {over = "OVER", min = 20, window = "1 day"}
"""
"""With the recorded log: 7 of 15 attempts from ip2 match there, and 6 of 27 from ip1."""


class Deliveries(Traffic):
    """The same, with three deliveries for each record that some rule may match."""

    def write(self, count: int) -> None:
        for _ in range(count):
            super().write(1)
            for _ in range(3):
                number = len(self.records)
                one = failure(number, at=self._at + number // 50)
                one |= {"type": "Delivery", "response": {"code": 250, "content": "Ok"}}
                self.records.append(one)
                self._writer.log(one)


def attempts_in(setup: Setup) -> int:
    counts = setup.saved().threshold_counts
    return sum(count for (scope, _), count in counts.items() if scope.startswith("600 attempts "))


def test_killed_at_any_step_every_attempt_counts_once(
    make_setup: Callable[..., Setup], chance: random.Random
) -> None:
    killed, undisturbed = make_setup("killed"), make_setup("undisturbed")
    killed.rules.write_text(RULES)
    undisturbed.rules.write_text(RULES)
    undisturbed.logs = killed.logs
    traffic = Deliveries(killed, chance)
    steps = ["batch-read", "batch-decided", "before-commit", "after-commit"]
    rounds: list[str | None] = [None] * 10
    rounds += [f"{step}:{chance.randint(1, 3)}" for step in steps for _ in range(4)]
    chance.shuffle(rounds)
    kill_rounds(killed, traffic, chance, rounds=rounds)
    traffic.close()
    killed.once()
    undisturbed.once()
    assert comparable(killed.saved()) == comparable(undisturbed.saved())
    assert attempts_in(killed) == killed.saved().counters["attempts"] == len(traffic.records)
    assert killed.saved().entries


@pytest.mark.parametrize("mistake", ["positions_first", "effects_first"])
def test_attempts_show_a_sidecar_that_commits_in_two_steps(
    make_setup: Callable[..., Setup], mistake: str
) -> None:
    chance = random.Random(1)
    killed = make_setup("killed")
    killed.rules.write_text(RULES)
    traffic = Deliveries(killed, chance)
    rounds: list[str | None] = ["batch-decided:1", "before-commit:2", "after-commit:2"] * 3
    kill_rounds(killed, traffic, chance, rounds=rounds, prepare=f"tests.service.broken:{mistake}")
    traffic.close()
    killed.once()
    assert attempts_in(killed) != len(traffic.records)


@pytest.mark.parametrize(("over", "sources"), [("22%", {"ip1"}), ("23%", set()), ("0%", {"ip1"})])
def test_a_real_log_strikes_or_not_by_figures_counted_by_hand(
    setup: Setup, over: str, sources: set[str]
) -> None:
    """zstdcat: from ip1 6 of 27 attempts match, which is 22.2 %; from ip2 there are but 15."""
    setup.rules.write_text(REAL.replace("OVER", over))
    copy_recorded("shortdelivery", setup.logs)
    setup.once("--from", "beginning")
    saved = setup.saved()
    assert saved.counters["read"] == saved.counters["attempts"] == 300
    assert saved.counters["delivered"] == 214
    assert saved.counters["considered"] == 13
    assert {json.loads(row.payload)["source"] for row in saved.entries.values()} == sources


def test_an_exported_state_has_the_windows_and_counts_on(
    make_setup: Callable[..., Setup],
) -> None:
    one, other = make_setup("one"), make_setup("other")
    for setup in (one, other):
        setup.rules.write_text(RULES)
    now = int(time.time())
    delivered = failure(0, at=now) | {"type": "Delivery", "response": {"code": 250, "content": ""}}
    one.log(*[delivered] * 9, failure(40, at=now))
    one.once()
    assert not one.saved().entries
    file = one.base / "exported.json"
    file.write_text(one.command("state", "export", "--state", str(one.state_file)).output)
    done = other.command("state", "import", str(file), "--state", str(other.state_file))
    assert done.code == 0, done.output
    assert read_saved(other.state_file).threshold_counts == one.saved().threshold_counts
    other.log(failure(80, at=now))
    other.once()
    assert other.saved().entries  # 2 of 11


def test_where_a_rule_needs_deliveries_and_none_ever_comes_it_is_said_once(setup: Setup) -> None:
    setup.rules.write_text(RULES)
    running = setup.run()
    with_writer = KumodWriter(setup.logs, max_file_size=2_000)
    for number in range(150):
        with_writer.log(failure(number, "mailbox full"))
    with_writer.close()
    running.says("not one Delivery record")
    until(lambda: any("not one Delivery record" in error for error in setup.errors()))
    assert "tsa_sidecar_attempts_total 150.0" in setup.get("/metrics").decode()
    delivered: dict[str, Any] = failure(151) | {"type": "Delivery"}
    setup.log(delivered)
    assert running.stop() == 0
    assert running.output.count("not one Delivery record") == 1
    setup.once()
    assert setup.saved().counters["delivered"] == 1


def test_explain_says_how_the_share_stands(setup: Setup) -> None:
    setup.rules.write_text(RULES)
    now = int(time.time())
    delivered = failure(0, at=now) | {"type": "Delivery", "response": {"code": 250, "content": ""}}
    setup.log(*[delivered] * 30, failure(40, at=now))
    setup.once()
    line = setup.base / "line.json"
    line.write_text(json.dumps(failure(80, at=now)))
    zone = setup.base / "zone"
    zone.write_text("$ORIGIN d0.example.\n@ 600 IN MX 1 mx\n")
    options = {"shaping": setup.rules, "state": setup.state_file, "dns-zone": zone, "record": line}
    given = [part for name, file in options.items() for part in (f"--{name}", str(file))]
    said = setup.command("explain", *given).output
    assert (
        "share 2 of 32 attempts in 10m, 6.25 %: strikes above 15 %, from 5 attempts on"
        in " ".join(said.split())
    )


@pytest.mark.parametrize(("over", "held"), [("22%", 1), ("23%", 0)])
def test_replay_counts_attempts_as_the_service_does(setup: Setup, over: str, held: int) -> None:
    setup.rules.write_text(REAL.replace("OVER", over))
    zone = setup.base / "zone"
    zone.write_text("$ORIGIN d0.example.\n@ 600 IN MX 1 mx\n")
    files = ["--shaping", str(setup.rules), "--dns-zone", str(zone)]
    (segment,) = copy_recorded("shortdelivery", setup.logs)
    report = json.loads(setup.command("replay", "--json", *files, str(segment)).output)
    assert len(report["suspended"]["ready_q"]) == held
    looked_back = setup.command("replay", "--timeline", *files, str(segment)).output
    assert looked_back.count("ready queue held") == held
