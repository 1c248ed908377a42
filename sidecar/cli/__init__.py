"""The command line: small functions that call the rooms, and decide nothing.

Each command is imported when it is asked for, so that ``run`` does not wait for what
only the operators' tools need.
"""

from __future__ import annotations

from importlib import import_module
from typing import Final

import click

from sidecar import __version__

from .common import Commands

_COMMANDS: Final = (
    "run",
    "status",
    "list",
    "show",
    "history",
    "cancel",
    "notify",
    "hold",
    "release",
    "holds",
    "state",
    "replay",
    "check",
    "test",
    "explain",
    "resolve",
    "unmatched",
    "suggest",
    "init",
)


class _Main(Commands):
    """Finds the command NAME in the module of that name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in alphabetical order."""
        return sorted((*super().list_commands(ctx), *_COMMANDS))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name; None where there is none."""
        if cmd_name in _COMMANDS:
            module = vars(import_module(f".{cmd_name}", __name__))
            found = (c for c in module.values() if isinstance(c, click.Command))
            return next(command for command in found if command.name == cmd_name)
        return super().get_command(ctx, cmd_name)


@click.group(
    cls=_Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="tsa-sidecar")
def main() -> None:
    """Traffic Shaping Automation for KumoMTA, from beside the server.

    Tails the log files that kumod writes, matches the rules of shaping.toml and
    publishes the overlay: as a file, over HTTP, or through kumod's admin API.

    \b
    Mail to gmail.com is stuck:
      tsa-sidecar status                   is the sidecar well?
      tsa-sidecar list --domain gmail.com  what is in force there
      tsa-sidecar show 17                  since when, and by which response
      tsa-sidecar cancel 17 --for 2h       take it back, and keep it away
    """
