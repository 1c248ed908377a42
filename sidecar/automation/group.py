"""In a group: what the records of several hosts lead to, in whatever order they come.

In: the records of all hosts.  Out: entries as one sidecar has them that reads all the
records in the order of time.  :class:`~.decide.Automation` goes by the order of its
host's log; :class:`GroupAutomation` goes by the records' time:

- An entry's number is the second of the newest record that asked for it, and its rule's
  place among those that the record matched.  So of several for one option the one counts
  whose record is newest, as in one log; of equals the one whose key is last.
- A match never shortens an entry: it expires when the last of its matches says.
- A threshold is reached at a second or it is not, whenever that is found out
  (:mod:`.late_windows`).
- Limits that adjust themselves and levels of repeated offences are gone through again
  when a strike comes late (:mod:`.recent`).

What has a threshold, a course or levels goes by whole seconds, and by one strike a second:
fractions of a second are left out of its expiry.

The same records, in any order and within ``LATENESS`` of each other, give the same keys in
force with the same values and expiries.  What may differ is

- the text ``reason`` where several regexes of a rule match; the ids, beginnings, causes and
  counts of episodes; the domain under which a course is that began anew;
- what was left out for want of room (``max_entries``), and records of a clock that is more
  than ``LATENESS`` ahead;
- what depends on more than records: rule files, DNS answers and holds that differ meanwhile;
- rules with ``sidecar.ratio``, ``release`` or ``probe``: attempts and deliveries are counted
  as they come, so a share is one of what has come so far.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from typing import Final

from msgspec.structs import replace

from sidecar.log.record import Record
from sidecar.shaping.load import Shaping
from sidecar.shaping.mx import MxAnswer
from sidecar.shaping.rules import Escalate
from sidecar.times import NS

from .adjusting import after, rebased
from .course import Course, resting, struck, value_at
from .decide import (
    LATENESS,
    Automation,
    Outcome,
    _held_keys,
    _Made,
    _Round,
    _Step,
)
from .entries import Entry, Override, Probing
from .episodes import Ended, How
from .late_windows import LateThresholds, Target
from .life import HOW, Event
from .matching import Match
from .offences import Offence, again
from .recent import (
    AnyRecent,
    Recent,
    Recents,
    Step,
    course_from_payload,
    offence_from_payload,
    to_payload,
)

KEPT: Final = "group:"
"""Before the names under which the state file keeps what a group's order asks for."""
_COURSE: Final = KEPT + "course:"
_OFFENCE: Final = KEPT + "offence:"
_TARGETS: Final = KEPT + "targets:"

_SCOPES: Final = ("default", "provider", "site", "domain")
"""Whose rules come first: that of the later counts where both set the same."""
_PLACES: Final = {scope: number * 100_000 for number, scope in enumerate(_SCOPES)}
"""Behind which place those of the rules of a scope are."""


