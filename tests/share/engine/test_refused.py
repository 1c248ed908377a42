"""An engine that refuses: each trouble has its own text, and goes when it is over."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar.share import Place

from .conftest import Engine, following, free_port, lines, received, share, take, until

PASSWORD = "correct-horse"
COMMANDS = "+eval +evalsha +exists +hget +hset +hgetall +hdel +hincrby +del +time +xadd +xtrim"
CLUSTER = ("--cluster-enabled", "yes", "--cluster-port")
READING = "+xread +xrevrange +info"


def told(problem: str | None, text: str) -> bool:
    """Whether the problem says so, and shows no secret."""
    assert PASSWORD not in str(problem)
    return text in str(problem)


def test_a_full_engine(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine("--maxmemory", "4mb", "--maxmemory-policy", "noeviction")

    async def story() -> None:
        async with share(engine.url, "mx1") as one, share(engine.url, "mx2") as two:
            async with following(two) as batches:
                one.offer(lines("a", 1, 10))
                await until(lambda: len(received(batches)) == 10)
                engine.ask("CONFIG", "SET", "maxmemory", "1mb")
                for first in range(11, 111, 10):
                    one.offer(lines("a", first, first + 9))
                await until(lambda: told(one.health.problem, "is full"))
                assert one.health.queued == 100
                await until(lambda: told(two.health.problem, "is full"))
                engine.ask("CONFIG", "SET", "maxmemory", "100mb")
                await until(lambda: one.health.problem is None)
                await until(lambda: len(received(batches)) == 110)
            assert one.behind() == {}

    asyncio.run(story())


def test_a_wrong_password(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(start=False)
    engine.options = ("--requirepass", PASSWORD)
    engine.admin_password = PASSWORD
    engine.start()
    place = f"@127.0.0.1:{engine.port}"

    async def story() -> None:
        async with (
            share(engine.tcp) as without,
            share(f"redis://:{PASSWORD}x{place}") as wrong,
            share(f"redis://:{PASSWORD}{place}", "mx2") as right,
        ):
            await until(lambda: told(without.health.problem, "--share-password-file"))
            await until(lambda: told(wrong.health.problem, "--share-password-file"))
            right.offer(lines("a", 1, 2))
            await until(lambda: right.health.counts.appended == 2)

    asyncio.run(story())


def test_users_with_rights(engine: Engine) -> None:
    for user, rights in (
        ("all", f"{COMMANDS} {READING} ~tsa-sidecar:{{mail}}:*"),
        ("no-info", f"{COMMANDS} +xread +xrevrange ~tsa-sidecar:{{mail}}:*"),
        ("no-keys", f"{COMMANDS} {READING} ~other:*"),
        ("no-append", "+eval +exists +hget +hset +hgetall +hdel +del +time ~tsa-sidecar:{mail}:*"),
    ):
        engine.ask("ACL", "SETUSER", user, "on", f">{PASSWORD}", *rights.split())

    def url(user: str) -> str:
        return f"redis://{user}:{PASSWORD}@127.0.0.1:{engine.port}"

    async def story() -> None:
        async with share(url("all"), "mx1") as one, share(url("no-info"), "mx2") as two:
            one.offer(lines("a", 1, 20))
            items, place = await take(two, Place(), 20)
            one.offer(lines("a", 21, 22))
            items, _ = await take(two, place, 2)
            assert [item.line for item in items] == [21, 22]
        async with share(url("no-keys")) as one, share(url("no-append")) as two:
            two.offer(lines("b", 1, 2))
            await until(lambda: told(one.health.problem, "~tsa-sidecar:{mail}:*"))
            await until(lambda: told(two.health.problem, "may not do"))
            assert two.health.queued == 2

    asyncio.run(story())


def test_another_service_at_the_address(engine: Engine) -> None:
    async def story() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, share(f"redis://127.0.0.1:{port}") as one:
            await until(lambda: one.health.problem)
            assert told(one.health.problem, f"redis://127.0.0.1:{port}: ")

    asyncio.run(story())


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 with its key, that is its own authority."""
    path = tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=engine", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(tmp_path / "key.pem"), "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path


