"""``tsa-sidecar unmatched``: the failing responses that no rule matches."""

from __future__ import annotations

import shutil
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence

import click

from sidecar.problems import one_line
from sidecar.shaping.rules import Rule
from sidecar.times import format_rfc3339
from sidecar.tools.loading import rules_for_a_tool
from sidecar.tools.text import counted, shown_rule
from sidecar.tools.unmatched import Group, Survey, Wanted

from .common import period, report, resolver_for, run_async, setting_options, settle
from .console import line, output, print_json
from .reading import no_logs, read_shown

_SHOWN = 20
_NAMES = 4
_RULES = 3
_NO_CLASS = ("", "Uncategorized")


@click.command(short_help="Show the failing responses that no rule matches.")
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
@click.option(
    "--domain", metavar="NAME", help="Look only at mail to this domain; * stands for anything."
)
@click.option(
    "--min",
    "least",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    help="Leave out responses that came fewer than N times.",
)
@click.option("--all", "everything", is_flag=True, help=f"List all, not only the first {_SHOWN}.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; it has everything.")
@click.argument("logs", metavar="LOG...", nargs=-1, required=True)
def unmatched(
    *,
    logs: tuple[str, ...],
    since: str | None,
    until: str | None,
    domain: str | None,
    least: int,
    everything: bool,
    as_json: bool,
    **options: object,
) -> None:
    """Show the failing responses in these logs that no rule in force there matches.

    LOG is a segment (zstd, gzip or plain), a directory of them, or - for stdin.

    What varies from mail to mail (addresses, hosts, ids, numbers) is folded, so that
    one line stands for one answer of a server.  `tsa-sidecar suggest GROUP LOG...`
    makes a rule for a group.
    """
    settings = settle(options, require=("shaping",)).settings
    since_ns, until_ns = period(since, until)
    wanted = Wanted(since_ns, until_ns, None if domain is None else domain.lower().rstrip("."))

    async def work() -> Survey:
        resolver = resolver_for(settings)
        rules = await rules_for_a_tool(settings, resolver)
        report(rules.problems)
        survey = Survey(rules.shaping)
        blocks = read_shown(logs, on_problem=lambda problem: report([problem]))
        await survey.read(blocks, rules=rules, resolver=resolver, wanted=wanted)
        return survey

    survey = run_async(work())
    report(no_logs(survey.lines_read, logs))
    groups = survey.groups(least=least)
    if as_json:
        print_json(survey.document(groups))
    else:
        _print(survey, groups, everything=everything)


def _print(survey: Survey, groups: Sequence[Group], *, everything: bool) -> None:
    console = output()
    width = max(60, min(shutil.get_terminal_size().columns, 160))
    for text in _summary(survey, groups):
        console.print(text)
    shown = groups if everything else groups[:_SHOWN]
    if shown:
        console.print(line(("\nGROUP    COUNT  SHARE  RESPONSE", "bold")))
    for group in shown:
        share = f"{group.count / survey.failures:.1%}"
        head = f"{group.name} {group.count:>7,} {share:>6}  "
        indent = " " * len(head)
        body = _wrapped(group.shape, width - len(head))
        console.print(line((head, "bold"), body[0]))
        for text in (*body[1:], *_details(survey, group, width - len(head))):
            console.print(indent + text)
    if len(shown) < len(groups):
        console.print(f"{len(groups) - len(shown)} more groups are not listed: --all, or --min N")
    _print_idle(survey, everything=everything)


def _summary(survey: Survey, groups: Sequence[Group]) -> Iterator[str]:
    span = ""
    if survey.first_ns is not None and survey.last_ns is not None:
        span = f", {_span(survey.first_ns, survey.last_ns)}"
    yield f"{survey.failures:,} failing responses{span}"
    if survey.failures:
        share = survey.unmatched / survey.failures
        shapes = counted(survey.shapes, "shape")
        few = f", {len(groups)} of them listed" if len(groups) < survey.shapes else ""
        yield f"{survey.unmatched:,} of them ({share:.1%}) match no rule, in {shapes}{few}"
    if survey.further:
        yield f"{survey.further:,} more are of shapes beyond the most that are kept apart"
    if survey.not_wanted_ns is not None:
        when = _span(*survey.not_wanted_ns)
        yield f"{survey.not_wanted:,} others were not asked for ({when})"
    if survey.internal:
        yield f"{survey.internal:,} failures of kumod's own making are left out"
    if survey.lines_read.bad:
        yield f"{survey.lines_read.bad:,} of the lines are no log records and are left out"


def _details(survey: Survey, group: Group, width: int) -> Iterator[str]:
    """Where and when, and what would help."""
    texts = [
        f"to {_names(group.domains)}",
        f"from source {_names(group.sources)}",
        _span(group.first_ns, group.last_ns),
    ]
    classes = Counter({k: n for k, n in group.classifications.items() if k not in _NO_CLASS})
    if classes:
        texts.append(f"classified as {_names(classes)}")
    elsewhere = survey.elsewhere(group)
    texts += [f"would match elsewhere: {shown_rule(rule)}" for rule in elsewhere[:_RULES]]
    if len(elsewhere) > _RULES:
        texts.append(f"and {counted(len(elsewhere) - _RULES, 'more rule')} elsewhere")
    texts += [f"see {link}" for link in group.links if link not in group.shape]
    for text in texts:
        yield from _wrapped(text, width, hanging="  ")


def _wrapped(text: str, width: int, hanging: str = "") -> list[str]:
    wrapper = textwrap.TextWrapper(
        width, subsequent_indent=hanging, break_on_hyphens=False, break_long_words=False
    )  # a link stays whole, to be opened
    return wrapper.wrap(one_line(text)) or [""]


def _names(counts: Counter[str]) -> str:
    named = [f"{name or '(none)'} {count:,}" for name, count in counts.most_common(_NAMES)]
    if len(counts) == 1:
        named = [next(iter(counts)) or "(none)"]
    more = len(counts) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def _span(first_ns: int, last_ns: int) -> str:
    """``2026-11-22 15:17:02 to 15:19:40 UTC``."""
    first, last = (format_rfc3339(ns)[:19].replace("T", " ") for ns in (first_ns, last_ns))
    if first == last:
        return f"{first} UTC"
    return f"{first} to {last[11:] if first[:10] == last[:10] else last} UTC"


def _print_idle(survey: Survey, *, everything: bool) -> None:
    idle = survey.idle_rules()
    if not idle:
        return
    console = output()
    where = "of what was asked for" if survey.not_wanted else "in these logs"
    console.print(f"\n{counted(len(idle), 'rule')} matched nothing {where}")
    shown: list[Rule] = idle if everything else []
    for rule in shown:
        console.print(f"  {shown_rule(rule)}")
    if not shown:
        console.print("  (--all lists them)")
