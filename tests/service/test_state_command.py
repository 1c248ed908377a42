"""``tsa-sidecar state`` and ``status``: backup, moving, taking over, and what is shown."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sidecar.automation.selection import Selection
from sidecar.service.cancel import ask
from sidecar.service.orders import Order
from sidecar.store import Saved, Store
from tests.kumod_standin import SCHED_Q, KumodStandin

from .support import Setup, failure, until

DAEMON = Path(__file__).parents[1] / "data" / "tsa-state"


def lasting(saved: Saved) -> dict[str, Any]:
    return {
        "entries": saved.entries,
        "thresholds": saved.threshold_counts,
        "checkpoints": saved.checkpoints,
        "counters": saved.counters,
        "meta": saved.meta,
    }


def filled(setup: Setup) -> Setup:
    texts = ("Throttled", "Slow down", "Suspend queue", "Suspend tenant", "Bounce it")
    setup.log(*(failure(n, text) for n, text in enumerate(texts)))
    setup.once()
    return setup


def exported(setup: Setup) -> Path:
    running = setup.command("state", "export", "--state", str(setup.state_file))
    assert running.code == 0
    file = setup.base / "export.json"
    file.write_text(running.output)
    return file


def test_an_export_imported_elsewhere_is_the_same_state(make_setup: Callable[..., Setup]) -> None:
    one, other = filled(make_setup("one")), make_setup("other")
    file = exported(one)
    running = other.command("state", "import", "--state", str(other.state_file), str(file))
    assert running.code == 0, running.output
    assert "4 entries and 1 segment taken over; 0 left out" in running.output
    assert lasting(other.saved()) == lasting(one.saved())
    other.logs = one.logs
    other.once()
    assert other.overlay_file.read_text() == one.overlay_file.read_text()
    assert other.saved().counters["read"] == 5  # the log is the same: nothing is read again


def test_an_export_is_possible_while_the_service_runs_and_an_import_is_not(setup: Setup) -> None:
    filled(setup)
    running = setup.run()
    file = exported(setup)
    assert len(json.loads(file.read_text())["entries"]) == 4
    refused = setup.command(
        "state", "import", "--replace", "--state", str(setup.state_file), str(file)
    )
    assert refused.code == 1
    assert f"process {running.pid} is using this state" in refused.output
    assert running.stop() == 0


def test_an_import_replaces_a_state_only_when_told_to(setup: Setup) -> None:
    file = exported(filled(setup))
    before = setup.saved()
    setup.log(failure(9, domain="later.example"))
    setup.once()
    arguments = ["state", "import", "--state", str(setup.state_file), str(file)]
    refused = setup.command(*arguments)
    assert refused.code == 1
    assert "holds 5 entries and 2 segments: --replace" in refused.output
    assert len(setup.saved().entries) == 5
    assert setup.command(*arguments, "--replace").code == 0
    assert lasting(setup.saved()) == lasting(before)


def test_what_is_damaged_in_an_import_is_listed_and_left_out(
    make_setup: Callable[..., Setup],
) -> None:
    one, other = filled(make_setup("one")), make_setup("other")
    file = exported(one)
    document = json.loads(file.read_text())
    document["entries"][0]["expires_ns"] = "soon"
    file.write_text(json.dumps(document))
    running = other.command("state", "import", "--state", str(other.state_file), str(file))
    assert running.code == 0
    assert "entries: item 1: left out: " in running.output
    assert "3 entries" in running.output
    assert len(other.saved().entries) == 3


def test_what_is_no_export_is_refused(setup: Setup) -> None:
    file = setup.base / "x"
    for text in ("{", "[]", '{"format": "another"}', "[" * 100_000):
        file.write_text(text)
        refused = setup.command("state", "import", "--state", str(setup.state_file), str(file))
        assert refused.code == 1
        assert str(file) in refused.output
        assert "Traceback" not in refused.output
    refused = setup.command("state", "import", "--state", str(setup.state_file))
    assert refused.code == 1
    assert "--from-tsa-daemon" in refused.output


def of_this_month(daemon: bytes) -> bytes:
    """The recorded state as if the daemon had written it this month: its entries end next month."""
    now = datetime.now(UTC)
    after = (now.replace(day=1) + timedelta(days=32)).strftime("%Y-%m-22T").encode()
    return daemon.replace(b"2026-12-22T", after)


def take_over(setup: Setup, *more: str) -> str:
    daemon = setup.base / "tsa.db.state"
    daemon.write_bytes(of_this_month((DAEMON / "tsa.db.state").read_bytes()))
    running = setup.command(
        "state",
        "import",
        "--state",
        str(setup.state_file),
        "--shaping",
        str(DAEMON / "shaping.toml"),
        "--from-tsa-daemon",
        str(daemon),
        *more,
    )
    assert running.code == 0, running.output
    return running.output


def test_a_tsa_daemons_state_is_taken_over_and_published(setup: Setup) -> None:
    output = take_over(setup)
    entries = setup.saved().entries
    assert f"{len(entries)} entries" in output
    assert {e.kind for e in entries.values()} >= {"override", "sched_q", "bounce"}
    setup.once(shaping=str(DAEMON / "shaping.toml"))
    assert len(setup.saved().entries) == len(entries)
    assert "gmail.com" in str(setup.overlay())
    assert len(setup.beside("bounced.json")) > 5


def test_taking_over_twice_is_taking_over_once(setup: Setup) -> None:
    take_over(setup)
    before = setup.saved().entries
    assert "0 entries and 0 seconds" in take_over(setup)
    assert setup.saved().entries == before


def test_histories_are_taken_over_only_where_they_cannot_count_twice(
    make_setup: Callable[..., Setup],
) -> None:
    recent, end, read = make_setup("recent"), make_setup("end"), filled(make_setup("read"))
    assert "the histories of 2 thresholds are left out" in take_over(recent)
    assert recent.saved().threshold_counts == {}
    assert "are left out" in take_over(read, "--from", "end")
    assert "are left out" not in take_over(end, "--from", "end")
    assert sum(end.saved().threshold_counts.values()) > 0


def test_a_damaged_daemons_state_gives_what_can_be_read(setup: Setup) -> None:
    whole = (DAEMON / "tsa.db.state").read_bytes()
    file = setup.base / "cut.state"
    file.write_bytes(whole[: len(whole) // 2])
    arguments = ["--state", str(setup.state_file), "--from-tsa-daemon", str(file)]
    running = setup.command("state", "import", *arguments)
    assert running.code == 0
    assert "nothing after it can be read" in running.output


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff\xe0JFIF", b"\x85\xadevent"])
def test_a_file_that_holds_nothing_of_a_tsa_daemon_is_not_taken_for_done(
    setup: Setup, data: bytes
) -> None:
    file = setup.base / "wrong.state"
    file.write_bytes(data)
    arguments = ["--state", str(setup.state_file), "--from-tsa-daemon", str(file)]
    running = setup.command("state", "import", *arguments)
    assert running.code == 1
    assert f"error: {file}: holds nothing of a kumo-tsa-daemon's state" in running.output


def status(setup: Setup, *more: str, listen: bool = True) -> tuple[int | None, str]:
    where = ["--listen", f"127.0.0.1:{setup.port}"] if listen else ["--no-listen"]
    running = setup.command("status", "--state", str(setup.state_file), *where, *more)
    return running.code, running.output


def test_status_says_what_is_in_force_and_why(setup: Setup) -> None:
    running = setup.run()
    setup.log(failure(1, domain="shown.example"), failure(2, "Suspend queue"))
    until(lambda: len(setup.saved().entries) == 2)
    until(lambda: json.loads(setup.get("/tsa/sidecar/status"))["counters"].get("matched") == 2)
    for listen in (True, False):
        until(lambda: setup.status().get("counters", {}).get("matched") == 2)
        code, output = status(setup, listen=listen)
        assert code == 0
        assert f"process {running.pid}" in output
        assert "in force  1 option set, 1 ready queue held" in output
        assert "421 10.0.0.1 Suspend queue #2" in output
        assert "matched 2" in output
        assert str(setup.rules) in output
    code, output = status(setup, "--json")
    document = json.loads(output)
    assert document["running"] is True
    assert {e["kind"] for e in document["entries"]} == {"override", "ready_q"}
    assert running.stop() == 0
    code, output = status(setup)
    assert code == 3
    assert "not running" in output
    assert "in force  1 option set, 1 ready queue held" in output


def test_status_is_one_screen_however_much_is_in_force(setup: Setup) -> None:
    setup.log(*(failure(n, domain=f"d{n}.example") for n in range(1, 251)))
    setup.once()
    output = status(setup)[1]
    assert "in force  250 options set (tsa-sidecar list)" in output
    assert "d250.example: 421 10.0.0.1 Throttled #250" in output
    assert len(json.loads(status(setup, "--json")[1])["entries"]) == 250
    assert len(output.splitlines()) < 24
    listed = setup.command("list", "--state", str(setup.state_file)).output
    assert listed.count("connection_limit") == 100
    assert "150 more end earlier: --all has them" in listed


def test_status_says_what_is_wrong(setup: Setup) -> None:
    running = setup.run()
    setup.rules.write_text("broken")
    until(setup.errors)
    code, output = status(setup)
    assert code == 1
    assert f"error: {setup.rules}:1" in output
    assert running.stop() == 0


def test_status_names_the_segments_that_were_lost_also_after_a_restart(setup: Setup) -> None:
    writer = setup.writer()
    for number in range(3000):
        path = writer.log(failure(number, "nothing of note"))
    running = setup.run()
    until(lambda: setup.status().get("counters", {}).get("read", 0) > 0)
    assert running.stop() == 0
    writer.close()
    path.unlink()
    running = setup.run()
    until(lambda: setup.status().get("segments_lost") == [path.name])
    running.says("deleted before it was wholly read")
    assert running.stop() == 0
    running = setup.run()
    until(lambda: setup.status().get("pid") == running.pid)
    _, output = status(setup)
    assert f"deleted before they were read: {path.name}" in output
    assert setup.saved().counters["segments_lost"] == 1
    assert running.stop() == 0


def test_status_without_a_state_says_so(setup: Setup) -> None:
    code, output = status(setup)
    assert code == 1
    assert f"error: {setup.state_file}: there is no such state file" in output


def test_a_hostile_name_does_not_steer_the_terminal(setup: Setup) -> None:
    setup.log(failure(1, domain="a\x1b]0;x\x07.example"))
    setup.once()
    shutil.rmtree(setup.logs)
    _, output = status(setup)
    assert "\x1b" not in output
    assert "\x07" not in output


def test_a_store_that_is_locked_by_this_very_test_is_refused(setup: Setup) -> None:
    with Store.open(setup.state_file):
        refused = setup.start()
        assert refused.wait() == 1
    assert "is using this state" in refused.output


def numbered(setup: Setup) -> dict[str, str]:
    """What `status` shows → its number."""
    _, output = status(setup, "--json", listen=False)
    return {e["what"]: str(e["id"]) for e in json.loads(output)["entries"]}


def cancel(setup: Setup, *numbers: str) -> tuple[int | None, str]:
    running = setup.command("cancel", "--state", str(setup.state_file), *numbers)
    return running.code, running.output


def test_an_entry_is_taken_back_from_the_running_service_and_from_kumod(setup: Setup) -> None:
    with KumodStandin() as kumod:
        running = setup.run(kumod_api=kumod.url)
        setup.log(failure(1, domain="set.example"), failure(2, "Suspend tenant"), failure(3))
        kumod.state.wait_for(lambda state: len(state.names(SCHED_Q)) == 1)
        until(lambda: setup.overlay().keys() == {"set.example", "d3.example"})
        numbers = numbered(setup)
        chosen = [n for what, n in numbers.items() if "set.example" in what or "tenant" in what]
        code, output = cancel(setup, *chosen)
        assert code == 0, output
        assert 'cancelled 1: set connection_limit = 1 for "set.example"' in output
        until(lambda: setup.overlay().keys() == {"d3.example"})
        kumod.state.wait_for(lambda state: not state.held)
        until(lambda: setup.beside("suspended.json")["sched_q"] == [])
        assert running.stop() == 0
    assert len(setup.saved().entries) == 1


def test_an_entry_is_taken_back_while_the_service_is_stopped(setup: Setup) -> None:
    setup.log(failure(1, domain="gone.example"), failure(2, domain="kept.example"))
    setup.once()
    number = next(n for what, n in numbered(setup).items() if "gone.example" in what)
    assert cancel(setup, number)[0] == 0
    setup.once()
    assert setup.overlay().keys() == {"kept.example"}


def test_a_request_that_was_left_behind_is_carried_out_at_the_next_start(setup: Setup) -> None:
    setup.log(failure(1, domain="gone.example"))
    setup.once()
    (key,) = setup.saved().entries
    directory = ask(setup.state_file, Order("cancel", Selection(keys=(key,)))).path.parent
    (directory / "rubbish.json").write_text("{")
    running = setup.run()
    until(lambda: setup.overlay() == {})
    until(lambda: {file.suffix for file in directory.iterdir()} == {".answer"})
    assert running.stop() == 0
    assert setup.saved().entries == {}


def test_an_entry_that_is_not_in_force_cannot_be_taken_back(setup: Setup) -> None:
    setup.log(failure(1))
    setup.once()
    code, output = cancel(setup, "77", "77")
    assert code == 1
    assert output.count("no entry 77 is in force") == 1
    assert len(setup.saved().entries) == 1


def test_what_was_taken_back_comes_again_with_the_next_match(setup: Setup) -> None:
    setup.log(failure(1, domain="again.example"))
    setup.once()
    assert cancel(setup, *numbered(setup).values())[0] == 0
    setup.log(failure(2, domain="again.example", at=int(time.time()) - 60))
    setup.once()
    assert setup.overlay() == {}  # it was logged before, and read later
    setup.log(failure(3, domain="again.example", at=int(time.time()) + 2))
    setup.once()
    assert setup.overlay().keys() == {"again.example"}
