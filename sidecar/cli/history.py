"""``tsa-sidecar history``: what was in force, and how it ended."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from sidecar.automation.entries import Override
from sidecar.problems import one_line
from sidecar.store import read_saved
from sidecar.times import format_rfc3339
from sidecar.tools.stories import Story, as_json, ended, in_force, selected
from sidecar.tools.text import shown_entry
from sidecar.tools.timeline import Span, as_svg, as_text, row_of

from .common import period, setting_options, settle
from .console import output, print_json
from .selecting import (
    filter_options,
    print_stories,
    say_if_down,
    selection_of,
    terminal_width,
)
from .status import look

_SHOWN = 100


@click.command(short_help="Show what was in force, and how it ended.")
@setting_options("policy", "state", "listen")
@click.option("--since", metavar="TIME", help="Only what ended later: yesterday, -2h, 15:24 UTC.")
@click.option("--until", metavar="TIME", help="Only what began before TIME.")
@filter_options
@click.option("--all", "everything", is_flag=True, help=f"List all, not only {_SHOWN}.")
@click.option("--timeline", is_flag=True, help="Draw what was in force when, and is now.")
@click.option(
    "--svg",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write that picture into FILE, to send to somebody.",
)
@click.option("--json", "as_json_", is_flag=True, help="Print one JSON object; it has everything.")
def history(
    *,
    since: str | None,
    until: str | None,
    timeline: bool,
    svg: Path | None,
    as_json_: bool,
    everything: bool,
    **options: Any,
) -> None:
    """Show the episodes that have ended, the latest last: expired, released or cancelled.

    So --since and --until together show all that was in force at some time
    between them and is over. `tsa-sidecar list` shows what is in force.

    \b
    Exit code: 0, also where nothing fits.
    """
    selection = selection_of(options)
    first_ns, last_ns = period(since, until)
    since_ns, now_ns = first_ns or 0, time.time_ns()
    until_ns = now_ns if last_ns is None else last_ns
    settings = settle(options, require=()).settings
    file = settings.fixed.state
    saved = read_saved(file, history=True)
    past = ended(saved, now_ns, file=str(file))
    stories = [story for story in selected(past, selection) if _lies(story, since_ns, until_ns)]
    seen = look(settings.fixed)
    spans: list[Span] = []
    if timeline or svg is not None:
        held = selected(in_force(saved, now_ns, file=str(file)), selection)
        spans = [_span(story) for story in [*stories, *held]]
    begin_ns = max(since_ns, min((span.begin_ns for span in spans), default=since_ns))
    if svg is not None:
        title = f"What was in force until {format_rfc3339(until_ns)}"
        picture = as_svg(spans, begin_ns=begin_ns, end_ns=until_ns, title=title)
        svg.write_text(picture, encoding="utf-8")
    if as_json_:
        print_json({"running": seen.running, "episodes": [as_json(story) for story in stories]})
        return
    console = output()
    say_if_down(console, seen)
    if timeline:
        drawn = as_text(spans, begin_ns=begin_ns, end_ns=until_ns, width=terminal_width())
        console.print("\n".join(drawn or ["nothing was in force"]))
    if svg is not None:
        console.print(f"the picture is in {one_line(str(svg))}")
    if timeline or svg is not None:
        return
    if not stories:
        console.print("nothing that ended fits" if selection else "nothing has ended")
        return
    shown = stories if everything else stories[-_SHOWN:]
    if more := len(stories) - len(shown):
        console.print(f"{more:,} earlier ones are not listed: --all has them")
    print_stories(console, shown, now_ns)


def _span(story: Story) -> Span:
    entry, episode = story.entry, story.episode
    end_ns = entry.expires_ns if story.end is None else story.end.at_ns
    # Of one that is older than its story nothing is known but its end.
    begin_ns = episode.began_ns or end_ns
    if isinstance(entry, Override) and entry.probe is not None:
        begin_ns = entry.probe.from_ns
    how = "" if story.end is None else f", {story.end.how}"
    text = f"{episode.id}: {shown_entry(entry)}, {episode.matches} matched{how}; {episode.label}"
    return Span(row_of(entry), entry.kind, begin_ns, end_ns, text)


def _lies(story: Story, since_ns: int, until_ns: int) -> bool:
    assert story.end is not None
    return story.end.at_ns >= since_ns and story.episode.began_ns < until_ns
