"""The recordings of KumoMTA's real programs: what loads, MX, site names, options, warnings."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sidecar.problems import ProblemError
from sidecar.shaping.load import MergeOptions, Shaping
from sidecar.shaping.mx import MxAnswer, MxError, ZoneResolver

from .shared import load_names, write

DATA = Path(__file__).parent.parent / "data" / "conformance"
SCENARIOS = sorted(DATA.glob("*.json"))

WARNINGS = {
    "a single DNS label": "one-label-domain",
    "error resolving MX": "mx-failed",
    "has a NULL MX": "null-mx",
    "alias to the same site": "aliased-site",
    "is also matched by provider": "provider-overlap",
    "local shaping source": "local-load",
}
"""A part of upstream's text → our code for the finding."""


def read(path: Path) -> dict[str, Any]:
    scenario: dict[str, Any] = json.loads(path.read_text())
    return scenario


def load(scenario: dict[str, Any], directory: Path) -> Shaping | None:
    """The scenario's files with every finding a warning; None when they are refused."""
    names = write(directory, scenario["files"])
    resolver = ZoneResolver(scenario["zones"])
    try:
        return load_names(names, options=MergeOptions.all_warn(), resolver=resolver)
    except ProblemError:
        return None


def answer(resolver: ZoneResolver, domain: str) -> MxAnswer | None:
    try:
        return asyncio.run(resolver.resolve(domain))
    except MxError:
        return None


def test_the_recordings_are_here() -> None:
    assert len(SCENARIOS) >= 159


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda p: p.stem)
def test_the_same_files_load(path: Path, tmp_path: Path) -> None:
    scenario = read(path)
    expected = scenario["expected"]["loads"] or scenario["differs"] == "json-comments"
    assert (load(scenario, tmp_path) is not None) == expected


@pytest.mark.parametrize(
    "path", [p for p in SCENARIOS if not read(p)["expected"]["loads"]], ids=lambda p: p.stem
)
def test_a_refusal_names_file_and_line(path: Path, tmp_path: Path) -> None:
    scenario = read(path)
    if scenario["differs"] == "json-comments":
        assert load(scenario, tmp_path) is not None
        return
    names = write(tmp_path, scenario["files"])
    resolver = ZoneResolver(scenario["zones"])
    with pytest.raises(ProblemError) as caught:
        load_names(names, options=MergeOptions.all_warn(), resolver=resolver)
    assert {p.file for p in caught.value.problems} <= set(names)
    assert all(p.line is not None for p in caught.value.problems)


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda p: p.stem)
def test_mx_and_site_names_agree(path: Path) -> None:
    scenario = read(path)
    resolver = ZoneResolver(scenario["zones"])
    expected = scenario["expected"]
    answers = {domain: answer(resolver, domain) for domain in expected.get("mx") or ()}
    hosts = {d: None if a is None else list(a.hosts) for d, a in answers.items()}
    assert hosts == (expected.get("mx") or {})
    sites = {d: a.site_name for d, a in answers.items() if a is not None}
    assert sites == (expected.get("site_names") or {})


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda p: p.stem)
def test_effective_options_agree(path: Path, tmp_path: Path) -> None:
    scenario = read(path)
    expected = scenario["expected"].get("egress_path") or {}
    shaping = load(scenario, tmp_path)
    resolver = ZoneResolver(scenario["zones"])
    found: dict[str, dict[str, Any]] = {}
    for domain, sources in expected.items():
        assert shaping is not None
        mx = answer(resolver, domain)
        site = "" if mx is None else mx.site_name
        found[domain] = {
            source: {n: o.value for n, o in shaping.egress_path(domain, source, site, mx).items()}
            for source in sources
        }
    assert found == expected


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda p: p.stem)
def test_every_warning_is_found(path: Path, tmp_path: Path) -> None:
    scenario = read(path)
    shaping = load(scenario, tmp_path)
    if shaping is None:
        assert not scenario["expected"].get("lint_warnings")
        return
    if scenario["differs"] == "json-comments":
        assert [p.code for p in shaping.warnings] == ["json-comments"]
        return
    expected = Counter(
        next(code for part, code in WARNINGS.items() if part in text)
        for text in scenario["expected"]["lint_warnings"]
    )
    assert Counter(p.code for p in shaping.warnings) == expected
    assert shaping.errors == ()
