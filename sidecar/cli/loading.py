"""The rules, for commands that answer from them."""

from __future__ import annotations

from sidecar.problems import ProblemError
from sidecar.service.rules import Rules, load_rules
from sidecar.settings import Settings
from sidecar.shaping.mx import Resolver

from .common import report


async def rules_for(settings: Settings, resolver: Resolver) -> Rules:
    """The rules, with what is doubtful about them on stderr.

    ProblemError when they do not load, or when a file is missing: kumod would
    go on with the rest, but an answer made of half the files is a wrong one.
    """
    rules = await load_rules(settings, resolver)
    missing = [p for p in rules.shaping.errors if p.code in ("local-load", "remote-load")]
    if missing:
        raise ProblemError(missing)
    report(rules.problems)
    return rules
