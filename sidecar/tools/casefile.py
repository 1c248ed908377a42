"""The files of rule tests: TOML in, checked cases out.

A file names the shaping files and DNS zones it tests (relative to itself) and
holds cases: records, each with when and how often it comes, and what must be
in force at which moment.  :data:`FORMAT` says all of it, and is what
``tsa-sidecar test --help`` shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sidecar.automation.address import recipient_domain
from sidecar.problems import Problem, ProblemError
from sidecar.shaping.documents import Document, DocumentError, parse_toml
from sidecar.shaping.documents import Path as Keys
from sidecar.shaping.options import suggestion
from sidecar.shaping.source import SourceError, is_url, read_local
from sidecar.shaping.specs import parse_duration, shown

from .records import Response, parse_enhanced, parse_response

FORMAT: Final = """\
shaping = ["rules.toml"]         # shaping files in merge order, relative to this file, or URLs
dns_zones = ["example.zone"]     # master files; a name in none of them does not exist

[[case]]
name = "three deferrals in a minute hold the ready queue"
domain = "example.com"           # these hold for every record of the case:
source = "ip1"                   # domain, recipient (text or array), source, site, queue,
tenant = "t1"                    # tenant, campaign, type

[[case.record]]
response = "421 4.7.0 slow down" # or code = 421, enhanced = "4.7.0", content = "slow down"
times = 3                        # 1 unless given
every = "10s"                    # between one and the next
at = "0s"                        # when the first comes; unless given, with the record before

[[case.expect]]
at = "1m"                        # unless given, the moment of the last record
suspended = [{source = "ip1", expires_in = "59m 20s"}]
overrides = [{domain = "example.com", option = "max_connection_rate", value = "10/m"}]
bounced = []                     # only the keys that are given are compared
exact = true                     # false: other entries may be in force as well

[[case.expect]]
at = "2h"
nothing = true                   # in force
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
``at``.  ``tenant = ""`` says that there is none.
"""

_WHO: Final = ("domain", "recipient", "source", "site", "queue", "tenant", "campaign", "type")
_RESPONSE: Final = ("response", "code", "enhanced", "content", "record")
_WHEN: Final = ("at", "times", "every")
_SCHEDULED: Final = ("domain", "tenant", "campaign")
_ENTRY: Final[Mapping[str, tuple[str, ...]]] = {
    "overrides": ("domain", "mx_rollup", "source", "option", "value", "expires_in"),
    "suspended": ("site", "source", *_SCHEDULED, "expires_in"),
    "bounced": (*_SCHEDULED, "expires_in"),
}
_MOST_RECORDS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Given:
    """A record that comes ``times`` times, first at ``at_ns``, then ``every_ns`` apart.

    ``response`` is None only where ``fields``, what of a record was given whole,
    has one.  ``site`` None is the one that the MX make.
    """

    line: int
    response: Response | None
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
    """What must be in force ``at_ns`` after the start; ``exact``: and nothing else."""

    line: int
    at_ns: int
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
    root = _Table(document, file, problems, document.data, (), "")
    cases = _file(root, path.parent)
    if problems:
        raise ProblemError(sorted(problems, key=lambda p: p.line or 0))
    return cases


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of the file: reads its keys, and notes what is wrong with them."""

    document: Document
    file: str
    problems: list[Problem]
    data: Mapping[str, Any]
    path: Keys
    where: str
    inherited: Mapping[str, Any] = field(default_factory=dict)

    @property
    def line(self) -> int:
        return self.document.line(self.path)

    def error(self, code: str, message: str, key: str | None = None) -> None:
        path = self.path if key is None else (*self.path, key)
        if key is not None and key not in self.data and key in self.inherited:
            path = (*self.path[:2], key)  # it stands in the case
        where = " ".join(part for part in (self.where, key or "") if part)
        line = self.document.line(path)
        self.problems.append(Problem("error", code, message, self.file, line, where or None))

    def only(self, known: Sequence[str]) -> None:
        """Refuse every other key."""
        for key in self.data:
            if key not in known:
                hint = suggestion(key, known) or f"; known are {', '.join(known)}"
                path = (*self.path, key)
                message = f"unknown key {shown(key)}{hint}"
                line = self.document.line(path)
                where = self.where or None
                self.problems.append(
                    Problem("error", "unknown-key", message, self.file, line, where)
                )

    def get(self, key: str, wanted: str, kind: type | tuple[type, ...]) -> Any:
        """The value of `key`, or what the case says, or None; None and an error when it is off."""
        value = self.data.get(key, self.inherited.get(key))
        if value is None:
            return None
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.error("bad-value", f"found {shown(value)}, wanted {wanted}", key)
            return None
        return value

    def text(self, key: str) -> str | None:
        value: str | None = self.get(key, "a string", str)
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        value = self.get(key, "true or false", bool)
        return default if value is None else value

    def texts(self, key: str) -> tuple[str, ...]:
        """An array of strings; a single one stands for an array of one."""
        value = self.get(key, "a string or an array of strings", (str, list))
        items = [value] if isinstance(value, str) else value or []
        if not all(isinstance(item, str) for item in items):
            self.error("bad-value", f"found {shown(value)}, wanted strings", key)
            return ()
        return tuple(items)

    def count(self, key: str, *, least: int, most: int) -> int | None:
        value: int | None = self.get(key, "a whole number", int)
        if value is not None and not least <= value <= most:
            self.error("bad-value", f"found {value}, wanted {least} to {most}", key)
            return None
        return value

    def duration(self, key: str, default: int | None = None) -> int | None:
        """A duration in ns."""
        value = self.get(key, "a duration", (str, int, float))
        if value is None:
            return default
        try:
            return parse_duration(value)
        except ValueError as error:
            self.error("bad-duration", str(error), key)
            return default

    def tables(
        self, key: str, where: str, inherited: Mapping[str, Any] | None = None
    ) -> list[_Table]:
        """The tables of an array of tables; a single table stands for an array of one."""
        value = self.data.get(key, [])
        one = isinstance(value, dict)
        items = [value] if one else value
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            self.error("bad-value", f"found {shown(value)}, wanted tables", key)
            return []
        return [
            _Table(
                self.document,
                self.file,
                self.problems,
                item,
                (*self.path, key) if one else (*self.path, key, number),
                f"{where} {number + 1}".lstrip(),
                inherited or {},
            )
            for number, item in enumerate(items)
        ]


