"""What is told, and what arrives, while nothing is wrong; and when the service is slow or early."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from sidecar.service.places import mark_rows, watermark_rows
from sidecar.share import Item, Place, Portion, Presence, Share, late_name
from sidecar.share.presence import write_presence

from .conftest import (
    Engine,
    Log,
    background,
    following,
    lines,
    place_behind,
    received,
    settings,
    share,
    take,
    until,
)


def test_an_item_arrives_as_it_was_told(engine: Engine) -> None:
    async def story() -> None:
        async with share(engine.tcp, "mx1") as one, share(engine.tcp, "mx2") as two:
            sums = Item(9, "attempts", b'{"n":3}')
            assert one.offer(Portion("log \udcff 1", 0, 9, (Item(5, "line", b"\xff{"), sums)))
            assert one.say("order-7", '{"cancel":1}')
            items, _ = await take(two, Place(), 3)
            assert {(i.host, i.segment, i.line, i.kind, i.data, i.fresh) for i in items} == {
                ("mx1", "order-7", 1, "word", b'{"cancel":1}', 1.0),
                ("mx1", "log \udcff 1", 5, "line", b"\xff{", 1.0),
                ("mx1", "log \udcff 1", 9, "attempts", b'{"n":3}', 1.0),
            }

    asyncio.run(story())


def test_a_host_does_not_receive_what_it_told(engine: Engine) -> None:
    async def story() -> None:
        async with share(engine.url, "mx1") as one, share(engine.url, "mx2") as two:
            one.offer(lines("a", 1, 3))
            await until(lambda: one.health.counts.appended == 3)
            two.offer(lines("b", 1, 2))
            items, _ = await take(one, Place(), 2)
            assert [(i.host, i.line) for i in items] == [("mx2", 1), ("mx2", 2)]

    asyncio.run(story())


def test_what_is_offered_again_is_appended_once(engine: Engine) -> None:
    async def story() -> None:
        async with share(engine.url) as one:
            one.offer(lines("a", 1, 10))
            await until(lambda: one.health.counts.appended == 10)
        async with share(engine.url) as again:  # after a crash that lost the last commit
            again.offer(lines("a", 1, 4))
            again.offer(lines("a", 5, 14))
            again.say("w", "{}")
            again.say("w", "{}")
            await until(lambda: again.health.queued == 0)
        async with share(engine.url) as again:
            again.say("w", "{}")
            await until(lambda: again.health.queued == 0)

    asyncio.run(story())
    assert [line for line in engine.lines() if line[0] == "a"] == [("a", n) for n in range(1, 15)]
    assert [line for line in engine.lines() if line[0] != "a"] == [("/word/w", 1)]


def test_a_sum_is_never_told_in_part(engine: Engine) -> None:
    def summed(first: int, last: int) -> Portion:
        return Portion("a", first - 1, last, (Item(last, "attempts", b"%d" % (last - first + 1)),))

    async def story() -> None:
        async with share(engine.url) as one, share(engine.url, "mx2") as two:
            one.offer(summed(1, 10))
            await until(lambda: one.health.counts.appended == 1)
            assert not one.offer(summed(6, 20))
            assert one.behind()["a"].from_line == 10
            assert one.offer(summed(11, 20))
            items, _ = await take(two, Place(), 2)
            assert sum(int(item.data) for item in items) == 20

    asyncio.run(story())


def test_the_lines_before_sharing_began_are_asked_for(engine: Engine) -> None:
    async def story() -> None:
        async with share(engine.url) as one:
            one.expect("old", 30)
            one.offer(lines("a", 21, 25))
            await until(lambda: set(one.behind()) == {"a", "old"})
            async with background(Log(one).catch_up()):
                await until(lambda: one.health.counts.appended == 55)
            assert one.behind() == {}

    asyncio.run(story())
    assert [n for segment, n in engine.lines() if segment == "a"] == list(range(1, 26))


def test_a_segment_without_anything_to_tell_is_passed_over(engine: Engine) -> None:
    async def story() -> None:
        async with share(engine.url) as one:
            one.offer(Portion("a", 0, 5000))
            assert one.offer(lines("a", 5001, 5002))
            await until(lambda: one.health.counts.appended == 2)

    asyncio.run(story())
    assert engine.lines() == [("a", 5001), ("a", 5002)]


def test_a_full_queue_is_caught_up_from_the_log(engine: Engine) -> None:
    async def story() -> None:
        async with share(engine.url, queue=20_000) as one, share(engine.url, "mx2") as two:
            log = Log(one)
            async with following(two) as batches, background(log.catch_up()):
                for first in range(1, 3001, 10):
                    log.offer(lines("a", first, first + 9))
                    assert one.health.queued_bytes <= 20_000
                assert one.health.queued < 3000
                await until(lambda: len(received(batches)) >= 3000)
            assert received(batches) == [("a", n) for n in range(1, 3001)]

    asyncio.run(story())


def test_a_segment_that_is_gone_is_given_up(engine: Engine) -> None:
    async def story() -> None:
        async with share(engine.url) as one:
            one.expect("gone", 30)
            await until(one.behind)
            one.forget("gone")
            assert one.behind() == {}
            assert one.health.counts.forgotten == 1

    asyncio.run(story())


def test_a_reader_goes_on_from_its_place(engine: Engine) -> None:
    async def story() -> None:
        async with share(engine.url, "mx1") as one:
            one.offer(lines("a", 1, 500))
            await until(lambda: one.health.counts.appended == 500)
            seen: list[int] = []
            place = Place()
            while len(seen) < 500:
                async with share(engine.url, "mx2") as two:
                    items, place = await take(two, place, 1)
                    seen += [item.line for item in items]
            assert seen == list(range(1, 501))

    asyncio.run(story())


def test_who_is_in_the_group_and_how_far(engine: Engine) -> None:
    async def story() -> None:
        async with share(engine.url, "mx1", rules="r1", version="2") as one:
            async with share(engine.url, "mx2", rules="r1") as two, following(one):
                two.tell(rules="r2", age=7200.0)
                two.offer(lines("a", 1, 5))
                await until(lambda: two.health.counts.appended == 5)
                await until(lambda: [h.unread for h in one.hosts()] == [0, 5])
                mine, other = one.hosts()
                assert (mine.host, mine.own, mine.said.rules, mine.said.version) == (
                    *("mx1", True, "r1", "2"),
                )
                assert (other.host, other.own, other.said.rules) == ("mx2", False, "r2")
                assert other.said.age == 7200.0
            silent = one.hosts()[1].silent
            await until(lambda: one.hosts()[1].silent > silent + 0.2)

    asyncio.run(story())


def test_a_host_that_is_long_silent_is_dropped(engine: Engine) -> None:
    hosts = "tsa-sidecar:{mail}:hosts"
    engine.ask("HSET", hosts, "mx9", '1000 {"version":"1"}')
    engine.ask("HSET", hosts, "stranger", "hello")
    engine.ask("HSET", "tsa-sidecar:{mail}:positions:mx9", "/told", "e z")

    async def story() -> None:
        async with share(engine.url) as one:
            await until(one.hosts)

    asyncio.run(story())
    assert set(engine.ask("HGETALL", hosts)) == {b"mx1"}
    assert engine.ask("KEYS", "*:positions:*") == [b"tsa-sidecar:{mail}:positions:mx1"]


def test_positions_that_do_not_move_are_dropped(engine: Engine) -> None:
    positions = "tsa-sidecar:{mail}:positions:mx1"
    engine.ask("HSET", "tsa-sidecar:{mail}:group", "epoch", "e")
    engine.ask("HSET", positions, "/told", "e ", "old", "12 1000", "stranger", "x")

    async def story() -> None:
        async with share(engine.url) as one:
            one.offer(lines("a", 1, 2))
            await until(lambda: one.health.counts.appended == 2)

    asyncio.run(story())
    assert set(engine.ask("HGETALL", positions)) == {b"/told", b"a"}


def test_many_segments_leave_little_behind(engine: Engine) -> None:
    positions, most = "tsa-sidecar:{mail}:positions:mx1", 10_000

    async def story() -> None:
        async with share(engine.url, "mx1") as one, share(engine.url, "mx2") as two:
            async with following(two) as batches:
                for number in range(1, most + 1):
                    name = f"{number:06}"
                    assert one.offer(lines(name, 1, 1))
                    one.finish(name)
                    if number % 100 == 0:
                        await until(lambda: one.health.queued == 0)
                await until(lambda: len(received(batches)) == most)
                await until(lambda: engine.ask("HLEN", positions) < 10)
                # What was told is not told again, and what came late is told.
                one.offer(lines("000005", 2, 3))
                one.offer(lines(late_name("000005", 1), 2, 3))
                await until(lambda: len(received(batches)) == most + 2)
                place = place_behind(Place(), batches)
            assert len(place.marks) < 300
            assert place.watermarks["mx1"].segment > "009000"
            rows = mark_rows(place.marks)
            rows.add(watermark_rows(place.watermarks))
            assert len(rows.meta) < 300

    asyncio.run(story())


def test_many_hosts_at_once(engine: Engine) -> None:
    async def story() -> None:
        names = [f"mx{n}" for n in range(5)]
        async with share(engine.url, "reader") as reader, following(reader) as batches:

            async def tell(name: str) -> None:
                async with share(engine.url, name) as one:
                    for first in range(1, 201, 20):
                        one.offer(lines(name, first, first + 19))
                        await asyncio.sleep(0)
                    await until(lambda: one.health.counts.appended == 200)

            await asyncio.gather(*map(tell, names))
            await until(lambda: len(received(batches)) >= 1000)
            by_name: dict[str, list[Any]] = {name: [] for name in names}
            for segment, line in received(batches):
                by_name[segment].append(line)
            assert by_name == {name: list(range(1, 201)) for name in names}

    asyncio.run(story())


def test_two_hosts_of_one_name_notice_each_other(engine: Engine) -> None:
    async def story() -> None:
        async with share(engine.url) as one:
            await until(one.hosts)
            async with share(engine.url) as other:
                await until(lambda: one.health.namesake and other.health.namesake)

    asyncio.run(story())


def test_who_only_listens_hears_of_the_others_and_is_not_listed(engine: Engine) -> None:
    async def story() -> None:
        async with share(engine.url, "mx2", tells=False) as quiet, share(engine.url) as one:
            await until(lambda: one.hosts() and quiet.hosts())
            assert [seen.host for seen in quiet.hosts()] == ["mx1"]

    asyncio.run(story())


@pytest.mark.parametrize("key", ["stream", "group", "*"])
def test_a_host_that_has_nothing_more_to_tell_notices_that_all_is_lost(
    engine: Engine, key: str
) -> None:
    async def story() -> None:
        async with share(engine.url) as one:
            log = Log(one)
            async with background(log.catch_up()):
                log.offer(lines("a", 1, 2))
                await until(lambda: one.health.counts.appended == 2 and one.hosts())
                names = [f"tsa-sidecar:{{mail}}:{key}"]
                names = engine.ask("KEYS", "tsa*") if key == "*" else names
                engine.ask("DEL", *names)
                await until(lambda: one.health.counts.appended == 4)

    asyncio.run(story())
    assert engine.lines()[-2:] == [("a", 1), ("a", 2)]


def said(life: str) -> bytes:
    return b"1 " + write_presence(Presence(life=life)).encode()


def test_a_host_that_comes_back_is_no_namesake_of_itself() -> None:
    one = Share(settings("redis://mx"), clock=time.time_ns)
    own = said(one._life)
    for before in (said("before"), said("before"), own, said("before"), b"", own, b"rubbish"):
        one._meet_namesake(before)
        assert not one.health.namesake
    for _ in range(3):
        one._meet_namesake(said("other"))
    assert one.health.namesake
