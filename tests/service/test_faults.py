"""Full, broken and read-only disks: what is published stays whole, and work goes on by itself."""

from __future__ import annotations

import errno
import os
import resource
import signal
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from .support import Nursery, Running, Setup, failure, until

NOBODY = 65534


def limit_files(running: Running, size: int) -> None:
    """No file of the process may grow past `size`: what a full disk is like to it."""
    _, hard = resource.prlimit(running.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (size, hard))


def unlimit_files(running: Running) -> None:
    _, hard = resource.prlimit(running.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (hard, hard))


def test_a_disk_that_takes_no_more_holds_all_up_and_loses_nothing(setup: Setup) -> None:
    running = setup.run()
    setup.log(failure(1, domain="before.example"))
    until(lambda: "before.example" in setup.overlay())
    whole = setup.overlay_file.read_bytes()
    limit_files(running, 0)
    for number in range(2, 6):
        setup.log(failure(number, domain=f"during{number}.example"))
    until(setup.errors)
    assert setup.overlay_file.read_bytes() == whole
    assert setup.saved().counters["matched"] == 1
    unlimit_files(running)
    until(lambda: all(f"during{n}.example" in setup.overlay() for n in range(2, 6)))
    until(lambda: not setup.errors())
    assert running.stop() == 0
    assert setup.saved().counters["matched"] == 5
    assert "Traceback" not in running.output


def test_entries_end_in_time_though_the_disk_is_full(setup: Setup) -> None:
    setup.rules.write_text(
        '[["default".automation]]\nregex = "Throttled"\nduration = "4s"\naction = "Suspend"\n'
    )
    running = setup.run()
    setup.log(failure(1, domain="short.example"))
    until(lambda: b"short.example" in setup.get("/get_suspension_v1/suspended.json"))
    limit_files(running, 0)
    setup.log(failure(2, domain="waits.example"))
    until(setup.errors)
    until(lambda: setup.get("/get_suspension_v1/suspended.json") == b'{"ready_q":[],"sched_q":[]}')
    assert running.stop() == 0


def test_sigterm_on_a_full_disk_ends_soon_and_the_next_start_reads_again(setup: Setup) -> None:
    running = setup.run()
    limit_files(running, 0)
    setup.log(failure(1, domain="waits.example"))
    until(setup.errors)
    assert running.stop() == 0
    setup.once()
    assert "waits.example" in setup.overlay()
    assert setup.saved().counters["matched"] == 1


def test_a_start_on_a_full_disk_is_refused_in_one_line_and_then_succeeds(setup: Setup) -> None:
    setup.log(failure(1, domain="waits.example"))
    running = setup.start(prepare="tests.service.broken:full_disk")
    assert running.wait() == 1
    assert running.output.startswith("error: ")
    assert running.output.count("\n") == 1
    setup.once()
    assert "waits.example" in setup.overlay()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS])
def test_an_overlay_that_cannot_be_written_stays_whole_until_it_can(
    setup: Setup, code: int
) -> None:
    fault = setup.base / "fault"
    running = setup.run(
        prepare="tests.service.broken:overlay_faults", env={"TEST_FAULT": str(fault)}
    )
    setup.log(failure(1, domain="before.example"))
    until(lambda: "before.example" in setup.overlay())
    whole = setup.overlay_file.read_bytes()
    fault.write_text(str(code))
    setup.log(failure(2, "Suspend queue"), failure(3, domain="during.example"))
    running.says("what kumod reads is whole, as it was")
    assert setup.overlay_file.read_bytes() == whole
    assert b"during.example" in setup.get("/get_config_v1/shaping.toml")
    until(lambda: any("can't be written" in e for e in setup.status()["errors"]))
    fault.unlink()
    until(lambda: "during.example" in setup.overlay())
    until(lambda: setup.beside("suspended.json")["ready_q"])
    until(lambda: setup.status()["errors"] == [])
    assert list(setup.overlay_file.parent.glob(".*.new")) == []
    assert running.stop() == 0


@pytest.mark.parametrize("code", ["SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_BUSY"])
def test_a_state_that_cannot_be_written_holds_up_what_comes_and_then_has_it_once(
    setup: Setup, code: str
) -> None:
    fault = setup.base / "fault"
    running = setup.run(prepare="tests.service.broken:state_faults", env={"TEST_FAULT": str(fault)})
    setup.log(failure(1, domain="before.example"))
    until(lambda: "before.example" in setup.overlay())
    fault.write_text(code)
    setup.log(failure(2, domain="during.example"))
    setup.log(failure(3, domain="behind.example"))
    running.says("ERROR")
    until(lambda: setup.status()["errors"] != [])
    assert setup.overlay().keys() == {"before.example"}
    fault.unlink()
    until(lambda: setup.overlay().keys() == {"before.example", "during.example", "behind.example"})
    assert running.stop() == 0
    assert setup.saved().counters["matched"] == 3


@pytest.fixture
def anybodys(nursery: Nursery) -> Iterator[Setup]:
    """Files in directories that an unprivileged user may use, who owns them."""
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        base.chmod(0o777)
        setup = Setup(nursery, base / "one")
        for directory in (setup.base, setup.logs):
            directory.chmod(0o777)
        try:
            yield setup
        finally:
            setup.close()
            for directory in (setup.state_file.parent, setup.overlay_file.parent):
                if directory.is_dir():
                    directory.chmod(0o777)


