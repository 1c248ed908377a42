"""What the rules would have made of some logs.

In: files, rules and a time.  Out: a report.  Nothing is written.  The core is that
of the service, with the time in place of the clock.  Every line is decoded, so that
every bad one is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sidecar.automation.attempts import Attempts
from sidecar.automation.decide import Automation
from sidecar.automation.entries import Entry, Override, Suspension, frame
from sidecar.automation.matching import Candidate
from sidecar.automation.overlay import Effective
from sidecar.automation.pipeline import Tally, consider, only_candidates, read_everything, until
from sidecar.log.paths import read_paths
from sidecar.problems import Problem
from sidecar.shaping.mx import Resolver
from sidecar.times import NS, format_rfc3339

from .mx import resolve_all
from .published import Published
from .rules import Rules

Progress = Callable[[int], None]
"""Gets the number of decompressed bytes read since the last call."""


@dataclass(slots=True)
class Replay:
    """The outcome of a replay at ``now_ns``."""

    now_ns: int
    view: Published
    counts: Counter[str] = field(default_factory=Counter)
    events: list[Suspension] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def overrides(self) -> list[Effective]:
        """What the overlay sets, in its order."""
        self.view.overlay.text()
        return list(self.view.overlay.effective())

    def simulated(self) -> list[Entry]:
        """What simulated rules would have put into force, in the order of expiry."""
        found = [entry for entry in self.view.entries if entry.simulated]
        return sorted(found, key=lambda entry: (entry.expires_ns, entry.key))

    def document(self, rules: Rules) -> dict[str, Any]:
        """The report as one JSON-able object, in the form of ``replay --json``."""
        of_kind = self.view.entries.of_kind
        problems = [*rules.problems, *self.problems, *self._overlay_problems()]
        return {
            "now": self.now_ns / 1e9,
            "records": {
                name: self.counts[name]
                for name in ("read", "considered", "matched", "bad", "bytes_lost")
            },
            "left_out": {
                name: self.counts[name]
                for name in (
                    "already_expired",
                    "bad_recipient",
                    "later",
                    "no_domain",
                    "no_site",
                    "no_tenant",
                )
            },
            "overlay": self.view.overlay.text(),
            "overrides": [_override(e) for e in self.overrides()],
            "suspended": {
                "ready_q": [e.answer() for e in of_kind("ready_q") if not isinstance(e, Override)],
                "sched_q": [e.answer() for e in of_kind("sched_q") if not isinstance(e, Override)],
            },
            "bounced": [e.answer() for e in of_kind("bounce") if not isinstance(e, Override)],
            "events": [frame(e) for e in self.events if not e.simulated],
            "simulated": [
                {"kind": e.kind, **(_setting(e) if isinstance(e, Override) else e.answer())}
                for e in self.simulated()
            ],
            "warnings": [str(p) for p in problems if p.level == "warning"],
            "errors": [str(p) for p in problems if p.level == "error"],
        }

    def _overlay_problems(self) -> Iterable[Problem]:
        overlay = self.view.overlay
        overlay.text()
        for name, count in overlay.reserved.items():
            yield Problem(
                "warning",
                "reserved-name",
                f"{count} entries for the recipient domain {name!r} were left out of the overlay: "
                "a section of that name would govern everything",
            )
        for reason in overlay.rejected.values():
            yield Problem("error", "overlay-entry", f"left out of the overlay: {reason}")


def _override(effective: Effective) -> dict[str, Any]:
    return {"section": effective.section, **_setting(effective.override)}


def _setting(override: Override) -> dict[str, Any]:
    return {
        "domain": override.domain,
        "mx_rollup": override.mx_rollup,
        "source": override.source,
        "name": override.name,
        "value": override.value,
        "reason": override.reason,
        "expires": format_rfc3339(override.expires_ns),
    }


async def newest_record(
    paths: Sequence[Path], *, skip_types: frozenset[str], progress: Progress
) -> int:
    """The time of the newest record in `paths`, ns since the epoch; 0 when there is none."""
    tally = Tally()
    async for batch in read_paths(paths):
        for block in batch.blocks:
            progress(block.size)
            for line in block.data.split(b"\n"):
                consider(line, skip_types=skip_types, tally=tally)
    return tally.newest_ns


async def replay(
    paths: Sequence[Path],
    *,
    rules: Rules,
    resolver: Resolver,
    now_ns: int,
    progress: Progress,
) -> Replay:
    """Run the logs in `paths` (files or directories) through the rules as of `now_ns`.

    Later records have not happened yet and are only counted.  "Later" is by more than a
    second, since a time may be given in whole seconds.
    """
    result = Replay(now_ns, Published())
    automation = Automation()
    automation.follow(rules.shaping)
    skip_types = rules.settings.skip_record_types
    async for batch in read_paths(paths, on_problem=result.problems.append):
        tally, found = Tally(), list[Candidate | Attempts]()
        for block in batch.blocks:
            progress(block.size)
            result.counts["read"] += block.lines
            result.counts["bad"] += block.bad_lines
            result.counts["bytes_lost"] += block.lost_bytes
            found += read_everything(
                block.data.split(b"\n"),
                matcher=rules.matcher,
                skip_types=skip_types,
                tally=tally,
            )
        result.counts["considered"] += tally.considered
        result.counts["bad"] += tally.bad
        result.counts["bad_recipient"] += tally.bad_recipient
        past = list(until(found, now_ns + NS))
        looked_at = list(only_candidates(past))
        result.counts["later"] += sum(1 for _ in only_candidates(found)) - len(looked_at)
        mx = await resolve_all(looked_at, resolver)
        outcome = automation.apply(past, mx=mx, now_ns=now_ns)
        result.counts += outcome.counts
        result.events += outcome.events
        result.view.commit(outcome)
    result.view.expire(now_ns)
    return result
