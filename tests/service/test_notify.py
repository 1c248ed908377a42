"""Who is told what the sidecar does: the whole service, real targets, real crashes."""

from __future__ import annotations

import json
import random
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.store import read_saved
from tests.notify.support import Receiver, receiving

from .support import Setup, failure, until
from .test_crash import Traffic, kill_rounds

RULES = """
[["default".automation]]
regex = "Throttled"
action = {SetConfig = {name = "connection_limit", value = 1}}
duration = "1 day"
sidecar.name = "throttled"

[["default".automation]]
regex = "Suspend queue"
action = "Suspend"
duration = "1 day"
sidecar.notify = ["other"]

[["default".automation]]
regex = "Suspend tenant"
action = "SuspendTenant"
duration = "1 day"
sidecar.simulate = true

[["default".automation]]
regex = "Bounce it"
action = "BounceTenant"
duration = "1 day"
sidecar.notify = ["nobody"]

[["default".automation]]
regex = "Slow down"
action = {SetConfig = {name = "max_message_rate", value = "10/m"}}
duration = "2 seconds"
"""

SECRET = "s3cr3t-T0ken"
AT_ONCE = 'wait = "0s"\nevery = "0s"\nlist = 1000\n'


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


@pytest.fixture
def setup(make_setup: Callable[..., Setup]) -> Setup:
    return make_setup(rules=RULES)


def targets(setup: Setup, text: str) -> Path:
    file = setup.base / "notify.toml"
    new = setup.base / "new"
    new.write_text(text)
    new.chmod(0o600)
    new.rename(file)
    return file


def hook(receiver: Receiver, name: str = "oncall", more: str = "default = true\n") -> str:
    return f'[target.{name}]\nwebhook = "{receiver.url}/{SECRET}"\n{AT_ONCE}{more}\n'


def told(receiver: Receiver) -> set[tuple[str, str]]:
    """What was told, each once: what happened, and the domain."""
    return {(event["event"], event["domain"]) for event in receiver.events}


def test_what_begins_and_ends_is_told_once_and_a_renewal_is_not(
    setup: Setup, receiver: Receiver
) -> None:
    running = setup.run(notify=str(targets(setup, hook(receiver))))
    setup.log(failure(1, "Slow down", domain="a.example"))
    until(lambda: ("ended", "a.example") in told(receiver))
    for number in range(5):
        setup.log(failure(number, domain="b.example"))
    until(lambda: ("began", "b.example") in told(receiver))
    setup.log(failure(6, domain="c.example"))
    until(lambda: ("began", "c.example") in told(receiver))
    assert running.stop() == 0
    ids = [event["id"] for event in receiver.events]
    assert len(ids) == len(set(ids)) == 4
    began = next(event for event in receiver.events if event["domain"] == "b.example")
    assert began["label"] == began["rule"] == "throttled"
    assert began["kind"] == "override"
    assert began["response"].startswith("421 10.0.0.1 Throttled #")
    assert began["file"] == str(setup.rules)
    assert "connection_limit" in began["what"]
    ended = next(event for event in receiver.events if event["event"] == "ended")
    assert ended["how"] == "expired"


def test_rules_say_who_is_told_and_simulated_ones_tell_nobody(
    setup: Setup, receiver: Receiver
) -> None:
    with receiving() as other:
        text = hook(receiver) + hook(other, "other", "")
        running = setup.run(notify=str(targets(setup, text)))
        setup.log(
            failure(1, "Suspend tenant", domain="simulated.example"),
            failure(2, "Suspend queue", domain="other.example"),
            failure(3, "Bounce it", domain="nobody.example"),
            failure(4, domain="default.example"),
        )
        until(lambda: len(told(receiver)) == 2 and told(other))
        status = setup.command("status", "--state", str(setup.state_file)).output
        assert running.stop() == 0
    assert told(receiver) == {("began", "nobody.example"), ("began", "default.example")}
    assert told(other) == {("began", "other.example")}
    assert 'there is no target "nobody"; targets are oncall, other' in status
    assert 'there is no target "nobody"' in running.output


