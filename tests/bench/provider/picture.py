"""A day as a picture: what the provider takes, and the limit that the sender gave itself."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from tests.bench.provider.simulation import Day

_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_COLUMNS: Final = 64

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 300, 170, 40, 10, 30, 24
_STYLE: Final = (
    "text{font:11px system-ui,sans-serif;fill:#57606a}.title{font-weight:600;fill:#24292f}"
    ".axis{stroke:#d0d7de}.hidden{fill:#dafbe1;stroke:#4ac26b}"
    ".limit{fill:none;stroke:#0969da;stroke-width:1.2}"
)


def in_terminal(day: Day) -> list[str]:
    """Two lines of blocks: what the provider takes, the limit in force."""
    top = max(day.hidden) * 1.5
    return [
        f"  takes {_blocks(day.hidden, top)}",
        f"  limit {_blocks(day.limits, top)}",
    ]


def _blocks(values: Sequence[float], top: float) -> str:
    size = max(1, len(values) // _COLUMNS)
    means = [
        sum(min(top, value) for value in values[at : at + size]) / len(values[at : at + size])
        for at in range(0, len(values), size)
    ]
    return "".join(_BLOCKS[min(7, int(mean / top * 8))] for mean in means)


def as_svg(days: Sequence[tuple[str, Day]]) -> str:
    """A panel for each day, beside each other."""
    width = _WIDTH * len(days)
    panels = "".join(
        f'<g transform="translate({_WIDTH * n} 0)">{_panel(title, day)}</g>'
        for n, (title, day) in enumerate(days)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {_HEIGHT}" '
        f'width="{width}" height="{_HEIGHT}"><style>{_STYLE}</style>'
        f'<rect width="{width}" height="{_HEIGHT}" fill="#fff"/>{panels}</svg>\n'
    )


def _panel(title: str, day: Day) -> str:
    top = max(day.hidden) * 1.5

    def place(n: int, value: float) -> str:
        x = _LEFT + n / len(day.hidden) * (_WIDTH - _LEFT - _RIGHT)
        y = _HEIGHT - _BOTTOM - min(value, top) / top * (_HEIGHT - _TOP - _BOTTOM)
        return f"{x:.1f},{y:.1f}"

    last = len(day.hidden) - 1
    hidden = " ".join(place(n, value) for n, value in enumerate(day.hidden))
    limits = " ".join(place(n, value) for n, value in enumerate(day.limits))
    hours = "".join(
        _text(place(hour * 60, 0).split(",")[0], _HEIGHT - 8, f"{hour}:00", "middle")
        for hour in range(0, len(day.hidden) // 60 + 1, 6)
        if hour * 60 <= last
    )
    scale = "".join(
        f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'
        + _text(str(_LEFT - 5), float(y) + 4, f"{value:.0f}", "end")
        for value in (0, max(day.hidden))
        for y in [place(0, value).split(",")[1]]
    )
    return (
        f'<text class="title" x="{_LEFT}" y="16">{escape(title)}</text>{scale}{hours}'
        f'<polygon class="hidden" points="{place(0, 0)} {hidden} {place(last, 0)}"/>'
        f'<polyline class="limit" points="{limits}"/>'
    )


def _text(x: str, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
