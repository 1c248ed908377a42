"""Man pages and completion files, made from the commands."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from sidecar.cli import main
from tests.packaging.kumod import PACKAGING

SCRIPTS = ("postinst", "prerm", "postrm")


@pytest.fixture(scope="module")
def build_man() -> dict[str, Any]:
    """The names of packaging/build-man."""
    return runpy.run_path(str(PACKAGING / "build-man"))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The man pages by name."""
    directory = tmp_path_factory.mktemp("man")
    subprocess.run([sys.executable, PACKAGING / "build-man", directory], check=True)
    return {path.name: path.read_text() for path in directory.iterdir()}


def commands() -> dict[str, click.Command]:
    context = click.Context(main, info_name="tsa-sidecar")
    found = {name: main.get_command(context, name) for name in main.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


def test_every_command_has_a_page_and_the_first_names_them_all(pages: dict[str, str]) -> None:
    names = commands()
    expected = {"tsa-sidecar.1"} | {f"tsa-sidecar-{name}.1" for name in names}
    assert {name for name in pages if name.count("-") <= 2} >= expected
    for name in names:
        assert f"\\fBtsa\\-sidecar\\-{name}\\fR(1)" in pages["tsa-sidecar.1"]


def test_every_option_is_on_its_commands_page(pages: dict[str, str]) -> None:
    for name, command in commands().items():
        page = pages[f"tsa-sidecar-{name}.1"].replace("\\-", "-")
        for parameter in command.params:
            for option in (*parameter.opts, *parameter.secondary_opts):
                if isinstance(parameter, click.Option) and not parameter.hidden:
                    assert f"\\fB{option}\\fR" in page, (name, option)


def test_no_line_of_text_is_taken_for_a_request(pages: dict[str, str]) -> None:
    known = {"TH", "nh", "SH", "PP", "TP", "nf", "fi"}
    for name, page in pages.items():
        requests = set(re.findall(r"^[.'](\S*)", page, re.MULTILINE))
        assert requests <= known, name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a-b", "a\\-b"),
        (".hidden", "\\&.hidden"),
        ("one\n'two'", "one\n\\&'two'"),
        ("\\d", "\\ed"),
    ],
)
def test_text_has_no_meaning_of_its_own(
    build_man: dict[str, Any], text: str, expected: str
) -> None:
    assert build_man["roff"](text) == expected


def test_each_shell_has_its_file_which_asks_the_program(tmp_path: Path) -> None:
    subprocess.run([sys.executable, PACKAGING / "build-completion", tmp_path], check=True)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(str(path.relative_to(tmp_path)) for path in files) == [
        "bash-completion/completions/tsa-sidecar",
        "fish/vendor_completions.d/tsa-sidecar.fish",
        "zsh/vendor-completions/_tsa-sidecar",
    ]
    for path in files:
        assert "_TSA_SIDECAR_COMPLETE" in path.read_text()
    bash = tmp_path / "bash-completion/completions/tsa-sidecar"
    subprocess.run(["bash", "-n", bash], check=True)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_maintainer_scripts_are_shell(name: str) -> None:
    text = (PACKAGING / "debian/functions.sh").read_text() + (
        PACKAGING / "debian" / name
    ).read_text()
    subprocess.run(["sh", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize("name", ["build-deb", "smoke-test", "smoke/inside"])
def test_the_tools_are_bash(name: str) -> None:
    subprocess.run(["bash", "-n", PACKAGING / name], check=True)


def test_the_container_starts_what_the_package_starts() -> None:
    lines = (PACKAGING / "Containerfile").read_text().splitlines()
    unit = (PACKAGING / "systemd/tsa-sidecar.service").read_text()
    assert 'ENTRYPOINT ["/usr/bin/tsa-sidecar"]' in lines
    assert 'CMD ["run"]' in lines
    assert "\nExecStart=/usr/bin/tsa-sidecar run\n" in unit
