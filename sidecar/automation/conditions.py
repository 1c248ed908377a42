"""What else a rule asks of a record, besides its text: ``sidecar.when``.

In: the conditions of a rule and a record.  Out: whether they are met, and which is not.
"""

from __future__ import annotations

from collections.abc import Iterator

from sidecar.log.record import Record
from sidecar.shaping.rules import When
from sidecar.shaping.specs import shown

from .address import QueueName


def fits(when: When, record: Record) -> bool:
    """Whether `record` meets every condition."""
    return next(misfits(when, record), None) is None


def misfits(when: When, record: Record) -> Iterator[str]:
    """What of `record` is not as `when` wants it, in words."""
    if when.type and record.type not in when.type:
        yield _other("type", record.type, when.type)
    if when.code and not str(record.code).startswith(when.code):
        yield _other("code", str(record.code), tuple(code.ljust(3, "x") for code in when.code))
    if when.classification and record.classification not in when.classification:
        yield _other("classification", record.classification, when.classification)
    if when.source and record.egress_source not in when.source:
        yield _other("source", record.egress_source, when.source)
    if when.tenant or when.campaign:
        queue = QueueName.parse(record.queue)
        if when.tenant and queue.tenant not in when.tenant:
            yield _other("tenant", queue.tenant, when.tenant)
        if when.campaign and queue.campaign not in when.campaign:
            yield _other("campaign", queue.campaign, when.campaign)


def _other(what: str, found: str | None, wanted: tuple[str, ...]) -> str:
    some = ", ".join(shown(one) for one in wanted[:5]) + (", …" if len(wanted) > 5 else "")
    has = "none" if found is None else shown(found)
    return f"sidecar.when.{what}: the record has {has}, the rule asks for {some}"
