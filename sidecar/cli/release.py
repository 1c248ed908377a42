"""``tsa-sidecar release``: end what `hold` or `cancel --for` began."""

from __future__ import annotations

import time
from typing import Any

import click

from sidecar.automation.selection import Selection
from sidecar.problems import Problem, ProblemError, one_line
from sidecar.service.orders import Order
from sidecar.service.state import holds
from sidecar.store import read_saved

from .common import setting_options, settle
from .console import output, print_json
from .ordering import as_json, carry_out, who
from .status import look


@click.command(short_help="End a hold before its time.")
@setting_options("policy", "state", "listen")
@click.option("--all", "everything", is_flag=True, help="End all holds.")
@click.option("--here", is_flag=True, help="On this host only, though it shares with others.")
@click.option("--json", "as_json_", is_flag=True, help="Print one JSON object.")
@click.argument("ids", metavar="[ID]...", nargs=-1, type=int)
def release(
    *, ids: tuple[int, ...], everything: bool, here: bool, as_json_: bool, **options: Any
) -> None:
    """End the holds with these ids. `tsa-sidecar holds` shows the ids.

    \b
    Exit code: 0 they are ended; 1 nothing was, since one is no hold, or it
    could not be done.
    """
    settings = settle(options, require=()).settings
    file, now_ns = settings.fixed.state, time.time_ns()
    known = [hold.id for hold in holds(read_saved(file)) if hold.until_ns > now_ns]
    wanted = tuple(known) if everything else tuple(dict.fromkeys(ids))
    if not wanted:
        message = "nothing is held" if everything else "give the ids that `tsa-sidecar holds` shows"
        raise ProblemError.one("bad-option", message)
    missing = [
        Problem("error", "no-hold", f"there is no hold {id_}", file=str(file))
        for id_ in wanted
        if id_ not in known
    ]
    if missing:
        raise ProblemError(missing)
    order = Order("release", Selection(ids=wanted), by=who(), here=here)
    carried = carry_out(settings.fixed, order, look(settings.fixed))
    if as_json_:
        print_json(as_json(carried))
        return
    console = output()
    for id_ in carried.answer.released:
        console.print(f"released {id_}")
    for note in carried.notes:
        console.print(one_line(note))
