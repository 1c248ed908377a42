"""The rules, for a tool that answers from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from sidecar.problems import Problem, ProblemError
from sidecar.service.rules import Rules, load_rules
from sidecar.settings import Settings
from sidecar.shaping.mx import Resolver


async def rules_for_a_tool(
    settings: Settings,
    resolver: Resolver,
    *,
    needs: Literal["no file", "one file", "every file"] = "one file",
) -> Rules:
    """As the service loads them, but a URL that can't be fetched is told unless said otherwise.

    The service goes on without a file that can't be loaded, as kumod does, and so does a tool.
    But what a tool says of rules that are not there misleads.  So `needs` says how many files
    must be there.  ProblemError when they are not, or the rules do not load.
    """
    options = {"remote_load": "Warn", **settings.reloaded.merge_options}
    reloaded = replace(settings.reloaded, merge_options=options)
    rules = await load_rules(reloaded, resolver, warnings=settings.warnings)
    missing = {problem.file: problem for problem in rules.problems if _is_of_no_file(problem)}
    none_left = missing.keys() >= set(reloaded.shaping)
    if missing and (needs == "every file" or (needs == "one file" and none_left)):
        raise ProblemError([replace(problem, level="error") for problem in missing.values()])
    return rules


def _is_of_no_file(problem: Problem) -> bool:
    return problem.code in {"local-load", "remote-load"}
