"""What KumoMTA's real daemon decided, scenario by scenario, decided here again.

Compared is the meaning, as tests/data/conformance/README.md says it: overrides
as (section, mx_rollup, source, option, value, expiry), suspensions and bounces by
their queue, tenant, campaign and source, expiry to the millisecond.
"""

from __future__ import annotations

import asyncio
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from sidecar.automation.decide import Automation
from sidecar.automation.entries import Override, ReadyQSuspension, SchedQBounce, SchedQSuspension
from sidecar.automation.matching import Matcher
from sidecar.automation.overlay import Overlay
from sidecar.automation.pipeline import Tally, candidates
from sidecar.problems import ProblemError
from sidecar.service.mx import resolve_all
from sidecar.shaping.load import MergeOptions, Shaping, load_shaping
from sidecar.shaping.mx import ZoneResolver
from sidecar.times import NS, parse_rfc3339

SCENARIOS = sorted((Path(__file__).parent / "data" / "conformance").glob("*.json"))

ASKED_WITHIN_MS = 1_000
"""How long after ``now`` the daemon was asked: what lasts shorter than that it had forgotten."""

Meaning = dict[str, set[tuple[Any, ...]]]


def load(scenario: dict[str, Any], directory: Path) -> tuple[Shaping, ZoneResolver]:
    names = []
    for name, text in scenario["files"].items():
        names.append(str(directory / name))
        if text is not None:
            (directory / name).write_text(text, encoding="utf-8")
    resolver = ZoneResolver(scenario["zones"])
    shaping = asyncio.run(load_shaping(names, options=MergeOptions.all_warn(), resolver=resolver))
    return shaping, resolver


def decide(scenario: dict[str, Any], directory: Path) -> Automation:
    shaping, resolver = load(scenario, directory)
    automation = Automation()
    now_ns = int((scenario["now"] or 0) * NS)
    for record in scenario["records"]:  # one at a time, as they were posted
        line = json.dumps(record, ensure_ascii=False).encode()
        found = candidates([line], matcher=Matcher(shaping), skip_types=frozenset(), tally=Tally())
        mx = asyncio.run(resolve_all(found, resolver))
        automation.apply(found, mx=mx, now_ns=now_ns)
    return automation


def millis(text: str) -> int:
    return parse_rfc3339(text) // 1_000_000


def expected_meaning(expected: dict[str, Any]) -> Meaning:
    overrides = set()
    if expected["overlay"] is not None and "\n \\s" not in expected["overlay"]:
        expiry = _expiries(expected["overlay"])
        for section, body in tomllib.loads(expected["overlay"]).items():
            for source, options in body["sources"].items():
                for name, value in options.items():
                    key = (section, source, name)
                    overrides.add(
                        (section, body["mx_rollup"], source, name, repr(value), expiry[key])
                    )
    suspended, bounced = expected["suspended"], expected["bounced"]
    return {
        "overrides": overrides,
        "ready_q": {
            (e["site_name"], e["source"], millis(e["expires"])) for e in suspended["ready_q"]
        },
        "sched_q": {
            (e["domain"], e["tenant"], e["campaign"], millis(e["expires"]))
            for e in suspended["sched_q"]
        },
        "bounced": {
            (e["domain"], e["tenant"], e["campaign"], millis(e["expires"])) for e in bounced
        },
    }


def _expiries(overlay: str) -> dict[tuple[str, str, str], int]:
    """(section, source, option) → expiry, from the comments of a real overlay."""
    found, section, source, expires = {}, "", "", 0
    for line in overlay.splitlines():
        if line.startswith("["):
            table = tomllib.loads(line)
            section, inner = next(iter(table.items()))
            source = next(iter(inner.get("sources", {})), "")
        elif line.startswith("# expires: "):
            expires = millis(line.removeprefix("# expires: "))
        elif (m := re.match(r"(\w+) = ", line)) and source:
            found[section, source, m[1]] = expires
    return found


