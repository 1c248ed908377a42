"""Shaping files merged into one: what holds for which domain, site and source.

In: the names of files, a resolver for MX, options of the merge.  Out: a
:class:`Shaping`, immutable; ProblemError with everything that is wrong when
upstream would not load the files.

Source: KumoMTA's documentation of ``kumo.shaping.load`` and the recordings.
What upstream does without saying so, and is kept because kumod does it:
``provider_max_message_rate`` counts only in the first file that names the
provider; ``mx_rollup`` is decided file by file; a site or domain whose first
block has ``replace_base`` discards the options of ``default`` and of providers.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, get_args

from ..problems import Level, Problem, ProblemError
from ..times import NS
from .documents import DocumentError
from .load import FileBlock, FileProvider, Match, ShapingFile, Sources, quoted, read_file
from .mx import NEVER, MxAnswer, MxError, Resolver
from .names import count_labels, is_name, parse_name
from .options import (
    MERGEABLE,
    PROVIDER_SELECTION_RATE,
    SCHEMA,
    Option,
    check_option,
    check_source_option,
)
from .rules import Rule, Scope, rule_hash
from .source import SourceError, fetch, formats, is_url, parse, read_local

CheckLevel = Literal["Ignore", "Warn", "Error"]
"""What becomes of a finding: nothing, a warning, an error that does not stop the load."""

Options = Mapping[str, Option]


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeOptions:
    """How strict a load is, as in ``kumo.shaping.load``; ``http_timeout`` in seconds."""

    provider_overlap: CheckLevel = "Ignore"
    dns_fail: CheckLevel = "Ignore"
    null_mx: CheckLevel = "Ignore"
    aliased_site: CheckLevel = "Ignore"
    remote_load: CheckLevel = "Ignore"
    local_load: CheckLevel = "Error"
    skip_remote: bool = False
    http_timeout: float = 5.0

    @classmethod
    def from_mapping(cls, settings: Mapping[str, str | bool | int]) -> MergeOptions:
        """From checked settings, where ``http_timeout`` is in nanoseconds."""
        values: dict[str, Any] = dict(settings)
        if "http_timeout" in values:
            values["http_timeout"] = values["http_timeout"] / NS
        return cls(**values)

    @classmethod
    def all_warn(cls) -> MergeOptions:
        """Every finding as a warning, for checks."""
        levels: dict[str, Any] = dict.fromkeys(_LEVELS, "Warn")
        return cls(**levels)


_LEVELS: Final = (
    "provider_overlap",
    "dns_fail",
    "null_mx",
    "aliased_site",
    "remote_load",
    "local_load",
)


@dataclass(frozen=True, slots=True)
class Block:
    """What the files say together of ``default``, of a site or of a domain.

    ``name`` is ``default``, the site name or the domain; ``domains`` are the
    tables it was made of, one a file, in order.
    """

    name: str
    options: Options
    sources: Sources
    rules: tuple[Rule, ...]
    replace_base: bool
    domains: tuple[str, ...]
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class ProviderBlock:
    """What the files say together of a provider."""

    name: str
    options: Options
    sources: Sources
    rules: tuple[Rule, ...]
    matches: tuple[Match, ...]
    connection_limit: Option | None
    max_message_rate: Option | None
    file: str
    line: int


@dataclass(frozen=True, slots=True, eq=False)
class Shaping:
    """The merged files.  Immutable; equal content has an equal ``hash``.

    ``errors`` are findings that the merge options call errors although the
    files load.  ``mx`` holds the answers for domains with ``mx_rollup``,
    ``unresolved`` the domains whose blocks are ignored for want of one, with
    the reason.  ``expires_ns`` is when the first of those is worth asking
    again, ``horizon_ns`` how far back records can matter: the longest duration
    plus the longest period of a threshold.
    """

    files: tuple[ShapingFile, ...]
    default: Block | None
    providers: Mapping[str, ProviderBlock]
    sites: Mapping[str, Block]
    domains: Mapping[str, Block]
    warnings: tuple[Problem, ...] = ()
    errors: tuple[Problem, ...] = ()
    mx: Mapping[str, MxAnswer] = field(default_factory=dict)
    unresolved: Mapping[str, str] = field(default_factory=dict)
    expires_ns: int = NEVER
    hash: str = ""
    horizon_ns: int = 0

    def all_rules(self) -> tuple[Rule, ...]:
        """Every rule: of default, the providers, the sites, the domains."""
        default = () if self.default is None else (self.default,)
        blocks: tuple[Block | ProviderBlock, ...] = (
            *default,
            *self.providers.values(),
            *self.sites.values(),
            *self.domains.values(),
        )
        return tuple(rule for block in blocks for rule in block.rules)

    def provider_matches(self, provider: ProviderBlock, domain: str, mx: MxAnswer | None) -> bool:
        """Whether `domain` belongs to `provider`; `mx` None when it does not resolve."""
        if any(
            m.kind == "DomainSuffix" and _bare(domain).endswith(m.text) for m in provider.matches
        ):
            return True
        if mx is None or not self.needs_mx(provider, domain):
            return False
        return all(
            any(_host_matches(host, match) for match in provider.matches) for host in mx.hosts
        )

    def needs_mx(self, provider: ProviderBlock, domain: str) -> bool:
        """Whether it takes the MX of `domain` to tell if it belongs to `provider`."""
        if not any(m.kind != "DomainSuffix" for m in provider.matches):
            return False
        return not any(
            m.kind == "DomainSuffix" and _bare(domain).endswith(m.text) for m in provider.matches
        )

    def egress_path(
        self, domain: str, source: str, site: str, mx: MxAnswer | None
    ) -> dict[str, Option]:
        """The options in effect for mail to `domain` from `source` at the site named `site`.

        Each step overrides the one before: default; each fitting provider; those
        providers' tables for the source; the site; the domain; the site's, then
        the domain's table for the source.
        """
        options: dict[str, Option] = {}
        if self.default is not None:
            _apply(options, self.default)
        # Providers are for names only: upstream asks with other things here, too.
        if is_name(domain):
            self._apply_providers(options, domain, source, mx)
        blocks = [b for b in (self.sites.get(site), self._domain(domain)) if b is not None]
        for block in blocks:
            _apply(options, block)
        for block in blocks:
            _overlay(options, block.sources.get(source, {}))
        return options

    def _domain(self, domain: str) -> Block | None:
        return self.default if domain == "default" else self.domains.get(domain)

    def _apply_providers(
        self, options: dict[str, Option], domain: str, source: str, mx: MxAnswer | None
    ) -> None:
        fitting = [p for p in self.providers.values() if self.provider_matches(p, domain, mx)]
        for provider in fitting:
            _overlay(options, provider.options)
            _overlay(options, _implied(provider, source, options))
        for provider in fitting:
            if source in provider.sources:
                _overlay(options, provider.sources[source])
                _overlay(options, _implied(provider, source, options))


def _bare(name: str) -> str:
    """A name without its final dot; case and everything else stay, as upstream has it."""
    return name.removesuffix(".")


def _host_matches(host: str, match: Match) -> bool:
    if match.kind == "MXSuffix":
        return _bare(host).endswith(match.text)
    return match.kind == "HostName" and _bare(host) == match.text


def _apply(options: dict[str, Option], block: Block) -> None:
    if block.replace_base:
        options.clear()
    _overlay(options, block.options)


def _overlay(options: dict[str, Option], later: Options) -> None:
    """Set the options of `later` in `options`; mergeable tables are merged by inner key."""
    for name, option in later.items():
        earlier = options.get(name)
        if name in MERGEABLE and earlier is not None:
            option = _merged(earlier, option)
        options[name] = option


def _merged(earlier: Option, later: Option) -> Option:
    if not isinstance(earlier.value, dict) or not isinstance(later.value, dict):
        return later
    return replace(
        later, value={**earlier.value, **later.value}, inner={**earlier.inner, **later.inner}
    )


def _implied(provider: ProviderBlock, source: str, options: dict[str, Option]) -> Options:
    """What belonging to a provider sets: its name, and its limits as tables shared per source."""
    prefix = f"shaping-provider-{provider.name}-{source}"
    scope = f"[provider.{quoted(provider.name)}]"
    implied = {"provider_name": Option(provider.name, provider.file, provider.line, scope)}
    for table, suffix, option in (
        ("additional_connection_limits", "limit", provider.connection_limit),
        ("additional_message_rate_throttles", "rate", provider.max_message_rate),
        (
            "additional_source_selection_rates",
            "selection-rate",
            options.pop(PROVIDER_SELECTION_RATE, None),
        ),
    ):
        if option is not None:
            key = f"{prefix}-{suffix}"
            implied[table] = replace(option, value={key: option.value}, inner={key: option})
    return implied


async def load_shaping(
    files: Sequence[str],
    *,
    options: MergeOptions,
    resolver: Resolver,
    copies: MutableMapping[str, str] | None = None,
) -> Shaping:
    """Read and merge `files`, in this order.

    `copies` holds the last good text of each URL: it stands in, with a warning,
    while the URL can't be fetched, and is brought up to date by a load that
    succeeds.  ProblemError with every error in every file when they don't load.
    """
    findings = _Findings()
    kept: MutableMapping[str, str] = {} if copies is None else copies
    results = await asyncio.gather(*(_read(name, options, kept) for name in files))
    loaded = []
    for result in results:
        findings.extend(result.findings)
        loaded.append(result.file)
    shaping = await merge_files(loaded, options=options, resolver=resolver, findings=findings)
    for result in results:
        if result.text is not None:
            kept[result.file.name] = result.text
    return shaping


@dataclass(slots=True)
class _Findings:
    """Problems by what they do: fail the load, or be shown with it."""

    fatal: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    errors: list[Problem] = field(default_factory=list)

    def at(self, level: CheckLevel, problem: Problem) -> None:
        """Note `problem` at the level that a merge option gives it."""
        if level == "Warn":
            self.warnings.append(replace(problem, level="warning"))
        elif level == "Error":
            self.errors.append(replace(problem, level="error"))

    def extend(self, other: _Findings) -> None:
        self.fatal += other.fatal
        self.warnings += other.warnings
        self.errors += other.errors


@dataclass(slots=True)
class _Read:
    """One file as read; ``text`` only for what came fresh from a URL."""

    file: ShapingFile
    findings: _Findings = field(default_factory=_Findings)
    text: str | None = None


async def _read(name: str, options: MergeOptions, copies: Mapping[str, str]) -> _Read:
    remote = is_url(name)
    result = _Read(ShapingFile(name))
    level = options.remote_load if remote else options.local_load
    if remote and options.skip_remote:
        result.findings.warnings.append(
            Problem("warning", "skip-remote", "is ignored because skip_remote is set", name)
        )
        return result
    try:
        text = await (fetch(name, options.http_timeout) if remote else read_local(name))
    except SourceError as err:
        return _without(result, name, str(err), copies, level)
    _take(result, text, level)
    if remote and not result.findings.fatal:
        result.text = text
    return result


def _without(
    result: _Read, name: str, reason: str, copies: Mapping[str, str], level: CheckLevel
) -> _Read:
    """What becomes of a file that can't be read: the last good copy, or nothing."""
    if is_url(name) and name in copies:
        _take(result, copies[name], level)
        message = f"{reason}; the last good copy stands in"
        result.findings.warnings.append(Problem("warning", "remote-load", message, name))
        return result
    code = "remote-load" if is_url(name) else "local-load"
    message = f"can't be loaded and is left out: {reason}"
    result.findings.at(level, Problem("error", code, message, name))
    return result


