"""What an operator orders, however the service dies meanwhile: done once, and answered."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest

from sidecar.automation.selection import Selection
from sidecar.service.cancel import ask, requests_path
from sidecar.service.orders import Order
from sidecar.service.state import holds
from sidecar.store import read_saved

from .support import Setup, failure, until

OLD = Path(__file__).parents[1] / "data" / "state" / "version-1.db"


@pytest.mark.parametrize("step", ["before-commit:1", "after-commit:1", "before-commit:2"])
def test_an_order_is_carried_out_once_whenever_the_service_is_killed(
    make_setup: Callable[..., Setup], step: str
) -> None:
    setup = make_setup()
    setup.log(failure(1, domain="one.example"), failure(2, domain="two.example"))
    setup.once()
    order = Order("cancel", Selection(domains=("*.example",)), 3600 * 10**9, "root", "why")
    request = ask(setup.state_file, order)
    killed = setup.start(fault=step)
    if step == "before-commit:2":
        until(request.answer)
        request = ask(setup.state_file, Order("hold", Selection(rules=("*",)), 10**9, "root"))
    assert killed.wait() == -signal.SIGKILL, killed.output
    running = setup.run()
    answer = until(request.answer)
    if step != "before-commit:2":
        assert len(answer.cancelled) == 2
    until(lambda: setup.overlay() == {})
    until(lambda: not [name for name in setup.saved().meta if name.startswith("answer:")])
    assert running.stop() == 0
    saved = read_saved(setup.state_file, history=True)
    assert [row.how for row in saved.history.values()] == ["cancelled"] * 2
    made = sorted(hold.about for hold in holds(saved) if hold.until_ns > hold.made_ns)
    expected = ["domain *.example"] + ["rule *"] * (step == "before-commit:2")
    assert made == expected
    assert not any(requests_path(setup.state_file).glob("*.json"))


def test_a_hold_that_was_made_by_a_running_service_shares_its_id_with_nothing(
    make_setup: Callable[..., Setup],
) -> None:
    setup = make_setup()
    running = setup.run()
    answer = until(ask(setup.state_file, Order("hold", Selection(tenants=("t",)), 10**12)).answer)
    running.kill()
    setup.log(failure(1, domain="one.example"))
    setup.once()
    (row,) = setup.saved().entries.values()
    assert (answer.held, json.loads(row.episode)["id"]) == (1, 2)


def test_a_state_file_from_before_episodes_is_gone_on_with(
    make_setup: Callable[..., Setup],
) -> None:
    setup = make_setup()
    setup.state_file.parent.mkdir()
    copyfile(OLD, setup.state_file)

    def entries() -> list[dict[str, Any]]:
        running = setup.command("list", "--json", "--state", str(setup.state_file))
        assert running.code == 0, running.output
        found: list[dict[str, Any]] = json.loads(running.output)["entries"]
        return found

    before = entries()  # not migrated yet
    assert [entry["kind"] for entry in before] == ["override", "ready_q"]
    assert [entry["began"] for entry in before] == [None, None]
    setup.once()
    first = {entry["key"]: entry["id"] for entry in entries()}
    assert sorted(first.values()) == [1, 2]
    setup.once()
    assert {entry["key"]: entry["id"] for entry in entries()} == first
    setup.log(failure(1, domain="new.example"))
    setup.once()
    assert sorted(entry["id"] for entry in entries()) == [1, 2, 3]
    assert setup.overlay().keys() == {"one.example", "new.example"}
    running = setup.command("cancel", "1", "2", "--state", str(setup.state_file))
    assert running.code == 0, running.output
    setup.once()
    assert setup.overlay().keys() == {"new.example"}
