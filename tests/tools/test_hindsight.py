"""What a look back keeps, and that it decides as ``run`` does."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from sidecar.automation.decide import Automation
from sidecar.automation.entries import Entry
from sidecar.automation.pipeline import Tally, read_everything
from sidecar.log.blocks import Block, Position
from sidecar.policy import load_settings
from sidecar.service.rules import Rules, load_rules
from sidecar.shaping.mx import OfflineResolver
from sidecar.times import NS
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


def load(directory: Path, text: str) -> Rules:
    (directory / "rules.toml").write_text(text)
    files = {"shaping": (str(directory / "rules.toml"),)}
    settings, _ = load_settings(files, {}, require=("shaping",))
    return asyncio.run(load_rules(settings.reloaded, OfflineResolver()))


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
    rules = load(tmp_path, RULES)
    ended: list[Told] = []

    async def look(minutes: int) -> Hindsight:
        side = Hindsight(rules, on_end=ended.append)
        await look_back(refusals(minutes), side, resolver=OfflineResolver())
        return side

    few, many = asyncio.run(look(70)), asyncio.run(look(140))
    assert len(ended) == (70 - 1 + 140 - 1) * SITES
    assert len(few.told) == len(many.told) == SITES
    assert len(many.automation.entries) == len(many.automation.episodes) == SITES
    assert many.automation.thresholds.places <= 1.1 * few.automation.thresholds.places


EVERY_KIND = """
[default]
connection_limit = 10
max_message_rate = "100/s"

[[default.automation]]
regex = "plain"
action = ["Suspend", {SetConfig = {name = "connection_limit", value = 1}}]
duration = "10 minutes"

[[default.automation]]
regex = "counted"
action = "SuspendTenant"
trigger = {Threshold = "2/20min"}
duration = "1 hour"

[[default.automation]]
regex = "share"
action = "Suspend"
duration = "15 minutes"
sidecar.ratio = {over = "30%", min = 5, window = "10 minutes"}

[[default.automation]]
regex = "adjusting"
action = {SetConfig = {name = "max_message_rate", value = "50/s"}}
duration = "1 hour"
sidecar.adjust = true

[[default.automation]]
regex = "probing"
action = "Suspend"
duration = "5 minutes"
sidecar.probe = {connection_limit = 2, for = "10 minutes", deliveries = 3}

[[default.automation]]
regex = "escalating"
action = "Bounce"
duration = "5 minutes"
sidecar.escalate = true

[[default.automation]]
regex = "released"
action = {SetConfig = {name = "connection_limit", value = 3}}
duration = "20 minutes"
sidecar.release = {deliveries = 4}
"""
WORDS = ("plain", "counted", "share", "adjusting", "probing", "escalating", "released")


def traffic(chance: random.Random) -> dict[bytes, int]:
    """Refusals and deliveries of some hours, each with its second.

    They are in order.  Where a match comes late, what held at its time may be over by then,
    which one who reads all at once does not see.
    """
    lines, second = {}, BEGIN
    for _ in range(chance.randint(1, 150)):
        second += chance.choice([1, 5, 30, 120, 300])
        word, site = chance.choice([*WORDS, *["Ok"] * 4]), chance.choice("ab")
        one = record(
            at=second,
            type="Delivery" if word == "Ok" else "TransientFailure",
            response={"code": 250 if word == "Ok" else 421, "content": word},
            recipient=f"user@{site}.example",
            queue=f"camp:tenant@{site}.example",
            site=f"ip1->mx.{site}.example@smtp_client",
            egress_source="ip1",
        )
        lines[json.dumps(one).encode()] = second
    return lines


def in_force(automation: Automation) -> dict[str, Entry]:
    """The entries by key, without their numbers: what was over in between has used up some."""
    return {entry.key: replace(entry, seq=0) for entry in automation.entries}


@pytest.mark.parametrize("minutes_before", [0, 10])
def test_record_by_record_it_ends_where_run_ends_that_reads_all_at_once(
    tmp_path: Path, chance: random.Random, minutes_before: int
) -> None:
    rules, kinds = load(tmp_path, EVERY_KIND), set[str]()
    for _ in range(50):
        lines = traffic(chance)
        until = max(lines.values()) - 60 * minutes_before

        async def blocks(data: bytes = b"\n".join(lines)) -> AsyncIterator[Block]:
            yield Block("made", data, Position(), data.count(b"\n") + 1, len(data))

        side, at_once = Hindsight(rules), Automation()
        looking = look_back(blocks(), side, resolver=OfflineResolver(), until_ns=until * NS)
        now_ns = max(until * NS, asyncio.run(looking).last_ns or 0)
        at_once.follow(rules.shaping)
        found = read_everything(
            (line for line, second in lines.items() if second <= until),
            matcher=rules.matcher,
            skip_types=rules.settings.skip_record_types,
            tally=Tally(),
        )
        at_once.apply(found, mx={}, now_ns=now_ns)
        at_once.expire(now_ns)
        assert in_force(side.automation) == in_force(at_once)
        kinds |= {entry.kind for entry in at_once.entries}
    assert kinds == {"override", "ready_q", "sched_q", "bounce"}
