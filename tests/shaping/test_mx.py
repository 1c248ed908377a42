"""MX from zone files and from a real (local) name server; the memory of answers."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from itertools import pairwise
from typing import Any

import dns.rcode
import pytest

from sidecar.problems import ProblemError
from sidecar.shaping.mx import DnsResolver, MxAnswer, MxError, OfflineResolver, ZoneResolver
from sidecar.times import NS

from .nameserver import NameServer, nameserver

ZONE = """\
$ORIGIN example.com.
@ 600 IN MX 20 b.mx.net.
@ 600 IN MX 10 Z.mx.net.
@ 600 IN MX 10 a.mx.net.
www 600 IN A 10.0.0.1
alias 600 IN CNAME example.com.
outside 600 IN CNAME nowhere.test.
round 600 IN CNAME round
*.wild 600 IN MX 5 w.mx.net.
null 600 IN MX 0 .
idn 600 IN MX 5 mx.xn--exmple-cua.com.
"""


def zone(domain: str, *texts: str) -> MxAnswer:
    return asyncio.run(ZoneResolver(texts or [ZONE]).resolve(domain))


def test_hosts_come_by_preference_then_by_name() -> None:
    answer = zone("Example.COM.")
    assert answer.hosts == ("a.mx.net.", "z.mx.net.", "b.mx.net.")
    assert answer.site_name == "(a|z|b).mx.net"
    assert not answer.is_null


@pytest.mark.parametrize(
    ("domain", "hosts"),
    [
        ("www.example.com", ("www.example.com.",)),
        ("not-there.example.com", ("not-there.example.com.",)),
        ("alias.example.com", ("a.mx.net.", "z.mx.net.", "b.mx.net.")),
        ("x.wild.example.com", ("w.mx.net.",)),
        ("y.x.wild.example.com", ("w.mx.net.",)),
        ("wild.example.com", ("wild.example.com.",)),
        ("www.example.com:2525", ("www.example.com.:2525",)),
        ("idn.example.com", ("mx.exämple.com.",)),
        ("[10.0.0.1]", ("10.0.0.1",)),
        ("[IPv6:::1]", ("::1",)),
    ],
)
def test_answers_from_a_zone(domain: str, hosts: tuple[str, ...]) -> None:
    assert zone(domain).hosts == hosts


def test_a_null_mx_makes_no_site() -> None:
    answer = zone("null.example.com")
    assert answer.hosts == (".",)
    assert answer.site_name == ""
    assert answer.is_null


@pytest.mark.parametrize(
    ("domain", "reason"),
    [
        ("example.net", "NXDOMAIN"),
        ("com", "NXDOMAIN"),
        ("", "NXDOMAIN"),
        ("outside.example.com", "NXDOMAIN"),
        ("round.example.com", "round in circles"),
        ("a b", "white space"),
        ("[10.0.0.1", "is missing"),
    ],
)
def test_names_without_an_answer(domain: str, reason: str) -> None:
    with pytest.raises(MxError, match=reason):
        zone(domain)


@pytest.mark.parametrize(
    "text", ["", "nonsense", "$ORIGIN a.\n@ 600 IN MX x y z", "@ 600 IN MX 1 a.\n"]
)
def test_a_text_that_is_no_zone_is_refused(text: str) -> None:
    with pytest.raises(ProblemError, match=r"my\.zone"):
        ZoneResolver([text], files=["my.zone"])


def test_a_zone_needs_no_ttl() -> None:
    assert zone("a.test", "$ORIGIN a.test.\n@ IN MX 1 mx.a.test.\n").hosts == ("mx.a.test.",)


def test_offline_every_domain_is_its_own_site() -> None:
    resolver = OfflineResolver()
    assert asyncio.run(resolver.resolve("a.test")).site_name == "a.test"
    with pytest.raises(MxError):
        asyncio.run(resolver.resolve("a b"))


class Clock:
    """A time that stands still unless told."""

    def __init__(self) -> None:
        self.ns = 1_000_000 * NS

    def __call__(self) -> int:
        return self.ns

    def sleep(self, seconds: float) -> None:
        self.ns += int(seconds * NS)


class Zones:
    """What the test's name server says, changed as a test goes along."""

    def __init__(self, **answers: list[str] | dns.rcode.Rcode | None) -> None:
        self.answers = {name.replace("_", "."): answer for name, answer in answers.items()}

    def __call__(self, name: str) -> list[str] | dns.rcode.Rcode | None:
        return self.answers[name]


