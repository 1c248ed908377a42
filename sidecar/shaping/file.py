"""One shaping file: from a document to blocks, rules and options, each with its line.

In: a :class:`~.documents.Document`.  Out: a :class:`ShapingFile` and all that
is wrong with it.  What is checked here is what upstream checks while it reads a
file: rules, providers' matches and limits, the types of ``mx_rollup`` and its
like.  Options of blocks are checked after the merge (:mod:`.merge`), for only
those that are left count.

Source: KumoMTA's documentation of ``kumo.shaping.load``.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast, get_args

from ..fancy.pattern import Pattern, PatternError, compile_pattern
from ..problems import Level, Problem
from .documents import Data, Document, Path, quoted
from .options import MERGEABLE, SCHEMA, Option, check_option, suggestion
from .rules import Action, ActionKind, Rule, Scope, SidecarTable, Threshold, TomlValue
from .sidecar_table import CODE, TABLE, read_table
from .specs import parse_duration, parse_limit, parse_throttle, shown

MatchKind = Literal["MXSuffix", "DomainSuffix", "HostName"]
_MATCH_KINDS: Final = get_args(MatchKind)
_ACTION_KINDS: Final = get_args(ActionKind)
_SETTERS: Final = ("SetConfig", "SetDomainConfig")
_RULE_KEYS: Final = ("regex", "action", "trigger", "duration", "match_internal", TABLE)
BLOCK_KEYS: Final = ("mx_rollup", "replace_base", "automation", "sources")
PROVIDER_KEYS: Final = (
    "match",
    "replace_base",
    "automation",
    "sources",
    "provider_connection_limit",
    "provider_max_message_rate",
)
_KNOWN_KEYS: Final = frozenset(
    (
        *BLOCK_KEYS,
        *PROVIDER_KEYS,
        *_RULE_KEYS,
        *_SETTERS,
        *_MATCH_KINDS,
        "Threshold",
        "name",
        "value",
    )
)

# Two backslashes where one was meant: before a character that a single one escapes.
_DOUBLED: Final = re.compile(r"(?<!\\)\\\\[][(){}.*+?^$|/dDwWsSbBnrtpP-]")

Sources = Mapping[str, Mapping[str, Option]]
"""Egress source → its options."""


@dataclass(frozen=True, slots=True)
class ProviderMatch:
    """One entry of a provider's ``match`` list."""

    kind: MatchKind
    text: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class FileBlock:
    """What one file says of ``default`` or of a domain."""

    name: str
    file: str
    line: int
    mx_rollup: bool
    replace_base: bool
    options: Mapping[str, Option]
    sources: Sources
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class FileProvider:
    """What one file says of a provider.  The limits are canonical texts."""

    name: str
    file: str
    line: int
    matches: tuple[ProviderMatch, ...]
    replace_base: bool
    connection_limit: Option | None
    max_message_rate: Option | None
    options: Mapping[str, Option]
    sources: Sources
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class ShapingFile:
    """One file, read and checked; tables in the order in which they stand there.

    ``hints`` are doubts that need the text as written, for :mod:`.lint`.
    """

    name: str
    default: FileBlock | None = None
    domains: tuple[FileBlock, ...] = ()
    providers: tuple[FileProvider, ...] = ()
    hints: tuple[Problem, ...] = ()

    @property
    def blocks(self) -> tuple[FileBlock | FileProvider, ...]:
        """Every table of the file."""
        default = () if self.default is None else (self.default,)
        return (*default, *self.domains, *self.providers)


def read_file(document: Document, name: str) -> tuple[ShapingFile, list[Problem]]:
    """The shaping file in `document`, as far as it can be read, and what is wrong with it."""
    reader = _Reader(document, name)
    return reader.read(), reader.problems