def _take(result: _Read, text: str, level: CheckLevel) -> None:
    """Parse `text` into `result`.

    A file whose name says its format must be right; one that does not is left
    out, at `level`, when it is right in neither format.
    """
    name = result.file.name
    kinds = formats(name)
    attempts = [_attempt(name, kind, text) for kind in kinds]
    good = next((a for a in attempts if not any(p.level == "error" for p in a[1])), None)
    if good is not None:
        result.file, problems = good
        result.findings.warnings += problems
    elif len(kinds) == 1:
        result.file, problems = attempts[0]
        result.findings.fatal += (p for p in problems if p.level == "error")
        result.findings.warnings += (p for p in problems if p.level == "warning")
    else:
        looks_json = text.lstrip().startswith("{")
        for problem in attempts[kinds.index(".json" if looks_json else ".toml")][1]:
            message = f"{problem.message} (the file is left out: it is neither TOML nor JSON)"
            result.findings.at(level, replace(problem, message=message))


def _attempt(name: str, kind: str, text: str) -> tuple[ShapingFile, list[Problem]]:
    try:
        document = parse(kind, text)
    except DocumentError as err:
        syntax = "TOML" if kind == ".toml" else "JSON"
        message = f"not valid {syntax}: {err}"
        return ShapingFile(name), [
            Problem("error", f"bad-{syntax.lower()}", message, name, err.line)
        ]
    file, problems = read_file(document, name)
    if document.comment_line is not None:
        message = (
            "JSON has no comments: read here all the same, but kumod itself will refuse this file"
        )
        problems.append(Problem("warning", "json-comments", message, name, document.comment_line))
    return file, problems


