"""How sharing does: counts, what is wrong, since when.  Values for status and metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counts:
    """Items since the start, both directions.

    ``too_long``: not told, since longer than an item may be.  ``bad``: entries that are
    no items of ours.  ``missed``: trimmed before they were read here.  ``cut``: trimmed
    by number before their age, at this host's appending.  ``forgotten``: segments of
    which something was not told before its log was gone.
    """

    appended: int = 0
    received: int = 0
    too_long: int = 0
    bad: int = 0
    missed: int = 0
    cut: int = 0
    forgotten: int = 0


@dataclass(frozen=True, slots=True)
class Health:
    """How sharing does.

    ``connected``: the engine takes what is told and gives what others told.  ``since_ns``:
    Unix nanoseconds since when that is so, or not so.  ``problem``: what is wrong and what
    to do; None where all is well.  ``notes``: what went wrong within the
    last hour besides.
    ``queued``/``queued_bytes``: items that wait to be told.  ``behind``: segments that the
    log must be read again for.  ``unread``: items of the group not yet read here, as of
    the last word about it; None before the first.  ``namesake``: another process takes part
    under this host's name.  ``delay``: seconds from appending to
    receiving of the last batch, by the engine's clock and this host's.
    """

    connected: bool
    since_ns: int
    problem: str | None
    notes: tuple[str, ...]
    counts: Counts
    queued: int
    queued_bytes: int
    behind: int
    unread: int | None
    delay: float | None
    namesake: bool = False
