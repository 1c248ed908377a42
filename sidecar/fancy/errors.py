"""Why a pattern is refused, for people."""

from __future__ import annotations


class PatternError(ValueError):
    """A pattern that KumoMTA would refuse, or that cannot be honoured here.

    ``offset`` counts characters from the pattern's start (0 = first), None when
    it is the pattern as a whole.
    """

    def __init__(self, reason: str, offset: int | None = None) -> None:
        self.reason = reason
        self.offset = offset
        place = "" if offset is None else f" (at character {offset + 1})"
        super().__init__(f"{reason}{place}")
