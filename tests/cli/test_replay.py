"""``replay`` on what real kumods wrote, and on what nobody should have written."""

from __future__ import annotations

import gzip
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import zstandard
from click.testing import CliRunner, Result

from sidecar.cli import main
from sidecar.times import parse_rfc3339
from tests.kumod_writer import record

DATA = Path(__file__).parents[1] / "data"
LOGS = DATA / "logs"
RULES = LOGS / "plain" / "shaping.toml"
ASKED = "1795360662.4903262"
"""When the real daemon was asked (``now`` of tsa-daemon.json)."""


def run(*arguments: str, columns: int = 200) -> Result:
    return CliRunner().invoke(main, ["replay", *arguments], env={"COLUMNS": str(columns)})


def zones() -> list[str]:
    return [a for z in sorted((DATA / "zones").glob("*.zone")) for a in ("--dns-zone", str(z))]


def replay(*logs: Path, rules: Path = RULES, at: str | None = ASKED) -> dict[str, Any]:
    moment = [] if at is None else ["--at", at]
    result = run("--json", "--shaping", str(rules), *zones(), *moment, *map(str, logs))
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def without_hash_and_reason(entries: list[dict[str, Any]]) -> list[str]:
    return sorted(
        json.dumps({k: v for k, v in e.items() if k not in ("rule_hash", "reason")}, sort_keys=True)
        for e in entries
    )


def test_plain_agrees_with_the_real_daemon_that_kumod_fed_at_the_same_time() -> None:
    daemon = json.loads((LOGS / "plain" / "tsa-daemon.json").read_text())
    ours = replay(LOGS / "plain" / "logs")
    for kind in ("ready_q", "sched_q"):
        assert without_hash_and_reason(ours["suspended"][kind]) == without_hash_and_reason(
            daemon["suspended"][kind]
        )
    assert without_hash_and_reason(ours["bounced"]) == without_hash_and_reason(daemon["bounced"])
    overrides = {
        (o["domain"], o["source"], o["name"]): (o["value"], o["mx_rollup"])
        for o in ours["overrides"]
    }
    theirs = tomllib.loads(daemon["overlay"])
    both_scopes = {"hotmail.com"}  # of which the daemon's overlay can hold one
    for domain, section in theirs.items():
        for source, options in section["sources"].items():
            for name, value in options.items():
                expected, rollup = overrides[domain, source, name]
                assert expected == value
                assert rollup == section["mx_rollup"] or domain in both_scopes
    # The daemon lost one of two domains on one site where they had the same source.
    lost = {("corp2.example", "ip1"), ("corp3.example", "ip2")}
    assert {(d, s) for d, s, _ in overrides} - {
        (d, s) for d, section in theirs.items() for s in section["sources"]
    } == lost
    assert tomllib.loads(ours["overlay"]).keys() == {o["section"] for o in ours["overrides"]}


def test_plain_counts_every_line() -> None:
    ours = replay(LOGS / "plain" / "logs")
    assert ours["records"] == {
        "read": 3150,
        "considered": 1500,
        "matched": 150,
        "deliveries": 1292,
        "bad": 0,
        "bytes_lost": 0,
    }
    assert (ours["first"][:16], ours["last"][:16]) == ("2026-11-22T15:17", "2026-11-22T15:17")


def test_without_a_time_it_is_that_of_the_newest_record() -> None:
    ours = replay(LOGS / "plain" / "logs", at=None)
    assert abs(ours["now"] - 1795360650.5) < 1
    assert len(ours["overrides"]) == len(replay(LOGS / "plain" / "logs")["overrides"])


def test_an_earlier_time_leaves_out_what_had_not_happened_yet() -> None:
    early = replay(LOGS / "plain" / "logs", at="2026-11-22T15:17:28Z")
    whole = replay(LOGS / "plain" / "logs")
    assert early["records"]["read"] == whole["records"]["read"]
    assert early["left_out"]["later"] > 0
    assert early["records"]["matched"] + early["left_out"]["later"] == whole["records"]["matched"]
    matches = [sum(one["matches"] for one in it["episodes"]) for it in (early, whole)]
    assert 0 < matches[0] < matches[1]


def test_a_later_time_leaves_less_in_force() -> None:
    assert replay(LOGS / "plain" / "logs", at="2026-11-22T18:00:00Z")["overrides"] == []
    assert replay(LOGS / "plain" / "logs", at="2026-11-22T18:00:00Z")["suspended"] != {
        "ready_q": [],
        "sched_q": [],
    }


def test_a_killed_kumods_segment_is_read_up_to_its_last_whole_line() -> None:
    ours = replay(LOGS / "killed" / "logs", rules=LOGS / "killed" / "shaping.toml")
    assert ours["records"]["bytes_lost"] > 0
    assert ours["records"]["bad"] == 0
    assert ours["records"]["read"] > 1000


def test_suffixes_are_read_as_well() -> None:
    ours = replay(LOGS / "suffix" / "logs", rules=LOGS / "suffix" / "shaping.toml")
    assert ours["records"]["read"] == ours["records"]["considered"] > 0