UNPRIVILEGED = "tests.service.broken:unprivileged"


def test_directories_made_read_only_hold_up_and_lose_nothing(anybodys: Setup) -> None:
    running = anybodys.run(prepare=UNPRIVILEGED)
    anybodys.log(failure(1, domain="before.example"))
    until(lambda: "before.example" in anybodys.overlay())
    directory = anybodys.overlay_file.parent
    mode = directory.stat().st_mode
    directory.chmod(0o555)
    anybodys.log(failure(2, domain="during.example"))
    running.says("must be allowed to write in")
    assert anybodys.overlay().keys() == {"before.example"}
    directory.chmod(mode)
    until(lambda: "during.example" in anybodys.overlay())
    assert running.stop() == 0


def test_a_state_directory_that_cannot_be_written_is_said_at_the_start(anybodys: Setup) -> None:
    anybodys.state_file.parent.mkdir(mode=0o555)
    running = anybodys.start(prepare=UNPRIVILEGED)
    assert running.wait() == 1
    assert f"error: {anybodys.state_file}: " in running.output
    assert "--state" in running.output
    assert tomllib.loads(anybodys.overlay_file.read_text()) == {}


def test_the_overlays_directory_deleted_while_running_is_made_again(setup: Setup) -> None:
    running = setup.run()
    setup.log(failure(1, domain="kept.example"))
    until(lambda: "kept.example" in setup.overlay())
    setup.overlay_file.parent.rename(setup.base / "gone")
    until(lambda: setup.overlay_file.exists() and "kept.example" in setup.overlay())
    assert running.stop() == 0


def test_an_overlay_that_somebody_edits_is_put_right(setup: Setup) -> None:
    running = setup.run()
    setup.log(failure(1, domain="kept.example"), failure(2, "Suspend queue"))
    until(lambda: setup.beside("suspended.json")["ready_q"])  # written after the overlay
    setup.overlay_file.write_text("[broken")
    until(lambda: "kept.example" in setup.overlay_file.read_text())
    running.says("somebody changed the overlay")
    assert running.stop() == 0


def test_the_state_file_deleted_while_running_is_written_anew_and_whole(setup: Setup) -> None:
    running = setup.run()
    setup.log(failure(1, domain="first.example"), failure(2, "Slow down", domain="t.example"))
    until(lambda: "first.example" in setup.overlay())
    for file in setup.state_file.parent.glob("state.db*"):
        if not file.name.endswith((".lock", ".json", ".cancel")):
            file.unlink()
    setup.log(failure(3, domain="second.example"))
    until(lambda: "second.example" in setup.overlay())
    running.says("A new state was started")
    assert running.stop() == 0
    saved = setup.saved()
    assert saved.counters["read"] == 3
    assert len(saved.entries) == 2
    assert sum(saved.threshold_counts.values()) == 1
    setup.once()
    assert setup.saved().counters["read"] == 3


def test_a_damaged_state_file_is_set_aside_and_made_again_from_the_log(setup: Setup) -> None:
    setup.log(failure(1, domain="again.example"))
    setup.once()
    data = setup.state_file.read_bytes()
    setup.state_file.write_bytes(data[:100] + os.urandom(len(data) - 100))
    running = setup.run()
    running.says("can't be used any more")
    until(lambda: "again.example" in setup.overlay())
    assert list(setup.state_file.parent.glob("state.db.corrupt-*"))
    assert running.stop() == 0
    assert setup.saved().counters["read"] == 1


def test_a_mistake_of_the_programs_own_ends_it_in_one_line(setup: Setup) -> None:
    running = setup.run(prepare="tests.service.broken:mistaken")
    setup.log(failure(1))
    assert running.wait() == 1
    last = running.output.splitlines()[-1]
    assert last.startswith("error: follow: ZeroDivisionError: ")
    assert "Traceback" not in running.output
    running = setup.start(prepare="tests.service.broken:mistaken", env={"TSA_SIDECAR_DEBUG": "1"})
    assert running.wait() != 0
    assert "Traceback" in running.output
    setup.once()
    assert setup.saved().counters["matched"] == 1


def test_an_overlays_directory_that_is_closed_to_the_service_does_not_end_it(
    anybodys: Setup,
) -> None:
    closed = anybodys.base / "closed"
    overlay = closed / "in" / "shaping.toml"
    overlay.parent.mkdir(parents=True)
    overlay.parent.chmod(0o777)
    running = anybodys.run(overlay=str(overlay), prepare=UNPRIVILEGED)
    closed.chmod(0o000)
    anybodys.log(failure(1, domain="later.example"))
    until(lambda: any("can't be written" in error for error in anybodys.errors()))
    closed.chmod(0o777)
    until(lambda: "later.example" in overlay.read_text())
    assert running.stop() == 0, running.output


def test_sigterm_while_an_older_overlay_is_being_synced_leaves_the_newest(setup: Setup) -> None:
    running = setup.run(prepare="tests.service.broken:disk_hangs")
    hang = setup.base / "hang"
    hang.touch()
    setup.log(failure(1, domain="older.example"))
    until((setup.base / "hanging").exists)
    setup.log(failure(2, domain="newest.example"))
    until(lambda: len(setup.saved().entries) == 2)
    running.signal(signal.SIGTERM)
    time.sleep(0.5)  # for what does not wait for the sync
    hang.unlink()
    assert running.wait() == 0
    assert setup.overlay().keys() == {"older.example", "newest.example"}
