"""MX hosts and site names of domains: from zone files, or from the DNS with a memory.

In: a routing domain.  Out: an :class:`MxAnswer`; :class:`MxError` when there
is none.  The DNS client keeps what it learnt: by TTL, and beyond it while the
DNS fails, so that an outage (or a restart in one) does not drop rules.

Source: KumoMTA's documentation ("site name", ``kumo.dns``); RFC 5321 section
5.1 (no MX: the domain itself), RFC 7505 (null MX).  Upstream also drops hosts
that a domain's enforced MTA-STS policy does not list; that needs HTTPS to the
domain and is not done here.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Protocol

import dns.exception
import dns.name
import dns.rdataclass
import dns.rdatatype
import msgspec

from ..problems import ProblemError
from ..times import NS
from .names import Address, Domain, Labels, classify, host_text, site_name

if TYPE_CHECKING:  # each resolver imports its own when it is made: together they take a while
    import dns.asyncresolver
    import dns.nameserver
    import dns.zone

__all__ = ["DnsResolver", "MxAnswer", "MxError", "OfflineResolver", "Resolver", "ZoneResolver"]

NEVER: Final = 2**63 - 1
"""``expires_ns`` of an answer that does not age: zone files, domain literals."""


@dataclass(frozen=True, slots=True)
class MxAnswer:
    """The MX hosts of a domain, in order of preference and then of name.

    ``hosts`` end with a dot (and perhaps ``:port``), lower-case; a domain
    literal's host is its address.  ``site_name`` is "" for a null MX.
    ``stale`` says why an answer past its ``expires_ns`` still stands.
    """

    domain: str
    hosts: tuple[str, ...]
    site_name: str
    expires_ns: int
    stale: str | None = None

    @property
    def is_null(self) -> bool:
        """The domain takes no mail (RFC 7505)."""
        return self.site_name == ""


class MxError(Exception):
    """The MX of ``domain`` can't be told; worth asking again from ``retry_ns`` on."""

    def __init__(self, domain: str, reason: str, retry_ns: int = NEVER) -> None:
        super().__init__(f"MX lookup for {domain} failed: {reason}")
        self.domain = domain
        self.reason = reason
        self.retry_ns = retry_ns


class Resolver(Protocol):
    """Whatever can tell the MX of a domain."""

    async def resolve(self, domain: str) -> MxAnswer:
        """The MX of `domain`; MxError when it has none or can't be asked."""

    def recall(self, domain: str) -> MxAnswer | None:
        """The same where it is known without asking; None where it must be asked."""


Records = Sequence[tuple[int, Labels]]
"""MX records as (preference, labels of the host)."""


@lru_cache(maxsize=4096)  # from memory, it is asked for again with every batch of records
def _answer(
    domain: str, name: Domain, records: tuple[tuple[int, Labels], ...], expires_ns: int
) -> MxAnswer:
    """The answer that MX records make; without any, the domain is its own host."""
    if records:
        hosts = [host for _, host in sorted((pref, host_text(h)) for pref, h in set(records))]
    else:
        hosts = [host_text(name.labels)]
    if name.port is not None:
        hosts = [f"{host}:{name.port}" for host in hosts]
    return MxAnswer(domain, tuple(hosts), site_name(hosts), expires_ns)


def _classify(domain: str) -> MxAnswer | Domain:
    """The answer for a domain literal, the name to look up for anything else."""
    try:
        what = classify(domain)
    except ValueError as err:
        raise MxError(domain, str(err)) from None
    if isinstance(what, Address):
        return MxAnswer(domain, (what.text,), what.text, NEVER)
    return what


def _labels(name: dns.name.Name) -> Labels:
    return tuple(label.decode("latin-1").lower() for label in name.labels if label)


def _dns_name(labels: Labels) -> dns.name.Name:
    return dns.name.Name([*(label.encode("latin-1") for label in labels), b""])