def test_template_lines_are_bad_and_the_record_glued_to_a_header_is_read() -> None:
    ours = replay(LOGS / "template" / "logs", rules=LOGS / "template" / "shaping.toml")
    assert ours["records"]["bad"] > 0
    deferred = next((LOGS / "template" / "logs").glob("*_deferred"))
    alone = replay(deferred, rules=LOGS / "template" / "shaping.toml")
    lines = zstandard.ZstdDecompressor().decompressobj().decompress(deferred.read_bytes())
    assert alone["records"]["considered"] == lines.count(b"\n")
    assert alone["records"]["bad"] == 0


def busy_rules(directory: Path) -> Path:
    rules = directory / "rules.toml"
    rules.write_text(
        '[[default.automation]]\nregex = "busy"\nduration = "1h"\n'
        'action = ["Suspend", {SetConfig={name="connection_limit", value=1}}]\n'
    )
    return rules


def busy_record(number: int = 0) -> bytes:
    return json.dumps(
        record(
            number,
            type="TransientFailure",
            recipient=f"u{number}@example.com",
            queue="example.com",
            site="ip1->mx.example.com@smtp_client",
            egress_source="ip1",
            response={"code": 421, "enhanced_code": None, "content": "busy", "command": None},
            timestamp=1795360600,
            event_time="2026-11-22T15:16:40Z",
        )
    ).encode()


GARBAGE = [
    b"not json",
    b"{",
    b"[]",
    b'{"type": 5}',
    b'"text"',
    b"\xff\xfe",
    b'{"type":"Bounce"}',
    b"\x00" * 100,
]


def test_garbage_between_records_is_counted_and_costs_nothing_else(tmp_path: Path) -> None:
    log = tmp_path / "log"
    lines = [x for n, bad in enumerate(GARBAGE) for x in (bad, busy_record(n))]
    log.write_bytes(b"\n".join(lines) + b"\n\n\n")
    ours = replay(log, rules=busy_rules(tmp_path))
    assert ours["records"]["bad"] == len(GARBAGE)
    assert ours["records"]["matched"] == len(GARBAGE)
    assert [o["name"] for o in ours["overrides"]] == ["connection_limit"]


@pytest.mark.parametrize("form", ["plain", "gzip", "zstd", "two frames"])
def test_any_compression_is_read(form: str, tmp_path: Path) -> None:
    data = busy_record() + b"\n"
    encoded = {
        "plain": data,
        "gzip": gzip.compress(data),
        "zstd": zstandard.compress(data),
        "two frames": zstandard.compress(data[:40]) + zstandard.compress(data[40:]),
    }[form]
    log = tmp_path / "log"
    log.write_bytes(encoded)
    assert replay(log, rules=busy_rules(tmp_path))["records"]["matched"] == 1


