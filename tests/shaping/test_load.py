"""What a shaping file may hold, and how errors are told."""

# ruff: noqa: E501 - a case of a table of messages is easiest read on one line

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sidecar.shaping.rules import Action, Threshold
from sidecar.times import NS

from .shared import errors, load, shown

RULE = 'regex = "busy"\naction = "Suspend"\nduration = "1h"\n'


def rule(**changes: str | None) -> str:
    """A default rule with some keys changed or (None) left out."""
    lines = {"regex": '"busy"', "action": '"Suspend"', "duration": '"1h"', **changes}
    body = "".join(f"{key} = {text}\n" for key, text in lines.items() if text is not None)
    return f"[[default.automation]]\n{body}"


def test_a_rule_is_read_whole(tmp_path: Path) -> None:
    shaping = load(
        tmp_path,
        '["gmail.com"]\n\n[["gmail.com".automation]]\n' + RULE,
        "# later\n\n"
        '[["gmail.com".automation]]\nregex = ["a", "b"]\n'
        'action = ["Bounce", {SetConfig={name="max_ready", value=5}}]\n'
        'trigger = {Threshold="2/5min"}\nduration = 1.5\nmatch_internal = true\n',
    )
    first, second = shaping.sites["gmail.com"].rules
    assert (first.trigger, first.match_internal, first.duration_ns) == (None, False, 3600 * NS)
    assert [p.source for p in second.regexes] == ["a", "b"]
    assert second.actions == (Action("Bounce"), Action("SetConfig", "max_ready", 5))
    assert second.trigger == Threshold(2, 300, "2/5min")
    assert (second.duration_ns, second.match_internal) == (1_500_000_000, True)
    assert (second.line, second.number, second.where) == (3, 1, '[["gmail.com".automation]] rule 1')
    assert Path(second.file).name == "f1.toml"
    assert shaping.horizon_ns == 3600 * NS + 300 * NS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"duration": '"2 huors"'}, 'f0.toml:4: [[default.automation]] rule 1: duration "2 huors": unknown unit "huors" (did you mean "hours"?)'),
        ({"duration": None}, "f0.toml:1: [[default.automation]] rule 1: duration is missing"),
        ({"duration": None, "durations": "5"}, 'f0.toml:1: [[default.automation]] rule 1: duration is missing (did you mean "durations"?)'),
        ({"duration": "1979-05-27"}, "f0.toml:4: [[default.automation]] rule 1: 1979-05-27 is no duration"),
        ({"regex": None}, "f0.toml:1: [[default.automation]] rule 1: regex is missing"),
        ({"regex": "1"}, "f0.toml:2: [[default.automation]] rule 1: regex: found 1, wanted a string or an array of strings"),
        ({"regex": '["a",\n 1]'}, "f0.toml:3: [[default.automation]] rule 1: regex: found 1"),
        ({"regex": '"(a"'}, 'f0.toml:2: [[default.automation]] rule 1: regex "(a": '),
        ({"action": None}, "f0.toml:1: [[default.automation]] rule 1: action is missing"),
        ({"action": '"suspend"'}, 'rule 1: action: found "suspend" (did you mean "Suspend"?), wanted one of Suspend, '),
        ({"action": "5"}, "rule 1: action: found 5, wanted one of"),
        ({"action": '["Suspend", ["Bounce"]]'}, "rule 1: action: found an array, wanted one of"),
        ({"action": "{}"}, "rule 1: action: found a table, wanted one of"),
        ({"action": '{Suspend={}}'}, 'rule 1: action: write just "Suspend"'),
        ({"action": '"SetConfig"'}, "rule 1: action: SetConfig wants an option: {SetConfig={name=…, value=…}}"),
        ({"action": '{SetConfig={name="max_ready"}}'}, "rule 1: action: SetConfig wants an option"),
        ({"action": '{SetConfig={name=5, value=5}}'}, "rule 1: action: SetConfig wants an option"),
        ({"action": '{SetConfig={name="max_redy", value=5}}'}, 'rule 1: SetConfig: unknown option "max_redy" (did you mean "max_ready"?)'),
        ({"action": '{SetConfig={name="max_ready", value="5"}}'}, 'rule 1: SetConfig max_ready: got "5", wanted a whole number (without quotes)'),
        ({"action": '{SetConfig={name="max_ready", value=1979-05-27}}'}, "rule 1: SetConfig max_ready: found the date or time 1979-05-27: write it in quotes"),
        ({"action": '{SetConfig={name="max_ready", value=9223372036854775808}}'}, "is too large"),
        ({"trigger": '"Threshold"'}, 'rule 1: trigger: found "Threshold", wanted "Immediate" or {Threshold="N/period"}'),
        ({"trigger": "5"}, "rule 1: trigger: found 5, wanted"),
        ({"trigger": "{Threshold=5}"}, "rule 1: trigger: 5 is no throttle"),
        ({"trigger": '{Threshold="2 / minute"}'}, 'f0.toml:5: [[default.automation]] rule 1: trigger: throttle "2 / minute": unknown period'),
        ({"match_internal": "1"}, "f0.toml:5: [[default.automation]] rule 1: match_internal: found 1, wanted true or false"),
    ],
)  # fmt: skip
def test_a_bad_rule_is_told_with_its_place(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    (error,) = shown(errors(tmp_path, rule(**changes)), tmp_path)
    assert message in error
    assert error.startswith("f0.toml:")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("default = 5", "f0.toml:1: [default]: must be a table, found 5"),
        ("[[default]]", "f0.toml:1: [default]: must be a table, found an array of tables ([[…]])"),
        ("[[provider]]", "f0.toml:1: [provider]: must be a table, found an array of tables"),
        ("[provider]\nx = 1", 'f0.toml:2: [provider."x"]: must be a table, found 1'),
        ('max_ready = 5', 'f0.toml:1: "max_ready": found 5, wanted a table: at the top of a file stand only [default], [provider.NAME] and domains; did you mean to write it in [default] or in a domain like ["example.com"]?'),
        ('[["a.com"]]', 'f0.toml:1: ["a.com"]: must be a table, found an array of tables'),
        ('["a.com"]\nmx_rollup = "no"', 'f0.toml:2: ["a.com"] mx_rollup: found "no", wanted true or false (without quotes)'),
        ('["a.com"]\nreplace_base = 1', 'f0.toml:2: ["a.com"] replace_base: found 1'),
        ('["a.com".automation]\nregex = "a"', 'f0.toml:1: ["a.com".automation]: found a table, wanted rules: write [["a.com".automation]]'),
        ('["a.com"]\nautomation = [5]', 'f0.toml:2: [["a.com".automation]] rule 1: found 5, wanted a table'),
        ('["a.com"]\nsources = 5', 'f0.toml:2: ["a.com".sources]: must be a table, found 5'),
        ('["a.com".sources]\nip1 = 5', 'f0.toml:2: ["a.com".sources."ip1"]: must be a table, found 5'),
        ('["a.com"]\nehlo_domain = 07:32:00', 'f0.toml:2: ["a.com"] ehlo_domain: found the date or time 07:32:00'),
        ('["a.com"]\nno_such = 1', 'f0.toml:2: ["a.com"]: unknown option "no_such"'),
        ('["a.com".sources."ip1"]\nconection_limit = 1', 'f0.toml:2: ["a.com".sources."ip1"]: unknown option "conection_limit" (did you mean "connection_limit"?)'),
        ('["a.com"]\nmax_ready = "5"', 'f0.toml:2: ["a.com"] max_ready: got "5", wanted a whole number'),
        ('["a.com"]\nadditional_connection_limits = {a = 1,\n b = 0}', 'f0.toml:3: ["a.com"] additional_connection_limits: "b": limit 0'),
        ('[provider.x]\nmatch = [{Regex="a"}]', 'f0.toml:2: [provider."x"] match 1: found "Regex", wanted {MXSuffix="…"}, {HostName="…"} or {DomainSuffix="…"}'),
        ('[provider.x]\nmatch = [\n {MXSufix="a"}]', 'f0.toml:3: [provider."x"] match 1: found "MXSufix" (did you mean "MXSuffix"?)'),
        ('[provider.x]\nmatch = {MXSuffix="a"}', 'f0.toml:2: [provider."x"] match: found a table, wanted an array'),
        ('[provider.x]\nmatch = [{MXSuffix="a", HostName="b"}]', "match 1: found a table with 2 keys"),
        ('[provider.x]\nmatch = [{MXSuffix=5}]', "match 1: MXSuffix: found 5, wanted a string"),
        ('[provider.x]\nmatch = ["a"]', 'match 1: found "a", wanted'),
        ('[provider.x]\nprovider_connection_limit = 0', 'f0.toml:2: [provider."x"] provider_connection_limit: limit 0'),
        ('[provider.x]\nprovider_max_message_rate = 5', 'f0.toml:2: [provider."x"] provider_max_message_rate: 5 is no throttle'),
        ('[provider.x]\nmx_rollup = true', 'f0.toml:2: [provider."x"]: unknown option "mx_rollup"'),
        ('[provider.x]\nprovider_source_selection_rate = "1/s"', 'unknown option "provider_source_selection_rate"'),
        ('["a.com"]\nprovider_connection_limit = 5', 'unknown option "provider_connection_limit"'),
        ('["comcast.net"\nx = 1', "f0.toml:1: not valid TOML: Expected ']' at the end of a table declaration"),
        ('a = ' + '[' * 3000, "f0.toml:1: not valid TOML: tables or arrays are nested too deeply"),
        ('["a.com"]\ntls_private_key = {event_name="e", event_args=[[nan, inf, 1e400]], x = {y = 1979-05-27}}', "found the date or time"),
    ],
)  # fmt: skip
def test_a_bad_table_is_told_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    (error,) = shown(errors(tmp_path, text), tmp_path)
    assert message in error
    assert error.startswith("f0.toml:")


