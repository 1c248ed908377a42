"""The decision: matched records and a time in; entries, events and counts out.

The state of the automation (entries in force with their episodes, threshold
windows, the number of the last match) lives here and is changed by the methods of
:class:`Automation` only.  The service, ``replay``, ``explain`` and the tests drive
this same class.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import msgspec
from msgspec.structs import replace

from sidecar.fancy.pattern import Pattern
from sidecar.log.record import Record
from sidecar.shaping.hashes import action_hash
from sidecar.shaping.load import Shaping
from sidecar.shaping.mx import MxAnswer
from sidecar.shaping.rules import Action, Escalate, Rule, Threshold
from sidecar.times import NS

from .address import QueueName, recipient_domain
from .adjusting import at_rest, refitted, strike
from .attempts import Attempts, attempts_of
from .entries import (
    Entries,
    Entry,
    Override,
    Probing,
    ReadyQSuspension,
    SchedQBounce,
    SchedQSuspension,
    Suspension,
    places,
)
from .episodes import Cause, Ended, Episode, How
from .holds import RuleHold, RuleHolds
from .life import HOW, Event
from .matching import Candidate, Match
from .offences import Offences
from .probing import limit_keys, limits, limits_something, proves
from .recent import KEPT, AnyRecent
from .selection import Made
from .shares import Share, Shares, counts, share_of, standing
from .thresholds import Thresholds

LATENESS = KEPT
"""How many seconds behind the newest record another may come and still find its window whole,
and how many ahead of the present one may be without being held for a wrong clock's.
An entry lasts from then at most, whatever its record says."""

_NAMED: Final = 10
"""How many of the entries that were left out an outcome names."""

_STORIES: Final = 100_000
"""How many beginnings and ends of episodes an outcome keeps, for a disk that is full for long."""


@dataclass(slots=True)
class Outcome:
    """What a call changed, for the store and for publishing.

    ``entries``: those put into force, by key; ``dropped``: keys no longer in
    force; ``events``: suspensions and bounces in the order they came about;
    ``counts``: matched records and why outcomes were left out; ``left_out``: the
    first few of the entries for which there was no room; ``not_counted``: a few
    ready queues for whose thresholds there was none; ``unadjusted``: rules that could
    not adjust what they set, and why, so that they set just that; ``rule_matches`` and
    ``rule_effects``: by the rule's label, its matches (each recipient for itself) and the
    entries that they begot or renewed.  ``counted``: entries of which nothing has changed but
    the deliveries in their story: to be committed, and not to be published.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    events: list[Suspension] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    left_out: list[Entry] = field(default_factory=list)
    not_counted: list[str] = field(default_factory=list)
    episodes: dict[str, Episode] = field(default_factory=dict)
    began: list[tuple[Entry, Episode]] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    unadjusted: set[str] = field(default_factory=set)
    rule_matches: Counter[str] = field(default_factory=Counter)
    rule_effects: Counter[str] = field(default_factory=Counter)
    counted: dict[str, tuple[Entry, Episode]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether anything in force has changed."""
        return bool(self.entries or self.dropped)

    def put(self, key: str, entry: Entry, episode: Episode) -> None:
        """Note that `entry` is in force, and its story so far."""
        self.entries[key] = entry
        self.episodes[key] = episode
        self.dropped.discard(key)
        if self.counted:
            self.counted.pop(key, None)

    def count(self, key: str, entry: Entry, episode: Episode) -> None:
        """Note that the story of an entry in force has gone on, which it is not told for."""
        if key in self.entries:
            self.episodes[key] = episode
        else:
            self.counted[key] = entry, episode

    def drop(self, key: str) -> None:
        """Note that the entry is not in force any more."""
        self.entries.pop(key, None)
        self.episodes.pop(key, None)
        self.counted.pop(key, None)
        self.dropped.add(key)

    def end(self, ended: Ended) -> None:
        """Note that an entry is not in force any more, and how its story ended."""
        self.drop(ended.entry.key)
        self.ended.append(ended)

    def add(self, later: Outcome) -> None:
        """Make this the outcome of the calls that had this one and then `later`."""
        for key in later.dropped:
            self.drop(key)
        for key, entry in later.entries.items():
            self.put(key, entry, later.episodes[key])
        for key, (entry, episode) in later.counted.items():
            self.count(key, entry, episode)
        self.events += later.events
        self.began += later.began[: _STORIES - len(self.began)]
        self.ended += later.ended[: _STORIES - len(self.ended)]
        self.counts.update(later.counts)
        self.left_out += later.left_out[: _NAMED - len(self.left_out)]
        self.not_counted += later.not_counted[: _NAMED - len(self.not_counted)]
        self.unadjusted |= later.unadjusted
        self.rule_matches.update(later.rule_matches)
        self.rule_effects.update(later.rule_effects)


_Draft: TypeAlias = tuple[str, Entry | str]
"""An entry with its key, but for time and number; or why there is none."""


@dataclass(frozen=True, slots=True)
class _Step:
    """What one rule does to records that differ in nothing but time: everything but times."""

    rule: Rule
    label: str
    """The rule's."""
    trigger: Threshold | None
    share: Share | None
    """The windows of the rule's ratio, which stands in place of the trigger."""
    window: str
    """The key of the window of matches; "" without one."""
    duration_ns: int
    drafts: tuple[_Draft, ...]
    courses: tuple[_Draft, ...]
    """Those of the drafts that last as long as it takes, whatever the duration."""
    escalate: Escalate | None
    unadjusted: frozenset[str]
    """What of the rule should have a course and has none, and why."""
    held: Mapping[str, int]
    """Until when an operator holds which of the drafts and limits, by key."""
    limits: tuple[Override, ...] = ()
    """What holds for a while when the suspension among the drafts is over."""
    limits_for_ns: int = 0
    """For how long."""


_Kind: TypeAlias = tuple[tuple[Match, ...], str, str, str, str, tuple[str, ...] | None]
"""Records that the same rules do the same to: the matches, the recipient's domain, the site, the
source, and the queue and the domain's MX where they matter."""

_Plan: TypeAlias = tuple[_Step, ...]


_Cause: TypeAlias = tuple[Record, str] | tuple[Record, str, str]
"""A record, the recipient's domain, and the host whose log it is from where that is another."""


class _Made(msgspec.Struct, gc=False):
    """The draft of an entry, of which only the last of a call is worth making.

    ``first`` and ``latest``: the records that asked for it, each with the recipient's
    domain; ``matches``: how many times it was asked for.  ``awaits``: deliveries end it;
    for these ``struck_ns`` is the time of the newest record, for others 0.
    """

    draft: Entry
    expires_ns: int
    seq: int
    step: _Step
    first: _Cause
    latest: _Cause
    awaits: bool
    struck_ns: int
    matches: int = 1
    recent: AnyRecent | None = None
    """In a group: the recent strikes, where they tell what the entry is to be."""


@dataclass(slots=True)
class _Round:
    """One call of :meth:`Automation.apply`: its moment, and what has come of it so far.

    ``made``: by key what is to be in force.  ``new``: how many places those of its
    keys take that are not in force yet.  ``overtaken``: keys of which a record behind
    this one was decided before it.  ``awaits``: deliveries may end something in ``made``.
    """

    now_ns: int
    latest_ns: int
    mx: Mapping[str, MxAnswer]
    new: int = 0
    overtaken: set[str] = field(default_factory=set)
    outcome: Outcome = field(default_factory=Outcome)
    made: dict[str, _Made] = field(default_factory=dict)
    awaits: bool = False


def threshold_scope(rule: Rule, site: str) -> str:
    """The key of a threshold window: its period, its rule and the ready queue's name."""
    assert rule.trigger is not None
    return f"{rule.trigger.period} {rule.hash} {site}"


def scope_period(scope: str) -> int:
    """The period within a key of :func:`threshold_scope`; ValueError for other text."""
    digits = scope.split(" ", 1)[0]
    if re.fullmatch(r"[1-9][0-9]{0,9}", digits) is None:
        raise ValueError(f"{digits[:20]!r} is no period in seconds")
    return int(digits)


class Automation:
    """The automation's state, and the only code that changes it."""

    __slots__ = (
        "_hashes",
        "_planned_for",
        "_plans",
        "_shares",
        "entries",
        "episode_id",
        "episodes",
        "holds",
        "host",
        "max_entries",
        "needs_attempts",
        "newest_ns",
        "offences",
        "seq",
        "thresholds",
    )

    _PLANS_MAX: Final = 4096
    _PLAN_LENGTH: Final = 512

    def __init__(self, *, max_entries: int | None = None) -> None:
        """`max_entries`: how many may be in force, and windows be counted (None: any number).

        More exactly: how many places the entries may take, and how many the windows.
        """
        self.max_entries = max_entries
        """What is in force already is renewed past it, too, and never taken out for another."""
        self.entries = Entries()
        self.episodes: dict[str, Episode] = {}
        """The story of each entry in force, by key."""
        self.episode_id = 0
        """The latest id of an episode."""
        self.holds = RuleHolds()
        """What operators have said must not strike: changed by :meth:`hold` and the like only."""
        self.thresholds = Thresholds()
        self.offences = Offences()
        """Whom rules with ``escalate`` have held."""
        self.host = ""
        """Whose record is decided; "" for this host's own."""
        self.seq = 0
        """Number of the last match that had an outcome."""
        self.newest_ns = 0
        """Time of the newest record that matched or was counted as an attempt.

        Those of a clock ahead of time are left out.
        """
        self._hashes: dict[tuple[str, int], str] = {}
        # What rules make of records that differ in nothing that they look at.
        self._plans: dict[_Kind, _Plan] = {}
        self._planned_for: Shaping | None = None
        self._shares = Shares()
        self.needs_attempts = False
        """Whether some rule of those that are followed needs attempts."""

    def apply(
        self,
        happened: Iterable[Candidate | Attempts],
        *,
        mx: Mapping[str, MxAnswer],
        now_ns: int,
    ) -> Outcome:
        """Decide what `happened`, in order, leads to at `now_ns`.

        `mx` holds the MX of every candidate's domain that needs one and resolves.
        """
        latest_ns = now_ns + LATENESS * NS
        now = _Round(now_ns, latest_ns, mx)
        matched = 0
        for candidate in happened:
            if isinstance(candidate, dict):
                self._count_attempts(candidate, now)
                continue
            if candidate.common.shaping is not self._planned_for:  # the rules were loaded anew
                self.follow(candidate.common.shaping)
            if self.needs_attempts and not candidate.attempted:
                self._count_attempts(attempts_of(candidate.record), now)
            matches = candidate.matches(mx.get(candidate.domain))
            if not matches:
                continue
            matched += not candidate.counted
            record, self.host = candidate.record, candidate.host
            if not self._note_time(record.time_ns, now):
                now.outcome.counts["dated_ahead"] += not candidate.counted
            self._act(now, matches, record, candidate.domain)
            if len(record.recipients) > 1:
                self._act_for_others(now, matches, candidate)
        outcome = now.outcome
        outcome.counts["matched"] = matched
        self._settle(now)
        if now.overtaken:
            outcome.events = [event for event in outcome.events if event.key not in now.overtaken]
        return outcome

    def follow(self, shaping: Shaping) -> None:
        """Count attempts as these rules need it, before they have a candidate."""
        if shaping is self._planned_for:
            return
        self._plans.clear()
        self._planned_for = shaping
        rules = shaping.all_rules()
        self._shares = Shares(rules)
        self.needs_attempts = any(rule.sidecar.needs_attempts for rule in rules)

    def _count_attempts(self, attempts: Attempts, now: _Round) -> None:
        """Count what was delivered and refused, and do what that leads to."""
        if not self.needs_attempts:
            return
        latest, newest = now.latest_ns // NS, 0
        thresholds, windows_of = self.thresholds, self._shares.windows
        room = sys.maxsize if self.max_entries is None else self.max_entries
        for (queue, source, domain, tenant, delivered, second), count in attempts.items():
            if second > latest:
                continue
            newest = max(newest, second)
            for window in windows_of(queue, source, domain, tenant):
                if window.deliveries_only and not delivered:
                    continue
                if thresholds.places < room or self._has_room_to_count(
                    now, window.scope, queue, count
                ):
                    at = second - second % window.step
                    thresholds.record(window.scope, window.period, at, count, latest=latest)
        # Where nothing matches for long, windows of attempts are forgotten all the same.
        self._note_time(newest * NS, now)
        now.outcome.counts["attempts"] += sum(attempts.values())
        deliveries = sum(n for key, n in attempts.items() if key[4])
        now.outcome.counts["delivered"] += deliveries
        if deliveries:
            self._delivered(attempts, now)

    def _delivered(self, attempts: Attempts, now: _Round) -> None:
        """Count deliveries for the entries that they may end, and end those that have enough."""
        if now.awaits:
            self._settle(now)
        if not self.entries.await_deliveries:
            return
        for (site, source, domain, _, delivered, second), count in attempts.items():
            if not delivered or second * NS > now.latest_ns:
                continue
            for entry in self.entries.awaiting(site, domain, source):
                key, story = entry.key, self.episodes[entry.key]
                if not proves(entry, story, second):
                    continue
                story = replace(story, delivered=min(entry.release, story.delivered + count))
                if story.delivered < entry.release:
                    self.episodes[key] = story
                    now.outcome.count(key, entry, story)
                else:
                    self.entries.remove(key)
                    del self.episodes[key]
                    now.outcome.end(Ended(entry, story, now.now_ns, HOW[Event.PROVEN]))

    def _settle(self, now: _Round) -> None:
        """Take what was made so far into force."""
        for key, made in now.made.items():
            self._put(key, made, now)
        now.made.clear()
        now.new, now.awaits = 0, False

    def _put(self, key: str, made: _Made, now: _Round) -> None:
        """Take what was made into force, or renew it; its story begins or goes on."""
        known = self.entries.get(key)
        if known is not None and known.expires_ns <= now.now_ns:
            # It had expired, and nobody had looked.
            how = HOW[Event.EXPIRED]
            now.outcome.end(Ended(known, self.episodes[key], known.expires_ns, how))
            known = None
        if known is not None and known.seq > made.seq:
            # A record behind this one was decided before it: what that decided stands.
            now.overtaken.add(key)
            entry, episode = known, self._go_on(key, made, now, overtaken=True)
        else:
            draft = made.draft
            entry = draft if draft.seq else replace(draft, expires_ns=made.expires_ns, seq=made.seq)
            episode = self._begin(made, now) if known is None else self._go_on(key, made, now)
            self.entries.put(entry)
            if known is None:
                now.outcome.began.append((entry, episode))
        self.episodes[key] = episode
        now.outcome.put(key, entry, episode)

    def _begin(self, made: _Made, now: _Round) -> Episode:
        self.episode_id += 1
        step, latest = made.step, Cause.of(*made.latest)
        story = Episode(
            id=self.episode_id,
            began_ns=now.now_ns,
            matches=made.matches,
            first=latest if made.matches == 1 else Cause.of(*made.first),
            latest=latest,
            struck_ns=made.struck_ns if made.awaits else 0,
        )
        return story.by_rule(step.rule, step.window)

    def _go_on(self, key: str, made: _Made, now: _Round, *, overtaken: bool = False) -> Episode:
        story = self.episodes[key].by_rule(made.step.rule, made.step.window)
        if made.awaits:
            story = _struck(story, made.struck_ns, now.latest_ns)
        return replace(
            story,
            matches=story.matches + made.matches,
            first=story.first or Cause.of(*made.first),
            latest=story.latest if overtaken else Cause.of(*made.latest),
        )

    def mark_gone(self, rules: Iterable[Rule]) -> Outcome:
        """Note of which entries the rule is no more, or is again; what has changed."""
        outcome = Outcome()
        known = {action_hash(rule, action) for rule in rules for action in rule.actions}
        for entry in self.entries:
            story = self.episodes[entry.key]
            if story.rule_gone != (entry.action_hash not in known):
                story = replace(story, rule_gone=not story.rule_gone)
                self.episodes[entry.key] = story
                outcome.put(entry.key, entry, story)
        return outcome

    def refit(
        self,
        shaping: Shaping,
        *,
        now_ns: int,
        mx_of: Callable[[str], MxAnswer | None] = lambda _domain: None,
    ) -> Outcome:
        """Have what adjusts itself stay below what the files set by now; what has changed.

        Where that is not above the floor any more, or not known, what the files set holds.
        So it does where it may not be above a limit for the time after a suspension.
        `mx_of`: what is known of a domain's MX without asking.
        """
        outcome = Outcome()
        for entry in [e for e in self.entries if isinstance(e, Override) and e.probe is not None]:
            mx = shaping.mx.get(entry.domain) or mx_of(entry.domain)
            if not limits_something(entry, shaping, mx):
                self.entries.remove(entry.key)
                story = self.episodes.pop(entry.key)
                outcome.end(Ended(entry, story, now_ns, HOW[Event.NOTHING_LEFT]))
        courses = [e for e in self.entries if isinstance(e, Override) and e.course is not None]
        if not courses:
            return outcome
        known = {
            action_hash(rule, action): (action, rule.sidecar.adjust)
            for rule in shaping.all_rules()
            if rule.sidecar.adjust is not None
            for action in rule.actions
        }
        for entry in courses:
            if entry.action_hash not in known:  # it comes back by the law that it began with
                continue
            action, adjust = known[entry.action_hash]
            mx = shaping.mx.get(entry.domain) or mx_of(entry.domain)
            rest = at_rest(entry, action, adjust, shaping=shaping, mx=mx)
            if isinstance(rest, str) and mx is None and shaping.providers:
                continue  # the next match knows the MX
            fitted = entry if isinstance(rest, str) else refitted(entry, rest)
            if isinstance(rest, str) or fitted.expires_ns <= now_ns:
                self.entries.remove(entry.key)
                story = self.episodes.pop(entry.key)
                outcome.end(Ended(entry, story, now_ns, HOW[Event.NOTHING_LEFT]))
            elif fitted is not entry:
                self.entries.put(fitted)
                outcome.put(fitted.key, fitted, self.episodes[fitted.key])
        return outcome

    def reserve(self, candidate: Candidate) -> int:
        """Keep numbers free for a candidate that is decided later; returns the one before them."""
        before = self.seq
        self.seq += max(1, candidate.most_outcomes())
        return before

    def apply_late(
        self, candidate: Candidate, *, mx: MxAnswer | None, now_ns: int, before: int
    ) -> Outcome:
        """Decide a candidate that has waited, with the numbers that were kept free for it.

        `before` is what :meth:`reserve` gave.  What a record behind it has
        decided stands.
        """
        newest = self.seq
        self.seq = before
        try:
            known = {} if mx is None else {candidate.domain: mx}
            outcome = self.apply((candidate,), mx=known, now_ns=now_ns)
        finally:
            self.seq = max(newest, self.seq)
        return outcome

    def expire(self, now_ns: int) -> Outcome:
        """End the entries that have expired by `now_ns`."""
        outcome = Outcome()
        for entry in self.entries.expire(now_ns):
            story = self.episodes.pop(entry.key)
            outcome.end(Ended(entry, story, entry.expires_ns, HOW[Event.EXPIRED]))
        return outcome

    def cancel(
        self, keys: Iterable[str], *, now_ns: int, how: How, by: str = "", reason: str = ""
    ) -> Outcome:
        """Take entries out of force; the counts behind them start anew.

        A suspension takes the limits with it that would hold after it.  The windows are those
        of the episodes that ended: the store must drop them, too.
        """
        outcome = Outcome()
        for key in self._with_limits(keys):
            entry = self.entries.remove(key)
            if entry is not None:
                story = self.episodes.pop(key)
                self.thresholds.drop(story.window)
                self.offences.drop(key)
                outcome.end(Ended(entry, story, now_ns, how, by, reason))
        return outcome

    def _with_limits(self, keys: Iterable[str]) -> Iterator[str]:
        """The keys, and those of the limits that belong to suspensions among them."""
        for key in keys:
            entry = self.entries.get(key)
            yield key
            if entry is not None:
                yield from limit_keys(entry)

    def hold(self, hold: RuleHold) -> None:
        """Have nothing that `hold` means struck until its end, and count nothing towards it."""
        self.holds.put(hold)
        self._plans.clear()

    def release(self, ids: Iterable[int]) -> list[RuleHold]:
        """End the holds with these ids; returns those that there were."""
        self._plans.clear()
        return self.holds.remove(ids)

    def forget_holds(self, now_ns: int) -> list[int]:
        """Forget the holds that are over, for what is logged late as well; their ids."""
        over = self.holds.over(now_ns - LATENESS * NS)
        if over:
            self.release(over)
        return over

    def restore(self, entry: Entry, episode: Episode | None = None) -> None:
        """Take an entry of an earlier run into force; without `episode` its story begins here."""
        if episode is None:
            self.episode_id += 1
            episode = Episode(id=self.episode_id, began_ns=0, matches=0)
        self.entries.put(entry)
        self.episodes[entry.key] = episode

    def forget_idle_thresholds(self) -> list[str]:
        """Drop windows that can't count any more, and old offences; returns the windows' scopes."""
        self.offences.forget(self.newest_ns - LATENESS * NS)
        return self.thresholds.forget_idle(self.newest_ns // NS - LATENESS)

    def _note_time(self, time_ns: int, now: _Round) -> bool:
        """Note that a record has that time; False where it is dated ahead, and not noted."""
        if self.newest_ns > now.latest_ns:  # noted when our own clock was ahead
            self.newest_ns = 0
        if time_ns > now.latest_ns:
            return False
        self.newest_ns = max(self.newest_ns, time_ns)
        return True

    def _act_for_others(
        self, now: _Round, matches: tuple[Match, ...], candidate: Candidate
    ) -> None:
        """For the recipients but the first.

        Upstream picks the rules by the first, then runs them once per
        recipient, and gives up at one that it can't parse.
        """
        record = candidate.record
        for recipient in record.recipients[1:]:
            try:
                domain = recipient_domain(recipient)
            except ValueError:
                now.outcome.counts["bad_recipient"] += not candidate.counted
                return
            if domain is not None:
                self._act(now, matches, record, domain)

    def _act(self, now: _Round, matches: tuple[Match, ...], record: Record, domain: str) -> None:
        """What the matching rules do for one recipient."""
        outcome, now_ns = now.outcome, now.now_ns
        time_ns = min(record.time_ns, now.latest_ns)
        for step in self._plan(matches, record, domain, now.mx):
            outcome.rule_matches[step.label] += 1
            held = _held_keys(step, min(time_ns, now_ns)) if step.held else ()
            if held and all(key in held for key, _ in step.drafts if key):
                outcome.counts["held"] += 1
                continue
            if step.share is not None:
                if not self._is_over(now, step.share, record):
                    continue
            elif step.trigger is not None and not self._reached(now, step.trigger, step, record):
                continue
            expires_ns, drafts = time_ns + step.duration_ns, step.drafts
            if expires_ns <= now_ns and step.escalate is None:
                drafts = step.courses
                probes = step.limits and self._probe(now, step, record, domain, expires_ns)
                outcome.counts["already_expired"] += not (drafts or probes)
            if step.unadjusted:
                outcome.unadjusted |= step.unadjusted
            for key, draft in drafts:
                self.seq += 1
                if key in held:
                    continue
                if isinstance(draft, str):
                    outcome.counts[draft] += 1
                    continue
                if step.escalate is not None and (key, draft) not in step.courses:
                    expires_ns = time_ns + self.offences.strike(
                        key, step.escalate, step.duration_ns, time_ns, room=self.max_entries
                    )
                    if expires_ns <= now_ns:
                        probes = step.limits and self._probe(now, step, record, domain, expires_ns)
                        outcome.counts["already_expired"] += not probes
                        continue
                made = now.made.get(key)
                if made is None and not self._may_make(now, key, draft, expires_ns):
                    continue
                outcome.rule_effects[step.label] += 1
                entry: Entry = draft
                if isinstance(draft, Override) and draft.course is not None:
                    entry = strike(draft, self._held(now, key), at_ns=time_ns, seq=self.seq)
                elif not isinstance(draft, Override):
                    entry = event = replace(draft, expires_ns=expires_ns, seq=self.seq)
                    outcome.events.append(event)
                ends_ns = entry.expires_ns or expires_ns
                if made is None:
                    cause = record, domain
                    self._make(now, key, entry, ends_ns, step=step, cause=cause, time_ns=time_ns)
                else:  # as in _make: a call for each match takes its time
                    made.draft, made.expires_ns, made.seq = entry, ends_ns, self.seq
                    made.latest, made.matches = (record, domain), made.matches + 1
                    if made.awaits:
                        made.struck_ns = max(made.struck_ns, time_ns)
                if step.limits and isinstance(entry, ReadyQSuspension):
                    self._probe(now, step, record, domain, expires_ns)

    def _may_make(self, now: _Round, key: str, draft: Entry, expires_ns: int) -> bool:
        """Whether the entry is in force or there is room; where there is none, it is noted."""
        if key in now.made or self.entries.get(key) is not None:
            return True
        if self.max_entries is None or self.entries.places + now.new < self.max_entries:
            now.new += places(key)
            return True
        now.outcome.counts["no_room"] += 1
        if len(now.outcome.left_out) < _NAMED:
            now.outcome.left_out.append(replace(draft, expires_ns=expires_ns, seq=self.seq))
        return False

    def _make(
        self,
        now: _Round,
        key: str,
        entry: Entry,
        ends_ns: int,
        *,
        step: _Step,
        cause: tuple[Record, str],
        time_ns: int,
    ) -> None:
        """Have `entry` come into force at the end of the round, and what `cause` did noted."""
        made = now.made.get(key)
        if made is None:
            awaits = isinstance(entry, Override) and entry.release > 0
            struck_ns = time_ns if awaits else 0
            now.made[key] = _Made(entry, ends_ns, self.seq, step, cause, cause, awaits, struck_ns)
            now.awaits |= awaits
            return
        made.draft, made.expires_ns, made.seq = entry, ends_ns, self.seq
        made.latest, made.matches = cause, made.matches + 1
        if made.awaits:
            made.struck_ns = max(made.struck_ns, time_ns)

    def _probe(self, now: _Round, step: _Step, record: Record, domain: str, from_ns: int) -> bool:
        """Have the limits there for the time after a suspension until `from_ns`; whether any is.

        Where one that ends later holds the queue, they are for the time after that one.
        """
        expires_ns, any_is = from_ns + step.limits_for_ns, False
        if expires_ns <= now.now_ns:
            return False
        at_ns = min(record.time_ns, now.now_ns)
        for draft in step.limits:
            assert draft.probe is not None
            key, of = draft.key, draft.probe.of
            holds = now.made[of].draft if of in now.made else self.entries.get(of)
            if from_ns <= now.now_ns and holds is not None and holds.expires_ns > now.now_ns:
                return False
            held_ns = max(step.held.get(one, 0) for one in (key, of))
            if at_ns < held_ns or not self._may_make(now, key, draft, expires_ns):
                continue
            before = self._held(now, key)
            limit = replace(
                draft,
                domain=draft.domain if before is None else before.domain,
                probe=Probing(of, from_ns),
                expires_ns=expires_ns,
                seq=self.seq,
            )
            time_ns = min(record.time_ns, now.latest_ns)
            self._make(
                now, key, limit, expires_ns, step=step, cause=(record, domain), time_ns=time_ns
            )
            any_is = True
        return any_is

    def _held(self, now: _Round, key: str) -> Override | None:
        """The override of `key` that this round or one before has made."""
        entry = now.made[key].draft if key in now.made else self.entries.get(key)
        return entry if isinstance(entry, Override) else None

    def _reached(self, now: _Round, trigger: Threshold, step: _Step, record: Record) -> bool:
        """Count a match of `record`; whether there are as many now as the trigger asks for."""
        if not self._has_room_to_count(now, step.window, record.site, 1):
            return trigger.limit <= 1
        count = self.thresholds.record(
            step.window,
            trigger.period,
            record.time_ns // NS,
            enough=trigger.limit,
            latest=now.latest_ns // NS,
        )
        return count >= trigger.limit

    def _is_over(self, now: _Round, share: Share, record: Record) -> bool:
        """Count a match of `record`; whether there are more of them than the rule's share."""
        ratio, latest = share.ratio, now.latest_ns // NS
        second = record.time_ns // NS
        if not counts(ratio, record) or second > latest:
            return False
        if not self._has_room_to_count(now, share.matches, record.site, 1):
            return False
        at = second - second % ratio.step
        self.thresholds.record(share.matches, ratio.period, at, latest=latest)
        if at < self.thresholds.first_of(ratio.period, share.matches, share.attempts):
            return False  # it is too late to count
        return standing(self.thresholds, share).is_over(ratio)

    def _has_room_to_count(self, now: _Round, window: str, ready_queue: str, count: int) -> bool:
        """Whether `count` more can be counted in `window`, one of those of `ready_queue`."""
        if (
            self.max_entries is None
            or self.thresholds.places < self.max_entries
            or window in self.thresholds
        ):
            return True
        now.outcome.counts["no_room_to_count"] += count
        if len(now.outcome.not_counted) < _NAMED:
            now.outcome.not_counted.append(ready_queue)
        return False

    def _plan(
        self,
        matches: tuple[Match, ...],
        record: Record,
        domain: str,
        answers: Mapping[str, MxAnswer],
    ) -> _Plan:
        """What `matches` make of `record` for a recipient at `domain`."""
        queue, mx = "", None
        for match in matches:
            if match.by_queue:
                queue = record.queue
            if match.adjusts and self._planned_for is not None:
                mx = answers.get(domain) or self._planned_for.mx.get(domain)
        hosts = None if mx is None else mx.hosts
        kind = matches, domain, record.site, record.egress_source, queue, hosts
        plan = self._plans.get(kind)
        if plan is None:
            plan = tuple(self._step(match, record, domain, mx) for match in matches)
            if len(record.site) + len(queue) <= self._PLAN_LENGTH:
                if len(self._plans) >= self._PLANS_MAX:
                    self._plans.clear()
                self._plans[kind] = plan
        return plan

    def _step(self, match: Match, record: Record, domain: str, mx: MxAnswer | None) -> _Step:
        rule = match.rule
        made: list[Entry | str] = []
        unadjusted = set()
        after: dict[str, Override] = {}
        for number, action in enumerate(rule.actions):
            entry = _entry_of(
                action,
                action_hash=self._action_hash(rule, number),
                rule=rule,
                record=record,
                domain=domain,
                reason=_reason(rule, match.pattern),
            )
            if rule.sidecar.adjust is not None and isinstance(entry, Override):
                assert self._planned_for is not None
                course = at_rest(
                    entry, action, rule.sidecar.adjust, shaping=self._planned_for, mx=mx
                )
                if isinstance(course, str):
                    place = f"{rule.file}:{rule.line}: {rule.where}"
                    unadjusted.add(f"{place}: {action.option}: {course}")
                else:
                    entry = course
            if rule.sidecar.probe is not None and isinstance(entry, ReadyQSuspension):
                assert self._planned_for is not None
                found = limits(entry, rule.sidecar.probe, domain, self._planned_for, mx)
                after |= {limit.key: limit for limit in found}
            made.append(entry)
        drafts = tuple(("" if isinstance(one, str) else one.key, one) for one in made)
        share = share_of(rule, record, domain)
        if share is not None:
            window = share.matches
        else:
            window = "" if rule.trigger is None else threshold_scope(rule, record.site)
        known = Made(rule=rule.sidecar.name, place=f"{rule.file}:{rule.line}", domains=(domain,))
        return _Step(
            rule=rule,
            label=rule.label,
            trigger=rule.trigger,
            share=share,
            window=window,
            duration_ns=rule.duration_ns,
            drafts=drafts,
            courses=tuple(
                (key, one)
                for key, one in drafts
                if isinstance(one, Override) and one.course is not None
            ),
            escalate=rule.sidecar.escalate,
            unadjusted=frozenset(unadjusted),
            held={
                key: until_ns
                for key, one in (*drafts, *after.items())
                if self.holds and not isinstance(one, str)
                if (until_ns := self.holds.until_ns(one, known))
            },
            limits=tuple(after.values()),
            limits_for_ns=rule.sidecar.probe.for_ns if rule.sidecar.probe is not None else 0,
        )

    def _action_hash(self, rule: Rule, number: int) -> str:
        key = rule.hash, number
        found = self._hashes.get(key)
        if found is None:
            found = self._hashes[key] = action_hash(rule, rule.actions[number])
        return found


def _struck(story: Episode, struck_ns: int, latest_ns: int) -> Episode:
    """The story of what deliveries end, with a match at `struck_ns`."""
    # What was noted when our own clock was ahead would keep all deliveries from counting.
    if struck_ns <= story.struck_ns <= latest_ns:
        return story  # the record was decided late: the deliveries came after it
    return replace(story, struck_ns=struck_ns, delivered=0)


def _held_keys(step: _Step, at_ns: int) -> Container[str]:
    """The keys of the drafts of `step` that an operator holds at that moment."""
    return {key for key, until_ns in step.held.items() if at_ns < until_ns}


def _reason(rule: Rule, pattern: Pattern) -> str:
    """What kumod shows for an entry: upstream's words, with the rule's name where it has one."""
    name = f"{rule.sidecar.name}: " if rule.sidecar.name else ""
    return f"automation rule: {name}{pattern.source}"


def _entry_of(
    action: Action,
    *,
    action_hash: str,
    rule: Rule,
    record: Record,
    domain: str,
    reason: str,
) -> Entry | str:
    """The entry that one action makes of a record, its time and number left open (0).

    Or the name of why there is none.
    """
    if action.kind in ("SetConfig", "SetDomainConfig"):
        assert action.option is not None
        return Override(
            action_hash=action_hash,
            site=record.site,
            reason=reason,
            expires_ns=0,
            seq=0,
            simulated=rule.sidecar.simulate,
            domain=domain,
            mx_rollup=rule.rollup and action.kind == "SetConfig",
            source=record.egress_source,
            name=action.option,
            value=action.value,
            release=0 if rule.sidecar.release is None else rule.sidecar.release.deliveries,
        )
    if action.kind == "Suspend":
        if not record.site:
            # A record whose MX did not resolve has no ready queue to suspend.
            return "no_site"
        return ReadyQSuspension(
            action_hash=action_hash,
            site=record.site,
            reason=reason,
            expires_ns=0,
            seq=0,
            simulated=rule.sidecar.simulate,
            source=record.egress_source,
        )
    queue = QueueName.parse(record.queue)
    if not queue.domain:
        # Without a domain it would hold or bounce everything that kumod has.
        return "no_domain"
    if queue.tenant is None and action.kind != "Bounce":
        return "no_tenant"
    # A plain Bounce takes the record's tenant when it has one: recorded, though
    # the documentation says the whole domain; a bounce can't be undone.
    tenant = f" tenant={queue.tenant}" if queue.tenant is not None else ""
    target = f" domain={queue.domain}"
    campaign = queue.campaign if action.kind.endswith("Campaign") else None
    suffix = f" campaign={campaign}" if campaign is not None else ""
    suspends = action.kind.startswith("Suspend")
    made = SchedQSuspension if suspends else SchedQBounce
    return made(
        action_hash=action_hash,
        site=record.site,
        # The order of the parts is upstream's.
        reason=reason + (tenant + target if suspends else target + tenant) + suffix,
        expires_ns=0,
        seq=0,
        simulated=rule.sidecar.simulate,
        domain=queue.domain,
        tenant=queue.tenant,
        campaign=campaign,
    )
