"""Retention: deleting segments that are finished and processed.

In: how old, or how much, may stay.  Out: files deleted, the oldest first.  It is
for a log that nobody else reads.  A segment is deleted when all of this is true:

- Its checkpoint says that it was wholly read, and is committed and on the disk.
- Nobody may write to it, and its name is one that kumod gives.
- It is the file that was read: it has the same inode, size, time and first bytes.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path

from sidecar.log.file import FileStatus, open_regular
from sidecar.log.identity import HEAD_SIZE, fingerprint_fits
from sidecar.log.names import parse_name
from sidecar.settings import Retention
from sidecar.store import CheckpointRow, Store, StoreError

from .flow import Flow
from .ledger import Ledger
from .logging import Log
from .rules import RuleBook

_EVERY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _File:
    """A file in the log directory; ``order`` sorts by when it was begun.

    ``is_kumods``: kumod gives such names.  Other files, such as somebody's notes, stay.
    """

    name: str
    state: FileStatus
    order: tuple[int, str]
    is_kumods: bool


class Keeper:
    """Deletes the segments that `retention` does not keep."""

    def __init__(
        self,
        directory: Path,
        *,
        pattern: str,
        retention: Retention,
        clock: Callable[[], int],
        log: Log,
    ) -> None:
        self._directory = directory
        self._pattern = re.compile(translate(pattern))
        self._retention = retention
        self._clock = clock
        self._log = log
        self._seen: dict[str, FileStatus] = {}  # of processed segments, as they were when read

    def note(self, names: Iterable[str]) -> None:
        """Note that these segments have just been read to their ends."""
        for name in names:
            state = self._state(name)
            if state is not None:
                self._seen[name] = state

    def note_earlier(
        self, checkpoints: Mapping[str, CheckpointRow], *, until_ns: int, lost: Iterable[str]
    ) -> None:
        """Note what an earlier run had processed, which last committed at `until_ns`.

        A file that was written to since then is not what was read.
        """
        for name in checkpoints.keys() - set(lost):
            state = self._state(name)
            if state is not None and checkpoints[name].done and state.mtime_ns <= until_ns:
                self._seen[name] = state

    def _state(self, name: str) -> FileStatus | None:
        if name.startswith(".") or self._pattern.match(name) is None:
            return None
        try:
            status = os.lstat(self._directory / name)
        except OSError:
            return None
        return FileStatus.of(status) if stat.S_ISREG(status.st_mode) else None

    def due(self, done: Mapping[str, CheckpointRow]) -> list[str]:
        """Which of the segments in `done` may go now, the oldest first."""
        files = self._files()
        total = sum(file.state.size for file in files)
        found = []
        for file in files:
            row = done.get(file.name)
            if (
                row is None
                or not file.is_kumods
                or self._may_stay(file, total)
                or not self._is_what_was_read(file, row)
            ):
                continue
            total -= file.state.size
            found.append(file.name)
        return found

    def delete(self, names: Iterable[str]) -> int:
        """Delete these segments unless they have changed meanwhile; returns how many."""
        deleted = 0
        for name in names:
            if self._state(name) != self._seen.get(name):
                continue
            try:
                (self._directory / name).unlink()
            except OSError as error:
                self._log.warning(
                    f"a segment can't be deleted: {error.strerror}", file=str(self._directory)
                )
                break
            deleted += 1
        return deleted

    def forget_all_but(self, names: Container[str]) -> None:
        """Forget all segments but these."""
        self._seen = {name: state for name, state in self._seen.items() if name in names}

    def _files(self) -> list[_File]:
        """The segments there are, the oldest first."""
        try:
            names = os.listdir(self._directory)
        except OSError:
            return []
        files = []
        for name in names:
            state = self._state(name)
            if state is not None:
                opened_ns = parse_name(name).opened_ns
                order = (state.mtime_ns if opened_ns is None else opened_ns, name)
                files.append(_File(name, state, order, is_kumods=opened_ns is not None))
        return sorted(files, key=lambda file: file.order)

    def _may_stay(self, file: _File, total: int) -> bool:
        """Whether this file may stay.  Its age counts from when it was finished."""
        if self._retention.size_bytes is not None:
            return total <= self._retention.size_bytes
        assert self._retention.age_ns is not None
        return file.state.mtime_ns > self._clock() - self._retention.age_ns

    def _is_what_was_read(self, file: _File, row: CheckpointRow) -> bool:
        state = self._seen.get(file.name)
        if state != file.state or not file.state.finished or row.inode != file.state.inode:
            return False
        if row.frame_start != file.state.size:
            # It was given up in its middle, or not read at all (`--from end`).
            return False
        try:
            with open(
                self._directory / file.name, "rb", buffering=0, opener=_open_no_link
            ) as opened:
                if FileStatus.of(os.fstat(opened.fileno())) != file.state:
                    return False
                return fingerprint_fits(row.fingerprint, opened.read(HEAD_SIZE)) is True
        except OSError:
            return False


def _open_no_link(path: str, flags: int) -> int:
    """Open a regular file, and no link: what a link leads to is not what would be deleted."""
    return open_regular(path, flags | os.O_NOFOLLOW)


async def keep_within(
    keeper: Keeper, *, book: RuleBook, flow: Flow, ledger: Ledger, store: Store, log: Log
) -> None:
    """Delete what may go, for ever.  Nothing goes while a changed retention waits for a restart."""
    while True:
        await asyncio.sleep(_EVERY_SECONDS)
        if "retention" not in book.awaiting_restart:
            await delete_processed(keeper, flow, ledger, store, log)


async def delete_processed(
    keeper: Keeper, flow: Flow, ledger: Ledger, store: Store, log: Log
) -> None:
    """Delete what may go now.  First all that was read is committed, and forced to the disk."""
    if not flow.try_commit():
        return
    done = {name: row for name, row in ledger.checkpoints.items() if row.done}
    keeper.forget_all_but(ledger.checkpoints)
    due = await asyncio.to_thread(keeper.due, done)
    if not due:
        return
    try:
        if not await asyncio.to_thread(store.make_durable):
            return  # another program reads the state file
    except StoreError:
        return  # the next commit says what is wrong
    count = await asyncio.to_thread(keeper.delete, due)
    log.info("deleted processed segments", count=count)
