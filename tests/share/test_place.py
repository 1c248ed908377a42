"""Where a reader is, and what is new behind it."""

from __future__ import annotations

from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from sidecar.share import Mark, Place, Watermark
from sidecar.share.place import BEGINNING, Engine, Follower, resume

ENGINE = Engine("e", "r", "9-0")


def entry(
    id: str, line: int, *, host: str = "mx1", segment: str = "s", n: int = 0, since: int = -1
) -> tuple[bytes, object]:
    kind = "line" if since < 0 else "attempts"
    text = f"v 1 host {host} segment {segment} line {line} kind {kind} n {n} data x"
    words = text.split() + ([] if since < 0 else ["since", str(since)])
    return id.encode(), [word.encode() for word in words]


def follower(place: Place | None = None, *, keep_ms: int = 1000) -> Follower:
    found = Follower(place or Place(), host="me", keep_ms=keep_ms, longest=100)
    found.meet(ENGINE)
    return found


def test_the_same_engine_is_read_on_from_the_place() -> None:
    place = Place("e", "r", "5-1", 7)
    assert resume(place, ENGINE) == place


def test_an_engine_that_may_lack_something_is_read_from_its_beginning() -> None:
    place = Place("e", "r", "5-1", 7)
    for engine in (
        Engine("e", "other", "9-0"),
        Engine("e", "", "9-0"),
        Engine("e", "r", "5-0"),
    ):
        found = resume(place, engine)
        assert (found.id, found.number, found.run) == (BEGINNING, 7, engine.run)
    assert resume(place, Engine("f", "r", "9-0")) == Place("f", "r", BEGINNING, 0)


def test_what_is_not_told_its_process_is_another_one_each_time() -> None:
    place = Place("e", "", "5-1", 7)
    assert resume(place, Engine("e", "", "9-0")).id == BEGINNING


def test_what_was_read_is_passed_over() -> None:
    reader = follower()
    batch = reader.take([entry("1-0", 3), entry("1-1", 5), entry("1-2", 4), entry("1-3", 5)])
    assert [item.line for item in batch.items] == [3, 5]
    assert batch.moved == {("mx1", "s", "line"): Mark(5, 1)}
    assert batch.place.id == "1-3"
    again = follower(Place().behind(batch)).take([entry("2-0", 5), entry("2-1", 6)])
    assert [item.line for item in again.items] == [6]


def test_a_line_and_a_sum_of_the_same_line_are_two_things() -> None:
    reader = follower()
    first = reader.take([entry("1-0", 5)])
    second = reader.take([entry("1-1", 5, since=0)])
    assert len(first.items) == len(second.items) == 1


def test_a_sum_that_is_partly_known_says_which_part_is_new() -> None:
    reader = follower()
    assert reader.take([entry("1-0", 10, since=0)]).items[0].fresh == 1.0
    assert reader.take([entry("1-1", 20, since=5)]).items[0].fresh == 10 / 15
    assert reader.take([entry("1-2", 30, since=20)]).items[0].fresh == 1.0


def test_own_items_only_move_the_place() -> None:
    batch = follower().take([entry("1-0", 3, host="me", n=4)])
    assert (batch.items, batch.moved) == ((), {})
    assert (batch.place.id, batch.place.number) == ("1-0", 4)


def test_what_was_trimmed_is_counted() -> None:
    reader = follower()
    assert reader.take([entry("1-0", 1, n=5)]).missed == 0
    assert reader.take([entry("1-1", 2, n=6), entry("1-2", 3, n=10)]).missed == 3
    again = follower(reader.place)
    assert again.take([entry("2-0", 2, n=6), entry("2-1", 9, n=12)]).missed == 1


def test_segments_that_are_long_silent_are_forgotten() -> None:
    reader = follower()
    place = Place().behind(reader.take([entry("1000-0", 1), entry("1000-1", 1, segment="t")]))
    assert len(place.marks) == 2
    batch = reader.take([entry("2500-0", 2)])
    assert batch.forgotten == (("mx1", "t", "line"),)
    assert set(place.behind(batch).marks) == {("mx1", "s", "line")}


