"""How good suggested rules are: ``python -m tests.bench.suggestions RULES.toml...``.

Hides every third rule of the files, makes a log of responses that all the rules
match (of deliveries, too), and asks for suggestions about what is unmatched then.
Prints how many of the hidden rules are found again: listed by ``unmatched``, with
a regex, for the same table, with an action of the same kind.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tomlkit

from sidecar.fancy import nodes, parse
from sidecar.log.blocks import Block, Position
from sidecar.log.record import Record, decode
from sidecar.policy import load_settings
from sidecar.service.rules import Rules, load_rules
from sidecar.shaping.blocks import ProviderBlock, Shaping
from sidecar.shaping.mx import MxAnswer, Resolver, ZoneResolver
from sidecar.shaping.rules import Rule
from sidecar.tools.suggest import Suggestion, Trial, kind_of, scope_of
from sidecar.tools.unmatched import Group, Survey, Wanted
from tests.kumod_writer import record

_TIMES = 5


@dataclass(frozen=True)
class Sample:
    """A log line that a rule matches, and what it was made for."""

    rule: Rule
    line: bytes


def example(node: nodes.Node, rng: random.Random) -> str:
    """A text that the pattern finds, most often."""
    match node:
        case nodes.Char(value, _):
            return value
        case nodes.AnyChar():
            return rng.choice("abcxyz")
        case nodes.CharClass(item, _):
            return _member(item, rng)
        case nodes.Concat(items):
            return "".join(example(item, rng) for item in items)
        case nodes.Alternation(items):
            return example(items[0], rng)
        case nodes.Group(_, child) | nodes.Atomic(child):
            return example(child, rng)
        case nodes.Repeat(child, low, high, _):
            count = low if high == low else max(low, min(3, high or 3))
            return "".join(example(child, rng) for _ in range(count))
    return ""


def _member(item: nodes.SetNode, rng: random.Random) -> str:
    match item:
        case nodes.SetRange(low, high):
            return chr(rng.randint(low, high))
        case nodes.SetPerl("d", False):
            return rng.choice("123456789")
        case nodes.SetPerl("s", False):
            return " "
        case nodes.SetUnion(items):
            return _member(items[0], rng)
        case nodes.SetBracket(inner, False):
            return _member(inner, rng)
    return "x"


def samples(rule: Rule, domain: str, mx: MxAnswer | None, rng: random.Random) -> Iterator[Sample]:
    """Responses that the rule matches; ids and addresses differ from one to the next."""
    for pattern in rule.regexes:
        root = parse.parse(pattern.source).root
        for _ in range(_TIMES):
            said = example(root, rng)
            text = f"{said} [10.{rng.randrange(256)}.0.{rng.randrange(256)}] {rng.randrange(10**9)}"
            code, found = 421, text
            if pattern.search(f"421 4.7.0 {text}") is None:
                code, _, found = text.partition(" ")  # type: ignore[assignment]
                if not str(code).isdigit() or len(str(code)) != 3:
                    continue
            yield Sample(rule, _line(int(code), found, domain, mx))


def _line(code: int, text: str, domain: str, mx: MxAnswer | None, kind: str | None = None) -> bytes:
    enhanced = {"class": code // 100, "subject": 7, "detail": 0} if code == 421 else None
    said = {"code": code, "enhanced_code": enhanced, "content": text, "command": None}
    site = "" if mx is None else f"ip2->{mx.site_name}@smtp_client"
    fields = record(response=said, recipient=f"user@{domain}", site=site)
    fields["type"] = kind or ("TransientFailure" if code < 500 else "Bounce")
    return json.dumps(fields).encode() + b"\n"


def home(rule: Rule, shaping: Shaping) -> tuple[str, str]:
    """A domain that the rule is for, and its MX host."""
    scope = rule.scope
    number = f"{rule.line}-{Path(rule.file).stem}"
    if scope.kind == "domain":
        return scope.name, f"mx.{scope.name}"
    if scope.kind == "provider":
        provider: ProviderBlock = shaping.providers[scope.name]
        for match in provider.matches:
            if match.kind == "DomainSuffix":
                return f"d{number}{match.text}".replace("..", "."), "mx.example"
        for match in provider.matches:
            return f"d{number}.example", f"mx1{match.text}".rstrip(".")
    return f"d{number}.example", f"mx.d{number}.example"


def without_every_third(path: Path) -> tuple[str, set[int]]:
    """The text of a rule file without every third rule, and those rules' places in it."""
    data: dict[str, Any] = tomllib.loads(path.read_text())
    hidden: set[int] = set()
    count = 0
    tables = [data.get("default", {}), *data.get("provider", {}).values()]
    tables += [v for k, v in data.items() if k not in ("default", "provider")]
    for table in tables:
        kept = []
        for rule in table.get("automation", []):
            (hidden.add if count % 3 == 0 else lambda _: kept.append(rule))(count)  # noqa: B023
            count += 1
        if "automation" in table:
            table["automation"] = kept
    return tomlkit.dumps(data), hidden


