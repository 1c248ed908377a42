"""``tsa-sidecar check``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .support import CLOSED, HERE, assert_golden, assert_one_line_error, run, run_process

pytestmark = pytest.mark.usefixtures("in_rules")

ZONES = HERE[2:]


def test_good_rules_are_good() -> None:
    result = run("check", *HERE)
    assert (result.exit_code, result.stdout, result.stderr) == (
        0,
        "1 file, 5 rules: 0 errors, 0 warnings, 0 notes\n",
        "",
    )


def test_doubts_are_shown_by_file_and_line() -> None:
    result = run("check", *HERE, "--shaping", "doubtful.toml")
    assert result.exit_code == 0
    assert_golden("check-doubtful.txt", result.stdout)
    lines = [int(line.split(":")[1]) for line in result.stdout.splitlines()[:-1]]
    assert lines == sorted(lines)


def test_strict_makes_warnings_fail_but_not_notes(tmp_path: Path) -> None:
    slow = tmp_path / "slow.toml"
    slow.write_text('[[default.automation]]\nregex="."\naction="Suspend"\nduration="1h"\n')
    noted = run("check", "--strict", "--shaping", str(slow))
    assert noted.exit_code == 0
    assert "1 note" in noted.stdout
    assert run("check", "--strict", *HERE, "--shaping", "doubtful.toml").exit_code == 1


def test_all_errors_of_all_files_are_named() -> None:
    result = run("check", *HERE, "--shaping", "broken.toml")
    assert result.exit_code == 1
    assert_golden("check-broken.txt", result.stdout)


def test_json_has_what_the_text_has() -> None:
    args = ("check", *HERE, "--shaping", "doubtful.toml")
    text, document = run(*args).stdout, json.loads(run(*args, "--json").stdout)
    assert document["files"] == ["shaping.toml", "doubtful.toml"]
    assert document["rules"] == 7
    assert [
        f"{p['file']}:{p['line']}: {p['level']}: "
        + (f"{p['where']}: " if p["where"] else "")
        + p["message"]
        for p in document["problems"]
    ] == text.splitlines()[:-1]
    assert document["summary"] == text.splitlines()[-1]


def test_json_when_nothing_loads() -> None:
    result = run("check", "--json", "--shaping", "broken.toml", "--no-dns")
    document = json.loads(result.stdout)
    assert result.exit_code == 1
    assert document["rules"] is None
    assert {p["level"] for p in document["problems"]} == {"error"}


def test_a_rule_that_needs_every_record_decoded_is_noted(tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rule = 'regex = \'.\'\naction = "Suspend"\nduration = "1m"\n'
    # A site's rule only needs the records of its site, which name it.
    rules.write_text(f'[[default.automation]]\n{rule}[["gamma.example".automation]]\n{rule}')
    result = run("check", "--shaping", str(rules), "--no-dns", "--json", "--strict")
    document = json.loads(result.stdout)
    notes = [p for p in document["problems"] if p["level"] == "note"]
    assert [(p["code"], p["line"]) for p in notes] == [("no-literal", 1)]
    assert result.exit_code == 0


def test_without_dns_no_domain_is_missed_and_every_block_is_checked(tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text('["nowhere.example"]\nconection_limit = 1\n')
    result = run("check", "--no-dns", "--shaping", str(rules))
    assert result.exit_code == 1
    assert "unknown option" in result.stdout
    assert "resolve" not in result.stdout


def test_a_merge_option_makes_a_doubt_an_error_once() -> None:
    args = (*HERE, "--shaping", "doubtful.toml", "--merge-option", "dns_fail=Error", "--json")
    result = run("check", *args)
    found = [p for p in json.loads(result.stdout)["problems"] if p["code"] == "mx-failed"]
    assert {p["level"] for p in found} == {"error"}
    assert len(found) == 2
    assert result.exit_code == 1


@pytest.mark.parametrize("name", ["gone.toml", "."])
def test_a_file_that_can_not_be_read_is_an_error(name: str) -> None:
    result = run("check", "--shaping", name, "--no-dns")
    assert result.exit_code == 1
    assert f"{name}: error: can't be loaded" in result.stdout
    assert len(result.stdout.splitlines()) == 2


def test_a_url_that_can_not_be_fetched_is_a_warning() -> None:
    result = run("check", "--shaping", CLOSED, "--no-dns")
    assert result.exit_code == 0
    assert f"{CLOSED}: warning: can't be loaded" in result.stdout


def test_no_shaping_files_are_an_error() -> None:
    result = run("check")
    assert result.exit_code == 1
    assert result.stdout.startswith("error: no shaping files: ")


def test_a_bad_zone_is_one_line() -> None:
    bad = run("check", "--shaping", "shaping.toml", "--dns-zone", "shaping.toml")
    assert_one_line_error(bad, 1, "error: shaping.toml", "master-file")
    missing = run("check", "--shaping", "shaping.toml", "--dns-zone", "gone.zone")
    assert_one_line_error(missing, 1, "gone.zone", "No such file")


def test_what_a_file_says_can_not_drive_the_terminal(tmp_path: Path) -> None:
    rules = tmp_path / "[red]rules\x1b[2J.toml"
    rules.write_text('["a.example"]\n"[bold]\\u001b]0;owned\\u0007\\nnot a line" = 1\n')
    result = run("check", "--no-dns", "--shaping", str(rules))
    assert "\x1b" not in result.stdout
    assert "\x07" not in result.stdout
    assert "[red]rules" in result.stdout
    assert "[bold]" in result.stdout
    assert len(result.stdout.splitlines()) == 2


def test_colours_come_and_go() -> None:
    args = ("check", *HERE, "--shaping", "doubtful.toml")
    plain = run_process(*args, cwd=Path.cwd(), NO_COLOR="1", FORCE_COLOR="1")
    coloured = run_process(*args, cwd=Path.cwd(), FORCE_COLOR="1", TERM="xterm")
    assert b"\x1b[3" not in plain.stdout
    assert b"\x1b[33mwarning" in coloured.stdout
    assert (plain.returncode, coloured.returncode) == (0, 0)


def test_a_key_of_our_own_that_would_be_ignored_is_refused(tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text(
        '[[default.automation]]\nregex = "busy"\naction = "Suspend"\nduration = "1h"\n'
        'sidecar.name = "busy"\nsidecar.simulat = true\n'
    )
    result = run("check", "--shaping", str(rules), "--no-dns")
    assert result.exit_code == 1
    assert f"{rules}:6: error: [[default.automation]] rule 1: sidecar: key " in result.stdout
    assert '(did you mean "simulate"?)' in result.stdout


def test_files_are_given_as_anybody_types_them() -> None:
    by_option = run("check", "--shaping", "shaping.toml", "--shaping", "doubtful.toml", "--no-dns")
    assert run("check", "shaping.toml", "doubtful.toml", "--no-dns").stdout == by_option.stdout
    both = run("check", "doubtful.toml", "--shaping", "shaping.toml", "--no-dns")
    assert both.stdout == by_option.stdout


def test_what_our_keys_change_against_upstream_is_a_note(tmp_path: Path) -> None:
    rules = tmp_path / "shaping.toml"
    rules.write_text(
        '[default]\nconnection_limit = 9\n[[default.automation]]\nregex = "busy"\n'
        'action = ["Suspend", {SetConfig = {name = "connection_limit", value = 1}}]\n'
        'duration = "1 hour"\nsidecar.adjust = true\nsidecar.when = {code = "4xx"}\n'
        "sidecar.escalate = true\nsidecar.simulate = true\n"
    )
    result = run("check", "--no-dns", "--json", str(rules))
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    said = [p["message"] for p in document["problems"] if p["level"] == "note"]
    assert said == [
        "sidecar.adjust: in kumo-tsa-daemon connection_limit is set to 1 for 1h",
        "sidecar.escalate: in kumo-tsa-daemon each hold is for 1h",
        "sidecar.simulate: in kumo-tsa-daemon the rule is in force",
        "sidecar.when: in kumo-tsa-daemon the rule acts on every response that its regex matches",
    ]
    assert document["summary"].endswith("0 errors, 0 warnings, 4 notes")


def test_a_rule_for_records_that_no_rule_sees_is_a_doubt(tmp_path: Path) -> None:
    file = tmp_path / "unseen.toml"
    rule = '[[default.automation]]\nregex = "busy"\naction = "Suspend"\nduration = "1h"\n'
    some = 'sidecar.when = {type = ["Reception", "Bounce"]}\n'
    file.write_text(f'{rule}sidecar.when = {{type = "Reception"}}\n{rule}{some}')
    (said,) = [s for s in run("check", str(file)).stdout.splitlines() if "no rule sees" in s]
    assert "warning: [[default.automation]] rule 1: sidecar.when: no rule sees records of" in said
