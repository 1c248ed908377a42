"""How long a log takes: bare decompression, ways to read it, and the whole program."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import zstandard

from sidecar.log.blocks import SegmentReader
from sidecar.log.record import BadLine, decode
from sidecar.store import read_saved
from tests.bench.logs import LogSpec, generate, segments
from tests.bench.measure import Figure, in_turn, own_cpu, run
from tests.bench.sidecar import Sidecar

ZSTDCAT = "zstdcat LOG > /dev/null"
PYTHON_ZSTD = "python-zstandard (there is no zstdcat here)"
SPLIT = "decompress and split into lines"
DECODE = "decompress and decode every record"
PIPELINE = "tsa-sidecar run --once"
START = "  of that, start and end (no log)"

_CHUNK = 256 * 1024


@dataclass(frozen=True, slots=True)
class Throughput:
    """Processor time of each way, seconds for the whole log."""

    spec: LogSpec
    raw_size: int
    figures: dict[str, Figure]
    matched: int
    """How many of the records some rule matched."""

    @property
    def reference(self) -> Figure:
        """Bare decompression."""
        return next(iter(self.figures.values()))

    @property
    def ratio(self) -> Figure:
        """The program's processor time as a multiple of bare decompression's, start included."""
        return self.figures[PIPELINE] / self.reference

    @property
    def net(self) -> Figure:
        """The program's processor time without the time to start and end."""
        return self.figures[PIPELINE] - self.figures[START]

    @property
    def net_ratio(self) -> Figure:
        """The same without the time to start and end."""
        return self.net / self.reference


def reference(paths: list[Path]) -> tuple[str, Callable[[], float]]:
    """Bare decompression, by the command where there is one."""
    command = shutil.which("zstdcat")
    if command is not None:
        return ZSTDCAT, lambda: run([command, *map(str, paths)]).cpu
    return PYTHON_ZSTD, lambda: own_cpu(lambda: _decompress(paths))


def zstd_version() -> str:
    """What the reference is, for the table."""
    command = shutil.which("zstdcat")
    if command is None:
        return f"python-zstandard {zstandard.__version__}; for zstdcat: apt install zstd"
    said = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"\d[\d.]+", said.stdout + said.stderr)
    return f"zstdcat {found[0] if found else ''}"


def measure(
    spec: LogSpec, sidecar: Sidecar, *, work: Path, runs: int, others: bool = True
) -> Throughput:
    """Every way in turn; `others`: those that are not the program, too."""
    directory = generate(spec, work / "logs")
    paths = segments(directory)
    empty = work / "empty"
    empty.mkdir(exist_ok=True)
    name, bare = reference(paths)
    ways: dict[str, Callable[[], float]] = {name: bare}
    if others:
        ways[SPLIT] = lambda: own_cpu(lambda: _split(paths))
        ways[DECODE] = lambda: own_cpu(lambda: _decode(paths))
    ways[PIPELINE] = lambda: sidecar.once(directory, at_s=spec.end_s).cpu
    ways[START] = lambda: sidecar.once(empty, at_s=spec.end_s).cpu
    sidecar.once(empty, at_s=spec.end_s)  # compiles the modules
    raw_size = sum(path.stat().st_size for path in paths)
    figures = in_turn(ways, runs=runs)
    sidecar.once(directory, at_s=spec.end_s)
    matched = read_saved(sidecar.state).counters.get("matched", 0)
    return Throughput(spec, raw_size, figures, matched)


def _decompress(paths: list[Path]) -> None:
    buffer = bytearray(128 * 1024)
    for path in paths:
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as reader:
            while reader.readinto(buffer):
                pass


def _blocks(paths: list[Path]) -> Iterator[bytes]:
    for path in paths:
        reader = SegmentReader(path.name)
        with path.open("rb") as file:
            while raw := file.read(_CHUNK):
                reader.feed(raw)
                while (block := reader.next_block()) is not None:
                    yield block.data


def _split(paths: list[Path]) -> None:
    for data in _blocks(paths):
        data.split(b"\n")


def _decode(paths: list[Path]) -> None:
    for data in _blocks(paths):
        for line in data.split(b"\n"):
            if line:
                with suppress(BadLine):
                    decode(line)