class _Reader:
    """Reads one document, collecting problems as it goes."""

    def __init__(self, document: Document, file: str) -> None:
        self.document = document
        self.file = file
        self.problems: list[Problem] = []
        self.hints: list[Problem] = []
        self.patterns: dict[str, Pattern] = {}

    def read(self) -> ShapingFile:
        self._duplicates()
        data = self.document.data
        default = None
        if data.get("default") is not None:
            default = self._block("default", data["default"], ("default",))
        domains = [
            self._block(name, raw, (name,))
            for name, raw in data.items()
            if name not in ("default", "provider")
        ]
        providers = []
        if "provider" in data and self._is_table(data["provider"], ("provider",), "[provider]"):
            providers = [
                self._provider(name, raw, ("provider", name))
                for name, raw in data["provider"].items()
            ]
        return ShapingFile(
            self.file,
            default,
            tuple(block for block in domains if block is not None),
            tuple(provider for provider in providers if provider is not None),
            tuple(self.hints),
        )

    # Problems

    def _note(self, level: Level, code: str, message: str, path: Path, where: str) -> None:
        line = self.document.line(path)
        self.problems.append(Problem(level, code, message, self.file, line, where or None))

    def _error(self, code: str, message: str, path: Path, where: str) -> None:
        self._note("error", code, message, path, where)

    def _is_table(self, raw: object, path: Path, where: str) -> bool:
        if isinstance(raw, dict):
            return True
        found = "an array of tables ([[…]])" if _is_tables(raw) else shown(raw)
        self._error("not-a-table", f"must be a table, found {found}", path, where)
        return False

    def _duplicates(self) -> None:
        for path, line in self.document.duplicates:
            key = path[-1]
            known = key in ("default", "provider") if len(path) == 1 else key in _KNOWN_KEYS
            known = known and TABLE not in path  # upstream looks at nothing within it
            level: Level = "error" if known else "warning"
            remedy = "remove one" if known else "only the last one counts"
            where = " ".join(quoted(str(k)) for k in path[:-1]) or None
            self.problems.append(
                Problem(
                    level,
                    "duplicate-key",
                    f"key {shown(key)} is there twice: {remedy}",
                    self.file,
                    line,
                    where,
                )
            )

    # Tables

    def _block(self, name: str, raw: object, path: Path) -> FileBlock | None:
        table = "default" if path == ("default",) else quoted(name)
        if not self._is_table(raw, path, f"[{table}]"):
            if not _is_tables(raw) and table != "default":
                self.problems[-1] = self._not_a_block(name, raw, path)
            return None
        assert isinstance(raw, dict)
        return FileBlock(
            name=name,
            file=self.file,
            line=self.document.line(path),
            mx_rollup=self._flag(raw, "mx_rollup", path, table, default=True),
            replace_base=self._flag(raw, "replace_base", path, table, default=False),
            options=self._options(raw, path, table, BLOCK_KEYS),
            sources=self._sources(raw, path, table),
            rules=self._rules(raw, path, table),
        )

    def _not_a_block(self, name: str, raw: object, path: Path) -> Problem:
        message = (
            f"found {shown(raw)}, wanted a table: at the top of a file stand only "
            "[default], [provider.NAME] and domains"
        )
        if not check_option(name, _plain_or_none(raw)):
            message += (
                '; did you mean to write it in [default] or in a domain like ["example.com"]?'
            )
        line = self.document.line(path)
        return Problem("error", "not-a-table", message, self.file, line, quoted(name))

    def _provider(self, name: str, raw: object, path: Path) -> FileProvider | None:
        table = f"provider.{quoted(name)}"
        if not self._is_table(raw, path, f"[{table}]"):
            return None
        assert isinstance(raw, dict)
        return FileProvider(
            name=name,
            file=self.file,
            line=self.document.line(path),
            matches=self._matches(raw, path, table),
            replace_base=self._flag(raw, "replace_base", path, table, default=False),
            connection_limit=self._provider_limit(raw, "provider_connection_limit", path, table),
            max_message_rate=self._provider_limit(raw, "provider_max_message_rate", path, table),
            options=self._options(raw, path, table, PROVIDER_KEYS),
            sources=self._sources(raw, path, table),
            rules=self._rules(raw, path, table),
        )

    def _flag(self, raw: Data, key: str, path: Path, table: str, *, default: bool) -> bool:
        value = raw.get(key, default)
        if isinstance(value, bool):
            return value
        message = f"found {shown(value)}, wanted true or false (without quotes)"
        self._error("bad-value", message, (*path, key), f"[{table}] {key}")
        return default

    def _options(
        self, raw: Data, path: Path, table: str, known: tuple[str, ...] = ()
    ) -> Mapping[str, Option]:
        options = {}
        for key, raw_value in raw.items():
            if key in known:
                continue
            option = self._option(raw_value, (*path, key), table)
            if option is not None:
                options[key] = option
        return options

    def _option(self, raw: object, path: Path, table: str) -> Option | None:
        key = str(path[-1])
        line = self.document.line(path)
        try:
            value = _plain(raw)
        except ValueError as err:
            self._error("bad-value", str(err), path, f"[{table}] {key}")
            return None
        inner: dict[str, Option] = {}
        if key in MERGEABLE and isinstance(value, dict):
            inner = {
                k: Option(v, self.file, self.document.line((*path, k)), f"[{table}]")
                for k, v in value.items()
            }
        return Option(value, self.file, line, f"[{table}]", inner)

    def _sources(self, raw: Data, path: Path, table: str) -> Sources:
        path = (*path, "sources")
        raw_sources = raw.get("sources", {})
        if not self._is_table(raw_sources, path, f"[{table}.sources]"):
            return {}
        sources = {}
        for name, raw_options in raw_sources.items():
            inner = f"{table}.sources.{quoted(name)}"
            if self._is_table(raw_options, (*path, name), f"[{inner}]"):
                sources[name] = self._options(raw_options, (*path, name), inner)
        return sources

    # Providers

    def _provider_limit(self, raw: Data, key: str, path: Path, table: str) -> Option | None:
        value = raw.get(key)
        if value is None:
            return None
        path = (*path, key)
        try:
            limit = parse_limit(value) if key.endswith("limit") else parse_throttle(value)
        except ValueError as err:
            self._error("bad-value", str(err), path, f"[{table}] {key}")
            return None
        return Option(str(limit), self.file, self.document.line(path), f"[{table}]")

    def _matches(self, raw: Data, path: Path, table: str) -> tuple[ProviderMatch, ...]:
        raw_matches = raw.get("match", [])
        path = (*path, "match")
        where = f"[{table}] match"
        if not isinstance(raw_matches, list):
            self._error("bad-match", f"found {shown(raw_matches)}, wanted an array", path, where)
            return ()
        found = [
            self._match(item, (*path, i), f"{where} {i + 1}") for i, item in enumerate(raw_matches)
        ]
        return tuple(match for match in found if match is not None)

    def _match(self, raw: object, path: Path, where: str) -> ProviderMatch | None:
        wanted = 'wanted {MXSuffix="…"}, {HostName="…"} or {DomainSuffix="…"}'
        if not isinstance(raw, dict) or len(raw) != 1:
            found = f"a table with {len(raw)} keys" if isinstance(raw, dict) else shown(raw)
            self._error("bad-match", f"found {found}, {wanted}", path, where)
            return None
        ((kind, text),) = raw.items()
        if kind not in _MATCH_KINDS:
            hint = suggestion(kind, _MATCH_KINDS)
            self._error("bad-match", f"found {shown(kind)}{hint}, {wanted}", path, where)
            return None
        if not isinstance(text, str):
            self._error("bad-match", f"{kind}: found {shown(text)}, wanted a string", path, where)
            return None
        return ProviderMatch(kind, text, self.file, self.document.line(path))

    # Rules

    def _rules(self, raw: Data, path: Path, table: str) -> tuple[Rule, ...]:
        raw_rules = raw.get("automation", [])
        path = (*path, "automation")
        if not isinstance(raw_rules, list):
            message = f"found {shown(raw_rules)}, wanted rules: write [[{table}.automation]]"
            self._error("bad-rule", message, path, f"[{table}.automation]")
            return ()
        found = [self._rule(item, (*path, i), table, i + 1) for i, item in enumerate(raw_rules)]
        return tuple(rule for rule in found if rule is not None)

    def _rule(self, raw: object, path: Path, table: str, number: int) -> Rule | None:
        where = f"[[{table}.automation]] rule {number}"
        if not isinstance(raw, dict):
            self._error("bad-rule", f"found {shown(raw)}, wanted a table", path, where)
            return None
        self._unknown_keys(raw, _RULE_KEYS, path, where)
        missing = [key for key in ("regex", "action", "duration") if key not in raw]
        for key in missing:
            hint = suggestion(key, (k for k in raw if k not in _RULE_KEYS))
            self._error("missing-key", f"{key} is missing{hint}", path, where)
        regexes = self._regexes(raw.get("regex", []), (*path, "regex"), where)
        actions = self._actions(raw.get("action", []), (*path, "action"), where)
        trigger = self._trigger(raw.get("trigger", "Immediate"), (*path, "trigger"), where)
        duration_ns = self._duration(raw.get("duration", 0), (*path, "duration"), where)
        internal = raw.get("match_internal", False)
        if not isinstance(internal, bool):
            message = f"match_internal: found {shown(internal)}, wanted true or false"
            self._error("bad-value", message, (*path, "match_internal"), where)
        return Rule(
            regexes=regexes,
            actions=actions,
            trigger=trigger,
            duration_ns=duration_ns,
            match_internal=internal is True,
            rollup=False,
            scope=Scope("default"),
            file=self.file,
            line=self.document.line(path),
            number=number,
            table=table,
            sidecar=self._sidecar(raw, (*path, TABLE), where),
        )

    def _sidecar(self, raw: Data, path: Path, where: str) -> SidecarTable:
        """Our own keys of a rule; what is wrong with them is a warning."""

        def say(key: str | None, message: str) -> None:
            self._note("warning", CODE, message, path if key is None else (*path, key), where)

        return read_table(raw.get(TABLE, {}), say)

    def _unknown_keys(self, raw: Data, known: tuple[str, ...], path: Path, where: str) -> None:
        """Upstream ignores them without a word."""
        for key in raw:
            if key not in known:
                hint = suggestion(key, known) or f": keys are {', '.join(known)}"
                message = f"key {shown(key)} means nothing and is ignored{hint}"
                self._note("warning", "unknown-key", message, (*path, key), where)

    def _regexes(self, raw: object, path: Path, where: str) -> tuple[Pattern, ...]:
        items = raw if isinstance(raw, list) else [raw]
        patterns = []
        for i, item in enumerate(items):
            item_path = (*path, i) if isinstance(raw, list) else path
            if not isinstance(item, str):
                message = f"regex: found {shown(item)}, wanted a string or an array of strings"
                self._error("bad-regex", message, item_path, where)
                continue
            if item_path in self.document.literals:
                self._doubled_backslash(item, item_path, where)
            try:
                patterns.append(self._pattern(item))
            except PatternError as err:
                self._error("bad-regex", f"regex {shown(item)}: {err}", item_path, where)
        return tuple(patterns)

    def _pattern(self, source: str) -> Pattern:
        """The compiled regex; each text once, for big files repeat theirs."""
        if source not in self.patterns:
            self.patterns[source] = compile_pattern(source)
        return self.patterns[source]

    def _doubled_backslash(self, regex: str, path: Path, where: str) -> None:
        m = _DOUBLED.search(regex)
        if m is not None:
            message = (
                f"regex {shown(regex)}: in single quotes a backslash is written once; {m[0]} "
                f"looks for a backslash in the response, {m[0][1:]} is what a response can match"
            )
            line = self.document.line(path)
            self.hints.append(
                Problem("warning", "doubled-backslash", message, self.file, line, where)
            )

    def _actions(self, raw: object, path: Path, where: str) -> tuple[Action, ...]:
        if not isinstance(raw, list):
            action = self._action(raw, path, where)
            return () if action is None else (action,)
        found = [self._action(item, (*path, i), where) for i, item in enumerate(raw)]
        return tuple(action for action in found if action is not None)

    def _action(self, raw: object, path: Path, where: str) -> Action | None:
        kind, argument = _variant(raw)
        if kind not in _ACTION_KINDS:
            hint = suggestion(kind, _ACTION_KINDS) if kind is not None else ""
            found = shown(raw) if kind is None else shown(kind)
            message = f"action: found {found}{hint}, wanted one of {', '.join(_ACTION_KINDS)}"
            self._error("bad-action", message, path, where)
            return None
        if kind in _SETTERS:
            return self._setter(kind, argument, path, where)
        if argument is not None:
            self._error("bad-action", f'action: write just "{kind}"', path, where)
            return None
        return Action(cast("ActionKind", kind))

    def _setter(self, kind: Any, raw: object, path: Path, where: str) -> Action | None:
        if not isinstance(raw, dict) or not isinstance(raw.get("name"), str) or "value" not in raw:
            message = f"action: {kind} wants an option: {{{kind}={{name=…, value=…}}}}"
            self._error("bad-action", message, path, where)
            return None
        path = (*path, kind)
        self._unknown_keys(raw, ("name", "value"), path, where)
        name = raw["name"]
        try:
            value = _plain(raw["value"])
        except ValueError as err:
            self._error("bad-action", f"{kind} {name}: {err}", path, where)
            return None
        reasons = check_option(name, value)
        known = name in SCHEMA
        for reason in reasons:
            message = f"{kind} {name}: {reason}" if known else f"{kind}: {reason}"
            self._error("bad-value" if known else "unknown-option", message, path, where)
        return None if reasons else Action(kind, name, value)

    def _trigger(self, raw: object, path: Path, where: str) -> Threshold | None:
        kind, argument = _variant(raw)
        if kind == "Immediate" and argument is None:
            return None
        if kind != "Threshold" or argument is None:
            message = f'trigger: found {shown(raw)}, wanted "Immediate" or {{Threshold="N/period"}}'
            self._error("bad-trigger", message, path, where)
            return None
        try:
            spec = parse_throttle(argument)
        except ValueError as err:
            self._error("bad-trigger", f"trigger: {err}", path, where)
            return None
        assert isinstance(argument, str)
        return Threshold(spec.limit, spec.period, argument)

    def _duration(self, raw: object, path: Path, where: str) -> int:
        try:
            return parse_duration(raw)
        except ValueError as err:
            self._error("bad-duration", str(err), path, where)
            return 0


