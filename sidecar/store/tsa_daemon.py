"""What a kumo-tsa-daemon knew: its state file, read for taking over.

In: the bytes of ``<db path>.state``.  Out: entries and threshold histories,
and everything that had to be left behind, each with the reason.

The file holds one MessagePack map of five: ``event_history`` (key: rule hash
and site; value: the rule's duration and the seconds of its matches),
``config_overrides`` and ``readyq_suspensions`` (key: action hash and site),
``schedq_suspensions`` and ``schedq_bounces`` (key: a map with action hash,
domain, tenant, campaign).  Its hashes are those of
:mod:`sidecar.shaping.hashes`, so that entries keep their identity and
a rematch extends them.
"""

from __future__ import annotations

import math
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from sidecar.automation.decide import threshold_scope
from sidecar.automation.entries import (
    Entry,
    Override,
    ReadyQSuspension,
    SchedQBounce,
    SchedQSuspension,
)
from sidecar.problems import Problem
from sidecar.shaping.rules import Rule, TomlValue
from sidecar.times import parse_rfc3339

from .messagepack import Map, MessagePackError, Reader, Value

MAX_PROBLEMS = 1000
"""How many findings are listed one by one; the rest is counted."""

_END_OF_TIME = parse_rfc3339("9999-12-31T23:59:59Z")
_MAX_SECOND = _END_OF_TIME // 1_000_000_000


@dataclass(frozen=True, slots=True)
class History:
    """The matches of one rule with a threshold at one site: Unix second → how many."""

    rule_hash: str
    site: str
    counts: Mapping[int, int]


