"""Notifications: what begins and ends, on its way into the outbox and out of it.

In: outcomes, before they are committed; the rules, for whom they name; the conditions
of the service; the path of ``notify.toml``.  Out: rows that are committed together
with the outcome; messages to the targets; conditions, counts and a part of the status.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidecar.automation.decide import Outcome
from sidecar.automation.entries import Entry, Override, ReadyQSuspension
from sidecar.automation.episodes import Ended, Episode
from sidecar.notify.alarms import Alarms
from sidecar.notify.check import unknown_targets
from sidecar.notify.delivery import Delivery
from sidecar.notify.event import Event
from sidecar.notify.file import load_targets
from sidecar.notify.outbox import Queue, Rows, restore
from sidecar.notify.sending import NO_APPRISE, has_apprise
from sidecar.notify.targets import LISTED, AppriseTarget, Targets
from sidecar.problems import Problem, ProblemError
from sidecar.shaping.hashes import action_hash
from sidecar.shaping.load import Shaping
from sidecar.shaping.rules import Rule
from sidecar.store import Transaction
from sidecar.times import NS, format_rfc3339
from sidecar.tools.standing import standing
from sidecar.tools.text import counted, shown_duration, shown_entry

from .logging import Log
from .threads import in_thread

if TYPE_CHECKING:
    from sidecar.publish.metrics import Metrics

    from .commits import Commits

_LONG_NS = 900 * NS
"""How long a target fails before it is an error of the service."""

_CONDITION = "condition "
_NAMED = 5


class Notifications:
    """The targets, the outbox, and the delivery of what is in it.

    ``commits`` is given once there are some: :meth:`attach`.
    """

    def __init__(
        self,
        saved: Mapping[str, str],
        file: Path,
        *,
        log: Log,
        metrics: Metrics,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._log = log
        self._metrics = metrics
        self._clock = clock
        self._file = file
        self._failure: tuple[Problem, ...] = ()
        self._unknown: tuple[Problem, ...] = ()
        self._rules: Mapping[str, Rule] = {}
        self._shown: set[str] = set()
        self._outbox, self._cleaning, reasons = restore(saved)
        for reason in reasons:
            log.problem(Problem("warning", "state-entry", f"left out of the outbox: {reason}"))
        self._delivery = Delivery(
            self._outbox,
            Targets(),
            host=socket.gethostname(),
            commit=self._commit,
            clock=clock,
            told=self._note_attempt,
        )
        self._alarms = Alarms(
            subject.removeprefix(_CONDITION)
            for subject in self._outbox.told
            if subject.startswith(_CONDITION)
        )
        self._commits: Commits | None = None
        self._use(_load(file))

    def attach(self, commits: Commits) -> None:
        """From now on have what changes committed by `commits`."""
        self._commits = commits
        commits.add(Transaction(outbox=self._cleaning))
        self._cleaning = {}

    async def run(self) -> None:
        """Bring to the targets what is told, for ever."""
        await self._delivery.run()

    # What is told.

    def follow(self, shaping: Shaping) -> None:
        """From now on the rules are these."""
        rules = shaping.all_rules()
        self._rules = {action_hash(rule, action): rule for rule in rules for action in rule.actions}
        self._look_for_unknown()

    def rows_of(self, outcome: Outcome) -> Rows:
        """The rows that tell what began and what ended; to be committed with `outcome`."""
        rows = self._rows_of_ended(outcome.ended)
        for entry, episode in outcome.began:
            if entry.simulated or (isinstance(entry, Override) and entry.probe is not None):
                continue  # what comes after a suspension is told of with it
            rule = self._rules.get(entry.action_hash)
            names = () if rule is None else rule.sidecar.notify
            rows |= self._delivery.begin(str(episode.id), _began(entry, episode, outcome), names)
        # What began and ended in one outcome is told in this order.
        return rows | self._rows_of_ended(outcome.ended)

    def _rows_of_ended(self, stories: Iterable[Ended]) -> Rows:
        rows = Rows()
        for ended in stories:
            subject = str(ended.episode.id)
            if subject in self._outbox.told:
                rows |= self._delivery.end(subject, _ended(ended))
        return rows

    def watch(self, conditions: Iterable[Problem]) -> None:
        """Have it told what is wrong with the service itself, when it lasts."""
        wrong = {p.code: str(p) for p in conditions if p.level == "error"}
        began, ended = self._alarms.look(wrong, time.monotonic())
        rows, at_ns = Rows(), self._clock()
        for code, text in began.items():
            rows |= self._delivery.begin(
                _CONDITION + code,
                Event(f"{code}.{at_ns}.began", "began", at_ns, "service", code, text),
                (),
            )
        for code in ended:
            what = "is well again"
            event = Event(f"{code}.{at_ns}.ended", "ended", at_ns, "service", code, what)
            rows |= self._delivery.end(_CONDITION + code, event)
        if rows:
            self._commit(rows)

    def rows(self) -> dict[str, str]:
        """The whole outbox, for a state file that lost what it had."""
        return self._outbox.rows()

    # Settings.

    async def reload(self) -> None:
        """Read the targets again; where that fails, the last good ones stay."""
        self._use(await in_thread(lambda: _load(self._file)))

    def _use(self, loaded: Targets | tuple[Problem, ...]) -> None:
        if isinstance(loaded, tuple):
            for problem in loaded:
                self._log.problem(problem)
            self._failure = loaded
            return
        self._failure = ()
        rows, given_up = self._delivery.replace(loaded)
        for name in self._shown - loaded.by_name.keys():
            self._hide(name)
        for name, count in given_up.items():
            self._log.warning(
                "a target is gone from the settings, and with it what it was not told",
                target=name,
                events=count,
            )
        if self._commits is None:
            self._cleaning |= rows
        elif rows:
            self._commit(rows)
        self._look_for_unknown()

    def _look_for_unknown(self) -> None:
        before, targets = self._unknown, self._delivery.targets
        if self._failure and not targets.by_name:
            return  # the file was never read: that is what is wrong
        self._unknown = tuple(unknown_targets(dict.fromkeys(self._rules.values()), targets))
        for problem in self._unknown:
            if problem not in before:
                self._log.problem(problem)

    # How it is.

    def conditions(self) -> Iterator[Problem]:
        """What is wrong with the targets."""
        yield from self._failure
        if len(self._unknown) <= _NAMED:
            yield from self._unknown
        else:
            yield from self._unknown[: _NAMED - 1]
            more = len(self._unknown) - _NAMED + 1
            message = f"and {more} more rules name targets that there are not"
            yield Problem("warning", "notify-unknown-target", message, file=str(self._file))
        targets = self._delivery.targets.by_name
        if any(isinstance(t, AppriseTarget) for t in targets.values()) and not has_apprise():
            yield Problem("error", "notify-no-apprise", NO_APPRISE, file=str(self._file))
        for name in targets:
            fate = self._outbox[name].fate
            if fate.failing_since_ns and self._clock() - fate.failing_since_ns >= _LONG_NS:
                since = format_rfc3339(fate.failing_since_ns // NS * NS)
                message = (
                    f"target {name} has not been told anything since {since}: "
                    f"{fate.last_error}; try `tsa-sidecar notify --test {name}`"
                )
                yield Problem("error", "notify-failing", message)

    def document(self) -> Mapping[str, Any]:
        """For the status: each target by name."""
        targets = self._delivery.targets.by_name
        return {
            name: {
                "kind": target.kind,
                "place": target.place,
                "default": target.default,
                **queue_document(self._outbox[name]),
            }
            for name, target in targets.items()
        }

    def show(self) -> None:
        """Set the gauges."""
        metrics, now_ns = self._metrics, self._clock()
        self._shown = set(self._delivery.targets.by_name)
        for name in self._shown:
            queue = self._outbox[name]
            oldest_ns = queue.oldest_ns
            age = 0.0 if oldest_ns is None else max(0.0, (now_ns - oldest_ns) / NS)
            metrics.notify_waiting.labels(name).set(queue.count)
            metrics.notify_oldest.labels(name).set(age)
            metrics.notify_dropped.labels(name).set(queue.fate.dropped)

    def _hide(self, name: str) -> None:
        """Take a target that is gone out of the metrics."""
        metrics = self._metrics
        for gauge in (metrics.notify_waiting, metrics.notify_oldest, metrics.notify_dropped):
            gauge.remove(name)
        for outcome in ("sent", "failed"):
            with contextlib.suppress(KeyError):  # there may have been none
                metrics.notify_messages.remove(name, outcome)

    def _note_attempt(self, target: str, error: str | None) -> None:
        """Count it; say the first failure in a row, and the end of the row."""
        outcome = "sent" if error is None else "failed"
        self._metrics.notify_messages.labels(target, outcome).inc()
        failures = self._outbox[target].fate.failures
        if error is not None and not failures:
            self._log.warning(
                "a notification was not taken; it is tried again", target=target, reason=error
            )
        elif error is None and failures:
            self._log.info("the target takes notifications again", target=target)

    def _commit(self, rows: Rows) -> asyncio.Future[None]:
        assert self._commits is not None
        self._commits.add(Transaction(outbox=rows))
        return self._commits.committed()


def queue_document(queue: Queue) -> dict[str, Any]:
    """What waits for a target, and how it has fared, as JSON has it."""
    fate, oldest_ns = queue.fate, queue.oldest_ns
    return {
        "waiting": queue.count,
        "oldest": None if oldest_ns is None else format_rfc3339(oldest_ns),
        "sent": fate.sent,
        "failed": fate.failed,
        "dropped": fate.dropped,
        "last_sent": format_rfc3339(fate.last_sent_ns) if fate.last_sent_ns else None,
        "failing_since": format_rfc3339(fate.failing_since_ns) if fate.failing_since_ns else None,
        "last_error": fate.last_error or None,
    }


def rows_of_ended(saved: Mapping[str, str], ended: Iterable[Ended]) -> Rows:
    """The rows that tell the end of what is taken back while no service runs."""
    outbox, _, _ = restore(saved)
    rows = Rows()
    for one in ended:
        subject = str(one.episode.id)
        if subject in outbox.told:
            rows |= outbox.end(subject, _ended(one), lambda _name: LISTED)
    return rows


def _load(file: Path) -> Targets | tuple[Problem, ...]:
    """The targets, or why there are none."""
    try:
        return load_targets(file, os.environ)
    except ProblemError as error:
        return error.problems


def _began(entry: Entry, episode: Episode, outcome: Outcome) -> Event:
    until = format_rfc3339(entry.expires_ns // NS * NS)
    cause = "" if episode.latest is None else f" ({episode.latest.response})"
    note = f"; {episode.note}" if episode.note else ""
    limits = (one for one in outcome.entries.values() if isinstance(one, Override))
    then = [one for one in limits if one.probe is not None and one.probe.of == entry.key]
    after = standing(entry, episode, then, entry.expires_ns - 1)
    after = f", {after}" if then else ""
    return Event(
        id=f"{episode.id}.{episode.began_ns}.began",
        kind="began",
        at_ns=episode.began_ns,
        subject="episode",
        label=episode.label,
        what=f"{shown_entry(entry)} until {until}{after}{cause}{note}",
        fields={**_fields(entry, episode), "expires": format_rfc3339(entry.expires_ns)},
    )


def _ended(ended: Ended) -> Event:
    entry, episode = ended.entry, ended.episode
    lasted = shown_duration((ended.at_ns - episode.began_ns) // NS * NS)
    by = f" by {ended.by}" if ended.by else ""
    if ended.how == "released":
        by = f" by {counted(episode.delivered, 'delivery')}"
    why = f" ({ended.reason})" if ended.reason else ""
    return Event(
        id=f"{episode.id}.{episode.began_ns}.ended",
        kind="ended",
        at_ns=ended.at_ns,
        subject="episode",
        label=episode.label,
        what=f"{shown_entry(entry)} {ended.how}{by} after {lasted}{why}",
        fields={
            **_fields(entry, episode),
            "how": ended.how,
            "by": ended.by or None,
            "reason": ended.reason or None,
        },
    )


def _fields(entry: Entry, episode: Episode) -> dict[str, str | int | None]:
    """What programs go by; the names are documented."""
    cause = episode.latest
    queue = not isinstance(entry, Override | ReadyQSuspension)
    return {
        "episode": episode.id,
        "rule": episode.label,
        "file": episode.file,
        "line": episode.line,
        "note": episode.note or None,
        "kind": entry.kind,
        "site": entry.site,
        "source": getattr(entry, "source", None) or (cause.source if cause else None),
        "domain": getattr(entry, "domain", None) or (cause.domain if cause else None),
        "tenant": getattr(entry, "tenant", None) if queue else None,
        "campaign": getattr(entry, "campaign", None) if queue else None,
        "began": format_rfc3339(episode.began_ns),
        "matches": episode.matches,
        "response": cause.response if cause else None,
    }
