"""The rules, for a tool that answers from them."""

from __future__ import annotations

from dataclasses import replace

from sidecar.service.rules import Rules, load_rules
from sidecar.settings import Settings
from sidecar.shaping.mx import Resolver


async def rules_for_a_tool(settings: Settings, resolver: Resolver) -> Rules:
    """As the service loads them, but a URL that can't be fetched is told unless said otherwise.

    ProblemError when they do not load.
    """
    options = {"remote_load": "Warn", **settings.reloaded.merge_options}
    reloaded = replace(settings.reloaded, merge_options=options)
    return await load_rules(reloaded, resolver, warnings=settings.warnings)