def test_tls(make_engine: Callable[..., Engine], certificate: Path) -> None:
    engine = make_engine(start=False)
    key = certificate.parent / "key.pem"
    engine.options = (
        *("--port", "0", "--tls-port", str(engine.port), "--tls-auth-clients", "no"),
        *(
            "--tls-cert-file",
            str(certificate),
            "--tls-key-file",
            str(key),
        ),
        *("--tls-ca-cert-file", str(certificate)),
    )
    engine.start()
    url = f"rediss://127.0.0.1:{engine.port}"

    async def story() -> None:
        async with (
            share(f"{url}?ssl_ca_certs={certificate}", "mx1") as one,
            share(f"{url}?ssl_cert_reqs=none", "mx2") as two,
        ):
            one.offer(lines("a", 1, 3))
            items, _ = await take(two, Place(), 3)
            assert len(items) == 3
        # Those that are refused try again and again: each time costs this loop a handshake.
        async with (
            share(url) as distrustful,
            share(f"{url}?ssl_ca_certs=/nowhere.pem") as blind,
        ):
            await until(lambda: told(distrustful.health.problem, "certificate"))
            await until(lambda: told(blind.health.problem, "can't be reached"))

    asyncio.run(story())


def test_a_cluster(make_engine: Callable[..., Engine]) -> None:
    first = make_engine(*CLUSTER, str(free_port()))
    second = make_engine(*CLUSTER, str(free_port()))
    slot = first.ask("CLUSTER", "KEYSLOT", "tsa-sidecar:{mail}:stream")
    other_slots = [n for n in range(16384) if n != slot]
    first.ask("CLUSTER", "ADDSLOTS", *other_slots)
    second.ask("CLUSTER", "ADDSLOTS", slot)
    first.ask("CLUSTER", "MEET", "127.0.0.1", second.port, int(second.options[-1]))

    async def story() -> None:
        def is_well() -> bool:
            return all(
                b"cluster_state:ok" in engine.ask("CLUSTER", "INFO") for engine in (first, second)
            )

        await until(is_well)
        url = f"redis+cluster://127.0.0.1:1,127.0.0.1:{first.port}"
        async with share(url, "mx1") as one, share(url, "mx2") as two:
            one.offer(lines("a", 1, 3))
            items, _ = await take(two, Place(), 3)
            assert len(items) == 3

    asyncio.run(story())
    assert len(second.lines()) == 3


def test_sentinel_leads_to_the_primary(make_engine: Callable[..., Engine]) -> None:
    primary = make_engine()
    other = make_engine()
    sentinel = make_engine(start=False)
    sentinel.start_as_sentinel()
    sentinel.ask("SENTINEL", "MONITOR", "mymaster", "127.0.0.1", primary.port, 1)
    url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel.port}"

    async def story() -> None:
        async with (
            share(f"{url}/mymaster", "mx1") as one,
            share(f"{url}/mymaster", "mx2") as two,
            share(f"{url}/nobody", "mx3") as lost,
        ):
            one.offer(lines("a", 1, 3))
            items, place = await take(two, Place(), 3)
            assert len(items) == 3
            await until(lambda: told(lost.health.problem, "knows no primary 'nobody'"))
            # What a failover does: the Sentinel names another one, and the old one is cut off.
            sentinel.ask("SENTINEL", "REMOVE", "mymaster")
            sentinel.ask("SENTINEL", "MONITOR", "mymaster", "127.0.0.1", other.port, 1)
            primary.kill()
            one.offer(lines("b", 1, 2))
            items, _ = await take(two, place, 2)
            assert [item.segment for item in items] == ["b", "b"]
            assert one.behind()["a"].from_line == 0

    asyncio.run(story())
