"""What is wrong with shaping files, and which rules make the sidecar slow.

In: files, merge options, a resolver.  Out: a :class:`Report`: the problems of the
load, the doubts of :func:`sidecar.shaping.lint.lint`, and the rules on whose account
every record is decoded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sidecar.automation.prefilter import decodes_all
from sidecar.notify.check import unknown_targets
from sidecar.notify.targets import Targets
from sidecar.problems import Problem, ProblemError
from sidecar.shaping.lint import lint
from sidecar.shaping.load import MergeOptions, Shaping, load_shaping
from sidecar.shaping.mx import Resolver
from sidecar.shaping.rules import Rule
from sidecar.shaping.sidecar_table import CODE

from .text import counted, shown_duration, shown_value

NEEDS_DELIVERIES: Final = (
    "the rule has to know what is delivered: the log that the sidecar reads must have Delivery "
    "records (`tsa-sidecar init` prints the lines that write them short)"
)

_LEVELS: Final = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of a check.

    ``files`` as given; ``rules`` counts those in them, None when the files do
    not load; ``problems`` are in the order of file and line; ``slow`` are the
    rules on whose account every record is decoded, ``differences`` what rules do
    otherwise in kumo-tsa-daemon.
    """

    files: tuple[str, ...]
    rules: int | None
    problems: tuple[Problem, ...]
    slow: tuple[Rule, ...] = ()
    differences: tuple[Problem, ...] = ()

    def count(self, level: str) -> int:
        """How many errors, warnings or notes there are."""
        if level == "note":
            return len(self.slow) + len(self.differences)
        return sum(p.level == level for p in self.problems)

    def with_problems(self, problems: Iterable[Problem]) -> Report:
        """The same, and `problems` found elsewhere."""
        return replace(self, problems=tuple(sorted({*self.problems, *problems}, key=_order)))

    @property
    def summary(self) -> str:
        """All of it in one line."""
        rules = "not loaded" if self.rules is None else counted(self.rules, "rule")
        found = ", ".join(counted(self.count(level), level) for level in _LEVELS)
        return f"{counted(len(self.files), 'file')}, {rules}: {found}"

    def findings(self) -> list[tuple[str, Problem]]:
        """Problems and notes in the order of file and line, each with its level."""
        notes = [*(_slow_problem(rule) for rule in self.slow), *self.differences]
        found = [*((p.level, p) for p in self.problems), *(("note", p) for p in notes)]
        return sorted(found, key=lambda item: _order(item[1]))

    def document(self) -> dict[str, Any]:
        """As JSON-able values, in the form of ``check --json``."""
        return {
            "files": list(self.files),
            "rules": self.rules,
            "problems": [
                {
                    "level": level,
                    "code": p.code,
                    "file": p.file,
                    "line": p.line,
                    "where": p.where,
                    "message": p.message,
                }
                for level, p in self.findings()
            ],
            "summary": self.summary,
        }


def _order(problem: Problem) -> tuple[str, int, str, str]:
    return (problem.file or "", problem.line or 0, problem.code, problem.message)


def _slow_problem(rule: Rule) -> Problem:
    sources = ", ".join(repr(p.source) for p in rule.regexes if p.literals() is None)
    message = (
        f"regex {sources} names no text that a matching record must hold, so the sidecar decodes "
        "every record: about six times the processor time. Put a word into the regex that "
        "every such response has"
    )
    return Problem("warning", "no-literal", message, rule.file, rule.line, rule.where)


async def check(
    files: Sequence[str],
    *,
    options: MergeOptions,
    resolver: Resolver,
    targets: Targets | None = None,
    skip_types: Collection[str] = (),
) -> Report:
    """The report on `files`; whatever is in them, it raises nothing.

    `options` say what is an error.  Where they ignore a finding, the lint may still doubt it.
    `targets`: those that rules may name, where they are known.  `skip_types`: types of records
    that no rule sees.
    """
    try:
        shaping = await load_shaping(files, options=_quiet(options), resolver=resolver)
    except ProblemError as error:
        return failed(files, error.problems)
    report = Report(
        files=tuple(files),
        rules=sum(len(block.rules) for file in shaping.files for block in file.blocks),
        problems=tuple(sorted({*_problems(shaping), *_unseen(shaping, skip_types)}, key=_order)),
        slow=_slow(shaping),
        differences=tuple(_differences(shaping)),
    )
    if targets is None:
        return report
    unknown = unknown_targets(shaping.all_rules(), targets)
    return report.with_problems(replace(problem, level="error") for problem in unknown)


