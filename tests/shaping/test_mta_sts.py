"""MTA-STS: the text of policies, and what they do to a domain's MX, with real servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import dns.rcode
import pytest

from sidecar.shaping.mx import DnsResolver, MxError
from sidecar.shaping.mx.mta_sts import Policy, PolicyError, read_id, read_policy
from sidecar.shaping.mx.policies import Policies
from sidecar.times import NS

from .nameserver import nameserver
from .policyserver import PolicyServer, policyserver
from .test_mx import Clock, Zones

GOOD = "version: STSv1 \nmode: enforce\nmx: Mail.example.com\r\nmx:\t*.example.net\nmax_age: 600"


def test_a_policy_is_read_as_kumod_reads_it() -> None:
    policy = read_policy(GOOD, "7", 5 * NS)
    assert policy == Policy("7", "enforce", ("mail.example.com", "*.example.net"), 600, 605 * NS)


@pytest.mark.parametrize(
    ("host", "listed"),
    [
        ("mail.example.com.", True),
        ("mail.example.com", True),
        ("mx.example.net.", True),
        ("a.mx.example.net.", False),
        ("example.net.", False),
        ("mx.mail.example.com.", False),
    ],
)
def test_a_wildcard_stands_for_one_label(host: str, listed: bool) -> None:
    assert read_policy(GOOD, "7", 0).lists(host) is listed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        GOOD.replace("STSv1", "STSv2"),
        GOOD.replace("enforce", "maybe"),
        GOOD.replace("mode: enforce\n", ""),
        GOOD + "\nmode: none",
        GOOD.replace("600", "soon"),
        GOOD.replace("600", "9" * 30),
        "version: STSv1\nmode: enforce\nmax_age: 1",
        GOOD + "\nmax_age: 1",
    ],
)
def test_what_is_no_policy_is_none(text: str) -> None:
    with pytest.raises(PolicyError):
        read_policy(text, "7", 0)


def test_only_an_enforced_policy_leaves_hosts_out() -> None:
    records = [(10, ("mail", "example", "com")), (20, ("other", "test"))]
    policy = read_policy(GOOD, "7", 0)
    assert policy.keep(records) == ((10, ("mail", "example", "com")),)
    for mode in ("testing", "none"):
        assert read_policy(GOOD.replace("enforce", mode), "7", 0).keep(records) == tuple(records)
    with pytest.raises(PolicyError, match="none of its MX"):
        policy.keep(records[1:])


@pytest.mark.parametrize("text", ["v=STSv1; id=20x1;", "id=20x1;v=STSv1"])
def test_the_id_is_in_the_txt_record(text: str) -> None:
    assert read_id(text) == "20x1"


@pytest.mark.parametrize("text", ["", "v=STSv1;", "v=STSv2; id=1", "v=spf1 -all"])
def test_another_txt_record_has_no_id(text: str) -> None:
    with pytest.raises(PolicyError):
        read_id(text)


class World(Zones):
    """Domain ``a.test`` with two MX hosts, of which ``mx.b.test`` may not be its own."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = {
            "a.test": ["a.test. 3600 IN MX 10 mx.a.test.", "a.test. 3600 IN MX 20 mx.b.test."],
            "mta-sts.a.test": ["mta-sts.a.test. 60 IN A 127.0.0.1"],
        }
        self.publish("1")

    def publish(self, id_: str) -> None:
        """Have the TXT record say that the policy is `id_`."""
        name = "_mta-sts.a.test"
        self.answers[name] = [f'{name}. 60 IN TXT "v=STSv1; " "id={id_};"']


Scene = Callable[[World, PolicyServer, DnsResolver, Clock], Coroutine[Any, Any, None]]


def play(directory: Path, scene: Scene, *, host: str = "mta-sts.a.test") -> None:
    async def work() -> None:
        world, clock = World(), Clock()
        async with nameserver(world) as names, policyserver(directory, host) as server:
            resolver = DnsResolver(
                nameservers=["127.0.0.1"],
                port=names.port,
                now=clock,
                timeout=2.0,
                policies=server.servers,
            )
            await scene(world, server, resolver, clock)

    asyncio.run(asyncio.wait_for(work(), 60))


BOTH = ("mx.a.test.", "mx.b.test.")


def test_hosts_that_an_enforced_policy_does_not_list_are_left_out(tmp_path: Path) -> None:
    async def scene(_world: World, server: PolicyServer, resolver: DnsResolver, _: Clock) -> None:
        server.serve("a.test", "enforce", ["*.a.test"])
        answer = await resolver.resolve("A.test")
        assert answer.hosts == ("mx.a.test.",)
        assert answer.site_name == "mx.a.test"
        assert server.asked == ["mta-sts.a.test"]
        assert (await resolver.resolve("a.test:2525")).hosts == ("mx.a.test.:2525",)

    play(tmp_path, scene)


@pytest.mark.parametrize("mode", ["testing", "none"])
def test_a_policy_that_is_not_enforced_leaves_no_host_out(tmp_path: Path, mode: str) -> None:
    async def scene(_world: World, server: PolicyServer, resolver: DnsResolver, _: Clock) -> None:
        server.serve("a.test", mode, ["*.a.test"])
        assert (await resolver.resolve("a.test")).hosts == BOTH
        assert server.asked == ["mta-sts.a.test"]

    play(tmp_path, scene)


