"""What upstream's policy files say is understood, and what means nothing here is a warning."""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path

import pytest

from sidecar.log.record import SKIPPED_TYPES
from sidecar.policy import LogLine
from sidecar.policy.lua import run_policy
from sidecar.problems import ProblemError
from sidecar.settings import Address, Retention
from sidecar.times import NS
from tests.policy.conftest import LIMITS, RunPolicy

PACKAGED = """local tsa = require 'tsa'
local kumo = require 'kumo'

kumo.on('tsa_init', function()
  tsa.start_http_listener {
    listen = '0.0.0.0:8008',
    trusted_hosts = { '127.0.0.1', '::1', '192.168.1.0/24' },
  }
end)

local load_cached = kumo.memoize(kumo.shaping.load, {
  name = 'tsa_load_shaping_data',
  ttl = '5 minutes',
  capacity = 4,
})

kumo.on('tsa_load_shaping_data', function()
  local shaping = load_cached {
    '/opt/kumomta/share/policy-extras/shaping.toml',
    'https://example.com/shaping.toml',
  }
  return shaping
end)
"""


def warned(policy_warnings: object) -> list[tuple[str, int | None]]:
    assert isinstance(policy_warnings, tuple)
    return [(p.code, p.line) for p in policy_warnings]


def test_the_packaged_policy_says_where_to_listen_and_what_to_load(run: RunPolicy) -> None:
    policy = run(PACKAGED)
    assert policy.value("listen") == Address("0.0.0.0", 8008)
    assert policy.value("trusted_hosts") == tuple(
        map(ipaddress.ip_network, ("127.0.0.1/32", "::1/128", "192.168.1.0/24"))
    )
    assert policy.value("shaping") == (
        "/opt/kumomta/share/policy-extras/shaping.toml",
        "https://example.com/shaping.toml",
    )
    assert policy.value("ttl") == 300 * NS
    assert policy.value("merge_options") is None
    assert policy.warnings == ()
    assert policy.messages == ()
    assert policy.files == (policy.path,)


def test_each_value_knows_its_line(run: RunPolicy, policy_file: Path) -> None:
    policy = run(PACKAGED)
    assert policy.values["listen"].position == f"{policy_file}:5"
    assert policy.values["shaping"].position == f"{policy_file}:18"


def test_load_may_be_called_directly_with_options(run: RunPolicy) -> None:
    policy = run("""
        local kumo = require 'kumo'
        kumo.on('tsa_load_shaping_data', function()
          return kumo.shaping.load({ 'a.toml' }, {
            dns_fail = 'Warn', skip_remote = true, http_timeout = '1m', local_load = 'Ignore',
          })
        end)
    """)
    assert policy.value("shaping") == ("a.toml",)
    assert policy.value("ttl") is None
    assert dict(policy.value("merge_options")) == {
        "dns_fail": "Warn",
        "skip_remote": True,
        "http_timeout": 60 * NS,
        "local_load": "Ignore",
    }


def test_memoize_may_wrap_a_function_of_ones_own(run: RunPolicy) -> None:
    policy = run("""
        local kumo = require 'kumo'
        local load = kumo.memoize(function(name)
          return kumo.shaping.load { '/etc/' .. name .. '.toml' }
        end, { name = 'mine', ttl = 90, capacity = 1 })
        kumo.on('tsa_load_shaping_data', function()
          return load 'mail'
        end)
    """)
    assert policy.value("shaping") == ("/etc/mail.toml",)
    assert policy.value("ttl") == 90 * NS


def test_only_the_shaping_that_the_handler_returns_counts(run: RunPolicy) -> None:
    policy = run("""
        local kumo = require 'kumo'
        local first = kumo.shaping.load { 'first.toml' }
        local second = kumo.shaping.load({ 'second.toml' }, { null_mx = 'Error' })
        kumo.on('tsa_load_shaping_data', function()
          assert(#first:get_errors() == 0 and #second:get_warnings() == 0)
          return first
        end)
    """)
    assert policy.value("shaping") == ("first.toml",)
    assert policy.value("merge_options") is None


