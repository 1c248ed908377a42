"""README and packaging/doc: what they claim is there."""

from __future__ import annotations

import re
import runpy
from dataclasses import fields
from pathlib import Path

import click
import pytest

from sidecar.cli import main
from sidecar.notify.file import FORMAT
from sidecar.publish.metrics import Metrics
from sidecar.service.status import Status
from sidecar.shaping.rules import SidecarTable
from tests.packaging.kumod import PACKAGING

ROOT = PACKAGING.parent
PAGES = [ROOT / "README.md", *sorted((PACKAGING / "doc").glob("*.md"))]
CLAIMS = [PACKAGING / "doc" / name for name in ("faults.md", "security.md")]

FILE = re.compile(r"^- \[([A-Z]+)\] `(tests/\S+\.py)`$", re.MULTILINE)
# As typed: in a block, behind a prompt, in backquotes, behind `runuser … --`.
COMMAND = re.compile(r"(?:^ {4,}|^\$ |`|-- )tsa-sidecar ([a-z]+)([^`\n#|>]*)", re.MULTILINE)
LABELLED = re.compile(r"\[([A-Z]+)\]((?: `[^`]+`,?| all)+)")


def name(page: Path) -> str:
    return page.name


def _sources(*rooms: str) -> str:
    """The text of all modules of these rooms."""
    files = [file for room in rooms for file in (ROOT / "sidecar" / room).rglob("*.py")]
    return "\n".join(file.read_text() for file in files)


@pytest.mark.parametrize("page", CLAIMS, ids=name)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    files = dict(FILE.findall(text))
    claims = LABELLED.findall(text.partition("## The test files")[0])
    assert {label for label, _ in claims} == files.keys()
    assert len(claims) > 20
    for label, names in claims:
        tests = re.findall(r"^(?:async )?def test_(\w+)", (ROOT / files[label]).read_text(), re.M)
        for claimed in re.findall(r"`([^`]+)`", names):
            if claimed.startswith("python "):
                continue
            begin, cut, _ = claimed.partition("…")
            found = [test for test in tests if test == begin or (cut and test.startswith(begin))]
            assert found, f"{page.name}: {files[label]} has no test_{claimed}"


@pytest.mark.parametrize("page", CLAIMS, ids=name)
def test_every_line_of_a_table_names_a_test(page: Path) -> None:
    rows = re.findall(r"^\|.*\|$", page.read_text(), re.MULTILINE)
    heads = ("| What happens |", "| They can |", "| --- |")
    rows = [row for row in rows if not row.startswith(heads)]
    assert [row for row in rows if not LABELLED.search(row)] == []


def test_the_page_of_json_has_every_field_of_the_status() -> None:
    page = (PACKAGING / "doc" / "json.md").read_text()
    for field in Status("running", started_ns=0).document():
        assert f"`{field}`" in page, field
    counted = set(re.findall(r'counts\["(\w+)"\]', _sources("automation", "service")))
    assert len(counted) > 3
    assert {name for name in counted if f"`{name}`" not in page} == set()


def test_the_page_of_rules_has_every_key_that_is_ours() -> None:
    page = (PACKAGING / "doc" / "rules.md").read_text()
    named = re.findall(r"^\| `sidecar\.(\w+)`", page, re.MULTILINE)
    assert sorted(named) == sorted(field.name for field in fields(SidecarTable))


def test_the_page_of_notifications_shows_the_format_that_is_read() -> None:
    assert FORMAT in (PACKAGING / "doc" / "notifications.md").read_text()


def test_the_page_for_the_night_has_every_condition_and_no_other() -> None:
    known = set(re.findall(r'"([a-z]+(?:-[a-z]+)*)"', _sources("")))
    page = (PACKAGING / "doc" / "three-in-the-morning.md").read_text()
    table = page.partition("## What `status` says")[2]
    named = set(re.findall(r"`([a-z-]+)`", "".join(re.findall(r"^\| (`.*?) \|", table, re.M))))
    unknown = {code for code in named if code.removeprefix("kumod-") not in known} - known
    assert unknown == set()
    errors = set(re.findall(r'Problem\(\s*"error",\s*"([a-z-]+)"', _sources("service")))
    assert errors - {"overlay-entry"} <= named  # that one is of `replay`


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_page_is_linked_from_the_readme() -> None:
    text = PAGES[0].read_text()
    for page in PAGES[1:]:
        assert f"(packaging/doc/{page.name})" in text


def test_every_command_that_a_page_shows_exists_with_its_options() -> None:
    shown = [
        (page.name, *line)
        for page in PAGES
        for line in COMMAND.findall(page.read_text().replace("\\\n", " "))
    ]
    assert len(shown) > 20
    for page, name, arguments in shown:
        command = main.get_command(click.Context(main), name)
        if isinstance(command, click.Group):
            command = command.get_command(click.Context(command), arguments.split()[0])
        assert command is not None, (page, name)
        options = {opt for p in command.params for opt in (*p.opts, *p.secondary_opts)}
        for option in re.findall(r"(?<![\w-])--[a-z-]+", arguments):
            assert option in options, (page, name, option)


def test_every_metric_that_a_page_names_exists() -> None:
    exposed = Metrics.create().render().decode()
    for page in PAGES:
        for metric in re.findall(r"`(tsa_sidecar_\w+)`", page.read_text()):
            assert f"# HELP {metric} " in exposed, metric


def test_the_page_of_settings_is_the_one_that_the_settings_make() -> None:
    generated = runpy.run_path(str(PACKAGING / "build-generated"))
    text = (PACKAGING / "doc" / "settings.md").read_text()
    assert text == generated["settings_page"](), "run packaging/build-generated"
