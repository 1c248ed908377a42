"""Alert rules and dashboard ask for metrics that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from prometheus_client import Counter, Histogram
from prometheus_client.metrics import MetricWrapperBase

from sidecar.publish.metrics import Metrics

MONITORING = Path(__file__).parents[2] / "packaging/monitoring"
RULES = MONITORING / "tsa-sidecar.rules.yml"
DASHBOARD = MONITORING / "grafana.json"


def series() -> dict[str, set[str]]:
    """Every series that `/metrics` can show, with its labels."""
    found: dict[str, set[str]] = {}
    for field in Metrics.__dataclass_fields__:
        metric = getattr(Metrics.create(), field)
        if not isinstance(metric, MetricWrapperBase):
            continue
        (family,) = metric.describe()
        labels = set(metric._labelnames)
        if isinstance(metric, Counter):
            found[f"{family.name}_total"] = labels
        elif isinstance(metric, Histogram):
            found[f"{family.name}_bucket"] = labels | {"le"}
            found[f"{family.name}_sum"] = found[f"{family.name}_count"] = labels
        else:
            found[family.name] = labels
    return found


def queries() -> list[str]:
    """The dashboard's, its variables filled in."""
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    texts = [target["expr"] for panel in panels for target in panel["targets"]]
    return [t.replace("$__rate_interval", "5m").replace("$instance", ".*") for t in texts]


def test_every_metric_that_is_asked_for_exists() -> None:
    known = series()
    text = "\n".join([RULES.read_text(), *queries()])
    asked = set(re.findall(r"\btsa_sidecar_\w+", text))
    assert asked - known.keys() == set()
    assert len(asked) > 15


def test_every_label_of_the_dashboard_exists() -> None:
    known = series()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            names = re.findall(r"\btsa_sidecar_\w+", target["expr"])
            labels = set().union(*(known[name] for name in names)) | {"instance", "job"}
            asked = re.findall(r"{{(\w+)}}", target["legendFormat"])
            for by in re.findall(r"by \(([^)]*)\)", target["expr"]):
                asked += [name.strip() for name in by.split(",")]
            assert set(asked) <= labels, target


def test_the_process_is_shown_by_the_names_the_dashboard_asks_for() -> None:
    shown = Metrics.create(process=True).render().decode()
    for name in set(re.findall(r"\bprocess_\w+", "\n".join(queries()))):
        assert f"\n{name} " in shown


def test_no_panel_lies_on_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert all(x < 24 for x, _ in cells)
        taken |= cells