class GroupAutomation(Automation):
    """The automation of a sidecar in a group: the order of records says nothing."""

    __slots__ = ("recent_courses", "recent_offences")

    thresholds: LateThresholds

    def __init__(self, *, max_entries: int | None = None) -> None:
        """`max_entries`: as of :class:`Automation`; so many places for recent strikes as well."""
        super().__init__(max_entries=max_entries)
        self.thresholds = LateThresholds(LATENESS)
        self.recent_courses: Recents[Course] = Recents()
        self.recent_offences: Recents[Offence] = Recents()

    def refit(
        self,
        shaping: Shaping,
        *,
        now_ns: int,
        mx_of: Callable[[str], MxAnswer | None] = lambda _domain: None,
    ) -> Outcome:
        """As of :class:`Automation`."""
        outcome = super().refit(shaping, now_ns=now_ns, mx_of=mx_of)
        for ended in outcome.ended:
            self.recent_courses.drop(ended.entry.key)
        return outcome

    def cancel(
        self, keys: Iterable[str], *, now_ns: int, how: How, by: str = "", reason: str = ""
    ) -> Outcome:
        """As of :class:`Automation`."""
        outcome = super().cancel(keys, now_ns=now_ns, how=how, by=by, reason=reason)
        for ended in outcome.ended:
            self.recent_courses.drop(ended.entry.key)
            self.recent_offences.drop(ended.entry.key)
        return outcome

    def take_back(
        self, keys: Iterable[str], *, at_ns: int, now_ns: int, by: str = "", reason: str = ""
    ) -> Outcome:
        """Take entries out of force as an operator ordered at `at_ns`, perhaps on another host.

        What matched later stays, as if the order had been here in time.
        """
        second, outcome = at_ns // NS, Outcome()
        for key in self._with_limits(keys):
            entry, story = self.entries.get(key), self.episodes.get(key)
            if entry is None or story is None:
                continue
            self.thresholds.drop_until(story.window, second)
            course, offence = self.recent_courses.get(key), self.recent_offences.get(key)
            if entry.seq // NS <= second:
                self.entries.remove(key)
                self.recent_courses.drop(key)
                self.recent_offences.drop(key)
                self.offences.drop(key)
                del self.episodes[key]
                outcome.end(Ended(entry, story, now_ns, "cancelled", by, reason))
            elif isinstance(entry, Override) and course is not None and course.drop_until(second):
                self.recent_courses.touch(key)
                entry = _from_the_top(entry, course)
                self.entries.put(entry)
                outcome.put(key, entry, story)
            elif offence is not None and offence.drop_until(second):
                self.recent_offences.touch(key)
                self.offences.drop(key)
        return outcome

    def forget_idle_thresholds(self) -> list[str]:
        """As of :class:`Automation`."""
        before = self.newest_ns // NS - 2 * LATENESS
        self.recent_courses.forget(before)
        self.recent_offences.forget(before)
        return super().forget_idle_thresholds()

    # What the state file keeps.

    def kept(self) -> dict[str, str | None]:
        """What a group's order asks for besides entries and windows: name → JSON text."""
        rows: dict[str, str | None] = {}
        for key, course in self.recent_courses.items():
            rows[_COURSE + key] = to_payload(course)
        for key, offence in self.recent_offences.items():
            rows[_OFFENCE + key] = to_payload(offence)
        return rows | {_TARGETS + name: text for name, text in self.thresholds.targets().items()}

    def take_changes(self) -> dict[str, str | None]:
        """What changed of :meth:`kept` since the last call; None: it is forgotten."""
        rows: dict[str, str | None] = {}
        for key, course in self.recent_courses.take_changes().items():
            rows[_COURSE + key] = None if course is None else to_payload(course)
        for key, offence in self.recent_offences.take_changes().items():
            rows[_OFFENCE + key] = None if offence is None else to_payload(offence)
        changes = self.thresholds.take_target_changes()
        return rows | {_TARGETS + name: text for name, text in changes.items()}

    def restore_kept(self, name: str, payload: str) -> None:
        """Put back what the state file holds under `name`; ValueError for what is damaged."""
        if name.startswith(_TARGETS):
            self.thresholds.restore_targets(name.removeprefix(_TARGETS), payload)
        elif name.startswith(_COURSE):
            self.recent_courses.restore(name.removeprefix(_COURSE), course_from_payload(payload))
        else:
            offence = offence_from_payload(payload)
            self.recent_offences.restore(name.removeprefix(_OFFENCE), offence)

    def _act(self, now: _Round, matches: tuple[Match, ...], record: Record, domain: str) -> None:
        """What the matching rules do for one recipient, whatever was done before."""
        at_ns = min(record.time_ns, now.latest_ns, now.now_ns)
        places, rule_matches = dict(_PLACES), now.outcome.rule_matches
        cause = record, domain, self.host
        plan = self._plan(matches, record, domain, now.mx)
        for match, step in zip(matches, plan, strict=True):
            rule_matches[step.label] += 1
            scope = step.rule.scope.kind
            held = _held_keys(step, at_ns) if step.held else ()
            if held and all(key in held for key, _ in step.drafts if key):
                now.outcome.counts["held"] += 1
            else:
                for moments, struck in self._struck(now, match, step, record, domain):
                    self._strike(now, struck, moments, cause, held=held, place=places[scope])
            places[scope] += len(step.drafts)

    def _strike(
        self,
        now: _Round,
        step: _Step,
        moments: Sequence[int],
        cause: tuple[Record, str, str],
        *,
        held: Container[str],
        place: int,
    ) -> None:
        """What one rule does at these times, ns; `place`: where it stands among all."""
        outcome, newest_ns = now.outcome, max(moments)
        if step.unadjusted:
            outcome.unadjusted |= step.unadjusted
        for key, draft in step.drafts:
            place += 1
            if key in held:
                continue
            if isinstance(draft, str):
                outcome.counts[draft] += 1
                continue
            expires_ns = newest_ns + step.duration_ns
            remembers = _adjusts(draft) or step.escalate is not None
            if expires_ns + step.limits_for_ns <= now.now_ns and not remembers:
                outcome.counts["already_expired"] += 1
                continue
            seq = newest_ns // NS * NS + place
            made = now.made.get(key)
            if made is None and not self._may_make(now, key, draft, expires_ns):
                continue
            outcome.rule_effects[step.label] += 1
            recent = self._remember(key, draft, step, moments) if remembers else None
            if made is None:
                awaits = isinstance(draft, Override) and draft.release > 0
                now.made[key] = _Made(
                    draft, expires_ns, seq, step, cause, cause, awaits, newest_ns, recent=recent
                )
                now.awaits |= awaits
                continue
            made.matches, made.recent = made.matches + 1, recent
            made.expires_ns = max(made.expires_ns, expires_ns)
            made.struck_ns = max(made.struck_ns, newest_ns)
            if seq >= made.seq:
                made.draft, made.seq, made.step, made.latest = draft, seq, step, cause

    def _struck(
        self, now: _Round, match: Match, step: _Step, record: Record, domain: str
    ) -> Iterable[tuple[Sequence[int], _Step]]:
        """The times at which the rule strikes because of `record`, ns, each with what it does."""
        time_ns = min(record.time_ns, now.latest_ns)
        second, trigger = time_ns // NS, step.trigger
        if step.share is not None:
            return [((second * NS,), step)] if self._is_over(now, step.share, record) else ()
        if trigger is None:
            return [((second * NS if step.courses or step.escalate else time_ns,), step)]
        if not self._has_room_to_count(now, step.window, record.site, 1):
            return [((second * NS,), step)] if trigger.limit <= 1 else ()
        own = Target(domain, record.queue if match.by_queue else "", record.egress_source)
        found = self.thresholds.record_late(
            step.window,
            trigger.period,
            second,
            enough=trigger.limit,
            latest=now.latest_ns // NS,
            target=own,
            history=step.escalate is not None
            or any(a.kind != "Suspend" for a in step.rule.actions),
        )
        moments: dict[Target, list[int]] = {}
        for reached, targets in found:
            for target in targets:
                moments.setdefault(target, []).append(reached * NS)
        return [
            (times, step if target == own else self._step_of(match, record, target, now))
            for target, times in moments.items()
        ]

    def _step_of(self, match: Match, record: Record, target: Target, now: _Round) -> _Step:
        """What the rule does for a match that came earlier, in the ready queue of `record`."""
        earlier = replace(record, queue=target.queue, egress_source=target.source)
        [step] = self._plan((match,), earlier, target.domain, now.mx)
        return step

    def _remember(
        self, key: str, draft: Entry, step: _Step, moments: Iterable[int]
    ) -> AnyRecent | None:
        """Note strikes of what depends on the strikes before; all of the last while."""
        recent: AnyRecent | None = None
        room = self.max_entries
        for second in [at_ns // NS for at_ns in moments]:
            if isinstance(draft, Override) and draft.course is not None:
                before, domain, held = None, draft.domain, self.entries.get(key)
                if isinstance(held, Override) and held.course is not None:
                    before, domain = held.course, min(held.domain, domain)
                strikes = _strikes(draft.course)
                recent = self.recent_courses.strike(
                    key, second, domain, before=before, step=strikes, room=room
                )
            elif step.escalate is not None:
                known = self.offences.get(key)
                offends = _offends(step.escalate, step.duration_ns)
                recent = self.recent_offences.strike(
                    key, second, "", before=known, step=offends, room=room
                )
        return recent

    def _put(self, key: str, made: _Made, now: _Round) -> None:
        """Take what was made into force, or renew it, whatever was put before."""
        known = self.entries.get(key)
        if known is not None and known.expires_ns <= now.now_ns:
            now.outcome.end(Ended(known, self.episodes[key], known.expires_ns, HOW[Event.EXPIRED]))
            known = None
        entry = self._renewed(made, known)
        if entry.expires_ns > now.now_ns:
            self._take(key, entry, known, made, now)
            if not isinstance(entry, Override) and entry != known:
                now.outcome.events.append(entry)
        else:
            # All strikes in their order lead to what is over by now.
            now.outcome.counts["already_expired"] += 1
            if known is not None:
                self.entries.remove(key)
                story = self.episodes.pop(key)
                now.outcome.end(Ended(known, story, now.now_ns, HOW[Event.EXPIRED]))
        for draft in made.step.limits:
            if draft.probe is not None and draft.probe.of == key:
                self._put_limit(draft, entry, made, now)

    def _take(self, key: str, entry: Entry, known: Entry | None, made: _Made, now: _Round) -> None:
        if known is None:
            episode = self._begin(made, now)
            now.outcome.began.append((entry, episode))
        else:
            episode = self._go_on(key, made, now, overtaken=made.seq < known.seq)
        self.entries.put(entry)
        self.episodes[key] = episode
        now.outcome.put(key, entry, episode)

    def _put_limit(self, draft: Override, suspension: Entry, made: _Made, now: _Round) -> None:
        """Have a limit there for the time after `suspension`."""
        key, from_ns = draft.key, suspension.expires_ns
        known, expires_ns = self.entries.get(key), from_ns + made.step.limits_for_ns
        held = min(made.latest[0].time_ns, now.now_ns) < made.step.held.get(key, 0)
        if held or expires_ns <= now.now_ns or not self._may_make(now, key, draft, expires_ns):
            return
        assert draft.probe is not None
        domain = draft.domain
        if isinstance(known, Override):
            domain = min(domain, known.domain)
        limit = replace(
            draft,
            domain=domain,
            probe=Probing(draft.probe.of, from_ns),
            expires_ns=expires_ns,
            seq=suspension.seq,
        )
        awaits = limit.release > 0
        of_limit = replace(made, draft=limit, expires_ns=expires_ns, awaits=awaits)
        self._take(key, limit, known, of_limit, now)

    def _renewed(self, made: _Made, known: Entry | None) -> Entry:
        """What is to be in force where `known` is, whichever was made first."""
        draft, step, recent = made.draft, made.step, made.recent
        if isinstance(draft, Override) and draft.course is not None:
            assert isinstance(recent, Recent)
            place = made.seq % NS
            return _course(draft, draft.course, recent, place)  # type: ignore[arg-type]
        newer, seq, expires_ns = draft, made.seq, made.expires_ns
        if known is not None:
            newer = known if seq < known.seq else draft
            seq, expires_ns = max(seq, known.seq), max(expires_ns, known.expires_ns)
        if step.escalate is not None and recent is not None:
            offends = _offends(step.escalate, step.duration_ns)
            offence: Offence = recent.state(offends)  # type: ignore[arg-type, assignment]
            self.offences.put(made.draft.key, offence, room=self.max_entries)
            expires_ns = offence.until_ns
        return replace(newer, seq=seq, expires_ns=expires_ns)


def _adjusts(draft: Entry) -> bool:
    return isinstance(draft, Override) and draft.course is not None


def _course(draft: Override, rest: Course, recent: Recent[Course], place: int) -> Override:
    """The override that all strikes lead to; `draft` is the one without any."""
    recent.rebase(lambda course: rebased(course, rest))
    course = recent.state(_strikes(rest))
    return after(replace(draft, domain=recent.domain), course, seq=recent.newest * NS + place)


def _from_the_top(entry: Override, recent: Recent[Course]) -> Override:
    """What the strikes lead to that are left of those of `entry`."""
    assert entry.course is not None
    rest = resting(entry.course.law, baseline=entry.course.baseline, floor=entry.course.floor)
    return _course(entry, rest, recent, entry.seq % NS)


def _strikes(rest: Course) -> Step[Course]:
    def step(course: Course | None, second: int) -> Course:
        at_ns = second * NS
        if course is None or value_at(course, at_ns) >= course.baseline:
            course = rest  # it was back, and its bout is over
        return struck(course, at_ns)

    return step


def _offends(escalate: Escalate, duration_ns: int) -> Step[Offence]:
    return lambda known, second: again(known, escalate, duration_ns, second * NS)[0]
