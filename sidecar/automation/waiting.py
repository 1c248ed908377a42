"""Records that wait for the MX of their domain: what is decided now, what later, in which order.

In: candidates, and whose MX is being asked for.  Out: an outcome, and what
waits.  Of a record that waits, only the rules of providers do that it takes an
MX to tell the domain's; those of ``default``, site and domain act at once.  Numbers are
kept free for what waits, so that of entries for the same thing the one counts
that the log has last, whenever each was decided.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from sidecar.log.record import Record
from sidecar.shaping.mx import MxAnswer

from .attempts import Attempts, attempts_of
from .decide import Automation, Outcome
from .matching import Candidate, Matcher


class Waiting(msgspec.Struct, frozen=True):
    """A record that waits: ``number`` is the one before those kept free for it, and its key.

    ``counted``: it has been counted as matched.  ``host``: whose log has it, "" for our own.
    """

    number: int
    domain: str
    record: Record
    counted: bool
    host: str = ""

    def to_payload(self) -> str:
        """The same as JSON text, for the state file."""
        return msgspec.json.encode(self).decode()


_DECODER = msgspec.json.Decoder(Waiting)


def from_payload(payload: str) -> Waiting:
    """What :meth:`Waiting.to_payload` made; ValueError says what is wrong with it."""
    return _DECODER.decode(payload)


def decide(
    automation: Automation,
    found: Iterable[Candidate | Attempts],
    *,
    mx: Mapping[str, MxAnswer],
    asked: Collection[str],
    room: int,
    now_ns: int,
) -> tuple[Outcome, list[Waiting]]:
    """Decide `found` but for what takes the MX of a domain in `asked`; what waits for it.

    No more than `room` records wait: the others are decided by what `mx` has.  What waits has
    been counted as an attempt in its place all the same.
    """
    if not asked:
        return automation.apply(found, mx=mx, now_ns=now_ns), []
    outcome, waiting, at_once = Outcome(), list[Waiting](), list[Candidate | Attempts]()
    for candidate in found:
        if isinstance(candidate, dict):
            at_once.append(candidate)
            continue
        waits = candidate.needs_mx and candidate.domain in asked
        if not waits or len(waiting) >= room:
            at_once.append(candidate)
            continue
        before, late, after = candidate.parts()
        if before is not None:
            at_once.append(before)
        elif after is None and automation.needs_attempts:
            at_once.append(attempts_of(candidate.record))
        outcome.add(automation.apply(at_once, mx=mx, now_ns=now_ns))
        number = automation.reserve(late)
        waiting.append(Waiting(number, late.domain, late.record, late.counted, late.host))
        at_once = [] if after is None else [after]
    outcome.add(automation.apply(at_once, mx=mx, now_ns=now_ns))
    return outcome, waiting


def decide_late(
    automation: Automation,
    waiting: Waiting,
    *,
    matcher: Matcher,
    mx: MxAnswer | None,
    now_ns: int,
) -> Outcome:
    """Decide what has waited by the rules of `matcher`; `mx` None: it can't be told."""
    try:
        candidate = matcher.candidate(waiting.record)
    except ValueError:
        candidate = None
    if candidate is None:  # the rules are others by now
        return Outcome()
    _, late, _ = candidate.parts()
    late = msgspec.structs.replace(late, counted=waiting.counted, host=waiting.host)
    return automation.apply_late(late, mx=mx, now_ns=now_ns, before=waiting.number)
