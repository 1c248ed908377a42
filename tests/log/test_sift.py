"""Lines that nobody wants are read and counted, and not kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from sidecar.log import batches as batches_module
from sidecar.log.batches import Batch, Sieve
from sidecar.log.blocks import BLOCK_SIZE
from sidecar.log.tail import Tail

LINES = [b'{"number":%d,"padding":"%s"}\n' % (number, b"x" * 200) for number in range(20_000)]
NAME = "20261122-120000.000000000"


def wanted(data: bytes) -> bytes:
    return b"".join(line for line in data.splitlines(keepends=True) if line[10:14] == b"1234")


class Wanted:
    """A sieve."""

    def sift(self, data: bytes) -> bytes:
        return wanted(data)

    def sift_numbered(self, data: bytes) -> tuple[bytes, list[int]]:
        lines = enumerate(data.splitlines(keepends=True))
        return wanted(data), [number for number, line in lines if line[10:14] == b"1234"]


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    path = tmp_path / NAME
    path.write_bytes(zstandard.ZstdCompressor().compress(b"".join(LINES)))
    path.chmod(0o444)
    return tmp_path


def read(
    directory: Path, sieve: Callable[[], Sieve] | None, *, numbered: bool = False
) -> list[Batch]:
    async def all_of_it() -> list[Batch]:
        async with Tail(directory, sieve=sieve, numbered=numbered) as tail:
            return [batch async for batch in tail.blocks(follow=False)]

    return asyncio.run(all_of_it())


def test_what_is_sifted_out_is_counted_and_stepped_over(logs: Path) -> None:
    batches = read(logs, Wanted)
    blocks = [block for batch in batches for block in batch.blocks]
    assert b"".join(b.data for b in blocks) == wanted(b"".join(LINES)) != b""
    assert sum(b.lines for b in blocks) == len(LINES)
    assert sum(b.size for b in blocks) == sum(map(len, LINES))
    assert batches[-1].checkpoints[NAME].position.lines == len(LINES)


def test_a_batch_reads_far_where_little_is_kept(
    logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module, "BATCH_SIZE", BLOCK_SIZE)
    monkeypatch.setattr(batches_module, "BATCH_READ", 4 * BLOCK_SIZE)
    read_all = [sum(b.size for b in batch.blocks) for batch in read(logs, None)]
    read_some = [sum(b.size for b in batch.blocks) for batch in read(logs, Wanted)]
    assert max(read_all) < 3 * BLOCK_SIZE
    assert 4 * BLOCK_SIZE <= max(read_some) < 6 * BLOCK_SIZE
    assert sum(read_all) == sum(read_some) == sum(map(len, LINES))


def test_one_sieve_chooses_the_lines_of_a_whole_batch(
    logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module, "BATCH_READ", 4 * BLOCK_SIZE)
    asked: list[Wanted] = []

    def sieve() -> Wanted:
        asked.append(Wanted())
        return asked[-1]

    batches = [batch for batch in read(logs, sieve) if batch.blocks]
    assert len(batches) > 1
    assert [batch.sieve for batch in batches] == asked


def test_what_is_kept_knows_its_lines(logs: Path) -> None:
    blocks = [block for batch in read(logs, Wanted, numbered=True) for block in batch.blocks]
    found = [
        (block.first + number, line)
        for block in blocks
        for number, line in zip(
            block.numbers or (), block.data.splitlines(keepends=True), strict=True
        )
    ]
    assert found == [(number, line) for number, line in enumerate(LINES, 1) if wanted(line) == line]
    assert [block.before for block in blocks[1:]] == [b.position.lines for b in blocks[:-1]]
