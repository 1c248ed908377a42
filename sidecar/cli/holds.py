"""``tsa-sidecar holds``: what operators keep from striking."""

from __future__ import annotations

import textwrap
import time
from typing import Any

import click
import msgspec

from sidecar.automation.holds import RuleHold
from sidecar.problems import one_line
from sidecar.service.state import holds as kept_holds
from sidecar.store import read_saved
from sidecar.times import format_rfc3339
from sidecar.tools.text import rough_duration

from .common import setting_options, settle
from .console import line, output, print_json
from .selecting import say_if_down, terminal_width
from .status import look


@click.command(short_help="Show what is kept from striking, until when, by whom and why.")
@setting_options("policy", "state", "listen")
@click.option("--json", "as_json_", is_flag=True, help="Print one JSON object.")
def holds(*, as_json_: bool, **options: Any) -> None:
    """Show what `hold` and `cancel --for` keep from striking, and how long yet.

    \b
    Exit code: 0.
    """
    settings = settle(options, require=()).settings
    seen, now_ns = look(settings.fixed), time.time_ns()
    found = [
        hold for hold in kept_holds(read_saved(settings.fixed.state)) if hold.until_ns > now_ns
    ]
    found.sort(key=lambda hold: hold.until_ns)
    if as_json_:
        print_json({"running": seen.running, "holds": [_as_json(hold) for hold in found]})
        return
    console = output()
    say_if_down(console, seen)
    if not found:
        console.print("nothing is held")
        return
    lefts = [rough_duration(hold.until_ns - now_ns) for hold in found]
    sizes = (max(2, *(len(str(h.id)) for h in found)), max(4, *map(len, lefts)))
    console.print(line((f"{'ID':>{sizes[0]}}  {'LEFT':<{sizes[1]}}  WHAT", "bold")))
    indent = sum(sizes) + 4
    for hold, left in zip(found, lefts, strict=True):
        reason = f": {hold.reason}" if hold.reason else ""
        texts = [
            (text, style)
            for told, style in ((hold.about, ""), (f"by {hold.by}{reason}", "dim"))
            for text in textwrap.wrap(
                one_line(told), max(terminal_width() - indent, 12), break_on_hyphens=False
            )
        ]
        for number, (text, style) in enumerate(texts):
            head = f"{hold.id:>{sizes[0]}}  {left:<{sizes[1]}}  " if number == 0 else " " * indent
            console.print(line(head, (text, style)))


def _as_json(hold: RuleHold) -> dict[str, Any]:
    return {
        "id": hold.id,
        "what": hold.about,
        "selection": msgspec.to_builtins(hold.selection),
        "made": format_rfc3339(hold.made_ns),
        "until": format_rfc3339(hold.until_ns),
        "by": hold.by,
        "reason": hold.reason or None,
    }
