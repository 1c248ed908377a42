"""What waits to be told, and what is behind."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sidecar.share import Behind, Item, Portion, first_line, late_name, own_name
from sidecar.share.outgoing import Outgoing


def portion(first: int, last: int, segment: str = "s", kind: Any = "line") -> Portion:
    return Portion(segment, first - 1, last, (Item(last, kind, b"x"),))


def offer(outgoing: Outgoing, what: Portion, *, spare: int = 0) -> bool:
    return outgoing.offer(what, now_ms=0, spare=spare)


def test_nothing_is_behind_before_the_engine_has_spoken() -> None:
    outgoing = Outgoing(limit=10_000)
    outgoing.expect("old", 5, now_ms=0)
    assert offer(outgoing, portion(11, 20))
    assert outgoing.behind() == {}
    outgoing.meet({"s": 10})
    assert outgoing.behind() == {"old": Behind(0, 5)}
    assert outgoing.next_ones(most=9, most_bytes=9999) == [portion(11, 20)]


def test_what_the_engine_lacks_is_behind() -> None:
    outgoing = Outgoing(limit=10_000)
    offer(outgoing, portion(11, 20))
    outgoing.meet({"s": 7})
    assert outgoing.items == 0
    assert outgoing.behind() == {"s": Behind(7, 20)}
    assert not offer(outgoing, portion(21, 30))
    assert outgoing.behind() == {"s": Behind(7, 30)}
    assert offer(outgoing, portion(8, 30))
    assert outgoing.behind() == {}


def test_a_queue_that_is_full_keeps_room_for_what_is_new() -> None:
    outgoing = Outgoing(limit=1000)
    outgoing.meet({})
    assert offer(outgoing, portion(1, 1), spare=500)
    assert not offer(outgoing, portion(2, 2), spare=500)
    assert offer(outgoing, portion(2, 2))
    assert not outgoing.has_room(400)


def test_a_portion_larger_than_the_queue_is_taken_alone() -> None:
    outgoing = Outgoing(limit=10)
    assert offer(outgoing, portion(1, 1))
    assert not offer(outgoing, portion(2, 2))


def test_a_refused_portion_waits_while_others_are_done() -> None:
    outgoing = Outgoing(limit=10_000)
    offer(outgoing, portion(1, 1, "a"))
    offer(outgoing, portion(1, 1, "b"))
    first, second = outgoing.next_ones(most=9, most_bytes=9999)
    outgoing.done(second)
    assert outgoing.next_ones(most=9, most_bytes=9999) == [first]
    outgoing.done(first)
    assert (outgoing.items, outgoing.bytes) == (0, 0)


def test_words_go_first_and_are_bounded() -> None:
    outgoing = Outgoing(limit=10_000)
    outgoing.meet({})
    offer(outgoing, portion(1, 1))
    assert outgoing.say("w", "{}", now_ms=0)
    assert outgoing.say("w", "{}", now_ms=0)
    assert [p.segment for p in outgoing.next_ones(most=9, most_bytes=9999)] == ["/word/w", "s"]
    assert not outgoing.say("long", "x" * 2**21, now_ms=0)
    assert outgoing.unsaid() == ("long",)
    assert outgoing.behind() == {}


def test_what_is_long_unread_is_forgotten() -> None:
    outgoing = Outgoing(limit=10_000)
    outgoing.meet({})
    outgoing.expect("old", 5, now_ms=1000)
    outgoing.expect("new", 5, now_ms=2000)
    outgoing.forget_before(2000)
    assert set(outgoing.behind()) == {"new"}
    outgoing.forget("new")
    assert outgoing.behind() == {}


def test_the_watermark_passes_what_is_finished_and_told() -> None:
    outgoing = Outgoing(limit=10_000)
    for segment in "abc":
        offer(outgoing, portion(1, 1, segment))
    outgoing.finish("c")
    assert outgoing.watermark() is None  # it is not known what the engine has
    outgoing.meet({})
    assert outgoing.watermark() == "a"
    first, second, _ = outgoing.next_ones(most=9, most_bytes=9999)
    outgoing.done(first)
    assert outgoing.watermark() == "b"
    outgoing.done(second)
    outgoing.set_watermark("c")
    assert outgoing.watermark() is None
    assert offer(outgoing, portion(1, 1, "b"))
    assert outgoing.items == 1  # that of "c": "b" counts as told


def test_what_is_behind_holds_the_watermark_until_it_is_given_up() -> None:
    outgoing = Outgoing(limit=10_000)
    outgoing.meet({})
    outgoing.expect("b", 5, now_ms=0)
    outgoing.finish("d")
    assert outgoing.watermark() == "b"
    outgoing.forget("b")
    assert outgoing.watermark() == "d"


def test_an_engine_that_lost_its_watermark_is_told_again() -> None:
    outgoing = Outgoing(limit=10_000)
    outgoing.meet({})
    for segment in "abc":
        outgoing.expect(segment, 5, now_ms=ord(segment))
    outgoing.meet({}, "c")
    assert outgoing.behind() == {"c": Behind(0, 5)}
    outgoing.forget_past(ord("b"))
    outgoing.meet({"c": 5})
    assert outgoing.behind() == {"b": Behind(0, 5)}


def test_what_came_late_is_told_below_the_watermark() -> None:
    outgoing = Outgoing(limit=10_000)
    outgoing.meet({}, "c")
    late = late_name("a/b", 7)
    assert (own_name(late), first_line(late)) == ("a/b", 7)
    assert (own_name("a/b"), first_line("a/b")) == ("a/b", 0)
    outgoing.expect(late, 9, now_ms=0)
    assert outgoing.behind() == {late: Behind(7, 9)}
    outgoing.finish("d")
    assert outgoing.watermark() == "d"


@pytest.mark.parametrize(
    "what",
    [
        Portion("s", 5, 4),
        Portion("s", -1, 4),
        Portion("s", 0, 2, (Item(3, "line", b""),)),
        Portion("s", 2, 4, (Item(2, "line", b""),)),
        Portion("s", 0, 4, (Item(2, "line", b""), Item(2, "line", b""))),
        Portion("s", 0, 4, (Item(3, "line", b""), Item(2, "line", b""))),
    ],
)
def test_what_is_no_portion_is_a_mistake(what: Portion) -> None:
    with pytest.raises(ValueError, match=r"no range|not in its place"):
        offer(Outgoing(limit=1000), what)


class Telling(RuleBasedStateMachine):
    """A service that reads and crashes, and an engine that loses what it had.

    The engine is the script, in Python.  In the end everything is told once: each line,
    and sums over all lines.
    """

    @initialize()
    def begin(self) -> None:
        self.outgoing = Outgoing(limit=1500)
        self.read = {"a": 0, "b": 0}
        self.positions: dict[str, int] = {}
        self.stream: list[tuple[str, int]] = []
        self.sums: Counter[str] = Counter()

    def make(self, segment: str, first: int, last: int) -> Portion:
        items = [Item(n, "line", b"") for n in range(first, last + 1)]
        if segment == "b":
            items.append(Item(last, "attempts", b"%d" % (last - first + 1)))
        return Portion(segment, first - 1, last, tuple(items))

    @rule(segment=st.sampled_from("ab"), count=st.integers(1, 6))
    def read_on(self, segment: str, count: int) -> None:
        first = self.read[segment] + 1
        self.read[segment] += count
        offer(self.outgoing, self.make(segment, first, self.read[segment]))

    @rule(count=st.integers(1, 4), refused=st.booleans())
    def answer(self, count: int, refused: bool) -> None:
        if refused:
            return
        for what in self.outgoing.next_ones(most=count, most_bytes=10_000):
            at = self.positions.get(what.segment, 0)
            if at >= what.to_line:
                self.outgoing.done(what)
            elif at < what.from_line or (at > what.from_line and what.sums):
                self.outgoing.gap(what.segment, at)
            else:
                for item in what.items:
                    if item.kind == "attempts":
                        self.sums[what.segment] += int(item.data)
                    elif item.line > at:
                        self.stream.append((what.segment, item.line))
                self.positions[what.segment] = what.to_line
                self.outgoing.done(what)

    @rule()
    def flush(self) -> None:
        self.positions.clear()
        self.stream.clear()
        self.sums.clear()
        self.outgoing.meet({})

    @rule()
    def reconnect(self) -> None:
        self.outgoing.meet(self.positions)

    @rule(lost=st.integers(0, 5))
    def crash(self, lost: int) -> None:
        self.outgoing = Outgoing(limit=1500)
        for segment in self.read:
            self.read[segment] = max(self.read[segment] - lost, 0)
            self.outgoing.expect(segment, self.read[segment], now_ms=0)

    @rule(size=st.integers(1, 7))
    def catch_up(self, size: int) -> None:
        for segment, behind in self.outgoing.behind().items():
            last = min(behind.from_line + size, behind.to_line)
            offer(self.outgoing, self.make(segment, behind.from_line + 1, last))

    @invariant()
    def each_is_told_once(self) -> None:
        if hasattr(self, "stream"):
            assert len(set(self.stream)) == len(self.stream)
            assert self.sums["b"] == self.positions.get("b", 0)
            assert self.outgoing.bytes <= 1500 + 1500

    def teardown(self) -> None:
        if not hasattr(self, "stream"):
            return
        self.outgoing.meet(self.positions)
        for _ in range(2000):
            self.catch_up(5)
            self.answer(4, refused=False)
        # A crash may have gone back behind what was told: that is told, too.
        told = {segment: self.positions.get(segment, 0) for segment in "ab"}
        assert all(told[segment] >= self.read[segment] for segment in "ab")
        assert set(self.stream) == {(s, n) for s in "ab" for n in range(1, told[s] + 1)}


TestTelling = Telling.TestCase
TestTelling.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
