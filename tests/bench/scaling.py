"""What a record costs with more rules, more entries in force, longer threshold windows.

Each point is the processor time of ``run --once`` on a log, less that of a start with the
same rules and the same state and no log, by record.  The points are measured in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from sidecar.automation.entries import Override, to_payload
from sidecar.store import EntryRow, Store, Transaction
from sidecar.times import NS
from tests.bench.logs import LogSpec, generate
from tests.bench.measure import Figure, in_turn
from tests.bench.rulefiles import write_many, write_window
from tests.bench.sidecar import Sidecar

RULES = (10, 30, 100, 300, 1000)
ENTRIES = (10, 100, 1000, 10_000, 100_000)
WINDOWS = ("1min", "1h", "1d", "7d")
_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Curve:
    """``points``: (what it is at, seconds of processor time for a record)."""

    title: str
    points: tuple[tuple[str, Figure], ...]


@dataclass(frozen=True, slots=True)
class _Point:
    label: str
    sidecar: Sidecar
    spec: LogSpec
    entries: int = 0


def rules_curve(spec: LogSpec, *, work: Path, runs: int) -> Curve:
    """More rules, of which the same few match."""
    points = []
    for count in RULES:
        scratch = work / f"rules-{count}"
        scratch.mkdir(parents=True, exist_ok=True)
        rules = write_many(count, scratch / "rules.toml")
        points.append(_Point(f"{count:,}", Sidecar.create([rules], scratch), spec))
    return _curve("rules", points, work=work, runs=runs)


def entries_curve(spec: LogSpec, rules: list[Path], *, work: Path, runs: int) -> Curve:
    """More entries in force, none of which the log has to do with."""
    points = []
    for count in ENTRIES:
        sidecar = Sidecar.create(rules, work / f"entries-{count}")
        points.append(_Point(f"{count:,}", sidecar, spec, entries=count))
    return _curve("entries in force", points, work=work, runs=runs)


def windows_curve(spec: LogSpec, *, work: Path, runs: int) -> Curve:
    """Longer threshold windows, with a log of eight days."""
    spec = replace(spec, rate=spec.records / (8 * _DAY_S))
    points = []
    for period in WINDOWS:
        scratch = work / f"window-{period}"
        scratch.mkdir(parents=True, exist_ok=True)
        rules = write_window(period, scratch / "rules.toml")
        points.append(_Point(period, Sidecar.create([rules], scratch), spec))
    return _curve("threshold window", points, work=work, runs=runs)


def _curve(title: str, points: list[_Point], *, work: Path, runs: int) -> Curve:
    empty = work / "empty"
    empty.mkdir(exist_ok=True)
    costs: dict[str, Callable[[], float]] = {}
    for point in points:
        directory = generate(point.spec, work / "logs")
        costs[point.label] = partial(_net, point, directory, empty)
    _net(points[0], empty, empty)  # compiles the modules
    figures = in_turn(costs, runs=runs)
    return Curve(title, tuple(figures.items()))


def _net(point: _Point, log_dir: Path, empty: Path) -> float:
    cpu = []
    for directory in (log_dir, empty):
        point.sidecar.forget()
        if point.entries:
            _fill(point)
        cpu.append(point.sidecar.once(directory, at_s=point.spec.end_s, keep=True).cpu)
    return (cpu[0] - cpu[1]) / point.spec.records


def _fill(point: _Point) -> None:
    entries = {}
    for number in range(point.entries):
        override = Override(
            action_hash=f"{number % 50:064x}",
            site=f"ip1->mx.e{number}.example@smtp_client",
            reason="automation rule: made up for measuring",
            expires_ns=(point.spec.end_s + _DAY_S + number) * NS,
            seq=number,
            domain=f"e{number}.example",
            mx_rollup=True,
            source="ip1",
            name="max_message_rate",
            value="1/m",
        )
        row = EntryRow(
            override.key, override.kind, to_payload(override), override.expires_ns, override.seq
        )
        entries[override.key] = row
    with Store.open(point.sidecar.state) as store:
        store.load()
        store.commit(Transaction(entries=entries))
