"""``tsa-sidecar test``: rule tests that live beside the rules."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from sidecar.problems import Problem, ProblemError, one_line
from sidecar.shaping.specs import shown
from sidecar.tools.casefile import FORMAT
from sidecar.tools.comparing import Difference
from sidecar.tools.coverage import Coverage
from sidecar.tools.ruletest import CaseResult, FileResult, describe_counts, run_file
from sidecar.tools.text import counted, shown_duration, shown_rule

from .common import report, run_async
from .console import STYLES, line, output, print_json

_EXAMPLE = FORMAT.replace("\n\n", "\n\n\b\n")
_HELP = f"""Run the cases in each FILE: records go in, and what is in force must be as it says.

\b
Exit code: 0 all cases pass; 1 one fails; 2 a file, or the rules that it
names, can't be used.

A FILE is TOML:

\b
{_EXAMPLE}
Files are named relative to FILE.

A record may be given whole, as kumod logs it: record = {{type = "Bounce",
response = {{code = 550, content = "..."}}}}. What it lacks comes from the other
keys, its time from the case.

\b
Keys of an entry, besides expires_in and state:
  overrides   domain, mx_rollup, source, option, value
  suspended   site, source (a ready queue); domain, tenant, campaign (a
              scheduled queue)
  bounced     domain, tenant, campaign
  ended       any of these, and how: expired, released
tenant = "" says that there is none.
"""


@click.command(help=_HELP, short_help="Run rule tests: records in, what must be in force out.")
@click.option("--coverage", is_flag=True, help="List what no case touches: rules, regexes, a|b.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.pass_context
def test(ctx: click.Context, /, files: tuple[Path, ...], coverage: bool, as_json: bool) -> None:
    """Run the cases of every file; :data:`_HELP` has the rest."""
    results: list[FileResult] = []
    problems: list[Problem] = []
    covered = Coverage() if coverage else None
    for path in files:
        try:
            results.append(run_async(run_file(path, covered)))
        except ProblemError as error:
            problems += error.problems
    if as_json:
        print_json(_document(results, problems) | _coverage_document(covered))
    else:
        _print(results)
        if covered is not None:
            _print_coverage(covered)
    report(problems)
    if problems:
        ctx.exit(2)
    if any(result.failed for result in results):
        ctx.exit(1)


def _document(results: list[FileResult], problems: list[Problem]) -> dict[str, object]:
    return {
        "files": [result.document() for result in results],
        "passed": sum(len(r.results) - len(r.failed) for r in results),
        "failed": sum(len(r.failed) for r in results),
        "errors": [str(problem) for problem in problems],
    }


def _coverage_document(covered: Coverage | None) -> dict[str, object]:
    if covered is None:
        return {}
    return {
        "coverage": {
            "rules": len(covered.rules),
            "touched": covered.touched,
            "untouched": [one.document() for one in covered.untouched()],
        }
    }


def _print_coverage(covered: Coverage) -> None:
    console = output()
    console.print(f"coverage: {covered.touched} of {counted(len(covered.rules), 'rule')} touched")
    for one in covered.untouched():
        what = "" if one.regex is None else f": regex {shown(one.regex)}"
        if one.alternative is not None:
            what = f": {shown(one.alternative)} in regex {shown(one.regex)}"
        console.print(line(("not touched", "yellow"), f"  {shown_rule(one.rule)}{what}"))


def _print(results: list[FileResult]) -> None:
    console = output()
    for result in results:
        for failed in result.failed:
            _print_failed(console, result.file, failed)
        for problem in result.warnings:
            console.print(line(("warning", STYLES["warning"]), f": {one_line(str(problem))}"))
        passed = len(result.results) - len(result.failed)
        counts = f"{passed} of {len(result.results)} passed"
        style = "bold red" if result.failed else "green"
        console.print(line(f"{one_line(result.file)}: ", (counts, style)))


def _print_failed(console: Console, file: str, result: CaseResult) -> None:
    place = one_line(f"{file}:{result.case.line}")
    console.print(line(("FAIL", "bold red"), f" {place} {one_line(result.case.name)}"))
    console.print(f"  {describe_counts(result.counts)}")
    for failure in result.failures:
        console.print(f"  at {shown_duration(failure.at_ns)} (line {failure.line}):")
        for difference in failure.differences:
            _print_difference(console, difference)


def _print_difference(console: Console, difference: Difference) -> None:
    style = {"missing": "red", "unexpected": "yellow", "differs": "red"}[difference.what]
    place = f" (line {difference.line})" if difference.line is not None else ""
    console.print(line("    ", (difference.what, style), f": {difference.entry}{place}"))
    for key, want, got in difference.fields:
        console.print(line(f"      {key}: expected ", (want, "green"), ", got ", (got, "red")))
