"""An option wins over a variable, a variable over the policy, the policy over the default."""

from __future__ import annotations

import ipaddress
import os
import shlex
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.log.record import SKIPPED_TYPES
from sidecar.policy import Policy, Said, load_settings
from sidecar.problems import Problem, ProblemError
from sidecar.settings import (
    LOOPBACK,
    PREFIX,
    SETTINGS,
    Address,
    DnsSettings,
    Retention,
    Settings,
    environment_file,
    parse_address,
    parse_nameserver,
    parse_network,
    parse_retention,
    policy_keys,
    policy_path,
    resolve_settings,
    setting,
)
from sidecar.times import NS

FILE = "/etc/tsa_init.lua"


def policy_saying(**values: object) -> Policy:
    said = {n: Said(setting(n).parse(v), FILE, 7) for n, v in values.items()}
    return Policy(path=Path(FILE), values=MappingProxyType(said))


def settle(
    options: Mapping[str, object] | None = None,
    env: Mapping[str, str] | None = None,
    policy: Policy | None = None,
) -> Settings:
    return resolve_settings(options or {}, env or {}, policy, require=())


def refused(
    options: Mapping[str, object] | None = None,
    env: Mapping[str, str] | None = None,
    policy: Policy | None = None,
    require: tuple[str, ...] = (),
) -> list[Problem]:
    with pytest.raises(ProblemError) as caught:
        resolve_settings(options or {}, env or {}, policy, require=require)
    return list(caught.value.problems)


# Four spellings of each setting, and how the settled value is found again.
FIELDS = {
    "shaping": ("shaping", ("o.toml",), "v.toml 'w x.toml'", ["p.toml"]),
    "merge_options": ("merge_options", ("dns_fail=Warn",), "dns_fail=Error", {"null_mx": "Warn"}),
    "ttl": ("ttl_ns", "1m", "2m", 180),
    "dns_zones": ("dns_zones", ("/o.zone",), "/v.zone /w.zone", ["/p.zone"]),
    "nameservers": ("dns", ("10.0.0.1",), "10.0.0.2,10.0.0.3", ["[::1]:5353"]),
    "log_dir": ("log_dir", Path("/o"), "/v", "/p"),
    "pattern": ("pattern", "o*", "v*", "p*"),
    "from": ("start", "end", "beginning", "end"),
    "skip_record_types": ("skip_record_types", ("OOB",), "Bounce,Delivery", ["Feedback"]),
    "overlay": ("overlay", "/o.toml", "/v.toml", "/p.toml"),
    "state": ("state", "/o.db", "/v.db", "/p.db"),
    "listen": ("listen", "127.0.0.1:1", "[::1]:2", "localhost:3"),
    "trusted_hosts": ("trusted_hosts", ("10.1.0.0/16",), "10.2.0.0/16 ::1", ["10.3.0.0/16"]),
    "allowed_hosts": ("allowed_hosts", ("o.example",), "v.example,w_1", ["p.example"]),
    "kumod_api": ("kumod_api", "http://o:1", "http://v:2/", "https://p"),
    "notify": ("notify", "/o.toml", "/v.toml", "/p.toml"),
    "simulate": ("simulate", True, "true", True),
    "retention": ("retention", "1 day", "2GB", "3 days"),
    "max_entries": ("max_entries", "70000", "60_000", 80000),
    "history": ("history_ns", "1 day", "2 days", "36 hours"),
    "share": ("share", "redis://o", "rediss://:secret@v:2", "unix:///p"),
    "share_name": ("share_name", "o", "v", "p"),
    "share_host": ("share_host", "o", "v", "p"),
    "share_sources": ("share_sources", "own", "own", "own"),
    "share_password_file": ("share_password_file", "/o", "/v", "/p"),
    "share_most": ("share_most", "70000", "60_000", 80000),
    "poll": ("poll_seconds", "2s", "0.5", 3),
    "log_format": ("log_format", "json", "json", "json"),
}


def plain(name: str, settings: Settings) -> Any:
    kind = settings.fixed if hasattr(settings.fixed, FIELDS[name][0]) else settings.reloaded
    value = getattr(kind, FIELDS[name][0])
    return value.nameservers if isinstance(value, DnsSettings) else value


