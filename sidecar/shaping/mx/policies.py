"""Where MTA-STS policies come from: a TXT record, then a page by HTTPS.

In: a domain that has MX records, and the policy known of it.  Out: the policy
in force; PolicyError where there is none or it can't be had.  All of it
together takes no longer than :attr:`Policies.SECONDS`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import dns.exception
import dns.name
import dns.rdatatype

from ...times import NS
from ..names import Labels
from .answer import dns_name
from .backoff import pause_ns
from .mta_sts import LARGEST, Policy, PolicyError, read_id, read_policy

if TYPE_CHECKING:  # loaded where the DNS is asked: together they take a while
    import dns.resolver

    from ...http_client import Answer

_OK: Final = 200
_HTTPS: Final = 443

Query = Callable[["dns.name.Name", dns.rdatatype.RdataType], Awaitable["dns.resolver.Answer"]]
"""Asks the DNS one question; raises as dnspython does."""


@dataclass(frozen=True, slots=True)
class PolicyServers:
    """How policies are fetched: the port, and whom to trust (None: whom the system trusts)."""

    port: int = 443
    tls: ssl.SSLContext | None = None


class Policies:
    """Finds policies, `AT_ONCE` at a time.

    Where no policy server can be reached for a while, as behind a firewall,
    none is tried for a while.
    """

    SECONDS: Final = 5.0
    AT_ONCE: Final = 32
    FAILURES: Final = 8
    FIRST_PAUSE_NS: Final = 60 * NS
    LONGEST_PAUSE_NS: Final = 1800 * NS

    def __init__(self, servers: PolicyServers, *, query: Query, now: Callable[[], int]) -> None:
        self._servers = servers
        self._query = query
        self._now = now
        self._slots = asyncio.Semaphore(self.AT_ONCE)
        self._tls = servers.tls
        self._failures = 0
        self._paused_until_ns = 0

    async def find(self, domain: Labels, known: Policy | None) -> Policy:
        """The policy of `domain`; `known` as long as its id and age say that it stands."""
        if known is not None and known.expires_ns <= self._now():
            known = None
        try:
            async with asyncio.timeout(self.SECONDS):
                return await self._find(domain, known)
        except TimeoutError:
            raise PolicyError("it does not come in time") from None

    async def _find(self, domain: Labels, known: Policy | None) -> Policy:
        try:
            id_ = await self._ask_for_id(domain)
        except (dns.exception.DNSException, OSError, PolicyError) as err:
            # A record that has gone does not end a policy: its age does.
            if known is not None:
                return known
            raise PolicyError(str(err) or type(err).__name__) from None
        if known is not None and known.id == id_:
            return known
        return read_policy(await self._fetch(domain), id_, self._now())

    async def _ask_for_id(self, domain: Labels) -> str:
        answer = await self._query(dns_name(("_mta-sts", *domain)), dns.rdatatype.TXT)
        texts = [b"".join(record.strings) for record in answer.rrset or ()]
        return read_id(b"".join(texts).decode("utf-8", "replace"))

    async def _fetch(self, domain: Labels) -> str:
        if self._now() < self._paused_until_ns:
            raise PolicyError("no policy server can be reached from here")
        async with self._slots:
            answer = await self._get(".".join(("mta-sts", *domain)))
        kind = answer.headers.get("content-type", "").partition(";")[0].strip()
        if answer.status != _OK or kind != "text/plain":
            raise PolicyError(f"its server answers {answer.status} with {kind or 'no type'}")
        try:
            return answer.body.decode("utf-8")
        except UnicodeDecodeError:
            raise PolicyError("it is not UTF-8") from None

    async def _get(self, host: str) -> Answer:
        """What `host` answers, redirects included: they are not to be followed."""
        from ...http_client import HttpClient, Unreachable  # noqa: PLC0415 - few domains have one

        place = host if self._servers.port == _HTTPS else f"{host}:{self._servers.port}"
        client = HttpClient(
            seconds=self.SECONDS,
            largest=LARGEST,
            tls=await self._trusted(),
            look_up=self._addresses,
        )
        reached = False
        try:
            async with client:
                answer = await client.request("GET", f"https://{place}/.well-known/mta-sts.txt")
        except Unreachable as err:
            reached = _was_reached(err)
            raise PolicyError(f"{host}: {err}") from None
        else:
            reached = True
            return answer
        finally:
            self._note(reached=reached)

    async def _addresses(self, host: str, _port: int) -> list[str]:
        """The host's addresses, IPv4 where it has one; OSError where it has none."""
        for kind in (dns.rdatatype.A, dns.rdatatype.AAAA):
            try:
                answer = await self._query(dns.name.from_text(host), kind)
            except dns.exception.DNSException as err:
                raise OSError(f"{host}: {err}") from None
            if answer.rrset:
                return [record.address for record in answer.rrset]
        raise OSError(f"{host} has no address")

    async def _trusted(self) -> ssl.SSLContext:
        if self._tls is None:  # reading the system's certificates takes a while
            self._tls = await asyncio.to_thread(ssl.create_default_context)
        return self._tls

    def _note(self, *, reached: bool) -> None:
        if reached:
            self._failures = self._paused_until_ns = 0
            return
        self._failures += 1
        if self._failures >= self.FAILURES:
            self._paused_until_ns = self._now() + pause_ns(
                self._failures - self.FAILURES,
                first_ns=self.FIRST_PAUSE_NS,
                longest_ns=self.LONGEST_PAUSE_NS,
            )


def _was_reached(error: BaseException | None) -> bool:
    """Whether somebody answered the connection, if only with a bad certificate."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False
