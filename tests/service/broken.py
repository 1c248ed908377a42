"""A sidecar with a mistake in it, to show that the crash test would find it."""

from __future__ import annotations

from sidecar.log.reading import Batch
from sidecar.service.checkpoints import to_rows
from sidecar.service.service import Service
from sidecar.store import Transaction


def positions_first() -> None:
    """Commit where the log was read to before the effects of what was read."""
    process = Service.process

    async def broken(self: Service, batch: Batch) -> None:
        rows, forgotten = to_rows(batch)
        self.commits.add(Transaction(checkpoints=rows, forget_segments=forgotten))
        await self.commits.commit()
        await process(self, batch)

    Service.process = broken  # type: ignore[method-assign]


def effects_first() -> None:
    """Commit the effects before where the log was read to."""
    note = Service._note_positions

    def broken(self: Service, batch: Batch, changes: Transaction) -> None:
        note(self, batch, Transaction())
        late = Transaction()
        note(self, batch, late)
        self._late = getattr(self, "_late", Transaction())  # type: ignore[attr-defined]
        changes.add(self._late)  # type: ignore[attr-defined]
        self._late = late  # type: ignore[attr-defined]

    Service._note_positions = broken  # type: ignore[method-assign]