def test_every_setting_is_tried() -> None:
    rest = {"policy", "additional_skip_record_types"}
    assert set(FIELDS) | rest == {row.name for row in SETTINGS}


def split(name: str) -> object:
    text = FIELDS[name][2]
    return shlex.split(str(text)) if setting(name).is_list else text


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("given_by", range(8))
def test_precedence(name: str, given_by: int) -> None:
    _, option, variable, said = FIELDS[name]
    options = {name: option} if given_by & 4 else {name: None}
    env = {setting(name).variable: variable} if given_by & 2 else {}
    policy = policy_saying(**{name: said}) if given_by & 1 else None
    settings = settle(options, env, policy)
    row = setting(name)
    if given_by & 4:
        value, expected = row.parse(option), ("option", row.option)
    elif given_by & 2:
        value, expected = row.parse(split(name)), ("variable", row.variable)
    elif given_by & 1:
        value, expected = row.parse(said), ("policy", f"{FILE}:7")
    else:
        value, expected = row.parse(row.default), ("default", "default")
    assert plain(name, settings) == value
    origin = settings.origins[name]
    assert (origin.kind, origin.text) == expected


def test_the_values_of_the_matrix_differ() -> None:
    for name in set(FIELDS) - {"log_format", "from", "simulate", "share_sources"}:
        row, (_, option, _, said) = setting(name), FIELDS[name]
        parsed = [row.parse(value) for value in (option, split(name), said, row.default)]
        assert all(a != b for i, a in enumerate(parsed) for b in parsed[:i]), name


def test_the_defaults_fit_a_packaged_kumomta() -> None:
    settings = settle()
    assert settings.reloaded.policy is None
    assert settings.reloaded.shaping == ()
    assert settings.fixed.log_dir == Path("/var/log/kumomta")
    assert settings.fixed.overlay == Path("/opt/kumomta/etc/tsa-sidecar/shaping.toml")
    assert settings.fixed.state == Path("/var/lib/tsa-sidecar/state.db")
    assert settings.fixed.listen == Address("127.0.0.1", 8008)
    assert settings.fixed.trusted_hosts == LOOPBACK
    assert (settings.fixed.pattern, settings.fixed.start, settings.fixed.log_format) == (
        "*",
        "recent",
        "text",
    )
    assert settings.reloaded.skip_record_types == SKIPPED_TYPES
    assert settings.fixed.kumod_api is None
    assert settings.fixed.retention is None
    assert settings.reloaded.ttl_ns == 300 * NS
    assert settings.fixed.dns == DnsSettings()
    assert settings.warnings == ()


def test_lists_of_options_and_empty_ones() -> None:
    assert settle({"shaping": ()}, {}, policy_saying(shaping=["p"])).reloaded.shaping == ("p",)
    assert settle({"shaping": ("a b", "c")}).reloaded.shaping == ("a b", "c")
    assert settle({}, {PREFIX + "SHAPING": ' a "b c"\td '}).reloaded.shaping == ("a", "b c", "d")
    assert settle({}, {PREFIX + "SHAPING": ""}, policy_saying(shaping=["p"])).reloaded.shaping == (
        "p",
    )


@pytest.mark.parametrize("option", [("",), frozenset()])
def test_no_record_type_need_be_skipped(option: object) -> None:
    assert settle({"skip_record_types": option}).reloaded.skip_record_types == frozenset()
    assert settle({}, {PREFIX + "SKIP_RECORD_TYPES": ""}).reloaded.skip_record_types == frozenset()


def test_additional_record_types_add_to_those_in_force() -> None:
    added = {"additional_skip_record_types": ("OOB", "Feedback")}
    assert settle(added).reloaded.skip_record_types == SKIPPED_TYPES | {"OOB", "Feedback"}
    assert settle(added | {"skip_record_types": ("Bounce",)}).reloaded.skip_record_types == {
        "Bounce",
        "OOB",
        "Feedback",
    }


