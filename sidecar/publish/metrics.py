"""What the sidecar counts, for Prometheus.

In: increments and settings from the service and the listener.  Out: the text
of ``GET /metrics``.  Each sidecar has a registry of its own, so that several
can live in one process (tests) without sharing a count.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest

from sidecar.publish.resource import Resource

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The Prometheus text format (``prometheus.io/docs/instrumenting/exposition_formats``)."""

_PREFIX = "tsa_sidecar_"

OTHER = "(other)"
"""The label of all rules beyond the first :data:`_RULES_NAMED`; no rule can have this name."""

_RULES_NAMED = 200
_SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
)


@dataclass(frozen=True, slots=True)
class Metrics:
    """One field a metric; make it with :meth:`create`.

    Counters count since this process started: use ``.inc(n)``.  Gauges say how
    things are: use ``.set(x)``.  Those with labels take ``.labels(value)`` first.
    """

    registry: CollectorRegistry

    records_read: Counter
    records_considered: Counter
    attempts: Counter
    records_matched: Counter
    records_bad: Counter
    bytes_read: Counter
    bytes_lost: Counter
    segments_lost: Counter
    newest_record_at: Gauge
    lag_seconds: Gauge
    bytes_waiting: Gauge
    segments_waiting: Gauge

    entries: Gauge  # by kind
    states: Gauge  # by state: in force, adjusting, suspended, probing, bounced
    adjusting_share: Gauge  # by rule: see :meth:`show_shares`
    threshold_scopes: Gauge
    unusable: Counter  # by reason: no-tenant, no-site, ...
    no_room: Counter  # by what there was none for: entry, threshold
    reserved_names: Counter
    entries_left_out: Counter
    regex_timeouts: Counter
    regexes_switched_off: Gauge
    rules: Gauge
    rule_load_errors: Counter
    rules_loaded_at: Gauge
    dns_failures: Counter
    rule_matches: Counter  # by rule: see :meth:`count_rule`
    rule_effects: Counter
    dns_look_ups: Gauge
    dns_silent_since: Gauge
    records_waiting: Gauge

    commit_seconds: Histogram
    publish_seconds: Histogram
    state_writable: Gauge
    road_up: Gauge  # by road: overlay, listener, kumod-api
    road_pending: Gauge
    road_seconds: Histogram
    overlay_writes: Counter
    overlay_failures: Counter
    overlay_version: Gauge
    http_requests: Counter  # by status
    http_refused: Counter  # by reason: untrusted, busy
    subscribers: Gauge
    subscribers_cut_off: Counter
    frames_sent: Counter
    kumod_requests: Counter  # by method and outcome
    kumod_entries: Gauge  # by effect
    notify_waiting: Gauge  # by target
    notify_oldest: Gauge
    notify_dropped: Gauge
    notify_messages: Counter  # by target and outcome: sent, failed
    share_up: Gauge  # those of sharing have a sample where a group is configured only
    share_lines: Counter  # by direction: appended, received
    share_waiting: Gauge  # by what: appended, received
    share_lost: Counter  # by reason: missed, given_up, bad
    share_delay: Gauge
    share_hosts: Gauge  # by rules: same, other

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

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(_PREFIX + name, text, labels, registry=registry, buckets=_SECONDS)

        return cls(
            registry=registry,
            records_read=counter("records_read", "Lines read from log segments."),
            attempts=counter(
                "attempts",
                "Deliveries and refusals counted, each recipient for itself, for rules that need "
                "them.",
            ),
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
            newest_record_at=gauge(
                "newest_record_timestamp_seconds", "Time of the newest record read; 0: none yet."
            ),
            lag_seconds=gauge(
                "lag_seconds", "Age of the newest record read while more waits; 0 when none does."
            ),
            bytes_waiting=gauge("log_waiting_bytes", "Bytes of log that wait to be read."),
            segments_waiting=gauge("log_waiting_segments", "Segments that wait to be read."),
            entries=gauge("entries", "Entries in force.", "kind"),
            states=gauge(
                "entry_states", "Entries in force by state, the simulated left out.", "state"
            ),
            adjusting_share=gauge(
                "adjusting_share",
                "How much of its baseline the lowest limit of the rule that adjusts itself lets "
                "through, from 0 to 1; absent while none is below.",
                "rule",
            ),
            threshold_scopes=gauge("threshold_scopes", "Rule and site pairs being counted."),
            unusable=counter(
                "unusable_outcomes", "Outcomes that lack a tenant, a site or a domain.", "reason"
            ),
            no_room=counter(
                "no_room", "Outcomes left out, and matches not counted, at --max-entries.", "what"
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
            rule_matches=counter(
                "rule_matches", "Matches of the rule, each recipient for itself.", "rule"
            ),
            rule_effects=counter("rule_effects", "Entries begun or renewed by the rule.", "rule"),
            commit_seconds=histogram("commit_duration_seconds", "Time that a commit took."),
            publish_seconds=histogram(
                "publish_duration_seconds", "Time to make and write what is published."
            ),
            state_writable=gauge("state_writable", "1 while the state file can be written."),
            road_up=gauge("road_up", "1 when the road worked last time it was used.", "road"),
            road_pending=gauge("road_pending", "Changes that the road has yet to bring.", "road"),
            road_seconds=histogram(
                "road_effect_duration_seconds",
                "Time from a commit until the road had brought what changed.",
                "road",
            ),
            dns_look_ups=gauge("dns_look_ups", "MX look-ups under way."),
            dns_silent_since=gauge(
                "dns_silent_since_timestamp_seconds",
                "Since when no name server answers; 0 while they do.",
            ),
            records_waiting=gauge(
                "records_waiting", "Records read that wait for the MX of their domain."
            ),
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
            kumod_entries=gauge(
                "kumod_entries", "Entries by whether kumod does what they ask for.", "effect"
            ),
            notify_waiting=gauge(
                "notify_waiting_events", "Events that the target has not been told.", "target"
            ),
            notify_oldest=gauge(
                "notify_oldest_waiting_seconds",
                "Age of the oldest event that the target has not been told; 0: none waits.",
                "target",
            ),
            notify_dropped=gauge(
                "notify_dropped_events",
                "Events that the target was never told, since the state was made.",
                "target",
            ),
            share_up=gauge(
                "share_up", "1 while the group's engine takes and gives lines.", "group"
            ),
            share_lines=counter(
                "share_lines", "Lines appended for the group, and received from it.", "direction"
            ),
            share_waiting=gauge(
                "share_waiting",
                "Lines that wait: sent to be appended, or appended and not received yet; segments "
                "that are behind.",
                "what",
            ),
            share_lost=counter(
                "share_lost",
                "Lines trimmed before they were received, segments given up, bad entries.",
                "reason",
            ),
            share_delay=gauge(
                "share_delay_seconds",
                "Time from appending to receiving of the last lines of others.",
                "group",
            ),
            share_hosts=gauge("share_hosts", "Other hosts in the group, by their rules.", "rules"),
            notify_messages=counter(
                "notify_messages", "Attempts to tell the target something.", "target", "outcome"
            ),
        )

    # A road that is not configured has no samples, so a child is made when it is first used.

    @property
    def kumod_up(self) -> Gauge:
        """Whether kumod's admin API answered last time."""
        return self.road_up.labels("kumod-api")

    @property
    def kumod_pending(self) -> Gauge:
        """How many entries kumod's admin API has yet to be told of."""
        return self.road_pending.labels("kumod-api")

    def show_kumod(self) -> None:
        """Show the road to kumod's admin API, which has not been tried yet."""
        self.kumod_up.set(0)
        self.kumod_pending.set(0)

    def count_rule(self, rule: str, *, matches: int = 0, effects: int = 0) -> None:
        """Count matches and effects of the rule with this label, within a bound of labels."""
        known = self.rule_matches._metrics
        if (rule,) not in known and len(known) >= _RULES_NAMED:
            rule = OTHER
        self.rule_matches.labels(rule).inc(matches)
        self.rule_effects.labels(rule).inc(effects)

    def show_shares(self, shares: Mapping[str, float]) -> None:
        """Show the least share of each rule by its label, within a bound of labels."""
        shown = dict(sorted(shares.items())[:_RULES_NAMED])
        others = [share for rule, share in shares.items() if rule not in shown]
        if others:
            shown[OTHER] = min(others)
        self.adjusting_share.clear()
        for rule, share in shown.items():
            self.adjusting_share.labels(rule).set(share)

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
