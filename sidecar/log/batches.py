"""Reading many segments in order: known segments in, batches of blocks with checkpoints out.

Knows which segment is read next and which segment is which (renamed,
recompressed, restored, replaced).  How segments are found is ``tail``'s business.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from sidecar.problems import Problem
from sidecar.times import NS

from .blocks import GIVE_UP_EFFORT, Block, Position
from .codec import TURN_EFFORT, foreign_format
from .file import CHUNK_SIZE, FileStatus, SegmentFile
from .identity import SegmentId, content_head, fingerprint, fingerprint_fits
from .known import KnownSegments
from .segment import Checkpoint, Segment
from .states import HAS_NO_NAME, IS_TO_BE_READ, Event, State

BATCH_SIZE: Final = 4 * 1024 * 1024
"""Bytes of the lines kept for a batch, about."""

BATCH_READ: Final = 32 * 1024 * 1024
"""Effort spent on a batch (bytes in and out), about, where few of them are kept.

What comes of a batch is done in one go, by code that decompression has driven out of the
processor's caches: the more seldom, the cheaper.
"""

OPEN_MAX: Final = 64
"""Segments open at once: what is closed is decompressed from its start when it is read on.

At rest each holds what zstd needs to go on: 2 MB for a segment of kumod's.
"""

RETRY_SECONDS: Final = 2.0
"""How long a segment that could not be read, or recognised, is left alone."""

VANISHED_KEPT: Final = 4096
"""How many segments are remembered whose files are gone."""

_MEGABYTES: Final = GIVE_UP_EFFORT // (1024 * 1024)
_TIMESTAMP: Final = b'"timestamp":'

OnProblem = Callable[[Problem], None]


class Sieve(Protocol):
    """Chooses the lines to hand on."""

    def sift(self, data: bytes) -> bytes:
        """Of whole lines those that are wanted, in order, each with its line end."""

    def sift_numbered(self, data: bytes) -> tuple[bytes, Sequence[int] | None]:
        """The same, and which lines they are, counted from 0; None: all of them."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What was read since the last batch, to be committed together with its effects.

    ``checkpoints`` holds what has changed, by segment name; ``forget`` names
    segments whose checkpoints are of no use any more (a name is never in
    both).  ``finished`` names segments now wholly read, ``lost`` those that
    were deleted before they were.  ``more``: another batch follows at once.
    ``sieve`` chose its lines, all of them; None: nothing was left out.
    """

    blocks: tuple[Block, ...] = ()
    checkpoints: Mapping[str, Checkpoint] = field(default_factory=dict)
    forget: frozenset[str] = frozenset()
    finished: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    more: bool = False
    sieve: Sieve | None = None


class BatchReader:
    """The turns in which the known segments are read.

    `final`: every file is read as one that nothing more is written to.  `sieve` is
    asked once a batch for what chooses the lines to keep, while each block is still
    in the processor's cache: that halves what it costs to look through it.
    `numbered`: blocks say which lines those are.
    """

    def __init__(
        self,
        *,
        on_problem: OnProblem,
        final: bool = False,
        sieve: Callable[[], Sieve] | None = None,
        numbered: bool = False,
    ) -> None:
        self._choose_sieve = sieve
        self._numbered = numbered
        self._sieve: Sieve | None = None
        self.known = KnownSegments(side_by_side=final)
        self._on_problem = on_problem
        self._final = final
        self._open: list[Segment] = []  # least recently used first
        self._turn = 0
        self._fruitless: set[Segment] = set()  # their last turns brought nothing
        self._finished: list[str] = []
        self._lost: list[str] = []
        self._effort = 0
        self._more = False  # was said with the last batch
        _keep_freed_memory()

    async def next_batch(self) -> Batch | None:
        """The next batch of what can be read now; None where there is nothing new."""
        blocks: list[Block] = []
        self._effort = kept = 0
        fruitless = False
        while (
            self._effort < BATCH_READ
            and kept < BATCH_SIZE
            and not fruitless
            and (segment := self._choose_segment()) is not None
        ):
            before = self._effort
            block = await self._read(segment)
            if block is not None:
                blocks.append(block)
                kept += len(block.data)
            # What was read for others must not wait until this one yields something.
            fruitless = self._effort - before >= TURN_EFFORT // 4 and not (block and block.size)
            self._note_turn(segment, fruitless=fruitless)
        known = self.known
        new = blocks or known.changed or known.forgotten or self._finished or self._lost
        if not (new or self._more):
            return None
        self._more = fruitless or self._effort >= BATCH_READ or kept >= BATCH_SIZE
        batch = Batch(
            tuple(blocks),
            {name: segment.checkpoint() for name, segment in known.changed.items()},
            frozenset(known.forgotten),
            tuple(self._finished),
            tuple(self._lost),
            self._more,
            self._sieve,
        )
        self._sieve = None
        known.changed, known.forgotten, self._finished, self._lost = {}, set(), [], []
        return batch

    @property
    def turn_over(self) -> bool:
        """Whether a segment brought nothing in its last turn, and is to be read on."""
        return bool(self._fruitless)

    def retry_at(self) -> float:
        """When (monotonic) the next segment that was left alone is to be tried again."""
        now = time.monotonic()
        waits = (s.retry_at for s in self.known.waiting() if s.state is not State.COPY)
        return min((at for at in waits if at > now), default=math.inf)

    async def close_all(self) -> None:
        """Close all files."""
        for segment in list(self._open):
            await self._close(segment)

    # -- coming and going --------------------------------------------------------------

    async def vanish(self, segment: Segment) -> None:
        """Note that the segment's name is gone; a deleted file that is open is read to its end."""
        if segment.state in HAS_NO_NAME:
            return
        self.known.vanish(segment)
        if segment.file is not None and segment.file.is_deleted():
            await self._read_deleted(segment, segment.file)

    async def appear(self, segment: Segment, status: FileStatus) -> None:
        """Note that there is a file again under the name of a vanished segment."""
        await self._close(segment)
        segment.status = status
        self.known.happens(segment, Event.APPEARED)

    async def doubt(self, segment: Segment) -> None:
        """Have it checked whether the segment's file is still the one that was read."""
        await self._close(segment)
        self.known.happens(segment, Event.CHANGED)

    async def forget(self, segment: Segment) -> None:
        """Forget a segment altogether."""
        await self._close(segment)
        self.known.remove(segment)

    async def conclude_vanished(self, *, grace: float, old: Collection[str] = ()) -> None:
        """Take the segments that vanished more than `grace` seconds ago for deleted.

        What was not wholly read is lost.  Those that are complete are forgotten
        if they are among `old` (names), or too many.
        """
        due = time.monotonic() - grace
        vanished = self.known.vanished
        for segment in [s for s in vanished if s.vanished_at <= due]:
            if segment.file is not None and segment.state is State.MOVED:
                await self._read_deleted(segment, segment.file)
            elif segment.state is State.MISSING:
                self._lose(segment)
        for segment in [s for s in vanished if s.state is State.GONE and s.name in old]:
            await self.forget(segment)
        too_many = vanished[: max(len(vanished) - VANISHED_KEPT, 0)]
        for segment in [s for s in too_many if s.state is State.GONE]:
            await self.forget(segment)

    async def _read_deleted(self, segment: Segment, file: SegmentFile) -> None:
        """Have the rest of an open file that has lost its name read, in turns as any other."""
        file.read_to_the_end()
        try:
            status = file.status()
        except OSError:
            await self._close(segment)  # the rest is lost, which is said later
            return
        self.known.happens(segment, Event.GRACE_OVER)
        segment.status = status
        segment.retry_at = 0.0

    def _lose(self, segment: Segment) -> None:
        """Count a segment that was deleted before it was wholly read."""
        self._lost.append(segment.name)
        # Of a complete segment, frame_start is where its file ends.  Should this one
        # come back, what it then has beyond what was had of it is read after all.
        had = max(segment.read_to, segment.position.frame_start, 1)
        segment.position = replace(segment.position, frame_start=had)
        self.known.complete(segment, Event.GRACE_OVER)
        what = f"what came after line {segment.position.lines} is lost"
        self._report(segment, "segment-lost", f"deleted before it was wholly read: {what}")

    # -- reading -----------------------------------------------------------------------

    def _choose_segment(self) -> Segment | None:
        """The segment whose turn it is: the first of the series whose records are oldest.

        Among equals, as live segments are, the one that has waited longest.
        """
        heads = list(self.known.heads())
        deleted = [head for head in heads if head.state is State.DELETED]
        if len(deleted) >= OPEN_MAX:
            heads = deleted  # they can't be closed until they are read
        if self._fruitless.issuperset(heads):
            self._fruitless.clear()
        heads = [head for head in heads if head not in self._fruitless]
        head = min(heads, key=_turn_order, default=None)
        if head is not None:
            self._turn += 1
            head.served = self._turn
        return head

    def _note_turn(self, segment: Segment, *, fruitless: bool) -> None:
        """After a turn that brought nothing the others come first, each once."""
        if fruitless:
            self._fruitless.add(segment)
        else:
            self._fruitless.clear()

    async def _read(self, segment: Segment) -> Block | None:
        """The segment's next lines; None where its turn brings none."""
        try:
            file = segment.file or await self._open_segment(segment)
            if file is None:
                return None
            self._open.remove(segment)
            self._open.append(segment)
            if segment.skip_to and not await self._pass_over(segment, file):
                return None
            return await self._next_block(segment, file)
        except FileNotFoundError:
            await self._close(segment)
            await self.vanish(segment)
        except OSError as error:
            await self._close(segment)
            segment.retry_at = time.monotonic() + RETRY_SECONDS
            self._report(segment, "segment-unreadable", f"can't be read: {error.strerror}")
        return None

    async def _next_block(self, segment: Segment, file: SegmentFile) -> Block | None:
        """The next lines of an open segment; None where there are none now, or none any more."""
        before = file.raw_read
        effort = file.reader.effort
        block = await file.next_block()
        self._effort += file.reader.effort - effort
        if block is not None:
            self._set_position(segment, file, block.position)
            segment.lost += block.lost_bytes
            segment.time_ns = max(segment.time_ns, _last_time_ns(block.data))
            return self._sifted(block)
        if file.at_end:
            await self._complete(segment, file)
        elif not file.more:
            segment.status = status = file.status()
            # There is more: it has just grown, or it says that it is larger than it is.
            nothing_read = status.size > file.raw_read == before
            if nothing_read and segment.stuck:
                segment.retry_at = time.monotonic() + RETRY_SECONDS
            segment.stuck = nothing_read
            if status.size < file.raw_read:  # truncated: perhaps for other content
                await self.doubt(segment)
                segment.retry_at = time.monotonic() + RETRY_SECONDS / 4
        return None

    def _sifted(self, block: Block) -> Block:
        """The block with those of its lines that are wanted."""
        if self._choose_sieve is None:
            return block
        if self._sieve is None:
            self._sieve = self._choose_sieve()
        if self._numbered:
            data, numbers = self._sieve.sift_numbered(block.data)
            return replace(block, data=data, numbers=numbers)
        return replace(block, data=self._sieve.sift(block.data))

    async def _pass_over(self, segment: Segment, file: SegmentFile) -> bool:
        """Skip a part of what the file held when it was found; True once all of it is skipped.

        Returns False, too, where the segment turns out to end there.
        """
        effort = file.reader.effort
        block = await file.next_block(stop_at=segment.skip_to)
        self._effort += file.reader.effort - effort
        self._set_position(segment, file, file.reader.position if block is None else block.position)
        if block is not None or file.more:
            return False
        if file.raw_read >= segment.skip_to:
            segment.skip_to = 0
        if file.at_end:
            await self._complete(segment, file)
        elif segment.skip_to:
            segment.retry_at = time.monotonic() + RETRY_SECONDS / 4
        return segment.file is not None and not segment.skip_to

    def _set_position(self, segment: Segment, file: SegmentFile, position: Position) -> None:
        segment.position = position
        self._identify(segment, file)
        self.known.change(segment)

    def _identify(self, segment: Segment, file: SegmentFile) -> None:
        """Note more of what identifies the segment while its first bytes are still coming."""
        content = file.reader.content
        sizes = (len(file.head), len(content))
        if segment.id is not None and segment.identified == sizes:
            return
        segment.identified = sizes
        known = segment.id or SegmentId(segment.name, 0)
        now = SegmentId(
            segment.name,
            known.inode if segment.status is None else segment.status.inode,
            fingerprint(file.head),
            fingerprint(content) or known.content,
        )
        self.known.identify(segment, now)

    async def _complete(self, segment: Segment, file: SegmentFile) -> None:
        """Note that the segment is finished and wholly read, and its copies with it."""
        if segment.state is State.OPEN:
            segment.status = file.status()
        end = file.reader.position if file.given_up else file.reader.end_position()
        self._set_position(segment, file, end)
        self._finished.append(segment.name)
        self._report_loss(segment, file)
        await self._close(segment, Event.ENDED)
        self.known.change(segment)
        if segment.position.cut_short:  # they may have more: each goes on where this one stops
            self.known.release_copies(segment)
            return
        copies = self.known.release_copies(segment, Event.ALREADY_READ)
        for copy in copies:
            self._take_over(copy, segment, same_bytes=False)
        if segment.state is State.GONE and copies:
            await self.forget(segment)

    def _report_loss(self, segment: Segment, file: SegmentFile) -> None:
        damage = file.reader.damage
        if file.given_up:
            what = f"{_MEGABYTES} MB of it were read without a line. Is it a log of kumod's?"
            lost = f"Its rest is not read: {segment.lost} bytes are lost"
            self._report(segment, "segment-given-up", f"{what} {lost}")
        elif damage is not None:
            where = f"damaged at byte {damage.offset} ({damage.reason})"
            self._report(segment, "segment-damaged", f"{where}: {segment.lost} bytes are lost")
        elif segment.lost:
            where = f"ends in the middle of a line: {segment.lost} bytes are lost"
            self._report(segment, "segment-cut", f"{where}. Was kumod killed, or the disk full?")

    # -- opening: which segment is which -------------------------------------------------

    async def _open_segment(self, segment: Segment) -> SegmentFile | None:
        """The segment's file, opened at its position; None where it isn't to be read (now)."""
        file = await SegmentFile.open(segment.path, final=self._final)
        try:
            segment.status = file.status()
            if not await self._recognise(segment, segment.status, file.first_chunk):
                # One that is too short to be recognised is looked at again though it does not grow.
                too_short = segment.short_since is not None
                segment.read_to = 0 if too_short else segment.status.size
                return None
            await file.begin(segment.name, segment.position)
            segment.file = file
        finally:
            if segment.file is None:
                await file.close()
        segment.identified = (0, 0)
        self.known.happens(segment, Event.OPENED)
        self._open.append(segment)
        while len(self._open) > OPEN_MAX:
            # A deleted one would be lost.
            named = (s for s in self._open if s.state is State.OPEN)
            await self._close(next(named, self._open[0]))
        return file

    async def _close(self, segment: Segment, event: Event = Event.CLOSED) -> None:
        """Close the segment's file if it is open; reading goes on at its position later."""
        file, segment.file = segment.file, None
        if file is not None:
            segment.read_to = file.raw_read
            self._open.remove(segment)
            self.known.happens(segment, event)
            await file.close()

    async def _recognise(self, segment: Segment, status: FileStatus, raw: bytes) -> bool:
        """Find out which segment the closed file is that begins with `raw`.

        Returns whether it is to be read now, from ``segment.position``.
        """
        if (unsupported := foreign_format(raw)) is not None:
            self.known.happens(segment, Event.NOT_SUPPORTED)
            what = f"is compressed with {unsupported}: not read"
            self._report(segment, "unsupported-format", what)
            return False
        same = segment.id is None or self._compare(segment, segment.id, status, raw)
        if same is None:
            return False
        if same:
            self.known.happens(segment, Event.RECOGNISED)
        else:
            self.known.start_anew(segment)
        segment.short_since = None
        is_new = segment.id is None and segment.state is State.WAITING
        if is_new and not await self._find_original(segment, status, raw):
            return False
        if segment.id is not None:
            now = replace(segment.id, inode=status.inode, fingerprint=fingerprint(raw))
            if now != segment.id:
                self.known.identify(segment, now)
                self.known.change(segment)
        if segment.complete and _has_more(segment, status, raw):
            segment.position = replace(segment.position, frame_start=0, frame_offset=0)
            self.known.happens(segment, Event.GROWN)
            self.known.change(segment)
        return segment.state is State.WAITING

    def _compare(
        self, segment: Segment, known: SegmentId, status: FileStatus, raw: bytes
    ) -> bool | None:
        """Whether `raw` begins the known segment; None where that can't be said yet.

        Recompressed, it is to be read from its beginning up to where we were.
        """
        same = fingerprint_fits(known.fingerprint, raw)
        if same:
            return True
        content = fingerprint_fits(known.content, content_head(raw))
        if content and known.content:
            segment.position = replace(segment.position, frame_start=0, frame_offset=0)
            return True
        if (same is None or content is None) and not status.finished:
            now = time.monotonic()
            segment.short_since = segment.short_since or now
            if not raw or now < segment.short_since + RETRY_SECONDS:
                segment.retry_at = now + RETRY_SECONDS / 4
                return None
        return False

    async def _find_original(self, segment: Segment, status: FileStatus, raw: bytes) -> bool:
        """Find the segment that this unknown one is a copy of, and go on where that one is.

        Returns False where it can't be said yet whether there is one.
        """
        content = content_head(raw)
        growing = not status.finished
        if growing and not content and len(raw) < CHUNK_SIZE:
            return False  # nothing can be read of it yet either
        original = self.known.original(segment, content)
        if original is None:
            if growing and self.known.may_become_copy(segment, content):
                segment.retry_at = time.monotonic() + RETRY_SECONDS / 4
                return False
            return True
        if original.state in IS_TO_BE_READ:
            self.known.wait_for(original, segment)
            return True
        assert original.id is not None
        same_bytes = bool(fingerprint_fits(original.id.fingerprint, raw))
        if original.complete and (same_bytes or not original.position.cut_short):
            self.known.happens(segment, Event.ALREADY_READ)
        self._take_over(segment, original, same_bytes=same_bytes)
        if original.state in HAS_NO_NAME:
            await self.forget(original)
        return True

    def _take_over(self, segment: Segment, known: Segment, *, same_bytes: bool) -> None:
        """Take over how far `known` was read: `segment` has the same lines.

        `same_bytes`: it is compressed in the same way, too.
        """
        assert known.id is not None
        self.known.identify(segment, replace(known.id, name=segment.name))
        segment.position = known.position
        if not same_bytes:
            segment.position = replace(known.position, frame_start=0, frame_offset=0)
        segment.time_ns = max(segment.time_ns, known.time_ns)
        if segment.complete:
            self._finished.append(segment.name)
        self.known.change(segment)

    def _report(self, segment: Segment, code: str, message: str) -> None:
        """Report a problem, once for each segment."""
        if code not in segment.told:
            segment.told.add(code)
            self._on_problem(Problem("warning", code, message, file=str(segment.path)))


def _has_more(segment: Segment, status: FileStatus, raw: bytes) -> bool:
    """Whether the file of a complete segment, beginning with `raw`, goes on behind its end.

    Where permission bits are not kept, any segment looks finished.  And of a segment
    with hardly more than a ``segment_header`` any other may seem to be a copy.
    """
    behind = max(segment.position.offset, segment.position.frame_offset)
    return segment.grown_to(status.size) or (0 < behind < len(content_head(raw)))


def _keep_freed_memory() -> None:
    """Have the C library keep some megabytes of freed memory for the next batch.

    glibc gives the end of its heap back as soon as more than 128 KiB there are
    free, so that each batch would cost a page fault for every 4 KiB, a quarter
    of the time zstd takes.  Freeing one large block raises that to twice the
    block's size (mallopt(3), M_MMAP_THRESHOLD, "dynamic"); the block itself is
    never touched.
    """
    bytes(BATCH_SIZE)


def _turn_order(segment: Segment) -> tuple[int, int]:
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
