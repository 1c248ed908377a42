"""``tsa-sidecar explain``."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.automation.decide import Automation, Outcome
from sidecar.automation.pipeline import Tally, candidates
from sidecar.log.record import decode
from sidecar.service.mx import resolve_all
from sidecar.service.rules import Rules, load_rules
from sidecar.service.state import transaction
from sidecar.settings import resolve_settings
from sidecar.shaping.mx import Resolver, ZoneResolver
from sidecar.store import Store
from sidecar.times import NS, parse_rfc3339
from sidecar.tools.explain import explain
from sidecar.tools.question import domain_of
from sidecar.tools.records import ask_mx, encode, log_record, parse_response

from .support import CLOSED, DATA, HERE, RULES, assert_golden, assert_one_line_error, run

pytestmark = pytest.mark.usefixtures("in_rules")

AT = ("--at", "2026-11-22T15:00:00Z")
BIGMAIL = "421 4.7.0 [BM01] Messages from 10.0.0.1 deferred, try again later"
RECORD: dict[str, Any] = {
    "type": "TransientFailure",
    "recipient": "u@beta.example",
    "queue": "c:t@beta.example",
    "site": "ip1->(in1|in2).bigmail.example@smtp_client",
    "egress_source": "ip1",
    "response": {"code": 421, "enhanced_code": None, "content": "[BM42]", "command": None},
    "event_time": "2026-11-22T15:00:00Z",
}


def explained(*args: str, **record: Any) -> dict[str, Any]:
    """The JSON document on RECORD with other fields."""
    return asked("--record", "-", *args, input=json.dumps({**RECORD, **record}))


def asked(*args: str, input: str | None = None) -> dict[str, Any]:
    """The JSON document."""
    result = run("explain", *HERE, "--json", *args, input=input)
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def of_line(document: dict[str, Any], line: int) -> dict[str, Any]:
    """The rule that stands on `line` of the example rules."""
    (rule,) = [rule for rule in document["rules"] if rule["line"] == line]
    return dict(rule)


def rules_at(directory: Path, text: str) -> tuple[str, str]:
    (directory / "more.toml").write_text(text, encoding="utf-8")
    return "--shaping", str(directory / "more.toml")


def test_what_matches_is_marked_and_what_it_does_is_said() -> None:
    result = run("explain", *HERE, *AT, "--domain", "beta.example", "--source", "ip2", BIGMAIL)
    assert (result.exit_code, result.stderr) == (0, "")
    assert_golden("explain.txt", result.stdout)


def test_all_lists_the_rules_of_others_too() -> None:
    args = (*AT, "--all", "--queue", "news:t1@alpha.example")
    assert_golden("explain-all.txt", run("explain", *HERE, *args, "452 mailbox full").stdout)


def test_json_has_every_rule() -> None:
    args = ("--domain", "beta.example", "--source", "ip2", "--json")
    assert_golden("explain.json", run("explain", *HERE, *AT, *args, BIGMAIL).stdout)


def test_the_part_that_matched_is_underlined_whatever_stands_before_it() -> None:
    text = "421 日本語 \x1b[31m é [BM42] after"
    out = run("explain", *HERE, "--domain", "beta.example", text).stdout.splitlines()
    (at,) = [n for n, line in enumerate(out) if set(line.strip()) == {"^"}]
    assert out[at - 1].strip() == "421 日本語 \\x1b[31m é [BM42] after"
    # Three characters of two cells each stand before it.
    assert out[at].index("^") == out[at - 1].index("[BM42]") + 3
    assert out[at].count("^") == len("[BM42]")


@pytest.mark.parametrize(
    ("line", "record", "verdict", "reason"),
    [
        (8, {}, "no-match", "the regex does not match"),
        (28, {}, "acts", None),
        (33, {}, "elsewhere", 'other site: the record is of "(in1|in2).bigmail.example"'),
        (33, {"site": ""}, "elsewhere", "no site"),
        (48, {"recipient": "u@alpha.example"}, "elsewhere", 'the record is for "alpha.example"'),
        (28, {"recipient": "u@alpha.example"}, "elsewhere", "MX host mx1.alpha.example. fits no"),
        (28, {"recipient": "u@gamma.example"}, "elsewhere", "is unknown: NXDOMAIN"),
    ],
)
def test_each_rule_has_its_verdict(
    line: int, record: dict[str, Any], verdict: str, reason: str | None
) -> None:
    rule = of_line(explained(**record), line)
    assert rule["verdict"] == verdict
    assert (reason is None) == (rule["reasons"] == [])
    assert reason is None or reason in rule["reasons"][0]


@pytest.mark.parametrize(
    ("match", "reason"),
    [
        ("", "the provider has no match"),
        ('match = [{DomainSuffix = ".other.example"}]', 'no DomainSuffix of the provider fits "b'),
    ],
)
def test_a_provider_that_goes_by_name_says_so(match: str, reason: str, tmp_path: Path) -> None:
    more = rules_at(
        tmp_path,
        f'[provider.p]\n{match}\n[[provider.p.automation]]\nregex="BM42"\naction="Suspend"\n'
        'duration="1h"\n',
    )
    rule = explained(*more)["rules"][3]
    assert (rule["scope"]["name"], rule["verdict"], rule["matched"]) == ("p", "elsewhere", "BM42")
    assert reason in rule["reasons"][0]


def test_a_rule_lost_for_want_of_an_mx_is_told(tmp_path: Path) -> None:
    more = rules_at(
        tmp_path,
        '[["gone.example".automation]]\nregex="x"\naction="Suspend"\nduration="1h"\n',
    )
    out = run("explain", *HERE, *more, "--domain", "gone.example", "421 y").stdout
    (at,) = [n for n, line in enumerate(out.splitlines()) if line.startswith("ELSEWHERE")]
    assert 'the MX of "gone.example" does not resolve (NXDOMAIN)' in out.splitlines()[at + 1]
    assert asked(*more, "--domain", "beta.example", "421 x")["rules"][-1]["matched"] == "x"


def test_a_regex_that_takes_too_long_is_told(tmp_path: Path) -> None:
    more = rules_at(
        tmp_path,
        "[[default.automation]]\nregex='(?<!y)(?:a|a|aa)+(?=z)'\naction='Suspend'\nduration='1h'\n",
    )
    rule = asked(*more, "--domain", "beta.example", "421 " + "a" * 5000)["rules"][2]
    assert rule["verdict"] == "no-match"
    assert "given up after 0.1 s" in rule["reasons"][0]


def test_internal_responses() -> None:
    text = "400 KumoMTA internal: connection refused, try again later"
    document = asked("--domain", "alpha.example", text)
    assert of_line(document, 8)["verdict"] == "internal"
    assert of_line(document, 14)["verdict"] == "acts"


def test_a_match_without_effect_says_why() -> None:
    record = explained(
        recipient="u@alpha.example",
        queue="alpha.example",
        site="ip1->(mx1|mx2).alpha.example@smtp_client",
        response={"code": 452, "content": "mailbox full"},
    )
    rule = of_line(record, 33)
    assert (rule["verdict"], rule["effects"]) == ("no-effect", [])
    assert "no tenant" in rule["reasons"][0]


def test_a_suspension_without_a_ready_queue_has_no_effect() -> None:
    document = asked("--domain", "nowhere.example", "400 KumoMTA internal: connection refused")
    assert document["record"]["site"] == ""
    assert "no ready queue" in of_line(document, 14)["reasons"][0]


def test_what_is_over_already_says_so() -> None:
    rule = of_line(explained("--at", "2026-11-22T17:00:00Z"), 28)
    assert rule["verdict"] == "no-effect"
    assert "over already" in rule["reasons"][0]
    assert "2h" in rule["reasons"][0]
    assert of_line(explained("--at", "2026-11-22T16:59:59.999999999Z"), 28)["verdict"] == "acts"


def test_an_override_that_the_overlay_may_not_say_is_told() -> None:
    rules = explained(recipient=["u@beta.example", "u@default"])
    rule = of_line(rules, 28)
    assert rule["verdict"] == "acts"
    assert 'a section "default" would govern everything' in rule["reasons"][0]


def test_a_threshold_counts_from_one_without_a_state() -> None:
    rule = of_line(asked("--domain", "alpha.example", "451 try again later"), 8)
    assert rule["verdict"] == "waits"
    assert rule["threshold"] == {"count": 1, "limit": 3, "period": 60, "spec": "3/m"}
    assert rule["reasons"] == ["threshold 1 of 3/m"]


def test_each_recipient_counts() -> None:
    record = {
        "recipient": ["a@alpha.example"] * 3,
        "response": {"code": 451, "content": "try again later"},
    }
    assert of_line(explained(**record), 8)["verdict"] == "acts"


def load(directory: Path = RULES) -> tuple[Rules, Resolver]:
    zones = [(directory / name).read_text() for name in ("alpha.zone", "beta.zone")]
    settings = resolve_settings({"shaping": ("shaping.toml",)}, {}, None, require=("shaping",))
    resolver = ZoneResolver(zones)
    return asyncio.run(load_rules(settings.reloaded, resolver)), resolver


def test_thresholds_of_the_state_count_and_the_state_stays_as_it_is(tmp_path: Path) -> None:
    rules, _ = load()
    record = {
        **RECORD,
        "recipient": "u@alpha.example",
        "site": "ip1->(mx1|mx2).alpha.example@smtp_client",
        "response": {"code": 451, "content": "try again later"},
    }
    state = tmp_path / "state.db"
    automation = Automation()
    for second in (10, 20):
        record["event_time"] = f"2026-11-22T14:59:{second}Z"
        found = candidates(
            [json.dumps(record).encode()],
            matcher=rules.matcher,
            skip_types=frozenset(),
            tally=Tally(),
        )
        automation.apply(found, mx={}, now_ns=0)
    store = Store.open(state)
    store.commit(transaction(automation, Outcome()))
    store.close()
    before = state.read_bytes()

    args = ("--state", str(state), "--source", "ip1", "--domain", "alpha.example")
    third = asked(*args, "--at", "2026-11-22T15:00:00Z", "451 try again later")
    later = asked(*args, "--at", "2026-11-22T15:00:15Z", "451 try again later")
    assert (of_line(third, 8)["verdict"], of_line(third, 8)["threshold"]["count"]) == ("acts", 3)
    assert of_line(later, 8)["reasons"] == ["threshold 2 of 3/m"]
    assert state.read_bytes() == before


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"type": "Reception"}, "records of type Reception are skipped"),
        ({"reception_protocol": "LogRecord"}, "kumod's own log traffic"),
        ({"recipient": "no address"}, "is not an address"),
        ({"recipient": ["<>", "u@beta.example"]}, "chosen by the first recipient"),
        ({"recipient": "postmaster"}, "postmaster without a domain"),
    ],
)
def test_a_record_that_no_rule_sees(record: dict[str, Any], reason: str) -> None:
    document = explained(**record)
    assert reason in document["unseen"]
    assert document["rules"] == []
    text = run("explain", *HERE, "--record", "-", input=json.dumps({**RECORD, **record}))
    assert f"No rule sees this record: {document['unseen']}.\n" in text.stdout


def test_skipped_types_can_be_said() -> None:
    assert explained("--additional-skip-record-type", "TransientFailure")["unseen"] is not None
    assert explained("--skip-record-type", "OOB", type="Reception")["unseen"] is None


def test_without_a_domain_only_the_default_rules_apply() -> None:
    out = run("explain", *HERE, "421 [BM42] try again later").stdout
    assert "not given (--domain)" in out
    assert "WAITS     shaping.toml:8 " in out
    assert "ELSEWHERE shaping.toml:28 " in out


def test_what_is_said_of_a_response() -> None:
    args = ("--domain", "Alpha.Example", "--source", "ip1", "--queue", "c:t@q.example")
    document = asked(*args, "--site", "s.example", "550 5.7.1 x")
    assert document["domain"] == "alpha.example"
    assert document["record"] == {
        "type": "Bounce",
        "recipients": ["user@alpha.example"],
        "queue": "c:t@q.example",
        "site": "ip1->s.example@smtp_client",
        "source": "ip1",
        "time": document["now"],
    }


def test_a_record_from_a_file_may_be_laid_out(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    file.write_text(json.dumps(RECORD, indent=2))
    result = run("explain", *HERE, "--json", "--record", str(file))
    assert json.loads(result.stdout) == explained()


# Never another decision than the service's

RECORDINGS = [
    path
    for path in sorted((DATA / "conformance").glob("*.json"))
    if json.loads(path.read_text(encoding="utf-8"))["expected"]["loads"]
]


async def both_ways(scenario: dict[str, Any], directory: Path) -> tuple[list[Any], list[Any]]:
    """The entries that every record makes, by the service's way and by explain."""
    names = []
    for name, text in scenario["files"].items():
        if text is not None:
            (directory / name).write_text(text, encoding="utf-8")
            names.append(str(directory / name))
    resolver = ZoneResolver(scenario["zones"])
    options = {"shaping": tuple(names), "skip_record_types": ("XferOut",)}
    rules = await load_rules(resolve_settings(options, {}, None, require=()).reloaded, resolver)
    served, asked = Automation(), Automation()
    by_service: list[Any] = []
    by_explain: list[Any] = []
    for record in scenario["records"]:
        line = json.dumps(record).encode()
        now_ns = int(scenario["now"] * NS)
        found = candidates(
            [line],
            matcher=rules.matcher,
            skip_types=rules.settings.skip_record_types,
            tally=Tally(),
        )
        mx = await resolve_all(found, resolver)
        outcome = served.apply(found, mx=mx, now_ns=now_ns)
        domain = domain_of(decode(line))
        answer = None if domain is None else await ask_mx(domain, resolver)
        said = explain(line, rules=rules, mx=answer, automation=asked, now_ns=now_ns)
        by_service.append({(k, e.expires_ns) for k, e in outcome.entries.items()})
        by_explain.append({(e.key, e.expires_ns) for step in said.steps for e in step.entries})
    return by_service, by_explain


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda p: p.stem)
def test_explain_says_what_the_service_does(path: Path, tmp_path: Path) -> None:
    scenario = json.loads(path.read_text(encoding="utf-8"))
    by_service, by_explain = asyncio.run(both_ways(scenario, tmp_path))
    assert by_explain == by_service


