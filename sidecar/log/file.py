"""A segment's file: opened, read in chunks, turned into blocks.

In: a path and the position to begin at.  Out: blocks (see ``blocks``).  Reading
happens in worker threads, a chunk at a time.  Only regular files are opened.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiofiles
from aiofiles.threadpool.binary import AsyncFileIO

from .blocks import START, Block, Position, SegmentReader
from .codec import TURN_EFFORT, detect
from .identity import HEAD_SIZE

CHUNK_SIZE: Final = 512 * 1024
"""Raw bytes read at once: some megabytes of log, far more than a hand-over to a thread costs."""

_WRITE_BITS: Final = 0o222


@dataclass(frozen=True, slots=True)
class FileStatus:
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
    def of(cls, stat: os.stat_result, *, final: bool = False) -> FileStatus:
        """`final`: it is finished whatever its mode says."""
        finished = final or not stat.st_mode & _WRITE_BITS
        return cls(stat.st_ino, stat.st_size, stat.st_mtime_ns, finished)


def open_regular(path: str | Path, flags: int = os.O_RDONLY) -> int:
    """Open a regular file and return its descriptor; OSError where it is something else.

    Never waits: a FIFO without a writer would block for ever.  Links are
    followed, since a site may gather its segments by links.  What is at their
    end must be a regular file.  (An ``opener`` for :func:`open`.)
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "is not a regular file")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


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
        """Finished and wholly read, or given up."""
        self.more = True
        """Whether there may be lines in what has been read already."""
        self.given_up = False
        """So much was read without a line that the rest was left."""
        self._file = file
        self._first = head
        self._final = final
        self._fed_all = False
        self._reader: SegmentReader | None = None

    @classmethod
    async def open(cls, path: Path, *, final: bool = False) -> SegmentFile:
        """Open `path` and read its first chunk; OSError.

        `final`: nothing more comes, whatever the file's mode says.
        """
        file = await aiofiles.open(path, "rb", buffering=0, opener=open_regular)
        try:
            size = os.fstat(file.fileno()).st_size
            head = await file.read(min(CHUNK_SIZE, size)) or b""
        except BaseException:
            await file.close()
            raise
        return cls(file, head, final=final)

    async def close(self) -> None:
        """Close the file; what was read and not taken is read again next time."""
        with contextlib.suppress(OSError):  # of reading, nothing is left to go wrong
            await self._file.close()

    def read_to_the_end(self) -> None:
        """Take what is there as all there will be: the file has lost its name."""
        self._final = True

    def status(self) -> FileStatus:
        """What ``fstat`` says now; OSError."""
        return FileStatus.of(os.fstat(self._file.fileno()), final=self._final)

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
        """The next lines; OSError.

        None where there are none now, none in this turn (``more``) or none ever
        (``at_end``).  `stop_at`: read no further than this raw offset.
        """
        if self.at_end:
            return None
        reader = self.reader
        turn_ends = reader.effort + TURN_EFFORT
        while (block := reader.next_block()) is None:
            if reader.hopeless:
                block = reader.give_up(self.status().size)
                self.at_end = self.given_up = True
                break
            if reader.paused or reader.effort >= turn_ends:
                break
            if self._fed_all:
                self.at_end = True
                break
            if not await self._feed(stop_at):
                reader.trim()
                self.more = False
                return None
        self.more = not self.at_end
        return block

    async def _feed(self, stop_at: int | None) -> bool:
        """Feed the reader, or tell it that it has all; False where nothing has come yet.

        Whether the file is finished is asked *before* the read that finds its
        end: kumod writes the last bytes before it takes the write bits away.
        """
        status = self.status()
        limit = status.size if stop_at is None else min(stop_at, status.size)
        if self.raw_read < limit:
            raw = await self._file.read(min(CHUNK_SIZE, limit - self.raw_read))
            if raw:
                self._take(raw)
                return True
        if not status.finished or (stop_at is not None and stop_at < status.size):
            return False
        self.reader.finish()
        self._fed_all = True
        return True

    def is_deleted(self) -> bool:
        """Whether the file has lost its last name, as far as that can be told."""
        try:
            return os.fstat(self._file.fileno()).st_nlink == 0
        except OSError:
            return False

    def _take(self, raw: bytes) -> None:
        if self.raw_read == len(self.head) < HEAD_SIZE:
            self.head = (self.head + raw)[:HEAD_SIZE]
        self.raw_read += len(raw)
        self.reader.feed(raw)
