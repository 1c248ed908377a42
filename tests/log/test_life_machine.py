"""Whatever is done to the files of a log, the tail hands on each line once.

A simple reader, which decompresses every file whole, says which lines there are.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import zstandard
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from sidecar.log import batches
from sidecar.log.states import State
from sidecar.log.tail import Tail
from tests.kumod_writer import record, segment_name

from .support import Follower, decompress, gzipped
from .test_tail import NOON_NS

ROUNDS = 500


@dataclass
class Written:
    """A segment that is being written, or is finished."""

    path: Path
    compressor: Any = None
    finished: bool = False


def as_line(number: int) -> bytes:
    """A record as kumod writes it, without spaces."""
    return json.dumps(record(number), separators=(",", ":")).encode() + b"\n"


def slow_lines(path: Path) -> set[bytes]:
    """The whole lines of a file, read the simple way."""
    raw = path.read_bytes()
    text = decompress(raw) if raw.startswith(b"\x28\xb5\x2f\xfd") else raw
    return set(text.split(b"\n")[:-1])


class Life(RuleBasedStateMachine):
    """Files in all their states, and a tail that follows them.

    Truncated in place, which kumod never does, they are in test_life.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.retry = patch.object(batches, "RETRY_SECONDS", 0.02)
        self.retry.start()
        self.place = Path(tempfile.mkdtemp())
        self.logs = self.place / "logs"
        self.logs.mkdir()
        self.follower = Follower(self.logs)
        self.tail = self.new_tail()
        self.files: list[Written] = []
        self.expected: set[bytes] = set()
        self.number = 0
        self.names = 0

    def new_tail(self) -> Tail:
        """A tail that goes on where the last one stopped."""
        return Tail(
            self.logs,
            checkpoints=self.follower.checkpoints,
            on_problem=self.follower.on_problem,
        )

    def new_path(self) -> Path:
        """A name that was never used."""
        self.names += 1
        return self.logs / segment_name(NOON_NS + self.names * 1_000_000_000)

    def choose(self, number: int, *, finished: bool | None = None) -> Written | None:
        """One of the files."""
        files = [f for f in self.files if finished in {None, f.finished}]
        return files[number % len(files)] if files else None

    def write(self, file: Written, count: int) -> None:
        """Append lines that are whole in the file."""
        numbers = range(self.number, self.number + count)
        self.number += count
        data = b"".join(as_line(n) for n in numbers)
        if file.compressor is not None:
            data = file.compressor.compress(data)
            data += file.compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        with file.path.open("ab") as opened:
            opened.write(data)

    # -- what is done to files ------------------------------------------------------------

    @rule(count=st.integers(0, 30), packed=st.booleans())
    def create(self, count: int, packed: bool) -> None:
        compressor = zstandard.ZstdCompressor().compressobj() if packed else None
        file = Written(self.new_path(), compressor)
        file.path.touch()
        self.files.append(file)
        if count:
            self.write(file, count)

    @rule(which=st.integers(0, 9), count=st.integers(1, 30))
    def append(self, which: int, count: int) -> None:
        file = self.choose(which, finished=False)
        if file is not None:
            self.write(file, count)

    @rule(which=st.integers(0, 9), end_frame=st.booleans())
    def finish(self, which: int, end_frame: bool) -> None:
        """As kumod does, or as it is found when kumod was killed: without the frame's end."""
        file = self.choose(which, finished=False)
        if file is not None:
            if file.compressor is not None and end_frame:
                with file.path.open("ab") as opened:
                    opened.write(file.compressor.flush())
            file.path.chmod(0o444)
            file.finished = True

    @rule(which=st.integers(0, 9), freely=st.booleans())
    def rename(self, which: int, freely: bool) -> None:
        file = self.choose(which)
        if file is not None:
            self.names += 1
            name = f"archive-{self.names}" if freely else f"{file.path.name}.old"
            file.path = file.path.rename(self.logs / name)

    @rule(which=st.integers(0, 9))
    def replace_by_a_link(self, which: int) -> None:
        file = self.choose(which)
        if file is not None and not file.path.is_symlink():
            self.names += 1
            elsewhere = file.path.rename(self.place / f"elsewhere-{self.names}")
            file.path.symlink_to(elsewhere)

    @rule(which=st.integers(0, 9), how=st.sampled_from(["same", "gzip", "other moment"]))
    def copy(self, which: int, how: str) -> None:
        """A copy of a finished segment."""
        file = self.choose(which, finished=True)
        if file is None or not slow_lines(file.path):
            return
        self.names += 1
        path = self.logs / f"{file.path.name}.copy{self.names}"
        if how == "gzip":
            raw = file.path.read_bytes()
            path.write_bytes(gzipped(raw if file.compressor is None else decompress(raw)))
        else:
            shutil.copyfile(file.path, self.new_path() if how == "other moment" else path)
            path = (
                path
                if how == "same"
                else self.logs / segment_name(NOON_NS + self.names * 1_000_000_000)
            )
        path.chmod(0o444)

    @rule(which=st.integers(0, 9))
    def restore(self, which: int) -> None:
        """The same contents under the same name in another file."""
        file = self.choose(which, finished=True)
        if file is not None:
            copy = self.logs / ".copy"
            shutil.copy2(file.path, copy)
            copy.rename(file.path)

    @rule(which=st.integers(0, 9), count=st.integers(0, 9))
    def delete(self, which: int, count: int) -> None:
        """What is finished and read, or what the tail has open, with lines not yet read."""
        file = self.choose(which)
        if file is None:
            return
        self.read()
        segment = self.tail._reader.known.segments.get(file.path.name)
        is_open = segment is not None and segment.state is State.OPEN
        if is_open and not file.path.is_symlink():
            if count and not file.finished:
                self.write(file, count)
            self.expected |= slow_lines(file.path)
        elif not file.finished:
            return
        file.path.unlink()
        self.files.remove(file)

    # -- what the tail does ------------------------------------------------------------------

    @rule()
    def read(self) -> None:
        """The tail comes to have all lines that the simple reader finds, each once."""
        for path in self.logs.iterdir():
            if not path.name.endswith(".gz") and not path.read_bytes().startswith(b"\x1f\x8b"):
                self.expected |= slow_lines(path)
        self.loop.run_until_complete(self.follow())
        got = self.follower.lines()
        assert len(got) == len(set(got)), "a line came twice"
        assert set(got) == self.expected

    async def follow(self) -> None:
        """Follow the directory until all that is expected has come, or long enough."""
        for _ in range(ROUNDS):
            await self.tail._notice_changes(listing=True)
            reader = self.tail._reader
            while (batch := await reader.next_batch()) is not None or reader.turn_over:
                if batch is not None:
                    self.follower.commit(batch)
            if len(self.follower.lines()) >= len(self.expected):
                return
            await asyncio.sleep(0.01)

    @precondition(lambda self: self.files)
    @rule()
    def restart(self) -> None:
        self.read()
        self.loop.run_until_complete(self.tail.close())
        self.tail = self.new_tail()

    def teardown(self) -> None:
        try:
            self.read()
            assert self.follower.lost == []
        finally:
            self.loop.run_until_complete(self.tail.close())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
            self.retry.stop()
            shutil.rmtree(self.place)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