# Responses


@given(
    st.integers(200, 599),
    st.none() | st.tuples(st.sampled_from("245"), st.integers(0, 999), st.integers(0, 999)),
    st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])),
)
def test_the_text_that_rules_see_is_the_one_that_was_typed(
    code: int, enhanced: tuple[str, int, int] | None, content: str
) -> None:
    status = "" if enhanced is None else ".".join(map(str, enhanced)) + " "
    typed = f"{code} {status}{content}"
    record = log_record(
        parse_response(typed),
        recipients=("u@a.example",),
        queue="",
        site="",
        source=None,
        time_ns=0,
    )
    assert decode(encode(record)).response_line == typed


def test_the_lines_of_an_smtp_session_are_one_response() -> None:
    parsed = parse_response("550-5.7.1 one\r\n550-5.7.1 two\r\n550 5.7.1 three\r\n")
    assert (parsed.code, parsed.enhanced, parsed.content) == (550, "5.7.1", "one\r\ntwo\r\nthree")


# Wrong input


@pytest.mark.parametrize("text", ["", " ", "\n", "hello", "42 x", "4210 x", "42a x", "999 x"])
def test_a_response_that_is_none(text: str) -> None:
    assert_one_line_error(run("explain", *HERE, "--", text), 1, "the response")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("", "is empty"),
        ("{", "is no log record"),
        ("[]", "is no log record"),
        ('{"type": "Bounce"}', "is no log record"),
        (json.dumps({**RECORD, "recipient": []}), "no recipient"),
        (json.dumps(RECORD) + "\n" + json.dumps(RECORD), "more than one record"),
        (b"\xff\xfe", "is no log record"),
        (b"[" * 100_000, "is no log record"),
        (b"x" * 10_000_000, "longer than 8 MiB"),
        (json.dumps({**RECORD, "x": "y" * 10_000_000}), "longer than 8 MiB"),
    ],
)
def test_a_record_that_is_none(data: str | bytes, said: str) -> None:
    result = run("explain", *HERE, "--record", "-", input=data)
    assert_one_line_error(result, 1, "error: stdin: ", said)


