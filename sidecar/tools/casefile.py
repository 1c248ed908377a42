"""The files of rule tests: TOML in, checked cases out.

A file names the shaping files and DNS zones it tests (relative to itself) and
holds cases: records, each with when and how often it comes, and what must be
in force at which moment.  :data:`FORMAT` says all of it, and is what
``tsa-sidecar test --help`` shows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sidecar.automation.address import recipient_domain
from sidecar.automation.life import State
from sidecar.problems import Problem, ProblemError
from sidecar.shaping.documents import DocumentError, parse_toml, quoted
from sidecar.shaping.source import SourceError, is_url, read_local

from .records import Response, parse_enhanced, parse_response
from .table import Table

FORMAT: Final = """\
shaping = ["rules.toml"]      # shaping files in merge order, or URLs
dns_zones = ["example.zone"]  # master files; other names do not exist

[[case]]
name = "three deferrals in a minute hold the ready queue"
domain = "example.com"        # what holds for every record of the case:
source = "ip1"                # domain, source, tenant, campaign, site, queue,
tenant = "t1"                 # type, recipient (text or array)

[[case.record]]
response = "421 4.7.0 slow down"  # or code, enhanced and content
times = 3                     # 1 unless given
every = "10s"                 # between one and the next
at = "0s"                     # of the first; else: with the record before

[[case.expect]]
at = "1m"                     # unless given, when the records above have come
suspended = [{source = "ip1", expires_in = "59m 20s"}]
overrides = [
  {domain = "example.com", option = "max_connection_rate", value = "10/m"},
]
bounced = []                  # only the keys that are given are compared
exact = true                  # false: others may be in force as well

[[case.expect]]
at = "2h"
nothing = true                # nothing is in force
ended = [{option = "max_connection_rate", how = "expired"}]
"""
"""The format by example.

A record may also be given whole, as kumod logs it: ``record = {type = "Bounce",
response = {code = 550, content = "…"}, …}``; what it lacks is filled in from the
other keys, and its time is the case's.  Unless given, the site is the one that the
zones' MX make, the queue is made of campaign, tenant and domain, and the type
goes by the code: TransientFailure, Bounce, Delivery.

Keys of an entry: ``overrides``: domain, mx_rollup, source, option, value;
``suspended``: site and source for a ready queue, domain, tenant and campaign for a
scheduled one; ``bounced``: domain, tenant, campaign; each: expires_in, counted from
``at``, simulated, and state: in force, adjusting, suspended, probing, bounced.  The value is
the one in force at that moment.  ``tenant = ""`` says that there is none.  An entry that a
simulated rule makes is compared only with those that say ``simulated = true``, and a
limit for the time after a suspension that lasts only with those that say
``state = "suspended"``.

``ended`` is what has ended so far, by the keys of all lists and ``how``: expired, released.
It says nothing of what is in force.
"""

_WHO: Final = ("domain", "recipient", "source", "site", "queue", "tenant", "campaign", "type")
_RESPONSE: Final = ("response", "code", "enhanced", "content", "record")
_WHEN: Final = ("at", "times", "every")
_SCHEDULED: Final = ("domain", "tenant", "campaign")
_EACH: Final = ("expires_in", "simulated", "state")
_OVERRIDE: Final = ("domain", "mx_rollup", "source", "option", "value")
_ENTRY: Final[Mapping[str, tuple[str, ...]]] = {
    "overrides": (*_OVERRIDE, *_EACH),
    "suspended": ("site", "source", *_SCHEDULED, *_EACH),
    "bounced": (*_SCHEDULED, *_EACH),
    "ended": (*_OVERRIDE, "site", "tenant", "campaign", "simulated", "how"),
}
_SAID: Final[Mapping[str, tuple[str, ...]]] = {
    "state": tuple(state.value for state in State if state is not State.FREE),
    "how": ("expired", "released"),
}
"""What a text key may say."""
_MOST_RECORDS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Given:
    """A record that comes ``times`` times, first at ``at_ns``, then ``every_ns`` apart.

    ``fields`` is what of a record was given whole, and overrides the rest.
    ``site`` None is the one that the MX make.
    """

    line: int
    response: Response
    fields: Mapping[str, Any]
    domain: str | None
    recipients: tuple[str, ...]
    source: str | None
    site: str | None
    queue: str
    type: str | None
    at_ns: int
    times: int
    every_ns: int

    @property
    def moments(self) -> Iterable[int]:
        """When it comes, ns after the case's start."""
        return (self.at_ns + n * self.every_ns for n in range(self.times))


