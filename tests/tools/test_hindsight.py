"""What a look back keeps: what is in force, not what has been."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

from sidecar.log.blocks import Block, Position
from sidecar.policy import load_settings
from sidecar.service.rules import load_rules
from sidecar.shaping.mx import OfflineResolver
from sidecar.tools.hindsight import Hindsight, Told, look_back
from tests.kumod_writer import record

RULES = """
[[default.automation]]
regex = "slow"
action = "Suspend"
duration = "1 minute"

[[default.automation]]
regex = "slow"
action = "Suspend"
trigger = {Threshold = "100/min"}
duration = "1 minute"
"""
BEGIN = 1_795_360_800
SITES = 50


async def refusals(minutes: int) -> AsyncIterator[Block]:
    """Two minutes apart, a refusal at each of the sites."""
    for minute in range(0, 2 * minutes, 2):
        lines = [
            json.dumps(
                record(
                    at=BEGIN + 60 * minute,
                    response={"code": 421, "content": f"slow {minute}"},
                    recipient=f"user@d{site}.example",
                    site=f"ip1->mx{site}.{minute}.example@smtp_client",
                )
            )
            for site in range(SITES)
        ]
        data = "\n".join(lines).encode() + b"\n"
        yield Block("made", data, Position(), len(lines), len(data))


def test_episodes_that_ended_and_windows_that_are_over_are_not_kept(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(RULES)
    settings, _ = load_settings(
        {"shaping": (str(tmp_path / "rules.toml"),)}, {}, require=("shaping",)
    )
    ended: list[Told] = []

    async def look(minutes: int) -> Hindsight:
        resolver = OfflineResolver()
        side = Hindsight(await load_rules(settings.reloaded, resolver), on_end=ended.append)
        await look_back(refusals(minutes), side, resolver=resolver)
        return side

    few, many = asyncio.run(look(70)), asyncio.run(look(140))
    assert len(ended) == (70 - 1 + 140 - 1) * SITES
    assert len(few.told) == len(many.told) == SITES
    assert len(many.automation.entries) == len(many.automation.episodes) == SITES
    assert many.automation.thresholds.places <= 1.1 * few.automation.thresholds.places
