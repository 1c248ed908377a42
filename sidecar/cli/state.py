"""``tsa-sidecar state``: backup, moving to another host, taking over from kumo-tsa-daemon."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from sidecar.problems import Problem, ProblemError
from sidecar.service.rules import Rules, load_rules
from sidecar.service.takeover import load, next_seq, put_in_place, take_over
from sidecar.settings import Settings
from sidecar.shaping.mx import OfflineResolver
from sidecar.shaping.options import check_option
from sidecar.store import Store, read_saved
from sidecar.store.transfer import export_state, import_state
from sidecar.store.tsa_daemon import read_tsa_daemon
from sidecar.tools.text import counted

from .common import Commands, read_text, report, run_async, setting_options, settle


@click.group(cls=Commands, short_help="Back up or move the state, or take over a daemon's.")
def state() -> None:
    """Back up the state file, move it to another host, or take over a kumo-tsa-daemon's."""


@state.command()
@setting_options("policy", "state")
def export(**options: object) -> None:
    """Print the state as JSON.

    The service may be running: what it has committed so far is printed.
    """
    settings = settle(options, require=()).settings
    document = export_state(read_saved(settings.fixed.state))
    click.echo(json.dumps(document, indent=1, ensure_ascii=True))


@state.command("import", short_help="Take over an exported state, or a kumo-tsa-daemon's.")
@setting_options("policy", "shaping", "merge_options", "state", "from")
@click.option(
    "--from-tsa-daemon",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Add what a kumo-tsa-daemon knew: its database's name with .state behind it.",
)
@click.option("--replace", is_flag=True, help="Put the import in the place of the state there is.")
@click.argument("file", required=False, type=click.Path(path_type=Path), metavar="FILE")
def import_(
    file: Path | None, from_tsa_daemon: Path | None, replace: bool, **options: object
) -> None:
    """Take over FILE, which `state export` made, or the state of a kumo-tsa-daemon.

    The service must not be running.  What is unknown or damaged is listed and
    left out.

    \b
    Exit code: 0 it was imported, perhaps with some left out; 1 nothing was.
    """
    if (file is None) == (from_tsa_daemon is None):
        raise ProblemError.one(
            "bad-option", "give the FILE that `state export` made, or --from-tsa-daemon FILE"
        )
    settings = settle(options, require=()).settings
    if file is not None:
        _import_ours(file, settings, replace=replace)
    elif from_tsa_daemon is not None:
        _import_daemons(from_tsa_daemon, settings)


def _import_ours(file: Path, settings: Settings, *, replace: bool) -> None:
    try:
        document = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise ProblemError.one("state-foreign", f"is no JSON: {error}", file=str(file)) from None
    saved, problems = import_state(document, file=str(file))
    with Store.open(settings.fixed.state) as store:
        put_in_place(store, saved, replace=replace, file=str(settings.fixed.state))
    report(problems)
    click.echo(
        f"{settings.fixed.state}: {len(saved.entries)} entries and "
        f"{counted(len(saved.checkpoints), 'segment')} taken over; {len(problems)} left out"
    )


def _import_daemons(file: Path, settings: Settings) -> None:
    data = file.read_bytes()
    rules = _rules(settings)
    with Store.open(settings.fixed.state) as store:
        daemon = read_tsa_daemon(
            data,
            time.time_ns(),
            file=str(file),
            first_seq=next_seq(load(store)),
            check_option=check_option,
        )
        if daemon.problems and not (daemon.entries or daemon.histories or daemon.expired):
            report(daemon.problems)
            raise ProblemError.one(
                "state-foreign", "holds nothing of a kumo-tsa-daemon's state", file=str(file)
            )
        taken = take_over(
            store,
            daemon,
            rules=() if rules is None else rules.shaping.all_rules(),
            from_end=settings.fixed.start == "end",
            file=str(file),
        )
    problems = [*daemon.problems, *taken.problems]
    report(problems)
    if daemon.unlisted:
        report([Problem("warning", "more", f"{daemon.unlisted} more not listed", file=str(file))])
    click.echo(
        f"{settings.fixed.state}: {taken.entries} entries and "
        f"{counted(taken.counted_seconds, 'second')} of thresholds taken over; "
        f"{daemon.expired} entries had expired, "
        f"{len(problems) + daemon.unlisted} left out"
    )


def _rules(settings: Settings) -> Rules | None:
    """The rules that the histories of thresholds belong to; None where none are named."""
    if not settings.reloaded.shaping:
        return None
    return run_async(load_rules(settings.reloaded, OfflineResolver()))
