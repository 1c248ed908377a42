"""``tsa-sidecar hold``: keep a rule from striking, for some time."""

from __future__ import annotations

import time
from typing import Any

import click
import msgspec

from sidecar.automation.selection import Selection
from sidecar.problems import ProblemError, one_line
from sidecar.service.orders import Order, said
from sidecar.store import read_saved
from sidecar.tools.stories import in_force, selected

from .cancel import print_hold
from .common import setting_options, settle
from .console import output, print_json
from .ordering import as_json, carry_out, span, who
from .selecting import filter_options, selection_of
from .status import look


@click.command(short_help="Keep a rule from striking, for some time.")
@setting_options("policy", "state", "listen")
@filter_options
@click.option("--for", "for_", metavar="DURATION", required=True, help="How long: 2h, 30 minutes.")
@click.option("--reason", default="", metavar="TEXT", help="Why, for `holds`.")
@click.option("--here", is_flag=True, help="On this host only, though it shares with others.")
@click.option("--json", "as_json_", is_flag=True, help="Print one JSON object.")
@click.argument("rule", metavar="[RULE]", required=False)
def hold(
    *, rule: str | None, for_: str, reason: str, here: bool, as_json_: bool, **options: Any
) -> None:
    """Keep RULE from striking, or whatever fits all of the filters, for some time.

    RULE is a rule's name, or file:line, where a name still fits when lines
    move. What is held neither strikes nor counts towards a threshold. What is in
    force stays: `tsa-sidecar cancel --for` ends it as well. `tsa-sidecar holds`
    shows what is held, `release` ends it.

    \b
    Exit code: 0 it is held; 1 it is not.
    """
    selection = selection_of(options)
    if rule is not None:
        selection = msgspec.structs.replace(selection, rules=(*selection.rules, rule))
    if not selection:
        raise ProblemError.one("bad-option", "say what: a RULE, or filters such as --domain")
    settings = settle(options, require=()).settings
    order = Order("hold", selection, span(for_, "--for"), by=who(), reason=reason, here=here)
    carried = carry_out(settings.fixed, order, look(settings.fixed))
    if as_json_:
        print_json(as_json(carried))
        return
    console = output()
    console.print(f"on hold: {said(selection)}")
    print_hold(console, carried)
    if left := _in_force(settings.fixed.state, selection):
        console.print(f"{left:,} in force stay so: `tsa-sidecar cancel` with the same filters")
    for note in carried.notes:
        console.print(one_line(note))


def _in_force(state: Any, selection: Selection) -> int:
    return len(selected(in_force(read_saved(state), time.time_ns(), file=str(state)), selection))
