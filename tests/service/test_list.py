"""``list``, ``show`` and ``history``: against a running and a stopped service."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .support import ROOT, Setup, failure, until

RULES = r"""
[["default".automation]]
regex = "Throttled"
action = {SetConfig = {name = "connection_limit", value = 1}}
duration = "1 day"
sidecar = {name = "throttle", note = "See the page on throttling"}

[["default".automation]]
regex = "Suspend queue"
action = "Suspend"
duration = "1 day"

[["default".automation]]
regex = "Bounce it"
action = "BounceTenant"
duration = "1 day"
"""


@pytest.fixture
def three(make_setup: Callable[..., Setup]) -> Setup:
    """A state with an option, a suspension and a bounce, of three domains."""
    setup = make_setup(rules=RULES)
    setup.log(
        failure(1, "Throttled", domain="one.example"),
        failure(2, "Suspend queue", domain="two.example"),
        failure(3, "Bounce it", domain="three.example"),
        failure(4, "Throttled \x1b[31mred", domain="one.example"),
    )
    setup.once()
    return setup


def ask(setup: Setup, command: str, *args: str, code: int = 0, **env: str) -> str:
    running = setup.command(command, "--state", str(setup.state_file), *args, env=env)
    assert running.code == code, running.output
    return running.output


def listed(setup: Setup, *args: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(ask(setup, "list", "--json", *args))["entries"]
    return entries


def ids(setup: Setup, *args: str) -> list[int]:
    return sorted(entry["id"] for entry in listed(setup, *args))


def test_what_is_in_force_is_listed_with_all_its_fields(three: Setup) -> None:
    entries = {entry["id"]: entry for entry in listed(three)}
    assert sorted(entries) == [1, 2, 3]
    option = entries[1]
    assert (option["kind"], option["domain"], option["source"]) == (
        "override",
        "one.example",
        "ip2",
    )
    assert (option["option"], option["value"], option["mx_rollup"]) == ("connection_limit", 1, True)
    assert option["rule"]["name"] == "throttle"
    assert option["rule"]["note"] == "See the page on throttling"
    assert option["rule"]["line"] == 2
    assert option["matches"] == 2
    assert option["first"]["response"] == "421 10.0.0.1 Throttled #1"
    assert option["latest"]["response"] == "421 10.0.0.1 Throttled \\x1b[31mred #4"
    assert option["end"] is None
    assert entries[2]["domain"] is None
    assert (entries[3]["tenant"], entries[3]["campaign"]) == ("tenant3", None)


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ((), [1, 2, 3]),
        (("--domain", "one.example"), [1]),
        (("--domain", "TWO.example"), [2]),  # the domain whose mail caused it
        (("--domain", "*.example", "--kind", "bounce"), [3]),
        (("--domain", "one.example", "--domain", "three.example"), [1, 3]),
        (("--site", "mx.two.example"), [2]),
        (("--site", "ip2->mx.two.example@smtp_client"), [2]),
        (("--source", "ip2"), [1, 2, 3]),
        (("--source", "ip3"), []),
        (("--tenant", "tenant3"), [3]),
        (("--campaign", "*"), []),
        (("--rule", "throttle"), [1]),
        (("--rule", "shaping-rules.toml:8"), [2]),
        (("--rule", "rules.toml:8"), []),
        (("--kind", "ready_q", "--kind", "sched_q"), [2]),
    ],
)
def test_filters_that_fit(three: Setup, filters: tuple[str, ...], found: list[int]) -> None:
    assert ids(three, *filters) == found


def test_a_stopped_service_is_said_and_a_running_one_is_not(three: Setup) -> None:
    for command in (("list",), ("show", "1"), ("history",)):
        assert "the service is not running" in ask(three, *command)
    assert json.loads(ask(three, "list", "--json"))["running"] is False
    running = three.run()
    until(lambda: json.loads(ask(three, "list", "--json"))["running"])
    for command in (("list",), ("show", "1"), ("history",)):
        assert "not running" not in ask(three, *command)
    assert running.stop() == 0


BOTH = r"""
[["default".automation]]
regex = "Throttled"
action = {SetConfig = {name = "connection_limit", value = 3}}
duration = "1 day"

[["default".automation]]
regex = "Throttled hard"
action = {SetConfig = {name = "connection_limit", value = 1}}
duration = "1 hour"

