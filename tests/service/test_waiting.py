"""Records whose domain's MX does not come: nothing else waits, and each counts exactly once."""

from __future__ import annotations

import json
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from sidecar.store import Saved

from .names import Names, names
from .support import Setup, failure, until

RULES = r"""
[["default".automation]]
regex = "Suspend queue|Both"
action = "Suspend"
duration = "1 day"

[provider.big]
match = [{MXSuffix = ".big.test"}]

[["provider"."big".automation]]
regex = "Throttled|Both"
action = {SetConfig = {name = "connection_limit", value = 1}}
duration = "1 day"

[["provider"."big".automation]]
regex = "Slow down"
action = "SuspendTenant"
trigger = {Threshold = "2/day"}
duration = "1 day"
"""

TEXTS = ("Throttled", "Slow down", "Suspend queue", "Both")
PLAIN = failure(0, "Suspend queue", domain="plain.example")


@pytest.fixture
def server() -> Iterator[Names]:
    """Who is asked for the MX."""
    with names() as made:
        yield made


def sidecar(make_setup: Callable[..., Setup], name: str = "one") -> Setup:
    return make_setup(name, rules=RULES)


def plain_is_suspended(setup: Setup) -> bool:
    return any("plain.example" in e["site_name"] for e in setup.beside("suspended.json")["ready_q"])


def is_set(setup: Setup, domain: str) -> bool:
    return domain in setup.overlay()


def test_a_silent_server_holds_up_nothing_that_needs_no_mx(
    make_setup: Callable[..., Setup], server: Names
) -> None:
    setup = sidecar(make_setup)
    running = setup.run("--nameserver", server.option)
    server.silent = True
    said = [failure(i, "Throttled", domain=f"d{i}.example") for i in range(400)]
    both = failure(400, "Both", domain="both.example")
    began = time.monotonic()
    setup.log(*said, both, PLAIN)
    until(lambda: plain_is_suspended(setup))
    assert time.monotonic() - began < 4, "the name servers' time limit is 5 s"
    sites = {e["site_name"] for e in setup.beside("suspended.json")["ready_q"]}
    assert both["site"] in sites, "of a record that waits, what needs no MX is decided at once"
    assert len(setup.saved().waiting) == 401
    until(lambda: setup.status()["records_waiting"])
    # Then the silence is known, and nothing waits any more.
    until(lambda: not setup.saved().waiting)
    until(lambda: any("name servers have not answered" in e for e in setup.errors()))
    assert setup.status()["dns_silent_since"]
    metrics = setup.get("/metrics").decode()
    assert re.search(r"^tsa_sidecar_dns_silent_since_timestamp_seconds [1-9]", metrics, re.M)
    assert setup.overlay() == {}
    more = [failure(i, "Both", domain=f"d{i}.example") for i in range(500, 520)]
    setup.log(*more)
    until(lambda: len(setup.beside("suspended.json")["ready_q"]) == 22)
    assert not setup.saved().waiting
    assert not {f"d{i}.example" for i in range(500, 520)}.intersection(server.asked)
    shown = setup.command("status", "--state", str(setup.state_file), "--no-listen")
    assert shown.code == 1, shown.output
    assert "name servers have not answered" in shown.output
    assert running.stop() == 0


def test_what_waits_is_decided_when_the_answer_comes(
    make_setup: Callable[..., Setup], server: Names
) -> None:
    setup = sidecar(make_setup)
    running = setup.run("--nameserver", server.option)
    server.silent_for = "late"
    records = [failure(i, text, domain=f"d{i % 2}.late.test") for i, text in enumerate(TEXTS * 3)]
    setup.log(*records, PLAIN)
    until(lambda: plain_is_suspended(setup))
    assert len(setup.saved().waiting) == 9
    assert setup.overlay() == {}
    server.silent_for = ""
    until(lambda: setup.overlay().keys() == {"d0.late.test", "d1.late.test"})
    until(lambda: not setup.saved().waiting)
    assert setup.saved().counters["matched"] == 13
    assert running.stop() == 0


