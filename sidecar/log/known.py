"""The segments that are known, in their series; how far each has been read.

No I/O.  In: names, states of files, checkpoints of earlier runs.  Out: which
segment may be read next, which others a new one may be a copy of, and what has
changed that is to be stored.
"""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from .blocks import START
from .file import FileStatus
from .identity import SegmentId, fingerprint, fingerprint_fits, is_unique
from .names import parse_name
from .segment import Checkpoint, Segment

_LINE_FEED = ord("\n")


class KnownSegments:
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
        self._by_content: dict[str, list[Segment]] = {}

    def add(
        self,
        name: str,
        path: Path,
        state: FileStatus | None,
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
            self.identify(segment, checkpoint.id)
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
        self.identify(segment, None)
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
        self.unqueue(segment)
        if segment.vanished_at is None:
            segment.vanished_at = time.monotonic()
            self.vanished.append(segment)
        self.release_copies(segment)

    def appear(self, segment: Segment, state: FileStatus) -> None:
        """The segment's file is (back) in its place, or perhaps another."""
        if segment.vanished_at is not None:
            segment.vanished_at = None
            self.vanished.remove(segment)
            segment.suspect = True
        segment.state = state
        self.queue(segment)

    def replaced(self, segment: Segment) -> None:
        """Another segment has taken this one's name: that one is gone, and this one is new."""
        self.release_copies(segment)
        known = segment.id
        self.identify(segment, None)
        old = replace(segment, queued_in=None, state=None, copies=[], vanished_at=time.monotonic())
        self.identify(old, known)
        self.vanished.append(old)
        if old.parsed.identity is not None:
            self._by_identity[old.parsed.identity].append(old)
        segment.identified = (0, 0)
        segment.position = START
        segment.done = False
        segment.skip_to = 0

    # -- which is a copy of which ------------------------------------------------------

    def identify(self, segment: Segment, identity: SegmentId | None) -> None:
        """Note what the segment can be recognised by."""
        before = "" if segment.id is None else segment.id.content
        after = "" if identity is None else identity.content
        segment.id = identity
        if before == after:
            return
        if before:
            self._by_content[before].remove(segment)
            if not self._by_content[before]:
                del self._by_content[before]
        if after:
            self._by_content.setdefault(after, []).append(segment)

    def release_copies(self, segment: Segment) -> list[Segment]:
        """Copies of this segment, which need not wait for it any longer."""
        released = [copy for copy in segment.copies if copy.copy_of is segment]
        for copy in released:
            copy.copy_of = None
        segment.copies.clear()
        return released

    def original(self, segment: Segment, content: bytes) -> Segment | None:
        """The known segment that this unknown one, beginning with `content`, is a copy of.

        Of several the one that is read furthest.
        """
        ends = {len(content)} | {at + 1 for at, byte in enumerate(content) if byte == _LINE_FEED}
        found = [
            known
            for end in ends - {0}
            for known in self._by_content.get(fingerprint(content[:end]), ())
            if known is not segment
            and known.copy_of is None
            and (is_unique(content[:end]) or _may_be(segment, known))
        ]
        return max(found, key=lambda known: (known.done, known.position.offset), default=None)

    def may_become_copy(self, segment: Segment, content: bytes) -> bool:
        """Whether a known segment of the same moment and series begins with more than `content`."""
        alike = self._by_identity.get(segment.parsed.identity or (0, ""), [])
        return any(
            fingerprint_fits(known.id.content, content) is None
            for known in alike
            if known is not segment and known.id is not None
        )


def _may_be(segment: Segment, known: Segment) -> bool:
    """Whether names and inodes say that they are one, where contents prove nothing."""
    mine, other = segment.parsed.identity, known.parsed.identity
    if mine is not None and mine == other:
        return True
    inode = 0 if segment.state is None else segment.state.inode
    if known.vanished_at is None:  # two names of one file?
        return known.state is not None and known.state.inode == inode
    if mine is None and other is None:
        return True
    if mine is not None and other is not None:
        return False  # opened at another moment: the number of its inode was used again
    return known.id is not None and known.id.inode == inode


def _order(segment: Segment) -> tuple[int, str]:
    return (segment.opened_ns, segment.name)
