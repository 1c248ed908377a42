"""What happens to segments besides being written: each loss is counted, nothing comes twice."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.log import tail as tail_module
from sidecar.log.batches import Batch, BatchReader
from sidecar.log.blocks import Block, Position
from sidecar.log.file import FileStatus, SegmentFile
from sidecar.log.segment import Segment
from sidecar.log.states import State
from sidecar.log.tail import Start
from tests.kumod_writer import KumodWriter, record, segment_name, take_write_bits

from .support import Follower, decompress, gzipped, run, zstd
from .test_tail import NOON_NS, Clock, numbers, write_segments

Change = Callable[[Path], None]


def rename(path: Path) -> None:
    path.rename(path.with_name(path.name + ".old"))


def rename_freely(path: Path) -> None:
    path.rename(path.with_name("archive-of-yesterday"))


def to_gzip(path: Path) -> None:
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzipped(decompress(path.read_bytes())))
    packed.chmod(0o444)
    path.unlink()


def to_plain(path: Path) -> None:
    unpacked = path.with_name(path.name + ".json")
    unpacked.write_bytes(decompress(path.read_bytes()))
    unpacked.chmod(0o444)
    path.unlink()


def to_better_zstd(path: Path) -> None:
    packed = path.with_name("tmp" + path.name)
    packed.write_bytes(zstd(decompress(path.read_bytes()), level=15, checksum=True))
    packed.chmod(0o444)
    packed.rename(path)


def add_gzip(path: Path) -> None:
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzipped(decompress(path.read_bytes())))
    packed.chmod(0o444)


def restore(path: Path) -> None:
    copy = path.with_name(".copy")
    shutil.copy2(path, copy)
    path.unlink()
    copy.rename(path)


def touch(path: Path) -> None:
    os.utime(path)


def chmod(path: Path) -> None:
    path.chmod(0o640)


def no_observer() -> None:
    raise OSError(24, "inotify instance limit reached")


REPACKED = [to_gzip, to_plain, to_better_zstd]
CHANGES = [rename, rename_freely, *REPACKED, add_gzip, restore, touch, chmod]


@pytest.mark.parametrize("change", CHANGES)
def test_a_segment_that_was_read_is_not_read_again(change: Change, tmp_path: Path) -> None:
    paths = write_segments(tmp_path, 3, each=200)
    follower = Follower(tmp_path)
    assert len(follower.once()) == 600
    change(paths[1])
    assert follower.once() == []
    assert follower.once() == []
    assert (follower.lost, follower.lost_bytes, follower.codes) == ([], 0, [])


@pytest.mark.parametrize("events", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_nor_while_we_watch(
    change: Change, events: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not events:
        monkeypatch.setattr("watchdog.observers.Observer", no_observer)
    clock = Clock()
    paths = write_segments(tmp_path, 3, each=200, clock=clock)

    async def follow() -> list[bytes]:
        follower = Follower(tmp_path)
        async with follower.tail(poll_seconds=0.02) as tail:
            blocks = tail.blocks(follow=True)
            while len(follower.finished) < 3:
                follower.commit(await anext(blocks))
            change(paths[1])
            write_segments(tmp_path, 1, clock=clock)
            while len(follower.lines()) < 603:
                follower.commit(await anext(blocks))
            while tail.waiting:
                follower.commit(await anext(blocks))
        return follower.lines()

    assert len(run(follow())) == 603


@pytest.mark.parametrize("change", [rename, rename_freely, *REPACKED, restore])
def test_a_segment_read_in_part_is_read_on_from_there(change: Change, tmp_path: Path) -> None:
    writer = KumodWriter(tmp_path)
    for number in range(1_000):
        path = writer.log(record(number))
    follower = Follower(tmp_path)
    first = len(follower.once())
    assert 0 < first < 1_000
    writer.close()
    change(path)
    assert numbers(follower.once()) == list(range(first, 1_000))
    assert (follower.lost, follower.lost_bytes, follower.codes) == ([], 0, [])
    assert follower.once() == []


def test_an_open_segment_that_is_renamed_is_read_on_while_we_watch(tmp_path: Path) -> None:
    writer = KumodWriter(tmp_path)

    async def follow() -> list[int]:
        follower = Follower(tmp_path)
        async with follower.tail(poll_seconds=0.02) as tail:
            blocks = tail.blocks(follow=True)
            for number in range(500):
                path = writer.log(record(number))
            follower.commit(await anext(blocks))
            new = path.rename(path.with_name(path.name + ".moved"))
            for number in range(500, 1_000):
                writer.log(record(number))
            writer.close()
            take_write_bits(new)
            while len(follower.lines()) < 1_000:
                follower.commit(await anext(blocks))
            assert follower.lost == []
        return numbers(follower.lines())

    assert run(follow()) == list(range(1_000))


def test_a_copy_made_while_the_original_is_being_read_is_left_out(tmp_path: Path) -> None:
    [path] = write_segments(tmp_path, 1, each=20_000)
    add_gzip(path)
    follower = Follower(tmp_path)
    got = follower.once(stop_after=1)
    path.unlink()
    assert numbers(got + follower.once()) == list(range(20_000))
    assert follower.lost == []
    assert follower.once() == []


def test_a_copy_of_a_segment_that_is_still_written_is_left_out(tmp_path: Path) -> None:
    writer = KumodWriter(tmp_path)
    for number in range(500):
        path = writer.log(record(number))

    async def follow() -> Follower:
        follower = Follower(tmp_path)
        async with follower.tail(poll_seconds=0.02) as tail:
            blocks = tail.blocks(follow=True)
            follower.commit(await anext(blocks))
            copy = path.with_name(path.name + ".gz")
            copy.write_bytes(gzipped(decompress(path.read_bytes())))
            for number in range(500, 1_000):
                writer.log(record(number))
            writer.close()
            while copy.name not in follower.checkpoints:
                follower.commit(await anext(blocks))
        return follower

    follower = run(follow())
    assert numbers(follower.lines()) == list(range(1_000))
    path.unlink()
    assert follower.once() == []
    assert follower.lost == []


def test_a_copy_stands_in_for_an_original_that_goes_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = KumodWriter(tmp_path)
    for number in range(500):
        path = writer.log(record(number))
    follower = Follower(tmp_path)
    first = len(follower.once())
    writer.close()
    add_gzip(path)
    real = SegmentFile.open

    async def open_(place: Path, *, final: bool = False) -> SegmentFile:
        if place == path:
            raise PermissionError(13, "Permission denied")
        return await real(place, final=final)

    monkeypatch.setattr(SegmentFile, "open", open_)

    async def follow() -> None:
        async with follower.tail(poll_seconds=0.02) as tail:
            blocks = tail.blocks(follow=True)
            task = asyncio.ensure_future(anext(blocks))
            await follower.told("segment-unreadable")
            await asyncio.sleep(0.1)
            assert not task.done()  # the original may become readable
            path.unlink()
            follower.commit(await task)
            while len(follower.finished) < 1:
                follower.commit(await anext(blocks))

    run(follow())
    assert numbers(follower.lines())[first:] == list(range(first, 500))
    assert follower.lost == []


def test_a_copy_that_is_still_being_made_is_waited_for(tmp_path: Path) -> None:
    [path] = write_segments(tmp_path, 1, each=500)
    follower = Follower(tmp_path)
    follower.once()
    packed = path.with_name(path.name + ".gz")
    raw = gzip.compress(decompress(path.read_bytes()), 1)
    for end in (0, 1, 30, 1_000, len(raw)):
        packed.write_bytes(raw[:end])
        assert follower.once() == []
    packed.chmod(0o444)
    path.unlink()
    assert follower.once() == []


CUTS: dict[str, Callable[[bytes], bytes]] = {
    "zstd": lambda data: zstd(data)[: len(zstd(data)) * 2 // 3],
    "gzip": lambda data: gzipped(data)[: len(gzipped(data)) * 2 // 3],
    "plain": lambda data: data[: len(data) * 2 // 3],
}
WHOLE: dict[str, Callable[[bytes], bytes]] = {"zstd": zstd, "gzip": gzipped, "plain": bytes}


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize("whole", WHOLE)
@pytest.mark.parametrize("cut", CUTS)
def test_a_copy_of_a_cut_segment_is_read_from_the_cut_on(
    cut: str, whole: str, runs: int, tmp_path: Path
) -> None:
    [path] = write_segments(tmp_path, 1, each=2_000)
    data = decompress(path.read_bytes())
    path.unlink()
    short = tmp_path / "20261122-010203.000000004"
    short.write_bytes(CUTS[cut](data))
    short.chmod(0o444)
    follower = Follower(tmp_path)
    lines = follower.once() if runs == 2 else []
    for name in ("20261122-010204.000000004", "20261122-010205.000000004"):
        (tmp_path / name).write_bytes(WHOLE[whole](data))
        (tmp_path / name).chmod(0o444)
        lines += follower.once()
    assert numbers(lines) == list(range(2_000))
    short.unlink()
    assert follower.once() == []
    assert follower.lost == []


def test_a_copy_that_waits_goes_on_where_its_original_turns_out_to_be_cut(tmp_path: Path) -> None:
    [path] = write_segments(tmp_path, 1, each=20_000)
    data = decompress(path.read_bytes())
    add_gzip(path)
    path.chmod(0o644)
    path.write_bytes(data[: len(data) * 2 // 3])  # larger than a batch: the copy finds it open
    path.chmod(0o444)
    follower = Follower(tmp_path)
    assert numbers(follower.once()) == list(range(20_000))
    assert follower.once() == []
    assert follower.codes == ["segment-cut"]


def test_of_a_copy_of_a_whole_segment_nothing_is_read_but_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [path] = write_segments(tmp_path, 1, each=500)
    follower = Follower(tmp_path)
    follower.once()
    begun: list[str] = []
    real = SegmentFile.begin

    async def begin(file: SegmentFile, name: str, position: Position) -> None:
        begun.append(name)
        await real(file, name, position)

    monkeypatch.setattr(SegmentFile, "begin", begin)
    for make, name in ((copy_of, "20261122-010204.000000004"), (packed_copy_of, "b.gz")):
        make(path, tmp_path / name)
        (tmp_path / name).chmod(0o444)
        assert follower.once() == []
    assert begun == []


def test_segments_that_begin_alike_are_not_taken_for_copies(tmp_path: Path) -> None:
    """Lines of a template: without a record's id and time they prove nothing, inode or not."""
    clock = Clock()

    def write() -> None:
        writer = KumodWriter(tmp_path, clock=clock)
        for _ in range(20):
            writer.line(b'{"type":"Delivery"}\n')
        writer.close()
        clock.now_ns += 1_000_000_000

    for _ in range(5):
        write()
    follower = Follower(tmp_path)
    assert len(follower.once()) == 100
    sorted(tmp_path.iterdir())[0].unlink()
    write()
    assert len(follower.once()) == 20


