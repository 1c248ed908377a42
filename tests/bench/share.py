"""What sharing costs: ``python -m tests.bench.share``.

Starts a redis-server on a unix socket.  Prints lines per CPU second of the process that
tells (with items ready made) and of the one that reads, the engine not counted; and the
time from an offer on one host to its receipt on another, one line at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import time
from contextlib import aclosing
from pathlib import Path
from tempfile import TemporaryDirectory

from sidecar.share import Item, Place, Portion, Share, ShareSettings, connect, read_url
from tests.kumod_writer import record

_PORTION = 200


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What sharing costs")
    parser.add_argument("--lines", type=int, default=200_000)
    parser.add_argument("--pings", type=int, default=500)
    options = parser.parse_args()
    with TemporaryDirectory() as directory:
        socket = f"{directory}/engine.sock"
        command = ["redis-server", "--port", "0", "--unixsocket", socket, "--save", ""]
        engine = subprocess.Popen([*command, "--dir", directory], stdout=subprocess.DEVNULL)
        try:
            while not Path(socket).exists():
                time.sleep(0.05)
            asyncio.run(_measure(f"unix://{socket}", options.lines, options.pings))
        finally:
            engine.kill()
            engine.wait()


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
        delays = sorted(await _ping(one, two, line, pings))
    print(
        f"offer to receipt: median {statistics.median(delays) * 1000:.2f} ms, "
        f"99 % within {delays[len(delays) * 99 // 100] * 1000:.2f} ms"
    )


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
