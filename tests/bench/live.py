"""The running service: how soon, how much at rest, how much memory.

Latency is from the moment a record is in the log's file to the moment the overlay
that tells of it is in its place, as seen by inotify in a third process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.logs import BEGIN_S, LogSpec, generate
from tests.bench.measure import cpu_seconds, resident
from tests.bench.sidecar import Sidecar
from tests.bench.writer import MARK_RULE, mark
from tests.kumod_writer import segment_name, take_write_bits

_MARKED = re.compile(r'^\["m(\d+)\.mark\.example"\]$', re.MULTILINE)
_MOVED_TO = 0x80
_IDLE_SECONDS = 20.0
_SAMPLE_SECONDS = 0.05
_PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Live:
    """Seconds of latency for each mark; shares of a core while busy and at rest."""

    latencies: tuple[float, ...]
    marks: int
    rate: int
    busy: float
    idle: float

    def percentile(self, share: float) -> float:
        """Seconds."""
        ordered = sorted(self.latencies)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.latencies)


def measure_live(sidecar: Sidecar, *, work: Path, rate: int, seconds: float) -> Live:
    """A writer at `rate` records a second, and the service beside it; then none."""
    log_dir = _fresh(work / "live-log")
    sidecar = _with_mark_rule(sidecar)
    with _running(sidecar, log_dir) as pid, _Overlay(sidecar.overlay) as overlay:
        began, cpu = time.monotonic(), cpu_seconds(pid)
        writer = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.writer", str(log_dir), str(rate), str(seconds)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=sidecar.env,
        )
        seen: dict[int, int] = {}
        while writer.poll() is None:
            overlay.wait(0.2)
            _note(sidecar.overlay, seen)
        assert writer.stdout is not None
        with writer.stdout:
            flushed = {int(n): int(at) for n, at in (line.split() for line in writer.stdout)}
        busy = (cpu_seconds(pid) - cpu) / (time.monotonic() - began)
        until = time.monotonic() + _PATIENCE
        while len(seen) < len(flushed) and time.monotonic() < until:
            overlay.wait(0.2)
            _note(sidecar.overlay, seen)
        idle = _idle(pid)
    latencies = tuple((seen[n] - at) / 1e9 for n, at in flushed.items() if n in seen)
    return Live(latencies, len(flushed), rate, busy, idle)


def measure_start(sidecar: Sidecar, *, work: Path) -> float:
    """Seconds from the start of the process to the first record's effect in the overlay."""
    log_dir = _fresh(work / "start-log")
    path = log_dir / segment_name(time.time_ns())
    path.write_bytes(mark(0, int(time.time())))
    take_write_bits(path)
    sidecar = _with_mark_rule(sidecar)
    sidecar.forget()
    sidecar.overlay.write_text("")
    with _Overlay(sidecar.overlay) as overlay:
        began = time.monotonic_ns()
        with _process(sidecar, log_dir):
            seen: dict[int, int] = {}
            until = time.monotonic() + _PATIENCE
            while not seen and time.monotonic() < until:
                overlay.wait(0.2)
                _note(sidecar.overlay, seen)
    return (seen[0] - began) / 1e9


def measure_memory(sidecar: Sidecar, spec: LogSpec, *, work: Path) -> list[tuple[float, int]]:
    """Resident bytes at moments of a catch-up from nothing (seconds since the start)."""
    directory = generate(spec, work / "logs")
    sidecar.forget()
    command = sidecar.command(directory, "--once", "--no-listen", "--at", str(spec.end_s))
    samples: list[tuple[float, int]] = []
    began = time.monotonic()
    with subprocess.Popen(
        command, env=sidecar.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as child:
        while child.poll() is None:
            with contextlib.suppress(OSError):
                samples.append((time.monotonic() - began, resident(child.pid)))
            time.sleep(_SAMPLE_SECONDS)
    return [sample for sample in samples if sample[1]]


def _with_mark_rule(sidecar: Sidecar) -> Sidecar:
    path = sidecar.scratch / "mark.toml"
    path.write_text(MARK_RULE)
    return Sidecar((*sidecar.rules, path), sidecar.zone, sidecar.scratch)


def _fresh(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for file in directory.iterdir():
        file.unlink()
    return directory


@contextlib.contextmanager
def _process(sidecar: Sidecar, log_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = sidecar.command(log_dir, "--listen", "127.0.0.1:0")
    with subprocess.Popen(
        command, env=sidecar.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as child:
        try:
            yield child
        finally:
            child.terminate()


@contextlib.contextmanager
def _running(sidecar: Sidecar, log_dir: Path) -> Iterator[int]:
    """The service, caught up: a first mark has reached the overlay."""
    sidecar.forget()
    path = log_dir / segment_name(BEGIN_S * 10**9, "_first")
    path.write_bytes(mark(999_999, int(time.time())))
    take_write_bits(path)
    with _process(sidecar, log_dir) as child:
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                if "m999999.mark" in sidecar.overlay.read_text():
                    break
            time.sleep(0.05)
        yield child.pid


def _note(overlay: Path, seen: dict[int, int]) -> None:
    now = time.monotonic_ns()
    try:
        text = overlay.read_text()
    except OSError:
        return
    for found in _MARKED.finditer(text):
        seen.setdefault(int(found[1]), now)


def _idle(pid: int) -> float:
    """Share of a core that the process takes while nothing happens."""
    time.sleep(2.0)
    began, cpu = time.monotonic(), cpu_seconds(pid)
    time.sleep(_IDLE_SECONDS)
    return (cpu_seconds(pid) - cpu) / (time.monotonic() - began)


class _Overlay:
    """Waits until a file is put in the overlay's place (inotify, by way of the C library)."""

    def __init__(self, path: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0 or libc.inotify_add_watch(self._fd, bytes(path.parent), _MOVED_TO) < 0:
            raise OSError(ctypes.get_errno(), "no inotify")

    def __enter__(self) -> _Overlay:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def wait(self, seconds: float) -> None:
        """Until the next time, or for so long."""
        if select.select([self._fd], [], [], seconds)[0]:
            with contextlib.suppress(BlockingIOError):
                os.read(self._fd, 65536)