def told(id: str, segment: str) -> tuple[bytes, object]:
    text = f"v 1 host mx1 segment /told line 1 kind told n 0 data {segment}"
    return id.encode(), [word.encode() for word in text.split()]


def test_behind_a_watermark_only_that_is_remembered() -> None:
    reader = follower()
    batch = reader.take(
        [
            *(entry("1-0", 3), entry("1-1", 3, segment="/late/0/s"), entry("1-2", 4, segment="t")),
            *(told("2-0", "t"), entry("2-1", 9), entry("2-2", 5, segment="t"), told("2-3", "a")),
        ]
    )
    assert [(i.segment, i.line) for i in batch.items] == [
        *(("s", 3), ("/late/0/s", 3), ("t", 4), ("t", 5)),
    ]
    place = Place().behind(batch)
    assert set(place.marks) == {("mx1", "/late/0/s", "line"), ("mx1", "t", "line")}
    assert place.watermarks == {"mx1": Watermark("t", 2)}
    again = follower(place).take([entry("3-0", 3), entry("3-1", 4, segment="/late/0/s")])
    assert [(item.segment, item.line) for item in again.items] == [("/late/0/s", 4)]


def test_a_host_that_is_long_silent_is_forgotten() -> None:
    reader = follower()
    place = Place().behind(reader.take([entry("1000-0", 1), told("1000-1", "t")]))
    place = place.behind(reader.take([entry("2500-0", 2, host="mx2")]))
    assert place.watermarks == {}


def test_who_is_told_to_remember_for_longer_does_so() -> None:
    reader = follower()
    reader.take([entry("1000-0", 1)])
    reader.keep_ms = 2000
    assert reader.take([entry("2500-0", 2, host="mx2")]).forgotten == ()
    assert reader.take([entry("3100-0", 3, host="mx2")]).forgotten == (("mx1", "s", "line"),)


def test_a_batch_costs_what_it_touches() -> None:
    marks = {("mx1", f"{n:06}", "line"): Mark(1, 1) for n in range(1000)}
    reader = follower(Place(marks=dict(marks)))  # type: ignore[arg-type]
    reader.take([])
    batch = reader.take([entry("2-0", 2, segment="000007")])
    assert batch.moved == {("mx1", "000007", "line"): Mark(2, 2)}
    assert batch.place.marks == {}


def test_a_batch_of_nothing() -> None:
    place = follower().place
    assert follower(place).take([]).place == place


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from(["on", "lose", "flush"]))))
def test_each_item_once_whatever_the_engine_loses(story: list[tuple[str, str]]) -> None:
    """Hosts append in order, and again what the engine lost; a reader takes it all."""
    told: dict[str, int] = {}
    has: list[tuple[str, int]] = []
    found: list[tuple[str, int]] = []
    place, runs = Place(), count()
    run = "0"
    for host, event in story:
        told[host] = told.get(host, 0) + 1
        has.append((host, told[host]))
        if event != "on":
            run = str(next(runs) + 1)
            has = has[: len(has) // 2] if event == "lose" else []
            for name, last in told.items():
                at = max((line for owner, line in has if owner == name), default=0)
                has += [(name, line) for line in range(at + 1, last + 1)]
        reader = Follower(place, host="me", keep_ms=10**6, longest=100)
        reader.meet(Engine("e", run, f"{len(has)}-0"))
        start = int(reader.place.id.partition("-")[0])
        entries = [
            entry(f"{n}-0", line, host=owner) for n, (owner, line) in enumerate(has, 1) if n > start
        ]
        batch = reader.take(entries)
        found += [(item.host, item.line) for item in batch.items]
        place = place.behind(batch)
    assert sorted(found) == sorted((h, n) for h, last in told.items() for n in range(1, last + 1))