def test_a_record_type_of_a_newer_kumod_is_let_through() -> None:
    assert settle({"skip_record_types": ("Quarantine",)}).reloaded.skip_record_types == {
        "Quarantine"
    }
    assert 'did you mean "Reception"?' in str(refused({"skip_record_types": ("Recption",)})[0])


def test_no_listener() -> None:
    assert settle({"listen": False}).fixed.listen is None
    assert settle({}, {PREFIX + "LISTEN": "none"}).fixed.listen is None
    assert settle({"listen": "[::1]:1"}, {PREFIX + "LISTEN": "none"}).fixed.listen == Address(
        "::1", 1
    )


def test_variables_may_follow_the_options_spelling() -> None:
    hosts = settle({}, {PREFIX + "TRUSTED_HOST": "10.0.0.0/8"}).fixed.trusted_hosts
    assert hosts == (ipaddress.ip_network("10.0.0.0/8"),)
    both = {PREFIX + "DNS_ZONES": "/a", PREFIX + "DNS_ZONE": "/b"}
    assert settle({}, both).fixed.dns_zones == (Path("/a"),)


def test_a_misspelt_variable_is_a_warning() -> None:
    settings = settle({}, {PREFIX + "LOGDIR": "/x", "OTHER": "y"})
    (problem,) = settings.warnings
    assert str(problem) == (
        'TSA_SIDECAR_LOGDIR: no setting has this variable; did you mean "TSA_SIDECAR_LOG_DIR"?'
    )
    assert problem.level == "warning"


def test_the_policys_warnings_and_dns_are_handed_on() -> None:
    warning = Problem("warning", "x", "y")
    policy = Policy(path=Path(FILE), dns=DnsSettings(zones=("z",)), warnings=(warning,))
    settings = settle({"nameservers": ("10.0.0.1",)}, {}, policy)
    assert settings.warnings == (warning,)
    assert settings.fixed.dns == DnsSettings(zones=("z",), nameservers=("10.0.0.1:53",))
    assert settings.reloaded.policy == Path(FILE)


def test_everything_wrong_is_said_at_once() -> None:
    problems = refused(
        {"listen": "nowhere", "poll": "soon"},
        {PREFIX + "TTL": "2 huors", PREFIX + "SHAPING": "'open"},
        None,
        ("shaping",),
    )
    assert [p.where for p in problems] == [
        "TSA_SIDECAR_SHAPING",
        "TSA_SIDECAR_TTL",
        "--listen",
        "--poll",
        None,
    ]
    assert {p.code for p in problems} == {"bad-setting", "no-shaping"}


def test_what_an_option_overrides_need_not_be_right() -> None:
    assert settle({"poll": "2s"}, {PREFIX + "POLL": "soon"}).fixed.poll_seconds == 2


# What is missing


def test_no_shaping_files_is_an_error_that_names_the_option() -> None:
    (problem,) = refused(require=("shaping",))
    assert problem.level == "error"
    for remedy in ("--shaping", "TSA_SIDECAR_SHAPING", "--policy"):
        assert remedy in problem.message
    (problem,) = refused(policy=policy_saying(), require=("shaping",))
    assert FILE in problem.message


def test_a_log_directory_that_may_come_later_is_a_warning(tmp_path: Path) -> None:
    options = {"log_dir": tmp_path / "later"}
    (problem,) = resolve_settings(options, {}, None, require=("log_dir",)).warnings
    assert (problem.level, problem.code) == ("warning", "no-log-dir")
    assert "--log-dir" in problem.message
    (tmp_path / "later").mkdir()
    assert resolve_settings(options, {}, None, require=("log_dir",)).warnings == ()


@pytest.mark.parametrize("name", ["overlay", "state"])
def test_a_missing_directory_to_write_to_is_an_error(tmp_path: Path, name: str) -> None:
    (problem,) = refused({name: tmp_path / "no" / "file"}, require=(name,))
    assert f"--{name}" in problem.message
    settings = resolve_settings({name: tmp_path / "file"}, {}, None, require=(name,))
    assert settings.warnings == ()