def _file(root: _Table, directory: Path) -> CaseFile:
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


def _case(table: _Table) -> Case:
    table.only(("name", "record", "expect", *_WHO))
    said = {key: table.data[key] for key in _WHO if key in table.data}
    given: list[Given] = []
    end = 0
    for record in table.tables("record", f"{table.where}, record", said):
        given.append(_given(record, end))
        end = given[-1].at_ns + (given[-1].times - 1) * given[-1].every_ns
    if sum(g.times for g in given) > _MOST_RECORDS:
        table.error("too-many", f"more than {_MOST_RECORDS} records")
    last = max((max(g.at_ns, g.at_ns + (g.times - 1) * g.every_ns) for g in given), default=0)
    expectations = [
        _expectation(expect, last) for expect in table.tables("expect", f"{table.where}, expect")
    ]
    if not expectations and not table.problems:
        table.error("no-expect", "the case expects nothing: say what with [[case.expect]]")
    name = table.text("name") or table.where
    return Case(name, table.line, tuple(given), tuple(expectations))


# Records


def _given(table: _Table, begin: int) -> Given:
    table.only((*_WHO, *_RESPONSE, *_WHEN))
    fields = table.get("record", "a table", dict) or {}
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


def _recipients(table: _Table, fields: Mapping[str, Any]) -> tuple[str, ...]:
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


def _queue(table: _Table, domain: str) -> str:
    queue, tenant, campaign = (table.text(key) for key in ("queue", "tenant", "campaign"))
    if queue is not None:
        if {"tenant", "campaign"} & table.data.keys():
            message = "holds tenant and campaign itself: give one or the other"
            table.error("bad-value", message, "queue")
        return queue
    if campaign is not None:
        return f"{campaign}:{tenant or ''}@{domain}"
    return domain if tenant is None else f"{tenant}@{domain}"


def _response(table: _Table, fields: Mapping[str, Any]) -> Response | None:
    code = table.count("code", least=0, most=65535)
    text, enhanced, content = (table.text(key) for key in ("response", "enhanced", "content"))
    ways = [
        w
        for w, is_given in (
            ("response", text is not None),
            ("code", code is not None),
            ("record", "response" in fields),
        )
        if is_given
    ]
    if len(ways) != 1:
        if {"response", "code"}.isdisjoint(table.data) or len(ways) > 1:
            said = " and ".join(ways) if ways else "none"
            message = f"wanted one response ({said} given): response, code or a record with one"
            table.error("no-response", message)
        return None
    if code is None and (enhanced is not None or content is not None):
        table.error("no-response", "enhanced and content go with code")
    try:
        if text is not None:
            return parse_response(text)
        if code is not None:
            if enhanced is not None:
                parse_enhanced(enhanced)
            return Response(code, enhanced, content or "")
    except ValueError as error:
        table.error("bad-response", str(error), "response" if text is not None else "enhanced")
    return None


# Expectations


def _expectation(table: _Table, last: int) -> Expectation:
    table.only(("at", *_ENTRY, "exact", "nothing"))
    nothing = table.flag("nothing", default=False)
    exact = table.flag("exact", default=True)
    entries = tuple(
        _entry(entry, kind)
        for kind in _ENTRY
        for entry in table.tables(kind, f"{table.where}, {kind}")
    )
    said = [kind for kind in _ENTRY if kind in table.data]
    if nothing and (said or not exact):
        table.error("bad-value", "nothing = true stands alone", "nothing")
    if not nothing and not said:
        message = f"say what is in force, with {', '.join(_ENTRY)} or nothing = true"
        table.error("no-expect", message)
    at_ns = table.duration("at", last)
    return Expectation(table.line, last if at_ns is None else at_ns, entries, exact)


def _entry(table: _Table, kind: str) -> ExpectedEntry:
    table.only(_ENTRY[kind])
    if "site" in table.data and not {"domain", "tenant", "campaign"}.isdisjoint(table.data):
        message = "a ready queue has site and source, a scheduled one domain, tenant, campaign"
        table.error("bad-value", message, "site")
    fields: dict[str, Any] = {}
    for key in table.data:
        if key == "expires_in":
            fields[key] = table.duration(key)
        elif key == "mx_rollup":
            fields[key] = table.flag(key, default=False)
        elif key == "value":
            fields[key] = table.data[key]
        elif key in _ENTRY[kind]:
            fields[key] = table.text(key)
    return ExpectedEntry(table.line, kind, fields)
