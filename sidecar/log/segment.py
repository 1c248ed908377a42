"""A segment: its state, its file, how far it has been read, and what to store of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from .blocks import START, Position
from .file import FileStatus, SegmentFile
from .identity import SegmentId
from .names import SegmentName
from .states import IS_COMPLETE, State


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a segment has been read; ``done``: finished and wholly read, or lost."""

    id: SegmentId
    position: Position
    done: bool


@dataclass(slots=True, eq=False)
class Segment:
    """A segment and all that is known of it.

    ``status`` is what ``stat`` last said of its file, None where there is no such file
    (see ``states.HAS_NO_NAME``; a deleted file that is open has a status).
    ``time_ns`` is about when its next record was written: the moment in its name
    at first, then the time of the last record read.
    """

    name: str
    path: Path
    parsed: SegmentName
    opened_ns: int
    state: State
    id: SegmentId | None = None
    position: Position = START
    status: FileStatus | None = None
    time_ns: int = 0
    file: SegmentFile | None = None  # in states of HAS_OPEN_FILE only
    original: Segment | None = None  # in state COPY only: the segment that this one waits for
    vanished_at: float = 0.0  # monotonic; in states of HAS_NO_NAME only
    copies: list[Segment] = field(default_factory=list)  # that wait for this one
    read_to: int = 0  # raw bytes read before the file was closed
    skip_to: int = 0  # raw bytes to be passed over unread
    lost: int = 0  # bytes, in this run
    served: int = 0  # when its last turn was
    retry_at: float = 0.0  # monotonic: left alone until then
    stuck: bool = False  # its last turn brought nothing although there is more
    short_since: float | None = None  # monotonic: too short to be recognised since then
    queued_in: str | None = None  # the series in which it waits
    identified: tuple[int, int] = (0, 0)  # how many first bytes `id` was made from
    told: set[str] = field(default_factory=set)  # codes of problems already reported

    @property
    def complete(self) -> bool:
        """Whether it has been read, as far as it ever could be."""
        return self.state in IS_COMPLETE

    def readable(self, now: float) -> bool:
        """Whether there may be something to read at `now` (monotonic)."""
        status = self.status
        if status is None or now < self.retry_at:
            return False
        match self.state:
            case State.WAITING:
                return status.finished or status.size > self.read_to
            case State.OPEN | State.DELETED:
                assert self.file is not None
                return status.finished or status.size > self.file.raw_read or self.file.more
            case State.IN_DOUBT | State.COMPLETE_IN_DOUBT:
                return True
        return False

    def grown_to(self, size: int) -> bool:
        """Whether a file of `size` bytes goes on behind the end of this complete segment."""
        return 0 < self.position.frame_start < size

    def checkpoint(self) -> Checkpoint:
        """What to store."""
        return Checkpoint(self.id or SegmentId(self.name, 0), self.position, self.complete)
