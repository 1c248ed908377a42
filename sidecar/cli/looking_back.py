"""``replay --timeline``, ``--svg``, ``--compare`` and ``--compare-set``: what was in force when."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.text import Text

from sidecar.automation.entries import Override
from sidecar.problems import ProblemError, one_line
from sidecar.service.rules import Rules
from sidecar.settings import Settings
from sidecar.shaping.mx import Resolver
from sidecar.times import NS, format_rfc3339
from sidecar.tools.changed_rules import Change
from sidecar.tools.hindsight import VERDICTS, Hindsight, Pair, Read, Told, look_back, pairs
from sidecar.tools.loading import rules_for_a_tool
from sidecar.tools.logs import read_logs
from sidecar.tools.text import counted, shown_duration, shown_entry, shown_value
from sidecar.tools.timeline import Span, as_svg, as_text, row_of

from .common import report, resolver_for, run_async
from .console import line, output, print_json


@dataclass(frozen=True, slots=True)
class Asked:
    """The options given.  ``compare``: other shaping files; ``changes``: keys of rules."""

    compare: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    timeline: bool = False
    svg: Path | None = None

    def __bool__(self) -> bool:
        return bool(self.compare or self.changes or self.timeline or self.svg)


def look(logs: Sequence[str], settings: Settings, asked: Asked, *, as_json: bool) -> None:
    """Read the logs, and print what was asked for."""

    async def work() -> tuple[Read, list[Hindsight]]:
        resolver = resolver_for(settings)
        rules = await rules_for_a_tool(settings, resolver)
        sides = [Hindsight(rules)]
        if asked.compare or asked.changes:
            sides.append(Hindsight(await _changed(settings, rules, asked, resolver)))
        for problem in dict.fromkeys(p for side in sides for p in side.rules.problems):
            report([problem])
        blocks = read_logs(logs, on_problem=lambda problem: report([problem]))
        comparing = len(sides) > 1
        read = await look_back(blocks, *sides, resolver=resolver, count_deliveries=comparing)
        return read, sides

    read, sides = run_async(work())
    if asked.svg is not None:
        asked.svg.write_text(_svg(read, sides[-1].told), encoding="utf-8")
    if as_json:
        print_json(_document(read, sides))
        return
    console = output()
    texts = _comparison(read, *sides) if len(sides) > 1 else _summary(read, sides[0])
    for text in texts:
        console.print(text)
    if asked.timeline:
        for side, name in zip(sides, ("now", "then") if len(sides) > 1 else ("",), strict=False):
            for text in _timeline(read, side.told, name):
                console.print(text)
    if asked.svg is not None:
        console.print(f"the picture is in {one_line(str(asked.svg))}")


async def _changed(settings: Settings, rules: Rules, asked: Asked, resolver: Resolver) -> Rules:
    if asked.compare:
        reloaded = replace(settings.reloaded, shaping=asked.compare)
        rules = await rules_for_a_tool(replace(settings, reloaded=reloaded), resolver)
    for text in asked.changes:
        try:
            rules = Change.parse(text).apply(rules)
        except ValueError as error:
            raise ProblemError.one("bad-option", str(error), where="--compare-set") from None
    return rules


# Text.


def _summary(read: Read, side: Hindsight) -> Iterator[str]:
    yield f"{_read(read)}; {side.matched:,} matched"
    yield f"{counted(len(side.told), 'episode')}, {_minutes(side.told)} min in force"


def _read(read: Read) -> str:
    if read.first_ns is None or read.last_ns is None:
        return f"{read.lines:,} lines, no record that a rule may match"
    return f"{read.lines:,} lines, {_moment(read.first_ns)} to {_moment(read.last_ns)} UTC"


def _moment(ns: int) -> str:
    return format_rfc3339(ns)[:19].replace("T", " ")


def _minutes(told: Sequence[Told], *kinds: str) -> str:
    seconds = sum(one.seconds for one in told if not kinds or one.entry.kind in kinds)
    return f"{seconds / 60:,.1f}"


def _comparison(read: Read, before: Hindsight, after: Hindsight) -> Iterator[str | Text]:
    """A summary of five lines, then what differs."""
    sides = before.told, after.told
    yield f"{_read(read)}; {read.deliveries:,} deliveries"
    yield line((f"{'':28}{'NOW':>12}{'THEN':>12}", "bold"))
    yield _row("episodes", *(f"{len(told):,}" for told in sides))
    yield _row("minutes suspended", *(_minutes(t, "ready_q", "sched_q", "bounce") for t in sides))
    yield _row("minutes limited", *(_minutes(told, "override") for told in sides))
    yield _row("delivered meanwhile", *(f"{sum(one.sent for one in told):,}" for told in sides))
    found = pairs(*sides)
    verdicts = Counter(pair.verdict for pair in found)
    yield ", ".join(f"{verdicts[name]} {name}" for name in VERDICTS if verdicts[name]) or "nothing"
    for pair in found:
        if pair.verdict != "same":
            yield ""
            yield from _difference(pair)


def _row(name: str, *cells: str) -> str:
    return f"{name:<28}" + "".join(f"{cell:>12}" for cell in cells)


def _difference(pair: Pair) -> Iterator[str | Text]:
    told = pair.after or pair.before
    assert told is not None
    yield line((f"{pair.verdict:<12}", "bold"), shown_entry(told.entry))
    for name, one in (("now", pair.before), ("then", pair.after)):
        if one is not None:
            yield f"  {name:<5}{_span(one)}"
    yield one_line(f"  rule {told.rule}")


def _span(one: Told) -> str:
    length = shown_duration(round(one.seconds) * NS)
    sent = f", {one.sent:,} delivered meanwhile" if one.sent else ""
    return f"{_moment(one.began_ns)} for {length}, {one.matches:,} matched{sent}"


# Pictures.


def _timeline(read: Read, told: Sequence[Told], name: str) -> Iterator[str]:
    begin_ns, end_ns = _bounds(read, told)
    width = shutil.get_terminal_size().columns
    yield f"\n{name}".rstrip()
    yield from as_text(_spans(told), begin_ns=begin_ns, end_ns=end_ns, width=width)


def _svg(read: Read, told: Sequence[Told]) -> str:
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
    return f"{shown_entry(one.entry)}: {_span(one)}{said}; {one.rule}"


# JSON.


def _document(read: Read, sides: Sequence[Hindsight]) -> dict[str, Any]:
    document: dict[str, Any] = {
        "lines": read.lines,
        "considered": read.considered,
        "bad_lines": read.bad,
        "first": None if read.first_ns is None else format_rfc3339(read.first_ns),
        "last": None if read.last_ns is None else format_rfc3339(read.last_ns),
    }
    if len(sides) == 1:
        return document | {"matched": sides[0].matched, "episodes": _episodes(sides[0].told)}
    found = pairs(sides[0].told, sides[1].told)
    verdicts = Counter(pair.verdict for pair in found)
    return document | {
        "deliveries": read.deliveries,
        "verdicts": {name: verdicts[name] for name in VERDICTS},
        "pairs": [
            {
                "verdict": pair.verdict,
                "now": None if pair.before is None else _episode(pair.before),
                "then": None if pair.after is None else _episode(pair.after),
            }
            for pair in found
        ],
    }


def _episodes(told: Sequence[Told]) -> list[dict[str, Any]]:
    return [_episode(one) for one in told]


def _episode(one: Told) -> dict[str, Any]:
    entry = one.entry
    fields = {
        name: getattr(entry, name)
        for name in ("domain", "tenant", "campaign", "site", "source", "mx_rollup")
        if hasattr(entry, name)
    }
    if isinstance(entry, Override):
        fields |= {"option": entry.name, "values": one.values}
    return {
        "kind": entry.kind,
        **fields,
        "rule": one.rule,
        "began": format_rfc3339(one.began_ns),
        "until": format_rfc3339(one.until_ns),
        "seconds": one.seconds,
        "matches": one.matches,
        "delivered_meanwhile": one.sent,
        "simulated": entry.simulated,
    }
