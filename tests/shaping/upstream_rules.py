"""Rules of a shaping file as values, read the short way for tests of what comes after.

Each rule comes twice, with and without ``rollup``: which one holds is a matter
of merging, and not of what is tested with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from sidecar.fancy.pattern import compile_pattern
from sidecar.shaping.hashes import hashed
from sidecar.shaping.rules import Action, Rule, Scope, Threshold
from sidecar.shaping.specs import parse_duration, parse_throttle


def rules_of(document: Mapping[str, Any]) -> list[Rule]:
    """Every rule of the file, rolled up and not."""
    return [
        hashed(replace(rule, rollup=rollup))
        for table in _tables(document)
        for rule in map(_rule, table.get("automation", []))
        for rollup in (False, True)
    ]


def _tables(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for name, table in document.items():
        if name == "provider":
            yield from table.values()
        else:
            yield table


def _rule(table: Mapping[str, Any]) -> Rule:
    return Rule(
        regexes=tuple(compile_pattern(source) for source in _listed(table["regex"])),
        actions=tuple(map(_action, _listed(table["action"]))),
        trigger=_trigger(table.get("trigger", "Immediate")),
        duration_ns=parse_duration(table["duration"]),
        match_internal=table.get("match_internal", False),
        rollup=False,
        scope=Scope("default"),
        file="",
        line=0,
        number=0,
        table="",
    )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _action(value: Any) -> Action:
    if isinstance(value, str):
        return Action(value)  # type: ignore[arg-type]  # the recordings have known ones only
    ((kind, option),) = value.items()
    return Action(kind, option["name"], option["value"])


def _trigger(value: Any) -> Threshold | None:
    if value == "Immediate":
        return None
    text = value["Threshold"]
    spec = parse_throttle(text)
    return Threshold(spec.limit, spec.period, text)
