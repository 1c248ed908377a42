"""Attempts: deliveries and refusals, summed up: what shares are shares of.

In: records.  Out: how many attempts of each kind they are.  What lies between two
candidates is one :data:`Attempts`: however long a run of deliveries is, it takes one entry
for each kind and second.

An attempt is a record of type Delivery, Bounce or TransientFailure that has a ready queue
(``site``) and a response that the other side gave.  So these are none:

- what kumod says itself (``KumoMTA internal: …``, a TransientFailure without a site): nobody
  on the other side has answered;
- Expiration and AdminBounce: kumod gives up a message, and does not try it;
- OOB and Feedback: they come long after the attempt that they are about, which has a record
  of its own;
- kumod's own log traffic (``reception_protocol`` is ``LogRecord``).

Which types ``skip_log_record_types`` has makes no difference: it is about what rules match.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from sidecar.log.record import LOG_PROTOCOL, Record
from sidecar.times import NS

from .address import QueueName, domain_behind

Attempts: TypeAlias = dict[tuple[str, str, str, str | None, bool, int], int]
"""(ready queue as logged, egress source, recipient's domain, tenant, delivered?, second of
record time) → how many, each recipient for itself."""

DELIVERED: Final = "Delivery"
FAILED: Final = frozenset({"Bounce", "TransientFailure"})


def is_attempt(record: Record) -> bool:
    """Whether the other side took or refused something there."""
    return (
        (record.type == DELIVERED or record.type in FAILED)
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
    tenant = QueueName.parse(record.queue).tenant
    delivered, second = record.type == DELIVERED, record.time_ns // NS
    for recipient in record.recipients:
        domain = domain_behind(recipient)
        if domain is not None:
            key = record.site, record.egress_source, domain, tenant, delivered, second
            into[key] = into.get(key, 0) + 1
