"""``tsa-sidecar show``: everything about one entry, in force or ended."""

from __future__ import annotations

import contextlib
import textwrap
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from sidecar.automation.adjusting import floor, steps
from sidecar.automation.entries import Override
from sidecar.automation.episodes import Cause
from sidecar.automation.selection import Selection, source
from sidecar.problems import ProblemError, one_line
from sidecar.store import read_saved
from sidecar.times import parse_rfc3339
from sidecar.tools.standing import standing
from sidecar.tools.stories import Story, as_json, ended, in_force, selected, with_behind
from sidecar.tools.text import counted, rough_duration, shown_entry

from .common import setting_options, settle
from .console import line, output, print_json
from .roads import kcli_lines, roads_of
from .selecting import say_if_down, shown_end, shown_moment, terminal_width
from .status import Seen, is_aside, look, verdicts

_LABEL = 10


@click.command(short_help="Show everything about one entry: when, why, how to undo it.")
@setting_options("policy", "state", "listen")
@click.option("--json", "as_json_", is_flag=True, help="Print one JSON object.")
@click.argument("id_", metavar="ID", type=int)
def show(*, id_: int, as_json_: bool, **options: Any) -> None:
    """Show everything about the entry with this id, also when it has ended.

    That is what it does and until when, the rule and its note, the first and
    the latest response that caused it, on which roads it is published, whether
    kumod does it (with --kumod-api), and how to undo it.

    \b
    Exit code: 0 it was found; 1 there is none with that id.
    """
    settings = settle(options, require=()).settings
    story = find(settings.fixed.state, id_)
    seen = look(settings.fixed)
    story = replace(story, aside=is_aside(story, seen))
    verdict = verdicts(seen).get(story.entry.key) if story.end is None else None
    if as_json_:
        print_json({"running": seen.running, "entry": as_json(story, verdict)})
        return
    console = output()
    say_if_down(console, seen)
    width = terminal_width() - _LABEL
    for label, text in _lines(story, seen, verdict):
        for number, part in enumerate(textwrap.wrap(text, width, break_on_hyphens=False)):
            head = label if number == 0 else ""
            console.print(line((f"{head:<{_LABEL}}", "bold"), part))


def find(state: Path, id_: int) -> Story:
    """The entry with that id, in force or ended; ProblemError where there is none."""
    saved = read_saved(state, history=True)
    now_ns, file = time.time_ns(), str(state)
    held = with_behind(in_force(saved, now_ns, file=file), now_ns)
    known = [*held, *ended(saved, now_ns, file=file)]
    found = selected(known, Selection(ids=(id_,)))
    if not found:
        message = f"no entry {id_} is known: `tsa-sidecar list` and `history` show the ids"
        raise ProblemError.one("no-entry", message, file=str(state))
    return found[0]


def _lines(
    story: Story, seen: Seen, verdict: Mapping[str, str] | None
) -> Iterator[tuple[str, str]]:
    entry, episode = story.entry, story.episode
    yield f"{episode.id}", shown_entry(entry)
    yield "queue", one_line(entry.site)
    yield "rule", _rule(story)
    if episode.note:
        yield "note", one_line(episode.note)
    yield "began", shown_moment(episode.began_ns)
    yield from _end(story)
    if story.end is None and (said := standing(entry, episode, story.then, time.time_ns())):
        yield "state", said
    yield from _course(story)
    if story.holds:
        yield "again", f"{counted(story.holds, 'hold')} before it, in a row: it is held longer"
    yield "matches", f"{episode.matches:,}"
    if episode.first is not None:
        yield "first", _cause(episode.first)
    if episode.latest is not None and episode.latest != episode.first:
        yield "latest", _cause(episode.latest)
    if story.end is not None:
        return
    for road in _roads(story, seen):
        yield "road", road
    if verdict is not None:
        yield "kumod", _verdict(verdict)
    yield "undo", f"tsa-sidecar cancel {episode.id}"
    yield "", f"tsa-sidecar cancel {episode.id} --for 2h    (and keep it from coming back)"
    for text in kcli_lines([entry], seen):
        yield "", text


def _rule(story: Story) -> str:
    episode = story.episode
    place = f"{episode.file}:{episode.line}" if episode.file else ""
    known = [text for text in (episode.name, place) if text]
    gone = "; it is not in the files any more" if episode.rule_gone else ""
    return one_line(", ".join(known) + gone if known else story.entry.reason)


def _end(story: Story) -> Iterator[tuple[str, str]]:
    if story.end is not None:
        yield "ended", f"{shown_moment(story.end.at_ns)}, {shown_end(story)}"
        return
    left = rough_duration(story.entry.expires_ns - time.time_ns())
    yield "ends", f"{shown_moment(story.entry.expires_ns)}, in {left}"


def _course(story: Story) -> Iterator[tuple[str, str]]:
    """How a value that adjusts itself comes back."""
    entry = story.entry
    if not isinstance(entry, Override) or entry.course is None or story.end is not None:
        return
    yield "lowered", f"last {shown_moment(entry.course.cut_ns)}; never below {floor(entry)}"
    coming = steps(entry, time.time_ns())
    text = ", ".join(f"{value} at {shown_moment(at_ns)}" for at_ns, value in coming)
    yield "back", one_line(f"without another match: {text}")


def _cause(cause: Cause) -> str:
    return one_line(
        f"{shown_moment(cause.time_ns)} {cause.type} for {cause.domain} from {cause.source}"
        f"{f' on {cause.host}' if cause.host else ''}: "
        f"{cause.response}"
    )


def _roads(story: Story, seen: Seen) -> Iterator[str]:
    """Where it is published, as far as the service says."""
    entry = story.entry
    if entry.simulated:
        yield "none: its rule is simulated"
        return
    if story.is_left_out:
        yield "none: the overlay leaves out a domain whose name is reserved"
        return
    if story.aside:
        yield (
            f"none: this host's log has not shown the source {one_line(source(entry))} "
            "(--share-sources own)"
        )
        return
    if story.behind is not None:
        yield f"none: the overlay has what {story.behind} sets"
        return
    roads = roads_of(seen)
    if isinstance(entry, Override):
        if "overlay" in roads:
            yield f"the overlay {one_line(roads['overlay'])}"
        if "listener" in roads:
            yield f"the overlay at {one_line(roads['listener'])}"
        return
    if "listener" in roads:
        yield f"subscribers at {one_line(roads['listener'])}"
    if "kumod" in roads:
        yield f"kumod's admin API at {one_line(roads['kumod'])}"


def _verdict(verdict: Mapping[str, str]) -> str:
    text = verdict.get("effect", "unknown")
    with contextlib.suppress(KeyError, ValueError):
        text += f" since {shown_moment(parse_rfc3339(verdict['since']))}"
    return one_line(text + (f": {verdict['why']}" if verdict.get("why") else ""))
