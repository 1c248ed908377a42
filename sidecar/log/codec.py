"""Decompression in bounded steps: raw bytes of a segment in, decompressed bytes out.

No I/O.  A decoder is fed raw bytes as they come and fills the caller's buffer,
never more than it has room for.  A decompression bomb takes no memory.  The work
is counted in :attr:`Decoder.effort`, and the decoder pauses when a turn's share is
done, so that no file holds up the others.  What can't be decoded is counted in
:attr:`Decoder.lost`, and decoding goes on at the next frame that can be found.

Why zstd blocks are walked here instead of trusting the library's streaming:
python-zstandard's ``decompressobj`` returns whatever its input expands to, its
``stream_reader`` takes an empty read for the end for good, and both drop the
good output of a call that then meets a bad block.  Handing the library one
whole block a call (RFC 8878 §3.1.1.2: a 3-byte header says how long it is, and
it never yields more than 128 KiB) avoids all three, shows where frames begin,
and costs about two percent.
"""

from __future__ import annotations

import codecs
import io
import re
import zlib
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Final, Literal, cast

import zstandard

BLOCK_MAX: Final = 128 * 1024
"""The most one zstd block yields; :meth:`Decoder.decode_into` wants room for one."""

WINDOW_MAX: Final = 1 << 27
"""The largest zstd window accepted, as zstd's own command has it without ``--long``: 128 MiB."""

TURN_EFFORT: Final = 1024 * 1024
"""How much is done for one segment before the others have their turn: bytes in and out."""

DAMAGE_EFFORT: Final = 64 * 1024
"""What a damaged place counts for: it takes as long as decoding some 64 KiB."""

_STEP_EFFORT: Final = 128  # what a frame or block counts for, however little is in it

HEAD_MIN: Final = 4
"""How many bytes tell the format."""

_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_GZIP_MAGIC: Final = b"\x1f\x8b\x08"
_GZIP_MEMBER = re.compile(rb"\x1f\x8b\x08[\x00-\x1f].{4}[\x00\x02\x04][\x00-\x0d\xff]", re.DOTALL)
_GZIP_STEP: Final = 64 * 1024

Kind = Literal["zstd", "gzip", "plain", "damaged"]

_FOREIGN: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\xfd7zXZ\x00", "xz"),
    (b"BZh", "bzip2"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"PK\x03\x04", "zip"),
)


def _second(pair: tuple[int, int]) -> int:
    return pair[1]


def detect(head: bytes) -> Kind:
    """The format of a segment that begins with `head` (:data:`HEAD_MIN` bytes, or all there are).

    ``damaged``: neither text nor a format we read; frames are searched for.
    """
    if head.startswith(_ZSTD_MAGIC) or _is_skippable(head):
        return "zstd"
    if head.startswith(_GZIP_MAGIC[: max(2, min(3, len(head)))]):
        return "gzip"
    return "plain" if _is_text(head[:HEAD_MIN]) else "damaged"


def foreign_format(head: bytes) -> str | None:
    """The name of a compression that a site's job may have used and that isn't read here."""
    return next((name for magic, name in _FOREIGN if head.startswith(magic)), None)


def _is_skippable(head: bytes) -> bool:
    return len(head) >= 4 and head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50


def _is_text(head: bytes) -> bool:
    if any(byte < 0x20 and byte not in b"\t\n\r" for byte in head):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # a last character may be cut
    except UnicodeDecodeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Damage:
    """Where in the raw file something could not be decoded, and what was wrong."""

    offset: int
    reason: str


