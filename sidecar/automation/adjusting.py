"""Options that adjust themselves: from a rule and what is in effect to an entry's course.

In: a rule's ``sidecar.adjust``, the option that its action sets, what the files set
there, and then the matches.  Out: overrides with a course (:mod:`.course`).
"""

from __future__ import annotations

from msgspec.structs import replace

from sidecar.shaping.adjust import SETTERS, floor_of
from sidecar.shaping.amounts import amount, by_default, setting
from sidecar.shaping.load import Shaping
from sidecar.shaping.mx import MxAnswer
from sidecar.shaping.rules import Action, Adjust, TomlValue

from .address import site_name
from .course import Course, Law, ends_ns, resting, struck
from .entries import Override


def baseline(
    shaping: Shaping,
    action: Action,
    adjust: Adjust,
    *,
    domain: str,
    source: str,
    site: str,
    mx: MxAnswer | None,
) -> TomlValue | None:
    """What holds there without us: what the files set, else ``from``, else kumod's own default.

    `site` is the ready queue's name.  None where nothing limits it.
    """
    assert action.option is not None
    path = shaping.egress_path(domain, source, site_name(site, source), mx)
    found = path.get(action.option)
    if found is not None:
        return found.value
    return by_default(action.option) if adjust.start is None else adjust.start


def at_rest(draft: Override, action: Action, adjust: Adjust, base: TomlValue) -> Override | None:
    """`draft` with a course that nothing has struck yet; None where there is nothing to adjust."""
    assert action.kind in SETTERS
    try:
        top, floor = amount(draft.name, base), amount(draft.name, floor_of(action, adjust))
    except ValueError:
        return None
    if floor >= top:
        return None
    law = Law(adjust.down, adjust.up, adjust.every_ns, adjust.settle_ns)
    return replace(draft, course=resting(law, baseline=top, floor=floor), baseline=base)


def strike(draft: Override, held: Override | None, *, at_ns: int, seq: int) -> Override:
    """The entry after a match at `at_ns`: `held`, or `draft` (at rest) where none is any more."""
    assert draft.course is not None
    assert draft.baseline is not None
    course, domain = draft.course, draft.domain
    if held is not None and held.course is not None and at_ns < held.expires_ns:
        course, domain = _rebased(held.course, draft.course), held.domain
    course = struck(course, at_ns)
    return replace(
        draft,
        domain=domain,
        course=course,
        value=setting(draft.name, course.value, draft.baseline),
        expires_ns=ends_ns(course),
        seq=seq,
    )


def _rebased(course: Course, rest: Course) -> Course:
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
