"""Frames and documents from the same JSON objects."""

from __future__ import annotations

import json

from sidecar.publish.snapshot import Snapshot, event_frame, legacy_frame


def test_a_snapshot_holds_every_form_of_its_entries() -> None:
    snapshot = Snapshot.build(
        overlay="# text\n",
        ready_q=['{"site_name":"a"}', '{"site_name":"b"}'],
        sched_q=['{"tenant":"t"}'],
        bounces=['{"domain":"d"}'],
        version=3,
    )
    assert json.loads(snapshot.suspended) == {
        "ready_q": [{"site_name": "a"}, {"site_name": "b"}],
        "sched_q": [{"tenant": "t"}],
    }
    assert json.loads(snapshot.bounced) == [{"domain": "d"}]
    assert snapshot.frames == (
        '{"ReadyQSuspension":{"site_name":"a"}}',
        '{"ReadyQSuspension":{"site_name":"b"}}',
        '{"SchedQSuspension":{"tenant":"t"}}',
        '{"SchedQBounce":{"domain":"d"}}',
    )


def test_an_empty_snapshot_is_as_upstreams() -> None:
    snapshot = Snapshot.build(overlay="")
    assert snapshot.suspended == b'{"ready_q":[],"sched_q":[]}'
    assert snapshot.bounced == b"[]"
    assert snapshot.frames == ()


def test_the_older_form_of_a_frame() -> None:
    assert legacy_frame(event_frame("ReadyQSuspension", "{}")) == '{"ReadyQ":{}}'
    assert legacy_frame('{"SchedQSuspension": {"a": 1}}') == '{"SchedQ": {"a": 1}}'
    assert legacy_frame(event_frame("SchedQBounce", '{"ReadyQSuspension":1}')) is None