def meaning(automation: Automation) -> Meaning:
    entries = list(automation.entries)
    overlay = Overlay([e for e in entries if isinstance(e, Override)])
    overlay.text()
    assert not overlay.rejected
    return {
        "overrides": {
            (
                e.section,
                e.override.mx_rollup,
                e.override.source,
                e.override.name,
                repr(e.override.value),
                e.override.expires_ns // 1_000_000,
            )
            for e in overlay.effective()
        },
        "ready_q": {
            (e.site, e.source, e.expires_ns // 1_000_000)
            for e in entries
            if isinstance(e, ReadyQSuspension)
        },
        "sched_q": {
            (e.domain, e.tenant, e.campaign, e.expires_ns // 1_000_000)
            for e in entries
            if isinstance(e, SchedQSuspension)
        },
        "bounced": {
            (e.domain, e.tenant, e.campaign, e.expires_ns // 1_000_000)
            for e in entries
            if isinstance(e, SchedQBounce)
        },
    }


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda p: p.stem)
def test_the_same_entries_as_the_real_daemon(path: Path, tmp_path: Path) -> None:
    scenario = json.loads(path.read_text(encoding="utf-8"))
    expected = scenario["expected"]
    if scenario["differs"] is not None:
        assert path.stem in DELIBERATE
        return
    if not expected["loads"]:
        with pytest.raises(ProblemError):
            load(scenario, tmp_path)
        return
    got, want = meaning(decide(scenario, tmp_path)), expected_meaning(expected)
    if expected["overlay"] is None:
        del want["overrides"], got["overrides"]
    forgotten = int(scenario["now"] * 1000) + ASKED_WITHIN_MS
    assert {k: {e for e in v if e[-1] > forgotten} for k, v in got.items()} == want


SITE = "ip1->(mx1|mx2).comcast.net@smtp_client"

# Per scenario that deliberately differs: what is in force here, with the
# duration in minutes in place of the expiry.  Worked out by hand from
# tests/data/conformance/README.md.
DELIBERATE: dict[str, dict[str, set[tuple[Any, ...]]]] = {
    "file-json-comments": {},
    "threshold-over-duration": {},
    "mx-rollup-conflict": {
        "overrides": {
            ("comcast.net.", True, "ip1", "max_message_rate", "'1/s'", 60),
            ("comcast.net", False, "ip1", "connection_limit", "1", 60),
        }
    },
    "overlap-default-provider-site-domain": {
        "overrides": {
            ("comcast.net.", True, "ip1", "connection_limit", "3", 60),
            ("comcast.net", False, "ip1", "connection_limit", "4", 60),
        }
    },
    "override-collision-two-domains-one-site": {
        "overrides": {
            ("alias-one.example", False, "ip1", "connection_limit", "1", 60),
            ("alias-two.example", False, "ip1", "connection_limit", "1", 60),
        }
    },
    "regex-with-newline-in-reason": {
        "overrides": {("comcast.net", True, "ip1", "connection_limit", "1", 60)}
    },
    "reserved-domain-names": {
        "overrides": {
            ("automation", True, "ip1", "connection_limit", "1", 60),
            ("sources", True, "ip1", "connection_limit", "1", 60),
        }
    },
}


@pytest.mark.parametrize("name", DELIBERATE)
def test_what_this_project_deliberately_does_better(name: str, tmp_path: Path) -> None:
    path = next(p for p in SCENARIOS if p.stem == name)
    scenario = json.loads(path.read_text(encoding="utf-8"))
    assert scenario["differs"] is not None
    got = meaning(decide(scenario, tmp_path))
    last = max((millis(r["event_time"]) for r in scenario["records"]), default=0)
    minutes = {k: {(*e[:-1], (e[-1] - last) // 60_000) for e in v} for k, v in got.items()}
    assert minutes == {
        k: DELIBERATE[name].get(k, set()) for k in ("overrides", "ready_q", "sched_q", "bounced")
    }
