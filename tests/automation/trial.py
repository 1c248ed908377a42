"""The core with a store that is a few dicts: driven second by second, stopped anywhere."""

from __future__ import annotations

import asyncio
import json
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from sidecar.automation.attempts import Attempts
from sidecar.automation.decide import Automation, Outcome
from sidecar.automation.entries import Entry, Override, ReadyQSuspension
from sidecar.automation.life import State, state_of
from sidecar.automation.matching import Candidate, Matcher
from sidecar.automation.pipeline import Tally, candidates
from sidecar.service.published import Published
from sidecar.service.state import restore, transaction
from sidecar.shaping.load import MergeOptions, Shaping, load_shaping
from sidecar.shaping.mx import MxAnswer, ZoneResolver
from sidecar.store import Saved, Transaction
from sidecar.times import NS, format_rfc3339

START = 1_795_360_000
"""Seconds since the epoch: the moment from which a trial counts."""

QUEUE = "ip1->mx.example.net@smtp_client"
DOMAIN = "example.com"


def at(second: int) -> int:
    """That second of a trial, ns since the epoch."""
    return (START + second) * NS


def load(text: str) -> Shaping:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "shaping.toml"
        path.write_text(text)
        return asyncio.run(
            load_shaping([str(path)], options=MergeOptions(), resolver=ZoneResolver([]))
        )


def deliveries(second: int, count: int = 1, domain: str = DOMAIN, site: str = QUEUE) -> Attempts:
    """So many, all in one second."""
    return {(site, site.split("->", maxsplit=1)[0], domain, None, True, START + second): count}


class Trial:
    """What the rules make of what happens; whatever is committed is in ``saved``."""

    def __init__(self, shaping: Shaping) -> None:
        self.shaping = shaping
        self.matcher = Matcher(shaping)
        self.automation = Automation()
        self.automation.follow(shaping)
        self.saved = Saved()
        self.view = Published()
        self.ended: list[tuple[str, str]] = []
        """The kind, or the option, of each entry that ended, and how."""

    def refusal(self, second: int, text: str, domain: str = DOMAIN) -> list[Candidate]:
        """What some rule may do about one record."""
        record = {
            "type": "TransientFailure",
            "recipient": f"user@{domain}",
            "queue": f"tenant@{domain}",
            "site": QUEUE,
            "egress_source": "ip1",
            "response": {"code": 421, "content": text},
            "event_time": format_rfc3339(at(second)),
        }
        line = json.dumps(record).encode()
        return candidates([line], matcher=self.matcher, skip_types=frozenset(), tally=Tally())

    def hear(self, second: int, *happened: Candidate | Attempts, now: int | None = None) -> Outcome:
        """Decide what happened, at the second `now` (else `second`), and commit it."""
        self.wait(second if now is None else now)
        now_ns = at(second if now is None else now)
        return self.commit(self.automation.apply(happened, mx={}, now_ns=now_ns))

    def match(self, second: int, text: str, domain: str = DOMAIN) -> Outcome:
        return self.hear(second, *self.refusal(second, text, domain))

    def deliver(self, second: int, count: int = 1, domain: str = DOMAIN) -> Outcome:
        return self.hear(second, deliveries(second, count, domain))

    def wait(self, second: int) -> None:
        """Nothing happens until then."""
        self.commit(self.automation.expire(at(second)))
        self.view.expire(at(second))

    def cancel(self, second: int, *keys: str) -> Outcome:
        outcome = self.automation.cancel(keys, now_ns=at(second), how="cancelled")
        windows = {ended.episode.window for ended in outcome.ended}
        counted = self.saved.threshold_counts
        for scope in [scope for scope in counted if scope[0] in windows]:
            del counted[scope]
        return self.commit(outcome)

    def reload(self, second: int, shaping: Shaping, *, mx: MxAnswer | None = None) -> Outcome:
        """`mx`: what is known by then of every domain's."""
        self.shaping, self.matcher = shaping, Matcher(shaping)
        self.automation.follow(shaping)
        now_ns = at(second)
        refitted = self.automation.refit(shaping, now_ns=now_ns, mx_of=lambda _domain: mx)
        return self.commit(refitted)

    def crash(self, second: int) -> None:
        """Start anew with what was committed."""
        self.automation, cleaning, problems = restore(self.saved)
        assert not cleaning
        assert problems == []
        self.automation.follow(self.shaping)
        self.view = Published(self.automation.entries)
        self.wait(second)

    def commit(self, outcome: Outcome) -> Outcome:
        changes = transaction(self.automation, outcome)
        saved = self.saved
        for key in changes.drop_entries:
            saved.entries.pop(key, None)
        saved.entries.update(changes.entries)
        saved.history.update(changes.history)
        _commit_counts(saved, changes)
        for name in changes.drop_meta:
            saved.meta.pop(name, None)
        saved.meta.update(changes.meta)
        self.view.commit(outcome)
        self.ended += [(called(ended.entry), ended.how) for ended in outcome.ended]
        return outcome

    def states(self, second: int) -> dict[str, State]:
        """The state of each entry in force, by what it is called."""
        return {called(entry): state_of(entry, at(second)) for entry in self.automation.entries}

    def delivered(self) -> dict[str, int]:
        """How many deliveries have counted, by what the entry is called."""
        entries, stories = self.automation.entries, self.automation.episodes
        return {called(entry): stories[entry.key].delivered for entry in entries}

    def key(self, name: str) -> str:
        """The key of the entry in force that is called so."""
        (found,) = (entry.key for entry in self.automation.entries if called(entry) == name)
        return found

    def options(self, domain: str = DOMAIN) -> dict[str, Any]:
        """What the overlay sets."""
        overlay = tomllib.loads(self.view.overlay.text())
        found: dict[str, Any] = overlay.get(domain, {}).get("sources", {}).get("ip1", {})
        return found


def _commit_counts(saved: Saved, changes: Transaction) -> None:
    saved.threshold_counts.update(changes.threshold_counts)
    for scope, second in list(saved.threshold_counts):
        if second < changes.prune_thresholds.get(scope, 0):
            del saved.threshold_counts[scope, second]


def called(entry: Entry) -> str:
    """The option that it sets, else its kind."""
    if isinstance(entry, Override):
        return f"{entry.name} then" if entry.probe is not None else entry.name
    return "suspension" if isinstance(entry, ReadyQSuspension) else entry.kind
