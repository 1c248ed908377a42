"""A limit that adjusts itself, in a running service: down with a record, up by itself."""

from __future__ import annotations

import json
from typing import Any

from .support import Setup, failure, until

RULES = """
[default]
max_message_rate = "1000/min"
[["default".automation]]
regex = "Throttled"
action = {SetConfig = {name = "max_message_rate", value = "1/min"}}
duration = "1 minute"
sidecar.adjust = {every = "10s", down = "10%"}
"""

DOMAIN = "one.example"


def rate(setup: Setup) -> Any:
    """What the overlay sets; None for nothing."""
    sources = setup.overlay().get(DOMAIN, {}).get("sources", {})
    return sources.get("ip2", {}).get("max_message_rate")


def test_it_comes_back_by_itself_whether_or_not_it_is_killed_meanwhile(setup: Setup) -> None:
    setup.rules.write_text(RULES)
    running = setup.run()
    setup.log(failure(1, domain=DOMAIN))
    seen = [until(lambda: rate(setup))]
    running.kill()
    running = setup.run()

    def back() -> bool:
        now = rate(setup)
        if seen[-1] != now:
            seen.append(now)
        return now is None

    until(back)
    # A machine that is busy may miss a step, but none comes out of turn.
    assert seen == [step for step in ("900/m", "950/m", None) if step in seen]
    until(lambda: not setup.saved().entries)
    assert running.stop() == 0


def test_list_and_show_say_where_it_is_and_how_it_comes_back(setup: Setup) -> None:
    setup.rules.write_text(RULES.replace('every = "10s"', 'every = "1h"'))
    setup.log(failure(1, domain=DOMAIN))
    setup.once()
    listed = setup.command("list", "--json", "--state", str(setup.state_file))
    (entry,) = json.loads(listed.output)["entries"]
    assert entry["value"] == "900/m"
    adjusting = entry["adjusting"]
    assert (adjusting["baseline"], adjusting["floor"]) == ("1000/min", "1/m")
    assert [step["value"] for step in adjusting["steps"]] == ["950/m", "1000/min"]
    shown = setup.command("show", str(entry["id"]), "--state", str(setup.state_file)).output
    assert '"900/m" (of "1000/min")' in shown
    assert "never below 1/m" in shown
    assert "without another match: 950/m at" in shown


def test_without_anything_to_come_down_from_it_is_said_once(setup: Setup) -> None:
    setup.rules.write_text(RULES.replace('max_message_rate = "1000/min"', ""))
    running = setup.run()
    for number in range(3):
        setup.log(failure(number, domain=DOMAIN))
    until(lambda: rate(setup) == "1/min")
    running.says("nothing to come down from")
    assert running.stop() == 0
    assert running.output.count("nothing to come down from: the action's value is set") == 1
