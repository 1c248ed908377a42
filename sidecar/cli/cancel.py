"""``tsa-sidecar cancel``: take back an entry in force."""

from __future__ import annotations

import time

import click

from sidecar.automation.entries import Entry, from_payload
from sidecar.problems import Problem, ProblemError, one_line
from sidecar.service.cancel import ask
from sidecar.service.takeover import drop_entries
from sidecar.settings import Settings
from sidecar.store import Store, read_saved
from sidecar.tools.text import shown_entry

from .common import setting_options, settle

_SECONDS = 10.0


@click.command()
@setting_options("policy", "state")
@click.argument("numbers", metavar="NUMBER...", nargs=-1, required=True, type=int)
def cancel(numbers: tuple[int, ...], **options: object) -> None:
    """Take back the entries with these numbers, as `tsa-sidecar status` shows them.

    The overlay and kumod's admin API follow at once; a kumod that subscribes
    keeps a suspension that it was told until it expires (`kcli` can end it
    there).  The next match of the rule makes a new entry.

    \b
    Exit code: 0 they are taken back; 1 one is not in force, or it could not be done.
    """
    settings = settle(options, require=()).settings
    entries = _named(settings, tuple(dict.fromkeys(numbers)))
    if not _take_back(settings, [entry.key for entry in entries]):
        raise ProblemError.one(
            "cancel-waits",
            f"asked for, but the service has not done it within {_SECONDS:g} s; it will, "
            "unless it hangs (`tsa-sidecar status`)",
            file=str(settings.fixed.state),
        )
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


def _take_back(settings: Settings, keys: list[str]) -> bool:
    """By the service where it runs; False when it doesn't get round to it."""
    try:
        with Store.open(settings.fixed.state) as store:
            drop_entries(store, keys)
        return True
    except ProblemError as error:
        if error.problems[0].code != "state-in-use":
            raise
    request = ask(settings.fixed.state, keys)
    deadline = time.monotonic() + _SECONDS
    while request.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
