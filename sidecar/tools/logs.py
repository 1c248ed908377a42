"""The logs that a tool is given: files, directories and ``-`` for stdin in, blocks of lines out."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from sidecar.automation.pipeline import Tally
from sidecar.log.batches import OnProblem
from sidecar.log.blocks import Block, SegmentReader
from sidecar.log.paths import read_paths
from sidecar.problems import Problem, ProblemError

STDIN: Final = "-"
_PIECE: Final = 256 * 1024


@dataclass(slots=True)
class LinesRead:
    """How much was read.

    ``considered``: records that rules see; ``bad``: lines that are no records; ``files``: of
    each file with lines, whether one of them is a record.
    """

    lines: int = 0
    considered: int = 0
    bad: int = 0
    lost_bytes: int = 0
    files: dict[str, bool] = field(default_factory=dict)

    @property
    def no_logs(self) -> list[str]:
        """The files without a log record, though there are lines in them."""
        return [name for name, has_record in self.files.items() if not has_record]

    def add(self, block: Block, tally: Tally) -> None:
        """Count a block and what `tally` has counted in it."""
        bad = block.bad_lines + tally.bad
        self.lines += block.lines
        self.bad += bad
        self.lost_bytes += block.lost_bytes
        self.considered += tally.considered
        if block.lines:
            known = self.files.get(block.segment, False)
            self.files[block.segment] = known or not bad or bad + _blank(block.data) < block.lines


def _blank(data: bytes) -> int:
    return sum(line.isspace() for line in data.splitlines(keepends=True))


async def read_logs(names: Sequence[str], *, on_problem: OnProblem) -> AsyncIterator[Block]:
    """All lines, files in the order of time; stdin, compressed or not, comes first.

    ProblemError names what is missing or may not be read; `on_problem` is told what
    is damaged.
    """
    if STDIN in names:
        if sys.stdin is None:  # of a process that was started without one
            raise ProblemError.one("log-unreadable", "can't be read: it is closed", file="stdin")
        async for block in _read_pipe(sys.stdin.buffer, on_problem):
            yield block
    paths = [Path(name) for name in names if name != STDIN]
    for path in paths:
        if path.is_dir() and not any(not one.name.startswith(".") for one in path.iterdir()):
            on_problem(Problem("warning", "no-log", "the directory is empty", file=str(path)))
    if paths:
        async for batch in read_paths(paths, on_problem=on_problem):
            for block in batch.blocks:
                yield block


async def _read_pipe(pipe: BinaryIO, on_problem: OnProblem) -> AsyncIterator[Block]:
    reader = SegmentReader("stdin")
    ended = False
    while not ended:
        raw = await asyncio.to_thread(pipe.read1, _PIECE)  # type: ignore[attr-defined]
        ended = not raw
        if raw:
            reader.feed(raw)
        else:
            reader.finish()
        while True:
            block = reader.next_block()
            if block is not None:
                yield block
            elif not reader.paused:
                break
            if reader.hopeless:
                on_problem(Problem("warning", "no-log", "holds no lines of a log", file="stdin"))
                return
    if reader.damage is not None:
        on_problem(Problem("warning", "damaged", str(reader.damage), file="stdin"))
