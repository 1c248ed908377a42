"""How a share stands, for people and for programs.

In: the matches and attempts in a window, and the rule's ratio.  Out: a line, a JSON-able value.
"""

from __future__ import annotations

from typing import Any

from sidecar.automation.shares import Standing
from sidecar.shaping.rules import Ratio
from sidecar.times import NS

from .text import shown_duration


def shown_standing(standing: Standing, ratio: Ratio) -> str:
    """For example ``12 of 340 attempts in 10 minutes, 3.5 %: strikes above 5 %, …``."""
    what = "deliveries" if ratio.complaints else "attempts"
    window = shown_duration(ratio.period * NS)
    share = f"{_percent(min(1.0, standing.matches / max(standing.attempts, 1)))}"
    bound = ""
    if ratio.confidence is not None:
        sure = _percent(ratio.confidence)
        bound = f", at least {_percent(standing.measured(ratio))} with {sure} confidence"
    return (
        f"share {standing.matches:,} of {standing.attempts:,} {what} in {window}, {share}{bound}: "
        f"strikes above {_percent(ratio.over)}, from {ratio.least:,} {what} on"
    )


def standing_document(standing: Standing, ratio: Ratio) -> dict[str, Any]:
    """The same as JSON-able values."""
    return {
        "matches": standing.matches,
        "attempts": standing.attempts,
        "share": standing.measured(ratio),
        "over": ratio.over,
        "min": ratio.least,
        "window": ratio.period,
        "confidence": ratio.confidence,
        "of": "Feedback" if ratio.complaints else None,
    }


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"
