"""A log directory is followed: order, completeness, checkpoints."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import tempfile
from pathlib import Path

import msgspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.log.batches import OPEN_MAX, Batch
from sidecar.log.file import FileStatus, SegmentFile
from sidecar.log.names import parse_name
from sidecar.log.record import BadLine, decode
from sidecar.log.tail import Start
from tests.kumod_writer import KumodWriter, record, segment_name, take_write_bits

from .support import Follower, copy_recorded, decompress, gzipped, recorded, run

HOUR_NS = 3600 * 1_000_000_000
NOON_NS = 1795348800 * 1_000_000_000


class Clock:
    """kumod's clock, in hands."""

    def __init__(self) -> None:
        self.now_ns = NOON_NS

    def __call__(self) -> int:
        self.now_ns += 1
        return self.now_ns


def numbers(lines: list[bytes]) -> list[int]:
    """The numbers of test records."""
    return [int(msgspec.json.decode(line)["id"], 16) for line in lines]


def write_segments(
    directory: Path, count: int, *, each: int = 3, suffix: str = "", clock: Clock | None = None
) -> list[Path]:
    """Finished segments a minute apart, records numbered through."""
    clock = clock or Clock()
    writer = KumodWriter(directory, suffixes={"Any": suffix}, clock=clock)
    paths = []
    for segment in range(count):
        for number in range(each):
            at = clock.now_ns // 1_000_000_000
            path = writer.log(record(segment * each + number, at=at))
        writer.finish(suffix)
        paths.append(path)
        clock.now_ns += 60 * 1_000_000_000
    return paths


# -- the writer is worth something -------------------------------------------------------------


@pytest.mark.parametrize("folder", ["plain", "suffix", "killed", "template"])
def test_the_test_writer_writes_what_kumod_writes(folder: str, tmp_path: Path) -> None:
    for number, path in enumerate(recorded(folder)):
        killed = folder == "killed" and number == 0
        text = decompress(path.read_bytes())
        writer = KumodWriter(tmp_path / str(number))
        for line in text.splitlines(keepends=True):
            written = writer.line(line)
        if killed:
            writer.kill()
        else:
            writer.close()
        assert bool(written.stat().st_mode & 0o222) == killed
        assert decompress(written.read_bytes()) == (text if not killed else text[: 21 * 131072])
        if zstandard.ZSTD_VERSION == (1, 5, 7) and not killed:  # the version in kumod
            assert written.read_bytes() == path.read_bytes()


def test_the_test_writer_names_segments_as_kumod_does() -> None:
    assert segment_name(1795361011_215735196, "_all") == recorded("suffix")[0].name


# -- recorded ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "records", "bad", "lost"),
    [
        ("plain", 3150, 0, 0),
        ("killed", 3429, 0, 985),
        ("suffix", 400, 0, 0),
        ("template", 39, 261, 0),
    ],
)
def test_the_recorded_directories_are_read_whole(
    folder: str, records: int, bad: int, lost: int, tmp_path: Path
) -> None:
    names = [path.name for path in copy_recorded(folder, tmp_path)]
    follower = Follower(tmp_path)
    good = failed = 0
    for line in follower.once():
        try:
            decode(line)
            good += 1
        except BadLine:
            failed += 1
    assert (good, failed, follower.lost_bytes) == (records, bad, lost)
    assert sorted(follower.finished) == names
    assert all(follower.checkpoints[name].done for name in names)
    assert follower.codes == (["segment-cut"] if lost else [])
    assert follower.once() == []


# -- growing segments --------------------------------------------------------------------------


def test_a_segment_is_read_as_it_grows_and_to_its_end(tmp_path: Path) -> None:
    writer = KumodWriter(tmp_path)
    follower = Follower(tmp_path)
    seen: list[int] = []
    for number in range(900):
        path = writer.log(record(number))
        if number % 100 == 99:
            seen += numbers(follower.once())
            assert seen == list(range(len(seen)))
            there = decompress(path.read_bytes())
            assert len(seen) == there.count(b"\n")
    assert 100 < len(seen) < 900
    writer.close()
    seen += numbers(follower.once())
    assert seen == list(range(900))
    assert follower.finished == [path.name]


