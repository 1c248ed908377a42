"""Rule tests: cases in, differences out.

The service's own pipeline decides each record at the record's own moment.  What is
in force is then compared with what the case expects.  There is no clock and no DNS:
times count from :data:`START`, MX come from the zones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sidecar.automation.decide import Automation
from sidecar.automation.episodes import Ended
from sidecar.automation.matching import Matcher
from sidecar.automation.pipeline import Tally, only_candidates, read_everything
from sidecar.log.record import SKIPPED_TYPES, UNSPECIFIED_SOURCE, BadLine, decode
from sidecar.problems import Problem, ProblemError, one_line
from sidecar.service.mx import resolve_all
from sidecar.shaping.load import MergeOptions, Shaping, load_shaping
from sidecar.shaping.mx import MxAnswer, ZoneResolver
from sidecar.times import NS, format_rfc3339

from .casefile import Case, CaseFile, Expectation, Given, read_cases
from .comparing import Actual, Difference, compare, in_force
from .coverage import Coverage
from .records import ask_mx, encode, log_record, ready_queue
from .text import counted, shown_duration

START: Final = 1_767_225_600 * NS
"""When every case begins: 2026-01-01T00:00:00Z."""

_COUNTED: Final = ("bad_recipient", "already_expired", "no_site", "no_domain", "no_tenant")


@dataclass(frozen=True, slots=True)
class Failure:
    """An expectation that was not met, ``at_ns`` after the start."""

    line: int
    at_ns: int
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What came of a case; ``counts``: records sent, seen and matched, outcomes left out."""

    case: Case
    failures: tuple[Failure, ...]
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class FileResult:
    """What came of a file.  ``warnings`` of its rules may explain a failure."""

    file: str
    results: tuple[CaseResult, ...]
    warnings: tuple[Problem, ...] = ()

    @property
    def failed(self) -> list[CaseResult]:
        """The cases that failed."""
        return [result for result in self.results if result.failures]

    def document(self) -> dict[str, Any]:
        """As JSON-able values, in the form of ``test --json``."""
        return {
            "file": self.file,
            "cases": [
                {
                    "name": result.case.name,
                    "line": result.case.line,
                    "passed": not result.failures,
                    "records": dict(result.counts),
                    "failures": [_failure_document(failure) for failure in result.failures],
                }
                for result in self.results
            ],
        }


def _failure_document(failure: Failure) -> dict[str, Any]:
    return {
        "line": failure.line,
        "at": shown_duration(failure.at_ns),
        "differences": [
            {
                "what": d.what,
                "line": d.line,
                "entry": d.entry,
                "fields": {key: {"expected": want, "got": got} for key, want, got in d.fields},
            }
            for d in failure.differences
        ],
    }


async def run_file(path: Path, coverage: Coverage | None = None) -> FileResult:
    """Run the cases in `path`; ProblemError when it, or what it names, can't be used.

    `coverage` notes which rules match.
    """
    cases = await read_cases(path)
    resolver = await _zones(cases)
    options = MergeOptions(dns_fail="Warn", null_mx="Warn", remote_load="Error")
    shaping = await load_shaping(cases.shaping, options=options, resolver=resolver)
    if shaping.errors:
        raise ProblemError(shaping.errors)
    if coverage is not None:
        coverage.add(shaping.all_rules())
    runner = _Runner(cases.file, shaping, Matcher(shaping), resolver, coverage)
    results = [await runner.run(case) for case in cases.cases]
    return FileResult(cases.file, tuple(results), shaping.warnings)


async def _zones(cases: CaseFile) -> ZoneResolver:
    texts, problems = [], []
    for path in cases.dns_zones:
        try:
            texts.append(path.read_text(encoding="utf-8"))
        except OSError as error:
            message = f"DNS zone can't be read: {error.strerror or error}"
            problems.append(Problem("error", "bad-zone", message, str(path)))
        except UnicodeDecodeError as error:
            problems.append(Problem("error", "bad-zone", f"not UTF-8: {error.reason}", str(path)))
    if problems:
        raise ProblemError(problems)
    return ZoneResolver(texts, files=[str(path) for path in cases.dns_zones])


