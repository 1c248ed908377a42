"""Given logs are read once, in the order of time."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from sidecar.log.batches import Batch
from sidecar.log.paths import read_paths
from sidecar.problems import Problem, ProblemError
from tests.kumod_writer import KumodWriter, record

from .support import RECORDED, decompress, gzipped, recorded, run
from .test_tail import Clock, numbers, write_segments


def batches(*paths: Path) -> tuple[list[Batch], list[Problem]]:
    problems: list[Problem] = []

    async def collect() -> list[Batch]:
        return [batch async for batch in read_paths(paths, on_problem=problems.append)]

    return run(collect()), problems


def read(*paths: Path) -> tuple[list[bytes], list[Problem]]:
    found, problems = batches(*paths)
    blocks = [block for batch in found for block in batch.blocks]
    return [line for block in blocks for line in block.data.splitlines()], problems


def test_directories_and_files_are_read_whatever_their_modes() -> None:
    paths = RECORDED / "plain" / "logs", *recorded("killed")
    lines, problems = read(*paths)
    blocks = [block for batch in batches(*paths)[0] for block in batch.blocks]
    assert len(lines) == 3150 + 3429 == sum(block.lines for block in blocks)
    assert sum(block.lost_bytes for block in blocks) == 985
    assert [problem.code for problem in problems] == ["segment-cut"]


def test_nothing_is_changed_or_left(tmp_path: Path) -> None:
    paths = write_segments(tmp_path, 3)
    before = [(path.stat(), path.read_bytes()) for path in paths]
    read(tmp_path)
    after = [(path.stat(), path.read_bytes()) for path in paths]
    assert [(s.st_mode, s.st_mtime_ns, b) for s, b in before] == [
        (s.st_mode, s.st_mtime_ns, b) for s, b in after
    ]
    assert sorted(tmp_path.iterdir()) == paths


def test_paths_in_any_order_are_read_in_the_order_of_time(tmp_path: Path) -> None:
    paths = write_segments(tmp_path, 6)
    assert numbers(read(*reversed(paths))[0]) == list(range(18))


def test_the_same_file_by_two_ways_is_read_once(tmp_path: Path) -> None:
    paths = write_segments(tmp_path, 2)
    (tmp_path / "link").symlink_to(paths[0])
    assert numbers(read(tmp_path, *paths)[0]) == list(range(6))


def test_series_are_merged_by_time_even_from_two_directories(tmp_path: Path) -> None:
    for name, clock in (("a", Clock()), ("b", Clock())):
        writer = KumodWriter(tmp_path / name, suffixes={"Bounce": "_b"}, clock=clock)
        start = clock.now_ns // 1_000_000_000
        for second in range(300):
            for number in range(40):  # one series is four times as large as the other
                kind = "TransientFailure" if number % 5 else "Bounce"
                writer.log(record(second, type=kind, at=start + second, nodeid=name))
        writer.close()
    lines, _ = read(tmp_path / "a", tmp_path / "b")
    times = [msgspec.json.decode(line)["timestamp"] for line in lines]
    assert len(times) == 24_000
    newest = 0
    for at in times:
        newest = max(newest, at)
        assert newest - at <= 110  # a block of the smaller series spans some 75 seconds


def test_files_whose_names_tell_no_time_are_ordered_by_their_records(tmp_path: Path) -> None:
    for number, name in enumerate(["zzz.log", "mmm.gz", "aaa.zst"]):
        text = b"".join(
            msgspec.json.encode(record(number * 10 + n, at=1_000_000 + number * 100 + n)) + b"\n"
            for n in range(10)
        )
        (tmp_path / name).write_bytes(gzipped(text) if name.endswith("gz") else text)
        os.utime(tmp_path / name, (1, 1))
    assert numbers(read(tmp_path)[0]) == list(range(30))


def test_a_segment_and_its_recompressed_copy_are_read_once(tmp_path: Path) -> None:
    [path] = write_segments(tmp_path, 1, each=500)
    (tmp_path / (path.name + ".gz")).write_bytes(gzipped(decompress(path.read_bytes())))
    assert numbers(read(tmp_path)[0]) == list(range(500))


def test_dot_files_are_read_only_if_named(tmp_path: Path) -> None:
    dot = tmp_path / ".dot"
    dot.write_text('{"n":1}\n')
    assert read(tmp_path)[0] == []
    assert read(dot)[0] == [b'{"n":1}']


def test_every_missing_path_is_named_before_anything_is_read(tmp_path: Path) -> None:
    [path] = write_segments(tmp_path, 1)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(ProblemError) as caught:
        read(path, tmp_path / "a", tmp_path / "b", fifo)
    assert [problem.file for problem in caught.value.problems] == [
        str(tmp_path / "a"),
        str(tmp_path / "b"),
        str(fifo),
    ]
    assert "No such file" in str(caught.value)
    assert "neither a file nor a directory" in str(caught.value)


def test_what_goes_from_a_directory_meanwhile_is_left_out(tmp_path: Path) -> None:
    write_segments(tmp_path, 1)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert len(read(tmp_path)[0]) == 3


def test_in_a_directory_every_file_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_segments(tmp_path, 3)
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path == paths[1] and real(path, mode))
    with pytest.raises(ProblemError) as caught:
        read(tmp_path)
    assert [p.file for p in caught.value.problems] == [str(paths[0]), str(paths[2])]


def test_nothing_to_read_is_nothing(tmp_path: Path) -> None:
    assert read(tmp_path) == ([], [])
    assert read() == ([], [])
