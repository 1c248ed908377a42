"""One process per state: the second is told which is the first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.problems import ProblemError
from sidecar.store import Store

HOLD = """
import sys
from sidecar.store import Store
store = Store.open(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


def holder(path: Path) -> subprocess.Popen[str]:
    """Another process that has `path` open, until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


def test_the_second_process_is_refused_and_told_the_first(path: Path) -> None:
    with holder(path) as first:
        with pytest.raises(ProblemError, match=rf"process {first.pid} is using this state"):
            Store.open(path)
        first.communicate("")
    Store.open(path).close()


def test_the_lock_dies_with_its_holder(path: Path) -> None:
    with holder(path) as first:
        first.send_signal(signal.SIGKILL)
        first.wait()
    with Store.open(path) as store:
        assert store.problems == []
    assert path.with_name("state.db.lock").read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("text", ["999999999\n", "", "no number", "9" * 500])
def test_what_an_earlier_process_left_in_the_lock_file_does_no_harm(path: Path, text: str) -> None:
    lock = path.with_name("state.db.lock")
    lock.write_text(text)
    with Store.open(path) as store:
        lock.write_text(text)
        with pytest.raises(ProblemError, match="is using this state"):
            Store.open(path)
        store.close()
        Store.open(path).close()


def test_one_process_cannot_open_it_twice_either(path: Path, store: Store) -> None:
    with pytest.raises(ProblemError, match=rf"process {os.getpid()} is using this state"):
        Store.open(path)
    store.close()
    store.close()
    Store.open(path).close()


def test_a_refused_start_gives_the_lock_back_and_claims_nothing(path: Path) -> None:
    theirs = path.with_name("notes.txt")
    theirs.write_text("theirs")
    for _ in range(2):
        with pytest.raises(ProblemError, match="is no state of tsa-sidecar"):
            Store.open(theirs)
    assert theirs.read_text() == "theirs"


def test_a_lock_file_that_cannot_be_made_is_said(path: Path) -> None:
    path.with_name("state.db.lock").mkdir()
    with pytest.raises(ProblemError, match=r"can't make or lock .*TSA_SIDECAR_STATE"):
        Store.open(path)
