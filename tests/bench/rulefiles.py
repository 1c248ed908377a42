"""Rule files to measure with, and DNS zones that hold every domain they name."""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

BUNDLED: Final = Path(__file__).parent / "rules.toml"
SHARES: Final = Path(__file__).parent / "shares.toml"
_ZONES: Final = Path(__file__).parent.parent / "data" / "zones"
_DOMAIN: Final = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)+")
_SYLLABLES: Final = ("ba", "de", "fo", "gu", "ki", "lo", "mi", "nu", "pa", "ri", "so", "tu", "ve")


def write_zone(rule_files: Iterable[Path], path: Path) -> Path:
    """A master file of the root: the recorded zones, and every other domain in the rule files."""
    lines = ["$ORIGIN ."]
    known: set[str] = set()
    for recorded in sorted(_ZONES.iterdir()):
        first, *records = recorded.read_text().splitlines()
        origin = first.split()[1]
        known.add(origin.rstrip("."))
        for record in records:
            name, rest = record.split(maxsplit=1)
            lines.append(f"{origin if name == '@' else f'{name}.{origin}'} {rest}")
    for file in rule_files:
        for name in tomllib.loads(file.read_text()):
            if name not in known and name != "default" and _DOMAIN.fullmatch(name):
                known.add(name)
                lines.append(f"{name}. 600 IN MX 10 mx.{name}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def write_many(count: int, path: Path) -> Path:
    """A file of `count` rules that are unlike each other, some by default and some by domain."""
    rng = random.Random(count)
    tables: list[str] = []
    for number in range(count):
        table = '"default"' if number % 4 == 0 else f'"rules{number}.example"'
        if number % 4:
            tables.append(f"[{table}]\nmx_rollup = false\n")
        said = f"{_word(rng)} {_word(rng)} {_word(rng)}"
        tables.append(
            f"[[{table}.automation]]\nregex = '{said} (?:code|reason) \\d+'\n"
            f'action = {{SetConfig={{name="max_message_rate", value="{number + 1}/h"}}}}\n'
            'duration = "1 hour"\n'
        )
    # What the log does contain, so that there is something to match with any number of rules.
    tables.append(
        "[[\"default\".automation]]\nregex = 'temporarily rate limited'\n"
        'action = "Suspend"\nduration = "1 hour"\n'
    )
    tables.sort(key=lambda text: '"default"' not in text)
    path.write_text('["default"]\nconnection_limit = 10\n' + "\n".join(tables))
    return path


def write_window(period: str, path: Path) -> Path:
    """A file of one rule that counts what most failures say, over `period`."""
    path.write_text(
        "[[\"default\".automation]]\nregex = 'deferred|rate limited|Throttled|block list'\n"
        f'action = "Suspend"\ntrigger = {{Threshold="1000000000/{period}"}}\nduration = "1 hour"\n'
    )
    return path


def _word(rng: random.Random) -> str:
    return "".join(rng.choices(_SYLLABLES, k=rng.randrange(2, 5)))