def mx(name: str, host: str, ttl: int = 600) -> list[str]:
    return [f"{name}. {ttl} IN MX 10 {host}."]


def resolver_of(server: NameServer, clock: Clock, **options: Any) -> DnsResolver:
    options = {"timeout": 2.0, **options}
    return DnsResolver(nameservers=["127.0.0.1"], port=server.port, now=clock, **options)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 30))


def test_an_answer_is_remembered_for_its_ttl() -> None:
    async def work() -> None:
        zones, clock = Zones(a_test=mx("a.test", "mx1.test", ttl=100)), Clock()
        async with nameserver(zones) as server:
            resolver = resolver_of(server, clock)
            first = await resolver.resolve("A.test")
            assert first.hosts == ("mx1.test.",)
            assert first.expires_ns == clock() + 100 * NS
            zones.answers["a.test"] = mx("a.test", "mx2.test")
            clock.sleep(99)
            assert (await resolver.resolve("a.test.")).hosts == ("mx1.test.",)
            clock.sleep(1)
            assert (await resolver.resolve("a.test")).hosts == ("mx2.test.",)
            assert len(server.queries) == 2

    run(work())


def test_a_name_without_mx_is_its_own_host() -> None:
    async def work() -> None:
        async with nameserver(Zones(a_test=[])) as server:
            answer = await resolver_of(server, Clock()).resolve("a.test:25")
            assert answer.hosts == ("a.test.:25",)
            assert answer.site_name == "a.test:25"

    run(work())


def test_a_cname_is_followed() -> None:
    async def work() -> None:
        records = ["a.test. 50 IN CNAME b.test.", *mx("b.test", "mx.test")]
        async with nameserver(Zones(a_test=records)) as server:
            assert (await resolver_of(server, Clock()).resolve("a.test")).hosts == ("mx.test.",)

    run(work())


def test_a_name_that_does_not_exist_is_asked_again_after_five_minutes() -> None:
    async def work() -> None:
        zones, clock = Zones(a_test=dns.rcode.NXDOMAIN), Clock()
        async with nameserver(zones) as server:
            resolver = resolver_of(server, clock)
            for wait in (0, 299):
                clock.sleep(wait)
                with pytest.raises(MxError, match="NXDOMAIN") as caught:
                    await resolver.resolve("a.test")
            assert caught.value.retry_ns == clock() + NS
            assert len(server.queries) == 1
            zones.answers["a.test"] = mx("a.test", "mx.test")
            clock.sleep(1)
            assert (await resolver.resolve("a.test")).hosts == ("mx.test.",)

    run(work())


def test_the_last_good_answer_stands_while_the_dns_fails() -> None:
    async def work() -> None:
        zones, clock = Zones(a_test=mx("a.test", "mx.test", ttl=60)), Clock()
        async with nameserver(zones) as server:
            resolver = resolver_of(server, clock)
            assert (await resolver.resolve("a.test")).stale is None
            zones.answers["a.test"] = dns.rcode.SERVFAIL
            clock.sleep(60)
            stale = await resolver.resolve("a.test")
            assert stale.hosts == ("mx.test.",)
            assert stale.stale is not None
            asked = len(server.queries)
            await resolver.resolve("a.test")
            assert len(server.queries) == asked, "asked again without a pause"
            zones.answers["a.test"] = mx("a.test", "mx2.test")
            clock.sleep(5)
            fresh = await resolver.resolve("a.test")
            assert (fresh.hosts, fresh.stale) == (("mx2.test.",), None)

    run(work())


def test_failures_are_asked_again_after_ever_longer_pauses() -> None:
    async def work() -> None:
        clock = Clock()
        async with nameserver(Zones(a_test=dns.rcode.SERVFAIL)) as server:
            resolver = resolver_of(server, clock)
            pauses = []
            for _ in range(8):
                with pytest.raises(MxError) as caught:
                    await resolver.resolve("a.test")
                pauses.append((caught.value.retry_ns - clock()) / NS)
                clock.ns = caught.value.retry_ns
            assert 3.75 <= pauses[0] <= 5
            assert all(later > earlier * 1.4 for earlier, later in pairwise(pauses[:6]))
            assert all(225 <= pause <= 300 for pause in pauses[6:])

    run(work())


