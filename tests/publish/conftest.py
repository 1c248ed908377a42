"""Listeners for the tests of this room."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from sidecar.problems import Problem
from sidecar.publish.http import Endpoint, Limits
from sidecar.publish.metrics import Metrics
from sidecar.publish.websocket import SubscriberLimits
from sidecar.settings import LOOPBACK, parse_address, parse_network

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
        trusted: list[str] | None = None,
        names: tuple[str, ...] = (),
        subscribers: SubscriberLimits | None = None,
        **limits: float,
    ) -> Endpoint:
        endpoint = Endpoint(
            parse_address(listen),
            trusted=LOOPBACK if trusted is None else [parse_network(t) for t in trusted],
            names=names,
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
    assert [p for p in problems if p.code not in ("http-host", "http-origin")] == []


@pytest.fixture
def endpoint(start: StartEndpoint) -> Endpoint:
    """A listener with the usual limits."""
    return start()
