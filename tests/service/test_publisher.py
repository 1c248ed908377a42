"""What goes out, and when: each entry's last word, once, whatever the disk does."""

from __future__ import annotations

import asyncio
import io
import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from sidecar.automation.decide import Outcome
from sidecar.automation.entries import (
    Entry,
    Override,
    ReadyQSuspension,
    SchedQBounce,
    SchedQSuspension,
)
from sidecar.automation.episodes import Episode
from sidecar.publish.holds import Changes
from sidecar.publish.http import Endpoint
from sidecar.publish.metrics import Metrics
from sidecar.publish.snapshot import Snapshot
from sidecar.service.logging import Log
from sidecar.service.published import Published
from sidecar.service.publisher import Publisher
from sidecar.settings import Address
from sidecar.times import NS

FAR = 2_000_000_000 * NS
SITE = "ip1->mx.one.example@smtp_client"
HELD = ReadyQSuspension(
    "a" * 64, "ip1->mx.one.example@smtp_client", "automation rule: x", FAR, 1, ""
)
LONGER = replace(HELD, action_hash="b" * 64, expires_ns=FAR + NS)
SET = Override(
    "c" * 64, SITE, "automation rule: x", FAR, 3, "one.example", True, "ip1", "connection_limit", 1
)


class Listener(Endpoint):
    """A listener that is never started, and notes what it is given."""

    def __init__(self) -> None:
        super().__init__(Address("127.0.0.1", 0))
        self.events: list[str] = []

    def publish(self, snapshot: Snapshot, events: Sequence[str] = ()) -> None:
        self.events += events


class Out:
    """A publisher with its surroundings."""

    def __init__(self, directory: Path) -> None:
        self.view = Published()
        self.listener = Listener()
        self.told: list[Changes] = []
        self.overlay = directory / "shaping.toml"
        self.publisher = Publisher(
            self.view,
            overlay=self.overlay,
            endpoint=self.listener,
            log=Log(stream=io.StringIO()),
            metrics=Metrics.create(),
            on_change=self.told.append,
        )

    def put(self, *entries: Entry) -> None:
        outcome = Outcome()
        for entry in entries:
            outcome.put(entry.key, entry, Episode(id=1, began_ns=0, matches=1))
            if not isinstance(entry, Override):
                outcome.events.append(entry)
        self.view.commit(outcome)
        self.publisher.changed(outcome.events)

    def publish(self) -> None:
        asyncio.run(self.publisher.write(self.publisher.snapshot()))


@pytest.fixture
def out(tmp_path: Path) -> Out:
    return Out(tmp_path)


def expiries(out: Out) -> list[str]:
    return [json.loads(e)["ReadyQSuspension"]["expires"] for e in out.listener.events]


def test_of_many_matches_of_one_entry_between_two_snapshots_the_last_is_told(out: Out) -> None:
    for seconds in range(1000):
        out.put(replace(HELD, expires_ns=FAR + seconds * NS))
    out.publish()
    assert len(out.listener.events) == 1
    assert out.listener.events[0].count("2033-05-18T03:49:59Z") == 1


def test_the_suspension_of_a_queue_that_holds_longest_is_told_last(out: Out) -> None:
    out.put(LONGER)
    out.put(HELD)
    out.publish()
    assert expiries(out) == ["2033-05-18T03:33:20Z", "2033-05-18T03:33:21Z"]


def test_a_version_is_of_the_overlays_text_alone(out: Out) -> None:
    out.publish()
    before = out.publisher.version
    out.put(HELD)
    out.publish()
    assert out.publisher.version == before
    out.put(SET)
    out.publish()
    assert out.publisher.version == before + 1


def test_kumod_is_told_of_suspensions_though_the_overlay_cannot_be_written(out: Out) -> None:
    out.publish()
    version = out.told[-1].overlay_version
    out.overlay.unlink()
    out.overlay.mkdir()
    out.put(HELD, SET)
    out.publish()
    assert out.publisher.failure is not None
    assert [h.target.name for h in out.told[-1].holds.values() if h] == [HELD.site]
    assert out.told[-1].overlay_version == version
    out.overlay.rmdir()
    out.publish()
    assert out.publisher.failure is None
    assert out.told[-1].overlay_version == version + 1


def test_the_view_counts_by_kind_through_changes_and_expiry(out: Out) -> None:
    out.put(HELD, LONGER, SET)
    nothing = dict.fromkeys(("override", "ready_q", "sched_q", "bounce", "simulated"), 0)
    assert out.view.counts() == nothing | {"override": 1, "ready_q": 2}
    out.put(replace(HELD, expires_ns=FAR + 5 * NS))
    assert out.view.counts()["ready_q"] == 2
    assert out.view.expire(FAR + NS)
    assert out.view.counts() == nothing | {"ready_q": 1}
    assert not out.view.expire(FAR + NS)
    assert out.view.snapshot(version=1, status=b"").suspended.count(b"site_name") == 1


def test_a_write_that_was_given_up_does_not_come_in_after_a_later_one(
    out: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    out.publish()
    held, release = threading.Event(), threading.Event()
    fsync = os.fsync

    def slow(fd: int) -> None:
        if not held.is_set():
            held.set()
            assert release.wait(60)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", slow)

    async def stopped_while_writing() -> None:
        out.put(SET)
        writing = asyncio.create_task(out.publisher.put_out())
        await asyncio.to_thread(held.wait, 60)
        writing.cancel()  # as SIGTERM does
        await asyncio.gather(writing, return_exceptions=True)
        outcome = Outcome()
        outcome.drop(SET.key)
        out.publisher.publish(outcome, 0)
        last = asyncio.create_task(out.publisher.put_out())
        await asyncio.sleep(0.2)
        release.set()
        await last

    asyncio.run(stopped_while_writing())
    assert "connection_limit" not in out.overlay.read_text()


BOUNCED = SchedQBounce("d" * 64, SITE, "automation rule: x", FAR, 4, "one.example", None, None)
STOPPED = SchedQSuspension("e" * 64, SITE, "automation rule: x", FAR, 5, "one.example", "t", None)


def test_what_is_simulated_is_counted_and_takes_no_road(out: Out) -> None:
    out.publish()
    before = out.view.snapshot(version=1, status=b"")
    version = out.publisher.version
    simulated = [replace(entry, simulated=True) for entry in (HELD, SET, BOUNCED, STOPPED)]
    for _ in range(2):  # begun, and renewed
        out.put(*simulated)
        out.publish()
    assert out.view.counts()["simulated"] == len(out.view.entries) == 4
    assert out.view.snapshot(version=1, status=b"") == before
    assert (out.listener.events, out.publisher.version) == ([], version)
    assert all(not changes.holds and not changes.settings for changes in out.told)
    assert out.overlay.read_text() == before.overlay
    assert out.view.expire(FAR)
    out.publish()
    assert out.view.counts()["simulated"] == 0
    assert all(not changes.holds and not changes.settings for changes in out.told)


def test_a_simulated_suspension_of_a_queue_is_not_told_after_a_real_one(out: Out) -> None:
    out.put(replace(LONGER, simulated=True))
    out.put(HELD)
    out.publish()
    assert expiries(out) == ["2033-05-18T03:33:20Z"]
    assert [len(changes.holds) for changes in out.told] == [1]
