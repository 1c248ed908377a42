"""``tsa-sidecar status``: what is in force and why, and how the service is."""

from __future__ import annotations

import asyncio
import heapq
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from sidecar.automation.entries import Entry, Override, from_payload
from sidecar.automation.overlay import RESERVED
from sidecar.problems import ProblemError, one_line
from sidecar.publish.http import STATUS_PATH
from sidecar.service.own_files import read_regular
from sidecar.service.status import status_path
from sidecar.settings import Address, Fixed
from sidecar.store import is_locked, lock_path, read_saved
from sidecar.times import NS, format_rfc3339, parse_rfc3339
from sidecar.tools.text import distinct, shown_duration, shown_entry

from .common import setting_options, settle
from .console import STYLES, line, output, print_json

_SECONDS = 2.0
_STALE_SECONDS = 10.0
"""A service whose heartbeat is older hangs, or is stopped."""

_SHOWN = 100
"""How many entries are shown to people."""

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Seen:
    """What can be seen of the service: its own document, whether it runs, what is wrong."""

    document: Document | None
    running: bool
    troubles: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 it runs and nothing is wrong, 1 something is, 3 it doesn't run."""
        if not self.running:
            return 3
        return 1 if self.troubles else 0


@click.command(short_help="Show what is in force, how far the log is read, what is wrong.")
@setting_options("policy", "state", "listen")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def status(context: click.Context, /, as_json: bool, **options: object) -> None:
    """Show what is in force and why, how far the log is read, and what is wrong.

    Reads the state file and the document that the service keeps beside it,
    whose time is the service's heartbeat; asks its listener where that is old.

    \b
    Exit code: 0 the service runs and nothing is wrong; 1 something is wrong,
    and it says what; 3 the service doesn't run.
    """
    settings = settle(options, require=()).settings
    seen = look(settings.fixed)
    entries, more = _entries(settings.fixed.state, most=None if as_json else _SHOWN)
    if as_json:
        print_json(
            {
                "running": seen.running,
                "troubles": list(seen.troubles),
                "service": seen.document,
                "entries": [_as_json(e) for e in entries],
            }
        )
    else:
        console = output()
        _show_service(console, seen)
        _show_entries(console, entries)
        if more:
            console.print(f"and {more:,} more, matched earlier: status --json has them all")
    context.exit(seen.exit_code)


def look(settings: Fixed) -> Seen:
    """The service that holds the state file, by its lock and its heartbeat."""
    state = Path(os.path.realpath(settings.state))
    document, age = _in_file(status_path(state))
    locked = is_locked(lock_path(state))
    if locked is None:  # another user's: the heartbeat alone tells
        locked = age is not None and abs(age) <= _STALE_SECONDS
    if not locked:
        return Seen(document, running=False)
    if document is not None and document["state"] == "starting":
        return Seen(document, True, ("it is starting: its rules are not loaded yet",))
    if document is not None and age is not None and abs(age) <= _STALE_SECONDS:
        return Seen(document, running=True, troubles=_errors(document))
    asked = None if settings.listen is None else _asked(settings.listen)
    if asked is not None:
        return Seen(asked, running=True, troubles=_errors(asked))
    since = "" if age is None else f" for {shown_duration(int(age) * NS)}"
    silent = f"it holds the state file, but has not been heard of{since}: is it stopped, or stuck?"
    return Seen(document, running=True, troubles=(silent, *_errors(document or {})))


def verdicts(seen: Seen) -> Mapping[str, Mapping[str, str]]:
    """Whether kumod does what was published, as far as the service says: by entry's key."""
    kumod = (seen.document or {}).get("kumod")
    found = kumod.get("verdicts") if isinstance(kumod, dict) else None
    if not seen.running or not isinstance(found, dict):
        return {}
    return {key: verdict for key, verdict in found.items() if isinstance(verdict, dict)}


def _errors(document: Document) -> tuple[str, ...]:
    errors = document.get("errors")
    return tuple(str(text) for text in errors) if isinstance(errors, list) else ()


def _in_file(file: Path) -> tuple[Document | None, float | None]:
    """The document in the service's file, and the seconds since its last heartbeat."""
    try:
        return _document(read_regular(file)), time.time() - file.lstat().st_mtime
    except OSError:
        return None, None


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


def _entries(state: Path, *, most: int | None) -> tuple[list[Entry], int]:
    """What is in force, the latest to expire last; at most the `most` that were matched last.

    And how many more are in force.
    """
    now_ns = time.time_ns()
    rows = [row for row in read_saved(state).entries.values() if row.expires_ns > now_ns]
    shown = rows if most is None else heapq.nlargest(most, rows, key=lambda row: row.seq)
    found = []
    for row in shown:
        try:
            found.append(from_payload(row.kind, row.payload))
        except ValueError as error:
            raise ProblemError.one("state-entry", f"{row.key}: {error}", file=str(state)) from None
    found = [e.at(now_ns) if isinstance(e, Override) else e for e in found]
    found.sort(key=lambda entry: (entry.expires_ns, entry.key))
    return found, len(rows) - len(found)


def _as_json(entry: Entry) -> Document:
    return {
        "number": entry.seq,
        "kind": entry.kind,
        "what": shown_entry(entry),
        "site": entry.site,
        "expires": format_rfc3339(entry.expires_ns),
        "reason": entry.reason,
        "key": entry.key,
        "left_out": _is_left_out(entry),
        "simulated": entry.simulated,
    }


def _show_service(console: Console, seen: Seen) -> None:
    service = seen.document
    if service is None and not seen.running:
        console.print(line(("not running", STYLES["error"]), ", as far as can be seen"))
        return
    if not seen.running:
        console.print(
            line(("not running", STYLES["error"]), f"; last seen {_time(service or {}, 'at')}")
        )
    elif service is not None:
        console.print(f"running since {_time(service, 'started')}, process {service.get('pid')}")
    for text in seen.troubles if seen.running else _errors(service or {}):
        console.print(line(("error", STYLES["error"]), f": {one_line(text)}"))
    if service is not None:
        _show_document(console, service)


def _show_document(console: Console, service: Document) -> None:
    counters = service.get("counters", {})
    console.print(
        f"log: newest record {_time(service, 'newest_record')}, "
        f"{service.get('segments_waiting')} segments open or waiting, "
        f"{service.get('bytes_waiting')} bytes behind"
    )
    if service.get("records_waiting"):
        console.print(
            f"waiting for the MX of their domain: {service['records_waiting']} records, "
            f"{service.get('dns_look_ups')} look-ups"
        )
    console.print("counted: " + ", ".join(f"{one_line(n)} {v}" for n, v in counters.items()))
    console.print(f"rules: {service.get('rules')} from {_list(service.get('files', ()))}")
    for text in service.get("warnings", ()):
        console.print(line(("warning", STYLES["warning"]), f": {one_line(str(text))}"))
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
    texts = distinct(entries, map(shown_entry, entries))
    for entry, text in zip(entries, texts, strict=True):
        left = shown_duration(max(entry.expires_ns // NS * NS - now_ns, 0))
        shown = [f"{left:>16}  #{entry.seq}  {one_line(text)}"]
        if _is_left_out(entry):
            shown.append(", left out of the overlay since the name is reserved")
        console.print(line("".join(shown), (f"  {one_line(entry.reason)}", "dim")))


def _is_left_out(entry: Entry) -> bool:
    """Whether the overlay leaves it out: a section of that name would govern everything."""
    return isinstance(entry, Override) and entry.domain in RESERVED