def test_files_may_depend_on_the_environment_and_on_the_host(run: RunPolicy) -> None:
    source = """
        local kumo = require 'kumo'
        kumo.on('tsa_load_shaping_data', function()
          local files = { 'base.toml' }
          if (os.getenv 'HOSTNAME' or ''):match '^mx%d' then
            table.insert(files, os.getenv 'HOSTNAME' .. '.toml')
          end
          return kumo.shaping.load(files)
        end)
    """
    assert run(source, HOSTNAME="mx1").value("shaping") == ("base.toml", "mx1.toml")
    assert run(source, HOSTNAME="web1").value("shaping") == ("base.toml",)
    assert run(source).value("shaping") == ("base.toml",)


def test_a_policy_without_a_shaping_event_names_no_files(run: RunPolicy) -> None:
    policy = run("local kumo = require 'kumo'")
    assert policy.value("shaping") is None
    assert policy.values == {}
    assert policy.value("listen") is None


def test_shaping_is_loaded_before_tsa_init_runs(run: RunPolicy) -> None:
    policy = run("""
        local kumo = require 'kumo'
        kumo.on('tsa_init', function() print 'init' end)
        kumo.on('tsa_load_shaping_data', function()
          print 'load'
          return kumo.shaping.load {}
        end)
        print 'file'
    """)
    assert [m.text for m in policy.messages] == ["file", "load", "init"]


def test_log_lines_come_with_level_and_line(run: RunPolicy, policy_file: Path) -> None:
    policy = run("""
        local kumo = require 'kumo'
        kumo.log_error('no', 1, nil, true)
        kumo.log_warn 'hm'
        kumo.log_info 'so'
        kumo.log_debug 'why'
        print(1, 'b')
    """)
    file = str(policy_file)
    assert policy.messages == (
        LogLine("error", "no 1 nil true", file, 2),
        LogLine("warn", "hm", file, 3),
        LogLine("info", "so", file, 4),
        LogLine("debug", "why", file, 5),
        LogLine("info", "1 b", file, 6),
    )


def test_bytes_that_are_not_utf8_are_shown_escaped(run: RunPolicy) -> None:
    policy = run(b"print('\xff\xc3\xa9')")
    assert policy.messages[0].text == "\\xffé"


# What can't mean anything


def test_unknown_functions_warn_with_their_line_and_return_nil(
    run: RunPolicy, policy_file: Path
) -> None:
    policy = run("""
        local kumo = require 'kumo'
        local redis = require 'redis'
        kumo.set_max_spare_lua_contexts(10)
        for _ = 1, 3 do
          kumo.aaa.configure_acct_log {}
        end
        print(redis.open { node = 'x' }, require('tsa').no_such())
    """)
    assert [str(p) for p in policy.warnings] == [
        f"{policy_file}:3: kumo.set_max_spare_lua_contexts does nothing in the sidecar "
        "and returned nil",
        f"{policy_file}:5: kumo.aaa.configure_acct_log does nothing in the sidecar "
        "and returned nil",
        f"{policy_file}:7: redis.open does nothing in the sidecar and returned nil",
        f"{policy_file}:7: tsa.no_such does nothing in the sidecar and returned nil",
    ]
    assert {p.level for p in policy.warnings} == {"warning"}
    assert policy.messages[0].text == "nil nil"


def test_other_events_warn_and_are_not_run(run: RunPolicy) -> None:
    policy = run("""
        local kumo = require 'kumo'
        kumo.on('init', function() error 'never' end)
        kumo.on('init', function() error 'never' end)
        kumo.on('tsa_load_shaping', function() error 'never' end)
    """)
    assert warned(policy.warnings) == [("unsupported-event", n) for n in (2, 3, 4)]
    assert 'did you mean "tsa_load_shaping_data"?' in policy.warnings[2].message


def test_the_daemons_database_is_only_remembered(run: RunPolicy) -> None:
    policy = run("""
        local kumo = require 'kumo'
        kumo.on('tsa_init', function()
          require('tsa').configure_tsa_db_path '/var/spool/kumomta/tsa.db'
        end)
    """)
    assert policy.tsa_db_path == "/var/spool/kumomta/tsa.db"
    assert warned(policy.warnings) == [("unsupported-call", 3)]
    assert "state import /var/spool/kumomta/tsa.db" in policy.warnings[0].message