def test_a_response_of_ten_megabytes_is_refused_and_one_of_seven_is_read() -> None:
    long = "421 " + "x" * 10_000_000
    assert_one_line_error(run("explain", *HERE, "--", long), 1, "longer than 8 MiB")
    middle = "421 " + "x" * 3_000_000 + "[BM42]" + "y" * 4_000_000
    result = run("explain", *HERE, "--domain", "beta.example", middle)
    assert result.exit_code == 0
    assert "x[BM42]y" in result.stdout
    assert len(result.stdout) < 3000


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--record", "gone.json"), "gone.json"),
        (("--record", "."), "directory"),
        (("--at", "one day", "421 x"), "--at"),
        (("--domain", "a b", "421 x"), "--domain: 'a b' is no domain"),
        (("--domain", "", "421 x"), "--domain"),
        (("--queue", "t@", "421 x"), "--queue"),
        (("--state", "gone.db", "421 x"), "gone.db"),
        (("--state", "shaping.toml", "421 x"), "shaping.toml"),
        (("--shaping", "gone.toml", "421 x"), "gone.toml"),
        (("--shaping", CLOSED, "421 x"), CLOSED),
        (("--skip-record-type", "Bouncy", "421 x"), 'did you mean "Bounce"?'),
        (("--merge-option", "dns_fail=Wran", "421 x"), 'did you mean "Warn"?'),
        (("--dns-zone", "gone.zone", "421 x"), "gone.zone"),
        (("--domain", "a.example", "421 \udcff"), "UTF-8"),
    ],
)
def test_wrong_input_is_one_line(args: tuple[str, ...], said: str) -> None:
    assert_one_line_error(run("explain", *HERE, *args), 1, said)


