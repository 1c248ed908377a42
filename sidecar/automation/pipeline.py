"""From the lines of a block to candidates: decode, leave out, match.

In: whole lines of a log.  Out: the records whose text some rule matches, in
order, and how many were looked at.  Which lines come in is the caller's choice
(all of them, or those that the prefilter lets through): the candidates are the
same.  Where rules need them, the attempts come in between, summed up: all lines
come in then, and those that no rule can match are decoded as far as an attempt needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sidecar.log.record import LOG_PROTOCOL, BadLine, Record, decode

from .attempts import Attempts, Run
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
    lines: Iterable[bytes],
    *,
    matcher: Matcher,
    skip_types: frozenset[str],
    tally: Tally,
    host: str = "",
) -> list[Candidate]:
    """The records of `lines` that some rule may act on; counts into `tally`.

    `host`: whose log has them, "" for this host's own.
    """
    found: list[Candidate] = []
    for line in lines:
        record = consider(line, skip_types=skip_types, tally=tally)
        if record is None:
            continue
        try:
            candidate = matcher.candidate(record, host=host)
        except ValueError:
            tally.bad_recipient += 1
            continue
        if candidate is not None:
            found.append(candidate)
    return found


def happened(
    parts: Iterable[tuple[bytes, bytes]],
    *,
    matcher: Matcher,
    skip_types: frozenset[str],
    tally: Tally,
    run: Run | None = None,
    host: str = "",
) -> list[Candidate | Attempts]:
    """The candidates of `parts`, and before and behind each the attempts that lie there.

    `parts` are pairs: lines that no rule matches, then one that some rule may match (b"" for
    none).  What a candidate is itself is not among the attempts.  With `run`, those behind the
    last candidate stay in it, for what follows.  `host`: as of :func:`candidates`.
    """
    found: list[Candidate | Attempts] = []
    attempts = Run() if run is None else run
    for lines, line in parts:
        if lines:
            tally.bad += attempts.add_lines(lines)
        candidate = _look(line, matcher, skip_types, tally, attempts, host=host)
        if candidate is not None:
            if before := attempts.take():
                found.append(before)
            found.append(candidate)
    if run is None and (behind := attempts.take()):
        found.append(behind)
    return found


def _look(
    line: bytes,
    matcher: Matcher,
    skip_types: frozenset[str],
    tally: Tally,
    attempts: Run,
    *,
    host: str,
) -> Candidate | None:
    """The candidate in `line`; where there is none, `line` is counted into `attempts`."""
    record = consider(line, skip_types=skip_types, tally=tally)
    candidate = None
    if record is not None:
        try:
            candidate = matcher.candidate(record, host=host)
        except ValueError:
            tally.bad_recipient += 1
        if candidate is None:
            attempts.add(record)
    elif line:  # of a type that rules don't see, or damaged where no attempt is
        attempts.add_line(line)
    return candidate


def read_everything(
    lines: Iterable[bytes],
    *,
    matcher: Matcher,
    skip_types: frozenset[str],
    tally: Tally,
    host: str = "",
) -> list[Candidate | Attempts]:
    """What :func:`happened` finds where each of `lines` is decoded and matched."""
    if not matcher.needs_attempts:
        return [*candidates(lines, matcher=matcher, skip_types=skip_types, tally=tally, host=host)]
    parts = ((b"", line) for line in lines)
    return happened(parts, matcher=matcher, skip_types=skip_types, tally=tally, host=host)


def only_candidates(found: Iterable[Candidate | Attempts]) -> Iterator[Candidate]:
    """What :func:`happened` returns without the attempts."""
    return (one for one in found if not isinstance(one, dict))


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