async def merge_files(
    files: Sequence[ShapingFile],
    *,
    options: MergeOptions,
    resolver: Resolver,
    findings: _Findings | None = None,
) -> Shaping:
    """Merge files that are read already; raises as :func:`load_shaping` does."""
    merge = _Merge(options, findings or _Findings())
    await merge.resolve(files, resolver)
    for file in files:
        merge.add(file)
    await merge.find_aliases_and_overlaps(resolver)
    return merge.finish(tuple(files))


@dataclass(slots=True)
class _Building:
    """A block in the making."""

    first: FileBlock | FileProvider
    options: dict[str, Option]
    sources: dict[str, dict[str, Option]]
    rules: list[Rule]
    domains: list[str]
    matches: list[Match] = field(default_factory=list)
    connection_limit: Option | None = None
    max_message_rate: Option | None = None

    @classmethod
    def of(cls, block: FileBlock | FileProvider) -> _Building:
        building = cls(block, {}, {}, [], [])
        building._replace(block)
        building.domains.append(block.name)
        if isinstance(block, FileProvider):
            building.max_message_rate = block.max_message_rate
        return building

    def add(self, block: FileBlock | FileProvider) -> None:
        """What a later file says of the same."""
        self.domains.append(block.name)
        if block.replace_base:
            self._replace(block)
            return
        _overlay(self.options, block.options)
        for source, source_options in block.sources.items():
            _overlay(self.sources.setdefault(source, {}), source_options)
        self.rules += block.rules
        if isinstance(block, FileProvider):
            self.matches += block.matches
            self.connection_limit = block.connection_limit or self.connection_limit

    def _replace(self, block: FileBlock | FileProvider) -> None:
        self.options = dict(block.options)
        self.sources = {source: dict(options) for source, options in block.sources.items()}
        self.rules = list(block.rules)
        if isinstance(block, FileProvider):
            self.matches = list(block.matches)
            self.connection_limit = block.connection_limit

    def all_options(self) -> Iterator[tuple[str, Option, bool]]:
        """Each option with its name; True for a provider's ``sources``."""
        yield from ((name, option, False) for name, option in self.options.items())
        of_provider = isinstance(self.first, FileProvider)
        for options in self.sources.values():
            yield from ((name, option, of_provider) for name, option in options.items())

    def block(self, name: str, scope: Scope, *, rollup: bool) -> Block:
        return Block(
            name=name,
            options=self.options,
            sources=self.sources,
            rules=tuple(_placed(rule, scope, rollup=rollup) for rule in self.rules),
            replace_base=self.first.replace_base,
            domains=tuple(self.domains),
            file=self.first.file,
            line=self.first.line,
        )

    def provider(self, name: str) -> ProviderBlock:
        scope = Scope("provider", name)
        return ProviderBlock(
            name=name,
            options=self.options,
            sources=self.sources,
            rules=tuple(_placed(rule, scope, rollup=False) for rule in self.rules),
            matches=tuple(self.matches),
            connection_limit=self.connection_limit,
            max_message_rate=self.max_message_rate,
            file=self.first.file,
            line=self.first.line,
        )


