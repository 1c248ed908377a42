"""A policy that hangs or dies at a reload keeps neither the log, nor SIGTERM, nor the rules."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from .support import Setup, failure, until

HANGS = {
    "a call that never ends": "table.move({{}}, 1, 1e15, 2)",
    "a FIFO": "io.open '{fifo}'",
    "a command": "os.execute 'sleep {mark}; :'",
}


def running(mark: str) -> bool:
    """Whether `mark` is in the command line of any process."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in file.read_bytes():
                return True
        except OSError:
            continue
    return False


@pytest.mark.parametrize("name", HANGS)
def test_a_policy_that_hangs_at_a_reload_holds_nothing_up(setup: Setup, name: str) -> None:
    policy, fifo = setup.base / "tsa_init.lua", setup.base / "fifo"
    mark = f"{os.getpid()}.{time.monotonic_ns()}"
    os.mkfifo(fifo)
    policy.write_text("-- nothing\n")
    sidecar = setup.run("--policy", str(policy))
    policy.write_text(
        f"os.execute 'setsid sleep {mark} & echo >{setup.base}/on'\n"
        + HANGS[name].format(fifo=fifo, mark=mark)
    )
    sidecar.signal(signal.SIGHUP)
    until((setup.base / "on").exists)
    setup.log(failure(1, domain="meanwhile.example"))
    until(lambda: "meanwhile.example" in setup.overlay())
    assert running(mark)
    began = time.monotonic()
    assert sidecar.stop() == 0
    assert time.monotonic() - began < 15  # the policy would be ended after 30 seconds
    until(lambda: not running(mark))


def test_a_policy_that_dies_at_a_reload_leaves_the_last_good_rules(setup: Setup) -> None:
    policy = setup.base / "tsa_init.lua"
    policy.write_text("-- nothing\n")
    sidecar = setup.run("--policy", str(policy))
    policy.write_text("os.execute 'kill -9 $PPID'\n")
    sidecar.signal(signal.SIGHUP)
    output = sidecar.says("the rules were not replaced; the last good ones stay")
    assert f"file={policy}" in output
    assert "ended early (signal 9)" in output
    setup.log(failure(1, domain="still.example"))
    until(lambda: "still.example" in setup.overlay())
    policy.write_text("-- nothing\n")
    sidecar.signal(signal.SIGHUP)
    until(lambda: setup.status()["errors"] == [])
    assert sidecar.stop() == 0
