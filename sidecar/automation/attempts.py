"""Attempts: deliveries and refusals, summed up: what shares are shares of.

In: records, or whole lines of a log.  Out: how many attempts of each kind they are.  What lies
between two candidates is one :data:`Attempts`: however long a run of deliveries is, it takes
one entry for each kind and second.

An attempt is a record of type Delivery, Bounce or TransientFailure that has a ready queue
(``site``) and a response that the other side gave.  So these are none:

- what kumod says itself (``KumoMTA internal: …``, a TransientFailure without a site): nobody
  on the other side has answered;
- Expiration and AdminBounce: kumod gives up a message, and does not try it;
- OOB and Feedback: they come long after the attempt that they are about, which has a record
  of its own;
- kumod's own log traffic (``reception_protocol`` is ``LogRecord``).

Which types ``skip_log_record_types`` has makes no difference: it is about what rules match.

Lines that no rule can match are decoded only as far as an attempt needs, many at once.  A
line that is whole so far is an attempt, whatever else is wrong with it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final, TypeAlias

import msgspec

from sidecar.log.blocks import count_lines
from sidecar.log.record import (
    INTERNAL_PREFIX,
    LOG_PROTOCOL,
    UNSPECIFIED_SOURCE,
    BadLine,
    Record,
    decode,
)
from sidecar.shaping.rules import ATTEMPTS
from sidecar.times import NS, parse_rfc3339

from .address import domain_behind, tenant_of

Attempts: TypeAlias = dict[tuple[str, str, str, str | None, bool, int], int]
"""(ready queue as logged, egress source, recipient's domain, tenant, delivered?, second) →
how many, each recipient for itself.  The domain is "" where a recipient has none.  The second
is the record's ``timestamp``, or that of ``event_time`` where it has no other."""

DELIVERED: Final = "Delivery"
_FARTHEST: Final = 2**63 // NS
"""Seconds from the epoch: further away is no record's time (see :mod:`sidecar.log.record`)."""


@dataclass(frozen=True, slots=True)
class Detail:
    """What attempts are told apart by, besides ready queue, source and second.

    Without ``domains`` each domain is "", without ``tenants`` each tenant None: there are
    fewer kinds then, and a line costs less.
    """

    domains: bool = True
    tenants: bool = True


_EVERYTHING: Final = Detail()


def is_attempt(record: Record) -> bool:
    """Whether the other side took or refused something there."""
    return (
        record.type in ATTEMPTS
        and record.site != ""
        and (record.type == DELIVERED or not record.is_internal)
        and record.reception_protocol != LOG_PROTOCOL
    )


def attempts_of(record: Record) -> Attempts:
    """The attempts that one record is."""
    attempts: Attempts = {}
    count_attempt(record, attempts)
    return attempts


def count_attempt(record: Record, into: Attempts) -> None:
    """Count `record` where it is an attempt, each of its recipients."""
    if not is_attempt(record):
        return
    tenant, delivered = tenant_of(record.queue), record.type == DELIVERED
    second = record.time_ns // NS if record.timestamp is None else record.timestamp
    if abs(second) > _FARTHEST:
        return
    for recipient in record.recipients:
        domain = domain_behind(_end(recipient)) or ""
        key = record.site, record.egress_source, domain, tenant, delivered, second
        into[key] = into.get(key, 0) + 1


def _end(recipient: str) -> str:
    """`recipient` from its last @ on."""
    return recipient[recipient.rfind("@") :]


class _Response(msgspec.Struct, gc=False):
    content: str = ""


class _Line(msgspec.Struct, gc=False):
    """What an attempt needs of a record, with the types that a whole record has there."""

    type: str
    recipient: str | list[str]
    response: _Response
    queue: str | None = None
    site: str | None = None
    egress_source: str | None = None
    timestamp: int | None = None
    event_time: str | None = None
    reception_protocol: str | None = None


class _UsualLine(msgspec.Struct, gc=False):
    """The same where there is one recipient and a ``timestamp``, as kumod writes it."""

    type: str
    recipient: str
    response: _Response
    timestamp: int
    queue: str | None = None
    site: str | None = None
    egress_source: str | None = None
    reception_protocol: str | None = None


_LINE: Final = msgspec.json.Decoder(_Line)
_LINES: Final = msgspec.json.Decoder(list[_Line])
_USUAL_LINES: Final = msgspec.json.Decoder(list[_UsualLine])
_TYPE: Final = attrgetter("type")
_PLACE: Final = ("type", "site", "egress_source", "reception_protocol", "timestamp")

_Kind: TypeAlias = tuple[Any, ...]
"""Lines that are the same attempt: the fields of ``_PLACE``; where domains are told apart, the
recipient from its @ on; where tenants are, the queue."""


class Run:
    """Attempts since the last candidate: those that differ in nothing that matters are counted
    first, and what they are is worked out once, for all of them, by :meth:`take`.
    """

    __slots__ = ("_alike", "_detail", "_kind", "_known")

    def __init__(self, detail: Detail = _EVERYTHING) -> None:
        self._detail = detail
        recipient = ("recipient",) if detail.domains else ()
        queue = ("queue",) if detail.tenants else ()
        self._kind = attrgetter(*_PLACE, *recipient, *queue)
        self._alike: Counter[_Kind] = Counter()
        self._known: Attempts = {}

    def add_lines(self, data: bytes) -> int:
        """Count the attempts in `data`, which holds whole lines; how many hold no record."""
        lines = _decode_all(data)
        if lines is not None:
            self._add(lines)
            return 0
        return sum(not self.add_line(line) for line in data.split(b"\n") if line.strip())

    def add_line(self, line: bytes) -> bool:
        """Count the attempt in `line`, if it is one; False where the line holds no record."""
        try:
            if not line.isascii():
                line.decode("utf-8")
            self._add(_as_usual(_LINE.decode(line)))
        except (ValueError, RecursionError):
            try:  # behind a header
                self.add(decode(line))
            except BadLine:
                return False
        return True

    def add(self, record: Record) -> None:
        """Count `record` where it is an attempt."""
        count_attempt(record, self._known)

    def take(self) -> Attempts:
        """What has been counted; the next run begins with nothing."""
        attempts, detail = self._known, self._detail
        for (type_, site, source, protocol, second, *rest), count in self._alike.items():
            if type_ not in ATTEMPTS or not site or protocol == LOG_PROTOCOL:
                continue
            if abs(second) > _FARTHEST:
                continue
            queue = rest[-1] if detail.tenants else None
            key = (
                site,
                UNSPECIFIED_SOURCE if source is None else source,
                (domain_behind(rest[0]) or "") if detail.domains else "",
                None if queue is None else tenant_of(queue),
                type_ == DELIVERED,
                second,
            )
            attempts[key] = attempts.get(key, 0) + count
        self._alike, self._known = Counter(), {}
        return attempts

    def _add(self, lines: list[_UsualLine]) -> None:
        """Count `lines`.  This is where the time goes that a log of deliveries takes."""
        if set(map(_TYPE, lines)) != {DELIVERED}:
            lines = [line for line in lines if not _is_internal(line)]
        if self._detail.domains:
            for line in lines:
                line.recipient = _end(line.recipient)
        self._alike.update(map(self._kind, lines))


def _decode_all(data: bytes) -> list[_UsualLine] | None:
    """The records of `data`, one to a line; None where the lines must be looked at one by one.

    All of them are decoded as one array.  A line that is empty, cut or has two records makes
    it no array, or one of another length.
    """
    if not data.endswith(b"\n"):
        data += b"\n"
    array = b"[%b]" % data.replace(b"\n", b",")[:-1]
    try:
        if not data.isascii():
            data.decode("utf-8")  # msgspec doesn't look at the strings it skips
        try:
            lines = _USUAL_LINES.decode(array)
        except msgspec.ValidationError:  # some have several recipients, or no timestamp
            any_lines = _LINES.decode(array)
            if len(any_lines) != count_lines(data):
                return None
            return [usual for line in any_lines for usual in _as_usual(line)]
    except (ValueError, RecursionError):
        return None
    return lines if len(lines) == count_lines(data) else None


def _as_usual(line: _Line) -> list[_UsualLine]:
    """`line` for each of its recipients; nothing where it has no time."""
    second = line.timestamp
    if second is None:
        second = None if line.event_time is None else _second(line.event_time)
    if second is None:
        return []
    return [
        _UsualLine(
            line.type,
            recipient,
            line.response,
            second,
            line.queue,
            line.site,
            line.egress_source,
            line.reception_protocol,
        )
        for recipient in ([line.recipient] if isinstance(line.recipient, str) else line.recipient)
    ]


def _second(event_time: str) -> int | None:
    """The second of an ``event_time``; None where it is none."""
    try:
        return parse_rfc3339(event_time) // NS
    except ValueError:
        return None


def _is_internal(line: _UsualLine) -> bool:
    """Whether kumod made up the response (see :func:`is_attempt`)."""
    return line.type != DELIVERED and line.response.content.startswith(INTERNAL_PREFIX)
