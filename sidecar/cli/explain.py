"""``tsa-sidecar explain``: what every rule makes of one response, and why."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click
from rich.cells import cell_len
from rich.console import Console

from sidecar.automation.decide import Automation
from sidecar.automation.entries import Entry, Override
from sidecar.problems import ProblemError, one_line
from sidecar.service.rules import Rules
from sidecar.service.state import restore
from sidecar.shaping.mx import MxAnswer
from sidecar.shaping.rules import Scope
from sidecar.shaping.source import is_url
from sidecar.store import read_saved
from sidecar.times import NS, format_rfc3339
from sidecar.tools.explain import Explanation, Found, Step, Verdict
from sidecar.tools.explain import explain as run_explain
from sidecar.tools.loading import rules_for_a_tool
from sidecar.tools.question import NO_DOMAIN, Typed, read_record
from sidecar.tools.shown_shares import shown_standing
from sidecar.tools.text import counted, shown_duration, shown_entry, shown_rule

from .common import (
    moment,
    report,
    resolver_for,
    run_async,
    setting_options,
    settle,
    shaping_files,
    with_files,
)
from .console import line, output, print_json

_LABELS: Final[dict[Verdict, tuple[str, str]]] = {
    "acts": ("ACTS", "bold green"),
    "waits": ("WAITS", "bold yellow"),
    "no-effect": ("NO EFFECT", "bold yellow"),
    "internal": ("INTERNAL", "yellow"),
    "elsewhere": ("ELSEWHERE", "dim"),
    "no-match": ("NO MATCH", "dim"),
}
_AROUND: Final = 60
"""Characters shown on each side of a match in a long response."""
_LONGEST: Final = 200
"""Characters of a response or a match that are shown."""


@click.command(short_help="Show what each rule makes of a response, and why.")
@setting_options(
    "policy",
    "shaping",
    "merge_options",
    "dns_zones",
    "nameservers",
    "skip_record_types",
    "additional_skip_record_types",
)
@click.option("--domain", metavar="NAME", help="The recipient's domain; unless given, the queue's.")
@click.option("--source", metavar="NAME", help="The egress source.")
@click.option("--queue", metavar="NAME", help="The scheduled queue, campaign:tenant@domain.")
@click.option("--site", metavar="NAME", help="The site, instead of the one that the MX make.")
@click.option("--record", metavar="FILE", help="Explain the JSON record in FILE; - is stdin.")
@click.option(
    "--state",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Count on with the thresholds in this state file, which is only read.",
)
@click.option(
    "--at",
    metavar="TIME",
    help="Take TIME (-2h, 2026-11-22 15:24, RFC 3339) for the present; else it is now, "
    "with --record the record's time.",
)
@click.option("--all", "everything", is_flag=True, help="List the rules of other domains, too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; it has every rule.")
@click.argument("response", required=False)
@shaping_files
def explain(
    *,
    response: str | None,
    files: tuple[str, ...],
    record: str | None,
    state: Path | None,
    at: str | None,
    everything: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Show what each rule makes of RESPONSE, such as "421 4.7.0 text", and why.

    The rules are those of the shaping files FILE, in merge order; without any, those
    that --shaping or the policy name. With --record there is no RESPONSE.

    \b
    ACTS       puts something into force: what, and until when
    WAITS      matches, and has not matched often enough yet
    NO EFFECT  matches, but nothing comes of it
    INTERNAL   would match, but kumod made the response up itself
    NO MATCH   its regex does not match
    ELSEWHERE  is for other records, by its table or by its sidecar.when

    \b
    Exit code: 0 whatever the rules say; 1 the input or the files can't be
    used; 2 the command line is wrong.
    """
    about = {name: options.pop(name) for name in ("domain", "source", "queue", "site")}
    if record is not None and response is not None:
        if not is_url(response) and not os.path.exists(response):
            raise click.UsageError("With --record, leave RESPONSE out; what is given is no file.")
        files, response = (response, *files), None
    _check_usage(response, record, [name for name, value in about.items() if value is not None])
    settings = settle(with_files(options, files), require=("shaping",)).settings
    now_ns = None if at is None else moment(at)
    automation = _automation(state)

    async def work() -> Explanation:
        resolver = resolver_for(settings)
        rules = await rules_for_a_tool(settings, resolver)
        _refuse_missing(rules)
        report(rules.problems)
        if response is not None:
            typed = Typed(response, **about)
            text, mx = await typed.record(_now() if now_ns is None else now_ns, resolver)
        else:
            text, mx = await read_record(record or "-", resolver)
        return run_explain(text, rules=rules, mx=mx, automation=automation, now_ns=now_ns)

    explanation = run_async(work())
    if as_json:
        print_json(explanation.document())
    else:
        _print(explanation, everything=everything)


def _check_usage(response: str | None, record: str | None, about: list[str]) -> None:
    if response is None and record is None:
        raise click.UsageError('Give the RESPONSE, such as "421 4.7.0 text", or --record FILE.')
    if response is not None and os.path.isfile(response):
        raise click.UsageError(f"{response} is a file: write RESPONSE first, then the files.")
    if record is not None and about:
        raise click.UsageError(f"With --record, leave out --{about[0]}: the record has it.")