def copy_of(path: Path, other: Path) -> None:
    shutil.copy2(path, other)


def packed_copy_of(path: Path, other: Path) -> None:
    other.write_bytes(gzipped(decompress(path.read_bytes())))
    other.chmod(0o444)


@pytest.mark.parametrize("make", [os.link, copy_of, packed_copy_of])
@pytest.mark.parametrize("each", [1, 500])
@pytest.mark.parametrize("runs", [1, 2])
def test_a_copy_under_another_moment_is_not_counted_again(
    make: Callable[[Path, Path], None], each: int, runs: int, tmp_path: Path
) -> None:
    """Records have ids and times: no two segments of kumod's begin alike."""
    [path] = write_segments(tmp_path, 1, each=each)
    follower = Follower(tmp_path)
    lines = follower.once() if runs == 2 else []
    make(path, tmp_path / "20261123-010203.000000004")
    make(path, tmp_path / "20261121-010203.000000004_other")
    assert numbers(lines + follower.once()) == list(range(each))
    path.unlink()
    assert follower.once() == []
    assert follower.lost == []


def test_a_half_read_segment_renamed_to_another_moment_is_read_on(tmp_path: Path) -> None:
    writer = KumodWriter(tmp_path)
    for number in range(1_000):
        path = writer.log(record(number))
    follower = Follower(tmp_path)
    first = len(follower.once())
    assert 0 < first < 1_000
    writer.close()
    path.rename(path.with_name("20201123-010203.000000004"))
    assert numbers(follower.once()) == list(range(first, 1_000))
    assert follower.lost == []