def test_every_error_of_every_file_is_told_at_once(tmp_path: Path) -> None:
    found = errors(
        tmp_path,
        rule(duration='"x"', action='"y"', trigger="5"),
        '["a.com"]\nmx_rollup = 1\nno_such = 1\nmax_ready = "5"\n',
        "not toml",
    )
    assert [p.code for p in found] == [
        "bad-action",
        "bad-trigger",
        "bad-duration",
        "bad-value",
        "bad-toml",
        "unknown-option",
        "bad-value",
    ]


def test_unknown_keys_of_a_rule_are_ignored_with_a_warning(tmp_path: Path) -> None:
    action = '{SetConfig={name="max_ready", value=1, when="x"}}'
    shaping = load(tmp_path, rule(matchinternal="true", action=action))
    assert shown(list(shaping.warnings), tmp_path) == [
        'f0.toml:5: [[default.automation]] rule 1: key "matchinternal" means nothing and is '
        'ignored (did you mean "match_internal"?)',
        'f0.toml:3: [[default.automation]] rule 1: key "when" means nothing and is ignored: '
        "keys are name, value",
    ]


def test_empty_arrays_load(tmp_path: Path) -> None:
    shaping = load(tmp_path, rule(regex="[]", action="[]", duration="0"))
    (only,) = shaping.all_rules()
    assert (only.regexes, only.actions, only.duration_ns) == ((), (), 0)


