"""What only a restart changes says so when it changes; what a reload changes takes effect whole."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from .support import Setup, failure, until


def policy(setup: Setup, **values: str) -> Path:
    """A policy that sets these; replaced as an editor does."""
    path = setup.base / "tsa_init.lua"
    text = "".join(f"  {name} = {value},\n" for name, value in values.items())
    new = path.with_name("new.lua")
    new.write_text(f"local sidecar = require 'sidecar'\nsidecar.configure {{\n{text}}}\n")
    new.rename(path)
    return path


def test_retention_that_is_switched_off_in_the_policy_deletes_nothing_more(setup: Setup) -> None:
    path = policy(setup, retention="'1s'")
    running = setup.run("--policy", str(path), prepare="tests.service.broken:haste")
    first = setup.log(failure(1))
    until(lambda: not first.exists())
    policy(setup)
    output = running.says("Only a restart makes this take effect; until then nothing is deleted")
    assert "changed: retention (default)" in output
    until(lambda: any("changed: retention" in text for text in setup.status()["warnings"]))
    second = setup.log(failure(2))
    then = time.time() - 60
    os.utime(second, (then, then))
    until(lambda: setup.saved().counters.get("read") == 2)
    time.sleep(0.5)  # ten looks for what may go
    assert second.exists()
    policy(setup, retention="'1s'")  # as it runs: no restart is needed any more
    until(lambda: not second.exists())
    assert running.stop() == 0


def test_each_fixed_setting_that_changes_is_named_once_until_it_changes_back(setup: Setup) -> None:
    path = policy(setup)
    running = setup.run("--policy", str(path))
    policy(setup, log_format="'json'", trusted_hosts="{'10.0.0.1'}")
    output = running.says("Only a restart")
    assert "trusted_hosts (" in output
    assert "log_format (" in output
    running.signal(signal.SIGHUP)
    running.signal(signal.SIGHUP)
    policy(setup)
    until(lambda: not any("restart" in text for text in setup.status()["warnings"]))
    assert running.output.count("Only a restart") == 1
    assert running.stop() == 0


def test_the_most_entries_that_may_be_in_force_change_with_a_reload(setup: Setup) -> None:
    path = policy(setup, max_entries="1")
    running = setup.run("--policy", str(path))
    setup.log(failure(1, domain="one.example"), failure(2, domain="two.example"))
    full = "no room for entries beyond the 1 in force"
    until(lambda: any(full in text for text in setup.status()["errors"]))
    assert setup.overlay().keys() == {"one.example"}
    policy(setup, max_entries="5")
    until(lambda: setup.status()["errors"] == [])
    setup.log(failure(3, domain="three.example"))
    until(lambda: setup.overlay().keys() == {"one.example", "three.example"})
    assert running.stop() == 0


def test_where_there_is_no_room_to_count_status_log_and_metrics_say_so(setup: Setup) -> None:
    running = setup.run(max_entries="1")
    setup.log(failure(1, "Slow down", domain="one.example"))
    setup.log(failure(2, "Slow down", domain="two.example"))
    running.says("there is no room to count towards a new threshold")
    assert "ready_queue=ip2->mx.two.example@smtp_client" in running.output
    full = "there is no room for counts of thresholds"
    until(lambda: any(full in text for text in setup.status()["errors"]))
    assert setup.status()["counters"]["no_room_to_count"] == 1
    assert 'tsa_sidecar_no_room_total{what="threshold"} 1.0' in setup.get("/metrics").decode()
    assert running.stop() == 0
