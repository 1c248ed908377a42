"""What the log tests share: recorded segments, compressors, and a stand-in for the store."""

from __future__ import annotations

import asyncio
import gzip
import shutil
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import zstandard

from sidecar.log.batches import Batch
from sidecar.log.blocks import Block, SegmentReader
from sidecar.log.segment import Checkpoint
from sidecar.log.tail import Start, Tail
from sidecar.problems import Problem

RECORDED = Path(__file__).parents[1] / "data" / "logs"

_T = TypeVar("_T")


def recorded(folder: str) -> list[Path]:
    """The recorded segments of a folder, oldest first."""
    return sorted((RECORDED / folder / "logs").iterdir())


def copy_recorded(folder: str, directory: Path) -> list[Path]:
    """Copies with the modes kumod leaves."""
    directory.mkdir(parents=True, exist_ok=True)
    copies = [Path(shutil.copy(path, directory)) for path in recorded(folder)]
    for path in copies:
        path.chmod(0o444)
    return copies


def decompress(raw: bytes) -> bytes:
    """All that can be had of a zstd file, by another way than the code under test."""
    output = b""
    while raw:
        decompressor = zstandard.ZstdDecompressor().decompressobj()
        output += decompressor.decompress(raw)
        raw = decompressor.unused_data
    return output


def zstd(data: bytes, *, checksum: bool = False, level: int = 3) -> bytes:
    """One frame."""
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=checksum).compressobj()
    return compressor.compress(data) + compressor.flush()


def gzipped(data: bytes) -> bytes:
    """One member."""
    return gzip.compress(data, mtime=0)


@dataclass
class Read:
    """What a reader made of a file."""

    blocks: list[Block] = field(default_factory=list)

    @property
    def data(self) -> bytes:
        return b"".join(block.data for block in self.blocks)

    @property
    def lines(self) -> list[bytes]:
        """Without their ends; a line cut by damage is one."""
        return [line for block in self.blocks for line in block.data.splitlines()]

    @property
    def lost(self) -> int:
        return sum(block.lost_bytes for block in self.blocks)

    @property
    def bad(self) -> int:
        return sum(block.bad_lines for block in self.blocks)


def take(reader: SegmentReader, into: Read) -> None:
    """All blocks there are now."""
    while (block := reader.next_block()) is not None or (reader.paused and not reader.hopeless):
        if block is not None:
            into.blocks.append(block)


def read_pieces(pieces: Iterable[bytes], *, reader: SegmentReader | None = None) -> Read:
    """What a finished file that came in these pieces is read as."""
    reader = reader or SegmentReader("segment")
    read = Read()
    for piece in pieces:
        reader.feed(piece)
        take(reader, read)
    reader.finish()
    take(reader, read)
    return read


@dataclass
class Follower:
    """Reads a directory in as many runs as a test likes, keeping checkpoints like the store."""

    directory: Path
    pattern: str = "*"
    start: Start | None = None
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    batches: list[Batch] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    _told: asyncio.Event = field(default_factory=asyncio.Event)

    def tail(self, *, poll_seconds: float = 0.05) -> Tail:
        """A new run."""
        return Tail(
            self.directory,
            pattern=self.pattern,
            checkpoints=self.checkpoints,
            start=self.start,
            poll_seconds=poll_seconds,
            on_problem=self.on_problem,
        )

    def on_problem(self, problem: Problem) -> None:
        """Keep it, and wake whoever waits in :meth:`told`."""
        self.problems.append(problem)
        self._told.set()

    async def told(self, code: str) -> None:
        """Wait for a problem."""
        while code not in self.codes:
            self._told.clear()
            await self._told.wait()

    def commit(self, batch: Batch) -> None:
        """What the store does."""
        assert not batch.forget & batch.checkpoints.keys()
        for name in batch.forget:
            self.checkpoints.pop(name, None)
        self.checkpoints.update(batch.checkpoints)
        self.batches.append(batch)

    def once(self, *, stop_after: int | None = None) -> list[bytes]:
        """Run once; the lines of this run.  `stop_after`: die after that many batches."""
        return run(self.read_once(stop_after=stop_after))

    async def read_once(self, *, stop_after: int | None = None) -> list[bytes]:
        before = len(self.batches)
        async with self.tail() as tail:
            async for batch in tail.blocks(follow=False):
                self.commit(batch)
                if stop_after is not None and len(self.batches) - before >= stop_after:
                    break
        return self.lines(self.batches[before:])

    def lines(self, batches: Iterable[Batch] | None = None) -> list[bytes]:
        """Lines without their ends, in the order they came."""
        chosen = self.batches if batches is None else batches
        return [
            line for batch in chosen for block in batch.blocks for line in block.data.splitlines()
        ]

    @property
    def lost(self) -> list[str]:
        return [name for batch in self.batches for name in batch.lost]

    @property
    def finished(self) -> list[str]:
        return [name for batch in self.batches for name in batch.finished]

    @property
    def lost_bytes(self) -> int:
        return sum(block.lost_bytes for batch in self.batches for block in batch.blocks)

    @property
    def codes(self) -> list[str]:
        return [problem.code for problem in self.problems]


def run(coroutine: Coroutine[Any, Any, _T], *, seconds: float = 120.0) -> _T:
    """Run to the end, or fail after `seconds`."""

    async def limited() -> _T:
        async with asyncio.timeout(seconds):
            return await coroutine

    return asyncio.run(limited())