def test_segments_that_swap_their_names_are_not_read_again(tmp_path: Path) -> None:
    first, second = write_segments(tmp_path, 2, each=200)
    follower = Follower(tmp_path)
    assert len(follower.once()) == 400
    first.rename(tmp_path / ".first")
    second.rename(first)
    (tmp_path / ".first").rename(second)
    assert follower.once() == []


# -- deleted -----------------------------------------------------------------------------------


def test_deleted_after_it_was_read_is_no_loss(tmp_path: Path) -> None:
    paths = write_segments(tmp_path, 3)
    follower = Follower(tmp_path)
    follower.once()
    for path in paths:
        path.unlink()
    follower.once()
    assert follower.lost == []
    assert follower.codes == []


def test_deleted_before_it_was_read_is_lost_by_name(tmp_path: Path) -> None:
    clock = Clock()
    writer = KumodWriter(tmp_path, clock=clock)
    for number in range(500):
        path = writer.log(record(number))
    follower = Follower(tmp_path)
    read = len(follower.once())
    writer.close()
    path.unlink()
    follower.once()
    assert follower.lost == [path.name]
    [problem] = follower.problems
    assert problem.code == "segment-lost"
    assert problem.file == str(path)
    assert f"line {read} " in problem.message
    follower.once()
    assert follower.lost == [path.name]  # said once, not at each start


@pytest.mark.parametrize("there", ["the rest", "no more than before"])
def test_a_lost_segment_that_comes_back_is_read_on_from_where_it_was(
    there: str, tmp_path: Path
) -> None:
    directory, elsewhere = tmp_path / "logs", tmp_path / "elsewhere"
    directory.mkdir()
    writer = KumodWriter(directory)
    for number in range(1_000):
        path = writer.log(record(number))
    follower = Follower(directory)
    first = len(follower.once())
    assert 0 < first < 1_000
    half = path.read_bytes()
    writer.close()
    path.rename(elsewhere)
    assert follower.once() == []
    assert follower.lost == [path.name]
    if there != "the rest":
        elsewhere.chmod(0o644)
        elsewhere.write_bytes(half)
        take_write_bits(elsewhere)
    shutil.copy(elsewhere, path)
    again = numbers(follower.once())
    assert again == (list(range(first, 1_000)) if there == "the rest" else [])
    assert follower.once() == []
    assert follower.lost == [path.name]


def test_deleted_while_waiting_in_the_backlog_is_lost_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_module, "VANISH_SECONDS", 0.0)
    paths = write_segments(tmp_path, 40, each=500)

    async def follow() -> Follower:
        follower = Follower(tmp_path)
        async with follower.tail() as tail:
            blocks = tail.blocks(follow=True)
            follower.commit(await anext(blocks))
            paths[-1].unlink()
            while not follower.lost or len(follower.finished) < 39:
                follower.commit(await anext(blocks))
        return follower

    follower = run(follow())
    assert follower.lost == [paths[-1].name]
    assert numbers(follower.lines()) == list(range(39 * 500))