@pytest.mark.parametrize(
    "args", [(), ("--record", "-", "421 x"), ("--record", "-", "--domain", "a.example")]
)
def test_a_wrong_command_line_ends_with_two(args: tuple[str, ...]) -> None:
    assert run("explain", *HERE, *args).exit_code == 2


def test_what_a_server_says_can_not_drive_the_terminal() -> None:
    content = "[BM42] [red]\x1b]0;owned\x07[/red] \u202e:smile: \r\nno line"
    record = json.dumps({**RECORD, "response": {"code": 421, "content": content}})
    for env in ({}, {"FORCE_COLOR": "1", "TERM": "xterm"}):
        result = run("explain", *HERE, "--record", "-", input=record, **env)
        assert result.exit_code == 0
        for bad in ("\x1b]", "\x07", "\u202e", "\r"):
            assert bad not in result.stdout
        assert "[red]\\x1b]0;owned\\x07[/red] \\u202e:smile:  no line" in result.stdout


def test_a_terminal_without_the_letters_gets_escapes() -> None:
    result = run("explain", *HERE, "--domain", "beta.example", "421 日本", PYTHONIOENCODING="ascii")
    assert result.exit_code == 0


def test_the_time_of_a_record_is_the_present_unless_said() -> None:
    assert parse_rfc3339(explained()["now"]) == parse_rfc3339(RECORD["event_time"])