def test_the_first_listener_without_tls_is_the_one(run: RunPolicy) -> None:
    policy = run("""
        local tsa = require 'tsa'
        tsa.start_http_listener { listen = '0.0.0.0:8443', use_tls = true }
        tsa.start_http_listener { listen = '[::1]:8008', hostname = 'mx.example.com' }
        tsa.start_http_listener { listen = '127.0.0.1:8009' }
    """)
    assert policy.value("listen") == Address("::1", 8008)
    assert policy.value("trusted_hosts") is None
    assert warned(policy.warnings) == [
        ("unsupported-listener", 2),
        ("unsupported-option", 3),
        ("unsupported-listener", 4),
    ]


def test_a_listener_without_an_address_has_upstreams(run: RunPolicy) -> None:
    assert run("require('tsa').start_http_listener {}").value("listen") == Address(
        "127.0.0.1", 8000
    )


def test_a_module_of_kumomta_that_is_not_installed_is_a_warning(run: RunPolicy) -> None:
    policy = run("""
        local extras = require 'policy-extras.not_installed_here'
        extras.setup {}
    """)
    assert warned(policy.warnings) == [("no-module", 1), ("unsupported-call", 2)]


# DNS


def test_name_servers_and_limits_of_dns_are_honoured(run: RunPolicy) -> None:
    policy = run("""
        local kumo = require 'kumo'
        kumo.dns.configure_resolver {
          name_servers = { '10.0.0.1:5353', { socket_addr = '[::1]:53', protocol = 'tcp' } },
          options = { timeout = '2s', attempts = 3, ndots = 1 },
        }
        kumo.dns.set_mx_timeout '7s'
        kumo.dns.set_mx_concurrency_limit(12)
        kumo.dns.set_mx_negative_cache_ttl(30)
        kumo.dns.set_mta_sts_enabled(false)
    """)
    assert policy.value("nameservers") == ("10.0.0.1:5353", "[::1]:53")
    assert (policy.dns.timeout_ns, policy.dns.attempts) == (2 * NS, 3)
    assert policy.dns.mx_timeout_ns == 7 * NS
    assert policy.dns.mx_concurrency == 12
    assert policy.dns.mx_negative_ttl_ns == 30 * NS
    assert not policy.dns.mta_sts
    assert [p.message.split()[1] for p in policy.warnings] == ["protocol", "options.ndots"]


@pytest.mark.parametrize(
    ("call", "zones", "system"),
    [
        ("configure_test_resolver { 'zone one', { zone = 'zone two' } }", 2, False),
        ("configure_resolver { Test = { zones = { 'zone one' } } }", 1, False),
        ("configure_resolver 'HickorySystemConfig'", 0, True),
        (
            "configure_resolver { Aggregate = { { Test = { zones = { 'z' } } }, "
            "'HickorySystemConfig' } }",
            1,
            True,
        ),
        (
            "configure_resolver { Aggregate = { Test = { zones = { 'z' } }, "
            "'HickorySystemConfig' } }",
            1,
            True,
        ),
        ("configure_resolver { Hickory = { name_servers = { '10.1.1.1:53' } } }", 0, False),
        ("configure_unbound_resolver { name_servers = { '10.1.1.1:53' } }", 0, False),
    ],
)
def test_the_forms_of_a_resolver(run: RunPolicy, call: str, zones: int, system: bool) -> None:
    policy = run(f"require('kumo').dns.{call}")
    assert len(policy.dns.zones) == zones
    assert policy.dns.system is system
    assert (policy.value("nameservers") is not None) is ("10.1.1.1" in call)
    assert policy.warnings == ()


