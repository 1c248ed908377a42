"""A segment: its file, how far it has been read, and what to store of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from .blocks import START, Position
from .file import FileStatus, SegmentFile
from .identity import SegmentId
from .names import SegmentName


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a segment has been read; ``done``: finished and wholly read, or lost."""

    id: SegmentId
    position: Position
    done: bool


@dataclass(slots=True, eq=False)
class Segment:
    """A segment and all that is known of it.

    ``state`` is what its file was like when last looked at, None where there is
    no such file.  ``time_ns`` is when its next record was written, about: its
    name at first, then the last record read.
    """

    name: str
    path: Path
    parsed: SegmentName
    opened_ns: int
    id: SegmentId | None = None
    position: Position = START
    done: bool = False
    state: FileStatus | None = None
    file: SegmentFile | None = None
    time_ns: int = 0
    suspect: bool = False  # may not be the segment its checkpoint is of
    foreign: bool = False  # in a format not read here
    copy_of: Segment | None = None  # which is still being read
    copies: list[Segment] = field(default_factory=list)  # that wait until this one is read
    read_to: int = 0  # raw bytes, of a file that is not open
    skip_to: int = 0  # raw bytes to be passed over unread
    lost: int = 0  # bytes, in this run
    served: int = 0  # when its last turn was
    retry_at: float = 0.0  # monotonic: left alone until then
    stuck: bool = False  # read last time without getting on
    short_since: float | None = None  # monotonic: too short since then to be recognised
    vanished_at: float | None = None  # monotonic
    queued_in: str | None = None  # the series it is waiting in
    identified: tuple[int, int] = (0, 0)  # how many first bytes `id` was made from
    told: set[str] = field(default_factory=set)  # problems already reported

    def readable(self, now: float) -> bool:
        """Whether there may be something to read."""
        state = self.state
        if state is None or self.copy_of is not None or now < self.retry_at:
            return False
        if self.suspect:
            return True
        if self.done:
            return False
        if self.file is None:
            return state.finished or state.size > self.read_to
        return state.finished or state.size > self.file.raw_read or self.file.more

    def grown_to(self, size: int) -> bool:
        """Whether a file of `size` bytes goes on behind the end of this segment, which is done."""
        return 0 < self.position.frame_start < size

    def checkpoint(self) -> Checkpoint:
        """What to store."""
        return Checkpoint(self.id or SegmentId(self.name, 0), self.position, self.done)
