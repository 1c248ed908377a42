"""Plots as SVG, without a library: a few lines or columns with a scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH = 420
_HEIGHT = 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 34, 44
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#57606a}"
    ".title{font-weight:600;fill:#24292f}"
    ".axis{stroke:#d0d7de;stroke-width:1}"
    ".line{fill:none;stroke:#0969da;stroke-width:2}"
    ".spread{stroke:#0969da;stroke-width:1;opacity:.5}"
    ".dot{fill:#0969da}"
)


@dataclass(frozen=True, slots=True)
class Plot:
    """One line through ``points``: (x from 0 to 1, y, lowest y, highest y)."""

    title: str
    unit: str
    points: Sequence[tuple[float, float, float, float]]
    labels: Sequence[tuple[float, str]]
    x_title: str
    dots: bool = True


def document(plots: Sequence[Plot]) -> str:
    """The plots beside each other."""
    width = _WIDTH * len(plots)
    body = "".join(
        f'<g transform="translate({_WIDTH * n} 0)">{_plot(plot)}</g>'
        for n, plot in enumerate(plots)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {_HEIGHT}" '
        f'width="{width}" height="{_HEIGHT}"><style>{_STYLE}</style>'
        f'<rect width="{width}" height="{_HEIGHT}" fill="#fff"/>{body}</svg>\n'
    )


def _plot(plot: Plot) -> str:
    top = _round_up(max(point[3] for point in plot.points))

    def place_x(share: float) -> float:
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def place_y(value: float) -> float:
        return _HEIGHT - _BOTTOM - value / top * (_HEIGHT - _TOP - _BOTTOM)

    parts = [_text(_LEFT, 18, plot.title, anchor="start", css="title")]
    for step in range(5):
        value = top * step / 4
        y = place_y(value)
        parts.append(
            f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(_text(_LEFT - 6, y + 4, f"{value:g}", anchor="end"))
    parts.append(_text(_LEFT - 6, _TOP - 6, plot.unit, anchor="end"))
    for share, label in plot.labels:
        parts.append(_text(place_x(share), _HEIGHT - _BOTTOM + 16, label))
    parts.append(_text(place_x(0.5), _HEIGHT - 8, plot.x_title))
    line = " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y, _, _ in plot.points)
    parts.append(f'<polyline class="line" points="{line}"/>')
    for x, y, low, high in plot.points if plot.dots else ():
        at = place_x(x)
        parts.append(
            f'<line class="spread" x1="{at:.1f}" x2="{at:.1f}" '
            f'y1="{place_y(low):.1f}" y2="{place_y(high):.1f}"/>'
            f'<circle class="dot" cx="{at:.1f}" cy="{place_y(y):.1f}" r="3"/>'
        )
    return "".join(parts)


def _text(x: float, y: float, text: str, *, anchor: str = "middle", css: str = "") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{css}">{escape(text)}</text>'
    )


def _round_up(value: float) -> float:
    """To the next 1, 2, 4, 8 times a power of ten: four steps of it are readable."""
    size = 1.0
    while size < value:
        size *= 10
    while size / 10 >= value:
        size /= 10
    return next((size * part for part in (0.1, 0.2, 0.4, 0.8) if size * part >= value), size)
