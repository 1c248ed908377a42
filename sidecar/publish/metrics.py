"""What the sidecar counts, for Prometheus.

In: increments and settings from the service and the listener.  Out: the text
of ``GET /metrics``.  Each sidecar has a registry of its own, so that several
can live in one process (tests) without sharing a count.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector
from prometheus_client.exposition import generate_latest

from sidecar.publish.resource import Resource

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The Prometheus text format (``prometheus.io/docs/instrumenting/exposition_formats``)."""

_PREFIX = "tsa_sidecar_"


@dataclass(frozen=True, slots=True)
class Metrics:
    """One field a metric; make it with :meth:`create`.

    Counters count since this process started: use ``.inc(n)``.  Gauges say how
    things are: use ``.set(x)``.  Those with labels take ``.labels(value)`` first.
    """

    registry: CollectorRegistry

    records_read: Counter
    records_considered: Counter
    records_matched: Counter
    records_bad: Counter
    bytes_read: Counter
    bytes_lost: Counter
    segments_lost: Counter
    lag_seconds: Gauge

    entries: Gauge  # by kind
    threshold_scopes: Gauge
    unusable: Counter  # by reason: no-tenant, no-site, ...
    reserved_names: Counter
    entries_left_out: Counter
    regex_timeouts: Counter
    regexes_switched_off: Gauge
    rules: Gauge
    rule_load_errors: Counter
    rules_loaded_at: Gauge
    dns_failures: Counter

    overlay_writes: Counter
    overlay_failures: Counter
    overlay_version: Gauge
    http_requests: Counter  # by status
    http_refused: Counter  # by reason: untrusted, busy
    subscribers: Gauge
    subscribers_cut_off: Counter
    frames_sent: Counter
    kumod_requests: Counter  # by method and outcome
    kumod_up: Gauge
    kumod_pending: Gauge

    @classmethod
    def create(cls, *, process: bool = False) -> Metrics:
        """All metrics at zero; with `process`, this process's memory and CPU time as well."""
        registry = CollectorRegistry()
        if process:
            ProcessCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(_PREFIX + name, text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(_PREFIX + name, text, labels, registry=registry)

        return cls(
            registry=registry,
            records_read=counter("records_read", "Lines read from log segments."),
            records_considered=counter(
                "records_considered", "Records that were decoded since a rule might match them."
            ),
            records_matched=counter("records_matched", "Records that some rule matched."),
            records_bad=counter("records_bad", "Lines that are no log records."),
            bytes_read=counter("bytes_read", "Bytes of log read, decompressed."),
            bytes_lost=counter("bytes_lost", "Bytes of log that could not be read."),
            segments_lost=counter(
                "segments_lost", "Segments that were deleted or broken before they were read."
            ),
            lag_seconds=gauge("lag_seconds", "Age of the newest record read when it was read."),
            entries=gauge("entries", "Entries in force.", "kind"),
            threshold_scopes=gauge("threshold_scopes", "Rule and site pairs being counted."),
            unusable=counter(
                "unusable_outcomes", "Outcomes that lack a tenant, a site or a domain.", "reason"
            ),
            reserved_names=counter(
                "reserved_names", "Outcomes left out since their domain is a reserved name."
            ),
            entries_left_out=counter(
                "entries_left_out", "Entries left out of the overlay since they failed its check."
            ),
            regex_timeouts=counter("regex_timeouts", "Matches given up at the time limit."),
            regexes_switched_off=gauge(
                "regexes_switched_off", "Regexes no longer asked since they took too long."
            ),
            rules=gauge("rules", "Rules in force."),
            rule_load_errors=counter(
                "rule_load_errors", "Loads of the rule files that failed; the old rules stayed."
            ),
            rules_loaded_at=gauge(
                "rules_loaded_timestamp_seconds", "When the rules in force were loaded."
            ),
            dns_failures=counter("dns_failures", "MX look-ups that failed."),
            overlay_writes=counter("overlay_writes", "Times the overlay file was replaced."),
            overlay_failures=counter(
                "overlay_failures", "Times the overlay file could not be replaced."
            ),
            overlay_version=gauge("overlay_version", "Changes of the overlay's text so far."),
            http_requests=counter("http_requests", "Requests answered by the listener.", "status"),
            http_refused=counter(
                "http_refused", "Connections refused before their request was read.", "reason"
            ),
            subscribers=gauge("subscribers", "WebSocket subscribers connected."),
            subscribers_cut_off=counter(
                "subscribers_cut_off", "Subscribers cut off: too slow, gone, or in error."
            ),
            frames_sent=counter("frames_sent", "Frames handed to WebSocket subscribers."),
            kumod_requests=counter(
                "kumod_requests", "Requests to kumod's admin API.", "method", "outcome"
            ),
            # Registered where there is a kumod to ask: see show_kumod.
            kumod_up=Gauge(
                _PREFIX + "kumod_up", "1 when kumod's admin API answered last time.", registry=None
            ),
            kumod_pending=Gauge(
                _PREFIX + "kumod_pending",
                "Suspensions and bounces that kumod's admin API has yet to be told of or rid of.",
                registry=None,
            ),
        )

    def show_kumod(self) -> None:
        """Show the gauges of kumod's admin API: absent where none is configured."""
        self.registry.register(self.kumod_up)
        self.registry.register(self.kumod_pending)

    def render(self) -> bytes:
        """The text for ``GET /metrics``."""
        return generate_latest(self.registry)


_REST = 20.0


class Measured:
    """The text of the metrics, made anew so seldom that it costs a twentieth of the time.

    So readers of ``/metrics``, however many, hold up nothing.  For one thread at a time.
    """

    __slots__ = ("_metrics", "_resource", "_until")

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._until = 0.0

    def resource(self) -> Resource:
        """The text as it is now, or was just before."""
        began = time.monotonic()
        if began >= self._until:
            text = self._metrics.render()
            now = time.monotonic()
            self._until = now + (now - began) * _REST
            self._resource = Resource(CONTENT_TYPE, lambda: text)
        return self._resource