def test_a_program_is_told_too(setup: Setup) -> None:
    program = setup.base / "page"
    program.write_text(f"#!/bin/sh\ncat >> {setup.base}/paged\n")
    program.chmod(0o755)
    text = f'[target.pager]\ncommand = ["{program}"]\ndefault = true\n{AT_ONCE}'
    running = setup.run(notify=str(targets(setup, text)))
    setup.log(failure(1, domain="a.example"))
    paged = setup.base / "paged"
    until(lambda: paged.exists() and paged.read_text())
    assert json.loads(paged.read_text())["events"][0]["domain"] == "a.example"
    assert running.stop() == 0


def test_a_target_that_was_down_is_told_all_in_few_messages(
    setup: Setup, receiver: Receiver
) -> None:
    receiver.status = 500
    file = targets(setup, hook(receiver))
    running = setup.run(notify=str(file))
    for number in range(40):
        setup.log(failure(number, domain=f"d{number}.example"))
        if number == 0:
            until(lambda: receiver.requests)
    until(lambda: len(setup.saved().entries) == 40)
    assert running.stop() == 0
    receiver.requests.clear()
    receiver.status = 200
    running = setup.run(notify=str(file))
    until(lambda: len(told(receiver)) == 40)
    assert running.stop() == 0
    assert len(receiver.messages) <= 2
    assert read_saved(setup.state_file).outbox.keys() == {
        "fate oncall",
        *(f"told {number}" for number in range(1, 41)),
    }


@pytest.mark.parametrize("kind", ["program", "webhook"])
def test_a_target_that_hangs_holds_up_neither_effects_nor_sigterm(setup: Setup, kind: str) -> None:
    program = setup.base / "hang"
    program.write_text(f"#!/bin/sh\necho $$ > {setup.base}/pid\nexec sleep 1000\n")
    program.chmod(0o755)
    with Silent() as silent:
        text = f'command = ["{program}"]' if kind == "program" else f'webhook = "{silent.url}/hook"'
        file = targets(setup, f"[target.slow]\n{text}\ntimeout = '5m'\ndefault = true\n{AT_ONCE}")
        running = setup.run(notify=str(file))
        setup.log(failure(1, domain="a.example"))
        until((setup.base / "pid").exists if kind == "program" else silent.asked)
        setup.log(failure(2, domain="b.example"))
        until(lambda: "b.example" in setup.overlay())
        began = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - began < 20  # it may take five minutes


