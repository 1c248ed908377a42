"""What sharing costs: ``python -m tests.bench.share``.

First the whole service: a real sidecar follows the lines that ten hosts told, and then one line
at a time, from its offer to its effect in the file that kumod reads.  Then the room by itself.

Starts a redis-server on a unix socket.  Prints lines per CPU second of the process that
tells (with items ready made) and of the one that reads, the engine not counted; and the
time from an offer on one host to its receipt on another, one line at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path
from tempfile import TemporaryDirectory

from sidecar.share import Item, Place, Portion, Share, ShareSettings, connect, read_url
from tests.kumod_writer import record
from tests.service.support import RULES as _RULES
from tests.service.support import failure

_HOSTS = 10
_TEXTS = ("Throttled", "Slow down", "Suspend queue", "Suspend tenant", "Suspend campaign")
_PORTION = 200


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What sharing costs")
    parser.add_argument("--lines", type=int, default=200_000)
    parser.add_argument("--pings", type=int, default=500)
    parser.add_argument("--seconds", type=int, default=10, help="of lines as they come")
    parser.add_argument("--domains", type=int, nargs="+", default=[100, 1000])
    options = parser.parse_args()
    with TemporaryDirectory() as directory:
        socket = f"{directory}/engine.sock"
        command = ["redis-server", "--port", "0", "--unixsocket", socket, "--save", ""]
        engine = subprocess.Popen([*command, "--dir", directory], stdout=subprocess.DEVNULL)
        try:
            while not Path(socket).exists():
                time.sleep(0.05)
            url = f"unix://{socket}"
            asyncio.run(_measure_service(url, Path(directory), options))
            asyncio.run(_measure(url, options.lines, options.pings))
        finally:
            engine.kill()
            engine.wait()


async def _measure_service(url: str, directory: Path, options: argparse.Namespace) -> None:
    """The whole service: following ten hosts, and the effect of a single line."""
    rules = directory / "rules.toml"
    rules.write_text(_RULES)
    lines = options.lines
    print(f"the whole service, {_HOSTS} hosts with a line a millisecond each")
    empty = await _followed(url, directory, "nobody", 0)
    for domains in options.domains:
        await _tell_as_hosts(url, f"ten-{domains}", lines, domains)
        spent = await _followed(url, directory, f"ten-{domains}", lines) - empty
        print(f"following, {domains} domains: {lines / spent:,.0f} lines per CPU second")
    for domains in options.domains if options.seconds else ():
        rate, delays = await _live(url, directory, domains, options.seconds)
        print(
            f"as they come, {domains} domains: {rate:,.0f} lines per CPU second; "
            f"offer to effect in suspended.json: {_spread(delays)}"
        )
    if not options.pings:
        return
    delays = await _effects(url, directory, min(options.pings, 200))
    print(f"one by one, offer to effect in suspended.json: {_spread(delays)}")


def _spread(delays: list[float]) -> str:
    delays = sorted(delays)
    return (
        f"median {statistics.median(delays) * 1000:.1f} ms, "
        f"99 % within {delays[len(delays) * 99 // 100] * 1000:.1f} ms"
    )


def _line(number: int, at: int, domains: int) -> bytes:
    text = _TEXTS[number % len(_TEXTS)]
    one = failure(number, text, domain=f"d{number * 7 % domains}.example", at=at)
    return json.dumps(one, separators=(",", ":")).encode()


async def _tell_as_hosts(url: str, group: str, lines: int, domains: int) -> None:
    """Append what ten hosts find, a tenth of a second of each at a time."""
    each, start = lines // _HOSTS, int(time.time()) - lines // (1000 * _HOSTS)
    async with contextlib.AsyncExitStack() as stack:
        hosts = [
            await stack.enter_async_context(
                connect(_settings(url, group, f"peer{n}"), clock=time.time_ns)
            )
            for n in range(_HOSTS)
        ]
        for first in range(0, each, 100):
            for number, host in enumerate(hosts):
                items = tuple(
                    Item(n + 1, "line", _line(n * _HOSTS + number, start + n // 1000, domains))
                    for n in range(first, first + 100)
                )
                await host.offer_when_room(Portion("s", first, first + 100, items))
        while sum(host.health.counts.appended for host in hosts) < lines:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def _settings(url: str, group: str, host: str) -> ShareSettings:
    return ShareSettings(read_url(url), group, host, age=3600.0)


@contextlib.asynccontextmanager
async def _sidecar(url: str, directory: Path, group: str) -> AsyncIterator[tuple[int, Path]]:
    """A real sidecar in the group: its process id and directory."""
    base = directory / group
    for name in ("logs", "state", "overlay"):
        (base / name).mkdir(parents=True)
    command = [sys.executable, "-m", "sidecar", "run", "--no-listen"]
    command += ["--shaping", str(directory / "rules.toml"), "--log-dir", str(base / "logs")]
    command += ["--state", str(base / "state" / "state.db"), "--share-host", "own"]
    command += ["--overlay", str(base / "overlay" / "shaping.toml")]
    command += ["--share", url, "--share-name", group]
    process = _started(command)
    try:
        yield process.pid, base
    finally:
        process.terminate()
        process.wait()


async def _followed(url: str, directory: Path, group: str, lines: int) -> float:
    """The CPU seconds of a sidecar from its start until it has heard so many lines."""
    async with _sidecar(url, directory, group) as (pid, base):
        end = time.monotonic() + 600
        while _heard(base) < lines and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
        return _cpu_seconds(pid)


def _started(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _live(url: str, directory: Path, domains: int, seconds: int) -> tuple[float, list[float]]:
    """Lines per CPU second while ten hosts tell one a millisecond each; delays of single ones."""
    group, told = f"live-{domains}", _HOSTS * 1000 * seconds
    async with (
        _sidecar(url, directory, group) as (pid, base),
        connect(_settings(url, group, "single"), clock=time.time_ns) as single,
    ):
        await _effect(single, base, 0)  # it has started
        # Who tells is a process of its own: the delays are to be the sidecar's.
        context = get_context("spawn")
        begun = context.Event()
        tell = partial(_tell_live, url, group, domains, seconds, begun)
        telling = context.Process(target=tell)
        telling.start()
        await asyncio.to_thread(begun.wait)
        cpu, delays, sent = _cpu_seconds(pid), list[float](), dict[int, float]()
        while telling.is_alive() or len(delays) < len(sent) or _heard(base) < told:
            if telling.is_alive() and time.monotonic() - max(sent.values(), default=0.0) > 0.1:
                number = len(sent) + 1
                sent[number] = time.monotonic()
                single.offer(_single(number))
            if len(delays) < len(sent) and _is_held(base, len(delays) + 1):
                delays.append(time.monotonic() - sent[len(delays) + 1])
            else:
                await asyncio.sleep(0.01)
        return told / (_cpu_seconds(pid) - cpu), delays


def _heard(base: Path) -> int:
    """How many lines of others a sidecar has decided."""
    status = base / "state" / "state.db.status.json"
    document = json.loads(status.read_bytes()) if status.exists() else {}
    if not (document.get("share") or {}).get("connected"):
        return -1
    return int(document["counters"].get("peers_read", 0))


def _tell_live(url: str, group: str, domains: int, seconds: int, begun: Event) -> None:
    async def tell() -> None:
        start = int(time.time())
        lines = [_line(n, start, domains) for n in range(_HOSTS * 1000)]
        async with contextlib.AsyncExitStack() as stack:
            hosts = [
                await stack.enter_async_context(
                    connect(_settings(url, group, f"peer{n}"), clock=time.time_ns)
                )
                for n in range(_HOSTS)
            ]
            began = time.monotonic()
            begun.set()
            for first in range(0, 1000 * seconds, 10):
                for number, host in enumerate(hosts):
                    items = tuple(
                        Item(n + 1, "line", lines[(n * _HOSTS + number) % len(lines)])
                        for n in range(first, first + 10)
                    )
                    await host.offer_when_room(Portion("s", first, first + 10, items))
                await asyncio.sleep(max(0.0, began + first / 1000 - time.monotonic()))
            while any(host.health.queued for host in hosts):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    asyncio.run(tell())


async def _effect(peer: Share, base: Path, number: int) -> float:
    """Seconds from the offer of a line to its effect in what kumod reads."""
    sent = time.monotonic()
    peer.offer(_single(number))
    while not _is_held(base, number):  # noqa: ASYNC110
        await asyncio.sleep(0.0005)
    return time.monotonic() - sent


def _single(number: int) -> Portion:
    one = failure(number, "Suspend queue", domain=f"n{number}.example", at=int(time.time()))
    return Portion("s", number, number + 1, (Item(number + 1, "line", json.dumps(one).encode()),))


def _is_held(base: Path, number: int) -> bool:
    file = base / "overlay" / "suspended.json"
    return file.exists() and b"mx.n%d.example" % number in file.read_bytes()


async def _effects(url: str, directory: Path, count: int) -> list[float]:
    """Seconds from the offer of a line on one host to its effect on another."""
    delays: list[float] = []
    async with (
        _sidecar(url, directory, "effects") as (_, base),
        connect(_settings(url, "effects", "peer"), clock=time.time_ns) as peer,
    ):
        for number in range(count + 1):
            delays.append(await _effect(peer, base, number))
            await asyncio.sleep(0.01)
    return delays[1:]  # the first one waited for the start


async def _measure(url: str, lines: int, pings: int) -> None:
    def share(host: str, name: str) -> ShareSettings:
        return ShareSettings(read_url(url), name, host, age=3600.0)

    line = json.dumps(record()).encode()
    async with connect(share("mx1", "bulk"), clock=time.time_ns) as one:
        began = time.process_time()
        await _tell(one, line, lines)
        spent = time.process_time() - began
    print(f"{lines} lines of {len(line)} bytes")
    print(f"telling: {lines / spent:,.0f} lines per CPU second")
    async with connect(share("mx2", "bulk"), clock=time.time_ns) as two:
        began = time.process_time()
        await _read(two, lines)
        spent = time.process_time() - began
    print(f"reading: {lines / spent:,.0f} lines per CPU second")
    async with (
        connect(share("mx1", "ping"), clock=time.time_ns) as one,
        connect(share("mx2", "ping"), clock=time.time_ns) as two,
    ):
        delays = await _ping(one, two, line, pings)
    print(f"offer to receipt: {_spread(delays)}")


async def _tell(share: Share, line: bytes, count: int) -> None:
    for first in range(1, count + 1, _PORTION):
        last = min(first + _PORTION - 1, count)
        items = tuple(Item(n, "line", line) for n in range(first, last + 1))
        await share.offer_when_room(Portion("20261127-000000", first - 1, last, items))
    while share.health.counts.appended < count:  # noqa: ASYNC110 - it is all that goes on
        await asyncio.sleep(0.01)


async def _read(share: Share, count: int) -> None:
    async with aclosing(share.receive(Place())) as batches:
        async for batch in batches:
            count -= len(batch.items)
            if count <= 0:
                return


async def _ping(one: Share, two: Share, line: bytes, count: int) -> list[float]:
    delays: list[float] = []
    sent = time.monotonic()
    async with aclosing(two.receive(Place())) as batches:
        one.offer(Portion("s", 0, 1, (Item(1, "line", line),)))
        async for batch in batches:
            for item in batch.items:
                delays.append(time.monotonic() - sent)
                if len(delays) > count:
                    return delays[1:]  # the first one waited for the connections
                await asyncio.sleep(0.002)
                sent = time.monotonic()
                one.offer(
                    Portion("s", item.line, item.line + 1, (Item(item.line + 1, "line", line),))
                )
    return delays


if __name__ == "__main__":
    main()