def test_a_domain_whose_policy_lists_none_of_its_hosts_does_not_resolve(tmp_path: Path) -> None:
    async def scene(
        _world: World, server: PolicyServer, resolver: DnsResolver, clock: Clock
    ) -> None:
        server.serve("a.test", "enforce", ["mx.c.test"])
        with pytest.raises(MxError, match="none of its MX") as caught:
            await resolver.resolve("a.test")
        assert caught.value.retry_ns == clock() + 300 * NS

    play(tmp_path, scene)


@pytest.mark.parametrize(
    "page",
    [
        (404, "text/plain", "no"),
        (302, "text/plain", "see elsewhere"),
        (200, "text/html", GOOD),
        (200, "text/plain", "x" * 70_000),
        (200, "text/plain", "no policy"),
    ],
)
def test_a_policy_that_can_not_be_had_is_none_for_five_minutes(
    tmp_path: Path, page: tuple[int, str, str]
) -> None:
    async def scene(
        _world: World, server: PolicyServer, resolver: DnsResolver, clock: Clock
    ) -> None:
        server.pages["mta-sts.a.test"] = page
        answer = await resolver.resolve("a.test")
        assert answer.hosts == BOTH
        assert answer.expires_ns == clock() + 300 * NS
        server.serve("a.test", "enforce", ["*.a.test"])
        clock.sleep(300)
        assert (await resolver.resolve("a.test")).hosts == ("mx.a.test.",)

    play(tmp_path, scene)


def test_a_certificate_of_another_host_is_not_taken(tmp_path: Path) -> None:
    async def scene(_world: World, server: PolicyServer, resolver: DnsResolver, _: Clock) -> None:
        server.serve("a.test", "enforce", ["*.a.test"])
        assert (await resolver.resolve("a.test")).hosts == BOTH
        assert server.asked == []

    play(tmp_path, scene, host="mta-sts.other.test")


def test_a_server_that_never_answers_costs_its_time_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Policies, "SECONDS", 0.3)

    async def scene(_world: World, server: PolicyServer, resolver: DnsResolver, _: Clock) -> None:
        server.deaf.add("mta-sts.a.test")
        assert (await resolver.resolve("a.test")).hosts == BOTH
        assert server.asked == ["mta-sts.a.test"]

    play(tmp_path, scene)


def test_where_no_server_can_be_reached_none_is_tried_for_a_while(tmp_path: Path) -> None:
    async def scene(
        world: World, server: PolicyServer, resolver: DnsResolver, clock: Clock
    ) -> None:
        world.answers["mta-sts.a.test"] = dns.rcode.NXDOMAIN
        for _ in range(Policies.FAILURES):
            await resolver.resolve("a.test")
            clock.sleep(300)
        world.answers["mta-sts.a.test"] = ["mta-sts.a.test. 60 IN A 127.0.0.1"]
        server.serve("a.test", "enforce", ["*.a.test"])
        clock.sleep(-299)
        resolver = _forgetful(resolver)
        assert (await resolver.resolve("a.test")).hosts == BOTH
        assert server.asked == []
        clock.sleep(300)
        assert (await resolver.resolve("a.test")).hosts == ("mx.a.test.",)

    play(tmp_path, scene)


def _forgetful(resolver: DnsResolver) -> DnsResolver:
    resolver._entries.clear()
    return resolver


def test_a_policy_stands_for_its_age_unless_its_id_changes(tmp_path: Path) -> None:
    async def scene(
        world: World, server: PolicyServer, resolver: DnsResolver, clock: Clock
    ) -> None:
        server.serve("a.test", "enforce", ["*.a.test"], max_age=86_400)
        await resolver.resolve("a.test")
        del server.pages["mta-sts.a.test"]
        world.answers["_mta-sts.a.test"] = dns.rcode.SERVFAIL
        clock.sleep(3600)
        assert (await resolver.resolve("a.test")).hosts == ("mx.a.test.",)
        assert len(server.asked) == 1
        server.serve("a.test", "enforce", ["mx.b.test"])
        world.publish("2")
        clock.sleep(3600)
        assert (await resolver.resolve("a.test")).hosts == ("mx.b.test.",)
        world.answers["_mta-sts.a.test"] = dns.rcode.NXDOMAIN
        clock.sleep(86_400)
        assert (await resolver.resolve("a.test")).hosts == BOTH

    play(tmp_path, scene)


def test_a_policy_is_kept_over_a_restart(tmp_path: Path) -> None:
    async def scene(
        _world: World, server: PolicyServer, resolver: DnsResolver, clock: Clock
    ) -> None:
        server.serve("a.test", "enforce", ["*.a.test"])
        await resolver.resolve("a.test")
        saved = resolver.export()
        server.pages.clear()
        clock.sleep(3600)
        again = DnsResolver(
            nameservers=[f"127.0.0.1:{resolver._resolver.port}"],
            now=clock,
            saved=saved,
            policies=server.servers,
        )
        assert (await again.resolve("a.test")).hosts == ("mx.a.test.",)
        assert len(server.asked) == 1

    play(tmp_path, scene)


def test_a_domain_without_mx_records_has_no_policy(tmp_path: Path) -> None:
    async def scene(world: World, server: PolicyServer, resolver: DnsResolver, _: Clock) -> None:
        world.answers["a.test"] = []
        server.serve("a.test", "enforce", ["mx.a.test"])
        assert (await resolver.resolve("a.test")).hosts == ("a.test.",)
        assert server.asked == []

    play(tmp_path, scene)