def test_a_directory_that_can_not_even_be_looked_for_says_why(tmp_path: Path) -> None:
    # As root the tests are let in everywhere; a name too long fails where a closed door would.
    closed = tmp_path / ("x" * 300)
    (problem,) = resolve_settings({"log_dir": closed}, {}, None, require=("log_dir",)).warnings
    assert "File name too long" in problem.message
    (problem,) = refused({"overlay": closed / "shaping.toml"}, require=("overlay",))
    assert "File name too long" in problem.message
    (tmp_path / "file").write_text("")
    (problem,) = refused({"state": tmp_path / "file" / "state.db"}, require=("state",))
    assert "Not a directory" in problem.message


@pytest.mark.parametrize("listen", ["0.0.0.0:8008", ":8008", "[::]:8008", "mx.example.com:1"])
def test_an_open_listener_needs_trusted_hosts(listen: str) -> None:
    (problem,) = refused({"listen": listen})
    assert problem.code == "listener-without-trusted-hosts"
    assert problem.where == "--listen"
    assert "--trusted-host" in problem.message
    trusted = ("10.0.0.0/8",)
    assert settle({"listen": listen, "trusted_hosts": trusted}).fixed.listen is not None
    by_policy = policy_saying(listen=listen, trusted_hosts=["::1"])
    assert settle({}, {}, by_policy).fixed.listen == parse_address(listen)


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "127.8.8.8:1", "[::1]:1", "localhost:1"])
def test_a_loopback_listener_does_not(listen: str) -> None:
    assert settle({"listen": listen}).fixed.trusted_hosts == LOOPBACK


# Parsers


def tried(parse: Callable[[object], Any], value: object) -> tuple[Any, str]:
    """The parsed value and "", or None and the reason; any other exception is a bug."""
    try:
        return parse(value), ""
    except ValueError as error:
        return None, str(error)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8008", "127.0.0.1", 8008),
        ("[::1]:8008", "::1", 8008),
        ("[fe80::1%eth0]:80", "fe80::1%eth0", 80),
        (":8008", "0.0.0.0", 8008),
        ("localhost:0", "localhost", 0),
        ("mx-1.example.com:65535", "mx-1.example.com", 65535),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    address = parse_address(text)
    assert address == Address(host, port)
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "8008",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "127.0.0.1:٣",
        "127.0.0.1: 80",
        "127.0.0.1:100000",
        "::1:8008",
        "[::1]",
        "[::1]8008",
        "[::1:8008",
        "[127.0.0.1]:1",
        "300.0.0.1:1",
        "1.2.3:1",
        "a b:1",
        "-x:1",
        "http://x:1",
        "",
        5,
        None,
    ],
)
def test_what_is_no_address(text: object) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_address(text)


