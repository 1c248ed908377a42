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
from .states import HAS_NO_NAME, IS_QUEUED, Event, State, first_state, next_state

_LINE_FEED = ord("\n")


class KnownSegments:
    """All segments that are known.

    ``vanished`` are those whose names are gone, kept to recognise their files should
    they come back under any name.  ``changed`` (by name) and ``forgotten`` are what
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
        status: FileStatus | None,
        *,
        checkpoint: Checkpoint | None = None,
        opened_ns: int = 0,
    ) -> Segment:
        """Make a segment known, `checkpoint` being how far an earlier run came.

        `status` is None where only the checkpoint is left of it.  `opened_ns` is for
        those whose name doesn't say it.
        """
        parsed = parse_name(path.name)
        opened_ns = parsed.opened_ns or opened_ns
        state = first_state(
            has_file=status is not None, complete=checkpoint is not None and checkpoint.done
        )
        segment = Segment(name, path, parsed, opened_ns, state, status=status, time_ns=opened_ns)
        if checkpoint is not None:
            self.identify(segment, checkpoint.id)
            segment.position = checkpoint.position
        self.segments[name] = segment
        if parsed.identity is not None:
            self._by_identity.setdefault(parsed.identity, []).append(segment)
        if state in HAS_NO_NAME:
            self._note_vanished(segment)
        if state in IS_QUEUED:
            self._queue(segment)
        return segment

    def remove(self, segment: Segment) -> None:
        """Forget a segment altogether, its checkpoint included."""
        self.happens(segment, Event.DROPPED)
        if self.segments.get(segment.name) is segment:
            del self.segments[segment.name]
            self.forget(segment.name)
        self.identify(segment, None)
        if segment.parsed.identity is not None:
            self._by_identity[segment.parsed.identity].remove(segment)
            if not self._by_identity[segment.parsed.identity]:
                del self._by_identity[segment.parsed.identity]

    # -- what happens to a segment -----------------------------------------------------

    def happens(self, segment: Segment, event: Event) -> None:
        """Bring a segment into the state that `event` leads to; ImpossibleEventError."""
        before = segment.state
        segment.state = state = next_state(before, event)
        if state in HAS_NO_NAME:
            segment.status = None
            if before not in HAS_NO_NAME:
                self._note_vanished(segment)
        elif before in HAS_NO_NAME:
            self.vanished.remove(segment)
        if state is not State.COPY:
            segment.original = None
        if state in IS_QUEUED:
            self._queue(segment)
        else:
            self._unqueue(segment)

    def complete(self, segment: Segment, event: Event) -> None:
        """Bring a segment to its end by `event`, and have that stored."""
        self.happens(segment, event)
        self.change(segment)

    def vanish(self, segment: Segment) -> None:
        """Note that the segment's name is gone: its file was deleted or renamed.

        Copies wait for it no longer.  A copy that vanishes is forgotten, since its
        original is read.
        """
        if segment.state is State.COPY:
            self.remove(segment)
            return
        self.happens(segment, Event.VANISHED)
        self.release_copies(segment)

    def start_anew(self, segment: Segment) -> None:
        """Make a new segment of this one, whose name another file has taken.

        The old one is remembered as vanished.
        """
        self.release_copies(segment)
        known, state = segment.id, first_state(has_file=False, complete=segment.complete)
        self.identify(segment, None)
        old = replace(segment, state=state, queued_in=None, status=None, copies=[])
        self.identify(old, known)
        self._note_vanished(old)
        if old.parsed.identity is not None:
            self._by_identity[old.parsed.identity].append(old)
        segment.identified = (0, 0)
        segment.position = START
        segment.skip_to = 0
        self.happens(segment, Event.REPLACED)

    def _note_vanished(self, segment: Segment) -> None:
        segment.vanished_at = time.monotonic()
        self.vanished.append(segment)

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

    def _queue(self, segment: Segment) -> None:
        """Put a segment into its series unless it is there."""
        if segment.queued_in is None:
            series = segment.queued_in = self._series_of(segment)
            insort(self._series.setdefault(series, []), segment, key=_order)

    def _unqueue(self, segment: Segment) -> None:
        """Take a segment out of its series if it is there."""
        series, segment.queued_in = segment.queued_in, None
        if series is not None:
            self._series[series].remove(segment)
            if not self._series[series]:
                del self._series[series]

    def waiting(self) -> Iterator[Segment]:
        """The segments that are queued: not complete, or in doubt."""
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
        growing = segment.status is not None and not segment.status.finished
        alone = segment.parsed.opened_ns is None and (growing or self._side_by_side)
        series = segment.name if alone else segment.parsed.series
        return f"{segment.path.parent}/{series}{'/' if alone else ''}"

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

    def release_copies(self, segment: Segment, event: Event = Event.ORIGINAL_GONE) -> list[Segment]:
        """End the waiting of this segment's copies by `event`, and return them."""
        copies, segment.copies = segment.copies, []
        released = [copy for copy in copies if copy.original is segment]
        for copy in released:
            copy.read_to = 0
            self.happens(copy, event)
        return released

    def wait_for(self, original: Segment, copy: Segment) -> None:
        """Have `copy` wait until `original`, which is still read, is complete or gone."""
        self.happens(copy, Event.COPY_FOUND)
        copy.original = original
        original.copies.append(copy)

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
            and known.state is not State.COPY
            and (is_unique(content[:end]) or _may_be(segment, known))
        ]
        return max(found, key=lambda known: (known.complete, known.position.offset), default=None)

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
    inode = 0 if segment.status is None else segment.status.inode
    if known.state not in HAS_NO_NAME:  # two names of one file?
        return known.status is not None and known.status.inode == inode
    if mine is None and other is None:
        return True
    if mine is not None and other is not None:
        return False  # opened at another moment: the number of its inode was used again
    return known.id is not None and known.id.inode == inode


def _order(segment: Segment) -> tuple[int, str]:
    return (segment.opened_ns, segment.name)
