"""How much memory the sidecar takes: by the length of the log, by the entries in force.

    python -m tests.bench.memory [DIRECTORY]

In: a scratch directory (a temporary one unless given).  Out: two tables.  The
first has the most that was resident while catching up on logs of growing length:
it stays the same.  The second has what is resident with entries in force, and
how long a single new record then takes to be in the overlay on disk.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import zstandard
from rich.console import Console
from rich.table import Table

from tests.bench.logs import LogSpec, lines
from tests.kumod_writer import record, segment_name, take_write_bits

MB: Final = 1_000_000
SEGMENT_RECORDS: Final = 200_000
LOG_MB: Final = (200, 500, 1000, 2000)
ENTRIES: Final = (0, 1000, 10_000, 100_000)
CHANGES: Final = 15

_ROOT: Final = Path(__file__).parents[2]
_RULES: Final = """
[["default".automation]]
regex = "Throttled"
action = [{SetConfig = {name = "connection_limit", value = 1}}, "Suspend"]
duration = "1 day"
"""


@dataclass(frozen=True, slots=True)
class Scratch:
    """The files of one run."""

    base: Path

    @property
    def logs(self) -> Path:
        """The log directory."""
        return self.base / "logs"

    @property
    def overlay(self) -> Path:
        """The overlay."""
        return self.base / "overlay" / "shaping.toml"

    def caught_up(self) -> bool:
        """Whether all that there is has been read."""
        file = self.base / "state" / "state.db.status.json"
        if not file.exists():
            return False
        status = json.loads(file.read_bytes())
        return bool(status["counters"]) and status["segments_waiting"] == 0

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        """``tsa-sidecar run``."""
        rules = self.base / "rules.toml"
        rules.write_text(_RULES)
        options = {
            "--shaping": rules,
            "--log-dir": self.logs,
            "--overlay": self.overlay,
            "--state": self.base / "state" / "state.db",
            "--from": "beginning",
            "--listen": "127.0.0.1:0",
            "--max-entries": 2 * max(ENTRIES),
        }
        flat = [str(part) for option in options.items() for part in option]
        return subprocess.Popen(
            [sys.executable, "-m", "sidecar", "run", *flat, *more],
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
            stderr=subprocess.DEVNULL,
        )


def memory(pid: int) -> Mapping[str, int]:
    """``VmRSS``, ``VmHWM`` (the most so far) of a process, bytes."""
    found = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "VmHWM"):
            found[name] = int(value.split()[0]) * 1024
    return found


def catching_up(scratch: Scratch, segment: Path, size: int, length: int) -> tuple[float, float]:
    """The most resident (MB) and seconds for `length` bytes of log, of segments of `size`."""
    scratch.logs.mkdir(parents=True)
    for number in range(max(length // size, 1)):
        path = scratch.logs / segment_name(1795360648_000000000 + number * 10**9)
        # A record of its own at its beginning: a mere copy would be known as such, and not read.
        path.write_bytes(_compressed([failure(number)]) + segment.read_bytes())
        take_write_bits(path)
    began = time.perf_counter()
    process = scratch.start()
    try:
        most = 0
        while not scratch.caught_up():
            most = max(most, memory(process.pid).get("VmHWM", 0))
            time.sleep(0.05)
        seconds = time.perf_counter() - began
        most = max(most, memory(process.pid)["VmHWM"])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    return most / MB, seconds


def in_force(scratch: Scratch, count: int) -> tuple[float, float, float, float]:
    """Resident (MB) now and at most with `count` entries; milliseconds of a change, typical, worst.

    Half of the entries are overrides, half suspensions.
    """
    scratch.logs.mkdir(parents=True)
    write(scratch.logs, (failure(n) for n in range(count // 2)), 0)
    process = scratch.start()
    try:
        until_in_force(scratch, count)
        time.sleep(3)  # the catch-up's garbage has gone by then
        times = [changed(scratch, number) for number in range(CHANGES)]
        now = memory(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    return (
        now["VmRSS"] / MB,
        now["VmHWM"] / MB,
        statistics.median(times) * 1000,
        max(times) * 1000,
    )


def until_in_force(scratch: Scratch, count: int) -> None:
    """Wait until the overlay and the suspensions have them all."""
    suspended = scratch.overlay.with_name("suspended.json")
    wanted = f"# Number of entries: {count // 2}\n"
    while not suspended.exists() or not scratch.overlay.read_text().endswith(wanted):
        time.sleep(0.1)
    while len(json.loads(suspended.read_bytes())["ready_q"]) < count // 2:
        time.sleep(0.1)


def changed(scratch: Scratch, number: int) -> float:
    """Seconds from a record's arrival to the overlay that has it, as kumod would find it."""
    name = f"change{number}.example"
    before = scratch.overlay.stat().st_ino
    write(scratch.logs, [failure(number, domain=name)], number + 1)
    began = time.perf_counter()
    while True:
        inode = scratch.overlay.stat().st_ino
        if inode != before and f'["{name}"]' in scratch.overlay.read_text():
            return time.perf_counter() - began
        before = inode
        time.sleep(0.0005)


def write(logs: Path, records: Any, number: int) -> None:
    """A finished segment."""
    hidden = logs / ".new"
    hidden.write_bytes(_compressed(records))
    take_write_bits(hidden)
    hidden.rename(logs / segment_name(1795360648_000000000 + number * 10**9))


def _compressed(records: Iterable[Any]) -> bytes:
    data = b"".join(json.dumps(r, separators=(",", ":")).encode() + b"\n" for r in records)
    return zstandard.compress(data)


def failure(number: int, *, domain: str = "") -> dict[str, Any]:
    """A record that makes two entries."""
    domain = domain or f"domain{number}.example"
    return record(
        number,
        at=int(time.time()),
        recipient=f"user@{domain}",
        queue=f"camp:tenant@{domain}",
        site=f"ip2->mx.{domain}@smtp_client",
    )


def segment_of_traffic(directory: Path) -> tuple[Path, int]:
    """A segment of everyday records, and its length decompressed."""
    spec = LogSpec(records=SEGMENT_RECORDS, failures=0.1, size=1000)
    path, length = directory / "segment", 0
    encoder = zstandard.ZstdCompressor(level=3).compressobj()
    with path.open("wb") as file:
        for line in islice(lines(spec), SEGMENT_RECORDS):
            length += len(line)
            file.write(encoder.compress(line))
        file.write(encoder.flush())
    return path, length


def scratches(directory: Path) -> Iterator[Scratch]:
    """One directory after the other, each gone when the next is asked for."""
    number = 0
    while True:
        number += 1
        base = directory / f"run{number}"
        base.mkdir()
        yield Scratch(base)
        shutil.rmtree(base)


def main(directory: Path) -> None:
    """Measure and print."""
    console = Console()
    runs = scratches(directory)
    segment, size = segment_of_traffic(directory)
    table = Table("log, MB", "most resident, MB", "seconds", title="Catching up")
    for length in LOG_MB:
        most, seconds = catching_up(next(runs), segment, size, length * MB)
        table.add_row(str(length), f"{most:.0f}", f"{seconds:.1f}")
    console.print(table)
    table = Table(
        "entries", "resident, MB", "most, MB", "a change, ms", "worst, ms", title="In force"
    )
    for count in ENTRIES:
        figures = in_force(next(runs), count)
        table.add_row(str(count), *(f"{figure:.0f}" for figure in figures))
    console.print(table)
    runs.close()  # type: ignore[attr-defined]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch_directory:
            main(Path(scratch_directory))