def test_deleted_while_open_is_read_to_its_end(tmp_path: Path) -> None:
    writer = KumodWriter(tmp_path)

    async def follow() -> Follower:
        follower = Follower(tmp_path)
        async with follower.tail(poll_seconds=30) as tail:
            blocks = tail.blocks(follow=True)
            for number in range(500):
                path = writer.log(record(number))
            follower.commit(await anext(blocks))
            for number in range(500, 1_000):
                writer.log(record(number))
            writer.close()
            path.unlink()
            while not follower.finished:
                follower.commit(await anext(blocks))
        return follower

    follower = run(follow())
    assert numbers(follower.lines()) == list(range(1_000))
    assert (follower.lost, follower.lost_bytes) == ([], 0)


def test_what_is_deleted_while_it_is_read_comes_in_batches_of_bounded_size(tmp_path: Path) -> None:
    path = tmp_path / "20261122-120000.000000001"
    lines = [b'{"n":%d,"padding":"%s"}' % (n, b"x" * 1_000) for n in range(40_000)]
    path.write_bytes(b"".join(line + b"\n" for line in lines))

    async def follow() -> Follower:
        follower = Follower(tmp_path)
        async with follower.tail(poll_seconds=0.02) as tail:
            blocks = tail.blocks(follow=True)
            follower.commit(await anext(blocks))
            path.unlink()
            while not follower.finished:
                follower.commit(await anext(blocks))
        return follower

    follower = run(follow())
    assert follower.lines() == lines
    assert max(sum(b.size for b in batch.blocks) for batch in follower.batches) < 6 * 1024 * 1024
    assert follower.lost == []


# -- what is no log ----------------------------------------------------------------------------


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def headers(path: Path) -> None:
    path.write_bytes(b"\x28\xb5\x2f\xfd" * 2_000_000)


def no_line_ends(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"{" * 4096)
        file.truncate(1 << 40)


