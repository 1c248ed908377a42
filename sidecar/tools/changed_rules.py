"""Rules with one key changed: ``RULE:trigger=10/hr``, as ``replay --compare-set`` takes it.

RULE is a rule's name, or its file and line as ``check`` and ``explain`` show them;
of the file the last part of its path is enough.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Final

from sidecar.automation.matching import Matcher
from sidecar.automation.prefilter import Prefilter
from sidecar.service.rules import Rules
from sidecar.shaping.blocks import Block, ProviderBlock, Shaping
from sidecar.shaping.hashes import hashed
from sidecar.shaping.rules import Rule, Threshold
from sidecar.shaping.specs import parse_duration, parse_throttle


@dataclass(frozen=True, slots=True)
class Change:
    """One key of one rule, and what it is to be."""

    rule: str
    key: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Change:
        """ValueError says how to write one."""
        found = re.fullmatch(r"(.+?):\s*(\w+)\s*=\s*(.+)", text.strip())
        if found is None or found[2] not in _KEYS:
            keys = ", ".join(_KEYS)
            raise ValueError(
                f"{text[:100]!r} is no change: write RULE:KEY=VALUE, such as "
                f"shaping.toml:12:trigger=10/hr; keys are {keys}"
            )
        return cls(found[1], found[2], found[3])

    def apply(self, rules: Rules) -> Rules:
        """`rules` with this change; ValueError where it is of no rule, or of several, or wrong."""
        found = [rule for rule in rules.shaping.all_rules() if _is_called(rule, self.rule)]
        if len(found) != 1:
            how = "no rule is" if not found else f"{len(found)} rules are"
            raise ValueError(f"{how} called {self.rule!r}: give its name, or file and line")
        new = hashed(_KEYS[self.key](found[0], self.value))
        return _with(rules, {id(found[0]): new})


def _is_called(rule: Rule, said: str) -> bool:
    place = f"{rule.file}:{rule.line}"
    return said in (rule.label, place, f"{PurePath(rule.file).name}:{rule.line}")


def _trigger(rule: Rule, value: str) -> Rule:
    if value.lower() == "immediate":
        return replace(rule, trigger=None)
    spec = parse_throttle(value)
    return replace(rule, trigger=Threshold(spec.limit, spec.period, value))


def _duration(rule: Rule, value: str) -> Rule:
    return replace(rule, duration_ns=parse_duration(value))


_KEYS: Final[Mapping[str, Callable[[Rule, str], Rule]]] = {
    "trigger": _trigger,
    "duration": _duration,
}


def _with(rules: Rules, changed: Mapping[int, Rule]) -> Rules:
    """`rules` with other rules in place of some, by their id()."""

    def others(found: Iterable[Rule]) -> tuple[Rule, ...]:
        return tuple(changed.get(id(rule), rule) for rule in found)

    def block(one: Block) -> Block:
        return replace(one, rules=others(one.rules))

    def provider(one: ProviderBlock) -> ProviderBlock:
        return replace(one, rules=others(one.rules))

    old = rules.shaping
    shaping: Shaping = replace(
        old,
        default=None if old.default is None else block(old.default),
        providers={name: provider(one) for name, one in old.providers.items()},
        sites={name: block(one) for name, one in old.sites.items()},
        domains={name: block(one) for name, one in old.domains.items()},
    )
    skipped = rules.settings.skip_record_types
    return replace(
        rules,
        shaping=shaping,
        matcher=Matcher(shaping),
        prefilter=Prefilter.for_rules(shaping.all_rules(), skip_types=skipped),
    )
