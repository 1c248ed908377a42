"""From the lines of a block to candidates: decode, leave out, match.

In: whole lines of a log.  Out: the records whose text some rule matches, in
order, and how many were looked at.  Which lines come in is the caller's choice
(all of them, or those that the prefilter lets through): the candidates are the
same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sidecar.log.record import LOG_PROTOCOL, BadLine, Record, decode

from .matching import Candidate, Matcher


@dataclass(slots=True)
class Tally:
    """How many records were decoded and not skipped, and how many lines were no record."""

    considered: int = 0
    bad: int = 0
    bad_recipient: int = 0
    latest_ns: int = 1 << 63
    newest_ns: int = 0
    """Time of the newest record considered, of those not later than ``latest_ns``."""


def candidates(
    lines: Iterable[bytes], *, matcher: Matcher, skip_types: frozenset[str], tally: Tally
) -> list[Candidate]:
    """The records of `lines` that some rule may act on; counts into `tally`."""
    found: list[Candidate] = []
    for line in lines:
        record = consider(line, skip_types=skip_types, tally=tally)
        if record is None:
            continue
        try:
            candidate = matcher.candidate(record)
        except ValueError:
            tally.bad_recipient += 1
            continue
        if candidate is not None:
            found.append(candidate)
    return found


def consider(line: bytes, *, skip_types: frozenset[str], tally: Tally) -> Record | None:
    """The record of one line unless it is none, or of a kind that the automation does not see."""
    if not line or line.isspace():
        return None
    try:
        record = decode(line)
    except BadLine:
        tally.bad += 1
        return None
    if record.type in skip_types or record.reception_protocol == LOG_PROTOCOL:
        return None
    tally.considered += 1
    if tally.newest_ns < record.time_ns <= tally.latest_ns:
        tally.newest_ns = record.time_ns
    return record