@dataclass(frozen=True, slots=True)
class _Runner:
    file: str
    shaping: Shaping
    matcher: Matcher
    resolver: ZoneResolver
    coverage: Coverage | None

    async def run(self, case: Case) -> CaseResult:
        """Send the records and look at the expectations, all in the order of time."""
        trial = _Trial(self.shaping)
        failures: list[Failure] = []
        pending = sorted(case.expectations, key=lambda e: (e.at_ns, not e.in_place, e.line))
        for moment, given in _schedule(case.given):
            while pending and _comes_before(pending[0], moment, given):
                failures += trial.check(pending.pop(0))
            await self._send(given, START + moment, trial)
        for expectation in pending:
            failures += trial.check(expectation)
        return CaseResult(case, tuple(failures), dict(trial.counts))

    async def _send(self, given: Given, time_ns: int, trial: _Trial) -> None:
        line = await self._line(given, time_ns)
        try:
            decode(line)
        except BadLine as error:
            message = f"is no log record: {error}"
            raise ProblemError.one("bad-record", message, file=self.file, line=given.line) from None
        tally = Tally()
        happened = read_everything(
            [line], matcher=self.matcher, skip_types=SKIPPED_TYPES, tally=tally
        )
        found = list(only_candidates(happened))
        trial.counts["sent"] += 1
        trial.counts["seen"] += tally.considered
        trial.counts["bad_recipient"] += tally.bad_recipient
        mx = await resolve_all(found, self.resolver)
        if self.coverage is not None:
            for one in found:
                self.coverage.note(one.matches(mx.get(one.domain)), one.record.response_line)
        trial.expire(time_ns)
        outcome = trial.automation.apply(happened, mx=mx, now_ns=time_ns)
        trial.counts.update(outcome.counts)
        trial.ended += outcome.ended

    async def _line(self, given: Given, time_ns: int) -> bytes:
        """The log line that kumod would have written."""
        source = given.fields.get("egress_source", given.source) or UNSPECIFIED_SOURCE
        site = given.site
        if site is None and given.domain is not None:
            mx = await ask_mx(given.domain, self.resolver)
            site = mx.site_name if isinstance(mx, MxAnswer) else ""
        record = log_record(
            given.response,
            recipients=given.recipients,
            queue=given.queue,
            site=ready_queue(site or "", source),
            source=given.source,
            time_ns=time_ns,
        )
        if given.type is not None:
            record["type"] = given.type
        record |= given.fields
        record.pop("timestamp", None)
        record["event_time"] = format_rfc3339(time_ns)
        return encode(record)


def _comes_before(expectation: Expectation, moment: int, given: Given) -> bool:
    """Whether `expectation` is looked at before `given` comes at `moment`."""
    if expectation.at_ns != moment:
        return expectation.at_ns < moment
    return expectation.in_place and expectation.line < given.line


def _schedule(given: Iterable[Given]) -> list[tuple[int, Given]]:
    """Each record as often as it comes, in the order of time."""
    moments = [(moment, g) for g in given for moment in g.moments]
    return sorted(moments, key=lambda item: item[0])


@dataclass(slots=True)
class _Trial:
    """The automation while one case runs."""

    shaping: Shaping
    automation: Automation = field(default_factory=Automation)
    counts: Counter[str] = field(default_factory=lambda: Counter(sent=0, seen=0, matched=0))
    ended: list[Ended] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.automation.follow(self.shaping)

    def expire(self, now_ns: int) -> None:
        """Have what is over by then end."""
        self.ended += self.automation.expire(now_ns).ended

    def check(self, expectation: Expectation) -> list[Failure]:
        """Compare what is in force with what must be."""
        now_ns = START + expectation.at_ns
        self.expire(now_ns)
        held = in_force(self.automation.entries, now_ns)
        actual = [Actual.of(entry, now_ns) for entry in held]
        actual += [Actual.of_ended(ended) for ended in self.ended]
        differences = compare(expectation.entries, actual, exact=expectation.exact)
        if not differences:
            return []
        return [Failure(expectation.line, expectation.at_ns, tuple(differences))]


def describe_counts(counts: Mapping[str, int]) -> str:
    """How many records came, and what became of them."""
    sent, seen, matched = (counts[name] for name in ("sent", "seen", "matched"))
    text = f"{counted(sent, 'record')} sent, {seen} seen by rules, {matched} matched"
    rest = [f"{name} {counts[name]}" for name in _COUNTED if counts.get(name)]
    return one_line(f"{text}; left out: {', '.join(rest)}" if rest else text)
