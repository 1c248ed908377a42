"""The merge of shaping files.

In: files that were read, in order, and a resolver.  Out: a :class:`~.blocks.Shaping`.

Source: KumoMTA's documentation of ``kumo.shaping.load`` and the recordings.
What upstream does without saying so, and is kept because kumod does it:
``provider_max_message_rate`` counts only in the first file that names the
provider; ``mx_rollup`` is decided file by file; a site or domain whose first
block has ``replace_base`` discards the options of ``default`` and of providers.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from ..problems import Level, Problem, ProblemError
from ..times import NS
from .blocks import Block, ProviderBlock, Shaping, content_hash, overlay
from .documents import quoted
from .file import FileBlock, FileProvider, ProviderMatch, ShapingFile
from .hashes import hashed
from .mx import NEVER, MxAnswer, MxError, Resolver
from .names import count_labels, parse_name
from .options import PROVIDER_SELECTION_RATE, SCHEMA, Option, check_option, check_source_option
from .rules import Rule, Scope, TomlValue

CheckLevel = Literal["Ignore", "Warn", "Error"]
"""What becomes of a finding: nothing, a warning, an error that does not stop the load."""


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


RESOLVE_SECONDS: Final = 20.0
"""How long a load waits for the MX of all its domains."""

_ASKED_AT_ONCE: Final = 100
"""After so many questions other tasks have their turn: what is in memory is answered at once."""

_LEVELS: Final = (
    "provider_overlap",
    "dns_fail",
    "null_mx",
    "aliased_site",
    "remote_load",
    "local_load",
)


@dataclass(slots=True)
class Findings:
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

    def extend(self, other: Findings) -> None:
        self.fatal += other.fatal
        self.warnings += other.warnings
        self.errors += other.errors


async def merge_files(
    files: Sequence[ShapingFile],
    *,
    options: MergeOptions,
    resolver: Resolver,
    findings: Findings | None = None,
) -> Shaping:
    """Merge files that are read already; raises as :func:`load_shaping` does."""
    merge = _Merge(options, findings or Findings())
    await merge.resolve(files, resolver)
    # In a thread: thousands of rules must not stop the service that waits for them.
    return await asyncio.to_thread(merge.all_of, tuple(files))


@dataclass(slots=True)
class _MergedBlock:
    """What the files so far say of ``default``, a site, a domain or a provider."""

    first: FileBlock | FileProvider
    options: dict[str, Option]
    sources: dict[str, dict[str, Option]]
    rules: list[Rule]
    domains: list[str]
    matches: list[ProviderMatch] = field(default_factory=list)
    connection_limit: Option | None = None
    max_message_rate: Option | None = None

    @classmethod
    def of(cls, block: FileBlock | FileProvider) -> _MergedBlock:
        merged = cls(block, {}, {}, [], [])
        merged._replace(block)
        merged.domains.append(block.name)
        if isinstance(block, FileProvider):
            merged.max_message_rate = block.max_message_rate
        return merged

    def add(self, block: FileBlock | FileProvider) -> None:
        """Add what a later file says of the same."""
        self.domains.append(block.name)
        if block.replace_base:
            self._replace(block)
            return
        overlay(self.options, block.options)
        for source, source_options in block.sources.items():
            overlay(self.sources.setdefault(source, {}), source_options)
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
            rules=tuple(_in_scope(rule, scope, rollup=rollup) for rule in self.rules),
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
            rules=tuple(_in_scope(rule, scope, rollup=False) for rule in self.rules),
            matches=tuple(self.matches),
            connection_limit=self.connection_limit,
            max_message_rate=self.max_message_rate,
            file=self.first.file,
            line=self.first.line,
        )


def _in_scope(rule: Rule, scope: Scope, *, rollup: bool) -> Rule:
    """`rule` in its scope, with its hash."""
    return hashed(replace(rule, scope=scope, rollup=rollup))


class _Merge:
    """Files go in one after another; a Shaping comes out."""

    def __init__(self, options: MergeOptions, findings: Findings) -> None:
        self.options = options
        self.findings = findings
        self.default: _MergedBlock | None = None
        self.sites: dict[str, _MergedBlock] = {}
        self.domains: dict[str, _MergedBlock] = {}
        self.providers: dict[str, _MergedBlock] = {}
        self.mx: dict[str, MxAnswer | MxError] = {}
        self.ignored: list[FileBlock] = []

    async def resolve(self, files: Iterable[ShapingFile], resolver: Resolver) -> None:
        """Ask for the MX of every domain with ``mx_rollup``, all at once.

        A domain whose answer does not come in time counts as not resolved.  The
        resolver goes on asking, so the next load may have the answer.
        """
        domains = dict.fromkeys(
            block.name for file in files for block in file.domains if block.mx_rollup
        )
        deadline = asyncio.get_running_loop().time() + RESOLVE_SECONDS
        asked = []
        for number, domain in enumerate(domains, start=1):
            asked.append(asyncio.ensure_future(_ask(resolver, domain, deadline)))
            if number % _ASKED_AT_ONCE == 0:
                await asyncio.sleep(0)
        self.mx = dict(zip(domains, await asyncio.gather(*asked), strict=True))

    def all_of(self, files: tuple[ShapingFile, ...]) -> Shaping:
        """All `files` merged; ProblemError with what is wrong."""
        for file in files:
            self.add(file)
        self.find_stale_and_aliased()
        return self.finish(files)

    def add(self, file: ShapingFile) -> None:
        """Merge one file."""
        if file.default is not None:
            if self.default is None:
                self.default = _MergedBlock.of(file.default)
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
            self.findings.warnings.append(_warning(block, "one-label-domain", message))
        if not block.mx_rollup:
            _add(self.domains, block.name, block)
            return
        mx = self.mx[block.name]
        if isinstance(mx, MxError):
            message = f"{mx}; what the file says of that domain is ignored"
            self._ignore(block, self.options.dns_fail, _warning(block, "mx-failed", message))
        elif mx.is_null:
            message = (
                f"domain {block.name} has a null MX, so it belongs to no site and can't have "
                "mx_rollup = true; what the file says of it is ignored"
            )
            self._ignore(block, self.options.null_mx, _warning(block, "null-mx", message))
        else:
            _add(self.sites, mx.site_name, block)

    def _ignore(self, block: FileBlock, level: CheckLevel, problem: Problem) -> None:
        self.ignored.append(block)
        self.findings.at(level, problem)

    def find_stale_and_aliased(self) -> None:
        """Note MX answers that could not be renewed, and sites that several tables share."""
        for answer in self.mx.values():
            if isinstance(answer, MxAnswer) and answer.stale is not None:
                message = (
                    f"MX for {answer.domain} can't be refreshed ({answer.stale}); "
                    "the last good answer stands"
                )
                self.findings.warnings.append(Problem("warning", "mx-stale", message))
        for site, merged in self.sites.items():
            if len(merged.domains) > 1:
                message = (
                    f"several domain tables are of the same site {site}: "
                    f"{', '.join(merged.domains)}; what they say is merged"
                )
                self.findings.at(
                    self.options.aliased_site, _warning(merged.first, "aliased-site", message)
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
                    self.options.provider_overlap, _warning(block, "provider-overlap", message)
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
        longest = max((_longest(rule) for rule in rules), default=0)
        period = max((_period(rule) for rule in rules), default=0)
        return replace(shaping, hash=content_hash(shaping), horizon_ns=longest + period * NS)

    def _check_options(self, files: Iterable[ShapingFile]) -> None:
        """Note wrong options: an error where the merge keeps one, a warning where it does not."""
        default = [] if self.default is None else [self.default]
        left = [*default, *self.sites.values(), *self.domains.values(), *self.providers.values()]
        found = [
            problem
            for merged in left
            for name, option, of_provider in merged.all_options()
            for problem in _wrong(name, option, of_provider=of_provider)
        ]
        self.findings.fatal += (p for p in found if p.level == "error")
        self.findings.warnings += dict.fromkeys(p for p in found if p.level == "warning")
        self.findings.warnings += _shadowed(files, {(p.file, p.line, p.message) for p in found})


def _period(rule: Rule) -> int:
    """Over how many seconds the rule counts."""
    if rule.sidecar.ratio is not None:
        return rule.sidecar.ratio.period
    return 0 if rule.trigger is None else rule.trigger.period


def _longest(rule: Rule) -> int:
    """About how long what a match does may last."""
    adjust, escalate = rule.sidecar.adjust, rule.sidecar.escalate
    longest = rule.duration_ns
    if escalate is not None:
        longest = max(longest, escalate.max_ns)
    if rule.sidecar.probe is not None:
        longest += rule.sidecar.probe.for_ns
    if adjust is not None:
        # Twenty doublings, then even steps, thrice halved for care, then twenty that widen.
        longest = max(longest, adjust.every_ns * (40 + math.ceil(4 / adjust.up)))
    return longest


def _shadowed(
    files: Iterable[ShapingFile], found: set[tuple[str | None, int | None, str]]
) -> Iterator[Problem]:
    """What is wrong with options that the merge has replaced."""
    for file in files:
        for block in file.blocks:
            of_domain = isinstance(block, FileBlock) and block is not file.default
            one_label = of_domain and _has_one_label(block.name)
            for name, option, of_provider in _MergedBlock.of(block).all_options():
                # [gmail.com] without quotes has a finding of its own.
                if one_label and isinstance(option.value, dict):
                    continue
                for problem in _wrong(name, option, of_provider=of_provider):
                    if (problem.file, problem.line, problem.message) not in found:
                        message = (
                            f"{problem.message} "
                            "(loads only because nothing of it is left after the merge)"
                        )
                        yield replace(problem, level="warning", message=message)


def _wrong(name: str, option: Option, *, of_provider: bool) -> Iterator[Problem]:
    """What is wrong with one option.

    Upstream does not look at ``provider_source_selection_rate`` while it loads;
    kumod then fails every path of the provider, so it is a warning here.
    """
    lenient = of_provider and name == PROVIDER_SELECTION_RATE
    level: Level = "warning" if lenient else "error"
    check = check_source_option if of_provider else check_option
    parts: list[tuple[TomlValue, Option]] = [(option.value, option)]
    if option.inner:
        parts = [({key: inner.value}, inner) for key, inner in option.inner.items()]
    for value, origin in parts:
        for reason in check(name, value):
            known = name in SCHEMA or lenient
            where = f"{origin.scope} {name}" if known else origin.scope
            code = "bad-value" if known else "unknown-option"
            yield Problem(level, code, reason, origin.file, origin.line, where)


async def _ask(resolver: Resolver, domain: str, deadline: float) -> MxAnswer | MxError:
    try:
        async with asyncio.timeout_at(deadline):
            return await resolver.resolve(domain)
    except MxError as err:
        return err
    except TimeoutError:
        reason = f"no answer within {RESOLVE_SECONDS:g} s"
        known = resolver.remembered(domain)
        if known is not None:
            return replace(known, stale=reason)
        return MxError(domain, reason, retry_ns=0)


def _expiry(answer: MxAnswer | MxError) -> int:
    return answer.expires_ns if isinstance(answer, MxAnswer) else answer.retry_ns


def _add(blocks: dict[str, _MergedBlock], name: str, block: FileBlock | FileProvider) -> None:
    if name in blocks:
        blocks[name].add(block)
    else:
        blocks[name] = _MergedBlock.of(block)


def _warning(block: FileBlock | FileProvider, code: str, message: str) -> Problem:
    return Problem("warning", code, message, block.file, block.line)


def _has_one_label(domain: str) -> bool:
    try:
        return count_labels(parse_name(domain)) == 1
    except ValueError:
        return False
