"""``tsa-sidecar replay``: what the rules would have made of some logs."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress as Bar
from rich.table import Table

from sidecar.automation.entries import Kind, Override, ReadyQSuspension, Suspension
from sidecar.problems import one_line
from sidecar.service.replay import Progress, Replay, newest_record
from sidecar.service.replay import replay as run_replay
from sidecar.service.rules import Rules, load_rules
from sidecar.times import format_rfc3339
from sidecar.tools.text import distinct, shown_entry

from .common import moment, report, resolver_for, run_async, setting_options, settle
from .console import output
from .looking_back import Asked, look

_WHAT: dict[Kind, str] = {
    "ready_q": "suspend ready queue",
    "sched_q": "suspend",
    "bounce": "bounce",
}


@click.command(short_help="Show what the rules would have made of these logs.")
@setting_options(
    "policy",
    "shaping",
    "dns_zones",
    "skip_record_types",
    "additional_skip_record_types",
)
@click.option(
    "--at",
    metavar="TIME",
    help="The moment to report on, such as 2026-11-22 15:24. Default: that of the newest record.",
)
@click.option("--timeline", is_flag=True, help="Show what would have been in force when.")
@click.option(
    "--svg",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write that picture into FILE, to send to somebody.",
)
@click.option(
    "--compare",
    metavar="FILE|URL",
    multiple=True,
    help="Compare with these shaping files in place of those in force.",
)
@click.option(
    "--compare-set",
    "changes",
    metavar="RULE:KEY=VALUE",
    multiple=True,
    help="Compare with another trigger or duration of a rule: shaping.toml:12:trigger=10/hr.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.argument("logs", metavar="LOG...", nargs=-1, required=True, type=click.Path(path_type=Path))
def replay(
    *,
    logs: tuple[Path, ...],
    at: str | None,
    timeline: bool,
    svg: Path | None,
    compare: tuple[str, ...],
    changes: tuple[str, ...],
    as_json: bool,
    **options: object,
) -> None:
    """Show what the rules would have made of these logs by TIME. Writes nothing.

    LOG is a segment (zstd, gzip or plain) or a directory of them.

    With --timeline, --svg, --compare or --compare-set each record is decided at its
    own time, as the service would have; LOG may be - for stdin then.
    """
    settings = settle(options, require=("shaping",)).settings
    at_ns = None if at is None else moment(at)
    asked = Asked(compare, changes, timeline, svg)
    if asked:
        if at is not None:
            raise click.UsageError("--at is for the report on one moment: leave it out here.")
        look([str(path) for path in logs], settings, asked, as_json=as_json)
        return

    async def work() -> tuple[Replay, Rules]:
        resolver = resolver_for(settings)
        rules = await load_rules(settings.reloaded, resolver, warnings=settings.warnings)
        with ExitStack() as stack:
            progress = _progress(stack, logs, passes=1 if at_ns is not None else 2)
            now_ns = at_ns
            if now_ns is None:
                now_ns = await newest_record(
                    logs,
                    skip_types=settings.reloaded.skip_record_types,
                    progress=progress,
                )
            result = await run_replay(
                logs,
                rules=rules,
                resolver=resolver,
                now_ns=now_ns,
                progress=progress,
            )
        return result, rules

    result, rules = run_async(work())
    if as_json:
        json.dump(result.document(rules), sys.stdout, indent=1)
        click.echo()
        return
    report([*rules.problems, *result.problems])
    _tables(result)


def _progress(stack: ExitStack, logs: tuple[Path, ...], *, passes: int) -> Progress:
    """A bar on a terminal, by bytes decompressed.  Their total is not known."""
    if not sys.stderr.isatty():
        return lambda _count: None
    bar = stack.enter_context(Bar(console=Console(stderr=True), transient=True))
    task = bar.add_task(f"reading {len(logs)} log(s), {passes} pass(es)", total=None)
    return lambda count: bar.update(task, advance=count)


def _tables(result: Replay) -> None:
    console = output(tables=True)
    counts = result.counts
    console.print(
        f"{counts['read']} lines read, {counts['considered']} records considered, "
        f"{counts['matched']} matched, bad lines: {counts['bad']}, "
        f"bytes lost: {counts['bytes_lost']}; in force "
        f"{f'at {format_rfc3339(result.now_ns)}' if result.now_ns else 'without a record'}:"
    )
    overrides = _table("domain", "mx_rollup", "source", "option", "expires", "reason")
    for effective in result.overrides():
        o = effective.override
        _add(
            overrides,
            effective.section,
            str(o.mx_rollup).lower(),
            o.source,
            f"{o.name} = {json.dumps(o.value, ensure_ascii=False)}",
            format_rfc3339(o.expires_ns),
            o.reason,
        )
    held = _table("what", "queue", "expires", "reason")
    for cells in [cells for kind in _WHAT for cells in _of(result, kind)]:
        _add(held, *cells)
    simulated = _table("simulated", "expires", "reason")
    for entry in result.simulated():
        what = shown_entry(entry).removeprefix("simulated: ")
        _add(simulated, what, format_rfc3339(entry.expires_ns), entry.reason)
    if not overrides.row_count and not held.row_count:
        console.print("nothing")
    for table in (overrides, held, simulated):
        if table.row_count:
            console.print(table)


def _add(table: Table, *cells: str) -> None:
    """Add a row, with escapes: remote servers and senders chose some of the text."""
    table.add_row(*(one_line(cell) for cell in cells))


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _of(result: Replay, kind: Kind) -> list[tuple[str, str, str, str]]:
    entries = [e for e in result.view.entries.of_kind(kind) if not isinstance(e, Override)]
    queues = distinct(entries, map(_queue, entries))
    return [
        (
            _WHAT[entry.kind],
            queue,
            format_rfc3339(entry.expires_ns),
            entry.reason,
        )
        for entry, queue in zip(entries, queues, strict=True)
    ]


def _queue(entry: Suspension) -> str:
    if isinstance(entry, ReadyQSuspension):
        return entry.site
    parts = {"domain": entry.domain, "tenant": entry.tenant, "campaign": entry.campaign}
    return " ".join(f"{n}={v}" for n, v in parts.items() if v is not None)
