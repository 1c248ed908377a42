"""``tsa-sidecar test``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sidecar.tools.casefile import FORMAT

from .support import CLOSED, assert_golden, run

pytestmark = pytest.mark.usefixtures("in_rules")

RULE = """
[[default.automation]]
regex = "slow down"
action = ["Suspend", {SetConfig = {name = "max_connection_rate", value = "10/min"}}]
trigger = {Threshold = "3/m"}
duration = "1 hour"
"""
ZONE = "$ORIGIN example.com.\n@ IN MX 10 mx\n"


def write(directory: Path, text: str) -> str:
    (directory / "rules.toml").write_text(RULE)
    (directory / "example.zone").write_text(ZONE)
    file = directory / "x.test.toml"
    file.write_text(text)
    return str(file)


def case(body: str, record: str = 'response = "421 slow down"\ntimes = 3') -> str:
    return (
        'shaping = ["rules.toml"]\ndns_zones = ["example.zone"]\n'
        '[[case]]\ndomain = "example.com"\nsource = "ip1"\n'
        f"[[case.record]]\n{record}\n[[case.expect]]\n{body}\n"
    )


def test_the_example_beside_the_rules_passes() -> None:
    result = run("test", "shaping.test.toml")
    assert (result.exit_code, result.output) == (0, "shaping.test.toml: 5 of 5 passed\n")


def test_the_example_of_the_help_passes(tmp_path: Path) -> None:
    result = run("test", write(tmp_path, FORMAT))
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    assert FORMAT.splitlines()[0] in run("test", "--help").stdout


def test_differences_are_readable() -> None:
    result = run("test", "failing.test.toml", "shaping.test.toml")
    assert result.exit_code == 1
    assert_golden("test-failing.txt", result.stdout)


def test_json_says_the_same() -> None:
    result = run("test", "--json", "failing.test.toml")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert (document["passed"], document["failed"], document["errors"]) == (1, 3, [])
    first = document["files"][0]["cases"][0]["failures"][0]["differences"]
    assert first[0]["fields"]["value"] == {"expected": '"20/m"', "got": '"10/m"'}


@pytest.mark.parametrize(
    "body",
    [
        'suspended = [{source = "ip1"}]\noverrides = [{value = "10/m"}]',
        'suspended = [{site = "mx.example.com"}]\noverrides = [{option = "max_connection_rate"}]',
        'suspended = [{site = "ip1->mx.example.com@smtp_client"}]\nexact = false',
        "overrides = [{mx_rollup = true}]\nexact = false",
        'suspended = [{expires_in = "59m"}]\nat = "1m"\nexact = false',
        'nothing = true\nat = "1h"',
        "suspended = []\nexact = false",
        'overrides = [{state = "in force"}]\nexact = false',
        'ended = [{option = "max_connection_rate", how = "expired"}]\nat = "1h"',
        'ended = [{source = "ip1", site = "mx.example.com"}]\nnothing = true\nat = "1h"',
        "ended = []",
    ],
)
def test_only_what_is_given_is_compared(body: str, tmp_path: Path) -> None:
    result = run("test", write(tmp_path, case(body)))
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('suspended = [{source = "ip1"}]', "unexpected: overrides"),
        ("nothing = true", "unexpected: suspended"),
        ('suspended = [{source = "ip2"}]\nexact = false', 'source: expected "ip2", got "ip1"'),
        ("overrides = [{mx_rollup = false}]\nexact = false", "mx_rollup: expected false, got true"),
        ("suspended = [{}, {}]\nexact = false", "missing: suspended {}"),
        ('bounced = [{tenant = "t"}]\nexact = false', 'missing: bounced {tenant = "t"}'),
        (
            'overrides = [{option = "max_connection_rate", state = "adjusting"}]\nexact = false',
            'state: expected "adjusting", got "in force"',
        ),
        ('ended = [{how = "released"}]', 'missing: ended {how = "released"}'),
        ('ended = [{how = "released"}]\nat = "1h"', 'how: expected "released", got "expired"'),
        ('nothing = true\nat = "59m 59s 999ms"', 'expires_in = "1ms"'),
    ],
)
def test_what_is_not_in_force_fails(body: str, said: str, tmp_path: Path) -> None:
    result = run("test", write(tmp_path, case(body)))
    assert result.exit_code == 1
    assert said in result.stdout


def test_one_entry_is_not_counted_for_two_expectations(tmp_path: Path) -> None:
    # The first could take either entry; the second needs the one it takes first.
    record = 'response = "421 slow down"\ntimes = 3\n[[case.record]]\nsource = "ip2"\n'
    record += 'response = "421 slow down"\ntimes = 3'
    body = 'exact = false\nsuspended = [{site = "mx.example.com"}, {source = "ip1"}]'
    assert run("test", write(tmp_path, case(body, record))).exit_code == 0


def test_thresholds_go_by_when_records_come(tmp_path: Path) -> None:
    record = 'response = "421 slow down"\ntimes = 3\nevery = "31s"'
    assert run("test", write(tmp_path, case("nothing = true", record))).exit_code == 0


def test_expectations_are_met_at_their_moment(tmp_path: Path) -> None:
    record = 'response = "421 slow down"\ntimes = 3\nevery = "10s"\nat = "1h"'
    text = case('at = "1h 19s"\nnothing = true', record)
    text += '[[case.expect]]\nat = "1h 20s"\nexact = false\nsuspended = [{expires_in = "1h"}]\n'
    assert run("test", write(tmp_path, text)).exit_code == 0


def test_a_skipped_record_type_is_said(tmp_path: Path) -> None:
    record = 'response = "421 slow down"\ntimes = 3\ntype = "Reception"'
    result = run("test", write(tmp_path, case("suspended = [{}]", record)))
    assert "3 records sent, 0 seen by rules, 0 matched" in result.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("shaping = [", "not valid TOML"),
        ('shaping = ["rules.toml"]\n', "no cases"),
        ("[[case]]\n", "no shaping files"),
        (case("nothing = true").replace("[[case]]", "[[case]]\nnmae = 'x'"), 'mean "name"'),
        (case("supended = []"), 'did you mean "suspended"?'),
        (case("overrides = [{opton = 'x'}]"), 'did you mean "option"?'),
        (case(""), "say what is in force"),
        (case("nothing = true\nbounced = []"), "stands alone"),
        (case('overrides = [{state = "probed"}]'), '"probed": it is one of in force, adjusting'),
        (case('ended = [{how = "gone"}]'), '"gone": it is one of expired, released'),
        (case("nothing = true", "times = 3"), "wanted one response, found none"),
        (case("nothing = true", 'response = "421 x"\ncode = 4'), "found response and code"),
        (case("nothing = true", 'response = "hello"'), "does not begin with an SMTP code"),
        (case("nothing = true", 'response = ""'), "the response is empty"),
        (case("nothing = true", 'code = 421\nenhanced = "x"'), "no enhanced status code"),
        (case("nothing = true", 'response = "421 x"\ntimes = 0'), "found 0, wanted 1 to"),
        (case("nothing = true", 'response = "421 x"\nevery = "1 parsec"'), "parsec"),
        (case("nothing = true", 'response = "421 x"\ntenant = 3'), "wanted a string"),
        (
            case("nothing = true", 'response = "421 x"\nqueue = "q"\ntenant = "t"'),
            "one or the other",
        ),
        (case("nothing = true", "record = {response = {code = 'x'}}"), "no log record"),
        (case("nothing = true", "code = 421\nrecord = {a = 2026-01-01}"), "JSON has not"),
        (case("nothing = true").replace('domain = "example.com"', ""), "domain or recipient"),
        (case('suspended = [{site = "s", tenant = "t"}]'), "a ready queue has"),
        (case("nothing = true").replace("rules.toml", "gone.toml"), "gone.toml"),
        (case("nothing = true").replace("rules.toml", CLOSED), CLOSED),
        (case("nothing = true").replace("example.zone", "gone.zone"), "gone.zone"),
        (case("nothing = true").replace("example.zone", "rules.toml"), "master-file"),
        (case("nothing = true").replace('["rules.toml"]', '["x.test.toml"]'), "x.test.toml"),
    ],
)
def test_what_can_not_be_used_ends_with_two(text: str, said: str, tmp_path: Path) -> None:
    result = run("test", write(tmp_path, text))
    assert result.exit_code == 2
    assert said in result.stderr
    assert all(line.startswith(("error: ", "warning: ")) for line in result.stderr.splitlines())
    assert str(tmp_path) in result.stderr or CLOSED in result.stderr


def test_an_error_in_the_case_is_found_where_it_stands(tmp_path: Path) -> None:
    text = case("nothing = true").replace('source = "ip1"', "source = 1")
    result = run("test", write(tmp_path, text))
    assert "x.test.toml:5: " in result.stderr


@pytest.mark.parametrize("name", ["gone.test.toml", "."])
def test_a_missing_file_does_not_keep_the_others_from_running(name: str) -> None:
    result = run("test", name, "shaping.test.toml")
    assert result.exit_code == 2
    assert "5 of 5 passed" in result.stdout
    assert len(result.stderr.splitlines()) == 1


def test_a_name_can_not_drive_the_terminal(tmp_path: Path) -> None:
    text = case("nothing = true").replace("[[case]]", '[[case]]\nname = "[red]\\u001b[2J\\nx"')
    result = run("test", write(tmp_path, text))
    assert result.exit_code == 1
    assert "\x1b" not in result.stdout
    assert "[red]\\x1b[2J\\nx" in result.stdout


SIMULATED = RULE + "sidecar.simulate = true\n"


def test_what_a_simulated_rule_does_is_compared_where_it_is_asked_for(tmp_path: Path) -> None:
    asked = 'suspended = [{source = "ip1", simulated = true}]'
    for body, code in (("nothing = true", 0), (asked, 0), ('suspended = [{source = "ip1"}]', 1)):
        file = write(tmp_path, case(body))
        (tmp_path / "rules.toml").write_text(SIMULATED)
        assert run("test", file).exit_code == code, body


PROBING = """
["example.com"]
mx_rollup = false
[["example.com".automation]]
regex = "slow"
action = "Suspend"
duration = "10 minutes"
sidecar.probe = {connection_limit = 1, deliveries = 2}
"""


def test_limits_after_a_suspension_are_told_by_their_state(tmp_path: Path) -> None:
    text = case(
        'at = "5m"\nsuspended = [{source = "ip1"}]\n'
        "[[case.expect]]\n"
        'at = "5m"\nexact = false\noverrides = [{state = "suspended", value = 1}]\n'
        "[[case.expect]]\n"
        'at = "10m"\noverrides = [{option = "connection_limit", state = "probing"}]\n'
        "[[case.record]]\n"
        'response = "250 ok"\nat = "11m"\ntimes = 2\nevery = "1s"\n'
        "[[case.expect]]\n"
        'nothing = true\nended = [{option = "connection_limit", how = "released"}]',
        'response = "421 slow"',
    )
    file = write(tmp_path, text)
    (tmp_path / "rules.toml").write_text(PROBING)
    result = run("test", file)
    assert result.exit_code == 0, result.output


def test_a_shaping_file_in_place_of_a_test_file_is_told(tmp_path: Path) -> None:
    result = run("test", "shaping.toml")
    assert result.exit_code == 2
    assert "is no file of tests" in result.stderr
    assert "`tsa-sidecar check`" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_an_expectation_without_a_time_is_looked_at_where_it_stands(tmp_path: Path) -> None:
    text = (
        'shaping = ["rules.toml"]\ndns_zones = ["example.zone"]\n'
        '[[case]]\ndomain = "example.com"\nsource = "ip1"\n'
        '[[case.record]]\nresponse = "421 slow down"\ntimes = 2\n'
        "[[case.expect]]\nnothing = true\n"
        '[[case.record]]\nresponse = "421 slow down"\n'
        '[[case.expect]]\nexact = false\nsuspended = [{source = "ip1"}]\n'
        '[[case.record]]\nresponse = "421 slow down"\nat = "2h"\n'
        "[[case.expect]]\nnothing = true\n"
    )
    result = run("test", write(tmp_path, text))
    assert result.exit_code == 0, result.output


def test_coverage_lists_what_no_case_touches() -> None:
    result = run("test", "--coverage", "shaping.test.toml")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1:] == [
        "coverage: 4 of 5 rules touched",
        "not touched  shaping.toml:14  [[default.automation]] rule 2",
        "not touched  shaping.toml:28  "
        r'[[provider."bigmail".automation]] rule 1: regex "\[BM42\]"',
        'not touched  shaping.toml:33  [["alpha.example".automation]] rule 1: '
        '"over quota" in regex "mailbox (?:full|over quota)"',
    ]
    document = json.loads(run("test", "--coverage", "--json", "shaping.test.toml").stdout)
    assert (document["coverage"]["rules"], document["coverage"]["touched"]) == (5, 4)
    assert [(one["line"], one["regex"], one["alternative"]) for one in _untouched(document)] == [
        (14, None, None),
        (28, r"\[BM42\]", None),
        (33, "mailbox (?:full|over quota)", "over quota"),
    ]
    assert "coverage" not in json.loads(run("test", "--json", "shaping.test.toml").stdout)


def _untouched(document: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = document["coverage"]["untouched"]
    return found


def test_files_of_tests_cover_the_same_rules_together(tmp_path: Path) -> None:
    write(tmp_path, case("nothing = true", 'response = "421 slow down"'))
    other = tmp_path / "sub"
    other.mkdir()
    text = case("nothing = true", 'response = "250 fine"').replace("rules.toml", "../rules.toml")
    (other / "y.test.toml").write_text(text.replace("example.zone", "../example.zone"))
    files = (str(other / "y.test.toml"), str(tmp_path / "x.test.toml"))
    assert "coverage: 1 of 1 rule touched" in run("test", "--coverage", *files).stdout
    assert "coverage: 0 of 1 rule touched" in run("test", "--coverage", files[0]).stdout
