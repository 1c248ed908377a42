"""promtool takes the alert rules and the dashboard's queries; each alert fires when it should."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.packaging.test_monitoring import RULES, queries

# By alert: series that fire it, series that do not.  They go on for two hours; a value
# may be said as in promtool's tests: `0+1x120` rises by 1 a minute.
CASES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "TsaSidecarDown": ({'up{job="tsa-sidecar"}': "0x120"}, {'up{job="tsa-sidecar"}': "1x120"}),
    "TsaSidecarBehind": (
        {"tsa_sidecar_lag_seconds": "90x120"},
        {"tsa_sidecar_lag_seconds": "0x60 90x3 0x57"},
    ),
    "TsaSidecarNoRecords": (
        {"tsa_sidecar_newest_record_timestamp_seconds": "60x120"},
        {"tsa_sidecar_newest_record_timestamp_seconds": "0x120"},
    ),
    "TsaSidecarStateNotWritable": (
        {"tsa_sidecar_state_writable": "0x120"},
        {"tsa_sidecar_state_writable": "1x120"},
    ),
    "TsaSidecarRoadDown": (
        {'tsa_sidecar_road_up{road="kumod-api"}': "0x120"},
        {'tsa_sidecar_road_up{road="kumod-api"}': "1x120"},
    ),
    "TsaSidecarRoadBehind": (
        {'tsa_sidecar_road_pending{road="overlay"}': "2x120"},
        {'tsa_sidecar_road_pending{road="overlay"}': "0x120"},
    ),
    "TsaSidecarNotObeyed": (
        {'tsa_sidecar_kumod_entries{effect="not obeyed"}': "3x120"},
        {'tsa_sidecar_kumod_entries{effect="in effect"}': "3x120"},
    ),
    "TsaSidecarDnsSilent": (
        {"tsa_sidecar_dns_silent_since_timestamp_seconds": "60x120"},
        {"tsa_sidecar_dns_silent_since_timestamp_seconds": "0x120"},
    ),
    "TsaSidecarNotTold": (
        {'tsa_sidecar_notify_oldest_waiting_seconds{target="oncall"}': "0+60x120"},
        {'tsa_sidecar_notify_oldest_waiting_seconds{target="oncall"}': "0+60x16 0+60x16 0x90"},
    ),
    "TsaSidecarGroupAway": (
        {'tsa_sidecar_share_up{group="mail"}': "0x120"},
        {'tsa_sidecar_share_up{group="mail"}': "1x120"},
    ),
    "TsaSidecarLogLost": (
        {"tsa_sidecar_segments_lost_total": "0x110 1x10", "tsa_sidecar_bytes_lost_total": "0x120"},
        {"tsa_sidecar_segments_lost_total": "3x120", "tsa_sidecar_bytes_lost_total": "0x120"},
    ),
    "TsaSidecarBadLines": (
        {
            "tsa_sidecar_records_bad_total": "0+10x120",
            "tsa_sidecar_records_read_total": "0+500x120",
        },
        {
            "tsa_sidecar_records_bad_total": "0+1x120",
            "tsa_sidecar_records_read_total": "0+500x120",
        },
    ),
    "TsaSidecarRulesNotLoaded": (
        {"tsa_sidecar_rule_load_errors_total": "0x115 1x5"},
        {"tsa_sidecar_rule_load_errors_total": "1x120"},
    ),
    "TsaSidecarRegexSwitchedOff": (
        {"tsa_sidecar_regexes_switched_off": "1x120"},
        {"tsa_sidecar_regexes_switched_off": "0x120"},
    ),
    "TsaSidecarManyEntries": (
        {
            'tsa_sidecar_entries{kind="override"}': "30000x120",
            'tsa_sidecar_entries{kind="ready_q"}': "20000x120",
        },
        {'tsa_sidecar_entries{kind="override"}': "30000x120"},
    ),
    "TsaSidecarSlowCommits": (
        {
            'tsa_sidecar_commit_duration_seconds_bucket{le="1.0"}': "0x120",
            'tsa_sidecar_commit_duration_seconds_bucket{le="2.5"}': "0+10x120",
            'tsa_sidecar_commit_duration_seconds_bucket{le="+Inf"}': "0+10x120",
        },
        {
            'tsa_sidecar_commit_duration_seconds_bucket{le="1.0"}': "0+10x120",
            'tsa_sidecar_commit_duration_seconds_bucket{le="2.5"}': "0+10x120",
            'tsa_sidecar_commit_duration_seconds_bucket{le="+Inf"}': "0+10x120",
        },
    ),
}


def promtool(*arguments: str | Path) -> str:
    """What it says; the test fails where it finds a mistake."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_rules_and_the_dashboards_queries_are_promql(tmp_path: Path) -> None:
    assert "SUCCESS" in promtool("check", "rules", RULES)
    records = [{"record": f"panel:query:{n}", "expr": expr} for n, expr in enumerate(queries())]
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": records}]}))
    promtool("check", "rules", file)


def test_every_alert_is_tried() -> None:
    assert set(re.findall(r"alert: (\w+)", RULES.read_text())) == CASES.keys()


@pytest.mark.parametrize("alert", CASES)
def test_an_alert_fires_when_it_should_and_only_then(alert: str, tmp_path: Path) -> None:
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": name, "values": v} for name, v in given.items()],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})',
                    "eval_time": "119m",
                    "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
                }
            ],
        }
        for fires, given in zip((True, False), CASES[alert], strict=True)
    ]
    file = tmp_path / "test.yml"
    file.write_text(json.dumps({"rule_files": [str(RULES)], "tests": tests}))
    promtool("test", "rules", file)
