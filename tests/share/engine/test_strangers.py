"""Whatever stands in the stream: it is counted, said once and passed over."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from sidecar.share.presence import Presence, write_presence

from .conftest import PACE, Engine, following, lines, received, share, until

STREAM = "tsa-sidecar:{mail}:stream"
FAR = 99_999_999_999_999
GOOD: dict[str, Any] = {
    "v": "1",
    "host": "mx9",
    "segment": "s",
    "line": "1",
    "kind": "line",
    "n": "1",
    "data": "{}",
}


def flat(**other: Any) -> list[Any]:
    fields = {**GOOD, **other}
    return [word for pair in fields.items() for word in pair]


@pytest.mark.parametrize(
    "fields",
    [
        ["hello", "world"],
        flat(v="2"),
        flat(kind="order"),
        flat(line="first"),
        flat(line="-1"),
        flat(line="9" * 40),
        flat(line="١"),
        flat(n=""),
        flat(host=b"\xff\xfe"),
        flat(host=""),
        flat(host="two words"),
        flat(host="mx\n9"),
        flat(host="x" * 300),
        flat(segment=""),
        flat(segment="s" * 600),
        flat(data="x" * 5_000_000),
        flat(since="x", kind="attempts"),
        flat(more="1"),
        flat(kind="word", segment=b"/word/\xff"),
        [*flat()[2:], "v", "1"],
        ["x", "1"] * 500,
    ],
    ids=lambda fields: str(fields)[:40],
)
def test_a_bad_entry_is_passed_over(engine: Engine, fields: list[Any]) -> None:
    engine.ask("XADD", STREAM, "*", *flat(segment="before"))
    engine.ask("XADD", STREAM, "*", *fields)
    engine.ask("XADD", STREAM, "*", *flat(segment="after", n="2"))

    async def story() -> None:
        async with share(engine.url) as one, following(one) as batches:
            await until(lambda: len(received(batches)) == 2)
            await until(lambda: one.health.counts.bad >= 1)
            assert received(batches) == [("before", 1), ("after", 1)]
            assert one.health.problem is None
            assert [note for note in one.health.notes if "no item of ours" in note]
            assert all(len(note) < 300 for note in one.health.notes)

    asyncio.run(story())


def test_keys_of_another_kind_are_a_problem_and_no_crash(engine: Engine) -> None:
    engine.ask("SET", STREAM, "mine")

    async def story() -> None:
        async with share(engine.url) as one, following(one):
            one.offer(lines("a", 1, 2))
            await until(lambda: "WRONGTYPE" in str(one.health.problem))
            engine.ask("DEL", STREAM)
            await until(lambda: one.health.problem is None and one.health.counts.appended == 2)

    asyncio.run(story())


def test_positions_and_hosts_of_strangers(engine: Engine) -> None:
    engine.ask("HSET", "tsa-sidecar:{mail}:group", "epoch", b"\xff", "added", "many")
    positions = "tsa-sidecar:{mail}:positions:mx1"
    engine.ask("HSET", positions, "/told", b"\xff \xff", "a", "far", b"\xff", "3 x")
    engine.ask(
        "HSET", "tsa-sidecar:{mail}:hosts", "x", "99999999999999 []", b"\xff", "99999999999999 {"
    )

    async def story() -> None:
        async with share(engine.url) as one, following(one):
            one.offer(lines("a", 1, 2))
            await until(lambda: one.health.problem or one.health.counts.appended == 2)

    asyncio.run(story())


def test_a_host_whose_numbers_are_beyond_measure_keeps_nobody_from_telling(engine: Engine) -> None:
    said = write_presence(Presence(id=f"{'9' * 400}-1", number=1))
    engine.ask("HSET", "tsa-sidecar:{mail}:hosts", "mx9", f"{FAR} {said}")
    engine.ask("HSET", "tsa-sidecar:{mail}:group", "epoch", "e", "added", "5")
    engine.ask("XADD", STREAM, "*", *flat())

    async def story() -> None:
        async with share(engine.url) as one, following(one):
            one.offer(lines("a", 1, 2))
            await until(lambda: one.health.counts.appended == 2)
            assert [seen.host for seen in one.hosts()] == ["mx1"]

    asyncio.run(story())


def test_an_engine_that_loses_all_again_and_again_is_not_asked_in_a_storm(engine: Engine) -> None:
    # An epoch that a stranger wrote: no host ever finds its positions to be of it.
    engine.ask("HSET", "tsa-sidecar:{mail}:group", "epoch", "two words")

    async def story() -> None:
        slow = replace(PACE, last_retry=60.0)
        async with share(engine.url, pace=slow) as one:
            one.offer(lines("a", 1, 2))
            await until(lambda: "lost what it had" in str(one.health.problem))
            await asyncio.sleep(1.5)

    asyncio.run(story())
    assert int(engine.ask("INFO", "stats")["total_connections_received"]) < 15


def test_an_item_that_is_too_long_is_not_told(engine: Engine) -> None:
    async def story() -> None:
        async with share(engine.url, longest=10) as one:
            one.offer(lines("a", 1, 2))
            one.offer(lines("much longer", 1, 2))
            one.offer(lines("a", 3, 4))
            await until(lambda: one.health.queued == 0)
            assert one.health.counts.too_long == 2

    asyncio.run(story())
    assert engine.lines() == [("a", n) for n in range(1, 5)]
