"""What ``explain`` is asked about: a typed response or a JSON record in, a log line out.

ProblemError says what is wrong with what was typed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final

from sidecar.automation.address import QueueName, recipient_domain
from sidecar.log.blocks import LINE_MAX
from sidecar.log.record import UNSPECIFIED_SOURCE, BadLine, Record, decode
from sidecar.problems import ProblemError
from sidecar.shaping.mx import MxAnswer, MxError, Resolver

from .records import ask_mx, encode, log_record, parse_response, ready_queue

NO_DOMAIN: Final = "unknown.invalid"
"""Stands for the recipient's domain where none is given; it never exists (RFC 2606)."""

Question = tuple[bytes, MxAnswer | MxError | None]
"""A log line, and the MX of its first recipient's domain (None: not asked for)."""


@dataclass(frozen=True, slots=True)
class Typed:
    """A response as typed, and what was said about it; None where nothing was."""

    response: str
    domain: str | None = None
    source: str | None = None
    queue: str | None = None
    site: str | None = None

    async def record(self, time_ns: int, resolver: Resolver) -> Question:
        """The record that kumod would write of it at `time_ns`."""
        _check_length(len(self.response), "RESPONSE")
        domain, queue, site = self._domain(), self.queue, self.site
        mx = None if domain is None else await ask_mx(domain, resolver)
        if site is None:
            site = mx.site_name if isinstance(mx, MxAnswer) else ""
        try:
            record = log_record(
                parse_response(self.response),
                recipients=(f"user@{domain or NO_DOMAIN}",),
                queue=domain or NO_DOMAIN if queue is None else queue,
                site=ready_queue(site, self.source or UNSPECIFIED_SOURCE),
                source=self.source,
                time_ns=time_ns,
            )
            return encode(record), mx
        except ValueError as error:
            raise ProblemError.one("bad-response", str(error)) from None

    def _domain(self) -> str | None:
        """The recipient's domain: as said, else the queue's."""
        if self.domain is not None:
            return _checked(self.domain, "--domain")
        if self.queue is not None:
            return _checked(QueueName.parse(self.queue).domain, "--queue")
        return None


def _checked(domain: str, where: str) -> str:
    try:
        found = recipient_domain(f"user@{domain}")
    except ValueError:
        found = None
    if found is None:
        message = f"{domain[:200]!r} is no domain that a recipient can have"
        raise ProblemError.one("bad-domain", message, where=where)
    return found


async def read_record(name: str, resolver: Resolver) -> Question:
    """The one JSON record in a file, or on stdin where `name` is ``-``."""
    data = _read(name)
    file = "stdin" if name == "-" else name
    _check_length(len(data), file)
    lines = [text for text in data.splitlines() if text.strip()]
    try:
        if len(lines) > 1 and _is_record(lines[0]):
            raise BadLine(f"there is more than one record ({len(lines)} lines): give one")
        domain = domain_of(decode(data))
    except BadLine as error:
        message = f"is no log record: {error}" if lines else "is empty: give a JSON record"
        raise ProblemError.one("bad-record", message, file=file) from None
    return data, None if domain is None else await ask_mx(domain, resolver)


def _read(name: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read(LINE_MAX + 1)
    with open(name, "rb") as file:
        return file.read(LINE_MAX + 1)


def domain_of(record: Record) -> str | None:
    """The domain whose rules a record is for; None where its first recipient has none."""
    try:
        return recipient_domain(record.recipients[0])
    except ValueError:
        return None


def _is_record(text: bytes) -> bool:
    try:
        decode(text)
    except BadLine:
        return False
    return True


def _check_length(length: int, what: str) -> None:
    if length > LINE_MAX:
        message = f"is longer than {LINE_MAX >> 20} MiB; such a line of a log is skipped"
        raise ProblemError.one("too-long", message, file=what)
