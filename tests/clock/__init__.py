"""The suite on another day: ``tests/run --at MOMENT``.

Every test begins at MOMENT, in the processes that it starts as well. `shift.c` moves
the clock of a process, and `plugin` sets it back before each test.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

FILE_VARIABLE = "TEST_CLOCK_FILE"
MOMENT_VARIABLE = "TEST_CLOCK_MOMENT"


def write_clock(file: Path, ahead_ns: int, began_ns: int) -> None:
    """Set all clocks that follow `file`; the second number tells which files are of this run."""
    fd = os.open(file, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(fd, struct.pack("qq", ahead_ns, began_ns), 0)
    finally:
        os.close(fd)


def read_clock(file: Path) -> tuple[int, int]:
    """What `write_clock` wrote."""
    ahead_ns, began_ns = struct.unpack("qq", file.read_bytes())
    return ahead_ns, began_ns
