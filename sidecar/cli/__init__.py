"""The command line: small functions that call the rooms, and decide nothing."""

from __future__ import annotations

import click

from sidecar import __version__

from .check import check
from .common import Commands
from .explain import explain
from .replay import replay
from .resolve import resolve
from .run import run
from .test import test


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="tsa-sidecar")
def main() -> None:
    """Traffic Shaping Automation for KumoMTA, from beside the server.

    Tails the log files that kumod writes, matches the rules of shaping.toml and
    publishes the overlay: as a file, over HTTP, or through kumod's admin API.
    """


for _command in (run, replay, check, test, explain, resolve):
    main.add_command(_command)
