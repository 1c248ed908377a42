"""The overlay file is whole at every moment, whatever happens while it is written."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sidecar.problems import ProblemError
from sidecar.publish.overlay_file import write_atomically


def everything_in(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir())


def test_a_new_file_is_readable_by_all_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "shaping.toml"
    before = os.umask(0o077)
    try:
        assert write_atomically(path, "a = 1\n")
    finally:
        os.umask(before)
    assert path.read_text() == "a = 1\n"
    assert path.stat().st_mode & 0o7777 == 0o644
    assert everything_in(tmp_path) == ["shaping.toml"]


def test_the_same_text_leaves_the_file_untouched(tmp_path: Path) -> None:
    path = tmp_path / "shaping.toml"
    write_atomically(path, "ä = 1\n")
    os.utime(path, ns=(1, 1))
    before = path.stat()
    assert not write_atomically(path, "ä = 1\n")
    assert not write_atomically(path, "ä = 1\n".encode())
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, 1)


def test_a_changed_text_replaces_the_file_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "shaping.toml"
    path.write_text("old")
    path.chmod(0o640)
    inode = path.stat().st_ino
    with path.open() as reader:
        assert write_atomically(path, "new")
        assert reader.read() == "old"  # who has it open keeps the whole old one
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o7777 == 0o640
    assert path.stat().st_ino != inode


def test_the_owner_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "shaping.toml"
    path.write_text("old")
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "fchown", lambda _fd, uid, gid: asked.append((uid, gid)))
    real_fstat = os.fstat

    def another_owner(fd: int) -> os.stat_result:
        values = list(real_fstat(fd))
        values[4] += 1  # the uid
        return os.stat_result(values)

    monkeypatch.setattr(os, "fstat", another_owner)
    write_atomically(path, "new")
    assert asked == [(path.stat().st_uid, path.stat().st_gid)]


@pytest.mark.parametrize(("mode", "accepted"), [(0o644, True), (0o640, False)])
def test_an_owner_that_cannot_be_kept_matters_only_if_it_shuts_kumod_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, accepted: bool
) -> None:
    path = tmp_path / "shaping.toml"
    path.write_text("old")
    path.chmod(mode)
    real_fstat = os.fstat

    def another_owner(fd: int) -> os.stat_result:
        values = list(real_fstat(fd))
        values[4] += 1
        return os.stat_result(values)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fstat", another_owner)
    monkeypatch.setattr(os, "fchown", refuse)
    if accepted:
        assert write_atomically(path, "new")
        assert path.read_text() == "new"
    else:
        with pytest.raises(ProblemError, match="Operation not permitted"):
            write_atomically(path, "new")
        assert path.read_text() == "old"
    assert everything_in(tmp_path) == ["shaping.toml"]


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "etc").mkdir()
    link = tmp_path / "etc" / "shaping.toml"
    link.symlink_to("../real/overlay.toml")
    assert write_atomically(link, "one")  # dangling so far
    assert write_atomically(link, "two")
    assert link.is_symlink()
    assert (tmp_path / "real" / "overlay.toml").read_text() == "two"
    assert everything_in(tmp_path / "etc") == ["shaping.toml"]
    assert everything_in(tmp_path / "real") == ["overlay.toml"]


@pytest.mark.parametrize("call", ["open", "write", "fchmod", "fsync", "rename"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES])
def test_a_failure_at_any_step_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    path = tmp_path / "shaping.toml"
    path.write_text("old")
    real_open = os.open

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    def fail_to_create(file: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            fail()
        return real_open(file, flags, mode)

    with monkeypatch.context() as patch:
        if call == "rename":
            patch.setattr(Path, "rename", fail)
        else:
            patch.setattr(os, call, fail_to_create if call == "open" else fail)
        with pytest.raises(ProblemError) as caught:
            write_atomically(path, "new")
    (problem,) = caught.value.problems
    assert problem.code == "overlay-write"
    assert problem.file == str(path)
    assert os.strerror(code) in problem.message
    assert path.read_text() == "old"
    assert everything_in(tmp_path) == ["shaping.toml"]


@pytest.fixture
def a_full_disk() -> Iterator[None]:
    """The kernel's own refusal in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("a_full_disk")