def test_resolv_conf_is_handed_to_the_policy(run: RunPolicy, tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("search example.com\nnameserver 10.0.0.7\nnameserver fd00::1\noptions x\n")
    policy = run(f"""
        local kumo = require 'kumo'
        local config = kumo.dns.load_resolv_conf '{conf}'
        config.options.timeout = 4
        kumo.dns.configure_resolver(config)
    """)
    assert policy.value("nameservers") == ("10.0.0.7:53", "[fd00::1]:53")
    assert policy.dns.timeout_ns == 4 * NS


# The sidecar's own module


def test_sidecar_configure_sets_what_only_the_sidecar_has(
    run: RunPolicy, policy_file: Path
) -> None:
    policy = run("""
        local ok, sidecar = pcall(require, 'sidecar')
        if ok then
          sidecar.configure {
            log_dir = '/var/log/kumomta-fast',
            pattern = '2*',
            overlay = '/o.toml',
            state = '/s.db',
            skip_record_types = { 'Reception', 'OOB' },
            kumod_api = 'http://127.0.0.1:8000/',
            retention = '2 GB',
            from = 'end',
            poll = 0.5,
          }
          sidecar.configure { retention = '7 days', listen = false }
        end
    """)
    assert policy.value("log_dir") == Path("/var/log/kumomta-fast")
    assert policy.value("pattern") == "2*"
    assert policy.value("overlay") == Path("/o.toml")
    assert policy.value("state") == Path("/s.db")
    assert policy.value("skip_record_types") == {"Reception", "OOB"}
    assert policy.value("kumod_api") == "http://127.0.0.1:8000"
    assert policy.value("retention") == Retention(age_ns=7 * 86400 * NS)
    assert policy.value("from") == "end"
    assert policy.value("poll") == 0.5
    assert policy.values["state"].position == f"{policy_file}:3"
    assert policy.values["retention"].line == 14
    assert "listen" in policy.values
    assert policy.value("listen") is None


def test_sidecar_configure_wins_over_kumomtas_own_calls(run: RunPolicy) -> None:
    policy = run(PACKAGED + "require('sidecar').configure { listen = '127.0.0.1:9', ttl = '1h' }")
    assert policy.value("listen") == Address("127.0.0.1", 9)
    assert policy.value("ttl") == 3600 * NS
    assert policy.value("shaping")[1] == "https://example.com/shaping.toml"


@pytest.mark.parametrize("empty", ["{}", "''"])
def test_no_record_type_need_be_skipped(run: RunPolicy, empty: str) -> None:
    policy = run(f"require('sidecar').configure {{ skip_record_types = {empty} }}")
    assert policy.value("skip_record_types") == frozenset()
    assert SKIPPED_TYPES


# Modules and KumoMTA's helpers


def test_modules_of_ones_own_are_found_and_watched(run: RunPolicy, tmp_path: Path) -> None:
    (tmp_path / "lib" / "site").mkdir(parents=True)
    module = tmp_path / "lib" / "site" / "files.lua"
    module.write_text("return { ... , 'b.toml' }")
    beside = tmp_path / "beside.lua"
    beside.write_text("return 'c.toml'")
    extra = tmp_path / "extra.lua"
    extra.write_text("return 'd.toml'")
    policy = run(f"""
        package.path = '{tmp_path}/lib/?.lua;' .. package.path
        local kumo = require 'kumo'
        local files = require 'site.files'
        assert(require 'site.files' == files)
        table.insert(files, (require 'beside'))
        table.insert(files, dofile '{extra}')
        table.insert(files, loadfile('{extra}')())
        kumo.on('tsa_load_shaping_data', function() return kumo.shaping.load(files) end)
    """)
    assert policy.value("shaping") == ("site.files", "b.toml", "c.toml", "d.toml", "d.toml")
    assert policy.files == (policy.path, module, beside, extra)


def test_modules_installed_with_kumomta_are_searched_first(run: RunPolicy) -> None:
    path = run("print(package.path)").messages[0].text.split(";")
    assert path[:4] == [
        "/opt/kumomta/share/?.lua",
        "/opt/kumomta/share/?/init.lua",
        "/opt/kumomta/etc/policy/?.lua",
        "/opt/kumomta/etc/policy/?/init.lua",
    ]


def test_data_files_are_read_and_watched(run: RunPolicy, tmp_path: Path) -> None:
    json_file = tmp_path / "hosts.json"
    json_file.write_text('{ "hosts": ["::1"], // ours\n "url": "http://x/" /* yes */ }')
    toml_file = tmp_path / "hosts.toml"
    toml_file.write_text('hosts = ["10.0.0.0/8"]\nsince = 2026-01-02\n')
    policy = run(f"""
        local kumo = require 'kumo'
        local a = kumo.serde.json_load '{json_file}'
        local b = kumo.toml_load '{toml_file}'
        require('tsa').start_http_listener {{ trusted_hosts = {{ a.hosts[1], b.hosts[1] }} }}
        print(a.url, b.since)
    """)
    assert policy.value("trusted_hosts") == tuple(map(ipaddress.ip_network, ("::1", "10.0.0.0/8")))
    assert policy.messages[0].text == "http://x/ 2026-01-02"
    assert policy.files[1:] == (json_file, toml_file)


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("kumo.serde.json_encode { a = { 1, 2.5, true }, }", '{"a":[1,2.5,true]}'),
        ("kumo.json_encode {}", "{}"),
        ("kumo.json_encode_pretty { b = 1, a = 'é' }", '{\n  "a": "é",\n  "b": 1\n}'),
        ("kumo.json_parse('[null, 7]')[2]", "7"),
        ("kumo.json_parse '99999999999999999999'", "1e+20"),
        ("kumo.serde.toml_encode { a = 'x' }", 'a = "x"\n'),
        ("kumo.toml_parse('a.b = 0.5').a.b", "0.5"),
        ("kumo.string.split('a,b', ',')[2]", "b"),
        ("kumo.string.rsplit('a,b', ',')[2]", "a"),
        ("kumo.string.trim '  x '", "x"),
        ("kumo.string.starts_with('mx1', 'mx')", "true"),
        ("kumo.string.replacen('aaa', 'a', 'b', 2)", "bba"),
        ("#kumo.string.split_whitespace ' a  b '", "2"),
        ("kumo.version >= '2024'", "true"),
        ("os.setlocale()", "C"),
        ("tostring(kumo.redis.open)", "kumo.redis.open"),
    ],
)
def test_helpers_answer_as_kumomtas_do(run: RunPolicy, expression: str, text: str) -> None:
    policy = run(f"local kumo = require 'kumo' print({expression})")
    assert policy.messages[0].text == text
    assert policy.warnings == ()