@given(st.ip_addresses(), st.integers(0, 65535))
def test_any_address_is_read_back(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    address = Address(str(ip), port)
    assert parse_address(str(address)) == address
    assert address.is_loopback == ip.is_loopback


@given(st.text())
def test_any_text_is_an_address_or_a_reason(text: str) -> None:
    address, reason = tried(parse_address, text)
    if address is None:
        assert reason
    else:
        assert 0 <= address.port <= 65535
        assert address.host


def test_networks() -> None:
    assert str(parse_network("10.0.0.7")) == "10.0.0.7/32"
    assert str(parse_network("fd00::/8")) == "fd00::/8"
    with pytest.raises(ValueError, match=r'did you mean "10\.0\.0\.0/8" or "10\.1\.1\.1"'):
        parse_network("10.1.1.1/8")
    with pytest.raises(ValueError, match="neither an IP address nor a CIDR block"):
        parse_network("localhost")


def test_nameservers() -> None:
    assert parse_nameserver("10.0.0.1") == "10.0.0.1:53"
    assert parse_nameserver("::1") == "[::1]:53"
    assert parse_nameserver("[::1]") == "[::1]:53"
    assert parse_nameserver("[::1]:5353") == "[::1]:5353"
    for wrong in ("ns.example.com", "ns.example.com:53", "10.0.0.1:dns"):
        with pytest.raises(ValueError, match=r"name server|PORT|port"):
            parse_nameserver(wrong)


@pytest.mark.parametrize(
    ("text", "retention"),
    [
        ("7 days", Retention(age_ns=7 * 86400 * NS)),
        ("90m", Retention(age_ns=5400 * NS)),
        ("500MB", Retention(size_bytes=500_000_000)),
        ("2 GiB", Retention(size_bytes=2 << 30)),
        ("1.5kB", Retention(size_bytes=1500)),
        ("10b", Retention(size_bytes=10)),
        ("off", None),
        (False, None),
    ],
)
def test_retention(text: object, retention: Retention | None) -> None:
    assert parse_retention(text) == retention


@pytest.mark.parametrize(
    "text", ["9" * 5000 + "GB", "7", "0B", "0.1B", "-1 day", "0s", "1 iB", "7 dyas", "GB", True, 7]
)
def test_what_is_no_retention(text: object) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_retention(text)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("kumod_api", "127.0.0.1:8000", "not an http(s) URL"),
        ("kumod_api", "http://", "not an http(s) URL"),
        ("kumod_api", "http://x:99999", "is not a URL"),
        ("kumod_api", "http://x/?a", 'must end before the "?"'),
        ("kumod_api", "ftp://x", "not an http(s) URL"),
        ("kumod_api", "http://x/\u00e9", "percent"),
        ("kumod_api", "http://\udcff@x", "percent"),
        ("kumod_api", "http://x/a b", "percent"),
        ("poll", "0", "from 0.01 to 3600"),
        ("poll", float("nan"), "from 0.01 to 3600"),
        ("poll", 10**400, "from 0.01 to 3600"),
        ("poll", True, "number of seconds"),
        ("ttl", "0s", "longer than nothing"),
        ("from", "recnt", 'did you mean "recent"?'),
        ("log_format", "xml", "not one of text, json"),
        ("pattern", "a/b", "without a directory"),
        ("log_dir", "", "must not be empty"),
        ("log_dir", "a\0b", "NUL"),
        ("log_dir", ["a"], "must be text, not a list"),
        ("shaping", 5, "must be a list, not a number"),
        ("shaping", {"a": 1}, "not a table with names"),
        ("merge_options", ["dns_fail"], "is not NAME=VALUE"),
        ("merge_options", ["dns_fail=Wrn"], 'dns_fail: "Wrn" is not one of'),
        ("merge_options", {"dns_fial": "Warn"}, 'did you mean "dns_fail"?'),
    ],
)
def test_what_is_refused_says_why(name: str, value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        setting(name).parse(value)
    assert reason in str(caught.value)


def test_merge_options_are_typed() -> None:
    parse = setting("merge_options").parse
    expected = {"skip_remote": True, "http_timeout": 10 * NS, "null_mx": "Error"}
    assert parse("skip_remote=true,http_timeout=10s,null_mx=Error") == expected
    assert parse({"skip_remote": True, "http_timeout": 10, "null_mx": "Error"}) == expected


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("row", SETTINGS, ids=lambda row: row.name)
@given(value=ANYTHING)
def test_any_value_is_taken_or_refused_with_a_reason(row: Any, value: object) -> None:
    _, reason = tried(row.check, value)
    assert reason.isprintable()


# Where the policy comes from


def test_the_policy_is_the_one_named_else_the_packaged_one(tmp_path: Path) -> None:
    packaged = tmp_path / "tsa_init.lua"
    assert policy_path({}, {}, default=packaged) is None
    packaged.write_text("")
    assert policy_path({}, {}, default=packaged) == packaged
    env = {PREFIX + "POLICY": "/v.lua"}
    assert policy_path({}, env, default=packaged) == Path("/v.lua")
    assert policy_path({"policy": "/o.lua"}, env, default=packaged) == Path("/o.lua")


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_a_policy_that_can_not_be_a_file_is_a_problem(name: str) -> None:
    with pytest.raises(ProblemError) as caught:
        load_settings({"policy": name}, {})
    assert [p.where for p in caught.value.problems] == ["--policy"]


def test_a_packaged_policy_that_can_not_be_looked_for_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="File name too long"):
        load_settings({}, {}, default_policy=tmp_path / ("x" * 300))


