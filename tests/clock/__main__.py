"""Run pytest with the clock at a moment: ``python -m tests.clock MOMENT [pytest's arguments]``.

MOMENT is anything that date(1) understands: ``2028-02-29``, ``'1 year'``. It needs a C
compiler and glibc.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from . import FILE_VARIABLE, MOMENT_VARIABLE, write_clock

_COMPILE = ("cc", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o")


def main(moment: str, *arguments: str) -> int:
    """Pytest's exit code."""
    date = subprocess.run(
        ["date", "--utc", f"--date={moment}", "+%s%N"], capture_output=True, text=True
    )
    if date.returncode:
        sys.exit(f"--at {moment}: {date.stderr.strip()}")
    with tempfile.TemporaryDirectory(prefix="tests-clock-") as directory:
        library, file = Path(directory, "shift.so"), Path(directory, "clock")
        subprocess.run([*_COMPILE, library, Path(__file__).with_name("shift.c")], check=True)
        now_ns = time.time_ns()
        write_clock(file, int(date.stdout) - now_ns, now_ns)
        moved = {
            "LD_PRELOAD": str(library),
            FILE_VARIABLE: str(file),
            MOMENT_VARIABLE: date.stdout.strip(),
        }
        # One process: each test sets the one clock.
        pytest = [sys.executable, "-m", "pytest", "-p", "tests.clock.plugin", "-n0", *arguments]
        return subprocess.run(pytest, env={**os.environ, **moved}).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