class Decoder(ABC):
    """What the three formats have in common: the raw buffer and the counts.

    ``out`` counts decompressed bytes from the segment's start, ``lost`` raw
    bytes that could not be decoded since this decoder was made, ``damage`` is
    the first thing that went wrong.  ``boundaries`` are places to resume at,
    (raw offset, decompressed offset), ascending; see :meth:`resume_at`.
    ``broken`` is set where the output does not continue what came before; the
    caller clears it.  ``effort`` is the work done so far; :meth:`decode_into`
    stops when it reaches ``pause_at``, which the caller moves on.  ``damages``
    counts damaged places.
    """

    def __init__(self, *, raw_start: int = 0, out_start: int = 0) -> None:
        self.out = out_start
        self.lost = 0
        self.damage: Damage | None = None
        self.broken = False
        self.effort = 0
        self.pause_at = TURN_EFFORT
        self.damages = 0
        self.boundaries: list[tuple[int, int]] = [(raw_start, out_start)]
        self._raw = b""
        self._view = memoryview(b"")
        self._pos = 0
        self._base = raw_start
        self._final = False

    def feed(self, raw: bytes) -> None:
        """Take the next raw bytes of the file."""
        rest = self._raw[self._pos :]
        self._base += self._pos
        self._raw = rest + raw if rest else raw
        self._view = memoryview(self._raw)
        self._pos = 0

    def finish(self) -> None:
        """Say that no more will be fed: what then can't be decoded is lost."""
        self._final = True

    def decode_into(self, room: memoryview) -> int:
        """Fill `room` from its start and return the number of bytes.

        Stops early behind a damaged place (``broken``), when the turn is over
        (:attr:`paused`), and where less than :data:`BLOCK_MAX` of room is left.
        0 without any of these means that more input is needed.
        """
        done = 0
        size = len(room)
        while size - done >= BLOCK_MAX and self.effort < self.pause_at:
            before = self._pos
            count = self._step(room[done:])
            self.effort += self._pos - before + _STEP_EFFORT
            if count < 0:
                break
            self.effort += count
            self.out += count
            done += count
            if self.broken:
                break
        return done

    @property
    def paused(self) -> bool:
        """Whether the turn is over, so that there may be more to decode without new input."""
        return self.effort >= self.pause_at

    @property
    def raw_offset(self) -> int:
        """The raw offset of the first byte not yet used."""
        return self._base + self._pos

    def resume_at(self, offset: int, *, prune: int) -> tuple[int, int]:
        """The last of ``boundaries`` not behind the decompressed `offset`.

        `prune` (not less than `offset`): the caller will never ask for less again.
        """
        marks = self.boundaries
        place = marks[0]
        if len(marks) > 1:
            place = marks[max(bisect_right(marks, offset, key=_second) - 1, 0)]
            del marks[: max(bisect_right(marks, prune, key=_second) - 1, 0)]
        return place

    @abstractmethod
    def _step(self, room: memoryview) -> int:
        """Decode a little into `room`; how much, or -1 where input is missing."""

    def _mark(self, ahead: int = 0) -> None:
        """Note that one may resume here (`ahead`: output of this step, not yet counted)."""
        here = (self._base + self._pos, self.out + ahead)
        if self.boundaries and self.boundaries[-1][1] == here[1]:
            self.boundaries[-1] = here
        else:
            self.boundaries.append(here)

    def _break(self, reason: str) -> None:
        if self.damage is None:
            self.damage = Damage(self._base + self._pos, reason)
        self.broken = True
        self.damages += 1
        self.effort += DAMAGE_EFFORT

    def _lose(self, count: int) -> None:
        """Step over `count` raw bytes that are of no use."""
        self._pos += count
        self.lost += count
        self._mark()


class PlainDecoder(Decoder):
    """Text as it is."""

    def _step(self, room: memoryview) -> int:
        count = min(len(room), len(self._raw) - self._pos)
        if count == 0:
            return -1
        room[:count] = self._view[self._pos : self._pos + count]
        self._pos += count
        self._mark(count)
        return count


class _StarvedError(Exception):
    """The library asked for input that isn't there (it takes an empty read for the end)."""


class _Piece:
    """The file that python-zstandard reads: one piece, then nothing for now."""

    __slots__ = ("piece",)

    def __init__(self) -> None:
        self.piece: memoryview | None = None

    def read(self, _size: int) -> memoryview:
        piece = self.piece
        if piece is None:
            raise _StarvedError
        self.piece = None
        return piece


