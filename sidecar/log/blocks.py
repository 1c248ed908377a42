"""One segment: raw bytes in, blocks of whole lines with their positions out.

No I/O; see ``tail`` for the files.  Works on whole chunks: there is nothing here
that is done once per line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from .codec import (
    BLOCK_MAX,
    DAMAGE_EFFORT,
    HEAD_MIN,
    TURN_EFFORT,
    Damage,
    Decoder,
    Kind,
    detect,
    new_decoder,
)
from .identity import HEAD_SIZE
from .record import BadLine, decode

LINE_MAX: Final = 8 * 1024 * 1024
"""Bytes; a longer line is no log record but an accident, and is counted and skipped."""

BLOCK_SIZE: Final = 512 * 1024
"""Decompressed bytes in a block, about: large enough for no cost per block to
matter, small enough for a processor's cache."""

GIVE_UP_EFFORT: Final = 64 * 1024 * 1024
"""How much is done for a segment without finding a line (see ``Decoder.effort``).

Then it is no log: a device's copy, a sparse file, rubbish.  A line of
:data:`LINE_MAX` takes a quarter of it, 1,024 damaged places in a file all of it.
"""

_BUFFER_SIZE: Final = BLOCK_SIZE + BLOCK_MAX


@dataclass(frozen=True, slots=True)
class Position:
    """How far a segment has been read.

    ``offset``: decompressed bytes handed on or skipped, always behind a line
    (or at the end); ``lines``: how many lines that were.  To resume, decompress
    from ``frame_start`` (a compressed offset where a frame begins) and drop what
    comes before ``offset``; ``frame_offset`` is the decompressed offset there.

    Behind all of a finished segment ``frame_start`` is its size.  ``frame_offset`` is
    more than ``offset`` then where the file was cut: another copy may have more.
    """

    offset: int = 0
    lines: int = 0
    frame_start: int = 0
    frame_offset: int = 0

    @property
    def cut_short(self) -> bool:
        """Whether it is the end of a file that was cut, behind the last whole line."""
        return self.frame_start > 0 and self.frame_offset > self.offset


START: Final = Position()
"""Nothing read yet."""


@dataclass(frozen=True, slots=True)
class Block:
    """Some lines of a segment.

    ``data`` is whole lines, each ended by a line feed, except perhaps the very
    last before the end of the segment or a damaged place; it may be empty where
    there is only a loss to report.  ``position`` is the one behind the lines,
    ``lines`` and ``size`` are how many lines and bytes the log has there (``batches``
    may keep fewer in ``data``).  ``bad_lines`` counts those skipped for their
    length, ``lost_bytes`` bytes that could not be read (compressed ones) or were the
    rest of a cut line (decompressed ones).
    """

    segment: str
    data: bytes
    position: Position
    lines: int
    size: int
    bad_lines: int = 0
    lost_bytes: int = 0
    numbers: Sequence[int] | None = None
    """The lines of ``data``, counted from the block's first line on; None: it has them all."""

    @property
    def before(self) -> int:
        """How many lines of the segment come before the block."""
        return self.position.lines - self.lines - self.bad_lines

    @property
    def first(self) -> int:
        """The number in the segment of the block's first line, counted from 1."""
        # What was too long to be handed on comes before it.
        return self.position.lines - self.lines + 1


def count_lines(data: bytes) -> int:
    """Line feeds in `data`.

    ``bytes.count`` looks at each byte before Python 3.13; a replacement looks
    for the next one with ``memchr`` and is eight times as fast.
    """
    return len(data) - len(data.replace(b"\n", b""))