def test_a_name_that_stops_existing_is_forgotten() -> None:
    async def work() -> None:
        zones, clock = Zones(a_test=mx("a.test", "mx.test", ttl=60)), Clock()
        async with nameserver(zones) as server:
            resolver = resolver_of(server, clock)
            await resolver.resolve("a.test")
            assert set(resolver.take_changes()) == {"a.test"}
            zones.answers["a.test"] = dns.rcode.NXDOMAIN
            clock.sleep(60)
            with pytest.raises(MxError):
                await resolver.resolve("a.test")
            assert resolver.take_changes() == {"a.test": None}
            assert resolver.take_changes() == {}

    run(work())


def test_a_silent_server_costs_the_timeout_and_no_more() -> None:
    async def work() -> None:
        async with nameserver(Zones(a_test=None)) as server:
            resolver = resolver_of(server, Clock(), timeout=0.2)
            with pytest.raises(MxError, match=r"lifetime|timed out"):
                await resolver.resolve("a.test")

    run(work())


def test_answers_survive_a_restart_and_an_outage_after_it() -> None:
    async def work() -> None:
        zones, clock = Zones(a_test=mx("a.test", "mx.test", ttl=60)), Clock()
        async with nameserver(zones) as server:
            resolver = resolver_of(server, clock)
            await resolver.resolve("a.test")
            saved = resolver.export()
            zones.answers["a.test"] = dns.rcode.SERVFAIL
            restarted = resolver_of(
                server, clock, saved={**saved, "b.test": "{", "c d": saved["a.test"]}
            )
            assert (await restarted.resolve("a.test")).stale is None
            clock.sleep(60)
            answer = await restarted.resolve("a.test")
            assert answer.hosts == ("mx.test.",)
            assert answer.stale is not None
            assert restarted.export() == saved

    run(work())


def test_one_name_is_asked_for_once_however_many_wait() -> None:
    async def work() -> None:
        async with nameserver(Zones(a_test=mx("a.test", "mx.test"))) as server:
            resolver = resolver_of(server, Clock())
            answers = await asyncio.gather(*(resolver.resolve("a.test") for _ in range(50)))
            assert {a.site_name for a in answers} == {"mx.test"}
            assert server.queries == ["a.test"]

    run(work())


def test_many_names_are_asked_at_once_within_the_limit() -> None:
    async def work() -> None:
        names = [f"d{i}.test" for i in range(300)]
        zones = Zones()
        zones.answers = {name: mx(name, f"mx.{name}") for name in names}
        async with nameserver(zones) as server:
            resolver = resolver_of(server, Clock(), concurrency=8)
            answers = await asyncio.gather(*(resolver.resolve(name) for name in names))
            assert [a.hosts for a in answers] == [(f"mx.{name}.",) for name in names]

    run(work())


def test_memory_holds_no_more_names_than_it_may() -> None:
    async def work() -> None:
        zones = Zones()
        zones.answers = {f"d{i}.test": mx(f"d{i}.test", "mx.test") for i in range(5)}
        async with nameserver(zones) as server:
            resolver = resolver_of(server, Clock(), capacity=3)
            for i in range(5):
                await resolver.resolve(f"d{i}.test")
            assert list(resolver.export()) == ["d2.test", "d3.test", "d4.test"]
            changes = resolver.take_changes()
            assert [name for name, text in changes.items() if text is None] == [
                "d0.test",
                "d1.test",
            ]

    run(work())


def test_an_answer_that_memory_has_no_room_for_is_still_given() -> None:
    async def work() -> None:
        names = [f"d{i}.test" for i in range(50)]
        zones = Zones()
        zones.answers = {name: mx(name, f"mx.{name}") for name in names}
        async with nameserver(zones) as server:
            resolver = resolver_of(server, Clock(), capacity=1)
            answers = await asyncio.gather(*(resolver.resolve(name) for name in names))
            assert [a.domain for a in answers] == names

    run(work())


def test_a_waiter_that_gives_up_does_not_stop_the_others() -> None:
    async def work() -> None:
        async with nameserver(Zones(a_test=mx("a.test", "mx.test"))) as server:
            resolver = resolver_of(server, Clock())
            one, other = (asyncio.create_task(resolver.resolve("a.test")) for _ in range(2))
            await asyncio.sleep(0)
            one.cancel()
            assert (await other).hosts == ("mx.test.",)
            with pytest.raises(asyncio.CancelledError):
                await one

    run(work())


def test_name_servers_that_are_none_are_a_problem() -> None:
    async def work() -> None:
        with pytest.raises(ProblemError, match="DNS servers"):
            DnsResolver(nameservers=["not an address"])

    run(work())
