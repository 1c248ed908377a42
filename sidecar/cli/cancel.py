"""``tsa-sidecar cancel``: take back an entry in force."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from sidecar.automation.entries import Entry, from_payload
from sidecar.problems import Problem, ProblemError, one_line
from sidecar.service.cancel import ask
from sidecar.service.own_files import read_regular
from sidecar.service.status import status_path
from sidecar.service.takeover import drop_entries
from sidecar.settings import Settings
from sidecar.store import Store, read_saved
from sidecar.tools.text import shown_entry

from .common import setting_options, settle

_SECONDS = 10.0


@click.command(short_help="Take back entries that are in force.")
@setting_options("policy", "state")
@click.argument("numbers", metavar="NUMBER...", nargs=-1, required=True, type=int)
def cancel(numbers: tuple[int, ...], **options: object) -> None:
    """Take back the entries with these numbers. `tsa-sidecar status` shows the numbers.

    The overlay and kumod's admin API follow at once. A kumod that subscribes
    keeps a suspension until it expires; `kcli` can end it there. The next
    match of the rule makes a new entry.

    \b
    Exit code: 0 they are taken back; 1 one is not in force, or it could not
    be done.
    """
    settings = settle(options, require=()).settings
    entries = _named(settings, tuple(dict.fromkeys(numbers)))
    _take_back(settings.fixed.state, [entry.key for entry in entries])
    for entry in entries:
        click.echo(f"taken back: {one_line(shown_entry(entry))}")


def _named(settings: Settings, numbers: tuple[int, ...]) -> list[Entry]:
    """The entries with these numbers, each given once; ProblemError for those not in force."""
    by_number = {}
    for row in read_saved(settings.fixed.state).entries.values():
        if row.seq in numbers and row.expires_ns > time.time_ns():
            by_number[row.seq] = from_payload(row.kind, row.payload)
    unknown = [
        Problem(
            "error", "no-entry", f"no entry {number} is in force", file=str(settings.fixed.state)
        )
        for number in numbers
        if number not in by_number
    ]
    if unknown:
        raise ProblemError(unknown)
    return [by_number[number] for number in numbers]


def _take_back(state: Path, keys: list[str]) -> None:
    """By the service where it runs, else here; ProblemError where it is not done."""
    try:
        with Store.open(state) as store:
            drop_entries(store, keys)
        return
    except ProblemError as error:
        if error.problems[0].code != "state-in-use":
            raise
    request = ask(state, keys)
    deadline = time.monotonic() + _SECONDS
    while request.is_waiting():
        if time.monotonic() > deadline:
            raise _waits(state)
        time.sleep(0.05)
    if (reason := request.failure()) is not None:
        raise ProblemError.one("cancel-failed", f"not taken back: {reason}", file=str(request.path))


def _waits(state: Path) -> ProblemError:
    """That the service has not done it, and what it says is wrong."""
    message = f"asked for, but the service has not done it within {_SECONDS:g} s"
    try:
        errors = json.loads(read_regular(status_path(state)))["errors"]
    except (OSError, ValueError, LookupError, TypeError):
        errors = []
    said = "; ".join(str(text) for text in errors) or "`tsa-sidecar status` says how it is"
    return ProblemError.one("cancel-waits", f"{message}: {said}", file=str(state))