@pytest.mark.parametrize("make", [sparse, headers, no_line_ends])
def test_what_is_no_log_is_given_up_and_holds_up_no_other(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = tmp_path / "20261122-110000.000000001"
    make(bad)
    bad.chmod(0o444)
    turns: dict[str, int] = {}
    real = SegmentFile.next_block

    async def next_block(self: SegmentFile, *, stop_at: int | None = None) -> Block | None:
        turns[self.reader.name] = turns.get(self.reader.name, 0) + 1
        return await real(self, stop_at=stop_at)

    monkeypatch.setattr(SegmentFile, "next_block", next_block)
    [good] = write_segments(tmp_path, 1, suffix="_other")

    async def follow() -> tuple[int, Follower]:
        follower = Follower(tmp_path)
        async with follower.tail(poll_seconds=0.02) as tail:
            blocks = tail.blocks(follow=True)
            while not follower.lines():
                follower.commit(await anext(blocks))
            before = turns.get(bad.name, 0)
            while bad.name not in follower.finished:
                follower.commit(await anext(blocks))
        return before, follower

    before, follower = run(follow())
    assert before <= 4  # of some hundred
    assert len(follower.lines()) == 3
    assert follower.codes == ["segment-given-up"]
    assert 0 < follower.lost_bytes <= bad.stat().st_size
    assert follower.once() == []
    assert follower.codes == ["segment-given-up"]
    assert good.name in follower.finished


def test_only_regular_files_are_opened_and_none_is_waited_for(tmp_path: Path) -> None:
    """They may have taken a segment's place since it was looked at."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/zero")
    for name in ("fifo", "link"):
        with pytest.raises(OSError, match="is not a regular file"):
            run(SegmentFile.open(tmp_path / name))


def test_a_link_to_a_segment_is_read(tmp_path: Path) -> None:
    [path] = write_segments(tmp_path / "elsewhere", 1)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / path.name).symlink_to(path)
    assert len(Follower(tmp_path / "logs").once()) == 3


# -- replaced, truncated -----------------------------------------------------------------------


@pytest.mark.parametrize("same_inode", [True, False])
@pytest.mark.parametrize("kind", ["zstd", "plain"])
def test_other_content_under_a_name_that_was_read_is_read(
    kind: str, same_inode: bool, tmp_path: Path
) -> None:
    def content(number: int) -> bytes:
        text = b"".join(b'{"n":%d}\n' % (number + n) for n in range(100))
        return zstd(text) if kind == "zstd" else text

    path = tmp_path / "20261122-120000.000000001"
    path.write_bytes(content(1_000))
    path.chmod(0o444)
    follower = Follower(tmp_path)
    assert len(follower.once()) == 100
    if same_inode:  # as an inode's number is used again at once
        path.chmod(0o644)
    else:
        path.rename(tmp_path / ".away")
    path.write_bytes(content(2_000))
    path.chmod(0o444)
    assert follower.once()[0] == b'{"n":2000}'
    assert follower.lost == []
    assert follower.once() == []


def test_other_content_under_a_name_read_in_part_is_a_loss_and_is_read(tmp_path: Path) -> None:
    writer = KumodWriter(tmp_path)
    for number in range(500):
        path = writer.log(record(number))
    follower = Follower(tmp_path)
    follower.once()
    writer.kill()
    path.unlink()
    path.write_bytes(zstd(b'{"other":1}\n'))
    path.chmod(0o444)
    assert follower.once() == [b'{"other":1}']
    assert follower.lost == [path.name]


def test_a_truncated_segment_is_read_from_the_start_if_it_is_another_now(tmp_path: Path) -> None:
    path = tmp_path / "plain.log"
    path.write_bytes(b"".join(b'{"n":%d}\n' % n for n in range(1_000)))

    async def follow() -> list[bytes]:
        follower = Follower(tmp_path)
        async with follower.tail(poll_seconds=0.02) as tail:
            blocks = tail.blocks(follow=True)
            follower.commit(await anext(blocks))
            path.write_bytes(b'{"new":1}\n' * 500)
            while len(follower.lines()) < 1_500:
                follower.commit(await anext(blocks))
            assert follower.lines()[1_000:] == [b'{"new":1}'] * 500
            with path.open("ab") as file:
                file.write(b'{"new":2}\n')
            follower.commit(await anext(blocks))
        return follower.lines()

    assert run(follow())[-1] == b'{"new":2}'


def test_a_short_new_beginning_is_read_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.log.batches.RETRY_SECONDS", 0.05)
    path = tmp_path / "plain.log"
    path.write_bytes(b"".join(b'{"n":%d}\n' % n for n in range(1_000)))

    async def follow() -> list[bytes]:
        follower = Follower(tmp_path)
        async with follower.tail(poll_seconds=0.02) as tail:
            blocks = tail.blocks(follow=True)
            follower.commit(await anext(blocks))
            path.write_bytes(b"")
            await asyncio.sleep(0.2)  # longer than it would be waited for if it weren't empty
            path.write_bytes(b'{"new":1}\n')
            while len(follower.lines()) < 1_001:
                follower.commit(await anext(blocks))
        return follower.lines()

    assert run(follow())[1_000:] == [b'{"new":1}']


def test_a_new_log_does_not_wait_because_an_old_one_is_gone(tmp_path: Path) -> None:
    old = tmp_path / "old.log"
    old.write_bytes(b"".join(b'{"n":%d}\n' % n for n in range(1_000)))
    follower = Follower(tmp_path)
    follower.once()
    old.unlink()
    for name in ("new1.log", "new2.log"):  # one has the inode's number, as file systems do
        (tmp_path / name).write_bytes(b'{"new":1}\n')
    assert follower.once() == [b'{"new":1}'] * 2


@pytest.mark.parametrize("compress", [bytes, zstd, gzipped])
@pytest.mark.parametrize("name", ["20261122-100000.000000000", "mail.log"])
@pytest.mark.parametrize("renamed", [False, True])
def test_what_a_segment_has_beyond_what_was_finished_is_read(
    compress: Callable[[bytes], bytes], name: str, renamed: bool, tmp_path: Path
) -> None:
    beginning = b"# all our segments begin so\n"
    path = tmp_path / name
    path.write_bytes(compress(beginning))
    path.chmod(0o444)
    follower = Follower(tmp_path)
    assert len(follower.once()) == 1
    path.unlink()
    path = path.with_name(f"{name}.1" if renamed else name)
    path.write_bytes(compress(beginning + b'{"n":1}\n'))
    path.chmod(0o444)
    assert follower.once() == [b'{"n":1}']
    assert follower.once() == []


def test_a_segment_that_grows_although_it_looked_finished_is_read_on(tmp_path: Path) -> None:
    path = tmp_path / "20261122-100000.000000000"
    lines = [b'{"n":%d}' % number for number in range(2_000)]
    follower = Follower(tmp_path)
    read: list[bytes] = []
    path.touch()
    for some in (lines[:1_000], lines[1_000:1_001], lines[1_001:]):
        path.chmod(0o644)
        with path.open("ab") as file:
            file.write(b"".join(line + b"\n" for line in some))
        path.chmod(0o444)  # as where permission bits are not kept
        read += follower.once()
    assert read == lines


def test_a_segment_cut_short_is_not_read_again(tmp_path: Path) -> None:
    writer = KumodWriter(tmp_path)
    for number in range(1_000):
        path = writer.log(record(number))
    follower = Follower(tmp_path)
    first = follower.once()
    writer.kill()
    os.truncate(path, path.stat().st_size // 2)
    assert follower.once() == []
    path.chmod(0o444)
    assert follower.once() == []
    assert len(first) > 0
    assert follower.checkpoints[path.name].done


# -- the directory -----------------------------------------------------------------------------


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    write_segments(tmp_path, 1)
    (tmp_path / ".checkpoint").write_bytes(b'{"dot":1}\n')
    (tmp_path / "20261122-130000.000000001").mkdir()
    os.mkfifo(tmp_path / "20261122-130000.000000002")
    (tmp_path / "20261122-130000.000000003").symlink_to(tmp_path / "nowhere")
    (tmp_path / os.fsdecode(b"20261122-13\xff")).write_bytes(b'{"bytes":1}\n')
    (tmp_path / "notes.txt").write_bytes(b'{"other":1}\n')
    follower = Follower(tmp_path, pattern="2026*")
    assert len(follower.once()) == 3
    assert follower.codes == []


def test_a_foreign_compression_is_said_and_not_read(tmp_path: Path) -> None:
    path = tmp_path / "20261122-120000.000000001.xz"
    path.write_bytes(b"\xfd7zXZ\x00 and so on")
    path.chmod(0o444)
    follower = Follower(tmp_path)
    assert follower.once() == []
    assert follower.codes == ["unsupported-format"]
    assert follower.lost_bytes == 0


def test_a_directory_that_is_not_there_is_said_and_waited_for(tmp_path: Path) -> None:
    directory = tmp_path / "kumomta"
    follower = Follower(directory)
    assert follower.once() == []
    assert follower.codes == ["log-dir-unreadable"]
    assert "--log-dir" in follower.problems[0].message

    async def follow() -> int:
        async with follower.tail(poll_seconds=0.02) as tail:
            task = asyncio.ensure_future(anext(aiter(tail.blocks(follow=True))))
            await asyncio.sleep(0)
            write_segments(directory, 2)
            return sum(block.lines for block in (await task).blocks)

    assert run(follow()) == 6


def test_a_directory_moved_away_and_back_costs_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "logs"
    clock = Clock()
    write_segments(directory, 3, clock=clock)
    follower = Follower(directory)

    async def follow() -> None:
        async with follower.tail(poll_seconds=0.02) as tail:
            blocks = tail.blocks(follow=True)
            while len(follower.finished) < 3:
                follower.commit(await anext(blocks))
            directory.rename(tmp_path / "away")
            task = asyncio.ensure_future(anext(blocks))
            await follower.told("log-dir-unreadable")
            write_segments(tmp_path / "away", 1, clock=clock)
            (tmp_path / "away").rename(directory)
            follower.commit(await task)
            while len(follower.lines()) < 12:
                follower.commit(await anext(blocks))

    run(follow())
    assert len(follower.lines()) == 12
    assert follower.lost == []


def test_a_directory_replaced_by_another_is_followed(tmp_path: Path) -> None:
    directory = tmp_path / "logs"
    clock = Clock()
    write_segments(directory, 3, clock=clock)
    follower = Follower(directory)

    async def follow() -> None:
        async with follower.tail(poll_seconds=0.02) as tail:
            blocks = tail.blocks(follow=True)
            while len(follower.finished) < 3:
                follower.commit(await anext(blocks))
            directory.rename(tmp_path / "away")
            write_segments(directory, 1, each=4, clock=clock)
            while len(follower.lines()) < 13:
                follower.commit(await anext(blocks))
            write_segments(directory, 1, each=5, clock=clock)
            while len(follower.lines()) < 18:
                follower.commit(await anext(blocks))

    run(follow())
    assert follower.lost == []


def test_a_directory_deleted_and_made_again_is_followed_by_events_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "logs"
    clock = Clock()
    write_segments(directory, 1, clock=clock)
    follower = Follower(directory)

    async def follow() -> None:
        async with follower.tail(poll_seconds=0.1) as tail:
            blocks = tail.blocks(follow=True)
            while len(follower.lines()) < 3:
                follower.commit(await anext(blocks))
            shutil.rmtree(directory)
            task = asyncio.ensure_future(anext(blocks))
            await follower.told("log-dir-unreadable")
            directory.mkdir()
            for expected in (6, 9, 12):
                write_segments(directory, 1, clock=clock)
                while len(follower.lines()) < expected:
                    follower.commit(await task)
                    task = asyncio.ensure_future(anext(blocks))
                # The next poll but one comes after the test's time: events must do.
                monkeypatch.setattr(tail, "_poll_seconds", 600)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(follow())


def test_a_directory_behind_a_symbolic_link_is_followed_by_events(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    link = tmp_path / "link"
    link.symlink_to(real)
    follower = Follower(link)

    async def follow() -> None:
        async with follower.tail(poll_seconds=60) as tail:
            task = asyncio.ensure_future(anext(aiter(tail.blocks(follow=True))))
            await asyncio.sleep(0.1)
            write_segments(real, 1)
            follower.commit(await task)

    run(follow())
    assert len(follower.lines()) == 3


# -- faults ------------------------------------------------------------------------------------


def test_a_directory_that_cant_be_listed_is_said_once_and_read_when_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_segments(tmp_path, 1)
    real = os.scandir
    failures = [5]

    def scandir(path: Path) -> Any:
        if path == tmp_path and failures[0]:
            failures[0] -= 1
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    follower = Follower(tmp_path)

    async def follow() -> None:
        async with follower.tail(poll_seconds=0.02) as tail:
            follower.commit(await anext(aiter(tail.blocks(follow=True))))

    run(follow())
    assert len(follower.lines()) == 3
    assert follower.codes == ["log-dir-unreadable"]
    assert failures == [0]


def test_a_segment_that_cant_be_opened_is_said_once_and_read_when_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, *_ = write_segments(tmp_path, 3)
    real = SegmentFile.open
    denied = [True]

    async def open_(path: Path, *, final: bool = False) -> SegmentFile:
        if path == bad and denied:
            raise PermissionError(13, "Permission denied")
        return await real(path, final=final)

    monkeypatch.setattr(SegmentFile, "open", open_)
    follower = Follower(tmp_path)
    assert numbers(follower.once()) == [3, 4, 5, 6, 7, 8]
    assert follower.codes == ["segment-unreadable"]
    assert "Permission denied" in follower.problems[0].message
    denied.clear()
    assert numbers(follower.once()) == [0, 1, 2]


def test_an_input_error_costs_nothing_once_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.log.batches.RETRY_SECONDS", 0.05)
    paths = write_segments(tmp_path, 2, each=5_000)
    real = SegmentFile.next_block
    failures = [5]

    async def next_block(self: SegmentFile, *, stop_at: int | None = None) -> Block | None:
        if self.reader.name == paths[0].name and self.raw_read and failures[0]:
            failures[0] -= 1
            raise OSError(5, "Input/output error")
        return await real(self, stop_at=stop_at)

    monkeypatch.setattr(SegmentFile, "next_block", next_block)

    async def follow() -> Follower:
        follower = Follower(tmp_path)
        async with follower.tail(poll_seconds=30) as tail:
            blocks = tail.blocks(follow=True)
            while len(follower.finished) < 2:
                follower.commit(await anext(blocks))
        return follower

    follower = run(follow())
    assert sorted(numbers(follower.lines())) == list(range(10_000))
    assert follower.codes == ["segment-unreadable"]


def test_a_damaged_segment_costs_itself_only(tmp_path: Path) -> None:
    first, second, third = write_segments(tmp_path, 3, each=500)
    raw = bytearray(second.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    second.chmod(0o644)
    second.write_bytes(bytes(raw))
    second.chmod(0o444)
    follower = Follower(tmp_path)
    got = numbers([line for line in follower.once() if line.endswith(b"}")])
    assert set(got) >= {*range(500), *range(1_000, 1_500)}
    assert follower.finished == [first.name, second.name, third.name]
    assert follower.lost_bytes > 0
    [problem] = follower.problems
    assert (problem.code, problem.file) == ("segment-damaged", str(second))


# -- forgetting --------------------------------------------------------------------------------


def test_what_is_old_is_forgotten_and_not_read_again(tmp_path: Path) -> None:
    paths = write_segments(tmp_path, 10)
    follower = Follower(tmp_path)
    floor_ns = NOON_NS + int(5.5 * 60 * 1_000_000_000)

    async def read() -> int | None:
        async with follower.tail() as tail:
            tail.forget_before(floor_ns)
            async for batch in tail.blocks(follow=False):
                follower.commit(batch)
            return tail.floor_ns

    follower.once()
    assert len(follower.checkpoints) == 10
    assert run(read()) == floor_ns
    assert sorted(follower.checkpoints) == [path.name for path in paths[5:]]
    follower.start = Start("recent", floor_ns)
    assert follower.once() == []


def test_what_was_begun_is_read_to_its_end_however_old(tmp_path: Path) -> None:
    clock = Clock()
    writer = KumodWriter(tmp_path, clock=clock)
    for number in range(500):
        writer.log(record(number))
    follower = Follower(tmp_path)
    first = len(follower.once())
    writer.close()
    clock.now_ns += 60 * 1_000_000_000
    write_segments(tmp_path, 2, clock=clock)
    follower.start = Start("recent", clock.now_ns)
    rest = numbers(follower.once())
    assert rest[: 500 - first] == list(range(first, 500))


def test_deleted_segments_are_forgotten_in_time(tmp_path: Path) -> None:
    paths = write_segments(tmp_path, 10)
    follower = Follower(tmp_path)
    follower.once()
    for path in paths[:6]:
        path.unlink()
    follower.once()
    assert len(follower.checkpoints) == 10  # they may come back
    follower.start = Start("recent", NOON_NS + 6 * 60 * 1_000_000_000)
    follower.once()
    assert len(follower.checkpoints) == 5  # the last of them was open until then
    follower.start = Start("recent", NOON_NS + 7 * 60 * 1_000_000_000)
    follower.once()
    assert len(follower.checkpoints) == 4


def test_what_is_away_for_a_run_is_not_read_again(tmp_path: Path) -> None:
    """A log directory that was not mounted, say: an empty one in its place."""
    write_segments(tmp_path / "logs", 6, each=3)
    follower = Follower(tmp_path / "logs")
    assert len(follower.once()) == 18
    (tmp_path / "logs").rename(tmp_path / "away")
    (tmp_path / "logs").mkdir()
    # The third was still open then, so its records may matter yet.
    follower.start = Start("recent", NOON_NS + int(2.5 * 60 * 1_000_000_000))
    assert follower.once() == []
    (tmp_path / "logs").rmdir()
    (tmp_path / "away").rename(tmp_path / "logs")
    assert follower.once() == []


def test_what_the_pattern_leaves_out_is_not_taken_for_deleted(tmp_path: Path) -> None:
    path = tmp_path / "20261122-120000.000000001"
    path.write_bytes(b'{"n":1}\n')
    follower = Follower(tmp_path)
    assert len(follower.once()) == 1
    follower.pattern = "other*"
    assert follower.once() == []
    assert (follower.codes, follower.lost) == ([], [])
    follower.pattern = "*"
    with path.open("ab") as file:
        file.write(b'{"n":2}\n')
    assert follower.once() == [b'{"n":2}']


def test_not_more_deleted_segments_are_remembered_than_is_sensible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.log.batches.VANISHED_KEPT", 5)
    paths = write_segments(tmp_path, 10)
    follower = Follower(tmp_path)
    follower.once()
    for path in paths:
        path.unlink()
    follower.once()
    assert len(follower.checkpoints) == 5


def test_a_reading_without_segments_has_nothing() -> None:
    assert run(BatchReader(on_problem=print).next_batch()) is None


# -- copies, at the level of the reader ----------------------------------------------------------


def add_file(reader: BatchReader, path: Path) -> Segment:
    """What the tail does with a new file."""
    return reader.known.add(path.name, path, FileStatus.of(path.stat()))


async def read_all(reader: BatchReader) -> list[Batch]:
    batches = []
    while (batch := await reader.next_batch()) is not None:
        batches.append(batch)
    return batches


class Copied:
    """A segment that is read as far as it is written, and copies of it that wait for it."""

    def __init__(self, directory: Path) -> None:
        self.writer = KumodWriter(directory)
        for number in range(500):
            self.path = self.writer.log(record(number))
        self.reader = BatchReader(on_problem=print)
        self.got: list[int] = []
        self.lost: list[str] = []

    async def read(self) -> None:
        for batch in await read_all(self.reader):
            self.lost += batch.lost
            self.got += numbers(b"".join(block.data for block in batch.blocks).splitlines())

    async def begin(self) -> Segment:
        original = add_file(self.reader, self.path)
        await self.read()
        assert original.state is State.OPEN
        for number in range(500, 600):
            self.writer.log(record(number))
        return original

    async def add_copy(self, ending: str) -> Segment:
        """A copy that is writable, so that it may yet grow."""
        path = self.path.with_name(self.path.name + ending)
        path.write_bytes(gzipped(decompress(self.path.read_bytes())))
        copy = add_file(self.reader, path)
        await self.read()
        assert copy.state is State.COPY
        return copy


def test_a_segment_deleted_while_open_may_have_several_copies(tmp_path: Path) -> None:
    async def follow() -> None:
        world = Copied(tmp_path)
        original = await world.begin()
        copies = [await world.add_copy(".gz"), await world.add_copy(".bak.gz")]
        world.writer.close()
        world.path.unlink()
        await world.reader.vanish(original)
        await world.read()
        await world.reader.conclude_vanished(grace=-1)
        await world.read()
        await world.reader.close_all()
        assert (world.got, world.lost) == (list(range(600)), [])
        assert [copy.state for copy in copies] == [State.COMPLETE] * 2

    run(follow())


def test_a_deleted_copy_of_a_segment_that_is_being_read_is_no_loss(tmp_path: Path) -> None:
    async def follow() -> None:
        world = Copied(tmp_path)
        original = await world.begin()
        copy = await world.add_copy(".gz")
        copy.path.unlink()
        await world.reader.vanish(copy)
        await world.reader.conclude_vanished(grace=-1)
        world.writer.close()
        original.status = FileStatus.of(world.path.stat())
        await world.read()
        await world.reader.close_all()
        assert (world.got, world.lost) == (list(range(600)), [])

    run(follow())


def test_a_copy_that_may_yet_grow_stands_in_for_an_original_that_is_moved_away(
    tmp_path: Path,
) -> None:
    async def follow() -> None:
        world = Copied(tmp_path / "logs")
        original = await world.begin()
        world.writer.close()
        await world.add_copy(".gz")
        await world.reader._close(original)
        world.path.rename(tmp_path / world.path.name)
        await world.reader.vanish(original)
        await world.read()
        await world.reader.conclude_vanished(grace=-1)
        await world.read()
        await world.reader.close_all()
        assert (world.got, world.lost) == (list(range(600)), [])

    (tmp_path / "logs").mkdir()
    run(follow())


def test_an_empty_segment_that_is_deleted_and_made_again_holds_up_no_other(tmp_path: Path) -> None:
    empty, other = tmp_path / segment_name(NOON_NS), tmp_path / segment_name(NOON_NS + 1)

    async def follow() -> None:
        reader = BatchReader(on_problem=print)
        empty.touch()
        segment = add_file(reader, empty)
        await reader.next_batch()
        empty.unlink()
        await reader.vanish(segment)
        empty.touch()
        await reader.appear(segment, FileStatus.of(empty.stat()))
        other.write_bytes(zstd(json_line(1)))
        add_file(reader, other)
        [batch] = await read_all(reader)
        assert batch.blocks[0].data == json_line(1)
        empty.write_bytes(zstd(json_line(2)))
        segment.status = FileStatus.of(empty.stat())
        [batch] = await read_all(reader)
        assert batch.blocks[0].data == json_line(2)
        await reader.close_all()

    run(follow(), seconds=20)


def json_line(number: int) -> bytes:
    """A record as a line."""
    return json.dumps(record(number)).encode() + b"\n"
