"""Doubts about merged shaping files, for ``tsa-sidecar check``: what loads but can't work.

In: a :class:`~.blocks.Shaping`.  Out: warnings, each with file and line, of what is
certainly or very probably a mistake.  The findings of the load itself are not among them
(``Shaping.warnings`` and ``errors``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from ..fancy.never import why_never
from ..fancy.pattern import Pattern
from ..problems import Problem
from .adjust import unfit
from .amounts import MEASURED, amount, by_default
from .blocks import Block, Options, ProviderBlock, Shaping
from .documents import quoted
from .escalate import pointless
from .file import FileBlock, ProviderMatch
from .names import parse_name
from .options import Option, canonical, suggestion
from .probe import no_probe
from .ratio import misplaced
from .release import no_release
from .rules import Action, Rule, When
from .sidecar_table import CODE
from .specs import shown

_AnyBlock = Block | ProviderBlock

RESERVED: Final = ("default", "provider", "sources", "automation", "match")
"""Words that mean something in a shaping file, but are no domains."""


def lint(shaping: Shaping) -> list[Problem]:
    """Every doubt about `shaping`, by file and line.

    Findings that a merge option governs are made here whatever its level, so
    load with those options at ``Ignore`` (their default) to have them once:
    failed and null MX, aliased sites (of different domains: one domain in two
    files is how files are layered), domains that a provider matches as well.
    """
    found = [
        *(hint for file in shaping.files for hint in file.hints),
        *_names(shaping),
        *_mx(shaping),
        *_overlaps(shaping),
        *_providers(shaping),
        *_rules(shaping),
        *_shared_names(shaping),
    ]
    unique = dict.fromkeys(found)
    return sorted(unique, key=lambda p: (p.file or "", p.line or 0, p.code))


def _warn(code: str, message: str, file: str, line: int, where: str | None = None) -> Problem:
    return Problem("warning", code, message, file, line, where)


def _tables(shaping: Shaping) -> Iterator[FileBlock]:
    for file in shaping.files:
        yield from file.domains


# Names and MX


def _names(shaping: Shaping) -> Iterator[Problem]:
    """Tables called like something that is no domain."""
    for table in _tables(shaping):
        name = table.name
        if "." in name:
            continue
        if name in RESERVED:
            hint = f": at the top of a file it is a domain called {shown(name)}"
        elif not (hint := suggestion(name, RESERVED[:2])):
            continue
        message = f"[{name}] is no table with a meaning of its own{hint}"
        yield _warn("reserved-name", message, table.file, table.line)


def _mx(shaping: Shaping) -> Iterator[Problem]:
    """Domain tables that belong to no site, or together to one."""
    by_site: dict[str, dict[str, FileBlock]] = {}
    for table in _tables(shaping):
        if not table.mx_rollup:
            continue
        lost = "its rules never apply" if table.rules else "what it says never applies"
        where = f"[{quoted(table.name)}]"
        reason = shaping.unresolved.get(table.name)
        mx = shaping.mx.get(table.name)
        if reason is not None:
            message = (
                f"the MX does not resolve ({reason}), so {lost}; "
                "write mx_rollup = false if it is no mail domain"
            )
            yield _warn("mx-failed", message, table.file, table.line, where)
        elif mx is not None and mx.is_null:
            message = f"the domain has a null MX and takes no mail, so {lost}"
            yield _warn("null-mx", message, table.file, table.line, where)
        elif mx is not None:
            by_site.setdefault(mx.site_name, {}).setdefault(table.name, table)
    for site, tables in by_site.items():
        if len(tables) > 1:
            *others, last = tables.values()
            named = ", ".join(f"{t.name} ({t.file}:{t.line})" for t in others)
            message = f"is of the same site as {named}: what they say is merged for {site}"
            yield _warn("aliased-site", message, last.file, last.line, f"[{quoted(last.name)}]")


def _overlaps(shaping: Shaping) -> Iterator[Problem]:
    """Domains with a table of their own that belong to a provider too."""
    for table in {t.name: t for t in _tables(shaping) if t.mx_rollup}.values():
        mx = shaping.mx.get(table.name)
        providers = [
            p.name
            for p in shaping.providers.values()
            if shaping.provider_matches(p, table.name, mx)
        ]
        if providers:
            message = (
                f"the domain also belongs to provider {', '.join(providers)}: "
                "both apply, the domain's table last"
            )
            where = f"[{quoted(table.name)}]"
            yield _warn("provider-overlap", message, table.file, table.line, where)


# Providers


def _providers(shaping: Shaping) -> Iterator[Problem]:
    for provider in shaping.providers.values():
        where = f"[provider.{quoted(provider.name)}]"
        if not provider.matches:
            yield _no_match(shaping, provider, where)
        for match in provider.matches:
            if reason := _never_fits(match):
                message = f"{match.kind} {shown(match.text)} never matches: {reason}"
                yield _warn("never-matches", message, match.file, match.line, where)


def _no_match(shaping: Shaping, provider: ProviderBlock, where: str) -> Problem:
    known = [p.name for p in shaping.providers.values() if p.matches]
    has = "its rules never apply" if provider.rules else "what it says never applies"
    hint = suggestion(provider.name, known)
    message = f"the provider has no match in any of the files, so {has}{hint}"
    return _warn("no-match", message, provider.file, provider.line, where)


def _never_fits(match: ProviderMatch) -> str | None:
    """Why no name can fit, if so: names are compared as they are, lower-case, without final dot."""
    text = match.text
    if text.endswith("."):
        return f"names are compared without their final dot; write {shown(text.rstrip('.'))}"
    if text != text.lower():
        return f"names are compared in lower case; write {shown(text.lower())}"
    if any(c.isspace() for c in text):
        return "it holds white space"
    if match.kind != "DomainSuffix" and "xn--" in text:
        return "MX hosts are compared in Unicode, not in their xn-- form"
    bare = text.removeprefix(".")
    if match.kind == "HostName" and (text != bare or not _is_host(text)):
        return "it is no host name"
    if ".." in text or "*" in text or "@" in text:
        return "no name looks so; a suffix is plain text"
    return None


def _is_host(text: str) -> bool:
    try:
        return bool(parse_name(text.partition(":")[0]))
    except ValueError:
        return False


# Rules


def _rules(shaping: Shaping) -> Iterator[Problem]:
    default = () if shaping.default is None else (shaping.default,)
    blocks: tuple[_AnyBlock, ...] = (
        *default,
        *shaping.providers.values(),
        *shaping.sites.values(),
        *shaping.domains.values(),
    )
    for block in blocks:
        for rule in block.rules:
            yield from _rule(rule)
            yield from _sets_what_is_set(rule, block, blocks)
            yield from _adjusts(rule, block, shaping)
            yield from (_of(rule, CODE, f"sidecar.escalate: {why}") for why in pointless(rule))
            yield from (_of(rule, CODE, f"sidecar.release: {why}") for why in no_release(rule))
            yield from (_of(rule, CODE, f"sidecar.probe: {why}") for why in no_probe(rule))
            yield from (_of(rule, CODE, f"sidecar.ratio: {why}") for why in misplaced(rule))
            yield from _probes_above(rule, shaping, blocks)
        yield from _repeats(block.rules)


def _adjusts(rule: Rule, block: _AnyBlock, shaping: Shaping) -> Iterator[Problem]:
    """What keeps a rule from adjusting what it sets: it then sets just that."""
    adjust = rule.sidecar.adjust
    reasons = list(unfit(rule))
    for reason in reasons:
        yield _of(rule, CODE, f"sidecar.adjust: {reason}")
    if adjust is None or reasons or adjust.start is not None:
        return
    for action in rule.actions:
        if action.option is None or action.option not in MEASURED:
            continue
        if not _may_be_set(action.option, block, shaping):
            message = (
                f"sidecar.adjust: no file sets {action.option} where the rule applies, so there "
                f'is nothing to come down from: write from = "…" (where it is to begin)'
            )
            yield _of(rule, CODE, message)


def _probes_above(rule: Rule, shaping: Shaping, blocks: Iterable[_AnyBlock]) -> Iterator[Problem]:
    """Limits for the time after a suspension that are above all that holds anywhere.

    They are always left out: what the files set is the lower one.
    """
    for name, value in () if rule.sidecar.probe is None else rule.sidecar.probe.limits:
        base = None if shaping.default is None else shaping.default.options.get(name)
        widest = by_default(name) if base is None else base.value
        if widest is None:
            continue
        elsewhere = [option.value for block in blocks for option in _settings(block, name)]
        for other in elsewhere:
            widest = max(widest, other, key=lambda one: amount(name, one))
        if amount(name, value) >= amount(name, widest):
            message = (
                f"sidecar.probe: {name} = {shown(value)} is always left out, since it is not below "
                f"{shown(widest)}, the most that holds anywhere without it"
            )
            yield _of(rule, "no-effect", message)


def _may_be_set(option: str, block: _AnyBlock, shaping: Shaping) -> bool:
    """Whether the option has a value where rules of `block` apply, as far as the files tell."""
    if by_default(option) is not None:
        return True
    near: list[_AnyBlock] = [block] if shaping.default is None else [block, shaping.default]
    if isinstance(block, Block) and block is not shaping.default:
        near += shaping.providers.values()
    return any(
        option in options for one in near for options in (one.options, *one.sources.values())
    )


def _shared_names(shaping: Shaping) -> Iterator[Problem]:
    """Rules with the name of another that is not the same.

    A warning only: each rule does its work all the same, and several rules about one
    thing may well be held, listed and counted together.
    """
    named: dict[str, Rule] = {}
    for rule in shaping.all_rules():
        first = named.setdefault(rule.sidecar.name, rule)
        if rule.sidecar.name and first.hash != rule.hash:
            message = (
                f"the name {rule.sidecar.name} is that of {_place(first)}, too: a command or a "
                "metric that goes by it means both"
            )
            yield _of(rule, "shared-name", message)


def _rule(rule: Rule) -> Iterator[Problem]:
    if not rule.regexes:
        yield _of(rule, "no-effect", "regex is an empty array: the rule matches nothing")
    if not rule.actions:
        yield _of(rule, "no-effect", "action is an empty array: the rule does nothing")
    if rule.duration_ns == 0:
        yield _of(rule, "no-effect", "duration is 0: what the rule does is over at once")
    if rule.trigger is not None and rule.trigger.period == 0 and rule.trigger.limit > 1:
        yield _of(rule, "no-effect", f"trigger {shown(rule.trigger.spec)} counts over no time")
    seen: set[Pattern] = set()
    for pattern in rule.regexes:
        reason = why_never(pattern.source)
        if reason is not None:
            yield _of(rule, "never-matches", f"regex {shown(pattern.source)}: {reason}")
        if pattern in seen:
            message = f"regex {shown(pattern.source)} is there twice in this rule"
            yield _of(rule, "repeated-regex", message)
        seen.add(pattern)


def _of(rule: Rule, code: str, message: str) -> Problem:
    return _warn(code, message, rule.file, rule.line, rule.where)


def _repeats(rules: Iterable[Rule]) -> Iterator[Problem]:
    """Rules of one scope that say again what an earlier one says."""
    by_hash: dict[str, Rule] = {}
    by_regex: dict[tuple[Pattern, When | None], Rule] = {}
    plain: list[tuple[str, Rule]] = []
    for rule in rules:
        if (twin := by_hash.setdefault(rule.hash, rule)) is not rule:
            yield _of(rule, "repeated-rule", f"says the same as {_place(twin)}; one will do")
            continue
        for pattern in dict.fromkeys(rule.regexes):
            earlier = by_regex.setdefault((pattern, rule.sidecar.when), rule)
            if earlier is not rule:
                yield _repeated(rule, earlier, pattern)
            elif (shadow := _shadow(plain, rule, pattern)) is not None:
                yield shadow
        plain += ((p.source, rule) for p in rule.regexes if _is_plain(p.source))


def _place(rule: Rule) -> str:
    return f"rule {rule.number} ({rule.file}:{rule.line})"


def _repeated(rule: Rule, earlier: Rule, pattern: Pattern) -> Problem:
    effect = (
        "and does nothing that the other does not do already"
        if _covers(earlier, rule)
        else "and both act on the same responses; one rule can have several actions"
    )
    message = f"regex {shown(pattern.source)} is in {_place(earlier)} too, {effect}"
    return _of(rule, "repeated-regex", message)


def _shadow(plain: list[tuple[str, Rule]], rule: Rule, pattern: Pattern) -> Problem | None:
    """An earlier rule whose regex is plain text that is in every match of `pattern`."""
    literals = pattern.literals()
    if not literals or any(literal.ignore_case for literal in literals):
        return None
    first, *others = (literal.text for literal in literals)
    # Compare with one literal first: of thousands of rules nearly none is left then.
    for text, earlier in [entry for entry in plain if entry[0] in first]:
        if all(text in other for other in others) and _covers(earlier, rule):
            message = (
                f"regex {shown(pattern.source)} matches only what {shown(text)} of "
                f"{_place(earlier)} matches, which does the same, as soon and for as long"
            )
            return _of(rule, "shadowed-regex", message)
    return None


def _is_plain(source: str) -> bool:
    """Whether a regex stands for just the text it is written as."""
    return (
        bool(source) and source.isprintable() and not any(c in r".[](){}*+?^$|\#" for c in source)
    )


def _covers(earlier: Rule, later: Rule) -> bool:
    """Whether `earlier` does all that `later` does, as soon and for as long, where both match."""
    actions = [action.identity() for action in earlier.actions]
    return (
        _as_early(earlier, later)
        and earlier.duration_ns >= later.duration_ns
        and (earlier.match_internal or not later.match_internal)
        and all(action.identity() in actions for action in later.actions)
        and earlier.sidecar.adjust == later.sidecar.adjust
        and earlier.sidecar.escalate == later.sidecar.escalate
        and earlier.sidecar.release == later.sidecar.release
        and earlier.sidecar.probe == later.sidecar.probe
        and earlier.sidecar.simulate <= later.sidecar.simulate
        and earlier.sidecar.when in (None, later.sidecar.when)
    )


def _as_early(earlier: Rule, later: Rule) -> bool:
    if earlier.sidecar.ratio != later.sidecar.ratio:
        return False
    one, other = earlier.trigger, later.trigger
    if one is None or other is None:
        return one is None
    return one.limit <= other.limit and one.period >= other.period


# Options


def _sets_what_is_set(
    rule: Rule, block: _AnyBlock, blocks: Iterable[_AnyBlock]
) -> Iterator[Problem]:
    """SetConfig with a value that holds anyway, wherever the rule applies."""
    for action in rule.actions:
        if action.option is None:
            continue
        own = block.options.get(action.option)
        if own is None or not _same(action, own):
            continue
        others = (o for b in blocks for o in _settings(b, action.option))
        if all(_same(action, other) for other in others):
            message = (
                f"{action.kind} {action.option}: is set to {shown(action.value)} there anyway "
                f"({own.file}:{own.line})"
            )
            yield _of(rule, "no-effect", message)


def _settings(block: _AnyBlock, option: str) -> Iterator[Option]:
    """Everywhere in `block` where `option` is set."""
    tables: list[Options] = [block.options, *block.sources.values()]
    return (table[option] for table in tables if option in table)


def _same(action: Action, option: Option) -> bool:
    assert action.option is not None
    return canonical(action.option, action.value) == canonical(action.option, option.value)
