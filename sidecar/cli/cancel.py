"""``tsa-sidecar cancel``: take back what is in force."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Iterator
from typing import Any

import click
from rich.console import Console

from sidecar.automation.entries import Entry, Override, ReadyQSuspension, SchedQBounce
from sidecar.problems import Problem, ProblemError, one_line
from sidecar.service.orders import Order
from sidecar.store import read_saved
from sidecar.tools.stories import Story, in_force, selected
from sidecar.tools.text import shown_entry

from .common import setting_options, settle
from .console import output, print_json
from .ordering import Carried, as_json, carry_out, span, who
from .roads import kcli_lines
from .selecting import filter_options, selection_of, shown_moment
from .status import Seen, look

_SHOWN = 20
_REBINDS = 5


@click.command(short_help="Take back entries that are in force, and keep them from coming back.")
@setting_options("policy", "state", "listen")
@filter_options
@click.option("--for", "for_", metavar="DURATION", help="Keep it from coming back so long.")
@click.option("--reason", default="", metavar="TEXT", help="Why, for the history.")
@click.option("--here", is_flag=True, help="On this host only, though it shares with others.")
@click.option("--json", "as_json_", is_flag=True, help="Print one JSON object.")
@click.argument("ids", metavar="[ID]...", nargs=-1, type=int)
def cancel(
    *,
    ids: tuple[int, ...],
    for_: str | None,
    reason: str,
    here: bool,
    as_json_: bool,
    **options: Any,
) -> None:
    """Take back the entries with these ids, or those that fit all of the filters.

    `tsa-sidecar list` shows the ids. All roads follow at once, and thresholds
    count from nothing: the rule strikes anew by responses that come later. With
    --for it does not before that time is over. What can't be undone from here
    is said: a kumod that subscribes keeps a suspension until `kcli` lifts it.

    \b
    Exit code: 0 they are taken back; 1 nothing was, since one is not in force,
    nothing fits, or it could not be done.
    """
    selection = selection_of(options, ids=tuple(dict.fromkeys(ids)))
    if not selection:
        message = "give the ids that `tsa-sidecar list` shows, or filters such as --domain"
        raise ProblemError.one("bad-option", message)
    for_ns = 0 if for_ is None else span(for_, "--for")
    settings = settle(options, require=()).settings
    file = settings.fixed.state
    known = in_force(read_saved(file), time.time_ns(), file=str(file))
    stories = selected(known, selection)
    _refuse_missing(stories, selection.ids, file=str(file))
    seen = look(settings.fixed)
    order = Order("cancel", selection, for_ns, by=who(), reason=reason, here=here)
    carried = carry_out(settings.fixed, order, seen)
    cancelled = [story for story in known if story.episode.id in carried.answer.cancelled]
    if as_json_:
        print_json(as_json(carried))
        return
    console = output()
    _print(console, cancelled, carried, seen)


def _refuse_missing(stories: list[Story], ids: Iterable[int], *, file: str) -> None:
    known = {story.episode.id for story in stories}
    missing = [
        Problem("error", "no-entry", f"no entry {id_} is in force", file=file)
        for id_ in ids
        if id_ not in known
    ]
    if missing:
        raise ProblemError(missing)
    if not stories:
        message = "nothing in force fits: `tsa-sidecar hold` keeps rules from striking beforehand"
        raise ProblemError.one("no-entry", message, file=file)


def _print(console: Console, cancelled: list[Story], carried: Carried, seen: Seen) -> None:
    for story in cancelled[:_SHOWN]:
        console.print(one_line(f"cancelled {story.episode.id}: {shown_entry(story.entry)}"))
    if more := len(carried.answer.cancelled) - len(cancelled[:_SHOWN]):
        console.print(f"and {more:,} more: `tsa-sidecar history` has them")
    print_hold(console, carried)
    for note in carried.notes:
        console.print(one_line(note))
    entries = [story.entry for story in cancelled]
    for text in kcli_lines(entries, seen):
        console.print(one_line(text))
    rebinds = list(dict.fromkeys(_rebinds(cancelled)))
    if rebinds:
        console.print("mail that has waited is tried at its next retry; to have it tried now:")
    for text in rebinds[:_REBINDS]:
        console.print(one_line(text))
    if any(isinstance(entry, SchedQBounce) for entry in entries):
        console.print("what was bounced stays bounced")


def print_hold(console: Console, carried: Carried) -> None:
    """Until when what was ordered is held, and how to end that."""
    answer = carried.answer
    if answer.held:
        console.print(
            f"held until {shown_moment(answer.until_ns)}: `tsa-sidecar release {answer.held}` "
            "ends that"
        )


def _rebinds(stories: Iterable[Story]) -> Iterator[str]:
    """The lines that have waiting mail tried at once."""
    for story in stories:
        for domain in _domains(story.entry, story):
            tenant = getattr(story.entry, "tenant", None)
            campaign = getattr(story.entry, "campaign", None)
            parts = {"--domain": domain, "--tenant": tenant, "--campaign": campaign}
            given = [f"{name} {shlex.quote(value)}" for name, value in parts.items() if value]
            yield f"kcli rebind {' '.join(given)} --always-flush --reason 'suspension lifted'"


def _domains(entry: Entry, story: Story) -> Iterable[str]:
    if entry.simulated or isinstance(entry, Override | SchedQBounce):
        return ()
    return sorted(story.made.domains) if isinstance(entry, ReadyQSuspension) else (entry.domain,)
