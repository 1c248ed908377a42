"""Reading many segments in order: known segments in, batches of blocks with checkpoints out.

Knows which segment is read next, which segment is which (renamed, recompressed,
restored, replaced), and how far each has been read.  How segments are found is
``tail``'s business.
"""

from __future__ import annotations

import math
import time
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from sidecar.problems import Problem
from sidecar.times import NS

from .codec import foreign_format
from .file import FileState, SegmentFile
from .names import SegmentName, parse_name
from .segment import (
    START,
    Block,
    Position,
    SegmentId,
    content_head,
    fingerprint,
    fingerprint_fits,
)

BATCH_SIZE: Final = 4 * 1024 * 1024
"""Decompressed bytes in a batch, about."""

OPEN_MAX: Final = 8
"""Segments open at once; each holds up to 4 MB of buffers, mostly zstd's window."""

RETRY_SECONDS: Final = 2.0
"""How long a segment that could not be read, or recognised, is left alone."""

_AGAIN_SECONDS: Final = 0.01

VANISHED_KEPT: Final = 4096
"""How many segments are remembered whose files are gone."""

_NAMES_KEPT: Final = 100
_TIMESTAMP: Final = b'"timestamp":'

OnProblem = Callable[[Problem], None]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a segment has been read; ``done``: finished and wholly read, or lost."""

    id: SegmentId
    position: Position
    done: bool


@dataclass(frozen=True, slots=True)
class Batch:
    """What was read since the last batch, to be committed together with its effects.

    ``checkpoints`` holds what has changed, by segment name; ``forget`` names
    segments whose checkpoints are of no use any more (a name is never in
    both).  ``finished`` names segments now wholly read, ``lost`` those that
    were deleted before they were.
    """

    blocks: tuple[Block, ...] = ()
    checkpoints: Mapping[str, Checkpoint] = field(default_factory=dict)
    forget: frozenset[str] = frozenset()
    finished: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


@dataclass(slots=True)
class TailStats:
    """Counts since this run began; ``lost_names`` are the latest of ``segments_lost``."""

    lines: int = 0
    bad_lines: int = 0
    bytes: int = 0
    bytes_lost: int = 0
    segments_read: int = 0
    segments_lost: int = 0
    lost_names: deque[str] = field(default_factory=lambda: deque(maxlen=_NAMES_KEPT))

    def add(self, block: Block) -> None:
        """Count a block.  ``lines`` includes the bad ones."""
        self.lines += block.lines + block.bad_lines
        self.bad_lines += block.bad_lines
        self.bytes += len(block.data)
        self.bytes_lost += block.lost_bytes


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
    suspect: bool = False  # may not be the segment its checkpoint is of
    file: SegmentFile | None = None
    read_to: int = 0  # raw bytes, of a file that is not open
    time_ns: int = 0
    served: int = 0
    foreign: bool = False  # in a format not read here
    skip_to: int = 0  # raw bytes to be passed over unread
    copy_of: Segment | None = None
    retry_at: float = 0.0
    identified: tuple[int, int] = (0, 0)  # how many first bytes `id` was made from
    short_since: float | None = None
    vanished_at: float | None = None
    queued_in: str | None = None
    lost: int = 0  # bytes, in this run
    told: set[str] = field(default_factory=set)

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


class Reading:
    """The segments, and the turns in which they are read.

    `final`: every file is read as one that nothing more is written to.
    """

    def __init__(
        self, *, on_problem: OnProblem, final: bool = False, stats: TailStats | None = None
    ) -> None:
        self.stats = TailStats() if stats is None else stats
        self.segments: dict[str, Segment] = {}
        self.vanished: list[Segment] = []
        """Segments whose file is gone, kept to recognise them should it come back."""
        self._on_problem = on_problem
        self._final = final
        self._series: dict[str, list[Segment]] = {}
        self._by_identity: dict[tuple[int, str], list[Segment]] = {}
        self._open: list[Segment] = []  # least recently used first
        self._turn = 0
        self._changed: dict[str, Segment] = {}
        self._forget: set[str] = set()
        self._finished: list[str] = []
        self._lost: list[str] = []
        self._drained: list[Block] = []

    # -- what is known ---------------------------------------------------------------

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

    def queue(self, segment: Segment) -> None:
        """Put a segment that may have something to read into its series."""
        unread = not (segment.done or segment.foreign)
        if segment.queued_in is None and (segment.suspect or unread):
            series = segment.queued_in = self._series_of(segment)
            insort(self._series.setdefault(series, []), segment, key=_order)

    def _series_of(self, segment: Segment) -> str:
        """Segments of one series are read one after the other.

        Those with no moment in their names may well have been written side by
        side: each is a series of its own, unless it is finished and one of many.
        """
        growing = segment.state is not None and not segment.state.finished
        alone = segment.parsed.opened_ns is None and (growing or self._final)
        series = segment.name if alone else segment.parsed.series
        return f"{segment.path.parent}/{series}{'/' if alone else ''}"

    def _unqueue(self, segment: Segment) -> None:
        series, segment.queued_in = segment.queued_in, None
        if series is not None:
            self._series[series].remove(segment)
            if not self._series[series]:
                del self._series[series]

    async def remove(self, segment: Segment) -> None:
        """Forget a segment altogether, its checkpoint included."""
        await self.close(segment)
        self._unqueue(segment)
        self._changed.pop(segment.name, None)
        if self.segments.get(segment.name) is segment:
            del self.segments[segment.name]
        if segment.name not in self.segments:
            self._forget.add(segment.name)
        if segment in self.vanished:
            self.vanished.remove(segment)
        if segment.parsed.identity is not None:
            twins = self._by_identity.get(segment.parsed.identity, [])
            if segment in twins:
                twins.remove(segment)
            if not twins:
                self._by_identity.pop(segment.parsed.identity, None)

    def forget(self, name: str) -> None:
        """A checkpoint of an earlier run is of no use any more."""
        self._forget.add(name)

    def pass_over(self, segment: Segment) -> None:
        """The segment counts as done without having been read."""
        segment.done = True
        self._unqueue(segment)
        self.change(segment)

    def change(self, segment: Segment) -> None:
        """Note that the segment's checkpoint is to be stored."""
        if self.segments.get(segment.name) is segment:
            self._changed[segment.name] = segment
            self._forget.discard(segment.name)

    def waiting(self) -> Iterator[Segment]:
        """Segments that are not done."""
        for segments in self._series.values():
            yield from segments

    async def vanish(self, segment: Segment) -> None:
        """The segment's file is gone: deleted, or renamed, which the next days may show.

        A deleted file that is open can still be read to its end.
        """
        if segment.vanished_at is not None:
            return
        segment.state = None
        segment.vanished_at = time.monotonic()
        self.vanished.append(segment)
        self._unqueue(segment)
        for copy in self._copies(segment):
            copy.copy_of = None
        if segment.file is not None and segment.file.is_deleted():
            await self._drain(segment)

    def appear(self, segment: Segment, state: FileState) -> None:
        """The segment's file is (back) in its place, or perhaps another."""
        if segment.vanished_at is not None:
            segment.vanished_at = None
            self.vanished.remove(segment)
            segment.suspect = True
        segment.state = state
        self.queue(segment)

    async def settle(self, *, grace: float, before_ns: int | None = None) -> None:
        """Conclude about vanished segments what can be concluded after `grace` seconds.

        What was not wholly read is lost.  Those that were opened before
        `before_ns`, or are too many, are forgotten.
        """
        due = time.monotonic() - grace
        for segment in list(self.vanished):
            if segment.vanished_at is not None and segment.vanished_at <= due:
                await self._drain(segment)
                if not segment.done:
                    self._lose(segment)
        old = [
            segment
            for segment in self.vanished
            if segment.done and before_ns is not None and segment.time_ns < before_ns
        ]
        too_many = self.vanished[: max(len(self.vanished) - VANISHED_KEPT, 0)]
        for segment in {*old, *(s for s in too_many if s.done)}:
            await self.remove(segment)

    def _lose(self, segment: Segment) -> None:
        self.stats.segments_lost += 1
        self.stats.lost_names.append(segment.name)
        self._lost.append(segment.name)
        segment.done = True
        self.change(segment)
        self._problem(
            segment,
            "segment-lost",
            "deleted before it was wholly read: "
            f"what came after line {segment.position.lines} is lost",
        )

    async def _drain(self, segment: Segment) -> None:
        """Read what can still be read of a file that has lost its name."""
        file = segment.file
        if file is None:
            return
        try:
            while (block := await file.drain()) is not None:
                self._moved(segment, file, block.position)
                segment.lost += block.lost_bytes
                self._drained.append(block)
            await self._end(segment, file)
        except OSError:
            await self.close(segment)

    def _copies(self, segment: Segment) -> list[Segment]:
        """Segments that turned out to be copies of this one while it was still being read."""
        twins = self._by_identity.get(segment.parsed.identity or (0, ""), [])
        return [twin for twin in twins if twin.copy_of is segment]

    # -- reading ----------------------------------------------------------------------

    async def next_batch(self) -> Batch | None:
        """What can be read now, up to about BATCH_SIZE; None where there is nothing new."""
        blocks, self._drained = self._drained, []
        size = 0
        for block in blocks:
            self.stats.add(block)
        while size < BATCH_SIZE and (segment := self._pick()) is not None:
            read = await self._read(segment)
            if read is not None:
                self.stats.add(read)
                blocks.append(read)
                size += len(read.data)
        if not (blocks or self._changed or self._forget or self._finished or self._lost):
            return None
        batch = Batch(
            tuple(blocks),
            {name: self._checkpoint(segment) for name, segment in self._changed.items()},
            frozenset(self._forget),
            tuple(self._finished),
            tuple(self._lost),
        )
        self._changed, self._forget, self._finished, self._lost = {}, set(), [], []
        return batch

    def retry_at(self) -> float:
        """When (monotonic) the next segment that was left alone is to be tried again."""
        waits = (s.retry_at for s in self.waiting() if s.state is not None and s.copy_of is None)
        now = time.monotonic()
        return min((at for at in waits if at > now), default=math.inf)

    def _checkpoint(self, segment: Segment) -> Checkpoint:
        known = segment.id or SegmentId(segment.name, 0)
        return Checkpoint(known, segment.position, segment.done)

    def _pick(self) -> Segment | None:
        """Whose turn it is: of each series the oldest that has something, of these the one
        whose records are oldest, among equals the one that has waited longest."""
        now = time.monotonic()
        best: Segment | None = None
        for segments in self._series.values():
            head = next((s for s in segments if s.readable(now)), None)
            if head is not None and (best is None or _turn(head) < _turn(best)):
                best = head
        if best is not None:
            self._turn += 1
            best.served = self._turn
        return best

    async def _read(self, segment: Segment) -> Block | None:
        try:
            if (segment.file is None or segment.suspect) and not await self._begin(segment):
                return None
            return await self._next_block(segment)
        except FileNotFoundError:
            await self.close(segment)
            await self.vanish(segment)
        except OSError as error:
            await self.close(segment)
            segment.retry_at = time.monotonic() + RETRY_SECONDS
            self._problem(segment, "segment-unreadable", f"can't be read: {error.strerror}")
        return None

    async def _next_block(self, segment: Segment) -> Block | None:
        file = segment.file
        assert file is not None
        self._open.remove(segment)
        self._open.append(segment)
        before = file.raw_read
        while True:
            stop_at = segment.skip_to or None
            block = await file.next_block(stop_at=stop_at)
            if block is not None:
                self._moved(segment, file, block.position)
                if stop_at is not None:
                    continue
                segment.lost += block.lost_bytes
                segment.time_ns = max(segment.time_ns, _last_time_ns(block.data))
                return block
            if stop_at is None or file.at_end:
                break
            segment.skip_to = 0
            if file.raw_read < stop_at:
                break
            self._moved(segment, file, file.reader.position)
        if file.at_end:
            await self._end(segment, file)
        else:
            segment.state = file.state()
            if segment.state.size < file.raw_read:  # truncated: perhaps for other content
                segment.suspect = True
                segment.retry_at = time.monotonic() + RETRY_SECONDS / 4
            elif segment.state.size > file.raw_read == before:  # it has just grown
                segment.retry_at = time.monotonic() + _AGAIN_SECONDS
        return None

    def _moved(self, segment: Segment, file: SegmentFile, position: Position) -> None:
        segment.position = position
        self._identify(segment, file)
        self.change(segment)

    def _identify(self, segment: Segment, file: SegmentFile) -> None:
        """Keep the identity up to date while the first bytes are still coming."""
        content = file.reader.content
        sizes = (len(file.head), len(content))
        if segment.id is not None and segment.identified == sizes:
            return
        segment.identified = sizes
        known = segment.id or SegmentId(segment.name, 0)
        segment.id = SegmentId(
            segment.name,
            known.inode if segment.state is None else segment.state.inode,
            fingerprint(file.head),
            fingerprint(content) or known.content,
        )

    async def _end(self, segment: Segment, file: SegmentFile) -> None:
        """The segment is finished and wholly read."""
        if segment.state is not None:
            segment.state = file.state()
        self._moved(segment, file, file.reader.end_position())
        await self._done(segment)
        self.stats.segments_read += 1
        self._finished.append(segment.name)
        self._report_loss(segment, file)
        await self.close(segment)

    def _report_loss(self, segment: Segment, file: SegmentFile) -> None:
        damage = file.reader.damage
        if damage is not None:
            where = f"damaged at byte {damage.offset} ({damage.reason})"
            self._problem(segment, "segment-damaged", f"{where}: {segment.lost} bytes are lost")
        elif segment.lost:
            where = f"ends in the middle of a line: {segment.lost} bytes are lost"
            self._problem(segment, "segment-cut", f"{where}. Was kumod killed, or the disk full?")

    async def _done(self, segment: Segment) -> None:
        segment.done = True
        segment.suspect = False
        self._unqueue(segment)
        self.change(segment)
        for copy in self._copies(segment):
            copy.copy_of = None
            await self._adopt(copy, segment, same_bytes=False)

    # -- which segment is which -------------------------------------------------------

    async def _begin(self, segment: Segment) -> bool:
        """Open the segment's file at its position; False where it isn't to be read (now)."""
        await self.close(segment)
        file = await SegmentFile.open(segment.path, final=self._final)
        try:
            segment.state = file.state()
            if not await self._recognise(segment, file):
                segment.read_to = segment.state.size
                return False
            await file.begin(segment.name, segment.position)
            segment.file = file
            segment.identified = (0, 0)
        finally:
            if segment.file is None:
                await file.close()
        self._open.append(segment)
        while len(self._open) > OPEN_MAX:
            await self.close(self._open[0])
        return True

    async def close(self, segment: Segment) -> None:
        """Close the segment's file, if open; reading goes on at its position later."""
        file, segment.file = segment.file, None
        if file is not None:
            segment.read_to = file.raw_read
            self._open.remove(segment)
            await file.close()

    async def close_all(self) -> None:
        """Close all files."""
        for segment in list(self._open):
            await self.close(segment)

    async def _recognise(self, segment: Segment, file: SegmentFile) -> bool:
        """Find out what this file is; whether it is to be read, from ``segment.position``."""
        raw = file.first_chunk
        foreign = foreign_format(raw)
        segment.foreign = foreign is not None
        if segment.foreign:
            segment.suspect = False
            self._unqueue(segment)
            self._problem(segment, "unsupported-format", f"is compressed with {foreign}: not read")
            return False
        if segment.id is not None:
            same = self._compare(segment, segment.id, raw)
            if same is None:
                return False
            if not same:
                self._replaced(segment)
        if segment.id is None and not await self._look_for_twin(segment, raw):
            return False
        segment.suspect = False
        segment.short_since = None
        if segment.id is not None and segment.state is not None:
            known = replace(segment.id, inode=segment.state.inode, fingerprint=fingerprint(raw))
            if known != segment.id:
                segment.id = known
                self.change(segment)
        if segment.done:
            self._unqueue(segment)
            return False
        return segment.copy_of is None

    def _compare(self, segment: Segment, known: SegmentId, raw: bytes) -> bool | None:
        """Whether `raw` begins the known segment; None where that can't be said yet.

        Recompressed, it is to be read from its beginning up to where we were.
        """
        assert segment.state is not None
        same = fingerprint_fits(known.fingerprint, raw)
        if same:
            return True
        content = fingerprint_fits(known.content, content_head(raw))
        if content and known.content:
            segment.position = replace(segment.position, frame_start=0, frame_offset=0)
            return True
        if (same is None or content is None) and not segment.state.finished:
            now = time.monotonic()
            segment.short_since = segment.short_since or now
            if not raw or now < segment.short_since + RETRY_SECONDS:
                segment.retry_at = now + RETRY_SECONDS / 4
                return None
        return False

    def _replaced(self, segment: Segment) -> None:
        """Another segment has taken this one's name: that one is gone."""
        old = replace(segment, queued_in=None, state=None, vanished_at=time.monotonic())
        self.vanished.append(old)
        if old.parsed.identity is not None:
            self._by_identity[old.parsed.identity].append(old)
        segment.id = None
        segment.identified = (0, 0)
        segment.position = START
        segment.done = False
        segment.skip_to = 0

    async def _look_for_twin(self, segment: Segment, raw: bytes) -> bool:
        """Look for a segment that this unknown one is a copy of, and take over from it.

        False where it can't be said yet whether it is one.
        """
        candidates = [
            known
            for known in self._candidates(segment)
            if known is not segment and known.id is not None and known.id.content
        ]
        if not candidates:
            return True
        content = content_head(raw)
        for known in candidates:
            assert known.id is not None
            assert segment.state is not None
            fits = fingerprint_fits(known.id.content, content)
            if fits is None and not segment.state.finished:
                segment.retry_at = time.monotonic() + RETRY_SECONDS / 4
                return False
            if fits:
                same_bytes = bool(fingerprint_fits(known.id.fingerprint, raw))
                if known.state is not None and not known.done and not known.suspect:
                    segment.copy_of = known
                else:
                    await self._adopt(segment, known, same_bytes=same_bytes)
                return True
        return True

    def _candidates(self, segment: Segment) -> Iterator[Segment]:
        """Known segments that this one may be a copy of, by their names or inodes.

        Contents alone prove nothing: segments may begin alike.
        """
        assert segment.state is not None
        identity = segment.parsed.identity
        if identity is not None:
            yield from self._by_identity.get(identity, [])
        for known in self.vanished:
            other = known.parsed.identity
            if other == identity is not None:
                continue  # is among those above
            if other is not None and identity is not None and other[0] != identity[0]:
                continue  # opened at another moment
            by_inode = known.id is not None and known.id.inode == segment.state.inode
            if by_inode or (identity is None and known.parsed.identity is None):
                yield known

    async def _adopt(self, segment: Segment, known: Segment, *, same_bytes: bool) -> None:
        """`segment` is what `known` was, under another name or compressed another way."""
        assert known.id is not None
        segment.id = replace(known.id, name=segment.name)
        segment.position = known.position
        if not same_bytes:
            segment.position = replace(known.position, frame_start=0, frame_offset=0)
        segment.done = known.done
        segment.time_ns = max(segment.time_ns, known.time_ns)
        if known.state is None:
            await self.remove(known)
        if segment.done:
            self._unqueue(segment)
        self.change(segment)

    def _problem(self, segment: Segment, code: str, message: str) -> None:
        """Report it, once for each segment."""
        if code not in segment.told:
            segment.told.add(code)
            self._on_problem(Problem("warning", code, message, file=str(segment.path)))


def _order(segment: Segment) -> tuple[int, str]:
    return (segment.opened_ns, segment.name)


def _turn(segment: Segment) -> tuple[int, int]:
    return (segment.time_ns // NS, segment.served)


def first_time_ns(data: bytes) -> int:
    """The ``timestamp`` of the first record in `data`, 0 where none is found."""
    return _timestamp(data, data.find(_TIMESTAMP))


def _last_time_ns(data: bytes) -> int:
    return _timestamp(data, data.rfind(_TIMESTAMP, max(len(data) - 65536, 0)))


def _timestamp(data: bytes, at: int) -> int:
    if at < 0:
        return 0
    at += len(_TIMESTAMP)
    digits = data[at : at + 12].split(b",", 1)[0].rstrip(b"}")
    return int(digits) * NS if digits.isdigit() else 0