[["default".automation]]
regex = "Throttled hard"
action = {SetConfig = {name = "connection_limit", value = 2}}
duration = "2 hours"
sidecar.simulate = true
"""


def test_of_several_values_for_one_option_it_says_which_the_overlay_has(
    make_setup: Callable[..., Setup],
) -> None:
    setup = make_setup(rules=BOTH)
    setup.log(failure(1, "Throttled hard", domain="one.example"))
    setup.once()
    (site,) = (v for k, v in setup.overlay().items() if k == "one.example")
    assert site["sources"]["ip2"] == {"connection_limit": 1}
    found = {entry["value"]: entry for entry in listed(setup)}
    first, second = found[3], found[1]
    first_id, second_id = str(first["id"]), second["id"]
    assert first["behind"] == second_id
    assert [found[value]["behind"] for value in (1, 2)] == [None, None]
    assert f"the overlay has what {second_id} sets" in ask(setup, "list", COLUMNS="400")
    assert f"none: the overlay has what {second_id} sets" in ask(
        setup, "show", first_id, COLUMNS="400"
    )
    # With the other out of the way it is in the overlay itself.
    ask(setup, "cancel", str(second_id))
    assert {entry["value"]: entry["behind"] for entry in listed(setup)} == {3: None, 2: None}


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_tables_fit_any_width_and_hold_no_control_characters(three: Setup, width: int) -> None:
    for command in (("list",), ("show", "1"), ("show", "2"), ("history",)):
        output = ask(three, *command, COLUMNS=str(width))
        assert all(len(line) <= width for line in output.splitlines()), output
        assert "\x1b" not in output


def test_ids_are_the_same_after_a_restart_and_a_renewal(three: Setup) -> None:
    before = {entry["key"]: entry["id"] for entry in listed(three)}
    three.log(failure(5, "Throttled", domain="one.example"), failure(6, domain="four.example"))
    three.once()
    after = {entry["key"]: entry["id"] for entry in listed(three)}
    assert before.items() < after.items()
    assert sorted(after.values()) == [1, 2, 3, 4]


def test_show_tells_when_why_by_which_rule_and_how_to_undo_it(three: Setup) -> None:
    running = three.run()
    until(lambda: three.status().get("state") == "running")
    output = ask(three, "show", "1", COLUMNS="300")
    for part in (
        'set connection_limit = 1 for "one.example"',
        "throttle, ",
        "shaping-rules.toml:2",
        "See the page on throttling",
        "421 10.0.0.1 Throttled #1",
        "Throttled \\x1b[31mred #4",
        f"the overlay {three.overlay_file}",
        "tsa-sidecar cancel 1",
    ):
        assert part in output, output
    assert "kcli" not in output  # the overlay takes it back
    suspension = ask(three, "show", "2", COLUMNS="300")
    assert f"subscribers at {three.url}" in suspension
    assert "kcli suspend-ready-q-cancel --id ID" in suspension
    assert running.stop() == 0


def test_an_id_that_is_not_known_is_an_error(three: Setup) -> None:
    assert "no entry 77 is known" in ask(three, "show", "77", code=1)


def test_what_expired_while_nothing_ran_is_history(make_setup: Callable[..., Setup]) -> None:
    setup = make_setup(rules=RULES.replace("1 day", "10 seconds"))
    at = int(time.time()) - 3600
    setup.log(failure(1, domain="one.example", at=at + 2), failure(2, domain="two.example", at=at))
    setup.once("--at", str(at + 3))
    episodes = json.loads(ask(setup, "history", "--json"))["episodes"]
    domains = [episode["domain"] for episode in episodes]
    assert domains == ["two.example", "one.example"]  # the latest to end last
    assert {episode["end"]["how"] for episode in episodes} == {"expired"}
    assert "expired" in ask(setup, "show", str(episodes[0]["id"]))
    assert ids(setup) == []


def test_what_expired_is_history(make_setup: Callable[..., Setup]) -> None:
    setup = make_setup(rules=RULES.replace("1 day", "10 seconds"))
    began = time.time()
    setup.log(failure(1, domain="one.example", at=int(began)))
    running = setup.run()
    until(lambda: setup.saved().counters.get("matched") == 1)
    until(lambda: not setup.saved().entries)
    (episode,) = json.loads(ask(setup, "history", "--json", "--domain", "one.example"))["episodes"]
    assert episode["id"] == 1
    assert episode["end"]["how"] == "expired"
    assert ids(setup) == []
    assert "expired" in ask(setup, "show", "1")
    assert "nothing that ended fits" in ask(setup, "history", "--rule", "other")
    for span, found in (
        (("--since", "-1h"), 1),
        (("--since", "now"), 0),
        (("--until", "-1h"), 0),
        (("--until", "now"), 1),
    ):
        episodes = json.loads(ask(setup, "history", "--json", *span))["episodes"]
        assert len(episodes) == found, span
    assert running.stop() == 0


def test_colours_on_a_terminal_only_and_never_with_no_color(three: Setup) -> None:
    args = [sys.executable, "-m", "sidecar", "list", "--state", str(three.state_file)]
    for no_color, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        master, slave = pty.openpty()
        env = {"PATH": os.environ["PATH"], "TERM": "xterm-256color", **no_color}
        with subprocess.Popen(args, cwd=ROOT, env=env, stdout=slave) as process:
            os.close(slave)
            output = b""
            try:
                while piece := os.read(master, 65536):
                    output += piece
            except OSError:  # how the end of a terminal is told
                pass
            os.close(master)
        assert process.returncode == 0
        assert (b"\x1b[33m" in output) is coloured, output
        assert b"\x1b[31mred" not in output


def test_the_history_is_drawn_with_what_is_in_force(three: Setup, tmp_path: Path) -> None:
    file = tmp_path / "picture.svg"
    drawn = ask(three, "history", "--timeline", "--svg", str(file), "--since", "-2h", COLUMNS="80")
    rows = [text for text in drawn.splitlines() if "|" in text][1:]
    assert [row.split()[0] for row in rows] == ["mx.two.example", "one.example", "three.example"]
    assert [row.rstrip()[-1] for row in rows] == ["#", "-", "x"]
    assert "matched" in file.read_text()
    file.unlink()
    assert json.loads(ask(three, "history", "--json", "--svg", str(file)))["episodes"] == []
    assert "<svg" in file.read_text()
    assert "nothing was in force" in ask(three, "history", "--timeline", "--domain", "other")
