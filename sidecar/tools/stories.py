"""What a state file tells of entries, for people and programs: in force, or ended.

In: the rows of a state file.  Out: a :class:`Story` for each, and those of them that
a selection means; as JSON, whose fields are in ``packaging/doc/json.md``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sidecar.automation.adjusting import floor, steps
from sidecar.automation.entries import Entry, Override, from_payload
from sidecar.automation.episodes import Cause, Episode, episode_from_payload
from sidecar.automation.life import HOW, Event
from sidecar.automation.offences import OFFENCE, offence_from_payload
from sidecar.automation.overlay import RESERVED, Overlay
from sidecar.automation.selection import Made, Selection, source
from sidecar.problems import ProblemError
from sidecar.store import EntryRow, HistoryRow, Saved
from sidecar.times import format_rfc3339

from .standing import document
from .text import shown_entry


@dataclass(frozen=True, slots=True)
class End:
    """When and how it ended, and where somebody had a hand in it, who and why."""

    at_ns: int
    how: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Story:
    """An entry with its episode; ``end`` is None while it is in force.

    ``holds`` before this one, in a row, made it longer (``sidecar.escalate``).  ``then``
    are the limits for the time after it (``sidecar.probe``).  ``aside``: the overlay leaves
    it out, since its egress source is another host's (``--share-sources own``).  ``behind``
    is the id of what the overlay sets in its place: a stricter value, or a later one.
    """

    entry: Entry
    episode: Episode
    end: End | None = None
    holds: int = 0
    then: tuple[Override, ...] = ()
    aside: bool = False
    behind: int | None = None

    @property
    def made(self) -> Made:
        """What a selection goes by."""
        return made_of(self.episode)

    @property
    def is_left_out(self) -> bool:
        """Whether the overlay leaves it out: a section of that name would govern everything."""
        return isinstance(self.entry, Override) and self.entry.domain in RESERVED


def made_of(episode: Episode) -> Made:
    """What a selection goes by, of an episode."""
    causes = (episode.first, episode.latest)
    return Made(
        id=episode.id,
        rule=episode.name,
        place=f"{episode.file}:{episode.line}" if episode.file else "",
        domains={cause.domain for cause in causes if cause is not None},
    )


def in_force(saved: Saved, now_ns: int, *, file: str) -> list[Story]:
    """Those in force at `now_ns`, the latest to expire last; ProblemError for a damaged row."""
    found = [
        replace(_at(_story(row, what=row.key, file=file), now_ns), holds=_holds(saved, row.key))
        for row in saved.entries.values()
        if row.expires_ns > now_ns
    ]
    found.sort(key=lambda story: (story.entry.expires_ns, story.entry.key))
    then: dict[str, tuple[Override, ...]] = {}
    for story in found:
        entry = story.entry
        if isinstance(entry, Override) and entry.probe is not None:
            then[entry.probe.of] = (*then.get(entry.probe.of, ()), entry)
    return [replace(story, then=then.get(story.entry.key, ())) for story in found]


def with_behind(stories: Sequence[Story], now_ns: int) -> list[Story]:
    """All that is in force, each with the id of what the overlay sets in its place."""
    published = {
        story.entry.key: (story.entry, story.episode.id)
        for story in stories
        if isinstance(story.entry, Override) and not story.entry.simulated
    }
    overlay = Overlay(entry for entry, _ in published.values())
    overlay.advance(now_ns)
    shown = {key: overlay.shown(entry).key for key, (entry, _) in published.items()}
    behind = {key: published[other][1] for key, other in shown.items() if other != key}
    return [replace(story, behind=behind.get(story.entry.key)) for story in stories]


def _at(story: Story, now_ns: int) -> Story:
    """With the value in force at `now_ns`, where it adjusts itself."""
    entry = story.entry
    return replace(story, entry=entry.at(now_ns)) if isinstance(entry, Override) else story


def _holds(saved: Saved, key: str) -> int:
    """How many holds before this one are remembered; a damaged row is as good as none."""
    try:
        return offence_from_payload(saved.meta.get(OFFENCE + key, "")).level
    except ValueError:
        return 0


def ended(saved: Saved, now_ns: int, *, file: str) -> list[Story]:
    """Those that ended by `now_ns`, the latest last; ProblemError for a damaged row.

    Those that have expired are among them even where no service runs to write that down.
    """
    found = [
        (row.ended_ns, id_, _story(row, what=f"the ended episode {id_}", file=file))
        for id_, row in saved.history.items()
    ]
    for row in saved.entries.values():
        if row.expires_ns <= now_ns:
            story = _story(row, what=row.key, file=file)
            end = End(row.expires_ns, HOW[Event.EXPIRED], "", "")
            found.append((row.expires_ns, story.episode.id, replace(story, end=end)))
    found.sort(key=lambda one: one[:2])
    return [story for _, _, story in found]


def _story(row: EntryRow | HistoryRow, *, what: str, file: str) -> Story:
    try:
        entry = from_payload(row.kind, row.payload)
        episode = episode_from_payload(row.episode) if row.episode else Episode(0, 0, 0)
    except ValueError as error:
        raise ProblemError.one("state-entry", f"{what}: {error}", file=file) from None
    if isinstance(row, EntryRow):
        return Story(entry, episode)
    return Story(entry, episode, End(row.ended_ns, row.how, row.by, row.reason))


def selected(stories: Iterable[Story], selection: Selection) -> list[Story]:
    """Those that `selection` means."""
    return [story for story in stories if selection.fits(story.entry, story.made)]


def as_json(story: Story, verdict: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The story as JSON has it; `verdict`: what is known of whether kumod obeys."""
    entry, episode, end = story.entry, story.episode, story.end
    return {
        "id": episode.id,
        "kind": entry.kind,
        "what": shown_entry(entry),
        "site": entry.site,
        "domain": getattr(entry, "domain", None),
        "source": source(entry),
        "tenant": getattr(entry, "tenant", None),
        "campaign": getattr(entry, "campaign", None),
        "option": entry.name if isinstance(entry, Override) else None,
        "value": entry.value if isinstance(entry, Override) else None,
        "mx_rollup": entry.mx_rollup if isinstance(entry, Override) else None,
        "adjusting": _adjusting(story),
        "earlier_holds": story.holds,
        **document(entry, episode, None if end is not None else time.time_ns()),
        "rule": {
            "name": episode.name or None,
            "file": episode.file or None,
            "line": episode.line or None,
            "note": episode.note or None,
            "gone": episode.rule_gone,
        },
        "reason": entry.reason,
        "began": _time(episode.began_ns),
        "expires": format_rfc3339(entry.expires_ns),
        "matches": episode.matches,
        "first": _cause(episode.first),
        "latest": _cause(episode.latest),
        "simulated": entry.simulated,
        "left_out": story.is_left_out or story.aside,
        "behind": story.behind,
        "key": entry.key,
        "kumod": None if verdict is None else dict(verdict),
        "end": None
        if end is None
        else {
            "at": format_rfc3339(end.at_ns),
            "how": end.how,
            "by": end.by or None,
            "reason": end.reason or None,
        },
    }


def _adjusting(story: Story) -> dict[str, Any] | None:
    """Where it comes back to and how far it may go; the steps of one in force."""
    entry = story.entry
    if not isinstance(entry, Override) or entry.course is None:
        return None
    following = [] if story.end is not None else steps(entry, time.time_ns())
    return {
        "baseline": entry.baseline,
        "floor": floor(entry),
        "last_cut": format_rfc3339(entry.course.cut_ns),
        "steps": [{"at": format_rfc3339(at_ns), "value": value} for at_ns, value in following],
    }


def _time(ns: int) -> str | None:
    return format_rfc3339(ns) if ns else None


def _cause(cause: Cause | None) -> dict[str, str] | None:
    if cause is None:
        return None
    return {
        "type": cause.type,
        "response": cause.response,
        "domain": cause.domain,
        "source": cause.source,
        "host": cause.host,
        "at": format_rfc3339(cause.time_ns),
    }
