"""Who is in the group, for ``status --hosts``.

In: the service's document.  Out: a table of 80 columns, a line for each host.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from rich.text import Text

from sidecar.problems import one_line
from sidecar.times import NS
from sidecar.tools.text import counted, rough_duration

from .console import STYLES, line
from .health import shown_time

_SILENT: Final = 20.0
"""A host that has said nothing of itself for so many seconds is shown as silent."""
_WIDTHS: Final = (26, 12, 16, 16)


def describe_hosts(document: Mapping[str, Any] | None, *, running: bool) -> Iterator[Text | str]:
    """The group's hosts, this one marked."""
    if document is None:
        yield "the service does not run, and has not run yet: it knows of no group"
        return
    share = document.get("share")
    if not isinstance(share, dict):
        yield "this sidecar shares with nobody: --share names the group's engine"
        return
    name, host = one_line(str(share.get("group"))), one_line(str(share.get("host")))
    state = "connected" if share.get("connected") else "not connected"
    said = f'group "{name}", this is {host}'
    if running:
        yield f"{said}: {state} since {shown_time(share, 'since')}"
    else:
        last = shown_time(document, "at")
        yield line(f"{said}: ", ("not running", STYLES["error"]), f", as of {last}")
    if running and share.get("problem"):
        yield line(("error", STYLES["error"]), f": {one_line(str(share['problem']))}")
    yield line((_row("HOST", "VERSION", "BEHIND", "LAST HEARD", "RULES"), "bold"))
    for seen in share.get("hosts", ()):
        yield line(_row(*_cells(seen)))


def _row(*cells: str) -> str:
    shown = []
    for cell, width in zip(cells, (*_WIDTHS, 10), strict=True):
        short = cell if len(cell) <= width - 1 else cell[: width - 2] + "…"
        shown.append(f"{short:<{width}}")
    return "".join(shown).rstrip()


def _cells(seen: Mapping[str, Any]) -> Iterator[str]:
    yield one_line(str(seen.get("host"))) + (" *" if seen.get("own") else "")
    yield one_line(str(seen.get("version")))
    unread = int(seen.get("unread") or 0)
    yield counted(unread, "line") if unread else "no"
    silent = float(seen.get("silent_seconds") or 0)
    ago = f"{rough_duration(int(silent) * NS)} ago"
    yield f"silent {ago}"[:15] if silent >= _SILENT else "now"
    yield "same" if seen.get("same_rules") else "other"