def test_a_write_that_the_kernel_cuts_short_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "shaping.toml"
    path.write_text("old")
    with pytest.raises(ProblemError, match="too large"):
        write_atomically(path, "x" * 100_000)
    assert path.read_text() == "old"
    assert everything_in(tmp_path) == ["shaping.toml"]


def test_a_missing_directory_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match=r"the directory .*/gone does not exist"):
        write_atomically(tmp_path / "gone" / "shaping.toml", "x")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_regular_file_is_left_alone(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    path = tmp_path / "shaping.toml"
    make(path)
    with pytest.raises(ProblemError):
        write_atomically(path, "x")
    assert everything_in(tmp_path) == ["shaping.toml"]
    assert not path.is_file()


def test_a_directory_that_cannot_be_synced_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def as_some_network_file_systems(fd: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(fd)

    monkeypatch.setattr(os, "fsync", as_some_network_file_systems)
    assert write_atomically(tmp_path / "shaping.toml", "x")


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "shaping.toml"
    (tmp_path / ".shaping.toml.0123456789abcdef.new").write_text("half")
    others = [".other.toml.0123456789abcdef.new", ".shaping.toml.swp", "shaping.toml.new"]
    for name in others:
        (tmp_path / name).write_text("somebody's")
    write_atomically(path, "x")
    assert everything_in(tmp_path) == sorted([*others, "shaping.toml"])
    # Also when there is nothing to write.
    (tmp_path / ".shaping.toml.fedcba9876543210.new").write_text("half")
    assert not write_atomically(path, "x")
    assert everything_in(tmp_path) == sorted([*others, "shaping.toml"])


def test_another_writers_file_in_progress_is_no_leftover(tmp_path: Path) -> None:
    path = tmp_path / "shaping.toml"
    busy = tmp_path / ".shaping.toml.0123456789abcdef.new"
    with busy.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_atomically(path, "x")
        assert busy.exists()


def test_the_temporary_file_is_no_file_that_kumod_watches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = os.fsync

    def look(fd: int) -> None:
        seen.extend(everything_in(tmp_path))
        real(fd)

    monkeypatch.setattr(os, "fsync", look)
    write_atomically(tmp_path / "shaping.toml", "x")
    temporary = [name for name in seen if name != "shaping.toml"]
    assert len(temporary) == 1
    assert Path(temporary[0]).suffix not in {".lua", ".json", ".toml", ".yaml"}


_WRITER = """
import sys
from pathlib import Path
from sidecar.publish.overlay_file import write_atomically
number = 0
while True:
    number += 1
    write_atomically(Path(sys.argv[1]), f"# {number}\\n" * 20_000 + "# end\\n")
    print(number, flush=True)
"""


def test_a_reader_never_sees_half_a_file_though_the_writer_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "shaping.toml"
    torn: list[str] = []
    done = threading.Event()

    def read_all_the_time() -> None:
        while not done.is_set():
            try:
                lines = path.read_text().splitlines()
            except FileNotFoundError:
                continue
            if lines[-1] != "# end" or len(lines) != 20_001 or len(set(lines)) != 2:
                torn.append(lines[0])

    reader = threading.Thread(target=read_all_the_time)
    reader.start()
    try:
        for writes in range(1, 6):
            with subprocess.Popen(
                [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE
            ) as writer:
                assert writer.stdout is not None
                for _ in range(writes):
                    assert writer.stdout.readline()
                writer.send_signal(signal.SIGKILL)
    finally:
        done.set()
        reader.join()
    assert torn == []
    assert path.read_text().endswith("# end\n")
    write_atomically(path, "x")
    assert everything_in(tmp_path) == ["shaping.toml"]


def test_it_says_whether_anything_was_written(tmp_path: Path) -> None:
    path = tmp_path / "shaping.toml"
    assert [write_atomically(path, text) for text in ("one", "one", "two")] == [True, False, True]
    assert path.read_text() == "two"


@pytest.mark.parametrize("data", ["", "x" * 3_000_000])
def test_any_size_is_written(tmp_path: Path, data: str) -> None:
    path = tmp_path / "shaping.toml"
    assert write_atomically(path, data)
    assert path.read_text() == data