@pytest.mark.parametrize("looks", [1, 2, 3])
def test_what_is_written_between_the_last_read_and_the_end_is_read(
    looks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = KumodWriter(tmp_path)
    for number in range(400):
        writer.log(record(number))
    real = SegmentFile.status
    times = itertools.count(1)

    def status(self: SegmentFile) -> FileStatus:
        found = real(self)
        if next(times) == looks:  # kumod finishes it just after we looked
            writer.close()
        return found

    monkeypatch.setattr(SegmentFile, "status", status)
    follower = Follower(tmp_path)
    assert numbers(follower.once()) == list(range(400))


def test_a_killed_kumods_segment_waits_until_the_next_one_starts(tmp_path: Path) -> None:
    clock = Clock()
    writer = KumodWriter(tmp_path, clock=clock)
    for number in range(500):
        path = writer.log(record(number))
    writer.kill()
    follower = Follower(tmp_path)
    first = numbers(follower.once())
    assert first == list(range(len(first)))
    assert 0 < len(first) < 500
    assert follower.finished == []
    assert follower.once() == []
    writer = KumodWriter(tmp_path, clock=clock)
    writer.log(record(1000))
    writer.close()
    assert numbers(follower.once()) == [1000]
    assert path.name in follower.finished
    text = decompress(path.read_bytes())
    assert follower.lost_bytes == len(text) - text.rfind(b"\n") - 1


def test_the_write_bits_count_not_whether_we_could_write(tmp_path: Path) -> None:
    [path] = write_segments(tmp_path, 1)
    path.chmod(0o464)
    follower = Follower(tmp_path)
    assert len(follower.once()) == 3
    assert follower.finished == []
    path.chmod(0o440)
    assert follower.once() == []
    assert follower.finished == [path.name]


def test_the_record_behind_a_glued_header_is_read(tmp_path: Path) -> None:
    writer = KumodWriter(tmp_path, headers={"": b'{"header":1}'})
    writer.log(record(1))
    writer.close()
    [line] = Follower(tmp_path).once()
    assert decode(line).recipients == ("user1@comcast.net",)


class Steps:
    """A kumod and a sidecar with bad habits."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = Clock()
        self.suffixes = {"Bounce": "_b", "Expiration": "_e"}
        self.follower = Follower(directory)
        self.start()

    def start(self) -> None:
        self.writer = KumodWriter(self.directory, suffixes=self.suffixes, clock=self.clock)
        self.number = getattr(self, "number", 0)

    def log(self, count: int, kind: str) -> None:
        for _ in range(count):
            self.writer.log(record(self.number, type=kind))
            self.number += 1

    def finish(self, kind: str) -> None:
        suffix = self.suffixes.get(kind, "")
        if suffix in self.writer._open:
            self.writer.finish(suffix)

    def _any(self, number: int, *, read: bool) -> Path | None:
        """One of the finished segments (that have been read)."""
        done = {name for name, c in self.follower.checkpoints.items() if c.done}
        paths = [p for p in sorted(self.directory.iterdir()) if not p.stat().st_mode & 0o222]
        paths = [p for p in paths if p.name in done or not read]
        return paths[number % len(paths)] if paths else None

    def change(self, number: int, how: str) -> None:
        """What cron does to segments: what is deleted has been read, as it should."""
        path = self._any(number, read=how == "delete")
        if path is None:
            return
        match how:
            case "delete":
                path.unlink()
            case "rename":
                path.rename(path.with_name(path.name + ".old"))
            case "restore":
                copy = path.with_name(".copy")
                shutil.copy2(path, copy)
                copy.rename(path)
            case "gzip" if ".gz" not in path.name:
                text = decompress(path.read_bytes())
                path.unlink()
                path = path.with_name(path.name + ".gz")
                path.write_bytes(gzipped(text))
                path.chmod(0o444)

    def restart(self) -> None:
        self.writer.close()
        self.start()


KINDS = st.sampled_from(["TransientFailure", "Bounce", "Expiration"])
STEP = st.one_of(
    st.tuples(st.just("log"), st.integers(1, 400), KINDS),
    st.tuples(st.just("finish"), KINDS),
    st.tuples(st.just("restart")),
    st.tuples(st.just("read"), st.sampled_from([None, 1])),
    st.tuples(
        st.just("change"),
        st.integers(0, 9),
        st.sampled_from(["delete", "rename", "restore", "gzip"]),
    ),
)


@settings(max_examples=60)
@given(st.lists(STEP, max_size=20))
def test_whatever_kumod_and_cron_do_and_however_often_we_stop_every_line_comes_once(
    steps: list[tuple[object, ...]],
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        world = Steps(Path(directory))
        for name, *arguments in steps:
            match name, arguments:
                case "log", [int(count), str(kind)]:
                    world.log(count, kind)
                case "finish", [str(kind)]:
                    world.finish(kind)
                case "change", [int(number), str(how)]:
                    world.change(number, how)
                case "restart", []:
                    world.restart()
                case "read", [stop_after]:
                    assert stop_after is None or isinstance(stop_after, int)
                    world.follower.once(stop_after=stop_after)
        world.writer.close()
        world.follower.once()
        got = numbers(world.follower.lines())
        assert sorted(got) == list(range(world.number))
        for kind in ("_b", "_e", ""):
            series = [
                numbers(block.data.splitlines())
                for batch in world.follower.batches
                for block in batch.blocks
                if parse_name(block.segment).series == kind
            ]
            flat = list(itertools.chain.from_iterable(series))
            assert flat == sorted(flat)
        assert world.follower.lost == []
        assert world.follower.lost_bytes == 0


# -- order -------------------------------------------------------------------------------------


def test_a_backlog_is_read_oldest_first_with_few_files_open(tmp_path: Path) -> None:
    write_segments(tmp_path, 1_200)
    follower = Follower(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    most = 0

    async def read() -> None:
        nonlocal most
        async with follower.tail() as tail:
            async for batch in tail.blocks(follow=False):
                follower.commit(batch)
                most = max(most, len(os.listdir("/proc/self/fd")) - before)

    run(read())
    assert numbers(follower.lines()) == list(range(3_600))
    assert most <= OPEN_MAX + 12  # the loop and inotify have some, too


def test_series_written_side_by_side_are_read_side_by_side(tmp_path: Path) -> None:
    clock = Clock()
    writer = KumodWriter(tmp_path, suffixes={"Bounce": "_b"}, clock=clock)
    start = clock.now_ns // 1_000_000_000
    for second in range(400):
        for number in range(25):
            kind = "Bounce" if number % 3 else "TransientFailure"
            writer.log(record(second * 25 + number, type=kind, at=start + second))
        if second % 100 == 99:
            clock.now_ns = (start + second) * 1_000_000_000
            writer.close()
    follower = Follower(tmp_path)
    times = [msgspec.json.decode(line)["timestamp"] - start for line in follower.once()]
    assert len(times) == 10_000
    newest = list(itertools.accumulate(times, max))
    # A block of the smaller series spans up to a whole segment, of the larger half of one.
    assert max(high - at for high, at in zip(newest, times, strict=True)) <= 100


def test_of_two_open_segments_none_waits_for_the_other(tmp_path: Path) -> None:
    writer = KumodWriter(tmp_path, suffixes={"Bounce": "_b"})

    async def follow() -> None:
        follower = Follower(tmp_path)
        async with follower.tail(poll_seconds=30) as tail:
            number = 0
            got: dict[str, int] = {"TransientFailure": 0, "Bounce": 0}
            blocks = tail.blocks(follow=True)
            while min(got.values()) < 500:
                for _ in range(300):
                    writer.log(record(number, type=("TransientFailure", "Bounce")[number % 2]))
                    number += 1
                batch = await anext(blocks)
                for line in follower.lines([batch]):
                    got[msgspec.json.decode(line)["type"]] += 1
                assert abs(got["TransientFailure"] - got["Bounce"]) < 1_000

    run(follow())
    writer.kill()


def test_names_without_a_moment_are_read_too(tmp_path: Path) -> None:
    for number in range(3):
        path = tmp_path / f"old-{number}.log"
        path.write_text(f'{{"n":{number}}}\n')
        os.utime(path, (1_000 - number, 1_000 - number))
        path.chmod(0o444)
    (tmp_path / "live.log").write_text('{"n":"live"}\n')
    follower = Follower(tmp_path, pattern="*.log")
    (tmp_path / "other.txt").write_text("no\n")
    lines = [msgspec.json.decode(line)["n"] for line in follower.once()]
    assert [n for n in lines if n != "live"] == [2, 1, 0]
    assert "live" in lines


def open_files(directory: Path) -> int:
    """How many files of this directory this process has open."""
    links = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    return sum(os.path.realpath(link).startswith(f"{directory}/") for link in links)


def test_more_open_segments_than_files_may_be_open_are_followed(tmp_path: Path) -> None:
    kinds = [f"Kind{n}" for n in range(OPEN_MAX + 4)]
    writer = KumodWriter(tmp_path, suffixes={kind: f"_{kind}" for kind in kinds})

    async def follow() -> list[int]:
        follower = Follower(tmp_path)
        async with follower.tail(poll_seconds=0.02) as tail:
            blocks = tail.blocks(follow=True)
            for number in range(200 * len(kinds)):
                writer.log(record(number, type=kinds[number % len(kinds)]))
            while not all(any(n.endswith(k) for n in follower.checkpoints) for k in kinds):
                follower.commit(await anext(blocks))
            for number in range(200 * len(kinds), 500 * len(kinds)):
                writer.log(record(number, type=kinds[number % len(kinds)]))
            assert (
                open_files(tmp_path) <= len(kinds) + OPEN_MAX
            )  # those of the writer are open, too
            writer.close()
            while len(follower.finished) < len(kinds):
                follower.commit(await anext(blocks))
        return numbers(follower.lines())

    assert sorted(run(follow())) == list(range(500 * len(kinds)))


def test_of_sixty_live_segments_none_is_decompressed_again_from_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = [f"Kind{n}" for n in range(60)]
    writer = KumodWriter(tmp_path, suffixes={kind: f"_{kind}" for kind in kinds})
    opened = 0
    real = SegmentFile.open

    async def open_(path: Path, *, final: bool = False) -> SegmentFile:
        nonlocal opened
        opened += 1
        return await real(path, final=final)

    async def follow() -> list[int]:
        follower = Follower(tmp_path)
        async with follower.tail(poll_seconds=0.02) as tail:
            blocks = tail.blocks(follow=True)
            for end in (200, 400, 600):
                for number in range((end - 200) * 60, end * 60):
                    writer.log(record(number, type=kinds[number % 60]))
                if end == 400:  # from now on all have something to be read
                    monkeypatch.setattr(SegmentFile, "open", open_)
                seen = len(follower.lines())
                while len(follower.lines()) < seen + 60 * 100:
                    follower.commit(await anext(blocks))
            writer.close()
            while len(follower.finished) < 60:
                follower.commit(await anext(blocks))
        return numbers(follower.lines())

    assert sorted(run(follow())) == list(range(600 * 60))
    assert opened <= 60


# -- where to begin ----------------------------------------------------------------------------


def test_recent_leaves_out_what_was_closed_before(tmp_path: Path) -> None:
    paths = write_segments(tmp_path, 10, each=1)
    write_segments(tmp_path, 2, each=1, suffix="_b")
    since_ns = NOON_NS + int(4.5 * 60 * 1_000_000_000)
    follower = Follower(tmp_path, start=Start("recent", since_ns))
    follower.once()
    read = {block.segment for batch in follower.batches for block in batch.blocks}
    assert [path.name in read for path in paths] == [False] * 4 + [True] * 6
    # The last of a series may have been open for long: nothing says that it was closed.
    assert sum(name.endswith("_b") for name in read) == 1
    assert follower.once() == []


def test_recent_takes_suffixes_with_dots_for_series_of_their_own(tmp_path: Path) -> None:
    names = ("20261122-100000.0.rare", "20261122-110000.0.busy", "20261122-130000.0.busy")
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(b'{"n":%d}\n' % number)
    noon_ns = parse_name("20261122-120000").opened_ns
    # The first of them is still open, whatever came after it in the other series.
    assert len(Follower(tmp_path, start=Start("recent", noon_ns)).once()) == 3


def test_recent_takes_what_is_still_being_written_whatever_came_after_it(tmp_path: Path) -> None:
    """Two logs in one directory, say, of which one is opened seldom."""
    since_ns = parse_name("20261122-120000").opened_ns
    assert since_ns is not None
    for name, mode, age in (
        ("20261122-080000.0", 0o644, 1),
        ("20261122-080000.1", 0o644, -1),
        ("20261122-080000.2", 0o444, 1),
        ("20261122-090000.3", 0o644, -1),
    ):
        path = tmp_path / name
        path.write_bytes(b'{"name":"%s"}\n' % name.encode())
        path.chmod(mode)
        os.utime(path, ns=(since_ns + age, since_ns + age))
    follower = Follower(tmp_path, start=Start("recent", since_ns))
    read = [json.loads(line)["name"] for line in follower.once()]
    assert read == ["20261122-080000.0", "20261122-090000.3"]


def test_beginning_reads_all_and_without_a_moment_recent_does_too(tmp_path: Path) -> None:
    write_segments(tmp_path, 5, each=1)
    assert len(Follower(tmp_path, start=Start("beginning")).once()) == 5
    assert len(Follower(tmp_path, start=Start("recent")).once()) == 5
    assert len(Follower(tmp_path).once()) == 5


def test_end_reads_what_is_written_from_now_on(tmp_path: Path) -> None:
    clock = Clock()
    write_segments(tmp_path, 3, each=1, clock=clock)
    writer = KumodWriter(tmp_path, clock=clock)
    for number in range(500):
        path = writer.log(record(number))
    there = decompress(path.read_bytes()).count(b"\n")
    follower = Follower(tmp_path, start=Start("end"))
    assert follower.once() == []
    for number in range(500, 1_000):
        writer.log(record(number))
    writer.close()
    writer.log(record(1_000))
    writer.close()
    assert numbers(follower.once()) == list(range(there, 1_001))
    assert follower.once() == []


def test_end_reads_all_in_a_directory_that_comes_later(tmp_path: Path) -> None:
    directory = tmp_path / "logs"

    async def follow() -> Batch:
        follower = Follower(directory, start=Start("end"))
        async with follower.tail() as tail:
            task = asyncio.ensure_future(anext(aiter(tail.blocks(follow=True))))
            await follower.told("log-dir-unreadable")
            write_segments(tmp_path / "new", 2)
            (tmp_path / "new").rename(directory)
            return await task

    assert sum(block.lines for block in run(follow()).blocks) == 6


def test_after_a_stop_what_was_written_meanwhile_is_read(tmp_path: Path) -> None:
    for start in (Start("recent", NOON_NS), Start("end"), Start("beginning"), None):
        directory = tmp_path / str(start and start.mode)
        clock = Clock()
        write_segments(directory, 3, each=1, clock=clock)
        follower = Follower(directory, start=start)
        follower.once()
        write_segments(directory, 3, each=1, clock=clock)
        assert len(follower.once()) == 3


# -- bounds ------------------------------------------------------------------------------------


def test_batches_are_of_bounded_size(tmp_path: Path) -> None:
    writer = KumodWriter(tmp_path)
    for number in range(20_000):
        writer.log(record(number))
    writer.close()
    follower = Follower(tmp_path)
    assert len(follower.once()) == 20_000
    sizes = [sum(len(block.data) for block in batch.blocks) for batch in follower.batches]
    assert max(sizes) < 5 * 1024 * 1024
    assert len(sizes) < 10


def test_the_checkpoint_of_a_batch_is_the_position_behind_it(tmp_path: Path) -> None:
    writer = KumodWriter(tmp_path)
    for number in range(20_000):
        path = writer.log(record(number))
    writer.close()
    follower = Follower(tmp_path)
    read = 0
    while not follower.finished:
        read += len(follower.once(stop_after=1))
        checkpoint = follower.checkpoints[path.name]
        assert checkpoint.position.lines == read
        assert checkpoint.id.name == path.name
        assert checkpoint.id.inode == path.stat().st_ino
    assert read == 20_000


def test_what_is_waiting_is_told_for_showing_progress(tmp_path: Path) -> None:
    paths = write_segments(tmp_path, 5, each=2_000)
    size = sum(path.stat().st_size for path in paths)

    async def read() -> list[tuple[int, int]]:
        async with Follower(tmp_path).tail() as tail:
            return [(tail.waiting, tail.bytes_waiting) async for _ in tail.blocks(follow=False)]

    seen = run(read())
    assert seen == sorted(seen, reverse=True)
    assert size > seen[0][1] > 0
    assert seen[-1] == (0, 0)


def test_take_write_bits_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.touch(0o644)
    take_write_bits(path)
    assert path.stat().st_mode & 0o777 == 0o444
