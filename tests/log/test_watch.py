"""Following live: woken within milliseconds, at rest otherwise."""

from __future__ import annotations

import asyncio
import os
import statistics
import threading
import time
from pathlib import Path

import pytest

from sidecar.log.tail import POLL_SECONDS
from sidecar.log.watch import DirectoryWatch
from tests.kumod_writer import KumodWriter, record

from .support import Follower, run
from .test_tail import Clock, numbers, write_segments


def test_what_is_written_is_there_long_before_the_next_poll(tmp_path: Path) -> None:
    writer = KumodWriter(tmp_path)

    async def follow() -> list[float]:
        follower = Follower(tmp_path)
        times = []
        async with follower.tail(poll_seconds=60) as tail:
            blocks = tail.blocks(follow=True)
            waiting = asyncio.ensure_future(anext(blocks))
            await asyncio.sleep(0.05)
            for number in range(20):
                writer.log(record(number))
                path = writer.finish()
                began = time.perf_counter()
                while path.name not in follower.finished:
                    follower.commit(await waiting)
                    if path.name in follower.finished:
                        times.append(time.perf_counter() - began)
                    waiting = asyncio.ensure_future(anext(blocks))
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert numbers(follower.lines()) == list(range(20))
        return times

    times = run(follow())
    # Some milliseconds, on a machine with nothing else to do.
    assert statistics.median(times) < 1


def test_a_directory_at_rest_takes_no_cpu(tmp_path: Path) -> None:
    clock = Clock()
    write_segments(tmp_path, 300, clock=clock)
    writer = KumodWriter(tmp_path, clock=clock)
    writer.log(record(1))

    async def follow() -> float:
        follower = Follower(tmp_path)
        async with follower.tail(poll_seconds=POLL_SECONDS) as tail:
            blocks = tail.blocks(follow=True)
            while len(follower.finished) < 300:
                follower.commit(await anext(blocks))
            waiting = asyncio.ensure_future(anext(blocks))
            await asyncio.sleep(0.5)
            began = time.process_time()
            await asyncio.sleep(3)
            used = time.process_time() - began
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        return used

    assert run(follow()) / 3 < 0.01
    writer.kill()


def test_without_inotify_we_look_now_and_then_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more() -> None:
        raise OSError(24, "inotify instance limit reached")

    monkeypatch.setattr("watchdog.observers.Observer", no_more)
    clock = Clock()
    write_segments(tmp_path, 1, clock=clock)
    follower = Follower(tmp_path)

    async def follow() -> None:
        async with follower.tail(poll_seconds=0.02) as tail:
            blocks = tail.blocks(follow=True)
            while len(follower.lines()) < 3:
                follower.commit(await anext(blocks))
            for expected in (6, 9, 12):
                write_segments(tmp_path, 1, clock=clock)
                while len(follower.lines()) < expected:
                    follower.commit(await anext(blocks))

    run(follow())
    assert follower.codes == ["watch-unavailable"]
    assert "fs.inotify" in follower.problems[0].message
    assert "every 0.02 s" in follower.problems[0].message


def test_changes_within_one_tick_of_the_clock_are_found_without_inotify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more() -> None:
        raise OSError(24, "inotify instance limit reached")

    monkeypatch.setattr("watchdog.observers.Observer", no_more)
    clock = Clock()
    write_segments(tmp_path, 1, clock=clock)
    follower = Follower(tmp_path)

    async def follow() -> None:
        async with follower.tail(poll_seconds=0.3) as tail:
            blocks = tail.blocks(follow=True)
            follower.commit(await anext(blocks))
            before = os.stat(tmp_path)
            write_segments(tmp_path, 1, clock=clock)
            os.utime(tmp_path, ns=(before.st_atime_ns, before.st_mtime_ns))
            while len(follower.lines()) < 6:
                follower.commit(await anext(blocks))

    run(follow())


def test_the_watch_leaves_no_thread_behind(tmp_path: Path) -> None:
    before = set(threading.enumerate())

    async def use() -> None:
        woken = asyncio.Event()
        watch = DirectoryWatch(woken.set)
        watch.start(tmp_path)
        assert watch.active
        (tmp_path / "a").touch()
        await woken.wait()
        watch.stop()
        assert watch.take() == {"a"}
        assert not watch.active
        with pytest.raises(OSError, match="No such file"):
            watch.start(tmp_path / "nowhere")
        assert not watch.active
        watch.stop()

    run(use())
    assert {
        t for t in threading.enumerate() if t not in before and "asyncio" not in t.name
    } == set()


def test_reading_a_file_wakes_nobody(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("x")

    async def use() -> set[str]:
        woken = asyncio.Event()
        watch = DirectoryWatch(woken.set)
        watch.start(tmp_path)
        path.read_text()
        (tmp_path / "b").touch()
        await woken.wait()
        watch.stop()
        return watch.take()

    assert run(use()) == {"b"}


def test_the_end_of_the_directory_is_noted(tmp_path: Path) -> None:
    # The next one may have the same inode number: nothing else would tell that the watch is dead.
    directory = tmp_path / "logs"
    directory.mkdir()

    async def use() -> set[str]:
        woken = asyncio.Event()
        watch = DirectoryWatch(woken.set)
        watch.start(directory)
        directory.rmdir()
        await woken.wait()
        watch.stop()
        return watch.take()

    assert run(use()) == {""}


def test_many_events_wake_once(tmp_path: Path) -> None:
    async def use() -> int:
        wakes = 0
        last = asyncio.Event()

        def wake() -> None:
            nonlocal wakes
            wakes += 1
            last.set()

        watch = DirectoryWatch(wake)
        watch.start(tmp_path)
        for number in range(100):
            (tmp_path / str(number)).touch()
        names: set[str] = set()
        await last.wait()
        once = wakes
        while len(names) < 100:
            names |= watch.take()
            await asyncio.sleep(0.01)
        watch.stop()
        return once

    assert run(use()) == 1
