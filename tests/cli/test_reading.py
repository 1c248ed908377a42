"""How far a command is that reads logs, as a terminal shows it: in nobody's way."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from .support import REPOSITORY

RULE = '[[default.automation]]\nregex = "too many"\naction = "Suspend"\nduration = "1 second"\n'
SEGMENT = next((REPOSITORY / "tests/data/logs/shortdelivery/logs").glob("2*"))


def on_a_terminal(directory: Path, *command: str) -> str:
    """What the command writes to a terminal, stdout and stderr."""
    (directory / "rules.toml").write_text(RULE)
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm", "COLUMNS": "200"}
    with subprocess.Popen(
        [sys.executable, "-m", "sidecar", *command],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    ):
        os.close(theirs)
        written = b""
        try:
            while piece := os.read(ours, 65536):
                written += piece
        except OSError:  # Linux's way to say that nobody writes any more
            pass
    os.close(ours)
    return written.decode()


def test_a_warning_has_a_line_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "damaged").write_bytes(SEGMENT.read_bytes()[:-50])
    written = on_a_terminal(tmp_path, "unmatched", "--shaping", "rules.toml", "damaged")
    assert "lines," in written
    before, _ = written.split("warning: damaged: ")
    assert before.endswith("\x1b[2K")  # what was there is erased


def test_json_on_the_same_terminal_is_not_written_over(tmp_path: Path) -> None:
    command = ("replay", "--json", "--shaping", "rules.toml", str(SEGMENT))
    written = on_a_terminal(tmp_path, *command)
    assert re.fullmatch(r"\{\r\n.*\}\r\n", written, re.DOTALL)
    assert "\x1b" not in written