def _placed(rule: Rule, scope: Scope, *, rollup: bool) -> Rule:
    """The rule with what its place decides."""
    digest = rule_hash(
        rule.regexes, rule.actions, rule.trigger, rule.duration_ns, rule.match_internal, rollup
    )
    return replace(rule, scope=scope, rollup=rollup, hash=digest)


class _Merge:
    """Files go in one after another; a Shaping comes out."""

    def __init__(self, options: MergeOptions, findings: _Findings) -> None:
        self.options = options
        self.findings = findings
        self.default: _Building | None = None
        self.sites: dict[str, _Building] = {}
        self.domains: dict[str, _Building] = {}
        self.providers: dict[str, _Building] = {}
        self.mx: dict[str, MxAnswer | MxError] = {}
        self.ignored: list[FileBlock] = []

    async def resolve(self, files: Iterable[ShapingFile], resolver: Resolver) -> None:
        """Ask for the MX of every domain with ``mx_rollup``, all at once."""
        domains = dict.fromkeys(
            block.name for file in files for block in file.domains if block.mx_rollup
        )
        answers = await asyncio.gather(*(_ask(resolver, domain) for domain in domains))
        self.mx = dict(zip(domains, answers, strict=True))

    def add(self, file: ShapingFile) -> None:
        """Merge one file."""
        if file.default is not None:
            if self.default is None:
                self.default = _Building.of(file.default)
            else:
                self.default.add(file.default)
        for block in file.domains:
            self._add_domain(block)
        for provider in file.providers:
            _add(self.providers, provider.name, provider)

    def _add_domain(self, block: FileBlock) -> None:
        if _has_one_label(block.name):
            message = (
                f"domain {quoted(block.name)} is a single label; a domain needs quotes, as in "
                f'["{block.name}.com"], or TOML takes each dot for a table within a table'
            )
            self.findings.warnings.append(_at(block, "one-label-domain", message))
        if not block.mx_rollup:
            _add(self.domains, block.name, block)
            return
        mx = self.mx[block.name]
        if isinstance(mx, MxError):
            message = f"{mx}; what the file says of that domain is ignored"
            self._ignore(block, self.options.dns_fail, _at(block, "mx-failed", message))
        elif mx.is_null:
            message = (
                f"domain {block.name} has a null MX, so it belongs to no site and can't have "
                "mx_rollup = true; what the file says of it is ignored"
            )
            self._ignore(block, self.options.null_mx, _at(block, "null-mx", message))
        else:
            _add(self.sites, mx.site_name, block)

    def _ignore(self, block: FileBlock, level: CheckLevel, problem: Problem) -> None:
        self.ignored.append(block)
        self.findings.at(level, problem)

    async def find_aliases_and_overlaps(self, resolver: Resolver) -> None:
        """Sites that several tables make, and domains with a table that a provider has too."""
        for answer in self.mx.values():
            if isinstance(answer, MxAnswer) and answer.stale is not None:
                message = f"MX for {answer.domain} can't be refreshed ({answer.stale}); the last good answer stands"
                self.findings.warnings.append(Problem("warning", "mx-stale", message))
        for site, building in self.sites.items():
            if len(building.domains) > 1:
                message = (
                    f"several domain tables are of the same site {site}: "
                    f"{', '.join(building.domains)}; what they say is merged"
                )
                self.findings.at(
                    self.options.aliased_site, _at(building.first, "aliased-site", message)
                )

    def _overlaps(self, shaping: Shaping) -> None:
        for domain, answer in self.mx.items():
            mx = answer if isinstance(answer, MxAnswer) else None
            fitting = [
                p.name
                for p in shaping.providers.values()
                if shaping.provider_matches(p, domain, mx)
            ]
            if fitting:
                message = f"domain {domain} is also matched by provider(s): {', '.join(fitting)}"
                block = next(b for f in shaping.files for b in f.domains if b.name == domain)
                self.findings.at(
                    self.options.provider_overlap, _at(block, "provider-overlap", message)
                )

    def finish(self, files: tuple[ShapingFile, ...]) -> Shaping:
        """The merged result; ProblemError with everything that fails the load."""
        self._check_options(files)
        if self.findings.fatal:
            raise ProblemError(
                [*self.findings.fatal, *self.findings.errors, *self.findings.warnings]
            )
        shaping = self._shaping(files)
        self._overlaps(shaping)
        return replace(
            shaping, warnings=tuple(self.findings.warnings), errors=tuple(self.findings.errors)
        )

    def _shaping(self, files: tuple[ShapingFile, ...]) -> Shaping:
        shaping = Shaping(
            files=files,
            default=None
            if self.default is None
            else self.default.block("default", Scope("default"), rollup=True),
            providers={name: b.provider(name) for name, b in self.providers.items()},
            sites={n: b.block(n, Scope("site", n), rollup=True) for n, b in self.sites.items()},
            domains={
                n: b.block(n, Scope("domain", n), rollup=False) for n, b in self.domains.items()
            },
            mx={d: a for d, a in self.mx.items() if isinstance(a, MxAnswer)},
            unresolved={d: a.reason for d, a in self.mx.items() if isinstance(a, MxError)},
            expires_ns=min((_expiry(a) for a in self.mx.values()), default=NEVER),
        )
        rules = shaping.all_rules()
        longest = max((rule.duration_ns for rule in rules), default=0)
        period = max((rule.trigger.period for rule in rules if rule.trigger is not None), default=0)
        return replace(shaping, hash=_hash(shaping), horizon_ns=longest + period * NS)

    def _check_options(self, files: Iterable[ShapingFile]) -> None:
        """Options that are left after the merge must be right; of others a warning will do."""
        default = [] if self.default is None else [self.default]
        left = [*default, *self.sites.values(), *self.domains.values(), *self.providers.values()]
        fatal = [
            problem
            for building in left
            for name, option, of_provider in building.all_options()
            for problem in _wrong(name, option, of_provider=of_provider)
        ]
        self.findings.fatal += (p for p in fatal if p.level == "error")
        seen = {(p.file, p.line, p.message) for p in fatal}
        shadowed = (
            problem
            for file in files
            for block in file.blocks
            for name, option, of_provider in _Building.of(block).all_options()
            if not (_has_one_label(block.name) and isinstance(option.value, dict))
            for problem in _wrong(name, option, of_provider=of_provider)
        )
        for problem in (*(p for p in fatal if p.level == "warning"), *shadowed):
            if (problem.file, problem.line, problem.message) not in seen:
                message = (
                    f"{problem.message} (loads only because nothing of it is left after the merge)"
                )
                problem = replace(problem, level="warning", message=message)
                self.findings.warnings.append(problem)
            elif problem.level == "warning" and problem not in self.findings.warnings:
                self.findings.warnings.append(problem)


