"""A policy can neither reach Python, nor hang the service, nor take its memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.policy import Limits, load_policy
from sidecar.problems import ProblemError
from tests.policy.conftest import FailPolicy, RunPolicy

WALK = """
local seen, queue, found = {}, { _G, package.loaded, '' }, {}
while #queue > 0 do
  local value = table.remove(queue)
  if not seen[value] then
    seen[value] = true
    local kind = type(value)
    if kind == 'userdata' and io.type(value) == nil then
      found[#found + 1] = tostring(value)
    end
    local meta = getmetatable(value)
    if meta ~= nil then queue[#queue + 1] = meta end
    if kind == 'table' then
      for k, v in next, value do
        queue[#queue + 1] = k
        queue[#queue + 1] = v
      end
    end
  end
end
print(#found, seen[require 'kumo'] and seen[require('sidecar').configure])
"""


def test_nothing_of_python_is_reachable(run: RunPolicy) -> None:
    assert run(WALK).messages[0].text == "0 true"


def test_the_ways_out_of_lua_are_gone(run: RunPolicy) -> None:
    policy = run("""
        print(python, debug, package.loadlib, package.loaded.python, package.loaded.debug)
        print(pcall(require, 'debug') or pcall(require, 'python'), #package.searchers)
        print((load(string.dump(function() end))))
        print((load('return 1', 'x', 'b')))
    """)
    lines = [m.text for m in policy.messages]
    assert lines[0] == "nil nil nil nil nil"
    assert lines[1] == "false 2"
    assert lines[2] == "nil"
    assert lines[3].startswith("function: ")  # as text, whatever the mode


def test_errors_of_callbacks_are_plain_text(run: RunPolicy) -> None:
    policy = run("""
        local kumo = require 'kumo'
        for _, call in ipairs {
          function() kumo.json_parse '{' end,
          function() kumo.toml_load '/no/such/file' end,
          function() kumo.glob(function() end) end,
          function() kumo.json_encode_pretty { 1, a = 2 } end,
          function() kumo.read_dir '\\0' end,
          function() kumo.json_parse '"\\\\ud800"' end,
          function() require('sidecar').configure { log_dir = io.stdout } end,
          function() local t = {} t.t = t kumo.json_encode(t) end,
          function() local t = {} for _ = 1, 40 do t = { t, t } end kumo.json_encode(t) end,
        } do
          local ok, err = pcall(call)
          print(ok, type(err), getmetatable(err).__name)
        end
    """)
    assert [m.text for m in policy.messages] == ["false string nil"] * 9


def test_handlers_of_xpcall_get_plain_text(run: RunPolicy) -> None:
    policy = run("""
        local kumo = require 'kumo'
        print(xpcall(kumo.json_parse, function(err) return type(err) end, '{'))
    """)
    assert policy.messages[0].text == "false string"


LOOPS = [
    "while true do end",
    "repeat until pcall(error, 'x') == nil",
    "while true do pcall(function() while true do end end) end",
    "while true do xpcall(function() while true do end end, print) end",
    "xpcall(function() while true do end end, function() while true do end end)",
    "xpcall(error, function() while true do end end)",
    "coroutine.wrap(function() while true do end end)()",
    "while true do pcall(coroutine.wrap(function() while true do end end)) end",
    "local c = coroutine.create(function() while true do end end) "
    "while true do coroutine.resume(c) end",
    "coroutine.wrap(function() coroutine.wrap(function() while true do end end)() end)()",
    "load(function() while true do end end)",
    "table.sort({ 1, 2, 3 }, function() while true do end end)",
    "('x'):gsub('x', function() while true do end end)",
    "tostring(setmetatable({}, { __tostring = function() while true do end end }))",
    "error(setmetatable({}, { __tostring = function() while true do end end }))",
    "local function f() return f() end f()",
    "for i = 1, math.huge do end",
    "::again:: goto again",
    "require('kumo').on('tsa_init', function() while true do end end)",
    "require('kumo').on('tsa_load_shaping_data', function() while true do end end)",
]


@pytest.mark.parametrize("loop", LOOPS)
def test_an_endless_loop_ends_in_an_error(fail: FailPolicy, policy_file: Path, loop: str) -> None:
    problem = fail("\n" + loop).problems[0]
    assert problem.code in ("policy-endless", "policy-error")
    assert (problem.file, problem.line) == (str(policy_file), 2)


def test_the_message_asks_for_the_loop(fail: FailPolicy) -> None:
    assert fail("while true do end").problems[0].message == (
        "the policy ran for 20,000,000 Lua instructions without coming to an end; "
        "is there an endless loop?"
    )


def test_finalizers_are_not_run_where_nothing_could_stop_them(run: RunPolicy) -> None:
    policy = run("""
        local meta = { __gc = function() while true do end end, __index = { a = 1 } }
        print(setmetatable({}, meta).a, getmetatable(setmetatable({}, meta)) == meta)
        collectgarbage()
        print 'still here'
    """)
    assert [m.text for m in policy.messages] == ["1 true", "still here"]


HOGS = [
    "local t = {} while true do t[#t + 1] = ('x'):rep(1000) .. #t end",
    "return ('x'):rep(1e9)",
    "local s = 'x' while true do s = s .. s end",
    "local t = {} while true do t[#t + 1] = coroutine.create(print) end",
    "keep = {} while true do pcall(function() while true do keep[#keep + 1] = {} end end) end",
    "local parse = require('kumo').json_parse keep = {} "
    "while true do pcall(function() while true do keep[#keep + 1] = parse '[1,2,3]' end end) end",
    "local big = ('x'):rep(90e6) require('kumo').json_parse '[]'",
]


@pytest.mark.parametrize("hog", HOGS)
def test_memory_has_an_end(fail: FailPolicy, hog: str) -> None:
    problem = fail(hog).problems[0]
    assert problem.code == "policy-memory"
    assert problem.message == "the policy took more than 32 MiB of memory"


def test_the_limits_leave_room_for_real_work(policy_file: Path) -> None:
    policy_file.write_text("""
        local t = {}
        for i = 1, 200000 do t[i] = { name = 'host' .. i } end
        table.sort(t, function(a, b) return a.name < b.name end)
        print(#t)
    """)
    assert load_policy(policy_file, env={}).messages[0].text == "200000"


def test_commands_of_the_policys_own_are_allowed_as_upstream(run: RunPolicy) -> None:
    policy = run(
        """
        local pipe = io.popen 'echo 10.0.0.0/8; echo $NET'
        for line in pipe:lines() do print(line) end
        print(pipe:close())
        print(os.execute(), os.execute 'true')
        print(os.execute 'exit 3')
        print(os.execute 'kill -9 $$')
        """,
        NET="fd00::/8",
    )
    assert [m.text for m in policy.messages] == [
        "10.0.0.0/8",
        "fd00::/8",
        "true",
        "true true exit 0",
        "nil exit 3",
        "nil signal 9",
    ]


def test_a_command_that_hangs_is_an_error(policy_file: Path) -> None:
    limits = Limits(command_seconds=0.05)
    for call in ("io.popen 'exec sleep 60'", "os.execute 'exec sleep 60'"):
        policy_file.write_text(call)
        with pytest.raises(ProblemError) as caught:
            load_policy(policy_file, env={}, limits=limits)
        assert "`exec sleep 60` took longer than 0.05 seconds" in str(caught.value)


def test_pipes_to_a_command_are_refused(fail: FailPolicy) -> None:
    assert "io.popen can only read" in fail("io.popen('cat', 'w')").problems[0].message


def test_the_environment_is_the_one_that_was_given(
    run: RunPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TSA_TEST_SECRET", "x")
    assert (
        run("print(os.getenv 'TSA_TEST_SECRET', os.getenv 'A')", A="b").messages[0].text == "nil b"
    )


def test_limits_are_per_load(policy_file: Path) -> None:
    policy_file.write_text("for i = 1, 2000000 do end")
    limits = Limits(instructions=5_000_000)
    for _ in range(5):
        assert load_policy(policy_file, env={}, limits=limits).warnings == ()
