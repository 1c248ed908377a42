"""Compare the laws of adjusting a limit, and draw what the sidecar's does."""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean

from tests.bench.provider.picture import as_svg, in_terminal
from tests.bench.provider.senders import SENDERS, adjusting
from tests.bench.provider.simulation import Blocks, Day, run
from tests.bench.provider.worlds import DAY, WORLDS

_PICTURED = ("day and night", "warm-up", "office hours")
_LETTERS = "ABCDEFGHIJ"


def main() -> None:
    """Every law in every world, with blocks and without."""
    options = _options()
    print("Delivered, % of what an all-knowing sender would have / refused per 1,000 delivered")
    for letter, name in zip(_LETTERS, SENDERS, strict=True):
        print(f"  {letter}  {name}")
    for blocks in (Blocks(), None):
        _table(blocks, options.seed)
    pictured = [
        (world.name, run(world, adjusting(), blocks=Blocks(), seconds=DAY, seed=options.seed))
        for world in WORLDS
        if world.name in _PICTURED
    ]
    for title, day in pictured:
        print("", title, *in_terminal(day), sep="\n")
    if options.svg is not None:
        options.svg.write_text(as_svg([(f"{t}, messages a minute", day) for t, day in pictured]))
        print(f"\n{options.svg} written")


def _table(blocks: Blocks | None, seed: int) -> None:
    what = "The provider never blocks"
    if blocks is not None:
        minutes = blocks.seconds // 60
        what = f"Blocks for {minutes} min after {blocks.after} refusals in 10 min"
    print(f"\n{what}\n{'':16}" + "".join(f"{letter:>8}" for letter in _LETTERS))
    columns: list[list[float]] = [[] for _ in SENDERS]
    for world in WORLDS:
        days = [
            run(world, make(), blocks=blocks, seconds=DAY, seed=seed) for make in SENDERS.values()
        ]
        print(f"{world.name:16}" + "".join(f"{_cell(day):>8}" for day in days), flush=True)
        for column, day in zip(columns, days, strict=True):
            column.append(day.share)
    print(f"{'mean':16}" + "".join(f"{100 * fmean(column):>5.0f}   " for column in columns))


def _cell(day: Day) -> str:
    refused = day.refused_per_1000
    many = f"{refused / 1000:.0f}k" if refused >= 1000 else f"{refused:.0f}"
    return f"{100 * day.share:.0f}/{many:<3}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.provider", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="what chance begins with (1)")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="where to write the picture")
    return parser.parse_args()


if __name__ == "__main__":
    main()
