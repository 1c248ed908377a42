"""Metrics in Prometheus's text form."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from sidecar.publish.metrics import Metrics


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
