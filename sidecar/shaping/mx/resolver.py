"""The DNS with a memory, and with patience for no one.

In: a routing domain.  Out: its MX, with the hosts left out that the domain's
enforced MTA-STS policy does not list.  What was learnt is kept: by TTL, and
beyond it while the DNS fails, so that an outage (or a restart in one) does not
drop rules.  What is known not to answer is not asked (:mod:`.backoff`): then
what is known stands at once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import dns.exception
import dns.name
import dns.rdatatype
import msgspec

from ...times import NS
from ..names import Domain, Labels, classify
from .answer import MxAnswer, MxError, Records, answer_or_name, dns_name, labels_of, make_answer
from .backoff import Parents, Server, owned
from .mta_sts import RETRY_NS, Policy, PolicyError
from .policies import Policies, PolicyServers
from .servers import stub_resolver

if TYPE_CHECKING:  # it takes a while: loaded by servers.py when a resolver is made
    import dns.resolver


@dataclass(slots=True)
class _Entry:
    """What is known of one name: its last good records, and since when asking fails."""

    records: tuple[tuple[int, Labels], ...] | None = None
    expires_ns: int = 0
    failures: int = 0
    retry_ns: int = 0
    reason: str = ""
    policy: Policy | None = None


class _Saved(msgspec.Struct, frozen=True, omit_defaults=True):
    """The stored form of an entry's good records, and of the policy they were chosen by."""

    records: tuple[tuple[int, tuple[str, ...]], ...]
    expires_ns: int
    policy: Policy | None = None


@dataclass(slots=True)
class _Lane:
    """Look-ups below one owner's domain: how many may be under way, how many want to be."""

    slots: asyncio.Semaphore
    users: int = 0


