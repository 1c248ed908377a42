"""The benchmark: ``python -m tests.bench``.

Makes logs as kumod writes them, measures each thing in turn with what it is compared
to, and prints tables: medians, the spread, ratios.  Processor time is user and system
together, of all threads.  Absolute figures are this machine's; compare ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.live import Live, measure_live, measure_memory, measure_start
from tests.bench.logs import LogSpec
from tests.bench.measure import Figure
from tests.bench.rulefiles import BUNDLED, SHARES
from tests.bench.scaling import Curve, entries_curve, rules_curve, windows_curve
from tests.bench.sidecar import Sidecar
from tests.bench.svg import Plot, document
from tests.bench.throughput import Throughput, measure, zstd_version

_MB = 1_000_000
_MATCHED = "[TSS04]"
"""In a recorded response that the bundled rules match, and the shipped ones, too."""
_SHARES = (0.0, 0.02, 0.05, 0.1)


def main() -> None:
    """Measure what the options say."""
    options = _options()
    bench = Bench(options)
    bench.console.print(bench.heading())
    chosen = options.only or list(bench.measurements())
    for name in chosen:
        bench.measurements()[name]()
    if options.out is not None:
        options.out.write_text(json.dumps(bench.found, indent=1) + "\n")


class Bench:
    """One run of the benchmark: its options, and what was found so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.work: Path = options.work
        self.work.mkdir(parents=True, exist_ok=True)
        self.spec = LogSpec(
            records=options.records,
            failures=options.share_of_failures,
            size=options.size,
            domains=options.domains,
        )
        self.sidecar = Sidecar.create(options.rules, self.work / "scratch")
        self.console = Console(width=110)
        self.found: dict[str, Any] = {"when": f"{datetime.now(UTC):%Y-%m-%d}"}

    def measurements(self) -> dict[str, Callable[[], None]]:
        """By name, in the order they are made."""
        return {
            "failures": self.failures,
            "deliveries": self.deliveries,
            "throughput": self.throughput,
            "shares": self.shares,
            "live": self.live,
            "start": self.start,
            "memory": self.memory,
            "scaling": self.scaling,
        }

    def heading(self) -> str:
        """What is measured on what."""
        rules = ", ".join(path.name for path in self.options.rules)
        return (
            f"{self.found['when']}, {_processor()}, {os.cpu_count()} cores, Python "
            f"{platform.python_version()}, {zstd_version()}, load {os.getloadavg()[0]:.1f}\n"
            f"{self.spec.records:,} records of about {self.spec.size:,} bytes, "
            f"{self.spec.failures:.0%} of them failures, {self.spec.domains:,} domains; "
            f"rules: {rules}\n"
        )

    def failures(self) -> None:
        """The recommended log, which has nothing but failures, end to end."""
        spec = LogSpec(
            max(self.options.records // 10, 1000),
            failures=1.0,
            size=self.options.size,
            domains=self.options.domains,
        )
        found = measure(spec, self.sidecar, work=self.work, runs=self.options.runs, others=False)
        alike = replace(spec, answer=_MATCHED)
        each = measure(alike, self.sidecar, work=self.work, runs=self.options.runs, others=False)
        table = Table("a log of nothing but failures", "median", "lowest", "highest")
        table.add_row("µs/line, without start and end", *_row(found.net.per(1e-6 * spec.records)))
        if each.matched > spec.records * 0.9:
            per_match = each.net.per(1e-6 * spec.records)
            table.add_row("µs/line where every line matches", *_row(per_match))
        table.add_row("µs/line of zstdcat", *_row(found.reference.per(1e-6 * spec.records)))
        self.console.print(table)
        self.console.print(f"{spec.records:,} lines, {found.matched:,} matches\n")
        self.found["failures"] = {
            "net": found.net.values,
            "matched": found.matched,
            "net_where_every_line_matches": each.net.values,
        }

    def deliveries(self) -> None:
        """A log of nothing but deliveries, which a rule with ``sidecar.ratio`` has counted."""
        sidecar = Sidecar.create([SHARES], self.work / "scratch")
        table = Table("a log of nothing but deliveries", "median", "lowest", "highest")
        for name, short in (("whole records", False), ("short records", True)):
            spec = LogSpec(
                self.options.records,
                failures=0.0,
                size=self.options.size,
                domains=self.options.domains,
                deliveries=1.0,
                short=short,
            )
            found = measure(spec, sidecar, work=self.work, runs=self.options.runs, others=False)
            lines = 1e-6 * spec.records
            table.add_row(f"µs/line, {name}", *_row(found.net.per(lines)))
            table.add_row("µs/line of zstdcat", *_row(found.reference.per(lines)))
            self.found[f"deliveries, {name}"] = found.net.values
        self.console.print(table)

    def throughput(self) -> None:
        """A log, end to end."""
        found = measure(self.spec, self.sidecar, work=self.work, runs=self.options.runs)
        table = Table("processor time", "median s", "lowest", "highest", "ns/record", "ratio")
        for name, figure in found.figures.items():
            ratio = figure / found.reference
            table.add_row(name, *_row(figure), _ns(figure, found), f"{ratio.median:.2f}")
        table.add_row("  without start and end", "", "", "", "", f"{found.net_ratio.median:.2f}")
        self.console.print(table)
        self.found["throughput"] = {
            "seconds": {name: figure.values for name, figure in found.figures.items()},
            "ratio": found.ratio.values,
            "net_ratio": found.net_ratio.values,
            "compressed_bytes": found.raw_size,
        }

    def shares(self) -> None:
        """The same with more and fewer failures."""
        table = Table("share of failures", "ratio", "lowest", "highest", "without start and end")
        results = {}
        for share in _SHARES:
            spec = LogSpec(
                self.options.records // 4,
                failures=share,
                size=self.options.size,
                domains=self.options.domains,
            )
            found = measure(
                spec, self.sidecar, work=self.work, runs=self.options.runs, others=False
            )
            row = _row(found.ratio)
            table.add_row(f"{share:.0%}", *row, f"{found.net_ratio.median:.2f}")
            results[f"{share:g}"] = found.net_ratio.values
        self.console.print(table)
        self.found["shares"] = results

    def live(self) -> None:
        """Latency while a writer is busy, and rest after it."""
        runs: list[Live] = []
        table = Table("live", "median ms", "p99 ms", "highest ms", "of a core, busy", "at rest")
        for number in range(self.options.runs):
            run = measure_live(
                self.sidecar,
                work=self.work,
                rate=self.options.rate,
                seconds=self.options.seconds,
            )
            table.add_row(
                f"run {number + 1}: {len(run.latencies)} of {run.marks} seen",
                f"{run.median * 1e3:.1f}",
                f"{run.percentile(0.99) * 1e3:.1f}",
                f"{max(run.latencies) * 1e3:.1f}",
                f"{run.busy:.1%}",
                f"{run.idle:.2%}",
            )
            runs.append(run)
        self.console.print(table)
        self.found["live"] = [
            {
                "median": run.median,
                "p99": run.percentile(0.99),
                "busy": run.busy,
                "idle": run.idle,
            }
            for run in runs
        ]

    def start(self) -> None:
        """From the start of the process to the first effect on disk."""
        measure_start(self.sidecar, work=self.work)  # compiles the modules
        figure = Figure(
            tuple(measure_start(self.sidecar, work=self.work) for _ in range(self.options.runs))
        )
        table = Table("start to the first record's effect", "median s", "lowest", "highest")
        table.add_row("", *_row(figure))
        self.console.print(table)
        self.found["start"] = figure.values

    def memory(self) -> None:
        """Resident memory during a catch-up."""
        samples = measure_memory(self.sidecar, self.spec, work=self.work)
        most = max(size for _, size in samples)
        self.console.print(
            f"memory while catching up: {most / _MB:.0f} MB at most, {len(samples)} samples\n"
        )
        self.found["memory"] = samples
        end = samples[-1][0]
        points = [(at / end, size / _MB, size / _MB, size / _MB) for at, size in samples]
        labels = [(0.0, "0"), (1.0, f"{end:.1f}")]
        title = f"Resident memory, {self.spec.records:,} records"
        plot = Plot(title, "MB", points, labels, "seconds since the start", dots=False)
        self._save("memory.svg", [plot])

    def scaling(self) -> None:
        """Cost of a record by rules, entries in force and windows."""
        spec = LogSpec(
            self.options.records // 4,
            failures=self.options.share_of_failures,
            domains=self.options.domains,
        )
        runs = self.options.runs
        curves = [
            rules_curve(spec, work=self.work, runs=runs),
            entries_curve(spec, list(self.options.rules), work=self.work, runs=runs),
            windows_curve(spec, work=self.work, runs=runs),
        ]
        for curve in curves:
            table = Table(curve.title, "µs/record, median", "lowest", "highest")
            for label, figure in curve.points:
                table.add_row(label, *_row(figure.per(1e-6)))
            self.console.print(table)
        self.found["scaling"] = {
            curve.title: {label: figure.values for label, figure in curve.points}
            for curve in curves
        }
        self._save("scaling.svg", [_plot(curve) for curve in curves])

    def _save(self, name: str, plots: list[Plot]) -> None:
        if self.options.svg is not None:
            self.options.svg.mkdir(parents=True, exist_ok=True)
            (self.options.svg / name).write_text(document(plots))


def _plot(curve: Curve) -> Plot:
    last = max(len(curve.points) - 1, 1)
    micro = [figure.per(1e-6) for _, figure in curve.points]
    return Plot(
        f"Processor time of a record, by {curve.title}",
        "µs",
        [(n / last, f.median, f.low, f.high) for n, f in enumerate(micro)],
        [(n / last, label) for n, (label, _) in enumerate(curve.points)],
        curve.title,
    )


def _row(figure: Figure) -> tuple[str, str, str]:
    return f"{figure.median:.3f}", f"{figure.low:.3f}", f"{figure.high:.3f}"


def _ns(figure: Figure, found: Throughput) -> str:
    return f"{figure.median / found.spec.records * 1e9:,.0f}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _options() -> argparse.Namespace:
    names = ["failures", "deliveries", "throughput", "shares", "live", "start", "memory", "scaling"]
    parser = argparse.ArgumentParser("python -m tests.bench", description=__doc__)
    add = parser.add_argument
    add("--records", type=int, default=2_000_000, help="how many the log has")
    add("--share-of-failures", type=float, default=0.02, metavar="SHARE", help="0 to 1")
    add("--size", type=int, default=1000, help="bytes of a record, about")
    add("--domains", type=int, default=1000, help="how many get mail")
    add("--rules", type=Path, nargs="+", default=[BUNDLED], metavar="FILE")
    add("--runs", type=int, default=5, help="how often each thing is measured")
    add("--rate", type=int, default=10_000, help="records a second of the live writer")
    add("--seconds", type=float, default=15.0, help="how long it writes")
    add("--only", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    add("--out", type=Path, metavar="FILE.json", help="all values")
    add("--svg", type=Path, metavar="DIRECTORY", help="plots")
    default_work = Path(gettempdir()) / "tsa-sidecar-bench"
    add("--work", type=Path, default=default_work, help="for logs (kept) and scratch files")
    options = parser.parse_args()
    if options.records < 1000 or not 0 <= options.share_of_failures <= 1 or options.runs < 1:
        parser.error("--records from 1000, --share-of-failures from 0 to 1, --runs from 1")
    return options


if __name__ == "__main__":
    if sys.platform != "linux":
        sys.exit("the benchmark needs Linux: /proc and inotify")
    main()
