"""Whether the log has the deliveries that some rules need.

In: the rules, and what has been counted.  Out: a problem where deliveries must be missing.
A log for the sidecar alone is best without them, so a site that adds its first rule with
``sidecar.ratio`` has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sidecar.problems import Problem

from .rules import Rules

_ENOUGH: Final = 100
"""So many refusals without a single delivery are no accident."""


def missing_deliveries(rules: Rules, counters: Mapping[str, int]) -> Problem | None:
    """A problem where a rule needs deliveries, and only refusals have ever come."""
    if not rules.matcher.needs_attempts or counters.get("delivered"):
        return None
    if counters.get("attempts", 0) < _ENOUGH:
        return None
    needing = next(rule for rule in rules.shaping.all_rules() if rule.sidecar.needs_attempts)
    message = (
        f"rule {needing.label} has to know what is delivered, and the log has had "
        f"{counters['attempts']:,} refusals and not one Delivery record: every share is 100 %. Add "
        "Delivery to the log that the sidecar reads (`tsa-sidecar init` prints the lines)"
    )
    return Problem("error", "no-deliveries", message)