def test_the_files_stand_behind_the_response() -> None:
    zones = HERE[2:]
    by_option = run("explain", *HERE, *AT, "--domain", "beta.example", BIGMAIL).stdout
    arguments = ("--domain", "beta.example", BIGMAIL, "shaping.toml")
    assert run("explain", *zones, *AT, *arguments).stdout == by_option
    record = json.dumps(RECORD)
    by_option = run("explain", *HERE, "--record", "-", input=record).stdout
    assert run("explain", *zones, "--record", "-", "shaping.toml", input=record).stdout == by_option
    turned = run("explain", "shaping.toml", BIGMAIL)
    assert (turned.exit_code, "write RESPONSE first" in turned.stderr) == (2, True)


def test_a_rules_name_is_shown(tmp_path: Path) -> None:
    named = tmp_path / "named.toml"
    named.write_text(
        '[[default.automation]]\nregex = "BM01"\naction = "Suspend"\nduration = "1h"\n'
        'sidecar = {name = "busy", simulate = true}\n'
    )
    shown = run("explain", *HERE[2:], *AT, "--domain", "beta.example", BIGMAIL, str(named)).stdout
    assert f"{named}:1  [[default.automation]] rule 1 (busy)" in shown
    assert "simulated: suspend the ready queue" in shown
    document = asked(*AT, "--domain", "beta.example", BIGMAIL, str(named))
    assert [(r["name"], r["simulated"]) for r in document["rules"] if r["file"] == str(named)] == [
        ("busy", True)
    ]


