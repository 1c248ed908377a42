"""One batch in the service: the rules it keeps to, and nothing of it half committed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.automation.decide import Automation
from sidecar.automation.selection import Selection
from sidecar.log.batches import Batch
from sidecar.log.blocks import Block, Position
from sidecar.log.identity import SegmentId
from sidecar.log.segment import Checkpoint
from sidecar.service import flow
from sidecar.service.orders import Order
from sidecar.service.rules import Settled, load_rules
from sidecar.settings import resolve_settings
from sidecar.shaping.mx import OfflineResolver
from sidecar.store import Store
from sidecar.times import NS

from .parts import parts

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


class Sidecar:
    """A flow without its surroundings."""

    def __init__(self, directory: Path, store: Store) -> None:
        self._directory = directory
        self.lines = 0
        self._write("nothing", "1/hr")
        self.made = asyncio.run(
            parts(store, self._settled(), overlay=directory / "o.toml", clock=lambda: NOW * NS)
        )

    def _write(self, regex: str, trigger: str) -> None:
        (self._directory / "shaping.toml").write_text(
            f'[[default.automation]]\nregex = "{regex}"\naction = "Suspend"\nduration = "1h"\n'
            f'trigger = {{Threshold = "{trigger}"}}\n'
        )

    def _settled(self) -> Settled:
        options = {"shaping": (str(self._directory / "shaping.toml"),)}
        return Settled(resolve_settings(options, {}, None, require=("shaping",)))

    def rules(self, regex: str, trigger: str = "100/hr") -> None:
        self._write(regex, trigger)
        settings = self._settled().settings.reloaded
        self.made.book.rules = asyncio.run(load_rules(settings, OfflineResolver()))

    def read(self, *said: str) -> Batch:
        """As the log room reads them: sifted at once, processed later."""
        data = b"".join(map(line, said))
        self.lines += len(said)
        position = Position(offset=self.lines, lines=self.lines)
        block = Block(
            segment="segment",
            data=self.made.book.rules.sift(data),
            position=position,
            lines=len(said),
            size=len(data),
        )
        checkpoint = Checkpoint(SegmentId("segment", 1, "1:aa"), position, done=False)
        return Batch(
            blocks=(block,),
            checkpoints={"segment": checkpoint},
            more=True,
            sieve=self.made.book.rules,
        )

    def process(self, batch: Batch) -> None:
        asyncio.run(self.made.flow.process(batch))


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[Sidecar]:
    with Store.open(tmp_path / "state.db") as store:
        yield Sidecar(tmp_path, store)


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
    asyncio.run(sidecar.made.flow.last_commit())
    sidecar.made.ledger.commits._store.close()
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
    assert [e.reason for e in sidecar.made.ledger.automation.entries] == ["automation rule: busy"]
    sidecar.process(sidecar.read("busy", "slow down"))
    reasons = [e.reason for e in sidecar.made.ledger.automation.entries]
    assert reasons == ["automation rule: busy", "automation rule: slow down"]


def test_lines_that_are_sifted_out_are_counted_all_the_same(sidecar: Sidecar) -> None:
    sidecar.rules("busy")
    batch = sidecar.read("fine", "busy", "fine")
    assert batch.blocks[0].data == line("busy")
    sidecar.process(batch)
    counters = sidecar.made.ledger.counters
    assert (counters["read"], counters["considered"], counters["matched"]) == (3, 1, 1)


def test_an_entry_taken_back_before_its_commit_is_not_announced(
    sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    monkeypatch.setattr(sidecar.made.publisher, "changed", told.extend)
    sidecar.rules("busy", "1/hr")
    sidecar.process(sidecar.read("busy"))
    (entry,) = sidecar.made.ledger.automation.entries
    answer = sidecar.made.flow.carry_out(Order("cancel", Selection(keys=(entry.key,))), "1")
    assert answer.cancelled == (1,)
    assert sidecar.made.flow.try_commit()
    assert told == []
    sidecar.process(sidecar.read("busy"))
    assert sidecar.made.flow.try_commit()
    assert len(told) == 1


def test_other_tasks_have_their_turns_while_a_batch_is_matched(
    sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    sidecar.rules("busy", "1/hr")
    batch = sidecar.read(*(f"busy {number}" for number in range(20)))
    monkeypatch.setattr(flow, "_SLICE_SECONDS", 0.0)  # as if each record took longer than that
    turns: list[int] = []

    async def other() -> None:
        while True:
            turns.append(len(turns))
            await asyncio.sleep(0)

    async def both() -> None:
        task = asyncio.create_task(other())
        await sidecar.made.flow.process(batch)
        task.cancel()

    asyncio.run(both())
    assert len(turns) >= 20
    assert sidecar.made.ledger.counters["matched"] == 20