class ZstdDecoder(Decoder):
    """Frames one after the other, finished or not; skippable frames (RFC 8878)."""

    def __init__(self, *, raw_start: int = 0, out_start: int = 0) -> None:
        super().__init__(raw_start=raw_start, out_start=out_start)
        self._library = zstandard.ZstdDecompressor(max_window_size=WINDOW_MAX)
        self._source = _Piece()
        self._reader = self._new_reader()
        # A plain function: a bound method would make a cycle, and keep zstd's window alive.
        self._state: Callable[[ZstdDecoder, memoryview], int] = ZstdDecoder._between_frames
        self._header = 0  # bytes of frame header in front of the next block
        self._checksum = False
        self._skip = 0

    def _step(self, room: memoryview) -> int:
        return self._state(self, room)

    def _new_reader(self) -> zstandard.ZstdDecompressionReader:
        # Making a reader resets the library's state, which a bad block leaves unusable.
        return self._library.stream_reader(cast(IO[bytes], self._source), closefd=False)

    def _decompress(self, length: int, room: memoryview) -> int:
        """Give the library the next `length` bytes; ZstdError where they are bad."""
        self._source.piece = self._view[self._pos : self._pos + length]
        try:
            return self._reader.readinto1(room)
        except _StarvedError:  # nothing came of it: an empty block
            return 0

    def _between_frames(self, _room: memoryview) -> int:
        head = self._raw[self._pos : self._pos + 18]  # the longest frame header
        if len(head) < 4:
            return self._starved(idle=not head)
        if _is_skippable(head):
            if len(head) < 8:
                return self._starved()
            self._skip = 8 + int.from_bytes(head[4:8], "little")
            self._state = ZstdDecoder._skipping
            return 0
        if not head.startswith(_ZSTD_MAGIC):
            return self._damaged("no frame begins here")
        if len(head) < 5:
            return self._starved()
        length = _header_length(head[4])
        if length is None:
            return self._damaged("bad frame header")
        if len(head) < length:
            return self._starved()
        self._header = length
        self._checksum = bool(head[4] & 4)
        self._reader = self._new_reader()
        self._state = ZstdDecoder._block
        return 0

    def _skipping(self, _room: memoryview) -> int:
        there = min(self._skip, len(self._raw) - self._pos)
        if there == 0:
            return -1
        self._skip -= there
        self._pos += there
        if self._skip == 0:
            self._mark()
            self._state = ZstdDecoder._between_frames
        return 0

    def _block(self, room: memoryview) -> int:
        raw = self._raw
        start = self._pos + self._header
        if start + 3 > len(raw):
            return self._starved(idle=self._pos == len(raw))
        header = raw[start] | raw[start + 1] << 8 | raw[start + 2] << 16
        kind, size = header >> 1 & 3, header >> 3
        if kind == 3 or size > BLOCK_MAX:
            return self._damaged("bad block header")
        length = self._header + 3 + (1 if kind == 1 else size)
        if self._pos + length > len(raw):
            return self._starved()
        try:
            count = self._decompress(length, room)
        except zstandard.ZstdError as error:
            return self._damaged(_reason(error))
        self._pos += length
        self._header = 0
        if header & 1:
            if self._checksum:
                self._state = ZstdDecoder._frame_checksum
            else:
                self._end_frame(count)
        return count

    def _frame_checksum(self, room: memoryview) -> int:
        # On its own: the library throws away the output of a call that ends in an error.
        if len(self._raw) - self._pos < 4:
            return self._starved(idle=self._pos == len(self._raw))
        try:
            self._decompress(4, room)
        except zstandard.ZstdError as error:
            if self.damage is None:
                self.damage = Damage(self._base + self._pos, _reason(error))
        self._pos += 4
        self._end_frame(0)
        return 0

    def _end_frame(self, ahead: int) -> None:
        self._mark(ahead)
        self._state = ZstdDecoder._between_frames

    def _searching(self, _room: memoryview) -> int:
        found = self._raw.find(_ZSTD_MAGIC, self._pos)
        if found >= 0:
            self._lose(found - self._pos)
            self._state = ZstdDecoder._between_frames
            return 0
        # The magic's first bytes may already be there.
        keep = 0 if self._final else min(3, len(self._raw) - self._pos)
        self._lose(len(self._raw) - keep - self._pos)
        return -1

    def _starved(self, *, idle: bool = False) -> int:
        if self._final and not idle:
            return self._damaged("the file ends in the middle of a block")
        return -1

    def _damaged(self, reason: str) -> int:
        self._break(reason)
        self._state = ZstdDecoder._searching
        self._lose(min(1, len(self._raw) - self._pos))  # not to find this very frame again
        return 0


