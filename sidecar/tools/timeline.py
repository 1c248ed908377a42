"""What was in force when, as a picture: spans in, text for a terminal or one SVG file out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from sidecar.automation.address import site_name
from sidecar.automation.entries import Entry, Override, ReadyQSuspension
from sidecar.problems import one_line
from sidecar.times import NS, format_rfc3339

KINDS: Final = ("override", "ready_q", "sched_q", "bounce")
_LETTERS: Final = {"override": "-", "ready_q": "#", "sched_q": "=", "bounce": "x"}
_LEVELS: Final = "▁▂▃▄▅▆▇█"
_WORDS: Final = {
    "override": "limited",
    "ready_q": "ready queue held",
    "sched_q": "scheduled queue held",
    "bounce": "bounced",
}
# Colours that people who see red and green alike tell apart (Okabe and Ito).
_COLOURS: Final = {
    "override": "#0072b2",
    "ready_q": "#d55e00",
    "sched_q": "#e69f00",
    "bounce": "#cc79a7",
}


@dataclass(frozen=True, slots=True)
class Span:
    """One episode in the picture: on which row, of what kind, from when until when.

    ``text`` is shown where the pointer rests on it.  ``share``: at a moment, how much is
    let through, from 0 to 1, of what adjusts itself.
    """

    row: str
    kind: str
    begin_ns: int
    end_ns: int
    text: str
    share: Callable[[int], float] | None = None


def row_of(entry: Entry) -> str:
    """The row that an entry is on: what it is about, in short."""
    if isinstance(entry, Override):
        return f"{entry.domain} {entry.source} {entry.name}"
    if isinstance(entry, ReadyQSuspension):
        return f"{site_name(entry.site, entry.source)} {entry.source}"
    parts = (entry.domain, entry.tenant, entry.campaign)
    return " ".join(part for part in parts if part)


def as_text(spans: Sequence[Span], *, begin_ns: int, end_ns: int, width: int) -> list[str]:
    """One line a row, and a scale; nothing where there is nothing to show."""
    spans = _between(spans, begin_ns, end_ns)
    rows = _rows(spans)
    if not rows:
        return []
    label = min(max(len(row) for row in rows), max(width * 2 // 5, 12))
    columns = max(width - label - 2, 20)
    lines = [f"{'':{label}} |{_scale(begin_ns, end_ns, columns)}"]
    for row, found in rows.items():
        cells = [" "] * columns
        for span in found:
            first = _column(span.begin_ns, begin_ns, end_ns, columns)
            last = _column(span.end_ns, begin_ns, end_ns, columns)
            for column in range(first, min(last, columns - 1) + 1):
                cells[column] = _cell(span, begin_ns + (end_ns - begin_ns) * column // columns)
        lines.append(f"{_cut(row, label):{label}} |{''.join(cells).rstrip()}")
    used = {span.kind for span in spans if span.share is None}
    legend = [f"{_LETTERS[kind]} {_WORDS[kind]}" for kind in KINDS if kind in used]
    if any(span.share is not None for span in spans):
        legend.append(f"{_LEVELS[0]} to {_LEVELS[-1]} limited to so much of what is configured")
    return [*lines, ", ".join(legend)]


def _cell(span: Span, at_ns: int) -> str:
    if span.share is None:
        return _LETTERS[span.kind]
    share = span.share(max(at_ns, span.begin_ns))
    return _LEVELS[min(int(share * len(_LEVELS)), len(_LEVELS) - 1)]


def _between(spans: Sequence[Span], begin_ns: int, end_ns: int) -> Sequence[Span]:
    """Those that were in force then: a limit for the time after a suspension may never be."""
    return [
        span
        for span in spans
        if span.begin_ns <= min(span.end_ns, end_ns) and begin_ns <= span.end_ns
    ]


def _rows(spans: Sequence[Span]) -> dict[str, list[Span]]:
    rows: dict[str, list[Span]] = {}
    for span in sorted(spans, key=lambda span: (span.row, span.begin_ns)):
        rows.setdefault(one_line(span.row), []).append(span)
    return rows


def _column(at_ns: int, begin_ns: int, end_ns: int, columns: int) -> int:
    if end_ns <= begin_ns:
        return 0
    return max(0, (at_ns - begin_ns) * columns // (end_ns - begin_ns))


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _scale(begin_ns: int, end_ns: int, columns: int) -> str:
    same_day = format_rfc3339(begin_ns)[:10] == format_rfc3339(end_ns)[:10]
    first = _moment(begin_ns, end_ns - begin_ns)
    last = _moment(end_ns, end_ns - begin_ns)[11 if same_day else 0 :] + " UTC"
    return first + last.rjust(max(columns - len(first), len(last) + 1))


def _moment(at_ns: int, span_ns: int) -> str:
    """To the minute, or to the second where the picture is of minutes."""
    length = 19 if span_ns < 600 * NS else 16
    return format_rfc3339(at_ns // NS * NS)[:length].replace("T", " ")


_LEFT, _TOP, _ROW, _WIDE = 330, 70, 22, 1000


def as_svg(spans: Sequence[Span], *, begin_ns: int, end_ns: int, title: str) -> str:
    """One file that any browser shows, with nothing from elsewhere and no script."""
    spans = _between(spans, begin_ns, end_ns)
    rows = _rows(spans)
    height = _TOP + _ROW * len(rows) + 40
    width = _LEFT + _WIDE + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12" role="img">',
        f"<title>{_safe(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="24" font-size="15">{_safe(title)}</text>',
    ]
    for number in range(5):
        at_ns = begin_ns + (end_ns - begin_ns) * number // 4
        x = _LEFT + _WIDE * number // 4
        anchor = "end" if number == 4 else "start"
        parts.append(
            f'<line x1="{x}" x2="{x}" y1="{_TOP - 8}" y2="{height - 34}" stroke="#ccc"/>'
            f'<text x="{x}" y="{_TOP - 14}" text-anchor="{anchor}">'
            f"{_moment(at_ns, end_ns - begin_ns)}</text>"
        )
    for number, (row, found) in enumerate(rows.items()):
        y = _TOP + _ROW * number
        parts.append(
            f'<text x="{_LEFT - 8}" y="{y + 14}" text-anchor="end">{_safe(_cut(row, 52))}</text>'
        )
        parts += [_bar(span, y, begin_ns, end_ns) for span in found]
    parts += _legend(spans, height)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _bar(span: Span, y: int, begin_ns: int, end_ns: int) -> str:
    first = min(_column(span.begin_ns, begin_ns, end_ns, _WIDE), _WIDE - 2)
    last = min(_column(span.end_ns, begin_ns, end_ns, _WIDE), _WIDE)
    if span.share is not None:
        last = max(last, first + 2)
        moments = [begin_ns + (end_ns - begin_ns) * x // _WIDE for x in range(first, last + 1)]
        return _levels(span, y, first, [span.share(max(at, span.begin_ns)) for at in moments])
    return (
        f'<rect x="{_LEFT + first}" y="{y + 3}" width="{max(last - first, 2)}" height="{_ROW - 6}" '
        f'fill="{_COLOURS[span.kind]}"><title>{_safe(span.text)}</title></rect>'
    )


def _levels(span: Span, y: int, first: int, shares: Sequence[float]) -> str:
    """As high, at each moment, as what is let through; above it what is not, pale."""
    bottom, full, last = y + _ROW - 3, _ROW - 6, first + len(shares) - 1
    tops = (
        f"{_LEFT + column},{bottom - full * share:.1f}"
        for column, share in enumerate(shares, start=first)
    )
    points = " ".join([f"{_LEFT + first},{bottom}", *tops, f"{_LEFT + last},{bottom}"])
    colour = _COLOURS[span.kind]
    return (
        f"<g><title>{_safe(span.text)}</title>"
        f'<rect x="{_LEFT + first}" y="{y + 3}" width="{last - first}" height="{full}" '
        f'fill="{colour}" opacity=".15"/><polygon points="{points}" fill="{colour}"/></g>'
    )


def _legend(spans: Sequence[Span], height: int) -> list[str]:
    used = {span.kind for span in spans}
    parts, x = [], _LEFT
    for kind in (kind for kind in KINDS if kind in used):
        parts.append(
            f'<rect x="{x}" y="{height - 24}" width="12" height="12" fill="{_COLOURS[kind]}"/>'
            f'<text x="{x + 18}" y="{height - 14}">{_WORDS[kind]}</text>'
        )
        x += 200
    return parts


def _safe(text: str) -> str:
    return escape(one_line(text))
