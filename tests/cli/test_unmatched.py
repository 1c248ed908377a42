"""``unmatched`` and ``suggest`` on what a real kumod wrote, and on what nobody should have."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import zstandard

from sidecar.log.record import Record, decode
from sidecar.tools.unmatched import Group
from tests.kumod_writer import record

from .support import DATA, assert_one_line_error, run, run_process

LOGS = DATA / "logs" / "plain"
RULES = ("--shaping", str(LOGS / "shaping.toml"))
ZONES = [a for zone in sorted((DATA / "zones").glob("*.zone")) for a in ("--dns-zone", str(zone))]
EVERYTHING = (*RULES, *ZONES, str(LOGS / "logs"))


def unmatched(*arguments: str, input: bytes | None = None) -> dict[str, Any]:
    result = run("unmatched", "--json", *RULES, *ZONES, *arguments, input=input)
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def counts(document: dict[str, Any]) -> dict[str, int]:
    return {group["shape"]: group["count"] for group in document["groups"]}


def segments() -> list[bytes]:
    decompress = zstandard.ZstdDecompressor().decompressobj
    return [decompress().decompress(p.read_bytes()) for p in sorted((LOGS / "logs").iterdir())]


def line(text: str, code: int = 421, **fields: Any) -> bytes:
    said = {"code": code, "enhanced_code": None, "content": text, "command": None}
    return json.dumps(record(response=said, **fields)).encode() + b"\n"


def record_of(text: str) -> Record:
    return decode(line(text))


def test_what_no_rule_matches_adds_up_with_what_some_rule_does() -> None:
    document = unmatched(str(LOGS / "logs"))
    found = counts(document)
    assert found["452 4.2.2 The recipient's inbox is out of storage space."] == 10
    assert sum(found.values()) == document["unmatched"] == 58


def test_without_rules_every_failure_is_unmatched(tmp_path: Path) -> None:
    (tmp_path / "none.toml").write_text("")
    result = run(
        "unmatched", "--json", "--shaping", str(tmp_path / "none.toml"), str(LOGS / "logs")
    )
    document = json.loads(result.stdout)
    assert document["unmatched"] == document["failures"] == 208
    assert document["rules_without_a_match"] == []


def test_a_rule_of_another_domain_that_would_match_is_named() -> None:
    groups = unmatched(str(LOGS / "logs"))["groups"]
    (grey,) = [g for g in groups if "Greylisted" in g["shape"]]
    assert grey["domains"] == {"corp1.example": 9, "refus.example": 3}
    assert [rule["scope"] for rule in grey["would_match_elsewhere"]] == [
        {"kind": "site", "name": "mx.shared.example"}
    ]


def test_rules_that_matched_none_of_the_records_looked_at_are_named() -> None:
    def idle(*options: str) -> list[str]:
        document = unmatched(*options, str(LOGS / "logs"))
        return [rule["scope"]["name"] for rule in document["rules_without_a_match"]]

    assert idle() == []
    elsewhere = idle("--domain", "gmail.com")
    assert "gmail.com" not in elsewhere
    assert "mx.shared.example" in elsewhere
    shown = run("unmatched", "--domain", "gmail.com", "--all", *EVERYTHING).stdout
    assert f"{len(elsewhere)} rules matched nothing of what was asked for\n" in shown


@pytest.mark.parametrize("compress", [bytes, zstandard.ZstdCompressor().compress])
def test_stdin_is_read_like_a_file(compress: Any) -> None:
    whole = unmatched(str(LOGS / "logs"))
    piped = unmatched("-", input=compress(b"".join(segments())))
    assert piped["groups"] == whole["groups"]


@pytest.mark.parametrize("command", ["unmatched", "replay"])
def test_a_stdin_that_is_closed_is_told(command: str) -> None:
    program = f"exec {sys.executable} -m sidecar {command} --shaping {LOGS / 'shaping.toml'} - <&-"
    done = subprocess.run(["sh", "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: stdin: can't be read: it is closed"
    assert "Traceback" not in done.stderr


def test_time_and_domain_choose_the_records() -> None:
    of_gmail = unmatched("--domain", "GMAIL.com.", str(LOGS / "logs"))
    assert {d for g in of_gmail["groups"] for d in g["domains"]} == {"gmail.com"}
    at = "2026-11-22T15:17:29Z"
    before = unmatched("--until", at, str(LOGS / "logs"))["unmatched"]
    after = unmatched("--since", at, str(LOGS / "logs"))["unmatched"]
    assert before > 0
    assert after > 0
    assert before + after == 58
    assert len(unmatched("--min", "12", str(LOGS / "logs"))["groups"]) == 2


def test_a_star_in_a_domain_stands_for_anything() -> None:
    found = unmatched("--domain", "*.EXAMPLE", str(LOGS / "logs"))
    domains = {d for g in found["groups"] for d in g["domains"]}
    assert domains == {"corp1.example", "corp2.example", "corp3.example", "refus.example"}
    assert unmatched("--domain", "*", str(LOGS / "logs"))["unmatched"] == 58


def test_what_is_of_another_time_is_told() -> None:
    """So that nobody takes an old log, looked at since yesterday, for one without failures."""
    result = run("unmatched", "--until", "2026-11-22", *EVERYTHING)
    assert result.stdout.splitlines() == [
        "0 failing responses",
        "208 others were not asked for (2026-11-22 15:17:28 to 15:17:30 UTC)",
        "",
        "7 rules matched nothing of what was asked for",
        "  (--all lists them)",
    ]
    document = unmatched("--domain", "gmail.com", str(LOGS / "logs"))
    assert (document["failures"], document["not_wanted"]) == (52, 156)
    name = group_of("out of storage", str(LOGS / "logs"))
    result = run("suggest", "--until", "2026-11-22", name, *EVERYTHING)
    assert_one_line_error(result, 1, "no unmatched responses of these logs of that time")


@pytest.mark.parametrize("command", [("unmatched", "x"), ("suggest", "abcdef", "x"), ("history",)])
def test_a_time_that_ends_before_it_begins_is_an_error(command: tuple[str, ...]) -> None:
    options = () if command == ("history",) else RULES
    between = ("--since", "2026-11-22 15:24 UTC", "--until", "2026-11-22 15:24 UTC")
    result = run(*command, *options, *between)
    assert_one_line_error(result, 1, "--since: is not before --until")


def test_what_is_shown_fits_80_columns_and_cannot_steer_the_terminal(tmp_path: Path) -> None:
    log = tmp_path / "log"
    hostile = "\x1b[2J\u202eevil " + "very " * 100
    log.write_bytes(line(hostile, recipient="a@gmail.com", egress_source="\x1b]0;x\x07"))
    result = run("unmatched", *RULES, *ZONES, str(log), COLUMNS="80")
    assert result.exit_code == 0
    assert all(len(text) <= 80 for text in result.stdout.splitlines()), result.stdout
    assert result.stdout.replace("\n", "").isprintable()


def test_a_link_stays_whole_however_narrow_the_terminal(tmp_path: Path) -> None:
    link = f"https://postmaster.example/{'long-' * 12}page"
    (tmp_path / "log").write_bytes(line(f"blocked, see {link}", recipient="a@gmail.com"))
    assert unmatched(str(tmp_path / "log"))["groups"][0]["links"] == [link]
    shown = run("unmatched", *RULES, *ZONES, str(tmp_path / "log"), COLUMNS="60").stdout
    assert any(text.strip() == link for text in shown.splitlines())


def test_codes_and_what_kumod_classified_are_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(
        line("hmm 1", recipient="a@gmail.com", bounce_classification="SpamBlock")
        + line("hmm 2", recipient="a@gmail.com", bounce_classification="Uncategorized")
        + line("hmm 3", recipient="a@gmail.com", bounce_classification="SpamBlock")
        + line("hmm 4", recipient="a@gmail.com", bounce_classification=None)
    )
    (group,) = unmatched(str(log))["groups"]
    assert group["classifications"] == {"SpamBlock": 2, "Uncategorized": 1}
    assert group["codes"] == ["421"]
    shown = run("unmatched", *RULES, *ZONES, str(log)).stdout
    assert "classified as SpamBlock\n" in shown


def test_long_responses_and_many_names_do_not_fill_the_memory() -> None:
    group, one = Group("abc123", "x", 0, 0), record_of("x" * 100_000)
    names = sum(group.add(one, f"d{n}.example", f"{n} {one.content}", most=8) for n in range(20))
    assert [len(sample) for sample in group.samples] == [1000] * 3
    assert len(group.domains) == 8
    assert names == 8 + 4
    assert group.count == 20


def test_what_is_no_log_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "mail.txt"
    file.write_bytes(b"From: me\n\nhello\n")
    result = run("unmatched", *RULES, *ZONES, str(file))
    assert_one_line_error(result, 1, str(file), "no log record")
    assert_one_line_error(run("unmatched", *RULES, *ZONES, "/no/such"), 1, "/no/such")
    assert_one_line_error(run("unmatched", *RULES, *ZONES, "--since", "soon", "x"), 1, "--since")


@pytest.mark.parametrize("data", [b"", b"\n\n"])
def test_an_empty_log_has_no_failures(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_bytes(data)
    result = run("unmatched", *RULES, *ZONES, str(file))
    assert result.exit_code == 0
    assert result.stdout.startswith("0 failing responses\n")


def test_a_pipe_closed_early_is_no_error() -> None:
    command = [sys.executable, "-m", "sidecar", "unmatched", *EVERYTHING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()


def group_of(text: str, *arguments: str) -> str:
    groups = unmatched(*arguments)["groups"]
    (name,) = [g["group"] for g in groups if text in g["shape"]]
    return str(name)


def test_a_suggestion_loads_and_passes_its_own_test(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(
        b"".join(line(f"too many messages for now, ask again ({n}a7b{n:06d})") for n in range(5))
        + line("2.0.0 ok", 250, type="Delivery")
    )
    name = group_of("too many messages", str(log))
    result = run("suggest", *RULES, *ZONES, name, str(log))
    assert result.exit_code == 0, result.output
    assert "max_message_rate" in result.stdout
    assert "5 matched" in result.stdout
    rule = run("suggest", "--rule", *RULES, *ZONES, name, str(log)).stdout
    case = run("suggest", "--test-case", *RULES, *ZONES, name, str(log)).stdout
    (tmp_path / "rules.toml").write_text(rule)
    zones = [zone for zone in ZONES if zone != "--dns-zone"]
    head = f"shaping = ['rules.toml']\ndns_zones = {json.dumps(zones)}\n\n"
    (tmp_path / "case.toml").write_text(head + case)
    tested = run_process("test", "case.toml", cwd=tmp_path)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_what_a_rule_would_have_done_is_told_by_episode(tmp_path: Path) -> None:
    log, begin = tmp_path / "log", 1_795_360_800
    log.write_bytes(b"".join(line("slow down", at=begin + 60 * n) for n in (0, 10, 200)))
    name = group_of("slow down", str(log))
    found = json.loads(run("suggest", "--json", *RULES, *ZONES, name, str(log)).stdout)
    effects = [
        (one["from"][11:16], one["until"][11:16], one["matches"]) for one in found["effects"]
    ]
    assert effects == [("15:20", "16:30", 2), ("18:40", "19:40", 1)]


def test_what_no_rule_helps_against_is_said_and_is_only_a_comment() -> None:
    name = group_of("out of storage", str(LOGS / "logs"))
    result = run("suggest", "--rule", name, *EVERYTHING)
    assert "No rule is suggested: it is about one recipient" in result.stdout
    assert tomllib.loads(result.stdout) == {}
    case = tomllib.loads(run("suggest", "--test-case", name, *EVERYTHING).stdout)["case"][0]
    assert case["name"] == f"group {name} does nothing"
    assert case["expect"] == [{"nothing": True}]


def test_the_words_of_a_suggestion_fit_its_reason_and_count(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(line("suspicious mail, go away"))
    rule = run("suggest", "--rule", *RULES, *ZONES, group_of("suspicious", str(log)), str(log))
    said = rule.stdout.splitlines()
    assert said[0] == "# 1 response like this one matched no rule:"
    assert "# It is about the reputation: more mail makes that worse." in said


def test_a_group_that_is_not_there_is_an_error() -> None:
    assert_one_line_error(run("suggest", "abcdef", *EVERYTHING), 1, "tsa-sidecar unmatched LOG")
    piped = run("suggest", "abcdef", *RULES, "-", input=b"")
    assert piped.exit_code == 2
    assert "name files" in piped.stderr


def test_a_text_that_deliveries_have_as_well_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(line("10.0.0.1") + line("10.0.0.1 is welcome") + line("ok", 250))
    groups = unmatched(str(log))["groups"]
    (name,) = [g["group"] for g in groups if g["shape"] == "421 <ip>"]
    result = run("suggest", *RULES, *ZONES, name, str(log))
    assert_one_line_error(result, 1, "10.0.0.1 is welcome", "by hand")