class OfflineResolver:
    """Asks nobody: every domain is a site of its own.  For checks that must not touch the DNS."""

    async def resolve(self, domain: str) -> MxAnswer:
        """As :meth:`recall`."""
        return self.recall(domain)

    def recall(self, domain: str) -> MxAnswer:
        """The domain as its own MX host; MxError for what is no domain name."""
        found = _classify(domain)
        return found if isinstance(found, MxAnswer) else _answer(domain, found, (), NEVER)


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

    def _look_up(self, domain: str) -> MxAnswer:
        found = _classify(domain)
        if isinstance(found, MxAnswer):
            return found
        records = self._records(domain, _dns_name(found.labels))
        return _answer(domain, found, tuple(records), NEVER)

    def _records(self, domain: str, name: dns.name.Name) -> Records:
        for _ in range(16):
            zone = self._zone_of(name)
            if zone is None:
                raise MxError(domain, "NXDOMAIN")
            mx = _find(zone, name, dns.rdatatype.MX)
            if mx:
                return [(r.preference, _labels(r.exchange)) for r in mx]
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


@dataclass(slots=True)
class _Entry:
    """What is known of one name: its last good records, and since when asking fails."""

    records: tuple[tuple[int, Labels], ...] | None = None
    expires_ns: int = 0
    failures: int = 0
    retry_ns: int = 0
    reason: str = ""


class _Saved(msgspec.Struct, frozen=True):
    """The stored form of an entry's good records."""

    records: tuple[tuple[int, tuple[str, ...]], ...]
    expires_ns: int


