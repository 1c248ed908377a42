"""``tsa-sidecar check``: what is wrong with the rules, before they touch traffic."""

from __future__ import annotations

import os

import click

from sidecar.notify.file import load_targets
from sidecar.notify.targets import Targets
from sidecar.problems import Problem, ProblemError, one_line
from sidecar.settings import Settings
from sidecar.shaping.load import MergeOptions
from sidecar.tools.check import Report, failed
from sidecar.tools.check import check as run_check

from .common import resolver_for, run_async, setting_options, settle, shaping_files, with_files
from .console import STYLES, line, output, print_json


@click.command(short_help="Find what is wrong with the shaping files.")
@setting_options("policy", "shaping", "merge_options", "dns_zones", "notify")
@click.option("--no-dns", is_flag=True, help="Ask no DNS: every domain is a site of its own.")
@click.option("--strict", is_flag=True, help="Exit with 1 on warnings, too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@shaping_files
@click.pass_context
def check(
    ctx: click.Context,
    /,
    files: tuple[str, ...],
    no_dns: bool,
    strict: bool,
    as_json: bool,
    **options: object,
) -> None:
    """Find what is wrong with the shaping files: errors, and what loads but can't work.

    The shaping files are FILE, paths or URLs in merge order; without any, those
    that --shaping or the policy name.

    \b
    error    keeps kumod and the sidecar from loading the files, or is a key
             in a rule's table "sidecar" that would be ignored
    warning  is very probably a mistake
    note     a rule that costs time: it names no text that a record must hold
             to match, so every record has to be decoded; or what the rule
             would do in kumo-tsa-daemon, which ignores its table "sidecar"

    \b
    Exit code: 0 no error; 1 an error (with --strict: or a warning); 2 the
    command line is wrong.
    """
    report = _report(no_dns, with_files(options, files))
    if as_json:
        print_json(report.document())
    else:
        _print(report)
    if report.count("error") or (strict and report.count("warning")):
        ctx.exit(1)


def _report(no_dns: bool, options: dict[str, object]) -> Report:
    try:
        settings = settle(options, require=("shaping",)).settings
    except ProblemError as error:
        return failed((), error.problems)
    targets, problems = _targets(settings)
    report = run_async(
        run_check(
            settings.reloaded.shaping,
            options=MergeOptions.from_mapping(settings.reloaded.merge_options),
            resolver=resolver_for(settings, no_dns=no_dns),
            targets=targets,
            skip_types=settings.reloaded.skip_record_types,
        )
    )
    return report.with_problems((*settings.warnings, *problems))


def _targets(settings: Settings) -> tuple[Targets | None, tuple[Problem, ...]]:
    """The targets that rules may name, and what is wrong with their file.

    Only where this command is given the file: whoever writes rules need not be able to
    read the one that the policy names.
    """
    file = settings.fixed.notify
    if file is None or settings.origins["notify"].kind == "policy":
        return None, ()
    try:
        return load_targets(file, os.environ), ()
    except ProblemError as error:
        return None, error.problems


def _print(report: Report) -> None:
    console = output()
    for level, problem in report.findings():
        console.print(_finding(level, problem))
    console.print(report.summary)


def _finding(level: str, problem: Problem) -> object:
    place, _, rest = one_line(str(problem)).partition(": ")
    if problem.file is None:
        place, rest = "", one_line(str(problem))
    return line(f"{place}: " if place else "", (level, STYLES[level]), f": {rest}")
