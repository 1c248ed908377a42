"""The segments that are known, in their series; how far each has been read.

No I/O.  In: names, states of files, checkpoints of earlier runs.  Out: which
segment may be read next, which others a new one may be a copy of, and what has
changed that is to be stored.
"""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from .file import FileState, SegmentFile
from .identity import SegmentId
from .names import SegmentName, parse_name
from .reader import START, Position


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
    state: FileState | None = None
    file: SegmentFile | None = None
    time_ns: int = 0
    suspect: bool = False  # may not be the segment its checkpoint is of
    foreign: bool = False  # in a format not read here
    copy_of: Segment | None = None  # which is still being read
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


class Known:
    """All segments that are known.

    ``vanished`` are those whose file is gone, kept to recognise them should it
    come back under any name.  ``changed`` (by name) and ``forgotten`` are what
    the next batch is to store; no name is in both.
    """

    def __init__(self, *, side_by_side: bool = False) -> None:
        """`side_by_side`: segments without a moment in their names are read all at once."""
        self.segments: dict[str, Segment] = {}
        self.vanished: list[Segment] = []
        self.changed: dict[str, Segment] = {}
        self.forgotten: set[str] = set()
        self._side_by_side = side_by_side
        self._series: dict[str, list[Segment]] = {}
        self._by_identity: dict[tuple[int, str], list[Segment]] = {}

    def add(
        self,
        name: str,
        path: Path,
        state: FileState | None,
        *,
        checkpoint: Checkpoint | None = None,
        opened_ns: int = 0,
    ) -> Segment:
        """Make a segment known, `checkpoint` being how far an earlier run came.

        `opened_ns` is for those whose name doesn't say it.
        """
        parsed = parse_name(path.name)
        opened_ns = parsed.opened_ns or opened_ns
        segment = Segment(name, path, parsed, opened_ns, state=state, time_ns=opened_ns)
        if checkpoint is not None:
            segment.id = checkpoint.id
            segment.position = checkpoint.position
            segment.done = checkpoint.done
        self.segments[name] = segment
        if parsed.identity is not None:
            self._by_identity.setdefault(parsed.identity, []).append(segment)
        self.queue(segment)
        return segment

    def remove(self, segment: Segment) -> None:
        """Forget a segment altogether, its checkpoint included."""
        self.unqueue(segment)
        if self.segments.get(segment.name) is segment:
            del self.segments[segment.name]
            self.forget(segment.name)
        if segment in self.vanished:
            self.vanished.remove(segment)
        if segment.parsed.identity is not None:
            self._by_identity[segment.parsed.identity].remove(segment)
            if not self._by_identity[segment.parsed.identity]:
                del self._by_identity[segment.parsed.identity]

    # -- what is to be stored ----------------------------------------------------------

    def change(self, segment: Segment) -> None:
        """Note that the segment's checkpoint is to be stored."""
        if self.segments.get(segment.name) is segment:
            self.changed[segment.name] = segment
            self.forgotten.discard(segment.name)

    def forget(self, name: str) -> None:
        """Note that the checkpoint of this name is of no use any more."""
        self.changed.pop(name, None)
        self.forgotten.add(name)

    # -- what is waiting ---------------------------------------------------------------

    def queue(self, segment: Segment) -> None:
        """Put a segment that may have something to read into its series."""
        unread = not (segment.done or segment.foreign)
        if segment.queued_in is None and (segment.suspect or unread):
            series = segment.queued_in = self._series_of(segment)
            insort(self._series.setdefault(series, []), segment, key=_order)

    def unqueue(self, segment: Segment) -> None:
        """Take a segment that has nothing to read out of its series."""
        series, segment.queued_in = segment.queued_in, None
        if series is not None:
            self._series[series].remove(segment)
            if not self._series[series]:
                del self._series[series]

    def done(self, segment: Segment) -> None:
        """The segment need not be read (any more)."""
        segment.done = True
        segment.suspect = False
        self.unqueue(segment)
        self.change(segment)

    def waiting(self) -> Iterator[Segment]:
        """Segments that are not done."""
        for segments in self._series.values():
            yield from segments

    def heads(self) -> Iterator[Segment]:
        """Of each series the oldest segment that may have something to read."""
        now = time.monotonic()
        for segments in self._series.values():
            head = next((segment for segment in segments if segment.readable(now)), None)
            if head is not None:
                yield head

    def _series_of(self, segment: Segment) -> str:
        """Segments of one series are read one after the other.

        Those with no moment in their names may well have been written side by
        side: each is a series of its own, unless it is finished and one of many.
        """
        growing = segment.state is not None and not segment.state.finished
        alone = segment.parsed.opened_ns is None and (growing or self._side_by_side)
        series = segment.name if alone else segment.parsed.series
        return f"{segment.path.parent}/{series}{'/' if alone else ''}"

    # -- coming and going --------------------------------------------------------------

    def vanish(self, segment: Segment) -> None:
        """The segment's file is gone: deleted, or renamed, which the next moments may show."""
        segment.state = None
        segment.vanished_at = time.monotonic()
        self.vanished.append(segment)
        self.unqueue(segment)
        for copy in self.copies(segment):
            copy.copy_of = None

    def appear(self, segment: Segment, state: FileState) -> None:
        """The segment's file is (back) in its place, or perhaps another."""
        if segment.vanished_at is not None:
            segment.vanished_at = None
            self.vanished.remove(segment)
            segment.suspect = True
        segment.state = state
        self.queue(segment)

    def replaced(self, segment: Segment) -> None:
        """Another segment has taken this one's name: that one is gone, and this one is new."""
        old = replace(segment, queued_in=None, state=None, vanished_at=time.monotonic())
        self.vanished.append(old)
        if old.parsed.identity is not None:
            self._by_identity[old.parsed.identity].append(old)
        segment.id = None
        segment.identified = (0, 0)
        segment.position = START
        segment.done = False
        segment.skip_to = 0

    def copies(self, segment: Segment) -> list[Segment]:
        """Segments that turned out to be copies of this one while it was still being read."""
        twins = self._by_identity.get(segment.parsed.identity or (0, ""), [])
        return [twin for twin in twins if twin.copy_of is segment]

    def candidates(self, segment: Segment) -> list[Segment]:
        """Known segments that this unknown one may be a copy of, by their names or inodes.

        Contents alone prove nothing: segments may begin alike.
        """
        identity = segment.parsed.identity
        found = self._by_identity.get(identity, []) if identity is not None else []
        found = [*found, *(known for known in self.vanished if _may_be(segment, known))]
        return [s for s in found if s is not segment and s.id is not None and s.id.content]


def _may_be(segment: Segment, vanished: Segment) -> bool:
    """Whether a vanished segment's name or inode allow it to be this one now."""
    mine, other = segment.parsed.identity, vanished.parsed.identity
    if mine is not None and other is not None and (mine == other or mine[0] != other[0]):
        return False  # is among those of the same identity, or was opened at another moment
    if mine is None and other is None:
        return True
    inode = None if segment.state is None else segment.state.inode
    return vanished.id is not None and vanished.id.inode == inode


def _order(segment: Segment) -> tuple[int, str]:
    return (segment.opened_ns, segment.name)
