"""``tsa-sidecar replay``: what the rules would have made of some logs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from sidecar.automation.entries import Entry
from sidecar.problems import Problem, ProblemError, one_line
from sidecar.service.rules import Rules
from sidecar.settings import Settings
from sidecar.shaping.mx import Resolver
from sidecar.times import format_rfc3339
from sidecar.tools.changed_rules import Change
from sidecar.tools.hindsight import Hindsight, Read, Told, look_back
from sidecar.tools.loading import rules_for_a_tool
from sidecar.tools.replay import Standing, episode_document, read_document
from sidecar.tools.text import distinct, shown_entry

from .common import moment, report, resolver_for, run_async, setting_options, settle
from .console import line, output, print_json
from .looking_back import comparison, comparison_document, summary, svg_of, timeline_of
from .reading import no_logs, read_shown
from .selecting import terminal_width, wrapped


@click.command(short_help="Show what the rules would have made of these logs.")
@setting_options(
    "policy",
    "shaping",
    "merge_options",
    "dns_zones",
    "nameservers",
    "skip_record_types",
    "additional_skip_record_types",
    "max_entries",
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
@click.argument("logs", metavar="LOG...", nargs=-1, required=True)
def replay(
    *,
    logs: tuple[str, ...],
    at: str | None,
    timeline: bool,
    svg: Path | None,
    compare: tuple[str, ...],
    changes: tuple[str, ...],
    as_json: bool,
    **options: object,
) -> None:
    """Show what the rules would have made of these logs by TIME. Writes nothing.

    LOG is a segment (zstd, gzip or plain), a directory of them, or - for stdin.

    Each record is decided at its own time, as the service would have.
    """
    settings = settle(options, require=("shaping",)).settings
    asked = _Asked(None if at is None else moment(at), compare, changes)
    stream = _JsonStream() if as_json and not asked.compares else None
    kept = asked.compares or timeline or svg is not None
    on_end = None if kept else _forget if stream is None else stream.add
    seen = run_async(_look(logs, settings, asked, on_end=on_end, quiet=as_json))
    if svg is not None:
        svg.write_text(svg_of(seen.read, seen.sides[-1].told), encoding="utf-8")
    if stream is not None:
        stream.end(seen)
    elif as_json:
        document = comparison_document(*seen.sides)
        print_json({**read_document(seen.read, seen.sides[0]), **document, **_said(seen.problems)})
    else:
        _print(seen, asked, timeline=timeline)
    if svg is not None and not as_json:
        output().print(f"the picture is in {one_line(str(svg))}")


@dataclass(frozen=True, slots=True)
class _Asked:
    """The options given.  ``compare``: other shaping files; ``changes``: keys of rules."""

    at_ns: int | None
    compare: tuple[str, ...]
    changes: tuple[str, ...]

    @property
    def compares(self) -> bool:
        return bool(self.compare or self.changes)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was read and decided, by each set of rules; ``problems``: of rules and logs."""

    read: Read
    sides: Sequence[Hindsight]
    now_ns: int
    problems: list[Problem]


async def _look(
    logs: Sequence[str],
    settings: Settings,
    asked: _Asked,
    *,
    on_end: Callable[[Told], None] | None,
    quiet: bool,
) -> _Seen:
    """Read the logs; problems are told as they come, but for `quiet`."""
    problems: list[Problem] = []

    def tell(problem: Problem) -> None:
        problems.append(problem)
        if not quiet:
            report([problem])

    resolver = resolver_for(settings)
    rules = await rules_for_a_tool(settings, resolver)
    sides = [Hindsight(rules, on_end=on_end)]
    if asked.compares:
        sides.append(Hindsight(await _changed(settings, rules, asked, resolver)))
    for problem in dict.fromkeys(p for side in sides for p in side.rules.problems):
        tell(problem)
    blocks = read_shown(logs, on_problem=tell, shown=not (quiet and sys.stdout.isatty()))
    read = await look_back(blocks, *sides, resolver=resolver, until_ns=asked.at_ns)
    for problem in no_logs(read, logs):
        tell(problem)
    now_ns = read.last_ns or 0 if asked.at_ns is None else asked.at_ns
    return _Seen(read, sides, now_ns, problems)


