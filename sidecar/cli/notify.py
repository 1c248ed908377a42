"""``tsa-sidecar notify``: who is told, what waits for them, and a test of them."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from sidecar.notify.event import Event
from sidecar.notify.file import load_targets
from sidecar.notify.message import Group, Message, seal
from sidecar.notify.outbox import restore
from sidecar.notify.program import NotSent
from sidecar.notify.sending import send
from sidecar.notify.targets import Target, Targets
from sidecar.problems import Problem, ProblemError, one_line
from sidecar.service.notify import queue_document
from sidecar.settings import did_you_mean, setting
from sidecar.store import read_saved
from sidecar.times import NS, parse_rfc3339
from sidecar.tools.text import counted, shown_duration

from .common import run_async, setting_options, settle
from .console import STYLES, line, output, print_json


@click.command(short_help="Show who is told, and what waits for them; or test it.")
@setting_options("policy", "notify", "state")
@click.option("--test", is_flag=True, help="Send each target a message, and say whether it came.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.argument("names", metavar="[TARGET]...", nargs=-1)
@click.pass_context
def notify(
    context: click.Context,
    /,
    test: bool,
    as_json: bool,
    names: tuple[str, ...],
    **options: object,
) -> None:
    """Show who is told when an entry begins and ends, and what waits for them.

    Names targets of the file that --notify names; without a name all of them are
    shown, or tested. A test needs no service. Run it as the service's user, so that
    files and programs are those that the service can use.

    \b
    Exit code: 0; 1 a target did not take the test, or the file can't be used.
    """
    settings = settle(options, require=()).settings.fixed
    if settings.notify is None:
        row = setting("notify")
        message = f"nobody is told anything: name the file of targets with {row.option}"
        raise ProblemError.one("no-notify", f"{message} or {row.variable}")
    targets = _named(load_targets(settings.notify, os.environ), names, file=settings.notify)
    found = run_async(_tested(targets)) if test else _waiting(targets, settings.state)
    if as_json:
        print_json({"targets": found})
    elif test:
        _show_tests(output(), found)
    else:
        _show(output(), found)
    if test and not all(one["sent"] for one in found.values()):
        context.exit(1)


def _named(targets: Targets, names: Sequence[str], *, file: Path) -> list[Target]:
    """The targets with these names, or all; ProblemError for names that there are not."""
    unknown = [
        Problem(
            "error",
            "no-target",
            f'there is no target "{name}"{did_you_mean(name, targets.by_name)}',
            file=str(file),
        )
        for name in targets.unknown(names)
    ]
    if unknown:
        raise ProblemError(unknown)
    return [targets.by_name[name] for name in names or targets.by_name]


async def _tested(targets: Sequence[Target]) -> dict[str, dict[str, Any]]:
    """Whether each has taken a test message, and why not."""
    results = await asyncio.gather(*(_test(target) for target in targets))
    return {
        target.name: {
            "kind": target.kind,
            "place": target.place,
            "sent": reason is None,
            "error": reason,
        }
        for target, reason in zip(targets, results, strict=True)
    }


async def _test(target: Target) -> str | None:
    try:
        await send(target, _test_message(target))
    except NotSent as reason:
        return str(reason)
    return None


def _test_message(target: Target) -> Message:
    now_ns, host = time.time_ns(), socket.gethostname()
    what = "a test by `tsa-sidecar notify --test`: nothing has happened"
    event = Event(f"test.{now_ns}.began", "began", now_ns, "service", "test", what)
    group = Group(now_ns, now_ns, last=0).with_event(event, listed=True)
    return seal(group, [event], host=host, target=target.name)


def _waiting(targets: Sequence[Target], state: Path) -> dict[str, dict[str, Any]]:
    outbox, _, _ = restore(read_saved(state).outbox)
    return {
        target.name: {
            "kind": target.kind,
            "place": target.place,
            "default": target.default,
            **queue_document(outbox[target.name]),
        }
        for target in targets
    }


def _show_tests(console: Console, found: Mapping[str, Mapping[str, Any]]) -> None:
    for name, one in found.items():
        verdict = ("sent", "green") if one["sent"] else ("not sent", STYLES["error"])
        console.print(line(f"{name}: ", verdict, f" ({one['kind']} {one_line(one['place'])})"))
        if one["error"]:
            console.print(f"    {one_line(one['error'])}")


def _show(console: Console, found: Mapping[str, Mapping[str, Any]]) -> None:
    if not found:
        console.print("there are no targets")
    for name, one in found.items():
        default = ", default" if one["default"] else ""
        place = one_line(f"{one['kind']} {one['place']}{default}")
        console.print(line((name, "bold"), f": {place}"))
        waiting = f"waiting: {counted(one['waiting'], 'event')}"
        if one["oldest"]:
            waiting += f", the oldest for {_ago(one['oldest'])}"
        console.print(f"    {waiting}")
        sent = f"last sent {_ago(one['last_sent'])} ago" if one["last_sent"] else "none sent yet"
        console.print(f"    {sent}; {one['sent']} sent, {counted(one['failed'], 'failure')}")
        if one["dropped"]:
            dropped = f"{counted(one['dropped'], 'event')} never told: too old"
            console.print(line("    ", (dropped, STYLES["warning"])))
        if one["failing_since"]:
            failing = f"failing for {_ago(one['failing_since'])}"
            console.print(line("    ", (failing, STYLES["error"])))
        if one["last_error"]:
            console.print(f"    last error: {one_line(one['last_error'])}")


def _ago(moment: str) -> str:
    """How long it is since `moment`, to the second."""
    return shown_duration(max(0, time.time_ns() - parse_rfc3339(moment)) // NS * NS)
