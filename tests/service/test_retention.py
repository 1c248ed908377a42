"""``--retention``: what was wholly processed is deleted, the oldest first, and nothing else."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from sidecar.service.checkpoints import from_rows
from sidecar.service.logging import Log
from sidecar.service.retention import Keeper
from sidecar.settings import Retention
from sidecar.store import CheckpointRow
from sidecar.times import NS
from tests.kumod_writer import segment_name, take_write_bits

from .support import Setup, failure, until


def names(setup: Setup) -> list[str]:
    return sorted(p.name for p in setup.logs.iterdir())


def age(path: Path, seconds: int = 7200) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


class Kept:
    """A keeper of a directory that has been processed."""

    def __init__(self, setup: Setup, retention: Retention, *, segments: int = 4) -> None:
        self.setup = setup
        self.paths = [setup.log(*(failure(n) for n in range(20))) for _ in range(segments)]
        for path in self.paths:
            age(path)
        setup.once()
        self.rows: Mapping[str, CheckpointRow] = setup.saved().checkpoints
        self.keeper = Keeper(
            setup.logs, pattern="2*", retention=retention, clock=time.time_ns, log=Log()
        )
        self.keeper.note(self.rows)

    def delete(self) -> list[str]:
        """Names of what was deleted."""
        before = names(self.setup)
        self.keeper.delete(self.keeper.due({n: r for n, r in self.rows.items() if r.done}))
        after = names(self.setup)
        return [name for name in before if name not in after]


HOUR = Retention(age_ns=3600 * NS)


def test_what_is_old_and_processed_goes(setup: Setup) -> None:
    kept = Kept(setup, HOUR)
    young = setup.log(failure(99))
    assert kept.delete() == [p.name for p in kept.paths]
    assert names(setup) == [young.name]
    assert from_rows(kept.rows)[kept.paths[0].name].done


def test_by_size_the_oldest_goes_until_the_rest_is_small_enough(setup: Setup) -> None:
    kept = Kept(setup, Retention(size_bytes=1))
    sizes = [p.stat().st_size for p in kept.paths]
    kept = Kept(setup, Retention(size_bytes=sum(sizes[2:]) + sum(sizes) + 1), segments=4)
    deleted = kept.delete()
    assert deleted == sorted(deleted)
    assert deleted == sorted(kept.rows)[: len(deleted)]
    assert 0 < len(deleted) < 8


def test_what_is_not_a_processed_segment_stays(setup: Setup) -> None:
    kept = Kept(setup, HOUR, segments=9)
    unread, grown, replaced, writable, partly, linked, passed, given_up, gone = kept.paths
    hidden, other = setup.logs / ".hidden", setup.logs / "README"
    rows = dict(kept.rows)
    del rows[unread.name]
    # From the end of the log on; lost halfway, then restored.
    rows[passed.name] = replace(rows[passed.name], offset=0, lines=0, frame_start=0)
    rows[given_up.name] = replace(rows[given_up.name], frame_start=given_up.stat().st_size - 1)
    rows[partly.name] = CheckpointRow(0, "", 1, 1, 0, 0, done=False)
    for path, data in ((hidden, b"x"), (other, b"x")):
        path.write_bytes(data)
        take_write_bits(path)
        age(path)
        rows[path.name] = rows[gone.name]
    grown.chmod(0o644)
    with grown.open("ab") as file:
        file.write(b"more")
    take_write_bits(grown)
    age(grown)
    status = replaced.stat()
    replaced.unlink()
    replaced.write_bytes(b"y" * status.st_size)
    os.utime(replaced, ns=(status.st_atime_ns, status.st_mtime_ns))
    take_write_bits(replaced)
    writable.chmod(0o644)
    target = setup.base / "elsewhere"
    linked.rename(target)
    linked.symlink_to(target)
    kept.rows = rows
    assert kept.delete() == [gone.name]
    assert target.exists()


def test_what_changes_between_the_decision_and_the_deletion_stays(setup: Setup) -> None:
    kept = Kept(setup, HOUR, segments=2)
    due = kept.keeper.due({n: r for n, r in kept.rows.items() if r.done})
    assert due == [p.name for p in kept.paths]
    kept.paths[0].chmod(0o644)
    kept.paths[0].write_bytes(b"another")
    assert kept.keeper.delete(due) == 1
    assert names(setup) == [kept.paths[0].name]


def test_after_a_restart_what_was_written_to_since_stays(setup: Setup) -> None:
    kept = Kept(setup, HOUR, segments=3)
    age(kept.paths[1], -60)
    later = Keeper(setup.logs, pattern="*", retention=HOUR, clock=time.time_ns, log=Log())
    later.note_earlier(kept.rows, until_ns=time.time_ns(), lost=[kept.paths[2].name])
    age(kept.paths[1])
    assert later.due(kept.rows) == [kept.paths[0].name]


def test_a_directory_that_may_not_be_written_is_no_catastrophe(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(setup, HOUR)

    def refuse(_path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert kept.delete() == []


def test_the_running_service_deletes_what_it_has_processed_and_counts_no_loss(
    setup: Setup,
) -> None:
    old = [setup.log(*(failure(5 * k + n) for n in range(5))) for k in range(3)]
    copy = setup.logs / segment_name(time.time_ns())
    shutil.copyfile(old[0], copy)
    take_write_bits(copy)
    for path in (*old, copy):
        age(path)
    writer = setup.writer()
    open_ = writer.log(failure(6, domain="open.example"))
    age(open_)
    running = setup.run("--retention", "1 hour")
    running.says("deleted processed segments")
    until(lambda: names(setup) == [open_.name])
    writer.close()
    assert running.stop() == 0
    setup.once("--retention", "1 hour")
    assert setup.saved().counters["read"] == 16
    assert "segments_lost" not in setup.saved().counters


def test_what_is_not_committed_is_not_deleted(setup: Setup) -> None:
    path = setup.log(failure(1))
    age(path)
    fault = setup.base / "fault"
    fault.write_text("SQLITE_FULL")
    running = setup.run(
        "--retention",
        "1 hour",
        prepare="tests.service.broken:state_faults_and_haste",
        env={"TEST_FAULT": str(fault)},
    )
    until(setup.errors)
    running.says("looked for segments to delete")
    assert path.exists()
    fault.unlink()
    until(lambda: not path.exists())
    assert running.stop() == 0
    assert setup.saved().counters["matched"] == 1


def test_without_retention_nothing_is_deleted(setup: Setup) -> None:
    path = setup.log(failure(1))
    age(path, 86_400 * 365)
    running = setup.run("--from", "beginning", prepare="tests.service.broken:haste")
    until(lambda: setup.saved().counters.get("read") == 1)
    assert running.stop() == 0
    assert path.exists()


def test_what_has_no_segments_name_stays_though_it_was_read(setup: Setup) -> None:
    segment = setup.log(*(failure(n) for n in range(20)))
    notes = setup.logs / "notes"
    notes.write_text("not for the sidecar\n")
    take_write_bits(notes)
    for path in (segment, notes):
        age(path)
    setup.once()
    rows = setup.saved().checkpoints
    assert rows[notes.name].done
    keeper = Keeper(setup.logs, pattern="*", retention=HOUR, clock=time.time_ns, log=Log())
    keeper.note(rows)
    assert keeper.due(rows) == [segment.name]


def become_fifo(path: Path, _aside: Path) -> None:
    os.mkfifo(path)


def become_link(path: Path, aside: Path) -> None:
    path.symlink_to(aside)


@pytest.mark.parametrize("become", [become_fifo, become_link])
def test_what_takes_a_segments_place_while_we_look_is_neither_waited_for_nor_deleted(
    become: Callable[[Path, Path], None], setup: Setup, tmp_path: Path
) -> None:
    kept = Kept(setup, HOUR, segments=1)
    [path], aside = kept.paths, tmp_path / "aside"

    def clock() -> int:
        """Asked for after the directory was listed and before the segment is opened."""
        if not aside.exists():
            path.rename(aside)
            become(path, aside)
        return time.time_ns()

    keeper = Keeper(setup.logs, pattern="*", retention=HOUR, clock=clock, log=Log())
    keeper.note(kept.rows)
    due: list[str] = []
    thread = threading.Thread(target=lambda: due.extend(keeper.due(kept.rows)), daemon=True)
    thread.start()
    thread.join(20)
    assert aside.exists()
    assert not thread.is_alive()
    assert due == []
