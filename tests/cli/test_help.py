"""``--help`` of every command, as a person with a terminal of 80 columns reads it."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from sidecar.cli import main

from .support import run


def names(command: click.Command, *before: str) -> Iterator[tuple[str, ...]]:
    """A command and all below it, by what is typed."""
    yield before
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            below = command.get_command(click.Context(command), name)
            assert below is not None
            yield from names(below, *before, name)


COMMANDS = tuple(names(main))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_help_fits_80_columns(command: tuple[str, ...]) -> None:
    lines = run(*command, "--help").stdout.splitlines()
    assert len(lines) > 3
    assert [line for line in lines if len(line) > 80] == []


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_list_of_commands_cuts_no_sentence_short(command: tuple[str, ...]) -> None:
    _, _, listed = run(*command, "--help").stdout.partition("\nCommands:\n")
    assert "..." not in listed


@pytest.mark.parametrize("command", [("status",), ("cancel",), ("check",), ("init",), ("test",)])
def test_the_help_tells_the_exit_codes(command: tuple[str, ...]) -> None:
    assert "Exit" in run(*command, "--help").stdout
