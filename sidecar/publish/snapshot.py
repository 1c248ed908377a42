"""What is published at one moment, as one value.

In: the JSON objects of the suspensions and bounces in force, and the overlay's
text, all made by the core.  Out: the bodies of the HTTP answers and the
WebSocket frames, in the form KumoMTA's clients expect (``tests/data/api``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SUSPENDED, BOUNCED = "suspended.json", "bounced.json"
"""The files beside the overlay."""

FrameKind = Literal["ReadyQSuspension", "SchedQSuspension", "SchedQBounce"]
"""The names of the three events on ``/subscribe_event_v1``."""

_LEGACY = (
    ('{"ReadyQSuspension":', '{"ReadyQ":'),
    ('{"SchedQSuspension":', '{"SchedQ":'),
)


def event_frame(kind: FrameKind, payload: str) -> str:
    """The frame for `payload`, the text of one JSON object."""
    return f'{{"{kind}":{payload}}}'


def legacy_frame(frame: str) -> str | None:
    """The same event for ``/subscribe_suspension_v1``; None for a bounce, which it doesn't know."""
    for new, old in _LEGACY:
        if frame.startswith(new):
            return old + frame[len(new) :]
    return None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that the listener answers with.

    ``overlay``: TOML text.  ``suspended``, ``bounced``, ``status``: JSON documents.
    ``frames``: one JSON object an entry in force, as :func:`event_frame` writes
    it.  ``version`` grows whenever the overlay's text changes.
    """

    overlay: str
    suspended: bytes
    bounced: bytes
    frames: tuple[str, ...] = ()
    version: int = 0
    status: bytes = b"{}"

    def files(self, overlay: Path) -> dict[Path, bytes]:
        """What each file holds: `overlay` first, then those beside it."""
        return {
            overlay: self.overlay.encode(),
            overlay.with_name(SUSPENDED): self.suspended,
            overlay.with_name(BOUNCED): self.bounced,
        }

    @classmethod
    def build(
        cls,
        *,
        overlay: str,
        ready_q: Sequence[str] = (),
        sched_q: Sequence[str] = (),
        bounces: Sequence[str] = (),
        version: int = 0,
        status: bytes = b"{}",
    ) -> Snapshot:
        """A snapshot from the texts of JSON objects, one an entry.

        The order of frames is upstream's: ready queues, scheduled queues, bounces.
        """
        suspended = f'{{"ready_q":[{",".join(ready_q)}],"sched_q":[{",".join(sched_q)}]}}'
        return cls(
            overlay=overlay,
            suspended=suspended.encode(),
            bounced=f"[{','.join(bounces)}]".encode(),
            frames=(
                *(event_frame("ReadyQSuspension", p) for p in ready_q),
                *(event_frame("SchedQSuspension", p) for p in sched_q),
                *(event_frame("SchedQBounce", p) for p in bounces),
            ),
            version=version,
            status=status,
        )