def _wrong(name: str, option: Option, *, of_provider: bool) -> Iterator[Problem]:
    """What is wrong with one option.

    Upstream does not look at ``provider_source_selection_rate`` while it loads;
    kumod then fails every path of the provider, so it is a warning here.
    """
    lenient = of_provider and name == PROVIDER_SELECTION_RATE
    level: Level = "warning" if lenient else "error"
    check = check_source_option if of_provider else check_option
    parts = [({key: inner.value}, inner) for key, inner in option.inner.items()]
    for value, origin in parts or [(option.value, option)]:
        for reason in check(name, value):
            known = name in SCHEMA or lenient
            where = (
                f"{option.scope if not parts else origin.scope} {name}" if known else origin.scope
            )
            code = "bad-value" if known else "unknown-option"
            yield Problem(level, code, reason, origin.file, origin.line, where)


async def _ask(resolver: Resolver, domain: str) -> MxAnswer | MxError:
    try:
        return await resolver.resolve(domain)
    except MxError as err:
        return err


def _expiry(answer: MxAnswer | MxError) -> int:
    return answer.expires_ns if isinstance(answer, MxAnswer) else answer.retry_ns


def _add(buildings: dict[str, _Building], name: str, block: FileBlock | FileProvider) -> None:
    if name in buildings:
        buildings[name].add(block)
    else:
        buildings[name] = _Building.of(block)