@dataclass(slots=True)
class TsaDaemonState:
    """What was read.  ``expired`` counts the entries left out because their time is over."""

    entries: list[Entry] = field(default_factory=list)
    histories: list[History] = field(default_factory=list)
    expired: int = 0
    problems: list[Problem] = field(default_factory=list)
    unlisted: int = 0
    """Findings past :data:`MAX_PROBLEMS`."""

    def find(self, code: str, message: str, *, file: str, where: str | None = None) -> None:
        """Note something that is left behind."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem("warning", code, message, file=file, where=where))
        else:
            self.unlisted += 1


def read_tsa_daemon(
    data: bytes,
    now_ns: int,
    *,
    file: str = "tsa.db.state",
    first_seq: int = 1,
    check_option: Callable[[str, TomlValue], Iterable[str]] = lambda _name, _value: (),
) -> TsaDaemonState:
    """Read the daemon's state in `data`; never raises, whatever the bytes.

    ``entries`` are those in force at `now_ns`, numbered (``seq``) from `first_seq`
    so that of two that set one option the same wins as in the daemon: the one
    that expires later.  `check_option` says what is wrong with an option's value
    (nothing: keep it); kumod would refuse an overlay with a wrong one.
    """
    state = TsaDaemonState()
    reader = Reader(data)
    section = "the whole"
    try:
        for _ in range(reader.map_header()):
            name = reader.value()
            section = _shown(name)
            parse = _PARSERS.get(name) if isinstance(name, str) else None
            if parse is None:
                reader.value()
                state.find(
                    "unknown-section", "is unknown and was left out", file=file, where=section
                )
                continue
            _read_section(reader, section, parse, state, file)
    except MessagePackError as error:
        state.find("damaged", f"{error}: nothing after it can be read", file=file, where=section)
    _keep_usable(state, now_ns, first_seq, check_option, file)
    return state


def threshold_counts(
    histories: Iterable[History], rules: Iterable[Rule], *, file: str = "tsa.db.state"
) -> tuple[dict[tuple[str, int], int], list[Problem]]:
    """The histories as counts of our threshold scopes, and those whose rule isn't loaded.

    The daemon kept more than a threshold's period; what can't count is left out.
    """
    by_hash = {rule.hash: rule for rule in rules if rule.trigger is not None}
    counts: dict[tuple[str, int], int] = {}
    problems = []
    for history in histories:
        rule = by_hash.get(history.rule_hash)
        if rule is None or rule.trigger is None:
            problems.append(
                Problem(
                    "warning",
                    "unknown-rule",
                    "is the history of a rule that is not (or no longer) in the shaping files",
                    file=file,
                    where=f"event_history: {history.rule_hash} at {_shown(history.site)}",
                )
            )
            continue
        scope = threshold_scope(rule, history.site)
        oldest = max(history.counts) - rule.trigger.period
        for second, count in history.counts.items():
            if second >= oldest:
                counts[scope, second] = counts.get((scope, second), 0) + count
    return counts, problems


_Parser = Callable[[Value, Value], Entry | History | None]


def _read_section(
    reader: Reader, section: str, parse: _Parser, state: TsaDaemonState, file: str
) -> None:
    for number in range(1, reader.map_header() + 1):
        key, value = reader.value(), reader.value()
        try:
            found = parse(key, value)
        except ValueError as error:
            where = f"{section}: item {number}"
            state.find("damaged", f"was left out: {error}", file=file, where=where)
            continue
        if isinstance(found, History):
            state.histories.append(found)
        elif found is not None:
            state.entries.append(found)


def _keep_usable(
    state: TsaDaemonState,
    now_ns: int,
    first_seq: int,
    check_option: Callable[[str, TomlValue], Iterable[str]],
    file: str,
) -> None:
    kept: dict[str, Entry] = {}
    for entry in sorted(state.entries, key=_daemon_order):
        if entry.expires_ns <= now_ns:
            state.expired += 1
            continue
        if isinstance(entry, Override):
            reasons = "; ".join(check_option(entry.name, entry.value))
            if reasons:
                where = f"config_overrides: {_shown(entry.domain)}: {_shown(entry.name)}"
                state.find("bad-option", f"was left out: {reasons}", file=file, where=where)
                continue
        numbered = replace(entry, seq=first_seq + len(kept))
        kept[numbered.key] = numbered
    state.entries = list(kept.values())


def _daemon_order(entry: Entry) -> tuple[int, str, str, str]:
    """The daemon writes overrides in this order, a later one over an earlier."""
    if isinstance(entry, Override):
        return entry.expires_ns, entry.domain, entry.source, entry.name
    return entry.expires_ns, entry.kind, entry.key, ""


def _history(key: Value, value: Value) -> History | None:
    hash_, site = _hash_and_site(key)
    fields = _fields(value)
    series = _get(fields, "series")
    if not isinstance(series, list):
        raise ValueError(f"series: {_shown(series)} is no list")
    counts: Counter[int] = Counter()
    for second in series:
        if isinstance(second, bool) or not isinstance(second, int) or abs(second) > _MAX_SECOND:
            raise ValueError(f"series: {_shown(second)} is no Unix time")
        counts[second] += 1
    return History(hash_, site, dict(counts)) if counts else None


def _override(key: Value, value: Value) -> Entry:
    hash_, site = _hash_and_site(key)
    fields = _fields(value)
    rollup = _get(fields, "mx_rollup")
    if not isinstance(rollup, bool):
        raise ValueError(f"mx_rollup: {_shown(rollup)} is no boolean")
    option = _fields(_get(fields, "option"))
    return Override(
        action_hash=hash_,
        site=site,
        reason=_text(fields, "reason"),
        expires_ns=_expires(fields),
        seq=0,
        domain=_text(fields, "domain"),
        mx_rollup=rollup,
        source=_text(fields, "source"),
        name=_text(option, "name"),
        value=_toml(_get(option, "value")),
    )


def _ready_q(key: Value, value: Value) -> Entry:
    hash_, site = _hash_and_site(key)
    fields = _fields(value)
    return ReadyQSuspension(
        action_hash=hash_,
        site=site,
        reason=_text(fields, "reason"),
        expires_ns=_expires(fields),
        seq=0,
        source=_text(fields, "source"),
    )


def _sched_q(key: Value, value: Value) -> Entry:
    queue = _fields(key)
    return _held(SchedQSuspension, queue, value, tenant=_text(queue, "tenant"))


def _bounce(key: Value, value: Value) -> Entry:
    queue = _fields(key)
    return _held(SchedQBounce, queue, value, tenant=_optional_text(queue, "tenant"))


def _held(
    kind: type[SchedQSuspension | SchedQBounce],
    queue: dict[str, Value],
    value: Value,
    *,
    tenant: str | None,
) -> Entry:
    fields = _fields(value)
    hash_, site = _hash_and_site(_get(queue, "action_hash"))
    return kind(
        action_hash=hash_,
        site=site,
        reason=_text(fields, "reason"),
        expires_ns=_expires(fields),
        seq=0,
        domain=_text(queue, "domain"),
        tenant=tenant,
        campaign=_optional_text(queue, "campaign"),
    )


_PARSERS: Mapping[str, _Parser] = {
    "event_history": _history,
    "config_overrides": _override,
    "readyq_suspensions": _ready_q,
    "schedq_suspensions": _sched_q,
    "schedq_bounces": _bounce,
}


def _hash_and_site(value: Value) -> tuple[str, str]:
    match value:
        case [bytes() as hash_, str() as site] if len(hash_) == 32:
            return hash_.hex(), site
    raise ValueError(f"{_shown(value)} is no pair of a hash of 32 bytes and a site")


def _fields(value: Value) -> dict[str, Value]:
    if not isinstance(value, Map):
        raise ValueError(f"{_shown(value)} is no map")
    fields: dict[str, Value] = {}
    for name, item in value.pairs:
        if not isinstance(name, str) or name in fields:
            raise ValueError(f"{_shown(name)} is no name of a field, or there twice")
        fields[name] = item
    return fields


def _get(fields: dict[str, Value], name: str) -> Value:
    if name not in fields:
        raise ValueError(f"{name} is missing")
    return fields[name]


def _text(fields: dict[str, Value], name: str) -> str:
    value = _get(fields, name)
    if not isinstance(value, str):
        raise ValueError(f"{name}: {_shown(value)} is no text")
    return value


def _optional_text(fields: dict[str, Value], name: str) -> str | None:
    return None if _get(fields, name) is None else _text(fields, name)


def _expires(fields: dict[str, Value]) -> int:
    text = _text(fields, "expires")
    if text.startswith("+"):  # how the daemon writes years past 9999
        return _END_OF_TIME
    return parse_rfc3339(text)


def _toml(value: Value) -> TomlValue:
    """`value` as an option may have it: what TOML can hold, times excepted (no option is one)."""
    if isinstance(value, Map):
        return {name: _toml(item) for name, item in _fields(value).items()}
    if isinstance(value, list):
        return [_toml(item) for item in value]
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise ValueError(f"value: {_shown(value)} is nothing that an option can be")


def _shown(value: object) -> str:
    """`value` for a message: short, whatever it is."""
    if isinstance(value, str) and len(value) <= 80 and value.isprintable():
        return value
    return reprlib.repr(value)
