"""What ``replay`` shows of rules in hindsight: a summary, a comparison, pictures."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any, Final

from rich.text import Text

from sidecar.problems import one_line
from sidecar.times import NS, format_rfc3339
from sidecar.tools.hindsight import Hindsight, Read, Told
from sidecar.tools.pairs import VERDICTS, Pair, Sum, by_scope, pairs
from sidecar.tools.replay import episode_document
from sidecar.tools.text import counted, shown_duration, shown_entry, shown_value
from sidecar.tools.timeline import Span, as_svg, as_text, row_of

from .console import line

_SCOPES: Final = 20

# Text.


def summary(read: Read, side: Hindsight) -> Iterator[str]:
    """What was read, and how much of it the rules made something of."""
    yield _read(read)
    yield f"{read.considered:,} records considered, {side.counts['matched']:,} matched"
    yield f"{counted(side.automation.episode_id, 'episode')} began"
    yield from _not_read(read)


def _read(read: Read) -> str:
    if read.first_ns is None or read.last_ns is None:
        return f"{read.lines:,} lines, no record that rules see"
    return f"{read.lines:,} lines, {_moment(read.first_ns)} to {_moment(read.last_ns)} UTC"


def _not_read(read: Read) -> Iterator[str]:
    if read.bad:
        yield f"{read.bad:,} of the lines are no log records and are left out"
    if read.lost_bytes:
        yield f"{read.lost_bytes:,} bytes could not be read"
    if read.later:
        yield f"{read.later:,} records that rules match are of a later time and are left out"


def _moment(ns: int) -> str:
    return format_rfc3339(ns)[:19].replace("T", " ")


def _minutes(told: Sequence[Told], *kinds: str) -> str:
    seconds = sum(one.seconds for one in told if not kinds or one.entry.kind in kinds)
    return f"{seconds / 60:,.1f}"


def comparison(read: Read, before: Hindsight, after: Hindsight) -> Iterator[str | Text]:
    """A summary of a few lines, then what differs."""
    sides = before.told, after.told
    yield f"{_read(read)}; {read.deliveries:,} deliveries"
    yield line((f"{'':28}{'NOW':>12}{'THEN':>12}", "bold"))
    yield _row("episodes", *(f"{len(told):,}" for told in sides))
    yield _row("minutes suspended", *(_minutes(t, "ready_q", "sched_q", "bounce") for t in sides))
    yield _row("minutes limited", *(_minutes(told, "override") for told in sides))
    yield _row("delivered meanwhile", *(f"{one.sent_meanwhile:,}" for one in (before, after)))
    found = pairs(*sides)
    verdicts = Counter(pair.verdict for pair in found)
    yield ", ".join(f"{verdicts[name]} {name}" for name in VERDICTS if verdicts[name]) or "nothing"
    yield from _not_read(read)
    yield from _sums(found)
    for pair in found:
        if pair.verdict != "same":
            yield ""
            yield from _difference(pair)


def _sums(found: Sequence[Pair]) -> Iterator[str | Text]:
    """What differs of each thing that is limited or held: minutes, matches, mail."""
    rows = [one for one in by_scope(found) if one.before != one.after]
    if not rows:
        return
    yield ""
    yield line((f"{'MINUTES':>17} {'MATCHES':>15} {'DELIVERED':>15}", "bold"))
    yield line((f"{'NOW':>8} {'THEN':>8} {'NOW':>7} {'THEN':>7} {'NOW':>7} {'THEN':>7}", "bold"))
    for one in rows[:_SCOPES]:
        both = (one.before, one.after)
        minutes = (f"{of.seconds / 60:>8,.1f}" for of in both)
        counts = (f"{n:>7,}" for name in ("matches", "sent") for n in map(attrgetter(name), both))
        yield one_line(" ".join([*minutes, *counts, "", row_of(one.example.entry)]))
    if len(rows) > _SCOPES:
        yield f"and {len(rows) - _SCOPES} more (--json has all)"


def _row(name: str, *cells: str) -> str:
    return f"{name:<28}" + "".join(f"{cell:>12}" for cell in cells)


def _difference(pair: Pair) -> Iterator[str | Text]:
    told = pair.after or pair.before
    assert told is not None
    yield line((f"{pair.verdict:<12}", "bold"), shown_entry(told.entry))
    for name, one in (("now", pair.before), ("then", pair.after)):
        if one is not None:
            yield f"  {name:<5}{_span(one)}"
    yield one_line(f"  rule {told.story.label}")


def _span(one: Told) -> str:
    length = shown_duration(round(one.seconds) * NS)
    sent = f", {one.sent:,} delivered meanwhile" if one.sent else ""
    return f"{_moment(one.began_ns)} for {length}, {one.story.matches:,} matched{sent}"


# Pictures.


def timeline_of(read: Read, told: Sequence[Told], name: str) -> Iterator[str]:
    """What was in force when, as lines that fit the terminal; `name` stands above them."""
    begin_ns, end_ns = _bounds(read, told)
    width = shutil.get_terminal_size().columns
    yield f"\n{name}".rstrip()
    drawn = as_text(_spans(told), begin_ns=begin_ns, end_ns=end_ns, width=width)
    yield from drawn or ["nothing was in force"]


def svg_of(read: Read, told: Sequence[Told]) -> str:
    """The same as one SVG file."""
    begin_ns, end_ns = _bounds(read, told)
    title = f"What the rules had in force from {_moment(begin_ns)} UTC on"
    return as_svg(_spans(told), begin_ns=begin_ns, end_ns=end_ns, title=title)


def _bounds(read: Read, told: Sequence[Told]) -> tuple[int, int]:
    """The time that the logs are of, and half as much for what goes on behind their end."""
    begin_ns, last_ns = read.first_ns or 0, read.last_ns or 0
    latest = max((one.until_ns for one in told), default=last_ns)
    most = last_ns + max((last_ns - begin_ns) // 2, 60 * NS)
    return begin_ns, max(last_ns, min(latest, most))


def _spans(told: Sequence[Told]) -> list[Span]:
    return [
        Span(
            row_of(one.entry),
            one.entry.kind,
            one.began_ns,
            one.until_ns,
            _explained(one),
            share=one.share_at if one.cuts else None,
        )
        for one in told
    ]


def _explained(one: Told) -> str:
    values = ", then ".join(shown_value(value) for value in one.values)
    said = f"; {values}" if len(one.values) > 1 else ""
    return f"{shown_entry(one.entry)}: {_span(one)}{said}; {one.story.label}"


# JSON.


def comparison_document(before: Hindsight, after: Hindsight) -> dict[str, Any]:
    """The comparison, as ``replay --json`` has it."""
    found = pairs(before.told, after.told)
    verdicts = Counter(pair.verdict for pair in found)
    return {
        "delivered_meanwhile": {"now": before.sent_meanwhile, "then": after.sent_meanwhile},
        "scopes": [
            {
                "kind": one.example.entry.kind,
                "where": row_of(one.example.entry),
                "now": _sum_document(one.before),
                "then": _sum_document(one.after),
            }
            for one in by_scope(found)
        ],
        "verdicts": {name: verdicts[name] for name in VERDICTS},
        "pairs": [
            {
                "verdict": pair.verdict,
                "now": None if pair.before is None else episode_document(pair.before),
                "then": None if pair.after is None else episode_document(pair.after),
            }
            for pair in found
        ],
    }


def _sum_document(of: Sum) -> dict[str, Any]:
    return {"seconds": of.seconds, "matches": of.matches, "delivered_meanwhile": of.sent}