def _refuse_missing(rules: Rules) -> None:
    """Raise ProblemError where a file is missing: half the rules explain nothing."""
    missing = [p for p in rules.problems if p.code in ("local-load", "remote-load")]
    if missing:
        raise ProblemError(replace(p, level="error") for p in missing)


def _now() -> int:
    """The present to the second, as precise as anybody types a record."""
    return time.time_ns() // NS * NS


def _automation(state: Path | None) -> Automation:
    if state is None:
        return Automation()
    automation, _, problems = restore(read_saved(state))
    report(problems)
    return automation


# The answer


def _print(explanation: Explanation, *, everything: bool) -> None:
    console = output()
    for name, value in _head(explanation):
        console.print(line((f"{name:<10}", "bold"), one_line(value)))
    console.print()
    if explanation.unseen is not None:
        console.print(one_line(f"No rule sees this record: {explanation.unseen}."))
        return
    rest: Counter[str] = Counter()
    for step in explanation.steps:
        if everything or _is_near(step, explanation.domain):
            _print_step(console, step, explanation)
        else:
            rest[step.rule.scope.kind] += 1
    if rest:
        kinds = ", ".join(f"{count} of other {kind}s" for kind, count in rest.items())
        console.print(f"not listed, nor do their regexes match: {kinds} (--all lists them)")
    console.print(_summary(explanation))


def _is_near(step: Step, domain: str | None) -> bool:
    """Whether a rule is worth showing: it is for this record, or all but one thing is right."""
    return (
        step.verdict != "elsewhere"
        or step.found is not None
        or step.rule.scope == Scope("domain", domain or "")
    )


def _head(explanation: Explanation) -> list[tuple[str, str]]:
    record, mx = explanation.record, explanation.mx
    text = record.response_line
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}… ({len(text)} characters)"
    if isinstance(mx, MxAnswer):
        hosts = "null: the domain takes no mail" if mx.is_null else ", ".join(mx.hosts)
    else:
        hosts = "not asked for" if mx is None else f"none: {mx.reason}"
    domain = explanation.domain or "none"
    if domain == NO_DOMAIN:
        domain = "not given (--domain), so no rule of a provider, site or domain applies"
    return [
        ("response", text),
        ("record", f"{record.type} of {format_rfc3339(record.time_ns)}"),
        ("domain", domain),
        ("queue", record.queue or "none"),
        ("site", record.site or "none"),
        ("source", record.egress_source),
        ("mx", hosts),
        ("providers", ", ".join(explanation.providers) or "none"),
    ]


def _print_step(console: Console, step: Step, explanation: Explanation) -> None:
    label, style = _LABELS[step.verdict]
    console.print(line((f"{label:<10}", style), shown_rule(step.rule)))
    if step.found is not None:
        console.print(f"          regex {one_line(step.found.pattern.source)}")
        _print_span(console, step.found, explanation.record.response_line)
    ratio = step.rule.sidecar.ratio
    if step.verdict == "acts" and step.standing is not None and ratio is not None:
        console.print(f"          {shown_standing(step.standing, ratio)}")
    elif step.verdict == "acts" and step.rule.trigger is not None:
        console.print(f"          threshold {step.count} of {one_line(step.rule.trigger.spec)}")
    for reason in step.reasons:
        console.print(f"          {one_line(reason)}")
    for entry in step.entries:
        until = f"until {format_rfc3339(entry.expires_ns)} ({_lasts(entry, explanation)})"
        if isinstance(entry, Override) and entry.release:
            until += f" or {counted(entry.release, 'delivery')} without a match"
        console.print(line("          ", (f"{shown_entry(entry)}, {until}", "bold")))


def _lasts(entry: Entry, explanation: Explanation) -> str:
    if isinstance(entry, Override) and entry.course is not None:
        return "back by itself, if no more come"
    return shown_duration(explanation.lasts_ns(entry))


def _print_span(console: Console, found: Found, text: str) -> None:
    """Print what matched, underlined, with the text around it."""
    start = max(0, found.start - _AROUND)
    end = min(len(text), found.end + _AROUND)
    before = ("…" if start else "") + one_line(text[start : found.start])
    matched = one_line(text[found.start : found.end])
    if len(matched) > _LONGEST:
        matched = matched[:_LONGEST] + "…"
    after = one_line(text[found.end : end]) + ("…" if end < len(text) else "")
    console.print(line("            ", before, (matched, "bold reverse"), after))
    console.print(f"            {' ' * cell_len(before)}{'^' * max(1, cell_len(matched))}")


def _summary(explanation: Explanation) -> str:
    verdicts = Counter(step.verdict for step in explanation.steps)
    matched = sum(verdicts[v] for v in ("acts", "waits", "no-effect"))
    return f"{counted(len(explanation.steps), 'rule')}: {matched} match, {verdicts['acts']} act"
