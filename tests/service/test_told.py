"""Up to which name the group may take the own segments for told, and which came late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from sidecar.log.batches import Batch
from sidecar.log.blocks import Block, Position
from sidecar.log.identity import SegmentId
from sidecar.log.segment import Checkpoint
from sidecar.service.checkpoints import to_rows
from sidecar.service.told import Told, floor_row
from sidecar.store import CheckpointRow
from sidecar.times import NS


class Service:
    """A service that reads, commits and is killed."""

    def __init__(self) -> None:
        self.meta: dict[str, str] = {}
        self.rows: dict[str, CheckpointRow] = {}
        self.now = 1_000_000 * NS
        self.start()

    def start(self) -> None:
        self.told = Told(self.meta, self.rows, clock=lambda: self.now)
        self.pending: list[Callable[[], None]] = []
        self.futures: list[asyncio.Future[None]] = []
        self.lines = {name: row.lines for name, row in self.rows.items()}

    def read(self, name: str, *, done: bool = False) -> str:
        """Read a line more; what the segment is called in the group."""
        before = self.lines.get(name, 0)
        self.lines[name] = before + 1
        position = Position(lines=before + 1)
        checkpoint = Checkpoint(SegmentId(name, 1, "", ""), position, done=done)
        block = Block(name, b"{}\n", position, 1, 3, 0)
        batch = Batch((block,), {name: checkpoint})
        changes = self.told.note(batch)
        self.pending.append(lambda: self.rows.update(to_rows(batch)[0]))
        self.pending.append(lambda: self.meta.update(changes.meta))
        floor = self.told.next_floor()
        if floor is not None:
            self.pending.append(lambda: self.meta.update(floor_row(floor).meta))
            self.futures.append(asyncio.get_running_loop().create_future())
            self.told.stage(floor, self.futures[-1])
        return self.told.name(name)

    def commit(self) -> None:
        for change in self.pending:
            change()
        for future in self.futures:
            future.set_result(None)
        self.pending, self.futures = [], []


def run(story: Callable[[Service], Any]) -> None:
    async def main() -> None:
        story(Service())

    asyncio.run(main())


def test_the_floor_is_the_oldest_segment_that_is_not_at_its_end() -> None:
    def story(service: Service) -> None:
        service.read("b")
        service.read("a", done=True)
        assert service.told.floor == ""
        service.commit()
        assert service.told.floor == "b"
        service.read("c")
        service.read("b", done=True)
        service.commit()
        assert service.told.floor == "c"

    run(story)


def test_what_comes_below_the_floor_has_another_name_also_after_a_kill() -> None:
    def story(service: Service) -> None:
        service.read("b", done=True)
        service.commit()
        assert service.read("a") == "/late/0/a"
        service.start()  # killed before the commit
        assert service.read("a") == "/late/0/a"
        service.read("c")
        service.commit()
        service.start()
        assert service.read("a", done=True) == "/late/0/a"
        assert service.told.name("b") == "b"
        service.commit()
        assert service.told.floor == "c"
        assert service.read("b") == "/late/1/b"  # it went on behind its end

    run(story)


def test_no_floor_passes_what_has_its_own_name_and_is_not_at_its_end() -> None:
    def story(service: Service) -> None:
        service.read("a", done=True)
        service.commit()
        service.read("c", done=True)
        assert service.read("b") == "b"  # that floor is not committed
        service.commit()
        assert service.told.floor == "b"

    run(story)


def test_what_nobody_finishes_does_not_hold_the_floor_for_ever() -> None:
    def story(service: Service) -> None:
        service.read("a")
        service.now += 3600 * NS
        service.read("b")
        service.commit()
        assert service.told.floor == "b"
        assert service.read("a") == "/late/1/a"

    run(story)


def test_a_state_file_that_is_written_anew_has_all_of_it() -> None:
    def story(service: Service) -> None:
        service.read("b", done=True)
        service.commit()
        service.read("a")
        service.read("c", done=True)
        rows = service.told.rows()
        service.commit()
        assert rows == service.meta

    run(story)
