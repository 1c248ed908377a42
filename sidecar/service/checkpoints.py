"""Checkpoints of the log as rows of the store, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sidecar.log.batches import Batch, Sieve
from sidecar.log.blocks import Position
from sidecar.log.identity import SegmentId
from sidecar.log.segment import Checkpoint
from sidecar.log.tail import Start, Tail
from sidecar.problems import Problem
from sidecar.settings import Fixed
from sidecar.store import CheckpointRow


def to_rows(batch: Batch) -> tuple[dict[str, CheckpointRow], set[str]]:
    """The rows that a batch changes, by segment name, and the names to forget."""
    rows = {
        name: CheckpointRow(
            inode=checkpoint.id.inode,
            fingerprint=checkpoint.id.fingerprint,
            content=checkpoint.id.content,
            offset=checkpoint.position.offset,
            lines=checkpoint.position.lines,
            frame_start=checkpoint.position.frame_start,
            frame_offset=checkpoint.position.frame_offset,
            done=checkpoint.done,
        )
        for name, checkpoint in batch.checkpoints.items()
    }
    return rows, set(batch.forget)


def from_rows(rows: Mapping[str, CheckpointRow]) -> dict[str, Checkpoint]:
    """The checkpoints of such rows, for the tail."""
    return {
        name: Checkpoint(
            id=SegmentId(name, row.inode, row.fingerprint, row.content),
            position=Position(
                offset=row.offset,
                lines=row.lines,
                frame_start=row.frame_start,
                frame_offset=row.frame_offset,
            ),
            done=row.done,
        )
        for name, row in rows.items()
    }


def tail_for(
    settings: Fixed,
    *,
    saved: Mapping[str, CheckpointRow],
    since_ns: int,
    on_problem: Callable[[Problem], None],
    sieve: Callable[[], Sieve],
    numbered: bool = False,
) -> Tail:
    """The tail of the log directory, from where the last run ended.

    `since_ns`: what was logged before this time is over by now.  `sieve` returns
    what chooses the lines to decode; it is called once a batch.  `numbered`: blocks say
    which lines those are.
    """
    return Tail(
        settings.log_dir,
        pattern=settings.pattern,
        checkpoints=from_rows(saved),
        start=Start(settings.start, since_ns),
        poll_seconds=settings.poll_seconds,
        on_problem=on_problem,
        sieve=sieve,
        numbered=numbered,
    )
