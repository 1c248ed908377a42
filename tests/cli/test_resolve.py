"""``tsa-sidecar resolve``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .support import (
    DATA,
    HERE,
    assert_golden,
    assert_one_line_error,
    run,
    run_process,
)

pytestmark = pytest.mark.usefixtures("in_rules")

RECORDINGS = [
    path
    for path in sorted((DATA / "conformance").glob("*.json"))
    if json.loads(path.read_text(encoding="utf-8"))["expected"].get("egress_path")
]


def write(scenario: dict[str, Any], directory: Path) -> list[str]:
    """The files of a recording, as options."""
    options = []
    for name, text in scenario["files"].items():
        options += ["--shaping", str(directory / name)]
        if text is not None:
            (directory / name).write_text(text, encoding="utf-8")
    for number, text in enumerate(scenario["zones"]):
        zone = directory / f"{number}.zone"
        zone.write_text(text, encoding="utf-8")
        options += ["--dns-zone", str(zone)]
    return options


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda p: p.stem)
def test_the_egress_paths_of_the_real_loader(path: Path, tmp_path: Path) -> None:
    scenario = json.loads(path.read_text(encoding="utf-8"))
    options = write(scenario, tmp_path)
    for domain, sources in scenario["expected"]["egress_path"].items():
        for source, expected in sources.items():
            result = run(
                "resolve", *options, "--no-overlay", "--json", "--source", source, "--", domain
            )
            document = json.loads(result.stdout)
            assert document["egress_path"] == expected
            assert {n: o["value"] for n, o in document["options"].items()} == expected
            site = scenario["expected"]["site_names"].get(domain)
            assert document["site_name"] == (site or "")
            assert document["mx"] == (scenario["expected"]["mx"].get(domain))


@pytest.mark.parametrize("path", RECORDINGS[:: len(RECORDINGS) // 4], ids=lambda p: p.stem)
def test_the_same_as_a_program_of_its_own(path: Path, tmp_path: Path) -> None:
    scenario = json.loads(path.read_text(encoding="utf-8"))
    domain, sources = next(iter(scenario["expected"]["egress_path"].items()))
    args = ["resolve", *write(scenario, tmp_path), "--no-overlay", "--json", "--source", "ip1"]
    done = run_process(*args, "--", domain, cwd=tmp_path)
    assert done.returncode == 0
    assert json.loads(done.stdout)["egress_path"] == sources["ip1"]


def test_each_option_has_its_file_line_and_scope() -> None:
    result = run("resolve", *HERE, "--no-overlay", "--source", "ip2", "beta.example")
    assert_golden("resolve.txt", result.stdout)
    as_json = run("resolve", *HERE, "--no-overlay", "--source", "ip2", "--json", "beta.example")
    assert_golden("resolve.json", as_json.stdout)


def test_the_overlay_counts_last_until_left_out(tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.toml"
    overlay.write_text('["alpha.example"]\nmx_rollup = true\n["alpha.example".sources.ip1]\n')
    with overlay.open("a") as file:
        file.write("# reason: automation rule: x\nconnection_limit = 1\n")
    args = ("resolve", *HERE, "--overlay", str(overlay), "--source", "ip1", "--json")
    document = json.loads(run(*args, "alpha.example").stdout)
    assert document["overlay"] == str(overlay)
    assert document["options"]["connection_limit"] == {
        "value": 1,
        "file": str(overlay),
        "line": 5,
        "scope": '["alpha.example".sources."ip1"]',
    }
    without = json.loads(run(*args, "--no-overlay", "alpha.example").stdout)
    assert (without["overlay"], without["egress_path"]["connection_limit"]) == (None, 10)


def test_an_overlay_among_the_shaping_files_counts_once(tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.toml"
    overlay.write_text("[default]\nconnection_limit = 1\n")
    args = ("--shaping", str(overlay), *HERE, "--overlay", str(overlay), "--json")
    assert (
        json.loads(run("resolve", *args, "a.example").stdout)["egress_path"]["connection_limit"]
        == 1
    )


def test_a_site_may_be_said() -> None:
    args = ("resolve", *HERE, "--no-overlay", "--json", "--source", "ip1")
    by_mx = json.loads(run(*args, "alpha.example").stdout)
    for site in ("(mx1|mx2).alpha.example", "ip1->(mx1|mx2).alpha.example@smtp_client"):
        said = json.loads(run(*args, "--site", site, "vanity.example").stdout)
        assert said["site_name"] == "(mx1|mx2).alpha.example"
        assert said["egress_path"] == by_mx["egress_path"]
        assert said["mx_error"] == "NXDOMAIN"


def test_wrong_input_is_one_line() -> None:
    assert_one_line_error(
        run("resolve", *HERE, "--overlay", "gone.toml", "a.example"), 1, "gone.toml"
    )
    assert_one_line_error(run("resolve", *HERE, "--no-overlay", ""), 1, "domain is empty")
    assert_one_line_error(
        run("resolve", *HERE, "--merge-option", "dns_fial=Warn", "a.example"), 1, "dns_fail"
    )
    assert run("resolve", *HERE).exit_code == 2


def test_a_missing_file_is_said_and_left_out() -> None:
    result = run("resolve", *HERE, "--no-overlay", "--shaping", "gone.toml", "beta.example")
    assert_one_line_error(result, 0, "error: gone.toml: can't be loaded and is left out")
    assert "connection_limit = 3" in result.stdout


def test_a_domain_can_not_drive_the_terminal() -> None:
    result = run("resolve", *HERE, "--no-overlay", "[red]a\x1b[2J\nb")
    assert result.exit_code == 0
    assert "\x1b" not in result.output
    assert "[red]a\\x1b[2J\\nb" in result.stdout


def test_files_are_given_behind_the_domain() -> None:
    by_option = run("resolve", *HERE, "--no-overlay", "beta.example").stdout
    assert by_option
    given = run("resolve", *HERE[2:], "--no-overlay", "beta.example", "shaping.toml")
    assert given.stdout == by_option