def told(tmp_path: Path, keys: str, *args: str) -> str:
    """What is said of a rule with these keys."""
    file = tmp_path / "told.toml"
    file.write_text(
        f'[[default.automation]]\nregex = "BM01"\naction = "Suspend"\nduration = "10m"\n{keys}\n'
    )
    given = ("--source", "ip1", "--domain", "beta.example", BIGMAIL, str(file))
    return run("explain", *HERE[2:], *args, *given).stdout


def test_each_effect_says_how_long_it_lasts_itself(tmp_path: Path) -> None:
    said = told(tmp_path, 'sidecar.probe = {connection_limit = 1, for = "5m"}', *AT)
    assert "until 2026-11-22T15:10:00Z (10m)" in said
    assert "until 2026-11-22T15:15:00Z (15m) or 20 deliveries" in said


@pytest.mark.parametrize("key", ['ratio = {over = "5"}', 'when = {code = "9xx"}'])
def test_a_rule_that_does_nothing_for_a_wrong_key_says_so(key: str, tmp_path: Path) -> None:
    said = told(tmp_path, f"sidecar.{key}", *AT)
    name = key.split(maxsplit=1)[0]
    assert "NO EFFECT" in said
    assert f"sidecar.{name} is wrong, so the rule does nothing: `tsa-sidecar check`" in said
    assert "share" not in said


@pytest.mark.parametrize("key", ["", 'sidecar.ratio = {over = "5%", min = 1}'])
def test_a_rule_that_is_held_says_so(key: str, tmp_path: Path) -> None:
    state = tmp_path / "state.db"
    Store.open(state).close()
    keys = f'sidecar.name = "busy"\n{key}'
    assert "ACTS" in told(tmp_path, keys, "--state", str(state))
    assert run("hold", "--state", str(state), "busy", "--for", "1h").exit_code == 0
    said = told(tmp_path, keys, "--state", str(state))
    assert "NO EFFECT" in said
    assert "an operator keeps it from striking: `tsa-sidecar holds`" in said
