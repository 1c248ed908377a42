"""An error in a policy names its Lua file and line, in one line and without a traceback."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from sidecar.policy import load_policy
from sidecar.policy.lua import run_policy
from sidecar.problems import ProblemError
from tests.policy.conftest import LIMITS, FailPolicy

KUMO = "local kumo = require 'kumo'\n"


@pytest.mark.parametrize(
    ("source", "line", "text"),
    [
        ("local x\n\nx.y = 1", 3, "attempt to index a nil value (local 'x')"),
        ("\nx = ", 2, "unexpected symbol near <eof>"),
        ("--[[\n\n", 3, "unfinished long comment (starting at line 1) near <eof>"),
        ("\nerror 'plain'", 2, "plain"),
        ("\nerror('without place', 0)", 2, "without place"),
        ("local function f() error('blames', 2) end\n\nf()", 3, "blames"),
        ("\nerror { code = 5 }", 2, "the error is a table, not a message"),
        ("\nerror()", 2, "the error is nil, not a message"),
        (
            "\nerror(setmetatable({}, { __tostring = function() return 'own' end }))",
            2,
            "own",
        ),
        ("\nlocal c = coroutine.wrap(function()\nerror 'inside' end)\nc()", 3, "inside"),
        ("local ok, e = pcall(function()\nerror 'once' end)\n\nerror(e, 0)", 2, "once"),
        ("\nos.exit(0)", 2, "os.exit is refused: a policy must not end the sidecar"),
        ("kumo.on('x')", 1, "attempt to index a nil value (global 'kumo')"),
        (KUMO + "kumo.on('x')", 2, "kumo.on takes an event's name and a function"),
        (KUMO + "kumo.memoize(1)", 2, "kumo.memoize takes a function and a table"),
        (KUMO + "kumo.json_encode(print)", 2, "json_encode: only text, numbers, booleans and"),
        (KUMO + "kumo.json_parse '{'", 2, "json_parse: Expecting property name"),
        (KUMO + "kumo.json_load '/no/such'", 2, "/no/such: No such file or directory"),
        (KUMO + "kumo.json_load {}", 2, "json_load: the file name must be a string"),
        (KUMO + "kumo.toml_encode { 1 }", 2, "toml_encode: TOML can only be made of a table"),
        (KUMO + "kumo.string.split('a', '')", 2, "the separator must not be empty"),
        (KUMO + "kumo.string.split 'a'", 2, "takes text, text"),
        (KUMO + "kumo.shaping.load 'one'", 2, "kumo.shaping.load takes a list of files"),
        (KUMO + "kumo.shaping.load { 5 }", 2, "kumo.shaping.load: must be text, not a number"),
        (KUMO + "kumo.dns.set_mx_timeout '2 huors'", 2, 'duration "2 huors": unknown unit'),
        (KUMO + "kumo.dns.configure_resolver { name_server = {} }", 2, 'did you mean "name_ser'),
        (KUMO + "kumo.dns.configure_resolver { name_servers = { 'x' } }", 2, '"x" is not HOST'),
        (KUMO + "kumo.dns.set_mx_concurrency_limit(0)", 2, "whole number of at least 1"),
        (KUMO + "kumo.dns.set_mta_sts_enabled(0)", 2, "takes true or false"),
        (KUMO + "kumo.dns.configure_resolver(5)", 2, "must be a table such as { name_servers"),
        (KUMO + "kumo.dns.configure_resolver { Hickory = 5 }", 2, "a table with name_servers"),
        (KUMO + "kumo.dns.configure_resolver { options = 5 }", 2, "options must be a table"),
        (KUMO + "kumo.dns.configure_resolver { name_servers = 5 }", 2, "must be a list"),
        (KUMO + "kumo.dns.configure_resolver { name_servers = { 5 } }", 2, "'IP:PORT' or a tab"),
        (
            KUMO
            + "kumo.dns.configure_resolver { name_servers = { { socket_addr = '::1', x = 1 } } }",
            2,
            'name_servers: "x" is not known',
        ),
        (KUMO + "kumo.dns.configure_test_resolver { 5 }", 2, "must be the text of a master file"),
        (KUMO + "kumo.dns.load_resolv_conf(5)", 2, "the file name must be a string"),
        (KUMO + "kumo.json_parse((' '):rep(5e6))", 2, "longer than 4 MiB"),
        (KUMO + "kumo.toml_encode { a = print }", 2, "toml_encode: only text, numbers"),
        (KUMO + "kumo.json_encode_pretty { 1, a = 2 }", 2, "names or numbers as keys, not both"),
        ("require('tsa').start_http_listener { port = 1 }", 1, '"port" is not known'),
        ("require('tsa').start_http_listener { listen = 'x' }", 1, 'listen: "x" is not HOST'),
        ("require('tsa').start_http_listener 'x'", 1, "tsa.start_http_listener takes a table"),
        ("require('tsa').configure_tsa_db_path()", 1, "takes a file name"),
        ("require('sidecar').configure { log_dri = 'x' }", 1, 'did you mean "log_dir"?'),
        ("require('sidecar').configure { policy = 'x' }", 1, '"policy" is not known'),
        ("require('sidecar').configure { log_dir = 5 }", 1, "log_dir: must be text, not a num"),
        ("require('sidecar').configure { state = print }", 1, "state: must be text, not a val"),
        (
            "require('sidecar').configure { skip_record_types = { 'Recption' } }",
            1,
            'did you mean "Reception"?',
        ),
        ("require('sidecar').confgure {}", 1, "attempt to call a nil value (field 'confgure')"),
    ],
)
def test_the_line_is_named(
    fail: FailPolicy, policy_file: Path, source: str, line: int, text: str
) -> None:
    problem = fail(source).problems[0]
    assert (problem.level, problem.code) == ("error", "policy-error")
    assert (problem.file, problem.line) == (str(policy_file), line)
    assert text in problem.message
    for leak in ("\n", "traceback", "sidecar:", ".py", "<", str(policy_file)):
        assert leak not in problem.message.replace("<eof>", "")


def test_memoize_wants_what_upstream_wants(fail: FailPolicy) -> None:
    call = KUMO + "kumo.memoize(print, {})"
    assert "name is missing" in fail(call.format("{}")).problems[0].message
    extra = KUMO + "kumo.memoize(print, { name = 'a', ttl = '1s', capacity = 1, tll = 2 })"
    assert 'did you mean "ttl"?' in fail(extra).problems[0].message
    bad = KUMO + "kumo.memoize(print, { name = 'a', ttl = '2 huors', capacity = 1 })"
    assert 'kumo.memoize: ttl: duration "2 huors"' in fail(bad).problems[0].message


def test_merge_options_are_checked_where_they_stand(fail: FailPolicy) -> None:
    handler = (
        "\nkumo.on('tsa_load_shaping_data', function()\n  local s = kumo.shaping.load({}, %s)\nend)"
    )
    for options, text in (
        ("{ dns_fial = 'Warn' }", 'did you mean "dns_fail"?'),
        ("{ dns_fail = 'warn' }", 'did you mean "Warn"?'),
        ("{ skip_remote = 'maybe' }", "skip_remote"),
        ("{ http_timeout = '0s' }", "http_timeout: must be longer than nothing"),
    ):
        problem = fail(KUMO + handler % options).problems[0]
        assert text in problem.message
        assert problem.line == 4


def test_a_handler_must_return_a_shaping_object(fail: FailPolicy) -> None:
    for value in ("nil", "{}", "'a.toml'"):
        source = KUMO + f"\nkumo.on('tsa_load_shaping_data', function() return {value} end)"
        problem = fail(source).problems[0]
        assert problem.line == 3
        assert "must return what kumo.shaping.load returned" in problem.message


def test_an_event_has_one_handler_as_upstream(fail: FailPolicy, policy_file: Path) -> None:
    source = KUMO + "kumo.on('tsa_init', print)\nkumo.on('tsa_init', print)"
    problem = fail(source).problems[0]
    assert problem.line == 3
    assert problem.message == f"the event tsa_init already has a handler, at {policy_file}:2"


def test_handlers_are_not_registered_inside_handlers(fail: FailPolicy) -> None:
    source = KUMO + "kumo.on('tsa_init', function()\n  kumo.on('x', print)\nend)"
    assert fail(source).problems[0].line == 3


def test_an_error_behind_a_tail_call_is_placed_at_its_handler(fail: FailPolicy) -> None:
    source = KUMO + "kumo.on('tsa_init', function()\n  return kumo.json_parse '{'\nend)"
    assert fail(source).problems[0].line == 2


def test_an_error_in_a_module_names_the_module(
    fail: FailPolicy, policy_file: Path, tmp_path: Path
) -> None:
    deep = tmp_path / ("long" * 20)
    deep.mkdir()
    module = deep / "mine.lua"
    path = f"package.path = '{deep}/?.lua'\n"
    module.write_text("local x\nx()")
    problem = fail(path + "require 'mine'").problems[0]
    assert (problem.file, problem.line) == (str(module), 2)
    module.write_text("\n\nlocal = 1")
    problem = fail(path + "require 'mine'").problems[0]
    assert (problem.file, problem.line) == (str(module), 3)
    assert problem.message == "<name> expected near '='"
    problem = fail(path + "require 'none'").problems[0]
    assert (problem.file, problem.line) == (str(policy_file), 2)
    assert "module 'none' not found" in problem.message


def test_warnings_so_far_come_with_the_error(fail: FailPolicy) -> None:
    error = fail(KUMO + "local client = kumo.http.build_client {}\nclient:get 'x'")
    assert [(p.level, p.line) for p in error.problems] == [("error", 3), ("warning", 2)]


def test_bytecode_is_not_run(fail: FailPolicy) -> None:
    assert "binary chunk" in fail(b"\x1bLua").problems[0].message


def test_a_policy_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.lua", tmp_path):
        with pytest.raises(ProblemError) as caught:
            load_policy(path, env={})
        assert str(caught.value).startswith(f"{path}: can't be read: ")
        assert "--policy" in str(caught.value)


def test_recursion_without_end_is_an_error(fail: FailPolicy) -> None:
    problem = fail("local function f()\n  return 1 + f()\nend\nf()").problems[0]
    assert problem.line == 2


def test_yaml_without_pyyaml_says_what_to_install(
    policy_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    policy_file.write_text(KUMO + "kumo.serde.yaml_parse 'a: 1'")
    with pytest.raises(ProblemError, match="pip install pyyaml"):
        run_policy(policy_file, env={}, limits=LIMITS)


def test_yaml_is_read_where_pyyaml_is(policy_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = ModuleType("yaml")
    stand_in.__dict__.update(
        YAMLError=type("YAMLError", (Exception,), {}),
        safe_load=lambda text: {"read": text},
        safe_dump=lambda value, **_: f"wrote {value['a']}",
    )
    monkeypatch.setitem(sys.modules, "yaml", stand_in)
    policy_file.write_text(
        KUMO
        + "print(kumo.serde.yaml_parse('a: 1').read)\nprint(kumo.serde.yaml_encode { a = 'b' })"
    )
    answer = run_policy(policy_file, env={}, limits=LIMITS)
    assert [m.text for m in answer.messages] == ["a: 1", "wrote b"]
