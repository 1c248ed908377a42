"""Printing for people: colours on a terminal only, nothing that others wrote taken for markup."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import click
from rich.console import Console
from rich.text import Text

STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
"""How a finding's level is shown."""


class _Output(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to :class:`.common.Commands`, for which it is no error."""
        raise  # noqa: PLE0704 - called while it is being handled


def output() -> Console:
    """A console on stdout: no markup, colours on a terminal only, unless NO_COLOR is set.

    Lines are not wrapped.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that has no letter for something gets its escape, not a traceback.
        sys.stdout.reconfigure(errors="backslashreplace")
    return _Output(markup=False, emoji=False, highlight=False, soft_wrap=True)


def line(*parts: str | tuple[str, str]) -> Text:
    """A line made of texts, some with a style."""
    return Text.assemble(*parts)


def print_json(document: Any) -> None:
    """One JSON object, in ASCII."""
    click.echo(json.dumps(document, indent=1))