def test_load_settings_runs_the_policy_it_finds(tmp_path: Path) -> None:
    packaged = tmp_path / "tsa_init.lua"
    options = {"log_dir": tmp_path, "shaping": ("a.toml",)}
    settings, policy = load_settings(options, {}, default_policy=packaged)
    assert (settings.reloaded.policy, policy) == (None, None)
    packaged.write_text("require('sidecar').configure { state = '/x.db' }")
    settings, policy = load_settings(options, {}, default_policy=packaged)
    assert settings.fixed.state == Path("/x.db")
    assert settings.origins["state"].text == f"{packaged}:1"
    assert policy is not None
    assert policy.path == settings.reloaded.policy == packaged
    with pytest.raises(ProblemError, match=r"none\.lua: can't be read"):
        load_settings({"policy": tmp_path / "none.lua"}, {})


# The environment file


def test_the_environment_file_shows_every_setting_commented_out() -> None:
    lines = environment_file().splitlines()
    shown = [line[1:].split("=")[0] for line in lines if line.startswith("#TSA")]
    assert shown == [row.variable for row in SETTINGS]
    assert all(line == "" or line.startswith("#") for line in lines)
    assert max(len(line) for line in lines if line.startswith("# ")) <= 100


def test_the_examples_of_the_environment_file_are_good(tmp_path: Path) -> None:
    text = environment_file().replace("#TSA", "TSA")
    file = tmp_path / "env"
    file.write_text(f"set -a\n{text}\nexec env -0")
    printed = subprocess.run(
        ["/bin/sh", str(file)], env={"PATH": os.environ["PATH"]}, capture_output=True, check=True
    ).stdout.decode()
    env = dict(item.split("=", 1) for item in printed.split("\0") if item.startswith(PREFIX))
    settings = settle({}, env)
    assert settings.warnings == ()
    assert {o.kind for o in settings.origins.values()} == {"variable"}
    assert settings.reloaded.skip_record_types == SKIPPED_TYPES | {"Feedback", "OOB"}


def test_what_sidecar_configure_takes_is_all_but_the_policy() -> None:
    assert set(policy_keys()) == {row.name for row in SETTINGS} - {"policy"}


def test_a_simulation_has_nothing_by_which_it_could_have_an_effect() -> None:
    said = policy_saying(
        kumod_api="http://127.0.0.1:8000",
        retention="1 day",
        listen="0.0.0.0:8008",
        state="/p.db",
        notify="/notify.toml",
    )
    settings = settle({"simulate": True}, {"TSA_SIDECAR_KUMOD_API": "http://v:1"}, said)
    fixed = settings.fixed
    assert (fixed.kumod_api, fixed.retention, fixed.listen) == (None, None, None)
    assert fixed.notify is None
    assert fixed.state == Path("/p.simulated.db")
    by_hand = {"simulate": True, "listen": "127.0.0.1:1", "state": "/o.db"}
    fixed = settle(by_hand, {}, said).fixed
    assert (str(fixed.listen), fixed.state) == ("127.0.0.1:1", Path("/o.db"))
    assert settle().fixed.simulate is False


def test_a_password_on_a_command_line_is_refused_and_not_shown() -> None:
    [problem] = refused({"share": "redis://user:s3cret@10.0.0.1"})
    assert problem.code == "share-url"
    assert "TSA_SIDECAR_SHARE" in problem.message
    assert "s3cret" not in str(problem)
    settings = settle(env={"TSA_SIDECAR_SHARE": "redis://user:s3cret@10.0.0.1"})
    assert "s3cret" not in repr(settings.fixed.share)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("share", "http://10.0.0.1", "is not a URL of Redis or Valkey"),
        ("share_name", "with blank", "letters, digits"),
        ("share_name", "", "empty"),
        ("share_host", "two words", "no blanks"),
        ("share_sources", "mine", "own"),
    ],
)
def test_what_can_be_no_group_is_refused(name: str, value: str, reason: str) -> None:
    [problem] = refused({name: value})
    assert reason in problem.message
