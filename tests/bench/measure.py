"""Processor time of child processes, and medians of it.

In: commands.  Out: :class:`Usage` of each run, :class:`Figure` of several.  What is
compared runs in turn, so that whatever else the machine does meets both alike.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Usage:
    """What one child process took: seconds of processor time and of time, bytes of memory."""

    cpu: float
    wall: float
    max_rss: int


@dataclass(frozen=True, slots=True)
class Figure:
    """Several measurements of one thing, in the order they were made."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The one in the middle."""
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        """The smallest."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The largest."""
        return max(self.values)

    def __truediv__(self, other: Figure) -> Figure:
        """Run by run, so that a slow moment counts for both."""
        return Figure(tuple(a / b for a, b in zip(self.values, other.values, strict=True)))

    def __sub__(self, other: Figure) -> Figure:
        return Figure(tuple(a - b for a, b in zip(self.values, other.values, strict=True)))

    def per(self, count: float) -> Figure:
        """Each divided by `count`."""
        return Figure(tuple(value / count for value in self.values))


class CommandFailedError(Exception):
    """A measured command ended with an error; the message is what it said."""


def run(command: Sequence[str], *, env: Mapping[str, str] | None = None) -> Usage:
    """Run `command` to its end, its output thrown away."""
    began = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env
    ) as child:
        assert child.stderr is not None
        said = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - began
    if child.returncode != 0:
        raise CommandFailedError(f"{' '.join(command)}: {said.decode(errors='replace')[-2000:]}")
    return Usage(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * 1024)


def own_cpu(function: Callable[[], object]) -> float:
    """Processor time that `function` takes in this process, seconds."""
    began = time.process_time()
    function()
    return time.process_time() - began


def in_turn(things: Mapping[str, Callable[[], float]], *, runs: int) -> dict[str, Figure]:
    """Each thing measured `runs` times, one after the other, then all again."""
    found: dict[str, list[float]] = {name: [] for name in things}
    for _ in range(runs):
        for name, measure in things.items():
            found[name].append(measure())
    return {name: Figure(tuple(values)) for name, values in found.items()}


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads of a running process so far (``/proc``, nanoseconds)."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def resident(pid: int) -> int:
    """Bytes of memory that a running process has resident."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0
