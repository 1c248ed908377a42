"""In a group: what the records of several hosts lead to, in whatever order they come.

In: strikes, each with its second.  Out: entries as one sidecar has them that read all the
records in the order of time.  What there is in :class:`~.decide.Automation` for a single
host goes by the order of its log; ``Automation(group=True)`` goes by the records' time:

- An entry's number is the time of the newest record that asked for it.  So of several
  for one option the one counts whose record is newest, of equals the one whose key is last.
- A match never shortens an entry: it expires when the last of its matches says.
- A threshold is reached at a second or it is not, whenever that is found out
  (:mod:`.late_windows`).
- Limits that adjust themselves and levels of repeated offences are gone through again
  when a strike comes late (:mod:`.recent`).

What has a threshold, a course or levels goes by whole seconds, and by one strike a second:
fractions of a second are left out of its expiry.

The same records, in any order and at any time within ``LATENESS`` of each other, give the
same keys in force with the same values and expiries.  What may differ is

- ``reason``, where several regexes of a rule match, and ``domain`` of a course after it has
  ended; the ids, beginnings, causes and counts of episodes;
- what was left out for want of room (``max_entries``), and records of a clock that is more
  than ``LATENESS`` ahead;
- what depends on more than records: rule files, DNS answers and holds that differ meanwhile;
- shares (``sidecar.ratio``): they are taken of what has come so far.
"""

from __future__ import annotations

from msgspec.structs import replace

from sidecar.shaping.rules import Escalate
from sidecar.times import NS

from .adjusting import after, rebased
from .course import Course, struck, value_at
from .entries import Entry, Override
from .offences import Offence, again
from .recent import Recent, Recents, Step


class Group:
    """What is remembered of recent strikes."""

    __slots__ = ("courses", "offences")

    def __init__(self) -> None:
        self.courses: Recents[Course] = Recents()
        self.offences: Recents[Offence] = Recents()

    def strike_course(
        self, key: str, rest: Override, held: Entry | None, at_ns: int, *, room: int | None
    ) -> Recent[Course]:
        """Note a strike of a limit that adjusts itself; `held`: what is in force."""
        assert rest.course is not None
        before, domain = None, rest.domain
        if isinstance(held, Override) and held.course is not None:
            before, domain = held.course, min(held.domain, domain)
        step = _course_step(rest.course)
        second = at_ns // NS
        return self.courses.strike(key, second, domain, before=before, step=step, room=room)

    def strike_offence(
        self,
        key: str,
        escalate: Escalate,
        duration_ns: int,
        known: Offence | None,
        at_ns: int,
        *,
        room: int | None,
    ) -> Recent[Offence]:
        """Note an offence; `known`: what was remembered of the key."""
        step = _offence_step(escalate, duration_ns)
        return self.offences.strike(key, at_ns // NS, "", before=known, step=step, room=room)

    def drop(self, key: str) -> None:
        """Forget `key`."""
        self.courses.drop(key)
        self.offences.drop(key)

    def forget(self, before_ns: int) -> None:
        """Forget what was not struck since then: no strike can come before it any more."""
        self.courses.forget(before_ns // NS)
        self.offences.forget(before_ns // NS)


def course_entry(rest: Override, recent: Recent[Course]) -> Override:
    """The override that all strikes of `recent` lead to; `rest` is the one without any."""
    assert rest.course is not None
    base = rest.course
    recent.rebase(lambda course: rebased(course, base))
    course = recent.state(_course_step(base))
    return after(replace(rest, domain=recent.domain), course, seq=recent.newest * NS)


def offence_of(escalate: Escalate, duration_ns: int, recent: Recent[Offence]) -> Offence:
    """The level that all offences of `recent` lead to, and when its hold ends."""
    return recent.state(_offence_step(escalate, duration_ns))


def _course_step(rest: Course) -> Step[Course]:
    def step(course: Course | None, second: int) -> Course:
        at_ns = second * NS
        if course is None or value_at(course, at_ns) >= course.baseline:
            course = rest
        return struck(course, at_ns)

    return step


def _offence_step(escalate: Escalate, duration_ns: int) -> Step[Offence]:
    return lambda known, second: again(known, escalate, duration_ns, second * NS)[0]
