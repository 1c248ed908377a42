"""Answers for MX that ask nobody: nothing at all, or zone files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import dns.exception
import dns.name
import dns.rdataclass
import dns.rdatatype

from ...problems import ProblemError
from .answer import (
    NEVER,
    MxAnswer,
    MxError,
    Records,
    answer_or_name,
    dns_name,
    labels_of,
    make_answer,
)

if TYPE_CHECKING:  # loaded where zones are read: it takes a while
    import dns.zone


class OfflineResolver:
    """Asks nobody: every domain is a site of its own.  For checks that must not touch the DNS."""

    async def resolve(self, domain: str) -> MxAnswer:
        """As :meth:`recall`."""
        return self.recall(domain)

    def recall(self, domain: str) -> MxAnswer:
        """The domain as its own MX host; MxError for what is no domain name."""
        found = answer_or_name(domain)
        return found if isinstance(found, MxAnswer) else make_answer(domain, found, (), NEVER)

    def remembered(self, domain: str) -> MxAnswer | None:
        """As :meth:`recall`; None for what is no domain name."""
        return _or_none(self.recall, domain)


class ZoneResolver:
    """Answers from master-file texts (RFC 1035 section 5) and nothing else.

    A name below no zone does not exist; a name in a zone without MX records is
    its own host, as upstream's test resolver has it.  One CNAME after another
    is followed, and ``*`` records match names the zone does not have.
    """

    _KNOWN_MAX: Final = 4096

    def __init__(self, zones: Iterable[str], *, files: Sequence[str] = ()) -> None:
        """`files` names the texts in errors.  ProblemError for a text that is no zone."""
        self._zones: dict[dns.name.Name, dns.zone.Zone] = {}
        self._known: dict[str, MxAnswer] = {}
        for number, text in enumerate(zones):
            file = files[number] if number < len(files) else f"zone {number + 1}"
            origin, zone = _parse_zone(text, file)
            self._zones[origin] = zone

    async def resolve(self, domain: str) -> MxAnswer:
        """As :meth:`recall`."""
        return self.recall(domain)

    def recall(self, domain: str) -> MxAnswer:
        """The MX of `domain` by the zones; MxError when none of them has the name."""
        known = self._known.get(domain)
        if known is None:
            known = self._look_up(domain)
            if len(self._known) >= self._KNOWN_MAX:
                self._known.clear()
            self._known[domain] = known
        return known

    def remembered(self, domain: str) -> MxAnswer | None:
        """As :meth:`recall`; None where that has no answer."""
        return _or_none(self.recall, domain)

    def _look_up(self, domain: str) -> MxAnswer:
        found = answer_or_name(domain)
        if isinstance(found, MxAnswer):
            return found
        records = self._records(domain, dns_name(found.labels))
        return make_answer(domain, found, tuple(records), NEVER)

    def _records(self, domain: str, name: dns.name.Name) -> Records:
        for _ in range(16):
            zone = self._zone_of(name)
            if zone is None:
                raise MxError(domain, "NXDOMAIN")
            mx = _find(zone, name, dns.rdatatype.MX)
            if mx:
                return [(r.preference, labels_of(r.exchange)) for r in mx]
            alias = _find(zone, name, dns.rdatatype.CNAME)
            if not alias:
                return []
            name = alias[0].target
        raise MxError(domain, "its CNAME records go round in circles")

    def _zone_of(self, name: dns.name.Name) -> dns.zone.Zone | None:
        while name not in self._zones:
            if name == dns.name.root:
                return None
            name = name.parent()
        return self._zones[name]


def _or_none(recall: Callable[[str], MxAnswer], domain: str) -> MxAnswer | None:
    try:
        return recall(domain)
    except MxError:
        return None


def _parse_zone(text: str, file: str) -> tuple[dns.name.Name, dns.zone.Zone]:
    """A zone with its origin."""
    import dns.zone  # noqa: PLC0415

    # A default TTL in front: a zone for checks need not have one.
    try:
        zone = dns.zone.from_text(
            "$TTL 300\n" + text, relativize=False, check_origin=False, allow_include=False
        )
        if zone.origin is None:
            raise ValueError("it has no $ORIGIN")
    except (dns.exception.DNSException, ValueError) as err:
        reason = str(err) or type(err).__name__
        message = f"no zone in master-file format that starts with $ORIGIN: {reason}"
        raise ProblemError.one("bad-zone", message, file=file) from None
    return zone.origin, zone


def _find(zone: dns.zone.Zone, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> Any:
    """The zone's records of one type at `name`, or at the wildcard that covers it."""
    origin = zone.origin
    while True:
        node = zone.get_node(name)
        if node is not None:
            rdataset = node.get_rdataset(dns.rdataclass.IN, kind)
            return [] if rdataset is None else list(rdataset)
        if name in (origin, dns.name.root):
            return []
        parent = name.parent()
        wildcard = dns.name.Name((b"*", *parent.labels))
        name = wildcard if zone.get_node(wildcard) is not None else parent
        if name == parent and zone.get_node(parent) is not None:
            return []
