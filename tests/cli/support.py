"""Running the commands, and comparing what they print with what is kept in tests/data/golden.

To take over what the commands print now: ``UPDATE_GOLDEN=1 pytest tests/cli``,
then read the difference before you commit it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner, Result

from sidecar.cli import main

DATA = Path(__file__).parent.parent / "data"
RULES = DATA / "rules"
GOLDEN = DATA / "golden"
REPOSITORY = DATA.parent.parent

HERE = ("--shaping", "shaping.toml", "--dns-zone", "alpha.zone", "--dns-zone", "beta.zone")
"""Options for the rules in tests/data/rules, from that directory."""

_NO_SETTINGS = {name: None for name in os.environ if name.startswith("TSA_SIDECAR_")}


CLOSED = "http://127.0.0.1:9/shaping.toml"
"""A URL at which nothing listens (the discard port)."""


def run(*args: str, input: str | bytes | None = None, **env: str) -> Result:
    """Run the command line in this process, as if on no terminal."""
    result = CliRunner().invoke(main, args, input=input, env={**_NO_SETTINGS, **env})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def run_process(
    *args: str, cwd: Path, input: bytes | None = None, **env: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the command line as a user does."""
    settled = {k: v for k, v in os.environ.items() if not k.startswith("TSA_SIDECAR_")}
    return subprocess.run(
        [sys.executable, "-m", "sidecar", *args],
        cwd=cwd,
        input=input,
        env={**settled, "PYTHONPATH": str(REPOSITORY), **env},
        capture_output=True,
        timeout=120,
    )


def assert_golden(name: str, text: str) -> None:
    """Compare `text` with the golden output `name`, or make it that one."""
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"differs from {path}"


def assert_one_line_error(result: Result, code: int, *parts: str) -> None:
    """The command ended with `code` and one line on stderr that holds `parts`."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1, lines
    for part in parts:
        assert part in lines[0]