class DnsResolver:
    """Asks the DNS, at most `concurrency` names at a time, and remembers.

    A good answer stands for its TTL; after that it is asked again, and while
    asking fails the old answer stands (``MxAnswer.stale``).  Names that do not
    exist are asked again after five minutes, failures after ever longer pauses
    (5 s up to five minutes).  Memory holds at most `capacity` names.

    While the name servers answer nothing at all, or nothing below a parent of
    the name, no time is spent on asking.
    """

    NEGATIVE_TTL_NS: Final = 300 * NS
    FIRST_RETRY_NS: Final = 5 * NS
    LONGEST_TTL_NS: Final = 86_400 * NS
    SHORTEST_TTL_NS: Final = 10 * NS
    PROBE_SECONDS: Final = 2.0

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
        policies: PolicyServers | None = None,
    ) -> None:
        """`nameservers` None takes /etc/resolv.conf's; `saved` is what :meth:`export` gave.

        `policies` None asks for no MTA-STS policies.
        """
        self._resolver = stub_resolver(nameservers, port)
        self._timeout = timeout
        self._slots = asyncio.Semaphore(concurrency)
        self._lanes: dict[Labels, _Lane] = {}
        self._lane_width = max(1, concurrency // 8)
        self._capacity = capacity
        self._now = now
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._asking: dict[str, asyncio.Task[_Entry]] = {}
        self._changed: set[str] = set()
        self._server = Server()
        self._probe: asyncio.Task[None] | None = None
        self._heard = 0
        self._parents = Parents()
        self._policies = (
            None if policies is None else Policies(policies, query=self._query_in_turn, now=now)
        )
        self.failures = 0
        """How many look-ups have failed (a name that does not exist is an answer)."""
        for key, text in (saved or {}).items():
            self._restore(key, text)

    @property
    def in_flight(self) -> int:
        """How many names are being asked for."""
        return len(self._asking)

    @property
    def silent_since_ns(self) -> int:
        """Since when no name server has answered anything; 0 while they do."""
        return self._server.silent_since_ns

    async def resolve(self, domain: str) -> MxAnswer:
        """The MX of `domain`, from memory while that is good; MxError when there is none."""
        known = self.recall(domain)
        if known is not None:
            return known
        found = answer_or_name(domain)
        assert isinstance(found, Domain)
        return self._from_memory(domain, found, await self._ask_once(found.key, found))

    def recall(self, domain: str) -> MxAnswer | None:
        """The same without asking; None where it must be asked, and may be."""
        found = answer_or_name(domain)
        if isinstance(found, MxAnswer):
            return found
        entry = self._entries.get(found.key)
        if entry is not None and self._now() < max(entry.expires_ns, entry.retry_ns):
            self._entries.move_to_end(found.key)
            return self._from_memory(domain, found, entry)
        paused = self._paused(found)
        return None if paused is None else self._from_memory(domain, found, paused)

    def remembered(self, domain: str) -> MxAnswer | None:
        """What is known of `domain`, however old; None where nothing is."""
        try:
            found = answer_or_name(domain)
            if isinstance(found, MxAnswer):
                return found
            entry = self._entries.get(found.key)
            return None if entry is None else self._from_memory(domain, found, entry)
        except MxError:
            return None

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
        answer = make_answer(domain, name, tuple(entry.records), entry.expires_ns)
        if entry.failures:
            answer = replace(answer, expires_ns=entry.retry_ns, stale=entry.reason)
        return answer

    # Whom not to ask.

    def _paused(self, name: Domain) -> _Entry | None:
        """What stands of `name` while it is not to be asked for; None when it may be."""
        now_ns = self._now()
        if self._server.silent:
            if self._server.probe_due(now_ns):
                self._start_probe()
            until, reason = self._server.retry_ns, "the name servers do not answer"
        else:
            until = self._parents.paused_until(name.labels, now_ns)
            if until == 0:
                return None
            reason = "nothing below the same domain is answered"
        known = self._entries.get(name.key) or _Entry()
        return replace(known, failures=max(1, known.failures), retry_ns=until, reason=reason)

    def _start_probe(self) -> None:
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._ask_the_server())

    async def _ask_the_server(self) -> None:
        """Ask what any name server can answer: who serves the root."""
        heard = self._heard
        try:
            await self._query(dns.name.root, dns.rdatatype.NS, lifetime=self.PROBE_SECONDS)
        except (dns.exception.DNSException, OSError):
            # Another's answer that came meanwhile says as much.
            if self._heard == heard:
                self._server.probe_failed(self._now())

    async def _query_in_turn(
        self, name: dns.name.Name, kind: dns.rdatatype.RdataType
    ) -> dns.resolver.Answer:
        async with self._slots:
            return await self._query(name, kind)

    async def _query(
        self,
        name: dns.name.Name,
        kind: dns.rdatatype.RdataType,
        *,
        lifetime: float | None = None,
    ) -> dns.resolver.Answer:
        """One question; notes whether anything came back."""
        try:
            answer = await self._resolver.resolve(
                name,
                kind,
                raise_on_no_answer=False,
                search=False,
                lifetime=lifetime or self._timeout,
            )
        except (dns.resolver.NXDOMAIN, dns.resolver.YXDOMAIN):
            self._note_answer()
            raise
        except (dns.exception.DNSException, OSError) as err:
            if _was_answered(err):
                self._note_answer()
            raise
        self._note_answer()
        return answer

    def _note_answer(self) -> None:
        self._heard += 1
        self._server.answered()

    # Asking.

    async def _ask_once(self, key: str, name: Domain) -> _Entry:
        """Ask for `name`, together with whoever else is asking for it."""
        task = self._asking.get(key)
        if task is None:
            task = asyncio.create_task(self._ask(key, name))
            self._asking[key] = task
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(task)

    async def _ask(self, key: str, name: Domain) -> _Entry:
        async with self._turn_of(owned(name.labels)):
            try:
                async with self._slots:
                    paused = self._paused(name)  # as those in front have found out
                    if paused is not None:
                        return paused
                    records, ttl_ns = await self._ask_for_mx(name)
            except dns.resolver.NXDOMAIN:
                return self._forget(key, "NXDOMAIN")
            except (dns.exception.DNSException, OSError) as err:
                if not _was_answered(err):
                    self._suspect(name)
                return self._failed(key, str(err) or type(err).__name__)
            return await self._choose(key, name, records, ttl_ns)

    async def _ask_for_mx(self, name: Domain) -> tuple[Records, int]:
        """The MX records of `name`, and for how long they stand."""
        now_ns = self._now()
        self._parents.asking(name.labels, now_ns + int(self._timeout * NS))
        try:
            answer = await self._query(dns_name(name.labels), dns.rdatatype.MX)
        except dns.resolver.NXDOMAIN:
            self._parents.answered(name.labels)
            raise
        except (dns.exception.DNSException, OSError):
            self._parents.failed(name.labels, self._now())
            raise
        self._parents.answered(name.labels)
        records = [(r.preference, labels_of(r.exchange)) for r in answer.rrset or ()]
        return records, answer.chaining_result.minimum_ttl * NS

    async def _choose(self, key: str, name: Domain, records: Records, ttl_ns: int) -> _Entry:
        """Learn `records`, but for those that the domain's policy leaves out."""
        if self._policies is None or not records:
            return self._learn(key, records, ttl_ns)
        known = self._entries.get(key)
        try:
            policy = await self._policies.find(name.labels, None if known is None else known.policy)
        except PolicyError:
            return self._learn(key, records, min(ttl_ns, RETRY_NS))
        try:
            kept = policy.keep(records)
        except PolicyError as err:
            return self._forget(key, str(err), policy)
        return self._learn(key, kept, min(ttl_ns, policy.max_age * NS), policy)

    @asynccontextmanager
    async def _turn_of(self, owner: Labels) -> AsyncIterator[None]:
        """Room for one more look-up below `owner`, which may have an eighth of all at most."""
        lane = self._lanes.setdefault(owner, _Lane(asyncio.Semaphore(self._lane_width)))
        lane.users += 1
        try:
            async with lane.slots:
                yield
        finally:
            lane.users -= 1
            if not lane.users:
                del self._lanes[owner]

    def _suspect(self, name: Domain) -> None:
        """`name` was not answered at all: find out whether that is the server's fault."""
        if not self._server.silent:
            self._start_probe()

    # Memory.

    def _learn(
        self, key: str, records: Records, ttl_ns: int, policy: Policy | None = None
    ) -> _Entry:
        ttl_ns = min(max(ttl_ns, self.SHORTEST_TTL_NS), self.LONGEST_TTL_NS)
        entry = _Entry(tuple(sorted(set(records))), self._now() + ttl_ns, policy=policy)
        return self._put(key, entry)

    def _forget(self, key: str, reason: str, policy: Policy | None = None) -> _Entry:
        retry_ns = self._now() + self.NEGATIVE_TTL_NS
        entry = _Entry(None, failures=1, retry_ns=retry_ns, reason=reason, policy=policy)
        return self._put(key, entry)

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
            self._entries[key] = _Entry(saved.records, saved.expires_ns, policy=saved.policy)


def _saved_text(entry: _Entry) -> str:
    assert entry.records is not None
    saved = _Saved(entry.records, entry.expires_ns, entry.policy)
    return msgspec.json.encode(saved).decode()


def _was_answered(error: Exception) -> bool:
    """Whether a look-up that failed had any response at all, be it a refusal."""
    errors = getattr(error, "kwargs", {}).get("errors", ())
    return any(response is not None for *_, response in errors)
