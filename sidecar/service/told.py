"""Up to which name the group may take this host's segments for told, and which came late.

In: batches, as they are read.  Out: the floor, a name below which every segment is read to
its end; rows of the store; what a segment is called in the group.

The group remembers nothing of the segments below a watermark, which follows the floor
(:mod:`sidecar.share`).  What is read below the floor all the same came late: the clock was
set back, a file was copied here or renamed, or went on after its end.  It is told under a name
of its own, from the line on at which it came late.

What came late is told by the floor that is *committed*.  A service that is killed reads
the same lines again, finds them late by the same floor, and gives them the same name.  No
floor that is not committed yet passes a segment that is not late and not at its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from sidecar.log.batches import Batch
from sidecar.share import comes_before, late_name
from sidecar.store import CheckpointRow, Transaction
from sidecar.times import NS

from .places import SHARE

FLOOR: Final = SHARE + "floor"
LATE: Final = SHARE + "late:"

_QUIET_NS: Final = 600 * NS
"""A segment that was not finished, as by a kumod that was killed, holds the floor for so long.

Should it go on, it comes late.
"""


class Told:
    """The floor of this host's segments, and the late ones."""

    def __init__(
        self,
        meta: Mapping[str, str],
        checkpoints: Mapping[str, CheckpointRow],
        *,
        clock: Callable[[], int],
    ) -> None:
        self._clock = clock
        self._floor = meta.get(FLOOR, "")
        self._staged: tuple[str, asyncio.Future[None]] | None = None
        self.late: dict[str, int] = {
            name.removeprefix(LATE): int(line)
            for name, line in meta.items()
            if name.startswith(LATE) and line.isdecimal()
        }
        """The segments that came late, with the last line that did not."""
        now_ns = clock()
        self._open = {name: now_ns for name, row in checkpoints.items() if not row.done}
        self._newest = ""
        for name in checkpoints:
            self._note_name(name)

    @property
    def floor(self) -> str:
        """The floor that is committed."""
        if self._staged is not None and self._staged[1].done():
            self._floor, self._staged = self._staged[0], None
        return self._floor

    def note(self, batch: Batch) -> Transaction:
        """Note what a batch has read; the rows that go with it."""
        changes = Transaction()
        for name in batch.forget:
            self._open.pop(name, None)
            if self.late.pop(name, None) is not None:
                changes.drop_meta.add(LATE + name)
        now_ns, floor = self._clock(), self.floor
        for name, checkpoint in batch.checkpoints.items():
            self._note_name(name)
            if checkpoint.done:
                self._open.pop(name, None)
            else:
                self._open[name] = now_ns
        for name in batch.lost:
            self._open.pop(name, None)
        for block in batch.blocks:
            name = block.segment
            if name not in self.late and comes_before(name, floor):
                self.late[name] = block.before
                changes.meta[LATE + name] = str(block.before)
        return changes

    def next_floor(self) -> str | None:
        """The floor behind the batches noted so far; None where it stays.  To be committed."""
        since_ns = self._clock() - _QUIET_NS
        found = self._newest
        for name, at_ns in self._open.items():
            if at_ns >= since_ns and name not in self.late and comes_before(name, found):
                found = name
        last = self.floor if self._staged is None else self._staged[0]
        if not comes_before(self.floor, found):
            found = self.floor
        return None if found == last else found

    def stage(self, floor: str, committed: asyncio.Future[None]) -> None:
        """Note that `floor` is committed once `committed` is done."""
        self._staged = (floor, committed)

    def name(self, segment: str) -> str:
        """What a segment is called in the group where its next lines are told."""
        line = self.late.get(segment)
        return segment if line is None else late_name(segment, line)

    def rows(self) -> dict[str, str]:
        """All rows of it."""
        floor = self._staged[0] if self._staged is not None else self._floor
        kept = {LATE + name: str(line) for name, line in self.late.items()}
        return {**kept, FLOOR: floor} if floor else kept

    def _note_name(self, name: str) -> None:
        if comes_before(self._newest, name):
            self._newest = name


def floor_row(floor: str) -> Transaction:
    """Keep the floor."""
    return Transaction(meta={FLOOR: floor})