async def measure(paths: list[Path]) -> Counter[str]:
    """Counts of hidden rules by how far they were found again."""
    resolver = await _everybodys_mx(paths)
    whole = await _load(paths, resolver)
    with TemporaryDirectory() as directory:
        reduced = [Path(directory) / path.name for path in paths]
        for path, target in zip(paths, reduced, strict=True):
            target.write_text(without_every_third(path)[0])
        rest = await _load(reduced, resolver)
    return await _found_again(whole, rest, resolver, random.Random(7))


async def _everybodys_mx(paths: list[Path]) -> Resolver:
    """An MX for every domain with a table, and one for each rule of a provider."""
    parsed = [tomllib.loads(path.read_text()) for path in paths]
    domains = {name for data in parsed for name in data if name not in ("default", "provider")}
    zone = {domain: f"mx.{domain}" for domain in domains}
    rules = await _load(paths, _resolver(zone))
    zone |= dict(home(rule, rules.shaping) for rule in rules.shaping.all_rules())
    return _resolver(zone)


def _resolver(mx: dict[str, str]) -> Resolver:
    lines = [
        "$ORIGIN .",
        "$TTL 300",
        "@ IN SOA a.example. b.example. 1 2 3 4 5",
        "@ IN NS a.example.",
    ]
    lines += [f"{domain}. IN MX 10 {host}." for domain, host in sorted(mx.items())]
    return ZoneResolver(["\n".join(lines) + "\n"], files=["bench.zone"])


async def _load(paths: list[Path], resolver: Resolver) -> Rules:
    settings, _ = load_settings({"shaping": tuple(map(str, paths))}, {}, require=("shaping",))
    return await load_rules(settings.reloaded, resolver)


async def _found_again(
    whole: Rules, rest: Rules, resolver: Resolver, rng: random.Random
) -> Counter[str]:
    kept = {
        (rule.scope, tuple(p.source for p in rule.regexes)) for rule in rest.shaping.all_rules()
    }
    lines: list[Sample] = []
    for rule in whole.shaping.all_rules():
        domain, _ = home(rule, whole.shaping)
        try:
            mx: MxAnswer | None = await resolver.resolve(domain)
        except Exception:  # noqa: BLE001 - a provider's own domain, which has none here
            mx = None
        lines += samples(rule, domain, mx, rng)
    deliveries = [
        _line(250, f"2.0.0 ok {n} queued", "d1.example", None, "Delivery") for n in range(50)
    ]
    data = b"".join([sample.line for sample in lines] + deliveries)
    survey = Survey(rest.shaping)
    await survey.read(_blocks(data), rules=rest, resolver=resolver, wanted=Wanted())
    by_shape = {group.shape: group for group in survey.groups()}
    counts: Counter[str] = Counter()
    done: set[tuple[Any, ...]] = set()
    for sample in lines:
        key = sample.rule.scope, tuple(p.source for p in sample.rule.regexes)
        if key in kept or key in done:
            continue
        done.add(key)
        counts["hidden rules with a text"] += 1
        found = _group(by_shape, decode(sample.line))
        if found is None:
            continue
        counts["listed by unmatched"] += 1
        suggestion = await _suggestion(found, data, rest, resolver)
        if suggestion is None:
            continue
        counts["with a regex"] += 1
        counts["for the same table"] += suggestion.table == sample.rule.table
        counts["with an action"] += suggestion.acts
        counts["with an action of the same kind"] += _same_kind(suggestion, sample.rule)
    return counts


def _group(by_shape: dict[str, Group], one: Record) -> Group | None:
    from sidecar.tools.shapes import shape

    return by_shape.get(shape(one.response_line, one.recipients[0]))


async def _suggestion(
    group: Group, data: bytes, rules: Rules, resolver: Resolver
) -> Suggestion | None:
    trial = Trial(group.shape)
    for line in data.splitlines():
        trial.add(decode(line))
    pattern = trial.best()
    if pattern is None:
        return None
    mx = {}
    for domain in group.domains:
        try:
            mx[domain] = await resolver.resolve(domain)
        except Exception:  # noqa: BLE001 - has none here
            continue
    table, why = scope_of(group, rules.shaping, mx)
    return Suggestion(group, pattern.source, table, why, kind_of(group.shape))


def _same_kind(suggestion: Suggestion, rule: Rule) -> bool:
    kinds = {"SetConfig" if a.kind.startswith("Set") else "Suspend" for a in rule.actions}
    return suggestion.acts and any(k in str(suggestion.kind) for k in kinds)


async def _blocks(data: bytes) -> Any:
    yield Block("made", data, Position(), data.count(b"\n"), len(data))


def main() -> None:
    """Measure, and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("rules", nargs="+", type=Path)
    counts = asyncio.run(measure(options.parse_args().rules))
    for name, count in counts.items():
        print(f"{count:>5}  {name}")


if __name__ == "__main__":
    main()
