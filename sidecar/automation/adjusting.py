"""Options that adjust themselves: from a rule and what is in effect to an entry's course.

In: a rule's ``sidecar.adjust``, the option that its action sets, what the files set
there, and then the matches.  Out: overrides with a course (:mod:`.course`).
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from sidecar.shaping.adjust import floor_of
from sidecar.shaping.amounts import amount, by_default, setting
from sidecar.shaping.load import Shaping
from sidecar.shaping.mx import MxAnswer
from sidecar.shaping.rules import Action, Adjust, TomlValue

from .address import site_name
from .course import Course, Law, ends_ns, next_step_ns, resting, struck, value_at
from .entries import Override

_STEPS: Final = 5


def at_rest(
    draft: Override, action: Action, adjust: Adjust, *, shaping: Shaping, mx: MxAnswer | None
) -> Override | str:
    """`draft` with a course that nothing has struck yet, or why it can't have one.

    It begins at what is in effect there without us.
    """
    if mx is None and any(shaping.needs_mx(p, draft.domain) for p in shaping.providers.values()):
        # A provider that the domain may belong to could have a lower limit than all else.
        return "the MX of the domain is not known"
    base = _baseline(draft, adjust, shaping, mx)
    if base is None:
        return 'no file sets it there: write from = "…" (where it is to begin)'
    try:
        top, floor = amount(draft.name, base), amount(draft.name, floor_of(action, adjust))
    except ValueError as error:
        return str(error)
    if floor >= top:
        return "what is in effect there is not above the floor"
    law = Law(adjust.down, adjust.up, adjust.every_ns, adjust.settle_ns)
    return replace(draft, course=resting(law, baseline=top, floor=floor), baseline=base)


def _baseline(
    draft: Override, adjust: Adjust, shaping: Shaping, mx: MxAnswer | None
) -> TomlValue | None:
    """What the files set, else ``from``, else kumod's own default; None: nothing limits it."""
    site = site_name(draft.site, draft.source)
    found = shaping.egress_path(draft.domain, draft.source, site, mx).get(draft.name)
    if found is not None:
        return found.value
    return by_default(draft.name) if adjust.start is None else adjust.start


def strike(draft: Override, held: Override | None, *, at_ns: int, seq: int) -> Override:
    """The entry after a match at `at_ns`: `held`, or `draft` (at rest) where none is any more."""
    assert draft.course is not None
    course, domain = draft.course, draft.domain
    if held is not None and held.course is not None and at_ns < held.expires_ns:
        course, domain = rebased(held.course, draft.course), held.domain
    return after(replace(draft, domain=domain), struck(course, at_ns), seq=seq)


def after(draft: Override, course: Course, *, seq: int) -> Override:
    """`draft` where a match has led to `course`."""
    assert draft.baseline is not None
    return replace(
        draft,
        course=course,
        value=setting(draft.name, course.value, draft.baseline),
        expires_ns=ends_ns(course),
        seq=seq,
    )


def floor(entry: Override) -> TomlValue | None:
    """What `entry` never goes below; None where it is no course."""
    if entry.course is None or entry.baseline is None:
        return None
    return setting(entry.name, entry.course.floor, entry.baseline)


def share_at(entry: Override, at_ns: int) -> float:
    """How much of the baseline `entry` lets through at a moment: from 0 to 1."""
    assert entry.course is not None
    return value_at(entry.course, at_ns) / entry.course.baseline


def steps(entry: Override, now_ns: int) -> list[tuple[int, TomlValue]]:
    """The next few steps of `entry` without another match: when, and to what.

    The last is its end at the baseline, if that is among them.
    """
    found: list[tuple[int, TomlValue]] = []
    if entry.course is None or entry.baseline is None:
        return found
    at_ns = now_ns
    while len(found) < _STEPS and at_ns < entry.expires_ns:
        at_ns = min(next_step_ns(entry.course, at_ns), entry.expires_ns)
        over = at_ns >= entry.expires_ns
        found.append((at_ns, entry.baseline if over else entry.at(at_ns).value))
    return found


def refitted(entry: Override, rest: Override) -> Override:
    """`entry` between the floor and the baseline that the files have now: those of `rest`."""
    assert entry.course is not None
    assert rest.course is not None
    assert rest.baseline is not None
    course = rebased(entry.course, rest.course)
    if course == entry.course and rest.baseline == entry.baseline:
        return entry
    return replace(
        entry,
        course=course,
        baseline=rest.baseline,
        value=setting(entry.name, course.value, rest.baseline),
        expires_ns=ends_ns(course),
    )


def rebased(course: Course, rest: Course) -> Course:
    """`course` within the floor and the baseline of `rest`: the files may have changed."""
    if (course.baseline, course.floor) == (rest.baseline, rest.floor):
        return course
    value = min(max(course.value, rest.floor), rest.baseline)
    return replace(
        course,
        baseline=rest.baseline,
        floor=rest.floor,
        value=value,
        top=min(max(course.top, value), rest.baseline),
    )