class DnsResolver:
    """Asks the DNS, at most `concurrency` names at a time, and remembers.

    A good answer stands for its TTL; after that it is asked again, and while
    asking fails the old answer stands (``MxAnswer.stale``).  Names that do not
    exist are asked again after five minutes, failures after ever longer pauses
    (5 s up to five minutes).  Memory holds at most `capacity` names.
    """

    NEGATIVE_TTL_NS: Final = 300 * NS
    FIRST_RETRY_NS: Final = 5 * NS
    LONGEST_TTL_NS: Final = 86_400 * NS
    SHORTEST_TTL_NS: Final = 10 * NS

    def __init__(
        self,
        *,
        nameservers: Sequence[str] | None = None,
        port: int = 53,
        timeout: float = 5.0,
        concurrency: int = 128,
        saved: Mapping[str, str] | None = None,
        capacity: int = 65_536,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        """`nameservers` None takes /etc/resolv.conf's; `saved` is what :meth:`export` gave."""
        self._resolver = _stub_resolver(nameservers, port)
        self._timeout = timeout
        self._semaphore = asyncio.Semaphore(concurrency)
        self._capacity = capacity
        self._now = now
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._asking: dict[str, asyncio.Task[_Entry]] = {}
        self._changed: set[str] = set()
        self.failures = 0
        """How many look-ups have failed (a name that does not exist is an answer)."""
        for key, text in (saved or {}).items():
            self._restore(key, text)

    async def resolve(self, domain: str) -> MxAnswer:
        """The MX of `domain`, from memory while that is good; MxError when there is none."""
        known = self.recall(domain)
        if known is not None:
            return known
        found = _classify(domain)
        assert isinstance(found, Domain)
        return self._from_memory(domain, found, await self._ask_once(found.key, found))

    def recall(self, domain: str) -> MxAnswer | None:
        """The same from memory; None where that is not good, or not any more."""
        found = _classify(domain)
        if isinstance(found, MxAnswer):
            return found
        entry = self._entries.get(found.key)
        if entry is None or self._now() >= max(entry.expires_ns, entry.retry_ns):
            return None
        self._entries.move_to_end(found.key)
        return self._from_memory(domain, found, entry)

    def export(self) -> dict[str, str]:
        """Every good answer as (name → JSON), to be kept and given back as `saved`."""
        return {k: _saved_text(e) for k, e in self._entries.items() if e.records is not None}

    def take_changes(self) -> dict[str, str | None]:
        """What changed since the last call, as in :meth:`export`; None for an answer lost."""
        changed, self._changed = self._changed, set()
        changes: dict[str, str | None] = {}
        for key in sorted(changed):
            entry = self._entries.get(key)
            known = entry is not None and entry.records is not None
            changes[key] = _saved_text(entry) if known and entry is not None else None
        return changes

    def _from_memory(self, domain: str, name: Domain, entry: _Entry) -> MxAnswer:
        if entry.records is None:
            raise MxError(domain, entry.reason, entry.retry_ns)
        answer = _answer(domain, name, tuple(entry.records), entry.expires_ns)
        if entry.failures:
            answer = replace(answer, expires_ns=entry.retry_ns, stale=entry.reason)
        return answer

    async def _ask_once(self, key: str, name: Domain) -> _Entry:
        """Ask for `name`, together with whoever else is asking for it."""
        task = self._asking.get(key)
        if task is None:
            task = asyncio.create_task(self._ask(key, name))
            self._asking[key] = task
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(task)

    async def _ask(self, key: str, name: Domain) -> _Entry:
        import dns.resolver  # noqa: PLC0415

        try:
            async with self._semaphore:
                answer = await self._resolver.resolve(
                    _dns_name(name.labels),
                    dns.rdatatype.MX,
                    raise_on_no_answer=False,
                    search=False,
                    lifetime=self._timeout,
                )
        except dns.resolver.NXDOMAIN:
            return self._forget(key, "NXDOMAIN")
        except (dns.exception.DNSException, OSError) as err:
            return self._failed(key, str(err) or type(err).__name__)
        ttl = answer.chaining_result.minimum_ttl * NS
        records = [(r.preference, _labels(r.exchange)) for r in answer.rrset or ()]
        return self._learn(key, records, ttl)

    def _learn(self, key: str, records: Records, ttl_ns: int) -> _Entry:
        ttl_ns = min(max(ttl_ns, self.SHORTEST_TTL_NS), self.LONGEST_TTL_NS)
        return self._put(key, _Entry(tuple(sorted(set(records))), self._now() + ttl_ns))

    def _forget(self, key: str, reason: str) -> _Entry:
        retry_ns = self._now() + self.NEGATIVE_TTL_NS
        return self._put(key, _Entry(None, failures=1, retry_ns=retry_ns, reason=reason))

    def _failed(self, key: str, reason: str) -> _Entry:
        self.failures += 1
        entry = self._entries.get(key) or _Entry()
        pause = min(self.FIRST_RETRY_NS << min(entry.failures, 10), self.NEGATIVE_TTL_NS)
        # Up to a quarter off, so that names that failed together are not asked together.
        pause -= random.randrange(pause // 4)  # noqa: S311 - spreads load, guards nothing
        entry.failures += 1
        entry.retry_ns = self._now() + pause
        entry.reason = " ".join(reason.split())[:300]
        return self._put(key, entry, changed=False)

    def _put(self, key: str, entry: _Entry, *, changed: bool = True) -> _Entry:
        self._entries[key] = entry
        self._entries.move_to_end(key)
        if changed:
            self._changed.add(key)
        while len(self._entries) > self._capacity:
            lost, _ = self._entries.popitem(last=False)
            self._changed.add(lost)
        return entry

    def _restore(self, key: str, text: str) -> None:
        """Take a stored answer; one that can't be read is asked for anew."""
        try:
            saved = msgspec.json.decode(text, type=_Saved)
            classify(key)
        except (msgspec.DecodeError, ValueError):
            return
        if len(self._entries) < self._capacity:
            self._entries[key] = _Entry(saved.records, saved.expires_ns)


def _saved_text(entry: _Entry) -> str:
    assert entry.records is not None
    return msgspec.json.encode(_Saved(entry.records, entry.expires_ns)).decode()


def _nameserver(text: str) -> str | dns.nameserver.Nameserver:
    """``IP`` stays as it is; ``IP:PORT`` and ``[IPv6]:PORT`` as dnspython wants them."""
    import dns.nameserver  # noqa: PLC0415

    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or (":" in host and not host.startswith("[")):
        return text
    return dns.nameserver.Do53Nameserver(host.strip("[]"), int(port))


def _stub_resolver(nameservers: Sequence[str] | None, port: int) -> dns.asyncresolver.Resolver:
    import dns.asyncresolver  # noqa: PLC0415

    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.port = port
    try:
        if nameservers is None:
            resolver.read_resolv_conf("/etc/resolv.conf")
        else:
            resolver.nameservers = [_nameserver(text) for text in nameservers]
    except (dns.exception.DNSException, ValueError, OSError) as err:
        raise ProblemError.one(
            "dns-servers",
            f"the DNS servers can't be used: {err}; name servers come from /etc/resolv.conf",
        ) from None
    resolver.use_edns(0, 0, 1232)
    return resolver
