"""``tsa-sidecar status``: whether the service runs, and what is wrong, by line and exit code."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from sidecar.store import FileLock, Store, is_locked, lock_path

from .support import Setup, failure, until


def status(setup: Setup) -> tuple[int | None, str]:
    where = ["--listen", f"127.0.0.1:{setup.port}"]
    running = setup.command("status", "--state", str(setup.state_file), *where)
    return running.code, running.output


def says(setup: Setup, text: str) -> None:
    """Wait until the service's document has an error with `text`; `status` shows it, and 1."""
    until(lambda: any(text in error for error in setup.status().get("errors", ())))
    code, output = status(setup)
    assert code == 1, output
    assert text in output


def test_a_stopped_process_is_said_to_be_silent(setup: Setup) -> None:
    running = setup.run()
    until(lambda: status(setup)[0] == 0)
    running.signal(signal.SIGSTOP)
    then = time.time() - 60
    file = setup.state_file.with_name(setup.state_file.name + ".status.json")
    os.utime(file, (then, then))  # as it is a minute later
    code, output = status(setup)
    running.signal(signal.SIGCONT)
    assert code == 1
    assert "has not been heard of for 1m" in output
    until(lambda: status(setup)[0] == 0)
    assert running.stop() == 0


def test_a_process_id_that_is_anothers_by_now_does_not_run(setup: Setup) -> None:
    running = setup.run()
    until(lambda: setup.status().get("state") == "running")
    running.kill()
    file = setup.state_file.with_name(setup.state_file.name + ".status.json")
    document = json.loads(file.read_bytes())
    file.write_text(json.dumps({**document, "pid": os.getpid()}))
    code, output = status(setup)
    assert code == 3
    assert "not running" in output


def test_a_log_directory_that_is_gone_is_wrong(setup: Setup) -> None:
    running = setup.run()
    setup.logs.rename(setup.base / "elsewhere")
    says(setup, f"{setup.logs}: the log directory can't be read")
    (setup.base / "elsewhere").rename(setup.logs)
    until(lambda: status(setup)[0] == 0)
    assert running.stop() == 0


def test_an_admin_api_that_does_not_answer_is_wrong(setup: Setup) -> None:
    running = setup.run(kumod_api="http://127.0.0.1:1")
    says(setup, "http://127.0.0.1:1")
    conditions = setup.status()["conditions"]
    assert [c["code"] for c in conditions if c["level"] == "error"] == ["kumod-unreachable"]
    assert running.stop() == 0


def test_rules_by_url_that_were_never_loaded_are_wrong(setup: Setup) -> None:
    running = setup.run("--shaping", "http://127.0.0.1:1/rules.toml")
    says(setup, "its rules were never loaded")
    assert running.stop() == 0


def hanging_policy(setup: Setup, pipe: Path) -> Path:
    policy = setup.base / "tsa_init.lua"
    policy.write_text(f"os.execute('test ! -e {pipe}.armed || cat {pipe}')\n")
    os.mkfifo(pipe)
    return policy


def test_a_reload_that_hangs_is_said_and_does_not_keep_sigterm_from_being_heard(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = setup.base / "pipe"
    policy = hanging_policy(setup, pipe)
    running = setup.run("--policy", str(policy), prepare="tests.service.broken:impatient")
    Path(f"{pipe}.armed").touch()
    running.signal(signal.SIGHUP)
    says(setup, "a reload has been running for")
    setup.log(failure(1, domain="meanwhile.example"))
    until(lambda: "meanwhile.example" in setup.overlay())
    began = time.monotonic()
    assert running.stop() == 0
    assert time.monotonic() - began < 20  # the command would be given 30 s


def test_a_record_from_the_future_is_not_the_newest(setup: Setup) -> None:
    running = setup.run()
    now = int(time.time())
    setup.log(failure(1, at=now), failure(2, at=now + 86_400 * 365 * 200))
    until(lambda: setup.status().get("counters", {}).get("read") == 2)
    assert setup.status()["newest_record"][:4] == time.strftime("%Y", time.gmtime(now))
    metrics = setup.get("/metrics").decode()
    (lag,) = [line for line in metrics.splitlines() if line.startswith("tsa_sidecar_lag_seconds ")]
    assert 0 <= float(lag.split()[1]) < 3600
    assert running.stop() == 0


def test_an_override_of_a_reserved_name_is_said_to_be_left_out(setup: Setup) -> None:
    setup.log(failure(1, domain="default"), failure(2, domain="kept.example"))
    setup.once()
    output = setup.command("list", "--state", str(setup.state_file)).output
    _, reserved, kept = output.split("set connection_limit")
    assert 'for "default"' in reserved
    assert "left out of the overlay" in " ".join(reserved.split())
    assert 'for "kept.example"' in kept
    assert "left out" not in " ".join(kept.split())


def test_two_entries_that_differ_only_in_the_ready_queue_are_told_apart(setup: Setup) -> None:
    one, other = failure(1, "Suspend tenant"), failure(1, "Suspend tenant")
    other["site"] = "ip3->mx.d1.example@smtp_client"
    path = setup.log(one, other)
    setup.once()
    output = setup.command("list", "--state", str(setup.state_file)).output
    for site in (one["site"], other["site"]):
        assert " ".join(output.split()).count(f"by a response in ready queue {site}") == 1
    replayed = setup.command("replay", "--shaping", str(setup.rules), str(path)).output
    assert replayed.count("ip2->") == replayed.count("ip3->") == 1


def test_the_debug_variable_is_known(setup: Setup) -> None:
    running = setup.run(env={"TSA_SIDECAR_DEBUG": "1"})
    assert "no setting has this variable" not in running.output
    assert running.stop() == 0


@pytest.mark.parametrize("kind", ["fifo", "link"])
def test_something_else_in_place_of_the_status_file_holds_up_nothing(
    setup: Setup, kind: str
) -> None:
    setup.once()
    file = setup.state_file.with_name(setup.state_file.name + ".status.json")
    elsewhere = setup.base / "elsewhere"
    elsewhere.write_text("theirs")
    for path in (file, file.with_name(file.name + ".new")):
        path.unlink(missing_ok=True)
        if kind == "fifo":
            os.mkfifo(path)
        else:
            path.symlink_to(elsewhere)
    assert status(setup)[0] == 3
    running = setup.run()
    until(lambda: file.is_file() and not file.is_symlink())
    assert elsewhere.read_text() == "theirs"
    assert running.stop() == 0


def test_asking_whether_a_state_is_in_use_keeps_nobody_from_it(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    lock = lock_path(path)
    assert is_locked(lock) is False
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            is_locked(lock)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for _ in range(50):
            Store.open(path).close()
    finally:
        stop.set()
        thread.join()
    held = FileLock(lock)
    assert is_locked(lock) is True
    held.release()
    assert is_locked(lock) is False