def _at(block: FileBlock | FileProvider, code: str, message: str) -> Problem:
    return Problem("warning", code, message, block.file, block.line)


def _has_one_label(domain: str) -> bool:
    try:
        return count_labels(parse_name(domain)) == 1
    except ValueError:
        return False


def _hash(shaping: Shaping) -> str:
    """What the files come to, whatever they are called and however they are laid out."""

    def values(options: Options) -> dict[str, Any]:
        return {name: option.value for name, option in options.items()}

    def content(block: Block | ProviderBlock) -> dict[str, Any]:
        result: dict[str, Any] = {
            "options": values(block.options),
            "sources": {source: values(options) for source, options in block.sources.items()},
            "rules": [rule.hash for rule in block.rules],
        }
        if isinstance(block, Block):
            return {**result, "replace_base": block.replace_base}
        limits = (block.connection_limit, block.max_message_rate)
        result["limits"] = [None if limit is None else limit.value for limit in limits]
        result["match"] = [[m.kind, m.text] for m in block.matches]
        return result

    everything = {
        "default": None if shaping.default is None else content(shaping.default),
        "providers": [[name, content(block)] for name, block in shaping.providers.items()],
        "sites": {name: content(block) for name, block in shaping.sites.items()},
        "domains": {name: content(block) for name, block in shaping.domains.items()},
    }
    text = json.dumps(everything, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()
