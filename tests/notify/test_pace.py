"""When a message is sealed, and when it is tried again."""

from __future__ import annotations

import math

import pytest

from sidecar.notify.pace import Step, Waiting, next_step, retry_seconds


@pytest.mark.parametrize(
    ("waiting", "expected"),
    [
        (Waiting(sealed=False), Step("wait")),
        (Waiting(sealed=False, group_since=95.0), Step("wait", 5.0)),
        (Waiting(sealed=False, group_since=90.0), Step("seal")),
        (Waiting(sealed=False, group_since=90.0, last_sent=60.0), Step("wait", 20.0)),
        (Waiting(sealed=False, group_since=90.0, last_sent=40.0), Step("seal")),
        (Waiting(sealed=True), Step("send")),
        (Waiting(sealed=True, retry_at=103.0, group_since=0.0), Step("wait", 3.0)),
        (Waiting(sealed=True, retry_at=100.0, last_sent=99.0), Step("send")),
    ],
)
def test_the_next_step(waiting: Waiting, expected: Step) -> None:
    assert next_step(waiting, 100.0, wait=10.0, every=60.0) == expected


def test_pauses_grow_to_an_end_and_differ() -> None:
    for failures in range(1, 10_000, 7):
        full = min(5.0 * 2.0 ** (failures - 1), 300.0) if failures < 50 else 300.0
        assert full / 2 <= retry_seconds(failures) <= full
    assert len({retry_seconds(3) for _ in range(20)}) > 1


def test_what_the_receiver_asks_for_is_heeded_up_to_an_hour() -> None:
    assert retry_seconds(1, asked_for=120.0) == 120.0
    assert retry_seconds(1, asked_for=1e9) == 3600.0
    assert retry_seconds(1, asked_for=0.0) > 0
    assert math.isfinite(retry_seconds(10**9))
