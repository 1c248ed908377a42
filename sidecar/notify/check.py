"""Rules against targets: which names are there no targets of.

In: rules, targets.  Out: problems.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sidecar.problems import Problem
from sidecar.shaping.rules import Rule

from .targets import Targets


def unknown_targets(rules: Iterable[Rule], targets: Targets) -> Iterator[Problem]:
    """A problem for each rule that names a target that there is not."""
    for rule in rules:
        for name in targets.unknown(rule.sidecar.notify):
            known = ", ".join(targets.by_name) or "none"
            message = f'sidecar.notify: there is no target "{name}"; targets are {known}'
            yield Problem(
                "warning", "notify-unknown-target", message, rule.file, rule.line, rule.where
            )