def test_fresh_names_of_a_domain_that_never_answers_hold_up_nothing(
    make_setup: Callable[..., Setup], server: Names
) -> None:
    setup = sidecar(make_setup)
    running = setup.run("--nameserver", server.option)
    server.silent_for = "evil.test"
    for number in range(3):
        evil = [failure(i, "Both", domain=f"d{number}-{i}.evil.test") for i in range(100)]
        good = failure(number, "Both", domain=f"good{number}.example")
        began = time.monotonic()
        setup.log(*evil, good)
        until(partial(is_set, setup, f"good{number}.example"))
        assert time.monotonic() - began < 4, "the name servers' time limit is 5 s"
    until(lambda: not setup.saved().waiting)
    assert len({name for name in server.asked if "evil" in name}) < 60
    assert not setup.status()["dns_silent_since"], "the server itself answers"
    assert running.stop() == 0


def test_a_single_run_ends_with_everything_decided(
    make_setup: Callable[..., Setup], server: Names
) -> None:
    setup = sidecar(make_setup)
    server.silent_for = "late"
    setup.log(failure(1, "Both", domain="a.late.test"), failure(2, "Both", domain="b.example"))
    setup.once("--nameserver", server.option)
    saved = setup.saved()
    assert saved.waiting == {}
    assert saved.counters["matched"] == 2
    assert setup.overlay().keys() == {"b.example"}


def test_what_waits_and_can_not_be_read_is_left_out(
    make_setup: Callable[..., Setup], server: Names
) -> None:
    import sqlite3

    setup = sidecar(make_setup)
    setup.once("--nameserver", server.option)
    with sqlite3.connect(setup.state_file) as connection:
        connection.execute("INSERT INTO waiting VALUES (3, 'nonsense')")
    connection.close()
    running = setup.run("--nameserver", server.option)
    assert "a record that waits in the state file was left out" in running.output
    assert running.stop() == 0
    assert setup.saved().waiting == {}


def decided(saved: Saved) -> dict[str, Any]:
    """What a state says, but for the numbers that were kept free and not used."""
    entries = {key: (row.kind, row.expires_ns) for key, row in saved.entries.items()}
    return {
        "entries": entries,
        "thresholds": saved.threshold_counts,
        "counters": saved.counters,
        "checkpoints": saved.checkpoints,
        "waiting": saved.waiting,
    }


def test_killed_while_records_wait_each_counts_once(
    make_setup: Callable[..., Setup], server: Names, chance: random.Random
) -> None:
    killed, undisturbed = sidecar(make_setup, "killed"), sidecar(make_setup, "undisturbed")
    undisturbed.logs = killed.logs
    moment, count = int(time.time()), 0
    faults = [None, "waited-decided", "before-commit", "after-commit", "batch-decided"] * 6
    chance.shuffle(faults)
    for fault in faults:
        records = []
        for _ in range(chance.randint(1, 12)):
            late = f"d{chance.randrange(8)}.{chance.choice(['late', 'soon'])}.test"
            text = chance.choice(TEXTS)
            records.append(failure(count, text, domain=late, at=moment + count // 10))
            count += 1
        server.silent_for = chance.choice(["", "late"])
        killed.log(*records)
        armed = None if fault is None else f"{fault}:{chance.randint(1, 2)}"
        running = killed.start("--nameserver", server.option, fault=armed)
        limit = time.monotonic() + chance.uniform(0.1, 0.6)
        while not running.ended() and time.monotonic() < limit:
            time.sleep(0.01)
        server.silent_for = ""
        limit = time.monotonic() + chance.uniform(0, 0.3)
        while not running.ended() and time.monotonic() < limit:
            time.sleep(0.01)
        running.kill()
        assert running.wait() == -signal.SIGKILL, running.output
    killed.once("--nameserver", server.option)
    undisturbed.once("--nameserver", server.option)
    assert decided(killed.saved()) == decided(undisturbed.saved())
    assert killed.saved().counters["read"] == count
    assert killed.overlay() == undisturbed.overlay()
    suspended = [
        sorted(json.dumps(e) for e in one.beside("suspended.json")["sched_q"])
        for one in (killed, undisturbed)
    ]
    assert suspended[0] == suspended[1]
