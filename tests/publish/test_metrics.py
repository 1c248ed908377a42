"""Metrics in Prometheus's text form."""

from __future__ import annotations

import re

from prometheus_client.parser import text_string_to_metric_families

from sidecar.publish.metrics import OTHER, Metrics


def test_what_is_counted_is_shown() -> None:
    metrics = Metrics.create()
    metrics.records_read.inc(1000)
    metrics.entries.labels("override").set(3)
    metrics.lag_seconds.set(0.25)
    samples = {
        (s.name, *s.labels.values()): s.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for s in family.samples
    }
    assert samples["tsa_sidecar_records_read_total",] == 1000
    assert samples["tsa_sidecar_entries", "override"] == 3
    assert samples["tsa_sidecar_lag_seconds",] == 0.25


def test_two_sidecars_in_one_process_share_no_count() -> None:
    one, other = Metrics.create(), Metrics.create()
    one.records_read.inc()
    assert b"tsa_sidecar_records_read_total 0.0" in other.render()


def test_the_process_is_shown_when_asked_for() -> None:
    assert b"process_resident_memory_bytes" in Metrics.create(process=True).render()
    assert b"process_resident_memory_bytes" not in Metrics.create().render()


def test_what_is_not_configured_is_not_shown() -> None:
    metrics = Metrics.create()
    assert b'road="kumod-api"' not in metrics.render()
    metrics.kumod_up.set(0)
    assert b'tsa_sidecar_road_up{road="kumod-api"} 0.0' in metrics.render()


def test_rules_are_counted_by_name_within_a_bound() -> None:
    metrics = Metrics.create()
    for number in range(1000):
        metrics.count_rule(f"rule {number}", matches=2, effects=1)
    metrics.count_rule("rule 0", matches=5)
    names = re.findall(r'tsa_sidecar_rule_matches_total{rule="([^"]*)"}', metrics.render().decode())
    assert len(names) == 201
    assert OTHER in names
    assert metrics.rule_matches.labels("rule 0")._value.get() == 7
    assert metrics.rule_effects.labels(OTHER)._value.get() == 800
