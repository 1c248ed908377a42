"""How it stands with an entry, for people and programs: its state, and what comes next.

In: an entry in force, its story, the limits that follow it, the time.  Out: words, and
JSON, whose fields are in ``packaging/doc/json.md``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sidecar.automation.adjusting import steps
from sidecar.automation.entries import Entry, Override
from sidecar.automation.episodes import Episode
from sidecar.automation.life import IS_PROVABLE, State, state_of
from sidecar.problems import one_line
from sidecar.times import NS, format_rfc3339

from .text import counted, shown_value


def is_waiting(entry: Entry, now_ns: int) -> bool:
    """Whether it is a limit for the time after a suspension that is still in force."""
    return isinstance(entry, Override) and state_of(entry, now_ns) is State.SUSPENDED


def standing(entry: Entry, story: Episode, then: Iterable[Override], now_ns: int) -> str:
    """What there is to say besides what the entry does and until when; "" for nothing.

    `then`: the limits for the time after it.
    """
    state = state_of(entry, now_ns)
    parts = []
    if state in (State.ADJUSTING, State.PROBING):
        parts.append(state.value)
    if isinstance(entry, Override):
        if state is State.SUSPENDED:
            parts.append("of no effect while its ready queue is suspended")
        if entry.release and state in IS_PROVABLE:
            parts.append(f"{story.delivered:,} of {counted(entry.release, 'delivery')}")
        coming = steps(entry, now_ns)
        if coming:
            at_ns, value = coming[0]
            parts.append(f"{value} at {format_rfc3339(at_ns // NS * NS)}")
    limits = [f"{limit.name} = {shown_value(limit.value)}" for limit in then]
    if limits:
        parts.append(f"then probing with {' and '.join(limits)}")
    return one_line(", ".join(parts))


def document(entry: Entry, story: Episode, now_ns: int | None) -> dict[str, Any]:
    """The same for programs; `now_ns` None: it is over."""
    override = entry if isinstance(entry, Override) else None
    probe = None if override is None else override.probe
    release = 0 if override is None else override.release
    return {
        "state": None if now_ns is None else state_of(entry, now_ns).value,
        "release": {"deliveries": release, "so_far": story.delivered} if release else None,
        "probe": probe and {"of": probe.of, "from": format_rfc3339(probe.from_ns)},
    }
