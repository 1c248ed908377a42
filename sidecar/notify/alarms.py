"""The service's own troubles as events: told when they last, and when they are over.

In: the conditions that are wrong now, by code, and the time.  Out: which of them are
to be told as begun, which as ended.  One that comes and goes is told neither way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_LASTING = 60.0
"""Seconds for which a condition lasts, or is over, before it is told."""


class Alarms:
    """What is wrong, since when, and what of it was told."""

    __slots__ = ("_gone", "_seen", "_told")

    def __init__(self, told: Iterable[str] = ()) -> None:
        """`told`: codes that an earlier run has told, and not the end of."""
        self._seen: dict[str, float] = {}
        self._gone: dict[str, float] = {}
        self._told = set(told)

    def look(self, wrong: Mapping[str, str], now: float) -> tuple[dict[str, str], list[str]]:
        """The codes (with texts) that are to be told at `now`, and those that are over."""
        self._seen = {code: self._seen.get(code, now) for code in wrong}
        self._gone = {code: self._gone.get(code, now) for code in self._told - wrong.keys()}
        began = {
            code: text
            for code, text in wrong.items()
            if code not in self._told and now - self._seen[code] >= _LASTING
        }
        ended = [code for code, since in self._gone.items() if now - since >= _LASTING]
        self._told = (self._told | began.keys()) - set(ended)
        return began, ended