def _header_length(descriptor: int) -> int | None:
    """Length of a zstd frame header, magic included, by its descriptor byte (RFC 8878 §3.1.1.1)."""
    if descriptor & 8:  # reserved, must be zero
        return None
    single = bool(descriptor & 32)
    content_size = (int(single), 2, 4, 8)[descriptor >> 6]
    return 5 + (not single) + (0, 1, 2, 4)[descriptor & 3] + content_size


def _reason(error: Exception) -> str:
    return str(error).removeprefix("zstd decompress error: ")


class GzipDecoder(Decoder):
    """Members one after the other (RFC 1952), finished or not."""

    def __init__(self, *, raw_start: int = 0, out_start: int = 0) -> None:
        super().__init__(raw_start=raw_start, out_start=out_start)
        self._member: zlib._Decompress | None = None
        self._search = False

    def _step(self, room: memoryview) -> int:
        if self._search:
            return self._searching()
        piece = self._raw[self._pos : self._pos + _GZIP_STEP]
        if not piece:
            return -1
        if self._member is None:
            if not piece.startswith(_GZIP_MAGIC[: len(piece)]):
                return self._damaged("no gzip member begins here")
            if len(piece) < len(_GZIP_MAGIC):
                return self._damaged("the file ends in a header") if self._final else -1
        member = self._member or zlib.decompressobj(wbits=31)
        before = member.copy()
        try:
            output = member.decompress(piece, BLOCK_MAX)
        except zlib.error as error:
            return self._salvage(before, piece, room, str(error))
        if self._member is None and not (output or member.eof) and len(piece) < _GZIP_STEP:
            # Perhaps no member begins here after all: look again when there is more.
            return self._damaged("the file ends in a header") if self._final else -1
        self._member = member
        # Not both: CPython may leave at the end of a member what follows it in either.
        rest = member.unused_data if member.eof else member.unconsumed_tail
        self._pos += len(piece) - len(rest)
        room[: len(output)] = output
        if member.eof:
            self._member = None
            self._mark(len(output))
        return len(output)

    def _salvage(
        self, member: zlib._Decompress, piece: bytes, room: memoryview, reason: str
    ) -> int:
        """What `piece` yields before the bad place: zlib drops the output of a failing call.

        Byte by byte, so that it does not depend on where the piece begins.
        """
        output = io.BytesIO()
        for at in range(len(piece)):
            try:
                output.write(member.decompress(piece[at : at + 1]))
            except zlib.error:
                if self._member is not None or output.tell():
                    self._pos += at
                break
        salvaged = output.getvalue()[:BLOCK_MAX]
        room[: len(salvaged)] = salvaged
        self.out += len(salvaged)
        self._damaged(reason)
        self.out -= len(salvaged)
        return len(salvaged)

    def _searching(self) -> int:
        found = _GZIP_MEMBER.search(self._raw, self._pos)
        if found is not None:
            self._lose(found.start() - self._pos)
            self._search = False
            return 0
        keep = 0 if self._final else min(9, len(self._raw) - self._pos)
        self._lose(len(self._raw) - keep - self._pos)
        return -1

    def _damaged(self, reason: str) -> int:
        self._break(reason)
        self._member = None
        self._search = True
        self._lose(min(1, len(self._raw) - self._pos))
        return 0


def new_decoder(kind: Kind, *, raw_start: int = 0, out_start: int = 0) -> Decoder:
    """A decoder for a segment of this kind, to be fed from `raw_start` on."""
    classes: dict[Kind, type[Decoder]] = {
        "zstd": ZstdDecoder,
        "gzip": GzipDecoder,
        "plain": PlainDecoder,
        "damaged": ZstdDecoder,
    }
    return classes[kind](raw_start=raw_start, out_start=out_start)
