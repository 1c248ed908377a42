"""``tsa-sidecar resolve``: the egress path of a domain, and where each option comes from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from sidecar.log.record import UNSPECIFIED_SOURCE
from sidecar.problems import ProblemError, one_line
from sidecar.settings import Settings
from sidecar.shaping.mx import MxAnswer
from sidecar.shaping.options import Option
from sidecar.tools.loading import rules_for_a_tool
from sidecar.tools.records import ask_mx
from sidecar.tools.resolve import Resolution
from sidecar.tools.resolve import resolve as run_resolve
from sidecar.tools.text import shown_place, shown_value

from .common import (
    report,
    resolver_for,
    run_async,
    setting_options,
    settle,
    shaping_files,
    with_files,
)
from .console import line, output, print_json


@click.command(short_help="Show the options in effect for a domain, and their origin.")
@setting_options("policy", "shaping", "merge_options", "dns_zones", "nameservers", "overlay")
@click.option("--no-overlay", is_flag=True, help="Leave the overlay out.")
@click.option(
    "--source",
    metavar="NAME",
    default=UNSPECIFIED_SOURCE,
    show_default=True,
    help="The egress source.",
)
@click.option("--site", metavar="NAME", help="The site, instead of the one that the MX make.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.argument("domain")
@shaping_files
def resolve(
    *,
    domain: str,
    files: tuple[str, ...],
    source: str,
    site: str | None,
    no_overlay: bool,
    as_json: bool,
    **options: object,
) -> None:
    """Show the options in effect for mail to DOMAIN, each with its file, line and scope.

    The shaping files are FILE, in merge order; without any, those that --shaping or the
    policy name. The overlay is among them, if there is one. The output is TOML: behind
    each # is where the option comes from. A file that is missing is named on
    stderr and left out, as in kumod.

    \b
    Exit code: 0 the options are shown; 1 the files don't load; 2 the command
    line is wrong.
    """
    if not domain:
        raise ProblemError.one("bad-domain", "the domain is empty", where="DOMAIN")
    settings = settle(with_files(options, files), require=("shaping",)).settings
    overlay = None if no_overlay else _overlay(settings)
    merged = tuple(f for f in settings.reloaded.shaping if overlay is None or Path(f) != overlay)
    if overlay is not None:
        merged = (*merged, str(overlay))

    async def work() -> Resolution:
        resolver = resolver_for(settings)
        named = replace(settings, reloaded=replace(settings.reloaded, shaping=merged))
        rules = await rules_for_a_tool(named, resolver, needs="no file")
        report(rules.problems)
        return run_resolve(
            rules.shaping,
            domain=domain,
            source=source,
            site=site,
            mx=await ask_mx(domain, resolver),
            overlay=None if overlay is None else str(overlay),
        )

    resolution = run_async(work())
    if as_json:
        print_json(resolution.document())
    else:
        _print(resolution)


def _overlay(settings: Settings) -> Path | None:
    """The overlay, if there is one.  One that was named must be there."""
    path = settings.fixed.overlay
    if path.exists():
        return path
    origin = settings.origins["overlay"]
    if origin.kind == "option":
        message = "there is no such overlay; --no-overlay leaves it out"
        raise ProblemError.one("no-overlay", message, file=str(path))
    return None


def _print(resolution: Resolution) -> None:
    console = output()
    for name, value in _head(resolution):
        console.print(line((f"# {name + ':':<10} {one_line(value)}", "dim")))
    rows = [row for name, option in resolution.options.items() for row in _rows(name, option)]
    width = min(max((len(text) for text, _ in rows), default=0), 60)
    for text, option in rows:
        place = f"# {shown_place(option.file, option.line)} {one_line(option.scope)}"
        console.print(line(text.ljust(width), (f"  {place}", "dim")))


def _head(resolution: Resolution) -> list[tuple[str, str]]:
    mx = resolution.mx
    if not isinstance(mx, MxAnswer):
        hosts = f"none: {mx.reason}"
    else:
        hosts = "null: the domain takes no mail" if mx.is_null else ", ".join(mx.hosts)
    return [
        ("domain", resolution.domain),
        ("source", resolution.source),
        ("site", resolution.site or "none"),
        ("mx", hosts),
        ("providers", ", ".join(resolution.providers) or "none"),
        ("overlay", resolution.overlay or "none"),
    ]


def _rows(name: str, option: Option) -> list[tuple[str, Option]]:
    """Lines of TOML and where each comes from.  A merged table has a line for each entry."""
    if not option.inner:
        return [(f"{name} = {shown_value(option.value)}", option)]
    return [
        (f"{name}.{shown_value(key)} = {shown_value(inner.value)}", inner)
        for key, inner in option.inner.items()
    ]
