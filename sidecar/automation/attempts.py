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
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from operator import itemgetter
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
"""(ready queue as logged, egress source, recipient's domain, tenant, delivered?, second of
record time) → how many, each recipient for itself."""

DELIVERED: Final = "Delivery"
_UTC, _UNIX, _OTHER = "Z", "s", ""
"""How a kind says its second: in UTC as kumod writes it, in Unix seconds, in another zone."""
_ZONE: Final = itemgetter(6)  # of a kind
_FARTHEST: Final = 2**63 // NS
"""Seconds from the epoch: further away is no record's time (see :mod:`sidecar.log.record`)."""


def is_attempt(record: Record) -> bool:
    """Whether the other side took or refused something there."""
    return (
        record.type in ATTEMPTS
        and record.site != ""
        and not record.is_internal
        and record.reception_protocol != LOG_PROTOCOL
    )


def attempts_of(record: Record) -> Attempts:
    """The attempts that one record is."""
    attempts: Attempts = {}
    count_attempt(record, attempts)
    return attempts


def count_attempt(record: Record, into: Attempts) -> None:
    """Count `record` where it is an attempt, each of its recipients that has a domain."""
    if not is_attempt(record):
        return
    tenant = tenant_of(record.queue)
    delivered, second = record.type == DELIVERED, record.time_ns // NS
    for recipient in record.recipients:
        domain = domain_behind(recipient[recipient.rfind("@") :])
        if domain is not None:
            key = record.site, record.egress_source, domain, tenant, delivered, second
            into[key] = into.get(key, 0) + 1


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


_LINE: Final = msgspec.json.Decoder(_Line)
_LINES: Final = msgspec.json.Decoder(list[_Line])

_Kind: TypeAlias = tuple[str, str | None, str | None, str | None, str | None, str, str, str]
"""Lines that are the same attempt: type, site, source, queue, protocol, ``event_time`` without
its fraction, in two parts, the recipient from its @ on."""


class Run:
    """Attempts since the last candidate: those that differ in nothing that matters are counted
    first, and what they are is worked out once, for all of them, by :meth:`take`.
    """

    __slots__ = ("_alike", "_known")

    def __init__(self) -> None:
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
            self._add((_LINE.decode(line),))
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
        attempts = self._known
        for (type_, site, source, queue, protocol, start, zone, end), count in self._alike.items():
            if type_ not in ATTEMPTS or not site or protocol == LOG_PROTOCOL:
                continue
            domain, second = domain_behind(end), _second(start, zone)
            if domain is None or second is None:
                continue
            key = (
                site,
                UNSPECIFIED_SOURCE if source is None else source,
                domain,
                None if queue is None else tenant_of(queue),
                type_ == DELIVERED,
                second,
            )
            attempts[key] = attempts.get(key, 0) + count
        self._alike, self._known = Counter(), {}
        return attempts

    def _add(self, lines: Sequence[_Line]) -> None:
        try:
            kinds = _usual_kinds(lines)
        except (AttributeError, TypeError, IndexError):  # several recipients, or no such time
            kinds = [kind for line in lines for kind in _kinds(line)]
        else:
            if set(map(_ZONE, kinds)) - {_UTC}:
                kinds = [kind for line in lines for kind in _kinds(line)]
        self._alike.update(kinds)


def _decode_all(data: bytes) -> list[_Line] | None:
    """The records of `data`, one to a line; None where the lines must be looked at one by one.

    All of them are decoded as one array.  A line that is empty, cut or has two records makes
    it no array, or one of another length.
    """
    if not data.endswith(b"\n"):
        data += b"\n"
    try:
        if not data.isascii():
            data.decode("utf-8")  # msgspec doesn't look at the strings it skips
        lines = _LINES.decode(b"[%b]" % data.replace(b"\n", b",")[:-1])
    except (ValueError, RecursionError):
        return None
    return lines if len(lines) == count_lines(data) else None


def _usual_kinds(lines: Iterable[Any]) -> list[_Kind]:
    """The kind of each line; an error where one has several recipients, or no ``event_time``.

    This is where the time goes that a log of deliveries takes: one expression for each line.
    """
    return [
        (
            line.type,
            line.site,
            line.egress_source,
            line.queue,
            line.reception_protocol,
            (time := line.event_time)[:19],
            time[-1],
            (recipient := line.recipient)[recipient.rfind("@") :],
        )
        for line in lines
        if not line.response.content.startswith(INTERNAL_PREFIX)
    ]


def _kinds(line: _Line) -> Iterator[_Kind]:
    """The kind of each recipient of any line."""
    if line.response.content.startswith(INTERNAL_PREFIX):
        return
    time = line.event_time
    if time is None:
        start, zone = str(line.timestamp), _UNIX
    elif time.endswith(_UTC):
        start, zone = time[:19], _UTC
    else:
        start, zone = time, _OTHER
    recipients = [line.recipient] if isinstance(line.recipient, str) else line.recipient
    for recipient in recipients:
        yield (
            line.type,
            line.site,
            line.egress_source,
            line.queue,
            line.reception_protocol,
            start,
            zone,
            recipient[recipient.rfind("@") :],
        )


@lru_cache(maxsize=4096)
def _second(start: str, zone: str) -> int | None:
    """The second of an ``event_time`` in two parts; None where it is none."""
    try:
        second = int(start) if zone == _UNIX else parse_rfc3339(start + zone) // NS
    except ValueError:
        return None
    return second if abs(second) <= _FARTHEST else None
