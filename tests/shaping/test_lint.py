"""What loads but can't work is found, and what is right is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sidecar.problems import Problem
from sidecar.shaping.lint import lint
from sidecar.shaping.mx import Resolver, ZoneResolver

from .shared import load, load_names, shown, write

ZONES = ZoneResolver(
    [
        "$ORIGIN one.test.\n@ 60 IN MX 5 mx.shared.test.\n",
        "$ORIGIN two.test.\n@ 60 IN MX 5 mx.shared.test.\n",
        "$ORIGIN null.test.\n@ 60 IN MX 0 .\n",
    ]
)


def found(directory: Path, *texts: str, resolver: Resolver | None = None) -> list[Problem]:
    problems = lint(load(directory, *texts, resolver=resolver))
    assert all(p.level == "warning" and p.file and p.line for p in problems)
    return problems


def rule(
    table: str = "default",
    *,
    regex: str = '"busy"',
    action: str = '"Suspend"',
    duration: str = '"1h"',
    more: str = "",
) -> str:
    return (
        f"[[{table}.automation]]\nregex = {regex}\naction = {action}\n"
        f"duration = {duration}\n{more}\n"
    )


def regex_rule(regex: str) -> str:
    return rule(regex=json.dumps(regex))


@pytest.mark.parametrize(
    ("match", "reason"),
    [
        (
            '{MXSuffix=".x.com."}',
            'MXSuffix ".x.com." never matches: names are compared without their final dot; '
            'write ".x.com"',
        ),
        ('{DomainSuffix="x.com."}', "without their final dot"),
        ('{HostName="mx.x.com."}', "without their final dot"),
        ('{MXSuffix=".X.com"}', 'in lower case; write ".x.com"'),
        ('{MXSuffix="*.x.com"}', "a suffix is plain text"),
        ('{MXSuffix=" .x.com"}', "white space"),
        ('{MXSuffix=".xn--exmple-cua.com"}', "in Unicode"),
        ('{HostName=".x.com"}', "is no host name"),
        ('{DomainSuffix="a@x.com"}', "no name looks so"),
    ],
)  # fmt: skip
def test_a_match_that_never_fits(tmp_path: Path, match: str, reason: str) -> None:
    text = f'[provider.p]\nmatch = [\n {{MXSuffix=".ok.com"}},\n {match}]\n'
    (problem,) = found(tmp_path, text)
    assert (problem.code, problem.line, problem.where) == ("never-matches", 4, '[provider."p"]')
    assert reason in problem.message


def test_matches_that_fit(tmp_path: Path) -> None:
    text = (
        '[provider.p]\nmatch = [{MXSuffix=".x.com"}, {MXSuffix="x"}, {MXSuffix=""}, '
        '{HostName="mx-1.x.com"}, {DomainSuffix=".xn--exmple-cua.com"}, {MXSuffix=".exämple.com"}, '
        '{HostName="10.0.0.1"}, {MXSuffix=".x.com.:25"}]\n'
    )
    assert found(tmp_path, text) == []


def test_a_provider_without_match(tmp_path: Path) -> None:
    text = '[provider.google]\nmatch = [{MXSuffix=".google.com"}]\n' + rule("provider.gogle")
    (problem,) = found(tmp_path, text + "[provider.empty]\nmatch = []\nmax_ready = 1\n")[:1]
    assert problem.code == "no-match"
    codes = [p.message for p in found(tmp_path, text + "[provider.empty]\nmax_ready = 1\n")]
    assert codes == [
        "the provider has no match in any of the files, so its rules never apply "
        '(did you mean "google"?)',
        "the provider has no match in any of the files, so what it says never applies",
    ]


def test_a_provider_whose_match_is_in_another_file(tmp_path: Path) -> None:
    other = '[provider.p]\nmatch = [{MXSuffix=".x.com"}]\n'
    assert found(tmp_path, rule("provider.p"), other) == []
    assert found(tmp_path, other, rule("provider.p")) == []


@pytest.mark.parametrize(
    ("regex", "reason"),
    [
        ("busy\nagain", "needs a line break"),
        (r"busy\r\n", "needs a line break"),
        (r"busy[\r\n]+again", "needs a line break"),
        (r"(?m)busy$\n^again", "needs a line break"),
        ("busy$ again", "behind the end of the text"),
        (r"busy\z.", "behind the end of the text"),
        ("(busy$)+x", "behind the end of the text"),
        ("(busy$){2}", "behind the end of the text"),
        ("busy ^again", "in front of the start of the text"),
        (r"busy\A5", "in front of the start of the text"),
        ("(^5){2}", "in front of the start of the text"),
        ("^busy", 'wants "b" first, and a response begins with its three-digit code'),
        ("(?m)^(?:busy)", 'wants "b" first'),
        (r"^ ?$busy", "behind the end"),
        (r"(a\n|b$c)", "needs a line break"),
        (r"(?<=\n)a", "needs a line break"),
        (r"(?=$)a", "behind the end of the text"),
    ],
)
def test_a_regex_that_can_match_no_response(tmp_path: Path, regex: str, reason: str) -> None:
    (problem,) = found(tmp_path, regex_rule(regex))
    assert (problem.code, problem.line) == ("never-matches", 1)
    assert reason in problem.message


@pytest.mark.parametrize(
    "regex",
    [
        "busy$",
        "^4",
        "^",
        "$",
        "^$",
        r"^421 4\.7\.0 busy$",
        "^.*busy",
        "^(?!.*KumoMTA internal).*busy",
        "^(?:4|5)",
        "^(a|)4",
        "^(4|a)",
        "^a?4",
        "^a*5",
        r"^\d",
        r"^[245]",
        r"^\S",
        r"busy(\n|$)",
        r"busy\n?",
        r"busy[\s]*again",
        "a|^b|c$d",
        r"busy$\s*",
        r"\s*^4",
        "(?=.*x)^4",
        r"(a)\1?4",
        r"^(a)?(?(1)b|4)",
        "busy$|^busy again",
        "(?<!x)^4",
        "(^4)+",
    ],
)
def test_a_regex_that_may_match(tmp_path: Path, regex: str) -> None:
    assert found(tmp_path, regex_rule(regex)) == []


def test_a_regex_that_is_there_twice(tmp_path: Path) -> None:
    text = rule() + rule(regex='["x", "busy"]', action='"Bounce"') + rule("provider.p")
    (problem,) = found(tmp_path, text + 'match = [{MXSuffix=".x"}]\n'.replace("match", "#"))[:1]
    assert problem.code == "repeated-regex"
    assert shown([problem], tmp_path)[0].startswith(
        'f0.toml:6: [[default.automation]] rule 2: regex "busy" is in rule 1 ('
    )
    assert "both act on the same responses" in problem.message


def test_the_same_regex_in_another_scope_is_fine(tmp_path: Path) -> None:
    assert found(tmp_path, rule() + rule('"one.test"') + rule('"two.test"')) == []


def test_a_regex_twice_in_one_rule(tmp_path: Path) -> None:
    (problem,) = found(tmp_path, rule(regex='["a", "a"]'))
    assert (problem.code, "twice in this rule" in problem.message) == ("repeated-regex", True)


def test_a_rule_that_says_the_same_as_another(tmp_path: Path) -> None:
    (problem,) = found(tmp_path, rule(), rule(duration='"60 minutes"'))
    assert problem.code == "repeated-rule"
    assert problem.file == str(tmp_path / "f1.toml")


@pytest.mark.parametrize(
    ("later", "code"),
    [
        (rule(duration='"30m"'), "repeated-regex"),
        (rule(regex="'too busy'"), "shadowed-regex"),
        (rule(regex="'4[25]1 .*too busy'", duration='"30m"'), "shadowed-regex"),
        (rule(regex="'too busy'", more='trigger = {Threshold="5/hr"}'), "shadowed-regex"),
    ],
)
def test_a_rule_that_another_one_covers(tmp_path: Path, later: str, code: str) -> None:
    assert [p.code for p in found(tmp_path, rule() + later)] == [code]


@pytest.mark.parametrize(
    "later",
    [
        rule(regex="'too busy'", duration='"2h"'),
        rule(regex="'too busy'", action='"Bounce"'),
        rule(regex="'(?i)too busy'"),
        rule(regex="'too busy'", more="match_internal = true"),
        rule(regex="'bus'"),
    ],
)
def test_a_rule_that_another_one_does_not_cover(tmp_path: Path, later: str) -> None:
    assert found(tmp_path, rule() + later) == []


def test_a_rule_that_waits_longer_covers_nothing(tmp_path: Path) -> None:
    waiting = rule(more='trigger = {Threshold="5/hr"}')
    assert found(tmp_path, waiting + rule(regex="'too busy'")) == []
    longer = rule(regex="'too busy'", more='trigger = {Threshold="6/min"}')
    assert [p.code for p in found(tmp_path, waiting + longer)] == ["shadowed-regex"]


def test_doubled_backslashes_in_a_literal_string(tmp_path: Path) -> None:
    text = rule(regex="""[ "\\\\[A\\\\]",\n  '\\\\[HCM1\\\\] x', '''\\\\d+''']""")
    problems = found(tmp_path, text)
    assert [(p.code, p.line) for p in problems] == [("doubled-backslash", 3)] * 2
    assert r"\\[ looks for a backslash in the response, \[ is what" in problems[0].message


@pytest.mark.parametrize("regex", [r"'\[x\]'", r"'a\\\\b'", r'"a\\\\b"', r'"\\[x\\]"', r"'a\\ b'"])
def test_backslashes_that_are_right(tmp_path: Path, regex: str) -> None:
    assert found(tmp_path, rule(regex=regex)) == []


SET = '{SetConfig={name="max_message_rate", value="60/min"}}'


@pytest.mark.parametrize(
    "text",
    [
        rule(regex="[]"),
        rule(action="[]"),
        rule(duration="0"),
        rule(more='trigger = {Threshold="2/0s"}'),
        '[default]\nmax_message_rate = "60/60s"\n' + rule(action=SET),
        '["one.test"]\nmax_message_rate = "60/min"\n["one.test".sources.ip1]\n'
        'max_message_rate = "60/60s"\n' + rule('"one.test"', action=SET),
    ],
)
def test_a_rule_without_effect(tmp_path: Path, text: str) -> None:
    assert [p.code for p in found(tmp_path, text)] == ["no-effect"]


@pytest.mark.parametrize(
    "text",
    [
        '[default]\nmax_message_rate = "1/s"\n' + rule(action=SET.replace("60/min", "61/min")),
        '[default]\nmax_message_rate = "1/m"\n["x.test"]\nmax_message_rate = "60/s"\n'
        + rule(action=SET.replace("60/min", "1/m")),
        '["one.test"]\nmax_message_rate = "60/min"\n["one.test".sources.ip1]\n'
        'max_message_rate = "5/s"\n' + rule('"one.test"', action=SET),
        rule(more='trigger = {Threshold="1/0s"}'),
    ],
)
def test_a_rule_with_an_effect(tmp_path: Path, text: str) -> None:
    assert found(tmp_path, text) == []


def test_domains_that_belong_to_no_site(tmp_path: Path) -> None:
    text = rule('"gone.test"') + '["null.test"]\nmax_ready = 1\n["x.test"]\nmx_rollup = false\n'
    first, second = found(tmp_path, text, resolver=ZONES)
    assert (first.code, first.line, first.where) == ("mx-failed", 1, '["gone.test"]')
    assert "NXDOMAIN" in first.message
    assert "its rules never apply" in first.message
    assert (second.code, second.line) == ("null-mx", 6)
    assert "what it says never applies" in second.message


def test_domains_of_one_site(tmp_path: Path) -> None:
    one, two = '["one.test"]\nmax_ready = 1\n', '["two.test"]\nmax_ready = 1\n'
    (problem,) = found(tmp_path, one, two, resolver=ZONES)
    assert (problem.code, problem.file) == ("aliased-site", str(tmp_path / "f1.toml"))
    assert "same site as one.test (" in problem.message
    assert found(tmp_path, one, one, resolver=ZONES) == [], "files in layers are no mistake"


def test_a_domain_that_a_provider_has_too(tmp_path: Path) -> None:
    text = '[provider.p]\nmatch = [{MXSuffix=".shared.test"}]\n["one.test"]\nmax_ready = 1\n'
    (problem,) = found(tmp_path, text, resolver=ZONES)
    assert (problem.code, problem.line) == ("provider-overlap", 3)
    assert "provider p" in problem.message


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[defaults]\nmax_ready = 1\n", '(did you mean "default"?)'),
        ("[Provider]\nmax_ready = 1\n", '(did you mean "provider"?)'),
        ("[sources]\nmax_ready = 1\n", 'it is a domain called "sources"'),
        ("[automation]\nmax_ready = 1\n", 'it is a domain called "automation"'),
    ],
)
def test_tables_called_like_something_else(tmp_path: Path, text: str, hint: str) -> None:
    (problem,) = found(tmp_path, text)
    assert problem.code == "reserved-name"
    assert hint in problem.message


def test_a_good_file_has_no_findings(tmp_path: Path) -> None:
    text = (
        "[default]\nconnection_limit = 10\n"
        + rule(regex=r"['''Messages from \d+\.\d+ deferred''', 'Server busy\. Try']")
        + '[provider.y]\nmatch = [{MXSuffix=".y.net"}]\n'
        + rule("provider.y", regex=r'"\\[TS?S04\\]"')
        + rule("provider.y", regex=r'"421 \\[TSS05\\]"', more='trigger = {Threshold="2/hr"}')
        + '["one.test"]\nconnection_limit = 25\n'
        + rule('"one.test"', regex='"RL0000"', action=SET)
        + rule('"one.test"', regex='"^(?!.*KumoMTA internal).*RL000010"', action='"SuspendTenant"')
        + '["http://127.0.0.1:8008.tsa.kumomta"]\nmx_rollup = false\nmax_ready = 10000\n'
    )  # fmt: skip
    assert found(tmp_path, text, resolver=ZONES) == []


def test_json_is_linted_too(tmp_path: Path) -> None:
    data = {"default": {"automation": [{"regex": "a$b", "action": [], "duration": 0}]}}
    shaping = load_names(write(tmp_path, {"a.json": json.dumps(data)}))
    assert sorted(p.code for p in lint(shaping)) == ["never-matches", "no-effect", "no-effect"]
