"""The gauges that are read off the status."""

from __future__ import annotations

import pytest

from sidecar.publish.metrics import Metrics
from sidecar.service.status import Gauges, Status
from sidecar.times import NS

NOW = 1_700_000_000 * NS


@pytest.mark.parametrize(
    ("waiting", "newest_ns", "lag"),
    [
        (0, NOW - 3600 * NS, 0),  # all is read: input has stopped, or nothing failed lately
        (5000, NOW - 90 * NS, 90),
        (5000, 0, 0),  # nothing read yet
        (None, 0, 0),
    ],
)
def test_the_lag_is_right_when_input_stops(waiting: int | None, newest_ns: int, lag: float) -> None:
    metrics = Metrics.create()
    metrics.lag_seconds.set(77)
    status = Status(state="running", started_ns=NOW, newest_ns=newest_ns, bytes_waiting=waiting)
    Gauges(metrics).show(status, NOW)
    assert metrics.lag_seconds._value.get() == lag
    assert metrics.newest_record_at._value.get() == newest_ns / NS
    assert metrics.bytes_waiting._value.get() == (waiting or 0)
