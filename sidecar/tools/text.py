"""Values as text for people: on one line, harmless on a terminal, in KumoMTA's words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import tomlkit

from sidecar.automation.entries import (
    Entry,
    Override,
    ReadyQSuspension,
    SchedQBounce,
    SchedQSuspension,
)
from sidecar.problems import one_line
from sidecar.shaping.documents import quoted
from sidecar.shaping.rules import Rule, TomlValue
from sidecar.times import NS

_UNITS = (
    ("d", 86400 * NS),
    ("h", 3600 * NS),
    ("m", 60 * NS),
    ("s", NS),
    ("ms", 10**6),
    ("us", 10**3),
)


def shown_duration(ns: int) -> str:
    """``1h 30m``: exact, and as a rule's ``duration`` takes it; ``-5s`` for the past."""
    if ns < 0:
        return f"-{shown_duration(-ns)}"
    parts = []
    for unit, size in _UNITS:
        count, ns = divmod(ns, size)
        if count:
            parts.append(f"{count}{unit}")
    if ns:
        parts.append(f"{ns}ns")
    return " ".join(parts) or "0s"


def rough_duration(ns: int) -> str:
    """``1h 58m``: its two largest units, for people."""
    return " ".join(shown_duration(max(ns, 0) // NS * NS).split()[:2])


def counted(count: int, thing: str) -> str:
    """``1 rule``, ``2 rules``."""
    if count == 1:
        return f"{count} {thing}"
    return f"{count} {thing[:-1]}ies" if thing.endswith("y") else f"{count} {thing}s"


def shown_value(value: TomlValue) -> str:
    """A value as TOML has it, on one line."""
    if isinstance(value, dict):
        table = tomlkit.inline_table()
        table.update(value)
        return one_line(table.as_string())
    return one_line(tomlkit.item(value).as_string())


def shown_place(file: str | None, line: int | None) -> str:
    """``file:line``, as much of it as there is."""
    if file is None:
        return ""
    return one_line(file if line is None else f"{file}:{line}")


def shown_rule(rule: Rule) -> str:
    """Where a rule stands: file, line, table and number."""
    return f"{shown_place(rule.file, rule.line)}  {one_line(rule.where)}"


def shown_entry(entry: Entry) -> str:
    """What an entry does, without its expiry; of a simulated one, what it would do."""
    return f"simulated: {_effect(entry)}" if entry.simulated else _effect(entry)


def _effect(entry: Entry) -> str:
    match entry:
        case Override():
            reach = "the whole site" if entry.mx_rollup else "this domain only"
            after = "" if entry.probe is None else ", for the time after a suspension"
            of = "" if entry.baseline is None else f" (of {shown_value(entry.baseline)})"
            return one_line(
                f"set {entry.name} = {shown_value(entry.value)}{of} for {quoted(entry.domain)} "
                f"({reach}) from source {quoted(entry.source)}{after}"
            )
        case ReadyQSuspension():
            return one_line(f"suspend the ready queue {entry.site}")
        case SchedQSuspension():
            return one_line(f"suspend the scheduled queue {_queue(entry)}")
        case SchedQBounce():
            return one_line(f"bounce the scheduled queue {_queue(entry)}")


def distinct(entries: Iterable[Entry], texts: Iterable[str]) -> list[str]:
    """`texts`, one for each of `entries`; those alike name the ready queue they came about in.

    Episodes of one entry are alike in that, too, and name nothing.
    """
    pairs = list(zip(entries, texts, strict=True))
    queues: dict[str, set[str]] = {}
    for entry, text in pairs:
        queues.setdefault(text, set()).add(entry.site)
    return [
        text
        if len(queues[text]) == 1 or isinstance(entry, ReadyQSuspension)
        # Two rules may do the same, too: then the ready queue is the same, and the reason tells.
        else one_line(f"{text}, by a response in ready queue {entry.site}")
        for entry, text in pairs
    ]


def _queue(entry: SchedQSuspension | SchedQBounce) -> str:
    parts: Mapping[str, str | None] = {
        "domain": entry.domain,
        "tenant": entry.tenant,
        "campaign": entry.campaign,
    }
    return " ".join(f"{name} {quoted(value)}" for name, value in parts.items() if value is not None)