def _quiet(options: MergeOptions) -> MergeOptions:
    """`options` without the warnings that the lint gives anyway.

    A URL that can't be fetched is a warning at least.
    """
    quiet: dict[str, Any] = {
        name: "Ignore"
        for name in ("aliased_site", "dns_fail", "null_mx", "provider_overlap")
        if getattr(options, name) == "Warn"
    }
    if options.remote_load == "Ignore":
        quiet["remote_load"] = "Warn"
    return replace(options, **quiet)


def failed(files: Sequence[str], problems: Iterable[Problem]) -> Report:
    """The report when nothing could be loaded."""
    return Report(tuple(files), None, tuple(sorted(set(problems), key=_order)))


def _problems(shaping: Shaping) -> tuple[Problem, ...]:
    said = {p.code for p in shaping.errors}
    doubts = [p for p in lint(shaping) if p.code not in said]
    found = dict.fromkeys(_refused(p) for p in [*shaping.errors, *shaping.warnings, *doubts])
    return tuple(sorted(found, key=_order))


def _unseen(shaping: Shaping, skip_types: Collection[str]) -> Iterator[Problem]:
    """Rules that ask for nothing but records which no rule sees."""
    for rule in shaping.all_rules():
        types = () if rule.sidecar.when is None else rule.sidecar.when.type
        if types and all(name in skip_types for name in types):
            message = (
                f"sidecar.when: no rule sees records of type {' and '.join(types)} "
                "(skip_record_types), so this one does nothing"
            )
            yield Problem("warning", "never-matches", message, rule.file, rule.line, rule.where)


def _refused(problem: Problem) -> Problem:
    """The finding; an error where one of our own keys is ignored or misread.

    The service warns of it and goes on: kumod loads such a file, too.
    """
    return replace(problem, level="error") if problem.code == CODE else problem


def _differences(shaping: Shaping) -> Iterator[Problem]:
    """What kumo-tsa-daemon would do otherwise with the same rules: it ignores our keys.

    And what a key needs of the log, which other rules do not.
    """
    for rule in shaping.all_rules():
        for key, otherwise in _otherwise(rule):
            message = f"sidecar.{key}: in kumo-tsa-daemon {otherwise}"
            yield Problem("warning", "differs", message, rule.file, rule.line, rule.where)
        if rule.sidecar.needs_attempts:
            yield Problem(
                "warning", "needs-deliveries", NEEDS_DELIVERIES, rule.file, rule.line, rule.where
            )


def _otherwise(rule: Rule) -> Iterator[tuple[str, str]]:
    table, lasts = rule.sidecar, shown_duration(rule.duration_ns)
    if table.adjust is not None:
        for action in rule.actions:
            if action.option is not None:
                value = shown_value(action.value)
                yield "adjust", f"{action.option} is set to {value} for {lasts}"
    if table.when is not None:
        yield "when", "the rule acts on every response that its regex matches"
    if table.escalate is not None:
        yield "escalate", f"each hold is for {lasts}"
    if table.release is not None:
        yield "release", f"what is set lasts for {lasts}, whatever is delivered meanwhile"
    if table.probe is not None:
        yield "probe", "all mail goes out at once when the suspension ends"
    if table.ratio is not None:
        spec = "each match" if rule.trigger is None else f"{rule.trigger.spec}, by its trigger,"
        yield "ratio", f"the rule strikes at {spec} whatever the share"
    if table.simulate:
        yield "simulate", "the rule is in force"


def _slow(shaping: Shaping) -> tuple[Rule, ...]:
    return tuple(rule for rule in shaping.all_rules() if decodes_all(rule))