def test_an_empty_log_has_nothing_in_force(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    ours = replay(log, rules=busy_rules(tmp_path), at=None)
    assert ours["overrides"] == []
    assert ours["records"]["read"] == 0


def test_a_reserved_recipient_domain_is_left_out_and_said(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(busy_record().replace(b"u0@example.com", b"u@default"))
    ours = replay(log, rules=busy_rules(tmp_path))
    assert ours["overrides"] == []
    assert tomllib.loads(ours["overlay"]) == {}
    assert any("default" in w for w in ours["warnings"])
    assert len(ours["suspended"]["ready_q"]) == 1


def test_for_people_it_is_a_list_and_hostile_text_is_harmless(tmp_path: Path) -> None:
    log = tmp_path / "log"
    hostile = busy_record().replace(b"mx.example.com@", b"[red]mx\\u001b[31m@")
    log.write_bytes(busy_record(1) + b"\n" + hostile)
    result = run("--shaping", str(busy_rules(tmp_path)), "--at", ASKED, str(log))
    assert result.exit_code == 0, result.output
    assert "connection_limit = 1" in result.stdout
    assert "[red]mx" in result.stdout
    assert "\x1b" not in result.stdout


def test_what_is_in_force_fits_80_columns_and_says_what_list_would_say() -> None:
    result = run(
        *("--shaping", str(LOGS / "plain" / "shaping.toml"), *zones(), "--at", "1795360650"),
        str(LOGS / "plain" / "logs"),
        columns=80,
    )
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    at = lines.index("in force at 2026-11-22 15:17:30 UTC:")
    assert lines[at + 1 : at + 4] == [
        'until 2026-11-22 17:17:30  set max_connection_rate = "10000/h" for "comcast.net"',
        '                           (the whole site) from source "ip1"',
        "                           automation rule: RL0000",
    ]
    assert sum(text.startswith("until ") for text in lines) == 32


def test_rules_that_do_not_load_are_named_and_the_exit_code_is_1(tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text('[[default.automation]]\nregex="a"\naction="Suspend"\nduration="2 huors"\n')
    result = run("--shaping", str(rules), str(LOGS / "plain" / "logs"))
    assert result.exit_code == 1
    assert f"{rules}:4:" in result.stderr
    assert "huors" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--at", "one day"], "--at"),
        (["--dns-zone", "/no/such.zone"], "/no/such.zone"),
        (["/no/such/log"], "/no/such/log"),
    ],
)
def test_a_wrong_argument_is_one_clear_line(arguments: list[str], says: str) -> None:
    result = run("--shaping", str(RULES), *zones(), *arguments, str(LOGS / "plain" / "logs"))
    assert result.exit_code == 1
    assert says in result.stderr
    assert "Traceback" not in result.output
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_file_that_is_no_log_is_named_and_counted(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("nothing of kumod's\n" * 3)
    (tmp_path / "log").write_bytes(busy_record() + b"\n")
    ours = replay(tmp_path / "README", tmp_path / "log", rules=busy_rules(tmp_path))
    assert ours["files_without_a_record"] == [str(tmp_path / "README")]
    assert (ours["records"]["matched"], ours["records"]["bad"]) == (1, 3)
    assert any("README" in said and "no log record" in said for said in ours["warnings"])
    alone = run("--json", "--shaping", str(tmp_path / "rules.toml"), str(tmp_path / "README"))
    assert (alone.exit_code, alone.stdout) == (1, "")
    assert "give segments of kumod's JSON log" in alone.stderr


def test_an_empty_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / ".tailer").touch()
    result = run("--shaping", str(busy_rules(tmp_path)), str(tmp_path / "logs"))
    assert result.exit_code == 0
    assert result.stderr == f"warning: {tmp_path / 'logs'}: the directory is empty\n"


def test_episodes_are_written_as_they_end_and_those_in_force_at_last(tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = busy_record().replace(b"15:16:40Z", b"12:00:00Z")
    second = busy_record().replace(b"15:16:40Z", b"12:20:00Z").replace(b"ip1", b"ip2")
    log.write_bytes(b"\n".join([first, second, busy_record()]) + b"\n")
    ours = replay(log, rules=busy_rules(tmp_path), at=None)
    held = [one for one in ours["episodes"] if one["kind"] == "ready_q"]
    assert [(one["began"][11:16], one["until"][11:16]) for one in held] == [
        ("12:00", "13:00"),
        ("12:20", "13:20"),
        ("15:16", "16:16"),
    ]
    (suspended,) = ours["suspended"]["ready_q"]
    assert suspended["expires"] == held[-1]["until"]
    assert held[0]["place"] == f"{tmp_path / 'rules.toml'}:1"
    assert held[0]["response"] == "421 busy"


@pytest.mark.parametrize("skipped", ["Delivery", "Expiration"])
def test_a_share_is_of_all_attempts_whatever_types_rules_see(tmp_path: Path, skipped: str) -> None:
    rules, log = busy_rules(tmp_path), tmp_path / "log"
    ratio = '\nsidecar.ratio = {over = "30%", min = 5, window = "10m"}\n'
    rules.write_text(rules.read_text().replace('\nduration = "1h"', f'\nduration = "1h"{ratio}'))
    delivery = busy_record().replace(b"TransientFailure", b"Delivery").replace(b"busy", b"Ok")
    damaged = delivery.replace(b"421", b"null")
    log.write_bytes(b"\n".join([delivery, damaged] * 10 + [busy_record()] * 6) + b"\n")
    options = ["--shaping", str(rules), "--additional-skip-record-type", skipped]
    ours = json.loads(run("--json", *options, str(log)).stdout)
    assert (ours["records"]["matched"], ours["records"]["bad"]) == (6, 10)
    assert ours["episodes"] == []


def test_stdin_is_read_as_a_file_is(tmp_path: Path) -> None:
    arguments = ["replay", "--json", "--shaping", str(busy_rules(tmp_path)), "-"]
    result = CliRunner().invoke(main, arguments, input=busy_record() + b"\n")
    assert json.loads(result.stdout)["records"]["matched"] == 1


def test_expiries_are_to_the_nanosecond() -> None:
    ours = replay(LOGS / "plain" / "logs")
    expiries = {parse_rfc3339(o["expires"]) for o in ours["overrides"]}
    assert 1795367850493761527 in expiries


def test_what_simulated_rules_would_do_is_listed_apart(tmp_path: Path) -> None:
    text = RULES.read_text()
    assert text.count("automation]]\n") > 1
    shadow = tmp_path / "shaping.toml"
    shadow.write_text(text.replace("automation]]\n", "automation]]\nsidecar.simulate = true\n"))
    real = replay(LOGS / "plain" / "logs")
    ours = replay(LOGS / "plain" / "logs", rules=shadow)
    assert (ours["overrides"], ours["bounced"]) == ([], [])
    assert {one["simulated"] for one in ours["episodes"]} == {True}
    assert ours["suspended"] == {"ready_q": [], "sched_q": []}
    kinds = [entry["kind"] for entry in ours["simulated"]]
    assert kinds.count("ready_q") == len(real["suspended"]["ready_q"]) > 0
    assert kinds.count("bounce") == len(real["bounced"]) > 0
    assert kinds.count("override") >= len(real["overrides"]) > 0
    shown = run("--shaping", str(shadow), *zones(), "--at", ASKED, str(LOGS / "plain" / "logs"))
    assert "nothing\nsimulated" in shown.stdout
