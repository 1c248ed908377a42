"""Listeners for the tests of this room."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from sidecar.problems import Problem
from sidecar.publish.http import Endpoint, Limits
from sidecar.publish.metrics import Metrics
from sidecar.publish.websocket import SubscriberLimits

StartEndpoint = Callable[..., Endpoint]


@pytest.fixture
def problems() -> list[Problem]:
    """What the listener reported; a test that expects none says so."""
    return []


@pytest.fixture
def metrics() -> Metrics:
    """The counters of the listener."""
    return Metrics.create()


@pytest.fixture
def start(metrics: Metrics, problems: list[Problem]) -> Iterator[StartEndpoint]:
    """Start a listener on a free loopback port; keyword arguments go into its limits."""
    started: list[Endpoint] = []

    def start_endpoint(
        listen: str = "127.0.0.1:0",
        *,
        trusted_hosts: list[str] | None = None,
        subscribers: SubscriberLimits | None = None,
        **limits: float,
    ) -> Endpoint:
        endpoint = Endpoint(
            listen,
            trusted_hosts=trusted_hosts,
            metrics=metrics,
            limits=Limits(subscribers=subscribers or SubscriberLimits(), **limits),  # type: ignore[arg-type]
            on_problem=problems.append,
        )
        endpoint.start()
        started.append(endpoint)
        return endpoint

    yield start_endpoint
    for endpoint in started:
        endpoint.stop()
    assert problems == []


@pytest.fixture
def endpoint(start: StartEndpoint) -> Endpoint:
    """A listener with the usual limits."""
    return start()
