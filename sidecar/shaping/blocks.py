"""The merged files as values, and what they say of a domain, a source and a site.

In: a domain, its MX, an egress source, a site name.  Out: the providers it
belongs to, the options in effect.  How the blocks come about is :mod:`.merge`.

Source: KumoMTA's documentation of ``kumo.shaping.load`` and the recordings'
``egress_path``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from ..problems import Problem
from .documents import quoted
from .file import ProviderMatch, ShapingFile, Sources
from .hashes import hashed
from .mx import NEVER, MxAnswer
from .names import is_name
from .options import MERGEABLE, PROVIDER_SELECTION_RATE, Option
from .rules import Rule

Options = Mapping[str, Option]


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
    matches: tuple[ProviderMatch, ...]
    connection_limit: Option | None
    max_message_rate: Option | None
    file: str
    line: int


_Block = TypeVar("_Block", Block, ProviderBlock)


@dataclass(frozen=True, slots=True, eq=False)
class Shaping:
    """The merged files.  Immutable; equal content has an equal ``hash``.

    ``errors`` are findings that the merge options call errors although the
    files load.  ``remote`` says of each file by URL that did not come, whatever the
    merge options make of it: an error where nothing stands in for it, a warning where
    the last good copy does.  ``mx`` holds the answers for domains with ``mx_rollup``,
    ``unresolved`` the domains whose blocks are ignored for want of one, with
    the reason.  ``expires_ns`` is when the first of those is worth asking
    again, ``horizon_ns`` how far back records can matter: the longest duration
    plus the longest period of a threshold or a share.
    """

    files: tuple[ShapingFile, ...]
    default: Block | None
    providers: Mapping[str, ProviderBlock]
    sites: Mapping[str, Block]
    domains: Mapping[str, Block]
    warnings: tuple[Problem, ...] = ()
    errors: tuple[Problem, ...] = ()
    remote: tuple[Problem, ...] = ()
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
        # Only a name has providers.  Upstream asks for literals and ports here, too.
        if is_name(domain):
            self._apply_providers(options, domain, source, mx)
        blocks = [b for b in (self.sites.get(site), self._domain(domain)) if b is not None]
        for block in blocks:
            _apply(options, block)
        for block in blocks:
            overlay(options, block.sources.get(source, {}))
        return options

    def _domain(self, domain: str) -> Block | None:
        return self.default if domain == "default" else self.domains.get(domain)

    def _apply_providers(
        self, options: dict[str, Option], domain: str, source: str, mx: MxAnswer | None
    ) -> None:
        fitting = [p for p in self.providers.values() if self.provider_matches(p, domain, mx)]
        for provider in fitting:
            overlay(options, provider.options)
            overlay(options, _implied(provider, source, options))
        for provider in fitting:
            if source in provider.sources:
                overlay(options, provider.sources[source])
                overlay(options, _implied(provider, source, options))


def _bare(name: str) -> str:
    """A name without its final dot; case and everything else stay, as upstream has it."""
    return name.removesuffix(".")


def _host_matches(host: str, match: ProviderMatch) -> bool:
    if match.kind == "MXSuffix":
        return _bare(host).endswith(match.text)
    return match.kind == "HostName" and _bare(host) == match.text


def _apply(options: dict[str, Option], block: Block) -> None:
    if block.replace_base:
        options.clear()
    overlay(options, block.options)


def overlay(options: dict[str, Option], later: Options) -> None:
    """Set the options of `later` in `options`; mergeable tables are merged by inner key."""
    for name, option in later.items():
        earlier = options.get(name) if name in MERGEABLE else None
        options[name] = option if earlier is None else _merged(earlier, option)


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


def all_simulated(shaping: Shaping) -> Shaping:
    """The same, and every rule is one that is only simulated."""

    def simulate(block: _Block) -> _Block:
        tables = ((rule, replace(rule.sidecar, simulate=True)) for rule in block.rules)
        rules = tuple(hashed(replace(rule, sidecar=table)) for rule, table in tables)
        return replace(block, rules=rules)

    result = replace(
        shaping,
        default=None if shaping.default is None else simulate(shaping.default),
        providers={name: simulate(block) for name, block in shaping.providers.items()},
        sites={name: simulate(block) for name, block in shaping.sites.items()},
        domains={name: simulate(block) for name, block in shaping.domains.items()},
    )
    return replace(result, hash=content_hash(result))


def content_hash(shaping: Shaping) -> str:
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
