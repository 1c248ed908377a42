"""The table ``sidecar`` of a rule: what it may hold, and what it changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sidecar.shaping.hashes import action_hash, rule_hash
from sidecar.shaping.lint import lint
from sidecar.shaping.rules import Rule, SidecarTable
from sidecar.shaping.sidecar_table import CODE

from .shared import load, shown

RULE = '[[default.automation]]\nregex = "busy"\naction = "Suspend"\nduration = "1h"\n'


def rule(tmp_path: Path, lines: str) -> Rule:
    """The rule with these lines, which must be without a finding."""
    shaping = load(tmp_path, RULE + lines)
    assert shaping.warnings == ()
    (found,) = shaping.all_rules()
    return found


def findings(tmp_path: Path, lines: str) -> tuple[Rule, list[str]]:
    """The rule with these lines, and what is said of them."""
    shaping = load(tmp_path, RULE + lines)
    assert {problem.code for problem in shaping.warnings} == {CODE}
    return shaping.all_rules()[0], shown(list(shaping.warnings), tmp_path)


FULL = SidecarTable(
    name="gmail-4.7_28", note="See wiki\n#12.", notify=("oncall", "mail"), simulate=True
)


def test_the_table_is_read_from_toml(tmp_path: Path) -> None:
    lines = (
        'sidecar.name = "gmail-4.7_28"\nsidecar.note = "See wiki\\n#12."\n'
        'sidecar.notify = ["oncall", "mail", "oncall"]\nsidecar.simulate = true\n'
    )
    assert rule(tmp_path, lines).sidecar == FULL
    assert rule(tmp_path, 'sidecar = {notify = "oncall"}\n').sidecar.notify == ("oncall",)
    assert rule(tmp_path, "[default.automation.sidecar]\n").sidecar == SidecarTable()
    assert rule(tmp_path, "").sidecar == SidecarTable()


def test_the_table_is_read_from_json(tmp_path: Path) -> None:
    written = {
        "regex": "busy",
        "action": "Suspend",
        "duration": "1h",
        "sidecar": {
            "name": FULL.name,
            "note": FULL.note,
            "notify": list(FULL.notify),
            "simulate": True,
        },
    }
    text = json.dumps({"gmail.com": {"automation": [written]}})
    (found,) = load(tmp_path, text, suffix="json").all_rules()
    assert found.sidecar == FULL


def test_a_key_there_twice_is_no_error_for_upstream_looks_at_none(tmp_path: Path) -> None:
    text = (
        '{"default": {"automation": [{"regex": "busy", "action": "Suspend", "duration": "1h",'
        '\n"sidecar": {"name": "a",\n"name": "b"}}]}}'
    )
    shaping = load(tmp_path, text, suffix="json")
    assert shaping.all_rules()[0].sidecar.name == "b"
    assert [(p.code, p.line) for p in shaping.warnings] == [("duplicate-key", 3)]


@pytest.mark.parametrize(
    ("lines", "message", "read"),
    [
        (
            'sidecar.nmae = "a"\n',
            'sidecar: key "nmae" means nothing and is ignored (did you mean "name"?)',
            SidecarTable(),
        ),
        (
            'sidecar.zzz = "a"\n',
            'key "zzz" means nothing and is ignored: keys are name, note, notify, simulate',
            SidecarTable(),
        ),
        (
            'sidecar.name = "two words"\n',
            'sidecar.name: found "two words", wanted a letter and up to 63 letters, digits, '
            "-, _ or .; the rule goes without a name",
            SidecarTable(),
        ),
        ('sidecar.name = "-x"\n', 'found "-x", wanted a letter', SidecarTable()),
        ('sidecar.name = ""\n', 'found "", wanted a letter', SidecarTable()),
        (f'sidecar.name = "{"x" * 65}"\n', "wanted a letter and up to 63", SidecarTable()),
        ('sidecar.name = "x\\n"\n', 'found "x\\u000a", wanted a letter', SidecarTable()),
        ("sidecar.note = 1\n", "sidecar.note: found 1, wanted a text", SidecarTable()),
        (f'sidecar.note = "{"x" * 501}"\n', "is longer than 500 characters", SidecarTable()),
        ("sidecar.notify = [1]\n", "sidecar.notify: found 1, wanted names", SidecarTable()),
        ("sidecar.notify = [[]]\n", "found an array, wanted names of targets", SidecarTable()),
        ('sidecar = "x"\n', 'sidecar: found "x", wanted a table', SidecarTable()),
        (
            'sidecar.simulate = "yes"\n',
            'sidecar.simulate: found "yes", wanted true or false (without quotes); '
            "the rule is only simulated",
            SidecarTable(simulate=True),
        ),
    ],
)
def test_what_is_wrong_in_the_table_is_a_warning_with_its_line(
    tmp_path: Path, lines: str, message: str, read: SidecarTable
) -> None:
    found, (said,) = findings(tmp_path, lines)
    assert said.startswith("f0.toml:5: [[default.automation]] rule 1: ")
    assert message in said
    assert found.sidecar == read


def test_a_rule_is_called_by_its_name_or_its_place(tmp_path: Path) -> None:
    assert rule(tmp_path, 'sidecar.name = "busy"\n').label == "busy"
    assert rule(tmp_path, "").label == f"{tmp_path}/f0.toml:1"


def test_what_only_people_read_changes_no_identity(tmp_path: Path) -> None:
    plain = rule(tmp_path, "")
    worded = replace(plain, sidecar=replace(FULL, simulate=False))
    assert rule_hash(worded) == rule_hash(plain) == plain.hash
    assert action_hash(worded, plain.actions[0]) == action_hash(plain, plain.actions[0])


def test_a_simulated_rule_is_another_rule(tmp_path: Path) -> None:
    plain, simulated = rule(tmp_path, ""), rule(tmp_path, "sidecar.simulate = true\n")
    assert simulated.hash != plain.hash
    assert action_hash(simulated, plain.actions[0]) != action_hash(plain, plain.actions[0])
    assert rule(tmp_path, "sidecar.simulate = false\n").hash == plain.hash


def test_a_change_of_a_deciding_key_only_changes_the_hash_of_the_files(tmp_path: Path) -> None:
    plain = load(tmp_path, RULE)
    assert load(tmp_path, RULE + 'sidecar.name = "a"\n').hash == plain.hash
    assert load(tmp_path, RULE + "sidecar.simulate = true\n").hash != plain.hash


def test_rules_of_later_files_are_added_with_their_tables(tmp_path: Path) -> None:
    shaping = load(tmp_path, RULE + 'sidecar.name = "a"\n', RULE + 'sidecar.name = "b"\n')
    assert [one.label for one in shaping.all_rules()] == ["a", "b"]
    replacing = "[default]\nreplace_base = true\n" + RULE + 'sidecar.name = "b"\n'
    shaping = load(tmp_path, RULE + 'sidecar.name = "a"\n', replacing)
    assert [one.label for one in shaping.all_rules()] == ["b"]


def test_a_name_that_different_rules_share_is_doubtful(tmp_path: Path) -> None:
    other = RULE.replace("busy", "full")
    shaping = load(tmp_path, RULE + 'sidecar.name = "a"\n', other + 'sidecar.name = "a"\n')
    (problem,) = lint(shaping)
    assert problem.code == "shared-name"
    assert shown([problem], tmp_path) == [
        "f1.toml:1: [[default.automation]] rule 1 (a): the name a is that of rule 1 "
        f"({tmp_path}/f0.toml:1), too: a command or a metric that goes by it means both".replace(
            f"{tmp_path}/", ""
        )
    ]
    shaping = load(tmp_path, RULE + 'sidecar.name = "a"\n', other)
    assert lint(shaping) == []