def _variant(raw: object) -> tuple[str | None, Any]:
    """``"Name"`` or ``{Name=argument}``; (None, None) for anything else."""
    if isinstance(raw, str):
        return raw, None
    if isinstance(raw, dict) and len(raw) == 1:
        ((kind, argument),) = raw.items()
        return kind, argument
    return None, None


def _is_tables(raw: object) -> bool:
    return isinstance(raw, list) and bool(raw) and all(isinstance(item, dict) for item in raw)


def _plain(raw: object) -> TomlValue:
    """`raw` as an option may hold it; ValueError for dates, null and integers beyond 64 bits."""
    match raw:
        case bool() | float() | str():
            return raw
        case int():
            if not -(2**63) <= raw < 2**63:
                raise ValueError(f"the number {shown(raw)} is too large")
            return raw
        case list():
            return [_plain(item) for item in raw]
        case dict():
            return {key: _plain(item) for key, item in raw.items()}
        case None:
            raise ValueError("found null: leave the key out instead")
        case datetime.date() | datetime.time():
            raise ValueError(f"found the date or time {raw}: write it in quotes")
        case _:
            raise ValueError(f"found {shown(raw)}")


def _plain_or_none(raw: object) -> TomlValue:
    try:
        return _plain(raw)
    except ValueError:
        return {}
