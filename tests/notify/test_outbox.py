"""What waits for whom: bounded, grouped, kept until it is told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.notify.event import Event, Kind
from sidecar.notify.message import OTHERS
from sidecar.notify.outbox import Outbox, Rows, restore

MOST = 5


def event(number: int, kind: Kind = "began", *, label: str = "throttled") -> Event:
    return Event(f"{number}.{kind}", kind, number, "episode", label, f"thing {number}")


def applied(kept: dict[str, str], *changes: Rows) -> dict[str, str]:
    """`kept` after these changes, as the store has it."""
    for rows in changes:
        for key, row in rows.items():
            if row is None:
                kept.pop(key, None)
            else:
                kept[key] = row
    return kept


def body(outbox: Outbox, target: str) -> Any:
    message = outbox[target].message
    assert message is not None
    return json.loads(message.body)


def test_a_storm_is_one_message_with_the_count_and_the_first_few() -> None:
    outbox = Outbox()
    kept = applied({}, outbox.take("oncall", map(event, range(10_000)), listed_most=MOST))
    assert len(kept) == MOST + 1
    kept = applied(kept, outbox.seal("oncall", host="mx1"))
    told = body(outbox, "oncall")
    assert [one["id"] for one in told["events"]] == [f"{n}.began" for n in range(MOST)]
    assert (told["began"], told["ended"], told["unlisted"]) == (10_000, 0, 10_000 - MOST)
    assert told["counts"] == {"throttled": {"began": 10_000}}
    assert "10000 began (throttled)" in told["title"]
    assert f"and {10_000 - MOST} more" in told["text"]
    assert kept.keys() == {"message oncall"}


def test_labels_are_bounded() -> None:
    outbox = Outbox()
    events = (event(n, label=f"rule {n}") for n in range(1000))
    outbox.take("oncall", events, listed_most=MOST)
    outbox.seal("oncall", host="mx1")
    counts = body(outbox, "oncall")["counts"]
    assert len(counts) == 51
    assert sum(kinds["began"] for kinds in counts.values()) == 1000
    assert counts[OTHERS]["began"] == 950


def test_an_hour_of_failures_is_two_messages_that_tell_everything() -> None:
    outbox, seen = Outbox(), []
    outbox.take("oncall", [event(0)], listed_most=200)
    outbox.seal("oncall", host="mx1")
    for number in range(1, 100):
        outbox.take("oncall", [event(number)], listed_most=200)
        outbox.failed("oncall", "refused", number)
    for _ in range(2):
        seen += [one["id"] for one in body(outbox, "oncall")["events"]]
        outbox.sent("oncall", 200)
        if outbox["oncall"].group:
            outbox.seal("oncall", host="mx1")
    assert seen == [f"{n}.began" for n in range(100)]
    assert outbox["oncall"].count == 0


def test_the_same_message_has_the_same_id_and_another_has_another() -> None:
    outbox, other = Outbox(), Outbox()
    for one in (outbox, other):
        one.take("oncall", [event(1)], listed_most=MOST)
        one.seal("oncall", host="mx1")
    assert body(outbox, "oncall")["id"] == body(other, "oncall")["id"]
    first = body(outbox, "oncall")["id"]
    outbox.sent("oncall", 5)
    outbox.take("oncall", [event(2)], listed_most=MOST)
    outbox.seal("oncall", host="mx1")
    assert body(outbox, "oncall")["id"] != first


def test_the_end_is_told_to_those_who_were_told_of_the_beginning() -> None:
    outbox = Outbox()
    outbox.begin("7", event(7), {"oncall": MOST, "mail": MOST})
    outbox.end("7", event(7, "ended"), lambda _name: MOST)
    outbox.end("7", event(7, "ended"), lambda _name: MOST)  # it is over
    outbox.end("8", event(8, "ended"), lambda _name: MOST)  # nobody was told of it
    for target in ("oncall", "mail"):
        assert [one.id for one in outbox[target].listed.values()] == ["7.began", "7.ended"]


def test_what_is_kept_is_restored() -> None:
    outbox = Outbox()
    kept = applied(
        {},
        outbox.begin("1", event(1), {"oncall": MOST}),
        outbox.seal("oncall", host="mx1"),
        outbox.failed("oncall", "nobody there", 9),
        outbox.take("oncall", map(event, range(2, 20)), listed_most=MOST),
        outbox.take("mail", [event(3)], listed_most=MOST),
    )
    again, bad, reasons = restore(kept)
    assert (bad, reasons) == ({}, [])
    assert again.rows() == {**kept, "fate mail": outbox.rows()["fate mail"]}
    assert again["oncall"] == outbox["oncall"]
    assert again.told == outbox.told


@pytest.mark.parametrize(
    "key", ["group oncall", "event oncall 000002", "what is this", "fate oncall"]
)
def test_a_row_that_cannot_be_read_costs_itself_only(key: str) -> None:
    outbox = Outbox()
    kept = applied({}, outbox.take("oncall", map(event, range(3)), listed_most=MOST))
    again, bad, reasons = restore({**kept, key: "{"})
    assert len(reasons) == 1
    assert bad.get(key, "kept") is None or key == "group oncall"
    expected = 2 if key.startswith("event") else 3
    assert len(again["oncall"].listed) == expected
    group = again["oncall"].group
    assert group is not None
    assert group.count == 3 or key != "group oncall"


def test_what_is_too_old_is_given_up_and_counted() -> None:
    outbox = Outbox()
    outbox.take("oncall", [event(10), event(20)], listed_most=MOST)
    outbox.seal("oncall", host="mx1")
    assert outbox.drop_older("oncall", 20) == {}
    outbox.drop_older("oncall", 21)
    assert outbox["oncall"].message is None
    assert outbox["oncall"].fate.dropped == 2


def test_a_target_that_is_gone_leaves_nothing() -> None:
    outbox = Outbox()
    kept = applied(
        {},
        outbox.take("oncall", [event(1)], listed_most=MOST),
        outbox.seal("oncall", host="mx1"),
        outbox.failed("oncall", "no", 1),
        outbox.take("oncall", [event(2)], listed_most=MOST),
    )
    assert applied(kept, outbox.forget("oncall")) == {}
    assert outbox.rows() == {}


def test_texts_from_outside_are_harmless_and_bounded() -> None:
    outbox = Outbox()
    nasty = "\x1b]0;owned\x07" + "x" * 10_000 + "\n"
    wrong = Event("1", "began", 1, "episode", nasty, nasty, {"response": nasty, "matches": 3})
    outbox.begin("1", wrong, {"oncall": MOST})
    outbox.seal("oncall", host="mx1")
    message = outbox["oncall"].message
    assert message is not None
    assert len(message.body) < 5000
    for text in (message.title, *message.text.splitlines()):
        assert text.isprintable()
