"""A rule that holds longer whoever offends again: the service remembers, killed or not."""

from __future__ import annotations

import json
import time

from .support import Setup, failure

HOUR = 3600
RULES = """
[["default".automation]]
regex = "Throttled"
action = "Suspend"
duration = "1 hour"
sidecar.escalate = true
"""


def test_an_offence_of_an_earlier_run_makes_the_next_hold_longer(setup: Setup) -> None:
    setup.rules.write_text(RULES)
    now = int(time.time())
    for number, at in enumerate((now - 5 * HOUR, now - 3 * HOUR, now)):
        setup.log(failure(number, domain="one.example", at=at))
        setup.once()
    arguments = ("--state", str(setup.state_file))
    (entry,) = json.loads(setup.command("list", "--json", *arguments).output)["entries"]
    assert entry["earlier_holds"] == 2
    (row,) = setup.saved().entries.values()
    assert row.expires_ns // 10**9 - now in range(4 * HOUR, 4 * HOUR + 2)
    shown = setup.command("show", str(entry["id"]), *arguments).output
    assert "2 holds before it, in a row: it is held longer" in " ".join(shown.split())


def test_an_exported_state_has_the_offences(setup: Setup) -> None:
    setup.rules.write_text(RULES)
    setup.log(failure(1, domain="one.example"))
    setup.once()
    exported = setup.command("state", "export", "--state", str(setup.state_file)).output
    (name,) = (n for n in json.loads(exported)["meta"] if n.startswith("offence:"))
    assert "one.example" in name
