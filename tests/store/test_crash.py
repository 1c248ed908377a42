"""A process killed anywhere leaves whole transactions, and every one it was told of."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from sidecar.store import Saved, Store

from .samples import apply, batch

ROUNDS = 40

WORK = """
import sys
from sidecar.store import Store
from tests.store.samples import batch
store = Store.open(sys.argv[1])
number = int(store.load().meta.get("batch", "0"))
while True:
    number += 1
    store.commit(batch(number, size=200))
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


def committed_until_killed(path: Path, seconds: float) -> int:
    """Run a process that commits batches, kill it; the number of the last it reported."""
    with subprocess.Popen(
        [sys.executable, "-c", WORK, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        # Nothing is awaited here: the kill is to come at any point of the work.
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        lines = (first + process.stdout.read()).split("\n")
    return int(lines[-2])  # the last is "" or cut off


def expected_after(number: int) -> Saved:
    saved = Saved()
    for n in range(1, number + 1):
        apply(saved, batch(n, size=200))
    return saved


def test_a_killed_process_leaves_a_whole_transaction(path: Path, chance: random.Random) -> None:
    for round_ in range(ROUNDS):
        reported = committed_until_killed(path, chance.uniform(0, 0.05))
        with Store.open(path) as store:
            saved = store.load()
            assert store.problems == []
        number = int(saved.meta["batch"])
        where = f"round {round_}"
        assert number in (reported, reported + 1), where
        assert saved == expected_after(number), where


def test_a_process_killed_while_starting_leaves_nothing_in_the_way(
    path: Path, chance: random.Random
) -> None:
    for round_ in range(ROUNDS // 2):
        process = subprocess.Popen(
            [sys.executable, "-c", WORK, str(path)], stdout=subprocess.DEVNULL
        )
        while not path.with_name("state.db.lock").exists():
            assert process.poll() is None
        time.sleep(chance.uniform(0, 0.01))
        process.send_signal(signal.SIGKILL)
        process.wait()
        with Store.open(path) as store:
            assert store.problems == [], f"round {round_}"
            number = int(store.load().meta.get("batch", "0"))
            assert store.load() == expected_after(number), f"round {round_}"
        for file in path.parent.iterdir():
            file.unlink()
