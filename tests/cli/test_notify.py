"""``tsa-sidecar notify``, and ``check`` with the file of targets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.notify.event import Event
from sidecar.notify.outbox import Outbox
from sidecar.store import Store, Transaction
from tests.notify.support import Receiver, receiving

from .support import assert_one_line_error, run

SECRET = "s3cr3t-T0ken"

RULES = """
[["default".automation]]
regex = "slow"
action = "Suspend"
duration = "1h"
sidecar.notify = ["oncall", "nobody"]
"""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


def file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "notify.toml"
    path.write_text(text)
    path.chmod(0o600)
    return path


def two(tmp_path: Path, receiver: Receiver) -> Path:
    return file(
        tmp_path,
        f'[target.oncall]\nwebhook = "{receiver.url}/{SECRET}"\ndefault = true\n'
        '[target.pager]\ncommand = ["/bin/false"]\n',
    )


def test_each_target_is_tested_and_what_failed_is_said(tmp_path: Path, receiver: Receiver) -> None:
    result = run("notify", "--notify", str(two(tmp_path, receiver)), "--test")
    assert result.exit_code == 1
    assert f"oncall: sent (webhook {receiver.url})" in result.output
    assert "pager: not sent (command /bin/false)" in result.output
    assert "exit code 1" in result.output
    (event,) = receiver.events
    assert (event["label"], event["about"]) == ("test", "service")
    assert SECRET not in result.output


def test_one_target_is_tested_by_its_name(tmp_path: Path, receiver: Receiver) -> None:
    path = str(two(tmp_path, receiver))
    result = run("notify", "--notify", path, "--test", "--json", "oncall")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["targets"]["oncall"]["sent"] is True
    assert_one_line_error(run("notify", "--notify", path, "--test", "oncal"), 1, '"oncall"?')
    assert len(receiver.requests) == 1


def test_what_waits_is_listed_while_nothing_runs(tmp_path: Path, receiver: Receiver) -> None:
    path, state = str(two(tmp_path, receiver)), str(tmp_path / "state.db")
    outbox = Outbox()
    events = [Event(f"{n}", "began", 1_700_000_000 * 10**9, "episode", "x", "y") for n in range(3)]
    with Store.open(state) as store:
        store.commit(Transaction(outbox=outbox.take("oncall", events, listed_most=2)))
        store.commit(Transaction(outbox=outbox.seal("oncall", host="mx1")))
        error = f"it answered 500 \x1b[31m{'long ' * 100}"
        store.commit(Transaction(outbox=outbox.failed("oncall", error, 1_700_000_100 * 10**9)))
    result = run("notify", "--notify", path, "--state", state)
    assert result.exit_code == 0
    assert "oncall: webhook http://127.0.0.1" in result.stdout
    assert "waiting: 3 events, the oldest for" in result.stdout
    assert "failing for" in result.stdout
    assert "\x1b" not in result.stdout
    assert "pager: command /bin/false" in result.stdout
    assert "none sent yet" in result.stdout
    assert SECRET not in result.stdout
    found = json.loads(run("notify", "--notify", path, "--state", state, "--json").stdout)
    assert found["targets"]["oncall"]["waiting"] == 3
    assert found["targets"]["oncall"]["failing_since"] == "2023-11-14T22:15:00Z"


def test_without_a_file_it_says_what_to_do() -> None:
    assert_one_line_error(run("notify"), 1, "--notify", "TSA_SIDECAR_NOTIFY")


def test_a_file_that_others_may_read_is_refused(tmp_path: Path, receiver: Receiver) -> None:
    path = two(tmp_path, receiver)
    path.chmod(0o644)
    assert_one_line_error(run("notify", "--notify", str(path)), 1, "chmod 640")


def test_check_names_targets_that_there_are_not(tmp_path: Path, receiver: Receiver) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text(RULES)
    common = ("check", "--no-dns", "--shaping", str(rules))
    assert run(*common).exit_code == 0
    result = run(*common, "--notify", str(two(tmp_path, receiver)))
    assert result.exit_code == 1
    assert f"{rules}:2: error: " in result.stdout
    assert 'there is no target "nobody"; targets are oncall, pager' in result.stdout
    result = run(*common, "--notify", str(file(tmp_path, "[target.oncall]\n")))
    assert result.exit_code == 1
    assert "notify.toml:1: error: target oncall: wanted one of command" in result.stdout
