"""``tsa-sidecar list``: what is in force."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import click

from sidecar.store import read_saved
from sidecar.tools.standing import is_waiting
from sidecar.tools.stories import as_json, in_force, selected, with_behind

from .common import setting_options, settle
from .console import output, print_json
from .selecting import filter_options, print_stories, say_if_down, selection_of
from .status import is_aside, look, verdicts

_SHOWN = 100


@click.command("list", short_help="Show what is in force, and by which rules.")
@setting_options("policy", "state", "listen")
@filter_options
@click.option("--all", "everything", is_flag=True, help=f"List all, not only {_SHOWN}.")
@click.option("--json", "as_json_", is_flag=True, help="Print one JSON object; it has everything.")
def list_(*, as_json_: bool, everything: bool, **options: Any) -> None:
    """Show what is in force, each with its id: for `show`, `cancel` and `hold`.

    LEFT is how long it lasts yet. Without filters all is shown, the latest to
    end last. The service need not run.

    \b
    Exit code: 0, also where nothing fits.
    """
    selection = selection_of(options)
    settings = settle(options, require=()).settings
    now_ns, file = time.time_ns(), settings.fixed.state
    held = with_behind(in_force(read_saved(file), now_ns, file=str(file)), now_ns)
    stories = selected(held, selection)
    seen = look(settings.fixed)
    stories = [replace(story, aside=is_aside(story, seen)) for story in stories]
    if as_json_:
        known = verdicts(seen)
        said = [as_json(story, known.get(story.entry.key)) for story in stories]
        print_json({"running": seen.running, "entries": said})
        return
    console = output()
    say_if_down(console, seen)
    if not stories:
        console.print("nothing in force fits" if selection else "nothing is in force")
        return
    # What costs nothing yet is told of with the suspension that it follows.
    stories = [story for story in stories if not is_waiting(story.entry, now_ns)]
    shown = stories if everything else stories[-_SHOWN:]
    print_stories(console, shown, now_ns)
    if more := len(stories) - len(shown):
        console.print(f"{more:,} more end earlier: --all has them")
