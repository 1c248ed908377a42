"""Killed at any moment, hundreds of times: the same as never having been killed.

The real command line on a log that grows as kumod's does, killed (SIGKILL) at
random moments and at every named step between reading and publishing.
Compared with one undisturbed run over the same log: everything in the state
file (entries, thresholds, counters, positions), the overlay, the JSON files and
what a WebSocket subscriber is told; and whatever was published at any time is
something that was decided.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from wsproto.events import AcceptConnection, Request
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from sidecar.automation.decide import Automation
from sidecar.automation.matching import Matcher
from sidecar.automation.pipeline import Tally, candidates
from sidecar.faults import STEPS
from sidecar.publish.http import EVENTS_PATH
from sidecar.service.published import frame_text
from sidecar.shaping.load import MergeOptions, load_shaping
from sidecar.shaping.mx import OfflineResolver
from sidecar.store import Saved
from tests.kumod_standin import WebSocketClient
from tests.kumod_writer import KumodWriter

from .support import TEXTS, Setup, failure

RANDOM_ROUNDS = 110
STEP_ROUNDS = 14  # for each of the steps
ROUND_SECONDS = 10.0


class Traffic:
    """kumod at work: records in segments of a dozen, some left open between rounds."""

    def __init__(self, setup: Setup, chance: random.Random) -> None:
        self._writer = KumodWriter(setup.logs, max_file_size=12_000)
        self._chance = chance
        self._at = int(time.time())
        self.records: list[Any] = []

    def write(self, count: int) -> None:
        for _ in range(count):
            text = self._chance.choice(TEXTS)
            record = failure(len(self.records), text, at=self._at + len(self.records) // 50)
            self.records.append(record)
            self._writer.log(record)

    def close(self) -> None:
        self._writer.close()


class Watcher:
    """Subscribes again and again, and keeps every frame that it is ever told."""

    def __init__(self, setup: Setup) -> None:
        self._url = setup.url
        self._stop = threading.Event()
        self.frames: set[str] = set()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(
                OSError, AssertionError, LocalProtocolError, RemoteProtocolError
            ):
                self._subscribe()
            self._stop.wait(0.02)

    def _subscribe(self) -> None:
        with WebSocketClient(self._url, seconds=0.5, connect=False) as client:
            client.send(Request(host=urlsplit(self._url).netloc, target=EVENTS_PATH))
            assert isinstance(client.next_event(), AcceptConnection)
            while not self._stop.is_set():
                self.frames.add(client.text())

    def close(self) -> set[str]:
        self._stop.set()
        self._thread.join()
        return self.frames


def kill_rounds(
    setup: Setup,
    traffic: Traffic,
    chance: random.Random,
    *,
    rounds: list[str | None],
    prepare: str | None = None,
) -> None:
    """Start and kill; at a step by itself, or (None) at a random moment by us."""
    for fault in rounds:
        traffic.write(chance.randrange(20))
        running = setup.start(fault=fault, prepare=prepare)
        limit = time.monotonic() + (chance.uniform(0, 0.12) if fault is None else ROUND_SECONDS)
        while not running.ended() and time.monotonic() < limit:
            traffic.write(chance.randrange(6))
            time.sleep(chance.uniform(0.002, 0.02))
        if fault is None:
            running.kill()
        assert running.wait() == -signal.SIGKILL, f"{fault}: {running.output}"
        setup.started.clear()


def comparable(saved: Saved) -> dict[str, Any]:
    """All of a state but when it was committed, when episodes began and from when on it reads."""
    return {
        "entries": {key: replace(row, episode="") for key, row in saved.entries.items()},
        "episodes": {
            key: {**json.loads(row.episode), "began_ns": 0, "file": ""}
            for key, row in saved.entries.items()
        },
        "thresholds": saved.threshold_counts,
        "counters": saved.counters,
        "checkpoints": saved.checkpoints,
        "meta": {k: v for k, v in saved.meta.items() if not k.endswith("_ns") or k == "newest_ns"},
    }


def published(setup: Setup) -> dict[str, Any]:
    running = setup.run()
    try:
        return {
            "overlay": setup.overlay_file.read_text(),
            "suspended": setup.beside("suspended.json"),
            "bounced": setup.beside("bounced.json"),
            "frames": setup.in_force(),
        }
    finally:
        assert running.stop() == 0


def decided_frames(setup: Setup, records: list[Any]) -> set[str]:
    """Every frame that these records can ever lead to, by the pure core alone."""
    shaping = asyncio.run(
        load_shaping(
            [str(setup.rules)], options=MergeOptions.all_warn(), resolver=OfflineResolver()
        )
    )
    automation, frames = Automation(), set[str]()
    lines = [json.dumps(record, ensure_ascii=False).encode() for record in records]
    found = candidates(lines, matcher=Matcher(shaping), skip_types=frozenset(), tally=Tally())
    outcome = automation.apply(found, mx={}, now_ns=time.time_ns())
    for event in outcome.events:
        frames.add(frame_text(event))
        # On connecting, a subscriber is told the hash of a ready queue's suspension alone.
        frames.add(frame_text(event).replace(f'"rule_hash":"{event.site}-', '"rule_hash":"'))
    return frames


def test_killed_hundreds_of_times_is_as_never_killed(
    make_setup: Callable[..., Setup], chance: random.Random
) -> None:
    killed, undisturbed = make_setup("killed"), make_setup("undisturbed")
    undisturbed.logs = killed.logs
    traffic, watcher = Traffic(killed, chance), Watcher(killed)
    rounds: list[str | None] = [None] * RANDOM_ROUNDS
    # Without provider rules nothing waits: tests/service/test_waiting.py kills at that step.
    steps = [step for step in STEPS if step != "waited-decided"]
    rounds += [f"{step}:{chance.randint(1, 4)}" for step in steps for _ in range(STEP_ROUNDS)]
    chance.shuffle(rounds)
    try:
        kill_rounds(killed, traffic, chance, rounds=rounds)
    finally:
        seen = watcher.close()
    traffic.close()
    killed.once()
    undisturbed.once()
    assert comparable(killed.saved()) == comparable(undisturbed.saved())
    assert killed.saved().counters["read"] == len(traffic.records)
    assert published(killed) == published(undisturbed)
    assert seen
    assert seen <= decided_frames(killed, traffic.records)


@pytest.mark.parametrize("mistake", ["positions_first", "effects_first"])
def test_the_crash_test_finds_a_sidecar_that_commits_in_two_steps(
    make_setup: Callable[..., Setup], mistake: str
) -> None:
    chance = random.Random(1)
    killed, undisturbed = make_setup("killed"), make_setup("undisturbed")
    undisturbed.logs = killed.logs
    traffic = Traffic(killed, chance)
    rounds: list[str | None] = ["batch-decided:1", "before-commit:2", "after-commit:2"] * 3
    kill_rounds(killed, traffic, chance, rounds=rounds, prepare=f"tests.service.broken:{mistake}")
    traffic.close()
    killed.once()
    undisturbed.once()
    assert comparable(killed.saved()) != comparable(undisturbed.saved())