class SegmentReader:
    """Turns the raw bytes of one segment into blocks.

    Feed raw bytes from ``position.frame_start`` on, take blocks until there is
    none, feed more, and so on; :meth:`finish` when nothing more comes.  Where
    :attr:`paused`, ask for blocks again before feeding; where :attr:`hopeless`,
    call :meth:`give_up` instead of reading on.
    `kind` must be given where `position` is not at the beginning.
    """

    def __init__(self, name: str, *, position: Position = START, kind: Kind | None = None) -> None:
        self.name = name
        self.position = position
        """Behind the last block."""
        self.content = b""
        """The first decompressed bytes, up to HEAD_SIZE, where reading began at the beginning."""
        self._decoder: Decoder | None = None
        self._head = b""
        self._final = False
        self._buffer = bytearray()
        self._end = 0  # of what is in the buffer; it begins where a line begins
        self._searched = 0  # there is no line feed before this place in the buffer
        self._start = position.frame_offset  # decompressed offset of the buffer's first byte
        self._drop = position.offset - position.frame_offset
        self._in_long_line = False  # its beginning is already thrown away
        self._lost = 0  # here; the decoder counts for itself
        self._lost_told = 0
        self._bad = 0
        self._cut_at: int | None = None  # behind the last line before the first loss
        self._lines_after_cut = False
        self._line_effort = 0  # the decoder's when the last line was found
        if kind is not None:
            self._decoder = self._make_decoder(kind)

    @property
    def damage(self) -> Damage | None:
        """The first thing that could not be decoded."""
        return None if self._decoder is None else self._decoder.damage

    @property
    def paused(self) -> bool:
        """Whether this turn is over, and there may be more in what was fed."""
        return self._decoder is not None and self._decoder.paused

    @property
    def effort(self) -> int:
        """The work done so far; see ``Decoder.effort``."""
        return 0 if self._decoder is None else self._decoder.effort

    @property
    def hopeless(self) -> bool:
        """Whether so much was read without finding a line that this is no log."""
        return self.effort - self._line_effort >= GIVE_UP_EFFORT

    def give_up(self, size: int) -> Block:
        """Leave the rest of a file of `size` raw bytes; returns the block that counts it as lost.

        Its position is behind all that can be read, at no place to resume from.
        """
        decoder = self._decoder
        assert decoder is not None
        unread = max(size - decoder.raw_offset, 0)
        lost = self._lost + decoder.lost + unread - self._lost_told
        bad = self._bad + (self._in_long_line or self._end > 0)
        self._start += self._end
        self._end = 0
        self._buffer = bytearray()
        self.position = Position(self._start, self.position.lines + bad, 0, 0)
        return Block(self.name, b"", self.position, 0, 0, bad_lines=bad, lost_bytes=lost)

    def trim(self) -> None:
        """Free the memory that is not needed until more is fed."""
        self._buffer = self._buffer[: self._end]
        if self._decoder is not None:
            self._decoder.feed(b"")

    def feed(self, raw: bytes) -> None:
        """Take the next raw bytes of the file."""
        if self._decoder is not None:
            self._decoder.feed(raw)
            return
        self._head += raw
        if len(self._head) >= HEAD_MIN:
            self._begin()

    def finish(self) -> None:
        """Say that no more will be fed; what is left comes with the next blocks."""
        if self._decoder is None and self._head:
            self._begin()
        if self._decoder is not None:
            self._decoder.finish()
        self._final = True

    def next_block(self) -> Block | None:
        """The next lines; None where more must be fed first, the turn is over, or all is read."""
        decoder = self._decoder
        if decoder is None:
            return None
        decoder.pause_at = decoder.effort + TURN_EFFORT
        while True:
            count = self._fill(decoder)
            broken, decoder.broken = decoder.broken, False
            at_end = not (count or broken or decoder.paused)
            stop = at_end or decoder.paused
            if not (broken or stop) and self._end < BLOCK_SIZE:
                continue
            cut_line = broken or (at_end and self._final)
            block = self._cut(decoder, unterminated=cut_line, tell_loss=stop)
            if block is not None or stop:
                return block

    def _begin(self) -> None:
        self._decoder = self._make_decoder(detect(self._head))
        self._decoder.feed(self._head)
        self._head = b""

    def _make_decoder(self, kind: Kind) -> Decoder:
        start, offset = self.position.frame_start, self.position.frame_offset
        return new_decoder(kind, raw_start=start, out_start=offset)

    def _fill(self, decoder: Decoder) -> int:
        """Decompress into the buffer; how many bytes that were, wanted or not."""
        if len(self._buffer) - self._end < BLOCK_MAX:
            self._buffer = self._buffer[: self._end] + bytearray(_BUFFER_SIZE)
        with memoryview(self._buffer) as view:
            count = decoder.decode_into(view[self._end : self._end + _BUFFER_SIZE])
        if len(self.content) < HEAD_SIZE and self._start + self._end == len(self.content):
            wanted = min(count, HEAD_SIZE - len(self.content))
            self.content += self._buffer[self._end : self._end + wanted]
        self._end += count
        if self._drop:
            self._line_effort = decoder.effort
            dropped = min(self._drop, self._end)
            self._drop -= dropped
            self._advance(dropped)
        return count

    def _advance(self, count: int) -> None:
        """Drop the first `count` bytes of the buffer."""
        if count:
            rest = self._end - count
            self._buffer[:rest] = self._buffer[count : self._end]
            if len(self._buffer) > 2 * _BUFFER_SIZE and rest < _BUFFER_SIZE:
                self._buffer = self._buffer[:rest] + bytearray(_BUFFER_SIZE - rest)
            self._start += count
            self._end = rest
            self._searched = max(self._searched - count, 0)

    def _cut(self, decoder: Decoder, *, unterminated: bool, tell_loss: bool) -> Block | None:
        """Take the whole lines out of the buffer; the rest, too, if `unterminated`."""
        self._skip_long_line(over=unterminated)
        cut = self._buffer.rfind(b"\n", self._searched, self._end) + 1
        whole = cut
        if unterminated and cut < self._end:
            if _is_json(bytes(self._buffer[cut : self._end])):
                whole = self._end
            else:
                self._lost += self._end - cut
            cut = self._end
        with memoryview(self._buffer) as view:
            data = bytes(view[:whole])
        lines = count_lines(data) + (data[-1:] not in {b"\n", b""})
        if self._cut_at is not None:
            self._lines_after_cut |= lines > 0
        elif cut > whole or (unterminated and decoder.damage is not None):
            self._cut_at = self._start + whole
        self._advance(cut)
        self._searched = self._end
        if lines:
            self._line_effort = decoder.effort - decoder.damages * DAMAGE_EFFORT
        return self._block(decoder, data, lines, tell_loss=tell_loss)

    def _skip_long_line(self, *, over: bool) -> None:
        """Throw away the line the buffer begins with where it is longer than LINE_MAX.

        Only the first can be: all but the rest of a line that was there before
        is shorter than that.
        """
        if not self._in_long_line and self._end <= LINE_MAX:
            return
        end = self._buffer.find(b"\n", self._searched, self._end)
        if not self._in_long_line and 0 <= end <= LINE_MAX:
            return
        self._in_long_line = end < 0 and not over
        self._bad += not self._in_long_line
        self._advance(self._end if end < 0 else end + 1)
        self._searched = 0

    def _block(self, decoder: Decoder, data: bytes, lines: int, *, tell_loss: bool) -> Block | None:
        """A block of these lines; None where there is nothing to hand on.

        `tell_loss`: a loss alone is enough.  A damaged file has many damaged places.
        """
        frame_start, frame_offset = decoder.resume_at(self._start, prune=self._start + self._end)
        lost = self._lost + decoder.lost
        lost_more = tell_loss and lost > self._lost_told
        if self._in_long_line or not (data or self._bad or lost_more):
            return None
        self.position = Position(
            offset=self._start,
            lines=self.position.lines + lines + self._bad,
            frame_start=frame_start,
            frame_offset=frame_offset,
        )
        block = Block(
            segment=self.name,
            data=data,
            position=self.position,
            lines=lines,
            size=len(data),
            bad_lines=self._bad,
            lost_bytes=lost - self._lost_told,
        )
        self._bad = 0
        self._lost_told = lost
        return block

    def end_position(self) -> Position:
        """The position behind all of a finished segment; ``frame_start`` is its size then.

        Where the end is cut, behind the last whole line: see ``Position.cut_short``.
        """
        raw = self.position.frame_start if self._decoder is None else self._decoder.raw_offset
        if self._cut_at is not None and not self._lines_after_cut:
            cut_end = max(self._start, self._cut_at + 1)
            return Position(self._cut_at, self.position.lines, raw, cut_end)
        return Position(self._start, self.position.lines, raw, self._start)


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except (ValueError, RecursionError):
        try:
            decode(line)  # a record behind a header
        except BadLine:
            return False
    return True
