"""The engine killed, flushed, frozen, failed over: nothing is told twice, nothing is missed."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable

from sidecar.share import Batch, Place, late_name

from .conftest import (
    Engine,
    Log,
    background,
    following,
    lines,
    place_behind,
    received,
    share,
    take,
    until,
)


def each_once(found: list[tuple[str, int]], segment: str, last: int) -> None:
    assert Counter(found) == Counter((segment, n) for n in range(1, last + 1))


def test_killed_with_its_data(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine("--appendonly", "yes", "--appendfsync", "always")

    async def story() -> None:
        async with share(engine.url, "mx1") as one, share(engine.url, "mx2") as two:
            log = Log(one)
            async with following(two) as batches, background(log.catch_up()):
                for first in range(1, 101, 5):
                    log.offer(lines("a", first, first + 4))
                    if first in (26, 61):
                        await until(lambda: one.health.counts.appended)
                        engine.kill()
                        engine.start()
                await until(lambda: len(received(batches)) >= 100)
                await asyncio.sleep(0.3)
            each_once(received(batches), "a", 100)

    asyncio.run(story())
    assert engine.lines() == [("a", n) for n in range(1, 101)]


def test_killed_without_its_data(engine: Engine) -> None:
    async def story() -> None:
        async with share(engine.url, "mx1") as one, share(engine.url, "mx2") as two:
            log = Log(one)
            async with following(two) as batches, background(log.catch_up()):
                log.offer(lines("a", 1, 50))
                await until(lambda: len(received(batches)) == 50)
                engine.kill()
                log.offer(lines("a", 51, 60))
                await until(lambda: one.health.problem and two.health.problem)
                assert "can't be reached" in str(two.health.problem)
                engine.start()
                await until(lambda: len(received(batches)) >= 60)
                await until(lambda: len(engine.lines()) == 60)
                await asyncio.sleep(0.3)
                await until(lambda: not one.health.problem and two.health.connected)
            each_once(received(batches), "a", 60)

    asyncio.run(story())


def test_flushed_while_all_are_connected(engine: Engine) -> None:
    async def story() -> None:
        async with share(engine.url, "mx1") as one, share(engine.url, "mx2") as two:
            log = Log(one)
            async with following(two) as batches, background(log.catch_up()):
                log.offer(lines("a", 1, 50))
                one.say("w", "{}")
                await until(lambda: len(received(batches)) == 51)
                engine.ask("FLUSHALL")
                log.offer(lines("a", 51, 60))
                await until(lambda: len(received(batches)) >= 61)
                await until(lambda: len(engine.lines()) >= 60)
                assert one.unsaid() == ("w",)
                one.say("w", "{}")
                await until(lambda: one.unsaid() == () and len(engine.lines()) == 61)
                await asyncio.sleep(0.3)
                assert any("lost" in note for note in one.health.notes)
            found = received(batches)
            assert found.count(("w", 1)) == 1
            each_once([item for item in found if item[0] == "a"], "a", 60)

    asyncio.run(story())


def test_only_the_stream_is_evicted(engine: Engine) -> None:
    async def story() -> None:
        async with share(engine.url, "mx1") as one, share(engine.url, "mx2") as two:
            log = Log(one)
            async with background(log.catch_up()):
                log.offer(lines("a", 1, 50))
                await until(lambda: len(engine.lines()) == 50)
                engine.ask("DEL", "tsa-sidecar:{mail}:stream")
                log.offer(lines("a", 51, 60))
                items, _ = await take(two, Place(), 60)
            each_once([(item.segment, item.line) for item in items], "a", 60)

    asyncio.run(story())


def test_a_place_of_a_flushed_engine_holds_no_one_up(engine: Engine) -> None:
    async def story() -> None:
        async with share(engine.url, "mx1") as one, share(engine.url, "mx2") as two:
            one.offer(lines("a", 1, 50))
            _, place = await take(two, Place(), 50)
        engine.ask("FLUSHALL")
        # An engine whose clock is behind gives ids below those of the place.
        stream = "tsa-sidecar:{mail}:stream"
        fields = "v 1 host mx1 segment a line {} kind line n {} data x"
        for n, line in enumerate((50, 51), start=1):
            words = fields.format(line, n).split()
            engine.ask("XADD", stream, f"5-{n}", *words)
        async with share(engine.url, "mx2") as two:
            items, _ = await take(two, place, 1)
        assert [item.line for item in items] == [51]

    asyncio.run(story())


def test_frozen(engine: Engine) -> None:
    async def story() -> None:
        async with share(engine.tcp, "mx1") as one, share(engine.tcp, "mx2") as two:
            log = Log(one)
            async with following(two) as batches, background(log.catch_up()):
                log.offer(lines("a", 1, 20))
                await until(lambda: len(received(batches)) == 20)
                engine.signal(signal.SIGSTOP)
                log.offer(lines("a", 21, 40))
                await until(lambda: one.health.problem and two.health.problem)
                assert "does not answer within 0.5 s" in str(one.health.problem)
                engine.signal(signal.SIGCONT)
                await until(lambda: len(received(batches)) >= 40)
                await until(lambda: one.health.problem is None and two.health.connected)
                await asyncio.sleep(0.3)
            each_once(received(batches), "a", 40)

    asyncio.run(story())
    assert engine.lines() == [("a", n) for n in range(1, 41)]


def test_a_replica_takes_over_without_the_last_items(make_engine: Callable[..., Engine]) -> None:
    old = make_engine()
    new = make_engine("--replicaof", "127.0.0.1", str(old.port))

    async def story() -> None:
        async with share(old.url, "mx1") as one, share(old.url, "mx2") as two:
            one.offer(lines("a", 1, 30))
            _, place = await take(two, Place(), 30)
            await until(lambda: len(new.lines()) == 30)
            new.ask("REPLICAOF", "NO", "ONE")
            one.offer(lines("a", 31, 40))  # only the old one has these
            items, place = await take(two, place, 10)
            assert [item.line for item in items] == list(range(31, 41))
        async with share(new.url, "mx1") as one, share(new.url, "mx2") as two:
            log = Log(one)
            log.offer(lines("a", 41, 50))
            async with following(two, place) as batches, background(log.catch_up()):
                await until(lambda: len(received(batches)) >= 10)
                await until(lambda: len(new.lines()) == 50)
                await asyncio.sleep(0.3)
            assert received(batches) == [("a", n) for n in range(41, 51)]
            assert two.health.counts.missed == 0

    asyncio.run(story())


def test_a_replica_takes_over_with_an_older_watermark(make_engine: Callable[..., Engine]) -> None:
    old = make_engine()
    new = make_engine("--replicaof", "127.0.0.1", str(old.port))

    def watermark(engine: Engine) -> bytes:
        told = engine.ask("HGET", "tsa-sidecar:{mail}:positions:mx1", "/told")
        return bytes(told or b"").split(b" ")[-1]

    async def story() -> None:
        async with (
            share(old.url, "mx1") as one,
            share(old.url, "mx2") as two,
            following(two) as batches,
        ):
            one.offer(lines("a", 1, 5))
            one.offer(lines("b", 1, 5))
            one.finish("b")
            await until(lambda: watermark(new) == b"b")
            new.ask("REPLICAOF", "NO", "ONE")
            one.offer(lines("b", 6, 9))  # only the old one has these
            one.offer(lines("c", 1, 5))
            one.finish("d")

            def read_on() -> bool:
                told = {h: w.segment for batch in batches for h, w in batch.watermarks.items()}
                return told == {"mx1": "d"} and len(received(batches)) == 19

            await until(read_on)
            place = place_behind(Place(), batches)
        assert place.watermarks["mx1"].segment == "d"
        assert place.marks == {}
        async with share(new.url, "mx1") as one, share(new.url, "mx2") as two:
            log = Log(one)
            for segment, line in (("a", 5), ("b", 9), ("c", 5)):
                one.expect(segment, line)
            log.offer(lines("d", 1, 2))
            async with (
                share(new.url, "mx3") as three,
                following(two, place) as known,
                following(three) as fresh,
                background(log.catch_up()),
            ):
                await until(lambda: len(received(fresh)) == 21)
                await until(lambda: len(received(known)) == 2)
                await asyncio.sleep(0.3)
            assert received(known) == [("d", 1), ("d", 2)]
            assert len(set(received(fresh))) == len(received(fresh)) == 21

    asyncio.run(story())


def test_a_primary_that_becomes_a_replica(make_engine: Callable[..., Engine]) -> None:
    one_engine, other = make_engine(), make_engine()

    async def story() -> None:
        async with share(one_engine.url) as one:
            one.offer(lines("a", 1, 5))
            await until(lambda: one.health.counts.appended == 5)
            one_engine.ask("REPLICAOF", "127.0.0.1", other.port)
            one.offer(lines("a", 6, 10))
            await until(lambda: one.health.problem)
            await until(lambda: "is a replica" in str(one.health.problem))

    asyncio.run(story())


def test_overtaken_by_the_trimming(engine: Engine) -> None:
    async def story() -> None:
        async with share(engine.url, "mx1", most=200) as one, share(engine.url, "mx2") as two:
            one.offer(lines("a", 1, 100))
            _, place = await take(two, Place(), 100)
            for first in range(101, 2001, 100):
                one.offer(lines("a", first, first + 99))
            await until(lambda: one.health.counts.appended == 2000)
            assert one.health.counts.cut > 1000
            assert any("--share-most" in note for note in one.health.notes)
            async with following(two, place) as batches:
                await until(lambda: batches and received(batches)[-1] == ("a", 2000))
            missed = two.health.counts.missed
            assert missed > 1000
            assert missed == sum(batch.missed for batch in batches)
            assert missed + len(received(batches)) == 1900
            assert any("trimmed before" in note for note in two.health.notes)

    asyncio.run(story())


def test_what_is_too_old_is_trimmed(engine: Engine) -> None:
    async def story() -> None:
        async with share(engine.url, age=0.2) as one:
            one.offer(lines("a", 1, 1000))
            await until(lambda: one.health.counts.appended == 1000)
            await asyncio.sleep(0.4)
            one.offer(lines("a", 1001, 1001))
            await until(lambda: one.health.counts.appended == 1001)
            assert one.health.counts.cut == 0

    asyncio.run(story())
    assert 1 <= len(engine.lines()) <= 200


def test_the_longest_age_of_the_group_counts(engine: Engine) -> None:
    async def story() -> None:
        async with share(engine.url, "mx1", age=0.2) as one, share(engine.url, "mx2", age=900.0):
            await until(lambda: len(one.hosts()) == 2)
            one.offer(lines("a", 1, 1000))
            await until(lambda: one.health.counts.appended == 1000)
            await asyncio.sleep(0.4)
            one.offer(lines("a", 1001, 1001))
            await until(lambda: one.health.counts.appended == 1001)

    asyncio.run(story())
    assert len(engine.lines()) == 1001


def under_way(place: Place, batches: list[Batch]) -> set[str]:
    """The segments whose lines are remembered behind these batches, late ones left out."""
    kept = set(place.marks)
    for batch in batches:
        kept = (kept | batch.moved.keys()) - set(batch.forgotten)
    return {segment for _, segment, _ in kept if not segment.startswith("/")}


def test_whatever_happens_each_item_arrives_once(
    make_engine: Callable[..., Engine], chance: random.Random
) -> None:
    engine = make_engine("--appendonly", "yes", "--appendfsync", "no")

    def harm() -> None:
        match chance.randrange(5):
            case 0:
                engine.kill()
                engine.start()
            case 1:
                engine.kill()
                shutil.rmtree(engine.directory / "appendonlydir")
                engine.start()
            case 2:
                engine.ask("FLUSHALL")
            case 3:
                engine.ask("CLIENT", "KILL", "TYPE", "normal")
            case 4:
                key = chance.choice(["stream", "positions:mx1", "group", "hosts"])
                engine.ask("DEL", f"tsa-sidecar:{{mail}}:{key}")

    async def story() -> Place:
        last: dict[str, int] = {}
        floor = 0
        async with share(engine.url, "mx1", queue=30_000) as one, share(engine.url, "mx2") as two:
            log = Log(one)
            place = Place()
            found: list[tuple[str, int]] = []
            async with background(log.catch_up()):
                for _ in range(12):
                    async with following(two, place) as batches:
                        for _ in range(chance.randrange(1, 8)):
                            segment = f"{floor + chance.randrange(3):03}"
                            if chance.randrange(5) == 0:  # the clock was set back
                                segment = late_name(f"{chance.randrange(floor + 1):03}", 0)
                            first = last.get(segment, 0) + 1
                            last[segment] = first + chance.randrange(60)
                            log.offer(lines(segment, first, last[segment]))
                            floor += chance.randrange(2)
                            one.finish(f"{floor:03}")
                            await asyncio.sleep(chance.choice([0, 0, 0.01, 0.1]))
                        harm()
                        await asyncio.sleep(chance.choice([0, 0.05, 0.2]))
                    found += received(batches)
                    place = place_behind(place, batches)
                async with following(two, place) as batches:
                    wanted = sum(last.values())
                    await until(lambda: len(found) + len(received(batches)) >= wanted)
                    await asyncio.sleep(0.5)
                    # It may have noticed just now that all is lost, and tell it again.
                    await until(lambda: len(under_way(place, batches)) <= 5)
                found += received(batches)
                place = place_behind(place, batches)
        lines_told = [(name, n) for name, to in last.items() for n in range(1, to + 1)]
        assert Counter(found) == Counter(lines_told)
        return place

    place = asyncio.run(story())
    late = sum(segment.startswith("/") for _, segment, _ in place.marks)
    assert len(place.marks) <= late + 5


def test_no_engine_at_all(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(start=False)

    async def story() -> None:
        async with share(engine.url, queue=5000) as one, share(engine.url, "mx2") as two:
            for first in range(1, 1000, 5):
                one.offer(lines("a", first, first + 4))
            for n in range(20_000):
                one.say(f"w{n}", "{}")
            assert one.health.queued_bytes < 5000 + 2**20
            assert one.behind() == {}
            await until(lambda: one.health.problem)
            assert not one.health.connected
            engine.start()
            async with background(Log(one).catch_up()), following(two) as batches:
                await until(lambda: ("a", 1000) in received(batches)[-2000:])

    asyncio.run(story())
