"""``tsa-sidecar history``: what was in force, and how it ended."""

from __future__ import annotations

import time
from typing import Any

import click

from sidecar.store import read_saved
from sidecar.tools.stories import Story, as_json, ended, selected

from .common import moment, setting_options, settle
from .console import output, print_json
from .selecting import filter_options, print_stories, say_if_down, selection_of
from .status import look

_SHOWN = 100


@click.command(short_help="Show what was in force, and how it ended.")
@setting_options("policy", "state", "listen")
@click.option("--since", metavar="TIME", help="Only what ended later: yesterday, -2h, 15:24 UTC.")
@click.option("--until", metavar="TIME", help="Only what began before TIME.")
@filter_options
@click.option("--all", "everything", is_flag=True, help=f"List all, not only {_SHOWN}.")
@click.option("--json", "as_json_", is_flag=True, help="Print one JSON object; it has everything.")
def history(
    *, since: str | None, until: str | None, as_json_: bool, everything: bool, **options: Any
) -> None:
    """Show the episodes that have ended, the latest last: expired, or cancelled.

    So --since and --until together show all that was in force at some time
    between them and is over. `tsa-sidecar list` shows what is in force.

    \b
    Exit code: 0, also where nothing fits.
    """
    selection = selection_of(options)
    since_ns = 0 if since is None else moment(since, "--since")
    until_ns = time.time_ns() if until is None else moment(until, "--until")
    settings = settle(options, require=()).settings
    file = settings.fixed.state
    past = ended(read_saved(file, history=True), file=str(file))
    stories = [story for story in selected(past, selection) if _lies(story, since_ns, until_ns)]
    seen = look(settings.fixed)
    if as_json_:
        print_json({"running": seen.running, "episodes": [as_json(story) for story in stories]})
        return
    console = output()
    say_if_down(console, seen)
    if not stories:
        console.print("nothing that ended fits" if selection else "nothing has ended")
        return
    shown = stories if everything else stories[-_SHOWN:]
    if more := len(stories) - len(shown):
        console.print(f"{more:,} earlier ones are not listed: --all has them")
    print_stories(console, shown, time.time_ns())


def _lies(story: Story, since_ns: int, until_ns: int) -> bool:
    assert story.end is not None
    return story.end.at_ns >= since_ns and story.episode.began_ns < until_ns
