"""The journal's lines about episodes: one when it begins, one when it ends.

In: committed outcomes, and the time.  Out: log lines, so many a second at most.  Of
a storm the first are written, then one line says how many more there were.
"""

from __future__ import annotations

from sidecar.automation.decide import Outcome
from sidecar.automation.entries import Entry
from sidecar.automation.episodes import Ended, Episode
from sidecar.times import NS, format_rfc3339
from sidecar.tools.text import shown_entry

from .logging import Log

LINES_A_SECOND = 10
"""How many lines about episodes are written in a second."""


class Journal:
    """Writes them, and counts those that it leaves out."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._second = 0
        self._written = 0
        self._unsaid_began = 0
        self._unsaid_ended = 0

    def tell(self, outcome: Outcome, now_ns: int) -> None:
        """Write of what began and ended."""
        for entry, episode in outcome.began:
            if self._has_room(now_ns):
                self._write("rule struck", _beginning(entry, episode))
            else:
                self._unsaid_began += 1
        for ended in outcome.ended:
            if self._has_room(now_ns):
                self._write("ended", _end(ended))
            else:
                self._unsaid_ended += 1

    def sum_up(self, now_ns: int) -> None:
        """Write how many were left out, once their second is over."""
        if now_ns // NS == self._second or not (self._unsaid_began or self._unsaid_ended):
            return
        fields: dict[str, object] = {
            "began": self._unsaid_began,
            "ended": self._unsaid_ended,
            "see": "tsa-sidecar list",
        }
        self._unsaid_began = self._unsaid_ended = 0
        self._write("more episodes than are listed here", fields)

    def _has_room(self, now_ns: int) -> bool:
        self.sum_up(now_ns)
        if now_ns // NS != self._second:
            self._second, self._written = now_ns // NS, 0
        self._written += 1
        return self._written <= LINES_A_SECOND

    def _write(self, event: str, fields: dict[str, object]) -> None:
        # Each second is a kind of its own: the log's bound is ten lines a minute of a kind.
        self._log.write("info", event, fields, kind=f"{event} {self._second}")


def _beginning(entry: Entry, episode: Episode) -> dict[str, object]:
    fields = _common(entry, episode)
    fields["until"] = format_rfc3339(entry.expires_ns)
    if episode.latest is not None:
        fields |= {
            "domain": episode.latest.domain,
            "source": episode.latest.source,
            "response": episode.latest.response,
        }
    return fields


def _end(ended: Ended) -> dict[str, object]:
    fields = _common(ended.entry, ended.episode)
    fields |= {"how": ended.how, "matches": ended.episode.matches}
    if ended.episode.delivered:
        fields["delivered"] = ended.episode.delivered
    if ended.by:
        fields["by"] = ended.by
    if ended.reason:
        fields["reason"] = ended.reason
    return fields


def _common(entry: Entry, episode: Episode) -> dict[str, object]:
    return {"id": episode.id, "does": shown_entry(entry), "rule": episode.label}
