"""One segment's file, open for reading: the I/O around :class:`.segment.SegmentReader`.

Reads with aiofiles in bounded chunks; knows when the file is finished.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiofiles
from aiofiles.threadpool.binary import AsyncFileIO

from .codec import detect
from .identity import HEAD_SIZE
from .reader import START, Block, Position, SegmentReader

CHUNK_SIZE: Final = 512 * 1024
"""Raw bytes read at once: some megabytes of log, far more than a hand-over to a thread costs."""

_WRITE_BITS: Final = 0o222


@dataclass(frozen=True, slots=True)
class FileState:
    """What ``stat`` says of a segment's file.

    ``finished``: nobody has write permission, which is how kumod says that
    nothing more comes (KumoMTA's documentation, ``configure_local_logs``).  The
    bits count, not whether *we* could write: root always can.
    """

    inode: int
    size: int
    mtime_ns: int
    finished: bool

    @classmethod
    def of(cls, stat: os.stat_result, *, final: bool = False) -> FileState:
        """`final`: it is finished whatever its mode says."""
        finished = final or not stat.st_mode & _WRITE_BITS
        return cls(stat.st_ino, stat.st_size, stat.st_mtime_ns, finished)


class SegmentFile:
    """An open file and its reader.

    Made by :meth:`open`, which reads the file's beginning, so that its identity
    can be checked, and then :meth:`begin` at a position.
    """

    def __init__(self, file: AsyncFileIO, head: bytes, *, final: bool) -> None:
        """For :meth:`open`."""
        self.head = head
        """The first raw bytes: HEAD_SIZE, or all there were so far."""
        self.raw_read = 0
        """How many raw bytes of the file have been read."""
        self.at_end = False
        """Finished and wholly read."""
        self.more = True
        """Whether there may be lines in what has been read already."""
        self._file = file
        self._first = head
        self._final = final
        self._reader: SegmentReader | None = None

    @classmethod
    async def open(cls, path: Path, *, final: bool = False) -> SegmentFile:
        """Open `path` and read its first chunk; OSError.

        `final`: nothing more comes, whatever the file's mode says.
        """
        file = await aiofiles.open(path, "rb", buffering=0)
        try:
            head = await file.read(CHUNK_SIZE)
        except BaseException:
            await file.close()
            raise
        return cls(file, head, final=final)

    async def close(self) -> None:
        """Close the file; what was read and not taken is read again next time."""
        with contextlib.suppress(OSError):  # of reading, nothing is left to go wrong
            await self._file.close()

    def state(self) -> FileState:
        """What ``fstat`` says now; OSError."""
        return FileState.of(os.fstat(self._file.fileno()), final=self._final)

    @property
    def first_chunk(self) -> bytes:
        """What :meth:`open` has read, until :meth:`begin`."""
        return self._first

    @property
    def reader(self) -> SegmentReader:
        """The reader; only after :meth:`begin`."""
        assert self._reader is not None
        return self._reader

    async def begin(self, name: str, position: Position) -> None:
        """Go to `position`; OSError."""
        first, self._first = self._first, b""
        kind = None if position == START else detect(first)
        self._reader = SegmentReader(name, position=position, kind=kind)
        self.head = first[:HEAD_SIZE]
        if position.frame_start <= len(first):
            self._reader.feed(first[position.frame_start :])
            self.raw_read = len(first)
        else:
            await self._file.seek(position.frame_start)
            self.raw_read = position.frame_start

    async def next_block(self, *, stop_at: int | None = None) -> Block | None:
        """The next lines, None where there are none now (or none ever: ``at_end``); OSError.

        `stop_at`: read no further than this raw offset.

        Whether the file is finished is asked *before* the read that finds its
        end: kumod writes the last bytes before it takes the write bits away.
        """
        reader = self.reader
        while (block := reader.next_block()) is None and not self.at_end:
            state = self.state()
            limit = state.size if stop_at is None else min(stop_at, state.size)
            if self.raw_read < limit:
                raw = await self._file.read(min(CHUNK_SIZE, limit - self.raw_read))
                if raw:
                    self._take(raw)
                    continue
            if not state.finished or (stop_at is not None and stop_at < state.size):
                break
            reader.finish()
            self.at_end = True
        self.more = block is not None
        return block

    def is_deleted(self) -> bool:
        """Whether the file has lost its last name, as far as that can be told."""
        try:
            return os.fstat(self._file.fileno()).st_nlink == 0
        except OSError:
            return False

    async def drain(self) -> Block | None:
        """As :meth:`next_block` for a file that has lost its name: what is there is all."""
        self._final = True
        return await self.next_block()

    def _take(self, raw: bytes) -> None:
        if self.raw_read == len(self.head) < HEAD_SIZE:
            self.head = (self.head + raw)[:HEAD_SIZE]
        self.raw_read += len(raw)
        self.reader.feed(raw)