def test_empty_files_load(tmp_path: Path) -> None:
    shaping = load(tmp_path, "", "# nothing\n", "\ufeff")
    assert shaping.all_rules() == ()
    assert shaping.default is None
    assert shaping.horizon_ns == 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"provider": None}, "[provider]: must be a table, found null"),
        ({"a.com": None}, '"a.com": found null, wanted a table'),
        ({"a.com": {"sources": None}}, '["a.com".sources]: must be a table, found null'),
        ({"a.com": {"automation": None}}, "found null, wanted rules"),
        ({"a.com": {"max_ready": None}}, "found null: leave the key out instead"),
        ({"provider": {"x": {"match": None}}}, "match: found null, wanted an array"),
        ({"a.com": {"max_ready": 2**63}}, "the number 9223372036854775808 is too large"),
    ],
)
def test_null_and_huge_numbers_in_json_are_told(tmp_path: Path, data: Any, message: str) -> None:
    (error,) = shown(errors(tmp_path, json.dumps(data), suffix="json"), tmp_path)
    assert message in error


def test_null_where_upstream_takes_it(tmp_path: Path) -> None:
    provider = {"provider_connection_limit": None, "provider_max_message_rate": None}
    load(tmp_path, json.dumps({"default": None, "provider": {"x": provider}}), suffix="json")


def test_json_repeats_are_errors_where_upstream_knows_the_key(tmp_path: Path) -> None:
    text = '{"default": {"mx_rollup": true,\n"mx_rollup": false},\n"default": {}}'
    assert shown(errors(tmp_path, text, suffix="json"), tmp_path) == [
        'f0.json:2: "default": key "mx_rollup" is there twice: remove one',
        'f0.json:3: key "default" is there twice: remove one',
    ]
    shaping = load(tmp_path, '{"a.com": {"max_ready": 1, "max_ready": 2}}', suffix="json")
    assert shaping.sites["a.com"].options["max_ready"].value == 2
    assert [p.code for p in shaping.warnings] == ["duplicate-key"]


def test_json_with_comments_loads_with_a_warning(tmp_path: Path) -> None:
    shaping = load(tmp_path, '{\n// busy sites\n"default": {"max_ready": 1}}', suffix="json")
    assert shaping.default is not None
    (warning,) = shaping.warnings
    assert (warning.code, warning.line) == ("json-comments", 2)
    assert "kumod itself will refuse this file" in warning.message


def test_what_follows_json_is_ignored_with_a_warning(tmp_path: Path) -> None:
    shaping = load(tmp_path, '{"default": {"max_ready": 1}}\nmore', suffix="json")
    assert [(p.code, p.line) for p in shaping.warnings] == [("json-trailing", 2)]
