"""Finding calls in a policy that can't be run."""

from __future__ import annotations

from typing import Any

import lupa.lua54
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.installation.luascan import Call, calls

NAME = "configure_local_logs"


def fields(source: str) -> Any:
    (call,) = calls(source, NAME)
    return call.fields


def test_the_call_of_kumomtas_own_policy_is_found_with_its_line() -> None:
    source = """local kumo = require 'kumo'
kumo.on('init', function()
  kumo.configure_local_logs {
    log_dir = '/var/log/kumomta',
    -- Flush logs every 10 seconds.
    max_segment_duration = '10s',
  }
end)
"""
    assert calls(source, NAME) == [
        Call(NAME, 3, {"log_dir": "/var/log/kumomta", "max_segment_duration": "10s"})
    ]


@pytest.mark.parametrize(
    "source",
    [
        "kumo.configure_local_logs({ log_dir = '/x' })",
        'kumo.configure_local_logs { ["log_dir"] = "/x"; }',
        "local c = kumo.configure_local_logs\nconfigure_local_logs{log_dir='/x',}",
        "kumo.configure_local_logs { log_dir = [[/x]] }",
        "kumo.configure_local_logs --[==[ ]] ]==] { --\n log_dir = [==[/x]==] }",
        "local DIR = '/x'\nkumo.configure_local_logs { log_dir = DIR }",
        "kumo.configure_local_logs { log_dir = '\\x2fx' }",
        "kumo.configure_local_logs { log_dir = '/x'",
    ],
)
def test_every_way_to_write_the_table_is_read(source: str) -> None:
    assert fields(source) == {"log_dir": "/x"}


@pytest.mark.parametrize(
    "value",
    [
        "base .. '/x'",
        "'/x' .. suffix",
        "os.getenv 'LOG_DIR' or '/x'",
        "(function() local a, b = 1, 2; if a then return '/x', b end end)()",
        "make { log_dir = '/y', 1, 2 }",
        "unknown",
        "-1",
    ],
)
def test_what_is_no_literal_is_left_out_and_the_rest_is_read(value: str) -> None:
    source = f"kumo.configure_local_logs {{ log_dir = {value}, max_file_size = 10, 'last' }}"
    assert fields(source) == {"max_file_size": 10.0, 1: "last"}


def test_a_name_that_is_set_twice_is_not_taken_for_its_text() -> None:
    source = "DIR = '/x'\nDIR = '/y'\nkumo.configure_local_logs { log_dir = DIR }"
    assert fields(source) == {}


def test_tables_in_tables_are_read() -> None:
    source = (
        "configure_local_logs { "
        "per_record = { Bounce = { suffix = '_b' }, Any = { enable = false } } }"
    )
    assert fields(source) == {"per_record": {"Bounce": {"suffix": "_b"}, "Any": {"enable": False}}}


@pytest.mark.parametrize(
    "source",
    [
        "-- kumo.configure_local_logs { log_dir = '/x' }",
        "--[[\nkumo.configure_local_logs { log_dir = '/x' }\n]]",
        "print('kumo.configure_local_logs { log_dir = 1 }')",
        "print([[kumo.configure_local_logs { log_dir = 1 }]])",
        "kumo.configure_local_logs(options)",
        "my_configure_local_logs { log_dir = '/x' }",
        "",
        "\0\xff{{{",
    ],
)
def test_what_is_no_call_with_a_table_is_not_found(source: str) -> None:
    assert calls(source, NAME) == []


def test_a_table_as_deep_as_a_hostile_file_makes_it_ends() -> None:
    assert len(calls("configure_local_logs " + "{" * 100_000, NAME)) == 1


@given(st.text(alphabet="configure_local_logs{}[]()='\"\\-,;. \n1a", max_size=200))
def test_no_text_makes_it_fail(source: str) -> None:
    assert isinstance(calls(source, NAME), list)


def test_only_ascii_digits_make_an_escape_or_a_number() -> None:
    assert fields("x.configure_local_logs { A = '\\31\u1c50' }") == {"A": "\x1f\u1c50"}


VALUES = st.recursive(
    st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=20)
    | st.booleans()
    | st.integers(0, 10**6).map(float),
    lambda inner: st.dictionaries(st.from_regex(r"[A-D][a-z]{0,3}", fullmatch=True), inner),
    max_leaves=10,
)


QUOTE = lupa.lua54.LuaRuntime().eval("function(s) return string.format('%q', s) end")


def _lua(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_lua(v)}" for k, v in value.items()) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return str(QUOTE(value)).replace("\\\n", "\\n")
    return f"{value:g}" if isinstance(value, float) and value < 1e5 else str(value)


@given(st.dictionaries(st.from_regex(r"[A-D][a-z]{0,3}", fullmatch=True), VALUES))
def test_literals_come_out_as_lua_would_read_them(table: dict[str, object]) -> None:
    assert fields(f"x.configure_local_logs {_lua(table)}") == table
