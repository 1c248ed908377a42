"""``tsa-sidecar status``: what is in force and why, and how the service is."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from sidecar.automation.entries import Entry, from_payload
from sidecar.problems import ProblemError, one_line
from sidecar.publish.http import STATUS_PATH
from sidecar.settings import Address, Settings
from sidecar.store import read_saved
from sidecar.times import NS, format_rfc3339, parse_rfc3339
from sidecar.tools.text import shown_duration, shown_entry

from .common import setting_options, settle
from .console import STYLES, line, output, print_json

_SECONDS = 2.0

Document = Mapping[str, Any]


@click.command()
@setting_options("policy", "state", "listen")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def status(context: click.Context, /, as_json: bool, **options: object) -> None:
    """Show what is in force and why, how far the log is read, and what is wrong.

    Reads the state file, without locking it, and asks the service; where that
    has no listener, the document that it keeps beside the state file tells.

    \b
    Exit code: 0 the service runs and nothing is wrong; 1 the state can't be
    read; 3 the service doesn't run, or something is wrong.
    """
    settings = settle(options, require=()).settings
    service = _service(settings)
    entries = _entries(settings.fixed.state)
    running = _runs(service)
    if as_json:
        print_json(
            {"running": running, "service": service, "entries": [_as_json(e) for e in entries]}
        )
    else:
        console = output()
        _show_service(console, service, running=running)
        _show_entries(console, entries)
    context.exit(0 if running and not (service or {}).get("errors") else 3)


def _service(settings: Settings) -> Document | None:
    """The service's own document: from its listener, or else from its file."""
    document = None if settings.fixed.listen is None else _asked(settings.fixed.listen)
    if document is not None:
        return document
    file = settings.fixed.state.with_name(settings.fixed.state.name + ".status.json")
    try:
        return _document(file.read_bytes())
    except OSError:
        return None


def _asked(address: Address) -> Document | None:
    from sidecar.http_client import Unreachable, get  # noqa: PLC0415 - 30 ms

    host = "127.0.0.1" if address.host in ("0.0.0.0", "::") else address.host  # noqa: S104
    url = f"http://{Address(host, address.port)}{STATUS_PATH}"
    try:
        answer = asyncio.run(get(url, seconds=_SECONDS, largest=1 << 24))
    except Unreachable:
        return None
    return _document(answer.body) if answer.status == 200 else None


def _document(data: bytes) -> Document | None:
    """A status document; None where it is none (another program's answer, a cut file)."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) and "state" in document else None


def _runs(service: Document | None) -> bool:
    if service is None or service["state"] == "stopped" or not isinstance(service["pid"], int):
        return False
    try:
        os.kill(service["pid"], 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass  # another user's
    return True


def _entries(state: Path) -> list[Entry]:
    """What is in force now, the latest to expire last."""
    found = []
    for row in read_saved(state).entries.values():
        try:
            entry = from_payload(row.kind, row.payload)
        except ValueError as error:
            raise ProblemError.one("state-entry", f"{row.key}: {error}", file=str(state)) from None
        if entry.expires_ns > time.time_ns():
            found.append(entry)
    return sorted(found, key=lambda entry: (entry.expires_ns, entry.key))


def _as_json(entry: Entry) -> Document:
    return {
        "number": entry.seq,
        "kind": entry.kind,
        "what": shown_entry(entry),
        "site": entry.site,
        "expires": format_rfc3339(entry.expires_ns),
        "reason": entry.reason,
        "key": entry.key,
    }


def _show_service(console: Console, service: Document | None, *, running: bool) -> None:
    if service is None:
        console.print(line(("not running", STYLES["error"]), ", as far as can be seen"))
        return
    if running:
        console.print(f"running since {_time(service, 'started')}, process {service['pid']}")
    else:
        console.print(line(("not running", STYLES["error"]), f"; last seen {_time(service, 'at')}"))
    counters = service.get("counters", {})
    console.print(
        f"log: newest record {_time(service, 'newest_record')}, "
        f"{service.get('segments_waiting')} segments open or waiting, "
        f"{service.get('bytes_waiting')} bytes behind"
    )
    console.print("counted: " + ", ".join(f"{one_line(n)} {v}" for n, v in counters.items()))
    console.print(f"rules: {service.get('rules')} from {_list(service.get('files', ()))}")
    for level in ("error", "warning"):
        for text in service.get(f"{level}s", ()):
            console.print(line((level, STYLES[level]), f": {one_line(str(text))}"))
    lost = service.get("segments_lost")
    if lost:
        console.print(line(("lost unread", STYLES["warning"]), f": {_list(lost)}"))
    if service.get("clock_behind_seconds"):
        seconds = service["clock_behind_seconds"]
        console.print(f"the clock leapt: expiry is {seconds} s behind it, and catching up")


def _time(service: Document, name: str) -> str:
    """A moment of the document to the second."""
    try:
        return format_rfc3339(parse_rfc3339(str(service.get(name))) // NS * NS)
    except ValueError:
        return "none"


def _list(names: Iterable[object]) -> str:
    return ", ".join(one_line(str(name)) for name in names)


def _show_entries(console: Console, entries: list[Entry]) -> None:
    console.print()
    if not entries:
        console.print("nothing is in force")
        return
    now_ns = time.time_ns() // NS * NS
    console.print(line(("in force for another", "bold")))
    for entry in entries:
        left = shown_duration(max(entry.expires_ns // NS * NS - now_ns, 0))
        text = f"{left:>16}  #{entry.seq}  {one_line(shown_entry(entry))}"
        console.print(line(text, (f"  {one_line(entry.reason)}", "dim")))