def test_files_are_found_by_glob_in_order(run: RunPolicy, tmp_path: Path) -> None:
    folder = tmp_path / "shaping.d"
    folder.mkdir()
    for name in ("20.toml", "10.toml", "x.txt"):
        (folder / name).write_text("")
    policy = run(f"""
        local kumo = require 'kumo'
        local names = kumo.glob('{folder}/*.toml', '{folder}')
        print(table.concat(names, ' '), #kumo.fs.read_dir '{folder}')
        kumo.on('tsa_load_shaping_data', function()
          return kumo.shaping.load(kumo.fs.glob '{folder}/*.toml')
        end)
    """)
    assert policy.value("shaping") == (f"{folder}/10.toml", f"{folder}/20.toml")
    assert policy.messages[0].text == "10.toml 20.toml 3"


def test_coroutines_work_as_ever(run: RunPolicy) -> None:
    policy = run("""
        local co = coroutine.create(function(a)
          local b = coroutine.yield(a + 1)
          return b * 2
        end)
        print(coroutine.resume(co, 1))
        print(coroutine.resume(co, 4))
        print(coroutine.resume(co))
        for n in coroutine.wrap(function() for i = 1, 2 do coroutine.yield(i) end end) do
          print(n)
        end
        print(select(2, pcall(coroutine.wrap(function() error('inside', 0) end))))
    """)
    assert [m.text for m in policy.messages] == [
        "true 2",
        "true 8",
        "false cannot resume dead coroutine",
        "1",
        "2",
        "inside",
    ]


def test_a_policy_is_run_afresh_each_time(run: RunPolicy) -> None:
    source = "count = (count or 0) + 1 print(count)"
    assert [run(source).messages[0].text for _ in range(2)] == ["1", "1"]


@pytest.mark.parametrize("missing", [(), ("lua54",), ("lua54", "lua55")])
def test_the_nearest_lua_that_lupa_brings_will_do(
    policy_file: Path, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]
) -> None:
    for name in missing:
        monkeypatch.setitem(sys.modules, f"lupa.{name}", None)
    policy_file.write_text(PACKAGED + "print(_VERSION)")
    answer = run_policy(policy_file, env={}, limits=LIMITS)
    assert answer.values["listen"].value == "0.0.0.0:8008"
    versions = {(): "Lua 5.4", ("lua54",): "Lua 5.5", ("lua54", "lua55"): "Lua 5.3"}
    assert answer.messages[0].text == versions[missing]


def test_a_lupa_without_a_usable_lua_is_an_error(
    policy_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("lua53", "lua54", "lua55"):
        monkeypatch.setitem(sys.modules, f"lupa.{name}", None)
    policy_file.write_text(PACKAGED)
    with pytest.raises(ProblemError, match="this lupa has no Lua"):
        run_policy(policy_file, env={}, limits=LIMITS)