@dataclass(frozen=True, slots=True)
class ExpectedEntry:
    """An entry that must be in force: ``kind`` is the list it is in, ``fields`` what is given."""

    line: int
    kind: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Expectation:
    """What must be in force ``at_ns`` after the start; ``exact``: and nothing else.

    ``in_place``: behind the records above it, and before those below it.
    """

    line: int
    at_ns: int
    in_place: bool
    entries: tuple[ExpectedEntry, ...]
    exact: bool


@dataclass(frozen=True, slots=True)
class Case:
    """One test: records come, and at some moments entries must be in force."""

    name: str
    line: int
    given: tuple[Given, ...]
    expectations: tuple[Expectation, ...]


@dataclass(frozen=True, slots=True)
class CaseFile:
    """A file of cases; ``shaping`` and ``dns_zones`` are paths (or URLs) from here."""

    file: str
    shaping: tuple[str, ...]
    dns_zones: tuple[Path, ...]
    cases: tuple[Case, ...]


async def read_cases(path: Path) -> CaseFile:
    """The cases in `path`; ProblemError with all that is wrong with it."""
    file = str(path)
    try:
        document = parse_toml(await read_local(file))
    except SourceError as error:
        raise ProblemError.one("bad-test-file", str(error), file=file) from None
    except DocumentError as error:
        message = f"not valid TOML: {error}"
        raise ProblemError.one("bad-toml", message, file=file, line=error.line) from None
    problems: list[Problem] = []
    root = Table(document, file, problems, document.data, (), "")
    cases = _file(root, path.parent)
    if problems:
        raise ProblemError(sorted(problems, key=lambda p: p.line or 0))
    return cases


def _file(root: Table, directory: Path) -> CaseFile:
    if "case" not in root.data and "shaping" not in root.data and root.data:
        root.error(
            "no-test-file",
            "is no file of tests (they have [[case]]): is it a shaping file? `tsa-sidecar check` "
            "checks those, `tsa-sidecar test --help` shows what tests look like",
        )
        return CaseFile(root.file, (), (), ())
    root.only(("shaping", "dns_zones", "case"))
    shaping = root.texts("shaping")
    if not shaping and not root.problems:
        root.error("no-shaping", 'no shaping files: name them, as in shaping = ["rules.toml"]')
    cases = [_case(table) for table in root.tables("case", "case")]
    if not cases and not root.problems:
        root.error("no-cases", "the file has no cases: begin one with [[case]]")
    return CaseFile(
        file=root.file,
        shaping=tuple(name if is_url(name) else str(directory / name) for name in shaping),
        dns_zones=tuple(directory / name for name in root.texts("dns_zones")),
        cases=tuple(cases),
    )


def _case(table: Table) -> Case:
    table.only(("name", "record", "expect", *_WHO))
    said = {key: table.data[key] for key in _WHO if key in table.data}
    given: list[Given] = []
    end = 0
    for record in table.tables("record", f"{table.where}, record", said):
        given.append(_given(record, end))
        end = given[-1].at_ns + (given[-1].times - 1) * given[-1].every_ns
    if sum(g.times for g in given) > _MOST_RECORDS:
        table.error("too-many", f"more than {_MOST_RECORDS} records")
    expectations = [
        _expectation(expect, _end_of(g for g in given if g.line <= expect.line))
        for expect in table.tables("expect", f"{table.where}, expect")
    ]
    if not expectations and not table.problems:
        table.error("no-expect", "the case expects nothing: say what with [[case.expect]]")
    name = table.text("name") or table.where
    return Case(name, table.line, tuple(given), tuple(expectations))


def _end_of(given: Iterable[Given]) -> int:
    """When the last of these records comes, ns after the case's start."""
    return max((max(g.at_ns, g.at_ns + (g.times - 1) * g.every_ns) for g in given), default=0)


# Records


def _given(table: Table, begin: int) -> Given:
    table.only((*_WHO, *_RESPONSE, *_WHEN))
    fields = table.get("record", "a table", dict) or {}
    if not _is_json(fields):
        table.error("bad-value", "holds what JSON has not: a date or time, inf or nan", "record")
    recipients = _recipients(table, fields)
    domain = table.text("domain")
    if domain is None and recipients:
        domain = _domain(recipients[0])
    if not recipients and domain is not None:
        recipients = (f"user@{domain}",)
    if not recipients:
        table.error("no-recipient", "say for whom, with domain or recipient")
    return Given(
        line=table.line,
        response=_response(table, fields),
        fields=fields,
        domain=domain,
        recipients=recipients,
        source=table.text("source"),
        site=table.text("site"),
        queue=_queue(table, domain or ""),
        type=table.text("type"),
        at_ns=table.duration("at", begin) or 0,
        times=table.count("times", least=1, most=_MOST_RECORDS) or 1,
        every_ns=table.duration("every", 0) or 0,
    )


