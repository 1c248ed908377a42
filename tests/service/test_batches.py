"""One batch in the service: the rules it keeps to, and nothing of it half committed."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sidecar.automation.decide import Automation
from sidecar.log.identity import SegmentId
from sidecar.log.reader import Block, Position
from sidecar.log.reading import Batch, Checkpoint
from sidecar.publish.metrics import Metrics
from sidecar.service.logging import Log
from sidecar.service.rules import RuleBook, Rules, Settled, load_rules
from sidecar.service.service import Service
from sidecar.settings import resolve_settings
from sidecar.shaping.mx import OfflineResolver
from sidecar.store import Store
from sidecar.times import NS

NOW = 1_795_360_000


def line(said: str) -> bytes:
    record = {
        "type": "TransientFailure",
        "recipient": "user@one.example",
        "queue": "one.example",
        "site": "ip1->mx.one.example@smtp_client",
        "response": {"code": 421, "content": said},
        "timestamp": NOW,
    }
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


@dataclass
class Sidecar:
    """A service without its surroundings."""

    directory: Path
    service: Service
    lines: int = 0

    def rules(self, regex: str, trigger: str = "100/hr") -> Rules:
        path = self.directory / "shaping.toml"
        path.write_text(
            f'[[default.automation]]\nregex = "{regex}"\naction = "Suspend"\nduration = "1h"\n'
            f'trigger = {{Threshold = "{trigger}"}}\n'
        )
        settings = resolve_settings({"shaping": (str(path),)}, {}, None, require=("shaping",))
        rules = asyncio.run(load_rules(settings.reloaded, OfflineResolver()))
        settled = Settled(settings)
        self.service.book = RuleBook(
            lambda: settled, OfflineResolver(), settled, rules, seen={}, copies={}
        )
        return rules

    def read(self, *said: str) -> Batch:
        """As the log room reads them: sifted at once, processed later."""
        data = b"".join(map(line, said))
        self.lines += len(said)
        position = Position(offset=self.lines, lines=self.lines)
        block = Block(
            segment="segment",
            data=self.service.sift(data),
            position=position,
            lines=len(said),
            size=len(data),
        )
        checkpoint = Checkpoint(SegmentId("segment", 1, "1:aa"), position, done=False)
        return Batch(blocks=(block,), checkpoints={"segment": checkpoint}, more=True)

    def process(self, batch: Batch) -> None:
        asyncio.run(self.service.process(batch))


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[Sidecar]:
    with Store.open(tmp_path / "state.db") as store:
        service = Service(
            store=store,
            saved=store.load(),
            resolver=OfflineResolver(),
            log=Log(stream=io.StringIO()),
            metrics=Metrics.create(),
            clock=lambda: NOW * NS,
        )
        yield Sidecar(tmp_path, service)


def test_a_mistake_in_the_middle_of_a_batch_leaves_nothing_of_it_to_commit(
    sidecar: Sidecar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sidecar.rules("busy")
    sidecar.process(sidecar.read("busy", "busy", "busy"))
    act, acted = Automation._act, []

    def mistaken(self: Automation, *args: object) -> None:
        acted.append(args)
        if len(acted) == 6:
            raise ZeroDivisionError("as if by mistake")
        act(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Automation, "_act", mistaken)
    with pytest.raises(ZeroDivisionError):
        sidecar.process(sidecar.read(*["busy"] * 10))
    asyncio.run(sidecar.service.commits.last_commit())
    sidecar.service.commits._store.close()
    with Store.open(tmp_path / "state.db") as store:
        saved = store.load()
    assert [row.lines for row in saved.checkpoints.values()] == [3]
    assert list(saved.threshold_counts.values()) == [3]
    assert saved.counters["matched"] == 3


def test_a_batch_keeps_to_the_rules_that_it_was_sifted_by(sidecar: Sidecar) -> None:
    sidecar.rules("busy", "1/hr")
    batch = sidecar.read("busy", "slow down")
    sidecar.rules("slow down", "1/hr")
    sidecar.process(batch)
    assert [e.reason for e in sidecar.service.automation.entries] == ["automation rule: busy"]
    sidecar.process(sidecar.read("busy", "slow down"))
    reasons = [e.reason for e in sidecar.service.automation.entries]
    assert reasons == ["automation rule: busy", "automation rule: slow down"]


def test_lines_that_are_sifted_out_are_counted_all_the_same(sidecar: Sidecar) -> None:
    sidecar.rules("busy")
    batch = sidecar.read("fine", "busy", "fine")
    assert batch.blocks[0].data == line("busy")
    sidecar.process(batch)
    counters = sidecar.service.counters
    assert (counters["read"], counters["considered"], counters["matched"]) == (3, 1, 1)


def test_an_entry_taken_back_before_its_commit_is_not_announced(sidecar: Sidecar) -> None:
    told: list[object] = []

    class Listening:
        def changed(self, events: list[object]) -> None:
            told.extend(events)

    sidecar.service.publisher = Listening()  # type: ignore[assignment]
    sidecar.rules("busy", "1/hr")
    sidecar.process(sidecar.read("busy"))
    (entry,) = sidecar.service.automation.entries
    assert sidecar.service.cancel([entry.key]) == [entry.key]
    assert sidecar.service.commits.try_commit()
    assert told == []
    sidecar.process(sidecar.read("busy"))
    assert sidecar.service.commits.try_commit()
    assert len(told) == 1