class Silent:
    """Listens, and says nothing."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def asked(self) -> bool:
        return bool(select.select([self._socket], [], [], 0)[0])


def test_a_reload_takes_effect_whole_or_not_at_all(setup: Setup, receiver: Receiver) -> None:
    file = targets(setup, hook(receiver))
    running = setup.run(notify=str(file))
    targets(setup, "[target.broken]\nwebhook = 'http://nowhere.example'\n")
    running.signal(signal.SIGHUP)
    until(lambda: any("not an https URL" in error for error in setup.errors()))
    setup.log(failure(1, domain="a.example"))
    until(lambda: told(receiver))
    with receiving() as other:
        targets(setup, hook(other, "other"))
        running.signal(signal.SIGHUP)
        until(lambda: list(setup.status()["notify"]) == ["other"])
        until(lambda: b'target="oncall"' not in setup.get("/metrics"))
        setup.log(failure(2, domain="b.example"))
        until(lambda: told(other))
        assert told(other) == {("began", "b.example")}
    assert setup.errors() == []
    assert running.stop() == 0
    assert told(receiver) == {("began", "a.example")}


def test_a_file_that_cannot_be_used_costs_the_notifications_only(setup: Setup) -> None:
    running = setup.run(notify=str(setup.base / "missing.toml"))
    setup.log(failure(1, domain="a.example"))
    until(lambda: "a.example" in setup.overlay())
    status = setup.command("status", "--state", str(setup.state_file))
    assert status.code == 1
    assert "missing.toml: No such file" in status.output
    assert "there is no target" not in status.output
    assert running.stop() == 0


def test_what_is_wrong_with_the_service_is_told(setup: Setup, receiver: Receiver) -> None:
    running = setup.run(
        notify=str(targets(setup, hook(receiver))), prepare="tests.service.broken:alarms_at_once"
    )
    setup.logs.rename(setup.base / "elsewhere")
    until(lambda: [e["label"] for e in receiver.events] == ["log-dir-unreadable"])
    (setup.base / "elsewhere").rename(setup.logs)
    until(lambda: len(receiver.events) == 2)
    assert running.stop() == 0
    began, ended = receiver.events
    assert (began["event"], ended["event"]) == ("began", "ended")
    assert began["about"] == "service"
    assert "log directory" in began["what"]


def test_a_target_that_fails_for_long_is_an_error_of_the_service(
    setup: Setup, receiver: Receiver
) -> None:
    receiver.status = 500
    running = setup.run(
        notify=str(targets(setup, hook(receiver))), prepare="tests.service.broken:soon_long"
    )
    setup.log(failure(1, domain="a.example"))
    until(lambda: any("oncall has not been told" in error for error in setup.errors()))
    codes = [c["code"] for c in setup.status()["conditions"] if c["level"] == "error"]
    assert codes == ["notify-failing"]
    assert setup.command("status", "--state", str(setup.state_file)).code == 1
    assert running.stop() == 0


def test_nothing_that_is_shown_holds_a_secret(setup: Setup, receiver: Receiver) -> None:
    receiver.status, receiver.body = 401, f"bad token {SECRET}".encode()
    more = f'default = true\ntoken = "{SECRET}-too"\n'
    running = setup.run(notify=str(targets(setup, hook(receiver, more=more))))
    setup.log(failure(1, domain="a.example"))
    until(lambda: setup.status()["notify"]["oncall"]["last_error"])
    shown = [
        running.output,
        setup.get("/metrics").decode(),
        setup.get("/tsa/sidecar/status").decode(),
        setup.command("status", "--state", str(setup.state_file)).output,
        Path(f"/proc/{running.pid}/cmdline").read_text(),
        json.dumps(setup.saved().outbox),
    ]
    assert running.stop() == 0
    assert "it answered 401 bad token ***" in shown[2]
    assert "notify    oncall: nothing sent yet, 1 event waiting" in shown[3]
    for text in shown:
        assert SECRET not in text
    metrics = shown[1]
    assert 'tsa_sidecar_notify_waiting_events{target="oncall"} 1.0' in metrics
    assert 'tsa_sidecar_notify_messages_total{outcome="failed",target="oncall"}' in metrics


@pytest.mark.parametrize("runs", [True, False], ids=["running", "stopped"])
def test_what_somebody_cancels_is_told(setup: Setup, receiver: Receiver, runs: bool) -> None:
    file = str(targets(setup, hook(receiver)))
    running = setup.run(notify=file)
    setup.log(failure(1, domain="a.example"))
    until(lambda: told(receiver))
    if not runs:
        assert running.stop() == 0
    done = setup.command(
        "cancel", "--state", str(setup.state_file), "--domain", "a.example", "--reason", "calm"
    )
    assert done.code == 0, done.output
    if not runs:
        running = setup.run(notify=file)
    until(lambda: ("ended", "a.example") in told(receiver))
    assert running.stop() == 0
    began, ended = receiver.events
    assert (ended["how"], ended["reason"]) == ("cancelled", "calm")
    assert ended["by"]
    assert ended["episode"] == began["episode"]
    assert not any(key.startswith("told") for key in setup.saved().outbox)


def test_what_was_kept_for_nobody_is_dropped(setup: Setup, receiver: Receiver) -> None:
    receiver.status = 500
    setup.log(failure(1, domain="a.example"))
    setup.once(notify=str(targets(setup, hook(receiver))))
    assert setup.saved().outbox
    setup.once()
    assert setup.saved().outbox == {}


def test_a_single_run_tells_what_happened_before_it_ends(setup: Setup, receiver: Receiver) -> None:
    setup.log(failure(1, domain="a.example"), failure(2, domain="b.example"))
    paced = hook(receiver).replace('wait = "0s"', 'wait = "1h"')
    setup.once(notify=str(targets(setup, paced)))
    assert told(receiver) == {("began", "a.example"), ("began", "b.example")}
    assert len(receiver.messages) == 1
    setup.once(notify=str(targets(setup, paced)))
    assert len(receiver.messages) == 1


def test_a_single_run_tries_each_target_once_and_the_next_run_again(
    setup: Setup, receiver: Receiver
) -> None:
    receiver.status = 500
    setup.log(failure(1, domain="a.example"))
    file = str(targets(setup, hook(receiver)))
    setup.once(notify=file)
    assert len(receiver.messages) == 1
    receiver.status = 200
    setup.once(notify=file)
    assert told(receiver) == {("began", "a.example")}
    assert len({message["id"] for message in receiver.messages}) == 1


def test_nobody_is_told_of_what_is_only_tried_out(setup: Setup, receiver: Receiver) -> None:
    setup.log(failure(1, domain="a.example"))
    file = str(targets(setup, hook(receiver)))
    running = setup.start("--once", "--at", "-1s", listen=False, notify=file)
    assert running.wait() == 0
    assert "nobody is told" in running.output
    assert receiver.messages == []


def test_however_often_it_is_killed_all_that_was_committed_is_told(
    setup: Setup, receiver: Receiver, chance: random.Random
) -> None:
    setup.rules.write_text(RULES.replace('"1 day"', '"1 hour"'))
    file = targets(setup, hook(receiver))
    traffic = Traffic(setup, chance)
    steps = ["batch-decided", "before-commit", "after-commit", "notify-sent", "notify-noted"]
    rounds: list[str | None] = [None] * 20
    rounds += [f"{step}:1" for step in steps for _ in range(3)]
    chance.shuffle(rounds)
    started = setup.arguments
    setup.arguments = lambda *more, **options: started(  # type: ignore[method-assign]
        *more, **{"notify": str(file), **options}
    )
    kill_rounds(setup, traffic, chance, rounds=rounds)
    traffic.close()
    setup.once()  # all is read and committed
    running = setup.start()
    until(lambda: nothing_waits(setup, running.pid))
    assert running.stop() == 0
    ids = [event["id"] for event in receiver.events]
    assert {id_ for id_ in ids if id_.endswith(".began")} == {
        f"{story['id']}.{story['began_ns']}.began" for story in stories(setup)
    }
    # What came twice came in the same message.
    by_message: dict[str, Any] = {}
    for message in receiver.messages:
        assert by_message.setdefault(message["id"], message) == message
    once = [event["id"] for message in by_message.values() for event in message["events"]]
    assert len(once) == len(set(once))


def test_the_crash_test_finds_a_sidecar_that_tells_in_another_transaction(
    setup: Setup, receiver: Receiver
) -> None:
    file = str(targets(setup, hook(receiver)))
    setup.log(failure(1, domain="a.example"))
    running = setup.start(
        notify=file, fault="notify-noted:1", prepare="tests.service.broken:told_later"
    )
    assert running.wait() == -signal.SIGKILL
    running = setup.start(notify=file)
    until(lambda: setup.status().get("pid") == running.pid)
    until(lambda: nothing_waits(setup, running.pid))
    assert running.stop() == 0
    assert stories(setup) != []
    assert receiver.events == []


def nothing_waits(setup: Setup, pid: int) -> bool:
    """Whether the service with this process id says that all is told."""
    status = setup.status()
    if (status["pid"], status["state"]) != (pid, "running"):
        return False
    waiting: int = status["notify"]["oncall"]["waiting"]
    return waiting == 0


def stories(setup: Setup) -> list[Any]:
    """The episodes that are told, in force or over."""
    saved = read_saved(setup.state_file, history=True)
    rows = [(row.payload, row.episode) for row in saved.entries.values()]
    rows += [(row.payload, row.episode) for row in saved.history.values()]
    return [
        json.loads(episode) for payload, episode in rows if not json.loads(payload).get("simulated")
    ]