def _is_json(fields: Mapping[str, Any]) -> bool:
    try:
        json.dumps(fields, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _recipients(table: Table, fields: Mapping[str, Any]) -> tuple[str, ...]:
    whole = fields.get("recipient")
    if isinstance(whole, str):
        return (whole,)
    if isinstance(whole, list) and all(isinstance(item, str) for item in whole):
        return tuple(whole)
    return table.texts("recipient")


def _domain(recipient: str) -> str | None:
    try:
        return recipient_domain(recipient)
    except ValueError:
        return None


def _queue(table: Table, domain: str) -> str:
    queue, tenant, campaign = (table.text(key) for key in ("queue", "tenant", "campaign"))
    if queue is not None:
        if {"tenant", "campaign"} & table.data.keys():
            message = "holds tenant and campaign itself: give one or the other"
            table.error("bad-value", message, "queue")
        return queue
    if campaign is not None:
        return f"{campaign}:{tenant or ''}@{domain}"
    return domain if tenant is None else f"{tenant}@{domain}"


def _response(table: Table, fields: Mapping[str, Any]) -> Response:
    """The response in whichever way it is given; an empty one, and an error, when there is none."""
    ways = [way for way in ("response", "code") if way in table.data]
    if "response" in fields:
        ways.append("record with a response")
    if len(ways) != 1:
        said = " and ".join(ways) or "none"
        message = f"wanted one response, found {said}: give response, code or a record with one"
        table.error("no-response", message)
    elif ways == ["response"]:
        return _raw_response(table)
    elif ways == ["code"]:
        return _response_in_parts(table)
    whole = fields.get("response")
    code = whole.get("code") if isinstance(whole, dict) else None
    return Response(code if isinstance(code, int) else 0, None, "")


def _raw_response(table: Table) -> Response:
    text = table.text("response")
    for key in ("enhanced", "content"):
        if key in table.data:
            table.error("bad-response", "goes with code, not with response", key)
    try:
        return parse_response("" if text is None else text)
    except ValueError as error:
        if text is not None:
            table.error("bad-response", str(error), "response")
    return Response(0, None, "")


def _response_in_parts(table: Table) -> Response:
    enhanced = table.text("enhanced")
    try:
        if enhanced is not None:
            parse_enhanced(enhanced)
    except ValueError as error:
        table.error("bad-response", str(error), "enhanced")
        enhanced = None
    code = table.count("code", least=0, most=65535)
    return Response(code or 0, enhanced, table.text("content") or "")


# Expectations


def _expectation(table: Table, last: int) -> Expectation:
    table.only(("at", *_ENTRY, "exact", "nothing"))
    nothing = table.flag("nothing", default=False)
    exact = table.flag("exact", default=True)
    entries = tuple(
        _entry(entry, kind)
        for kind in _ENTRY
        for entry in table.tables(kind, f"{table.where}, {kind}")
    )
    said = [kind for kind in _ENTRY if kind in table.data and kind != "ended"]
    if nothing and (said or not exact):
        table.error("bad-value", "nothing = true stands alone", "nothing")
    if not nothing and not said and "ended" not in table.data:
        message = f"say what is in force, with {', '.join(_ENTRY)} or nothing = true"
        table.error("no-expect", message)
    at_ns = table.duration("at", last)
    in_place = "at" not in table.data
    exact = exact and bool(nothing or said)
    return Expectation(table.line, last if at_ns is None else at_ns, in_place, entries, exact)


def _entry(table: Table, kind: str) -> ExpectedEntry:
    table.only(_ENTRY[kind])
    of_both = "site" in table.data and not set(_SCHEDULED).isdisjoint(table.data)
    if kind != "ended" and of_both:
        message = "a ready queue has site and source, a scheduled one domain, tenant, campaign"
        table.error("bad-value", message, "site")
    fields: dict[str, Any] = {"simulated": False}
    for key in table.data:
        if key == "expires_in":
            fields[key] = table.duration(key)
        elif key in ("mx_rollup", "simulated"):
            fields[key] = table.flag(key, default=False)
        elif key == "value":
            fields[key] = table.data[key]
        elif key in _ENTRY[kind]:
            fields[key] = table.text(key)
            known = _SAID.get(key, ())
            if known and fields[key] is not None and fields[key] not in known:
                message = f"found {quoted(fields[key])}: it is one of {', '.join(known)}"
                table.error("bad-value", message, key)
    return ExpectedEntry(table.line, kind, fields)
