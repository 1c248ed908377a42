"""``tsa-sidecar status``: how the service is, on one screen or for a monitoring plugin."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from sidecar.publish.http import STATUS_PATH
from sidecar.service.own_files import read_regular
from sidecar.service.status import status_path
from sidecar.settings import Address, Fixed
from sidecar.shaping.specs import parse_duration
from sidecar.store import is_locked, lock_path, read_saved
from sidecar.times import NS
from sidecar.tools.stories import Story, as_json
from sidecar.tools.stories import in_force as stories_in_force
from sidecar.tools.text import shown_duration

from .common import setting_options, settle
from .console import output, print_json
from .health import Limits, check, describe
from .hosts import describe_hosts

_SECONDS = 2.0
_UNWRAPPED = 1_000_000
_STALE_SECONDS = 10.0
"""A service whose heartbeat is older hangs, or is stopped."""

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


class _Limits(click.ParamType[Limits]):
    name = "WARNING[,CRITICAL]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: Any) -> Limits:
        """Numbers, or durations, or sizes: two at most."""
        try:
            warning, _, critical = str(value).partition(",")
            return Limits(_amount(warning), _amount(critical) if critical else None)
        except ValueError as error:
            self.fail(f"{error}: give numbers, durations (10m) or sizes (5MB)", param, ctx)


def _amount(text: str) -> int:
    """A number, a duration in seconds, or a size in bytes."""
    text = text.strip()
    found = re.fullmatch(r"([0-9]{1,18}) ?([kMG]?)B?", text)
    if found is not None:
        return int(found[1]) * {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}[found[2]]
    return parse_duration(text) // NS


LIMITS = _Limits()


@click.command(short_help="Show how the service is, and what is wrong.")
@setting_options("policy", "state", "listen")
@click.option("--check", "as_plugin", is_flag=True, help="Answer as a monitoring plugin does.")
@click.option(
    "--age",
    type=LIMITS,
    help="With --check: WARNING, or WARNING,CRITICAL from this age of the newest record on.",
)
@click.option("--behind", type=LIMITS, help="The same of the bytes that are still to be read.")
@click.option("--in-force", type=LIMITS, help="The same of the number of entries in force.")
@click.option("--hosts", "hosts", is_flag=True, help="Show who is in the group (--share).")
@click.option("--json", "as_json_", is_flag=True, help="Print one JSON object.")
@click.pass_context
def status(
    context: click.Context,
    /,
    *,
    as_plugin: bool,
    hosts: bool,
    age: Limits | None,
    behind: Limits | None,
    in_force: Limits | None,
    as_json_: bool,
    **options: object,
) -> None:
    """Show on one screen whether the service runs, what is wrong, and what it does.

    Reads the state file and the document that the service keeps beside it,
    whose time is the service's heartbeat; asks its listener where that is old.

    \b
    Exit code: 0 the service runs and nothing is wrong; 1 something is wrong,
    and it says what; 3 the service doesn't run. With --check: 0 OK,
    1 WARNING, 2 CRITICAL, 3 UNKNOWN.
    """
    settings = settle(options, require=()).settings
    given = {"age": age, "behind": behind, "in_force": in_force}
    limits = {name: one for name, one in given.items() if one is not None}
    if limits and not as_plugin:
        raise click.UsageError("--age, --behind and --in-force go with --check.")
    seen, now_ns, file = look(settings.fixed), time.time_ns(), settings.fixed.state
    running, troubles = seen.running, seen.troubles
    if as_plugin:
        code, text = check(
            seen.document, running=running, troubles=troubles, now_ns=now_ns, limits=limits
        )
        click.echo(text)
        context.exit(code)
    if hosts and not as_json_:
        for part in describe_hosts(seen.document, running=seen.running):
            output().print(part)
        context.exit(seen.exit_code)
    stories = stories_in_force(read_saved(file), now_ns, file=str(file))
    if as_json_:
        known = verdicts(seen)
        print_json(
            {
                "running": seen.running,
                "troubles": list(seen.troubles),
                "service": seen.document,
                "entries": [as_json(story, known.get(story.entry.key)) for story in stories],
            }
        )
    else:
        console = output()
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _UNWRAPPED
        for said in describe(
            seen.document, running=running, troubles=troubles, stories=stories, now_ns=now_ns
        ):
            for part in Text.assemble(said).wrap(console, width):
                console.print(part)
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


def is_aside(story: Story, seen: Seen) -> bool:
    """Whether the overlay leaves it out: the option of an egress source that other hosts have."""
    share = (seen.document or {}).get("share")
    left_out = share.get("left_out") if isinstance(share, dict) else None
    return isinstance(left_out, list) and story.entry.key in left_out


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
