"""``tests/run --at`` moves the clock of the tests and of all that they start, however they do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

ELSEWHEN = """
import os, subprocess, time

def spawned():
    read, write = os.pipe()
    to_pipe = [(os.POSIX_SPAWN_DUP2, write, 1)]
    pid = os.posix_spawn("/bin/date", ["date", "+%Y"], {"PATH": "/bin"}, file_actions=to_pipe)
    os.waitpid(pid, 0)
    return os.read(read, 100)

def forked():
    read, write = os.pipe()
    if not os.fork():
        os.dup2(write, 1)
        os.execve("/bin/date", ["date", "+%Y"], {})
    os.wait()
    return os.read(read, 100)

def test_the_year():
    run = subprocess.run(["/bin/date", "+%Y"], stdout=subprocess.PIPE, env={}).stdout
    assert time.gmtime().tm_year == 2041
    assert {run, spawned(), forked()} == {b"2041\\n"}
"""


def test_the_clock_is_moved_in_every_process_whatever_its_environment(tmp_path: Path) -> None:
    (tmp_path / "test_elsewhen.py").write_text(ELSEWHEN)
    command = [sys.executable, "-m", "tests.clock", "2041-03-01", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
