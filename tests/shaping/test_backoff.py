"""Whom not to ask for a while; silent servers and domains cost no waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import dns.rcode
import pytest

from sidecar.shaping.mx import MxError
from sidecar.shaping.mx.backoff import Parents, Server, owned
from sidecar.times import NS

from .nameserver import nameserver
from .test_mx import Clock, Zones, mx, resolver_of, run

A, B = ("a", "evil", "test"), ("b", "evil", "test")


async def until(holds: Callable[[], bool]) -> None:
    """Wait until it does."""
    while not holds():  # noqa: ASYNC110 - what happens inside the resolver has no event
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("x.y.evil.com", "evil.com"),
        ("evil.com", "evil.com"),
        ("x.evil.co.uk", "evil.co.uk"),
        ("evil.co.uk", "evil.co.uk"),
        ("x.evil.de", "evil.de"),
        ("com", "com"),
    ],
)
def test_who_owns_a_name(name: str, domain: str) -> None:
    assert owned(tuple(name.split("."))) == tuple(domain.split("."))


def test_a_parent_is_paused_after_some_failures_and_for_ever_longer() -> None:
    parents = Parents()
    for _ in range(Parents.FAILURES - 1):
        parents.failed(A, 0)
        assert parents.paused_until(B, 0) == 0
    pauses = []
    for _ in range(10):
        parents.failed(A, 0)
        pauses.append(parents.paused_until(B, 0) // NS)
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300, 300, 300]
    assert parents.paused_until(("evil", "test"), 0) == 0
    assert parents.paused_until(("a", "good", "test"), 0) == 0


def test_after_a_pause_one_name_is_asked_and_its_answer_ends_it() -> None:
    parents = Parents()
    for _ in range(Parents.FAILURES):
        parents.failed(A, 0)
    later = parents.paused_until(A, 0)
    assert parents.paused_until(B, later) == 0
    parents.asking(B, later + 5 * NS)
    assert parents.paused_until(A, later) == later + 5 * NS
    parents.answered(B)
    assert parents.paused_until(A, later) == 0
    assert len(parents) == 0


def test_parents_are_bounded() -> None:
    parents = Parents()
    for i in range(Parents.CAPACITY + 10):
        parents.failed(("x", f"d{i}", "test"), 0)
    assert len(parents) == Parents.CAPACITY


def test_a_silent_server_is_probed_ever_less_often_until_it_answers() -> None:
    server = Server()
    assert not server.probe_due(0)
    now, pauses = NS, []
    for _ in range(6):
        server.probe_failed(now)
        assert not server.probe_due(server.retry_ns - 1)
        pauses.append((server.retry_ns - now) // NS)
        now = server.retry_ns
        assert server.probe_due(now)
    assert pauses == [2, 4, 8, 16, 30, 30]
    assert server.silent_since_ns == NS
    server.answered()
    assert not server.silent


def test_while_the_server_is_silent_nothing_waits() -> None:
    async def work() -> None:
        zones, clock = Zones(known_test=mx("known.test", "mx.test", ttl=60)), Clock()
        async with nameserver(zones) as server:
            resolver = resolver_of(server, clock, timeout=0.2, concurrency=4)
            await resolver.resolve("known.test")
            server.silent = True
            clock.sleep(60)
            begin = time.monotonic()
            names = [f"d{i}.test" for i in range(400)]
            asking = [asyncio.create_task(resolver.resolve(name)) for name in names]
            results = await asyncio.gather(*asking, return_exceptions=True)
            assert all(isinstance(result, MxError) for result in results)
            # Not 400 / 4 × 0.2 s: those whose turn comes later are not asked for.
            assert time.monotonic() - begin < 10
            assert len(set(server.queries)) < 100
            assert resolver.silent_since_ns == clock()
            asked = len(server.queries)
            with pytest.raises(MxError, match="do not answer"):
                resolver.recall("another.test")
            stale = resolver.recall("known.test")
            assert stale is not None
            assert stale.stale == "the name servers do not answer"
            assert len(server.queries) == asked
            assert resolver.in_flight == 0

    run(work())


def test_a_server_that_answers_again_is_asked_again() -> None:
    async def work() -> None:
        zones, clock = Zones(a_test=mx("a.test", "mx.test"), dead_test=None), Clock()
        async with nameserver(zones) as server:
            resolver = resolver_of(server, clock, timeout=0.2)
            server.silent = True
            with pytest.raises(MxError):
                await resolver.resolve("dead.test")
            await until(lambda: resolver.silent_since_ns != 0)
            server.silent = False
            with pytest.raises(MxError):
                await resolver.resolve("a.test")
            clock.sleep(60)
            with pytest.raises(MxError):  # this one makes it ask; it waits for nothing
                await resolver.resolve("a.test")
            await until(lambda: resolver.silent_since_ns == 0)
            assert (await resolver.resolve("a.test")).hosts == ("mx.test.",)

    run(work())


def test_a_domain_that_is_never_answered_is_not_the_servers_silence() -> None:
    async def work() -> None:
        zones, clock = Zones(dead_test=None, a_test=mx("a.test", "mx.test")), Clock()
        async with nameserver(zones) as server:
            resolver = resolver_of(server, clock, timeout=0.2)
            with pytest.raises(MxError):
                await resolver.resolve("dead.test")
            await until(lambda: server.probes > 0)
            assert (await resolver.resolve("a.test")).hosts == ("mx.test.",)
            assert not resolver.silent_since_ns

    run(work())


@pytest.mark.parametrize("silence", [None, dns.rcode.SERVFAIL])
def test_fresh_names_below_a_domain_that_is_never_answered_cost_no_waits(
    silence: dns.rcode.Rcode | None,
) -> None:
    async def work() -> None:
        zones, clock = Zones(), Clock()
        zones.answers = {f"d{i}.evil.test": silence for i in range(640)}
        zones.answers["a.test"] = mx("a.test", "mx.test")
        async with nameserver(zones) as server:
            resolver = resolver_of(server, clock, timeout=0.5, concurrency=32)
            names = [f"d{i}.evil.test" for i in range(639)]
            asking = [asyncio.create_task(resolver.resolve(name)) for name in names]
            await asyncio.sleep(0)
            # However many are asked for below one domain, another has its turn at once.
            assert (await resolver.resolve("a.test")).hosts == ("mx.test.",)
            assert silence is not None or not any(task.done() for task in asking)
            results = await asyncio.gather(*asking, return_exceptions=True)
            assert all(isinstance(result, MxError) for result in results)
            assert len({q for q in server.queries if "evil" in q}) <= 16
            with pytest.raises(MxError, match="nothing below the same domain"):
                resolver.recall("d639.evil.test")
            assert resolver.recall("a.test") is not None
            assert not resolver.silent_since_ns

    run(work())
