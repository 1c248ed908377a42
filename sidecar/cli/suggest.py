"""``tsa-sidecar suggest``: a rule to start from, for a group that ``unmatched`` lists."""

from __future__ import annotations

from typing import Literal

import click

from sidecar.problems import ProblemError, one_line
from sidecar.shaping.mx import MxAnswer, MxError, Resolver
from sidecar.times import format_rfc3339
from sidecar.tools.hindsight import Told
from sidecar.tools.loading import rules_for_a_tool
from sidecar.tools.logs import STDIN
from sidecar.tools.suggest import Suggestion, Trial, kind_of, scope_of, would_have_done
from sidecar.tools.text import shown_entry
from sidecar.tools.unmatched import Group, Survey, Wanted, records

from .common import period, report, resolver_for, run_async, setting_options, settle
from .console import line, output, print_json
from .reading import no_logs, read_shown

_EFFECTS = 10


@click.command(short_help="Write a rule for responses that no rule matches.")
@setting_options(
    "policy",
    "shaping",
    "merge_options",
    "dns_zones",
    "nameservers",
    "skip_record_types",
    "additional_skip_record_types",
)
@click.option("--since", metavar="TIME", help="Leave out what is older: yesterday, -2h, 15:24 UTC.")
@click.option("--until", metavar="TIME", help="Leave out what is of TIME or later.")
@click.option("--rule", "only", flag_value="rule", help="Print the rule only, to put into a file.")
@click.option("--test-case", "only", flag_value="test", help="Print the test case only.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.argument("group")
@click.argument("logs", metavar="LOG...", nargs=-1, required=True)
def suggest(
    *,
    group: str,
    logs: tuple[str, ...],
    since: str | None,
    until: str | None,
    only: Literal["rule", "test"] | None,
    as_json: bool,
    **options: object,
) -> None:
    """Write a rule for GROUP, one that `tsa-sidecar unmatched LOG...` lists.

    Its regex matches every response of the group, and no other line of these logs.
    Read it before you put it into a file: nothing is written into one.

    \b
    Exit code: 0 there is a rule; 1 there is none, or the input is wrong.
    """
    if STDIN in logs:
        raise click.UsageError("The logs are read three times, so stdin will not do: name files.")
    settings = settle(options, require=("shaping",)).settings
    wanted = Wanted(*period(since, until))

    async def work() -> tuple[Suggestion, list[Told]]:
        resolver = resolver_for(settings)
        rules = await rules_for_a_tool(settings, resolver)
        report(rules.problems)
        survey = Survey(rules.shaping)
        blocks = read_shown(logs, on_problem=lambda problem: report([problem]))
        await survey.read(blocks, rules=rules, resolver=resolver, wanted=wanted)
        report(no_logs(survey.lines_read, logs))
        found = _group(survey, group)
        trial = Trial(found.shape)
        async for block in read_shown(logs, on_problem=lambda _: None):
            for record, _, _ in records(block, rules):
                trial.add(record)
        pattern = trial.best()
        if pattern is None:
            raise ProblemError.one("no-regex", _no_regex(trial), where=f"group {found.name}")
        table, why = scope_of(found, rules.shaping, await _answers(found, resolver))
        suggestion = Suggestion(found, pattern.source, table, why, kind_of(found.shape))
        effects: list[Told] = []
        if suggestion.acts:
            blocks = read_shown(logs, on_problem=lambda _: None)
            effects, problems = await would_have_done(
                suggestion, blocks, settings=settings, resolver=resolver, wanted=wanted
            )
            report(problem for problem in problems if problem not in rules.problems)
        return suggestion, effects

    suggestion, effects = run_async(work())
    if as_json:
        print_json(_document(suggestion, effects))
    elif only is not None:
        click.echo(suggestion.rule() if only == "rule" else suggestion.test_case(), nl=False)
    else:
        _print(suggestion, effects)


def _group(survey: Survey, name: str) -> Group:
    found = [group for group in survey.groups() if group.name == name.lower()]
    if not found:
        where = " of that time" if survey.not_wanted else ""
        message = (
            f"no unmatched responses of these logs{where} are in that group: "
            "`tsa-sidecar unmatched LOG...` lists the groups"
        )
        raise ProblemError.one("no-group", message, where=f"group {name[:40]!r}")
    return found[0]


def _no_regex(trial: Trial) -> str:
    stranger = one_line((trial.stranger or "")[:200])
    return (
        "every regex made of its text matches another line of these logs as well, such as "
        f"{stranger!r}: write one by hand, and try it with `tsa-sidecar replay`"
    )


async def _answers(group: Group, resolver: Resolver) -> dict[str, MxAnswer]:
    answers = {}
    for domain in group.domains:
        try:
            answers[domain] = await resolver.resolve(domain)
        except MxError:
            continue
    return answers


def _print(suggestion: Suggestion, effects: list[Told]) -> None:
    console = output()
    console.print(line(("The rule (--rule prints only this):\n", "bold")))
    console.print(suggestion.rule())
    if not suggestion.acts:
        return
    console.print(line(("A case for a file of `tsa-sidecar test`:\n", "bold")))
    console.print(suggestion.test_case())
    console.print(line(("What it would have done in these logs:\n", "bold")))
    for told in effects[:_EFFECTS]:
        console.print(one_line(f"  {shown_entry(told.entry)}"))
        console.print(
            f"    from {format_rfc3339(told.began_ns)} until {format_rfc3339(told.until_ns)}"
            f", {told.story.matches:,} matched"
        )
    if len(effects) > _EFFECTS:
        console.print(f"  and {len(effects) - _EFFECTS} more (--json has all)")
    if not effects:
        console.print("  nothing")


def _document(suggestion: Suggestion, effects: list[Told]) -> dict[str, object]:
    kind = suggestion.kind
    return {
        "group": suggestion.group.name,
        "shape": suggestion.group.shape,
        "kind": None if kind is None else kind.name,
        "because": None if kind is None else kind.because,
        "acts": suggestion.acts,
        "regex": suggestion.regex,
        "table": suggestion.table,
        "rule": suggestion.rule(),
        "test_case": suggestion.test_case(),
        "effects": [
            {
                "what": shown_entry(told.entry),
                "from": format_rfc3339(told.began_ns),
                "until": format_rfc3339(told.until_ns),
                "matches": told.story.matches,
            }
            for told in effects
        ],
    }
