"""Sidecars with a mistake in them, to show that the tests find it, or on a disk with a fault.

Called in the child before the program begins; see ``nursery``.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from sidecar.faults import reached
from sidecar.log.batches import Batch
from sidecar.notify import alarms
from sidecar.publish import overlay_file
from sidecar.service import main, notify, retention, rules, sharing
from sidecar.service.checkpoints import to_rows
from sidecar.service.clock import GuardedClock
from sidecar.service.flow import Flow
from sidecar.service.ledger import Ledger
from sidecar.service.logging import Log
from sidecar.service.retention import Keeper
from sidecar.service.sharing import Sharing
from sidecar.share import Pace, ShareSettings
from sidecar.store import Store, Transaction, statements


def positions_first() -> None:
    """Commit where the log was read to before the effects of what was read."""
    process = Flow.process

    async def broken(self: Flow, batch: Batch) -> None:
        rows, forgotten = to_rows(batch)
        commits = self._ledger.commits
        commits.add(Transaction(checkpoints=rows, forget_segments=forgotten))
        self._publish(await commits.commit())
        await process(self, batch)

    Flow.process = broken  # type: ignore[method-assign]


def effects_first() -> None:
    """Commit the effects before where the log was read to."""
    note = Ledger.note_positions

    def broken(self: Ledger, batch: Batch, changes: Transaction) -> None:
        note(self, batch, Transaction())
        late = Transaction()
        note(self, batch, late)
        self._late = getattr(self, "_late", Transaction())  # type: ignore[attr-defined]
        changes.add(self._late)  # type: ignore[attr-defined]
        self._late = late  # type: ignore[attr-defined]

    Ledger.note_positions = broken  # type: ignore[method-assign]


def mistaken() -> None:
    """A bug, in the middle of the work."""

    async def broken(_self: Flow, _batch: Batch) -> None:
        raise ZeroDivisionError("as if by mistake")

    Flow.process = broken  # type: ignore[method-assign, assignment]


def full_disk() -> None:
    """No file may grow by a byte."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    os.truncate(1, 0)
    # What goes to the terminal is no file: here it is one, so it may be as long as need be.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))


def unprivileged() -> None:
    """Root may write anywhere: be someone else, who may not read root's Python."""
    import_module("watchdog.observers")
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


def overlay_faults() -> None:
    """While the file named by ``TEST_FAULT`` exists, the overlay's disk fails as it says."""
    control = Path(os.environ["TEST_FAULT"])
    write_all = overlay_file._write_all

    def faulty(fd: int, data: bytes) -> None:
        if control.exists():
            code = int(control.read_text())
            os.write(fd, data[: len(data) // 2])
            raise OSError(code, os.strerror(code))
        write_all(fd, data)

    overlay_file._write_all = faulty


def state_faults() -> None:
    """While the file named by ``TEST_FAULT`` exists, SQLite fails as it says, half through."""
    control = Path(os.environ["TEST_FAULT"])
    write = statements.write

    def faulty(connection: sqlite3.Connection, transaction: Transaction) -> None:
        write(connection, transaction)
        if control.exists():
            name = control.read_text()
            error = sqlite3.OperationalError(f"as if: {name}")
            error.sqlite_errorname = name
            error.sqlite_errorcode = getattr(sqlite3, name)
            raise error

    statements.write = faulty


def settable_clock() -> None:
    """The wall clock is off by the seconds in the file named by ``TEST_CLOCK``, if it is there."""
    control = Path(os.environ["TEST_CLOCK"])

    def wall() -> int:
        offset = int(control.read_text() or "0") if control.exists() else 0
        return time.time_ns() + offset * 1_000_000_000

    class Settable(GuardedClock):
        def __init__(self, *, on_jump: Callable[[int], None]) -> None:
            super().__init__(on_jump=on_jump, wall=wall)

    vars(main)["GuardedClock"] = Settable


def haste() -> None:
    """Segments are looked through for what may be deleted all the time, and it is said."""
    look = retention.delete_processed

    async def said(keeper: Keeper, flow: Flow, ledger: Ledger, store: Store, log: Log) -> None:
        await look(keeper, flow, ledger, store, log)
        log.info("looked for segments to delete")

    retention.delete_processed = said
    retention._EVERY_SECONDS = 0.05


def impatient() -> None:
    """A reload that takes any time at all is said."""
    rules._RELOAD_SECONDS = 0


def state_faults_and_haste() -> None:
    """Both."""
    state_faults()
    haste()


def memory_runs_out() -> None:
    """The rules take more memory than there is while a file beside them says so."""
    loaded = vars(rules)
    load = loaded["load_shaping"]

    async def short(files: Sequence[str], **options: Any) -> Any:
        if Path(files[0]).with_name("exhausted").exists():
            bytearray(1 << 62)
        return await load(files, **options)

    loaded["load_shaping"] = short


def disk_hangs() -> None:
    """One sync of an overlay waits while there is a file `hang` beside its directory."""
    fsync = os.fsync
    held: list[Path] = []

    def slow(fd: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{fd}"))
        hang = name.parents[1] / "hang"
        if not held and name.name.startswith(".shaping.toml") and hang.exists():
            held.append(name)
            hang.with_name("hanging").touch()
            while hang.exists():
                time.sleep(0.01)
        fsync(fd)

    os.fsync = slow  # type: ignore[assignment]


def told_later() -> None:
    """Commit what is to be told after what it is about."""
    commit = Store.commit

    def broken(self: Store, transaction: Transaction) -> None:
        late, transaction.outbox = transaction.outbox, {}
        commit(self, transaction)
        if any(key.startswith("event ") for key in late):
            reached("notify-noted")
        commit(self, Transaction(outbox=late))

    Store.commit = broken  # type: ignore[method-assign]


def alarms_at_once() -> None:
    """What is wrong with the service is told at once."""
    alarms._LASTING = 0.0


def soon_long() -> None:
    """A target that fails at all has failed for long."""
    notify._LONG_NS = 0


def quick_group() -> None:
    """An engine that was away is asked again at once, and hosts say often how they are."""
    pace = Pace(
        answer=0.5, first_retry=0.02, last_retry=0.1, presence=0.2, listen=0.2, watermark=0.1
    )
    vars(sharing)["ShareSettings"] = partial(ShareSettings, pace=pace)


def heard_anew() -> None:
    """Where the group's stream was read to is not kept: after a start all is heard again."""
    quick_group()
    vars(sharing)["batch_rows"] = lambda _batch: Transaction()
    vars(sharing)["mark_rows"] = lambda *_: Transaction()


def place_first() -> None:
    """Where the group's stream was read to is committed before what was read has an effect."""
    quick_group()
    hear = Flow.hear

    async def early(self: Flow, items: Sequence[Any], place: Transaction, **options: Any) -> int:
        self._ledger.commits.add(place)
        self.try_commit()
        reached("peers-decided")
        return await hear(self, items, Transaction(), **options)

    Flow.hear = early  # type: ignore[method-assign]


def told_again() -> None:
    """What the engine lacks is not told again."""
    quick_group()

    async def never(self: Sharing) -> None:
        await asyncio.Event().wait()

    Sharing.tell_again = never  # type: ignore[method-assign]