async def _changed(settings: Settings, rules: Rules, asked: _Asked, resolver: Resolver) -> Rules:
    if asked.compare:
        reloaded = replace(settings.reloaded, shaping=asked.compare)
        others = replace(settings, reloaded=reloaded)
        rules = await rules_for_a_tool(others, resolver, needs="every file")
    for text in asked.changes:
        try:
            rules = Change.parse(text).apply(rules)
        except ValueError as error:
            raise ProblemError.one("bad-option", str(error), where="--compare-set") from None
    return rules


def _forget(_told: Told) -> None:
    """Episodes that are over are not kept: of a long log there are many."""


# JSON.


class _JsonStream:
    """Writes one JSON object: each episode when it ends, the rest when all has been read.

    So memory is bounded by what is in force, however long the logs.
    """

    def __init__(self) -> None:
        self._written = 0

    def add(self, told: Told) -> None:
        """Write an episode, on a line of its own."""
        before = ",\n" if self._written else '{\n"episodes": [\n'
        click.echo(before + json.dumps(episode_document(told)), nl=False)
        self._written += 1

    def end(self, seen: _Seen) -> None:
        """Write those not over yet, and what else there is to say."""
        side, standing = seen.sides[0], Standing(seen.sides[0], seen.now_ns)
        for told in side.told:
            self.add(told)
        rest = {
            **read_document(seen.read, side),
            **standing.document(),
            **_said([*seen.problems, *standing.problems()]),
        }
        click.echo("\n],\n" if self._written else '{\n"episodes": [],\n', nl=False)
        click.echo(json.dumps(rest, indent=1).removeprefix("{\n"))


def _said(problems: Iterable[Problem]) -> dict[str, list[str]]:
    found = list(problems)
    return {
        f"{level}s": [str(problem) for problem in found if problem.level == level]
        for level in ("warning", "error")
    }


# Text.


def _print(seen: _Seen, asked: _Asked, *, timeline: bool) -> None:
    console = output()
    texts = (
        comparison(seen.read, *seen.sides) if asked.compares else summary(seen.read, seen.sides[0])
    )
    for text in texts:
        console.print(text)
    if timeline:
        names = ("now", "then") if asked.compares else ("",)
        for side, name in zip(seen.sides, names, strict=True):
            for text in timeline_of(seen.read, side.told, name):
                console.print(text)
    elif not asked.compares:
        standing = Standing(seen.sides[0], seen.now_ns)
        report(standing.problems())
        _print_standing(standing)


def _print_standing(standing: Standing) -> None:
    console = output()
    at = f"at {_second(standing.now_ns)} UTC" if standing.now_ns else "without a record"
    console.print(f"in force {at}:")
    entries = [*(one.override for one in standing.overrides()), *standing.held()]
    _print_entries(entries)
    if not entries:
        console.print("nothing")
    simulated = list(standing.simulated())
    if simulated:
        console.print("simulated, so it is not in force:")
        _print_entries(simulated)


def _print_entries(entries: Sequence[Entry]) -> None:
    """Until when each holds, what it does and why, as wide as the terminal."""
    console = output()
    texts = distinct(entries, map(shown_entry, entries))
    for entry, text in zip(entries, texts, strict=True):
        until = f"until {_second(entry.expires_ns)}  "
        indent = " " * len(until)
        width = terminal_width() - len(until)
        does, *more = wrapped(text.removeprefix("simulated: "), width)
        console.print(line(until, does))
        for rest in more:
            console.print(indent + rest)
        for why in wrapped(one_line(entry.reason), width):
            console.print(line(indent, (why, "dim")))


def _second(ns: int) -> str:
    return format_rfc3339(ns)[:19].replace("T", " ")
